//! Requests through the outbound stack to servers on loopback.

mod balancing;
mod cors;
mod resilience;
mod retries;
mod rules;
mod support;
