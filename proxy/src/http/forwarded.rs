//! What a hop changes in a message's head as it arrives, before anything is decided by it:
//! connection-level headers end here (RFC 9110, 7.6.1), an upgrade's excepted, and a request
//! is for one host and one path, whoever reads it.
//!
//! Headers that this hop adds come later, so that no client can have them taken off.

use super::{
    connection::UNDELIVERED,
    field,
    found::Found,
    host::{are_same, has_one_reading},
};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version,
    header::{self, CONNECTION, HOST, PROXY_AUTHENTICATE, TE, UPGRADE},
    uri::{Authority, PathAndQuery, Scheme},
};
use std::borrow::Cow;

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Connection options that name no header which is left to remove.
const HOP: [&str; 4] = ["close", "keep-alive", "proxy-connection", "connection"];

/// What is for the last recipient, and so no peer's to remove: what frames, routes and
/// describes a message, and credentials.
const END_TO_END: [HeaderName; 10] = [
    HOST,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::AUTHORIZATION,
    header::COOKIE,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::CACHE_CONTROL,
    header::SET_COOKIE,
];

/// Mark of a request whose target named another host than its `Host`, which is gone. Where
/// policies are, such a request is refused.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NamedTwo;

/// Returns the scheme by which a request was sent: that of its target, which HTTP/1 has on its
/// way no more.
pub(crate) fn scheme<B>(request: &Request<B>) -> &str {
    let told = || request.extensions().get::<Scheme>().map(Scheme::as_str);
    let scheme = request.uri().scheme_str().or_else(told);
    scheme.unwrap_or("http")
}

/// Reports whether a request asks to change the protocol (RFC 9110, 7.8) to one that is
/// not HTTP again: within an `h2c` tunnel requests would go on that no policy
/// and no route has seen. A server need not follow such a wish (RFC 9113, 3.1).
fn wants_upgrade<B>(request: &Request<B>) -> bool {
    request.version() == Version::HTTP_11
        && request.headers().contains_key(UPGRADE)
        && connection_tokens(request.headers()).any(|t| t.eq_ignore_ascii_case(b"upgrade"))
        && !hides_http(request.headers())
}

/// Reports whether one of the protocols of `Upgrade` carries HTTP.
fn hides_http(headers: &HeaderMap) -> bool {
    const CARRIERS: [&str; 5] = ["h2", "h2c", "http", "tls", "connect-udp"];
    headers.get_all(UPGRADE).iter().any(|value| {
        let Ok(text) = value.to_str() else {
            return true;
        };
        // Careless readers end a name where it has a character that no name has.
        let ends = |c: char| !c.is_ascii_alphanumeric() && c != '-';
        text.split(',').any(|protocol| {
            let name = protocol.trim_start_matches(ends).split(ends).next();
            CARRIERS
                .iter()
                .any(|c| name.is_some_and(|name| name.eq_ignore_ascii_case(c)))
        })
    })
}

/// Makes a request's head this hop's as it arrives: who comes after must not read another
/// host, another path or other headers than policies and routes did. Returns whether the
/// request asks for another protocol that may be had.
///
/// # Errors
/// Why the request can't be forwarded.
pub(crate) fn receive<B>(request: &mut Request<B>, found: Found) -> Result<bool, &'static str> {
    if request.method() == Method::CONNECT {
        // What goes through such a tunnel would be seen by no policy.
        return Err("CONNECT is not forwarded");
    }
    let path = request.uri().path_and_query().map(PathAndQuery::as_str);
    if !path.is_some_and(|path| path.starts_with('/')) {
        settle_path(request)?;
    }
    if found.has(Found::SHADOW) {
        field::drop_shadows(request.headers_mut());
    }
    if found.has(Found::TE) {
        settle_te(request.headers_mut());
    }
    if found.has(Found::REPEATED) {
        join_cookies(request.headers_mut());
    }
    if request.version() == Version::HTTP_2 {
        settle_http2(request, found)?;
        return Ok(false);
    }
    settle_http1(request, found)?;
    let upgrade = found.has(Found::UPGRADE) && wants_upgrade(request);
    if found.has(Found::CONNECTION) {
        let named = named(request.headers());
        if named.iter().any(|name| END_TO_END.contains(name)) {
            return Err("its Connection header names one that is for the last recipient");
        }
        remove_named(request.headers_mut(), named);
    }
    strip(request.headers_mut(), found, upgrade);
    Ok(upgrade)
}

/// Checks a target that is no path: `*` is OPTIONS' alone (RFC 9112, 3.2.4), and
/// `GET admin` would be no path to a policy, and one to a careless application. A host with
/// a query alone has the path `/` (RFC 9112, 3.2.1).
fn settle_path<B>(request: &mut Request<B>) -> Result<(), &'static str> {
    const NO_PATH: &str = "its target is no path";
    let uri = request.uri();
    let path = uri.path_and_query().map_or("", PathAndQuery::as_str);
    if path.starts_with('?') && uri.authority().is_some() && request.version() != Version::HTTP_2 {
        let rooted = PathAndQuery::try_from(format!("/{path}")).map_err(|_| NO_PATH)?;
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(rooted);
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| NO_PATH)?;
        return Ok(());
    }
    match path == "*" && request.method() == Method::OPTIONS {
        true => Ok(()),
        false => Err(NO_PATH),
    }
}

/// Leaves of `TE` what the next hop may go by: transfer codings are this hop's business, and
/// trailers are forwarded (RFC 9110, 10.1.4).
fn settle_te(headers: &mut HeaderMap) {
    let mut values = headers.get_all(TE).iter();
    match values.any(|value| field::has_token(value, "trailers")) {
        true => drop(headers.insert(TE, HeaderValue::from_static("trailers"))),
        false => drop(headers.remove(TE)),
    }
}

