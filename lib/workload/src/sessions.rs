//! The sessions that a client can resume: tickets, each for one connection.

use rustls::{
    NamedGroup,
    client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue},
    pki_types::ServerName,
};
use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Tickets of one server. A ticket is good for one connection and each connection
/// brings another one, so that this is how many may be opened at once without a
/// full handshake; rustls' own store keeps eight.
const PER_SERVER: usize = 64;
/// Tickets of all servers; one takes about a kilobyte.
const IN_ALL: usize = 1024;

/// See the module; TLS 1.3 only.
#[derive(Default)]
pub(super) struct Sessions(Mutex<Kept<Tls13ClientSessionValue>>);

impl Sessions {
    fn kept(&self) -> MutexGuard<'_, Kept<Tls13ClientSessionValue>> {
        // Nothing in here can panic half-way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Never what the sessions are.
impl fmt::Debug for Sessions {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.kept().server(server_name).group = Some(group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.kept().servers.get(&server_name.to_owned())?.group
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        self.kept().insert(server_name, value);
    }

    fn take_tls13_ticket(
        &self,
        server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        self.kept().take(server_name)
    }
}

struct Kept<T> {
    servers: HashMap<ServerName<'static>, Server<T>>,
    /// The same servers, as they became known.
    order: VecDeque<ServerName<'static>>,
    tickets: usize,
}

struct Server<T> {
    /// What it agreed to last.
    group: Option<NamedGroup>,
    /// Oldest first.
    tickets: VecDeque<T>,
}

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self {
            servers: HashMap::new(),
            order: VecDeque::new(),
            tickets: 0,
        }
    }
}

impl<T> Kept<T> {
    fn server(&mut self, name: ServerName<'static>) -> &mut Server<T> {
        if !self.servers.contains_key(&name) {
            if self.servers.len() >= IN_ALL {
                self.forget_oldest();
            }
            self.order.push_back(name.clone());
        }
        self.servers.entry(name).or_insert_with(|| Server {
            group: None,
            tickets: VecDeque::new(),
        })
    }

    fn insert(&mut self, name: ServerName<'static>, ticket: T) {
        if self.tickets >= IN_ALL {
            self.forget_oldest();
        }
        let known = &mut self.server(name).tickets;
        known.push_back(ticket);
        if known.len() > PER_SERVER {
            known.pop_front();
        } else {
            self.tickets += 1;
        }
    }

    /// The newest: it is good for longest.
    fn take(&mut self, name: &ServerName<'static>) -> Option<T> {
        let ticket = self.servers.get_mut(name)?.tickets.pop_back()?;
        self.tickets -= 1;
        Some(ticket)
    }

    /// Makes room: with the server that has been known for longest go its tickets;
    /// one that has none makes no room for them, and the next goes as well.
    fn forget_oldest(&mut self) {
        while let Some(name) = self.order.pop_front() {
            let tickets = self.servers.remove(&name).map_or(0, |s| s.tickets.len());
            self.tickets -= tickets;
            if tickets > 0 || self.tickets < IN_ALL {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(number: usize) -> ServerName<'static> {
        let name = format!("s{number}.example");
        ServerName::try_from(name).unwrap()
    }

    #[test]
    fn a_ticket_is_taken_once_and_the_newest_first() {
        let mut kept = Kept::default();
        for ticket in 0..PER_SERVER + 2 {
            kept.insert(server(1), ticket);
        }
        kept.insert(server(2), 1000);
        assert_eq!(kept.tickets, PER_SERVER + 1);
        for ticket in (2..PER_SERVER + 2).rev() {
            assert_eq!(kept.take(&server(1)), Some(ticket));
        }
        assert_eq!(kept.take(&server(1)), None);
        assert_eq!(kept.take(&server(3)), None);
        assert_eq!(kept.take(&server(2)), Some(1000));
        assert_eq!(kept.tickets, 0);
    }

    #[test]
    fn the_oldest_server_goes_first_and_nothing_grows_for_ever() {
        let mut kept = Kept::default();
        for number in 0..3 * IN_ALL {
            kept.server(server(number)).group = Some(NamedGroup::X25519);
            assert!(kept.servers.len() <= IN_ALL);
        }
        for number in 0..IN_ALL {
            kept.insert(server(number), number);
            kept.insert(server(number), number);
            assert!(kept.tickets <= IN_ALL);
            assert_eq!(kept.order.len(), kept.servers.len());
            let counted = kept.servers.values().map(|server| server.tickets.len());
            assert_eq!(counted.sum::<usize>(), kept.tickets);
        }
        assert_eq!(kept.take(&server(0)), None);
        assert_eq!(kept.take(&server(IN_ALL - 1)), Some(IN_ALL - 1));
    }
}
