//! How backends, their endpoints and their policies are put.

use super::{Backend, Endpoint, EndpointState, Filter};
use crate::directory;
use http::{Request, header::CONTENT_TYPE};
use linnet_mesh::{
    AppProtocol,
    destination::{Balance, ConnectionPool, DestinationPolicy},
    route,
};
use std::{collections::BTreeMap, sync::Arc};

pub(super) fn filter((name, does): (&'static str, String)) -> Filter {
    Filter {
        name: name.to_owned(),
        does,
    }
}

/// An endpoint by its own address, of which nobody keeps count.
pub(super) fn unseen(endpoint: Arc<linnet_mesh::Endpoint>) -> directory::EndpointState {
    directory::EndpointState {
        endpoint,
        ejected_for: None,
        unavailable: false,
        in_flight: 0,
        latency: 0.0,
    }
}

pub(super) fn endpoint_of(seen: &directory::EndpointState) -> Endpoint {
    let endpoint = &seen.endpoint;
    let (state, note) = match seen.ejected_for {
        Some(left) => {
            let note = format!("for another {:.1} s", left.as_secs_f64());
            (EndpointState::Ejected, Some(note))
        }
        None if seen.unavailable => {
            let note = "no connection to it or to its application comes about";
            (EndpointState::Ejected, Some(note.to_owned()))
        }
        None if endpoint.terminating => (EndpointState::Terminating, None),
        None => (EndpointState::Healthy, None),
    };
    Endpoint {
        address: endpoint.address,
        pod: endpoint.pod.to_string(),
        namespace: endpoint.workload.namespace.clone(),
        state,
        note,
        in_flight: seen.in_flight,
        latency_ms: (seen.latency > 0.0).then_some(seen.latency),
        identity: endpoint.identity.as_ref().map(ToString::to_string),
    }
}

/// How a chain of backends ends.
pub(super) fn reach(backends: &[Backend]) -> (bool, String) {
    let drawn = backends.iter().filter(|backend| backend.percent > 0.0);
    let (usable, broken): (Vec<_>, Vec<_>) =
        drawn.partition(|backend| backend.problem.is_none() && !backend.endpoints.is_empty());
    let why = |backend: &Backend| {
        let name = backend_name(backend);
        match &backend.problem {
            Some(problem) => format!("{name}: {problem}"),
            None => format!("{name} has no endpoint"),
        }
    };
    let mut reasons: BTreeMap<u16, Vec<String>> = BTreeMap::new();
    for backend in broken {
        // A VirtualService's are answered 503, the Gateway API's 500.
        let status = backend.status.unwrap_or(503);
        reasons.entry(status).or_default().push(why(backend));
    }
    let answers: Vec<String> = reasons
        .iter()
        .map(|(status, reasons)| format!("{status}: {}", reasons.join("; ")))
        .collect();
    let answers = answers.join(", or ");
    match (usable.as_slice(), answers.as_str()) {
        ([], "") => (false, "503: no backend is drawn".to_owned()),
        ([], answers) => (false, answers.to_owned()),
        (_, "") => (true, "goes to an endpoint above".to_owned()),
        (_, answers) => (
            true,
            format!("goes to an endpoint above, or is answered {answers}"),
        ),
    }
}

pub(super) fn backend_name(backend: &Backend) -> String {
    match &backend.subset {
        None => backend.service.clone(),
        Some(subset) => format!("{} subset {subset}", backend.service),
    }
}

pub(super) const fn protocol_name(protocol: AppProtocol) -> Option<&'static str> {
    match protocol {
        AppProtocol::Detect => None,
        AppProtocol::Http1 => Some("HTTP"),
        AppProtocol::Http2 => Some("HTTP/2"),
        AppProtocol::Opaque => Some("bytes that are not looked at"),
    }
}

/// What each backend gets of the requests, percent.
pub(super) fn shares(backends: &[route::Backend]) -> impl Iterator<Item = f64> {
    let total: f64 = backends.iter().map(|b| f64::from(b.weight)).sum();
    backends.iter().map(move |known| match backends {
        // A single one is drawn whatever its weight.
        [_] => 100.0,
        _ if total == 0.0 => 0.0,
        _ => f64::from(known.weight) * 100.0 / total,
    })
}

/// What is repeated where no rule says so.
pub(super) fn default_retries(request: &Request<()>) -> Filter {
    let grpc = request.headers().get(CONTENT_TYPE);
    let grpc = grpc.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    let does = match grpc {
        true => {
            "by default: up to 2 more attempts where nobody looked at the request, and on UNAVAILABLE and CANCELLED"
        }
        false => "by default: up to 2 more attempts where nobody looked at the request",
    };
    filter(("retries", does.to_owned()))
}

/// The limits that a pool has, by their fields.
pub(super) fn limits(pool: &ConnectionPool) -> String {
    let limits = [
        ("tcp.maxConnections", pool.max_connections),
        ("http.http1MaxPendingRequests", pool.max_pending_requests),
        ("http.http2MaxRequests", pool.max_requests),
        ("http.maxRetries", pool.max_retries),
        (
            "http.maxRequestsPerConnection",
            pool.max_requests_per_connection,
        ),
        ("http.maxConcurrentStreams", pool.max_concurrent_streams),
    ];
    let set = limits
        .into_iter()
        .filter_map(|(name, limit)| Some(format!("{name} {}", limit?)));
    let set: Vec<String> = set.collect();
    if set.is_empty() {
        "times, no limits".to_owned()
    } else {
        set.join(", ")
    }
}

pub(super) fn policy_words(policy: &DestinationPolicy) -> Vec<Filter> {
    let balance = match &policy.balance {
        // A service's address is no endpoint's.
        Balance::PeakEwma | Balance::Passthrough => {
            "lowest latency times requests in flight of two"
        }
        Balance::LeastRequest => "fewest requests in flight of two",
        Balance::RoundRobin => "in turn",
        Balance::Random => "at random",
        Balance::ConsistentHash(_) => "by a hash of the request",
    };
    let sources = &policy.sources;
    let parts = [
        ("balancing", Some(balance.to_owned()), &sources.balance),
        ("connection pool", Some(limits(&policy.pool)), &sources.pool),
        ("outlier detection", None, &sources.outlier),
        ("client TLS", None, &sources.tls),
    ];
    parts
        .into_iter()
        .filter_map(|(name, what, source)| {
            let source = source.as_ref()?;
            let does = match what {
                Some(what) => format!("{what}, by {source}"),
                None => format!("by {source}"),
            };
            Some(filter((name, does)))
        })
        .collect()
}
