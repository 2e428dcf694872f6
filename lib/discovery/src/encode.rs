//! From the vocabulary to messages: always possible.

use crate::{EndpointsUpdate, Resolution, Target, Update, destination, proto};
use linnet_mesh::{
    AppProtocol, Endpoint, Inbound, InboundPort, MtlsMode, ResourceRef, Service, ServicePort,
    Workload,
    access_log::{AccessLog, Format, Scope},
    authentication::JwtRule,
    authorization::Policy,
    route::{
        Backend, Filters, HeaderFilters, HeaderMatch, HttpRoutes, HttpRule, QueryMatch,
        RequestMatch, StringMatch,
    },
};
use prost::{Message, bytes::Bytes};

impl From<&Target> for proto::Target {
    fn from(target: &Target) -> Self {
        use proto::target::Kind;
        Self {
            kind: Some(match target {
                Target::Address(address) => Kind::Address(address.to_string()),
                Target::Host(host) => Kind::Host(host.to_string()),
                Target::Peer(ip) => Kind::Peer(ip.to_string()),
            }),
        }
    }
}

impl Update {
    /// As it goes over the wire: to be encoded once, whoever is told.
    pub fn encode(&self) -> Bytes {
        proto::Update::from(self).encode_to_vec().into()
    }
}

/// A piece of an [`Update::Inbound`]. The pieces of one, encoded one by one and written one
/// after the other, are the update: protobuf merges a message that comes in pieces. So
/// what workloads share is encoded once for all of them.
#[derive(Clone, Copy, Debug)]
pub enum InboundPiece<'a> {
    /// All but the policies and rules.
    Own(&'a Inbound),
    /// A policy.
    Policy(&'a Policy),
    /// A rule about tokens.
    Rule(&'a JwtRule),
}

impl InboundPiece<'_> {
    /// Encodes the piece.
    pub fn encode(self) -> Bytes {
        let inbound = match self {
            Self::Own(inbound) => without_shared(inbound),
            Self::Policy(policy) => proto::Inbound {
                authorization: vec![policy.into()],
                ..Default::default()
            },
            Self::Rule(rule) => proto::Inbound {
                authentication: vec![rule.into()],
                ..Default::default()
            },
        };
        let kind = Some(proto::update::Kind::Inbound(inbound));
        proto::Update { kind }.encode_to_vec().into()
    }
}

impl From<&Update> for proto::Update {
    fn from(update: &Update) -> Self {
        use proto::update::Kind;
        let kind = match update {
            Update::Resolution(target, resolution) => {
                Kind::Resolution(encode_resolution(target, resolution))
            }
            Update::Service(service) => Kind::Service(service.as_ref().into()),
            Update::Endpoints(endpoints) => Kind::Endpoints(endpoints.into()),
            Update::ServiceRemoved(key) => Kind::ServiceRemoved(key.into()),
            Update::Inbound(inbound) => Kind::Inbound(inbound.as_ref().into()),
            Update::Peer(ip, workload) => Kind::Peer(proto::Peer {
                address: ip.to_string(),
                workload: workload.as_deref().map(Into::into),
            }),
        };
        Self { kind: Some(kind) }
    }
}

fn encode_resolution(target: &Target, resolution: &Resolution) -> proto::Resolution {
    use proto::resolution::Kind;
    proto::Resolution {
        target: Some(target.into()),
        kind: Some(match resolution {
            Resolution::Service(key) => Kind::Service(key.into()),
            Resolution::Endpoint(endpoint) => Kind::Endpoint(endpoint.as_ref().into()),
            Resolution::External => Kind::External(proto::External {}),
        }),
    }
}

impl From<&ServicePort> for proto::ServicePort {
    fn from(key: &ServicePort) -> Self {
        Self {
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            port: key.port.into(),
        }
    }
}

impl From<AppProtocol> for proto::AppProtocol {
    fn from(protocol: AppProtocol) -> Self {
        match protocol {
            AppProtocol::Detect => Self::Detect,
            AppProtocol::Http1 => Self::Http,
            AppProtocol::Http2 => Self::Http2,
            AppProtocol::Opaque => Self::Opaque,
        }
    }
}

impl From<MtlsMode> for proto::MtlsMode {
    fn from(mode: MtlsMode) -> Self {
        match mode {
            MtlsMode::Disable => Self::Disable,
            MtlsMode::Permissive => Self::Permissive,
            MtlsMode::Strict => Self::Strict,
        }
    }
}

impl From<&ResourceRef> for proto::ResourceRef {
    fn from(resource: &ResourceRef) -> Self {
        Self {
            kind: resource.kind.clone(),
            namespace: resource.namespace.clone(),
            name: resource.name.clone(),
        }
    }
}

impl From<&Service> for proto::Service {
    fn from(service: &Service) -> Self {
        Self {
            key: Some((&service.key).into()),
            hostname: service.hostname.clone(),
            protocol: proto::AppProtocol::from(service.protocol).into(),
            http: service.http.as_deref().map(Into::into),
            tcp: service.tcp.as_deref().map(Into::into),
            subsets: service.subsets.clone(),
            destination: service.destination.as_deref().map(Into::into),
        }
    }
}

impl From<&HttpRoutes> for proto::HttpRoutes {
    fn from(routes: &HttpRoutes) -> Self {
        let mut sources = routes.sources.clone();
        let rules = routes
            .rules
            .iter()
            .map(|rule| {
                let known = sources.iter().position(|source| *source == rule.source);
                let position = known.unwrap_or_else(|| {
                    sources.push(rule.source.clone());
                    sources.len() - 1
                });
                encode_rule(rule, position)
            })
            .collect();
        Self {
            sources: sources
                .iter()
                .map(|source| source.as_ref().into())
                .collect(),
            rules,
        }
    }
}

fn encode_rule(rule: &HttpRule, source: usize) -> proto::HttpRule {
    proto::HttpRule {
        source: u32::try_from(source).unwrap_or(u32::MAX),
        position: rule.position,
        name: rule.name.clone().unwrap_or_default(),
        matches: rule.matches.iter().map(Into::into).collect(),
        backends: rule.backends.iter().map(Into::into).collect(),
        filters: (rule.filters != Filters::default()).then(|| (&rule.filters).into()),
    }
}

impl From<&RequestMatch> for proto::RequestMatch {
    fn from(entry: &RequestMatch) -> Self {
        let text = |m: &Option<StringMatch>| m.as_ref().map(Into::into);
        Self {
            path: text(&entry.path),
            method: text(&entry.method),
            authority: text(&entry.authority),
            scheme: text(&entry.scheme),
            headers: entry.headers.iter().map(Into::into).collect(),
            ignore_path_case: entry.ignore_path_case,
            query: entry.query.iter().map(encode_query).collect(),
            source_labels: entry.source_labels.clone().into_iter().collect(),
        }
    }
}

fn encode_query((name, condition): &(String, QueryMatch)) -> proto::QueryMatch {
    proto::QueryMatch {
        name: name.clone(),
        value: match condition {
            QueryMatch::Present => None,
            QueryMatch::Value(value) => Some(value.into()),
        },
    }
}

impl From<&HeaderMatch> for proto::HeaderMatch {
    fn from(header: &HeaderMatch) -> Self {
        Self {
            name: header.name.to_string(),
            value: header.value.as_ref().map(Into::into),
            negate: header.negate,
        }
    }
}

impl From<&StringMatch> for proto::StringMatch {
    fn from(condition: &StringMatch) -> Self {
        use proto::string_match::Kind;
        Self {
            kind: Some(match condition {
                StringMatch::Exact(text) => Kind::Exact(text.clone()),
                StringMatch::Prefix(text) => Kind::Prefix(text.clone()),
                StringMatch::Segments(text) => Kind::Segments(text.clone()),
                StringMatch::Regex(whole) => Kind::Regex(whole.as_str().to_owned()),
            }),
        }
    }
}

impl From<&Backend> for proto::Backend {
    fn from(backend: &Backend) -> Self {
        Self {
            service: Some((&backend.service).into()),
            subset: backend.subset.clone().unwrap_or_default(),
            weight: backend.weight,
            unresolved: backend
                .unresolved
                .as_ref()
                .map(|unresolved| proto::Unresolved {
                    status: unresolved.status.as_u16().into(),
                    reason: unresolved.reason.clone(),
                }),
            headers: (backend.headers != HeaderFilters::default())
                .then(|| (&backend.headers).into()),
        }
    }
}

impl From<&EndpointsUpdate> for proto::Endpoints {
    fn from(update: &EndpointsUpdate) -> Self {
        Self {
            service: Some((&update.service).into()),
            replace: update.replace,
            upserts: update.upserts.iter().map(|e| e.as_ref().into()).collect(),
            removed: update.removed.iter().map(ToString::to_string).collect(),
        }
    }
}

impl From<&Endpoint> for proto::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        Self {
            address: endpoint.address.to_string(),
            identity: endpoint
                .identity
                .as_ref()
                .map(ToString::to_string)
                .unwrap_or_default(),
            workload: Some(endpoint.workload.as_ref().into()),
            subsets: endpoint.subsets.clone(),
            terminating: endpoint.terminating,
            mtls_only: endpoint.mtls_only,
            locality: destination::encode_locality(&endpoint.locality),
            weight: endpoint.weight,
            labels: endpoint.labels.clone().into_iter().collect(),
        }
    }
}

