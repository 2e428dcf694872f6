//! Whose fault it is that a body did not come to its end.
//!
//! The body of a request is read while it is sent on, so its sender's faults show where the
//! upstream is called. Each fault is noted where it arises, and the upstream is not blamed
//! for it: it is no failure of an endpoint, and nothing is sent again.

use super::{body::BodyError, one};
use crate::telemetry::Flags;
use std::error::Error as _;

/// Why a body ended early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Its sender went away, or gave up.
    Gone,
    /// Its sender broke the protocol.
    Malformed(String),
    /// The sidecar itself ended it, and has noted why.
    Own,
}

impl Fault {
    /// Returns the fault that an error of a body tells of.
    pub(crate) fn of(error: &BodyError) -> Self {
        match error {
            BodyError::Http1(error) if error.is_malformed() => Self::Malformed(error.to_string()),
            BodyError::Http1(one::Error::Io(_) | one::Error::Incomplete) | BodyError::CutShort => {
                Self::Gone
            }
            // The library finds what breaks the protocol, and resets the stream for it.
            BodyError::Hyper(error) => {
                match error.source().and_then(|cause| cause.downcast_ref()) {
                    Some(cause) if h2::Error::is_library(cause) => {
                        Self::Malformed(cause.to_string())
                    }
                    _ => Self::Gone,
                }
            }
            BodyError::Http1(_)
            | BodyError::Withdrawn
            | BodyError::TimedOut
            | BodyError::BrokenOff => Self::Own,
        }
    }

    /// Returns the flags of an exchange whose request ended so.
    pub(crate) const fn of_client(&self) -> Flags {
        match self {
            Self::Gone => Flags::DC,
            Self::Malformed(_) => Flags::DPE,
            Self::Own => Flags::NONE,
        }
    }

    /// Returns the flags of an exchange whose answer ended so.
    pub(crate) const fn of_upstream(&self) -> Flags {
        match self {
            Self::Gone => Flags::UC,
            Self::Malformed(_) => Flags::UPE,
            Self::Own => Flags::NONE,
        }
    }
}
