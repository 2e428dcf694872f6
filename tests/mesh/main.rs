//! A mesh in one process, over loopback: no root, no cluster.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test a failure is a panic with a line number"
)]

mod authorization;
mod jwt;
mod protocols;
mod refused;
mod rotation;
mod sharing;
mod start;
mod strict;
mod support;
mod unavailable;
mod virtual_service;
mod why;
