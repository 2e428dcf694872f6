//! What a rule does to requests, in both directions of the conversion.

use crate::{
    DecodeError,
    decode::{Result, all, non_empty, optional, parse, port, required},
    proto,
};
use http::{HeaderName, HeaderValue, StatusCode};
use linnet_mesh::route::{
    Abort, AbortStatus, Answer, Delay, DirectResponse, Fault, Filters, HeaderEdits, HeaderFilters,
    Mirror, PathRewrite, Redirect, RedirectPath, RetryOn, RetryPolicy, Rewrite, Share,
};
use std::time::Duration;

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn status(field: &'static str, number: u32) -> Result<StatusCode> {
    u16::try_from(number)
        .ok()
        .and_then(|number| StatusCode::from_u16(number).ok())
        .ok_or_else(|| DecodeError {
            field,
            reason: format!("{number} is not a status"),
        })
}

impl From<&Filters> for proto::Filters {
    fn from(filters: &Filters) -> Self {
        use proto::filters::Answer as Kind;
        let headers = &filters.headers;
        Self {
            answer: filters.answer.as_ref().map(|answer| match answer {
                Answer::Redirect(redirect) => Kind::Redirect(redirect.into()),
                Answer::Direct(direct) => Kind::Direct(proto::DirectResponse {
                    status: direct.status.as_u16().into(),
                    body: direct.body.clone(),
                }),
            }),
            rewrite: filters.rewrite.as_ref().map(Into::into),
            headers: (*headers != HeaderFilters::default()).then(|| headers.into()),
            timeout_micros: filters.timeout.map_or(0, micros),
            fault: filters.fault.as_ref().map(Into::into),
            retry: filters.retry.as_ref().map(Into::into),
            cors: filters.cors.as_ref().map(Into::into),
            mirrors: filters
                .mirrors
                .iter()
                .map(|mirror| proto::Mirror {
                    backend: Some((&mirror.backend).into()),
                    share: mirror.share.per_million,
                })
                .collect(),
        }
    }
}

impl TryFrom<proto::Filters> for Filters {
    type Error = DecodeError;

    fn try_from(message: proto::Filters) -> Result<Self> {
        use proto::filters::Answer as Kind;
        let answer = match message.answer {
            None => None,
            Some(Kind::Redirect(redirect)) => Some(Answer::Redirect(redirect.try_into()?)),
            Some(Kind::Direct(direct)) => Some(Answer::Direct(DirectResponse {
                status: status("filters.direct.status", direct.status)?,
                body: direct.body,
            })),
        };
        let timeout = Some(message.timeout_micros).filter(|&micros| micros != 0);
        Ok(Self {
            answer,
            rewrite: optional(message.rewrite)?,
            headers: optional(message.headers)?.unwrap_or_default(),
            timeout: timeout.map(Duration::from_micros),
            fault: optional(message.fault)?,
            retry: optional(message.retry)?,
            mirrors: all(message.mirrors)?,
            cors: optional(message.cors)?,
        })
    }
}

impl TryFrom<proto::Mirror> for Mirror {
    type Error = DecodeError;

    fn try_from(message: proto::Mirror) -> Result<Self> {
        Ok(Self {
            backend: required("filters.mirrors.backend", message.backend)?.try_into()?,
            share: share(message.share),
        })
    }
}

impl From<&RetryPolicy> for proto::Retry {
    fn from(policy: &RetryPolicy) -> Self {
        let names = policy.on.names();
        Self {
            attempts: policy.attempts,
            on: names.into_iter().map(str::to_owned).collect(),
            statuses: policy.statuses.iter().copied().map(Into::into).collect(),
            per_try_timeout_micros: policy.per_try_timeout.map_or(0, micros),
            back_off_micros: micros(policy.back_off),
            avoid_tried: policy.avoid_tried,
        }
    }
}

impl TryFrom<proto::Retry> for RetryPolicy {
    type Error = DecodeError;

    fn try_from(message: proto::Retry) -> Result<Self> {
        let mut on = RetryOn::default();
        for name in &message.on {
            on = on.and(RetryOn::from_name(name).ok_or_else(|| DecodeError {
                field: "filters.retry.on",
                reason: format!("{name:?} is not a condition"),
            })?);
        }
        let statuses = message.statuses.into_iter();
        let statuses = statuses
            .map(|number| Ok(status("filters.retry.statuses", number)?.as_u16()))
            .collect::<Result<_>>()?;
        let per_try = Some(message.per_try_timeout_micros).filter(|&micros| micros != 0);
        Ok(Self {
            attempts: message.attempts,
            on,
            statuses,
            per_try_timeout: per_try.map(Duration::from_micros),
            back_off: Duration::from_micros(message.back_off_micros),
            avoid_tried: message.avoid_tried,
        })
    }
}

impl From<&Redirect> for proto::Redirect {
    fn from(redirect: &Redirect) -> Self {
        use proto::redirect::Path;
        Self {
            status: redirect.status.as_u16().into(),
            scheme: redirect.scheme.clone().unwrap_or_default(),
            authority: redirect.authority.clone().unwrap_or_default(),
            port: redirect.port.map_or(0, Into::into),
            path: redirect.path.as_ref().map(|path| match path {
                RedirectPath::Full(text) => Path::Full(text.clone()),
                RedirectPath::Prefix(text) => Path::Prefix(text.clone()),
            }),
        }
    }
}

impl TryFrom<proto::Redirect> for Redirect {
    type Error = DecodeError;

