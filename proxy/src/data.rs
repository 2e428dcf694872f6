//! Data threads: each runs a single-threaded runtime with its own listeners and
//! pools, and serves a connection from accept to end.

use crate::{
    cap::Direction,
    clock::Coarse,
    inbound::{self, Arrival},
    listen::{canonical, host_target, original_destination},
    outbound,
    thread::{Shared, Thread},
};
use linnet_discovery::Target;
use linnet_runtime::places::Activity;
use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    rc::Rc,
    thread::JoinHandle,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::LocalOptions,
};

/// Pause after a failed accept: the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A draining thread stops listening once it has had no connection for so long.
const QUIET: Duration = Duration::from_secs(1);
const QUIET_CHECKS: u32 = 10;

/// What a listener's connections are.
#[derive(Clone, Debug)]
pub(crate) enum Role {
    /// The workload's connections, as the pod's rules redirect them.
    OutboundRedirected,
    /// The workload's connections to one service, by name and port.
    OutboundExplicit(String),
    /// Connections to the workload, as the pod's rules redirect them.
    InboundRedirected,
    /// Connections to the workload's one port.
    InboundExplicit(SocketAddr),
}

impl Role {
    const fn direction(&self) -> Direction {
        match self {
            Self::OutboundRedirected | Self::OutboundExplicit(_) => Direction::Outbound,
            Self::InboundRedirected | Self::InboundExplicit(_) => Direction::Inbound,
        }
    }
}

/// Starts a data thread on its listeners.
///
/// # Errors
/// The thread can't be made.
pub(crate) fn start(
    index: usize,
    listeners: Vec<(Role, StdListener)>,
    shared: Shared,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new()
        .name(format!("data-{index}"))
        .spawn(move || {
            // Its tasks never leave this thread, so it is made here.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => runtime.block_on(run(listeners, shared)),
                Err(error) => tracing::error!(index, %error, "cannot start a data thread"),
            }
        })
}

async fn run(listeners: Vec<(Role, StdListener)>, shared: Shared) {
    let thread = Thread::new(shared);
    let sweep = tokio::task::spawn_local(thread.clone().sweep());
    let mut accepting = tokio::task::JoinSet::new();
    for (role, listener) in listeners {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                accepting.spawn_local(accept(thread.clone(), role, listener));
            }
            Err(error) => tracing::error!(?role, %error, "cannot serve a listener"),
        }
    }
    while accepting.join_next().await.is_some() {}
    sweep.abort();
    // Connections that outlast their listeners: relays, until the process's
    // deadline ends them.
    while thread.connections() > 0 {
        tokio::time::sleep(QUIET / QUIET_CHECKS).await;
    }
}

/// Accepts until the drain finds nothing left to do. During a drain connections
/// are still taken: callers learn of the pod's end only by and by.
async fn accept(thread: Rc<Thread>, role: Role, listener: TcpListener) {
    let direction = role.direction();
    let refused = metrics::counter!(
        "linnet_connections_refused_total", "direction" => direction.as_str()
    );
    let drained = drained(&thread);
    let mut drained = std::pin::pin!(drained);
    loop {
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            () = drained.as_mut() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let Some(place) = thread.shared.cap.take(direction, peer.ip()) else {
                    refused.increment(1);
                    tracing::debug!(?role, %peer, "as many connections are open as may be");
                    continue;
                };
                let (thread, role) = (thread.clone(), role.clone());
                let activity = Some(Rc::new(place.activity()));
                tokio::task::spawn_local(place.hold(Coarse::new(async move {
                    let _counted = thread.count_connection();
                    connection(thread, role, stream, canonical(peer), activity).await;
                })));
            }
            Err(error) => {
                tracing::warn!(?role, %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn drained(thread: &Thread) {
    let _guard = thread.shared.drain.signaled().await;
    let mut quiet = 0;
    while quiet < QUIET_CHECKS {
        tokio::time::sleep(QUIET / QUIET_CHECKS).await;
        quiet = if thread.connections() == 0 {
            quiet + 1
        } else {
            0
        };
    }
}

async fn connection(
    thread: Rc<Thread>,
    role: Role,
    stream: TcpStream,
    peer: SocketAddr,
    activity: Option<Rc<Activity>>,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "a connection ended as it arrived");
        return;
    }
    match role {
        Role::OutboundExplicit(host) => {
            Box::pin(outbound::serve_connection(
                thread,
                stream,
                host_target(&host),
                activity,
            ))
            .await;
        }
        Role::OutboundRedirected => {
            if let Some(address) = redirected_from(&stream, peer, "outbound") {
                let target = Target::Address(address);
                Box::pin(outbound::serve_connection(thread, stream, target, activity)).await;
            }
        }
        Role::InboundExplicit(app) => {
            let port = app.port();
            arrive(thread, stream, peer, port, app, activity).await;
        }
        Role::InboundRedirected => {
            if let Some(app) = redirected_from(&stream, peer, "inbound") {
                arrive(thread, stream, peer, app.port(), app, activity).await;
            }
        }
    }
}

async fn arrive(
    thread: Rc<Thread>,
    stream: TcpStream,
    peer: SocketAddr,
    port: u16,
    app: SocketAddr,
    activity: Option<Rc<Activity>>,
) {
    let arrival = Arrival {
        thread,
        peer,
        port,
        app,
        activity,
    };
    Box::pin(inbound::serve_connection(arrival, stream)).await;
}

/// A connection straight to a redirect port would lead the sidecar to itself.
fn redirected_from(stream: &TcpStream, peer: SocketAddr, direction: &str) -> Option<SocketAddr> {
    match original_destination(stream) {
        Ok(Some(original)) => Some(original),
        Ok(None) => {
            tracing::info!(%peer, direction, "closed a connection that no rule redirected");
            None
        }
        Err(error) => {
            tracing::debug!(%peer, direction, %error, "a connection ended as it arrived");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The largest step of a connection's life is on the heap while it lasts.
    #[test]
    fn an_idle_connection_keeps_no_state_of_what_is_over() {
        fn size<A, B, C, D, E, F>(_: impl Fn(A, B, C, D, E) -> F) -> usize {
            size_of::<F>()
        }
        let (task, most) = (size(connection), 384);
        assert!(task <= most, "{task} bytes, of {most}");
    }
}
