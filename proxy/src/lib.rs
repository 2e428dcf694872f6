//! The data plane: a sidecar that encrypts, routes, balances and measures what
//! its workload sends and receives.
//!
//! Data threads run one single-threaded runtime each and share nothing a
//! request has to lock; one control thread keeps discovery, certificates and
//! the admin endpoints.

pub mod access_log;
pub mod admin;
mod availability;
mod balance;
mod budget;
mod cap;
mod clock;
pub mod config;
mod connect;
mod data;
mod detect;
mod directory;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod http;
mod inbound;
mod io;
mod listen;
mod mux;
mod origination;
mod outbound;
mod pool;
pub mod probe;
pub mod server;
mod sniff;
mod stream;
pub mod telemetry;
mod thread;
mod tls;
pub mod wait;
pub mod why;
