//! What an edge says about itself: its metrics and its actors (ours; resource `node/report`).

use std::time::{Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::unix_ms;

/// Longest JSON of the actors that travels, bytes.
pub const MAX_ACTORS_BYTES: usize = 32 << 10;

/// One report. There is no answer: a report that does not follow the last one is not used, and the
/// next full one mends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeReport {
    /// 0: the metrics are complete. Otherwise one more than that of the report before.
    pub sequence: u32,
    /// Seconds between two reports.
    pub interval_secs: u32,
    /// What changed in the metrics since the report before: base64 of gzip of the text that
    /// `wire::node_report` describes.
    pub metrics: String,
    /// The actors as `/actors` shows them, when they changed: base64 of gzip of JSON.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actors: Option<String>,
}

/// A point in time on both clocks: the one that only goes forward, and the one people read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    pub at: Instant,
    /// Unix milliseconds.
    pub unix_ms: i64,
}

impl Moment {
    #[must_use]
    pub fn now() -> Self {
        Self { at: Instant::now(), unix_ms: unix_ms(SystemTime::now()) }
    }
}
