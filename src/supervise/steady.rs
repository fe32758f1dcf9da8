//! Time for judgements about how long something took.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

/// The wall clock of the moment it was started, carried on by the monotonic clock. Setting this
/// machine's clock makes nobody silent for an hour, and lets nobody wait for one.
#[derive(Debug, Clone, Copy)]
pub struct SteadyClock {
    wall: Timestamp,
    then: Instant,
}

impl SteadyClock {
    #[must_use]
    pub fn start() -> Self {
        Self { wall: Timestamp::now(), then: Instant::now() }
    }

    /// Never earlier than what it said before.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.at(Instant::now())
    }

    fn at(&self, instant: Instant) -> Timestamp {
        let passed = instant.saturating_duration_since(self.then);
        let passed = SignedDuration::try_from(passed).unwrap_or(SignedDuration::MAX);
        self.wall.saturating_add(passed).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn it_follows_the_monotonic_clock_alone() {
        let then = Instant::now();
        let wall = Timestamp::from_second(1_800_000_000).unwrap();
        let clock = SteadyClock { wall, then };
        let later = |secs: i64| Timestamp::from_second(1_800_000_000 + secs).unwrap();
        assert_eq!(clock.at(then), wall);
        assert_eq!(clock.at(then + Duration::from_secs(90)), later(90));
        assert_eq!(clock.at(then), wall);
        assert_eq!(
            SteadyClock { wall: Timestamp::MAX, then }.at(then + Duration::from_secs(1)),
            Timestamp::MAX
        );
    }
}
