//! From messages to the vocabulary: each field is checked on its way in.

use crate::{
    DecodeError, EndpointsUpdate, Resolution, Target, Update, authentication, authorization,
    filters, proto,
};
use linnet_mesh::{
    AppProtocol, Endpoint, Inbound, InboundPort, MtlsMode, ResourceRef, Service, ServicePort,
    Workload,
    access_log::{AccessLog, AccessLogs, Format, Scope},
    route::{
        Backend, HeaderMatch, HttpRoutes, HttpRule, QueryMatch, RequestMatch, StringMatch,
        Unresolved, WholeRegex,
    },
};
use prost::{Message, bytes::Bytes};
use std::{fmt::Display, str::FromStr, sync::Arc};

pub(super) type Result<T> = std::result::Result<T, DecodeError>;

pub(super) fn required<T>(field: &'static str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| DecodeError {
        field,
        reason: "missing".to_owned(),
    })
}

pub(super) fn parse<T: FromStr<Err: Display>>(field: &'static str, text: &str) -> Result<T> {
    text.parse().map_err(|error: T::Err| DecodeError {
        field,
        reason: error.to_string(),
    })
}

pub(super) fn port(field: &'static str, number: u32) -> Result<u16> {
    u16::try_from(number).map_err(|_| DecodeError {
        field,
        reason: format!("{number} is not a port"),
    })
}

pub(super) fn all<T, M: TryInto<T, Error = DecodeError>>(messages: Vec<M>) -> Result<Vec<T>> {
    messages.into_iter().map(TryInto::try_into).collect()
}

pub(super) fn optional<T, M: TryInto<T, Error = DecodeError>>(
    message: Option<M>,
) -> Result<Option<T>> {
    message.map(TryInto::try_into).transpose()
}

