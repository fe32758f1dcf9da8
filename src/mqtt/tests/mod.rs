//! The broker driven by hand: packets in, what each client gets out.

mod backpressure;
mod connect;
mod durable;
mod flow;
mod limits;
mod local;
mod publish;
mod readers;
mod retained;
mod rows;
mod shared;
mod simulated;
mod subscribe;
mod trie;

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::store::{Batch, Op, Row, Table};

/// May do everything.
#[derive(Debug)]
pub struct All;

impl Access for All {
    fn may_publish(&self, _: &str) -> bool {
        true
    }
    fn may_subscribe(&self, _: &str) -> bool {
        true
    }
    fn may_receive(&self, _: &str) -> bool {
        true
    }
}

/// May do everything but touch topics below `secret/`.
#[derive(Debug)]
pub struct NotSecret;

impl Access for NotSecret {
    fn may_publish(&self, topic: &str) -> bool {
        !topic.starts_with("secret/")
    }
    fn may_subscribe(&self, filter: &str) -> bool {
        !filter.starts_with("secret/")
    }
    fn may_receive(&self, topic: &str) -> bool {
        !topic.starts_with("secret/")
    }
}

/// A PUBLISH as a client sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub topic: String,
    pub payload: String,
    pub qos: QoS,
    pub id: Option<u16>,
    pub dup: bool,
    pub retain: bool,
    pub ids: Vec<u32>,
    pub alias: TopicAlias,
    pub expiry: Option<u32>,
}

/// The broker, its disk and everything it said.
pub struct Bench {
    pub broker: Broker,
    pub now: i64,
    pub disk: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    /// `false`: stores stay open until [`Bench::disk_answers`].
    pub auto_store: bool,
    /// `false`: takes stay open.
    pub auto_take: bool,
    pub open_stores: Vec<(u64, Batch)>,
    pub open_takes: Vec<(u64, Arc<Message>, Batch)>,
    pub taken: Vec<String>,
    pub stores: usize,
    sent: BTreeMap<ConnId, Vec<Packet>>,
    got: BTreeMap<ConnId, Vec<Got>>,
    pub closed: BTreeMap<ConnId, Reason>,
    pub paused: Vec<ConnId>,
    /// `false`: nothing is read by clients.
    pub auto_read: bool,
}

pub fn id(id: u16) -> PacketId {
    NonZeroU16::new(id).unwrap()
}

pub fn connect(version: Version, client_id: &str) -> Connect {
    Connect {
        version,
        client_id: client_id.into(),
        clean_start: true,
        keep_alive_secs: 30,
        username: None,
        password: None,
        will: None,
        session_expiry_secs: None,
        receive_maximum: None,
        maximum_packet_bytes: None,
        topic_alias_maximum: 0,
        request_problem_information: true,
        authentication_method: None,
    }
}

/// A session that survives: 5 with an expiry of `secs`.
pub fn kept(client_id: &str, secs: u32) -> Connect {
    Connect { clean_start: false, session_expiry_secs: Some(secs), ..connect(Version::V5, client_id) }
}

pub fn will(topic: &str, delay_secs: u32) -> Will {
    Will {
        topic: topic.into(),
        payload: Bytes::from_static(b"gone"),
        qos: QoS::AtLeastOnce,
        retain: false,
        delay_secs,
        properties: MessageProperties::default(),
    }
}

pub fn filter(filter: &str, qos: QoS) -> Filter {
    Filter {
        filter: filter.into(),
        qos,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Always,
    }
}

pub fn message(topic: &str, payload: &str, qos: QoS, packet_id: u16) -> Publish {
    Publish {
        topic: topic.into(),
        payload: Bytes::copy_from_slice(payload.as_bytes()),
        qos,
        retain: false,
        dup: false,
        id: NonZeroU16::new(packet_id),
        topic_alias: None,
        subscription_ids: vec![],
        properties: Arc::default(),
    }
}

pub const Q0: QoS = QoS::AtMostOnce;
pub const Q1: QoS = QoS::AtLeastOnce;
pub const Q2: QoS = QoS::ExactlyOnce;

