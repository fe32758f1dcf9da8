//! The pauses of mappers between tries. Pure.

use std::time::Duration;

use crate::supervise::{doubled, spread};

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);

/// The pause after `failures` in a row (0: the first). `chance` is uniform in 0.0..1.0.
pub fn pause(failures: u32, chance: f64) -> Duration {
    spread(doubled(FIRST, failures, LONGEST), chance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_half_a_minute() {
        let calm: Vec<u128> = (0..10).map(|failures| pause(failures, 0.0).as_millis()).collect();
        assert_eq!(calm, [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        assert_eq!(pause(u32::MAX, 1.0), Duration::from_secs(45));
    }
}
