//! The places of one door, for all its threads.

use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::strangers::{Entry, Graces, Guests, Strangers};
use crate::telemetry::doors::{DoorMetrics, Refusal};

/// Connections that wait for a place; more wait in the system's queue, where they cost nothing here.
const WAITING: usize = 64;
/// Whoever is in earnest has shaken hands and said what he wants by then, over a satellite too.
const CALM: Duration = Duration::from_secs(1);
/// The same where many wait: the first word comes with the connection.
const PRESSED: Duration = Duration::from_millis(250);
/// A handshake is over and an answer taken by then, where others wait.
const IN_HAND: Duration = Duration::from_secs(4);

/// Somebody has as many connections as he may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many connections are open")]
pub struct GuestLimit;

/// Ends one connection, from any thread.
#[derive(Debug, Default)]
pub(super) struct End {
    ended: AtomicBool,
    waker: AtomicWaker,
}

impl End {
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Ready when it was ended; otherwise wakes this task then.
    pub fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.ended.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    pub async fn ended(&self) {
        poll_fn(|cx| self.poll(cx)).await;
    }
}

/// The places of one door.
pub struct Lobby {
    strangers: Mutex<Strangers<Arc<End>>>,
    guests: Mutex<Guests<u64>>,
    /// Tells names apart without keeping them.
    hasher: RandomState,
    left: Notify,
    waiting: AtomicUsize,
    /// Threads that take no connection for now.
    paused: Mutex<Vec<Waker>>,
    pub(super) metrics: DoorMetrics,
}

impl Lobby {
    /// At most `strangers` places, and `of_one` connections of each who is known.
    #[must_use]
    pub fn new(strangers: usize, of_one: u32, metrics: DoorMetrics) -> Arc<Self> {
        let graces = Graces { calm: CALM, pressed: PRESSED, in_hand: IN_HAND };
        Arc::new(Self {
            strangers: Mutex::new(Strangers::new(strangers, graces)),
            guests: Mutex::new(Guests::new(of_one)),
            hasher: RandomState::new(),
            left: Notify::new(),
            waiting: AtomicUsize::new(0),
            paused: Mutex::default(),
            metrics,
        })
    }

    /// May this thread take one more connection?
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        if self.waiting.load(Ordering::Acquire) < WAITING {
            return Poll::Ready(());
        }
        let mut paused = self.paused.lock();
        if !paused.iter().any(|waker| waker.will_wake(cx.waker())) {
            paused.push(cx.waker().clone());
        }
        drop(paused);
        // One may have gone before it saw us.
        if self.waiting.load(Ordering::Acquire) < WAITING { Poll::Ready(()) } else { Poll::Pending }
    }

    /// A place for a newcomer, when there is one. Nobody waits longer than it takes the others' time to end.
    pub(super) async fn enter(self: &Arc<Self>) -> Place {
        let _waits = Waits::new(self);
        let end = Arc::new(End::default());
        loop {
            let pressed = self.waiting.load(Ordering::Acquire) >= WAITING / 2;
            let entry = self.strangers.lock().enter(|| Arc::clone(&end), pressed, Instant::now());
            let number = match entry {
                Entry::In(number) => number,
                Entry::For(number, other) => {
                    self.metrics.refused(Refusal::Crowd);
                    other.end();
                    number
                }
                Entry::Wait(until) => {
                    let pause = until.saturating_duration_since(Instant::now());
                    // Whether one left or the time has come: look again.
                    timeout(pause, self.left.notified()).await.ok();
                    continue;
                }
            };
            self.metrics.connections.increment(1);
            return Place { lobby: Arc::clone(self), number, end, guest: None };
        }
    }
}

struct Waits<'l>(&'l Lobby);

impl<'l> Waits<'l> {
    fn new(lobby: &'l Lobby) -> Self {
        lobby.waiting.fetch_add(1, Ordering::AcqRel);
        Self(lobby)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        for waker in self.0.paused.lock().drain(..) {
            waker.wake();
        }
    }
}

/// A connection's place, until it is dropped.
pub(super) struct Place {
    lobby: Arc<Lobby>,
    number: u64,
    pub end: Arc<End>,
    guest: Option<u64>,
}

impl Place {
    pub fn metrics(&self) -> &DoorMetrics {
        &self.lobby.metrics
    }

    /// It is `name`'s from now on; no longer a stranger's.
    pub fn admit(&mut self, name: &str) -> Result<(), GuestLimit> {
        if self.guest.is_some() {
            return Ok(());
        }
        let name = self.lobby.hasher.hash_one(name);
        if !self.lobby.guests.lock().enter(name) {
            self.lobby.metrics.refused(Refusal::GuestLimit);
            return Err(GuestLimit);
        }
        self.guest = Some(name);
        self.leave_strangers();
        Ok(())
    }

    /// A request of its is in hand, or none any more.
    pub fn turn(&mut self, is_busy: bool) {
        if self.guest.is_none() {
            self.number = self.lobby.strangers.lock().turn(self.number, is_busy, Instant::now());
        }
    }

    fn leave_strangers(&self) {
        if self.lobby.strangers.lock().leave(self.number) {
            self.lobby.left.notify_one();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave_strangers();
        if let Some(name) = self.guest {
            self.lobby.guests.lock().leave(&name);
        }
        self.lobby.metrics.connections.decrement(1);
    }
}
