//! How many connections may be open, in each direction on its own: a flood from
//! outside must not take the workload's own connections from it. A stream that
//! shares a connection with others counts like one of its own. When all places of a
//! direction are taken, the address that holds most of them gives way.

use linnet_runtime::places::{Place, Places};
use std::net::IpAddr;

/// Who opens a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The workload.
    Outbound,
    /// Somebody who calls it.
    Inbound,
}

impl Direction {
    /// As metrics call it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Cap {
    outbound: Places,
    inbound: Places,
}

impl Cap {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            outbound: Places::new(most),
            inbound: Places::new(most),
        }
    }

    /// Takes a place for one more connection from an address. `None`: all are
    /// taken, and the address has its share.
    pub(crate) fn take(&self, direction: Direction, address: IpAddr) -> Option<Place> {
        let places = match direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound => &self.inbound,
        };
        places.take(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_has_its_own_places_and_gets_them_back() {
        let own = IpAddr::from([10, 0, 0, 1]);
        let cap = Cap::new(2);
        let places = [Direction::Inbound; 2].map(|direction| cap.take(direction, own));
        assert!(places.iter().all(Option::is_some));
        assert!(cap.clone().take(Direction::Inbound, own).is_none());
        assert!(cap.take(Direction::Outbound, own).is_some());
        drop(places);
        assert!(cap.take(Direction::Inbound, own).is_some());
    }
}
