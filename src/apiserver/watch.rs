//! Watches: one stream of JSON lines per client, fed from the history of its kind.
//!
//! A watch has no queue of its own. It remembers the version it has sent up to and reads on from
//! the shared history when its kind changes; a client so slow that the history has moved past it
//! gets a 410 and lists again. So a thousand slow clients cost what one costs.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use serde_json::Value;
use tokio::time::Instant;

use super::core::ApiCore;
use super::errors::ApiError;
use super::object::{self, Filter, Stored};
use super::query::Query;
use super::registry::Change;
use super::render::Renderer;

/// Changes read from the history at once.
const READ_AT_ONCE: usize = 256;
/// Bytes rendered at once, and the rest of an object: HTTP takes a piece whole, whether or not its client reads.
const SEND_AT_ONCE: usize = 32 << 10;
/// Pause between bookmarks.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// Life of a watch that names no timeout: this, and up to as much again.
const DEFAULT_LIFE_SECS: u64 = 1800;

struct Watch {
    core: Arc<ApiCore>,
    filter: Filter,
    renderer: Renderer,
    /// Everything up to this version has been sent.
    cursor: u64,
    initial: VecDeque<Arc<Stored>>,
    end_initial: bool,
    bookmarks: bool,
    columns_sent: bool,
    deadline: Instant,
    next_bookmark: Instant,
    signal: tokio::sync::watch::Receiver<u64>,
    ended: bool,
    _open: OpenWatch,
}

/// Counts an open watch.
struct OpenWatch(metrics::Gauge);

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.decrement(1);
    }
}

/// Starts a watch.
///
/// # Errors
/// 410 when the history does not reach back to the version asked for, 504 for one of the future.
pub fn start(
    core: &Arc<ApiCore>,
    filter: Filter,
    renderer: Renderer,
    query: &Query,
) -> Result<BoxStream<'static, Bytes>, ApiError> {
    let kind = renderer.kind;
    let mut signal = core.signal(kind);
    let asked = query.resource_version.unwrap_or(0);
    let with_initial = query.send_initial_events || asked == 0;
    let (cursor, initial) = core.read(|registry| {
        let visible = registry.visible();
        if asked > visible {
            return Err(ApiError::too_new(asked, visible));
        }
        if !with_initial {
            registry.changes_since(kind, asked, 0).map_err(|old| ApiError::expired(asked, old.oldest))?;
            return Ok((asked, VecDeque::new()));
        }
        let objects = registry
            .list(kind, filter.namespace.as_deref(), None)
            .filter(|object| filter.matches(kind, object))
            .map(Arc::clone);
        Ok((visible, objects.collect()))
    })?;
    signal.mark_changed();
    let life = query.timeout_secs.unwrap_or_else(|| DEFAULT_LIFE_SECS + fastrand::u64(..DEFAULT_LIFE_SECS));
    let now = Instant::now();
    core.metrics.watchers.increment(1);
    let watch = Watch {
        core: Arc::clone(core),
        filter,
        renderer,
        cursor,
        initial,
        end_initial: query.send_initial_events && query.bookmarks,
        bookmarks: query.bookmarks,
        columns_sent: false,
        deadline: now + Duration::from_secs(life.min(24 * 3600)),
        next_bookmark: now + BOOKMARK_EVERY,
        signal,
        ended: false,
        _open: OpenWatch(core.metrics.watchers.clone()),
    };
    Ok(stream::unfold(watch, |mut watch| async move { watch.next().await.map(|bytes| (bytes, watch)) })
        .boxed())
}

