//! The caller's part: destination, service, rule, filters, backends, endpoints.

use super::{
    Backend, Caller, Destination, DestinationKind, Endpoint, Filter, Invalid, OutboundAnswer,
    OutboundQuestion, Outcome, Route, Rule, SentRequest, header_map, header_values, method,
    words::{
        default_retries, endpoint_of, filter, policy_words, protocol_name, reach, shares, unseen,
    },
};
use crate::{
    directory::{self, Directory, Resolved, ServiceCell},
    outbound::{authority, request_head, request_parts},
};
use http::{Request, Uri, header::HOST};
use linnet_discovery::Target;
use linnet_mesh::{
    AppProtocol, Service, ServicePort, SpiffeId, Workload,
    route::{self, ConnectionParts, HttpRule},
};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

/// How long the pod's resolver is waited for.
const RESOLVE: Duration = Duration::from_secs(2);

/// Who answers.
#[derive(Clone)]
pub(crate) struct Explainer {
    pub(crate) directory: Arc<Directory>,
}

/// A host with its port, and what it is.
struct Found {
    destination: Destination,
    resolved: Option<Resolved>,
}

impl Explainer {
    /// What becomes of a request of this workload.
    ///
    /// # Errors
    /// A question that makes no sense.
    pub(crate) async fn explain(
        &self,
        question: &OutboundQuestion,
        identity: Option<SpiffeId>,
    ) -> Result<OutboundAnswer, Invalid> {
        let request = request(question)?;
        let (host, port) = host_and_port(&question.url)?;
        let mut found = self.find(&host, port).await;
        let caller = self.caller(identity);
        let mut answer = OutboundAnswer {
            caller,
            destination: found.destination.clone(),
            route: None,
            filters: Vec::new(),
            backends: Vec::new(),
            outcome: Outcome {
                sent: false,
                text: String::new(),
            },
        };
        let (sent, text) = match found.resolved.take() {
            Some(Resolved::Service(cell)) => self.service(&cell, &request, &mut answer),
            Some(Resolved::Endpoint(endpoint)) => {
                let backend = Backend {
                    endpoints: vec![endpoint_of(&unseen(endpoint.clone()))],
                    request: Some(sent_request(&request)),
                    ..backend(endpoint.address.to_string(), 100.0)
                };
                answer.backends.push(backend);
                (
                    true,
                    "goes to that pod: no service, so no routes".to_owned(),
                )
            }
            Some(Resolved::External) => (
                true,
                "leaves as it is: the mesh knows nothing at that address".to_owned(),
            ),
            Some(Resolved::Peer(_)) | None => (false, unknown(&answer.destination)),
        };
        answer.outcome = Outcome { sent, text };
        Ok(answer)
    }

    fn caller(&self, identity: Option<SpiffeId>) -> Caller {
        let inbound = self.directory.inbound();
        let own: &Workload = &inbound.workload;
        let namespace = match identity.as_ref() {
            Some(identity) if own.namespace.is_empty() => identity.namespace().to_owned(),
            _ => own.namespace.clone(),
        };
        Caller {
            pod: own.pod.clone(),
            namespace,
            identity: identity.map(|identity| identity.to_string()),
        }
    }

    /// What a host is: first as an explicit listener knows it, then by the
    /// pod's resolver as the application asks it, then by the controller.
    async fn find(&self, host: &str, port: u16) -> Found {
        let mut destination = Destination {
            host: host.to_owned(),
            port,
            address: None,
            kind: DestinationKind::Unknown,
            service: None,
            protocol: None,
        };
        let mut resolved = None;
        if let Some(known) = self.directory.known_host(host, port) {
            resolved = self.directory.resolve(known).await;
        } else {
            for address in addresses(host, port).await {
                let found = self.directory.resolve(Target::Address(address)).await;
                let settled = matches!(found, Some(Resolved::Service(_) | Resolved::Endpoint(_)));
                if settled || destination.address.is_none() {
                    destination.address = Some(address);
                    resolved = found;
                }
                if settled {
                    break;
                }
            }
            if destination.address.is_none() {
                let by_name = Target::Host(format!("{host}:{port}").into());
                let found = self.directory.resolve(by_name).await;
                // A name that nobody resolves is nowhere outside either.
                resolved = found.filter(|found| matches!(found, Resolved::Service(_)));
            }
        }
        destination.kind = match &resolved {
            Some(Resolved::Service(cell)) => {
                destination.service = Some(cell.key.to_string());
                let protocol = cell.service().map(|service| service.protocol);
                destination.protocol = protocol.and_then(protocol_name).map(str::to_owned);
                DestinationKind::Service
            }
            Some(Resolved::Endpoint(_)) => DestinationKind::Endpoint,
            Some(Resolved::External) => DestinationKind::External,
            Some(Resolved::Peer(_)) | None => DestinationKind::Unknown,
        };
        Found {
            destination,
            resolved,
        }
    }