impl From<&Workload> for proto::Workload {
    fn from(workload: &Workload) -> Self {
        let Workload {
            name,
            namespace,
            app,
            version,
            service_account,
            canonical_service,
            canonical_revision,
            pod,
        } = workload.clone();
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

impl From<&Inbound> for proto::Inbound {
    fn from(inbound: &Inbound) -> Self {
        let policies = inbound.authorization.iter().flat_map(|all| all.iter());
        let rules = inbound.authentication.iter().flat_map(|all| all.rules());
        Self {
            authorization: policies.map(Into::into).collect(),
            authentication: rules.map(|rule| (&**rule).into()).collect(),
            ..without_shared(inbound)
        }
    }
}

/// Encodes all but the policies and rules.
fn without_shared(inbound: &Inbound) -> proto::Inbound {
    proto::Inbound {
        workload: Some(inbound.workload.as_ref().into()),
        mtls: proto::MtlsMode::from(inbound.mtls).into(),
        ports: inbound.ports.iter().map(Into::into).collect(),
        mtls_source: inbound.mtls_source.as_ref().map(Into::into),
        port_mtls_source: inbound.port_mtls_source.as_ref().map(Into::into),
        path_normalization: proto::PathNormalization::from(
            inbound
                .authorization
                .as_ref()
                .map(|policies| policies.normalization())
                .unwrap_or_default(),
        )
        .into(),
        authorization: Vec::new(),
        authentication: Vec::new(),
        locality: destination::encode_locality(&inbound.locality),
        labels: inbound.labels.clone().into_iter().collect(),
        access_log: Some((&inbound.access_log.server).into()),
        client_access_log: (inbound.access_log.client != inbound.access_log.server)
            .then(|| (&inbound.access_log.client).into()),
    }
}

impl From<&AccessLog> for proto::AccessLog {
    fn from(log: &AccessLog) -> Self {
        let scope = match log.scope {
            Scope::Off => proto::AccessLogScope::Off,
            Scope::Denied => proto::AccessLogScope::Denied,
            Scope::All => proto::AccessLogScope::All,
        };
        Self {
            scope: scope.into(),
            sample: log.sample,
            text: log.format == Format::Text,
            filter: log
                .filter
                .as_ref()
                .map_or_else(String::new, ToString::to_string),
        }
    }
}

impl From<&InboundPort> for proto::InboundPort {
    fn from(port: &InboundPort) -> Self {
        let mtls = port.mtls.map_or(proto::MtlsMode::Unspecified, Into::into);
        Self {
            port: port.port.into(),
            mtls: mtls.into(),
            protocol: proto::AppProtocol::from(port.protocol).into(),
            services: port.services.iter().map(Into::into).collect(),
        }
    }
}
