//! gRPC's statuses, and what they are as HTTP's.

use http::StatusCode;

/// The caller gave up.
pub const CANCELLED: u16 = 1;
/// Too late.
pub const DEADLINE_EXCEEDED: u16 = 4;
/// The caller may not.
pub const PERMISSION_DENIED: u16 = 7;
/// A limit was reached.
pub const RESOURCE_EXHAUSTED: u16 = 8;
/// There is no such method.
pub const UNIMPLEMENTED: u16 = 12;
/// Something broke.
pub const INTERNAL: u16 = 13;
/// Nobody is there to answer.
pub const UNAVAILABLE: u16 = 14;

/// Nobody knows who the caller is.
pub const UNAUTHENTICATED: u16 = 16;

/// The gRPC status that stands for an HTTP one (gRPC's own table).
pub fn from_http(status: StatusCode) -> u16 {
    match status.as_u16() {
        400 => INTERNAL,
        401 => UNAUTHENTICATED,
        403 => 7,
        404 => UNIMPLEMENTED,
        429 | 502..=504 => UNAVAILABLE,
        _ => 2,
    }
}

/// The HTTP status that stands for a gRPC one, as Google's APIs map them.
pub fn to_http(code: u16) -> StatusCode {
    match code {
        0 => StatusCode::OK,
        CANCELLED => StatusCode::from_u16(499).unwrap_or(StatusCode::REQUEST_TIMEOUT),
        3 | 9 | 11 => StatusCode::BAD_REQUEST,
        DEADLINE_EXCEEDED => StatusCode::GATEWAY_TIMEOUT,
        5 => StatusCode::NOT_FOUND,
        6 | 10 => StatusCode::CONFLICT,
        7 => StatusCode::FORBIDDEN,
        RESOURCE_EXHAUSTED => StatusCode::TOO_MANY_REQUESTS,
        UNIMPLEMENTED => StatusCode::NOT_IMPLEMENTED,
        UNAVAILABLE => StatusCode::SERVICE_UNAVAILABLE,
        UNAUTHENTICATED => StatusCode::UNAUTHORIZED,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
