//! Why a request is let through or not, in words: what every policy of the
//! workload says to it, also those that did not come to decide.
//!
//! Nothing here decides: a rule's misfit is what the data path itself went by.

#[cfg(test)]
mod tests;

use super::{
    Action, Condition, Connection, Demand, HttpRequest, Match, Operation, Policies, Policy,
    Request, Scope, Source,
    path::Readings,
    rule::{Attribute, Misfit, View},
};
use std::fmt::Display;

/// What a policy says to a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Considered<'a> {
    /// The policy.
    pub policy: &'a Policy,
    /// The first rule that the request fits; `None`: the policy does not apply.
    pub rule: Option<usize>,
    /// Why the rules before that one, or all, do not fit, in their order.
    pub misfits: Vec<String>,
}

impl Policies {
    /// Returns what each policy says to a request, or to a connection that is not
    /// HTTP, in the order they are asked: about the reading of the path that decides in
    /// this scope.
    pub fn explain<'a>(
        &'a self,
        scope: Scope,
        connection: &Connection<'_>,
        http: Option<&HttpRequest<'_>>,
    ) -> Vec<Considered<'a>> {
        // What does not count in this scope is explained as well.
        match self.readings(self.by_paths.any(), http) {
            Readings::One(path) => self.consider(&Request::new(connection, http, path)),
            Readings::Several(readings) | Readings::TooMany(readings) => {
                let requests = readings.iter().map(|reading| {
                    Request::new(connection, http, &reading.text).after(reading.steps)
                });
                let denied = |request: &Request<'_>| !self.decide_reading(scope, request).allowed;
                let deciding = requests.clone().find(denied).or(requests.clone().next());
                deciding.map_or_else(Vec::new, |request| self.consider(&request))
            }
        }
    }

    fn consider<'a>(&'a self, request: &Request<'_>) -> Vec<Considered<'a>> {
        let policies = self.policies.iter();
        policies
            .map(|policy| {
                let rule = request.fitting(policy);
                let before = rule.unwrap_or(policy.rules.len());
                let denies = policy.action != Action::Allow;
                Considered {
                    policy,
                    rule,
                    misfits: policy.rules[..before]
                        .iter()
                        .filter_map(|rule| {
                            let misfit = request.misfit(rule, denies)?;
                            Some(misfit.words(request.view(denies)))
                        })
                        .collect(),
                }
            })
            .collect()
    }
}

impl Misfit<'_> {
    fn words(&self, view: View<'_>) -> String {
        match self {
            Self::Void => {
                "it says something that can't be evaluated, so it allows nobody".to_owned()
            }
            Self::NotHttp => "it speaks of HTTP, and the connection is not HTTP".to_owned(),
            Self::From(sources) => each("from", sources, |source| source_words(source, view)),
            Self::To(operations) => each("to", operations, |operation| {
                operation_words(operation, view)
            }),
            Self::When(condition) => format!(
                "when {}: {}, rule wants {}",
                condition.key,
                attribute_value(&condition.demand, view),
                condition.demand
            ),
        }
    }
}

/// The words of each of several alternatives.
fn each<T>(list: &str, all: &[T], words: impl Fn(&T) -> String) -> String {
    let all = all.iter().enumerate();
    let all: Vec<String> = all
        .map(|(at, one)| format!("{list}[{at}] {}", words(one)))
        .collect();
    all.join("; ")
}

fn source_words(source: &Source, view: View<'_>) -> String {
    let (name, wanted) = match source.misfit(view) {
        Some(Attribute::Principals) => ("principals", source.principals.to_string()),
        Some(Attribute::Namespaces) => ("namespaces", source.namespaces.to_string()),
        Some(Attribute::ServiceAccounts) => {
            ("serviceAccounts", source.service_accounts.to_string())
        }
        Some(Attribute::IpBlocks) => {
            return address_words("ipBlocks", &source.ip_blocks, view);
        }
        Some(Attribute::RemoteIpBlocks) => {
            return address_words("remoteIpBlocks", &source.remote_ip_blocks, view);
        }
        _ => {
            let principal = principal_words(view);
            let wanted = &source.request_principals;
            return format!("requestPrincipals: {principal}, rule wants {wanted}");
        }
    };
    format!("{name}: {}, rule wants {wanted}", caller(view))
}

fn address_words(name: &str, wanted: &Match<ipnet::IpNet>, view: View<'_>) -> String {
    let address = view.connection.source;
    format!("{name}: the caller's address is {address}, rule wants {wanted}")
}

fn operation_words(operation: &Operation, view: View<'_>) -> String {
    let (name, is, wanted) = match operation.misfit(view) {
        Some(Attribute::Ports) => (
            "ports",
            view.connection.destination.port().to_string(),
            operation.ports.to_string(),
        ),
        Some(Attribute::Hosts) => (
            "hosts",
            quoted(view.http.map(|request| request.authority)),
            operation.hosts.to_string(),
        ),
        Some(Attribute::Methods) => (
            "methods",
            quoted(view.http.map(|request| request.method)),
            operation.methods.to_string(),
        ),
        Some(Attribute::Paths) => (
            "paths",
            quoted(Some(view.path)),
            operation.paths.to_string(),
        ),
        _ => return "speaks of HTTP, and the connection is not HTTP".to_owned(),
    };
    format!("{name}: it is {is}, rule wants {wanted}")
}

