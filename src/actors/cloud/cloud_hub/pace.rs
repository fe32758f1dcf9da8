//! How fast one node may speak. No clock, no I/O.

use std::time::{Duration, Instant};

/// A message costs one, and one more for so many bytes.
const BYTES: usize = 4 << 10;
/// A second's worth: 2,000 small messages, or 8 MiB.
const PER_SEC: f64 = 2_000.0;
/// What a node that was silent may say at once: what it holds, after a reconnect.
const BURST: f64 = 8_000.0;

/// One node's budget.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    left: f64,
    at: Instant,
}

impl Pace {
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { left: BURST, at: now }
    }

    /// Nothing is owed any more.
    #[must_use]
    pub fn is_full(&self, now: Instant) -> bool {
        self.left + now.saturating_duration_since(self.at).as_secs_f64() * PER_SEC >= BURST
    }

    /// A message of `bytes` came. How long nothing more may be heard: zero for whoever keeps within it.
    pub fn spend(&mut self, bytes: usize, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        self.left = (self.left + passed * PER_SEC).min(BURST);
        self.left -= 1.0 + (bytes / BYTES) as f64;
        Duration::from_secs_f64((-self.left).max(0.0) / PER_SEC)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_slowed_to_its_pace() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let mut now = start;
        for _ in 0..40_000 {
            now += pace.spend(100, now);
        }
        let took = now - start;
        assert!(took >= Duration::from_secs(15) && took <= Duration::from_secs(17), "{took:?}");
    }

    #[test]
    fn bursts_and_quiet_nodes_wait_for_nothing() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for _ in 0..8_000 {
            assert_eq!(pace.spend(100, start), Duration::ZERO);
        }
        assert!(pace.spend(100, start) > Duration::ZERO);
        assert_eq!(pace.spend(100, start + Duration::from_secs(1)), Duration::ZERO);
        let mut large = Pace::new(start);
        let waits = (0..16).map(|_| large.spend(4 << 20, start)).max().unwrap();
        assert!(waits > Duration::from_secs(1) && waits < Duration::from_secs(8), "{waits:?}");
    }
}
