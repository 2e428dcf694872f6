//! Whom a request's token speaks for: `RequestAuthentication`, as pure functions.
//!
//! A request without a token passes, for policies to decide about. One with a
//! token passes if a rule takes it, and is refused otherwise: there is no token
//! that is merely overlooked. Whoever evaluates brings the time and the check of
//! signatures; keys are asymmetric by their type, so whoever can check can't sign.

pub mod jwk;
pub mod place;
pub mod token;

pub use jwk::{Algorithm, Jwk, PublicKey};
pub use place::Place;
pub use token::{Claims, Token};

use crate::{ResourceRef, field};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::{borrow::Cow, collections::HashSet, fmt, sync::Arc};
use token::Parts;

/// Longest token that is looked at, bytes; Envoy's figure is 8 KiB.
pub const LONGEST_TOKEN: usize = 16 * 1024;
/// How far clocks may be apart, seconds: Envoy's `clock_skew_seconds`.
pub const CLOCK_SKEW: u64 = 60;

/// A rule: which tokens it takes, and what becomes of them.
#[derive(Clone, Debug, PartialEq)]
pub struct JwtRule {
    /// The resource.
    pub source: ResourceRef,
    /// Its place in `spec.jwtRules`.
    pub position: usize,
    /// Who signs them; empty: nobody, so it takes none.
    pub issuer: String,
    /// For whom they must be, one of these; empty: anybody.
    pub audiences: Vec<String>,
    /// With what they are checked.
    pub keys: Vec<Jwk>,
    /// Where they were fetched; empty: the rule brings them.
    pub keys_from: String,
    /// Why there are no keys.
    pub problem: Option<String>,
    /// Where they are looked for.
    pub places: Vec<Place>,
    /// The application gets the token too.
    pub forward: bool,
    /// The header that the application gets the claims in, base64url.
    pub payload_header: Option<HeaderName>,
    /// The headers that the application gets single claims in.
    pub claim_headers: Vec<(HeaderName, String)>,
    /// Claims that are lists separated by spaces, besides [`token::SPACE_DELIMITED`].
    pub space_delimited: Vec<String>,
}

impl JwtRule {
    /// A rule that takes no token.
    pub fn refusing(source: ResourceRef, position: usize, problem: String) -> Self {
        Self {
            source,
            position,
            issuer: String::new(),
            audiences: Vec::new(),
            keys: Vec::new(),
            keys_from: String::new(),
            problem: Some(problem),
            places: Place::defaults(),
            forward: false,
            payload_header: None,
            claim_headers: Vec::new(),
            space_delimited: Vec::new(),
        }
    }
}

impl fmt::Display for JwtRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, spec.jwtRules[{}]", self.source, self.position)
    }
}

/// All rules for one workload. Workloads share the rules that are for several.
#[derive(Clone, Debug, PartialEq)]
pub struct Authentication {
    rules: Vec<Arc<JwtRule>>,
    /// The places of all rules, each once.
    places: Vec<Place>,
    /// Headers that are the sidecar's to write.
    own_headers: Vec<HeaderName>,
    /// Headers that tokens are looked for in.
    token_headers: Vec<HeaderName>,
}

/// What signatures are checked with.
pub trait Verifier {
    /// Whether `signature` is the signature of `message` by the key that stands
    /// at `key` among those of the rule at `rule`.
    fn verifies(
        &self,
        rule: usize,
        key: usize,
        algorithm: Algorithm,
        message: &[u8],
        signature: &str,
    ) -> bool;
}

/// A token as it was found.
#[derive(Clone, PartialEq, Eq)]
pub struct Found<'r> {
    /// The token.
    pub text: Cow<'r, str>,
    /// Where: positions among [`Authentication::places`].
    pub at: Vec<usize>,
}

impl fmt::Debug for Found<'_> {
    /// Without the token: who has it can use it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a token of {} bytes at {:?}", self.text.len(), self.at)
    }
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// It is no token.
    #[error("it is not a signed JWT")]
    Malformed,
    /// Nothing reads as much.
    #[error("it is longer than {LONGEST_TOKEN} bytes")]
    TooLong,
    /// The application might go by another one.
    #[error("the request has several")]
    Several,
    /// `none`, a symmetric one, or one that no key is for.
    #[error("its algorithm is not one that tokens are accepted with")]
    Algorithm,
    /// It has extensions that must be understood.
    #[error("it has critical extensions, of which none is known")]
    Critical,
    /// No rule is for it.
    #[error("no rule takes tokens of its issuer from there")]
    Issuer,
    /// The rule has no keys.
    #[error("the keys of its issuer are not known")]
    NoKeys,
    /// It is over.
    #[error("it has expired")]
    Expired,
    /// It is not valid yet.
    #[error("it is not valid yet")]
    NotYet,
    /// It is for somebody else.
    #[error("it is for another audience")]
    Audience,
    /// None of the keys is the one that it names, or of its kind.
    #[error("its issuer has no such key")]
    NoSuchKey,
    /// It was not signed by that key.
    #[error("its signature is wrong")]
    Signature,
}

