//! From one root to the next, as a pure function of what is kept and the time.
//!
//! `ca.crt`, `tls.crt` and `tls.key` say which root is **wanted**: Linnet writes
//! them at the start and to rotate, an operator or cert-manager may at any time.
//! `state.json`, beside them in the same Secret, says which root **signs** and
//! which anchors are **trusted**, since when. A wanted root is trusted at once,
//! signs when everybody can have learnt of it, and what it replaced is trusted
//! until nothing that hangs on it can be valid. Each step is one guarded write of
//! the whole, so whoever dies between two steps, and however many replicas take
//! them at once, there is one history.

use std::collections::BTreeMap;

use linnet_mesh::TrustDomain;
use serde::{Deserialize, Serialize};
use time::{Duration, OffsetDateTime};

use super::{Root, RootError, chain, root};

/// Names of what is kept.
pub const CA_CERTIFICATE: &str = "ca.crt";
/// See [`CA_CERTIFICATE`].
pub const CERTIFICATE: &str = "tls.crt";
/// See [`CA_CERTIFICATE`].
pub const KEY: &str = "tls.key";
/// See [`CA_CERTIFICATE`].
pub const STATE: &str = "state.json";

/// Time for a written bundle to reach those who read it from a mounted volume:
/// the kubelet looks once a minute (its `syncFrequency`) with a cache of as long.
pub const SPREAD: Duration = Duration::minutes(5);
/// The part of a root's lifetime after which Linnet replaces one that it made.
pub const ROTATE_AT: f64 = 0.8;
/// Longest refusal to believe that what was read is still so.
pub const FRESHNESS: Duration = Duration::MINUTE;

/// What an operator decides.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Of the roots that are made.
    pub trust_domain: TrustDomain,
    /// The longest lifetime of a leaf.
    pub leaf_lifetime: Duration,
    /// The lifetime of roots that are made.
    pub root_lifetime: Duration,
    /// Between trusting a root and signing with it; none: until every leaf has
    /// been renewed, and [`SPREAD`].
    pub distribution: Option<Duration>,
    /// Between signing with a root and distrusting the one before; none: until
    /// every leaf has expired, and [`SPREAD`].
    pub retirement: Option<Duration>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            trust_domain: TrustDomain::default(),
            leaf_lifetime: Duration::DAY,
            root_lifetime: root::LIFETIME,
            distribution: None,
            retirement: None,
        }
    }
}

impl Rules {
    /// How old what was read may be for a certificate to be signed by it: part of
    /// every wait.
    pub fn freshness(&self) -> Duration {
        let shortest = self.distribution.into_iter().chain(self.retirement).min();
        shortest.map_or(FRESHNESS, |wait: Duration| FRESHNESS.min(wait / 2))
    }
}

/// What a place keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Texts by name.
    pub fields: BTreeMap<String, String>,
    /// An operator's request for a rotation; each new text is a new request.
    pub request: Option<String>,
    /// Why a root that is not Linnet's is not Linnet's to replace.
    pub managed_by: Option<String>,
    /// Guards a write: it fails if somebody else has written since.
    pub version: Option<String>,
}

/// Which root signs, and which are trusted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    signer: Signer,
    signing_since: i64,
    anchors: Vec<Trusted>,
    /// No leaf that may be valid lives longer, seconds.
    longest_lifetime: i64,
    /// The fingerprint of the root that Linnet made last.
    made: Option<String>,
    /// The last request that was answered, and how.
    request: Option<String>,
    #[serde(default)]
    refused: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Signer {
    certificate: String,
    key: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Trusted {
    certificate: String,
    fingerprint: String,
    since: i64,
}

/// Where a rotation stands. The times are when its next step is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// One root.
    Steady,
    /// The next root is trusted and does not sign yet.
    Distributing(OffsetDateTime),
    /// The next root signs, and the one before is still trusted.
    Retiring(OffsetDateTime),
}

/// What follows from what is kept.
#[derive(Debug)]
pub struct Judgement {
    /// What signs.
    pub root: Root,
    /// The trust anchors, PEM: always in the order in which they came.
    pub bundle_pem: String,
    /// What is in force.
    pub record: Record,
    /// The rotation.
    pub phase: Phase,
    /// Why what is wanted cannot be had.
    pub problem: Option<String>,
    /// To be written; in force only then.
    pub write: Option<Kept>,
}

