//! RequestAuthentication: whose tokens workloads take.
//!
//! A policy that can't be compiled must not let through the tokens it was written
//! to refuse: without a good version of it, [`closed`] refuses all that are found
//! where it looks. Keys that have to be fetched are the index's to add.

use super::{Note, Target, limits, spec, virtual_service::duration};
use crate::{
    object::Configuration,
    resource::{self, RequestAuthenticationSpec},
};
use http::{HeaderName, Uri, header, uri::Scheme};
use linnet_mesh::{
    ResourceRef,
    authentication::{JwtRule, Place, jwk},
};
use serde_json::Value;
use std::{fmt, sync::Arc, time::Duration};

/// How long fetching keys may take where nobody says: Istio's figure.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that somebody may say.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(30);
/// A shorter one would only ask again and again.
const LEAST_TIMEOUT: Duration = Duration::from_secs(1);
/// Where an issuer says where its keys are (OpenID Connect Discovery 1.0, 4).
const OPENID: &str = "/.well-known/openid-configuration";

/// Rules and the workloads they are for.
#[derive(Clone, Debug, PartialEq)]
pub struct RequestAuthentication {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The workloads meant.
    pub target: Target,
    /// What it says.
    pub rules: Vec<TokenRule>,
    /// It stands in for one that can't be compiled.
    pub stand_in: bool,
}

/// A rule and where its keys come from.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRule {
    /// The rule, with the keys that it brings.
    pub rule: Arc<JwtRule>,
    /// Its keys.
    pub keys: Keys,
}

/// Where a rule's keys come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Keys {
    /// The rule brings them, or has none.
    Own,
    /// They are fetched.
    Fetched(KeySource),
}

/// Where keys are fetched.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeySource {
    /// An `http` or `https` URL.
    pub url: Arc<str>,
    /// It says where the keys are, and does not hold them.
    pub openid: bool,
    /// How long it may take.
    pub timeout: Duration,
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.url)
    }
}

impl RequestAuthentication {
    /// Where its keys are fetched.
    pub fn key_sources(&self) -> impl Iterator<Item = (usize, &KeySource)> {
        self.rules.iter().filter_map(|rule| match &rule.keys {
            Keys::Fetched(source) => Some((rule.rule.position, source)),
            Keys::Own => None,
        })
    }
}

pub(super) fn compile(
    configuration: &Configuration,
    notes: &mut Vec<Note>,
) -> Result<RequestAuthentication, Vec<Note>> {
    let (spec, unknown) = spec::read::<RequestAuthenticationSpec>(&configuration.spec)?;
    let mut errors = Vec::new();
    let target = Target::read(
        spec.selector.as_ref(),
        (&spec.target_refs, spec.target_ref.as_ref()),
        configuration,
        notes,
        &mut errors,
    );
    if spec.jwt_rules.is_empty() {
        notes.push(Note::new(
            "spec.jwtRules",
            "is empty, so the policy looks for no tokens",
        ));
    }
    let source = ResourceRef::from(&configuration.reference());
    let rules = spec.jwt_rules.iter().enumerate();
    let rules = rules
        .map(|(position, rule)| {
            let mut reader = Reader {
                field: format!("spec.jwtRules[{position}]"),
                notes,
                errors: &mut errors,
            };
            reader.rule(source.clone(), position, rule)
        })
        .collect();
    notes.extend(unknown.into_iter().map(Note::not_honoured));
    if !errors.is_empty() {
        return Err(errors);
    }
    Ok(RequestAuthentication {
        namespace: configuration.name.namespace.clone(),
        target,
        rules,
        stand_in: false,
    })
}

/// Reads a rule, and notes what is wrong with it.
struct Reader<'a> {
    field: String,
    notes: &'a mut Vec<Note>,
    errors: &'a mut Vec<Note>,
}

