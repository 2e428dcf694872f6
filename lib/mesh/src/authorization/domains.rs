//! Principals under each name of the own trust domain.
//!
//! A principal that names the own trust domain or one of its aliases means the
//! workload under any of these names, as in Istio; so does `cluster.local`, which
//! stands for the own trust domain whatever that is called. Another trust domain,
//! and a pattern that begins with `*`, mean what they say.

use super::{Demand, Match, Pattern, Policy};
use crate::TrustDomain;

/// The own trust domain's place-holder in policies.
const LOCAL: &str = "cluster.local";

impl Policy {
    /// The policy with its principals under each of these names of the own trust
    /// domain.
    #[must_use]
    pub fn under(mut self, domains: &[TrustDomain]) -> Self {
        if matches!(domains, [only] if only.as_str() == LOCAL) {
            return self;
        }
        for rule in &mut self.rules {
            for source in &mut rule.from {
                each_name(&mut source.principals, domains);
            }
            for condition in &mut rule.when {
                if let Demand::Principal(principals) = &mut condition.demand {
                    each_name(principals, domains);
                }
            }
        }
        self
    }
}

fn each_name(principals: &mut Match<Pattern>, domains: &[TrustDomain]) {
    for list in [&mut principals.any, &mut principals.none] {
        *list = list
            .drain(..)
            .flat_map(|pattern| under(pattern, domains))
            .collect();
    }
}

fn under(pattern: Pattern, domains: &[TrustDomain]) -> Vec<Pattern> {
    let (Pattern::Exact(text) | Pattern::Prefix(text)) = &pattern else {
        return vec![pattern];
    };
    let Some((domain, rest)) = text.split_once('/') else {
        return vec![pattern];
    };
    if domain != LOCAL && !domains.iter().any(|own| own.as_str() == domain) {
        return vec![pattern];
    }
    let with = |domain: &TrustDomain| {
        let text = format!("{domain}/{rest}");
        match &pattern {
            Pattern::Prefix(_) => Pattern::Prefix(text.into()),
            _ => Pattern::Exact(text.into()),
        }
    };
    domains.iter().map(with).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(principal: &str, domains: &[&str]) -> Vec<String> {
        let domains: Vec<TrustDomain> = domains
            .iter()
            .map(|domain| domain.parse().unwrap())
            .collect();
        let pattern = Pattern::principal(principal).unwrap();
        under(pattern, &domains)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_principal_means_a_workload_by_every_name_of_its_trust_domain() {
        let both = ["new.example", "old.example"];
        let expected = ["new.example/ns/shop/sa/web", "old.example/ns/shop/sa/web"];
        for domain in ["new.example", "old.example", "cluster.local"] {
            assert_eq!(
                expanded(&format!("{domain}/ns/shop/sa/web"), &both),
                expected
            );
        }
        assert_eq!(
            expanded("old.example/ns/shop/*", &both),
            ["new.example/ns/shop/*", "old.example/ns/shop/*"]
        );
        for as_it_is in [
            "west.example/ns/shop/sa/web",
            "*/ns/shop/sa/web",
            "*",
            "new.exampl*",
        ] {
            assert_eq!(expanded(as_it_is, &both), [as_it_is]);
        }
        assert_eq!(
            expanded("cluster.local/ns/a/sa/b", &["new.example"]),
            ["new.example/ns/a/sa/b"]
        );
    }
}
