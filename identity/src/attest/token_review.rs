//! Attestation by the Kubernetes API: a TokenReview for our audience.

use std::time::Duration;

use futures_util::{FutureExt, future::BoxFuture};
use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use kube::{Api, Client, api::PostParams};
use linnet_mesh::names::TOKEN_AUDIENCE;
use tokio::time::timeout;

use super::{Attest, AttestError, Caller};

const TIMEOUT: Duration = Duration::from_secs(5);
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Attests ServiceAccount tokens through the Kubernetes API.
#[derive(Clone)]
pub struct TokenReviews {
    api: Api<TokenReview>,
}

impl TokenReviews {
    /// Through this client, which must be allowed to create TokenReviews.
    pub fn new(client: Client) -> Self {
        Self {
            api: Api::all(client),
        }
    }

    async fn review(&self, token: &str) -> Result<Caller, AttestError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                audiences: Some(vec![TOKEN_AUDIENCE.to_owned()]),
                token: Some(token.to_owned()),
            },
            ..TokenReview::default()
        };
        let unavailable = |reason: String| {
            AttestError::Unavailable(format!("the Kubernetes API did not review it: {reason}"))
        };
        let params = PostParams::default();
        let reviewed = timeout(TIMEOUT, self.api.create(&params, &review))
            .await
            .map_err(|_| unavailable(format!("no answer within {} s", TIMEOUT.as_secs())))?
            .map_err(|error| unavailable(error.to_string()))?;
        let status = reviewed
            .status
            .ok_or_else(|| unavailable("no status".to_owned()))?;
        caller(status)
    }
}

impl Attest for TokenReviews {
    fn attest<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Caller, AttestError>> {
        self.review(token).boxed()
    }
}

fn caller(status: TokenReviewStatus) -> Result<Caller, AttestError> {
    if status.authenticated != Some(true) {
        let reason = status
            .error
            .unwrap_or_else(|| "the Kubernetes API refused it".to_owned());
        // The API tells a wrong audience from an invalid token in words only.
        return Err(if reason.contains("audience") {
            AttestError::WrongAudience(TOKEN_AUDIENCE)
        } else if reason.contains("expired") {
            AttestError::Expired
        } else {
            AttestError::BadToken(reason)
        });
    }
    // An API server that knows no audiences leaves the list empty: the token
    // was then made for the API server itself.
    if !status
        .audiences
        .iter()
        .flatten()
        .any(|audience| audience == TOKEN_AUDIENCE)
    {
        return Err(AttestError::WrongAudience(TOKEN_AUDIENCE));
    }
    service_account(status.user.unwrap_or_default())
}

fn service_account(user: UserInfo) -> Result<Caller, AttestError> {
    let username = user.username.unwrap_or_default();
    let (namespace, service_account) = username
        .strip_prefix(SERVICE_ACCOUNT)
        .and_then(|name| name.split_once(':'))
        .ok_or_else(|| AttestError::NotServiceAccount(username.clone()))?;
    let extra = |key: &str| user.extra.as_ref()?.get(key)?.first().cloned();
    // The API server refuses a bound token from the moment its pod is gone; it
    // would take an unbound one until that expires.
    let (Some(pod), Some(pod_uid)) = (extra(POD_NAME), extra(POD_UID)) else {
        return Err(AttestError::NotBound(username.clone()));
    };
    Ok(Caller {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        pod: Some(pod),
        pod_uid: Some(pod_uid),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use kube::client::Body;
    use serde_json::{Value, json};
    use tower::service_fn;

    /// The API's answer to a review; what it was asked is checked.
    fn api(status: u16, answer: Value) -> TokenReviews {
        let service = service_fn(move |request: http::Request<Body>| {
            let answer = answer.clone();
            async move {
                assert_eq!(request.method(), "POST");
                assert_eq!(
                    request.uri().path(),
                    "/apis/authentication.k8s.io/v1/tokenreviews"
                );
                let body = request.into_body().collect().await?.to_bytes();
                let asked: Value = serde_json::from_slice(&body).unwrap();
                assert_eq!(asked["spec"]["token"], "t0ken");
                assert_eq!(asked["spec"]["audiences"], json!(["linnet-identity"]));
                let response = http::Response::builder().status(status);
                Ok::<_, kube::Error>(
                    response
                        .body(Body::from(answer.to_string().into_bytes()))
                        .unwrap(),
                )
            }
        });
        TokenReviews::new(Client::new(service, "default"))
    }

    fn review(status: &Value) -> Value {
        json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "metadata": {}, "spec": {"token": "t0ken"}, "status": status,
        })
    }

    #[tokio::test]
    async fn a_reviewed_token_names_its_service_account_and_pod() {
        let reviews = api(
            201,
            review(&json!({
                "authenticated": true,
                "audiences": ["linnet-identity"],
                "user": {
                    "username": "system:serviceaccount:shop:payment",
                    "extra": {POD_NAME: ["payment-7d"], POD_UID: ["1-2-3"]},
                },
            })),
        );
        let caller = reviews.attest("t0ken").await.unwrap();
        assert_eq!(
            caller,
            Caller {
                namespace: "shop".to_owned(),
                service_account: "payment".to_owned(),
                pod: Some("payment-7d".to_owned()),
                pod_uid: Some("1-2-3".to_owned()),
            }
        );
    }

    #[tokio::test]
    async fn what_the_api_refuses_is_told_apart() {
        let cases = [
            (
                json!({"error": "[invalid bearer token, token audiences [\"api\"] is invalid for the target audiences [\"linnet-identity\"]]"}),
                AttestError::WrongAudience(TOKEN_AUDIENCE),
            ),
            (
                json!({"authenticated": false, "error": "invalid bearer token, service account token has expired"}),
                AttestError::Expired,
            ),
            (
                json!({"authenticated": false, "error": "invalid bearer token"}),
                AttestError::BadToken("invalid bearer token".to_owned()),
            ),
            (
                json!({"authenticated": true, "user": {"username": "system:serviceaccount:a:b"}}),
                AttestError::WrongAudience(TOKEN_AUDIENCE),
            ),
            (
                json!({"authenticated": true, "audiences": ["linnet-identity"], "user": {"username": "admin"}}),
                AttestError::NotServiceAccount("admin".to_owned()),
            ),
            (
                json!({"authenticated": true, "audiences": ["linnet-identity"], "user": {"username": "system:serviceaccount:a:b"}}),
                AttestError::NotBound("system:serviceaccount:a:b".to_owned()),
            ),
        ];
        for (status, expected) in cases {
            let error = api(201, review(&status)).attest("t0ken").await.unwrap_err();
            assert_eq!(error, expected, "{status}");
        }
    }

    #[tokio::test]
    async fn an_api_that_fails_is_not_the_callers_fault() {
        let forbidden = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "tokenreviews is forbidden", "reason": "Forbidden", "code": 403,
        });
        let error = api(403, forbidden).attest("t0ken").await.unwrap_err();
        assert!(
            matches!(&error, AttestError::Unavailable(reason) if reason.contains("forbidden")),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_that_does_not_answer_is_given_up() {
        let service = service_fn(|_: http::Request<Body>| {
            std::future::pending::<Result<http::Response<Body>, kube::Error>>()
        });
        let reviews = TokenReviews::new(Client::new(service, "default"));
        let error = reviews.attest("t0ken").await.unwrap_err();
        assert!(matches!(error, AttestError::Unavailable(_)), "{error}");
    }
}
