//! What of the wanted is still to do, and when to look again. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::read::{Key, Manifest, Wanted};
use crate::supervise::doubled;

/// Pause between looks at the folder.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Longest pause while something does not succeed.
const LONGEST: Duration = Duration::from_secs(60);

/// What became of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Created,
    Changed,
    /// The API has it from this very document.
    Kept,
    Failed(String),
}

/// Something for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    Applied(String),
    Trouble(String),
}

/// Remembers what was done in this life of the actor.
#[derive(Debug, Default)]
pub struct Plan {
    done: BTreeMap<Key, String>,
    /// Said already; each trouble is told once while it lasts.
    told: BTreeSet<String>,
    wrong: BTreeSet<String>,
    failures: u32,
}

impl Plan {
    /// What to apply now.
    pub fn due(&mut self, wanted: Wanted) -> Vec<Manifest> {
        self.wrong = wanted.wrong.into_iter().collect();
        let fresh = |manifest: &Manifest| self.done.get(&manifest.key) != Some(&manifest.digest);
        wanted.manifests.into_iter().filter(fresh).collect()
    }

    /// Takes what came of it.
    pub fn settle(&mut self, outcomes: Vec<(Key, String, Outcome)>) -> Vec<Note> {
        let mut notes = Vec::new();
        let mut trouble = std::mem::take(&mut self.wrong);
        let mut failed = false;
        for (key, digest, outcome) in outcomes {
            match outcome {
                Outcome::Created => notes.push(Note::Applied(format!("{key} created"))),
                Outcome::Changed => notes.push(Note::Applied(format!("{key} changed"))),
                Outcome::Kept => {}
                Outcome::Failed(why) => {
                    failed = true;
                    trouble.insert(format!("{key}: {why}"));
                    continue;
                }
            }
            self.done.insert(key, digest);
        }
        notes.extend(trouble.difference(&self.told).cloned().map(Note::Trouble));
        self.told = trouble;
        self.failures = if failed { self.failures.saturating_add(1) } else { 0 };
        notes
    }

    /// How long to wait before the next look.
    pub fn pause(&self) -> Duration {
        match self.failures.checked_sub(1) {
            None => LOOK_EVERY,
            Some(earlier) => doubled(LOOK_EVERY / 5, earlier, LONGEST),
        }
    }
}
