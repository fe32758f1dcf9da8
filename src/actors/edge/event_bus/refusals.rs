//! Which refusals are recorded: whoever can reach a port must not fill the disk.

use crate::bus::identity::{AuditAction, AuditFact};
use crate::identity::Refused;

/// One record a second at most; the next one says how many there were in between.
const PAUSE_MS: u64 = 1_000;

/// Refusals since the last record.
#[derive(Debug, Default)]
pub struct Refusals {
    recorded_at_ms: Option<u64>,
    unrecorded: u64,
}

impl Refusals {
    /// The record to write, if it is time for one.
    pub fn record(&mut self, address: &str, why: &Refused, now_ms: u64) -> Option<AuditFact> {
        if self.recorded_at_ms.is_some_and(|at| now_ms.saturating_sub(at) < PAUSE_MS) {
            self.unrecorded += 1;
            return None;
        }
        self.recorded_at_ms = Some(now_ms);
        let fact = AuditFact::new(AuditAction::Refuse, "mqtt client", false, why.to_string())
            .with("address", address);
        match std::mem::take(&mut self.unrecorded) {
            0 => Some(fact),
            more => Some(fact.with("unrecorded", more.to_string())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_not_written() {
        let (mut refusals, why) = (Refusals::default(), Refused::new("forged"));
        let first = refusals.record("192.0.2.1:5", &why, 0).expect("the first");
        assert_eq!((first.allowed, first.reason.as_str()), (false, "forged"));
        assert_eq!(first.details["address"], "192.0.2.1:5");
        for now in 1..1_000 {
            assert_eq!(refusals.record("192.0.2.1:6", &why, now), None);
        }
        let next = refusals.record("192.0.2.1:7", &why, 1_000).expect("a second later");
        assert_eq!(next.details["unrecorded"], "999");
        assert!(!refusals.record("x", &why, 2_000).expect("later").details.contains_key("unrecorded"));
    }
}
