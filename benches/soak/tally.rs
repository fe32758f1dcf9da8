//! What was done, how often, and how often it did not work.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Instant;

/// Shared by all who make churn.
pub struct Tally {
    begun: Instant,
    rows: Mutex<BTreeMap<&'static str, Row>>,
}

#[derive(Debug, Clone, Default)]
pub struct Row {
    pub done: u64,
    pub failed: u64,
    /// Of the last failure, with the second it happened at.
    pub why: String,
}

impl Tally {
    pub fn new() -> Self {
        Self { begun: Instant::now(), rows: Mutex::default() }
    }

    /// Counts and hands the outcome on.
    pub fn note<T, E: std::fmt::Display>(&self, what: &'static str, outcome: Result<T, E>) -> Option<T> {
        let mut rows = self.rows.lock().unwrap();
        let row = rows.entry(what).or_default();
        match outcome {
            Ok(value) => {
                row.done += 1;
                Some(value)
            }
            Err(err) => {
                row.failed += 1;
                let at = self.begun.elapsed().as_secs();
                row.why = format!("at {at} s: {}", err.to_string().chars().take(300).collect::<String>());
                eprintln!("{what}: {}", row.why);
                None
            }
        }
    }

    pub fn rows(&self) -> BTreeMap<&'static str, Row> {
        self.rows.lock().unwrap().clone()
    }
}
