//! The standing workloads: the guides' services, a client with a sidecar, and
//! an outsider without.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::Api;

use super::cluster::guide;
use super::command::linnet_succeeds;
use super::load::Caller;
use super::{Cluster, eventually};

/// The guides' namespace, meshed by its label.
pub(crate) const MESHED: &str = "default";
/// A namespace without a label.
pub(crate) const UNMESHED: &str = "outside";
/// The namespace of one guide's STRICT, meshed by its label.
pub(crate) const BACKEND: &str = "payments-backend";

/// Name and pods of the guides' services. Two sets of pods stand behind all
/// five: a small node carries no ten sidecars more.
pub(crate) const SERVICES: [(&str, &str); 5] = [
    ("payment-service", "payment-service"),
    ("my-app", "my-app"),
    ("my-api", "my-app"),
    ("checkout-service", "my-app"),
    ("billing-service", "my-app"),
];
/// Their deployments.
const DEPLOYMENTS: [(&str, &str); 4] = [
    ("payment-service", "v1"),
    ("payment-service", "v2"),
    ("my-app", "v1"),
    ("my-app", "v2"),
];

fn server(name: &str, version: &str) -> String {
    include_str!("../workloads/server.yaml")
        .replace("NAME", name)
        .replace("VERSION", version)
}

fn service(name: &str, app: &str) -> String {
    include_str!("../workloads/service.yaml")
        .replace("NAME", name)
        .replace("APP", app)
}

fn account(name: &str) -> String {
    include_str!("../workloads/account.yaml").replace("NAME", name)
}

pub(crate) fn namespace(name: &str, label: &str) -> String {
    include_str!("../workloads/namespace.yaml")
        .replace("NAME", name)
        .replace("LABEL", label)
}

/// The deployment that calls are made from, and its account.
pub(crate) fn client() -> String {
    let client = include_str!("../workloads/client.yaml");
    [account("client"), client.to_owned()].join("---\n")
}

impl Cluster {
    /// Linnet as `linnet install` leaves it, and every standing workload ready.
    pub(crate) async fn meshed(&self) {
        if !self.is_installed().await {
            linnet_succeeds(&["install", "-y"]).await;
        }
        self.label_namespace(MESHED, "istio-injection", Some("enabled"))
            .await;
        for (app, version) in DEPLOYMENTS {
            self.apply(MESHED, &account(app)).await;
            self.apply(MESHED, &server(app, version)).await;
        }
        for (name, app) in SERVICES {
            self.apply(MESHED, &service(name, app)).await;
        }
        self.client(MESHED).await;
        for (app, version) in DEPLOYMENTS {
            self.rolled_out(MESHED, &format!("{app}-{version}")).await;
        }
        self.rolled_out(MESHED, "client").await;
        for (name, _) in SERVICES {
            self.answers(MESHED, &format!("{name}:80")).await;
        }
    }

    /// Waits until a service that has just come up is known to who calls it: a
    /// ready pod is not yet an endpoint everywhere.
    async fn answers(&self, from: &str, target: &str) {
        let client = Caller::client_in(self, from).await;
        let limit = Duration::from_secs(15);
        eventually(format!("{target} answers {from}"), limit, async || {
            let report = client.call(&format!("--timeout 2s {target}")).await;
            let answered = report.failed == 0;
            answered.then_some(()).ok_or_else(|| format!("{report:?}"))
        })
        .await;
    }

    /// A client and a server, `plain`, without sidecars.
    pub(crate) async fn outsiders(&self) {
        self.apply("", &namespace(UNMESHED, "disabled")).await;
        self.server_in(UNMESHED, "plain").await;
        self.client(UNMESHED).await;
        self.rolled_out(UNMESHED, "plain-v1").await;
        self.rolled_out(UNMESHED, "client").await;
        self.answers(UNMESHED, "plain:80").await;
    }

    /// A server, `payments`, in the guide's own namespace.
    pub(crate) async fn backend(&self) {
        self.apply("", &namespace(BACKEND, "enabled")).await;
        self.server_in(BACKEND, "payments").await;
        self.rolled_out(BACKEND, "payments-v1").await;
        self.answers(MESHED, "payments.payments-backend:80").await;
    }

    async fn server_in(&self, namespace: &str, name: &str) {
        let parts = [account(name), server(name, "v1"), service(name, name)];
        self.apply(namespace, &parts.join("---\n")).await;
    }

    async fn client(&self, namespace: &str) {
        self.apply(namespace, &client()).await;
    }

    async fn is_installed(&self) -> bool {
        let api = self.api::<Deployment>(linnet_mesh::names::CONTROL_PLANE_NAMESPACE);
        api.get_opt("linnet-injector").await.unwrap().is_some()
    }

    /// Takes every policy and route of the guides away, as a point found them.
    pub(crate) async fn without_configuration(&self) {
        for file in [
            "mesh-strict.yaml",
            "namespace-strict.yaml",
            "payments-backend-strict.yaml",
            "payments-backend-callers.yaml",
            "meshpolicy.yaml",
            "payment-service.yaml",
            "checkout-service.yaml",
            "billing-service.yaml",
            "my-api.yaml",
            "my-app.yaml",
        ] {
            self.delete(MESHED, &guide(file)).await;
        }
    }

    /// Deletes what the points made, besides the guides' configuration.
    pub(crate) async fn without_workloads(&self) {
        for (app, version) in DEPLOYMENTS {
            self.delete(MESHED, &server(app, version)).await;
            self.delete(MESHED, &account(app)).await;
        }
        for (name, app) in SERVICES {
            self.delete(MESHED, &service(name, app)).await;
        }
        self.delete(MESHED, include_str!("../workloads/client.yaml"))
            .await;
        self.delete(MESHED, &account("client")).await;
        self.delete("", &namespace(UNMESHED, "disabled")).await;
        self.delete("", &namespace(BACKEND, "enabled")).await;
        self.label_namespace(MESHED, "istio-injection", None).await;
        for name in [UNMESHED, BACKEND] {
            let api: Api<Namespace> = Api::all(self.client.clone());
            let gone = |namespace: Option<&Namespace>| namespace.is_none();
            self.wait(api, name, "gone", gone).await;
        }
    }
}