impl Record {
    /// The first state of a place: what is there has been there.
    fn adopt(root: &Root, rules: &Rules) -> Self {
        let trusted = |anchor: &chain::Anchor| Trusted {
            certificate: anchor.pem(),
            fingerprint: anchor.fingerprint().to_owned(),
            since: 0,
        };
        Self {
            signer: Signer::of(root),
            signing_since: 0,
            anchors: root.anchors().iter().map(trusted).collect(),
            longest_lifetime: rules.leaf_lifetime.whole_seconds(),
            made: None,
            request: None,
            refused: None,
        }
    }

    fn bundle_pem(&self) -> String {
        self.anchors
            .iter()
            .map(|anchor| anchor.certificate.as_str())
            .collect()
    }

    fn root(&self) -> Result<Root, RootError> {
        Root::from_pem(
            &self.signer.certificate,
            &self.signer.key,
            &self.bundle_pem(),
        )
    }

    fn since(&self, fingerprint: &str) -> Option<i64> {
        let found = self.anchors.iter().find(|a| a.fingerprint == fingerprint);
        found.map(|anchor| anchor.since)
    }

    fn trust(&mut self, root: &Root, now: OffsetDateTime) {
        for anchor in root.anchors() {
            if self.since(anchor.fingerprint()).is_none() {
                self.anchors.push(Trusted {
                    certificate: anchor.pem(),
                    fingerprint: anchor.fingerprint().to_owned(),
                    since: now.unix_timestamp(),
                });
            }
        }
    }

    fn signs(&self, root: &Root) -> bool {
        self.signer.certificate == root.certificate_pem()
    }

    fn wait(&self, configured: Option<Duration>) -> i64 {
        let slack = SPREAD.whole_seconds();
        configured.map_or(self.longest_lifetime + slack, Duration::whole_seconds)
    }

    /// When a root may sign: once it has been trusted for long enough.
    fn may_sign_at(&self, root: &Root, rules: &Rules) -> Option<i64> {
        let since = self.since(root.trusted_by())?;
        Some(
            since
                + if since == 0 {
                    0
                } else {
                    self.wait(rules.distribution)
                },
        )
    }

    fn retires_at(&self, rules: &Rules) -> i64 {
        match self.signing_since {
            0 => 0,
            since => since + self.wait(rules.retirement),
        }
    }

    /// Why the last request for a rotation was refused.
    pub fn refused(&self) -> Option<&str> {
        self.refused.as_deref()
    }

    /// The last request that was answered.
    pub fn answered(&self) -> Option<&str> {
        self.request.as_deref()
    }
}

impl Signer {
    fn of(root: &Root) -> Self {
        Self {
            certificate: root.certificate_pem().to_owned(),
            key: root.key_pem().to_owned(),
        }
    }
}

impl Kept {
    /// A new place with a root of Linnet's making.
    ///
    /// # Errors
    /// A system without randomness.
    pub fn new(rules: &Rules, now: OffsetDateTime) -> Result<Self, RootError> {
        let root = Root::generate(&rules.trust_domain, rules.root_lifetime, now)?;
        let mut record = Record::adopt(&root, rules);
        record.made = Some(root.trusted_by().to_owned());
        let mut kept = Self::default();
        kept.want(&root);
        kept.set(&record);
        Ok(kept)
    }

    /// A place that was lost, from what is in force.
    pub fn restored(record: &Record) -> Result<Self, RootError> {
        let mut kept = Self::default();
        kept.want(&record.root()?);
        kept.set(record);
        Ok(kept)
    }

    fn text(&self, name: &str) -> &str {
        self.fields.get(name).map_or("", String::as_str)
    }

    fn want(&mut self, root: &Root) {
        let texts = [
            (CA_CERTIFICATE, root.bundle_pem()),
            (CERTIFICATE, root.certificate_pem().to_owned()),
            (KEY, root.key_pem().to_owned()),
        ];
        self.fields
            .extend(texts.map(|(name, text)| (name.to_owned(), text)));
    }

    fn set(&mut self, record: &Record) {
        let text =
            serde_json::to_string_pretty(record).expect("a record has texts and numbers only");
        self.fields.insert(STATE.to_owned(), text);
    }

    fn wanted(&self, rules: &Rules, now: OffsetDateTime) -> Result<Root, RootError> {
        let texts = [CERTIFICATE, KEY, CA_CERTIFICATE].map(|name| self.text(name));
        Root::from_pem(texts[0], texts[1], texts[2])?.usable(&rules.trust_domain, now)
    }

    fn record(&self) -> Result<Option<Record>, String> {
        let text = self.text(STATE);
        if text.is_empty() {
            return Ok(None);
        }
        let record: Record =
            serde_json::from_str(text).map_err(|error| format!("{STATE}: {error}"))?;
        record.root().map_err(|error| format!("{STATE}: {error}"))?;
        Ok(Some(record))
    }
}

