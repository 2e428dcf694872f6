//! The injector: puts a sidecar into the pods that ask for one.
//!
//! The core is pure: [`decision`] says whether, [`settings`] and [`probe`] read
//! the pod, [`sidecar`] makes the containers, [`inject`] writes pod and patch
//! ([`inject_document`] does it for a manifest). Around it stand the
//! answer as an AdmissionReview ([`review`]) and the HTTP server ([`webhook`]);
//! envelope, certificate and `caBundle` are the `admission` crate's.

pub mod config;
pub mod decision;
pub mod document;
pub mod inject;
pub mod injection;
pub mod namespaces;
pub mod patch;
pub mod ports;
pub mod probe;
pub mod quantity;
pub mod resident;
pub mod review;
pub mod server;
pub mod settings;
pub mod sidecar;
pub mod trespass;
pub mod view;
pub mod webhook;

pub use config::Config;
pub use decision::{Namespace, SkipReason};
pub use document::inject_document;
pub use injection::InjectionConfig;
pub use server::Injector;
