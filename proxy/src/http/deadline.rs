//! Deadlines that callers carry: `grpc-timeout`, and Envoy's
//! `x-envoy-expected-rq-timeout-ms`. A route's timeout may be shorter, never
//! longer; what is left goes on to the next hop.

use super::{body::Body, exchange::Exchange, progress::Clock};
use crate::{clock, error::Error};
use http::{HeaderMap, HeaderName, HeaderValue, Response};
use std::{
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep};

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
static EXPECTED: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// Longest value that is one: eight digits of hours or of milliseconds.
const MOST_DIGITS: usize = 8;

/// How long the caller waits, if it says so.
pub(crate) fn asked(headers: &HeaderMap, grpc: bool) -> Option<Duration> {
    let text = |name: &HeaderName| headers.get(name)?.to_str().ok();
    if grpc && let Some(limit) = text(&GRPC_TIMEOUT).and_then(grpc_timeout) {
        return Some(limit);
    }
    // What can't be read is no deadline, as for Envoy.
    let millis = text(&EXPECTED).and_then(number)?;
    (millis > 0).then(|| Duration::from_millis(millis))
}

fn number(digits: &str) -> Option<u64> {
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.parse().ok()?;
    (plain && digits.len() <= MOST_DIGITS).then_some(number)
}

/// gRPC over HTTP/2, "Timeout".
fn grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number = number(digits)?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

/// What an endpoint is given beyond what this hop waits: the time is over here first, and the
/// endpoint is not to blame for saying so, too.
pub(crate) const GRACE: Duration = Duration::from_millis(10);

/// Tells the next hop what is left of the exchange's time, if that has an end, and `grace`
/// beyond it.
pub(crate) fn carry(headers: &mut HeaderMap, exchange: &Exchange, grace: Duration) {
    let Some(end) = exchange.end() else {
        return;
    };
    let left = end.saturating_duration_since(Instant::now()) + grace;
    // Less than one would be none at all.
    let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1);
    if exchange.is_grpc() {
        let text = if millis < 10u64.pow(MOST_DIGITS as u32) {
            format!("{millis}m")
        } else {
            format!("{}S", (millis / 1000).min(99_999_999))
        };
        headers.insert(&GRPC_TIMEOUT, ascii(&text));
    }
    if !exchange.is_grpc() || headers.contains_key(&EXPECTED) {
        headers.insert(&EXPECTED, HeaderValue::from(millis));
    }
}

fn ascii(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("digits and a letter are a header's value")
}

/// When a time limit has passed, which may start late.
pub(crate) struct End {
    timer: Pin<Box<Sleep>>,
    /// Whose request has to be sent before the limit counts, and how long it is then.
    after: Option<(Rc<Exchange>, Duration)>,
    /// The next hop hears of it, once it counts.
    carried: bool,
}

impl End {
    /// Returns the end of so long, from now on or from the request's end on, as the exchange
    /// says.
    pub(crate) fn of(limit: Duration, exchange: &Rc<Exchange>) -> Self {
        let awaited = exchange.progress.is_awaited();
        Self {
            after: awaited.then(|| (exchange.clone(), limit)),
            ..Self::from_now(limit)
        }
    }

    /// Returns the end of so long, from now on.
    pub(crate) fn from_now(limit: Duration) -> Self {
        Self {
            timer: Box::pin(clock::sleep_until(clock::now() + limit)),
            after: None,
            carried: false,
        }
    }

    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some((exchange, limit)) = &self.after {
            match exchange.progress.clock(context) {
                Clock::Runs => {}
                Clock::Stands => return Poll::Pending,
                Clock::Starts => {
                    if self.carried {
                        exchange.ends_in(*limit);
                    }
                    self.timer.as_mut().reset(clock::now() + *limit);
                    self.after = None;
                }
            }
        }
        self.timer.as_mut().poll(context)
    }
}

/// Gives an exchange so long, until the last of its response.
pub(crate) async fn within(
    limit: Duration,
    exchange: &Rc<Exchange>,
    passed: impl FnOnce() -> Error,
    sending: impl Future<Output = Result<Response<Body>, Error>>,
) -> Result<Response<Body>, Error> {
    let mut end = End::of(limit, exchange);
    end.carried = true;
    if end.after.is_none() {
        exchange.ends_in(limit);
    }
    until(end, passed, sending).await
}

async fn until(
    end: End,
    passed: impl FnOnce() -> Error,
    sending: impl Future<Output = Result<Response<Body>, Error>>,
) -> Result<Response<Body>, Error> {
    let mut end = Box::new(end);
    tokio::select! {
        biased;
        response = sending => Ok(response?.map(|body| body.until(end))),
        () = poll_fn(|context| end.poll(context)) => Err(passed()),
    }
}

/// The same for what the caller asks, which counts from the request's arrival on.
pub(crate) async fn as_asked(
    limit: Duration,
    exchange: &Exchange,
    sending: impl Future<Output = Result<Response<Body>, Error>>,
) -> Result<Response<Body>, Error> {
    exchange.ends_in(limit);
    until(End::from_now(limit), || Error::Deadline { limit }, sending).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::exchange::speaks_grpc;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |&(name, value)| {
            let name = HeaderName::from_static(name);
            (name, HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn what_callers_write_is_read() {
        let grpc = |text| asked(&headers(&[("grpc-timeout", text)]), true);
        for (text, micros) in [
            ("1H", 3_600_000_000),
            ("2M", 120_000_000),
            ("3S", 3_000_000),
            ("250m", 250_000),
            ("7u", 7),
            ("5000n", 5),
            ("0S", 0),
        ] {
            assert_eq!(grpc(text), Some(Duration::from_micros(micros)), "{text}");
        }
        for text in ["", "S", "1", "1x", "+1S", "123456789S", "1.5S"] {
            assert_eq!(grpc(text), None, "{text:?}");
        }
        let envoy = |text| asked(&headers(&[("x-envoy-expected-rq-timeout-ms", text)]), false);
        assert_eq!(envoy("15"), Some(Duration::from_millis(15)));
        assert_eq!(envoy("0"), None);
        assert_eq!(envoy("-1"), None);
        let only_grpc = headers(&[("grpc-timeout", "1S")]);
        assert_eq!(asked(&only_grpc, false), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_goes_on() {
        let grpc = headers(&[("content-type", "application/grpc"), ("grpc-timeout", "1S")]);
        for (mut head, name, left) in [
            (grpc, "grpc-timeout", "600m"),
            (headers(&[]), "x-envoy-expected-rq-timeout-ms", "600"),
        ] {
            let exchange = Exchange::new(speaks_grpc(&head));
            exchange.ends_in(Duration::from_secs(2));
            exchange.ends_in(Duration::from_secs(1));
            exchange.ends_in(Duration::from_secs(9));
            tokio::time::advance(Duration::from_millis(400)).await;
            carry(&mut head, &exchange, Duration::ZERO);
            assert_eq!(head[name], left);
            tokio::time::advance(Duration::from_secs(4)).await;
            carry(&mut head, &exchange, Duration::ZERO);
            assert!(head[name].as_bytes().starts_with(b"1"), "{:?}", head[name]);
        }
    }
}
