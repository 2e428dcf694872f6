//! Why an upstream's connection ended before the answer: by the upstream's own fault, or since
//! the request's body broke off, for which no endpoint is blamed.

use crate::{error::Error, http::one};
use std::{error::Error as _, net::SocketAddr};

/// Returns the error of a request over HTTP/1.1.
pub(super) fn over_http1(address: SocketAddr, error: &one::Error) -> Error {
    let reason = error.to_string();
    match error {
        one::Error::Body(_) => Error::BadRequest(reason),
        error if error.is_malformed() => Error::Malformed { address, reason },
        _ => Error::Upstream {
            address,
            reason,
            refused: false,
        },
    }
}

/// Returns the error of a request over HTTP/2.
pub(super) fn over_http2(address: SocketAddr, error: &hyper::Error) -> Error {
    let cause = error.source();
    let text = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
    let reason = format!("{error}{text}");
    let http2 = cause.and_then(|cause| cause.downcast_ref::<h2::Error>());
    match http2 {
        Some(http2) if http2.is_library() => Error::Malformed { address, reason },
        // The sidecar itself reset the stream, whose body broke off.
        Some(http2) if http2.is_reset() && !http2.is_remote() => Error::BadRequest(reason),
        _ => Error::Upstream {
            address,
            reason,
            refused: http2.and_then(h2::Error::reason) == Some(h2::Reason::REFUSED_STREAM),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::Flags;
    use std::io;

    #[test]
    fn an_endpoint_answers_for_what_it_sent_and_not_for_what_it_was_sent() {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        for (error, flag, failed) in [
            (one::Error::Body("broke off".into()), Flags::DPE, false),
            (one::Error::Malformed("its status"), Flags::UPE, true),
            (one::Error::TooLarge, Flags::UPE, true),
            (one::Error::Unexpected, Flags::UPE, true),
            (one::Error::Incomplete, Flags::UC, true),
            (
                io::Error::from(io::ErrorKind::BrokenPipe).into(),
                Flags::UC,
                true,
            ),
        ] {
            let told = over_http1(address, &error);
            assert_eq!(
                (told.flags(), told.is_endpoint_s()),
                (flag, failed),
                "{error}"
            );
        }
    }
}
