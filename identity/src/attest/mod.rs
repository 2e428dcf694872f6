//! Attestation: who holds this token?
//!
//! In a cluster the Kubernetes API answers ([`TokenReviews`]); standalone, a key
//! that this process holds ([`SignedTokens`]). Nothing is cached: a token stops
//! counting the moment its pod is gone.

mod signed;
mod token_review;

use futures_util::future::BoxFuture;

pub use signed::{SignedTokens, TokenKeyError};
pub use token_review::TokenReviews;

/// The service account that a token speaks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub service_account: String,
    /// The pod that the token is bound to.
    pub pod: Option<String>,
    /// That pod's UID.
    pub pod_uid: Option<String>,
}

/// Why a token does not say who its holder is. The texts name no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestError {
    /// Not a valid token.
    #[error("the token is not valid: {0}")]
    BadToken(String),
    /// Past its time.
    #[error("the token has expired")]
    Expired,
    /// A token for somebody else's use.
    #[error("the token is not for the audience {0:?}")]
    WrongAudience(&'static str),
    /// A token of somebody who is not a workload.
    #[error("{0:?} is not a service account")]
    NotServiceAccount(String),
    /// A token that outlives every pod.
    #[error(
        "the token of {0} is bound to no pod; the sidecar's is, by the projected volume that the injector adds"
    )]
    NotBound(String),
    /// Nobody could say; a later try may succeed.
    #[error("tokens cannot be checked now: {0}")]
    Unavailable(String),
}

/// Says who holds a token.
pub trait Attest: Send + Sync {
    /// Who holds this token.
    fn attest<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Caller, AttestError>>;
}
