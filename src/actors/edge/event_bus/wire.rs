//! What the actor and the tasks of its connections share. All on one thread.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;
use std::time::SystemTime;

use super::access::Who;
use super::lanes::Attempt;
use crate::mqtt::codec::{CodecError, OutBuf};
use crate::mqtt::{Connect, Packet};

/// Names a connection for the life of the process.
pub type Conn = u64;

/// One connection between its task, which moves bytes, and the actor, which decides.
#[derive(Debug, Default)]
pub struct Wire {
    pub out: RefCell<OutBuf>,
    /// Bytes written since the actor last asked.
    pub written: Cell<u64>,
    /// The inbox knows that something was written.
    pub told_written: Cell<bool>,
    /// The actor has handled what was read: read on.
    pub may_read: Cell<bool>,
    /// Write what waits, then end.
    pub ending: Cell<bool>,
    /// End at once.
    pub cut: Cell<bool>,
    /// When something was last read, milliseconds of the actor's clock.
    pub read_at_ms: Cell<u64>,
    task: RefCell<Option<Waker>>,
}

impl Wire {
    /// The connection's task, to be woken when one of the fields changed.
    pub fn register(&self, task: &Waker) {
        let mut slot = self.task.borrow_mut();
        if !slot.as_ref().is_some_and(|have| have.will_wake(task)) {
            *slot = Some(task.clone());
        }
    }

    pub fn wake(&self) {
        // Not taken: the task does not register at every poll.
        if let Some(task) = self.task.borrow().as_ref() {
            task.wake_by_ref();
        }
    }
}

/// Something for the actor.
#[derive(Debug)]
pub enum Event {
    /// A client that may come in.
    Open(Box<Newcomer>),
    /// What was read at once, and why nothing more will be.
    Read {
        conn: Conn,
        packets: Vec<Packet>,
        broken: Option<CodecError>,
    },
    Wrote(Conn),
    Closed(Conn),
    /// An answer of DeviceTwin.
    Answer {
        attempt: Attempt,
        is_taken: bool,
    },
    /// A broken lane may go again.
    Retry(u64),
    /// The broker outside was dialled.
    Dialled(Result<(Conn, Rc<Wire>), String>),
    /// The cloud's policies changed.
    Policies,
}

/// A client whose CONNECT was read and whose name was checked.
#[derive(Debug)]
pub struct Newcomer {
    pub conn: Conn,
    pub wire: Rc<Wire>,
    pub connect: Connect,
    pub who: Who,
    /// When its certificate runs out.
    pub ends_at: Option<SystemTime>,
}

/// Events in order. Bounded by what sends them: one `Read`, one `Wrote` and one `Closed` of each
/// connection, one `Answer` or `Retry` of each message that is being taken, one `Policies` of each change
/// of them.
#[derive(Debug, Default)]
pub struct Inbox {
    events: RefCell<VecDeque<Event>>,
    /// The actor that took them is gone.
    closed: Cell<bool>,
    actor: RefCell<Option<Waker>>,
}

impl Inbox {
    pub fn push(&self, event: Event) {
        if self.closed.get() {
            return;
        }
        self.events.borrow_mut().push_back(event);
        if let Some(actor) = self.actor.borrow().as_ref() {
            actor.wake_by_ref();
        }
    }

    pub fn take(&self) -> VecDeque<Event> {
        std::mem::take(&mut *self.events.borrow_mut())
    }

    pub fn is_empty(&self) -> bool {
        self.events.borrow().is_empty()
    }

    pub fn register(&self, actor: &Waker) {
        let mut slot = self.actor.borrow_mut();
        if !slot.as_ref().is_some_and(|have| have.will_wake(actor)) {
            *slot = Some(actor.clone());
        }
    }

    /// Ends the connections that nobody has looked at, too: they came while the actor was down.
    pub fn close(&self) {
        self.closed.set(true);
        for event in self.take() {
            let wire = match event {
                Event::Open(newcomer) => newcomer.wire,
                Event::Dialled(Ok((_, wire))) => wire,
                _ => continue,
            };
            wire.cut.set(true);
            wire.wake();
        }
        self.actor.borrow_mut().take();
    }

    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }
}