pub(super) fn non_empty(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

impl TryFrom<proto::Target> for Target {
    type Error = DecodeError;

    fn try_from(message: proto::Target) -> Result<Self> {
        super::limits::check_target(&message)?;
        use proto::target::Kind;
        Ok(match required("target", message.kind)? {
            Kind::Address(text) => Self::Address(parse("target.address", &text)?),
            Kind::Host(text) => Self::Host(text.into()),
            Kind::Peer(text) => Self::Peer(parse("target.peer", &text)?),
        })
    }
}

impl Update {
    /// From the wire.
    ///
    /// # Errors
    /// Bytes that are no update, or one with a field that can't be used.
    pub fn decode(encoded: Bytes) -> Result<Self> {
        let message = proto::Update::decode(encoded).map_err(|error| DecodeError {
            field: "update",
            reason: error.to_string(),
        })?;
        message.try_into()
    }
}

impl TryFrom<proto::Update> for Update {
    type Error = DecodeError;

    fn try_from(message: proto::Update) -> Result<Self> {
        use proto::update::Kind;
        Ok(match required("update", message.kind)? {
            Kind::Resolution(resolution) => decode_resolution(resolution)?,
            Kind::Service(service) => Self::Service(Arc::new(service.try_into()?)),
            Kind::Endpoints(endpoints) => Self::Endpoints(endpoints.try_into()?),
            Kind::ServiceRemoved(key) => Self::ServiceRemoved(key.try_into()?),
            Kind::Inbound(inbound) => Self::Inbound(Arc::new(inbound.try_into()?)),
            Kind::Peer(peer) => Self::Peer(
                parse("peer.address", &peer.address)?,
                peer.workload.map(|workload| Arc::new(workload.into())),
            ),
        })
    }
}

fn decode_resolution(message: proto::Resolution) -> Result<Update> {
    use proto::resolution::Kind;
    let target = required("resolution.target", message.target)?.try_into()?;
    let resolution = match required("resolution", message.kind)? {
        Kind::Service(key) => Resolution::Service(key.try_into()?),
        Kind::Endpoint(endpoint) => Resolution::Endpoint(Arc::new(endpoint.try_into()?)),
        Kind::External(proto::External {}) => Resolution::External,
    };
    Ok(Update::Resolution(target, resolution))
}

impl TryFrom<proto::ServicePort> for ServicePort {
    type Error = DecodeError;

    fn try_from(message: proto::ServicePort) -> Result<Self> {
        Ok(Self {
            namespace: message.namespace.into(),
            name: message.name.into(),
            port: port("service.port", message.port)?,
        })
    }
}

fn protocol(field: &'static str, number: i32) -> Result<AppProtocol> {
    match proto::AppProtocol::try_from(number) {
        Ok(proto::AppProtocol::Detect) => Ok(AppProtocol::Detect),
        Ok(proto::AppProtocol::Http) => Ok(AppProtocol::Http1),
        Ok(proto::AppProtocol::Http2) => Ok(AppProtocol::Http2),
        Ok(proto::AppProtocol::Opaque) => Ok(AppProtocol::Opaque),
        Err(error) => Err(DecodeError {
            field,
            reason: error.to_string(),
        }),
    }
}

/// `None` for UNSPECIFIED.
fn mode(field: &'static str, number: i32) -> Result<Option<MtlsMode>> {
    match proto::MtlsMode::try_from(number) {
        Ok(proto::MtlsMode::Unspecified) => Ok(None),
        Ok(proto::MtlsMode::Disable) => Ok(Some(MtlsMode::Disable)),
        Ok(proto::MtlsMode::Permissive) => Ok(Some(MtlsMode::Permissive)),
        Ok(proto::MtlsMode::Strict) => Ok(Some(MtlsMode::Strict)),
        Err(error) => Err(DecodeError {
            field,
            reason: error.to_string(),
        }),
    }
}

impl From<proto::ResourceRef> for ResourceRef {
    fn from(message: proto::ResourceRef) -> Self {
        Self {
            kind: message.kind,
            namespace: message.namespace,
            name: message.name,
        }
    }
}

impl TryFrom<proto::Service> for Service {
    type Error = DecodeError;

    fn try_from(message: proto::Service) -> Result<Self> {
        Ok(Self {
            key: required("service.key", message.key)?.try_into()?,
            hostname: message.hostname,
            protocol: protocol("service.protocol", message.protocol)?,
            http: optional(message.http)?.map(Arc::new),
            tcp: optional(message.tcp)?.map(Arc::new),
            subsets: message.subsets,
            destination: optional(message.destination)?.map(Arc::new),
        })
    }
}

impl TryFrom<proto::HttpRoutes> for HttpRoutes {
    type Error = DecodeError;

    fn try_from(message: proto::HttpRoutes) -> Result<Self> {
        let sources: Vec<Arc<ResourceRef>> = message
            .sources
            .into_iter()
            .map(|source| Arc::new(source.into()))
            .collect();
        let rule = |rule: proto::HttpRule| {
            let position = usize::try_from(rule.source).unwrap_or(usize::MAX);
            let source = required("http.rules.source", sources.get(position))?.clone();
            Ok(HttpRule {
                source,
                position: rule.position,
                name: non_empty(rule.name),
                matches: all(rule.matches)?,
                backends: all(rule.backends)?,
                filters: optional(rule.filters)?.unwrap_or_default(),
            })
        };
        let rules = message.rules.into_iter().map(rule).collect::<Result<_>>()?;
        Ok(Self { sources, rules })
    }
}

impl TryFrom<proto::RequestMatch> for RequestMatch {
    type Error = DecodeError;

    fn try_from(message: proto::RequestMatch) -> Result<Self> {
        Ok(Self {
            path: optional(message.path)?,
            ignore_path_case: message.ignore_path_case,
            method: optional(message.method)?,
            authority: optional(message.authority)?,
            scheme: optional(message.scheme)?,
            headers: all(message.headers)?,
            query: message
                .query
                .into_iter()
                .map(|query| {
                    let value = optional(query.value)?;
                    let condition = value.map_or(QueryMatch::Present, QueryMatch::Value);
                    Ok((query.name, condition))
                })
                .collect::<Result<_>>()?,
            source_labels: message.source_labels.into_iter().collect(),
        })
    }
}

impl TryFrom<proto::HeaderMatch> for HeaderMatch {
    type Error = DecodeError;

    fn try_from(message: proto::HeaderMatch) -> Result<Self> {
        Ok(Self {
            name: parse("match.headers.name", &message.name)?,
            value: optional(message.value)?,
            negate: message.negate,
        })
    }
}

impl TryFrom<proto::StringMatch> for StringMatch {
    type Error = DecodeError;

    fn try_from(message: proto::StringMatch) -> Result<Self> {
        use proto::string_match::Kind;
        Ok(match required("match", message.kind)? {
            Kind::Exact(text) => Self::Exact(text),
            Kind::Prefix(text) => Self::Prefix(text),
            Kind::Segments(text) => Self::Segments(text),
            Kind::Regex(pattern) => {
                Self::Regex(WholeRegex::new(&pattern).map_err(|error| DecodeError {
                    field: "match.regex",
                    reason: error.to_string(),
                })?)
            }
        })
    }
}

impl TryFrom<proto::Backend> for Backend {
    type Error = DecodeError;

    fn try_from(message: proto::Backend) -> Result<Self> {
        Ok(Self {
            service: required("backend.service", message.service)?.try_into()?,
            subset: non_empty(message.subset),
            weight: message.weight,
            unresolved: optional(message.unresolved)?,
            headers: optional(message.headers)?.unwrap_or_default(),
        })
    }
}

impl TryFrom<proto::Unresolved> for Unresolved {
    type Error = DecodeError;

    fn try_from(message: proto::Unresolved) -> Result<Self> {
        Ok(Self {
            status: filters::status("backend.unresolved.status", message.status)?,
            reason: message.reason,
        })
    }
}

impl TryFrom<proto::Endpoints> for EndpointsUpdate {
    type Error = DecodeError;

    fn try_from(message: proto::Endpoints) -> Result<Self> {
        let upserts: Vec<Endpoint> = all(message.upserts)?;
        Ok(Self {
            service: required("endpoints.service", message.service)?.try_into()?,
            replace: message.replace,
            upserts: upserts.into_iter().map(Arc::new).collect(),
            removed: message
                .removed
                .iter()
                .map(|text| parse("endpoints.removed", text))
                .collect::<Result<_>>()?,
        })
    }
}

impl TryFrom<proto::Endpoint> for Endpoint {
    type Error = DecodeError;

    fn try_from(message: proto::Endpoint) -> Result<Self> {
        let identity = non_empty(message.identity)
            .map(|uri| parse("endpoint.identity", &uri))
            .transpose()?;
        let workload: Workload = message.workload.unwrap_or_default().into();
        Ok(Self {
            address: parse("endpoint.address", &message.address)?,
            identity,
            pod: workload.pod.as_str().into(),
            workload: Arc::new(workload),
            subsets: message.subsets,
            terminating: message.terminating,
            mtls_only: message.mtls_only,
            locality: Arc::new(message.locality.map(Into::into).unwrap_or_default()),
            weight: message.weight.max(1),
            labels: message.labels.into_iter().collect(),
        })
    }
}

impl From<proto::Workload> for Workload {
    fn from(message: proto::Workload) -> Self {
        let proto::Workload {
            name,
            namespace,
            app,
            version,
            service_account,
            canonical_service,
            canonical_revision,
            pod,
        } = message;
        Self {
            name,
            namespace,
            app,
            version,
            service_account,
            canonical_service,
            canonical_revision,
            pod,
        }
    }
}

impl TryFrom<proto::Inbound> for Inbound {
    type Error = DecodeError;

    fn try_from(message: proto::Inbound) -> Result<Self> {
        Ok(Self {
            workload: Arc::new(message.workload.unwrap_or_default().into()),
            mtls: required("inbound.mtls", mode("inbound.mtls", message.mtls)?)?,
            mtls_source: message.mtls_source.map(Into::into),
            port_mtls_source: message.port_mtls_source.map(Into::into),
            ports: all(message.ports)?,
            authorization: authorization::decode(
                message.authorization,
                message.path_normalization,
            )?,
            authentication: authentication::decode(message.authentication)?,
            locality: message.locality.map(Into::into).unwrap_or_default(),
            labels: message.labels.into_iter().collect(),
            access_log: access_logs(
                message.access_log.as_ref(),
                message.client_access_log.as_ref(),
            )?,
        })
    }
}

fn access_logs(
    server: Option<&proto::AccessLog>,
    client: Option<&proto::AccessLog>,
) -> Result<AccessLogs> {
    let server = server.map(access_log).transpose()?.unwrap_or_default();
    let client = client.map(access_log).transpose()?;
    Ok(AccessLogs {
        client: client.unwrap_or_else(|| server.clone()),
        server,
    })
}

fn access_log(message: &proto::AccessLog) -> Result<AccessLog> {
    let scope = match message.scope() {
        proto::AccessLogScope::Off => Scope::Off,
        proto::AccessLogScope::Denied => Scope::Denied,
        proto::AccessLogScope::All => Scope::All,
        proto::AccessLogScope::Unspecified => {
            return required("inbound.access_log.scope", None);
        }
    };
    let format = if message.text {
        Format::Text
    } else {
        Format::Json
    };
    let filter = match message.filter.as_str() {
        "" => None,
        text => Some(Arc::new(parse("inbound.access_log.filter", text)?)),
    };
    Ok(AccessLog {
        scope,
        sample: message.sample,
        filter,
        format,
    })
}

impl TryFrom<proto::InboundPort> for InboundPort {
    type Error = DecodeError;

    fn try_from(message: proto::InboundPort) -> Result<Self> {
        Ok(Self {
            port: port("inbound.ports.port", message.port)?,
            mtls: mode("inbound.ports.mtls", message.mtls)?,
            protocol: protocol("inbound.ports.protocol", message.protocol)?,
            services: all(message.services)?,
        })
    }
}
