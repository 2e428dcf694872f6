//! What is fuzzed: one function a target, which panics where a promise is broken.
//!
//! `tests/smoke.rs` runs each on its corpus and on some thousand variations of it,
//! always the same ones, as part of `just test`; `just fuzz TARGET` runs one under
//! libFuzzer for as long as is asked.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a promise that is broken is a panic, which the fuzzer reports"
)]

mod admission_review;
mod authorization;
mod certificate_request;
mod discovery;
mod http1;
mod spiffe_id;
mod tls;

pub use admission_review::admission_review;
pub use authorization::authorization;
pub use certificate_request::certificate_request;
pub use discovery::discovery;
pub use http1::http1;
pub use linnet_proxy::fuzz::{detection, hello, shared};
pub use spiffe_id::spiffe_id;
pub use tls::tls;