fn quoted(text: Option<&str>) -> String {
    format!("{:?}", text.unwrap_or_default())
}

fn caller(view: View<'_>) -> String {
    match view.connection.identity {
        Some(identity) if view.connection.federated => format!(
            "the caller is {}, of another trust domain",
            identity.principal()
        ),
        Some(identity) => format!("the caller is {}", identity.principal()),
        None => "the caller has no identity (plaintext)".to_owned(),
    }
}

fn principal_words(view: View<'_>) -> String {
    match view
        .http
        .map(|request| (request.token, request.principal()))
    {
        Some((_, Some(principal))) => format!("the token's principal is {principal}"),
        Some((Some(_), None)) => "the token has no subject".to_owned(),
        Some((None, None)) | None => "the request has no token".to_owned(),
    }
}

fn claim_words(path: &[String], view: View<'_>) -> String {
    let Some(token) = view.http.and_then(|request| request.token) else {
        return "the request has no token".to_owned();
    };
    let values = std::cell::RefCell::new(Vec::new());
    token.claims.any(path, |text| {
        values.borrow_mut().push(format!("{text:?}"));
        false
    });
    let values = values.into_inner();
    if values.is_empty() {
        "the token has no such text".to_owned()
    } else {
        format!("it is {}", values.join(", "))
    }
}

fn attribute_value(demand: &Demand, view: View<'_>) -> String {
    let connection = view.connection;
    match demand {
        Demand::Header(name, _) => {
            let values = view.http.map(|request| request.headers.get_all(name));
            let values: Vec<_> = values
                .iter()
                .flat_map(http::header::GetAll::iter)
                .map(|value| String::from_utf8_lossy(value.as_bytes()))
                .collect();
            if values.is_empty() {
                "it is absent".to_owned()
            } else {
                format!("it is {:?}", values.join(","))
            }
        }
        Demand::SourceIp(_) | Demand::RemoteIp(_) => format!("it is {}", connection.source),
        Demand::Namespace(_) | Demand::Principal(_) | Demand::ServiceAccount(_) => caller(view),
        Demand::DestinationIp(_) => format!("it is {}", connection.destination.ip()),
        Demand::DestinationPort(_) => format!("it is {}", connection.destination.port()),
        Demand::RequestPrincipal(_) => principal_words(view),
        Demand::Audiences(_) => claim_words(&["aud".to_owned()], view),
        Demand::Presenter(_) => claim_words(&["azp".to_owned()], view),
        Demand::Claim(path, _) => claim_words(path, view),
        Demand::ServerName(_) => match connection.server_name {
            Some(name) => format!("it is {name:?}"),
            None => "nobody knows it: only the application's own TLS tells one".to_owned(),
        },
        Demand::Unknown(_) => "it is not known to this version".to_owned(),
    }
}

/// `"a" or "b", and not "c"`.
impl<T: Display> Display for Match<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |f: &mut std::fmt::Formatter<'_>, values: &[T]| {
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    f.write_str(" or ")?;
                }
                write!(f, "{value}")?;
            }
            Ok(())
        };
        list(f, &self.any)?;
        if !self.none.is_empty() {
            f.write_str(if self.any.is_empty() {
                "not "
            } else {
                " and not "
            })?;
            list(f, &self.none)?;
        }
        Ok(())
    }
}

impl Display for Demand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header(_, values)
            | Self::Namespace(values)
            | Self::Principal(values)
            | Self::RequestPrincipal(values)
            | Self::Audiences(values)
            | Self::Presenter(values)
            | Self::ServerName(values)
            | Self::Claim(_, values) => values.fmt(f),
            Self::SourceIp(blocks) | Self::RemoteIp(blocks) | Self::DestinationIp(blocks) => {
                blocks.fmt(f)
            }
            Self::ServiceAccount(accounts) => accounts.fmt(f),
            Self::DestinationPort(ports) => ports.fmt(f),
            Self::Unknown(values) => values.fmt(f),
        }
    }
}

impl Display for Source {
    /// `principals a or b, namespaces not c`; anybody where nothing is demanded.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        add(&mut parts, "principal", &self.principals);
        add(&mut parts, "namespace", &self.namespaces);
        add(&mut parts, "service account", &self.service_accounts);
        add(&mut parts, "address", &self.ip_blocks);
        add(&mut parts, "original address", &self.remote_ip_blocks);
        add(&mut parts, "request principal", &self.request_principals);
        f.write_str(&joined(&parts, "anybody"))
    }
}

impl Display for Operation {
    /// `GET /a* on port 80`; anything where nothing is demanded.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        add(&mut parts, "method", &self.methods);
        add(&mut parts, "path", &self.paths);
        add(&mut parts, "host", &self.hosts);
        add(&mut parts, "port", &self.ports);
        f.write_str(&joined(&parts, "anything"))
    }
}

impl Display for Condition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.key, self.demand)
    }
}

fn add<T: Display>(parts: &mut Vec<String>, name: &str, values: &Match<T>) {
    if !values.is_empty() {
        parts.push(format!("{name} {values}"));
    }
}

fn joined(parts: &[String], none: &str) -> String {
    if parts.is_empty() {
        none.to_owned()
    } else {
        parts.join(", ")
    }
}
