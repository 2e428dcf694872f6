use super::*;
use crate::{
    client::IdentityUrl,
    testing::{Authority, Leaf},
};
use linnet_runtime::readiness::Readiness;
use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};
use tokio::time::Instant;

const DAY: Duration = Duration::from_secs(24 * 3600);
const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn renewal_lies_between_two_fifths_and_half_of_a_lifetime() {
    assert_eq!(renewal_delay(DAY, 0.0), DAY.mul_f64(0.4));
    assert_eq!(renewal_delay(DAY, 1.0), DAY / 2);
}

#[test]
fn retries_double_up_to_a_cap() {
    let expired = Some(Duration::ZERO);
    let delay = |left, attempt, unit| retry_delay(attempt, left, Duration::ZERO, unit);
    let delays = |left| -> Vec<u128> {
        let attempts = 0..10;
        let delays = attempts.map(|attempt| delay(left, attempt, 1.0).as_millis());
        delays.collect()
    };
    assert_eq!(
        delays(expired)[..8],
        [200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]
    );
    assert_eq!(
        delays(None),
        [20, 40, 80, 160, 320, 640, 1280, 2560, 5120, 10_000],
        "a start does not wait for long"
    );
    assert_eq!(delay(None, u32::MAX, 0.0), LAST_RETRY / 2);
}

#[test]
fn retries_hurry_when_little_is_left() {
    let delay = |left| retry_delay(9, Some(left), Duration::ZERO, 1.0);
    assert_eq!(delay(Duration::from_secs(4)), Duration::from_secs(2));
    assert_eq!(delay(Duration::from_millis(1)), FIRST_RETRY / 2);
    assert_eq!(delay(Duration::ZERO), LAST_RETRY);
}

#[test]
fn the_service_is_not_asked_before_it_wants_to_be() {
    let delay = |unit| retry_delay(0, None, Duration::from_secs(20), unit);
    assert_eq!(delay(0.0), Duration::from_secs(20));
    assert_eq!(
        delay(1.0),
        Duration::from_secs(40),
        "and not by all at once"
    );
    let left = Some(Duration::from_secs(10));
    let hurried = retry_delay(0, left, Duration::from_secs(20), 0.0);
    assert_eq!(hurried, Duration::from_secs(5), "but before it is too late");
}

/// An identity service that a test turns off, with room for so many requests a
/// second.
struct Service {
    authority: Authority,
    clock: Clock,
    lifetime: Duration,
    away: AtomicBool,
    per_second: usize,
    asked: Mutex<Vec<Instant>>,
    served: Mutex<Vec<Instant>>,
}

impl Service {
    fn new(clock: Clock, lifetime: Duration, per_second: usize) -> Arc<Self> {
        Arc::new(Self {
            authority: Authority::default(),
            clock,
            lifetime,
            away: AtomicBool::new(false),
            per_second,
            asked: Mutex::default(),
            served: Mutex::default(),
        })
    }

    fn answer(&self) -> Result<Answered, RequestError> {
        let url: IdentityUrl = "https://identity".parse().unwrap();
        let now = Instant::now();
        self.asked.lock().unwrap().push(now);
        if self.away.load(Ordering::Relaxed) {
            return Err(RequestError::Timeout { url });
        }
        let mut served = self.served.lock().unwrap();
        let lately = served
            .iter()
            .rev()
            .take_while(|at| at.elapsed() < Duration::from_secs(1));
        if lately.count() >= self.per_second {
            return Err(RequestError::Refused {
                status: http::StatusCode::TOO_MANY_REQUESTS,
                message: String::new(),
                retry_after: Some(Duration::from_secs(1)),
            });
        }
        served.push(now);
        let mut leaf = Leaf::new(&["spiffe://cluster.local/ns/shop/sa/payment"]);
        let now: time::OffsetDateTime = self.clock.now().into();
        leaf.not_before = now;
        leaf.not_after = now + self.lifetime;
        let mut workload = self.authority.issue(&leaf).unwrap();
        workload.valid_for = self.lifetime;
        Ok(Answered {
            workload,
            skew: None,
        })
    }
}

impl Ask for Arc<Service> {
    fn ask<'a>(&'a self, _: Option<&'a str>) -> BoxFuture<'a, Result<Answered, RequestError>> {
        Box::pin(async { self.answer() })
    }
}

fn clock() -> Clock {
    Clock::Runtime(SystemTime::now(), Instant::now())
}

fn workload(service: &Arc<Service>) -> (Handle, Readiness) {
    let readiness = Readiness::new();
    let (_, drain) = drain::channel();
    let gate = readiness.gate("certificate");
    let handle = run(service.clone(), None, service.clock, gate, drain);
    (handle, readiness)
}

