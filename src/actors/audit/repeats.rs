//! Refusals that repeat become one record with a count, so that whoever is refused without end cannot
//! push the history of everything else out of the log. Pure.
//!
//! A refusal is recorded at once when it comes for the first time in a minute. The same one again (same
//! action, actor, subject and reason) is only counted; after the minute the count is recorded, if there is one.
//! An actor that finds ever new words has so many records a minute, the rest is counted too.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use crate::bus::identity::{AuditAction, AuditFact};

/// How long the same refusal is only counted.
const WINDOW: Duration = Duration::from_secs(60);
/// Different refusals of one actor that are recorded in a window.
const MAX_OF_ACTOR: usize = 32;
/// Actors told apart in a window; all others are one.
const MAX_ACTORS: usize = 512;

/// What a refusal is the same by.
type Key = (AuditAction, String, String);

/// A refusal that was recorded, and what came after it.
#[derive(Debug)]
struct Seen {
    last: AuditFact,
    more: u64,
}

#[derive(Debug)]
struct Actor {
    since: SystemTime,
    seen: HashMap<Key, Seen>,
    /// Of any other kind, and the last of them.
    others: u64,
    last: Option<AuditFact>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    actors: HashMap<String, Actor>,
}

impl Repeats {
    /// What of a fact is to be recorded now: the fact itself, or nothing.
    pub fn admit(&mut self, fact: AuditFact, now: SystemTime) -> Option<AuditFact> {
        if fact.allowed {
            return Some(fact);
        }
        let mut name = actor(&fact);
        if !self.actors.contains_key(&name) && self.actors.len() >= MAX_ACTORS {
            name = String::new();
        }
        let actor = self.actors.entry(name).or_insert_with(|| Actor {
            since: now,
            seen: HashMap::new(),
            others: 0,
            last: None,
        });
        let key = (fact.action, fact.subject.clone(), fact.reason.clone());
        if let Some(seen) = actor.seen.get_mut(&key) {
            seen.more += 1;
            seen.last = fact;
            return None;
        }
        if actor.seen.len() >= MAX_OF_ACTOR {
            actor.others += 1;
            actor.last = Some(fact);
            return None;
        }
        actor.seen.insert(key, Seen { last: fact.clone(), more: 0 });
        Some(fact)
    }

    /// The counts of windows that are over. A clock that was set back ends them too.
    pub fn due(&mut self, now: SystemTime) -> Vec<AuditFact> {
        let is_over = |actor: &Actor| now.duration_since(actor.since).map_or(true, |age| age >= WINDOW);
        self.take(is_over)
    }

    /// All counts, when the log ends.
    pub fn drain(&mut self) -> Vec<AuditFact> {
        self.take(|_| true)
    }

    fn take(&mut self, is_over: impl Fn(&Actor) -> bool) -> Vec<AuditFact> {
        let mut counts = Vec::new();
        self.actors.retain(|_, actor| {
            if !is_over(actor) {
                return true;
            }
            let repeated = actor.seen.drain().map(|(_, seen)| seen).filter(|seen| seen.more > 0);
            counts.extend(repeated.map(|seen| counted(seen.last, "repeated", seen.more)));
            counts.extend(actor.last.take().map(|last| counted(last, "others", actor.others)));
            false
        });
        // A hash map has no order; the log has.
        counts.sort_by(|a, b| (&a.subject, &a.reason).cmp(&(&b.subject, &b.reason)));
        counts
    }
}

fn counted(fact: AuditFact, word: &str, count: u64) -> AuditFact {
    fact.with(word, count.to_string()).with("within", "60s")
}

