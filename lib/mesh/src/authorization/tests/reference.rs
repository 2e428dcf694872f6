//! The semantics once more, written from the words and not from the evaluator:
//! slow, without shared code, each attribute a list of possible values.

use crate::{
    SpiffeId,
    authorization::{
        Action, Connection, Demand, HttpRequest, Match, Operation, PathPattern, Pattern, Policies,
        Policy, Rule, Scope, Source,
    },
};
use std::net::IpAddr;

/// Whether a request is allowed, and the policy and rule that decided.
pub type Verdict = (bool, Option<(String, usize)>);

/// The verdict about each spelling of the path, the one that was sent first. `None`: it
/// has more spellings than a request may have.
pub fn decide(
    policies: &Policies,
    scope: Scope,
    connection: &Connection<'_>,
    http: Option<&HttpRequest<'_>>,
) -> Option<Vec<Verdict>> {
    let counts = |policy: &&Policy| scope == Scope::WithDryRun || !policy.dry_run;
    let paths = spellings(http.map_or("", |request| request.path));
    let goes_by_paths = policies.iter().filter(counts).any(|policy| {
        policy.action != Action::Audit
            && policy
                .rules
                .iter()
                .flat_map(|rule| &rule.to)
                .any(|to| to.paths != Match::default())
    });
    let paths = if http.is_some() && goes_by_paths {
        paths?
    } else {
        vec![String::new()]
    };
    let verdict = |path: &String| decide_path(policies, scope, connection, http, path);
    Some(paths.iter().map(verdict).collect())
}

