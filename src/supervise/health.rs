//! Heartbeats, decided. Pure: the watcher in `watch.rs` sends the pings and runs the verdicts.

use std::time::Duration;

/// What the last heartbeats of one actor or thread say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The last ping was answered: send the next one with this number.
    Ping(u64),
    /// Waiting for an answer, or messages are still being handled.
    Wait,
    /// Nothing moved for this long.
    Silent(Duration),
}

/// The heartbeat of one actor or thread: at most one ping is under way.
#[derive(Debug, Default)]
pub struct Beat {
    /// Number of the last ping sent; 0 before the first.
    sent: u64,
    /// Since when there is neither an answer nor progress.
    quiet_since: Option<Duration>,
    /// The progress counter as it was last seen.
    progress: u64,
}

impl Beat {
    /// Looks at one actor or thread. `answered` is the number of the last answered ping,
    /// `progress` any counter that grows while messages are handled (a full mailbox delays the
    /// answer, but an actor that works through it is alive).
    pub fn look(&mut self, now: Duration, answered: u64, progress: u64, timeout: Duration) -> Verdict {
        if answered >= self.sent {
            self.sent = answered + 1;
            self.quiet_since = Some(now);
            self.progress = progress;
            return Verdict::Ping(self.sent);
        }
        if progress != self.progress {
            self.progress = progress;
            self.quiet_since = Some(now);
        }
        let quiet = self.quiet_since.map_or(Duration::ZERO, |since| now.saturating_sub(since));
        if quiet > timeout { Verdict::Silent(quiet) } else { Verdict::Wait }
    }

    /// Nobody could answer meanwhile (restart pause, the process or the thread stood still): the
    /// patience begins anew, the ping under way stays valid.
    pub fn excuse(&mut self, now: Duration) {
        self.quiet_since = Some(now);
    }

    /// Has the last ping been answered?
    #[must_use]
    pub fn is_answered(&self, answered: u64) -> bool {
        answered >= self.sent
    }
}

/// Did the watcher itself stand still between two looks (suspended machine, stopped process)?
/// Then the silence of the others proves nothing.
#[must_use]
pub fn overslept(last: Duration, now: Duration, interval: Duration) -> bool {
    now.saturating_sub(last) > interval.saturating_mul(3)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn looks_in_sequence() {
        let mut beat = Beat::default();
        for (case, now, answered, progress, want) in [
            ("first look pings", 0, 0, 0, Verdict::Ping(1)),
            ("answered", 5, 1, 1, Verdict::Ping(2)),
            ("late", 10, 1, 1, Verdict::Wait),
            ("just in time", 20, 1, 1, Verdict::Wait),
            ("not answered, but it works", 21, 1, 2, Verdict::Wait),
            ("still works", 36, 1, 3, Verdict::Wait),
            ("stuck", 52, 1, 3, Verdict::Silent(s(16))),
            ("back", 53, 2, 3, Verdict::Ping(3)),
        ] {
            assert_eq!(beat.look(s(now), answered, progress, s(15)), want, "{case}");
        }
    }

    #[test]
    fn an_excuse_restarts_the_patience() {
        let mut beat = Beat::default();
        assert_eq!(beat.look(s(0), 0, 0, s(15)), Verdict::Ping(1));
        assert!(!beat.is_answered(0));
        beat.excuse(s(30));
        assert_eq!(beat.look(s(40), 0, 0, s(15)), Verdict::Wait);
        assert_eq!(beat.look(s(46), 0, 0, s(15)), Verdict::Silent(s(16)));
    }

    #[test]
    fn a_watcher_that_slept_proves_nothing() {
        for (now, want) in [(5, false), (15, false), (16, true), (3600, true)] {
            assert_eq!(overslept(s(0), s(now), s(5)), want, "{now} s");
        }
    }
}
