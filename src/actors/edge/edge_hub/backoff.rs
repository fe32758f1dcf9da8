//! How long to wait before the next dial: full jitter, so that a thousand edges do not come back
//! in step after the cloud was away.

use std::time::Duration;

use crate::supervise::doubled;

const FLOOR: Duration = Duration::from_millis(200);
/// Half of the ten seconds within which a node is to be Ready once its link is back.
const CEILING: Duration = Duration::from_secs(5);
/// A session this long proves that the way is good: the next failure starts over.
const GOOD_SESSION: Duration = Duration::from_secs(10);

/// Failures in a row.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure: between 0.2 s and the doubling limit (at most 5 s).
    /// `random` is uniform in 0.0..1.0.
    pub fn next(&mut self, random: f64) -> Duration {
        let limit = doubled(FLOOR, self.failures, CEILING);
        self.failures = self.failures.saturating_add(1);
        FLOOR + (limit - FLOOR).mul_f64(random.clamp(0.0, 1.0))
    }

    /// Told how long a session lasted that ended.
    pub fn session_lasted(&mut self, age: Duration) {
        if age >= GOOD_SESSION {
            self.failures = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_five_seconds_and_starts_over_after_a_good_session() {
        let mut backoff = Backoff::default();
        let longest: Vec<u128> = (0..8).map(|_| backoff.next(1.0).as_millis()).collect();
        assert_eq!(longest, [200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        assert_eq!(backoff.next(0.0), FLOOR);
        backoff.session_lasted(Duration::from_secs(9));
        assert_eq!(backoff.next(1.0), CEILING, "a session that dies at once is a failure");
        backoff.session_lasted(Duration::from_secs(10));
        assert_eq!(backoff.next(1.0), FLOOR);
    }

    #[test]
    fn never_overflows_or_leaves_its_bounds() {
        let mut backoff = Backoff { failures: u32::MAX };
        for random in [-1.0, 0.0, 0.3, 1.0, 7.0] {
            let pause = backoff.next(random);
            assert!((FLOOR..=CEILING).contains(&pause), "{pause:?}");
        }
    }
}
