//! When a request is sent again, in Envoy's vocabulary, and how long that waits.

use http::StatusCode;
use std::time::Duration;

/// When and how often a request is sent again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Times at most, besides the first.
    pub attempts: u32,
    /// After what.
    pub on: RetryOn,
    /// Statuses to retry on.
    pub statuses: Vec<u16>,
    /// How long one attempt may take to the response's head.
    pub per_try_timeout: Option<Duration>,
    /// The base of the wait between attempts.
    pub back_off: Duration,
    /// Another endpoint each time, while there are others.
    pub avoid_tried: bool,
}

/// A set of conditions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryOn(pub u32);

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A response's head.
    Response {
        /// Its status.
        status: StatusCode,
        /// Its gRPC status, where the head has one already.
        grpc: Option<u16>,
    },
    /// No connection: nothing was sent.
    ConnectFailure,
    /// The upstream says that it did not look at the request.
    Refused,
    /// The connection or stream broke.
    Reset,
    /// No head within the attempt's time.
    TimedOut,
}

const NAMES: [(&str, RetryOn); 12] = [
    ("5xx", RetryOn::SERVER_ERROR),
    ("gateway-error", RetryOn::GATEWAY_ERROR),
    ("reset", RetryOn::RESET),
    ("reset-before-request", RetryOn::RESET_BEFORE_REQUEST),
    ("connect-failure", RetryOn::CONNECT_FAILURE),
    ("refused-stream", RetryOn::REFUSED_STREAM),
    ("retriable-4xx", RetryOn::RETRIABLE_4XX),
    ("cancelled", RetryOn::CANCELLED),
    ("deadline-exceeded", RetryOn::DEADLINE_EXCEEDED),
    ("internal", RetryOn::INTERNAL),
    ("resource-exhausted", RetryOn::RESOURCE_EXHAUSTED),
    ("unavailable", RetryOn::UNAVAILABLE),
];

impl RetryOn {
    /// Any 5xx, or no response at all.
    pub const SERVER_ERROR: Self = Self(1);
    /// 502, 503, 504, or no response at all.
    pub const GATEWAY_ERROR: Self = Self(1 << 1);
    /// No response at all.
    pub const RESET: Self = Self(1 << 2);
    /// No response, and nothing of the request was looked at.
    pub const RESET_BEFORE_REQUEST: Self = Self(1 << 3);
    /// No connection.
    pub const CONNECT_FAILURE: Self = Self(1 << 4);
    /// HTTP/2's REFUSED_STREAM.
    pub const REFUSED_STREAM: Self = Self(1 << 5);
    /// 409.
    pub const RETRIABLE_4XX: Self = Self(1 << 6);
    /// gRPC's CANCELLED.
    pub const CANCELLED: Self = Self(1 << 7);
    /// gRPC's DEADLINE_EXCEEDED.
    pub const DEADLINE_EXCEEDED: Self = Self(1 << 8);
    /// gRPC's INTERNAL.
    pub const INTERNAL: Self = Self(1 << 9);
    /// gRPC's RESOURCE_EXHAUSTED.
    pub const RESOURCE_EXHAUSTED: Self = Self(1 << 10);
    /// gRPC's UNAVAILABLE.
    pub const UNAVAILABLE: Self = Self(1 << 11);

    /// The condition of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        let found = NAMES.iter().find(|(known, _)| *known == name)?;
        Some(found.1)
    }

    /// Both sets.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The names of its conditions.
    pub fn names(self) -> Vec<&'static str> {
        let held = NAMES.iter().filter(|(_, condition)| self.any(*condition));
        held.map(|(name, _)| *name).collect()
    }

    const fn any(self, of: Self) -> bool {
        self.0 & of.0 != 0
    }
}

impl RetryPolicy {
    /// The base of the wait between attempts.
    pub const BACK_OFF: Duration = Duration::from_millis(25);
    /// The wait grows to so many times its base.
    const MOST: u32 = 10;

    /// Istio's, where nothing else is said.
    pub const DEFAULT: Self = Self {
        attempts: 2,
        on: RetryOn::CONNECT_FAILURE
            .and(RetryOn::REFUSED_STREAM)
            .and(RetryOn::UNAVAILABLE)
            .and(RetryOn::CANCELLED),
        statuses: Vec::new(),
        per_try_timeout: None,
        back_off: Self::BACK_OFF,
        avoid_tried: true,
    };

