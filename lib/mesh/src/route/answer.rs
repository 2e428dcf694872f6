//! Answers that a rule gives itself: redirects and fixed responses.

use super::{PathRewrite, RequestParts, StringMatch};
use http::StatusCode;

/// Answered without a backend.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The caller is to ask elsewhere.
    Redirect(Redirect),
    /// A fixed response.
    Direct(DirectResponse),
}

/// Where a caller is to ask instead; what is absent stays as requested.
#[derive(Clone, Debug, PartialEq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// The host, without port.
    pub authority: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// The path.
    pub path: Option<RedirectPath>,
}

/// The path of a redirect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedirectPath {
    /// This one, whatever was matched.
    Full(String),
    /// This in the place of the matched prefix.
    Prefix(String),
}

/// A fixed response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its body.
    pub body: Vec<u8>,
}

impl Redirect {
    /// The `Location` for a request that the rule matched by `matched`.
    pub fn location(
        &self,
        request: &RequestParts<'_>,
        query: Option<&str>,
        matched: Option<&StringMatch>,
    ) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(request.scheme());
        let mut location = format!("{scheme}://{}", self.host_and_port(request, scheme));
        let path = match &self.path {
            None => request.path.to_owned(),
            Some(RedirectPath::Full(path)) => path.clone(),
            Some(RedirectPath::Prefix(text)) => {
                PathRewrite::Matched(text.clone()).rewritten(matched, request.path)
            }
        };
        if !path.starts_with('/') {
            location.push('/');
        }
        location.push_str(&path);
        if let Some(query) = query.filter(|_| !path.contains('?')) {
            location.push('?');
            location.push_str(query);
        }
        location
    }

    /// The requested port goes where another is named, and where it was the own one of a
    /// scheme that was left: the requested one, or the one by which TLS's end called on. A
    /// rule's port is left so, too, unless the rule names its scheme: for an HTTPRoute it is
    /// the Service's.
    fn host_and_port(&self, request: &RequestParts<'_>, scheme: &str) -> String {
        let requested = self.authority.as_deref().unwrap_or(request.authority);
        let (host, port) = split_port(requested);
        let left = |port: &u16| {
            let mut schemes = [request.scheme, request.scheme()].into_iter();
            schemes.any(|before| before != scheme && own_port(before) == Some(*port))
        };
        let port = match self.port {
            Some(port) if self.scheme.is_some() => Some(port),
            Some(port) => Some(port).filter(|port| !left(port)),
            None => port.filter(|port| !left(port)),
        };
        // A scheme's own port goes without saying (RFC 3986, 6.2.3).
        match port.filter(|port| own_port(scheme) != Some(*port)) {
            None => host.to_owned(),
            Some(port) => format!("{host}:{port}"),
        }
    }
}

fn own_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

