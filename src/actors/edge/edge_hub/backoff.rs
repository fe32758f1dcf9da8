//! How long to wait before the next dial. Full jitter, so that a thousand edges do not come back in
//! step; and the longer the cloud has been away the wider they spread, so that a short outage costs
//! little time.

use std::time::{Duration, Instant};

const FLOOR: Duration = Duration::from_millis(200);
/// The longest pause is this part of the time since the session was lost, ..
const PART_OF_OUTAGE: u32 = 20;
/// .. at least this, ..
const SHORT: Duration = Duration::from_millis(500);
/// .. and at most half of the ten seconds within which a node is to be Ready once its link is back.
const CEILING: Duration = Duration::from_secs(5);
/// A session this long proves that the way is good: the next outage begins with its end.
const GOOD_SESSION: Duration = Duration::from_secs(10);

/// Since when there is no good session.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Backoff {
    lost_at: Option<Instant>,
}

impl Backoff {
    /// The pause after one more failure: between 0.2 s and a twentieth of the outage (0.5 to 5 s).
    /// `random` is uniform in 0.0..1.0.
    pub fn next(&mut self, now: Instant, random: f64) -> Duration {
        let lost_at = *self.lost_at.get_or_insert(now);
        let limit = (now.saturating_duration_since(lost_at) / PART_OF_OUTAGE).clamp(SHORT, CEILING);
        FLOOR + (limit - FLOOR).mul_f64(random.clamp(0.0, 1.0))
    }

    /// The shortest pause.
    #[must_use]
    pub fn floor(&self) -> Duration {
        FLOOR
    }

    /// Told how long a session lasted that ended.
    pub fn session_lasted(&mut self, age: Duration) {
        if age >= GOOD_SESSION {
            self.lost_at = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secs(secs: f64) -> Duration {
        Duration::from_secs_f64(secs)
    }

    #[test]
    fn grows_with_the_outage_and_starts_over_after_a_good_session() {
        let begun = Instant::now();
        let mut backoff = Backoff::default();
        for (at, longest) in [(0.0, 0.5), (5.0, 0.5), (20.0, 1.0), (60.0, 3.0), (100.0, 5.0), (9_999.0, 5.0)]
        {
            assert_eq!(backoff.next(begun + secs(at), 1.0), secs(longest), "after {at} s");
            assert_eq!(backoff.next(begun + secs(at), 0.0), FLOOR);
        }
        backoff.session_lasted(secs(9.0));
        assert_eq!(
            backoff.next(begun + secs(10_000.0), 1.0),
            CEILING,
            "a session that dies at once is a failure"
        );
        backoff.session_lasted(GOOD_SESSION);
        assert_eq!(backoff.next(begun + secs(10_020.0), 1.0), SHORT);
    }

    /// Dials that fail at once until the cloud is back after `away`: how long after that the next one begins.
    fn late(away: Duration, mut random: impl FnMut() -> f64) -> Duration {
        let begun = Instant::now();
        let mut backoff = Backoff::default();
        let mut now = begun;
        loop {
            now += backoff.next(now, random());
            if now >= begun + away {
                return now - (begun + away);
            }
        }
    }

    proptest! {
        #[test]
        fn a_pause_keeps_its_bounds(away in 0.0_f64..1e7, random in -1.0_f64..2.0) {
            let begun = Instant::now();
            let mut backoff = Backoff::default();
            backoff.next(begun, 0.5);
            let pause = backoff.next(begun + secs(away), random);
            let limit = secs((away / 20.0).clamp(0.5, 5.0)) + Duration::from_micros(1);
            prop_assert!((FLOOR..=limit).contains(&pause), "{pause:?} after {away} s");
        }

        #[test]
        fn whoever_was_away_shortly_is_back_shortly(away in 0.0_f64..7_200.0, seed: u64) {
            let mut random = fastrand::Rng::with_seed(seed);
            let late = late(secs(away), || random.f64());
            prop_assert!(late <= secs((away / 20.0).clamp(0.5, 5.0)), "{late:?} after {away} s");
        }
    }

    /// What reaches the cloud in its first seconds, of a thousand edges that lost it together.
    #[test]
    fn a_herd_spreads_as_wide_as_the_outage_was_long() {
        let mut random = fastrand::Rng::with_seed(7);
        for (away, within, most_in_a_tenth) in [(20.0, 1.0, 250), (60.0, 3.0, 120), (600.0, 5.0, 80)] {
            let mut tenths = vec![0; 51];
            for _ in 0..1_000 {
                let late = late(secs(away), || random.f64());
                assert!(late <= secs(within), "{late:?} after {away} s");
                tenths[(late.as_millis() / 100) as usize] += 1;
            }
            let most = tenths.iter().max().unwrap();
            assert!(*most <= most_in_a_tenth, "after {away} s {most} in a tenth of a second");
        }
    }
}
