//! Rate limits, so that one caller in a loop does not keep others waiting.
//!
//! Whoever has not been attested spends a small budget of its own address, and nothing
//! else: what all share is spent by attested callers alone. An attested request within
//! its caller's budget gives its address back what it took, so pods behind one address
//! don't wait for one another. Beyond it, the address pays: attestation asks the API
//! server, which a token in a loop must not have for nothing.
//! Of the attested, a caller has a budget, a namespace has one, and all together.

use std::{collections::HashMap, hash::Hash, net::IpAddr, num::NonZeroU32, time::Duration};

use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

use crate::attest::Caller;

/// Addresses, callers or namespaces that are remembered, each; about 8 MB. A stranger
/// with more addresses makes the ones that wait for least be forgotten.
const REMEMBERED: usize = 65_536;

/// A budget: so many at once, refilled at a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Requests at once.
    pub burst: NonZeroU32,
    /// Requests per second in the long run.
    pub per_second: NonZeroU32,
}

/// The budgets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Of each peer address, for requests that have not been attested.
    pub address: Budget,
    /// Of all IPv6 addresses together whose first 64 bits are the same: a host may have
    /// any of the others, but so may its neighbours, as the nodes of a cluster do.
    pub network: Budget,
    /// Of each caller: its pod, or its service account where the token is bound to none.
    pub caller: Budget,
    /// Of all callers of one namespace.
    pub namespace: Budget,
    /// Of all together: when identity was away, everybody comes at once.
    pub all: Budget,
}

impl Default for Limits {
    /// A pod asks for two certificates a minute at the most. A node's pods may come from
    /// one address: 200 may wait for their attestation at the same time. One namespace
    /// takes at most half of what all share.
    fn default() -> Self {
        const fn budget(burst: u32, per_second: u32) -> Budget {
            match (NonZeroU32::new(burst), NonZeroU32::new(per_second)) {
                (Some(burst), Some(per_second)) => Budget { burst, per_second },
                _ => Budget {
                    burst: NonZeroU32::MIN,
                    per_second: NonZeroU32::MIN,
                },
            }
        }
        Self {
            address: budget(200, 20),
            network: budget(2000, 300),
            caller: budget(20, 1),
            namespace: budget(150, 150),
            all: budget(300, 300),
        }
    }
}

/// Over budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    /// When to ask again, in seconds.
    pub retry_after: u64,
}

/// A request that is not attested yet, which its address has paid for.
#[must_use = "a request that is attested gives its address back what it took"]
#[derive(Debug)]
pub struct Arrival(IpAddr);

/// Counts requests against the budgets.
pub struct Limiter {
    limits: Limits,
    addresses: Mutex<Table<IpAddr>>,
    /// By the first 64 bits.
    networks: Mutex<Table<u64>>,
    attested: Mutex<Attested>,
}

struct Attested {
    callers: Table<Caller>,
    namespaces: Table<String>,
    all: Table<()>,
}

impl Limiter {
    /// With full budgets.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            addresses: Mutex::default(),
            networks: Mutex::default(),
            attested: Mutex::new(Attested {
                callers: Table::default(),
                namespaces: Table::default(),
                all: Table::default(),
            }),
        }
    }

    /// Counts a request of an address, before anything is known of who sends it.
    ///
    /// # Errors
    /// Over the address's budget, or its network's.
    pub fn arrive(&self, address: IpAddr) -> Result<Arrival, TooMany> {
        let address = address.to_canonical();
        lock(&self.addresses).spend(&address, self.limits.address)?;
        if let Some(network) = network(address) {
            lock(&self.networks).spend(&network, self.limits.network)?;
        }
        Ok(Arrival(address))
    }

    /// Counts a request whose caller has been attested, and gives its address back what
    /// the request took if the caller's own budget had it.
    ///
    /// # Errors
    /// Over the budget of the caller, of its namespace, or of all.
    pub fn attested(&self, arrival: &Arrival, caller: &Caller) -> Result<(), TooMany> {
        let mut attested = lock(&self.attested);
        attested.callers.spend(caller, self.limits.caller)?;
        lock(&self.addresses).give_back(&arrival.0, self.limits.address);
        if let Some(network) = network(arrival.0) {
            lock(&self.networks).give_back(&network, self.limits.network);
        }
        attested
            .namespaces
            .spend(&caller.namespace, self.limits.namespace)?;
        attested.all.spend(&(), self.limits.all)
    }

    /// Forgets those whose budget is full again.
    pub fn forget_idle(&self) {
        let now = Instant::now();
        lock(&self.addresses).forget_idle(now);
        lock(&self.networks).forget_idle(now);
        let mut attested = lock(&self.attested);
        attested.callers.forget_idle(now);
        attested.namespaces.forget_idle(now);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds the lock, and the numbers would still be usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The network of an IPv6 address.
fn network(address: IpAddr) -> Option<u64> {
    match address {
        IpAddr::V6(ip) => u64::try_from(ip.to_bits() >> 64).ok(),
        IpAddr::V4(_) => None,
    }
}

/// When each key's budget is full again, which says all there is to know of it: what is
/// missing is refilled one by one, and the last when it is full (GCRA).
struct Table<K>(HashMap<K, Instant>);

impl<K> Default for Table<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Clone + Eq + Hash> Table<K> {
    fn spend(&mut self, key: &K, budget: Budget) -> Result<(), TooMany> {
        let now = Instant::now();
        let full = self.0.get(key).copied().unwrap_or(now).max(now);
        let after = full + one(budget);
        let missing = after - now;
        let most = one(budget) * budget.burst.get();
        if let Some(wait) = missing.checked_sub(most).filter(|wait| !wait.is_zero()) {
            return Err(TooMany {
                retry_after: wait.as_secs() + 1,
            });
        }
        if self.0.len() >= REMEMBERED && !self.0.contains_key(key) {
            self.make_room(now);
        }
        self.0.insert(key.clone(), after);
        Ok(())
    }

    fn give_back(&mut self, key: &K, budget: Budget) {
        if let Some(full) = self.0.get_mut(key)
            && let Some(before) = full.checked_sub(one(budget))
        {
            *full = before;
        }
    }

    fn forget_idle(&mut self, now: Instant) {
        self.0.retain(|_, full| *full > now);
    }

    /// Forgets who has spent least: to be forgotten is to have a full budget.
    fn make_room(&mut self, now: Instant) {
        self.forget_idle(now);
        if self.0.len() < REMEMBERED {
            return;
        }
        let mut times: Vec<Instant> = self.0.values().copied().collect();
        let (_, bound, _) = times.select_nth_unstable(REMEMBERED / 16);
        let bound = *bound;
        self.0.retain(|_, full| *full > bound);
    }
}

/// The time in which one request is refilled.
fn one(budget: Budget) -> Duration {
    Duration::from_secs(1) / budget.per_second.get()
}

#[cfg(test)]
mod tests;
