//! The broker as a state machine: packets in, effects out. No clock, no socket, no disk.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Debug;
use std::sync::Arc;

use bytes::Bytes;

use super::figures::{Counters, Figures};
use super::limits::Limits;
use super::local::Local;
use super::message::{Message, SubscriptionIds, TopicAlias};
use super::outbound::Scratch;
use super::packet::{Connect, MessageProperties, Packet, PacketId, QoS, Reason};
use super::promise::{Promises, SessionRef};
use super::retained::Retained;
use super::session::{Link, Map, Session};
use super::size::packet_bytes;
use super::trie::{SessionIndex, Trie};
use super::writes::{RowKey, Writes};
use crate::store::Batch;

/// Number of a connection, given by the transport and never used twice.
pub type ConnId = u64;

/// What a client may do. Asked for every publish and, unless [`Access::receives_all`], for every
/// message to the client: answers must be quick.
pub trait Access: Send + Sync + Debug {
    fn may_publish(&self, topic: &str) -> bool;
    /// `filter` without `$share/{group}/`.
    fn may_subscribe(&self, filter: &str) -> bool;
    fn may_receive(&self, topic: &str) -> bool;
    /// Whose sessions they are; empty: anybody's. A session is not given to another owner.
    fn owner(&self) -> &str {
        ""
    }
    /// `may_receive` is true for every topic: it need not be asked.
    fn receives_all(&self) -> bool {
        false
    }
}

/// What happens to the broker.
#[derive(Debug)]
pub enum Input {
    /// A CONNECT whose client is known; `access` says what it may do.
    Connect { conn: ConnId, connect: Box<Connect>, access: Arc<dyn Access> },
    /// New rights of a connected client.
    Rights { conn: ConnId, access: Arc<dyn Access> },
    /// Any later packet.
    Packet { conn: ConnId, packet: Packet },
    /// The connection has ended without a DISCONNECT the broker took: closed, failed, timed out,
    /// or rubbish came. The will is due.
    Gone { conn: ConnId },
    /// The socket took so many bytes of those the effects counted. `usize::MAX`: all of them.
    Wrote { conn: ConnId, bytes: usize },
    /// edgecore publishes. Not seen by its own local filters.
    Publish { topic: Arc<str>, payload: Bytes, qos: QoS, retain: bool },
    /// edgecore took the message of [`Effect::Take`] durably, or could not: it is given again later.
    Taken { ticket: u64, ok: bool },
    /// All [`Effect::Store`] up to this one are on disk.
    Stored { seq: u64 },
    /// All up to this one failed; nothing of them is on disk.
    NotStored { seq: u64 },
    /// [`Broker::next_deadline`] has come.
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Effect {
    /// Write a packet. `bytes` count against the client until [`Input::Wrote`].
    Send { conn: ConnId, packet: Packet, bytes: usize },
    /// Write a PUBLISH. `message` is shared by all its receivers: topic, properties and payload can
    /// be encoded once.
    Deliver {
        conn: ConnId,
        message: Arc<Message>,
        qos: QoS,
        /// `Some` exactly for QoS 1 and 2.
        id: Option<PacketId>,
        dup: bool,
        retain: bool,
        subscription_ids: SubscriptionIds,
        topic_alias: TopicAlias,
        /// Message expiry as it is to be sent, instead of that in `message.properties`.
        expiry_left_secs: Option<u32>,
        bytes: usize,
    },
    /// Flush what was sent, then close. 5: with a DISCONNECT of this reason before, except
    /// [`Reason::SUCCESS`] (the client said goodbye itself, or was refused).
    Close { conn: ConnId, reason: Reason },
    /// Stop reading this connection: it sends faster than its messages become durable, or than a
    /// subscriber takes them. What was read already may still come.
    Pause { conn: ConnId },
    /// Read on.
    Resume { conn: ConnId },
    /// Make durable; answer with [`Input::Stored`] or [`Input::NotStored`] in order. At most one is
    /// under way.
    Store { seq: u64, batch: Batch },
    /// A message on a topic edgecore listens to. Answer with [`Input::Taken`]. `receipt` are writes
    /// of the broker to be made durable in one batch with what edgecore does about the message.
    Take { ticket: u64, message: Arc<Message>, receipt: Batch },
}

/// A promise to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Backlog(SessionIndex, u64),
    Will(SessionIndex, u64),
    Expiry(SessionIndex, u64),
}

/// What counts against the bounds over all clients.
#[derive(Debug, Default)]
pub(super) struct Used {
    pub queued_messages: usize,
    pub queued_bytes: usize,
    pub unsent_bytes: usize,
    /// Filters and wills.
    pub session_bytes: usize,
    pub deferred_bytes: usize,
}

/// Why a connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doom {
    Protocol(Reason),
    Slow,
    NotStored,
}

