//! What an acknowledgement waits for: rows to be on disk, edgecore to take a message.

use super::broker::ConnId;
use super::packet::PacketId;
use super::trie::SessionIndex;

pub type PromiseId = usize;

/// A session that may have ended meanwhile: its number must still be the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionRef {
    pub index: SessionIndex,
    pub number: u64,
}

/// What becomes of the id of an incoming QoS 2 message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Kept until PUBREL; forgotten if the promise fails.
    Hold,
    /// Forgotten; kept if the promise fails.
    Release,
}

#[derive(Debug, Default)]
pub struct Promise {
    outstanding: usize,
    pub failed: bool,
    /// Places in the ack queues of connections.
    pub waiters: Vec<(ConnId, u64)>,
    pub inbound: Option<(SessionRef, PacketId, Fate)>,
    /// Promises that wait for this one.
    pub chained: Vec<PromiseId>,
}

#[derive(Debug, Default)]
pub struct Promises {
    open: slab::Slab<Promise>,
}

impl Promises {
    /// A promise its maker holds: settle it once more when all it waits for is added.
    pub fn open(&mut self) -> PromiseId {
        self.open.insert(Promise { outstanding: 1, ..Promise::default() })
    }

    /// One more thing to wait for.
    pub fn add(&mut self, id: PromiseId) {
        if let Some(promise) = self.open.get_mut(id) {
            promise.outstanding += 1;
        }
    }

    pub fn get_mut(&mut self, id: PromiseId) -> Option<&mut Promise> {
        self.open.get_mut(id)
    }

    /// One thing has come or failed. Returns the promise when it was the last.
    pub fn settle(&mut self, id: PromiseId, ok: bool) -> Option<Promise> {
        let promise = self.open.get_mut(id)?;
        promise.failed |= !ok;
        promise.outstanding = promise.outstanding.saturating_sub(1);
        if promise.outstanding == 0 { self.open.try_remove(id) } else { None }
    }
}

#[cfg(test)]
impl Promises {
    pub fn len(&self) -> usize {
        self.open.len()
    }
}

/// Opens `need` if it is not open, and adds one thing to wait for.
pub fn need(promises: &mut Promises, need: &mut Option<PromiseId>) -> PromiseId {
    let id = *need.get_or_insert_with(|| promises.open());
    promises.add(id);
    id
}
