//! Hosts as resources write them, and who sees a resource.

use super::{Context, Note};
use crate::object::Name;
use std::{fmt, sync::Arc};

/// What a host names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A service of the cluster.
    Service(Name),
    /// A pattern.
    Wildcard,
    /// Something outside the cluster.
    External,
}

impl Host {
    /// Reads a host. A short name is a service of `namespace`.
    pub fn parse(text: &str, namespace: &str, context: &Context) -> Self {
        let text = text.trim_end_matches('.').to_ascii_lowercase();
        if text.contains('*') {
            return Self::Wildcard;
        }
        let Some((name, rest)) = text.split_once('.') else {
            return Self::Service(Name::new(namespace, text));
        };
        let service = rest
            .strip_suffix(context.cluster_domain.as_str())
            .and_then(|rest| rest.strip_suffix('.'))
            .unwrap_or(rest)
            .strip_suffix(".svc")
            .filter(|namespace| !namespace.contains('.'));
        match service {
            Some(namespace) => Self::Service(Name::new(namespace, name)),
            None => Self::External,
        }
    }

    /// Whether a text could be a host at all.
    pub(super) fn is_valid(text: &str) -> bool {
        let text = text
            .strip_prefix("*.")
            .unwrap_or(text)
            .trim_end_matches('.');
        text == "*"
            || (!text.is_empty()
                && text.len() <= 253
                && text.split('.').all(|part| {
                    let bytes = part.as_bytes();
                    !part.is_empty()
                        && part.len() <= 63
                        && bytes.first() != Some(&b'-')
                        && bytes.last() != Some(&b'-')
                        && bytes
                            .iter()
                            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
                }))
    }
}

/// Services by what they have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// Those of a namespace, `*.shop.svc.cluster.local`.
    Namespace(Arc<str>),
    /// All of them, `*`.
    Mesh,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Namespace(namespace) => write!(f, "*.{namespace}.svc"),
            Self::Mesh => f.write_str("*"),
        }
    }
}

impl Scope {
    /// Reads a pattern; `None`: it is none, or no service fits.
    pub fn parse(text: &str, context: &Context) -> Option<Self> {
        let text = text.trim_end_matches('.').to_ascii_lowercase();
        if text == "*" {
            return Some(Self::Mesh);
        }
        let domain = text.strip_prefix("*.")?;
        let services = format!("svc.{}", context.cluster_domain);
        let above = services.strip_suffix(domain);
        if above.is_some_and(|above| above.is_empty() || above.ends_with('.')) {
            return Some(Self::Mesh);
        }
        let behind = format!(".{services}");
        let namespace = domain
            .strip_suffix(&behind)
            .or(domain.strip_suffix(".svc"))?;
        (!namespace.contains('.')).then(|| Self::Namespace(namespace.into()))
    }

    /// Whether a service is among them.
    pub fn includes(&self, service: &Name) -> bool {
        match self {
            Self::Namespace(namespace) => *namespace == service.namespace,
            Self::Mesh => true,
        }
    }
}

/// The namespaces whose workloads follow a resource (`exportTo`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Visibility {
    /// All of them.
    #[default]
    Everywhere,
    /// These.
    Only(Vec<String>),
}

impl Visibility {
    pub(super) fn read(export_to: &[String], namespace: &str, notes: &mut Vec<Note>) -> Self {
        if export_to.is_empty() || export_to.iter().any(|to| to == "*") {
            return Self::Everywhere;
        }
        let mut namespaces = Vec::new();
        for (position, to) in export_to.iter().enumerate() {
            match to.as_str() {
                "." => namespaces.push(namespace.to_owned()),
                "~" => notes.push(Note::new(
                    format!("spec.exportTo[{position}]"),
                    "no workload follows the resource",
                )),
                name => namespaces.push(name.to_owned()),
            }
        }
        Self::Only(namespaces)
    }

    /// Whether workloads of a namespace follow it.
    pub fn includes(&self, namespace: &str) -> bool {
        match self {
            Self::Everywhere => true,
            Self::Only(namespaces) => namespaces.iter().any(|name| name == namespace),
        }
    }

    /// Whether some namespace follows both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Only(names), other) | (other, Self::Only(names)) => {
                names.iter().any(|name| other.includes(name))
            }
            (Self::Everywhere, Self::Everywhere) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_resolve_as_the_api_says() {
        let context = Context {
            cluster_domain: "cluster.local".to_owned(),
        };
        let service = |namespace: &str, name: &str| Host::Service(Name::new(namespace, name));
        for (text, expected) in [
            ("payment", service("shop", "payment")),
            ("Payment", service("shop", "payment")),
            (
                "payment.other.svc.cluster.local",
                service("other", "payment"),
            ),
            (
                "payment.other.svc.cluster.local.",
                service("other", "payment"),
            ),
            ("payment.other.svc", service("other", "payment")),
            ("payment.other", Host::External),
            ("a.b.c.svc.cluster.local", Host::External),
            ("www.example.com", Host::External),
            ("*.shop.svc.cluster.local", Host::Wildcard),
            ("*", Host::Wildcard),
        ] {
            assert_eq!(Host::parse(text, "shop", &context), expected, "{text}");
        }
    }

    #[test]
    fn patterns_are_namespaces_or_the_mesh() {
        let context = Context {
            cluster_domain: "cluster.local".to_owned(),
        };
        let shop = || Some(Scope::Namespace("shop".into()));
        for (text, expected) in [
            ("*", Some(Scope::Mesh)),
            ("*.local", Some(Scope::Mesh)),
            ("*.svc.cluster.local", Some(Scope::Mesh)),
            ("*.shop.svc.cluster.local", shop()),
            ("*.Shop.svc.cluster.local.", shop()),
            ("*.shop.svc", shop()),
            ("*.a.shop.svc.cluster.local", None),
            ("*.ter.local", None),
            ("*.example.com", None),
            ("payment", None),
        ] {
            assert_eq!(Scope::parse(text, &context), expected, "{text}");
        }
    }

    #[test]
    fn impossible_hosts_are_told() {
        for text in ["", "-a", "a..b", "a b", "http://a", "a:80", "a/b"] {
            assert!(!Host::is_valid(text), "{text}");
        }
        for text in ["a", "*", "*.b", "a.b.", "a_b"] {
            assert!(Host::is_valid(text), "{text}");
        }
    }

    #[test]
    fn visibility_overlaps_where_a_namespace_follows_both() {
        let only = |names: &[&str]| Visibility::Only(names.iter().map(|&n| n.to_owned()).collect());
        assert!(only(&["a"]).overlaps(&Visibility::Everywhere));
        assert!(!only(&["a"]).overlaps(&only(&["b"])));
        assert!(only(&["a", "b"]).overlaps(&only(&["b"])));
        assert!(!only(&[]).overlaps(&Visibility::Everywhere));
    }
}
