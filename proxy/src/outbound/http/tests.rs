//! Requests through the outbound stack to servers on loopback.

mod cors;
mod retries;
mod rules;
mod support;
