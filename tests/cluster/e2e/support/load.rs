//! Calls made from inside of pods by the sample's own load generator.

use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, AttachParams};
use linnet_sample::load::Report;
use tokio::io::AsyncReadExt;

use super::Cluster;

/// A pod that calls are made from.
#[derive(Clone)]
pub(crate) struct Caller {
    api: Api<Pod>,
    pod: String,
}

impl Caller {
    /// The pod of deployment `client` in `namespace`.
    pub(crate) async fn client_in(cluster: &Cluster, namespace: &str) -> Self {
        let pods = cluster.pods(namespace, "app=client").await;
        let [pod] = pods.as_slice() else {
            panic!("namespace {namespace}: one pod of deployment client expected: {pods:?}");
        };
        Self {
            api: cluster.api(namespace),
            pod: pod.clone(),
        }
    }

    /// `linnet-sample call` with these words, separated by blanks.
    pub(crate) async fn call(&self, arguments: &str) -> Report {
        let words = [
            "/linnet-sample",
            "call",
            "--allow-failures",
            "--output=json",
        ];
        let command = words.into_iter().chain(arguments.split_whitespace());
        let (output, errors) = self.exec(command.collect()).await;
        serde_json::from_str(&output)
            .unwrap_or_else(|_| panic!("{}: call {arguments}: {output}{errors}", self.pod))
    }

    /// The same, where every call must succeed.
    pub(crate) async fn succeeds(&self, arguments: &str) -> Report {
        let report = self.call(arguments).await;
        assert!(
            report.failed == 0 && report.succeeded > 0,
            "{}: call {arguments}: {report:#?}",
            self.pod
        );
        report
    }

    /// `linnet-sample get`: the page, whatever its status.
    pub(crate) async fn page(&self, url: &str) -> String {
        let (page, errors) = self.exec(vec!["/linnet-sample", "get", url]).await;
        assert!(
            !page.is_empty(),
            "{}: get {url}: no page: {errors}",
            self.pod
        );
        page
    }

    async fn exec(&self, command: Vec<&str>) -> (String, String) {
        let params = AttachParams::default().container("sample");
        let mut process = self
            .api
            .exec(&self.pod, command.clone(), &params)
            .await
            .unwrap_or_else(|error| panic!("{}: exec {command:?}: {error}", self.pod));
        let (mut output, mut errors) = (String::new(), String::new());
        let mut stdout = process.stdout().unwrap();
        let mut stderr = process.stderr().unwrap();
        let (read, _) = tokio::join!(
            stdout.read_to_string(&mut output),
            stderr.read_to_string(&mut errors)
        );
        read.unwrap();
        process.join().await.unwrap();
        (output, errors)
    }
}
