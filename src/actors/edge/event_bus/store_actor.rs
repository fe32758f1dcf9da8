//! EventBus's writes: one group is under way at a time, everything that comes meanwhile goes into
//! the next one. What follows from a write happens when it is on disk.

use actix::prelude::*;

use super::EventBus;
use super::local_actor::Source;
use crate::mqtt::Input;
use crate::store::{Batch, StoreError};

/// What waits for a write.
#[derive(Debug)]
pub enum Done {
    /// The broker's own.
    Broker(u64),
    /// A message that is kept for the cloud.
    Kept(Source),
    /// Uploads that the cloud has.
    Uploaded,
}

/// The next group.
#[derive(Debug, Default)]
pub struct StoreQueue {
    batch: Batch,
    done: Vec<Done>,
    is_writing: bool,
    /// Of the next group.
    waiting_bytes: usize,
    /// Of the one under way.
    writing_bytes: usize,
}

impl StoreQueue {
    pub fn push(&mut self, batch: Batch, done: Done) {
        self.waiting_bytes += batch.bytes();
        self.batch.append(batch);
        self.done.push(done);
    }

    /// Changes that wait for the disk.
    #[must_use]
    pub fn len(&self) -> usize {
        self.done.len()
    }

    /// Bytes of these, and of those that are being written.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.waiting_bytes + self.writing_bytes
    }

    /// Rows that are on disk are only those whose group is done.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        !self.is_writing && self.done.is_empty()
    }
}

impl EventBus {
    pub(super) fn write_store(&mut self, ctx: &mut Context<Self>) {
        if self.writes.is_writing || self.writes.done.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.writes.batch);
        let done = std::mem::take(&mut self.writes.done);
        self.writes.writing_bytes = std::mem::take(&mut self.writes.waiting_bytes);
        self.writes.is_writing = true;
        let committer = self.committer.clone();
        let written = async move { if batch.is_empty() { Ok(()) } else { committer.commit(batch).await } };
        ctx.spawn(written.into_actor(self).map(|outcome, bus, ctx| {
            bus.writes.is_writing = false;
            bus.writes.writing_bytes = 0;
            bus.written(done, outcome, ctx);
            bus.turn(ctx);
        }));
    }

    fn written(&mut self, done: Vec<Done>, outcome: Result<(), StoreError>, ctx: &mut Context<Self>) {
        let is_stored = outcome.is_ok();
        if let Err(err) = outcome {
            tracing::error!(error = %err, "messages were not stored");
            // What is kept for the cloud is what the disk says; later ones come after it.
            self.load_uploads();
        }
        for done in done {
            match done {
                Done::Broker(seq) if is_stored => self.input(Input::Stored { seq }),
                Done::Broker(seq) => self.input(Input::NotStored { seq }),
                Done::Kept(source) => self.taken(source, is_stored),
                Done::Uploaded => {}
            }
        }
        self.drain_uploads(ctx);
    }
}
