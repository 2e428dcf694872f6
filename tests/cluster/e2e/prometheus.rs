//! A real Prometheus scrapes what the pods' annotations say, as the usual
//! configuration of guides has it, and answers the golden questions. (Debian's
//! build knows no Kubernetes; the test reads the annotations for it.)

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use linnet_sample::client::{Call, Protocol, get};
use serde_json::Value;

use crate::support::cluster::guide;
use crate::support::load::Caller;
use crate::support::workload::MESHED;
use crate::support::{Cluster, eventually};

const REQUESTS: u64 = 500;

pub(crate) async fn prometheus_finds_and_reads_the_sidecars(cluster: Cluster) {
    cluster.meshed().await;
    cluster.without_configuration().await;
    cluster.apply(MESHED, &guide("payment-service.yaml")).await;
    let targets = annotated(&cluster).await;
    assert!(targets.len() > 1, "annotated pods: {targets:?}");
    let prometheus = Prometheus::start(&targets);
    prometheus.is_ready().await;
    let client = Caller::client_in(&cluster, MESHED).await;
    let call = format!("--count {REQUESTS} --concurrency 4 http://payment-service/");
    client.succeeds(&call).await;

    for reporter in ["source", "destination"] {
        let query = format!(
            "sum(istio_requests_total{{reporter=\"{reporter}\",response_code=\"200\",\
             destination_service_name=\"payment-service\",connection_security_policy=\"mutual_tls\"}})"
        );
        prometheus
            .answers(&query, |value| value >= REQUESTS as f64)
            .await;
    }
    let latency = "histogram_quantile(0.99, sum by (le) \
        (istio_request_duration_milliseconds_bucket{destination_service_name=\"payment-service\"}))";
    prometheus
        .answers(latency, |milliseconds| milliseconds > 0.0)
        .await;
    let expiry = "min(linnet_certificate_expiry_timestamp_seconds - time())";
    prometheus.answers(expiry, |seconds| seconds > 0.0).await;
}

/// A server on loopback; ends with the value.
struct Prometheus {
    process: Child,
    port: u16,
    _files: tempfile::TempDir,
}

impl Prometheus {
    fn start(targets: &[String]) -> Self {
        let files = tempfile::tempdir().unwrap();
        let configuration = files.path().join("prometheus.yml");
        std::fs::write(&configuration, configuration_text(targets)).unwrap();
        let port = free_port();
        let process = Command::new("prometheus")
            .arg(option("config.file", &configuration))
            .arg(option("storage.tsdb.path", &files.path().join("data")))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("prometheus: {error}; install Debian's package of that name")
            });
        Self {
            process,
            port,
            _files: files,
        }
    }

    async fn is_ready(&self) {
        eventually(
            "Prometheus is ready".to_owned(),
            Duration::from_secs(60),
            async || self.get("/-/ready").await.map(drop),
        )
        .await;
    }

    /// Until an instant query gives one number that is as it should be.
    async fn answers(&self, query: &str, holds: fn(f64) -> bool) {
        eventually(
            format!("Prometheus answers {query}"),
            Duration::from_secs(60),
            async || {
                let path = format!("/api/v1/query?query={}", percent_encode(query));
                let answer: Value = serde_json::from_str(&self.get(&path).await?)
                    .map_err(|error| error.to_string())?;
                let number = answer["data"]["result"][0]["value"][1].as_str();
                let number = number.and_then(|text| text.parse().ok());
                match number {
                    Some(number) if holds(number) => Ok(()),
                    _ => Err(format!("{number:?}")),
                }
            },
        )
        .await;
    }

    async fn get(&self, path: &str) -> Result<String, String> {
        let target = format!("http://127.0.0.1:{}{path}", self.port);
        let target = target.parse().map_err(|error| format!("{error}"))?;
        match get(&Call::new(Protocol::Http1, target)).await {
            Ok((status, text)) if status.is_success() => Ok(text),
            Ok((status, text)) => Err(format!("{status}: {text}")),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It holds nothing that is worth a graceful end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn option(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn percent_encode(text: &str) -> String {
    let unreserved = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes()
        .map(|b| {
            if unreserved(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

/// Where the annotations of the pods say that metrics are.
async fn annotated(cluster: &Cluster) -> Vec<String> {
    let pods = cluster.pod_objects(MESHED, "").await;
    pods.iter().filter_map(target).collect()
}

fn target(pod: &Pod) -> Option<String> {
    let annotations = pod.metadata.annotations.as_ref()?;
    let wanted = annotations.get("prometheus.io/scrape")? == "true";
    assert_eq!(annotations.get("prometheus.io/path")?, "/metrics");
    let port = annotations.get("prometheus.io/port")?;
    let ip = pod.status.as_ref()?.pod_ip.as_ref()?;
    wanted.then(|| format!("{ip}:{port}"))
}

fn configuration_text(targets: &[String]) -> String {
    format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
- job_name: pods
  static_configs: [{{targets: {targets:?}}}]
"
    )
}
