//! The task that owns the index and every stream's state. Sources and streams
//! talk to it by messages; it never waits for either.

mod pending;

use super::{
    convergence::{Convergence, WaveId},
    encoding::Encoding,
    handle::{Command, Handle, Open},
    proxy_status::ProxyStatus,
    quota::Quotas,
    stream::{Message, Stream, StreamId},
    views::Views,
};
use crate::{
    desired_status::DesiredStatus,
    index::{Affected, Index, Interest},
    object::Name,
    source::Event,
};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use linnet_discovery::{Target, limits};
use linnet_mesh::SpiffeId;
use std::collections::{HashMap, HashSet};
use tokio::sync::{mpsc, watch};
use tonic::Status;

/// Commands on their way at most; streams wait beyond.
const COMMANDS: usize = 1024;
/// Changes and commands taken at most before proxies hear of them.
const BATCH: usize = 512;

/// Starts the hub. It ends when all handles are gone.
/// `synced` is dropped when the source has told all.
pub fn spawn<G: Send + 'static>(
    index: Index,
    events: mpsc::Receiver<Event>,
    synced: G,
) -> (Handle, tokio::task::JoinHandle<()>) {
    let (commands, receiver) = mpsc::channel(COMMANDS);
    let (changed, changes) = watch::channel(());
    let hub = Hub {
        index,
        views: Views::default(),
        streams: HashMap::new(),
        interests: HashMap::new(),
        pending: Vec::new(),
        quotas: Quotas::default(),
        convergence: Convergence::default(),
        encoding: Encoding::default(),
        dirty: HashSet::new(),
        blocked: FuturesUnordered::new(),
        changed,
    };
    let task = tokio::spawn(hub.run(events, receiver, synced));
    (Handle { commands, changes }, task)
}

/// A stream whose queue has room again; `None`: the proxy is gone.
type Unblocked = (StreamId, Option<mpsc::OwnedPermit<Message>>);

struct Hub {
    index: Index,
    views: Views,
    streams: HashMap<StreamId, Stream>,
    interests: HashMap<Interest, HashSet<(StreamId, Target)>>,
    /// Proxies whose pod is not known yet.
    pending: Vec<Open>,
    quotas: Quotas,
    convergence: Convergence,
    encoding: Encoding,
    /// Streams to look at.
    dirty: HashSet<StreamId>,
    blocked: FuturesUnordered<BoxFuture<'static, Unblocked>>,
    /// Tells that statuses may be to say something else.
    changed: watch::Sender<()>,
}

impl Hub {
    async fn run<G>(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut commands: mpsc::Receiver<Command>,
        synced: G,
    ) {
        let mut synced = Some(synced);
        let mut events_open = true;
        loop {
            tokio::select! {
                event = events.recv(), if events_open => match event {
                    Some(event) => self.changes(event, &mut events),
                    None => events_open = false,
                },
                command = commands.recv() => match command {
                    Some(command) => {
                        self.command(command);
                        for _ in 1..BATCH {
                            match commands.try_recv() {
                                Ok(command) => self.command(command),
                                Err(_) => break,
                            }
                        }
                    }
                    None => return,
                },
                Some((id, permit)) = self.blocked.next() => self.unblocked(id, permit),
            }
            if self.index.is_synced() {
                synced.take();
                self.send();
                self.encoding.clear();
            }
        }
    }

    /// Takes what has arrived of changes, as one wave.
    fn changes(&mut self, first: Event, events: &mut mpsc::Receiver<Event>) {
        let was_synced = self.index.is_synced();
        let wave = self.convergence.begin(first.seen, first.seen_at);
        self.index.apply(first.change);
        for _ in 1..BATCH {
            match events.try_recv() {
                Ok(event) => self.index.apply(event.change),
                Err(_) => break,
            }
        }
        if self.index.is_synced() {
            if self.index.take_judged() || !was_synced {
                self.changed.send_replace(());
            }
            let affected = self.index.take_affected();
            let may_admit = !was_synced || affected.has_pods();
            if was_synced {
                self.spread(&affected, wave);
            } else {
                // Proxies that came early have asked, but not been answered.
                self.dirty.extend(self.streams.keys());
            }
            if may_admit {
                self.admit_pending();
            }
        }
        self.convergence.seal(wave);
    }

