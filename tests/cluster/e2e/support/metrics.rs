//! A sidecar's metrics, read through the API server's proxy to the pod.

use std::collections::BTreeMap;

use http::Request;
use linnet_mesh::names;

use super::Cluster;

/// One scrape.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    samples: Vec<Sample>,
}

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    /// Scrapes the sidecars of all pods of `namespace` with the label `app=…`.
    pub(crate) async fn of_app(cluster: &Cluster, namespace: &str, app: &str) -> Self {
        let mut metrics = Self::default();
        for pod in cluster.pods(namespace, &format!("app={app}")).await {
            metrics.add(&page(cluster, namespace, &pod).await);
        }
        metrics
    }

    fn add(&mut self, text: &str) {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        self.samples.extend(lines.filter_map(parse));
    }

    /// The sum over all series of `name` with at least these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.matching(name, labels).sum()
    }

    /// The lowest value of such a series.
    pub(crate) fn lowest(&self, name: &str) -> Option<f64> {
        self.matching(name, &[]).reduce(f64::min)
    }

    fn matching(&self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = f64> {
        let has = |sample: &&Sample, (label, value): &(&str, &str)| {
            sample.labels.get(*label).is_some_and(|own| own == value)
        };
        self.samples
            .iter()
            .filter(move |sample| sample.name == name)
            .filter(move |sample| labels.iter().all(|label| has(sample, label)))
            .map(|sample| sample.value)
    }

    /// Every series of `name`, for a failure's message.
    pub(crate) fn describe(&self, name: &str) -> String {
        let series = self.samples.iter().filter(|sample| sample.name == name);
        series
            .map(|sample| format!("\n  {:?} {}", sample.labels, sample.value))
            .collect()
    }
}

async fn page(cluster: &Cluster, namespace: &str, pod: &str) -> String {
    let port = names::port::METRICS;
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/metrics");
    let request = Request::get(path).body(Vec::new()).unwrap();
    match cluster.client.request_text(request).await {
        Ok(text) => text,
        Err(error) => panic!("pod {namespace}/{pod}: cannot read :{port}/metrics: {error}"),
    }
}

/// `name{label="value",…} number`; anything else is no sample.
fn parse(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok()?;
    let (name, mut rest) = match series.split_once('{') {
        Some((name, rest)) => (name, rest.strip_suffix('}')?),
        None => (series, ""),
    };
    let mut labels = BTreeMap::new();
    while let Some((label, after)) = rest.split_once("=\"") {
        let end = closing_quote(after)?;
        labels.insert(label.to_owned(), after[..end].replace("\\\"", "\""));
        rest = after[end + 1..].trim_start_matches(',');
    }
    Some(Sample {
        name: name.to_owned(),
        labels,
        value,
    })
}

fn closing_quote(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(index, character)| {
        let closes = character == '"' && !escaped;
        escaped = character == '\\' && !escaped;
        closes.then_some(index)
    })
}

#[test]
fn samples_are_parsed() {
    let mut metrics = Metrics::default();
    metrics
        .add("# TYPE a counter\na{x=\"1\",y=\"q\\\"}, z\"} 2\na{x=\"1\"} 3\na{x=\"2\"} 4\nb 5.5\n");
    assert_eq!(metrics.sum("a", &[("x", "1")]), 5.0);
    assert_eq!(metrics.sum("a", &[("y", "q\"}, z")]), 2.0);
    assert_eq!(metrics.sum("b", &[]), 5.5);
    assert_eq!(metrics.lowest("a"), Some(2.0));
    assert_eq!(metrics.sum("c", &[]), 0.0);
}
