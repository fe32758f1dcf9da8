//! What the tree knows about one actor: its orders (to the guard) and its record (from the guard).

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;
use std::time::{Duration, SystemTime};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::Instant;

use super::policy::Policy;
use crate::bus::ActorStats;
use crate::telemetry::actors::{ActorMetrics, actor_state};

/// Why an actor failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// Message and place of the panic.
    Panicked(String),
    /// It stopped itself although it should run.
    Stopped,
    /// No heartbeat answered and no message handled for so long.
    Silent(Duration),
    /// A worker used up its restarts.
    WorkerGaveUp { worker: String, why: String },
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panicked(text) => write!(f, "panicked: {text}"),
            Self::Stopped => f.write_str("stopped itself"),
            Self::Silent(quiet) => write!(f, "handled nothing for {} s", quiet.as_secs()),
            Self::WorkerGaveUp { worker, why } => write!(f, "worker {worker} gave up: {why}"),
        }
    }
}

/// Where an actor stands now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Declared, its thread has not begun with it.
    Declared,
    Running,
    /// Failed; waits for its restart.
    Waiting,
    /// Failed for good; the tree is going down.
    Failed,
    /// Empties its mailbox before it stops.
    Draining,
    Ended,
}

/// What a guard should do at its next poll.
#[derive(Debug, Default)]
pub(super) struct Orders {
    pub(super) failure: Option<Failure>,
    /// A sibling failed: restart with it, after this pause.
    pub(super) restart: Option<Duration>,
    pub(super) panic: bool,
    pub(super) drain: bool,
    pub(super) stop: bool,
    pub(super) cut: bool,
}

/// The way from the tree to a guard: orders and a waker.
#[derive(Debug, Default)]
pub(super) struct OrderBox {
    any: AtomicBool,
    orders: Mutex<Orders>,
    waker: AtomicWaker,
}

impl OrderBox {
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    pub(super) fn take(&self) -> Option<Orders> {
        self.any.swap(false, Ordering::AcqRel).then(|| std::mem::take(&mut *self.orders.lock()))
    }

    pub(super) fn give(&self, order: impl FnOnce(&mut Orders)) {
        order(&mut self.orders.lock());
        self.any.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// The last failure of an actor.
#[derive(Debug, Clone, Serialize)]
pub struct LastFailure {
    pub text: String,
    /// Unix milliseconds.
    pub at_ms: u64,
}

#[derive(Debug)]
pub(super) struct Record {
    pub(super) state: State,
    pub(super) restarts: u64,
    pub(super) panics: u64,
    pub(super) last_failure: Option<LastFailure>,
}

/// Where an actor hangs in the tree.
pub(super) enum Place {
    /// Declared in the tree, at this position.
    Tree(usize),
    /// Started by a tree actor; `None` if the parent named is not in the tree.
    Worker { id: u64, parent: Option<Arc<Entry>> },
}

/// One actor of the tree, or one worker.
pub(super) struct Entry {
    pub(super) name: Cow<'static, str>,
    /// The metric label: the name of a tree actor, the kind of a worker.
    pub(super) kind: &'static str,
    pub(super) thread: &'static str,
    pub(super) place: Place,
    pub(super) policy: Policy,
    pub(super) stats: Arc<ActorStats>,
    pub(super) metrics: ActorMetrics,
    /// Of a tree actor.
    pub(super) shown_state: Option<metrics::Gauge>,
    pub(super) orders: OrderBox,
    /// The guard is inside the actor's code now: names the culprit of a blocked thread.
    pub(super) inside: AtomicBool,
    pub(super) since: Instant,
    pub(super) record: Mutex<Record>,
}

impl Entry {
    pub(super) fn new(
        name: Cow<'static, str>,
        kind: &'static str,
        thread: &'static str,
        place: Place,
        policy: Policy,
        stats: Arc<ActorStats>,
        metrics: ActorMetrics,
    ) -> Self {
        let shown_state = matches!(place, Place::Tree(_)).then(|| actor_state(kind));
        Self {
            name,
            kind,
            thread,
            shown_state,
            place,
            policy,
            stats,
            metrics,
            orders: OrderBox::default(),
            inside: AtomicBool::new(false),
            since: Instant::now(),
            record: Mutex::new(Record { state: State::Declared, restarts: 0, panics: 0, last_failure: None }),
        }
    }

    pub(super) fn is_worker(&self) -> bool {
        matches!(self.place, Place::Worker { .. })
    }

    pub(super) fn state(&self) -> State {
        self.record.lock().state
    }

    pub(super) fn set_state(&self, state: State) {
        self.record.lock().state = state;
    }

    pub(super) fn note_failure(&self, failure: &Failure) {
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        let mut record = self.record.lock();
        record.last_failure = Some(LastFailure { text: failure.to_string(), at_ms });
        if matches!(failure, Failure::Panicked(_)) {
            record.panics += 1;
            self.metrics.panics.increment(1);
        }
    }

    pub(super) fn note_restart(&self) {
        self.record.lock().restarts += 1;
        self.metrics.restarts.increment(1);
    }
}
