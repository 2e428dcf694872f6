//! Routes of connections that are not HTTP: what their first bytes and their
//! addresses tell decides, once a connection.

use super::{Backend, draw};
use crate::ResourceRef;
use ipnet::IpNet;
use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

/// The rules of one service port, in order: the first that matches decides. A
/// connection that none matches goes to the service itself.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpRoutes {
    /// The rules.
    pub rules: Vec<TcpRule>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub struct TcpRule {
    /// The resource it stands in.
    pub source: Arc<ResourceRef>,
    /// Its place there, below `spec`: `tls[0]`, `tcp[1]`.
    pub place: String,
    /// Any of these; none matches everything.
    pub matches: Vec<ConnectionMatch>,
    /// Where connections go, by weight.
    pub backends: Vec<Backend>,
}

/// Conditions that must all hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ConnectionMatch {
    /// Names that a TLS client may ask for (SNI): exact, or `*.` and a domain;
    /// any of these. Empty: nobody looks at it.
    pub server_names: Vec<String>,
    /// Where the connection was to go; any of these. Empty: anywhere.
    pub subnets: Vec<IpNet>,
    /// The caller's own labels.
    pub source_labels: BTreeMap<String, String>,
}

/// What a rule looks at in a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnectionParts<'a> {
    /// The name that a TLS client asks for.
    pub server_name: Option<&'a str>,
    /// The address that was called, where it was called by address.
    pub destination: Option<IpAddr>,
}

impl TcpRoutes {
    /// The first rule that matches.
    pub fn rule(&self, connection: &ConnectionParts<'_>) -> Option<&TcpRule> {
        self.rules.iter().find(|rule| rule.matches(connection))
    }

    /// Whether the name that a client asks for can make a difference.
    pub fn look_at_server_names(&self) -> bool {
        let mut entries = self.rules.iter().flat_map(|rule| &rule.matches);
        entries.any(|entry| !entry.server_names.is_empty())
    }
}

impl fmt::Display for TcpRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.source, self.place)
    }
}

impl TcpRule {
    /// Whether the rule applies to a connection.
    pub fn matches(&self, connection: &ConnectionParts<'_>) -> bool {
        self.matches.is_empty() || self.matches.iter().any(|entry| entry.matches(connection))
    }

    /// The backend that `random` draws by weight, as for HTTP.
    pub fn backend(&self, random: u64) -> Option<&Backend> {
        draw(&self.backends, random)
    }
}

impl ConnectionMatch {
    /// Whether all conditions hold; the caller's labels were looked at when the
    /// rules arrived ([`Service::of_workload`](crate::Service::of_workload)).
    pub fn matches(&self, connection: &ConnectionParts<'_>) -> bool {
        let named = self.server_names.is_empty()
            || connection.server_name.is_some_and(|name| {
                let mut wanted = self.server_names.iter();
                wanted.any(|wanted| server_name_matches(wanted, name))
            });
        let placed = self.subnets.is_empty()
            || connection
                .destination
                .is_some_and(|ip| self.subnets.iter().any(|subnet| subnet.contains(&ip)));
        named && placed
    }
}

/// `*` stands for at least one label; names have no case.
fn server_name_matches(wanted: &str, name: &str) -> bool {
    match wanted.strip_prefix('*') {
        None => wanted.eq_ignore_ascii_case(name),
        Some(behind) => {
            let start = name.len().checked_sub(behind.len());
            start
                .filter(|&start| start > 0)
                .and_then(|start| name.get(start..))
                .is_some_and(|end| end.eq_ignore_ascii_case(behind))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection<'a>(server_name: Option<&'a str>, ip: &str) -> ConnectionParts<'a> {
        ConnectionParts {
            server_name,
            destination: ip.parse().ok(),
        }
    }

    #[test]
    fn names_are_exact_or_below_a_domain() {
        for (wanted, name, expected) in [
            ("a.example.com", "A.example.com", true),
            ("a.example.com", "b.a.example.com", false),
            ("*.example.com", "a.example.com", true),
            ("*.example.com", "a.b.EXAMPLE.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", ".example.com", false),
            ("*.example.com", "aexample.com", false),
            ("*", "anything", true),
        ] {
            assert_eq!(
                server_name_matches(wanted, name),
                expected,
                "{wanted} {name}"
            );
        }
    }

    #[test]
    fn all_conditions_of_an_entry_hold() {
        let entry = ConnectionMatch {
            server_names: vec!["a".into(), "b".into()],
            subnets: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            ..ConnectionMatch::default()
        };
        assert!(entry.matches(&connection(Some("b"), "10.1.2.3")));
        assert!(entry.matches(&connection(Some("a"), "fd00::1")));
        assert!(!entry.matches(&connection(Some("c"), "10.1.2.3")));
        assert!(!entry.matches(&connection(None, "10.1.2.3")));
        assert!(!entry.matches(&connection(Some("a"), "11.0.0.1")));
        assert!(!entry.matches(&connection(Some("a"), "no address")));
        assert!(ConnectionMatch::default().matches(&ConnectionParts::default()));
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rule = |names: &[&str]| TcpRule {
            place: names.join(","),
            source: Arc::new(ResourceRef {
                kind: "VirtualService".into(),
                namespace: "default".into(),
                name: "db".into(),
            }),
            matches: vec![ConnectionMatch {
                server_names: names.iter().map(|&name| name.into()).collect(),
                ..ConnectionMatch::default()
            }],
            backends: Vec::new(),
        };
        let routes = TcpRoutes {
            rules: vec![rule(&["a"]), rule(&["*"]), rule(&[])],
        };
        for (name, position) in [(Some("a"), 0), (Some("b"), 1), (None, 2)] {
            let found = routes.rule(&connection(name, "10.0.0.1"));
            assert_eq!(found, Some(&routes.rules[position]));
        }
        assert!(routes.look_at_server_names());
    }
}
