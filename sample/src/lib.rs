//! A sample application for trying a mesh: a server that answers over every
//! protocol a mesh has to carry and says who answered, and a load generator
//! that counts answers, failures and versions.
//!
//! The demo, the end-to-end tests and the guides all run this one program, so
//! what they show is the same: a chain such as frontend → checkout → payment
//! is three of these servers, each calling the next for every request.

pub mod args;
pub mod client;
pub mod duration;
pub mod load;
pub mod server;

pub use server::{Addresses, Config, ServeError, Server, Upstream};

/// The echo service's generated types.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod echo {
    tonic::include_proto!("linnet.sample.v1");
}

/// gRPC's standard health service, generated.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod health {
    tonic::include_proto!("grpc.health.v1");
}

/// The answer's header that lists who served it, the first hop first:
/// `frontend/v1, checkout/v1, payment/v2`.
pub const CHAIN_HEADER: http::HeaderName = http::HeaderName::from_static("x-sample-chain");
/// The answer's header with the answering server's version.
pub const VERSION_HEADER: http::HeaderName = http::HeaderName::from_static("x-sample-version");
/// What the server-speaks-first port says to a new connection.
pub const BANNER: &str = "220 sample ready\r\n";
