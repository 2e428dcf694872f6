//! The semantics once more, written from the words and not from the evaluator:
//! slow, without shared code, each attribute a list of possible values.

use crate::{
    SpiffeId,
    authorization::{
        Action, Connection, Demand, HttpRequest, Match, Operation, Policies, Policy, Rule, Scope,
        Source,
    },
};
use std::net::IpAddr;

type Verdict = (bool, Option<(String, usize)>);

pub(crate) fn decide(
    policies: &Policies,
    scope: Scope,
    connection: &Connection<'_>,
    http: Option<&HttpRequest<'_>>,
) -> Verdict {
    let counts = |policy: &&Policy| scope == Scope::WithDryRun || !policy.dry_run;
    for action in [Action::Custom, Action::Deny] {
        for policy in policies
            .iter()
            .filter(counts)
            .filter(|p| p.action == action)
        {
            for (at, rule) in policy.rules.iter().enumerate() {
                if paths(http)
                    .iter()
                    .any(|path| fits(rule, true, connection, http, path))
                {
                    return (false, Some((policy.source.name.clone(), at)));
                }
            }
        }
    }
    let allows: Vec<&Policy> = policies
        .iter()
        .filter(counts)
        .filter(|p| p.action == Action::Allow)
        .collect();
    for policy in &allows {
        for (at, rule) in policy.rules.iter().enumerate() {
            let usable = !rule.void && (http.is_some() || !speaks_http(rule));
            if usable
                && paths(http)
                    .iter()
                    .all(|path| fits(rule, false, connection, http, path))
            {
                return (true, Some((policy.source.name.clone(), at)));
            }
        }
    }
    (allows.is_empty(), None)
}

fn speaks_http(rule: &Rule) -> bool {
    let operation = |o: &Operation| {
        o.hosts != Match::default() || o.methods != Match::default() || o.paths != Match::default()
    };
    rule.to.iter().any(operation)
        || rule
            .from
            .iter()
            .any(|source| !source.request_principals.is_empty())
        || rule.when.iter().any(|c| c.key.starts_with("request."))
}

/// The path as sent and as an application may understand it.
fn paths(http: Option<&HttpRequest<'_>>) -> Vec<String> {
    let Some(request) = http else {
        return vec![String::new()];
    };
    let sent = request.path.split('?').next().unwrap().to_owned();
    let mut text = sent
        .replace("%2e", ".")
        .replace("%2F", "/")
        .replace('\\', "/");
    // Parameters of dot segments go.
    for dots in ["..", "."] {
        while let Some(at) = text.find(&format!("/{dots};")) {
            let start = at + 1 + dots.len();
            let end = text[start..]
                .find('/')
                .map_or(text.len(), |end| start + end);
            text.replace_range(start..end, "");
        }
    }
    loop {
        let before = text.clone();
        text = text.replace("//", "/").replace("/./", "/");
        if let Some(rest) = text.strip_suffix("/.") {
            text = format!("{rest}/");
        }
        if let Some(rest) = text.strip_suffix("/..") {
            text = format!("{rest}/../");
        }
        if text == before && !text.contains("/../") {
            break;
        }
        if text == before {
            let at = text.find("/../").unwrap();
            let parent = text[..at].rfind('/').unwrap_or(0);
            text.replace_range(parent..at + 3, "");
        }
    }
    vec![sent, text]
}

fn fits(
    rule: &Rule,
    denies: bool,
    connection: &Connection<'_>,
    http: Option<&HttpRequest<'_>>,
    path: &str,
) -> bool {
    let from = |source: &Source| from_fits(source, denies, connection, http);
    let to = |operation: &Operation| to_fits(operation, denies, connection, http, path);
    if !rule.from.is_empty() && !rule.from.iter().any(from) {
        return false;
    }
    if !rule.to.is_empty() && !rule.to.iter().any(to) {
        return false;
    }
    for condition in &rule.when {
        let id = connection.identity;
        let holds = match &condition.demand {
            Demand::Unknown(_) => denies,
            Demand::Header(name, demand) => match http {
                None => denies,
                Some(request) => {
                    let values: Vec<String> = request
                        .headers
                        .get_all(name)
                        .iter()
                        .map(|value| value.to_str().unwrap().to_owned())
                        .collect();
                    let mut each = values.iter().map(|value| text(demand, Some(value)));
                    if values.is_empty() {
                        text(demand, None)
                    } else if denies {
                        each.any(|holds| holds)
                    } else {
                        each.all(|holds| holds)
                    }
                }
            },
            Demand::RequestPrincipal(demand) => match http {
                None => denies,
                Some(request) => of_token(demand, &principals(request)),
            },
            Demand::Audiences(demand) => match http {
                None => denies,
                Some(request) => of_token(demand, &claim(request, &["aud"])),
            },
            Demand::Presenter(demand) => match http {
                None => denies,
                Some(request) => of_token(demand, &claim(request, &["azp"])),
            },
            Demand::Claim(path, demand) => match http {
                None => denies,
                Some(request) => {
                    let path: Vec<&str> = path.iter().map(String::as_str).collect();
                    of_token(demand, &claim(request, &path))
                }
            },
            Demand::Namespace(demand) => text(demand, id.map(SpiffeId::namespace)),
            Demand::Principal(demand) => text(demand, id.map(SpiffeId::principal)),
            Demand::ServiceAccount(demand) => text(demand, account(id).as_deref()),
            Demand::SourceIp(demand) | Demand::RemoteIp(demand) => {
                within(demand, connection.source)
            }
            Demand::DestinationIp(demand) => within(demand, connection.destination.ip()),
            Demand::ServerName(demand) => match connection.server_name {
                None => denies,
                Some(name) => lower(demand, name.trim_end_matches('.')),
            },
            Demand::DestinationPort(demand) => {
                text(demand, Some(&connection.destination.port().to_string()))
            }
        };
        if !holds {
            return false;
        }
    }
    true
}

