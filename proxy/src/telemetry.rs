//! Istio's standard metrics, counted by handles that a connection or an endpoint
//! holds; a request looks no label up.
//!
//! These families are kept here rather than in the process's `metrics` exporter.
//! The exporter forgets what was idle by cutting it off from handles that are
//! still held, so that a connection that wakes up would count into the void; it
//! keeps each observation until somebody folds them; and it is one for all
//! sidecars of a process. Here a series that somebody holds stays, one that
//! nobody holds goes when it was idle for [`IDLE`], memory is constant between
//! scrapes, and each sidecar shows its own. Linnet's own, rarer metrics
//! (`linnet_…`) use the exporter, and [`Telemetry::router`] shows both.

mod exposition;
mod flags;
mod histogram;
mod labels;
mod series;
#[cfg(test)]
mod tests;
mod variants;

pub use flags::Flags;
pub use series::{HttpSeries, Outcome, TcpSeries};

use axum::{Router, body::Body, extract::State, response::IntoResponse, routing::get};
use http::header::CONTENT_TYPE;
use linnet_mesh::{SpiffeId, Workload};
use metrics_exporter_prometheus::PrometheusHandle;
use series::Room;
use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long series are kept that nobody holds and nothing was counted in.
pub const IDLE: Duration = Duration::from_secs(600);
/// Label sets at most: pairs of parties, and ways their requests and connections
/// ended. What comes beyond is counted under "other".
pub const MAX_LABEL_SETS: usize = 10_000;

/// Which side of a connection counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reporter {
    /// The client's sidecar.
    Source,
    /// The server's sidecar.
    Destination,
}

/// What requests are, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RequestProtocol {
    /// HTTP.
    Http,
    /// gRPC.
    Grpc,
}

/// Who is on both ends; resolved once per connection or endpoint, never per
/// request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Parties {
    /// Who counts.
    pub reporter: Reporter,
    /// Who calls.
    pub source: Arc<Workload>,
    /// The caller's verified identity.
    pub source_principal: Option<SpiffeId>,
    /// Who is called.
    pub destination: Arc<Workload>,
    /// Its verified identity.
    pub destination_principal: Option<SpiffeId>,
    /// The service that led there.
    pub service: Option<DestinationService>,
    /// Whether mutual TLS was on the wire.
    pub secured: bool,
}

/// A service, as labels name it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DestinationService {
    /// Its namespace.
    pub namespace: Arc<str>,
    /// Its name.
    pub name: Arc<str>,
    /// Its fully qualified name.
    pub hostname: Arc<str>,
}

/// A sidecar's series.
#[derive(Clone, Debug)]
pub struct Telemetry {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    version: String,
    room: Arc<Room>,
    entries: Mutex<HashMap<Arc<str>, Entry>>,
}

/// The series of one pair of parties.
#[derive(Debug)]
struct Entry {
    http: Option<Arc<HttpSeries>>,
    grpc: Option<Arc<HttpSeries>>,
    tcp: Option<Arc<TcpSeries>>,
    /// Whether it took room: what holds the overflow does not.
    charged: bool,
    /// What `activity` was when it last changed, and when that was.
    activity: u64,
    active: Instant,
}

impl Entry {
    fn new(charged: bool) -> Self {
        Self {
            http: None,
            grpc: None,
            tcp: None,
            charged,
            activity: 0,
            active: Instant::now(),
        }
    }

    fn http_series(&self) -> impl Iterator<Item = &Arc<HttpSeries>> {
        self.http.iter().chain(&self.grpc)
    }

    fn is_held(&self) -> bool {
        // Handles are given out under the lock that this is called under.
        self.http_series()
            .any(|series| Arc::strong_count(series) > 1)
            || self
                .tcp
                .as_ref()
                .is_some_and(|series| Arc::strong_count(series) > 1)
    }

    fn current_activity(&self) -> u64 {
        let tcp = self.tcp.as_ref().map_or(0, |series| series.activity());
        self.http_series()
            .map(|series| series.activity())
            .fold(tcp, u64::wrapping_add)
    }

