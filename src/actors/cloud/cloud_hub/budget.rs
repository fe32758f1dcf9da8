//! What one node may say and have in hand, over all its connections: whoever comes back has no more than who stayed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::pace::Pace;
use crate::bus::Turns;
use crate::model::NodeName;

/// One node's.
pub struct Budget {
    pub turns: Turns,
    pace: Mutex<Pace>,
}

impl Budget {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { turns: Turns::default(), pace: Mutex::new(Pace::new(now)) }
    }

    /// As [`Pace::spend`].
    pub fn spend(&self, bytes: usize, now: Instant) -> Duration {
        self.pace.lock().spend(bytes, now)
    }
}

/// Between two looks for budgets that can be forgotten: not with each of ten thousand nodes that come back at once.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// All nodes'. Cheap to clone.
#[derive(Clone, Default)]
pub struct Budgets(Arc<Mutex<All>>);

#[derive(Default)]
struct All {
    by_node: HashMap<NodeName, Arc<Budget>>,
    swept: Option<Instant>,
}

impl Budgets {
    /// The one of `node`. Those of nodes that are gone, and owe nothing any more, are forgotten.
    #[must_use]
    pub fn of(&self, node: &NodeName, now: Instant) -> Arc<Budget> {
        let mut all = self.0.lock();
        let is_used = |budget: &Arc<Budget>| {
            Arc::strong_count(budget) > 1 || !budget.turns.are_free() || !budget.pace.lock().is_full(now)
        };
        if all.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_EVERY) {
            all.swept = Some(now);
            all.by_node.retain(|name, budget| name == node || is_used(budget));
        }
        Arc::clone(all.by_node.entry(node.clone()).or_insert_with(|| Arc::new(Budget::new(now))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_has_no_more_than_who_stayed() {
        let budgets = Budgets::default();
        let [loud, quiet] = ["loud", "quiet"].map(|name| NodeName::parse(name).unwrap());
        let start = Instant::now();
        let first = budgets.of(&loud, start);
        while first.spend(1 << 20, start).is_zero() {}
        drop(first);
        assert!(!budgets.of(&loud, start).spend(1, start).is_zero(), "another connection, the same budget");
        assert!(budgets.of(&quiet, start).spend(1, start).is_zero());
        let later = start + Duration::from_secs(60);
        let kept = budgets.of(&quiet, later);
        assert_eq!(budgets.0.lock().by_node.len(), 1, "the other one is gone and owes nothing");
        drop(kept);
    }
}