impl Bench {
    pub fn new() -> Self {
        Self::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Self {
        Self {
            broker: Broker::new(limits, &["$hw/events/#"]),
            now: 1_000_000,
            disk: BTreeMap::new(),
            auto_store: true,
            auto_take: true,
            open_stores: vec![],
            open_takes: vec![],
            taken: vec![],
            stores: 0,
            sent: BTreeMap::new(),
            got: BTreeMap::new(),
            closed: BTreeMap::new(),
            paused: vec![],
            auto_read: true,
        }
    }

    /// Handles one input and ends the burst.
    pub fn input(&mut self, input: Input) {
        let mut effects = vec![];
        self.broker.handle(self.now, input, &mut effects);
        self.broker.flush(self.now, &mut effects);
        self.run(effects);
    }

    fn run(&mut self, effects: Vec<Effect>) {
        let mut next = vec![];
        for effect in effects {
            match effect {
                Effect::Send { conn, packet, bytes } => {
                    self.sent.entry(conn).or_default().push(packet);
                    if self.auto_read {
                        next.push(Input::Wrote { conn, bytes });
                    }
                }
                Effect::Deliver {
                    conn,
                    message,
                    qos,
                    id,
                    dup,
                    retain,
                    subscription_ids,
                    topic_alias,
                    expiry_left_secs,
                    bytes,
                } => {
                    self.got.entry(conn).or_default().push(Got {
                        topic: message.topic.to_string(),
                        payload: String::from_utf8_lossy(&message.payload).into_owned(),
                        qos,
                        id: id.map(NonZeroU16::get),
                        dup,
                        retain,
                        ids: subscription_ids.as_slice().iter().map(|id| id.get()).collect(),
                        alias: topic_alias,
                        expiry: expiry_left_secs,
                    });
                    if self.auto_read {
                        next.push(Input::Wrote { conn, bytes });
                    }
                }
                Effect::Close { conn, reason } => {
                    assert!(self.closed.insert(conn, reason).is_none(), "closed twice");
                }
                Effect::Pause { conn } => self.paused.push(conn),
                Effect::Resume { conn } => self.paused.retain(|other| *other != conn),
                Effect::Store { seq, batch } => {
                    self.stores += 1;
                    self.open_stores.push((seq, batch));
                }
                Effect::Take { ticket, message, receipt } => {
                    self.open_takes.push((ticket, message, receipt));
                }
            }
        }
        if self.auto_store && !self.open_stores.is_empty() {
            self.disk_answers(true);
        }
        if self.auto_take && !self.open_takes.is_empty() {
            self.edgecore_takes();
        }
        for input in next {
            self.input(input);
        }
    }

    pub fn apply(&mut self, batch: &Batch) {
        for op in batch.ops() {
            match op.clone() {
                Op::Put { table, key, value } => self.disk.insert((table, key), value),
                Op::Delete { table, key } => self.disk.remove(&(table, key)),
            };
        }
    }

    /// The open store succeeds or fails.
    pub fn disk_answers(&mut self, ok: bool) {
        for (seq, batch) in std::mem::take(&mut self.open_stores) {
            if ok {
                self.apply(&batch);
                self.input(Input::Stored { seq });
            } else {
                self.input(Input::NotStored { seq });
            }
        }
    }

    /// edgecore takes everything given.
    pub fn edgecore_takes(&mut self) {
        for (ticket, message, receipt) in std::mem::take(&mut self.open_takes) {
            self.apply(&receipt);
            self.taken.push(String::from_utf8_lossy(&message.payload).into_owned());
            self.input(Input::Taken { ticket, ok: true });
        }
    }

    /// kill -9 and start: only the disk remains.
    pub fn crash(&mut self, limits: Limits) -> Loaded {
        self.broker = Broker::new(limits, &["$hw/events/#"]);
        self.open_stores.clear();
        self.open_takes.clear();
        self.sent.clear();
        self.got.clear();
        self.closed.clear();
        self.paused.clear();
        let rows: Vec<Row> = self.disk.iter().map(|((_, key), value)| (key.clone(), value.clone())).collect();
        let loaded = self.broker.load(rows, self.now);
        self.input(Input::Tick);
        loaded
    }

    pub fn connect_as(&mut self, conn: ConnId, connect: Connect, access: Arc<dyn Access>) -> Option<ConnAck> {
        self.input(Input::Connect { conn, connect: Box::new(connect), access });
        self.packets(conn).into_iter().find_map(|packet| match packet {
            Packet::ConnAck(connack) => Some(*connack),
            _ => None,
        })
    }

    pub fn connect(&mut self, conn: ConnId, connect: Connect) -> ConnAck {
        self.connect_as(conn, connect, Arc::new(All)).expect("a CONNACK")
    }

    pub fn packet(&mut self, conn: ConnId, packet: Packet) {
        self.input(Input::Packet { conn, packet });
    }

    pub fn publish(&mut self, conn: ConnId, publish: Publish) {
        self.packet(conn, Packet::Publish(Box::new(publish)));
    }

    pub fn subscribe_with(&mut self, conn: ConnId, id_: Option<u32>, filters: Vec<Filter>) -> Vec<Reason> {
        let subscribe = Subscribe { id: id(9), subscription_id: id_, filters };
        self.packet(conn, Packet::Subscribe(Box::new(subscribe)));
        let mut reasons = vec![];
        self.sent.entry(conn).or_default().retain(|packet| match packet {
            Packet::SubAck { reasons: got, .. } => {
                reasons.extend(got.clone());
                false
            }
            _ => true,
        });
        reasons
    }

    pub fn subscribe(&mut self, conn: ConnId, topic: &str, qos: QoS) {
        let reasons = self.subscribe_with(conn, None, vec![filter(topic, qos)]);
        assert!(!reasons.iter().any(|reason| reason.is_failure()), "{reasons:?}");
    }

    /// What `conn` was sent besides PUBLISH since the last call.
    pub fn packets(&mut self, conn: ConnId) -> Vec<Packet> {
        self.sent.remove(&conn).unwrap_or_default()
    }

    /// The PUBLISH packets for `conn` since the last call.
    pub fn got(&mut self, conn: ConnId) -> Vec<Got> {
        self.got.remove(&conn).unwrap_or_default()
    }

    pub fn payloads(&mut self, conn: ConnId) -> Vec<String> {
        self.got(conn).into_iter().map(|got| got.payload).collect()
    }

    pub fn wait_secs(&mut self, secs: i64) {
        self.now += secs * 1000;
        self.input(Input::Tick);
    }

    pub fn keys(&self, prefix: &str) -> usize {
        self.disk.keys().filter(|(_, key)| key.starts_with(prefix.as_bytes())).count()
    }
}

pub fn puback(id_: u16, reason: Reason) -> Packet {
    Packet::PubAck { id: id(id_), reason }
}
pub fn pubrec(id_: u16, reason: Reason) -> Packet {
    Packet::PubRec { id: id(id_), reason }
}
pub fn pubrel(id_: u16) -> Packet {
    Packet::PubRel { id: id(id_), reason: Reason::SUCCESS }
}
pub fn pubcomp(id_: u16, reason: Reason) -> Packet {
    Packet::PubComp { id: id(id_), reason }
}