/// The broker.
#[derive(Debug)]
pub struct Broker {
    pub(super) limits: Limits,
    pub(super) now: i64,
    pub(super) sessions: slab::Slab<Session>,
    pub(super) conns: Map<ConnId, SessionIndex>,
    pub(super) clients: Map<Arc<str>, SessionIndex>,
    pub(super) trie: Trie,
    pub(super) retained: Retained,
    pub(super) local: Local,
    pub(super) promises: Promises,
    pub(super) writes: Writes,
    /// How many queues hold a message whose body has a row of its own.
    pub(super) bodies: Map<std::num::NonZeroU64, usize>,
    pub(super) timers: BTreeSet<(i64, Timer)>,
    pub(super) used: Used,
    pub(super) count: Counters,
    pub(super) clients_max: usize,
    pub(super) next_session: u64,
    pub(super) next_body: u64,
    pub(super) routes: u64,
    pub(super) scratch: Scratch,
    /// Connections to close at the end of this input.
    pub(super) doomed: Vec<(ConnId, Doom)>,
    /// Connections that need not wait any more and have sent something meanwhile, each with the
    /// session it waited for last.
    pub(super) released: VecDeque<(ConnId, SessionIndex)>,
    pub(super) sweep_at: Option<i64>,
    pub(super) names: std::hash::RandomState,
    pub(super) no_properties: Arc<MessageProperties>,
}

/// Connections are looked over for stalled sockets this often, milliseconds.
const SWEEP_MS: i64 = 1000;

impl Broker {
    /// An empty broker. Messages of clients on topics that match `local_filters` are given to
    /// edgecore as well ([`Effect::Take`]).
    #[must_use]
    pub fn new(limits: Limits, local_filters: &[&str]) -> Self {
        Self {
            limits: Limits { queued_messages: limits.queued_messages.min(60_000), ..limits },
            now: 0,
            sessions: slab::Slab::new(),
            conns: Map::default(),
            clients: Map::default(),
            trie: Trie::default(),
            retained: Retained::default(),
            local: Local::new(local_filters),
            promises: Promises::default(),
            writes: Writes::default(),
            bodies: Map::default(),
            timers: BTreeSet::new(),
            used: Used::default(),
            count: Counters::default(),
            clients_max: 0,
            next_session: 1,
            next_body: 1,
            routes: 0,
            scratch: Scratch::default(),
            doomed: Vec::new(),
            released: VecDeque::new(),
            sweep_at: None,
            names: std::hash::RandomState::new(),
            no_properties: Arc::default(),
        }
    }

    /// Takes one input. Rows it wants written wait for [`Broker::flush`].
    pub fn handle(&mut self, now_ms: i64, input: Input, effects: &mut Vec<Effect>) {
        self.now = now_ms;
        match input {
            Input::Packet { conn, packet } => self.packet(conn, packet, effects),
            Input::Wrote { conn, bytes } => self.wrote(conn, bytes, effects),
            Input::Connect { conn, connect, access } => self.connect(conn, *connect, access, effects),
            Input::Rights { conn, access } => {
                if let Some((_, link)) = self.link_mut(conn) {
                    link.access = access;
                }
            }
            Input::Gone { conn } => self.gone(conn, effects),
            Input::Publish { topic, payload, qos, retain } => {
                let properties = self.no_properties.clone();
                let message = Message::new(topic, payload, qos, retain, properties, now_ms);
                self.publish_own(Arc::new(message), None, effects);
            }
            Input::Taken { ticket, ok } => self.taken(ticket, ok, effects),
            Input::Stored { seq } => self.stored(seq, effects),
            Input::NotStored { seq } => self.not_stored(seq, effects),
            Input::Tick => self.tick(effects),
        }
        loop {
            while let Some((conn, doom)) = self.doomed.pop() {
                self.execute(conn, doom, effects);
            }
            if !self.next_deferred(effects) {
                break;
            }
        }
        self.local_pump(effects);
    }

    /// Ends a burst of inputs: what they want written goes out as one [`Effect::Store`], unless an
    /// earlier one is still under way; then the next flush after its answer takes it.
    pub fn flush(&mut self, now_ms: i64, effects: &mut Vec<Effect>) {
        self.now = now_ms;
        if !self.writes.is_due(now_ms) {
            return;
        }
        let mut batch = Batch::new();
        let mut changes = self.writes.take();
        self.count.rows += changes.len() as u64;
        for (key, change) in &mut changes {
            if let RowKey::Session(at) = key {
                change.conn =
                    self.session_of(*at).and_then(|session| session.link.as_ref()).map(|link| link.conn);
            }
            self.encode(key, change, &mut batch);
        }
        let seq = self.writes.sent(changes);
        effects.push(Effect::Store { seq, batch });
    }

