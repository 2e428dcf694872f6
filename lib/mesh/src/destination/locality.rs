//! `loadBalancer.localityLbSetting`: what the places of caller and endpoint
//! mean for the choice.

use std::fmt;

/// Where a workload runs, from its node's `topology.kubernetes.io` labels or
/// the endpoint's `zone`. Empty parts are not known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: String,
    /// `topology.kubernetes.io/zone`.
    pub zone: String,
    /// `topology.istio.io/subzone`.
    pub subzone: String,
}

impl Locality {
    /// Whether nothing is known.
    pub fn is_unknown(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.subzone.is_empty()
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.region, self.zone, self.subzone)
    }
}

/// Places, as in `us-west/zone1/*`: `None` in a part stands for all; parts
/// that are not written are `None` too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalityPattern {
    /// The region.
    pub region: Option<String>,
    /// The zone.
    pub zone: Option<String>,
    /// The subzone.
    pub subzone: Option<String>,
}

impl LocalityPattern {
    /// Reads `region/zone/subzone`, `region/*`, `*`.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        if parts.len() > 3 || parts.iter().any(|part| part.is_empty()) {
            return Err(format!(
                "{text:?} is not a place; write region, region/zone or region/zone/subzone, \"*\" for any"
            ));
        }
        let wildcard = parts.iter().position(|part| *part == "*");
        if wildcard.is_some_and(|position| position + 1 != parts.len())
            || parts
                .iter()
                .any(|part| part.len() > 1 && part.contains('*'))
        {
            return Err(format!("{text:?}: \"*\" can only be the last part"));
        }
        let part = |position: usize| {
            let part = parts.get(position).filter(|part| **part != "*");
            part.map(|part| (*part).to_owned())
        };
        Ok(Self {
            region: part(0),
            zone: part(1),
            subzone: part(2),
        })
    }

    /// Whether a place is meant.
    pub fn matches(&self, place: &Locality) -> bool {
        let part = |pattern: &Option<String>, value: &String| {
            pattern.as_ref().is_none_or(|pattern| pattern == value)
        };
        part(&self.region, &place.region)
            && part(&self.zone, &place.zone)
            && part(&self.subzone, &place.subzone)
    }
}

impl fmt::Display for LocalityPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let any = "*".to_owned();
        write!(f, "{}", self.region.as_ref().unwrap_or(&any))?;
        if self.region.is_some() && (self.zone.is_some() || self.subzone.is_some()) {
            write!(f, "/{}", self.zone.as_ref().unwrap_or(&any))?;
            if let Some(subzone) = &self.subzone {
                write!(f, "/{subzone}")?;
            }
        }
        Ok(())
    }
}

/// What places mean for the choice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalityPolicy {
    /// `distribute`: shares by place, for callers in given places; callers
    /// elsewhere choose among all.
    Distribute(Vec<Distribution>),
    /// `failover`: the nearest place with healthy endpoints: same subzone, same
    /// zone, same region, then the region named here, then any. The order
    /// alone, with nothing named, is in force wherever there is outlier
    /// detection.
    Failover(Vec<Failover>),
    /// `failoverPriority`: the more of these labels, from the first on, an
    /// endpoint has in common with the caller, the nearer it is.
    FailoverPriority(Vec<PriorityLabel>),
}

/// Shares for the callers of one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distribution {
    /// Where the caller is.
    pub from: LocalityPattern,
    /// Percentages by where endpoints are; together 100.
    pub to: Vec<(LocalityPattern, u32)>,
}

/// Where a region's calls go when it has no healthy endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failover {
    /// The region.
    pub from: String,
    /// The other region.
    pub to: String,
}

/// A label to compare.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriorityLabel {
    /// Its key.
    pub key: String,
    /// What an endpoint must have, written `key=value`; `None`: what the caller
    /// has.
    pub value: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Locality {
        let mut parts = text.split('/').map(str::to_owned);
        let mut part = || parts.next().unwrap_or_default();
        Locality {
            region: part(),
            zone: part(),
            subzone: part(),
        }
    }

    #[test]
    fn patterns_match_from_the_left() {
        for (pattern, of, expected) in [
            ("*", "a/b/c", true),
            ("a", "a/b/c", true),
            ("a/*", "a/b/c", true),
            ("a/b", "a/b/c", true),
            ("a/b/*", "a/b/", true),
            ("a/b/c", "a/b/c", true),
            ("a/b/d", "a/b/c", false),
            ("a/c/*", "a/b/c", false),
            ("b", "a/b/c", false),
        ] {
            let parsed = LocalityPattern::parse(pattern).unwrap();
            assert_eq!(parsed.matches(&place(of)), expected, "{pattern} {of}");
            let again = LocalityPattern::parse(&parsed.to_string()).unwrap();
            assert_eq!(again, parsed, "{pattern}");
        }
        for pattern in ["", "a//c", "*/b", "a/*/c", "a*", "a/b/c/d"] {
            LocalityPattern::parse(pattern).unwrap_err();
        }
    }
}
