//! Which replica writes: the one that holds a Lease.
//!
//! Whether a lease has run out is told by this process's own clock, from when
//! it last saw the lease change: no two clocks are compared. Two holders may
//! overlap for a moment where one hangs; both write the same.

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{Api, Client, api::PostParams};
use linnet_mesh::names::CONTROL_PLANE_NAMESPACE;
use std::time::Duration;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

/// The Lease, in the control plane's namespace.
pub const NAME: &str = "linnet-controller-status";
/// How long a holder may be silent before another takes over.
const DURATION: Duration = Duration::from_secs(15);
/// How often the holder speaks up, and the others look.
const PERIOD: Duration = Duration::from_secs(5);
/// A holder that could not speak up for so long stops writing.
const PATIENCE: Duration = Duration::from_secs(10);

/// Holds the lease whenever it can, for as long as it is polled; `held` says
/// whether it does.
pub async fn hold(client: Client, holder: String, held: watch::Sender<bool>) {
    let leases: Api<Lease> = Api::namespaced(client, CONTROL_PLANE_NAMESPACE);
    let mut seen = Seen::default();
    let mut renewed: Option<Instant> = None;
    loop {
        match claim(&leases, &holder, &mut seen).await {
            Ok(true) => renewed = Some(Instant::now()),
            Ok(false) => renewed = None,
            Err(error) => tracing::warn!("the Lease {NAME}: {error}; trying again"),
        }
        let holds = renewed.is_some_and(|at| at.elapsed() < PATIENCE);
        let changed = held.send_if_modified(|held| std::mem::replace(held, holds) != holds);
        if changed && holds {
            tracing::info!("this replica writes the resources' statuses");
        }
        sleep(PERIOD).await;
    }
}

/// What another holder's lease looked like, and since when.
#[derive(Default)]
struct Seen {
    version: Option<String>,
    since: Option<Instant>,
}

impl Seen {
    /// Whether a lease has not changed for longer than its holder may be silent.
    fn has_run_out(&mut self, lease: &Lease) -> bool {
        let now = Instant::now();
        if self.version != lease.metadata.resource_version {
            self.version.clone_from(&lease.metadata.resource_version);
            self.since = Some(now);
        }
        let spec = lease.spec.as_ref();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
        let duration = seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(DURATION, Duration::from_secs);
        self.since.is_some_and(|since| now - since >= duration)
    }
}

/// Takes or keeps the lease, if it is free.
async fn claim(leases: &Api<Lease>, holder: &str, seen: &mut Seen) -> Result<bool, kube::Error> {
    let Some(mut lease) = leases.get_opt(NAME).await? else {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(NAME.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(spec(holder, None)),
        };
        return won(leases.create(&PostParams::default(), &lease).await);
    };
    let current = lease
        .spec
        .as_ref()
        .and_then(|spec| spec.holder_identity.as_deref());
    let free = current.is_none_or(|current| current.is_empty() || current == holder);
    if !free && !seen.has_run_out(&lease) {
        return Ok(false);
    }
    lease.spec = Some(spec(holder, lease.spec.as_ref()));
    // Carries the version it was read at: of two that try, one wins.
    won(leases.replace(NAME, &PostParams::default(), &lease).await)
}

fn won(written: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

fn spec(holder: &str, before: Option<&LeaseSpec>) -> LeaseSpec {
    let now = MicroTime(k8s_openapi::jiff::Timestamp::now());
    let same = before.filter(|spec| spec.holder_identity.as_deref() == Some(holder));
    let transitions = before.map_or(0, |spec| {
        let so_far = spec.lease_transitions.unwrap_or_default();
        so_far + i32::from(same.is_none())
    });
    LeaseSpec {
        holder_identity: Some(holder.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: same
            .and_then(|spec| spec.acquire_time.clone())
            .or_else(|| Some(now.clone())),
        renew_time: Some(now),
        lease_transitions: Some(transitions),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use http::{Method, Request, Response};
    use serde_json::{Value, json};
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };

    /// A Lease with versions, as the API server keeps it.
    #[derive(Clone, Default)]
    struct Server(Arc<Mutex<(u64, Option<Value>)>>);

    impl Server {
        async fn answer(&self, request: Request<kube::client::Body>) -> Response<Body> {
            let (head, body) = request.into_parts();
            let body = to_bytes(Body::new(body), 1 << 20).await.unwrap();
            let mut stored = self.0.lock().unwrap();
            let refuse = |code: u16, reason: &str| {
                let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                    "status": "Failure", "reason": reason, "code": code, "message": reason});
                let response = Response::builder().status(code);
                response.body(Body::from(status.to_string())).unwrap()
            };
            if head.method == Method::GET {
                return match &stored.1 {
                    Some(lease) => Response::new(Body::from(lease.to_string())),
                    None => refuse(404, "NotFound"),
                };
            }
            let mut lease: Value = serde_json::from_slice(&body).unwrap();
            let current = stored
                .1
                .as_ref()
                .map(|l| l["metadata"]["resourceVersion"].clone());
            if current.unwrap_or_default() != lease["metadata"]["resourceVersion"] {
                return refuse(409, "Conflict");
            }
            stored.0 += 1;
            lease["metadata"]["resourceVersion"] = stored.0.to_string().into();
            stored.1 = Some(lease.clone());
            Response::new(Body::from(lease.to_string()))
        }

        fn client(&self) -> Client {
            let server = self.clone();
            let service = tower::service_fn(move |request: Request<kube::client::Body>| {
                let server = server.clone();
                async move { Ok::<_, Infallible>(server.answer(request).await) }
            });
            Client::new(service, "default")
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_holds_it_until_it_falls_silent() {
        let server = Server::default();
        let holder = |name: &str| {
            let (sender, held) = watch::channel(false);
            let task = tokio::spawn(hold(server.client(), name.to_owned(), sender));
            (task, held)
        };
        let (first, mut first_holds) = holder("first");
        first_holds.wait_for(|held| *held).await.unwrap();
        let (_second, mut second_holds) = holder("second");
        sleep(DURATION * 10).await;
        assert!(*first_holds.borrow() && !*second_holds.borrow());
        first.abort();
        let silent = Instant::now();
        second_holds.wait_for(|held| *held).await.unwrap();
        let waited = silent.elapsed();
        assert!(
            waited >= PERIOD && waited <= DURATION + PERIOD * 2,
            "{waited:?}"
        );
        let stored = server.0.lock().unwrap().1.clone().unwrap();
        assert_eq!(stored["spec"]["holderIdentity"], "second");
        assert_eq!(stored["spec"]["leaseTransitions"], 1);
    }
}
