//! Rate limits, so that one caller in a loop does not keep others waiting.
//!
//! An address has a budget before its token is looked at, a caller (its pod, or
//! its service account where the token is bound to none) one after.

use std::{net::IpAddr, num::NonZeroU32};

use governor::{
    DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock,
};

use crate::attest::Caller;

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
    /// Of each peer address.
    pub address: Budget,
    /// Of each caller.
    pub caller: Budget,
    /// Of all together: when identity was away, everybody comes at once.
    pub all: Budget,
}

impl Default for Limits {
    /// A pod asks for two certificates a minute at the most; a node's pods, or
    /// all of a machine's, may come from one address.
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
            address: budget(500, 100),
            caller: budget(20, 1),
            all: budget(300, 300),
        }
    }
}

/// Counts requests against the budgets.
pub struct Limiter {
    addresses: DefaultKeyedRateLimiter<IpAddr>,
    callers: DefaultKeyedRateLimiter<Caller>,
    all: DefaultDirectRateLimiter,
}

/// Over budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany {
    /// When to ask again, in seconds.
    pub retry_after: u64,
}

impl Limiter {
    /// With full budgets.
    pub fn new(limits: Limits) -> Self {
        let quota = |budget: Budget| Quota::per_second(budget.per_second).allow_burst(budget.burst);
        Self {
            addresses: RateLimiter::keyed(quota(limits.address)),
            callers: RateLimiter::keyed(quota(limits.caller)),
            all: RateLimiter::direct(quota(limits.all)),
        }
    }

    /// Counts a request of an address.
    ///
    /// # Errors
    /// Over budget.
    pub fn address(&self, address: IpAddr) -> Result<(), TooMany> {
        check(&self.addresses, &address)
    }

    /// Counts a request of an attested caller.
    ///
    /// # Errors
    /// Over budget.
    pub fn caller(&self, caller: &Caller) -> Result<(), TooMany> {
        check(&self.callers, caller)
    }

    /// Counts a request among all.
    ///
    /// # Errors
    /// Over budget.
    pub fn all(&self) -> Result<(), TooMany> {
        self.all.check().map_err(|refused| TooMany {
            retry_after: refused.wait_time_from(self.all.clock().now()).as_secs() + 1,
        })
    }

    /// Forgets those whose budget is full again.
    pub fn forget_idle(&self) {
        self.addresses.retain_recent();
        self.callers.retain_recent();
    }
}

fn check<K: Clone + Eq + std::hash::Hash>(
    limiter: &DefaultKeyedRateLimiter<K>,
    key: &K,
) -> Result<(), TooMany> {
    limiter.check_key(key).map_err(|refused| {
        let wait = refused.wait_time_from(limiter.clock().now());
        TooMany {
            retry_after: wait.as_secs() + 1,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_has_a_budget_of_its_own() {
        let one = Budget {
            burst: NonZeroU32::MIN,
            per_second: NonZeroU32::MIN,
        };
        let limiter = Limiter::new(Limits {
            address: one,
            caller: one,
            all: one,
        });
        let caller = |pod: &str| Caller {
            namespace: "shop".to_owned(),
            service_account: "payment".to_owned(),
            pod: Some(pod.to_owned()),
            pod_uid: None,
        };
        assert_eq!(limiter.caller(&caller("a")), Ok(()));
        assert_eq!(
            limiter.caller(&caller("a")),
            Err(TooMany { retry_after: 1 })
        );
        assert_eq!(limiter.caller(&caller("b")), Ok(()));
        let address = IpAddr::from([10, 0, 0, 1]);
        assert_eq!(limiter.address(address), Ok(()));
        assert!(limiter.address(address).is_err());
        assert_eq!(limiter.all(), Ok(()));
        assert_eq!(limiter.all(), Err(TooMany { retry_after: 1 }));
        limiter.forget_idle();
        assert!(limiter.address(address).is_err(), "not idle yet");
    }
}
