//! Tells proxies what they asked for, and what has changed of it since.
//!
//! One task, the hub, owns the index and what each proxy has; a stream is a
//! queue of one message. While that message waits for a slow proxy, changes
//! only mark what the proxy has to hear; the next message carries the newest
//! state of it. So a slow proxy holds up nobody and costs no memory, and a
//! burst coalesces without a timer.

mod convergence;
mod encoding;
mod handle;
mod hub;
mod proxy_status;
mod quota;
mod server;
mod stream;
mod views;
mod wire;

pub use convergence::LastChange;
pub use handle::{Handle, Stopped};
pub use hub::spawn;
pub use proxy_status::ProxyStatus;
pub use server::{Admission, Server};

#[cfg(test)]
mod tests;
