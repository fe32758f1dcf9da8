//! When to try again. Pure: time and jitter are arguments.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::supervise::doubled;

/// First pause after a crash or a failed pull, and the longest one (the kubelet's figures:
/// kubernetes.io, "Pod lifecycle", container restarts; "Images", image pull back-off).
pub const CRASH_BASE: Duration = Duration::from_secs(10);
pub const CRASH_CAP: Duration = Duration::from_secs(300);
/// A container that ran this long starts from the first pause again.
const CRASH_RESET: Duration = Duration::from_secs(600);

/// `later - earlier`, zero when the clock went backwards.
#[must_use]
pub fn since(later: Timestamp, earlier: Timestamp) -> Duration {
    Duration::try_from(later.duration_since(earlier)).unwrap_or_default()
}

/// `now + pause`, saturating.
#[must_use]
pub fn after(now: Timestamp, pause: Duration) -> Timestamp {
    let pause = SignedDuration::try_from(pause).unwrap_or(SignedDuration::MAX);
    now.saturating_add(pause).unwrap_or(Timestamp::MAX)
}

/// Retries of one thing that failed: sandbox, volumes, image, container creation, a runtime call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retry {
    failures: u32,
    pause: Duration,
    since: Option<Timestamp>,
}

impl Retry {
    /// Notes a failure at `now`: the next try comes after `base` doubled per earlier failure, at
    /// most `cap`, plus up to a tenth by `jitter` (0.0..=1.0).
    pub fn fail(&mut self, now: Timestamp, base: Duration, cap: Duration, jitter: f64) {
        let pause = doubled(base, self.failures, cap);
        self.failures = self.failures.saturating_add(1);
        self.pause = pause + pause.mul_f64(jitter.clamp(0.0, 1.0) / 10.0);
        self.since = Some(now);
    }

    /// How long to wait still; `None` when it may be tried now. A clock set back does not prolong
    /// the wait beyond one full pause.
    #[must_use]
    pub fn wait(&self, now: Timestamp) -> Option<Duration> {
        let left = self.pause.checked_sub(since(now, self.since?))?;
        (!left.is_zero()).then_some(left)
    }

    /// Time since the last failure.
    #[must_use]
    pub fn age(&self, now: Timestamp) -> Option<Duration> {
        self.since.map(|at| since(now, at))
    }

    #[must_use]
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The cause may be gone: try at once, but remember how often it failed.
    pub fn hurry(&mut self) {
        self.since = None;
    }
}

/// Crash-loop state of one container: no pause before the first restart, then 10 s doubling to
/// 300 s, forgotten after ten quiet minutes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CrashLoop {
    current: Option<(Duration, Timestamp)>,
}

impl CrashLoop {
    /// The pause in force after an exit at `exited`, with what is left of it at `now`.
    #[must_use]
    pub fn blocked(&self, exited: Timestamp, now: Timestamp) -> Option<(Duration, Duration)> {
        let (pause, updated) = self.current?;
        if since(exited, updated) > CRASH_RESET {
            return None;
        }
        let left = pause.checked_sub(since(now, exited))?;
        (!left.is_zero()).then_some((pause, left))
    }

    /// A restart after an exit at `exited` happens at `now`.
    pub fn restarted(&mut self, exited: Timestamp, now: Timestamp) {
        let pause = match self.current {
            Some((pause, updated)) if since(exited, updated) <= CRASH_RESET => {
                pause.saturating_mul(2).min(CRASH_CAP)
            }
            _ => CRASH_BASE,
        };
        self.current = Some((pause, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + secs).expect("in range")
    }

    #[test]
    fn crash_loop_follows_the_kubelet() {
        let mut crash = CrashLoop::default();
        let mut pauses = Vec::new();
        let mut now = at(0);
        for _ in 0..8 {
            let pause = crash.blocked(now, now).map_or(0, |(pause, _)| pause.as_secs());
            pauses.push(pause);
            now = after(now, Duration::from_secs(pause));
            crash.restarted(now, now);
        }
        assert_eq!(pauses, [0, 10, 20, 40, 80, 160, 300, 300]);
        let quiet = after(now, Duration::from_secs(601));
        assert_eq!(crash.blocked(quiet, quiet), None, "ten quiet minutes reset it");
        crash.restarted(quiet, quiet);
        assert_eq!(crash.blocked(quiet, quiet).map(|(pause, _)| pause), Some(CRASH_BASE));
    }

    #[test]
    fn retries_double_up_to_the_cap() {
        let (base, cap) = (Duration::from_secs(10), Duration::from_secs(60));
        let mut retry = Retry::default();
        assert_eq!(retry.wait(at(0)), None);
        let mut waits = Vec::new();
        for _ in 0..4 {
            retry.fail(at(0), base, cap, 0.0);
            waits.push(retry.wait(at(0)).map_or(0, |wait| wait.as_secs()));
        }
        assert_eq!(waits, [10, 20, 40, 60]);
        assert_eq!(retry.wait(at(60)), None);
        assert_eq!(retry.wait(at(-86_400)), Some(cap), "a clock set back does not prolong it");
        retry.hurry();
        assert_eq!(retry.wait(at(1)), None);
        retry.fail(at(0), base, cap, 1.0);
        assert_eq!(retry.wait(at(0)), Some(Duration::from_secs(66)));
    }
}
