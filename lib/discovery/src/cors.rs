//! Who may call from a browser, in both directions of the conversion.

use crate::{
    DecodeError,
    decode::{Result, all, required},
    proto,
};
use http::HeaderValue;
use linnet_mesh::route::{Cors, OriginMatch, UnmatchedPreflights};

impl From<&Cors> for proto::Cors {
    fn from(cors: &Cors) -> Self {
        let list = |list: &Option<HeaderValue>| {
            list.as_ref()
                .map_or_else(Vec::new, |list| list.as_bytes().to_vec())
        };
        Self {
            origins: cors.origins.iter().map(Into::into).collect(),
            methods: list(&cors.methods),
            headers: list(&cors.headers),
            expose: list(&cors.expose),
            max_age_seconds: cors.max_age,
            credentials: cors.credentials,
            answer_unmatched: cors.unmatched == UnmatchedPreflights::Answer,
        }
    }
}

impl From<&OriginMatch> for proto::Origin {
    fn from(origin: &OriginMatch) -> Self {
        use proto::origin::Kind;
        Self {
            kind: Some(match origin {
                OriginMatch::Any => Kind::Any(proto::Any {}),
                OriginMatch::Text(condition) => Kind::Text(condition.into()),
                OriginMatch::Around(before, behind) => Kind::Around(proto::Around {
                    before: before.clone(),
                    behind: behind.clone(),
                }),
            }),
        }
    }
}

impl TryFrom<proto::Cors> for Cors {
    type Error = DecodeError;

    fn try_from(message: proto::Cors) -> Result<Self> {
        let list = |bytes: &[u8]| {
            if bytes.is_empty() {
                return Ok(None);
            }
            let value = HeaderValue::from_bytes(bytes).map_err(|error| DecodeError {
                field: "filters.cors",
                reason: error.to_string(),
            });
            value.map(Some)
        };
        Ok(Self {
            origins: all(message.origins)?,
            methods: list(&message.methods)?,
            headers: list(&message.headers)?,
            expose: list(&message.expose)?,
            max_age: message.max_age_seconds,
            credentials: message.credentials,
            unmatched: if message.answer_unmatched {
                UnmatchedPreflights::Answer
            } else {
                UnmatchedPreflights::Forward
            },
        })
    }
}

impl TryFrom<proto::Origin> for OriginMatch {
    type Error = DecodeError;

    fn try_from(message: proto::Origin) -> Result<Self> {
        use proto::origin::Kind;
        Ok(match required("filters.cors.origins", message.kind)? {
            Kind::Any(proto::Any {}) => Self::Any,
            Kind::Text(condition) => Self::Text(condition.try_into()?),
            Kind::Around(around) => Self::Around(around.before, around.behind),
        })
    }
}