/// Who was refused: where it came from, without the port, or whom it is about.
fn actor(fact: &AuditFact) -> String {
    match fact.details.get("address").filter(|address| !address.is_empty()) {
        Some(address) => match address.parse::<std::net::SocketAddr>() {
            Ok(socket) => socket.ip().to_string(),
            Err(_) => address.clone(),
        },
        None => fact.subject.clone(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(secs: u64) -> SystemTime {
        START + Duration::from_secs(1_000 + secs)
    }

    fn refusal(address: &str, why: &str) -> AuditFact {
        AuditFact::new(AuditAction::Refuse, "edge-1", false, why).with("address", address)
    }

    #[test]
    fn the_same_is_recorded_once_and_counted() {
        let mut repeats = Repeats::default();
        assert!(repeats.admit(refusal("10.0.0.1:1", "no"), at(0)).is_some());
        for port in 2..12 {
            assert_eq!(repeats.admit(refusal(&format!("10.0.0.1:{port}"), "no"), at(1)), None);
        }
        for fact in [
            refusal("10.0.0.2:1", "no"),
            refusal("10.0.0.1:1", "another word"),
            AuditFact::new(AuditAction::Join, "edge-1", true, ""),
            AuditFact::new(AuditAction::Join, "edge-1", true, ""),
        ] {
            assert!(repeats.admit(fact, at(2)).is_some());
        }
        assert_eq!(repeats.due(at(59)), []);
        let counts = repeats.due(at(61));
        assert_eq!(counts.len(), 1, "what came once is not counted: {counts:?}");
        assert_eq!(counts[0].details["repeated"], "10");
        assert_eq!(counts[0].details["address"], "10.0.0.1:11", "the last one tells");
        assert!(repeats.admit(refusal("10.0.0.1:1", "no"), at(62)).is_some(), "a new minute, a new record");
        assert!(!repeats.due(at(0)).is_empty() || repeats.actors.is_empty(), "a clock set back ends windows");
        repeats.admit(refusal("10.0.0.1:1", "no"), at(63));
        repeats.admit(refusal("10.0.0.1:1", "no"), at(63));
        assert_eq!(repeats.drain().len(), 1);
        assert_eq!(repeats.drain(), []);
    }

    #[test]
    fn ever_new_words_are_bounded_too() {
        let mut repeats = Repeats::default();
        let recorded =
            (0..1_000).filter(|n| repeats.admit(refusal("10.0.0.1:1", &format!("why {n}")), at(0)).is_some());
        assert_eq!(recorded.count(), MAX_OF_ACTOR);
        let counts = repeats.due(at(60));
        assert_eq!(counts.len(), 1);
        assert_eq!(counts[0].details["others"], (1_000 - MAX_OF_ACTOR).to_string());
        let recorded = (0..10_000).filter(|n| {
            let address = format!("10.{}.{}.1:1", n / 256, n % 256);
            repeats.admit(refusal(&address, &format!("why {n}")), at(100)).is_some()
        });
        assert_eq!(recorded.count(), MAX_ACTORS + MAX_OF_ACTOR);
        assert!(repeats.actors.len() <= MAX_ACTORS + 1);
    }

    proptest! {
        /// Nothing is lost: every refusal is recorded or in a count.
        #[test]
        fn records_and_counts_are_all(
            facts in prop::collection::vec((0u8..5, 0u8..40, prop::bool::ANY, 0u64..50), 0..300),
        ) {
            let mut repeats = Repeats::default();
            let (mut now, mut seen, total) = (0, 0u64, facts.len() as u64);
            let counted = |facts: Vec<AuditFact>| -> u64 {
                let count = |fact: &AuditFact| ["repeated", "others"].iter()
                    .filter_map(|word| fact.details.get(*word)).map(|n| n.parse::<u64>().unwrap()).sum::<u64>();
                facts.iter().map(count).sum()
            };
            for (address, why, allowed, pause) in facts {
                now += pause;
                seen += counted(repeats.due(at(now)));
                let mut fact = refusal(&format!("10.0.0.{address}:1"), &why.to_string());
                fact.allowed = allowed;
                seen += u64::from(repeats.admit(fact, at(now)).is_some());
            }
            seen += counted(repeats.drain());
            prop_assert_eq!(seen, total);
        }
    }
}
