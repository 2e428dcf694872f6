//! The trust bundle for the control plane itself: a ConfigMap in its namespace.
//!
//! The controller can't learn from a sidecar-like volume whom to trust before
//! somebody wrote it, and only identity knows the root; the Secret with the root
//! holds its key and is mounted by nobody. Whatever others make of the ConfigMap
//! is put right within [`INTERVAL`].

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use linnet_mesh::names::{TRUST_BUNDLE_CONFIG_MAP, TRUST_BUNDLE_KEY, label};
use linnet_runtime::drain;
use serde_json::json;

use tokio::time::sleep;

use crate::authority::Authority;

/// How often the ConfigMap is looked after.
pub const INTERVAL: Duration = Duration::from_secs(30);
const RETRY: Duration = Duration::from_secs(1);
const FIELD_MANAGER: &str = "linnet-identity";

/// Keeps the ConfigMap until the drain.
pub async fn keep(
    client: Client,
    namespace: String,
    authority: Arc<Authority>,
    drain: drain::Watch,
) {
    let api: Api<ConfigMap> = Api::namespaced(client, &namespace);
    let mut changes = authority.subscribe();
    loop {
        changes.mark_unchanged();
        let pause = match write(&api, &authority.bundle_pem()).await {
            Ok(()) => INTERVAL,
            Err(error) => {
                tracing::warn!(
                    %error,
                    config_map = %format_args!("{namespace}/{TRUST_BUNDLE_CONFIG_MAP}"),
                    "cannot write the trust bundle; may this service account get, create and patch it?"
                );
                RETRY
            }
        };
        tokio::select! {
            () = sleep(pause) => {}
            Ok(()) = changes.changed() => {}
            _guard = drain.signaled() => return,
        }
    }
}

/// Writes it unless it is as it should be.
async fn write(api: &Api<ConfigMap>, bundle: &str) -> Result<(), kube::Error> {
    let found = api.get_opt(TRUST_BUNDLE_CONFIG_MAP).await?;
    let data = found.and_then(|found| found.data).unwrap_or_default();
    if data
        .get(TRUST_BUNDLE_KEY)
        .is_some_and(|kept| kept == bundle)
    {
        return Ok(());
    }
    let wanted = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": TRUST_BUNDLE_CONFIG_MAP,
            "labels": {label::PART_OF: label::PART_OF_LINNET},
        },
        "data": {TRUST_BUNDLE_KEY: bundle},
    });
    let parameters = PatchParams::apply(FIELD_MANAGER).force();
    api.patch(TRUST_BUNDLE_CONFIG_MAP, &parameters, &Patch::Apply(wanted))
        .await?;
    tracing::info!(config_map = TRUST_BUNDLE_CONFIG_MAP, "trust bundle written");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Method, Request, Response, StatusCode};
    use kube::client::Body;
    use serde_json::Value;
    use std::{
        convert::Infallible,
        sync::{Arc, Mutex},
    };
    use tower::service_fn;

    /// An API server with this ConfigMap or none; tells how often it was written.
    async fn writes(kept: Option<&'static str>) -> usize {
        let written = Arc::new(Mutex::new(0));
        let count = written.clone();
        let service = service_fn(move |request: Request<Body>| {
            let map = |bundle: &str| json!({"metadata": {"name": TRUST_BUNDLE_CONFIG_MAP}, "data": {TRUST_BUNDLE_KEY: bundle}});
            let answer = |status: StatusCode, body: Value| {
                let body = Body::from(body.to_string().into_bytes());
                Response::builder().status(status).body(body).unwrap()
            };
            let response = if *request.method() == Method::PATCH {
                *count.lock().unwrap() += 1;
                answer(StatusCode::OK, map("new"))
            } else if let Some(kept) = kept {
                answer(StatusCode::OK, map(kept))
            } else {
                let status = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "message": "", "code": 404});
                answer(StatusCode::NOT_FOUND, status)
            };
            async move { Ok::<_, Infallible>(response) }
        });
        let api = Api::namespaced(Client::new(service, "default"), "linnet-system");
        write(&api, "new").await.unwrap();
        *written.lock().unwrap()
    }

    #[tokio::test]
    async fn a_config_map_that_is_missing_or_wrong_is_written() {
        assert_eq!(writes(None).await, 1);
        assert_eq!(writes(Some("old")).await, 1);
    }

    #[tokio::test]
    async fn a_config_map_that_is_right_is_left_alone() {
        assert_eq!(writes(Some("new")).await, 0);
    }
}
