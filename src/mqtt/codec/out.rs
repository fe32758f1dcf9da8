//! What waits to be written to one connection.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes};

/// A payload from this size on is not copied.
const SHARE_FROM_BYTES: usize = 4 << 10;
/// An idle buffer larger than this is given back.
const KEEP_BYTES: usize = 1 << 10;

/// Bytes in order: small ones copied together, large payloads shared with whoever else gets them.
#[derive(Debug, Default)]
pub struct OutBuf {
    full: VecDeque<Bytes>,
    tail: Vec<u8>,
    /// Bytes of `tail` that are written.
    tail_at: usize,
}

impl OutBuf {
    #[must_use]
    pub fn len(&self) -> usize {
        self.full.iter().map(Bytes::len).sum::<usize>() + self.tail.len() - self.tail_at
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.full.is_empty() && self.tail.len() == self.tail_at
    }

    pub fn put(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
    }

    /// Copies a small payload, shares a large one.
    pub fn put_payload(&mut self, payload: &Bytes) {
        if payload.len() < SHARE_FROM_BYTES {
            return self.put(payload);
        }
        let mut before = Bytes::from(std::mem::take(&mut self.tail));
        before.advance(self.tail_at.min(before.len()));
        self.tail_at = 0;
        if !before.is_empty() {
            self.full.push_back(before);
        }
        self.full.push_back(payload.clone());
    }

    pub(super) fn tail(&mut self) -> &mut Vec<u8> {
        &mut self.tail
    }

    /// The next bytes, for a vectored write; how many slices are filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = self.tail.get(self.tail_at..).unwrap_or_default();
        let parts = self.full.iter().map(|bytes| &**bytes).chain([tail]).filter(|part| !part.is_empty());
        let mut count = 0;
        for (slice, part) in slices.iter_mut().zip(parts) {
            *slice = IoSlice::new(part);
            count += 1;
        }
        count
    }

    /// `count` bytes are written.
    pub fn advance(&mut self, mut count: usize) {
        while let Some(front) = self.full.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count -= front.len();
            self.full.pop_front();
        }
        self.tail_at = (self.tail_at + count).min(self.tail.len());
        if self.tail_at == self.tail.len() {
            self.tail_at = 0;
            self.tail.clear();
            if self.tail.capacity() > KEEP_BYTES {
                self.tail = Vec::new();
            }
        }
    }

    /// Everything, for tests and for streams that frame it themselves.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        self.full.iter().for_each(|bytes| all.extend_from_slice(bytes));
        all.extend_from_slice(self.tail.get(self.tail_at..).unwrap_or_default());
        all
    }
}
