//! Where a key leads: a ring of virtual nodes, and Maglev's table.
//!
//! Both depend on nothing but the endpoints' addresses and weights, so that
//! all sidecars of a mesh agree. An endpoint that must not be used for a while
//! stays in the table and is passed over: its keys move, nobody else's do.

use linnet_mesh::destination::HashAlgorithm;
use std::net::{IpAddr, SocketAddr};
use twox_hash::XxHash64;

const LARGEST_RING: usize = HashAlgorithm::LARGEST_RING as usize;
/// Other places looked at before the table is gone through from the key on.
const PROBES: u64 = 32;

/// The hash of a key or of an address. Its values are a promise to all other
/// sidecars: XXH64, seed 0.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// One who can be led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) address: SocketAddr,
    /// Relative to the others'; 0 counts as 1.
    pub(crate) weight: u32,
}

/// What a table is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) algorithm: HashAlgorithm,
    pub(crate) members: Vec<Member>,
}

/// A table over members, which it names by their position.
#[derive(Debug)]
pub(crate) enum Table {
    Ring(Ring),
    Maglev(Maglev),
}

impl Table {
    pub(crate) fn new(key: &Key) -> Self {
        match key.algorithm {
            HashAlgorithm::Ring { minimum_size } => {
                Self::Ring(Ring::new(&key.members, minimum_size as usize))
            }
            HashAlgorithm::Maglev { table_size } => {
                Self::Maglev(Maglev::new(&key.members, table_size as usize))
            }
        }
    }

    /// The member that a key leads to, of those that are usable: the first on a
    /// way that is the key's own.
    pub(crate) fn find(&self, key: u64, usable: impl FnMut(usize) -> bool) -> Option<usize> {
        match self {
            Self::Ring(ring) => ring.find(key, usable),
            Self::Maglev(maglev) => maglev.find(key, usable),
        }
    }
}

fn address_hash(address: SocketAddr, salt: u64) -> u64 {
    let mut bytes = [0; 26];
    match address.ip() {
        IpAddr::V4(ip) => bytes[..4].copy_from_slice(&ip.octets()),
        IpAddr::V6(ip) => bytes[..16].copy_from_slice(&ip.octets()),
    }
    bytes[16..18].copy_from_slice(&address.port().to_le_bytes());
    bytes[18..].copy_from_slice(&salt.to_le_bytes());
    hash(&bytes)
}

/// Points on a circle, each a member's; a key is the next point's.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    points: Vec<u64>,
    owners: Vec<u32>,
}

impl Ring {
    /// A ring of at least `minimum` points.
    ///
    /// How many points a member has for its weight is a power of two: members
    /// that come and go then leave everybody else's points alone, but where
    /// their number crosses one.
    pub(crate) fn new(members: &[Member], minimum: usize) -> Self {
        let total: u64 = members.iter().map(|m| u64::from(m.weight.max(1))).sum();
        let minimum = minimum.clamp(1, LARGEST_RING) as u64;
        let each = |weight: u32| {
            // At most the largest ring for all together, at least one for each.
            let wanted = (minimum * u64::from(weight.max(1))).div_ceil(total);
            let wanted = wanted.next_power_of_two();
            let fits = LARGEST_RING as u64 * u64::from(weight.max(1)) / total;
            wanted.min(fits).max(1)
        };
        let mut points: Vec<(u64, u32)> = Vec::new();
        for (owner, member) in (0u32..).zip(members) {
            let count = each(member.weight);
            points.extend((0..count).map(|salt| (address_hash(member.address, salt), owner)));
        }
        points.sort_unstable();
        let (points, owners) = points.into_iter().unzip();
        Self { points, owners }
    }

    fn find(&self, key: u64, mut usable: impl FnMut(usize) -> bool) -> Option<usize> {
        let start = self.points.partition_point(|&point| point < key);
        let around = self.owners[start..].iter().chain(&self.owners[..start]);
        around.map(|&owner| owner as usize).find(|&o| usable(o))
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.points.len()
    }
}

/// Maglev's table: every member has nearly the same share of the entries, for
/// the same weight. See "Maglev: A Fast and Reliable Software Network Load
/// Balancer", section 3.4.
#[derive(Debug)]
pub(crate) struct Maglev {
    entries: Vec<u32>,
}

impl Maglev {
    /// A table of `size` entries, a prime.
    pub(crate) fn new(members: &[Member], size: usize) -> Self {
        let size = size.clamp(2, HashAlgorithm::LARGEST_TABLE as usize);
        const FREE: u32 = u32::MAX;
        let mut entries = vec![FREE; size];
        let mut turns: Vec<_> = members.iter().map(|m| Turn::new(m, size)).collect();
        let heaviest = members.iter().map(|m| m.weight.max(1)).max();
        let mut free = if members.is_empty() { 0 } else { size };
        let step = u64::from(heaviest.unwrap_or(1));
        let mut round = 0;
        while free > 0 {
            round += 1;
            for (owner, turn) in (0u32..).zip(&mut turns) {
                // The heaviest has a turn each round, the others by their weight.
                if turn.taken * step >= round * turn.weight {
                    continue;
                }
                let entry = loop {
                    let entry = turn.preference();
                    if entries[entry] == FREE {
                        break entry;
                    }
                };
                entries[entry] = owner;
                turn.taken += 1;
                free -= 1;
                if free == 0 {
                    break;
                }
            }
        }
        entries.retain(|&owner| owner != FREE);
        Self { entries }
    }

    fn find(&self, key: u64, mut usable: impl FnMut(usize) -> bool) -> Option<usize> {
        let size = self.entries.len() as u64;
        if size == 0 {
            return None;
        }
        let at = |position: u64| self.entries[(position % size) as usize] as usize;
        let first = at(key);
        if usable(first) {
            return Some(first);
        }
        // Spread over all others, not all to the one who happens to be next.
        let elsewhere = (1..PROBES).map(|probe| {
            let bytes = (key ^ probe.wrapping_mul(0x9E37_79B9_7F4A_7C15)).to_le_bytes();
            at(hash(&bytes))
        });
        let onwards = (1..size).map(|step| at(key % size + step));
        elsewhere.chain(onwards).find(|&owner| usable(owner))
    }
}

/// A member's way through the table while it is filled.
struct Turn {
    next: usize,
    skip: usize,
    size: usize,
    weight: u64,
    taken: u64,
}

impl Turn {
    fn new(member: &Member, size: usize) -> Self {
        let (offset, skip) = (
            address_hash(member.address, 0),
            address_hash(member.address, 1),
        );
        Self {
            next: (offset % size as u64) as usize,
            skip: (skip % (size as u64 - 1)) as usize + 1,
            size,
            weight: member.weight.max(1).into(),
            taken: 0,
        }
    }

    fn preference(&mut self) -> usize {
        let current = self.next;
        self.next = (current + self.skip) % self.size;
        current
    }
}

#[cfg(test)]
mod tests;