    fn service(
        &self,
        cell: &Arc<ServiceCell>,
        request: &Request<()>,
        answer: &mut OutboundAnswer,
    ) -> (bool, String) {
        let Some(service) = cell.service() else {
            return (false, format!("503: service {} is gone", cell.key));
        };
        if service.protocol == AppProtocol::Opaque {
            return self.connection(cell, &service, request, answer);
        }
        let Some(routes) = &service.http else {
            let backend = self.whole(&cell.key, request);
            let end = reach(std::slice::from_ref(&backend));
            answer.backends.push(backend);
            return end;
        };
        let parts = request_parts(request, authority(request));
        let considered = routes.explain(&parts);
        let matched = considered.last().filter(|last| last.matches());
        let rule = matched.map(|last| last.rule);
        answer.route = Some(Route {
            total: routes.rules.len(),
            rules: considered
                .iter()
                .map(|considered| Rule {
                    resource: considered.rule.source.to_string(),
                    number: considered.rule.position,
                    name: considered.rule.name.clone(),
                    matched: considered.matches(),
                    because: considered
                        .mismatches
                        .iter()
                        .map(|mismatch| mismatch.words(&parts))
                        .collect(),
                })
                .collect(),
        });
        let Some(rule) = rule else {
            return (false, "404: no rule matches".to_owned());
        };
        let words = rule.filters.words(&parts, rule.matched_path(&parts));
        answer.filters = words.into_iter().map(filter).collect();
        if rule.filters.answer.is_none() && rule.filters.retry.is_none() {
            answer.filters.push(default_retries(request));
        }
        if rule.filters.answer.is_some() {
            return (false, "answered by the rule itself".to_owned());
        }
        answer.backends = self.backends(rule, request);
        if rule.backend(0).is_none() {
            return (
                false,
                format!(
                    "503: rule {} gives every destination weight 0",
                    rule.position
                ),
            );
        }
        reach(&answer.backends)
    }

    /// A connection that is not looked at: `tls` and `tcp` rules decide, without
    /// the name that a TLS client might ask for.
    fn connection(
        &self,
        cell: &Arc<ServiceCell>,
        service: &Service,
        request: &Request<()>,
        answer: &mut OutboundAnswer,
    ) -> (bool, String) {
        let parts = ConnectionParts {
            server_name: None,
            destination: answer.destination.address.map(|address| address.ip()),
        };
        let rules = service.tcp.as_ref().map_or(&[][..], |tcp| &tcp.rules);
        let matching = rules.iter().position(|rule| rule.matches(&parts));
        let looked_at = matching.map_or(rules.len(), |position| position + 1);
        answer.route = (!rules.is_empty()).then(|| Route {
            total: rules.len(),
            rules: rules[..looked_at]
                .iter()
                .zip(0..)
                .map(|(rule, number)| Rule {
                    resource: rule.source.to_string(),
                    number,
                    name: Some(rule.place.clone()),
                    matched: rule.matches(&parts),
                    because: match rule.matches(&parts) {
                        true => Vec::new(),
                        false => vec![
                            "it asks for a TLS name, an address or labels that this is not"
                                .to_owned(),
                        ],
                    },
                })
                .collect(),
        });
        let Some(rule) = matching.map(|position| &rules[position]) else {
            answer.backends.push(self.whole(&cell.key, request));
            let text = "is not looked at: the port is declared to carry bytes, not HTTP";
            return (true, text.to_owned());
        };
        let shares = shares(&rule.backends);
        answer.backends = rule
            .backends
            .iter()
            .zip(shares)
            .map(|(known, percent)| self.destination_of(known, percent))
            .collect();
        if rule.backend(0).is_none() {
            return (
                false,
                format!("is closed: {rule} gives every destination weight 0"),
            );
        }
        let (sent, text) = reach(&answer.backends);
        // There is nobody to answer a status to.
        let text = text.replace("is answered 503", "is closed");
        (sent, text.replace("503: ", "is closed: "))
    }

    /// Where a rule leads, and what is known of it.
    fn destination_of(&self, known: &route::Backend, percent: f64) -> Backend {
        let subset = known.subset.as_deref();
        let unresolved = known.unresolved.as_ref();
        let described = self.directory.service(&known.service).is_some();
        Backend {
            subset: known.subset.clone(),
            problem: match unresolved {
                Some(unresolved) => Some(unresolved.reason.clone()),
                None => (!described).then(|| "the controller has not described it".to_owned()),
            },
            status: unresolved.map(|unresolved| unresolved.status.as_u16()),
            policies: self.policies(&known.service, subset),
            endpoints: self.endpoints(&known.service, subset),
            ..backend(known.service.to_string(), percent)
        }
    }

    /// The backend of a service without routes: the service itself.
    fn whole(&self, key: &ServicePort, request: &Request<()>) -> Backend {
        Backend {
            request: Some(sent_request(request)),
            policies: self.policies(key, None),
            endpoints: self.endpoints(key, None),
            ..backend(key.to_string(), 100.0)
        }
    }

