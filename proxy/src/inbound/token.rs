//! Tokens: found in a request, checked against the workload's rules, and
//! remembered as long as they hold.
//!
//! A data thread remembers what it has accepted by the token's SHA-256, so that a
//! client that sends the same token again costs a digest and not a signature. What
//! is remembered belongs to one set of rules and keys: where the controller says
//! otherwise it is forgotten as a whole, and each use looks at the clock.

use aws_lc_rs::digest;
use http::{HeaderMap, Request, Uri};
use jsonwebtoken::{Algorithm as Signing, DecodingKey, crypto};
use linnet_mesh::authentication::{
    Algorithm, Authentication, Found, Jwk, PublicKey, Reason, Refusal, Token, Verifier,
};
use metrics::Counter;
use std::{
    cell::{OnceCell, RefCell},
    collections::HashMap,
    mem,
    rc::Rc,
    sync::Arc,
    time::SystemTime,
};

/// Tokens that a data thread remembers, in each of two generations: when the
/// younger one is full the older one is forgotten.
const GENERATION: usize = 512;

type Digest = [u8; digest::SHA256_OUTPUT_LEN];

/// A data thread's tokens.
#[derive(Default)]
pub(crate) struct Tokens {
    known: RefCell<Option<Known>>,
    accepted: OnceCell<Counter>,
}

/// What is known by one set of rules.
struct Known {
    rules: Arc<Authentication>,
    keys: Keys,
    young: HashMap<Digest, Rc<Token>>,
    old: HashMap<Digest, Rc<Token>>,
}

/// The rules' keys, as the library wants them.
struct Keys(Vec<Vec<DecodingKey>>);

/// A request's token, accepted.
pub(crate) struct Accepted {
    pub(crate) token: Rc<Token>,
    /// The places it was found in.
    at: Vec<usize>,
}

/// A token that no rule takes.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    /// Which rule said so.
    pub(crate) by: String,
}

impl From<Refusal<'_>> for Refused {
    fn from(refusal: Refusal<'_>) -> Self {
        Self {
            reason: refusal.reason,
            by: refusal.by(),
        }
    }
}

impl Tokens {
    /// Looks at a request's token; `None`: it has none.
    ///
    /// # Errors
    /// It has one that no rule takes.
    pub(crate) fn authenticate<B>(
        &self,
        rules: &Arc<Authentication>,
        request: &Request<B>,
    ) -> Result<Option<Accepted>, Refused> {
        let query = request.uri().query();
        let accepted = self.accept(rules, request.headers(), query, now());
        match &accepted {
            Ok(Some(_)) => self.accepted.get_or_init(|| count("accepted")).increment(1),
            Ok(None) => {}
            Err(refused) => count(word(refused.reason)).increment(1),
        }
        accepted
    }

    fn accept(
        &self,
        rules: &Arc<Authentication>,
        headers: &HeaderMap,
        query: Option<&str>,
        now: u64,
    ) -> Result<Option<Accepted>, Refused> {
        let Some(found) = rules.find(headers, query)? else {
            return Ok(None);
        };
        let mut known = self.known.borrow_mut();
        if !known.as_mut().is_some_and(|known| known.is_by(rules)) {
            *known = None;
        }
        let known = known.get_or_insert_with(|| Known::new(rules.clone()));
        let token = known.token(&found, now)?;
        let at = found.at;
        Ok(Some(Accepted { token, at }))
    }
}

impl Known {
    fn new(rules: Arc<Authentication>) -> Self {
        Self {
            keys: Keys::of(&rules),
            rules,
            young: HashMap::new(),
            old: HashMap::new(),
        }
    }

    /// Whether it is by these rules. An update of something else brings the same
    /// rules once more; then they are compared once.
    fn is_by(&mut self, rules: &Arc<Authentication>) -> bool {
        if Arc::ptr_eq(&self.rules, rules) {
            return true;
        }
        let same = self.rules == *rules;
        if same {
            self.rules = rules.clone();
        }
        same
    }

    fn token(&mut self, found: &Found<'_>, now: u64) -> Result<Rc<Token>, Refused> {
        let digest = sha256(found.text.as_bytes());
        if let Some(known) = self.recall(&digest)
            && known.is_timely(now)
            && self.rules.looks_at(known.rule, &found.at)
        {
            return Ok(known);
        }
        let token = Rc::new(self.rules.check(found, now, &self.keys)?);
        self.remember(digest, token.clone());
        Ok(token)
    }

