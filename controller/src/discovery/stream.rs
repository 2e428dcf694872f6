//! What one proxy asked for, what it has been told, and what it has yet to hear.

use super::{
    convergence::{Convergence, WaveId},
    encoding::{Bytes, Encoding, Outgoing},
    views::{View, Views},
};
use crate::{index::Index, object::Name};
use linnet_discovery::{Resolution, Target, Update, proto};
use linnet_mesh::{Inbound, ServicePort, SpiffeId, Workload};
use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// Names a stream for the life of the process.
pub(super) type StreamId = u64;
/// What a stream's queue carries; boxed, since a queue has room for 32 at least.
pub(super) type Message = Result<Box<Outgoing>, Status>;

/// Waves that a proxy which reads nothing is counted in.
const WAVES: usize = 1024;
/// Messages whose acknowledgement is waited for.
const UNACKNOWLEDGED: usize = 1024;

/// What a proxy was told a target is.
#[derive(Clone, Debug, PartialEq)]
enum Answer {
    Resolution(Resolution),
    Peer(Option<Arc<Workload>>),
}

/// A target that a proxy asked for.
#[derive(Debug)]
struct Asked {
    /// What the proxy was told.
    answer: Option<Answer>,
    /// Grows from one target to the next that is asked for.
    turn: u64,
}

/// What a proxy has yet to hear.
#[derive(Debug, Default)]
struct Dirty {
    targets: HashSet<Target>,
    services: HashSet<ServicePort>,
    /// Services it need not have any more.
    removed: HashSet<ServicePort>,
    inbound: bool,
    waves: Vec<WaveId>,
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    pub(super) identity: SpiffeId,
    pub(super) pod: Name,
    pub(super) proxy_version: String,
    pub(super) connected: Instant,
    pub(super) queue: mpsc::Sender<Message>,
    /// A permit of the queue is being waited for.
    pub(super) waiting: bool,
    /// Says why the stream ends.
    end: Option<oneshot::Sender<Status>>,
    targets: HashMap<Target, Asked>,
    /// How many of the targets are peers.
    peers: usize,
    next_turn: u64,
    services: HashMap<ServicePort, Option<View>>,
    inbound: Option<Inbound>,
    dirty: Dirty,
    version: u64,
    acknowledged: u64,
    in_flight: VecDeque<(u64, Vec<WaveId>)>,
    pub(super) error: Option<String>,
    pub(super) convergence_ms: Option<f64>,
}

impl Stream {
    pub(super) fn new(
        id: StreamId,
        identity: SpiffeId,
        pod: Name,
        proxy_version: String,
        queue: mpsc::Sender<Message>,
        end: oneshot::Sender<Status>,
    ) -> Self {
        Self {
            id,
            identity,
            pod,
            proxy_version,
            connected: Instant::now(),
            queue,
            waiting: false,
            end: Some(end),
            targets: HashMap::new(),
            peers: 0,
            next_turn: 0,
            services: HashMap::new(),
            inbound: None,
            dirty: Dirty {
                inbound: true,
                ..Dirty::default()
            },
            version: 0,
            acknowledged: 0,
            in_flight: VecDeque::new(),
            error: None,
            convergence_ms: None,
        }
    }

    /// The namespace whose view it has.
    pub(super) fn client(&self) -> &Arc<str> {
        &self.pod.namespace
    }

