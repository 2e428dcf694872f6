//! Requests through the outbound stack to servers on loopback.

mod retries;
mod rules;
mod support;