impl Reader<'_> {
    fn error(&mut self, name: &str, text: impl Into<String>) {
        self.errors
            .push(Note::new(format!("{}.{name}", self.field), text));
    }

    fn note(&mut self, name: &str, text: impl Into<String>) {
        self.notes
            .push(Note::new(format!("{}.{name}", self.field), text));
    }

    fn rule(
        &mut self,
        source: ResourceRef,
        position: usize,
        rule: &resource::JwtRule,
    ) -> TokenRule {
        if rule.issuer.is_empty() {
            self.error(
                "issuer",
                "is missing: name who signs the tokens, the claim iss",
            );
        }
        for (name, list) in [
            ("audiences", &rule.audiences),
            ("fromParams", &rule.from_params),
            ("fromCookies", &rule.from_cookies),
            ("spaceDelimitedClaims", &rule.space_delimited_claims),
        ] {
            for (at, _) in list.iter().enumerate().filter(|(_, text)| text.is_empty()) {
                self.error(&format!("{name}[{at}]"), "is empty");
            }
        }
        let places = self.places(rule);
        let payload_header = rule.output_payload_to_header.as_deref();
        let payload_header =
            payload_header.and_then(|name| self.output("outputPayloadToHeader", name));
        let claim_headers = rule.output_claim_to_headers.iter().enumerate();
        let claim_headers = claim_headers
            .filter_map(|(at, output)| {
                let field = format!("outputClaimToHeaders[{at}]");
                if output.claim.is_empty() {
                    self.error(&format!("{field}.claim"), "is missing");
                }
                let name = self.output(&format!("{field}.header"), &output.header)?;
                Some((name, output.claim.clone()))
            })
            .collect();
        let mut keys = Keys::Own;
        let mut own = Vec::new();
        let timeout = self.timeout(rule);
        match (&rule.jwks, &rule.jwks_uri) {
            (Some(_), Some(_)) => {
                self.error("jwksUri", "stands beside jwks; a rule has one of them");
            }
            (Some(jwks), None) => own = self.inline(jwks),
            (None, uri) => {
                if let Some(source) = self.key_source(uri.as_deref(), &rule.issuer, timeout) {
                    keys = Keys::Fetched(source);
                }
            }
        }
        if rule.jwks.is_some() && rule.timeout.is_some() {
            self.note("timeout", "has no effect: there is nothing to fetch");
        }
        let origin = match &keys {
            Keys::Fetched(source) => source.to_string(),
            Keys::Own => String::new(),
        };
        TokenRule {
            rule: Arc::new(JwtRule {
                source,
                position,
                issuer: rule.issuer.clone(),
                audiences: rule.audiences.clone(),
                keys: own,
                keys_from: origin,
                problem: None,
                places,
                forward: rule.forward_original_token.unwrap_or_default(),
                payload_header,
                claim_headers,
                space_delimited: rule.space_delimited_claims.clone(),
            }),
            keys,
        }
    }

    fn places(&mut self, rule: &resource::JwtRule) -> Vec<Place> {
        let mut places = Vec::new();
        for (at, header) in rule.from_headers.iter().enumerate() {
            match HeaderName::from_bytes(header.name.as_bytes()) {
                Ok(name) => places.push(Place::Header {
                    name,
                    prefix: header.prefix.clone(),
                }),
                Err(_) => self.error(
                    &format!("fromHeaders[{at}].name"),
                    format!("{:?} is not a header's name", header.name),
                ),
            }
        }
        places.extend(rule.from_params.iter().cloned().map(Place::Parameter));
        places.extend(rule.from_cookies.iter().cloned().map(Place::Cookie));
        if places.is_empty() {
            return Place::defaults();
        }
        places
    }

    /// A header that the application gets; not one that HTTP or the sidecar needs.
    fn output(&mut self, field: &str, text: &str) -> Option<HeaderName> {
        const TAKEN: [HeaderName; 10] = [
            header::HOST,
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::TE,
            header::TRAILER,
            header::UPGRADE,
            header::EXPECT,
            header::COOKIE,
            HeaderName::from_static("x-forwarded-client-cert"),
        ];
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(name) if TAKEN.contains(&name) => {
                self.error(field, format!("{name} is not for a policy to write"));
                None
            }
            Ok(name) => Some(name),
            Err(_) => {
                self.error(field, format!("{text:?} is not a header's name"));
                None
            }
        }
    }

    fn inline(&mut self, jwks: &str) -> Vec<jwk::Jwk> {
        match jwk::read(jwks.as_bytes()) {
            Ok((keys, notes)) => {
                for note in notes {
                    self.note("jwks", note);
                }
                keys
            }
            Err(error) => {
                self.error("jwks", error.to_string());
                Vec::new()
            }
        }
    }

    fn timeout(&mut self, rule: &resource::JwtRule) -> Duration {
        let Some(text) = &rule.timeout else {
            return FETCH_TIMEOUT;
        };
        match duration::parse(text) {
            Ok(timeout) if timeout.is_zero() => self.error("timeout", "must be more than 0"),
            Ok(timeout) if timeout > LONGEST_TIMEOUT => {
                self.note("timeout", format!("{LONGEST_TIMEOUT:?} is the most"));
                return LONGEST_TIMEOUT;
            }
            Ok(timeout) if timeout < LEAST_TIMEOUT => {
                self.note("timeout", format!("{LEAST_TIMEOUT:?} is the least"));
                return LEAST_TIMEOUT;
            }
            Ok(timeout) => return timeout,
            Err(error) => self.error("timeout", error),
        }
        FETCH_TIMEOUT
    }

    fn key_source(
        &mut self,
        uri: Option<&str>,
        issuer: &str,
        timeout: Duration,
    ) -> Option<KeySource> {
        let openid = uri.is_none();
        let url = match uri {
            Some(uri) => uri.to_owned(),
            None if issuer.is_empty() => return None,
            None => format!("{}{OPENID}", issuer.trim_end_matches('/')),
        };
        let field = if openid { "issuer" } else { "jwksUri" };
        match scheme(&url) {
            Ok(secure) => {
                if !secure {
                    self.note(
                        field,
                        "is fetched without TLS: whoever can change that answer decides whose tokens count",
                    );
                }
                Some(KeySource {
                    url: url.into(),
                    openid,
                    timeout,
                })
            }
            Err(reason) if openid => {
                self.error(
                    "jwks",
                    format!("is missing, as is jwksUri, and the issuer {reason}"),
                );
                None
            }
            Err(reason) => {
                self.error(field, reason);
                None
            }
        }
    }
}

