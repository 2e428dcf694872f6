//! Connections that are refused before anybody knows who calls: reset, counted,
//! and told to the log; a flood of them is told of a few times a second.

use super::{Arrival, Caller, ended, write};
use crate::{
    access_log::{Decided, Decision, draw_sample},
    clock,
    outbound::ConnectionError,
    telemetry::Flags,
};
use std::{
    cell::Cell,
    fmt::Display,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::net::TcpStream;

/// Refusals that a data thread's access log names in a second; the others are
/// counted as lines that it lacks.
const NAMED_A_SECOND: u32 = 16;

/// What a data thread has told of refusals in the current second.
#[derive(Default)]
pub(crate) struct Refusals {
    since: Cell<Option<Instant>>,
    named: Cell<u32>,
}

impl Refusals {
    /// Whether one more may be told of.
    fn may_be_named(&self, now: Instant) -> bool {
        let second = Duration::from_secs(1);
        let current = self.since.get();
        if current.is_none_or(|since| now.saturating_duration_since(since) >= second) {
            self.since.set(Some(now));
            self.named.set(0);
        }
        self.named.set(self.named.get().saturating_add(1));
        self.named.get() <= NAMED_A_SECOND
    }
}

impl Arrival {
    /// A STRICT port takes nothing but mutual TLS.
    pub(super) fn refuse_plaintext(&self, client: &TcpStream) -> Result<(), ConnectionError> {
        let source = self.thread.directory().inbound().mtls_source.clone();
        let decided_by = source.map_or_else(|| "the default".to_owned(), |s| s.to_string());
        let by = format!("{decided_by} says STRICT");
        let reason = format!("plaintext, and {by}");
        self.note_refusal(by);
        self.refuse(client, "plaintext", &reason)
    }

    /// A caller of the mesh whose certificate, or whose TLS, is not accepted.
    pub(super) fn handshake_failed(&self, error: &dyn Display) {
        let (peer, port) = (self.peer, self.port);
        tracing::warn!(%peer, port, %error, "refused a mutual TLS handshake");
        metrics::counter!("linnet_inbound_refused_total", "reason" => "handshake").increment(1);
        self.note_refusal(format!("mutual TLS: {error}"));
    }

    /// Ends a connection with a reset, before a byte of it reaches the application.
    pub(super) fn refuse(
        &self,
        client: &TcpStream,
        kind: &'static str,
        reason: &str,
    ) -> Result<(), ConnectionError> {
        let (peer, port) = (self.peer, self.port);
        tracing::info!(%peer, port, reason, "refused a connection");
        metrics::counter!("linnet_inbound_refused_total", "reason" => kind).increment(1);
        socket2::SockRef::from(client).set_linger(Some(Duration::ZERO))?;
        Ok(())
    }

    fn note_refusal(&self, by: String) {
        let inbound = self.thread.directory().inbound();
        let log = &inbound.access_log.server;
        if !log.writes(true, draw_sample) {
            return;
        }
        let decision = Decision::Denied;
        let record = self.record(log).decided(Some(Decided {
            decision,
            by: by.into(),
        }));
        if !self.thread.refusals.may_be_named(clock::instant()) {
            return record.lose();
        }
        // Whose address it is would take a look-up, by which it is kept waiting.
        let parties = self.parties(&Caller::Unknown(None), Arc::default());
        write(Some(record), &parties, &ended(Flags::UAEX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_named_a_few_times_a_second() {
        let refusals = Refusals::default();
        let begin = Instant::now();
        let named = |at: Duration| {
            (0..100)
                .filter(|_| refusals.may_be_named(begin + at))
                .count()
        };
        assert_eq!(named(Duration::ZERO), 16);
        assert_eq!(named(Duration::from_millis(999)), 0);
        assert_eq!(named(Duration::from_secs(1)), 16);
        assert_eq!(named(Duration::from_secs(60)), 16);
    }
}
