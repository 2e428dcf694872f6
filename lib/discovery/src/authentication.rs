//! RequestAuthentications on the wire: keys go as numbers and points, already
//! looked through, and are checked once more on their way in.

use crate::{
    DecodeError,
    decode::{Result, all, non_empty, parse, required},
    proto,
};
use http::HeaderName;
use linnet_mesh::authentication::{Algorithm, Authentication, Jwk, JwtRule, Place, PublicKey};
use std::sync::Arc;

pub(super) fn decode(messages: Vec<proto::JwtRule>) -> Result<Option<Arc<Authentication>>> {
    Ok(Authentication::new(all::<JwtRule, _>(messages)?).map(Arc::new))
}

impl TryFrom<proto::JwtRule> for JwtRule {
    type Error = DecodeError;

    fn try_from(message: proto::JwtRule) -> Result<Self> {
        let claim_headers = message.claim_headers.into_iter();
        let claim_headers = claim_headers.map(|header| {
            let name: HeaderName = parse("authentication.claim_headers.name", &header.name)?;
            Ok((name, header.claim))
        });
        let payload_header = non_empty(message.payload_header);
        let payload_header = payload_header
            .map(|name| parse("authentication.payload_header", &name))
            .transpose()?;
        Ok(Self {
            source: required("authentication.source", message.source)?.into(),
            // A place that this machine can't count to is none.
            position: usize::try_from(message.position).unwrap_or(usize::MAX),
            issuer: message.issuer,
            audiences: message.audiences,
            keys: all(message.keys)?,
            keys_from: message.keys_from,
            problem: non_empty(message.problem),
            places: all(message.places)?,
            forward: message.forward,
            payload_header,
            claim_headers: claim_headers.collect::<Result<_>>()?,
            space_delimited: message.space_delimited,
        })
    }
}

impl TryFrom<proto::TokenPlace> for Place {
    type Error = DecodeError;

    fn try_from(message: proto::TokenPlace) -> Result<Self> {
        use proto::token_place::Kind;
        Ok(match required("authentication.places", message.kind)? {
            Kind::Header(header) => Self::Header {
                name: parse("authentication.places.header.name", &header.name)?,
                prefix: header.prefix,
            },
            Kind::Parameter(name) => Self::Parameter(name),
            Kind::Cookie(name) => Self::Cookie(name),
        })
    }
}

impl TryFrom<proto::Jwk> for Jwk {
    type Error = DecodeError;

    fn try_from(message: proto::Jwk) -> Result<Self> {
        use proto::jwk::Key;
        let key = match required("authentication.keys", message.key)? {
            Key::Rsa(rsa) => PublicKey::rsa(&rsa.modulus, &rsa.exponent),
            Key::Curve(curve) => PublicKey::on(&curve.name, curve.point),
        };
        let algorithm = non_empty(message.algorithm).map(|name| {
            Algorithm::named(&name).ok_or_else(|| DecodeError {
                field: "authentication.keys.algorithm",
                reason: format!("{name:?} is not an algorithm"),
            })
        });
        Ok(Self {
            id: non_empty(message.id),
            algorithm: algorithm.transpose()?,
            key: key.map_err(|error| DecodeError {
                field: "authentication.keys",
                reason: error.to_string(),
            })?,
        })
    }
}

impl From<&JwtRule> for proto::JwtRule {
    fn from(rule: &JwtRule) -> Self {
        let header = |(name, claim): &(HeaderName, String)| proto::ClaimHeader {
            name: name.to_string(),
            claim: claim.clone(),
        };
        let payload_header = rule.payload_header.as_ref();
        Self {
            source: Some((&rule.source).into()),
            position: u32::try_from(rule.position).unwrap_or(u32::MAX),
            issuer: rule.issuer.clone(),
            audiences: rule.audiences.clone(),
            keys: rule.keys.iter().map(Into::into).collect(),
            keys_from: rule.keys_from.clone(),
            problem: rule.problem.clone().unwrap_or_default(),
            places: rule.places.iter().map(Into::into).collect(),
            forward: rule.forward,
            payload_header: payload_header.map(ToString::to_string).unwrap_or_default(),
            claim_headers: rule.claim_headers.iter().map(header).collect(),
            space_delimited: rule.space_delimited.clone(),
        }
    }
}

impl From<&Place> for proto::TokenPlace {
    fn from(place: &Place) -> Self {
        use proto::token_place::Kind;
        let kind = match place {
            Place::Header { name, prefix } => Kind::Header(proto::TokenHeader {
                name: name.to_string(),
                prefix: prefix.clone(),
            }),
            Place::Parameter(name) => Kind::Parameter(name.clone()),
            Place::Cookie(name) => Kind::Cookie(name.clone()),
        };
        Self { kind: Some(kind) }
    }
}

impl From<&Jwk> for proto::Jwk {
    fn from(jwk: &Jwk) -> Self {
        use proto::jwk::Key;
        let key = match &jwk.key {
            PublicKey::Rsa { modulus, exponent } => Key::Rsa(proto::RsaKey {
                modulus: modulus.clone(),
                exponent: exponent.clone(),
            }),
            key => Key::Curve(proto::CurveKey {
                name: key.curve().to_owned(),
                point: key.point().to_vec(),
            }),
        };
        Self {
            id: jwk.id.clone().unwrap_or_default(),
            algorithm: jwk.algorithm.map_or("", Algorithm::as_str).to_owned(),
            key: Some(key),
        }
    }
}

#[cfg(test)]
mod tests;