/// The service goes away just as the renewals of a crowd fall due, for two fifths
/// of a lifetime; how long after its return the last was renewed.
async fn outage(lifetime: Duration, crowd: usize, per_second: usize) -> Duration {
    let service = Service::new(clock(), lifetime, per_second);
    let begun = Instant::now();
    let workloads: Vec<_> = (0..crowd).map(|_| workload(&service)).collect();
    for (handle, _) in &workloads {
        handle.wait().await;
    }
    // Certificates end on whole seconds, so the first falls due up to one earlier. Those
    // that came last had to wait for room, so the time counts from the first.
    tokio::time::sleep_until(begun + lifetime.mul_f64(0.4) - Duration::from_secs(1)).await;
    service.away.store(true, Ordering::Relaxed);
    let back = Instant::now() + lifetime.mul_f64(0.4);
    while Instant::now() < back {
        tokio::time::sleep(lifetime / 1000).await;
        for (handle, readiness) in &workloads {
            let left = service.clock.until(handle.current().unwrap().not_after());
            assert!(!left.is_zero(), "a certificate expired during the outage");
            assert!(readiness.is_ready(), "{left:?} left");
        }
    }
    service.away.store(false, Ordering::Relaxed);
    let before: Vec<u64> = workloads
        .iter()
        .map(|(handle, _)| handle.generation())
        .collect();
    for ((handle, _), before) in workloads.iter().zip(before) {
        let mut generation = handle.subscribe();
        while handle.generation() == before {
            generation.changed().await.unwrap();
        }
        assert!(
            !service
                .clock
                .until(handle.current().unwrap().not_after())
                .is_zero()
        );
    }
    let asked = service.asked.lock().unwrap();
    let returned: Vec<_> = asked.iter().filter(|at| **at >= back).collect();
    // No stampede: nobody asks more than a few times, nor do all ask at once.
    assert!(returned.len() < crowd * 4, "{} requests", returned.len());
    for at in &returned {
        let window = **at..**at + Duration::from_millis(100);
        let at_once = returned.iter().filter(|at| window.contains(at)).count();
        assert!(at_once <= crowd / 5, "{at_once} requests within 100 ms");
    }
    back.elapsed()
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_two_fifths_of_a_minute_fails_nobody() {
    let last = outage(MINUTE, 100, 50).await;
    assert!(last < Duration::from_secs(10), "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_two_fifths_of_an_hour_fails_nobody() {
    let last = outage(60 * MINUTE, 100, 50).await;
    assert!(last < Duration::from_secs(20), "{last:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pod_is_not_ready_before_its_certificate_expires_and_ready_after_its_renewal() {
    let service = Service::new(clock(), MINUTE, 100);
    let (handle, readiness) = workload(&service);
    let first = handle.wait().await;
    service.away.store(true, Ordering::Relaxed);
    while readiness.is_ready() {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let left = service.clock.until(first.not_after());
    let expected = expiry::margin(&first);
    assert_eq!(expected, Duration::from_secs(3));
    assert!(left <= expected && left > expected / 2, "{left:?}");
    let reason = readiness.reasons().join("");
    assert!(
        reason.contains("expires in") && reason.contains("did not answer"),
        "{reason}"
    );
    tokio::time::sleep(Duration::from_secs(5)).await;
    let reason = readiness.reasons().join("");
    assert!(reason.contains("expired and not renewed"), "{reason}");
    service.away.store(false, Ordering::Relaxed);
    let mut generation = handle.subscribe();
    generation.changed().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(readiness.is_ready());
}

#[tokio::test(start_paused = true)]
async fn another_root_in_the_mounted_bundle_is_trusted_without_a_renewal() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let service = Service::new(clock(), DAY, 100);
    let own = service.authority.bundle_pem();
    std::fs::write(&path, &own).unwrap();
    let readiness = Readiness::new();
    let (_signal, drain) = drain::channel();
    let gate = readiness.gate("certificate");
    let handle = run(
        service.clone(),
        Some(path.clone()),
        service.clock,
        gate,
        drain,
    );
    let first = handle.wait().await;
    let mut generation = handle.subscribe();
    std::fs::write(&path, "damaged").unwrap();
    tokio::time::sleep(3 * BUNDLE_INTERVAL).await;
    assert!(
        !generation.has_changed().unwrap(),
        "a damaged bundle changes nothing"
    );
    let next = Authority::default();
    std::fs::write(&path, own + &next.bundle_pem()).unwrap();
    generation.changed().await.unwrap();
    let now = handle.current().unwrap();
    assert_eq!(now.chain(), first.chain(), "the same certificate");
    assert!(anchors::have_common_anchor(
        now.bundle_pem(),
        &next.bundle_pem()
    ));
    assert!(anchors::have_common_anchor(
        now.bundle_pem(),
        &service.authority.bundle_pem()
    ));
    assert_eq!(
        service.asked.lock().unwrap().len(),
        1,
        "identity was not asked"
    );
    assert_eq!(now.root(), first.root());

    // Its own root is retired: it asks for another certificate, though this
    // service gives none that hangs on the next root, and then waits as ever.
    std::fs::write(&path, next.bundle_pem()).unwrap();
    generation.changed().await.unwrap();
    assert_ne!(handle.current().unwrap().chain(), first.chain());
    tokio::time::sleep(10 * BUNDLE_INTERVAL).await;
    assert_eq!(service.asked.lock().unwrap().len(), 2);
}
