//! What the cloud has not confirmed: who is told next, who waits for a confirmation, who tries
//! again when. In order of first change; a device that changes all the time goes behind those that
//! wait longer. Bounded: at most `window` reports are under way, and reports that failed before
//! take at most half of that, so that devices the cloud does not know hold up nobody.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use crate::model::DeviceId;
use crate::supervise::{doubled, spread};

/// How long a confirmation may take.
const CONFIRM_WITHIN: Duration = Duration::from_secs(10);
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// Answers `error` to the same report after which it is given up.
const MAX_REFUSALS: u32 = 3;

/// One kind of report about one device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Unit {
    pub device: DeviceId,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Twin,
    State,
}

/// The changes a report carries: by property, or of the state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marks {
    Twin(Vec<(String, u64)>),
    State(u64),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    Ready,
    Waiting { due: Instant },
    UnderWay { msg_id: String, marks: Marks, deadline: Instant },
}

#[derive(Debug)]
struct Entry {
    since: u64,
    /// When this process learnt of the change.
    begun: Instant,
    place: Place,
    failures: u32,
    refusals: u32,
}

/// A report that is settled: by a confirmation, or because it never will be.
#[derive(Debug, PartialEq, Eq)]
pub struct Settled {
    pub unit: Unit,
    pub marks: Marks,
    /// From the change to now.
    pub took: Duration,
}

/// All units that have something to tell.
#[derive(Debug)]
pub struct Reports {
    window: usize,
    connected: bool,
    units: HashMap<Unit, Entry>,
    /// By the number of the change: never failed, and failed before.
    ready: BTreeSet<(u64, Unit)>,
    again: BTreeSet<(u64, Unit)>,
    waiting: BTreeSet<(Instant, Unit)>,
    under_way: HashMap<String, Unit>,
    /// Of those under way: failed before.
    trying_again: usize,
}

impl Reports {
    #[must_use]
    pub fn new(window: usize) -> Self {
        Self {
            window: window.max(2),
            connected: false,
            units: HashMap::new(),
            ready: BTreeSet::new(),
            again: BTreeSet::new(),
            waiting: BTreeSet::new(),
            under_way: HashMap::new(),
            trying_again: 0,
        }
    }

