//! What an admission webhook needs besides its own opinion: the AdmissionReview
//! envelope ([`review`]), an HTTP server that nobody can fill up ([`server`]), and
//! the upkeep of its certificate and of its configuration's `caBundle`
//! ([`keeper`]).
//!
//! The injector's and the controller's webhooks both stand on it; proxies have
//! nothing of it.

pub mod ca_bundle;
mod gate;
pub mod keeper;
pub mod review;
pub mod server;
pub mod serving_certificate;

pub use keeper::{Keeper, Names};
