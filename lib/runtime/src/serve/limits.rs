//! What a listener allows strangers, by what it is for.
//!
//! Every listener that serves HTTP is of a kind, and every kind has a number of
//! connections, a share of the process's files, and a limit of idleness.

use std::time::Duration;

/// How long a peer may stay without a request. Longer than the minute that scrapers
/// and probes let pass between two requests.
const IDLE: Duration = Duration::from_secs(90);
/// How long one request may take from its head to the end of its response.
const REQUEST: Duration = Duration::from_secs(60);

/// What a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerKind {
    /// The sidecar's admin endpoints, on loopback.
    Admin,
    /// Health, metrics, and the probes of the kubelet.
    Health,
    /// Certificates.
    Identity,
    /// Reviews of the API server.
    Webhook,
    /// Configuration for sidecars, in streams that last.
    Discovery,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections that may be open.
    pub connections: usize,
    /// How long a connection may stay without a request.
    pub idle: Duration,
    /// How long a request may take; `None`: its response is a stream.
    pub request: Option<Duration>,
    /// Requests at a time on one HTTP/2 connection; `None`: HTTP/1.1 alone.
    pub streams: Option<u32>,
}

impl ListenerKind {
    /// All kinds.
    pub const ALL: [Self; 5] = [
        Self::Admin,
        Self::Health,
        Self::Identity,
        Self::Webhook,
        Self::Discovery,
    ];

    /// Returns the name that metrics and the log use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Health => "health",
            Self::Identity => "identity",
            Self::Webhook => "webhook",
            Self::Discovery => "discovery",
        }
    }

    /// Returns the limits of a process that may have so many files open.
    pub fn limits(self, files: usize) -> Limits {
        let (share, most) = match self {
            Self::Admin => (64, 32),
            Self::Health => (16, 128),
            Self::Webhook => (8, 512),
            Self::Identity => (2, 4096),
            // One stream for each pod of the mesh.
            Self::Discovery => (2, 20_000),
        };
        let streams = match self {
            // Scrapers, probes and the CLI ask one thing at a time.
            Self::Admin | Self::Health => None,
            Self::Identity => Some(8),
            // The API server opens another connection for more.
            Self::Webhook => Some(32),
            // A proxy has one, and for a moment the one before.
            Self::Discovery => Some(4),
        };
        Limits {
            connections: (files / share).clamp(8, most),
            idle: IDLE,
            request: (self != Self::Discovery).then_some(REQUEST),
            streams,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which kinds of listener each process has, besides the sidecar's data.
    const PROCESSES: [&[ListenerKind]; 4] = [
        &[ListenerKind::Admin, ListenerKind::Health],
        &[ListenerKind::Identity, ListenerKind::Health],
        &[ListenerKind::Webhook, ListenerKind::Health],
        &[
            ListenerKind::Discovery,
            ListenerKind::Webhook,
            ListenerKind::Health,
        ],
    ];

    #[test]
    fn the_listeners_of_a_process_leave_a_quarter_of_its_files() {
        for files in [256, 1024, 4096, 65_536, 1 << 20] {
            for process in PROCESSES {
                let all: usize = process
                    .iter()
                    .map(|kind| kind.limits(files).connections)
                    .sum();
                assert!(all <= files * 3 / 4, "{process:?}: {all} of {files}");
            }
        }
        for kind in ListenerKind::ALL {
            assert!(
                PROCESSES.iter().any(|process| process.contains(&kind)),
                "{kind:?}"
            );
        }
    }
}
