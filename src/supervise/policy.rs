//! When a failed actor comes back, and when the tree gives up. Pure: time and chance are arguments.

use std::collections::VecDeque;
use std::time::Duration;

use super::backoff::{doubled, spread};

/// Which actors restart together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// Only the failed actor (and its workers).
    #[default]
    One,
    /// Also the actors declared after it in the same tree: they keep state about it.
    Rest,
}

/// How an actor is restarted.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Pause before the first restart; doubles with every failure in the window.
    pub backoff_base: Duration,
    /// Longest pause, before jitter (at most half of the pause is added).
    pub backoff_cap: Duration,
    /// Failures allowed within `window`.
    pub max_restarts: usize,
    /// Measured in time the actor was up: pauses do not count. So a growing backoff cannot hide
    /// an actor that fails each time it is started.
    pub window: Duration,
    pub scope: Scope,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            backoff_base: Duration::from_millis(100),
            backoff_cap: Duration::from_secs(30),
            max_restarts: 10,
            window: Duration::from_secs(60),
            scope: Scope::One,
        }
    }
}

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Restart after the pause, with the siblings that [`Scope`] names.
    Restart { after: Duration },
    /// Past the limit: once more, with the siblings that [`Scope`] names.
    LastChance { after: Duration },
    /// The last chance failed too (a worker has none): it is for the level above to act.
    Escalate,
}

/// The failures of one actor that still count.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Up-time at each failure in the window, oldest first.
    failures: VecDeque<Duration>,
    /// Up-time at which the last chance began.
    last_chance: Option<Duration>,
    /// Total of the pauses decided so far.
    paused: Duration,
}

impl History {
    /// Decides about a failure `now` (time since the actor was declared, pauses included).
    ///
    /// `jitter` is a share, 0.0..=1.0 (others are clamped): up to half of the pause is added, so
    /// that actors that failed together do not come back together.
    pub fn failed(&mut self, policy: &Policy, has_last_chance: bool, now: Duration, jitter: f64) -> Decision {
        let up = now.saturating_sub(self.paused);
        let since = |then: Duration| up.saturating_sub(then);
        if let Some(begun) = self.last_chance.take()
            && since(begun) < policy.window
        {
            return Decision::Escalate;
        }
        while self.failures.front().is_some_and(|then| since(*then) >= policy.window) {
            self.failures.pop_front();
        }
        self.failures.push_back(up);
        let count = self.failures.len();
        if count > policy.max_restarts {
            if !has_last_chance {
                return Decision::Escalate;
            }
            self.failures.clear();
            self.last_chance = Some(up);
        }
        let doublings = u32::try_from(count.saturating_sub(1)).unwrap_or(u32::MAX);
        let after = spread(doubled(policy.backoff_base, doublings, policy.backoff_cap), jitter);
        self.paused += after;
        if count > policy.max_restarts { Decision::LastChance { after } } else { Decision::Restart { after } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn policy(max_restarts: usize) -> Policy {
        Policy {
            backoff_base: ms(100),
            backoff_cap: ms(1000),
            max_restarts,
            window: ms(10_000),
            scope: Scope::One,
        }
    }

    #[test]
    fn the_pause_doubles_up_to_the_cap() {
        let mut history = History::default();
        let mut now = ms(0);
        for want in [100, 200, 400, 800, 1000, 1000] {
            let got = history.failed(&policy(10), true, now, 0.0);
            assert_eq!(got, Decision::Restart { after: ms(want) });
            now += ms(want); // it fails again as soon as it is up
        }
    }

    #[test]
    fn an_actor_that_always_fails_at_start_escalates_although_its_pauses_outlast_the_window() {
        let policy = Policy::default();
        let (mut history, mut now) = (History::default(), ms(0));
        let mut decisions = Vec::new();
        loop {
            let got = history.failed(&policy, true, now, 0.5);
            decisions.push(got);
            match got {
                Decision::Restart { after } | Decision::LastChance { after } => now += after,
                Decision::Escalate => break,
            }
        }
        assert_eq!(decisions.len(), 12, "10 restarts, a last chance, the end: {decisions:?}");
        assert!(matches!(decisions.get(10), Some(Decision::LastChance { .. })));
    }

    #[test]
    fn decisions_in_sequence() {
        use Decision::{Escalate, LastChance, Restart};
        // (case, allowed restarts, last chance, up-time between the failures, decisions)
        for (case, allowed, chance, gaps, want) in [
            ("one failure", 2, true, vec![5], vec![Restart { after: ms(100) }]),
            (
                "two in the window",
                2,
                true,
                vec![5, 5],
                vec![Restart { after: ms(100) }, Restart { after: ms(200) }],
            ),
            (
                "the third is too much, the fourth ends it",
                2,
                true,
                vec![5, 5, 5, 9_999],
                vec![
                    Restart { after: ms(100) },
                    Restart { after: ms(200) },
                    LastChance { after: ms(400) },
                    Escalate,
                ],
            ),
            (
                "a last chance that held is a fresh start",
                1,
                true,
                vec![5, 5, 10_000],
                vec![Restart { after: ms(100) }, LastChance { after: ms(200) }, Restart { after: ms(100) }],
            ),
            ("a worker has no last chance", 1, false, vec![5, 5], vec![Restart { after: ms(100) }, Escalate]),
            (
                "old failures are forgotten",
                1,
                true,
                vec![5, 10_000, 10_000],
                vec![Restart { after: ms(100) }; 3],
            ),
            ("none allowed", 0, false, vec![5], vec![Escalate]),
        ] {
            let (mut history, mut now) = (History::default(), ms(0));
            let mut got = Vec::new();
            for gap in gaps {
                now += ms(gap);
                let decision = history.failed(&policy(allowed), chance, now, 0.0);
                if let Restart { after } | LastChance { after } = decision {
                    now += after;
                }
                got.push(decision);
            }
            assert_eq!(got, want, "{case}");
        }
    }

    #[test]
    fn pauses_are_spread() {
        let got = History::default().failed(&policy(3), true, ms(0), 0.5);
        assert_eq!(got, Decision::Restart { after: ms(125) });
    }
}
