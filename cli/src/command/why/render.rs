//! A chain as a person reads it: one step under the other, the end last.

use super::{Callee, Chain};
use linnet_proxy::why::{
    Backend, DestinationKind, Endpoint, EndpointState, Filter, InboundAnswer, PolicyAnswer, Route,
    Values,
};
use std::fmt::Write;

/// Endpoints of one backend that are listed before they are only counted.
const LISTED: usize = 8;
/// Rules that did not match and are listed, from the last.
const RULES: usize = 12;

/// Lines under headings of one width.
struct Page(String);

impl Page {
    /// A line; a heading begins a step, and its further lines have none.
    fn line(&mut self, heading: &str, text: impl std::fmt::Display) {
        // Writing to a string can't fail.
        let _ = writeln!(self.0, "{heading:<13} {text}");
    }
}

/// The chain.
pub(super) fn chain(chain: &Chain) -> String {
    let mut page = Page(String::new());
    let outbound = &chain.outbound;
    let method = chain.request.method.as_deref().unwrap_or("GET");
    let mut request = format!("{method} {}", chain.request.url);
    for (name, values) in &chain.request.headers {
        let values = match values {
            Values::One(value) => std::slice::from_ref(value),
            Values::Many(values) => values,
        };
        for value in values {
            let _ = write!(request, "  {name}: {value}");
        }
    }
    page.line("request", request);
    let any = if chain.from_is_any {
        "  (any pod with a sidecar; name one with --from)"
    } else {
        ""
    };
    page.line("from", format_args!("pod {}{any}", chain.from));
    let identity = outbound.caller.identity.as_deref();
    page.line("", identity.unwrap_or("without a certificate yet"));
    destination(&mut page, chain);
    route(
        &mut page,
        outbound.route.as_ref(),
        outbound.destination.kind,
    );
    filters(&mut page, "filters", &outbound.filters);
    for (position, backend) in outbound.backends.iter().enumerate() {
        self::backend(&mut page, backend);
        let asked = chain.inbound.iter().find(|c| c.backend == position);
        if let Some(callee) = asked {
            self::callee(&mut page, callee);
        }
    }
    end(&mut page, chain);
    page.0
}

fn destination(page: &mut Page, chain: &Chain) {
    let destination = &chain.outbound.destination;
    let mut text = format!("{}:{}", destination.host, destination.port);
    if let Some(address) = destination.address {
        let address = address.to_string();
        if address != text {
            let _ = write!(text, " is {address}");
        }
    }
    page.line("destination", text);
    let what = match (destination.kind, &destination.service) {
        (DestinationKind::Service, Some(service)) => format!("service {service}"),
        (DestinationKind::Service, None) => "a service".to_owned(),
        (DestinationKind::Endpoint, _) => "one pod, by its own address".to_owned(),
        (DestinationKind::External, _) => "outside of the mesh".to_owned(),
        (DestinationKind::Unknown, _) => "unknown".to_owned(),
    };
    let protocol = destination.protocol.as_ref();
    let protocol = protocol.map(|protocol| format!(", declared to speak {protocol}"));
    page.line("", format!("{what}{}", protocol.unwrap_or_default()));
}

fn route(page: &mut Page, route: Option<&Route>, kind: DestinationKind) {
    let Some(route) = route else {
        if kind == DestinationKind::Service {
            page.line(
                "route",
                "no rules: every request goes to the service itself",
            );
        }
        return;
    };
    let mut heading = "route";
    let hidden = route.rules.len().saturating_sub(RULES + 1);
    if hidden > 0 {
        page.line(
            heading,
            format_args!("{hidden} rules before these do not match"),
        );
        heading = "";
    }
    for rule in &route.rules[hidden..] {
        let name = rule.name.as_ref().map(|name| format!(" ({name})"));
        let name = format!(
            "{} rule {}{}",
            rule.resource,
            rule.number,
            name.unwrap_or_default()
        );
        if rule.matched {
            page.line(heading, format_args!("✔ {name} matches"));
        } else {
            page.line(
                heading,
                format_args!("✘ {name}: {}", rule.because.join("; or ")),
            );
        }
        heading = "";
    }
    if route.rules.is_empty() {
        page.line(heading, "there are routes, without a rule");
    }
}

fn filters(page: &mut Page, heading: &str, filters: &[Filter]) {
    let mut heading = heading;
    for filter in filters {
        page.line(heading, format_args!("{}: {}", filter.name, filter.does));
        heading = "";
    }
}