fn decide_path(
    policies: &Policies,
    scope: Scope,
    connection: &Connection<'_>,
    http: Option<&HttpRequest<'_>>,
    path: &str,
) -> Verdict {
    let counts = |policy: &&Policy| scope == Scope::WithDryRun || !policy.dry_run;
    for action in [Action::Custom, Action::Deny] {
        for policy in policies
            .iter()
            .filter(counts)
            .filter(|p| p.action == action)
        {
            for (at, rule) in policy.rules.iter().enumerate() {
                if fits(rule, true, connection, http, path) {
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
            if usable && fits(rule, false, connection, http, path) {
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

/// What applications may take a target for: each of the steps below, in any order and
/// any number. `None`: more than sixteen.
pub(crate) fn spellings(target: &str) -> Option<Vec<String>> {
    let sent = target.split(['?', '#']).next().unwrap().to_owned();
    let mut all = vec![sent];
    let mut at = 0;
    while at < all.len() {
        for made in STEPS.map(|step| step(&all[at])) {
            if !all.contains(&made) {
                all.push(made);
            }
        }
        if all.len() > 16 {
            return None;
        }
        at += 1;
    }
    Some(all)
}

/// What applications do with a path, each written from its words.
pub(crate) const STEPS: [fn(&str) -> String; 10] = [
    |path| dots(path, false),
    |path| dots(path, true),
    |path| {
        let mut path = path.to_owned();
        while path.contains("//") {
            path = path.replace("//", "/");
        }
        path
    },
    |path| path.replace('\\', "/"),
    |path| unescape(path, b"/\\"),
    |path| unescape(path, &(0..128).collect::<Vec<u8>>()),
    |path| {
        let segments: Vec<_> = path
            .split('/')
            .map(|s| s.split(';').next().unwrap())
            .collect();
        segments.join("/")
    },
    |path| match path.strip_prefix("//") {
        Some(rest) => match rest.trim_start_matches('/').split_once('/') {
            Some((_, path)) => format!("/{path}"),
            None => "/".to_owned(),
        },
        None => path.to_owned(),
    },
    |path| {
        let path = path.split(['?', '#']).next().unwrap();
        path.trim_end_matches('\n').to_owned()
    },
    |path| {
        if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/{path}")
        }
    },
];

/// RFC 3986, 5.2.4, by its letter: what begins the input moves to the output.
fn dots(path: &str, encoded: bool) -> String {
    let is = |segment: &str, dots: &str| {
        let plain = if encoded {
            segment.replace("%2e", ".").replace("%2E", ".")
        } else {
            segment.to_owned()
        };
        plain == dots
    };
    let mut input = path.to_owned();
    let mut output = String::new();
    while let Some(rest) = input.strip_prefix('/') {
        let segment = rest.split('/').next().unwrap();
        let left = &rest[segment.len()..];
        let left = if left.is_empty() { "/" } else { left }.to_owned();
        if is(segment, ".") {
            input = left;
        } else if is(segment, "..") {
            output.truncate(output.rfind('/').unwrap_or(0));
            input = left;
        } else {
            output.push('/');
            output.push_str(segment);
            input = rest[segment.len()..].to_owned();
        }
    }
    output + &input
}

fn unescape(path: &str, wanted: &[u8]) -> String {
    let mut parts = path.split('%');
    let mut made = parts.next().unwrap().to_owned();
    for part in parts {
        let code = part
            .get(..2)
            .filter(|code| code.bytes().all(|b| b.is_ascii_hexdigit()));
        let code = code.and_then(|code| u8::from_str_radix(code, 16).ok());
        match code {
            Some(byte) if wanted.contains(&byte) => {
                made.push(char::from(byte));
                made.push_str(&part[2..]);
            }
            _ => {
                made.push('%');
                made.push_str(part);
            }
        }
    }
    made
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
                Some(request) => header(request, name.as_str(), demand, denies),
            },
            Demand::RequestPrincipal(demand) => match http {
                None => denies,
                Some(request) => of_token(demand, &principals(request)),
            },
            Demand::Audiences(demand) => match http {
                None => denies,
                Some(request) => of_claim(demand, denies, &claim(request, &["aud"])),
            },
            Demand::Presenter(demand) => match http {
                None => denies,
                Some(request) => of_claim(demand, denies, &claim(request, &["azp"])),
            },
            Demand::Claim(path, demand) => match http {
                None => denies,
                Some(request) => {
                    let path: Vec<&str> = path.iter().map(String::as_str).collect();
                    of_claim(demand, denies, &claim(request, &path))
                }
            },
            Demand::Namespace(demand) => text(demand, own(connection).map(SpiffeId::namespace)),
            Demand::Principal(demand) => text(demand, id.map(SpiffeId::principal)),
            Demand::ServiceAccount(demand) => text(demand, account(own(connection)).as_deref()),
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

/// The caller, where namespaces and accounts are those of the own trust domain.
fn own<'a>(connection: &Connection<'a>) -> Option<&'a SpiffeId> {
    if connection.federated {
        return None;
    }
    connection.identity
}

/// A list of lines by the words of RFC 9110, 5.3: what denies is looked for in each line,
/// in each member of a list and in the joined lines; what allows, in every line.
fn header(request: &HttpRequest<'_>, name: &str, demand: &Match<Pattern>, denies: bool) -> bool {
    let mut lines: Vec<String> = Vec::new();
    let mut exact = false;
    for (other, value) in request.headers {
        if other.as_str().replace(['_', '.'], "-") == name.replace(['_', '.'], "-") {
            lines.push(value.to_str().unwrap().to_owned());
            exact |= other == name;
        }
    }
    let mut wide = lines.clone();
    wide.push(lines.join(","));
    wide.push(lines.join(", "));
    wide.extend(
        lines
            .iter()
            .flat_map(|line| line.split(',').map(|part| part.trim().to_owned())),
    );
    if lines.is_empty() {
        wide.clear();
    }
    let hit = |pattern: &Pattern, value: &String| {
        pattern.to_string() == "*" || glob(&pattern.to_string(), value)
    };
    let some = |list: &[Pattern]| list.iter().any(|p| wide.iter().any(|value| hit(p, value)));
    let all =
        |list: &[Pattern]| exact && lines.iter().all(|value| list.iter().any(|p| hit(p, value)));
    let (any, none) = if denies {
        (some(&demand.any), all(&demand.none))
    } else {
        (all(&demand.any), some(&demand.none))
    };
    (demand.any.is_empty() || any) && (demand.none.is_empty() || !none)
}

/// `*` fits an empty claim where that is against the caller.
fn of_claim(demand: &Match<Pattern>, denies: bool, values: &[String]) -> bool {
    let hit = |p: &Pattern, empty: bool| {
        let star = p.to_string() == "*" && empty;
        values
            .iter()
            .any(|value| star || glob(&p.to_string(), value))
    };
    (demand.any.is_empty() || demand.any.iter().any(|p| hit(p, denies)))
        && !demand.none.iter().any(|p| hit(p, !denies))
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
        && text(&source.namespaces, own(connection).map(SpiffeId::namespace))
        && text(
            &source.service_accounts,
            account(own(connection)).as_deref(),
        )
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
    let host = |p: &String| {
        let spelt = [&authority, &bare, &authority.replace(".:", ":")];
        p == "*" || spelt.iter().any(|spelt| glob(&p.to_lowercase(), spelt))
    };
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
        && method(&operation.methods, request.method, denies)
        && path_fits(&operation.paths, path)
}

/// A method in other letters is the same where that is against the caller.
fn method(demand: &Match<Pattern>, method: &str, denies: bool) -> bool {
    let hit = |p: &Pattern, any_case: bool| {
        let in_capitals = glob(&p.to_string().to_uppercase(), &method.to_uppercase());
        glob(&p.to_string(), method) || any_case && in_capitals
    };
    (demand.any.is_empty() || demand.any.iter().any(|p| hit(p, denies)))
        && !demand.none.iter().any(|p| hit(p, !denies))
}

/// The values of these tests are the same after every step.
fn path_fits(demand: &Match<PathPattern>, path: &str) -> bool {
    let hit = |p: &PathPattern| p.to_string() == "*" || glob(&p.to_string(), path);
    (demand.any.is_empty() || demand.any.iter().any(hit)) && !demand.none.iter().any(hit)
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