/// Whether a URL to fetch from has TLS.
///
/// # Errors
/// It is not one to fetch from.
pub(crate) fn scheme(url: &str) -> Result<bool, String> {
    let wrong = || format!("{url:?} is not a URL of the form https://host/path");
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let authority = uri.authority().ok_or_else(wrong)?;
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return Err(wrong());
    }
    match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => Ok(true),
        Some(scheme) if *scheme == Scheme::HTTP => Ok(false),
        _ => Err(wrong()),
    }
}

/// Leaves so many places as what stands in for a policy may have: a resource that is refused
/// for its size must not take that size all the same.
fn bound(places: &mut Vec<Place>) {
    let mut left = limits::STAND_IN;
    places.truncate(limits::ENTRIES);
    places.retain(|place| {
        let length = match place {
            Place::Header { name, prefix } => name.as_str().len() + prefix.len(),
            Place::Parameter(name) | Place::Cookie(name) => name.len(),
        };
        let fits = length <= left;
        left = left.saturating_sub(length);
        fits
    });
    places.shrink_to_fit();
}

/// What stands in for a policy that can't be compiled: it refuses every token in
/// the usual places, and in those that it names as far as they can be read.
pub(super) fn closed(configuration: &Configuration) -> RequestAuthentication {
    let spec = &configuration.spec;
    let source = ResourceRef::from(&configuration.reference());
    let problem = "the policy can't be read".to_owned();
    let mut rule = JwtRule::refusing(source, 0, problem);
    let rules = spec.get("jwtRules").and_then(Value::as_array);
    for written in rules.into_iter().flatten() {
        let texts = |name| {
            let list = written.get(name).and_then(Value::as_array);
            list.into_iter().flatten()
        };
        let headers = texts("fromHeaders").filter_map(|header| {
            let name = header.get("name")?.as_str()?;
            let prefix = header.get("prefix").and_then(Value::as_str);
            Some(Place::Header {
                name: HeaderName::from_bytes(name.as_bytes()).ok()?,
                prefix: prefix.unwrap_or_default().to_owned(),
            })
        });
        rule.places.extend(headers);
        let named = |name| texts(name).filter_map(Value::as_str).map(str::to_owned);
        rule.places
            .extend(named("fromParams").map(Place::Parameter));
        rule.places.extend(named("fromCookies").map(Place::Cookie));
    }
    bound(&mut rule.places);
    RequestAuthentication {
        namespace: configuration.name.namespace.clone(),
        target: Target::readable(spec),
        rules: vec![TokenRule {
            rule: Arc::new(rule),
            keys: Keys::Own,
        }],
        stand_in: true,
    }
}