    fn try_from(message: proto::Redirect) -> Result<Self> {
        use proto::redirect::Path;
        Ok(Self {
            status: status("filters.redirect.status", message.status)?,
            scheme: non_empty(message.scheme),
            authority: non_empty(message.authority),
            port: Some(port("filters.redirect.port", message.port)?).filter(|&port| port != 0),
            path: message.path.map(|path| match path {
                Path::Full(text) => RedirectPath::Full(text),
                Path::Prefix(text) => RedirectPath::Prefix(text),
            }),
        })
    }
}

impl From<&Rewrite> for proto::Rewrite {
    fn from(rewrite: &Rewrite) -> Self {
        use proto::rewrite::Path;
        let authority = rewrite.authority.as_ref();
        Self {
            path: rewrite.path.as_ref().map(|path| match path {
                PathRewrite::Matched(text) => Path::Matched(text.clone()),
                PathRewrite::Full(text) => Path::Full(text.clone()),
                PathRewrite::Regex {
                    regex,
                    substitution,
                } => Path::Regex(proto::RegexRewrite {
                    pattern: regex.as_str().to_owned(),
                    substitution: substitution.clone(),
                }),
            }),
            authority: authority.map(ToString::to_string).unwrap_or_default(),
        }
    }
}

impl TryFrom<proto::Rewrite> for Rewrite {
    type Error = DecodeError;

    fn try_from(message: proto::Rewrite) -> Result<Self> {
        use proto::rewrite::Path;
        let path = match message.path {
            None => None,
            Some(Path::Matched(text)) => Some(PathRewrite::Matched(text)),
            Some(Path::Full(text)) => Some(PathRewrite::Full(text)),
            Some(Path::Regex(regex)) => Some(
                PathRewrite::regex(&regex.pattern, &regex.substitution).map_err(|error| {
                    DecodeError {
                        field: "filters.rewrite.regex",
                        reason: error.to_string(),
                    }
                })?,
            ),
        };
        let authority = non_empty(message.authority)
            .map(|text| parse("filters.rewrite.authority", &text))
            .transpose()?;
        Ok(Self { path, authority })
    }
}

impl From<&HeaderFilters> for proto::HeaderFilters {
    fn from(filters: &HeaderFilters) -> Self {
        let edits = |edits: &HeaderEdits| (!edits.is_empty()).then(|| edits.into());
        Self {
            request: edits(&filters.request),
            response: edits(&filters.response),
        }
    }
}

impl TryFrom<proto::HeaderFilters> for HeaderFilters {
    type Error = DecodeError;

    fn try_from(message: proto::HeaderFilters) -> Result<Self> {
        Ok(Self {
            request: optional(message.request)?.unwrap_or_default(),
            response: optional(message.response)?.unwrap_or_default(),
        })
    }
}

impl From<&HeaderEdits> for proto::HeaderEdits {
    fn from(edits: &HeaderEdits) -> Self {
        let pairs = |pairs: &[(HeaderName, HeaderValue)]| {
            let pairs = pairs.iter().map(|(name, value)| proto::Header {
                name: name.to_string(),
                value: value.as_bytes().to_vec(),
            });
            pairs.collect()
        };
        Self {
            remove: edits.remove.iter().map(ToString::to_string).collect(),
            set: pairs(&edits.set),
            add: pairs(&edits.add),
        }
    }
}

impl TryFrom<proto::HeaderEdits> for HeaderEdits {
    type Error = DecodeError;

    fn try_from(message: proto::HeaderEdits) -> Result<Self> {
        let name = |text: &String| parse("filters.headers.name", text);
        let pairs = |headers: Vec<proto::Header>| {
            let pairs = headers.into_iter().map(|header| {
                let value =
                    HeaderValue::from_bytes(&header.value).map_err(|error| DecodeError {
                        field: "filters.headers.value",
                        reason: error.to_string(),
                    })?;
                Ok((name(&header.name)?, value))
            });
            pairs.collect::<Result<_>>()
        };
        Ok(Self {
            remove: message.remove.iter().map(name).collect::<Result<_>>()?,
            set: pairs(message.set)?,
            add: pairs(message.add)?,
        })
    }
}

impl From<&Fault> for proto::Fault {
    fn from(fault: &Fault) -> Self {
        use proto::abort::Status;
        Self {
            delay: fault.delay.map(|delay| proto::Delay {
                share: delay.share.per_million,
                micros: micros(delay.duration),
            }),
            abort: fault.abort.map(|abort| proto::Abort {
                share: abort.share.per_million,
                status: Some(match abort.status {
                    AbortStatus::Http(status) => Status::Http(status.as_u16().into()),
                    AbortStatus::Grpc(code) => Status::Grpc(code.into()),
                }),
            }),
        }
    }
}

impl TryFrom<proto::Fault> for Fault {
    type Error = DecodeError;

    fn try_from(message: proto::Fault) -> Result<Self> {
        Ok(Self {
            delay: message.delay.map(|delay| Delay {
                share: share(delay.share),
                duration: Duration::from_micros(delay.micros),
            }),
            abort: optional(message.abort)?,
        })
    }
}

fn share(per_million: u32) -> Share {
    Share {
        per_million: per_million.min(Share::ALL.per_million),
    }
}

impl TryFrom<proto::Abort> for Abort {
    type Error = DecodeError;

    fn try_from(message: proto::Abort) -> Result<Self> {
        use proto::abort::Status;
        Ok(Self {
            share: share(message.share),
            status: match required("filters.fault.abort.status", message.status)? {
                Status::Http(number) => {
                    AbortStatus::Http(status("filters.fault.abort.http", number)?)
                }
                Status::Grpc(code) => {
                    AbortStatus::Grpc(u16::try_from(code).map_err(|error| DecodeError {
                        field: "filters.fault.abort.grpc",
                        reason: error.to_string(),
                    })?)
                }
            },
        })
    }
}
