//! Questions to pods: HTTP to a port of a pod's own loopback, through the API
//! server, as `kubectl port-forward` does it.

use super::{Cluster, Error};
use http::{Method, Request, header::HOST};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};
use serde::{Serialize, de::DeserializeOwned};
use std::{fmt, time::Duration};

/// More than any answer needs: a mesh of thousands of proxies.
const LARGEST_ANSWER: usize = 64 << 20;
/// How long an answer may take; a sidecar waits for the controller for 5 s.
const PATIENCE: Duration = Duration::from_secs(15);

/// A pod by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(crate) struct PodName {
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl PodName {
    pub(crate) fn of(pod: &Pod) -> Self {
        Self {
            namespace: pod.namespace().unwrap_or_default(),
            name: pod.name_any(),
        }
    }
}

impl fmt::Display for PodName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A question to a port of a pod.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Question {
    pub(crate) method: Method,
    pub(crate) port: u16,
    pub(crate) path: &'static str,
    /// JSON; empty: none.
    pub(crate) body: String,
}

/// Why a pod did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error(transparent)]
    Cluster(#[from] Error),
    #[error("pod {pod} does not answer on port {port}; is its container running?")]
    Silent {
        pod: PodName,
        port: u16,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("pod {pod}: {text}")]
    Refused { pod: PodName, text: String },
    #[error("pod {pod} does not know {path}: it is of another version; restart it")]
    OldVersion { pod: PodName, path: &'static str },
    #[error("pod {pod} answers what this version does not understand")]
    Garbled {
        pod: PodName,
        #[source]
        source: serde_json::Error,
    },
}

/// Whoever can ask pods: the cluster, or a test's script.
pub(crate) trait Ask {
    /// The body of a pod's answer.
    ///
    /// # Errors
    /// No answer, or one that says no.
    async fn text(&self, pod: &PodName, question: Question) -> Result<String, AskError>;

    /// The answer to `POST`.
    ///
    /// # Errors
    /// No answer, or not the one that was expected.
    async fn post<T: DeserializeOwned>(
        &self,
        pod: &PodName,
        (port, path): (u16, &'static str),
        body: &impl Serialize,
    ) -> Result<T, AskError> {
        let garbled = |source| AskError::Garbled {
            pod: pod.clone(),
            source,
        };
        let body = serde_json::to_string(body).map_err(garbled)?;
        let method = Method::POST;
        let question = Question {
            method,
            port,
            path,
            body,
        };
        serde_json::from_str(&self.text(pod, question).await?).map_err(garbled)
    }

    /// The answer to `GET`.
    ///
    /// # Errors
    /// No answer, or not the one that was expected.
    async fn fetch<T: DeserializeOwned>(
        &self,
        pod: &PodName,
        (port, path): (u16, &'static str),
    ) -> Result<T, AskError> {
        let question = Question {
            method: Method::GET,
            port,
            path,
            body: String::new(),
        };
        let text = self.text(pod, question).await?;
        serde_json::from_str(&text).map_err(|source| AskError::Garbled {
            pod: pod.clone(),
            source,
        })
    }
}

impl Ask for Cluster {
    async fn text(&self, pod: &PodName, question: Question) -> Result<String, AskError> {
        let (port, path) = (question.port, question.path);
        let silent = |source| AskError::Silent {
            pod: pod.clone(),
            port,
            source,
        };
        let api: Api<Pod> = Api::namespaced(self.client(), &pod.namespace);
        let mut forward = api
            .portforward(&pod.name, &[port])
            .await
            .map_err(|error| Error::request(format!("forward a port of pod {pod}"), error))?;
        let stream = forward
            .take_stream(port)
            .ok_or_else(|| silent("the port was not forwarded".into()))?;
        let answered = tokio::time::timeout(PATIENCE, exchange(stream, question)).await;
        forward.abort();
        let (status, text) = answered
            .map_err(|error| silent(error.into()))?
            .map_err(silent)?;
        match status {
            status if status.is_success() => Ok(text),
            http::StatusCode::NOT_FOUND | http::StatusCode::METHOD_NOT_ALLOWED => {
                Err(AskError::OldVersion {
                    pod: pod.clone(),
                    path,
                })
            }
            _ => Err(AskError::Refused {
                pod: pod.clone(),
                text: text.trim().to_owned(),
            }),
        }
    }
}

async fn exchange<S>(
    stream: S,
    question: Question,
) -> Result<(http::StatusCode, String), Box<dyn std::error::Error + Send + Sync>>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    let driver = tokio::spawn(connection);
    let request = Request::builder()
        .method(question.method)
        .uri(question.path)
        .header(HOST, "localhost")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(question.body)))?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), LARGEST_ANSWER);
    let body = body.collect().await?.to_bytes();
    driver.abort();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

#[cfg(test)]
pub(crate) mod scripted {
    //! Pods that answer what a test says.

    use super::{Ask, AskError, PodName, Question};
    use serde_json::Value;
    use std::{collections::BTreeMap, sync::Mutex};

    /// Answers by pod and path, and what was asked.
    #[derive(Default)]
    pub(crate) struct Answers {
        answers: BTreeMap<(String, &'static str), String>,
        asked: Mutex<Vec<(String, String)>>,
    }

    impl Answers {
        pub(crate) fn with(mut self, pod: &str, path: &'static str, answer: &Value) -> Self {
            self.answers
                .insert((pod.to_owned(), path), answer.to_string());
            self
        }

        /// The bodies that a pod was asked with.
        pub(crate) fn asked(&self, pod: &str) -> Vec<String> {
            let asked = self.asked.lock().unwrap();
            let of_pod = asked.iter().filter(|(name, _)| name == pod);
            of_pod.map(|(_, body)| body.clone()).collect()
        }
    }

    impl Ask for Answers {
        async fn text(&self, pod: &PodName, question: Question) -> Result<String, AskError> {
            let name = pod.to_string();
            self.asked
                .lock()
                .unwrap()
                .push((name.clone(), question.body));
            let answer = self.answers.get(&(name, question.path)).cloned();
            answer.ok_or_else(|| AskError::Silent {
                pod: pod.clone(),
                port: question.port,
                source: "no answer in this test".into(),
            })
        }
    }
}
