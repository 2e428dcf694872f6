//! The directory as JSON, for the admin endpoint: what is known, and how each
//! endpoint stands.

use super::Directory;
use std::time::Instant;

impl Directory {
    /// Everything that is known.
    pub(crate) fn dump(&self) -> serde_json::Value {
        let state = self.state();
        let services: Vec<_> = state
            .services
            .values()
            .map(|cell| {
                let endpoints: Vec<_> = cell
                    .states(Instant::now())
                    .iter()
                    .map(|state| {
                        let e = &state.endpoint;
                        serde_json::json!({
                            "address": e.address,
                            "identity": e.identity.as_ref().map(ToString::to_string),
                            "workload": e.workload.name,
                            "subsets": e.subsets,
                            "terminating": e.terminating,
                            "locality": e.locality.to_string(),
                            "ejected_for_seconds": state.ejected_for.map(|time| time.as_secs_f64()),
                            "in_flight": state.in_flight,
                            "latency_milliseconds": state.latency,
                        })
                    })
                    .collect();
                let routes = cell.service().and_then(|service| service.http.clone());
                serde_json::json!({
                    "service": cell.key.to_string(),
                    "routes_from": routes.map(|routes| {
                        let sources = routes.sources.iter();
                        sources.map(ToString::to_string).collect::<Vec<_>>()
                    }),
                    "endpoints": endpoints,
                })
            })
            .collect();
        let targets: Vec<_> = state.targets.keys().map(ToString::to_string).collect();
        serde_json::json!({ "targets": targets, "services": services })
    }
}
