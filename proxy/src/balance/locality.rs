//! How much goes where: levels that spill into each other, localities with
//! shares, and endpoints that warm up.

use linnet_mesh::{
    Endpoint,
    destination::{Failover, Locality, PriorityLabel, Warmup},
    names::label,
};
use std::{collections::BTreeMap, time::Duration};

/// What an endpoint takes at the least while it warms up: with nothing it
/// would never be known.
const LEAST_WARMTH: f64 = 0.01;

/// A level or locality takes all that is meant for it while this many times
/// its healthy part is at least the whole: Envoy's overprovisioning factor,
/// 1.4, in percent.
const OVERPROVISIONING: u64 = 140;

/// How many of a level's endpoints can be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Level {
    pub(crate) usable: usize,
    pub(crate) total: usize,
}

impl Level {
    /// What part of its load it can take, in percent.
    fn capacity(self) -> u64 {
        let (usable, total) = (self.usable as u64, self.total as u64);
        (usable * OVERPROVISIONING)
            .checked_div(total)
            .map_or(0, |percent| percent.min(100))
    }
}

/// Percent of the load for each level, most preferred first: what one can't
/// take spills into the next. Sums to 100 while anything is usable.
pub(crate) fn spill(levels: &[Level]) -> Vec<u32> {
    let all: u64 = levels.iter().map(|level| level.capacity()).sum();
    let all = all.min(100);
    let mut left = 100;
    let mut loads: Vec<u32> = levels
        .iter()
        .map(|level| {
            // Where all together can't take everything, they take it in proportion.
            let load = (level.capacity() * 100).checked_div(all).unwrap_or(0);
            let load = load.min(left);
            left -= load;
            load as u32
        })
        .collect();
    // What rounding left goes to the first that can take anything.
    if let Some(position) = levels.iter().position(|level| level.usable > 0) {
        loads[position] += left as u32;
    }
    loads
}

/// A locality's share after what it can't take has gone to the others.
pub(crate) fn share(weight: u32, level: Level) -> u64 {
    u64::from(weight) * level.capacity()
}

/// The part of its full share that an endpoint of this age takes, above 0 and
/// at most 1: Envoy's slow start, `(age ÷ duration)^(1 ÷ aggression)`.
pub(crate) fn warmth(warmup: &Warmup, age: Duration) -> f64 {
    if age >= warmup.duration {
        return 1.0;
    }
    let time = age.as_secs_f64() / warmup.duration.as_secs_f64();
    let least = (warmup.minimum_percent / 100.0).clamp(LEAST_WARMTH, 1.0);
    let aggression = warmup.aggression.max(0.01);
    time.powf(1.0 / aggression).clamp(least, 1.0)
}

/// Where somebody is and what labels it has.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    pub(crate) locality: &'a Locality,
    pub(crate) labels: &'a BTreeMap<String, String>,
}

impl<'a> Place<'a> {
    pub(crate) fn of(endpoint: &'a Endpoint) -> Self {
        Self {
            locality: &endpoint.locality,
            labels: &endpoint.labels,
        }
    }

    /// A label's value; topology labels are known of the node, not of the pod.
    fn label(&self, key: &str) -> &'a str {
        let told = || match key {
            label::REGION => &self.locality.region,
            label::ZONE => &self.locality.zone,
            label::SUBZONE => &self.locality.subzone,
            _ => "",
        };
        self.labels.get(key).map_or_else(told, String::as_str)
    }
}

/// How far an endpoint is, 0 the nearest: by place.
pub(crate) fn distance(own: &Locality, other: &Locality, failover: &[Failover]) -> usize {
    if own.is_unknown() {
        return 0;
    }
    if own.region != other.region {
        let named = failover.iter().find(|rule| rule.from == own.region);
        return match named {
            Some(rule) if rule.to != other.region => 4,
            _ => 3,
        };
    }
    match (own.zone == other.zone, own.subzone == other.subzone) {
        (true, true) => 0,
        (true, false) => 1,
        (false, _) => 2,
    }
}