/// What is in force, and what is to be written next. `remembered` is what was in
/// force before, for a place that lost it.
///
/// # Errors
/// Nothing that could sign: no usable root is there, and none is remembered.
pub fn judge(
    kept: &Kept,
    remembered: Option<&Record>,
    rules: &Rules,
    now: OffsetDateTime,
) -> Result<Judgement, RootError> {
    let wanted = kept.wanted(rules, now);
    let (stored, mut problem) = match kept.record() {
        Ok(stored) => (stored, None),
        Err(reason) => (None, Some(reason)),
    };
    let in_force = match (stored, remembered, &wanted) {
        (Some(record), ..) => record,
        (None, Some(record), _) => record.clone(),
        (None, None, Ok(root)) => Record::adopt(root, rules),
        (None, None, Err(_)) => return Err(wanted.err().unwrap_or(RootError::KeyMismatch)),
    };
    let mut step = Step {
        kept: kept.clone(),
        record: in_force.clone(),
        rules,
        now,
    };
    let lifetime = rules.leaf_lifetime.whole_seconds();
    step.record.longest_lifetime = step.record.longest_lifetime.max(lifetime);
    let phase = match &wanted {
        Ok(wanted) => step.towards(wanted)?,
        Err(error) => {
            problem = Some(error.to_string());
            Phase::Steady
        }
    };
    step.kept.set(&step.record);
    let write = (step.kept.fields != kept.fields).then_some(step.kept);
    Ok(Judgement {
        root: in_force.root()?,
        bundle_pem: in_force.bundle_pem(),
        record: in_force,
        phase,
        problem,
        write,
    })
}

struct Step<'a> {
    kept: Kept,
    record: Record,
    rules: &'a Rules,
    now: OffsetDateTime,
}

impl Step<'_> {
    /// One step towards the root that is wanted, and where that leads.
    fn towards(&mut self, wanted: &Root) -> Result<Phase, RootError> {
        let now = self.now.unix_timestamp();
        self.record.trust(wanted, self.now);
        if !self.record.signs(wanted) {
            let expired = self.record.root()?.not_after() <= self.now;
            let at = self.record.may_sign_at(wanted, self.rules);
            if let Some(at) = at
                && at > now
                && !expired
            {
                return Ok(Phase::Distributing(time_of(at)));
            }
            self.record.signer = Signer::of(wanted);
            self.record.signing_since = now;
        }
        let mut unwanted = self.record.anchors.clone();
        unwanted.retain(|trusted| {
            let is_wanted = |anchor: &chain::Anchor| anchor.fingerprint() == trusted.fingerprint;
            !wanted.anchors().iter().any(is_wanted)
        });
        let at = self.record.retires_at(self.rules);
        if !unwanted.is_empty() && at > now {
            return Ok(Phase::Retiring(time_of(at)));
        }
        if !unwanted.is_empty() {
            self.record
                .anchors
                .retain(|trusted| !unwanted.contains(trusted));
            self.record.longest_lifetime = self.rules.leaf_lifetime.whole_seconds();
        }
        self.replace_if_due(wanted)
    }

    /// A new root, if one is asked for or the time of this one comes to its end.
    fn replace_if_due(&mut self, current: &Root) -> Result<Phase, RootError> {
        let asked = self.kept.request != self.record.request && self.kept.request.is_some();
        if asked {
            self.record.request.clone_from(&self.kept.request);
            self.record.refused = self.foreign(current);
        }
        let life = current.not_after() - current.not_before();
        let is_ours = self.record.made.as_deref() == Some(current.trusted_by());
        let late = self.now >= current.not_before() + life * ROTATE_AT;
        let due = late && is_ours && self.foreign(current).is_none();
        if !(due || asked && self.record.refused.is_none()) {
            return Ok(Phase::Steady);
        }
        let next = Root::generate(&self.rules.trust_domain, self.rules.root_lifetime, self.now)?;
        self.record.trust(&next, self.now);
        self.record.made = Some(next.trusted_by().to_owned());
        self.kept.want(&next);
        let at = self.record.may_sign_at(&next, self.rules);
        Ok(Phase::Distributing(time_of(at.unwrap_or_default())))
    }

    /// Why the root is somebody else's to replace.
    fn foreign(&self, current: &Root) -> Option<String> {
        if let Some(manager) = &self.kept.managed_by {
            return Some(format!("{manager} keeps the root: renew it there"));
        }
        (!current.is_self_signed()).then(|| {
            "the root's key is not here: put the next issuer, its key and its root in their place"
                .to_owned()
        })
    }
}

fn time_of(seconds: i64) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests;
