//! Places for open connections, shared fairly among the addresses they come from.
//!
//! While a place is free, anybody gets it. When none is free, the address that holds
//! the most gives up its longest idle connection (one that serves a request only if no
//! idle one is found), provided that the newcomer's
//! address holds at least two fewer. So one address that hoards connections keeps
//! nobody else out, and no address is limited while there is room. Taking and
//! returning a place costs a lock and a logarithm, whatever strangers do.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use pin_project_lite::pin_project;
use tokio::time::Instant;

/// Connections of one address that are compared when one of them must go. Among
/// more than these the choice is only nearly the longest idle one.
const SAMPLE: usize = 64;
/// Connections that are looked at when no address holds more than others, or when all of
/// the smaller sample serve requests.
const WIDE_SAMPLE: usize = 1024;

/// The places of one listener, or of one direction. Clones share them.
#[derive(Clone, Debug)]
pub struct Places(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    most: usize,
    /// How long a connection must have been idle to give way to an address that
    /// holds about as many; `None`: it never does.
    yields_after: Option<Duration>,
    began: Instant,
    /// Microseconds since `began`, at the last arrival; later with each arrival.
    arrival: AtomicU64,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    count: usize,
    holders: HashMap<IpAddr, Vec<Arc<Slot>>>,
    /// The holders by how many connections they have.
    sizes: BTreeSet<(usize, IpAddr)>,
    /// Where the next sample begins.
    cursor: usize,
}

#[derive(Debug)]
struct Slot {
    address: IpAddr,
    /// Index among the connections of its address; changed under the lock.
    position: AtomicUsize,
    /// When it was used last, in microseconds since the places began.
    used: AtomicU64,
    /// Requests that it is serving.
    busy: AtomicUsize,
    /// Whether there has been a request.
    asked: AtomicBool,
    evicted: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

/// One connection's place; dropping it returns it.
#[derive(Debug)]
pub struct Place(Activity);

/// Knows what a connection does.
#[derive(Clone, Debug)]
pub struct Activity {
    places: Arc<Shared>,
    slot: Arc<Slot>,
}

/// A request in progress: its connection is not idle before this is dropped.
#[derive(Debug)]
pub struct Busy(Activity);

impl Places {
    /// Makes places for `most` connections.
    pub fn new(most: usize) -> Self {
        Self::made(most, None)
    }

    /// Makes places whose connections, once idle for that long, give way to
    /// newcomers from any address.
    pub fn yielding(most: usize, idle: Duration) -> Self {
        Self::made(most, Some(idle))
    }

    fn made(most: usize, yields_after: Option<Duration>) -> Self {
        Self(Arc::new(Shared {
            most,
            yields_after,
            began: Instant::now(),
            arrival: AtomicU64::new(0),
            open: Mutex::default(),
        }))
    }

    /// Takes a place for a connection from an address. `None`: all places are
    /// taken, and this address has its share.
    pub fn take(&self, address: IpAddr) -> Option<Place> {
        let shared = &self.0;
        let address = address.to_canonical();
        let mut open = shared.open();
        let now = shared.now();
        if open.count >= shared.most {
            let victim = open.victim(address, now, shared.yields_after)?;
            open.remove(&victim);
            victim.evict();
        }
        let before = shared.arrival.load(Relaxed);
        let arrival = now.max(before + 1);
        shared.arrival.store(arrival, Relaxed);
        let slot = Arc::new(Slot {
            address,
            position: AtomicUsize::new(0),
            used: AtomicU64::new(arrival),
            busy: AtomicUsize::new(0),
            asked: AtomicBool::new(false),
            evicted: AtomicBool::new(false),
            waker: Mutex::default(),
        });
        open.add(slot.clone());
        drop(open);
        let places = shared.clone();
        Some(Place(Activity { places, slot }))
    }

    /// Returns how many places are taken.
    pub fn taken(&self) -> usize {
        self.0.open().count
    }
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

impl Open {
    fn add(&mut self, slot: Arc<Slot>) {
        let address = slot.address;
        let held = self.holders.entry(address).or_default();
        slot.position.store(held.len(), Relaxed);
        self.sizes.remove(&(held.len(), address));
        held.push(slot);
        self.sizes.insert((held.len(), address));
        self.count += 1;
    }

    /// Removes a connection, unless that has been done.
    fn remove(&mut self, slot: &Arc<Slot>) {
        let address = slot.address;
        let position = slot.position.load(Relaxed);
        let Some(held) = self.holders.get_mut(&address) else {
            return;
        };
        if !held.get(position).is_some_and(|at| Arc::ptr_eq(at, slot)) {
            return;
        }
        self.sizes.remove(&(held.len(), address));
        held.swap_remove(position);
        if let Some(moved) = held.get(position) {
            moved.position.store(position, Relaxed);
        }
        match held.len() {
            0 => drop(self.holders.remove(&address)),
            left => drop(self.sizes.insert((left, address))),
        }
        self.count -= 1;
    }

