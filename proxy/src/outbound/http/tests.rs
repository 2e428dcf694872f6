//! Requests through the outbound stack to servers on loopback.

mod rules;
mod support;
