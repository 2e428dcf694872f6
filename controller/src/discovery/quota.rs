//! What of the controller one identity holds: its streams and their targets.
//!
//! An identity is what a stranger can't multiply: pods it can name, and streams it can
//! open. Of a pod's streams the newest count, since a proxy whose connection was lost
//! comes back before the controller knows of the loss.

use super::stream::StreamId;
use linnet_discovery::limits;
use linnet_mesh::SpiffeId;
use std::collections::{HashMap, VecDeque};
use tonic::Status;

/// What each identity holds.
#[derive(Debug, Default)]
pub(super) struct Quotas(HashMap<SpiffeId, Held>);

#[derive(Debug, Default)]
struct Held {
    /// The streams of each pod, the oldest first.
    pods: HashMap<String, VecDeque<StreamId>>,
    streams: usize,
    targets: usize,
}

impl Quotas {
    /// Counts a stream. Returns the one of the same pod that has to end for it.
    ///
    /// # Errors
    /// The identity has as many streams as it may.
    pub(super) fn open(
        &mut self,
        identity: &SpiffeId,
        pod: &str,
        id: StreamId,
    ) -> Result<Option<StreamId>, Status> {
        let held = self.0.entry(identity.clone()).or_default();
        let of_pod = held.pods.get(pod).map_or(0, VecDeque::len);
        let displaces = of_pod >= limits::STREAMS_OF_POD;
        if !displaces && held.streams >= limits::STREAMS_OF_IDENTITY {
            return Err(Status::resource_exhausted(format!(
                "{identity} has {} streams; more than {} are not taken",
                held.streams,
                limits::STREAMS_OF_IDENTITY
            )));
        }
        let streams = held.pods.entry(pod.to_owned()).or_default();
        streams.push_back(id);
        held.streams += 1;
        Ok(displaces.then(|| streams.front().copied()).flatten())
    }

    /// A stream has ended, with its targets.
    pub(super) fn close(&mut self, identity: &SpiffeId, pod: &str, id: StreamId, targets: usize) {
        let Some(held) = self.0.get_mut(identity) else {
            return;
        };
        if let Some(streams) = held.pods.get_mut(pod)
            && let Some(at) = streams.iter().position(|&stream| stream == id)
        {
            streams.remove(at);
            held.streams -= 1;
            if streams.is_empty() {
                held.pods.remove(pod);
            }
        }
        held.targets = held.targets.saturating_sub(targets);
        if held.streams == 0 {
            self.0.remove(identity);
        }
    }

    /// The streams of an identity.
    pub(super) fn streams(&self, identity: &SpiffeId) -> impl Iterator<Item = StreamId> {
        let pods = self.0.get(identity).into_iter();
        pods.flat_map(|held| held.pods.values()).flatten().copied()
    }

    /// A stream of the identity has another number of targets than before. Returns by
    /// how many the identity has more than it may.
    pub(super) fn recount(&mut self, identity: &SpiffeId, before: usize, now: usize) -> usize {
        let Some(held) = self.0.get_mut(identity) else {
            return 0;
        };
        held.targets = (held.targets + now).saturating_sub(before);
        held.targets.saturating_sub(limits::TARGETS_OF_IDENTITY)
    }

    /// Reports whether nobody holds anything.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(account: &str) -> SpiffeId {
        let text = format!("spiffe://cluster.local/ns/shop/sa/{account}");
        text.parse().unwrap()
    }

    #[test]
    fn a_pods_oldest_stream_ends_for_the_third() {
        let mut quotas = Quotas::default();
        let (web, api) = (identity("web"), identity("api"));
        assert_eq!(quotas.open(&web, "p", 1).unwrap(), None);
        assert_eq!(quotas.open(&web, "p", 2).unwrap(), None);
        // Another identity's pod of that name has streams of its own.
        assert_eq!(quotas.open(&api, "p", 3).unwrap(), None);
        assert_eq!(quotas.open(&web, "p", 4).unwrap(), Some(1));
        quotas.close(&web, "p", 1, 0);
        assert_eq!(quotas.open(&web, "q", 5).unwrap(), None);
        for (identity, pod, id) in [
            (&web, "p", 2),
            (&web, "p", 4),
            (&web, "q", 5),
            (&api, "p", 3),
        ] {
            quotas.close(identity, pod, id, 0);
        }
        assert!(quotas.is_empty());
    }

    #[test]
    fn an_identity_has_so_many_streams_and_targets_and_no_more() {
        let mut quotas = Quotas::default();
        let web = identity("web");
        let most = limits::STREAMS_OF_IDENTITY as u64;
        for id in 0..most {
            quotas.open(&web, &format!("pod-{id}"), id).unwrap();
        }
        let refused = quotas.open(&web, "another", most).unwrap_err();
        assert!(refused.message().contains("4096"), "{refused}");
        quotas.open(&identity("api"), "another", most).unwrap();
        assert_eq!(quotas.recount(&web, 0, limits::TARGETS_OF_IDENTITY), 0);
        assert_eq!(quotas.recount(&web, 0, 7), 7);
        assert_eq!(quotas.recount(&web, 7, 0), 0);
        assert_eq!(quotas.recount(&identity("api"), 0, 5), 0);
        quotas.close(&web, "pod-0", 0, 5);
        quotas.open(&web, "another", most + 1).unwrap();
        assert_eq!(quotas.recount(&web, 0, 6), 1);
    }
}
