//! What the console asks its program: who a token names, and what to tell him. cloudcore and edgecore
//! each have one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use tokio::sync::mpsc;

use super::protocol::Change;
use super::sign_in::Token;
use super::stream::encode;

/// Changes that wait for a reader. The first look at a large cluster does not fit: it waits for its
/// reader, who has [`PATIENCE`] for each.
const WAITING: usize = 256;
/// A reader who takes nothing for so long has gone.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// Where changes for one reader go. Bounded: who writes waits for the reader, though not for ever.
#[derive(Clone)]
pub struct Outlet(mpsc::Sender<Bytes>);

/// The other end: what the connection is fed from.
pub type Inlet = mpsc::Receiver<Bytes>;

impl Outlet {
    #[must_use]
    pub fn new() -> (Self, Inlet) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self(sender), receiver)
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
        match tokio::time::timeout(PATIENCE, self.0.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Ended::Left),
            Err(_) => Err(Ended::TooSlow),
        }
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
        self.0.closed().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_reader_who_takes_nothing_ends_it_and_memory_is_bounded() {
        let (outlet, inlet) = Outlet::new();
        for now_ms in 0..u64::try_from(WAITING).unwrap() {
            assert_eq!(outlet.send(&Change::Ping { now_ms }).await, Ok(()));
        }
        assert_eq!(outlet.send(&Change::Ping { now_ms: 0 }).await, Err(Ended::TooSlow));
        drop(inlet);
        assert_eq!(outlet.send(&Change::Ping { now_ms: 0 }).await, Err(Ended::Left));
        outlet.closed().await;
    }
}
