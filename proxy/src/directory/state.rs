//! What is subscribed to, and what makes room for more.
//!
//! Clients drive how many targets there are: the workload by the addresses that it
//! connects to, its callers by those that they come from. So each sort has a bound. What
//! has not been used for longest goes first; a service that connections use stays.

use super::{Resolved, ServiceCell, shared::Shared};
use arc_swap::ArcSwap;
use linnet_discovery::{Target, limits};
use linnet_mesh::{Inbound, ServicePort};
use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

/// A connection's service counts as used for this long after it was last seen in use:
/// longer than the data threads take to look over theirs.
const IN_USE: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct TargetCell {
    pub(super) value: watch::Sender<Option<Resolved>>,
    /// Microseconds since the directory was made.
    pub(super) used: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) own: Arc<ArcSwap<Inbound>>,
    pub(super) targets: HashMap<Target, Arc<TargetCell>>,
    /// How many of the targets are peers.
    pub(super) peers: usize,
    pub(super) services: HashMap<ServicePort, Arc<ServiceCell>>,
    pub(super) shared: Shared,
}

impl State {
    pub(super) fn service_cell(&mut self, key: &ServicePort) -> Arc<ServiceCell> {
        let own = &self.own;
        self.services
            .entry(key.clone())
            .or_insert_with(|| Arc::new(ServiceCell::new(key.clone(), own.clone())))
            .clone()
    }

    pub(super) fn insert(&mut self, target: Target, cell: Arc<TargetCell>) {
        self.peers += usize::from(is_peer(&target));
        self.targets.insert(target, cell);
    }

    pub(super) fn remove(&mut self, target: &Target) {
        if self.targets.remove(target).is_some() {
            self.peers -= usize::from(is_peer(target));
        }
    }

    /// Makes room for a target among those of its sort, and returns what had to go: the
    /// ones that have not been used for longest, a sixteenth at a time. `None`: there is
    /// no room, since all are in use.
    pub(super) fn make_room(&mut self, target: &Target, now: u64) -> Option<Vec<Target>> {
        let (count, most) = if is_peer(target) {
            (self.peers, limits::PEERS)
        } else {
            (self.targets.len() - self.peers, limits::TARGETS)
        };
        if count < most {
            return Some(Vec::new());
        }
        let unused = self.unused(now).into_iter();
        let alike = unused.filter(|(_, other)| is_peer(other) == is_peer(target));
        let oldest: Vec<_> = alike.take(most / 16).map(|(_, other)| other).collect();
        for other in &oldest {
            self.remove(other);
        }
        (!oldest.is_empty()).then_some(oldest)
    }

    /// The targets that nobody waits for and whose service no connection uses, with the
    /// time of their last use, the longest ago first.
    pub(super) fn unused(&self, now: u64) -> Vec<(u64, Target)> {
        let in_use = now.saturating_sub(micros(IN_USE));
        let mut unused = Vec::new();
        for (target, cell) in &self.targets {
            let by_connections = match &*cell.value.borrow() {
                Some(Resolved::Service(service)) => service.used.load(Ordering::Relaxed),
                _ => 0,
            };
            let is_used = by_connections > 0 && by_connections >= in_use;
            if !is_used && Arc::strong_count(cell) == 1 {
                let used = cell.used.load(Ordering::Relaxed).max(by_connections);
                unused.push((used, target.clone()));
            }
        }
        unused.sort_unstable_by_key(|(used, _)| *used);
        unused
    }

    pub(super) fn needed_services(&self) -> HashSet<ServicePort> {
        let mut needed = HashSet::new();
        for cell in self.targets.values() {
            let Some(Resolved::Service(cell)) = cell.value.borrow().clone() else {
                continue;
            };
            needed.insert(cell.key.clone());
            if let Some(service) = cell.service() {
                needed.extend(service.backends().map(|backend| backend.service.clone()));
            }
        }
        needed
    }
}

fn is_peer(target: &Target) -> bool {
    matches!(target, Target::Peer(_))
}

/// A time as directories count it.
pub(super) fn micros(time: Duration) -> u64 {
    time.as_micros().try_into().unwrap_or(u64::MAX)
}
