//! Totals that begin anew with their owner, shown as counters that do not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::Counter;

/// A counter that follows a total. An actor's total starts at 0 again when the actor restarts; the
/// counter goes on from where it was, as Prometheus expects of one process. Clones are one counter.
#[derive(Clone)]
pub struct Total {
    counter: Counter,
    seen: Arc<AtomicU64>,
}

impl Total {
    #[must_use]
    pub fn new(counter: Counter) -> Self {
        Self { counter, seen: Arc::default() }
    }

    /// The total stands at `total` now. One that went down began anew.
    pub fn follow(&self, total: u64) {
        let seen = self.seen.swap(total, Ordering::Relaxed);
        self.counter.increment(total.checked_sub(seen).unwrap_or(total));
    }

    /// The total begins at 0 again: its owner was made anew. Without this a total that grew beyond
    /// its old value between two looks would be taken for a continuation.
    pub fn begin_anew(&self) {
        self.seen.store(0, Ordering::Relaxed);
    }

    /// Counts what the total does not know of.
    pub fn increment(&self, more: u64) {
        self.counter.increment(more);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::exporter::Exporter;

    #[test]
    fn the_counter_never_stands_still_or_goes_back() {
        let ((), exporter) = Exporter::record(|| {
            let total = Total::new(metrics::counter!("x_total"));
            let copy = total.clone();
            total.follow(5);
            copy.follow(7);
            // A restart that nobody told of, then one that was.
            total.follow(3);
            total.begin_anew();
            total.follow(4);
            total.increment(2);
        });
        let text = exporter.render();
        assert!(text.lines().any(|line| line == "x_total 16"), "7 + 3 + 4 + 2 in\n{text}");
    }
}
