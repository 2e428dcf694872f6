use super::*;
use proptest::prelude::*;

const RING_SIZE: usize = HashAlgorithm::RING_SIZE as usize;
const MAGLEV_SIZE: usize = HashAlgorithm::TABLE_SIZE as usize;

fn members(weights: &[u32]) -> Vec<Member> {
    (1u16..)
        .zip(weights)
        .map(|(number, &weight)| Member {
            address: SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 80)),
            weight,
        })
        .collect()
}

fn without(members: &[Member], position: usize) -> Vec<Member> {
    let mut rest = members.to_vec();
    rest.remove(position);
    rest
}

fn ring(members: &[Member]) -> Table {
    Table::Ring(Ring::new(members, RING_SIZE))
}

fn maglev(members: &[Member]) -> Table {
    // A smaller prime than the default: the tests run unoptimized.
    Table::Maglev(Maglev::new(members, 2_039))
}

fn keys(count: u32) -> impl Iterator<Item = u64> {
    (0..count).map(|number| hash(&number.to_le_bytes()))
}

fn shares(table: &Table, members: usize, draws: u32) -> Vec<u32> {
    let mut shares = vec![0; members];
    for key in keys(draws) {
        shares[table.find(key, |_| true).unwrap()] += 1;
    }
    shares
}

/// Address by address, where keys lead.
fn led(table: &Table, members: &[Member], draws: u32) -> Vec<SocketAddr> {
    keys(draws)
        .map(|key| members[table.find(key, |_| true).unwrap()].address)
        .collect()
}

#[test]
fn hashes_are_what_other_sidecars_compute() {
    // XXH64's own test vectors.
    assert_eq!(hash(b""), 0xEF46_DB37_51D8_E999);
    assert_eq!(hash(b"abc"), 0x44BC_2CF5_AD77_0999);
}

#[test]
fn a_ring_has_its_minimum_and_a_bound() {
    for (count, minimum) in [(1, 1024), (3, 1024), (1000, 1024), (3, 1 << 30), (2000, 1)] {
        let members = members(&vec![1; count]);
        let points = Ring::new(&members, minimum).len();
        let least = minimum.min(LARGEST_RING / 2).max(count);
        assert!((least..=LARGEST_RING).contains(&points), "{count} {points}");
    }
    assert_eq!(Ring::new(&[], 1024).len(), 0);
    assert_eq!(ring(&[]).find(7, |_| true), None);
    assert_eq!(maglev(&[]).find(7, |_| true), None);
}

#[test]
fn maglev_s_default_table_is_even_to_an_entry() {
    let members = members(&[1; 7]);
    let maglev = Maglev::new(&members, MAGLEV_SIZE);
    assert_eq!(maglev.entries.len(), MAGLEV_SIZE);
    let mut counts = [0; 7];
    for &owner in &maglev.entries {
        counts[owner as usize] += 1;
    }
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(most - least <= 1, "{counts:?}");
}

#[test]
fn shares_follow_weights() {
    let members = members(&[1, 1, 2, 4]);
    for (table, tolerance) in [(ring(&members), 0.25), (maglev(&members), 0.05)] {
        let shares = shares(&table, 4, 40_000);
        for (share, weight) in shares.iter().zip([1.0, 1.0, 2.0, 4.0]) {
            let expected = 5_000.0 * weight;
            let off = (f64::from(*share) - expected).abs() / expected;
            assert!(off < tolerance, "{shares:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Who leaves takes only its own keys along, as long as the others keep
    /// their number of points.
    #[test]
    fn a_ring_s_other_keys_stay(count in 2usize..40, gone in any::<prop::sample::Index>()) {
        let before = members(&vec![1; count]);
        let after = without(&before, gone.index(count));
        let points = |n: usize| RING_SIZE.div_ceil(n).next_power_of_two();
        let gone = before[gone.index(count)].address;
        let old = led(&ring(&before), &before, 500);
        let new = led(&ring(&after), &after, 500);
        if points(count) == points(count - 1) {
            for (old, new) in old.iter().zip(&new) {
                prop_assert!(old == new || *old == gone);
            }
        } else {
            // They have twice as many: what was a member's becomes another's
            // for at most about half of the keys.
            let moved = old.iter().zip(&new).filter(|(old, new)| old != new).count();
            prop_assert!(moved < 350, "{moved}");
        }
    }

    /// Maglev moves a little more than it must.
    #[test]
    fn maglev_s_other_keys_mostly_stay(count in 2usize..40, gone in any::<prop::sample::Index>()) {
        let before = members(&vec![1; count]);
        let after = without(&before, gone.index(count));
        let gone = before[gone.index(count)].address;
        let old = led(&maglev(&before), &before, 1000);
        let new = led(&maglev(&after), &after, 1000);
        let moved = old.iter().zip(&new)
            .filter(|(old, new)| **old != gone && old != new)
            .count();
        prop_assert!(moved < 150, "{moved} of 1000 moved without need");
    }

    /// One that is passed over for a while disturbs nobody else's keys, and
    /// its own come back; no key is lost while anybody is usable.
    #[test]
    fn passing_one_over_moves_only_its_keys(
        count in 2usize..30,
        out in prop::collection::hash_set(0usize..30, 1..6),
        key: u64,
    ) {
        let members = members(&vec![1; count]);
        for table in [ring(&members), maglev(&members)] {
            let before = table.find(key, |_| true).unwrap();
            let during = table.find(key, |member| !out.contains(&member));
            if out.contains(&before) {
                let left = (0..count).any(|member| !out.contains(&member));
                prop_assert_eq!(during.is_some(), left);
                prop_assert!(during.is_none_or(|member| !out.contains(&member)));
            } else {
                prop_assert_eq!(during, Some(before));
            }
        }
    }

    /// Discovery's order does not matter, only who is there.
    #[test]
    fn all_sidecars_agree(count in 1usize..20, key: u64) {
        let forwards = members(&vec![1; count]);
        let backwards: Vec<_> = forwards.iter().rev().copied().collect();
        let one = ring(&forwards).find(key, |_| true).unwrap();
        let other = ring(&backwards).find(key, |_| true).unwrap();
        prop_assert_eq!(forwards[one].address, backwards[other].address);
    }
}
