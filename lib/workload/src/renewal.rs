//! Getting a certificate and renewing it, for as long as somebody wants it.
//!
//! A certificate is renewed between 40 % and 50 % of its lifetime, so identity
//! may be away for half of it. A failed renewal keeps the old one. Another root
//! in the mounted trust bundle is trusted within [`BUNDLE_INTERVAL`], without
//! waiting for a renewal; a certificate whose own root is gone from there is
//! renewed at once, because peers that hear of it refuse that certificate.

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};

use super::{
    Workload, anchors,
    ask::{Answered, BundleSource, Identity, Source, read},
    certificates,
    client::{RequestError, Skew},
    expiry::{self, Clock, LastError},
    handle::{Handle, Shared},
};
use linnet_runtime::{drain, readiness};

const FIRST_RETRY: Duration = Duration::from_millis(200);
/// The same where there is no certificate yet: the workload waits for it.
const START_RETRY: Duration = Duration::from_millis(20);
const LAST_RETRY: Duration = Duration::from_secs(10);
/// How often the mounted trust bundle is read.
pub const BUNDLE_INTERVAL: Duration = Duration::from_secs(5);
/// Over how long the renewals spread that a retired root causes.
const HURRY: Duration = Duration::from_secs(3);
/// A clock that is off by more seconds is warned of.
const SKEW_TOLERATED: f64 = 10.0;

/// Who gives certificates; tests have one of their own.
trait Ask: Send + Sync {
    /// Asks once.
    fn ask<'a>(
        &'a self,
        received: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Answered, RequestError>>;
}

impl Ask for Identity {
    fn ask<'a>(
        &'a self,
        received: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Answered, RequestError>> {
        Box::pin(Identity::ask(self, received))
    }
}

/// Starts getting a certificate, and renewing it until every [`Handle`] is
/// dropped. The gate opens with the first certificate, and is taken again while
/// one is about to expire. A drain does not wait for renewals, and they go on
/// during it: connections in drain need a valid certificate too; only a process
/// that drains before its first certificate stops asking.
pub fn start(source: Source, gate: readiness::Gate, drain: drain::Watch) -> Handle {
    let mounted = match &source.trust_bundle {
        BundleSource::File(path) => Some(path.clone()),
        BundleSource::Text(_) => None,
    };
    run(Identity(source), mounted, Clock::System, gate, drain)
}

fn run(
    identity: impl Ask + 'static,
    mounted: Option<PathBuf>,
    clock: Clock,
    gate: readiness::Gate,
    drain: drain::Watch,
) -> Handle {
    let handle = Handle::new();
    let readiness = gate.readiness();
    let last_error = LastError::default();
    let retired = Arc::new(Notify::new());
    let shared = Arc::downgrade(&handle.shared);
    let renewal = Renewal {
        identity,
        clock,
        shared: shared.clone(),
        last_error: last_error.clone(),
        retired: retired.clone(),
        received: None,
        root: None,
    };
    let abandoned = abandoned(handle.subscribe());
    let generation = handle.subscribe();
    tokio::spawn(async move {
        tokio::select! {
            () = renewal.run(gate, drain) => {}
            () = expiry::watch(&shared, generation, &readiness, clock, &last_error) => {}
            () = follow(mounted, &shared, &retired) => {}
            () = abandoned => {}
        }
    });
    handle
}

/// Completes when the sender, and with it every handle, is gone.
async fn abandoned(mut generation: watch::Receiver<u64>) {
    while generation.changed().await.is_ok() {}
}

/// Trusts what is in the mounted bundle besides what came with the certificate.
/// What is no longer in it goes with the next renewal.
async fn follow(mounted: Option<PathBuf>, shared: &Weak<Shared>, retired: &Notify) {
    let Some(path) = mounted else {
        return std::future::pending().await;
    };
    let mut told = None;
    let mut seen = String::new();
    loop {
        sleep(BUNDLE_INTERVAL).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        let Some(current) = shared.current() else {
            continue;
        };
        let joined = match read("trust bundle", &path).await {
            Ok(text) => {
                // Once for each bundle: identity may still sign by that root.
                if text != seen && is_retired(&current, &text) {
                    retired.notify_one();
                }
                let joined = join(&current, &text).map_err(|error| error.to_string());
                seen = text;
                joined
            }
            Err(error) => Err(error.to_string()),
        };
        match joined {
            Ok(Some(workload)) => {
                tracing::info!("another root in the mounted trust bundle: trusted from now on");
                shared.replace(Arc::new(workload));
                told = None;
            }
            Ok(None) => told = None,
            Err(error) if told.as_ref() != Some(&error) => {
                tracing::warn!(%error, path = %path.display(), "keeping the trust bundle that came with the certificate");
                told = Some(error);
            }
            Err(_) => {}
        }
    }
}

/// Whether the root that a certificate hangs on is gone from a readable bundle.
fn is_retired(current: &Workload, mounted: &str) -> bool {
    let Some((own, _)) = current.root() else {
        return false;
    };
    certificates("trust bundle", mounted).is_ok_and(|anchors| {
        !anchors.is_empty()
            && !anchors
                .iter()
                .any(|anchor| anchors::fingerprint(anchor) == own)
    })
}

fn join(current: &Workload, mounted: &str) -> Result<Option<Workload>, super::Error> {
    let joined = anchors::union(current.bundle_pem(), mounted)?;
    joined
        .map(|bundle| current.trusting(&bundle, current.federation().clone()))
        .transpose()
}

struct Renewal<I> {
    identity: I,
    clock: Clock,
    shared: Weak<Shared>,
    last_error: LastError,
    /// The certificate's root is no longer in the mounted bundle.
    retired: Arc<Notify>,
    /// The bundle that came with the last certificate.
    received: Option<String>,
    /// The root that the last certificate hung on.
    root: Option<String>,
}

