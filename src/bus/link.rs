//! Typed, bounded, measured sending between actors.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix::dev::ToEnvelope;
use actix::prelude::{Actor, Addr, Handler, MailboxError, Message, Recipient, SendError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What happened to a message that was sent. Never says why the receiver refused its content:
/// that is in the message's own result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The mailbox is full. The message was not taken; the sender decides whether to drop or wait.
    #[error("mailbox of {actor} is full")]
    Full { actor: &'static str },
    /// The actor is gone, or panicked with this message in hand. It may have taken effect.
    #[error("{actor} did not finish the message")]
    Lost { actor: &'static str },
    /// No answer in time. The message may still run: messages are idempotent.
    #[error("{actor} did not answer in time")]
    Timeout { actor: &'static str },
}

/// Counters and the bound of one actor's mailbox, written by its links and its mail, read by
/// metrics and `/actors`.
///
/// The bound lives here and not in actix: an actix address lets one message more in for each of
/// its clones, and a waiting `send` clones it, so there it bounds nothing (0.13.5).
#[derive(Debug)]
pub struct ActorStats {
    /// Accepted by the mailbox.
    pub enqueued: AtomicU64,
    /// Taken out of the mailbox, or dropped with it.
    pub dequeued: AtomicU64,
    /// Refused because the mailbox was full.
    pub refused: AtomicU64,
    /// Nanoseconds spent in handlers.
    pub busy_nanos: AtomicU64,
    /// Histogram of handler durations, set once by whoever runs the actor.
    pub handle_seconds: std::sync::OnceLock<metrics::Histogram>,
    /// One permit for each place in the mailbox.
    room: Arc<Semaphore>,
}

impl Default for ActorStats {
    /// No bound but that of the actix address.
    fn default() -> Self {
        Self::bounded(Semaphore::MAX_PERMITS)
    }
}

impl ActorStats {
    /// Counters of a mailbox that holds at most `capacity` messages (at least 1), whoever sends.
    #[must_use]
    pub fn bounded(capacity: usize) -> Self {
        Self {
            enqueued: AtomicU64::new(0),
            dequeued: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            busy_nanos: AtomicU64::new(0),
            handle_seconds: std::sync::OnceLock::new(),
            room: Arc::new(Semaphore::new(capacity.clamp(1, Semaphore::MAX_PERMITS))),
        }
    }

    /// Messages waiting in the mailbox now.
    #[must_use]
    pub fn depth(&self) -> u64 {
        let out = self.dequeued.load(Ordering::Relaxed);
        self.enqueued.load(Ordering::Relaxed).saturating_sub(out)
    }
}

/// A message on its way to one actor, counted until it is opened or dropped.
pub struct Mail<M> {
    message: M,
    receipt: Receipt,
}

/// Counts the message out of the mailbox when it is opened or dropped, and measures its handler.
pub struct Receipt {
    stats: Arc<ActorStats>,
    /// The place in the mailbox, given back when the message is taken out.
    place: Option<OwnedSemaphorePermit>,
    opened: Option<Instant>,
}

impl Receipt {
    fn leave_mailbox(&mut self) {
        if self.place.take().is_some() {
            self.stats.dequeued.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl<M: Message> Message for Mail<M> {
    type Result = M::Result;
}

impl<M> Mail<M> {
    /// Takes the message out. Keep the receipt until the handler returns: it measures it.
    #[must_use]
    pub fn open(self) -> (M, Receipt) {
        let mut receipt = self.receipt;
        receipt.leave_mailbox();
        receipt.opened = Some(Instant::now());
        (self.message, receipt)
    }
}

impl Drop for Receipt {
    fn drop(&mut self) {
        self.leave_mailbox();
        if let Some(opened) = self.opened {
            let spent = opened.elapsed();
            let nanos = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
            self.stats.busy_nanos.fetch_add(nanos, Ordering::Relaxed);
            if let Some(histogram) = self.stats.handle_seconds.get() {
                histogram.record(spent.as_secs_f64());
            }
        }
    }
}

/// Where messages of one type go. Cheap to clone; cannot name a missing actor.
pub struct Link<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    actor: &'static str,
    stats: Arc<ActorStats>,
    target: Target<M>,
}

enum Target<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    Actor(Recipient<Mail<M>>),
    Function(Arc<dyn Fn(M) -> M::Result + Send + Sync>),
}

impl<M> Clone for Link<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn clone(&self) -> Self {
        let target = match &self.target {
            Target::Actor(recipient) => Target::Actor(recipient.clone()),
            Target::Function(function) => Target::Function(Arc::clone(function)),
        };
        Self { actor: self.actor, stats: Arc::clone(&self.stats), target }
    }
}

impl<M> fmt::Debug for Link<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Link({})", self.actor)
    }
}

impl<M> Link<M>
where
    M: Message + Send + 'static,
    M::Result: Send,
{
    /// A link to an actor. The composition root (`app/`) and parents of workers call this.
    #[must_use]
    pub fn to<A>(actor: &'static str, addr: &Addr<A>, stats: Arc<ActorStats>) -> Self
    where
        A: Actor + Handler<Mail<M>>,
        A::Context: ToEnvelope<A, Mail<M>>,
    {
        Self { actor, stats, target: Target::Actor(addr.clone().recipient()) }
    }

    /// A link that calls a function in place: for tests and for outputs nobody listens to.
    #[must_use]
    pub fn from_fn(function: impl Fn(M) -> M::Result + Send + Sync + 'static) -> Self {
        Self { actor: "function", stats: Arc::default(), target: Target::Function(Arc::new(function)) }
    }

    /// Sends without waiting for the result.
    ///
    /// # Errors
    /// [`LinkError::Full`] when the mailbox has no room, [`LinkError::Lost`] when the actor is gone.
    pub fn tell(&self, message: M) -> Result<(), LinkError> {
        let recipient = match &self.target {
            Target::Actor(recipient) => recipient,
            Target::Function(function) => {
                function(message);
                return Ok(());
            }
        };
        let Ok(place) = Arc::clone(&self.stats.room).try_acquire_owned() else {
            return Err(self.full());
        };
        match recipient.try_send(self.mail(message, place)) {
            Ok(()) => Ok(()),
            Err(SendError::Full(_)) => Err(self.full()),
            Err(SendError::Closed(_)) => Err(LinkError::Lost { actor: self.actor }),
        }
    }

    /// Sends, waiting for room and for the result, at most `deadline` in all.
    ///
    /// # Errors
    /// [`LinkError::Timeout`] (the message may still run), [`LinkError::Lost`].
    pub async fn ask(&self, message: M, deadline: Duration) -> Result<M::Result, LinkError> {
        let recipient = match &self.target {
            Target::Actor(recipient) => recipient,
            Target::Function(function) => return Ok(function(message)),
        };
        let lost = LinkError::Lost { actor: self.actor };
        let answer = async {
            let room = Arc::clone(&self.stats.room);
            let place = room.acquire_owned().await.map_err(|_| lost)?;
            recipient.send(self.mail(message, place)).await.map_err(|err| match err {
                MailboxError::Closed => lost,
                MailboxError::Timeout => LinkError::Timeout { actor: self.actor },
            })
        };
        match tokio::time::timeout(deadline, answer).await {
            Ok(result) => result,
            Err(_) => Err(LinkError::Timeout { actor: self.actor }),
        }
    }

    /// Name of the receiving actor, for logs.
    #[must_use]
    pub fn actor(&self) -> &'static str {
        self.actor
    }

    fn mail(&self, message: M, place: OwnedSemaphorePermit) -> Mail<M> {
        self.stats.enqueued.fetch_add(1, Ordering::Relaxed);
        let receipt = Receipt { stats: Arc::clone(&self.stats), place: Some(place), opened: None };
        Mail { message, receipt }
    }

    fn full(&self) -> LinkError {
        self.stats.refused.fetch_add(1, Ordering::Relaxed);
        LinkError::Full { actor: self.actor }
    }
}

/// Lets an actor take the listed messages through [`Link`]s, measured. Write ordinary
/// `Handler<M>` impls beside it. Also makes the actor answer the supervisor's heartbeat.
///
/// ```text
/// crate::handles!(EdgeHub: edge_hub::SendUpstream, edge_hub::Request);
/// ```
#[macro_export]
macro_rules! handles {
    ($actor:ty $(: $($message:ty),+ $(,)?)?) => {
        $($(
            impl actix::Handler<$crate::bus::Mail<$message>> for $actor {
                type Result = <$actor as actix::Handler<$message>>::Result;
                fn handle(&mut self, mail: $crate::bus::Mail<$message>, ctx: &mut Self::Context) -> Self::Result {
                    let (message, _receipt) = mail.open();
                    <$actor as actix::Handler<$message>>::handle(self, message, ctx)
                }
            }
        )+)?
        impl actix::Handler<$crate::supervise::Ping> for $actor {
            type Result = ();
            fn handle(&mut self, ping: $crate::supervise::Ping, _: &mut Self::Context) {
                ping.answer();
            }
        }
    };
}