fn principals(request: &HttpRequest<'_>) -> Vec<String> {
    let parts = |name| claim(request, &[name]).pop();
    let (issuer, subject) = (parts("iss"), parts("sub"));
    let both = issuer.zip(subject);
    both.into_iter().map(|(i, s)| format!("{i}/{s}")).collect()
}

/// The texts of a claim.
fn claim(request: &HttpRequest<'_>, path: &[&str]) -> Vec<String> {
    let Some(token) = request.token else {
        return Vec::new();
    };
    let mut value = serde_json::to_value(token.claims.clone()).unwrap();
    for name in path {
        value = match value {
            serde_json::Value::Object(mut members) => members.remove(*name).unwrap_or_default(),
            _ => return Vec::new(),
        };
    }
    match value {
        serde_json::Value::String(text) => vec![text],
        serde_json::Value::Array(items) => {
            let texts = items.iter().filter_map(|item| item.as_str());
            texts.map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

fn of_token<T: ToString>(demand: &Match<T>, values: &[String]) -> bool {
    let hit = |p: &T| values.iter().any(|value| glob(&p.to_string(), value));
    (demand.any.is_empty() || demand.any.iter().any(hit)) && !demand.none.iter().any(hit)
}

/// By how the patterns are written, in any case.
fn lower<T: ToString>(demand: &Match<T>, value: &str) -> bool {
    let hit = |p: &T| glob(&p.to_string().to_lowercase(), &value.to_lowercase());
    (demand.any.is_empty() || demand.any.iter().any(hit)) && !demand.none.iter().any(hit)
}

fn account(id: Option<&SpiffeId>) -> Option<String> {
    id.map(|id| format!("{}/{}", id.namespace(), id.service_account()))
}

fn from_fits(
    source: &Source,
    denies: bool,
    connection: &Connection<'_>,
    http: Option<&HttpRequest<'_>>,
) -> bool {
    let id = connection.identity;
    text(&source.principals, id.map(SpiffeId::principal))
        && text(&source.namespaces, id.map(SpiffeId::namespace))
        && text(&source.service_accounts, account(id).as_deref())
        && within(&source.ip_blocks, connection.source)
        && within(&source.remote_ip_blocks, connection.source)
        && match http {
            Some(request) => of_token(&source.request_principals, &principals(request)),
            None => denies || source.request_principals.is_empty(),
        }
}

fn to_fits(
    operation: &Operation,
    denies: bool,
    connection: &Connection<'_>,
    http: Option<&HttpRequest<'_>>,
    path: &str,
) -> bool {
    let port = connection.destination.port().to_string();
    if !text(&operation.ports, Some(&port)) {
        return false;
    }
    let Some(request) = http else {
        return denies
            || (operation.hosts.is_empty()
                && operation.methods.is_empty()
                && operation.paths.is_empty());
    };
    let authority = request.authority.to_lowercase();
    let bare = authority
        .split(':')
        .next()
        .unwrap()
        .trim_end_matches('.')
        .to_owned();
    let host = |p: &String| glob(&p.to_lowercase(), &authority) || glob(&p.to_lowercase(), &bare);
    let any: Vec<String> = operation
        .hosts
        .any
        .iter()
        .map(ToString::to_string)
        .collect();
    let none: Vec<String> = operation
        .hosts
        .none
        .iter()
        .map(ToString::to_string)
        .collect();
    (any.is_empty() || any.iter().any(host))
        && !none.iter().any(host)
        && text(&operation.methods, Some(request.method))
        && text(&operation.paths, Some(path))
}

/// By how the patterns are written.
fn text<T: ToString>(demand: &Match<T>, value: Option<&str>) -> bool {
    let hit = |pattern: &T| value.is_some_and(|value| glob(&pattern.to_string(), value));
    (demand.any.is_empty() || demand.any.iter().any(hit)) && !demand.none.iter().any(hit)
}

fn glob(pattern: &str, value: &str) -> bool {
    if pattern == "*" {
        return !value.is_empty();
    }
    if pattern.contains('{') {
        return template(&pattern.split('/').collect::<Vec<_>>(), value);
    }
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (_, Some(prefix)) => value.starts_with(prefix),
        (Some(suffix), None) => value.ends_with(suffix),
        (None, None) => pattern == value,
    }
}

fn template(segments: &[&str], value: &str) -> bool {
    let Some((first, rest)) = segments.split_first() else {
        return false;
    };
    if *first == "{**}" {
        assert!(rest.is_empty(), "the generator writes it last");
        return true;
    }
    let (head, tail) = match value.split_once('/') {
        Some((head, tail)) => (head, Some(tail)),
        None => (value, None),
    };
    let here = if *first == "{*}" {
        !head.is_empty()
    } else {
        *first == head
    };
    here && match tail {
        Some(tail) => template(rest, tail),
        None => rest.is_empty(),
    }
}

fn within(demand: &Match<ipnet::IpNet>, ip: IpAddr) -> bool {
    let ip = match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(IpAddr::V6(v6), IpAddr::V4),
        v4 => v4,
    };
    let hit = |block: &ipnet::IpNet| block.contains(&ip);
    (demand.any.is_empty() || demand.any.iter().any(hit)) && !demand.none.iter().any(hit)
}
