//! Faults that a rule injects: a delay, an answer instead of the backend's, each
//! for a share of the requests.

use super::grpc;
use http::StatusCode;
use std::time::Duration;

/// A share of requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    /// Of a million.
    pub per_million: u32,
}

/// Faults to inject.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// Wait first.
    pub delay: Option<Delay>,
    /// Then answer this.
    pub abort: Option<Abort>,
}

/// A delay for a share of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// Which share.
    pub share: Share,
    /// How long.
    pub duration: Duration,
}

/// An answer for a share of the requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Which share.
    pub share: Share,
    /// The answer.
    pub status: AbortStatus,
}

/// The answer of an injected fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AbortStatus {
    /// An HTTP status; a gRPC caller sees the gRPC status it maps to.
    Http(StatusCode),
    /// A gRPC status; other callers see the HTTP status it maps to.
    Grpc(u16),
}

impl AbortStatus {
    /// What a caller that does not speak gRPC sees.
    pub fn http(self) -> StatusCode {
        match self {
            Self::Http(status) => status,
            Self::Grpc(code) => grpc::to_http(code),
        }
    }

    /// What a gRPC caller sees.
    pub fn grpc(self) -> u16 {
        match self {
            Self::Http(status) => grpc::from_http(status),
            Self::Grpc(code) => code,
        }
    }
}

impl Share {
    /// All requests.
    pub const ALL: Self = Self {
        per_million: 1_000_000,
    };

    /// The share of so many percent; more than a hundred are a hundred.
    pub fn percent(percent: f64) -> Self {
        Self {
            per_million: (percent.clamp(0.0, 100.0) * 10_000.0).round() as u32,
        }
    }

    /// Whether a request with this number (any, evenly spread) belongs to it.
    pub fn holds(self, random: u64) -> bool {
        ((u128::from(random) * 1_000_000) >> 64) < u128::from(self.per_million)
    }
}

impl Fault {
    /// How long a request waits.
    pub fn delay(&self, random: u64) -> Option<Duration> {
        let delay = self.delay.filter(|delay| delay.share.holds(random))?;
        Some(delay.duration)
    }

    /// What a request is answered with.
    pub fn abort(&self, random: u64) -> Option<AbortStatus> {
        let abort = self.abort.filter(|abort| abort.share.holds(random))?;
        Some(abort.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_and_everything() {
        for random in [0, 1, u64::MAX / 2, u64::MAX] {
            assert!(!Share::default().holds(random));
            assert!(Share::percent(100.0).holds(random));
            assert!(Share::percent(1e9).holds(random));
            assert!(!Share::percent(-1.0).holds(random));
        }
    }

    #[test]
    fn delay_and_abort_are_drawn_apart() {
        let fault = Fault {
            delay: Some(Delay {
                share: Share::percent(50.0),
                duration: Duration::from_secs(1),
            }),
            abort: Some(Abort {
                share: Share::percent(0.5),
                status: AbortStatus::Grpc(14),
            }),
        };
        assert_eq!(fault.delay(0), Some(Duration::from_secs(1)));
        assert_eq!(fault.delay(u64::MAX), None);
        assert_eq!(fault.abort(u64::MAX / 256), Some(AbortStatus::Grpc(14)));
        assert_eq!(fault.abort(u64::MAX / 128), None);
    }

    proptest! {
        #[test]
        fn a_share_is_that_share_of_an_even_spread(tenths in 0u32..=1000) {
            let share = Share::percent(f64::from(tenths) / 10.0);
            let hits = (0..1000u64)
                .filter(|part| share.holds((((u128::from(*part) * 2 + 1) << 64) / 2000) as u64))
                .count();
            prop_assert_eq!(hits, tenths as usize);
        }
    }
}
