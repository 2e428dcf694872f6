//! What an attacker would try, each a test that fails where the hole is there:
//! over loopback, against sidecars, controller and identity as they are run.
//! README.md is the table of them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test a failure is a panic with a line number"
)]

mod app;
mod certificate;
mod doors;
mod frame;
mod headers;
mod http1;
mod http2;
mod listeners;
mod paths;
mod shared;
mod slow;
#[allow(dead_code, reason = "shared with the target `mesh`")]
#[path = "../mesh/support.rs"]
mod support;
mod table;
mod targets;
mod tokens;
mod wire;
