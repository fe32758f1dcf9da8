//! The X.509-SVIDs that were issued and are still good: one for each pod, container and identity,
//! renewed at half of its life. Pure: whoever signs is an argument.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::workload::{Grant, Workload};
use crate::identity::WorkloadSvid;

/// SVIDs kept; beyond, the one that ends first goes.
const MAX_HELD: usize = 4_096;
/// A certificate with less life than this ahead helps nobody.
const LEAST_LIFE: Duration = Duration::from_secs(1);

/// Whose SVID it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pod_uid: String,
    container: String,
    id: String,
}

impl Key {
    #[must_use]
    pub fn of(workload: &Workload, grant: &Grant) -> Self {
        Self {
            pod_uid: workload.pod_uid.clone(),
            container: workload.container.clone(),
            id: grant.id.to_string(),
        }
    }
}

/// An SVID and when to ask again.
#[derive(Debug, Clone)]
pub struct Issued {
    pub svid: Arc<WorkloadSvid>,
    pub renew_at: SystemTime,
}

struct Held {
    issued: Issued,
    grant: Grant,
    kept_at: SystemTime,
    /// Number of the trust it was last checked against.
    trust: u64,
}

/// What was issued.
#[derive(Default)]
pub struct Ledger {
    held: BTreeMap<Key, Held>,
}

impl Ledger {
    /// The SVID that is held, if it is good enough: not past half of its life, not from a future
    /// the clock was turned back from, made for the same grant, and checked against the trust of number `trust`; `still_trusted` does that once.
    pub fn held(
        &mut self,
        key: &Key,
        grant: &Grant,
        trust: u64,
        now: SystemTime,
        still_trusted: impl FnOnce(&WorkloadSvid) -> bool,
    ) -> Option<Issued> {
        let held = self.held.get_mut(key)?;
        if held.grant != *grant || now >= held.issued.renew_at || now < held.kept_at {
            return None;
        }
        if held.trust != trust {
            if !still_trusted(&held.issued.svid) {
                return None;
            }
            held.trust = trust;
        }
        Some(held.issued.clone())
    }

    /// Keeps a new SVID.
    pub fn keep(&mut self, key: Key, grant: Grant, trust: u64, issued: Issued, now: SystemTime) {
        self.held.insert(key, Held { issued, grant, kept_at: now, trust });
        if self.held.len() > MAX_HELD {
            let first = self.held.iter().min_by_key(|(_, held)| held.issued.svid.not_after);
            if let Some(key) = first.map(|(key, _)| key.clone()) {
                self.held.remove(&key);
            }
        }
    }

    /// There is another signer: what was cut short by the last one's end is to be renewed.
    pub fn signer_changed(&mut self, now: SystemTime) {
        for held in self.held.values_mut() {
            if held.issued.renew_at == held.issued.svid.not_after {
                held.issued.renew_at = now;
            }
        }
    }

    /// Forgets what ended.
    pub fn sweep(&mut self, now: SystemTime) {
        self.held.retain(|_, held| held.issued.svid.not_after > now);
    }

    pub fn clear(&mut self) {
        self.held.clear();
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }
}

/// Life of the next certificate: what is wanted, at most what is left of the signer's.
/// `None` when the signer's has ended.
#[must_use]
pub fn life(wanted: Duration, signer_ends: SystemTime, now: SystemTime) -> Option<Duration> {
    let left = signer_ends.duration_since(now).ok()?;
    (left >= LEAST_LIFE).then(|| wanted.min(left))
}

/// When to renew what ends at `not_after`: at half of the life ahead, up to a tenth of it earlier
/// (`jitter`, 0.0..=1.0, spreads renewals). What ends with its signer is not made better by asking
/// again: it is kept to its end, or until the signer changes.
#[must_use]
pub fn renew_at(not_after: SystemTime, signer_ends: SystemTime, now: SystemTime, jitter: f64) -> SystemTime {
    let share = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 };
    let life = not_after.duration_since(now).unwrap_or_default();
    // Certificates count whole seconds.
    if not_after + Duration::from_secs(1) >= signer_ends {
        return not_after;
    }
    now + life.mul_f64(0.5 - share / 10.0)
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
