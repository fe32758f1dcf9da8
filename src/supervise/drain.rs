//! The ordered end: from the last declared actor to the first, each with its workers before it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::entry::{Entry, State};
use super::shared::Shared;

/// Lets every actor empty its mailbox and stop, within `deadline` in all. One actor gets at most
/// half of what is left, so that a stuck one leaves time to the others. Returns the names of those
/// that had to be cut.
pub(super) async fn drain(shared: &Shared, deadline: Duration) -> Vec<String> {
    shared.begin_draining();
    let end = Instant::now() + deadline;
    let mut cut = Vec::new();
    for entry in shared.actors().iter().rev() {
        let workers = shared.workers_of(entry);
        finish(shared, &workers, end, &mut cut).await;
        finish(shared, std::slice::from_ref(entry), end, &mut cut).await;
    }
    cut
}

/// Cuts everything that still runs.
pub(super) fn cut_all(shared: &Shared) {
    for entry in shared.actors() {
        for worker in shared.workers_of(&entry) {
            worker.orders.give(|orders| orders.cut = true);
        }
        entry.orders.give(|orders| orders.cut = true);
    }
}

async fn finish(shared: &Shared, entries: &[Arc<Entry>], end: Instant, cut: &mut Vec<String>) {
    for entry in entries {
        entry.orders.give(|orders| orders.drain = true);
    }
    let now = Instant::now();
    let until = now + end.saturating_duration_since(now) / 2;
    let mut ends = shared.ends.subscribe();
    for entry in entries {
        let ended = ends.wait_for(|_| entry.state() == State::Ended);
        if !matches!(timeout_at(until, ended).await, Ok(Ok(_))) {
            tracing::warn!(actor = %entry.name, kind = entry.kind, "actor did not drain in time, cut");
            entry.orders.give(|orders| orders.cut = true);
            cut.push(entry.name.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervise::TreeSettings;

    #[actix::test]
    async fn an_empty_tree_drains_at_once() {
        let shared = Shared::new("empty", TreeSettings::default());
        assert_eq!(drain(&shared, Duration::from_secs(60)).await, Vec::<String>::new());
        assert!(shared.is_draining());
    }
}
