//! What the broker knows of one client: its subscriptions, its queue, and its connection if it has
//! one.

use std::collections::{HashMap, VecDeque};
use std::num::{NonZeroU16, NonZeroU64};
use std::sync::Arc;

use super::acks::Acks;
use super::broker::{Access, ConnId};
use super::flow::{Backlog, Gate};
use super::message::{Message, SubscriptionIds};
use super::packet::{PacketId, QoS, Version, Will};
use super::promise::{PromiseId, SessionRef};
use super::trie::{Options, SessionIndex};

pub type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// What an entry of a queue costs beside its message.
const ENTRY_BYTES: usize = 96;

/// What a level of a filter costs in the tree of filters.
const LEVEL_BYTES: usize = 256;

/// What a filter costs: its text here and in the tree, and a place for each level.
#[must_use]
pub fn filter_bytes(filter: &str) -> usize {
    let levels = 1 + filter.bytes().filter(|byte| *byte == b'/').count();
    2 * filter.len() + levels * LEVEL_BYTES
}

/// Where the exchange of a queued message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// PUBLISH is to be sent, or its answer awaited.
    Publish,
    /// PUBREC has come; that is being written.
    Releasing,
    /// PUBREL is to be sent, or PUBCOMP awaited.
    Release,
}

/// A QoS 1 or 2 message for one client, from routing to its last acknowledgement.
#[derive(Debug)]
pub struct Entry {
    /// Grows within a session; gives the packet id.
    pub serial: u64,
    /// `None` once the client has it (PUBREC).
    pub message: Option<Arc<Message>>,
    /// Row of its own that holds the message for several sessions.
    pub body: Option<NonZeroU64>,
    pub subscription_ids: SubscriptionIds,
    /// The filter of the shared subscription it came by.
    pub shared: Option<Arc<str>>,
    pub qos: QoS,
    pub retain: bool,
    pub step: Step,
    /// It was sent on an earlier connection, or may have been.
    pub dup: bool,
    /// It has a row, written or about to be.
    pub durable: bool,
    /// It may be sent: QoS 2 waits for its row, because after a crash the publisher would send
    /// again what the client has already.
    pub ready: bool,
}

impl Entry {
    #[must_use]
    pub fn id(&self) -> PacketId {
        packet_id(self.serial)
    }

    #[must_use]
    pub fn bytes(&self) -> usize {
        ENTRY_BYTES + self.message.as_ref().map_or(0, |message| message.bytes())
    }
}

/// Serial 0 has id 1, serial 65,534 id 65,535, serial 65,535 id 1 again.
#[must_use]
pub fn packet_id(serial: u64) -> PacketId {
    let id = u16::try_from(serial % 65_535).unwrap_or(0).saturating_add(1);
    NonZeroU16::new(id).unwrap_or(NonZeroU16::MIN)
}

/// An incoming QoS 2 message between PUBLISH and PUBREL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Inbound {
    /// PUBREC waits for the promise.
    Writing(PromiseId),
    Held,
    /// PUBCOMP waits for the promise.
    Releasing(PromiseId),
}

/// Retained messages a new subscription has still to get.
#[derive(Debug, Clone)]
pub struct Scan {
    pub filter: Arc<str>,
    /// The last topic looked at.
    pub after: Option<Arc<str>>,
    pub options: Options,
}

/// The connection of a session.
#[derive(Debug)]
pub struct Link {
    pub conn: ConnId,
    pub version: Version,
    pub access: Arc<dyn Access>,
    /// QoS 1 and 2 messages that may be in flight to the client.
    pub window: usize,
    pub maximum_packet_bytes: usize,
    /// Aliases the client has set; index is alias - 1.
    pub aliases_in: Vec<Option<Arc<str>>>,
    /// Topics the aliases 1.. stand for towards the client.
    pub aliases_out: Vec<Option<Arc<str>>>,
    pub unsent: usize,
    /// Since when `unsent` does not shrink.
    pub stalled_since: i64,
    pub acks: Acks,
    /// Exchanges the client began on this connection and has no end of.
    pub open: usize,
    /// The disk knows of this connection, or nothing survives it. Before that no QoS 2 message is
    /// sent: after a crash the broker must know which ids the client may hold.
    pub known: bool,
    /// The transport was told to stop reading.
    pub paused: bool,
    pub gate: Gate,
}

