//! What a run of load came to.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::client::{Answer, CallError};

/// Kinds of failure told apart; the rest counts as `other`.
const MOST_ERRORS: usize = 32;

/// Totals of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Calls made.
    pub requests: u64,
    /// Calls answered with success.
    pub succeeded: u64,
    /// Calls that failed.
    pub failed: u64,
    /// Answers by the answering server's version.
    pub by_version: BTreeMap<String, u64>,
    /// Answers by `service/version` of each server that had a part in them.
    pub by_hop: BTreeMap<String, u64>,
    /// When the last call was sent that a `service/version` had a part in, in
    /// milliseconds since 1970: how long a route that was taken away kept going.
    pub last_sent_ms: BTreeMap<String, u64>,
    /// Failures by their text.
    pub errors: BTreeMap<String, u64>,
    /// Latencies of the calls that succeeded.
    pub latency_ms: Latency,
    /// How long the run took.
    pub duration_seconds: f64,
}

/// Quantiles in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// Nine in ten are faster.
    pub p90: f64,
    /// 99 in a hundred are faster.
    pub p99: f64,
    /// The slowest.
    pub max: f64,
}

impl Report {
    /// The share of calls that succeeded; 0 without any call.
    pub fn success_rate(&self) -> f64 {
        match self.requests {
            0 => 0.0,
            requests => self.succeeded as f64 / requests as f64,
        }
    }

    pub(super) fn count(&mut self, sent: SystemTime, result: &Result<Answer, CallError>) {
        self.requests += 1;
        match result {
            Ok(answer) => {
                self.succeeded += 1;
                if let Some(version) = &answer.version {
                    add(&mut self.by_version, version);
                }
                let sent = sent.duration_since(UNIX_EPOCH).unwrap_or_default();
                let sent = u64::try_from(sent.as_millis()).unwrap_or(u64::MAX);
                for hop in &answer.chain {
                    add(&mut self.by_hop, hop);
                    match self.last_sent_ms.get_mut(hop) {
                        Some(last) => *last = (*last).max(sent),
                        None => {
                            self.last_sent_ms.insert(hop.clone(), sent);
                        }
                    }
                }
            }
            Err(error) => {
                self.failed += 1;
                let text = error.to_string();
                let known = self.errors.contains_key(&text);
                let room = known || self.errors.len() < MOST_ERRORS;
                add(&mut self.errors, if room { &text } else { "other" });
            }
        }
    }
}

fn add(counts: &mut BTreeMap<String, u64>, key: &str) {
    match counts.get_mut(key) {
        Some(count) => *count += 1,
        None => {
            counts.insert(key.to_owned(), 1);
        }
    }
}
