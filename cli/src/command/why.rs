//! `linnet why`: what becomes of a request, and who decides. The caller's own
//! sidecar says where it would go, the callee's whether it would be let in;
//! nothing is sent.

mod render;
mod service;
#[cfg(test)]
mod tests;

use super::Context;
use crate::cluster::{
    Cluster, Error as ClusterError,
    ask::{Ask, AskError, PodName},
    workload::{FindError, Reference, is_meshed},
};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use linnet_mesh::names::port;
use linnet_proxy::why::{
    Backend, Endpoint, EndpointState, InboundAnswer, InboundQuestion, OutboundAnswer,
    OutboundQuestion, Values,
};
use serde::Serialize;
use std::{collections::BTreeMap, io, process::ExitCode};

/// What may be typed.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Who calls: deploy/frontend, sts/…, ds/…, pod/…, or a name; a pod with a
    /// sidecar of the namespace unless said
    #[arg(long, value_name = "WORKLOAD")]
    from: Option<Reference>,
    /// The caller's namespace, instead of the context's
    #[arg(short, long)]
    namespace: Option<String>,
    /// The request's method
    method: String,
    /// Its URL as the application would call it: http://payment/charge
    url: String,
    /// A header, as `name: value`
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Print the chain as data
    #[arg(long, value_enum)]
    output: Option<super::DataFormat>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Find(#[from] FindError),
    #[error(transparent)]
    Ask(#[from] AskError),
    #[error("writing the output")]
    Output(#[from] io::Error),
}

/// The whole chain.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Chain {
    request: OutboundQuestion,
    /// Whose sidecar was asked.
    from: PodName,
    /// Nobody named it.
    from_is_any: bool,
    outbound: OutboundAnswer,
    /// What the callees' sidecars say, one for each backend.
    inbound: Vec<Callee>,
    /// What could have been meant by the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
    /// Whether a request gets to an application, whichever backend it draws.
    arrives: bool,
}

/// One endpoint of a backend, and what it says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Callee {
    /// The backend's place in `outbound.backends`.
    backend: usize,
    pod: PodName,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<InboundAnswer>,
    /// Why nobody was asked, or did not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    unasked: Option<String>,
}

/// Does it.
///
/// # Errors
/// Nobody to ask, or no answer. A request that is denied is an answer.
pub(crate) async fn run(arguments: Arguments, context: &Context) -> Result<ExitCode, Error> {
    let cluster = Cluster::connect(&context.cluster).await?;
    let output = arguments.output;
    let chain = trace(&cluster, &cluster, arguments).await?;
    let text = match output {
        Some(super::DataFormat::Json) => super::json(&chain)?,
        None => render::chain(&chain),
    };
    context.terminal.document(&text)?;
    Ok(ExitCode::SUCCESS)
}

async fn trace(cluster: &Cluster, pods: &impl Ask, arguments: Arguments) -> Result<Chain, Error> {
    let namespace = cluster.namespace(arguments.namespace.as_deref());
    let from = match &arguments.from {
        Some(reference) => cluster.meshed_pod(reference, &namespace).await?,
        None => cluster.any_meshed_pod(&namespace).await?,
    };
    let request = OutboundQuestion {
        method: Some(arguments.method.to_ascii_uppercase()),
        url: arguments.url,
        headers: headers(arguments.headers),
    };
    let outbound: OutboundAnswer = pods.post(&from, (port::ADMIN, "/why"), &request).await?;
    let ip = cluster.pod(&from).await?.and_then(|pod| pod.status?.pod_ip);
    let mut inbound = Vec::new();
    for (position, backend) in outbound.backends.iter().enumerate() {
        inbound.extend(
            callee(
                cluster,
                pods,
                (&from, ip.as_deref(), &outbound),
                position,
                backend,
            )
            .await?,
        );
    }
    let refused = |callee: &Callee| callee.answer.as_ref().is_some_and(|a| !a.allowed);
    let arrives = outbound.outcome.sent
        && !inbound.iter().any(refused)
        && outbound
            .backends
            .iter()
            .all(|b| b.percent == 0.0 || usable(b));
    Ok(Chain {
        hint: service::hint(cluster, &outbound).await?,
        from_is_any: arguments.from.is_none(),
        request,
        from,
        outbound,
        inbound,
        arrives,
    })
}

/// Asks one endpoint of a backend that requests are drawn for.
async fn callee(
    cluster: &Cluster,
    pods: &impl Ask,
    (from, ip, outbound): (&PodName, Option<&str>, &OutboundAnswer),
    position: usize,
    backend: &Backend,
) -> Result<Option<Callee>, Error> {
    let Some((endpoint, request)) = chosen(backend).zip(backend.request.as_ref()) else {
        return Ok(None);
    };
    let mut callee = Callee {
        backend: position,
        pod: PodName {
            namespace: endpoint.namespace.clone(),
            name: endpoint.pod.clone(),
        },
        answer: None,
        unasked: None,
    };
    if callee.pod == *from {
        callee.unasked = Some("it is the caller itself, which is asked nothing".to_owned());
        return Ok(Some(callee));
    }
    let pod = if callee.pod.name.is_empty() {
        None
    } else {
        cluster.pod(&callee.pod).await?
    };
    if !pod.as_ref().is_some_and(is_meshed) {
        callee.unasked = Some("it has no sidecar, so no policy is asked".to_owned());
        return Ok(Some(callee));
    }
    let secured = endpoint.identity.is_some();
    let question = InboundQuestion {
        identity: outbound.caller.identity.clone().filter(|_| secured),
        ip: ip.and_then(|ip| ip.parse().ok()),
        port: endpoint.address.port(),
        method: Some(request.method.clone()),
        authority: request.authority.clone(),
        path: request.path.clone(),
        headers: request.headers.clone(),
    };
    match pods
        .post(&callee.pod, (port::ADMIN, "/why/inbound"), &question)
        .await
    {
        Ok(answer) => callee.answer = Some(answer),
        // What the caller's sidecar said is worth showing all the same.
        Err(error) => callee.unasked = Some(error.to_string()),
    }
    Ok(Some(callee))
}

fn usable(backend: &Backend) -> bool {
    backend.problem.is_none() && !backend.endpoints.is_empty()
}

/// The endpoint to ask: one that takes requests before one that does not.
fn chosen(backend: &Backend) -> Option<&Endpoint> {
    if backend.percent == 0.0 || backend.problem.is_some() {
        return None;
    }
    let healthy = |endpoint: &&Endpoint| endpoint.state == EndpointState::Healthy;
    let endpoints = &backend.endpoints;
    endpoints.iter().find(healthy).or(endpoints.first())
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| format!("{text:?} is not like \"x-user: vip\""))?;
    let name = name.trim().to_ascii_lowercase();
    http::HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| format!("{name:?} is not a header's name"))?;
    Ok((name, value.trim().to_owned()))
}

fn headers(typed: Vec<(String, String)>) -> BTreeMap<String, Values> {
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in typed {
        headers.entry(name).or_default().push(value);
    }
    let values = |mut values: Vec<String>| match values.len() {
        1 => Values::One(values.remove(0)),
        _ => Values::Many(values),
    };
    headers
        .into_iter()
        .map(|(name, all)| (name, values(all)))
        .collect()
}

impl Cluster {
    async fn pod(&self, name: &PodName) -> Result<Option<Pod>, ClusterError> {
        let api = Api::namespaced(self.client(), &name.namespace);
        self.find(api, &name.name).await
    }
}