    /// Whether another attempt may follow such an end.
    pub fn retries(&self, outcome: &Outcome) -> bool {
        let no_response = RetryOn::SERVER_ERROR
            .and(RetryOn::GATEWAY_ERROR)
            .and(RetryOn::RESET);
        let conditions = match outcome {
            Outcome::Response { status, grpc } => {
                let code = status.as_u16();
                if self.statuses.contains(&code) {
                    return true;
                }
                let by_status = match code {
                    409 => RetryOn::RETRIABLE_4XX,
                    502..=504 => RetryOn::SERVER_ERROR.and(RetryOn::GATEWAY_ERROR),
                    500..=599 => RetryOn::SERVER_ERROR,
                    _ => RetryOn::default(),
                };
                by_status.and(match *grpc {
                    Some(super::grpc::CANCELLED) => RetryOn::CANCELLED,
                    Some(super::grpc::DEADLINE_EXCEEDED) => RetryOn::DEADLINE_EXCEEDED,
                    Some(super::grpc::INTERNAL) => RetryOn::INTERNAL,
                    Some(super::grpc::RESOURCE_EXHAUSTED) => RetryOn::RESOURCE_EXHAUSTED,
                    Some(super::grpc::UNAVAILABLE) => RetryOn::UNAVAILABLE,
                    _ => RetryOn::default(),
                })
            }
            Outcome::ConnectFailure => no_response
                .and(RetryOn::CONNECT_FAILURE)
                .and(RetryOn::RESET_BEFORE_REQUEST),
            Outcome::Refused => no_response
                .and(RetryOn::REFUSED_STREAM)
                .and(RetryOn::RESET_BEFORE_REQUEST),
            Outcome::Reset | Outcome::TimedOut => no_response,
        };
        self.on.any(conditions)
    }

    /// How long the `retry`th (from 1) waits: evenly spread over a span that
    /// grows from the base to ten times as much.
    pub fn wait(&self, retry: u32, random: u64) -> Duration {
        let steps = 2u32.saturating_pow(retry.min(8)).saturating_sub(1);
        let span = self.back_off * steps.min(Self::MOST);
        let micros = (span.as_micros() * u128::from(random)) >> 64;
        Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(names: &[&str]) -> RetryPolicy {
        let on = names.iter().fold(RetryOn::default(), |on, name| {
            on.and(RetryOn::from_name(name).unwrap())
        });
        RetryPolicy {
            on,
            ..RetryPolicy::DEFAULT
        }
    }

    fn status(code: u16) -> Outcome {
        Outcome::Response {
            status: StatusCode::from_u16(code).unwrap(),
            grpc: None,
        }
    }

    fn grpc(code: u16) -> Outcome {
        Outcome::Response {
            status: StatusCode::OK,
            grpc: Some(code),
        }
    }

    #[test]
    fn the_default_leaves_a_plain_503_and_what_may_have_been_done() {
        let policy = RetryPolicy::DEFAULT;
        for outcome in [Outcome::ConnectFailure, Outcome::Refused, grpc(14), grpc(1)] {
            assert!(policy.retries(&outcome), "{outcome:?}");
        }
        for outcome in [
            status(503),
            status(500),
            Outcome::Reset,
            Outcome::TimedOut,
            grpc(0),
            grpc(4),
            grpc(13),
        ] {
            assert!(!policy.retries(&outcome), "{outcome:?}");
        }
    }

    #[test]
    fn each_condition_is_its_own() {
        let all = [
            status(200),
            status(409),
            status(500),
            status(503),
            Outcome::ConnectFailure,
            Outcome::Refused,
            Outcome::Reset,
            Outcome::TimedOut,
            grpc(1),
            grpc(4),
            grpc(8),
            grpc(13),
            grpc(14),
        ];
        for (name, expected) in [
            ("5xx", &all[2..8]),
            ("gateway-error", &all[3..8]),
            ("reset", &all[4..8]),
            ("reset-before-request", &all[4..6]),
            ("connect-failure", &all[4..5]),
            ("refused-stream", &all[5..6]),
            ("retriable-4xx", &all[1..2]),
            ("cancelled", &all[8..9]),
            ("deadline-exceeded", &all[9..10]),
            ("resource-exhausted", &all[10..11]),
            ("internal", &all[11..12]),
            ("unavailable", &all[12..13]),
        ] {
            let policy = on(&[name]);
            let retried: Vec<_> = all.iter().copied().filter(|o| policy.retries(o)).collect();
            assert_eq!(retried, expected, "{name}");
            assert_eq!(policy.on.names(), [name]);
        }
        assert_eq!(RetryOn::from_name("6xx"), None);
    }

    #[test]
    fn numbers_are_statuses() {
        let policy = RetryPolicy {
            statuses: vec![418],
            ..on(&[])
        };
        assert!(policy.retries(&status(418)));
        assert!(!policy.retries(&status(503)));
    }

    #[test]
    fn waits_grow_to_ten_times_the_base() {
        let longest = |retry| RetryPolicy::DEFAULT.wait(retry, u64::MAX).as_micros();
        assert_eq!(RetryPolicy::DEFAULT.wait(1, 0), Duration::ZERO);
        assert_eq!(longest(1), 24_999);
        assert_eq!(longest(2), 74_999);
        assert_eq!(longest(3), 174_999);
        assert_eq!(longest(4), 249_999);
        assert_eq!(longest(u32::MAX), 249_999);
    }
}
