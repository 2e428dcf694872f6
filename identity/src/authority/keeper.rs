//! Keeps an [`Authority`] on the root that is kept, for as long as it runs.
//!
//! The place is read every few seconds rather than watched: a watch that hangs
//! looks like one with nothing to tell, and a replica that does not know that the
//! others have moved on must not sign. Every read says so anew.

use std::{sync::Arc, time::Duration as StdDuration};

use time::{Duration, OffsetDateTime};
use tokio::time::sleep;

use super::{
    Authority, Root, RootStore, StoreError,
    rotation::{self, Judgement, Kept, Phase, Record, Rules},
};

/// How often the place is read.
const INTERVAL: StdDuration = StdDuration::from_secs(5);
/// Two replicas that write at once get along within one round each.
const ROUNDS: u32 = 5;

/// Takes the steps from one root to the next.
#[derive(Debug)]
pub struct Keeper {
    store: RootStore,
    rules: Rules,
    remembered: Option<Record>,
    told: Option<(Phase, Option<String>)>,
}

/// What is in force now.
#[derive(Debug)]
pub struct InForce {
    /// What signs.
    pub root: Root,
    /// The trust anchors, PEM.
    pub bundle_pem: String,
    /// Where a rotation stands.
    pub phase: Phase,
    /// Why what the operator wants is not in force.
    pub problem: Option<String>,
}

impl Keeper {
    /// Reads nothing yet.
    pub fn new(store: RootStore, rules: Rules) -> Self {
        Self {
            store,
            rules,
            remembered: None,
            told: None,
        }
    }

    /// Reads the place, takes the steps that are due, and says what is in force.
    ///
    /// # Errors
    /// A place that cannot be read; nothing usable in it and nothing remembered.
    pub async fn step(&mut self, now: OffsetDateTime) -> Result<InForce, StoreError> {
        let mut round = 0;
        loop {
            round += 1;
            let Some(kept) = self.store.read().await? else {
                self.create(now).await?;
                continue;
            };
            let judged = rotation::judge(&kept, self.remembered.as_ref(), &self.rules, now);
            let Judgement {
                root,
                bundle_pem,
                record,
                phase,
                mut problem,
                write,
            } = judged.map_err(|source| StoreError::Root {
                place: self.store.place(),
                source,
            })?;
            self.remembered = Some(record);
            if let Some(next) = write
                && round <= ROUNDS
            {
                match self.store.write(&next).await {
                    // Written, or somebody else has: what is there now counts.
                    Ok(_) => continue,
                    Err(error) => problem = Some(error.to_string()),
                }
            }
            self.tell(phase, problem.as_deref());
            return Ok(InForce {
                root,
                bundle_pem,
                phase,
                problem,
            });
        }
    }

    /// A first root, or the one that was in force before somebody deleted it.
    async fn create(&self, now: OffsetDateTime) -> Result<(), StoreError> {
        let kept = match &self.remembered {
            None => Kept::new(&self.rules, now),
            Some(record) => Kept::restored(record),
        };
        let kept = kept.map_err(|source| StoreError::Root {
            place: self.store.place(),
            source,
        })?;
        if self.store.write(&kept).await? {
            let place = self.store.place();
            if self.remembered.is_some() {
                tracing::warn!(%place, "the root was gone; it is back as it was");
            } else {
                tracing::info!(%place, "made a new root");
            }
        }
        Ok(())
    }

    fn tell(&mut self, phase: Phase, problem: Option<&str>) {
        let news = (phase, problem.map(str::to_owned));
        if self.told.as_ref() == Some(&news) {
            return;
        }
        match phase {
            Phase::Steady => {}
            Phase::Distributing(until) => {
                tracing::info!(%until, "root rotation: the next root is being made known");
            }
            Phase::Retiring(until) => {
                tracing::info!(%until, "root rotation: the next root signs; the one before is still trusted");
            }
        }
        if let Some(problem) = problem {
            let place = self.store.place();
            tracing::error!(%place, problem, "keeping the root that was in force");
        }
        let stage = match phase {
            Phase::Steady => 0.0,
            Phase::Distributing(_) => 1.0,
            Phase::Retiring(_) => 2.0,
        };
        metrics::gauge!("linnet_identity_root_rotation_stage").set(stage);
        metrics::gauge!("linnet_identity_root_problem").set(f64::from(problem.is_some()));
        self.told = Some(news);
    }

    /// Lets an authority sign for another while.
    pub(crate) fn refresh(&self, authority: &Authority, bundle_pem: &str, now: OffsetDateTime) {
        authority.refresh(now + self.rules.freshness());
        authority.tell(bundle_pem);
        let expiry = |time: OffsetDateTime| time.unix_timestamp() as f64;
        metrics::gauge!("linnet_identity_root_expiry_timestamp_seconds")
            .set(expiry(authority.root().not_after()));
        metrics::gauge!("linnet_identity_issuer_expiry_timestamp_seconds")
            .set(expiry(authority.issuer_not_after()));
    }

    /// Keeps an authority up to date, for as long as it is polled.
    pub(crate) async fn keep(mut self, authority: Arc<Authority>) {
        let interval = self.interval();
        loop {
            sleep(interval).await;
            let now = OffsetDateTime::now_utc();
            match self.step(now).await {
                Ok(in_force) => {
                    self.refresh(&authority, &in_force.bundle_pem, now);
                    if let Err(error) = authority.adopt(in_force.root, now) {
                        tracing::error!(%error, "keeping the issuer");
                    }
                }
                Err(error) => tracing::warn!(%error, "the root cannot be read"),
            }
        }
    }

    fn interval(&self) -> StdDuration {
        let quarter = Duration::try_into(self.rules.freshness() / 4);
        quarter.unwrap_or(INTERVAL).min(INTERVAL)
    }
}
