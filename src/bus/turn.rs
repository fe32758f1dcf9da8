//! What one node's messages may hold of everybody's memory and queues at once.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A turn is counted in pieces of so many bytes.
const PIECE: usize = 32 << 10;
/// Pieces of one node: 256 small messages, or 8 MiB of large ones.
const PIECES: u32 = 256;

/// The turns of one node.
#[derive(Debug, Clone)]
pub struct Turns(Arc<Semaphore>);

/// A message is being dealt with as long as a copy of this lives.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    _permit: Option<Arc<OwnedSemaphorePermit>>,
}

impl Default for Turns {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(PIECES as usize)))
    }
}

impl Turns {
    /// A turn for a message that holds `bytes` of memory, when there is one. A message larger than all
    /// turns waits until it is alone.
    pub async fn take(&self, bytes: usize) -> Turn {
        let permit = Arc::clone(&self.0).acquire_many_owned(pieces(bytes)).await;
        // Never closed.
        Turn { _permit: permit.ok().map(Arc::new) }
    }

    /// Nothing is being dealt with.
    #[must_use]
    pub fn are_free(&self) -> bool {
        self.0.available_permits() == PIECES as usize
    }

    /// Is there a turn for it at once?
    #[must_use]
    pub fn has(&self, bytes: usize) -> bool {
        self.0.available_permits() >= pieces(bytes) as usize
    }
}

fn pieces(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(PIECE)).unwrap_or(PIECES).clamp(1, PIECES)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn small_messages_take_a_piece_each_and_large_ones_many() {
        for (bytes, want) in [(0, 1), (1, 1), (PIECE, 1), (PIECE + 1, 2), (usize::MAX, PIECES)] {
            assert_eq!(pieces(bytes), want, "{bytes}");
        }
    }

    #[test]
    fn a_turn_ends_with_its_last_copy() {
        let turns = Turns::default();
        let first = turns.take(PIECE * (PIECES as usize - 1)).now_or_never().unwrap();
        let second = turns.take(1).now_or_never().unwrap();
        assert!(!turns.has(1) && turns.take(1).now_or_never().is_none());
        let copy = second.clone();
        drop(second);
        assert!(!turns.has(1));
        drop(copy);
        assert!(turns.has(1) && !turns.has(PIECE + 1));
        drop(first);
        assert!(turns.take(100 << 20).now_or_never().is_some(), "alone it passes");
    }
}
