//! Proxies that come: who is refused, who is let in, and who waits for its pod.
//!
//! A proxy can be faster than the watch of its pod. So many wait, and only a change of
//! pods has all of them looked at.

use super::Hub;
use crate::{discovery::handle::Open, object::Name};
use tonic::Status;

/// Proxies that wait for their pod to become known at most, of one identity and of all.
/// Before the source has told all, every proxy waits, and nobody is refused.
const PENDING: (usize, usize) = (32, 1024);

impl Hub {
    /// Takes a proxy that is of the mesh's own trust domain and within its quotas.
    pub(super) fn open(&mut self, open: Open) {
        if !self.index.is_own(&open.identity) {
            let reason = format!(
                "{} is of another trust domain; discovery is for the mesh's own workloads",
                open.identity
            );
            drop(open.reply.send(Err(Status::permission_denied(reason))));
            return;
        }
        match self.quotas.open(&open.identity, &open.pod, open.id) {
            Ok(None) => {}
            Ok(Some(oldest)) => {
                let reason = "the pod has opened newer streams";
                self.end(oldest, Status::aborted(reason));
            }
            Err(refused) => {
                drop(open.reply.send(Err(refused)));
                return;
            }
        }
        let Some(open) = self.judge(open) else {
            return;
        };
        let of_identity = self.pending.iter();
        let of_identity = of_identity.filter(|other| other.identity == open.identity);
        let full = self.pending.len() >= PENDING.1 || of_identity.count() >= PENDING.0;
        if self.index.is_synced() && full {
            let reason = "too many proxies wait for their pods to become known";
            self.refuse(open, Status::resource_exhausted(reason));
        } else {
            self.pending.push(open);
        }
    }

    /// Lets in the proxies of which enough is known by now; the others go on waiting.
    pub(super) fn admit_pending(&mut self) {
        for open in std::mem::take(&mut self.pending) {
            let waits = self.judge(open);
            self.pending.extend(waits);
        }
    }

    /// Lets a proxy in or refuses it; returns it if its pod is not known yet.
    fn judge(&mut self, open: Open) -> Option<Open> {
        if open.reply.is_closed() {
            self.quotas.close(&open.identity, &open.pod, open.id, 0);
            return None;
        }
        let pod = Name::new(open.identity.namespace(), open.pod.as_str());
        let account = self.index.service_account(&pod);
        let own = open.identity.service_account();
        match account {
            Some(account) if account != own => {
                let reason = format!("pod {pod} runs as service account {account}, not {own}");
                self.refuse(open, Status::permission_denied(reason));
            }
            None if open.pod_must_exist => return Some(open),
            _ => self.admit(open, pod),
        }
        None
    }

    pub(super) fn refuse(&mut self, open: Open, reason: Status) {
        self.quotas.close(&open.identity, &open.pod, open.id, 0);
        drop(open.reply.send(Err(reason)));
    }
}
