//! How much goes where: levels that spill into each other, localities with
//! shares, and endpoints that warm up.

use std::time::Duration;

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

/// How an endpoint that has just appeared is eased in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct WarmUp {
    pub(crate) duration: Duration,
    /// Of its full share, at the beginning.
    pub(crate) minimum_percent: f64,
    /// 1: linear; more: quicker in the beginning.
    pub(crate) aggression: f64,
}

impl WarmUp {
    /// The part of its full share that an endpoint of this age takes, above 0
    /// and at most 1: Envoy's slow start, `(age ÷ duration)^(1 ÷ aggression)`.
    pub(crate) fn factor(&self, age: Duration) -> f64 {
        if age >= self.duration {
            return 1.0;
        }
        let time = age.as_secs_f64() / self.duration.as_secs_f64();
        let least = (self.minimum_percent / 100.0).clamp(0.01, 1.0);
        let aggression = self.aggression.max(0.01);
        time.powf(1.0 / aggression).clamp(least, 1.0)
    }
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
            let warm_up = WarmUp {
                duration: Duration::from_secs(60), minimum_percent: minimum, aggression,
            };
            let early = warm_up.factor(Duration::from_secs(one));
            let late = warm_up.factor(Duration::from_secs(one + more));
            prop_assert!(0.0 < early && early <= late && late <= 1.0);
        }
    }

    #[test]
    fn the_warm_up_curve() {
        let linear = WarmUp {
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
            let factor = linear.factor(Duration::from_secs(age));
            assert!((factor - expected).abs() < 1e-9, "{age}: {factor}");
        }
        let quick = WarmUp {
            aggression: 2.0,
            ..linear
        };
        assert!((quick.factor(Duration::from_secs(25)) - 0.5).abs() < 1e-9);
    }
}
