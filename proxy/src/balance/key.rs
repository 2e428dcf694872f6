//! What requests that are alike have in common: a header, a cookie, where they
//! come from, a query parameter.

use super::hash::hash;
use crate::{availability::Repeatable, http::replay::MOST_KEPT};
use http::{
    HeaderMap, HeaderValue, Uri,
    header::{CONTENT_LENGTH, COOKIE},
};
use linnet_mesh::destination::HashKey;
use std::{cell::RefCell, net::IpAddr, time::Duration};

/// Who asks for an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Asker<'a> {
    /// A request's head; `None`: a connection that is not HTTP.
    head: Option<(&'a Uri, &'a HeaderMap)>,
    source: Option<IpAddr>,
    /// More of the request's body is to come.
    coming: bool,
    /// A cookie that the answer is to set, once a key was made up.
    cookie: RefCell<Option<HeaderValue>>,
}

impl<'a> Asker<'a> {
    /// Who sends this request, from there.
    pub(crate) fn request<B>(request: &'a http::Request<B>, source: Option<IpAddr>) -> Self {
        Self::head(request.uri(), request.headers(), source)
    }

    /// The same, of a request that has been taken apart.
    pub(crate) fn head(uri: &'a Uri, headers: &'a HeaderMap, source: Option<IpAddr>) -> Self {
        Self {
            head: Some((uri, headers)),
            source,
            coming: false,
            cookie: RefCell::default(),
        }
    }

    /// The same where more of the request's body is to come, or not.
    pub(crate) fn with_body_coming(self, coming: bool) -> Self {
        Self { coming, ..self }
    }

    /// Who opens a connection from there.
    pub(crate) fn connection(source: Option<IpAddr>) -> Self {
        Self {
            source,
            ..Self::default()
        }
    }

    /// Whether the body, as far as is known, can be kept and sent elsewhere.
    pub(super) fn repeatable(&self) -> Repeatable {
        let length = self
            .head
            .and_then(|(_, headers)| headers.get(CONTENT_LENGTH));
        let length = length.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        match length {
            Some(length) if length > MOST_KEPT => Repeatable::No,
            None if self.coming => Repeatable::Perhaps,
            _ => Repeatable::Yes,
        }
    }

    pub(super) fn take_cookie(&self) -> Option<HeaderValue> {
        self.cookie.take()
    }

    /// The hash of what `key` names; `None`: there is no such thing.
    pub(super) fn key(&self, key: &HashKey) -> Option<u64> {
        if let HashKey::SourceIp = key {
            return self.source.map(|ip| match ip {
                IpAddr::V4(ip) => hash(&ip.octets()),
                IpAddr::V6(ip) => hash(&ip.octets()),
            });
        }
        let (uri, headers) = self.head?;
        match key {
            HashKey::SourceIp => None,
            HashKey::Header(name) => {
                let values = headers.get_all(name).iter();
                values
                    .map(|value| hash(value.as_bytes()))
                    .reduce(|all, one| all.rotate_left(5) ^ one)
            }
            HashKey::QueryParameter(name) => uri
                .query()?
                .split('&')
                .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
                .find(|(key, _)| key == name)
                .map(|(_, value)| hash(value.as_bytes())),
            HashKey::Cookie { name, path, ttl } => cookie(headers, name)
                .map(hash)
                .or_else(|| Some(self.make_up(name, path.as_deref(), (*ttl)?))),
        }
    }

    fn make_up(&self, name: &str, path: Option<&str>, ttl: Duration) -> u64 {
        let value = format!("{:016x}", rand::random::<u64>());
        let mut text = format!("{name}=\"{value}\"");
        if !ttl.is_zero() {
            // A part of a second is not no time at all.
            let seconds = ttl.as_secs().max(1);
            text.push_str(&format!("; Max-Age={seconds}"));
        }
        if let Some(path) = path {
            text.push_str(&format!("; Path={path}"));
        }
        text.push_str("; HttpOnly");
        // A name or path that no header can hold: the caller is not recognised.
        *self.cookie.borrow_mut() = HeaderValue::try_from(text).ok();
        hash(value.as_bytes())
    }
}