    fn label_sets(&self) -> usize {
        let http: usize = self.http_series().map(|s| s.outcomes.len()).sum();
        let tcp = self.tcp.as_ref().map_or(0, |series| series.closed.len());
        usize::from(self.charged) + http + tcp
    }
}

impl Telemetry {
    /// No series yet, of a sidecar of this version.
    pub fn new(version: &str) -> Self {
        Self::with_limit(version, MAX_LABEL_SETS)
    }

    fn with_limit(version: &str, limit: usize) -> Self {
        Self {
            inner: Arc::new(Inner {
                version: version.to_owned(),
                room: Arc::new(Room::new(limit)),
                entries: Mutex::default(),
            }),
        }
    }

    /// Where requests between these parties are counted.
    pub fn http(&self, parties: &Parties, protocol: RequestProtocol) -> Arc<HttpSeries> {
        self.with_entry(parties, |labels, entry| {
            let slot = match protocol {
                RequestProtocol::Http => &mut entry.http,
                RequestProtocol::Grpc => &mut entry.grpc,
            };
            slot.get_or_insert_with(|| {
                Arc::new(HttpSeries::new(
                    labels.clone(),
                    protocol,
                    self.inner.room.clone(),
                ))
            })
            .clone()
        })
    }

    /// Where connections between these parties are counted.
    pub fn tcp(&self, parties: &Parties) -> Arc<TcpSeries> {
        self.with_entry(parties, |labels, entry| {
            entry
                .tcp
                .get_or_insert_with(|| {
                    Arc::new(TcpSeries::new(labels.clone(), self.inner.room.clone()))
                })
                .clone()
        })
    }

    fn with_entry<T>(&self, parties: &Parties, take: impl FnOnce(&Arc<str>, &mut Entry) -> T) -> T {
        let text = labels::parties(parties);
        let mut entries = self.entries();
        let (text, charged) = if entries.contains_key(text.as_str()) || self.inner.room.take() {
            (text, true)
        } else {
            (labels::other(parties), false)
        };
        let labels = match entries.get_key_value(text.as_str()) {
            Some((known, _)) => known.clone(),
            None => Arc::from(text),
        };
        let entry = entries
            .entry(labels.clone())
            .or_insert_with(|| Entry::new(charged));
        take(&labels, entry)
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Arc<str>, Entry>> {
        self.inner
            .entries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets series that nobody holds and that were idle for [`IDLE`]. To be
    /// called every minute or so.
    pub fn expire(&self, now: Instant) {
        let room = &self.inner.room;
        self.entries().retain(|_, entry| {
            let activity = entry.current_activity();
            if activity != entry.activity || entry.is_held() {
                entry.activity = activity;
                entry.active = now;
                return true;
            }
            if now.saturating_duration_since(entry.active) < IDLE {
                return true;
            }
            room.give_back(entry.label_sets());
            false
        });
    }

    /// All series in Prometheus' text format.
    pub fn render(&self) -> String {
        self.pieces().collect()
    }

    /// What [`Telemetry::render`] says, in pieces.
    pub fn pieces(&self) -> impl Iterator<Item = String> + Send + use<> {
        exposition::Exposition::new(self.clone())
    }

    /// `GET /metrics`: these series and the process's other metrics.
    pub fn router(&self, exporter: PrometheusHandle) -> Router {
        Router::new()
            .route("/metrics", get(scrape))
            .with_state((self.clone(), exporter))
    }

    fn series(&self) -> (Vec<Arc<HttpSeries>>, Vec<Arc<TcpSeries>>) {
        let entries = self.entries();
        let http = entries.values().flat_map(Entry::http_series).cloned();
        let tcp = entries.values().filter_map(|entry| entry.tcp.clone());
        (http.collect(), tcp.collect())
    }

    fn version(&self) -> &str {
        &self.inner.version
    }

    fn dropped(&self) -> u64 {
        self.inner.room.refused()
    }
}

async fn scrape(
    State((telemetry, exporter)): State<(Telemetry, PrometheusHandle)>,
) -> impl IntoResponse {
    let pieces = std::iter::once(exporter.render())
        .chain(telemetry.pieces())
        .map(Ok::<_, Infallible>);
    (
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        Body::from_stream(futures_util::stream::iter(pieces)),
    )
}