/// A refused token.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("the token is refused: {reason}")]
pub struct Refusal<'a> {
    /// Why.
    pub reason: Reason,
    /// The rule that refused it; `None`: none was for it.
    pub rule: Option<&'a JwtRule>,
}

impl Refusal<'_> {
    /// Which rule refused it, and why, for those who may know.
    pub fn by(&self) -> String {
        let reason = self.reason;
        match self.rule {
            Some(rule) => match &rule.problem {
                Some(problem) => format!("{rule}: {reason}: {problem}"),
                None => format!("{rule}: {reason}"),
            },
            None => format!("RequestAuthentication: {reason}"),
        }
    }
}

impl Authentication {
    /// From rules; `None`: there are none.
    pub fn new(rules: impl IntoIterator<Item = impl Into<Arc<JwtRule>>>) -> Option<Self> {
        let rules: Vec<Arc<JwtRule>> = rules.into_iter().map(Into::into).collect();
        let mut places: Vec<Place> = Vec::new();
        let (mut known, mut own) = (HashSet::new(), HashSet::new());
        for rule in &rules {
            let new = rule.places.iter().filter(|place| known.insert(*place));
            places.extend(new.cloned());
            own.extend(rule.payload_header.iter().cloned());
            own.extend(rule.claim_headers.iter().map(|(name, _)| name.clone()));
        }
        let mut own_headers: Vec<HeaderName> = own.into_iter().collect();
        own_headers.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        let of_header = |place: &Place| match place {
            Place::Header { name, .. } => Some(name.clone()),
            Place::Parameter(_) | Place::Cookie(_) => None,
        };
        let token_headers = places.iter().filter_map(of_header).collect();
        (!rules.is_empty()).then_some(Self {
            rules,
            places,
            own_headers,
            token_headers,
        })
    }

    /// The same with the keys that were known before where nobody has fetched them
    /// since: a controller that has just started may have none yet, and the issuer may
    /// be away.
    #[must_use]
    pub fn with_keys_of(&self, before: &Self) -> Self {
        let mut same = self.clone();
        for rule in &mut same.rules {
            if !rule.keys.is_empty() || rule.keys_from.is_empty() {
                continue;
            }
            let known = before
                .rules
                .iter()
                .find(|old| old.keys_from == rule.keys_from && old.issuer == rule.issuer);
            if let Some(known) = known.filter(|known| !known.keys.is_empty()) {
                let rule = Arc::make_mut(rule);
                rule.keys.clone_from(&known.keys);
                rule.problem = None;
            }
        }
        same
    }

    /// The rules, in the order they are asked.
    pub fn rules(&self) -> &[Arc<JwtRule>] {
        &self.rules
    }

    /// Where tokens are looked for.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// Headers that say what a token says: a caller's own are worth nothing.
    pub fn own_headers(&self) -> &[HeaderName] {
        &self.own_headers
    }

    /// Reports whether some application reads a name as that of a header that only the
    /// sidecar may write, or that a token is looked for in: none of them comes behind a body.
    pub fn owns(&self, name: &HeaderName) -> bool {
        let mut known = self.own_headers.iter().chain(&self.token_headers);
        known.any(|known| field::reads_as(name.as_str(), known.as_str()))
    }

    /// Reports whether a name in a head is one of those, but not that of a token's header.
    fn is_foreign(&self, name: &HeaderName) -> bool {
        self.owns(name) && !self.token_headers.contains(name)
    }