/// How far an endpoint is, 0 the nearest: by labels in common, of which each
/// counts only where all before it are.
pub(crate) fn distance_by_labels(
    own: Place<'_>,
    other: Place<'_>,
    labels: &[PriorityLabel],
) -> usize {
    let common = labels.iter().take_while(|label| {
        let wanted = label.value.as_deref();
        wanted.unwrap_or_else(|| own.label(&label.key)) == other.label(&label.key)
    });
    labels.len() - common.count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn level(usable: usize, total: usize) -> Level {
        Level { usable, total }
    }

    /// Rows of the table in Envoy's documentation of priority levels.
    #[test]
    fn spilling() {
        for (first, second, expected) in [
            (level(100, 100), level(100, 100), [100, 0]),
            (level(72, 100), level(72, 100), [100, 0]),
            (level(71, 100), level(71, 100), [99, 1]),
            (level(50, 100), level(50, 100), [70, 30]),
            (level(25, 100), level(100, 100), [35, 65]),
            (level(25, 100), level(25, 100), [50, 50]),
            (level(0, 100), level(1, 100), [0, 100]),
            (level(0, 3), level(3, 3), [0, 100]),
        ] {
            assert_eq!(spill(&[first, second]), expected, "{first:?} {second:?}");
        }
        let three = [level(25, 100), level(25, 100), level(20, 100)];
        assert_eq!(spill(&three), [37, 35, 28]);
        assert_eq!(spill(&[level(0, 2)]), [0]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost(levels in prop::collection::vec((0usize..20, 1usize..20), 1..6)) {
            let levels: Vec<_> = levels.iter().map(|(u, t)| level(*u.min(t), *t)).collect();
            let loads = spill(&levels);
            let usable = levels.iter().any(|level| level.usable > 0);
            prop_assert_eq!(loads.iter().sum::<u32>(), if usable { 100 } else { 0 });
            for (level, load) in levels.iter().zip(&loads) {
                prop_assert!(level.usable > 0 || *load == 0);
            }
        }

        #[test]
        fn warming_never_cools(
            aggression in 0.1f64..10.0, minimum in 0f64..100.0, one in 0u64..100, more in 0u64..100,
        ) {
            let warm_up = Warmup {
                duration: Duration::from_secs(60), minimum_percent: minimum, aggression,
            };
            let early = warmth(&warm_up, Duration::from_secs(one));
            let late = warmth(&warm_up, Duration::from_secs(one + more));
            prop_assert!(0.0 < early && early <= late && late <= 1.0);
        }
    }

    #[test]
    fn the_warm_up_curve() {
        let linear = Warmup {
            duration: Duration::from_secs(100),
            minimum_percent: 10.0,
            aggression: 1.0,
        };
        for (age, expected) in [
            (0, 0.1),
            (5, 0.1),
            (20, 0.2),
            (50, 0.5),
            (100, 1.0),
            (500, 1.0),
        ] {
            let factor = warmth(&linear, Duration::from_secs(age));
            assert!((factor - expected).abs() < 1e-9, "{age}: {factor}");
        }
        let quick = Warmup {
            aggression: 2.0,
            ..linear.clone()
        };
        assert!((warmth(&quick, Duration::from_secs(25)) - 0.5).abs() < 1e-9);
    }
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
    fn near_and_far() {
        let failover = [Failover {
            from: "us-west".into(),
            to: "us-east".into(),
        }];
        for (other, plain, named) in [
            ("us-west/a/1", 0, 0),
            ("us-west/a/2", 1, 1),
            ("us-west/b/1", 2, 2),
            ("us-east/a/1", 3, 3),
            ("eu/a/1", 3, 4),
            ("", 3, 4),
        ] {
            let own = place("us-west/a/1");
            assert_eq!(distance(&own, &place(other), &[]), plain, "{other}");
            assert_eq!(distance(&own, &place(other), &failover), named, "{other}");
        }
        // Who does not know where it is takes everybody for near.
        assert_eq!(distance(&place(""), &place("eu"), &failover), 0);
    }

    #[test]
    fn labels_in_common() {
        let of = |labels: &[(&str, &str)]| -> BTreeMap<String, String> {
            let pairs = labels.iter();
            pairs.map(|&(k, v)| (k.to_owned(), v.to_owned())).collect()
        };
        let named = |key: &str, value: Option<&str>| PriorityLabel {
            key: key.to_owned(),
            value: value.map(str::to_owned),
        };
        let priority = [
            named(label::REGION, None),
            named("network", None),
            named("version", Some("v1")),
        ];
        let own = of(&[("network", "n1"), ("version", "v9")]);
        let own_place = place("eu/a/1");
        let own = Place {
            locality: &own_place,
            labels: &own,
        };
        for (other, labels, expected) in [
            ("eu/b/2", of(&[("network", "n1"), ("version", "v1")]), 0),
            ("eu/b/2", of(&[("network", "n1"), ("version", "v9")]), 1),
            ("eu/b/2", of(&[("version", "v1")]), 2),
            ("us/b/2", of(&[("network", "n1"), ("version", "v1")]), 3),
        ] {
            let locality = place(other);
            let other = Place {
                locality: &locality,
                labels: &labels,
            };
            assert_eq!(distance_by_labels(own, other, &priority), expected);
        }
    }
}