    fn recall(&mut self, digest: &Digest) -> Option<Rc<Token>> {
        if let Some(known) = self.young.get(digest) {
            return Some(known.clone());
        }
        let known = self.old.remove(digest)?;
        self.remember(*digest, known.clone());
        Some(known)
    }

    fn remember(&mut self, digest: Digest, token: Rc<Token>) {
        if self.young.len() >= GENERATION {
            self.old = mem::take(&mut self.young);
        }
        self.young.insert(digest, token);
    }
}

/// Makes of a request what the application is to see, with its token or without one.
pub(crate) fn edit<B>(rules: &Authentication, token: Option<&Accepted>, request: &mut Request<B>) {
    let Some(Accepted { token, at }) = token else {
        return rules.edit(request.headers_mut(), None);
    };
    rules.edit(request.headers_mut(), Some((token, at)));
    let query = request.uri().query();
    let edited = query.and_then(|query| rules.edited_query(query, token, at));
    if let Some(query) = edited
        && let Some(uri) = with_query(request.uri(), &query)
    {
        *request.uri_mut() = uri;
    }
}

fn with_query(uri: &Uri, query: &str) -> Option<Uri> {
    let path = uri.path();
    let path = if query.is_empty() {
        path.to_owned()
    } else {
        format!("{path}?{query}")
    };
    let mut parts = uri.clone().into_parts();
    // A part of what was a valid one is valid.
    parts.path_and_query = Some(path.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// What rules say of a request's headers and query, remembering nothing.
///
/// # Errors
/// It has a token that no rule takes.
pub(crate) fn look(
    rules: &Authentication,
    headers: &HeaderMap,
    query: Option<&str>,
) -> Result<Option<Token>, Refused> {
    let Some(found) = rules.find(headers, query)? else {
        return Ok(None);
    };
    Ok(Some(rules.check(&found, now(), &Keys::of(rules))?))
}

impl Keys {
    fn of(rules: &Authentication) -> Self {
        let keys = |keys: &[Jwk]| keys.iter().map(|jwk| decoding(&jwk.key)).collect();
        Self(rules.rules().iter().map(|rule| keys(&rule.keys)).collect())
    }
}

fn decoding(key: &PublicKey) -> DecodingKey {
    match key {
        PublicKey::Rsa { modulus, exponent } => {
            DecodingKey::from_rsa_raw_components(modulus, exponent)
        }
        PublicKey::P256(point) | PublicKey::P384(point) => DecodingKey::from_ec_der(point),
        PublicKey::Ed25519(point) => DecodingKey::from_ed_der(point),
    }
}

impl Verifier for Keys {
    fn verifies(
        &self,
        rule: usize,
        key: usize,
        algorithm: Algorithm,
        message: &[u8],
        signature: &str,
    ) -> bool {
        let key = self.0.get(rule).and_then(|keys| keys.get(key));
        key.is_some_and(|key| {
            crypto::verify(signature, message, key, signing(algorithm)).unwrap_or(false)
        })
    }
}

const fn signing(algorithm: Algorithm) -> Signing {
    match algorithm {
        Algorithm::Rs256 => Signing::RS256,
        Algorithm::Rs384 => Signing::RS384,
        Algorithm::Rs512 => Signing::RS512,
        Algorithm::Ps256 => Signing::PS256,
        Algorithm::Ps384 => Signing::PS384,
        Algorithm::Ps512 => Signing::PS512,
        Algorithm::Es256 => Signing::ES256,
        Algorithm::Es384 => Signing::ES384,
        Algorithm::EdDsa => Signing::EdDSA,
    }
}

fn sha256(bytes: &[u8]) -> Digest {
    let mut out = Digest::default();
    out.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    out
}

/// Seconds since 1970. A clock before that finds no token valid yet.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn count(result: &'static str) -> Counter {
    metrics::counter!("linnet_tokens_total", "result" => result)
}

/// A refusal's word in metrics.
const fn word(reason: Reason) -> &'static str {
    match reason {
        Reason::Malformed | Reason::Critical => "malformed",
        Reason::TooLong => "too_long",
        Reason::Several => "several",
        Reason::Algorithm => "algorithm",
        Reason::Issuer => "issuer",
        Reason::NoKeys => "no_keys",
        Reason::Expired => "expired",
        Reason::NotYet => "not_yet",
        Reason::Audience => "audience",
        Reason::NoSuchKey => "no_such_key",
        Reason::Signature => "signature",
    }
}

#[cfg(test)]
pub(crate) mod tests;