    /// Units with something unconfirmed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.units.len()
    }

    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// `unit` has something to tell since change number `since`.
    pub fn mark(&mut self, unit: Unit, since: u64, now: Instant) {
        if self.units.contains_key(&unit) {
            return;
        }
        self.ready.insert((since, unit.clone()));
        let entry = Entry { since, begun: now, place: Place::Ready, failures: 0, refusals: 0 };
        self.units.insert(unit, entry);
    }

    /// The next units to report, oldest change first. Each is to be answered with
    /// [`Reports::sent`] or [`Reports::forget`].
    pub fn take(&self) -> Vec<Unit> {
        if !self.connected {
            return Vec::new();
        }
        let room = self.window.saturating_sub(self.under_way.len());
        let room_again = (self.window / 2).saturating_sub(self.trying_again);
        let mut next: Vec<&(u64, Unit)> = self.ready.iter().take(room).collect();
        next.extend(self.again.iter().take(room_again));
        next.sort();
        next.into_iter().take(room).map(|(_, unit)| unit.clone()).collect()
    }

    /// The report left as message `msg_id`.
    pub fn sent(&mut self, unit: &Unit, msg_id: String, marks: Marks, now: Instant) {
        self.lift(unit);
        let Some(entry) = self.units.get_mut(unit) else { return };
        self.trying_again += usize::from(entry.failures > 0);
        self.under_way.insert(msg_id.clone(), unit.clone());
        entry.place = Place::UnderWay { msg_id, marks, deadline: now + CONFIRM_WITHIN };
    }

    /// The cloud confirmed message `msg_id`. The caller marks the unit again if something changed
    /// meanwhile.
    pub fn confirmed(&mut self, msg_id: &str, now: Instant) -> Option<Settled> {
        let unit = self.under_way.get(msg_id)?.clone();
        self.settle(unit, now)
    }

    /// The message cannot be sent, ever.
    pub fn impossible(&mut self, msg_id: &str, now: Instant) -> Option<Settled> {
        self.confirmed(msg_id, now)
    }

    /// The cloud answered `error`: tried again a few times, then given up until the next change.
    pub fn refused(&mut self, msg_id: &str, now: Instant, random: f64) -> Option<Settled> {
        let unit = self.under_way.get(msg_id)?.clone();
        let entry = self.units.get_mut(&unit)?;
        entry.refusals += 1;
        if entry.refusals >= MAX_REFUSALS {
            return self.settle(unit, now);
        }
        self.later(&unit, now, random);
        None
    }

    /// The message did not leave, or nobody knows.
    pub fn failed(&mut self, msg_id: &str, now: Instant, random: f64) {
        if let Some(unit) = self.under_way.get(msg_id).cloned() {
            self.later(&unit, now, random);
        }
    }

    /// Time passed. `random` is uniform in 0.0..1.0.
    pub fn tick(&mut self, now: Instant, mut random: impl FnMut() -> f64) {
        let late = |unit: &&Unit| match self.units.get(*unit).map(|entry| &entry.place) {
            Some(Place::UnderWay { deadline, .. }) => *deadline <= now,
            _ => false,
        };
        let late: Vec<Unit> = self.under_way.values().filter(late).cloned().collect();
        for unit in late {
            self.later(&unit, now, random());
        }
        while let Some((due, unit)) = self.waiting.first().cloned() {
            if due > now {
                break;
            }
            self.make_ready(&unit);
        }
    }

    /// A session opened or ended: what was under way may be lost, and whatever waits is due.
    pub fn link_changed(&mut self, connected: bool) {
        self.connected = connected;
        let all: Vec<Unit> = self.units.keys().cloned().collect();
        for unit in all {
            self.lift(&unit);
            if let Some(entry) = self.units.get_mut(&unit) {
                entry.failures = 0;
                entry.place = Place::Ready;
                self.ready.insert((entry.since, unit));
            }
        }
    }

    /// The unit has nothing to tell any more.
    pub fn forget(&mut self, unit: &Unit) {
        self.lift(unit);
        self.units.remove(unit);
    }

    fn settle(&mut self, unit: Unit, now: Instant) -> Option<Settled> {
        self.lift(&unit);
        let entry = self.units.remove(&unit)?;
        let took = now.saturating_duration_since(entry.begun);
        match entry.place {
            Place::UnderWay { marks, .. } => Some(Settled { unit, marks, took }),
            Place::Ready | Place::Waiting { .. } => None,
        }
    }

    fn later(&mut self, unit: &Unit, now: Instant, random: f64) {
        self.lift(unit);
        let Some(entry) = self.units.get_mut(unit) else { return };
        let due = now + spread(doubled(FIRST_RETRY, entry.failures, LAST_RETRY), random);
        entry.failures = entry.failures.saturating_add(1);
        entry.place = Place::Waiting { due };
        self.waiting.insert((due, unit.clone()));
    }

    fn make_ready(&mut self, unit: &Unit) {
        self.lift(unit);
        let Some(entry) = self.units.get_mut(unit) else { return };
        entry.place = Place::Ready;
        let set = if entry.failures > 0 { &mut self.again } else { &mut self.ready };
        set.insert((entry.since, unit.clone()));
    }

    /// Takes the unit out of the set its place stands for.
    fn lift(&mut self, unit: &Unit) {
        let Some(entry) = self.units.get(unit) else { return };
        match &entry.place {
            Place::Ready => {
                let set = if entry.failures > 0 { &mut self.again } else { &mut self.ready };
                set.remove(&(entry.since, unit.clone()));
            }
            Place::Waiting { due } => {
                self.waiting.remove(&(*due, unit.clone()));
            }
            Place::UnderWay { msg_id, .. } => {
                if self.under_way.remove(msg_id).is_some() && entry.failures > 0 {
                    self.trying_again = self.trying_again.saturating_sub(1);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(name: &str) -> Unit {
        Unit { device: DeviceId::new("default", name), kind: Kind::Twin }
    }

    fn names(units: &[Unit]) -> Vec<&str> {
        units.iter().map(|unit| unit.device.name.as_str()).collect()
    }

    fn send(reports: &mut Reports, unit: &Unit, now: Instant) -> String {
        let msg_id = format!("m-{}", unit.device.name);
        reports.sent(unit, msg_id.clone(), Marks::State(1), now);
        msg_id
    }

    #[test]
    fn oldest_change_first_within_the_window() {
        let now = Instant::now();
        let mut reports = Reports::new(2);
        for (name, since) in [("c", 3), ("a", 1), ("b", 2)] {
            reports.mark(unit(name), since, now);
        }
        assert!(reports.take().is_empty(), "no session");
        reports.link_changed(true);
        assert_eq!(names(&reports.take()), ["a", "b"]);
        let first = send(&mut reports, &unit("a"), now);
        send(&mut reports, &unit("b"), now);
        assert!(reports.take().is_empty(), "the window is full");
        reports.mark(unit("a"), 4, now);
        let settled = reports.confirmed(&first, now + Duration::from_secs(1)).unwrap();
        assert_eq!(
            (settled.unit, settled.marks, settled.took),
            (unit("a"), Marks::State(1), Duration::from_secs(1))
        );
        assert_eq!(reports.confirmed(&first, now), None, "told twice");
        reports.mark(unit("a"), 4, now);
        assert_eq!(names(&reports.take()), ["c"], "behind what waits longer");
    }

    #[test]
    fn unanswered_reports_go_again_with_a_growing_pause_and_at_once_in_a_new_session() {
        let mut now = Instant::now();
        let mut reports = Reports::new(4);
        reports.link_changed(true);
        reports.mark(unit("a"), 1, now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            send(&mut reports, &unit("a"), now);
            now += CONFIRM_WITHIN;
            reports.tick(now, || 0.0);
            let begun = now;
            while reports.take().is_empty() {
                now += Duration::from_millis(500);
                reports.tick(now, || 0.0);
            }
            pauses.push((now - begun).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        let msg_id = send(&mut reports, &unit("a"), now);
        reports.failed(&msg_id, now, 0.0);
        assert!(reports.take().is_empty());
        reports.link_changed(false);
        reports.link_changed(true);
        assert_eq!(names(&reports.take()), ["a"]);
        assert_eq!((reports.len(), reports.under_way.len()), (1, 0));
    }

    #[test]
    fn what_the_cloud_refuses_is_given_up_and_what_it_never_confirms_holds_up_nobody() {
        let mut now = Instant::now();
        let mut reports = Reports::new(4);
        reports.link_changed(true);
        for (name, since) in [("x1", 1), ("x2", 2), ("x3", 3), ("x4", 4)] {
            reports.mark(unit(name), since, now);
        }
        for unit in reports.take() {
            send(&mut reports, &unit, now);
        }
        now += CONFIRM_WITHIN;
        reports.tick(now, || 0.0);
        reports.mark(unit("good1"), 5, now);
        reports.mark(unit("good2"), 6, now);
        now += FIRST_RETRY;
        reports.tick(now, || 0.0);
        assert_eq!(names(&reports.take()), ["x1", "x2", "good1", "good2"]);
        let msg_id = send(&mut reports, &unit("x1"), now);
        assert_eq!(reports.refused(&msg_id, now, 0.0), None);
        for _ in 0..2 {
            now += LAST_RETRY;
            reports.tick(now, || 0.0);
            let msg_id = send(&mut reports, &unit("x1"), now);
            if let Some(settled) = reports.refused(&msg_id, now, 0.0) {
                assert_eq!(settled.unit, unit("x1"));
                reports.forget(&unit("x2"));
                assert_eq!(reports.len(), 4);
                return;
            }
        }
        panic!("never given up");
    }
}