/// Makes one field of cookies that come in several, as HTTP/2 clients send them (RFC 9113,
/// 8.2.3): whoever looks for one sees what an application of HTTP/1 does.
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    let joined = match linnet_mesh::field::joined(headers, &header::COOKIE) {
        Some(Cow::Owned(joined)) => HeaderValue::from_maybe_shared(Bytes::from(joined)),
        _ => return,
    };
    // Values that a header had are one that a header may have.
    if let Ok(joined) = joined {
        headers.insert(header::COOKIE, joined);
    }
}

/// Makes a target origin-form and `Host` the target's (RFC 9112, 3.2). The codec has
/// looked at `Host` itself.
fn settle_http1<B>(request: &mut Request<B>, found: Found) -> Result<(), &'static str> {
    if !found.has(Found::HOST) {
        if request.version() == Version::HTTP_11 {
            return Err("it has no Host header");
        }
        // It goes on as HTTP/1.1, which must not be without (RFC 9112, 3.2).
        let none = HeaderValue::from_static("");
        request.headers_mut().insert(HOST, none);
    } else if found.has(Found::REPEATED) && request.headers().get_all(HOST).iter().count() > 1 {
        return Err("it has several Host headers");
    }
    let Some(authority) = request.uri().authority() else {
        return Ok(());
    };
    if !has_one_reading(authority.as_str().as_bytes()) {
        return Err("its target is no host");
    }
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| "its target is no host")?;
    let path = request.uri().path_and_query().cloned();
    let before = request.headers().get(HOST).map(HeaderValue::as_bytes);
    if before.is_some_and(|before| !before.eq_ignore_ascii_case(host.as_bytes())) {
        request.extensions_mut().insert(NamedTwo);
    }
    if request.uri().scheme() == Some(&Scheme::HTTPS) {
        request.extensions_mut().insert(Scheme::HTTPS);
    }
    *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    request.headers_mut().insert(HOST, host);
    Ok(())
}

/// Makes `:authority` the one host of a request (RFC 9113, 8.3.1).
fn settle_http2<B>(request: &mut Request<B>, found: Found) -> Result<(), &'static str> {
    if let Some(authority) = request.uri().authority() {
        let authority = authority.as_str();
        if authority.is_empty() || !has_one_reading(authority.as_bytes()) {
            return Err("its :authority is no host");
        }
        if found.has(Found::HOST) {
            let scheme = request.uri().scheme_str();
            let same = |host: &HeaderValue| {
                let host = host.to_str();
                host.is_ok_and(|host| are_same(authority, host, scheme))
            };
            if !request.headers().get_all(HOST).iter().all(same) {
                return Err("its Host is not its :authority");
            }
            request.headers_mut().remove(HOST);
        }
        return Ok(());
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return Err("it names no host, or several");
    };
    if host.is_empty() || !has_one_reading(host.as_bytes()) {
        return Err("its Host is no host");
    }
    let authority = Authority::try_from(host.as_bytes()).map_err(|_| "its Host is no host")?;
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(authority);
    parts
        .path_and_query
        .get_or_insert_with(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| "its target is no path")?;
    request.headers_mut().remove(HOST);
    Ok(())
}

fn connection_tokens(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(CONNECTION).iter();
    let tokens = values.flat_map(field::tokens);
    tokens.filter(|token| !token.is_empty())
}

/// Makes a response's head the previous hop's, as it arrives.
pub(crate) fn response_head(headers: &mut HeaderMap, version: Version, upgrade: bool) {
    if version == Version::HTTP_2 {
        headers.remove(&UNDELIVERED);
        return;
    }
    let found = Found::of(headers);
    if found.has(Found::CONNECTION) {
        let mut named = named(headers);
        // Framing is no peer's to remove, and there is nobody to tell.
        named.retain(|name| !END_TO_END.contains(name));
        remove_named(headers, named);
    }
    strip(headers, found, upgrade);
}

/// Returns the headers that `Connection` names. Usually it names nothing but what goes
/// anyway: then this is empty.
fn named(headers: &HeaderMap) -> Vec<HeaderName> {
    connection_tokens(headers)
        .filter(|token| {
            let mut hops = HOP.iter();
            !hops.any(|hop| token.eq_ignore_ascii_case(hop.as_bytes()))
        })
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .collect()
}

fn remove_named(headers: &mut HeaderMap, named: Vec<HeaderName>) {
    for name in named {
        // An upgrade's header, the permission to send trailers and a challenge are dealt with
        // elsewhere, or go on.
        if name != UPGRADE && name != TE && name != PROXY_AUTHENTICATE {
            headers.remove(name);
        }
    }
    headers.remove(CONNECTION);
}

fn strip(headers: &mut HeaderMap, found: Found, upgrade: bool) {
    if found.has(Found::UNDELIVERED) {
        // What a sidecar has to say to another comes from no application.
        headers.remove(&UNDELIVERED);
    }
    if found.has(Found::KEEP_ALIVE) {
        headers.remove(&KEEP_ALIVE);
    }
    if found.has(Found::PROXY_CONNECTION) {
        headers.remove(&PROXY_CONNECTION);
    }
    if upgrade {
        let value = HeaderValue::from_static("upgrade");
        headers.insert(CONNECTION, value);
    } else if found.has(Found::UPGRADE) {
        headers.remove(UPGRADE);
    }
}

#[cfg(test)]
mod tests;
