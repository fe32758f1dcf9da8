//! Pauses between tries, one arithmetic for guards and actors. Pure: chance is an argument.

use std::time::Duration;

/// The pause after `earlier` failures in a row: `first`, doubled for each of them, at most `longest`.
#[must_use]
pub fn doubled(first: Duration, earlier: u32, longest: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(earlier)).min(longest)
}

/// `pause` and up to half as much again, so that what failed together does not come back together.
/// `jitter` is a share, 0.0..=1.0; others are clamped.
#[must_use]
pub fn spread(pause: Duration, jitter: f64) -> Duration {
    let share = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.0 };
    pause + pause.mul_f64(share / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_longest_and_never_overflows() {
        let pause = |earlier| doubled(Duration::from_secs(1), earlier, Duration::from_secs(10)).as_secs();
        assert_eq!([0, 1, 2, 3, 4, 31, 32, u32::MAX].map(pause), [1, 2, 4, 8, 10, 10, 10, 10]);
    }

    #[test]
    fn jitter_adds_at_most_half_and_nonsense_adds_nothing() {
        let pause = Duration::from_secs(2);
        for (jitter, ms) in
            [(0.0, 2000), (0.5, 2500), (1.0, 3000), (7.0, 3000), (-1.0, 2000), (f64::NAN, 2000)]
        {
            assert_eq!(spread(pause, jitter).as_millis(), ms, "{jitter}");
        }
    }
}
