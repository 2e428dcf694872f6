//! Routes of connections that are not HTTP, in both directions of the conversion.

use crate::{
    DecodeError,
    decode::{Result, all, parse, required},
    proto,
};
use linnet_mesh::route::{ConnectionMatch, TcpRoutes, TcpRule};
use std::sync::Arc;

impl From<&TcpRoutes> for proto::TcpRoutes {
    fn from(routes: &TcpRoutes) -> Self {
        Self {
            rules: routes.rules.iter().map(Into::into).collect(),
        }
    }
}

impl From<&TcpRule> for proto::TcpRule {
    fn from(rule: &TcpRule) -> Self {
        Self {
            source: Some(rule.source.as_ref().into()),
            matches: rule.matches.iter().map(Into::into).collect(),
            backends: rule.backends.iter().map(Into::into).collect(),
            place: rule.place.clone(),
        }
    }
}

impl From<&ConnectionMatch> for proto::ConnectionMatch {
    fn from(entry: &ConnectionMatch) -> Self {
        Self {
            server_names: entry.server_names.clone(),
            subnets: entry.subnets.iter().map(ToString::to_string).collect(),
            source_labels: entry.source_labels.clone().into_iter().collect(),
        }
    }
}

impl TryFrom<proto::TcpRoutes> for TcpRoutes {
    type Error = DecodeError;

    fn try_from(message: proto::TcpRoutes) -> Result<Self> {
        let rules = all(message.rules)?;
        Ok(Self { rules })
    }
}

impl TryFrom<proto::TcpRule> for TcpRule {
    type Error = DecodeError;

    fn try_from(message: proto::TcpRule) -> Result<Self> {
        Ok(Self {
            source: Arc::new(required("tcp.rules.source", message.source)?.into()),
            matches: all(message.matches)?,
            backends: all(message.backends)?,
            place: message.place,
        })
    }
}

impl TryFrom<proto::ConnectionMatch> for ConnectionMatch {
    type Error = DecodeError;

    fn try_from(message: proto::ConnectionMatch) -> Result<Self> {
        let subnets = message.subnets.iter();
        let subnets = subnets.map(|text| parse("tcp.rules.matches.subnets", text));
        Ok(Self {
            subnets: subnets.collect::<Result<_>>()?,
            server_names: message.server_names,
            source_labels: message.source_labels.into_iter().collect(),
        })
    }
}