fn backend(page: &mut Page, backend: &Backend) {
    let subset = backend
        .subset
        .as_ref()
        .map(|name| format!(" subset {name}"));
    let share = format!("{} %", (backend.percent * 100.0).round() / 100.0);
    let name = format!(
        "{share} to {}{}",
        backend.service,
        subset.unwrap_or_default()
    );
    page.line("backend", name);
    filters(page, "", &backend.filters);
    filters(page, "", &backend.policies);
    if let Some(problem) = &backend.problem {
        page.line("", format_args!("✘ {problem}"));
    }
    let mut heading = "  endpoints";
    for endpoint in backend.endpoints.iter().take(LISTED) {
        page.line(heading, self::endpoint(endpoint));
        heading = "";
    }
    let more = backend.endpoints.len().saturating_sub(LISTED);
    if more > 0 {
        page.line("", format_args!("and {more} more"));
    }
    if backend.endpoints.is_empty() && backend.problem.is_none() {
        page.line(heading, "✘ none");
    }
    if let Some(identity) = backend.endpoints.first().map(|e| e.identity.as_deref()) {
        let text = match identity {
            Some(identity) => format!("mutual TLS, expected to be {identity}"),
            None => "plaintext: no sidecar takes mutual TLS there".to_owned(),
        };
        page.line("  encryption", text);
    }
}

fn endpoint(endpoint: &Endpoint) -> String {
    let state = match endpoint.state {
        EndpointState::Healthy => "healthy",
        EndpointState::Ejected => "ejected",
        EndpointState::Terminating => "terminating",
    };
    let mut text = endpoint.address.to_string();
    if !endpoint.pod.is_empty() {
        let _ = write!(text, " {}/{}", endpoint.namespace, endpoint.pod);
    }
    let _ = write!(text, " {state}");
    if let Some(note) = &endpoint.note {
        let _ = write!(text, " ({note})");
    }
    let _ = write!(text, ", {} in flight", endpoint.in_flight);
    if let Some(latency) = endpoint.latency_ms {
        let _ = write!(text, ", {latency:.1} ms");
    }
    text
}

fn callee(page: &mut Page, callee: &Callee) {
    let heading = "  there";
    match (&callee.answer, &callee.unasked) {
        (Some(answer), _) => {
            page.line(
                heading,
                format_args!("pod {}, port {}", callee.pod, answer.port),
            );
            inbound(page, answer);
        }
        (None, Some(reason)) => {
            let pod = if callee.pod.name.is_empty() {
                "no pod of the cluster".to_owned()
            } else {
                format!("pod {}", callee.pod)
            };
            page.line(heading, format_args!("{pod}: {reason}"));
        }
        (None, None) => {}
    }
}

fn inbound(page: &mut Page, answer: &InboundAnswer) {
    let mtls = &answer.mtls;
    let mark = mark(mtls.satisfied);
    page.line(
        "  mTLS",
        format_args!("{mark} {} by {}", mtls.mode, mtls.source),
    );
    if let Some(token) = &answer.token {
        page.line("  token", token);
    }
    let mut heading = "  policies";
    if answer.policies.is_empty() {
        page.line(heading, "no AuthorizationPolicy speaks of it");
    }
    for policy in &answer.policies {
        for line in policy_lines(policy) {
            page.line(heading, line);
            heading = "";
        }
    }
    let verb = if answer.allowed { "allowed" } else { "denied" };
    page.line(
        "  decision",
        format_args!("{} {verb}: {}", self::mark(answer.allowed), answer.by),
    );
    if let Some(by) = &answer.dry_run {
        page.line(
            "",
            format_args!("! would be denied, but for the dry run: {by}"),
        );
    }
    if let Some(by) = &answer.audited {
        page.line("", format_args!("noted by {by}"));
    }
}

fn policy_lines(policy: &PolicyAnswer) -> Vec<String> {
    let dry = if policy.dry_run { ", dry run" } else { "" };
    let name = format!("{} ({}{dry})", policy.resource, policy.action);
    let mut lines = vec![match policy.rule {
        Some(rule) => format!("{name} applies: rule {rule} fits"),
        None if policy.because.is_empty() => format!("{name} does not apply: it has no rules"),
        None => format!("{name} does not apply"),
    }];
    let reasons = policy.because.iter().enumerate();
    lines.extend(reasons.map(|(rule, why)| format!("  rule {rule}: {why}")));
    lines
}

fn end(page: &mut Page, chain: &Chain) {
    if let Some(hint) = &chain.hint {
        page.line("hint", hint);
    }
    let outcome = &chain.outbound.outcome;
    let refused: Vec<&InboundAnswer> = chain
        .inbound
        .iter()
        .filter_map(|callee| callee.answer.as_ref())
        .filter(|answer| !answer.allowed)
        .collect();
    let text = match refused.first() {
        Some(answer) if !answer.mtls.satisfied => {
            format!("the connection is reset: {}", answer.by)
        }
        Some(answer) => format!(
            "answered 403 by {}/{}: {}",
            answer.namespace, answer.pod, answer.by
        ),
        None => outcome.text.clone(),
    };
    page.line("so", format_args!("{} {text}", mark(chain.arrives)));
}

const fn mark(good: bool) -> &'static str {
    if good { "✔" } else { "✘" }
}
