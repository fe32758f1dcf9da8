//! What the console asks its program: who a token names, and what to tell him. cloudcore and edgecore
//! each have one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::protocol::Change;
use super::sign_in::Token;
use super::stream::encode;

/// Changes and bytes that wait for a reader. The first look at a large cluster does not fit: it waits for
/// its reader.
const WAITING: usize = 256;
const WAITING_BYTES: u32 = 1 << 20;
/// A reader who takes nothing for so long although something waits has gone.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// Why a token opens nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// It is none, or none any more. The text is for the visitor and names no secret.
    #[error("{0}")]
    BadToken(String),
    /// Who could tell does not answer; the token may be good.
    #[error("{0}")]
    Unavailable(String),
}

/// A visitor who may come in.
#[derive(Clone)]
pub struct Visitor {
    pub token: Token,
    /// Whom the token names, for the page.
    pub user: String,
}

impl fmt::Debug for Visitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visitor").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The reader closed it.
    Left,
    /// The reader took nothing.
    TooSlow,
    /// The token is not good any more: the next request gets 401.
    NotWelcome,
}

/// What a console shows and to whom.
pub trait Feed: Send + Sync + 'static {
    /// `cloudcore` or `edgecore`.
    fn program(&self) -> &'static str;

    /// The edge's own name.
    fn node(&self) -> Option<String>;

    /// Streams one token may have open at once.
    fn streams_of_one(&self) -> usize;

    /// Whom does it name?
    fn admit(&self, token: Token) -> LocalBoxFuture<'_, Result<Visitor, Denied>>;

    /// Tells a visitor everything until the stream ends. Pings and hello are not its work.
    fn tell(self: Arc<Self>, visitor: Visitor, outlet: Outlet) -> LocalBoxFuture<'static, Ended>;
}

/// Where changes for one reader go. Bounded in number and bytes: who writes waits for the reader, though
/// not for ever.
#[derive(Clone)]
pub struct Outlet {
    frames: mpsc::Sender<(Bytes, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    /// Frames the reader took.
    taken: Arc<AtomicU64>,
}

/// The other end: what the connection is fed from.
pub struct Inlet {
    frames: mpsc::Receiver<(Bytes, OwnedSemaphorePermit)>,
    taken: Arc<AtomicU64>,
}

impl Inlet {
    /// The next event; `None` when the stream is over.
    pub async fn next(&mut self) -> Option<Bytes> {
        let (frame, _place) = self.frames.recv().await?;
        self.taken.fetch_add(1, Ordering::Relaxed);
        Some(frame)
    }
}

impl Outlet {
    #[must_use]
    pub fn new() -> (Self, Inlet) {
        let (sender, receiver) = mpsc::channel(WAITING);
        let taken: Arc<AtomicU64> = Arc::default();
        let room = Arc::new(Semaphore::new(WAITING_BYTES as usize));
        (Self { frames: sender, room, taken: Arc::clone(&taken) }, Inlet { frames: receiver, taken })
    }

    /// # Errors
    /// Why the stream is over.
    pub async fn send(&self, change: &Change) -> Result<(), Ended> {
        match encode(change) {
            Ok(frame) => self.send_frame(frame).await,
            Err(err) => {
                tracing::error!(%err, "a change for the console is not JSON");
                Ok(())
            }
        }
    }

    /// The same for what is encoded already.
    ///
    /// # Errors
    /// Why the stream is over.
    pub async fn send_frame(&self, frame: Bytes) -> Result<(), Ended> {
        let bytes = u32::try_from(frame.len()).unwrap_or(WAITING_BYTES).min(WAITING_BYTES);
        let send = async {
            let room = Arc::clone(&self.room);
            let place = room.acquire_many_owned(bytes).await.map_err(|_| Ended::Left)?;
            self.frames.send((frame, place)).await.map_err(|_| Ended::Left)
        };
        tokio::select! {
            sent = tokio::time::timeout(PATIENCE, send) => sent.unwrap_or(Err(Ended::TooSlow)),
            () = self.frames.closed() => Err(Ended::Left),
        }
    }

    /// How many the reader took, and whether more waits for him.
    #[must_use]
    pub fn progress(&self) -> (u64, bool) {
        let waits = self.frames.capacity() < self.frames.max_capacity();
        (self.taken.load(Ordering::Relaxed), waits)
    }

    /// # Errors
    /// Why the stream is over.
    pub async fn send_all(&self, changes: impl IntoIterator<Item = Change>) -> Result<(), Ended> {
        for change in changes {
            self.send(&change).await?;
        }
        Ok(())
    }

    /// Comes back when the reader has gone.
    pub async fn closed(&self) {
        self.frames.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_who_takes_nothing_ends_it_and_memory_is_bounded() {
        let (outlet, mut inlet) = Outlet::new();
        for now_ms in 0..u64::try_from(WAITING).unwrap() {
            assert_eq!(outlet.send(&Change::Ping { now_ms }).await, Ok(()));
        }
        assert_eq!(outlet.send(&Change::Ping { now_ms: 0 }).await, Err(Ended::TooSlow));
        assert_eq!(outlet.progress(), (0, true));
        while outlet.progress().1 {
            assert!(inlet.next().await.is_some());
        }
        assert_eq!(outlet.progress(), (256, false));
        // Few frames that are large: bytes are bounded too, and one larger than that goes alone.
        let large = Bytes::from(vec![b'x'; 600_000]);
        assert_eq!(outlet.send_frame(large.clone()).await, Ok(()));
        assert_eq!(outlet.send_frame(large).await, Err(Ended::TooSlow));
        assert!(inlet.next().await.is_some());
        assert_eq!(outlet.send_frame(Bytes::from(vec![b'x'; 3_000_000])).await, Ok(()));
        drop(inlet);
        assert_eq!(outlet.send(&Change::Ping { now_ms: 0 }).await, Err(Ended::Left));
        outlet.closed().await;
    }
}
