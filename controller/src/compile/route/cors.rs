//! Who may call from a browser.

use super::Compiler;
use crate::resource::gateway::CorsFilter;
use http::{HeaderName, HeaderValue, Method};
use linnet_mesh::route::{Cors, OriginMatch, StringMatch, UnmatchedPreflights};
use std::str::FromStr;

/// The API's default, seconds.
const MAX_AGE: u64 = 5;

impl Compiler<'_> {
    pub(super) fn cors(&mut self, path: &str, filter: &CorsFilter) -> Cors {
        let mut origins = Vec::new();
        for (position, text) in filter.allow_origins.iter().enumerate() {
            match origin(text) {
                Some(origin) => origins.push(origin),
                None => {
                    let field = format!("{path}.allowOrigins[{position}]");
                    let text = format!("{text:?} is not an origin, a scheme and a host");
                    self.fail(field, &text);
                }
            }
        }
        if origins.is_empty() {
            let text = "is empty, so no origin is allowed";
            self.note(format!("{path}.allowOrigins"), text);
        }
        let max_age = u64::try_from(filter.max_age.unwrap_or(0)).unwrap_or_default();
        Cors {
            origins,
            methods: self.list::<Method>(&format!("{path}.allowMethods"), &filter.allow_methods),
            headers: self
                .list::<HeaderName>(&format!("{path}.allowHeaders"), &filter.allow_headers),
            expose: self
                .list::<HeaderName>(&format!("{path}.exposeHeaders"), &filter.expose_headers),
            max_age: Some(if max_age == 0 { MAX_AGE } else { max_age }),
            credentials: filter.allow_credentials.unwrap_or_default(),
            unmatched: UnmatchedPreflights::Answer,
        }
    }

    /// A list as it is sent.
    fn list<T: FromStr>(&mut self, path: &str, texts: &[String]) -> Option<HeaderValue> {
        for (position, text) in texts.iter().enumerate() {
            if text != "*" && text.parse::<T>().is_err() {
                let text = format!("{text:?} is not a name");
                self.fail(format!("{path}[{position}]"), &text);
            }
        }
        let any = texts.iter().any(|text| text == "*");
        let list = if any { "*".to_owned() } else { texts.join(",") };
        list.parse().ok().filter(|_| !texts.is_empty())
    }
}

/// `*`, `https://shop.example.com` or `https://*.example.com`.
fn origin(text: &str) -> Option<OriginMatch> {
    if text == "*" {
        return Some(OriginMatch::Any);
    }
    let (_, host) = text.split_once("://")?;
    match (text.split_once('*'), host.is_empty()) {
        (_, true) => None,
        (None, _) => Some(OriginMatch::Text(StringMatch::Exact(text.to_owned()))),
        (Some((_, behind)), _) if behind.contains('*') => None,
        (Some((before, behind)), _) => {
            Some(OriginMatch::Around(before.to_owned(), behind.to_owned()))
        }
    }
}
