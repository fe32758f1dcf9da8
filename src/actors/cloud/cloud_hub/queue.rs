//! What one node still has to get: latest wins per object, deletes keep their place, a bounded
//! number unacknowledged at once (design D6, protocol section 4). No clock, no I/O.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::class;
use crate::bus::cloud_hub::Outgoing;

/// First resend of an unacknowledged message; the pause doubles from there (protocol section 4.2).
const RESEND_AFTER: Duration = Duration::from_secs(5);
/// Longest pause between two resends.
const RESEND_CAP: Duration = Duration::from_secs(80);
/// Deleted uids remembered, so that a late update cannot bring an object back.
const TOMBSTONES: usize = 1_024;

/// How much may wait for one node.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Messages, sent or not.
    pub messages: usize,
    /// Bytes of their frames.
    pub bytes: usize,
    /// Messages unacknowledged at once.
    pub window: usize,
}

/// A queue may hold so much however full the others are: healthy nodes do not pay for stuck ones.
const OWN_BYTES: usize = 1 << 20;

/// What waits in all queues together.
#[derive(Debug)]
pub struct Total {
    bytes: AtomicUsize,
    limit: usize,
}

impl Total {
    /// `limit` bytes of frames may wait in all.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { bytes: AtomicUsize::new(0), limit }
    }

    /// What waits now.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.bytes.load(Ordering::Relaxed).saturating_add(bytes) <= self.limit
    }

    fn add(&self, bytes: usize) {
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn take(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What became of a pushed message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushed {
    Queued,
    /// Something newer about the same object is already on its way, or was.
    Outdated,
    /// There is no room: the session must end, the next one compares.
    Full,
}

/// An acknowledged message and how long the edge took since it was first sent.
#[derive(Debug)]
pub struct Acked {
    pub message: Arc<Outgoing>,
    pub waited: Duration,
}

#[derive(Debug, Clone)]
struct Item {
    message: Arc<Outgoing>,
    frame: Bytes,
    uid: Option<String>,
    version: Option<u64>,
    delete: bool,
    /// A delete after which the object never comes back.
    last: bool,
    /// The object carries a deletionTimestamp, which never goes away again.
    terminating: bool,
}

#[derive(Debug)]
struct InFlight {
    lane: String,
    item: Item,
    first_sent: Instant,
    sent: Instant,
    resend_at: Instant,
    pause: Duration,
}

/// Changes of one object name, in order: a delete and the re-creation behind it share a lane.
#[derive(Debug, Default)]
struct Lane {
    unsent: VecDeque<Item>,
    /// One message of this lane is unacknowledged: the next one waits.
    busy: bool,
    /// The lane stands in `Queue::ready`.
    listed: bool,
}

/// The queue of one session.
#[derive(Debug)]
pub struct Queue {
    limits: Limits,
    /// Replies and other messages that nobody acknowledges: in order, sent once.
    untracked: VecDeque<Bytes>,
    untracked_bytes: usize,
    /// By resource text. A lane exists while it has something unsent or unacknowledged.
    lanes: HashMap<String, Lane>,
    /// Lanes with something to send and nothing in flight, first come first served.
    ready: VecDeque<String>,
    in_flight: Vec<InFlight>,
    deleted: HashSet<String>,
    deleted_order: VecDeque<String>,
    messages: usize,
    bytes: usize,
    total: Arc<Total>,
}

impl Queue {
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            untracked: VecDeque::new(),
            untracked_bytes: 0,
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            in_flight: Vec::new(),
            deleted: HashSet::new(),
            deleted_order: VecDeque::new(),
            messages: 0,
            bytes: 0,
            total: Arc::new(Total::new(usize::MAX)),
        }
    }

    /// An empty queue's bytes count into `total` from now on.
    #[must_use]
    pub fn sharing(mut self, total: &Arc<Total>) -> Self {
        self.total = Arc::clone(total);
        self
    }

    /// Takes a message whose frame was encoded by the caller.
    pub fn push(&mut self, message: Arc<Outgoing>, frame: Bytes) -> Pushed {
        if !class::is_tracked(&message) {
            if !self.has_room(&frame) {
                return Pushed::Full;
            }
            self.count_in(&frame);
            self.untracked_bytes += frame.len();
            self.untracked.push_back(frame);
            return Pushed::Queued;
        }
        let lane_name = message.route.resource.to_string();
        let item = Item {
            uid: class::uid(&message).map(str::to_owned),
            version: class::version(&message),
            delete: class::is_delete(&message),
            last: class::is_delete(&message) && !message.leaves(),
            terminating: class::is_terminating(&message),
            message,
            frame,
        };
        if self.is_outdated(&lane_name, &item) {
            return Pushed::Outdated;
        }
        self.drop_superseded(&lane_name, &item);
        if !self.has_room(&item.frame) {
            return Pushed::Full; // the session ends now: what was dropped above is compared again
        }
        self.count_in(&item.frame);
        if item.last
            && let Some(uid) = &item.uid
        {
            self.bury(uid.clone());
        }
        let lane = self.lanes.entry(lane_name.clone()).or_default();
        lane.unsent.push_back(item);
        if !lane.busy && !lane.listed {
            lane.listed = true;
            self.ready.push_back(lane_name);
        }
        Pushed::Queued
    }

    /// The next frame to write, or `None` when there is nothing to do before
    /// [`Queue::next_deadline`] or an acknowledgement.
    pub fn next(&mut self, now: Instant) -> Option<Bytes> {
        if let Some(frame) = self.untracked.pop_front() {
            self.count_out(frame.len());
            self.untracked_bytes -= frame.len();
            return Some(frame);
        }
        if let Some(index) = self.in_flight.iter().position(|sent| sent.resend_at <= now) {
            return self.resend(index, now);
        }
        if self.in_flight.len() >= self.limits.window {
            return None;
        }
        let lane_name = self.ready.pop_front()?;
        let lane = self.lanes.get_mut(&lane_name)?;
        lane.listed = false;
        let item = lane.unsent.pop_front()?;
        lane.busy = true;
        let frame = item.frame.clone();
        self.in_flight.push(InFlight {
            lane: lane_name,
            item,
            first_sent: now,
            sent: now,
            resend_at: now + RESEND_AFTER,
            pause: RESEND_AFTER,
        });
        Some(frame)
    }

    /// The edge has `msg_id` on disk. `None` when nothing unacknowledged has that id.
    pub fn ack(&mut self, msg_id: &str, now: Instant) -> Option<Acked> {
        let index = self.in_flight.iter().position(|sent| sent.item.message.header.msg_id == msg_id)?;
        let sent = self.in_flight.swap_remove(index);
        self.count_out(sent.item.frame.len());
        if let Some(lane) = self.lanes.get_mut(&sent.lane) {
            lane.busy = false;
            if lane.unsent.is_empty() {
                self.lanes.remove(&sent.lane);
            } else if !lane.listed {
                lane.listed = true;
                self.ready.push_back(sent.lane);
            }
        }
        let waited = now.saturating_duration_since(sent.first_sent);
        self.wait_behind(waited, now);
        Some(Acked { message: sent.item.message, waited })
    }

    /// One took so long, and others stand behind it on the same line: a copy of each would only make that longer. None waits
    /// for more than [`RESEND_CAP`].
    fn wait_behind(&mut self, waited: Duration, now: Instant) {
        let pause = (waited * 2).clamp(RESEND_AFTER, RESEND_CAP);
        for sent in &mut self.in_flight {
            sent.resend_at = sent.resend_at.max((now + pause).min(sent.sent + RESEND_CAP));
        }
    }

    /// The line is busy: what is due may not even have left yet. A line may be busy for ever: nothing waits for more than
    /// [`RESEND_CAP`] here either.
    pub fn postpone(&mut self, now: Instant) {
        for sent in self.in_flight.iter_mut().filter(|sent| sent.resend_at <= now) {
            sent.resend_at = sent.resend_at.max((now + RESEND_AFTER).min(sent.sent + RESEND_CAP));
        }
    }

    /// When the oldest unacknowledged message is due again.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.in_flight.iter().map(|sent| sent.resend_at).min()
    }

    /// Messages sent and not acknowledged.
    #[must_use]
    pub fn unacked(&self) -> usize {
        self.in_flight.len()
    }

    /// Bytes of what nobody acknowledges and was not sent yet.
    #[must_use]
    pub fn untracked_bytes(&self) -> usize {
        self.untracked_bytes
    }

    /// Messages of all kinds, sent and unsent.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.messages
    }

    /// Sends an unacknowledged message again, or what replaced it meanwhile.
    fn resend(&mut self, index: usize, now: Instant) -> Option<Bytes> {
        let sent = self.in_flight.get(index)?;
        let lane = self.lanes.get_mut(&sent.lane);
        let replacement = lane.and_then(|lane| {
            let same = lane.unsent.front().is_some_and(|next| next.uid == sent.item.uid);
            if same { lane.unsent.pop_front() } else { None }
        });
        let sent = self.in_flight.get_mut(index)?;
        let mut freed = 0;
        if let Some(item) = replacement {
            freed = sent.item.frame.len();
            sent.item = item;
            sent.pause = RESEND_AFTER;
        } else {
            sent.pause = (sent.pause * 2).min(RESEND_CAP);
        }
        (sent.sent, sent.resend_at) = (now, now + sent.pause);
        let frame = sent.item.frame.clone();
        if freed > 0 {
            self.count_out(freed);
        }
        Some(frame)
    }

    /// Is something newer about the same object already here, sent, or was it deleted?
    fn is_outdated(&self, lane: &str, new: &Item) -> bool {
        let gone = new.uid.as_ref().is_some_and(|uid| self.deleted.contains(uid));
        if gone && !new.delete {
            return true;
        }
        let sent = self.in_flight.iter().find(|sent| sent.lane == lane).map(|sent| (&sent.item, true));
        let waiting =
            self.lanes.get(lane).into_iter().flat_map(|lane| &lane.unsent).map(|item| (item, false));
        let same = sent.into_iter().chain(waiting).filter(|(old, _)| old.uid == new.uid);
        let mut since_leaving = Vec::new();
        let mut gone = false;
        for (old, in_flight) in same {
            gone = old.delete && (old.last || !new.last);
            if old.delete && !old.last {
                since_leaving.clear();
            } else {
                since_leaving.push((old, in_flight));
            }
        }
        if new.delete {
            return gone;
        }
        since_leaving.into_iter().any(|(old, in_flight)| {
            if new.uid.is_some() && (old.delete || (old.terminating && !new.terminating)) {
                return true;
            }
            match (old.version, new.version) {
                (Some(old), Some(new)) if in_flight => new <= old,
                (Some(old), Some(new)) => new < old,
                _ => false,
            }
        })
    }

    /// Removes unsent updates of the same object: the new message says more.
    fn drop_superseded(&mut self, lane: &str, new: &Item) {
        let Some(lane) = self.lanes.get_mut(lane) else { return };
        let (mut messages, mut bytes) = (0, 0);
        lane.unsent.retain(|old| {
            let keep = old.uid != new.uid || old.delete;
            if !keep {
                messages += 1;
                bytes += old.frame.len();
            }
            keep
        });
        self.messages = self.messages.saturating_sub(messages);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.total.take(bytes);
    }

    fn bury(&mut self, uid: String) {
        if self.deleted.insert(uid.clone()) {
            self.deleted_order.push_back(uid);
        }
        while self.deleted_order.len() > TOMBSTONES {
            if let Some(oldest) = self.deleted_order.pop_front() {
                self.deleted.remove(&oldest);
            }
        }
    }

    fn has_room(&self, frame: &Bytes) -> bool {
        let bytes = self.bytes.saturating_add(frame.len());
        self.messages < self.limits.messages
            && bytes <= self.limits.bytes
            && (bytes <= OWN_BYTES || self.total.has_room(frame.len()))
    }

    fn count_in(&mut self, frame: &Bytes) {
        self.messages += 1;
        self.bytes = self.bytes.saturating_add(frame.len());
        self.total.add(frame.len());
    }

    fn count_out(&mut self, bytes: usize) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.total.take(bytes);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.total.take(self.bytes);
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
