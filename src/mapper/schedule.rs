//! When is which property due? Pure: time is milliseconds on any clock that never goes back.

/// Shortest cycle; shorter ones are made this long.
pub const SHORTEST_MS: u64 = 10;
/// Cycle of a property that says none (KubeEdge's default).
pub const DEFAULT_MS: u64 = 1_000;
/// Longest cycle, a day: longer ones are made this long.
pub const LONGEST_MS: u64 = 86_400_000;

/// Cycles of one property, milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cycles {
    pub collect_ms: u64,
    /// `None`: never reported.
    pub report_ms: Option<u64>,
}

impl Cycles {
    /// From a Device's `collectCycle`, `reportCycle` and `reportToCloud`. A property that says no
    /// report cycle is reported as often as it is collected.
    #[must_use]
    pub fn new(collect: i64, report: i64, to_cloud: bool) -> Self {
        let or = |cycle: i64, default: u64| match u64::try_from(cycle) {
            Ok(0) | Err(_) => default,
            Ok(cycle) => cycle.clamp(SHORTEST_MS, LONGEST_MS),
        };
        let collect_ms = or(collect, DEFAULT_MS);
        Self { collect_ms, report_ms: to_cloud.then(|| or(report, collect_ms)) }
    }
}

/// What is due now, by index of the property.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Due {
    pub collect: Vec<usize>,
    pub report: Vec<usize>,
}

/// The cycles of one device.
#[derive(Debug, Default)]
pub struct Schedule {
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    cycles: Cycles,
    collect_at: u64,
    report_at: u64,
}

impl Schedule {
    /// Everything is due at `now`.
    #[must_use]
    pub fn new(properties: impl IntoIterator<Item = Cycles>, now: u64) -> Self {
        let slot = |cycles| Slot { cycles, collect_at: now, report_at: now };
        Self { slots: properties.into_iter().map(slot).collect() }
    }

    /// What is due, each once: cycles that were missed are not made up for. The next turn keeps the
    /// beat of the first.
    pub fn due(&mut self, now: u64) -> Due {
        let mut due = Due::default();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            if slot.collect_at <= now {
                due.collect.push(index);
                slot.collect_at = next(slot.collect_at, slot.cycles.collect_ms, now);
            }
            if let Some(cycle) = slot.cycles.report_ms
                && slot.report_at <= now
            {
                due.report.push(index);
                slot.report_at = next(slot.report_at, cycle, now);
            }
        }
        due
    }

    /// Makes a property due at once; its beat starts over.
    pub fn hurry(&mut self, index: usize, now: u64) {
        if let Some(slot) = self.slots.get_mut(index) {
            slot.collect_at = now;
            slot.report_at = now;
        }
    }

    /// When something is due next.
    #[must_use]
    pub fn next(&self) -> Option<u64> {
        let report = |slot: &Slot| slot.cycles.report_ms.map(|_| slot.report_at);
        self.slots.iter().map(|slot| report(slot).map_or(slot.collect_at, |at| at.min(slot.collect_at))).min()
    }
}

/// The first beat after `now`.
fn next(at: u64, cycle: u64, now: u64) -> u64 {
    let missed = now.saturating_sub(at) / cycle;
    at.saturating_add(missed.saturating_add(1).saturating_mul(cycle))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cycles_have_defaults_and_bounds() {
        for (collect, report, to_cloud, want) in [
            (0, 0, true, (1_000, Some(1_000))),
            (500, 0, true, (500, Some(500))),
            (500, 2_000, true, (500, Some(2_000))),
            (500, 2_000, false, (500, None)),
            (1, 1, true, (10, Some(10))),
            (-5, i64::MAX, true, (1_000, Some(86_400_000))),
        ] {
            let cycles = Cycles::new(collect, report, to_cloud);
            assert_eq!((cycles.collect_ms, cycles.report_ms), want, "{collect} {report} {to_cloud}");
        }
    }

    #[test]
    fn each_property_keeps_its_beat() {
        let cycles = [Cycles::new(100, 300, true), Cycles::new(250, 0, false)];
        let mut schedule = Schedule::new(cycles, 1_000);
        let mut due = |now| {
            let due = schedule.due(now);
            (due.collect, due.report, schedule.next())
        };
        assert_eq!(due(1_000), (vec![0, 1], vec![0], Some(1_100)));
        assert_eq!(due(1_099), (vec![], vec![], Some(1_100)));
        assert_eq!(due(1_100), (vec![0], vec![], Some(1_200)));
        assert_eq!(due(1_260), (vec![0, 1], vec![], Some(1_300)));
        assert_eq!(due(1_990), (vec![0, 1], vec![0], Some(2_000)), "late: once, and back on the beat");
        assert_eq!(due(2_000), (vec![0, 1], vec![], Some(2_100)));
    }

    #[test]
    fn a_hurried_property_is_due_at_once() {
        let mut schedule = Schedule::new([Cycles::new(1_000, 5_000, true)], 0);
        schedule.due(0);
        schedule.hurry(0, 10);
        assert_eq!(schedule.due(10), Due { collect: vec![0], report: vec![0] });
        assert_eq!(schedule.next(), Some(1_010));
        schedule.hurry(7, 10);
        assert_eq!(Schedule::default().next(), None);
    }

    proptest! {
        /// However late the caller is: nothing is due twice in one cycle, nothing is forgotten, and
        /// the next turn is never in the past.
        #[test]
        fn no_turn_is_doubled_or_lost(cycle in 10_i64..5_000, steps in prop::collection::vec(0_u64..20_000, 1..60)) {
            let mut schedule = Schedule::new([Cycles::new(cycle, 0, true)], 0);
            let (mut now, mut last) = (0, None);
            for step in steps {
                now += step;
                let due = schedule.due(now);
                let beat = now / cycle.unsigned_abs();
                let expected = last.is_none_or(|last| beat > last);
                prop_assert_eq!(!due.collect.is_empty(), expected);
                prop_assert_eq!(due.collect, due.report);
                last = Some(beat);
                let next = schedule.next().unwrap();
                prop_assert!(next > now && next <= now + cycle.unsigned_abs());
            }
        }
    }
}