    /// Notes who has to hear of what was touched.
    fn spread(&mut self, affected: &Affected, wave: WaveId) {
        if affected.is_empty() {
            return;
        }
        let Self {
            index,
            views,
            streams,
            interests,
            convergence,
            dirty,
            ..
        } = self;
        let mut touch = |stream: &mut Stream| {
            stream.join(wave, convergence);
            dirty.insert(stream.id);
        };
        for service in &affected.services {
            views.refresh(index, service, |id, of| {
                if let Some(stream) = streams.get_mut(&id) {
                    stream.touch_service(of);
                    touch(stream);
                }
            });
        }
        let by_service = affected.services.iter().cloned().map(Interest::Service);
        let by_ip = affected.ips.iter().copied().map(Interest::Ip);
        for (id, target) in by_service
            .chain(by_ip)
            .filter_map(|i| interests.get(&i))
            .flatten()
        {
            if let Some(stream) = streams.get_mut(id) {
                stream.touch_target(target);
                touch(stream);
            }
        }
        let pods = affected.has_pods();
        for stream in streams.values_mut().filter(|_| pods) {
            if affected.pod(&stream.pod) {
                stream.touch_inbound();
                touch(stream);
            }
        }
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Open(open) => self.open(open),
            Command::Subscribe(id, targets) => self.subscribe(id, targets),
            Command::Unsubscribe(id, targets) => self.unsubscribe(id, &targets),
            Command::Acknowledge(id, version, error) => self.acknowledge(id, version, error),
            Command::Close(id) => self.close(id),
            Command::Verdicts(reply) => drop(reply.send(self.index.verdicts())),
            Command::KeySources(reply) => drop(reply.send(self.index.key_sources())),
            Command::Proxies(reply) => drop(reply.send(self.proxies())),
            Command::Statuses(reply) => {
                let routes = self.index.route_statuses().into_iter();
                let routes = routes.map(DesiredStatus::from);
                let others = self.index.verdicts_in_conditions();
                let others =
                    others.map(|(object, verdict)| DesiredStatus::from((object, &verdict)));
                drop(reply.send(routes.chain(others).collect()));
            }
            Command::LastChange(reply) => drop(reply.send(self.convergence.last())),
        }
    }

    fn admit(&mut self, open: Open, pod: Name) {
        let stream = Stream::new(
            open.id,
            open.identity,
            pod,
            open.proxy_version,
            open.queue,
            open.end,
        );
        tracing::debug!(pod = %stream.pod, "proxy connected");
        self.streams.insert(open.id, stream);
        self.dirty.insert(open.id);
        self.count_proxies();
        if open.reply.send(Ok(())).is_err() {
            self.close(open.id);
        }
    }

    fn subscribe(&mut self, id: StreamId, targets: Vec<Target>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.others_with(&targets) > limits::TARGETS {
            let reason = format!(
                "the proxy asks for more than {} addresses and hosts",
                limits::TARGETS
            );
            self.end(id, Status::resource_exhausted(reason));
            return;
        }
        let before = stream.targets().count();
        for target in targets {
            if let Some(interest) = self.index.interest(&target, stream.client()) {
                let interested = self.interests.entry(interest).or_default();
                interested.insert((id, target.clone()));
            }
            stream.add_target(target);
        }
        self.dirty.insert(id);
        self.keep_within_quotas(id, before);
    }

    /// Lets go of a stream's oldest peers, and where its identity has too much also of
    /// its oldest addresses outside of the mesh. Both are numbers that clients of the
    /// proxy drive, so they don't end the stream; what else is too much does.
    fn keep_within_quotas(&mut self, id: StreamId, before: usize) {
        let Some(stream) = self.streams.get(&id) else {
            return;
        };
        let now = stream.targets().count();
        let over = self.quotas.recount(&stream.identity, before, now);
        let too_many = over.max(stream.peers().saturating_sub(limits::PEERS));
        let oldest = stream.least_needed(too_many, &self.index);
        let missing = over.saturating_sub(oldest.len());
        let relieved = (missing > 0).then(|| stream.identity.clone());
        if !oldest.is_empty() {
            self.unsubscribe(id, &oldest);
        }
        if let Some(identity) = relieved {
            self.relieve(&identity, missing);
        }
    }

    /// Lets go of what an identity has too much where a stream has nothing to give: its
    /// streams with the most peers give. If none can, the one with the most targets ends,
    /// which is not the one that came last.
    fn relieve(&mut self, identity: &SpiffeId, mut missing: usize) {
        let streams = self.quotas.streams(identity);
        let streams = streams.filter_map(|id| self.streams.get(&id));
        let mut streams: Vec<_> = streams
            .map(|stream| (stream.peers(), stream.targets().count(), stream.id))
            .collect();
        streams.sort_unstable_by(|one, other| other.cmp(one));
        for (_, _, id) in &streams {
            let Some(stream) = self.streams.get(id) else {
                continue;
            };
            let oldest = stream.least_needed(missing, &self.index);
            missing -= oldest.len();
            if !oldest.is_empty() {
                self.unsubscribe(*id, &oldest);
            }
            if missing == 0 {
                return;
            }
        }
        let largest = streams.iter().max_by_key(|(_, targets, _)| *targets);
        if let Some((_, _, id)) = largest {
            let reason = format!(
                "{identity} asks for more than {} targets, and this proxy for the most",
                limits::TARGETS_OF_IDENTITY
            );
            self.end(*id, Status::resource_exhausted(reason));
        }
    }

    fn unsubscribe(&mut self, id: StreamId, targets: &[Target]) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let before = stream.targets().count();
        stream.remove_targets(targets, &self.index, &mut self.views);
        let now = stream.targets().count();
        self.quotas.recount(&stream.identity, before, now);
        let client = stream.client().clone();
        self.forget(id, &client, targets);
        self.dirty.insert(id);
    }

    fn forget(&mut self, id: StreamId, client: &str, targets: &[Target]) {
        for target in targets {
            let Some(interest) = self.index.interest(target, client) else {
                continue;
            };
            if let Some(interested) = self.interests.get_mut(&interest) {
                interested.remove(&(id, target.clone()));
                if interested.is_empty() {
                    self.interests.remove(&interest);
                }
            }
        }
    }

    fn acknowledge(&mut self, id: StreamId, version: u64, error: Option<String>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if let Some(error) = &error {
            tracing::warn!(pod = %stream.pod, version, "proxy keeps its last good state: {error}");
            metrics::counter!("linnet_rejected_configurations_total").increment(1);
        }
        stream.acknowledge(version, error, &mut self.convergence);
    }

    /// Ends a stream, or refuses one that waits for its pod, and says why.
    fn end(&mut self, id: StreamId, reason: Status) {
        if let Some(stream) = self.streams.get_mut(&id) {
            tracing::warn!(pod = %stream.pod, "discovery stream ends: {}", reason.message());
            stream.end(reason);
        } else if let Some(at) = self.pending.iter().position(|open| open.id == id) {
            let open = self.pending.swap_remove(at);
            self.refuse(open, reason);
        }
        self.close(id);
    }

    fn close(&mut self, id: StreamId) {
        for open in self.pending.extract_if(.., |open| open.id == id) {
            self.quotas.close(&open.identity, &open.pod, id, 0);
        }
        let Some(mut stream) = self.streams.remove(&id) else {
            return;
        };
        let held = stream.targets().count();
        let pod = stream.pod.name.clone();
        self.quotas.close(&stream.identity, &pod, id, held);
        tracing::debug!(pod = %stream.pod, "proxy disconnected");
        stream.abandon(&mut self.convergence);
        for service in stream.services() {
            self.views.unsubscribe(service, id);
        }
        let targets: Vec<_> = stream.targets().cloned().collect();
        self.forget(id, &stream.client().clone(), &targets);
        self.dirty.remove(&id);
        self.count_proxies();
    }

    fn count_proxies(&self) {
        metrics::gauge!("linnet_proxies_connected").set(self.streams.len() as f64);
    }

    /// Hands every proxy that can take it what it has yet to hear.
    fn send(&mut self) {
        for id in std::mem::take(&mut self.dirty) {
            let Some(stream) = self
                .streams
                .get_mut(&id)
                .filter(|s| !s.waiting && s.is_dirty())
            else {
                continue;
            };
            match stream.queue.clone().try_reserve_owned() {
                Ok(permit) => self.write(id, permit),
                Err(mpsc::error::TrySendError::Full(queue)) => {
                    stream.waiting = true;
                    let room = queue.reserve_owned().map(move |permit| (id, permit.ok()));
                    self.blocked.push(room.boxed());
                }
                // Its Close is on the way.
                Err(mpsc::error::TrySendError::Closed(_)) => {}
            }
        }
    }

    fn unblocked(&mut self, id: StreamId, permit: Option<mpsc::OwnedPermit<Message>>) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.waiting = false;
        }
        if let Some(permit) = permit {
            self.write(id, permit);
        }
    }

    fn write(&mut self, id: StreamId, permit: mpsc::OwnedPermit<Message>) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let message = stream.message(
            &self.index,
            &mut self.views,
            &mut self.convergence,
            &mut self.encoding,
        );
        if let Some(message) = message {
            permit.send(Ok(Box::new(message)));
        }
    }

    fn proxies(&self) -> Vec<ProxyStatus> {
        let mut proxies: Vec<ProxyStatus> = self.streams.values().map(Into::into).collect();
        proxies.sort_by(|a, b| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
        proxies
    }
}