/// Everything about one client id.
#[derive(Debug)]
pub struct Session {
    /// Never used twice; names its rows.
    pub number: u64,
    pub client_id: Arc<str>,
    /// See [`Access::owner`].
    pub owner: Box<str>,
    /// Ends with its connection if 0, never if `u32::MAX`.
    pub expiry_secs: u32,
    pub link: Option<Box<Link>>,
    pub subscriptions: Map<Arc<str>, Options>,
    /// What these cost.
    pub filter_bytes: usize,
    /// What of this session [`super::broker::Used`] counts as `session_bytes`.
    pub counted_bytes: usize,
    pub queue: VecDeque<Entry>,
    /// So many of the first entries of `queue` are in flight on this connection.
    pub sent: usize,
    pub queued_bytes: usize,
    pub next_serial: u64,
    pub inbound: Map<PacketId, Inbound>,
    pub scans: VecDeque<Scan>,
    pub backlog: Backlog,
    pub will: Option<Box<Will>>,
    /// When the will of the lost connection is due.
    pub will_at: Option<i64>,
    /// When the session without connection ends.
    pub expires_at: Option<i64>,
    pub disconnected_at: i64,
    /// Its row is or may be on disk.
    pub has_row: bool,
    /// It is or was one that survives: ids of it may be on disk.
    pub was_durable: bool,
    /// Mark of the last message routed to it, and the place among the targets.
    pub routed: (u64, usize),
}

impl Session {
    #[must_use]
    pub fn new(number: u64, client_id: Arc<str>, expiry_secs: u32) -> Self {
        Self {
            number,
            client_id,
            owner: Box::default(),
            expiry_secs,
            link: None,
            subscriptions: Map::default(),
            filter_bytes: 0,
            counted_bytes: 0,
            queue: VecDeque::new(),
            sent: 0,
            queued_bytes: 0,
            next_serial: 0,
            inbound: Map::default(),
            scans: VecDeque::new(),
            backlog: Backlog::default(),
            will: None,
            will_at: None,
            expires_at: None,
            disconnected_at: 0,
            has_row: false,
            was_durable: expiry_secs > 0,
            routed: (0, 0),
        }
    }

    #[must_use]
    pub fn at(&self, index: SessionIndex) -> SessionRef {
        SessionRef { index, number: self.number }
    }

    /// Survives its connection, and so a restart of the broker.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        self.expiry_secs > 0
    }

    /// Memory of its filters and its will.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.filter_bytes + self.will.as_deref().map_or(0, Will::bytes)
    }

    /// The next serial whose packet id is free. `None`: all are taken.
    pub fn new_serial(&mut self) -> Option<u64> {
        let spread = |queue: &VecDeque<Entry>, next: u64| {
            queue.front().is_some_and(|first| next - first.serial >= 65_535)
        };
        let mut tries = 0;
        while spread(&self.queue, self.next_serial)
            && self.queue.iter().any(|entry| entry.id() == packet_id(self.next_serial))
        {
            tries += 1;
            if tries > 65_535 {
                return None;
            }
            self.next_serial += 1;
        }
        self.next_serial += 1;
        Some(self.next_serial - 1)
    }

    pub fn push(&mut self, entry: Entry) {
        self.queued_bytes += entry.bytes();
        self.queue.push_back(entry);
    }

    /// Place of the entry with this packet id.
    #[must_use]
    pub fn place_of(&self, id: PacketId) -> Option<usize> {
        let first = self.queue.front()?.serial;
        // Ids follow the serials unless an old entry has been waiting for more than 65,535 others.
        let ahead = (u64::from(id.get()) - 1 + 65_535 - first % 65_535) % 65_535;
        self.place_of_serial(first + ahead).or_else(|| {
            let spread = self.queue.back().is_some_and(|last| last.serial - first >= 65_535);
            if spread { self.queue.iter().position(|entry| entry.id() == id) } else { None }
        })
    }

    #[must_use]
    pub fn place_of_serial(&self, serial: u64) -> Option<usize> {
        // Almost always acknowledged in order.
        if self.queue.front().is_some_and(|entry| entry.serial == serial) {
            return Some(0);
        }
        self.queue.binary_search_by_key(&serial, |entry| entry.serial).ok()
    }

    pub fn remove(&mut self, place: usize) -> Option<Entry> {
        let entry = self.queue.remove(place)?;
        self.queued_bytes = self.queued_bytes.saturating_sub(entry.bytes());
        if place < self.sent {
            self.sent -= 1;
        }
        if self.queue.is_empty() && self.queue.capacity() > 1024 {
            self.queue = VecDeque::new();
        }
        Some(entry)
    }
}
