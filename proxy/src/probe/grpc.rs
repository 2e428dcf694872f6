//! gRPC probes: `grpc.health.v1.Health/Check` over plaintext HTTP/2, which is
//! all that the kubelet's own speak.

use super::{AGENT, Failure};
use ::http::{HeaderMap, Request, StatusCode, header};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::net::SocketAddr;
use tokio::{net::TcpStream, task::JoinSet};

const METHOD: &str = "/grpc.health.v1.Health/Check";
/// More than any answer to a health check.
const ANSWER_LIMIT: usize = 64 * 1024;
/// Compression flag and length before each message.
const PREFIX: usize = 5;

#[derive(Clone, PartialEq, Message)]
pub(super) struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    pub(super) service: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct HealthCheckResponse {
    #[prost(enumeration = "ServingStatus", tag = "1")]
    pub(super) status: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum ServingStatus {
    Unknown = 0,
    Serving = 1,
    NotServing = 2,
    ServiceUnknown = 3,
}

/// Asks for a service's health; the empty name is the server's own.
pub(super) async fn check(
    stream: TcpStream,
    address: SocketAddr,
    service: &str,
) -> Result<StatusCode, Failure> {
    let failed = |source| Failure::Http { address, source };
    let refused = |reason| Failure::Grpc { address, reason };
    let (mut sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(failed)?;
    let mut connection = JoinSet::new();
    connection.spawn(driver);
    let response = sender
        .send_request(request(address, service)?)
        .await
        .map_err(failed)?;
    if response.status() != StatusCode::OK {
        return Err(refused(format!("HTTP status {}", response.status())));
    }
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_LIMIT)
        .collect()
        .await
        .map_err(|error| refused(error.to_string()))?;
    // An answer without a message has its status among the headers.
    let trailers = body.trailers().cloned().unwrap_or(head.headers);
    grpc_status(&trailers).map_err(refused)?;
    match serving_status(&body.to_bytes()).map_err(refused)? {
        ServingStatus::Serving => Ok(StatusCode::OK),
        other => Err(refused(format!("{other:?}"))),
    }
}

fn request(address: SocketAddr, service: &str) -> Result<Request<Full<Bytes>>, ::http::Error> {
    let message = HealthCheckRequest {
        service: service.to_owned(),
    };
    Request::post(format!("http://{address}{METHOD}"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header(header::USER_AGENT, AGENT)
        .body(Full::new(frame(&message)))
}

/// A message with its prefix.
pub(super) fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX + length);
    out.put_u8(0);
    // A service's name is far shorter than 4 GiB.
    out.put_u32(length as u32);
    out.put_slice(&message.encode_to_vec());
    out.freeze()
}

fn grpc_status(trailers: &HeaderMap) -> Result<(), String> {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        Some("0") => Ok(()),
        Some(code) => {
            let message = text("grpc-message").unwrap_or_default();
            Err(format!("gRPC status {code} {message}")
                .trim_end()
                .to_owned())
        }
        None => Err("the answer has no gRPC status".to_owned()),
    }
}

fn serving_status(body: &[u8]) -> Result<ServingStatus, String> {
    let message = match body {
        [0, a, b, c, d, message @ ..]
            if u32::from_be_bytes([*a, *b, *c, *d]) as usize == message.len() =>
        {
            message
        }
        _ => return Err("the answer is not one uncompressed message".to_owned()),
    };
    HealthCheckResponse::decode(message)
        .map(|response| response.status())
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::HeaderValue;

    #[test]
    fn answers_are_read_with_care() {
        let serving = HealthCheckResponse { status: 1 };
        assert_eq!(serving_status(&frame(&serving)), Ok(ServingStatus::Serving));
        for bad in [
            &b""[..],
            b"\0\0\0\0",
            b"\0\0\0\0\x05\x08\x01",
            b"\x01\0\0\0\x02\x08\x01",
            b"\0\0\0\0\x02\x0a\xff",
        ] {
            assert!(serving_status(bad).is_err(), "{bad:?}");
        }
        // An enumeration value of a later version is not serving.
        let later = HealthCheckResponse { status: 9 };
        assert_eq!(serving_status(&frame(&later)), Ok(ServingStatus::Unknown));
    }

    #[test]
    fn status_is_read_from_trailers() {
        let mut trailers = HeaderMap::new();
        assert!(grpc_status(&trailers).is_err());
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        assert_eq!(grpc_status(&trailers), Ok(()));
        trailers.insert("grpc-status", HeaderValue::from_static("12"));
        assert_eq!(grpc_status(&trailers), Err("gRPC status 12".to_owned()));
    }
}
