//! The live supervision tree of this program, as an event of the stream. Many streams share one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::Value;

use super::protocol::Change;
use super::stream::encode;
use crate::model::unix_ms;
use crate::supervise::TreeHandle;

/// A tree is looked at no more often than this, whatever the number of streams.
const FRESH: Duration = Duration::from_secs(1);

/// The tree of this program.
pub struct OwnTree {
    handle: TreeHandle,
    /// `cloudcore`, or the node's name.
    source: String,
    newest: Mutex<Option<(Instant, Framed)>>,
}

/// A tree as it goes to the page.
#[derive(Debug, Clone)]
pub struct Framed {
    /// The same as long as the tree looks the same, but for its uptime.
    pub print: u64,
    pub frame: Bytes,
}

impl OwnTree {
    #[must_use]
    pub fn new(handle: TreeHandle, source: impl Into<String>) -> Self {
        Self { handle, source: source.into(), newest: Mutex::new(None) }
    }

    /// The tree as it is now, or was a moment ago.
    #[must_use]
    pub fn look(&self) -> Option<Framed> {
        let mut newest = self.newest.lock();
        if let Some((at, framed)) = &*newest
            && at.elapsed() < FRESH
        {
            return Some(framed.clone());
        }
        let tree = serde_json::to_value(self.handle.snapshot()).ok()?;
        let framed = frame(&self.source, now_ms(), tree)?;
        *newest = Some((Instant::now(), framed.clone()));
        Some(framed)
    }
}

/// A tree that came from elsewhere.
#[must_use]
pub fn frame(source: &str, at_ms: u64, tree: Value) -> Option<Framed> {
    let mut hasher = DefaultHasher::new();
    for (name, part) in tree.as_object().into_iter().flatten() {
        if name != "uptime_seconds" {
            (name, part.to_string()).hash(&mut hasher);
        }
    }
    let frame = encode(&Change::Actors { source: source.to_owned(), at_ms, tree }).ok()?;
    Some(Framed { print: hasher.finish(), frame })
}

/// This machine's clock.
#[must_use]
pub fn now_ms() -> u64 {
    u64::try_from(unix_ms(SystemTime::now())).unwrap_or_default()
}