impl Watch {
    /// The next lines; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.ended {
                return None;
            }
            if !self.initial.is_empty() {
                let mut lines = Vec::new();
                while lines.len() < SEND_AT_ONCE
                    && let Some(object) = self.initial.pop_front()
                {
                    self.line(&mut lines, "ADDED", &object);
                }
                return Some(lines.into());
            }
            if std::mem::take(&mut self.end_initial) {
                return Some(self.bookmark(self.cursor, true));
            }
            self.signal.borrow_and_update();
            // Ages in a Table are counted from the moment the row is sent.
            self.renderer.now = self.core.now();
            let kind = self.renderer.kind;
            let (changes, visible) = self.core.read(|registry| {
                (registry.changes_since(kind, self.cursor, READ_AT_ONCE), registry.visible())
            });
            let changes = match changes {
                Ok(changes) => changes,
                Err(old) => return Some(self.too_slow(old.oldest)),
            };
            if !changes.is_empty() {
                let mut lines = Vec::new();
                for change in &changes {
                    self.cursor = change.after.version;
                    self.change(&mut lines, change);
                    if lines.len() >= SEND_AT_ONCE {
                        break;
                    }
                }
                if !lines.is_empty() {
                    return Some(lines.into());
                }
                continue;
            }
            if !self.pause().await {
                return None;
            }
            let now = Instant::now();
            let over = now >= self.deadline;
            if over || now >= self.next_bookmark {
                self.next_bookmark = now + BOOKMARK_EVERY;
                self.ended = over;
                if self.bookmarks {
                    // `visible` was read together with "nothing more for this kind".
                    self.cursor = self.cursor.max(visible);
                    return Some(self.bookmark(visible, false));
                }
            }
        }
    }

    /// Waits for a change, a bookmark or the end. `false`: the server is gone.
    async fn pause(&mut self) -> bool {
        let wake = self.deadline.min(self.next_bookmark);
        tokio::select! {
            changed = self.signal.changed() => changed.is_ok(),
            () = tokio::time::sleep_until(wake) => true,
        }
    }

    fn change(&mut self, lines: &mut Vec<u8>, change: &Change) {
        let kind = self.renderer.kind;
        let was = change.before.as_ref().filter(|before| self.filter.matches(kind, before));
        let is = !change.removed && self.filter.matches(kind, &change.after);
        match (was, is) {
            (None, true) => self.line(lines, "ADDED", &change.after),
            (Some(_), true) => self.line(lines, "MODIFIED", &change.after),
            (Some(_), false) if change.removed => self.line(lines, "DELETED", &change.after),
            (Some(before), false) => {
                // It left the selection: its last matching state, with the version of the change.
                if let Ok(gone) = at_version(before, change) {
                    self.line(lines, "DELETED", &gone);
                }
            }
            (None, false) => {}
        }
    }

    fn line(&mut self, lines: &mut Vec<u8>, word: &str, object: &Stored) {
        match self.renderer.event_object(object, !self.columns_sent) {
            Ok(bytes) => {
                self.columns_sent = true;
                push_event(lines, word, &bytes);
            }
            Err(err) => tracing::error!(%err, "object cannot be sent to a watch"),
        }
    }

    fn bookmark(&self, version: u64, initial_end: bool) -> Bytes {
        let mut lines = Vec::new();
        let object = self.renderer.bookmark(version, initial_end).to_string();
        push_event(&mut lines, "BOOKMARK", object.as_bytes());
        lines.into()
    }

    fn too_slow(&mut self, oldest: u64) -> Bytes {
        self.ended = true;
        self.core.metrics.watchers_lost.increment(1);
        let mut lines = Vec::new();
        let status = ApiError::expired(self.cursor, oldest).body().to_string();
        push_event(&mut lines, "ERROR", status.as_bytes());
        lines.into()
    }
}

fn at_version(before: &Stored, change: &Change) -> Result<Stored, ApiError> {
    let mut value: Value = before.value()?;
    let version = change.after.version;
    object::metadata(&mut value).insert("resourceVersion".into(), version.to_string().into());
    Stored::new(change.kind, version, before.written_secs, &value)
}

fn push_event(lines: &mut Vec<u8>, word: &str, object: &[u8]) {
    lines.extend_from_slice(b"{\"type\":\"");
    lines.extend_from_slice(word.as_bytes());
    lines.extend_from_slice(b"\",\"object\":");
    lines.extend_from_slice(object);
    lines.extend_from_slice(b"}\n");
}
