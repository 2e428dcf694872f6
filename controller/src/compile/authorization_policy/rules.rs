//! The rules of a policy, value by value, so that every mistake is named with
//! its place.

use super::Note;
use crate::resource::{
    AuthorizationCondition, AuthorizationFrom, AuthorizationOperation, AuthorizationRule,
    AuthorizationSource, AuthorizationTo,
};
use linnet_mesh::authorization::{
    Condition, Invalid, Match, Operation, Pattern, Rule, ServiceAccount, Source,
    pattern::{block, port},
};

/// Reads rules, and notes what is wrong with them or can't be evaluated.
pub(super) struct Reader<'a> {
    pub(super) namespace: &'a str,
    pub(super) allows: bool,
    /// Fields that the types don't know.
    pub(super) unknown: &'a [String],
    pub(super) notes: &'a mut Vec<Note>,
    pub(super) errors: &'a mut Vec<Note>,
}

impl Reader<'_> {
    pub(super) fn rules(&mut self, rules: &[AuthorizationRule]) -> Vec<Rule> {
        let rules = rules.iter().enumerate();
        rules
            .map(|(at, rule)| self.rule(&format!("spec.rules[{at}]"), rule))
            .collect()
    }

    fn rule(&mut self, field: &str, rule: &AuthorizationRule) -> Rule {
        let inside = format!("{field}.");
        let unknown: Vec<_> = self
            .unknown
            .iter()
            .filter(|name| name.starts_with(&inside))
            .collect();
        for name in &unknown {
            self.cannot_tell((*name).clone());
        }
        Rule {
            from: self.entries(field, "from", rule.from.as_deref(), Self::from),
            to: self.entries(field, "to", rule.to.as_deref(), Self::to),
            when: rule
                .when
                .iter()
                .enumerate()
                .filter_map(|(at, condition)| {
                    self.condition(&format!("{field}.when[{at}]"), condition)
                })
                .collect(),
            void: !unknown.is_empty(),
        }
    }

    /// What a rule says and nobody can evaluate never opens anything.
    fn cannot_tell(&mut self, field: String) {
        let effect = if self.allows {
            "so this rule allows nobody"
        } else {
            "so the rule denies without regard to it"
        };
        self.notes.push(Note::new(
            field,
            format!("can't be evaluated yet, {effect}"),
        ));
    }

    fn entries<T, U>(
        &mut self,
        field: &str,
        name: &str,
        entries: Option<&[T]>,
        read: impl Fn(&mut Self, &str, &T) -> U,
    ) -> Vec<U> {
        let field = format!("{field}.{name}");
        if entries.is_some_and(<[T]>::is_empty) {
            self.errors.push(Note::new(
                field.as_str(),
                "is empty; leave it out if anything fits",
            ));
        }
        let entries = entries.unwrap_or_default().iter().enumerate();
        entries
            .map(|(at, entry)| read(self, &format!("{field}[{at}]"), entry))
            .collect()
    }

    fn list<T>(
        &mut self,
        field: &str,
        texts: &[String],
        parse: impl Fn(&str) -> Result<T, Invalid>,
    ) -> Vec<T> {
        let mut values = Vec::new();
        for (at, text) in texts.iter().enumerate() {
            match parse(text) {
                Ok(value) => values.push(value),
                Err(error) => self
                    .errors
                    .push(Note::new(format!("{field}[{at}]"), error.to_string())),
            }
        }
        values
    }

    /// `field` and its `not…` twin.
    fn both<T>(
        &mut self,
        (path, name): (&str, &str),
        any: &[String],
        none: &[String],
        parse: impl Fn(&str) -> Result<T, Invalid>,
    ) -> Match<T> {
        let (first, rest) = name.split_at(1);
        let not = format!("{path}.not{}{rest}", first.to_ascii_uppercase());
        Match {
            any: self.list(&format!("{path}.{name}"), any, &parse),
            none: self.list(&not, none, &parse),
        }
    }

    fn from(&mut self, field: &str, from: &AuthorizationFrom) -> Source {
        let path = format!("{field}.source");
        let source = from.source.clone().unwrap_or_default();
        if source == AuthorizationSource::default() && !self.has_unknown(&path) {
            self.errors.push(Note::new(
                path.as_str(),
                "is empty; leave from out if anybody may be meant",
            ));
        }
        let namespace = self.namespace.to_owned();
        let account = |text: &str| ServiceAccount::parse(text, &namespace);
        let s = &source;
        for (name, list) in [
            ("remoteIpBlocks", &s.remote_ip_blocks),
            ("notRemoteIpBlocks", &s.not_remote_ip_blocks),
        ] {
            if !list.is_empty() {
                self.remote(format!("{path}.{name}"));
            }
        }
        Source {
            principals: self.both(
                (&path, "principals"),
                &s.principals,
                &s.not_principals,
                Pattern::principal,
            ),
            namespaces: self.both(
                (&path, "namespaces"),
                &s.namespaces,
                &s.not_namespaces,
                str::parse,
            ),
            service_accounts: self.both(
                (&path, "serviceAccounts"),
                &s.service_accounts,
                &s.not_service_accounts,
                account,
            ),
            ip_blocks: self.both((&path, "ipBlocks"), &s.ip_blocks, &s.not_ip_blocks, block),
            remote_ip_blocks: self.both(
                (&path, "remoteIpBlocks"),
                &s.remote_ip_blocks,
                &s.not_remote_ip_blocks,
                block,
            ),
            request_principals: self.both(
                (&path, "requestPrincipals"),
                &s.request_principals,
                &s.not_request_principals,
                str::parse,
            ),
        }
    }

    fn remote(&mut self, field: String) {
        self.notes.push(Note::new(
            field,
            "is compared with the connection's own address: x-forwarded-for is not trusted",
        ));
    }

    fn server_name(&mut self, field: String) {
        let effect = if self.allows {
            "where this rule allows nobody"
        } else {
            "where the rule denies without regard to it"
        };
        let known = "is known of TLS that an application speaks itself, not between sidecars";
        self.notes
            .push(Note::new(field, format!("{known}, {effect}")));
    }

    fn to(&mut self, field: &str, to: &AuthorizationTo) -> Operation {
        let path = format!("{field}.operation");
        let operation = to.operation.clone().unwrap_or_default();
        if operation == AuthorizationOperation::default() && !self.has_unknown(&path) {
            self.errors.push(Note::new(
                path.as_str(),
                "is empty; leave to out if anything may be meant",
            ));
        }
        let o = &operation;
        Operation {
            hosts: self.both((&path, "hosts"), &o.hosts, &o.not_hosts, str::parse),
            ports: self.both((&path, "ports"), &o.ports, &o.not_ports, port),
            methods: self.both((&path, "methods"), &o.methods, &o.not_methods, str::parse),
            paths: self.both((&path, "paths"), &o.paths, &o.not_paths, str::parse),
        }
    }

    fn has_unknown(&self, path: &str) -> bool {
        self.unknown
            .iter()
            .any(|name| name.strip_prefix(path).is_some_and(|r| r.starts_with('.')))
    }

    fn condition(&mut self, field: &str, condition: &AuthorizationCondition) -> Option<Condition> {
        let AuthorizationCondition {
            key,
            values,
            not_values,
        } = condition;
        if values.is_empty() && not_values.is_empty() {
            self.errors.push(Note::new(
                field,
                "has neither values nor notValues; say what the attribute must be",
            ));
            return None;
        }
        match Condition::new(key, values, not_values, self.namespace) {
            Ok(condition) => {
                if condition.is_unknown() {
                    self.cannot_tell(format!("{field}.key {key}"));
                } else if key == "remote.ip" {
                    self.remote(format!("{field}.key"));
                } else if key == "connection.sni" {
                    self.server_name(format!("{field}.key"));
                }
                Some(condition)
            }
            Err(error) => {
                let field = match error.at {
                    Some((list, at)) => format!("{field}.{list}[{at}]"),
                    None => format!("{field}.key"),
                };
                self.errors.push(Note::new(field, error.to_string()));
                None
            }
        }
    }
}