    /// Chooses who goes, so that an address can have one more.
    fn victim(
        &mut self,
        newcomer: IpAddr,
        now: u64,
        yields_after: Option<Duration>,
    ) -> Option<Arc<Slot>> {
        let mine = self.holders.get(&newcomer).map_or(0, Vec::len);
        let &(most, holder) = self.sizes.last()?;
        if most >= mine + 2 {
            let held = self.holders.get(&holder)?;
            let start = self.cursor % held.len();
            self.cursor = self.cursor.wrapping_add(SAMPLE);
            let from_cursor = || held.iter().cycle().skip(start);
            let sample = from_cursor().take(SAMPLE.min(held.len()));
            let chosen = sample.min_by_key(|slot| slot.rank())?;
            if !chosen.is_busy() {
                return Some(chosen.clone());
            }
            // Whoever waits for an answer goes only when nobody is found idle.
            let wide = from_cursor().take(WIDE_SAMPLE.min(held.len()));
            let idle = wide.filter(|slot| !slot.is_busy());
            let idle = idle.min_by_key(|slot| slot.rank());
            return Some(idle.unwrap_or(chosen).clone());
        }
        let idle = u64::try_from(yields_after?.as_micros()).unwrap_or(u64::MAX);
        let idlest = self.holders.values().flatten().take(WIDE_SAMPLE);
        let idlest = idlest.min_by_key(|slot| slot.rank())?;
        let (busy, used) = idlest.rank();
        (!busy && now.saturating_sub(used) >= idle).then(|| idlest.clone())
    }
}

impl Slot {
    /// Sorts connections by whether they serve a request, then by their last use.
    fn rank(&self) -> (bool, u64) {
        (self.is_busy(), self.used.load(Relaxed))
    }

    fn is_busy(&self) -> bool {
        self.busy.load(Relaxed) > 0
    }

    fn waker(&self) -> MutexGuard<'_, Option<Waker>> {
        self.waker.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn evict(&self) {
        let mut waker = self.waker();
        self.evicted.store(true, Relaxed);
        if let Some(waker) = waker.take() {
            waker.wake();
        }
    }

    /// Remembers whom to wake; reports whether it is too late.
    fn wakes(&self, waker: &Waker) -> bool {
        let mut known = self.waker();
        *known = Some(waker.clone());
        self.evicted.load(Relaxed)
    }
}

impl Place {
    /// Runs a connection's task for as long as it has its place. Each poll of the task
    /// counts as a use.
    pub fn hold<F>(self, task: F) -> Held<F> {
        Held {
            place: self,
            counts_polls: true,
            registered: false,
            task,
        }
    }

    /// Runs a connection's task like [`Place::hold`]; only requests count as a use.
    pub fn hold_by_requests<F>(self, task: F) -> Held<F> {
        Held {
            counts_polls: false,
            ..self.hold(task)
        }
    }

    /// Returns the handle that notes what the connection does.
    pub fn activity(&self) -> Activity {
        self.0.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.places.open().remove(&self.0.slot);
    }
}

impl Activity {
    /// Notes that a request begins.
    pub fn begin(&self) -> Busy {
        self.slot.busy.fetch_add(1, Relaxed);
        self.slot.asked.store(true, Relaxed);
        self.note_use();
        Busy(self.clone())
    }

    /// Notes that a request begins, without a look at the clock: for tasks whose polls
    /// count as uses. [`Activity::leave`] must follow.
    pub fn enter(&self) {
        self.slot.busy.fetch_add(1, Relaxed);
    }

    /// Notes that a request has ended which [`Activity::enter`] noted.
    pub fn leave(&self) {
        self.slot.busy.fetch_sub(1, Relaxed);
    }

    fn note_use(&self) {
        self.slot.used.store(self.places.now(), Relaxed);
    }

    /// Ends the connection: its task ends, as it does when it loses its place.
    pub fn end_connection(&self) {
        self.slot.evict();
    }

    /// Reports whether a request is in progress.
    pub fn is_busy(&self) -> bool {
        self.slot.is_busy()
    }

    /// Reports whether there has been a request.
    pub fn was_used(&self) -> bool {
        self.slot.asked.load(Relaxed)
    }

    /// Returns how long ago a request began or ended, or the connection came.
    pub fn unused_for(&self) -> Duration {
        let used = self.slot.used.load(Relaxed);
        Duration::from_micros(self.places.now().saturating_sub(used))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.note_use();
        self.0.slot.busy.fetch_sub(1, Relaxed);
    }
}

pin_project! {
    /// A task that ends, with `None`, when its connection loses its place.
    #[derive(Debug)]
    #[must_use = "a task runs when it is polled"]
    pub struct Held<F> {
        place: Place,
        counts_polls: bool,
        registered: bool,
        #[pin]
        task: F,
    }
}

impl<F: Future> Future for Held<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let Activity { places, slot } = &this.place.0;
        // A task keeps its waker, so that one registration is enough.
        if !*this.registered {
            *this.registered = true;
            if slot.wakes(context.waker()) {
                return Poll::Ready(None);
            }
        }
        if slot.evicted.load(Relaxed) {
            return Poll::Ready(None);
        }
        if *this.counts_polls {
            slot.used.store(places.arrival.load(Relaxed), Relaxed);
        }
        this.task.poll(context).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{future::pending, net::Ipv4Addr};

