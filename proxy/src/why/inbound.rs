//! The callee's part: what mutual TLS and the workload's policies say to a
//! caller.

use super::{
    AccessLog, Authorization, AuthorizationRule, InboundAnswer, InboundQuestion, Invalid, Mode,
    Mtls, PolicyAnswer, header_map, method,
};
use crate::inbound::token;
use linnet_mesh::{
    Inbound, MtlsMode, SpiffeId, access_log,
    authorization::{By, Connection, HttpRequest, Policies, Policy, Rule, Scope},
};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Returns what becomes of a call to a workload that is to be called as `inbound` says.
/// `is_own`: whether an identity is of the workload's own trust domain.
///
/// # Errors
/// A question that makes no sense.
pub(crate) fn explain(
    inbound: &Inbound,
    question: &InboundQuestion,
    own_ip: Option<IpAddr>,
    is_own: impl Fn(&SpiffeId) -> bool,
) -> Result<InboundAnswer, Invalid> {
    let identity: Option<SpiffeId> = match &question.identity {
        None => None,
        Some(text) => Some(
            text.parse()
                .map_err(|error| Invalid::new("identity", error))?,
        ),
    };
    let unspecified = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let connection = Connection {
        identity: identity.as_ref(),
        source: question.ip.unwrap_or(unspecified),
        destination: SocketAddr::new(own_ip.unwrap_or(unspecified), question.port),
        server_name: None,
        federated: identity.as_ref().is_some_and(|identity| !is_own(identity)),
    };
    let headers = header_map(&question.headers)?;
    let method = question.method.as_deref().map(method).transpose()?;
    let query = question.path.split_once('?').map(|(_, query)| query);
    let token = match inbound.authentication.as_ref().filter(|_| method.is_some()) {
        Some(rules) => token::look(rules, &headers, query),
        None => Ok(None),
    };
    let http = method.as_ref().map(|method| HttpRequest {
        method: method.as_str(),
        authority: &question.authority,
        path: &question.path,
        headers: &headers,
        token: token.as_ref().ok().and_then(Option::as_ref),
    });
    let mtls = mtls(inbound, question.port, identity.is_some());
    let none = Policies::default();
    let policies = inbound.authorization.as_deref().unwrap_or(&none);
    let decision = policies.decide(Scope::Enforced, &connection, http.as_ref());
    let would = policies.decide(Scope::WithDryRun, &connection, http.as_ref());
    let scope = if decision.allowed {
        Scope::WithDryRun
    } else {
        Scope::Enforced
    };
    let considered = policies.explain(scope, &connection, http.as_ref());
    let (allowed, by) = match &token {
        _ if !mtls.satisfied => (false, format!("{} says {}", mtls.source, mtls.mode)),
        Err(refused) => (false, refused.by.clone()),
        Ok(_) => (decision.allowed, decision.to_string()),
    };
    Ok(InboundAnswer {
        pod: inbound.workload.pod.clone(),
        namespace: inbound.workload.namespace.clone(),
        port: question.port,
        allowed,
        by,
        dry_run: (allowed && !would.allowed).then(|| would.to_string()),
        audited: policies
            .audit(&connection, http.as_ref())
            .map(|by: By<'_>| by.to_string()),
        policies: considered
            .into_iter()
            .map(|considered| PolicyAnswer {
                resource: considered.policy.source.to_string(),
                action: considered.policy.action.as_str().to_owned(),
                dry_run: considered.policy.dry_run,
                rule: considered.rule,
                because: considered.misfits,
            })
            .collect(),
        token: match token {
            Ok(None) => None,
            Ok(Some(token)) => Some(token.principal.map_or_else(
                || "accepted; it has no subject".to_owned(),
                |principal| format!("accepted: it speaks for {principal}"),
            )),
            Err(refused) => Some(format!("refused: {}", refused.reason)),
        },
        mtls,
    })
}

fn mtls(inbound: &Inbound, port: u16, verified: bool) -> Mtls {
    let mode = inbound.mode(port);
    let own = inbound.port(port).and_then(|known| known.mtls);
    Mtls {
        mode: mode_name(mode).to_owned(),
        source: match own {
            Some(_) => match &inbound.port_mtls_source {
                Some(resource) => format!("{resource}, portLevelMtls.{port}"),
                None => "portLevelMtls of the workload's PeerAuthentication".to_owned(),
            },
            None => source(inbound),
        },
        satisfied: verified || mode != MtlsMode::Strict,
    }
}

fn source(inbound: &Inbound) -> String {
    let source = inbound.mtls_source.as_ref();
    source.map_or_else(|| "the default".to_owned(), ToString::to_string)
}

const fn mode_name(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Disable => "DISABLE",
        MtlsMode::Permissive => "PERMISSIVE",
        MtlsMode::Strict => "STRICT",
    }
}

