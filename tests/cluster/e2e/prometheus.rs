//! A real Prometheus finds the sidecars by their annotations, as the usual
//! configuration of guides has it, and answers the golden questions.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use linnet_sample::client::{Call, Protocol, get};
use serde_json::Value;

use crate::support::cluster::{guide, kubeconfig};
use crate::support::load::Caller;
use crate::support::workload::MESHED;
use crate::support::{Cluster, eventually};

const REQUESTS: u64 = 500;

pub(crate) async fn prometheus_finds_and_reads_the_sidecars(cluster: Cluster) {
    cluster.meshed().await;
    cluster.without_configuration().await;
    cluster.apply(MESHED, &guide("payment-service.yaml")).await;
    let prometheus = Prometheus::start();
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
    fn start() -> Self {
        let files = tempfile::tempdir().unwrap();
        let configuration = files.path().join("prometheus.yml");
        std::fs::write(&configuration, configuration_text(&kubeconfig())).unwrap();
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

/// Pods with the usual annotations, nothing of Linnet's own.
fn configuration_text(kubeconfig: &PathBuf) -> String {
    format!(
        r#"
global: {{scrape_interval: 1s, scrape_timeout: 1s}}
scrape_configs:
- job_name: pods
  kubernetes_sd_configs: [{{role: pod, kubeconfig_file: {kubeconfig:?}}}]
  relabel_configs:
  - source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_scrape]
    action: keep
    regex: "true"
  - source_labels: [__address__, __meta_kubernetes_pod_annotation_prometheus_io_port]
    regex: '([^:]+)(?::\d+)?;(\d+)'
    replacement: $1:$2
    target_label: __address__
  - source_labels: [__meta_kubernetes_pod_annotation_prometheus_io_path]
    regex: (.+)
    target_label: __metrics_path__
  - source_labels: [__meta_kubernetes_pod_name]
    target_label: pod
"#
    )
}
