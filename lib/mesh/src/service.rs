//! Services as a caller sees them.

use crate::{
    AppProtocol,
    destination::Destination,
    route::{Backend, HttpRoutes, TcpRoutes},
};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// One port of one service: what routes lead to and endpoints belong to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePort {
    /// The service's namespace.
    pub namespace: Arc<str>,
    /// The service's name.
    pub name: Arc<str>,
    /// The service's port (not the pods').
    pub port: u16,
}

impl fmt::Display for ServicePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}:{}", self.namespace, self.name, self.port)
    }
}

/// What a proxy needs to know of a service port to send to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Which.
    pub key: ServicePort,
    /// Fully qualified: `payment.default.svc.cluster.local`.
    pub hostname: String,
    /// What it declares to speak.
    pub protocol: AppProtocol,
    /// Rules for HTTP requests; none: all go to the service itself.
    pub http: Option<Arc<HttpRoutes>>,
    /// Rules for other connections; none: all go to the service itself.
    pub tcp: Option<Arc<TcpRoutes>>,
    /// Names of its subsets.
    pub subsets: Vec<String>,
    /// How its endpoints are called; `None`: by the defaults.
    pub destination: Option<Arc<Destination>>,
}

impl Service {
    /// All that its routes lead to, mirrors included.
    pub fn backends(&self) -> impl Iterator<Item = &Backend> {
        let http = self.http.iter().flat_map(|routes| &routes.rules);
        let http = http.flat_map(|rule| {
            let mirrors = rule.filters.mirrors.iter().map(|mirror| &mirror.backend);
            rule.backends.iter().chain(mirrors)
        });
        let tcp = self.tcp.iter().flat_map(|routes| &routes.rules);
        http.chain(tcp.flat_map(|rule| &rule.backends))
    }

    /// The service as a workload with these labels has it: without the match
    /// entries that want others, and the rules of which none is left.
    #[must_use]
    pub fn of_workload(self: &Arc<Self>, labels: &BTreeMap<String, String>) -> Arc<Self> {
        let wants = |wanted: &BTreeMap<String, String>| {
            let mut wanted = wanted.iter();
            !wanted.all(|(key, value)| labels.get(key) == Some(value))
        };
        let http = self.http.iter().flat_map(|routes| &routes.rules);
        let mut http = http.flat_map(|rule| &rule.matches);
        let tcp = self.tcp.iter().flat_map(|routes| &routes.rules);
        let mut tcp = tcp.flat_map(|rule| &rule.matches);
        if !http.any(|entry| wants(&entry.source_labels))
            && !tcp.any(|entry| wants(&entry.source_labels))
        {
            return self.clone();
        }
        let mut service = self.as_ref().clone();
        if let Some(routes) = &mut service.http {
            Arc::make_mut(routes).rules.retain_mut(|rule| {
                let always = rule.matches.is_empty();
                rule.matches.retain(|entry| !wants(&entry.source_labels));
                always || !rule.matches.is_empty()
            });
        }
        if let Some(routes) = &mut service.tcp {
            Arc::make_mut(routes).rules.retain_mut(|rule| {
                let always = rule.matches.is_empty();
                rule.matches.retain(|entry| !wants(&entry.source_labels));
                always || !rule.matches.is_empty()
            });
        }
        Arc::new(service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ResourceRef,
        route::{ConnectionMatch, Filters, HttpRule, RequestMatch, TcpRule},
    };

    fn labels(app: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("app".to_owned(), app.to_owned())])
    }

    #[test]
    fn a_workload_has_the_rules_for_its_labels() {
        let source = Arc::new(ResourceRef {
            kind: "VirtualService".into(),
            namespace: "default".into(),
            name: "payment".into(),
        });
        let rule = |name: &str, apps: &[&str]| HttpRule {
            source: source.clone(),
            position: 0,
            name: Some(name.into()),
            matches: apps
                .iter()
                .map(|app| RequestMatch {
                    source_labels: labels(app),
                    ..RequestMatch::default()
                })
                .collect(),
            backends: Vec::new(),
            filters: Filters::default(),
        };
        let tcp = |apps: &[&str]| TcpRule {
            place: "tcp[0]".to_owned(),
            source: source.clone(),
            matches: apps
                .iter()
                .map(|app| ConnectionMatch {
                    source_labels: labels(app),
                    ..ConnectionMatch::default()
                })
                .collect(),
            backends: Vec::new(),
        };
        let service = Arc::new(Service {
            key: ServicePort {
                namespace: "default".into(),
                name: "payment".into(),
                port: 80,
            },
            hostname: "payment".into(),
            protocol: AppProtocol::Detect,
            http: Some(Arc::new(HttpRoutes {
                sources: vec![source.clone()],
                rules: vec![rule("a", &["a"]), rule("ab", &["a", "b"]), rule("all", &[])],
            })),
            tcp: Some(Arc::new(TcpRoutes {
                rules: vec![tcp(&["a"]), tcp(&[])],
            })),
            subsets: Vec::new(),
            destination: None,
        });
        for (app, http, tcp, entries) in [
            ("a", &["a", "ab", "all"][..], 2, 1),
            ("b", &["ab", "all"], 1, 1),
            ("c", &["all"], 1, 0),
        ] {
            let seen = service.of_workload(&labels(app));
            let rules = &seen.http.as_ref().unwrap().rules;
            let names: Vec<_> = rules
                .iter()
                .filter_map(|rule| rule.name.as_deref())
                .collect();
            assert_eq!(names, http);
            assert_eq!(seen.tcp.as_ref().unwrap().rules.len(), tcp);
            assert_eq!(rules[0].matches.len(), entries);
        }
        let mut plain = service.as_ref().clone();
        (plain.http, plain.tcp) = (None, None);
        let plain = Arc::new(plain);
        assert!(Arc::ptr_eq(&plain, &plain.of_workload(&labels("a"))));
    }
}