    fn backends(&self, rule: &HttpRule, request: &Request<()>) -> Vec<Backend> {
        let backends = rule.backends.iter().zip(shares(&rule.backends));
        backends
            .map(|(known, percent)| self.backend(rule, known, percent, request))
            .collect()
    }

    fn backend(
        &self,
        rule: &HttpRule,
        known: &route::Backend,
        percent: f64,
        request: &Request<()>,
    ) -> Backend {
        let mut words = Vec::new();
        known.headers.words("headers", &mut words);
        let mut sent = Request::new(());
        *sent.method_mut() = request.method().clone();
        *sent.uri_mut() = request.uri().clone();
        *sent.headers_mut() = request.headers().clone();
        let edited = request_head(rule, known, &mut sent);
        let to = self.destination_of(known, percent);
        let problem = match (&to.problem, edited) {
            (None, Err(error)) => Some(error.to_string()),
            _ => to.problem.clone(),
        };
        Backend {
            request: problem.is_none().then(|| sent_request(&sent)),
            problem,
            filters: words.into_iter().map(filter).collect(),
            ..to
        }
    }

    fn policies(&self, key: &ServicePort, subset: Option<&str>) -> Vec<Filter> {
        let service = self.directory.service(key).and_then(|cell| cell.service());
        let destination = service.and_then(|service| service.destination.clone());
        destination.map_or_else(Vec::new, |known| policy_words(known.policy(subset)))
    }

    /// A service's or subset's endpoints, with what the data threads have seen
    /// of them.
    fn endpoints(&self, key: &ServicePort, subset: Option<&str>) -> Vec<Endpoint> {
        let Some(cell) = self.directory.service(key) else {
            return Vec::new();
        };
        let belongs = |state: &directory::EndpointState| {
            let subsets = &state.endpoint.subsets;
            subset.is_none_or(|wanted| subsets.iter().any(|own| own == wanted))
        };
        let states = cell.states(Instant::now());
        states
            .iter()
            .filter(|s| belongs(s))
            .map(endpoint_of)
            .collect()
    }
}

/// The pod's own resolver, search domains included.
async fn addresses(host: &str, port: u16) -> Vec<SocketAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse() {
        return vec![SocketAddr::new(ip, port)];
    }
    let looked_up = tokio::time::timeout(RESOLVE, tokio::net::lookup_host((host, port))).await;
    match looked_up {
        Ok(Ok(addresses)) => addresses.collect(),
        _ => Vec::new(),
    }
}

fn request(question: &OutboundQuestion) -> Result<Request<()>, Invalid> {
    let uri: Uri = question
        .url
        .parse()
        .map_err(|error| Invalid::new("url", error))?;
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => {
            let reason = "https is the application's own encryption, which the mesh carries \
                          without looking inside; ask for the http URL that the application calls";
            return Err(Invalid::new("url", reason));
        }
        _ => {
            let reason = format!("{:?} is not like http://payment/charge", question.url);
            return Err(Invalid::new("url", reason));
        }
    }
    let host = uri.authority().map(ToString::to_string).unwrap_or_default();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::new(());
    *request.method_mut() = method(question.method.as_deref().unwrap_or("GET"))?;
    // In the origin form, as HTTP/1 clients send it.
    *request.uri_mut() = path.parse().map_err(|error| Invalid::new("url", error))?;
    let mut headers = header_map(&question.headers)?;
    if !headers.contains_key(HOST) {
        let host = host
            .parse()
            .map_err(|_| Invalid::new("url", "its host can't be sent"))?;
        headers.insert(HOST, host);
    }
    *request.headers_mut() = headers;
    Ok(request)
}

fn host_and_port(url: &str) -> Result<(String, u16), Invalid> {
    let uri: Uri = url.parse().map_err(|error| Invalid::new("url", error))?;
    let host = uri.host().filter(|host| !host.is_empty());
    let host = host.ok_or_else(|| Invalid::new("url", "it names no host"))?;
    Ok((host.to_owned(), uri.port_u16().unwrap_or(80)))
}

fn unknown(destination: &Destination) -> String {
    match destination.address {
        Some(_) => "503: the controller did not answer what that address is".to_owned(),
        None => format!("{} resolves to nothing in this pod", destination.host),
    }
}

fn backend(service: String, percent: f64) -> Backend {
    Backend {
        service,
        subset: None,
        percent,
        problem: None,
        status: None,
        filters: Vec::new(),
        policies: Vec::new(),
        request: None,
        endpoints: Vec::new(),
    }
}

fn sent_request(request: &Request<()>) -> SentRequest {
    let uri = request.uri();
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    SentRequest {
        method: request.method().to_string(),
        authority: authority(request).to_owned(),
        path: path.to_owned(),
        headers: header_values(request.headers()),
    }
}