fn split_port(authority: &str) -> (&str, Option<u16>) {
    let split = authority.rsplit_once(':');
    let parsed = split.and_then(|(host, port)| Some((host, port.parse().ok()?)));
    match parsed {
        // A bare IPv6 address has colons of its own.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderMap, Method};

    const SAME: Redirect = Redirect {
        status: StatusCode::MOVED_PERMANENTLY,
        scheme: None,
        authority: None,
        port: None,
        path: None,
    };

    fn location(redirect: &Redirect, authority: &str, matched: Option<&StringMatch>) -> String {
        let request = RequestParts {
            method: &Method::GET,
            path: "/old/a",
            query: "q=1",
            authority,
            scheme: "http",
            headers: &HeaderMap::new(),
        };
        redirect.location(&request, Some("q=1"), matched)
    }

    #[test]
    fn what_is_not_named_stays() {
        assert_eq!(location(&SAME, "a:8080", None), "http://a:8080/old/a?q=1");
        let elsewhere = Redirect {
            authority: Some("b".into()),
            ..SAME
        };
        assert_eq!(location(&elsewhere, "a:8080", None), "http://b/old/a?q=1");
    }

    #[test]
    fn ports_follow_the_scheme_only_when_they_were_its_own() {
        let secure = Redirect {
            scheme: Some("https".into()),
            ..SAME
        };
        assert_eq!(location(&secure, "a:80", None), "https://a/old/a?q=1");
        assert_eq!(
            location(&secure, "a:8080", None),
            "https://a:8080/old/a?q=1"
        );
        let port = Redirect {
            port: Some(8443),
            ..secure
        };
        assert_eq!(
            location(&port, "[::1]:80", None),
            "https://[::1]:8443/old/a?q=1"
        );
        let own = Redirect {
            port: Some(443),
            ..port
        };
        assert_eq!(location(&own, "a:8080", None), "https://a/old/a?q=1");
    }

    /// Who ended TLS, and said so how: the scheme of redirects and of matches.
    #[test]
    fn the_scheme_is_the_one_that_was_forwarded() {
        let wants = |scheme: &str| super::super::RequestMatch {
            scheme: Some(StringMatch::Exact(scheme.into())),
            ..Default::default()
        };
        for (own, forwarded, scheme) in [
            ("http", &[][..], "http"),
            ("http", &["https"], "https"),
            ("http", &["HTTPS"], "https"),
            ("http", &["http"], "http"),
            ("https", &["http"], "http"),
            ("http", &["https, http"], "https"),
            ("http", &["https,http"], "https"),
            ("http", &[" https "], "https"),
            ("http", &["http, https"], "http"),
            ("http", &["https", "http"], "https"),
            ("http", &[""], "http"),
            ("https", &[""], "https"),
            ("http", &["ftp"], "http"),
            ("http", &["javascript:alert(1)//"], "http"),
            ("http", &["https://evil"], "http"),
            ("http", &["httpsx"], "http"),
        ] {
            let mut headers = HeaderMap::new();
            for value in forwarded {
                headers.append("x-forwarded-proto", value.parse().unwrap());
            }
            let request = RequestParts {
                method: &Method::GET,
                path: "/old/a",
                query: "",
                authority: "a",
                scheme: own,
                headers: &headers,
            };
            let location = SAME.location(&request, None, None);
            assert_eq!(
                location,
                format!("{scheme}://a/old/a"),
                "{own} {forwarded:?}"
            );
            for other in ["http", "https"] {
                let matches = wants(other).matches(&request);
                assert_eq!(matches, other == scheme, "{own} {forwarded:?} {other}");
            }
        }
    }

    #[test]
    fn the_port_of_a_scheme_that_was_left_is_left_too() {
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-proto", "https".parse().unwrap());
        for (authority, scheme, port, expected) in [
            ("a", None, None, "https://a/"),
            ("a:80", None, None, "https://a/"),
            ("a:443", None, None, "https://a/"),
            ("a:8443", None, None, "https://a:8443/"),
            // An HTTPRoute's redirect without a port has its Service's.
            ("a", None, Some(80), "https://a/"),
            ("a", None, Some(8443), "https://a:8443/"),
            ("a", Some("https"), Some(80), "https://a:80/"),
            ("a:443", Some("http"), None, "http://a/"),
            ("a:80", Some("http"), None, "http://a/"),
        ] {
            let redirect = Redirect {
                scheme: scheme.map(str::to_owned),
                port,
                ..SAME
            };
            let request = RequestParts {
                method: &Method::GET,
                path: "/",
                query: "",
                authority,
                scheme: "http",
                headers: &headers,
            };
            let location = redirect.location(&request, None, None);
            assert_eq!(location, expected, "{authority} {scheme:?} {port:?}");
        }
    }

    #[test]
    fn paths_are_replaced_whole_or_by_prefix() {
        let prefix = StringMatch::Prefix("/old".into());
        let full = Redirect {
            path: Some(RedirectPath::Full("/new".into())),
            ..SAME
        };
        assert_eq!(location(&full, "a", Some(&prefix)), "http://a/new?q=1");
        let part = Redirect {
            path: Some(RedirectPath::Prefix("/new".into())),
            ..SAME
        };
        assert_eq!(location(&part, "a", Some(&prefix)), "http://a/new/a?q=1");
        let own_query = Redirect {
            path: Some(RedirectPath::Full("/new?x=2".into())),
            ..SAME
        };
        assert_eq!(location(&own_query, "a", None), "http://a/new?x=2");
    }
}