/// A cookie's value, without the quotes it may have.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let values = headers.get_all(COOKIE).iter();
    let mut pairs = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let value = pairs.find_map(|pair| {
        let rest = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=")
    })?;
    let bare = value
        .strip_prefix(b"\"")
        .and_then(|v| v.strip_suffix(b"\""));
    Some(bare.unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn request(uri: &str, headers: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn key_of(request: &Request<()>, key: &HashKey) -> Option<u64> {
        Asker::request(request, Some([10, 0, 0, 1].into())).key(key)
    }

    #[test]
    fn where_keys_come_from() {
        let request = request(
            "http://payment/charge?user=7&empty&user=8",
            &[("x-user", "7"), ("cookie", "a=1; sid=\"7\"")],
        );
        let seven = Some(hash(b"7"));
        let parameter = |name: &str| HashKey::QueryParameter(name.to_owned());
        let header = |name: &'static str| HashKey::Header(http::HeaderName::from_static(name));
        assert_eq!(key_of(&request, &parameter("user")), seven);
        assert_eq!(key_of(&request, &parameter("empty")), Some(hash(b"")));
        assert_eq!(key_of(&request, &parameter("other")), None);
        assert_eq!(key_of(&request, &header("x-user")), seven);
        assert_eq!(key_of(&request, &header("x-other")), None);
        let sid = HashKey::Cookie {
            name: "sid".into(),
            path: None,
            ttl: Some(Duration::ZERO),
        };
        assert_eq!(key_of(&request, &sid), seven);
        let expected = Some(hash(&[10, 0, 0, 1]));
        assert_eq!(key_of(&request, &HashKey::SourceIp), expected);
        let connection = Asker::connection(Some([10, 0, 0, 1].into()));
        assert_eq!(connection.key(&HashKey::SourceIp), expected);
        assert_eq!(connection.key(&header("x-user")), None);
    }

    #[test]
    fn a_cookie_is_found_beside_one_that_is_not_text() {
        let mut request = request("/", &[]);
        let value = HeaderValue::from_bytes(b"name=Jos\xe9; sid=7").unwrap();
        request.headers_mut().insert("cookie", value);
        let sid = HashKey::Cookie {
            name: "sid".into(),
            path: None,
            ttl: None,
        };
        assert_eq!(key_of(&request, &sid), Some(hash(b"7")));
    }

    #[test]
    fn whose_length_nobody_knows_may_be_too_long() {
        for (length, coming, expected) in [
            (None, false, Repeatable::Yes),
            (None, true, Repeatable::Perhaps),
            (Some("65536"), true, Repeatable::Yes),
            (Some("65537"), true, Repeatable::No),
        ] {
            let headers: Vec<_> = length.map(|l| ("content-length", l)).into_iter().collect();
            let request = request("/", &headers);
            let asker = Asker::request(&request, None).with_body_coming(coming);
            assert_eq!(asker.repeatable(), expected);
        }
        assert_eq!(Asker::connection(None).repeatable(), Repeatable::Yes);
    }

    #[test]
    fn a_caller_without_the_cookie_is_given_one_that_leads_to_the_same_place() {
        let bare = request("/", &[]);
        let asker = Asker::request(&bare, None);
        let sid = |ttl| HashKey::Cookie {
            name: "sid".into(),
            path: Some("/shop".into()),
            ttl,
        };
        assert_eq!(asker.key(&sid(None)), None);
        assert_eq!(asker.take_cookie(), None);
        let key = asker
            .key(&sid(Some(Duration::from_millis(90_500))))
            .unwrap();
        let cookie = asker.take_cookie().unwrap();
        let text = cookie.to_str().unwrap();
        let (pair, rest) = text.split_once("; ").unwrap();
        assert_eq!(rest, "Max-Age=90; Path=/shop; HttpOnly");
        let again = request("/", &[("cookie", pair)]);
        assert_eq!(key_of(&again, &sid(None)), Some(key));
        asker.key(&sid(Some(Duration::ZERO))).unwrap();
        let session = asker.take_cookie().unwrap();
        assert!(!session.to_str().unwrap().contains("Max-Age"));
    }
}