    /// The request's token, not looked into yet.
    ///
    /// # Errors
    /// It has more than one, or one that is too long.
    pub fn find<'r>(
        &self,
        headers: &'r HeaderMap,
        query: Option<&'r str>,
    ) -> Result<Option<Found<'r>>, Refusal<'_>> {
        let mut found: Option<Found<'r>> = None;
        let refused = |reason| Refusal { reason, rule: None };
        for (at, place) in self.places.iter().enumerate() {
            for text in place.tokens(headers, query) {
                match &mut found {
                    None => {
                        let at = vec![at];
                        found = Some(Found { text, at });
                    }
                    // The same one in another place is one token still.
                    Some(found) if found.text == text && !found.at.contains(&at) => {
                        found.at.push(at);
                    }
                    Some(_) => return Err(refused(Reason::Several)),
                }
            }
        }
        match found {
            Some(found) if found.text.len() > LONGEST_TOKEN => Err(refused(Reason::TooLong)),
            found => Ok(found),
        }
    }

    /// Whether a rule looks for tokens in all of these places.
    pub fn looks_at(&self, rule: usize, places: &[usize]) -> bool {
        let Some(rule) = self.rules.get(rule) else {
            return false;
        };
        let mut places = places.iter().filter_map(|at| self.places.get(*at));
        places.all(|place| rule.places.contains(place))
    }

    /// Checks a token at a time, seconds since 1970.
    ///
    /// # Errors
    /// No rule takes it.
    pub fn check(
        &self,
        found: &Found<'_>,
        now: u64,
        verifier: &impl Verifier,
    ) -> Result<Token, Refusal<'_>> {
        let refused = |reason, rule| Refusal { reason, rule };
        let parts = Parts::read(&found.text).map_err(|reason| refused(reason, None))?;
        let issuer = parts.claims.text("iss").unwrap_or_default();
        let mut first = None;
        for (at, rule) in self.rules.iter().enumerate() {
            if rule.issuer.is_empty() || rule.issuer != issuer || !self.looks_at(at, &found.at) {
                continue;
            }
            match rule.refuses(at, &parts, now, verifier) {
                None => return Ok(Token::of(at, rule, &parts)),
                Some(reason) => {
                    first.get_or_insert(refused(reason, Some(rule)));
                }
            }
        }
        Err(first.unwrap_or_else(|| {
            // A policy that could not be compiled may have had a rule for it.
            let stands_in = |rule: &&Arc<JwtRule>| rule.issuer.is_empty();
            match self.rules.iter().find(stands_in) {
                Some(rule) => refused(Reason::NoKeys, Some(rule)),
                None => refused(Reason::Issuer, None),
            }
        }))
    }

    /// Gives a request's headers what the application is to see of its token, which
    /// was found at these places, and takes from them what only the sidecar may say.
    pub fn edit(&self, headers: &mut HeaderMap, token: Option<(&Token, &[usize])>) {
        for name in &self.own_headers {
            headers.remove(name);
        }
        let shadows = headers.keys().filter(|name| self.is_foreign(name));
        for name in shadows.cloned().collect::<Vec<_>>() {
            headers.remove(name);
        }
        let Some((token, at)) = token else {
            return;
        };
        if self.removes(token) {
            for place in at.iter().filter_map(|at| self.places.get(*at)) {
                place.clear(headers);
            }
        }
        for (name, value) in &token.headers {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.insert(name, value);
            }
        }
    }

    /// A query without the token, where it must not be forwarded; `None`: it stays
    /// as it is.
    pub fn edited_query(&self, query: &str, token: &Token, at: &[usize]) -> Option<String> {
        if !self.removes(token) {
            return None;
        }
        let names = at.iter().filter_map(|at| match self.places.get(*at)? {
            Place::Parameter(name) => Some(name.as_str()),
            _ => None,
        });
        let names: Vec<&str> = names.collect();
        (!names.is_empty()).then(|| place::without_parameters(query, &names))
    }

    fn removes(&self, token: &Token) -> bool {
        self.rules.get(token.rule).is_some_and(|rule| !rule.forward)
    }
}

impl JwtRule {
    /// Why it does not take a token of its issuer; `None`: it does.
    fn refuses(
        &self,
        at: usize,
        parts: &Parts<'_>,
        now: u64,
        verifier: &impl Verifier,
    ) -> Option<Reason> {
        if self.keys.is_empty() {
            return Some(Reason::NoKeys);
        }
        if let Err(reason) = parts.claims.is_timely(now) {
            return Some(reason);
        }
        if !self.audiences.is_empty() && !parts.claims.is_for(&self.audiences) {
            return Some(Reason::Audience);
        }
        let Some(algorithm) = Algorithm::named(&parts.algorithm) else {
            return Some(Reason::Algorithm);
        };
        let mut reason = Reason::NoSuchKey;
        for (position, key) in self.keys.iter().enumerate() {
            if !key.is_for(parts.key_id.as_deref(), algorithm) {
                continue;
            }
            if verifier.verifies(at, position, algorithm, parts.message, parts.signature) {
                return None;
            }
            reason = Reason::Signature;
        }
        Some(reason)
    }
}

#[cfg(test)]
mod tests;
