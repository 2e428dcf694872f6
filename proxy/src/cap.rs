//! How many connections may be open, in each direction on its own: a flood from
//! outside must not take the workload's own connections from it. A stream that
//! shares a connection with others counts like one of its own.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

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
    most: usize,
    outbound: Arc<AtomicUsize>,
    inbound: Arc<AtomicUsize>,
}

impl Cap {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            outbound: Arc::default(),
            inbound: Arc::default(),
        }
    }

    /// A place for one more connection; `None`: there is none left.
    pub(crate) fn take(&self, direction: Direction) -> Option<Place> {
        let open = match direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound => &self.inbound,
        };
        let place = Place(open.clone());
        (open.fetch_add(1, Relaxed) < self.most).then_some(place)
    }
}

/// See [`Cap::take`].
pub(crate) struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_has_its_own_places_and_gets_them_back() {
        let cap = Cap::new(2);
        let places = [Direction::Inbound; 2].map(|direction| cap.take(direction));
        assert!(places.iter().all(Option::is_some));
        assert!(cap.clone().take(Direction::Inbound).is_none());
        assert!(cap.take(Direction::Outbound).is_some());
        drop(places);
        assert!(cap.take(Direction::Inbound).is_some());
    }
}