    pub(super) fn targets(&self) -> impl Iterator<Item = &Target> {
        self.targets.keys()
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &ServicePort> {
        self.services.keys()
    }

    pub(super) fn versions(&self) -> (u64, u64) {
        (self.version, self.acknowledged)
    }

    /// How many of the targets are peers.
    pub(super) fn peers(&self) -> usize {
        self.peers
    }

    /// How many addresses and hosts there are together with some that are asked for.
    pub(super) fn others_with(&self, asked: &[Target]) -> usize {
        let is_other = |target: &&Target| !is_peer(target) && !self.targets.contains_key(*target);
        let new: HashSet<&Target> = asked.iter().filter(is_other).collect();
        self.targets.len() - self.peers + new.len()
    }

    /// Asks for a target; asked again, it is answered again.
    pub(super) fn add_target(&mut self, target: Target) {
        self.next_turn += 1;
        let asked = Asked {
            answer: None,
            turn: self.next_turn,
        };
        if self.targets.insert(target.clone(), asked).is_none() && is_peer(&target) {
            self.peers += 1;
        }
        self.dirty.targets.insert(target);
    }

    /// The targets that the proxy misses least, as many as asked for or all there are:
    /// first peers, who are for telemetry alone, then addresses outside of the mesh; of
    /// each the ones that were asked for longest ago.
    pub(super) fn least_needed(&self, count: usize, index: &Index) -> Vec<Target> {
        if count == 0 {
            return Vec::new();
        }
        let leads_outside = |target: &Target, asked: &Asked| match &asked.answer {
            Some(answer) => *answer == Answer::Resolution(Resolution::External),
            None => index.resolve(target, self.client()) == Resolution::External,
        };
        let dispensable = self.targets.iter();
        let dispensable =
            dispensable.filter(|(target, asked)| is_peer(target) || leads_outside(target, asked));
        let mut targets: Vec<_> = dispensable
            .map(|(target, asked)| (!is_peer(target), asked.turn, target))
            .collect();
        targets.sort_unstable_by_key(|(external, turn, _)| (*external, *turn));
        let oldest = targets.into_iter().take(count);
        oldest.map(|(_, _, target)| target.clone()).collect()
    }

    /// Tells the proxy why the stream ends.
    pub(super) fn end(&mut self, reason: Status) {
        if let Some(end) = self.end.take() {
            // Who is gone already needs no reason.
            let _ = end.send(reason);
        }
    }

    /// Targets that the proxy doesn't need any more. Services that only they
    /// led to are forgotten at once: asked for again, they are told whole.
    pub(super) fn remove_targets(&mut self, targets: &[Target], index: &Index, views: &mut Views) {
        for target in targets {
            if self.targets.remove(target).is_some() && is_peer(target) {
                self.peers -= 1;
            }
            self.dirty.targets.remove(target);
        }
        let mut services = std::mem::take(&mut self.dirty.services);
        let removed = self.follow(index, views, &mut services);
        self.dirty.services = services;
        self.dirty.removed.extend(removed);
    }

    pub(super) fn touch_target(&mut self, target: &Target) -> bool {
        self.targets.contains_key(target) && self.dirty.targets.insert(target.clone())
    }

    pub(super) fn touch_service(&mut self, service: &ServicePort) {
        self.dirty.services.insert(service.clone());
    }

    pub(super) fn touch_inbound(&mut self) {
        self.dirty.inbound = true;
    }

    /// The proxy may have to hear of a wave.
    pub(super) fn join(&mut self, wave: WaveId, convergence: &mut Convergence) {
        if self.dirty.waves.last() != Some(&wave) {
            // Who reads nothing for that long is not waited for.
            if self.dirty.waves.len() >= WAVES {
                for wave in std::mem::take(&mut self.dirty.waves) {
                    convergence.leave(wave, false);
                }
            }
            self.dirty.waves.push(wave);
            convergence.join(wave);
        }
    }

    /// Whether there is something to look at for a message.
    pub(super) fn is_dirty(&self) -> bool {
        self.dirty.inbound
            || !self.dirty.targets.is_empty()
            || !self.dirty.services.is_empty()
            || !self.dirty.removed.is_empty()
    }

    /// The newest state of all that the proxy has yet to hear; `None`: it
    /// makes no difference to what the proxy has.
    pub(super) fn message(
        &mut self,
        index: &Index,
        views: &mut Views,
        convergence: &mut Convergence,
        encoding: &mut Encoding,
    ) -> Option<Outgoing> {
        let mut dirty = std::mem::take(&mut self.dirty);
        // A target may lead to a service, and a service's routes to others.
        let mut leads_elsewhere = !dirty.targets.is_empty();
        let mut resolutions = Vec::new();
        for target in dirty.targets {
            resolutions.extend(self.answer(index, target));
        }
        let mut updates = Vec::new();
        loop {
            let client = self.pod.namespace.clone();
            for service in std::mem::take(&mut dirty.services) {
                let view = views.view(&service, &client);
                if let Some(told) = self.services.get_mut(&service) {
                    leads_elsewhere |= !same_destinations(told.as_ref(), view);
                    tell(&service, told, view, encoding, &mut updates);
                }
            }
            if !std::mem::take(&mut leads_elsewhere) {
                break;
            }
            let gone = self.follow(index, views, &mut dirty.services);
            dirty.removed.extend(gone);
        }
        let gone = dirty
            .removed
            .into_iter()
            .filter(|s| !self.services.contains_key(s));
        updates.extend(gone.map(|service| whole(&Update::ServiceRemoved(service))));
        updates.extend(resolutions.iter().map(whole));
        if dirty.inbound {
            let inbound = index.inbound(&self.pod, &self.identity);
            if self.inbound.as_ref() != Some(&inbound) {
                updates.push(encoding.inbound(&inbound));
                self.inbound = Some(inbound);
            }
        }
        if updates.is_empty() {
            for wave in dirty.waves {
                convergence.leave(wave, false);
            }
            return None;
        }
        self.version += 1;
        let oldest = dirty
            .waves
            .iter()
            .filter_map(|&wave| convergence.seen_at(wave))
            .min();
        if self.in_flight.len() >= UNACKNOWLEDGED
            && let Some((_, waves)) = self.in_flight.pop_front()
        {
            for wave in waves {
                convergence.leave(wave, false);
            }
        }
        self.in_flight.push_back((self.version, dirty.waves));
        Some(Outgoing {
            head: proto::ControllerMessage {
                version: self.version,
                changed_at_micros: oldest.map_or(0, micros),
                updates: Vec::new(),
            },
            updates,
        })
    }

    fn answer(&mut self, index: &Index, target: Target) -> Option<Update> {
        let client = self.pod.namespace.clone();
        let told = &mut self.targets.get_mut(&target)?.answer;
        let answer = match &target {
            Target::Peer(ip) => Answer::Peer(index.peer(*ip)),
            _ => Answer::Resolution(index.resolve(&target, &client)),
        };
        if told.as_ref() == Some(&answer) {
            return None;
        }
        *told = Some(answer.clone());
        match (target, answer) {
            (Target::Peer(ip), Answer::Peer(workload)) => Some(Update::Peer(ip, workload)),
            (target, Answer::Resolution(resolution)) => {
                Some(Update::Resolution(target, resolution))
            }
            (_, Answer::Peer(_)) => None,
        }
    }

    /// Brings the services told in line with what targets, and routes of the
    /// services they are, lead to. New ones are noted in `dirty`; returns the
    /// told ones that nothing leads to any more.
    fn follow(
        &mut self,
        index: &Index,
        views: &mut Views,
        dirty: &mut HashSet<ServicePort>,
    ) -> Vec<ServicePort> {
        let client = self.pod.namespace.clone();
        let mut wanted: HashSet<ServicePort> = HashSet::new();
        for asked in self.targets.values() {
            if let Some(Answer::Resolution(Resolution::Service(root))) = &asked.answer {
                wanted.insert(root.clone());
            }
        }
        let roots: Vec<_> = wanted.iter().cloned().collect();
        for root in roots {
            views.subscribe(index, &root, &client, self.id);
            let view = views.view(&root, &client);
            wanted.extend(view.into_iter().flat_map(View::destinations).cloned());
        }
        let gone: Vec<_> = self
            .services
            .keys()
            .filter(|s| !wanted.contains(s))
            .cloned()
            .collect();
        let mut removed = Vec::new();
        for service in gone {
            views.unsubscribe(&service, self.id);
            dirty.remove(&service);
            if let Some(Some(_)) = self.services.remove(&service) {
                removed.push(service);
            }
        }
        for service in wanted {
            if !self.services.contains_key(&service) {
                views.subscribe(index, &service, &client, self.id);
                self.services.insert(service.clone(), None);
                dirty.insert(service);
            }
        }
        removed
    }

    /// The proxy has put a version in force, or says why not.
    pub(super) fn acknowledge(
        &mut self,
        version: u64,
        error: Option<String>,
        convergence: &mut Convergence,
    ) {
        self.acknowledged = self.acknowledged.max(version.min(self.version));
        let in_force = error.is_none();
        self.error = error;
        while self
            .in_flight
            .front()
            .is_some_and(|(sent, _)| *sent <= version)
        {
            let Some((_, waves)) = self.in_flight.pop_front() else {
                break;
            };
            for wave in waves {
                if let Some(took) = convergence.leave(wave, in_force) {
                    self.convergence_ms = Some(took.as_secs_f64() * 1e3);
                }
            }
        }
    }

    /// The proxy is gone: nobody waits for it.
    pub(super) fn abandon(&mut self, convergence: &mut Convergence) {
        let sent = self.in_flight.drain(..).flat_map(|(_, waves)| waves);
        for wave in sent.chain(self.dirty.waves.drain(..)) {
            convergence.leave(wave, false);
        }
    }
}

fn is_peer(target: &Target) -> bool {
    matches!(target, Target::Peer(_))
}

/// Whether routes lead to the same services as before.
fn same_destinations(told: Option<&View>, view: Option<&View>) -> bool {
    match (told, view) {
        (Some(old), Some(new)) => {
            Arc::ptr_eq(&old.service, &new.service) || old.destinations().eq(new.destinations())
        }
        (told, view) => told.is_none() && view.is_none(),
    }
}

/// The difference between what a proxy was told of a service and what it is.
fn tell(
    service: &ServicePort,
    told: &mut Option<View>,
    view: Option<&View>,
    encoding: &mut Encoding,
    updates: &mut Vec<Vec<Bytes>>,
) {
    match (told.as_ref(), view) {
        (None, None) => {}
        (Some(_), None) => updates.push(whole(&Update::ServiceRemoved(service.clone()))),
        (None, Some(new)) => {
            updates.push(vec![encoding.service(&new.service)]);
            let endpoints = encoding.endpoints(service, None, &new.endpoints);
            updates.extend(endpoints.map(|update| vec![update]));
        }
        (Some(old), Some(new)) => {
            if !Arc::ptr_eq(&old.service, &new.service) && old.service != new.service {
                updates.push(vec![encoding.service(&new.service)]);
            }
            if !Arc::ptr_eq(&old.endpoints, &new.endpoints) {
                let update = encoding.endpoints(service, Some(&old.endpoints), &new.endpoints);
                updates.extend(update.map(|update| vec![update]));
            }
        }
    }
    *told = view.cloned();
}

/// An update in one piece, for one proxy.
fn whole(update: &Update) -> Vec<Bytes> {
    vec![update.encode()]
}

fn micros(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| {
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    })
}
