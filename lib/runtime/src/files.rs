//! The process's file descriptors, and how they are divided among its listeners.
//!
//! A connection that is accepted must find a descriptor for what it needs next, so
//! each listener has a share of the process's limit and closes what goes beyond it.
//! [`raise`] belongs into `main`; the rest reads the limit that is in force.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What a process without any limit counts with.
const PLENTY: u64 = 1 << 20;
/// Descriptors that a process needs besides connections that it accepts: its log, its
/// event loops, its listeners, and connections to the control plane.
const OWN: usize = 64;
/// Descriptors that one of a workload's connections may need: its own, its upstream's,
/// and a half each for pipes and for idle connections to other upstreams.
const PER_CONNECTION: usize = 3;

/// Raises the limit of open files to what the system lets this process have, and
/// returns it. A process that may not raise it keeps the limit that it has.
pub fn raise() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let wanted = Rlimit {
            current: maximum,
            maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, wanted) {
            tracing::warn!(
                ?current, ?maximum, %error,
                "cannot raise the limit of open files (RLIMIT_NOFILE); the limit stays as it is"
            );
        }
    }
    limit()
}

/// Returns how many files the process may have open.
pub fn limit() -> usize {
    let current = getrlimit(Resource::Nofile).current;
    let current = current.unwrap_or(PLENTY).min(PLENTY);
    // At most `PLENTY`.
    usize::try_from(current).unwrap_or(usize::MAX)
}

/// Returns how many of a sidecar's connections may be open in one direction, when
/// `files` may be open at all and its other listeners have their shares.
pub fn data_connections(files: usize, threads: usize, others: usize) -> usize {
    let own = OWN + others + 16 * threads;
    (files.saturating_sub(own) / (2 * PER_CONNECTION)).max(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_as_far_as_it_goes() {
        let raised = raise();
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        assert_eq!(current, maximum);
        assert_eq!(raised, limit());
    }

    #[test]
    fn a_workloads_connections_have_most_of_the_files() {
        for (files, least) in [
            (1024, 100),
            (4096, 600),
            (65_536, 10_000),
            (1 << 20, 50_000),
        ] {
            let connections = data_connections(files, 2, 160);
            assert!(connections >= least, "{connections} of {files}");
            assert!(2 * PER_CONNECTION * connections + 160 + OWN <= files);
        }
        assert_eq!(data_connections(0, 2, 160), 8);
    }
}
