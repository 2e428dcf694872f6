//! Requests that pages of other origins send (CORS, the Fetch standard): the
//! answer to a browser's preflight, and what a response lets the page see.
//!
//! A browser enforces it, not the mesh: a request of an origin that is not
//! allowed is forwarded like any other, its response just carries no permission.

use super::StringMatch;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS,
        ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS,
        ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD,
        ORIGIN, VARY,
    },
};

/// Who may call from a browser, and how.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cors {
    /// The origins that may; any of these.
    pub origins: Vec<OriginMatch>,
    /// The methods they may use, as sent: separated by commas, or `*`.
    pub methods: Option<HeaderValue>,
    /// The request headers they may set, likewise.
    pub headers: Option<HeaderValue>,
    /// The response headers that they see, likewise.
    pub expose: Option<HeaderValue>,
    /// For how long a browser may remember the answer to a preflight, seconds.
    pub max_age: Option<u64>,
    /// Whether a browser may send cookies and the like.
    pub credentials: bool,
    /// What becomes of preflights from other origins.
    pub unmatched: UnmatchedPreflights,
}

/// A condition on an origin, `https://shop.example.com`.
#[derive(Clone, Debug, PartialEq)]
pub enum OriginMatch {
    /// Every origin.
    Any,
    /// By its text.
    Text(StringMatch),
    /// By what stands before and behind one `*`, which stands for any labels
    /// of a host (Gateway API's `https://*.example.com`).
    Around(String, String),
}

/// What becomes of preflights from origins that are not allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnmatchedPreflights {
    /// The backend answers them.
    #[default]
    Forward,
    /// They are answered here, without any permission.
    Answer,
}

const ANY: &[u8] = b"*";

impl OriginMatch {
    /// Whether an origin is meant.
    pub fn matches(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Text(condition) => condition.matches(origin),
            Self::Around(before, behind) => origin
                .strip_prefix(before.as_str())
                .and_then(|rest| rest.strip_suffix(behind.as_str()))
                .is_some_and(|host| !host.is_empty() && !host.contains(['/', ':'])),
        }
    }
}

impl Cors {
    /// The request's origin, where it names one.
    pub fn origin(request: &HeaderMap) -> Option<&HeaderValue> {
        request.get(ORIGIN).filter(|origin| !origin.is_empty())
    }

    /// Whether an origin is allowed.
    pub fn allows(&self, origin: &HeaderValue) -> bool {
        origin
            .to_str()
            .is_ok_and(|origin| self.origins.iter().any(|allowed| allowed.matches(origin)))
    }

    /// The headers of the answer to a preflight. `None`: it is not one, or is
    /// the backend's to answer.
    pub fn preflight(&self, method: &Method, request: &HeaderMap) -> Option<HeaderMap> {
        let asked = request.get(ACCESS_CONTROL_REQUEST_METHOD)?;
        let origin = Self::origin(request)?;
        if method != Method::OPTIONS || asked.is_empty() {
            return None;
        }
        let mut answer = HeaderMap::new();
        vary(&mut answer);
        if !self.allows(origin) {
            return (self.unmatched == UnmatchedPreflights::Answer).then_some(answer);
        }
        self.permit(origin, &mut answer);
        // With credentials a browser takes `*` for a name, so what it asked for
        // is said instead.
        let named = |list: &Option<HeaderValue>, asked: Option<&HeaderValue>| match list {
            Some(any) if self.credentials && any.as_bytes() == ANY => asked.cloned(),
            list => list.clone(),
        };
        let headers = request.get(ACCESS_CONTROL_REQUEST_HEADERS);
        let mut set = |name: HeaderName, value: Option<HeaderValue>| {
            if let Some(value) = value {
                answer.insert(name, value);
            }
        };
        set(
            ACCESS_CONTROL_ALLOW_METHODS,
            named(&self.methods, Some(asked)),
        );
        set(ACCESS_CONTROL_ALLOW_HEADERS, named(&self.headers, headers));
        set(ACCESS_CONTROL_MAX_AGE, self.max_age.map(Into::into));
        Some(answer)
    }

    /// Adds to a response what lets a page of `origin` see it.
    pub fn respond(&self, origin: &HeaderValue, response: &mut HeaderMap) {
        vary(response);
        if !self.allows(origin) {
            return;
        }
        self.permit(origin, response);
        if let Some(expose) = &self.expose {
            response.insert(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
        }
    }

    fn permit(&self, origin: &HeaderValue, response: &mut HeaderMap) {
        response.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            let allowed = HeaderValue::from_static("true");
            response.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, allowed);
        }
    }
}

/// Tells caches that the response hangs on the origin.
fn vary(response: &mut HeaderMap) {
    let told = response.get_all(VARY).iter().any(|value| {
        let names = value.to_str().unwrap_or_default().split(',');
        names
            .map(str::trim)
            .any(|name| name == "*" || name.eq_ignore_ascii_case("origin"))
    });
    if !told {
        response.append(VARY, HeaderValue::from_static("origin"));
    }
}

#[cfg(test)]
mod tests;