    /// When [`Input::Tick`] is wanted, milliseconds since 1970.
    #[must_use]
    pub fn next_deadline(&self) -> Option<i64> {
        let timer = self.timers.first().map(|(at, _)| *at);
        let retry = if self.writes.is_pending() { self.writes.retry_at } else { None };
        let expiry = self.retained.next_sweep();
        [timer, retry, self.local.next_deadline(), self.sweep_at, expiry].into_iter().flatten().min()
    }

    fn tick(&mut self, effects: &mut Vec<Effect>) {
        while let Some((at, timer)) = self.timers.first().copied()
            && at <= self.now
        {
            self.timers.pop_first();
            self.timer(at, timer, effects);
        }
        self.local_retry(effects);
        self.sweep_retained();
        if self.sweep_at.is_some_and(|at| at <= self.now) {
            self.sweep_at = None;
            self.sweep();
        }
    }

    /// Dooms connections that take nothing.
    fn sweep(&mut self) {
        let patience = i64::from(self.limits.stalled_secs) * 1000;
        let mut waiting = false;
        for (_, session) in &self.sessions {
            let Some(link) = &session.link else { continue };
            if link.unsent > 0 {
                waiting = true;
                if self.now.saturating_sub(link.stalled_since) >= patience {
                    self.doomed.push((link.conn, Doom::Slow));
                }
            }
        }
        if waiting {
            self.sweep_at = Some(self.now.saturating_add(SWEEP_MS));
        }
    }

    pub(super) fn session_of(&self, at: SessionRef) -> Option<&Session> {
        self.sessions.get(at.index).filter(|session| session.number == at.number)
    }

    pub(super) fn session_of_mut(&mut self, at: SessionRef) -> Option<&mut Session> {
        self.sessions.get_mut(at.index).filter(|session| session.number == at.number)
    }

    pub(super) fn link_mut(&mut self, conn: ConnId) -> Option<(SessionIndex, &mut Link)> {
        let index = *self.conns.get(&conn)?;
        let link = self.sessions.get_mut(index)?.link.as_deref_mut()?;
        Some((index, link))
    }

    /// Gives a packet to a connection.
    pub(super) fn send(&mut self, index: SessionIndex, packet: Packet, effects: &mut Vec<Effect>) {
        let Some(link) = self.sessions.get_mut(index).and_then(|session| session.link.as_deref_mut()) else {
            return;
        };
        let bytes = packet_bytes(&packet, link.version);
        let conn = link.conn;
        if link.unsent == 0 {
            link.stalled_since = self.now;
            self.sweep_at = self.sweep_at.or(Some(self.now.saturating_add(SWEEP_MS)));
        }
        link.unsent += bytes;
        if link.unsent > self.limits.unsent_bytes_hard {
            self.doomed.push((conn, Doom::Slow));
        }
        self.used.unsent_bytes += bytes;
        self.count.bytes_out += bytes as u64;
        effects.push(Effect::Send { conn, packet, bytes });
    }

    /// Closes a connection at the end of this input; its will is due.
    pub(super) fn doom(&mut self, conn: ConnId, doom: Doom) {
        self.doomed.push((conn, doom));
    }

    fn wrote(&mut self, conn: ConnId, bytes: usize, effects: &mut Vec<Effect>) {
        let (now, low) = (self.now, self.limits.unsent_bytes / 2);
        let Some((index, link)) = self.link_mut(conn) else { return };
        let bytes = bytes.min(link.unsent);
        link.unsent -= bytes;
        link.stalled_since = now;
        let room = link.unsent <= low;
        self.used.unsent_bytes -= bytes;
        if bytes > 0 {
            self.moved(index);
        }
        if room && self.sessions.get(index).is_some_and(|s| s.sent < s.queue.len() || !s.scans.is_empty()) {
            self.pump(index, effects);
        } else {
            self.check_caught_up(index);
        }
    }

    /// Levels in the tree of filters.
    #[cfg(test)]
    pub(super) fn levels(&self) -> usize {
        self.trie.nodes()
    }

    /// Answers that wait for something.
    #[cfg(test)]
    pub(super) fn open_promises(&self) -> usize {
        self.promises.len()
    }

    /// State and counters.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            clients_connected: self.conns.len(),
            clients_max: self.clients_max,
            sessions: self.sessions.len(),
            subscriptions: self.trie.len(),
            retained_messages: self.retained.len(),
            retained_bytes: self.retained.bytes(),
            session_bytes: self.used.session_bytes,
            queued_messages: self.used.queued_messages,
            queued_bytes: self.used.queued_bytes,
            unsent_bytes: self.used.unsent_bytes,
            deferred_bytes: self.used.deferred_bytes,
            held_back: self.held_back(),
            local_waiting: self.local.len(),
            counters: Counters { rows_spared: self.writes.spared, ..self.count },
        }
    }
}
