//! The standing of a service's endpoints, one for all data threads: who has
//! failed how often, who is ejected, who is new; and the hash tables, of which
//! one is enough.

use super::{
    hash::{Key, Table},
    outlier::{Court, Health},
};
use linnet_mesh::{Endpoint, ServicePort, destination::OutlierDetection};
use metrics::{counter, gauge};
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
    time::{Duration, Instant},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Standing {
    service: String,
    epoch: Instant,
    /// Grows with whatever makes a thread's view out of date.
    version: Arc<AtomicU64>,
    /// By address: a map would take more than what is in it.
    healths: Mutex<Vec<(SocketAddr, Arc<Health>)>>,
    court: Court,
    /// Whether the gauge shows an ejection.
    shown: AtomicBool,
    /// Whether the gauge shows an unavailable endpoint.
    shown_unavailable: AtomicBool,
    tables: Mutex<Vec<(Key, Weak<Table>)>>,
}

impl Standing {
    pub(crate) fn new(service: &ServicePort) -> Self {
        Self {
            service: service.to_string(),
            epoch: Instant::now(),
            // A view that has never been made is at 0.
            version: Arc::new(AtomicU64::new(1)),
            healths: Mutex::default(),
            court: Court::default(),
            shown: AtomicBool::default(),
            shown_unavailable: AtomicBool::default(),
            tables: Mutex::default(),
        }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// Tells all threads to look again. To be called after the change.
    pub(crate) fn changed(&self) {
        self.version.fetch_add(1, Release);
    }

    fn healths(&self) -> MutexGuard<'_, Vec<(SocketAddr, Arc<Health>)>> {
        self.healths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The endpoints have been other ones. Whoever stays keeps its standing; a
    /// pod that was given somebody else's address does not inherit it.
    pub(crate) fn follow(&self, old: &[Arc<Endpoint>], new: &[Arc<Endpoint>], first: bool) {
        let appeared = (!first).then(Instant::now);
        let pods: HashMap<_, _> = old.iter().map(|e| (e.address, &e.pod)).collect();
        let mut healths = self.healths();
        let mut before: HashMap<_, _> = std::mem::take(&mut *healths).into_iter().collect();
        let mut after: Vec<_> = new
            .iter()
            .map(|endpoint| {
                let address = endpoint.address;
                let known = before.remove(&address);
                let known = known.filter(|_| pods.get(&address) == Some(&&endpoint.pod));
                let health = known.unwrap_or_else(|| self.health(appeared));
                (address, health)
            })
            .collect();
        after.sort_by_key(|(address, _)| *address);
        after.dedup_by_key(|(address, _)| *address);
        *healths = after;
    }

    fn health(&self, appeared: Option<Instant>) -> Arc<Health> {
        let version = self.version.clone();
        Arc::new(Health::new(self.epoch, appeared, version))
    }

    /// An endpoint's standing.
    pub(crate) fn of(&self, address: SocketAddr) -> Arc<Health> {
        let healths = self.healths();
        match healths.binary_search_by_key(&address, |(known, _)| *known) {
            Ok(position) => healths[position].1.clone(),
            // One that has just gone: nobody else will look at it.
            Err(_) => self.health(None),
        }
    }

    /// Ejects an endpoint if it may be; tells for how long.
    pub(crate) fn eject<'a>(
        &self,
        accused: &Health,
        members: impl Iterator<Item = &'a Health>,
        rules: &OutlierDetection,
        now: Instant,
    ) -> Option<Duration> {
        let time = self.court.eject(accused, members, rules, now)?;
        self.changed();
        counter!("linnet_outlier_ejections_total", "service" => self.service.clone()).increment(1);
        self.show(now);
        Some(time)
    }

    /// Counts a request that another endpoint was sent because this one could not be
    /// reached.
    pub(crate) fn count_moved(&self) {
        counter!("linnet_requests_moved_total", "service" => self.service.clone()).increment(1);
    }

    /// Keeps the gauges true: an ejection ends without anybody's doing.
    pub(crate) fn show(&self, now: Instant) {
        let healths = self.healths();
        let ejected = healths
            .iter()
            .filter(|(_, health)| health.ejected_until(now).is_some());
        let count = ejected.count();
        let unavailable = healths
            .iter()
            .filter(|(_, health)| health.availability.is_unavailable())
            .count();
        drop(healths);
        let service = || self.service.clone();
        if self.shown.swap(count > 0, Relaxed) || count > 0 {
            gauge!("linnet_outlier_ejected", "service" => service()).set(count as f64);
        }
        if self.shown_unavailable.swap(unavailable > 0, Relaxed) || unavailable > 0 {
            gauge!("linnet_endpoints_unavailable", "service" => service()).set(unavailable as f64);
        }
    }

    /// The table for a key, made once for all threads.
    pub(crate) fn table(&self, key: &Key) -> Arc<Table> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.retain(|(_, table)| table.strong_count() > 0);
        if let Some(table) = known(&tables, key) {
            return table;
        }
        let table = Arc::new(Table::new(key));
        tables.push((key.clone(), Arc::downgrade(&table)));
        table
    }

    /// The table for a key, where somebody has asked for it.
    pub(crate) fn table_if_made(&self, key: &Key) -> Option<Arc<Table>> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        known(&tables, key)
    }
}

/// The table that is kept for a key.
fn known(tables: &[(Key, Weak<Table>)], key: &Key) -> Option<Arc<Table>> {
    let mut tables = tables.iter();
    let (_, table) = tables.find(|(known, _)| known == key)?;
    table.upgrade()
}
