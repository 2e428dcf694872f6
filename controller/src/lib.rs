//! The controller: turns users' resources into what proxies act on.
//!
//! ```text
//! source (Kubernetes or a directory) → compile (one file per kind) → index
//!     → discovery (a stream a proxy) → acknowledgements
//! ```
//!
//! [`config::Config::build`] starts all of it and returns the bound addresses,
//! so that the whole mesh also runs in one process.

pub mod admission;
pub mod analysis;
pub mod compile;
pub mod config;
pub mod desired_status;
pub mod discovery;
pub mod index;
pub mod keys;
pub mod manifest;
pub mod object;
pub mod resource;
pub mod running;
pub mod source;
pub mod status;
pub mod trust_bundle;

pub use config::Config;
pub use running::{Deps, Running, Source};
