//! One policy out of several rules: the first of a host's rules that has a
//! traffic policy says how all its endpoints are called, a subset overrides that
//! part by part, and what is said for a port replaces all of it.

use super::{DestinationRule, Layer, Locality, Settings};
use linnet_mesh::destination::{Destination, DestinationPolicy, LocalityPolicy, Sources};
use std::{collections::BTreeMap, sync::Arc};

/// How one port of a service is called, after the rules in force for it, oldest
/// first; `None`: by the defaults. `near` is what the Service itself says of
/// places, where no rule does.
pub fn destination(
    rules: &[&DestinationRule],
    port: u16,
    near: Option<&LocalityPolicy>,
) -> Option<Destination> {
    let top = rules
        .iter()
        .find_map(|rule| Some((*rule, rule.policy.as_ref()?)))
        .map(|(rule, layer)| {
            let mut merged = Merged::default();
            merged.lay(layer.of_port(port), rule);
            merged
        })
        .unwrap_or_default();
    let policy = Arc::new(top.finish(near));
    let mut subsets: BTreeMap<String, Arc<DestinationPolicy>> = BTreeMap::new();
    let mut seen: Vec<&str> = Vec::new();
    for rule in rules {
        for subset in &rule.subsets {
            if seen.contains(&subset.name.as_str()) {
                continue;
            }
            seen.push(&subset.name);
            let Some(layer) = &subset.policy else {
                continue;
            };
            let mut merged = top.clone();
            merged.lay(&layer.own, rule);
            if let Some(settings) = layer.ports.get(&port) {
                merged = Merged::default();
                merged.lay(settings, rule);
            }
            let own = merged.finish(near);
            if own != *policy {
                subsets.insert(subset.name.clone(), Arc::new(own));
            }
        }
    }
    let default = *policy == DestinationPolicy::default() && subsets.is_empty();
    (!default).then_some(Destination { policy, subsets })
}

impl Layer {
    fn of_port(&self, port: u16) -> &Settings {
        self.ports.get(&port).unwrap_or(&self.own)
    }
}

/// Parts, each with the rule it is from.
#[derive(Clone, Default)]
struct Merged {
    settings: Settings,
    sources: Sources,
}

impl Merged {
    /// What is said goes over what was.
    fn lay(&mut self, over: &Settings, rule: &DestinationRule) {
        let source = || Some(rule.source.clone());
        if over.pool.is_some() {
            self.settings.pool.clone_from(&over.pool);
            self.sources.pool = source();
        }
        if over.outlier.is_some() {
            self.settings.outlier.clone_from(&over.outlier);
            self.sources.outlier = source();
        }
        if over.balancing.is_some() {
            self.settings.balancing.clone_from(&over.balancing);
            self.sources.balance = source();
        }
        if over.tls.is_some() {
            self.settings.tls.clone_from(&over.tls);
            self.sources.tls = source();
        }
    }

    /// The whole policy: what nobody says has its default.
    fn finish(&self, near: Option<&LocalityPolicy>) -> DestinationPolicy {
        let Settings {
            pool,
            outlier,
            balancing,
            tls,
        } = self.settings.clone();
        let balancing = balancing.unwrap_or_default();
        let locality = match balancing.locality {
            Locality::Off => None,
            Locality::Policy(policy @ LocalityPolicy::Distribute(_)) => Some(policy),
            // Without outlier detection nothing says that a place has failed.
            Locality::Policy(policy) => outlier.is_some().then_some(policy),
            Locality::Unsaid => near.cloned().or_else(|| {
                let fails_over = || LocalityPolicy::Failover(Vec::new());
                outlier.is_some().then(fails_over)
            }),
        };
        DestinationPolicy {
            pool: pool.unwrap_or_default(),
            outlier,
            balance: balancing.balance,
            locality,
            warmup: balancing.warmup,
            tls: tls.unwrap_or_default(),
            sources: self.sources.clone(),
        }
    }
}