/// Who may call the workload.
pub(crate) fn authorization(inbound: &Inbound) -> Authorization {
    let policies = inbound.authorization.iter();
    let with_own = inbound.ports.iter();
    Authorization {
        pod: inbound.workload.pod.clone(),
        namespace: inbound.workload.namespace.clone(),
        mtls: Mode {
            mode: mode_name(inbound.mtls).to_owned(),
            source: source(inbound),
        },
        ports: with_own
            .filter_map(|port| Some((port.port, mode_name(port.mtls?).to_owned())))
            .collect(),
        rules: policies
            .flat_map(|policies| policies.iter())
            .flat_map(rules)
            .collect(),
        access_log: Some(access_log(&inbound.access_log.server)),
    }
}

fn access_log(log: &access_log::AccessLog) -> AccessLog {
    AccessLog {
        scope: log.scope.as_str().to_owned(),
        sample: f64::from(log.sample) / f64::from(access_log::ALL),
        filter: log.filter.as_ref().map(ToString::to_string),
        format: log.format.as_str().to_owned(),
    }
}

fn rules(policy: &Policy) -> Vec<AuthorizationRule> {
    let empty = AuthorizationRule {
        resource: policy.source.to_string(),
        action: policy.action.as_str().to_owned(),
        dry_run: policy.dry_run,
        rule: None,
        from: Vec::new(),
        to: Vec::new(),
        when: Vec::new(),
        void: false,
    };
    if policy.rules.is_empty() {
        return vec![empty];
    }
    let rules = policy.rules.iter().enumerate();
    rules
        .map(|(number, rule)| {
            let Rule {
                from,
                to,
                when,
                void,
            } = rule;
            AuthorizationRule {
                rule: Some(number),
                from: from.iter().map(ToString::to_string).collect(),
                to: to.iter().map(ToString::to_string).collect(),
                when: when.iter().map(ToString::to_string).collect(),
                void: *void,
                ..empty.clone()
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use linnet_mesh::{
        ResourceRef,
        authorization::{Action, Match, Operation, Source},
    };
    use std::sync::Arc;

    fn answer(rule: Rule, identity: &str, path: &str) -> InboundAnswer {
        let policy = Policy {
            source: ResourceRef {
                kind: "AuthorizationPolicy".into(),
                namespace: "shop".into(),
                name: "p".into(),
            },
            action: Action::Deny,
            dry_run: false,
            rules: vec![rule],
        };
        let inbound = Inbound {
            authorization: Some(Arc::new(Policies::new([policy]))),
            ..Inbound::default()
        };
        let question = InboundQuestion {
            identity: Some(identity.to_owned()),
            port: 8080,
            method: Some("GET".to_owned()),
            path: path.to_owned(),
            ..InboundQuestion::default()
        };
        let is_own = |id: &SpiffeId| id.trust_domain() == "cluster.local";
        explain(&inbound, &question, None, is_own).unwrap()
    }

    fn one<T>(value: T) -> Match<T> {
        Match {
            any: vec![value],
            none: vec![],
        }
    }

    #[test]
    fn the_reading_that_decides_is_named_and_explained() {
        let to = |path: &str| Rule {
            to: vec![Operation {
                paths: one(path.parse().unwrap()),
                ..Operation::default()
            }],
            ..Rule::default()
        };
        let web = "spiffe://cluster.local/ns/shop/sa/web";
        let denied = answer(to("/admin*"), web, "/b%2fc/../../admin/x?q");
        assert!(!denied.allowed);
        assert_eq!(
            denied.by,
            "AuthorizationPolicy shop/p (DENY), spec.rules[0]; a server may read the path as \"/admin/x\""
        );
        assert_eq!(denied.policies[0].rule, Some(0));
        let allowed = answer(to("/admin*"), web, "/b%2fc/../x");
        assert!(allowed.allowed);
        assert_eq!(
            allowed.policies[0].because,
            [r#"to[0] paths: it is "/b%2fc/../x", rule wants /admin*"#]
        );
    }

    #[test]
    fn a_federated_caller_is_named_as_such() {
        let rule = Rule {
            from: vec![Source {
                namespaces: one("shop".parse().unwrap()),
                ..Source::default()
            }],
            ..Rule::default()
        };
        let allowed = answer(rule, "spiffe://west.example/ns/shop/sa/web", "/");
        assert!(allowed.allowed);
        assert_eq!(
            allowed.policies[0].because,
            [
                "from[0] namespaces: the caller is west.example/ns/shop/sa/web, of another trust domain, rule wants shop"
            ]
        );
    }
}
