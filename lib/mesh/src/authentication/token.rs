//! A token: its parts as they were sent, and its claims once it is accepted.

use super::{CLOCK_SKEW, JwtRule, Reason};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderName;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Claims whose text is a list separated by spaces, as in Istio.
pub const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];

/// What a token claims.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
#[serde(transparent)]
pub struct Claims(Map<String, Value>);

impl Claims {
    /// From what a payload holds.
    pub fn new(claims: Map<String, Value>) -> Self {
        Self(claims)
    }

    /// A claim that is text.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// Whether a claim, or a member of one, is text that fits or a list with such
    /// text in it. Whatever else it is fits nothing, as in Istio.
    pub fn any(&self, path: &[String], fits: impl Fn(&str) -> bool) -> bool {
        let Some((first, rest)) = path.split_first() else {
            return false;
        };
        let mut value = self.0.get(first);
        for name in rest {
            value = value.and_then(|value| value.as_object()?.get(name));
        }
        match value {
            Some(Value::String(text)) => fits(text),
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).any(fits),
            _ => false,
        }
    }

    /// A claim by its name, or by the names on the way to it with dots between.
    fn named(&self, name: &str) -> Option<&Value> {
        if let Some(value) = self.0.get(name) {
            return Some(value);
        }
        let mut names = name.split('.');
        let first = self.0.get(names.next()?)?;
        names.try_fold(first, |value, name| value.as_object()?.get(name))
    }

    /// Whether it is neither too early nor too late for them.
    pub(super) fn is_timely(&self, now: u64) -> Result<(), Reason> {
        if self.moment("exp")?.is_some_and(|exp| now > later(exp)) {
            return Err(Reason::Expired);
        }
        if self.moment("nbf")?.is_some_and(|nbf| later(now) < nbf) {
            return Err(Reason::NotYet);
        }
        Ok(())
    }

    /// A NumericDate, whole seconds; what is none can't be kept to.
    fn moment(&self, name: &str) -> Result<Option<u64>, Reason> {
        let Some(value) = self.0.get(name) else {
            return Ok(None);
        };
        if let Some(seconds) = value.as_u64() {
            return Ok(Some(seconds));
        }
        match value.as_f64() {
            // Cut to range: a date that far is as good as the last one.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            Some(seconds) => Ok(Some(seconds.max(0.0) as u64)),
            None => Err(Reason::Malformed),
        }
    }

    /// Whether they are for one of these audiences.
    pub(super) fn is_for(&self, audiences: &[String]) -> bool {
        let aud = ["aud".to_owned()];
        self.any(&aud, |text| audiences.iter().any(|known| known == text))
    }

    /// Turns lists separated by spaces into lists.
    fn split(&mut self, more: &[String]) {
        let more = more.iter().map(String::as_str);
        for name in SPACE_DELIMITED.into_iter().chain(more) {
            if let Some(claim) = self.0.get_mut(name)
                && let Value::String(text) = claim
            {
                let words = text.split_ascii_whitespace().map(Value::from).collect();
                *claim = Value::Array(words);
            }
        }
    }
}

/// A moment with the skew of clocks.
fn later(seconds: u64) -> u64 {
    seconds.saturating_add(CLOCK_SKEW)
}

/// A token as it was sent: nothing in it has been checked.
pub(super) struct Parts<'t> {
    /// What was signed.
    pub(super) message: &'t [u8],
    /// base64url.
    pub(super) signature: &'t str,
    payload: &'t str,
    pub(super) algorithm: String,
    pub(super) key_id: Option<String>,
    pub(super) claims: Claims,
}

/// A JOSE header (RFC 7515, 4.1), as far as it matters.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

impl<'t> Parts<'t> {
    pub(super) fn read(text: &'t str) -> Result<Self, Reason> {
        let (message, signature) = text.rsplit_once('.').ok_or(Reason::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(Reason::Malformed)?;
        let header: Header = json(header)?;
        if header.crit.is_some() {
            return Err(Reason::Critical);
        }
        Ok(Self {
            message: message.as_bytes(),
            signature,
            payload,
            algorithm: header.alg,
            key_id: header.kid,
            claims: Claims(json(payload)?),
        })
    }
}

fn json<T: serde::de::DeserializeOwned>(part: &str) -> Result<T, Reason> {
    let bytes = URL_SAFE_NO_PAD.decode(part);
    serde_json::from_slice(&bytes.map_err(|_| Reason::Malformed)?).map_err(|_| Reason::Malformed)
}

/// A token that a rule has accepted.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// The rule's position.
    pub rule: usize,
    /// `<issuer>/<subject>`; a token without a subject is nobody's.
    pub principal: Option<String>,
    /// What it claims.
    pub claims: Claims,
    /// What the application is told of it.
    pub headers: Vec<(HeaderName, Vec<u8>)>,
}

impl Token {
    pub(super) fn of(at: usize, rule: &JwtRule, parts: &Parts<'_>) -> Self {
        let mut claims = parts.claims.clone();
        let payload = rule.payload_header.iter();
        let payload = payload.map(|name| (name.clone(), parts.payload.as_bytes().to_vec()));
        let single = rule.claim_headers.iter().filter_map(|(name, claim)| {
            let value = match claims.named(claim)? {
                Value::String(text) => text.clone(),
                Value::Bool(flag) => flag.to_string(),
                Value::Number(number) => number.to_string(),
                _ => return None,
            };
            Some((name.clone(), value.into_bytes()))
        });
        let headers = payload.chain(single).collect();
        claims.split(&rule.space_delimited);
        Self {
            rule: at,
            ..Self::claiming(claims, headers)
        }
    }

    fn claiming(claims: Claims, headers: Vec<(HeaderName, Vec<u8>)>) -> Self {
        let part = |name| claims.text(name).filter(|text| !text.is_empty());
        let principal = part("iss").zip(part("sub"));
        Self {
            rule: 0,
            principal: principal.map(|(issuer, subject)| format!("{issuer}/{subject}")),
            claims,
            headers,
        }
    }

    /// Whether it is still in its time.
    pub fn is_timely(&self, now: u64) -> bool {
        self.claims.is_timely(now).is_ok()
    }
}

/// A token that claims this, for what is asked without one.
impl From<Claims> for Token {
    fn from(mut claims: Claims) -> Self {
        claims.split(&[]);
        Self::claiming(claims, Vec::new())
    }
}
