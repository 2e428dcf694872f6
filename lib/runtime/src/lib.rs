//! What every service of the mesh needs around its own work: logs, signals,
//! readiness, drain, health and metrics, serving HTTP.
//!
//! All of the services may run in one process (`linnet demo`), so whatever a
//! process has once, the metrics recorder and the log subscriber, is installed
//! once and shared, and nothing relies on a process-wide TLS provider.

pub mod drain;
pub mod files;
pub mod health;
pub mod logging;
pub mod places;
pub mod process;
pub mod readiness;
pub mod serve;
pub mod settings;
pub mod signal;
#[cfg(feature = "testing")]
pub mod testing;
pub mod tls;