impl<I: Ask> Renewal<I> {
    async fn run(mut self, gate: readiness::Gate, drain: drain::Watch) {
        let first = tokio::select! {
            first = self.obtain(None, Some(&gate)) => first,
            _guard = drain.signaled() => return,
        };
        drop(drain);
        let mut expiry = self.adopt(first);
        drop(gate);
        loop {
            let delay = renewal_delay(self.clock.until(expiry), rand::random());
            tracing::debug!(seconds = delay.as_secs(), "next certificate renewal");
            tokio::select! {
                () = sleep(delay) => {}
                () = self.retired.notified() => {
                    tracing::warn!("the certificate's root has been retired: renewing early");
                    sleep(HURRY.mul_f64(rand::random())).await;
                }
            }
            let next = self.obtain(Some(expiry), None).await;
            expiry = self.adopt(next);
        }
    }

    /// Asks until there is a certificate.
    async fn obtain(&self, expiry: Option<SystemTime>, gate: Option<&readiness::Gate>) -> Answered {
        let counted = |result: &'static str| {
            metrics::counter!("linnet_certificate_renewals_total", "result" => result).increment(1);
        };
        let mut attempt = 0_u32;
        loop {
            let error = match self.identity.ask(self.received.as_deref()).await {
                Ok(answered) => {
                    counted("success");
                    self.last_error.set(None);
                    return answered;
                }
                Err(error) => error,
            };
            counted("failure");
            self.last_error.set(Some(error.to_string()));
            if let Some(gate) = gate {
                gate.because(error.to_string());
            }
            let left = expiry.map(|expiry| self.clock.until(expiry));
            let delay = retry_delay(attempt, left, asked_to_wait(&error), rand::random());
            failed(&error, left, delay);
            sleep(delay).await;
            attempt = attempt.saturating_add(1);
        }
    }

    fn adopt(&mut self, answered: Answered) -> SystemTime {
        let Answered { workload, skew } = answered;
        let expiry = workload.not_after();
        tracing::info!(identity = %workload.id(), not_after = %expiry, "certificate");
        let identity = workload.id().to_string();
        metrics::gauge!("linnet_certificate_expiry_timestamp_seconds", "identity" => identity)
            .set(expiry.unix_timestamp() as f64);
        self.tell_root(&workload);
        self.received = Some(workload.bundle_pem().to_owned());
        if let Some(shared) = self.shared.upgrade() {
            if let Some(skew) = skew {
                shared.measured(skew);
                tell_skew(&workload, skew);
            }
            shared.replace(Arc::new(workload));
        }
        expiry.into()
    }

    /// Names the root, and takes the name of the one before back.
    fn tell_root(&mut self, workload: &Workload) {
        let gauge = |root: &str| {
            let identity = workload.id().to_string();
            metrics::gauge!(
                "linnet_certificate_root_expiry_timestamp_seconds",
                "identity" => identity, "root" => root.to_owned()
            )
        };
        let Some((root, expiry)) = workload.root() else {
            return;
        };
        if let Some(before) = self.root.take().filter(|before| *before != root) {
            tracing::info!(root, before, "the certificate hangs on another root");
            gauge(&before).set(0.0);
        }
        gauge(&root).set(expiry.unix_timestamp() as f64);
        self.root = Some(root);
    }
}

fn tell_skew(workload: &Workload, Skew(seconds): Skew) {
    let identity = workload.id().to_string();
    metrics::gauge!("linnet_clock_skew_seconds", "identity" => identity).set(seconds);
    if seconds.abs() > SKEW_TOLERATED {
        tracing::warn!(
            seconds = seconds.round(),
            "identity's clock is ahead of this one by so much (behind, if negative); certificates allow for two minutes: set the node's clock"
        );
    }
}

fn failed(error: &RequestError, left: Option<Duration>, delay: Duration) {
    let retry_in_ms = delay.as_millis();
    match left {
        None => tracing::warn!(%error, retry_in_ms, "no certificate yet"),
        Some(Duration::ZERO) => {
            tracing::error!(%error, retry_in_ms, "the certificate has expired and is not renewed; peers refuse it");
        }
        Some(left) => {
            let valid_for_seconds = left.as_secs();
            tracing::warn!(%error, retry_in_ms, valid_for_seconds, "certificate not renewed, keeping the old one");
        }
    }
}

fn asked_to_wait(error: &RequestError) -> Duration {
    match error {
        RequestError::Refused { retry_after, .. } => retry_after.unwrap_or_default(),
        _ => Duration::ZERO,
    }
}

/// When to renew a certificate that is valid for so long; `unit` is random in 0..1.
fn renewal_delay(valid_for: Duration, unit: f64) -> Duration {
    valid_for.mul_f64(0.4 + 0.1 * unit)
}

/// When to ask again: doubling, half of it random; not before the service wants
/// to be asked, and then spread over as long again; and while the certificate is
/// valid never later than half of what is left.
fn retry_delay(attempt: u32, left: Option<Duration>, wait: Duration, unit: f64) -> Duration {
    let first = match left {
        None => START_RETRY,
        Some(_) => FIRST_RETRY,
    };
    let whole = first
        .saturating_mul(2_u32.saturating_pow(attempt))
        .min(LAST_RETRY);
    let delay = whole
        .mul_f64(0.5 + 0.5 * unit)
        .max(wait.mul_f64(1.0 + unit));
    match left {
        Some(left) if !left.is_zero() => delay.min(left / 2).max(FIRST_RETRY / 2),
        _ => delay,
    }
}

#[cfg(test)]
mod tests;