    fn address(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn is_evicted(place: &Place) -> bool {
        place.0.slot.evicted.load(Relaxed)
    }

    #[test]
    fn a_stranger_who_has_all_places_loses_the_longest_idle_ones() {
        let places = Places::new(4);
        let stranger = address(1);
        let held: Vec<_> = (0..4).map(|_| places.take(stranger).unwrap()).collect();
        assert!(places.take(stranger).is_none(), "it has its share");
        let _busy = held[0].activity().begin();
        let honest = places.take(address(2)).unwrap();
        assert_eq!(
            held.iter().map(is_evicted).collect::<Vec<_>>(),
            [false, true, false, false]
        );
        assert!(places.take(address(2)).is_some());
        assert_eq!(places.taken(), 4 - 1);
        drop((held, honest));
        assert_eq!(places.taken(), 0);
        assert!(places.0.open().sizes.is_empty() && places.0.open().holders.is_empty());
    }

    #[test]
    fn whoever_waits_for_an_answer_goes_after_all_who_are_idle() {
        let places = Places::new(200);
        let held: Vec<_> = (0..200).map(|_| places.take(address(1)).unwrap()).collect();
        // All but two serve a request, and these two were used last.
        for (at, place) in held.iter().enumerate() {
            if at != 100 && at != 150 {
                place.activity().enter();
            }
        }
        let newcomers: Vec<_> = (0..3).map(|_| places.take(address(2)).unwrap()).collect();
        let gone: Vec<_> = (0..200).filter(|at| is_evicted(&held[*at])).collect();
        assert_eq!(gone.len(), 3);
        assert!(gone.contains(&100) && gone.contains(&150), "{gone:?}");
        // An answer came.
        held[7].activity().leave();
        let _fourth = places.take(address(2)).unwrap();
        assert!(is_evicted(&held[7]));
        drop(newcomers);
    }

    #[test]
    fn an_address_alone_may_have_all_and_gets_them_back() {
        let places = Places::new(2);
        let own = [places.take(address(1)), places.take(address(1))];
        assert!(places.take(address(1)).is_none());
        drop(own);
        assert!(places.take(address(1)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn equals_yield_only_when_idle_for_long() {
        let places = Places::yielding(2, Duration::from_secs(10));
        let first = places.take(address(1)).unwrap();
        let second = places.take(address(2)).unwrap();
        let serving = first.activity().begin();
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(places.take(address(3)).is_none());
        tokio::time::advance(Duration::from_millis(1001)).await;
        let third = places.take(address(3)).unwrap();
        assert!(is_evicted(&second) && !is_evicted(&first));
        drop(serving);
        tokio::time::advance(Duration::from_secs(9)).await;
        assert!(places.take(address(4)).is_none(), "both were used since");
        drop((first, third));
    }

    #[tokio::test]
    async fn a_task_that_waits_ends_with_its_place() {
        let places = Places::new(2);
        let tasks = [(); 2].map(|()| {
            let place = places.take(address(1)).unwrap();
            tokio::spawn(place.hold(pending::<()>()))
        });
        tokio::task::yield_now().await;
        let _honest = places.take(address(2)).unwrap();
        let [first, second] = tasks;
        assert_eq!(first.await.unwrap(), None);
        assert!(!second.is_finished());
        second.abort();
    }

    proptest! {
        /// Whatever comes and goes, counts are right, and no address ever waits while
        /// another one holds at least two more.
        #[test]
        fn shares_are_fair(steps in proptest::collection::vec((any::<bool>(), 0..6u8, 0..20usize), 1..200)) {
            let places = Places::new(10);
            let mut held: Vec<(u8, Place)> = Vec::new();
            for (takes, last, position) in steps {
                if takes {
                    held.retain(|(_, place)| !is_evicted(place));
                    let count = |of: u8| held.iter().filter(|(known, _)| *known == of).count();
                    let most = (0..6).map(count).max().unwrap_or(0);
                    let (mine, full) = (count(last), held.len() == 10);
                    let place = places.take(address(last));
                    prop_assert_eq!(place.is_some(), !full || most >= mine + 2);
                    held.extend(place.map(|place| (last, place)));
                } else if !held.is_empty() {
                    let position = position % held.len();
                    held.remove(position);
                }
                let live = held.iter().filter(|(_, place)| !is_evicted(place)).count();
                prop_assert_eq!(places.taken(), live);
                prop_assert!(live <= 10);
                let open = places.0.open();
                let sizes: usize = open.sizes.iter().map(|(size, _)| size).sum();
                prop_assert_eq!(sizes, live);
            }
        }
    }
}
