//! Clients, a disk and edgecore around the broker, everything happening in any order, and the power
//! going at any time: nothing acknowledged is lost, QoS 2 is never doubled, order is kept.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use proptest::prelude::*;

use super::*;

/// What a client reads.
#[derive(Debug, Clone)]
enum Wire {
    Packet(Packet),
    Message { topic: Arc<str>, payload: String, qos: QoS, id: Option<PacketId>, dup: bool, alias: TopicAlias },
}

/// Where a publish of a client stands.
#[derive(Debug, Clone)]
enum Out {
    Publish(Publish),
    Released,
}

#[derive(Default)]
struct Client {
    name: String,
    version: Option<Version>,
    kept: bool,
    filter: Option<(&'static str, QoS)>,
    receive_maximum: u16,
    conn: Option<ConnId>,
    /// It has read its CONNACK.
    is_up: bool,
    /// What it sent while the broker did not read it.
    unread: Option<VecDeque<Packet>>,
    inbox: VecDeque<(Wire, usize)>,
    aliases: BTreeMap<u16, Arc<str>>,
    next_id: u16,
    next_number: u32,
    out: BTreeMap<u16, Out>,
    /// Order of `out`.
    order: VecDeque<u16>,
    /// QoS 2 ids received and not released.
    held: BTreeSet<u16>,
    in_flight: BTreeSet<u16>,
    received: Vec<(String, QoS)>,
}

struct World {
    broker: Broker,
    now: i64,
    disk: BTreeMap<(Table, Vec<u8>), Vec<u8>>,
    stores: VecDeque<(u64, Batch)>,
    takes: VecDeque<(u64, Arc<Message>, Batch)>,
    clients: Vec<Client>,
    next_conn: ConnId,
    /// Payloads of QoS 1 and 2 the broker has acknowledged.
    acknowledged: Vec<String>,
    /// What edgecore did, on the same disk.
    effects: Vec<String>,
    failed_writes: u32,
    /// Connections that are read again, and what they sent meanwhile.
    resumed: VecDeque<(ConnId, VecDeque<Packet>)>,
}

const TOPICS: [&str; 3] = ["a/1", "a/2", "$hw/events/x"];

fn limits() -> Limits {
    Limits {
        receive_maximum: 8,
        inflight: 5,
        unsent_bytes: 500,
        topic_aliases: 2,
        behind_messages: 6,
        deferred_messages: 4,
        ..Limits::default()
    }
}

impl World {
    fn new() -> Self {
        let subscriber = |name: &str, version, kept, filter| Client {
            name: name.into(),
            version: Some(version),
            kept,
            filter: Some(filter),
            receive_maximum: 3,
            ..Client::default()
        };
        let mut world = Self {
            broker: Broker::new(limits(), &["$hw/events/#"]),
            now: 1_000_000,
            disk: BTreeMap::new(),
            stores: VecDeque::new(),
            takes: VecDeque::new(),
            clients: vec![
                // The first four publish.
                subscriber("kept5", Version::V5, true, ("own/kept5", Q1)),
                subscriber("kept3", Version::V3, true, ("own/kept3", Q1)),
                subscriber("clean5", Version::V5, false, ("a/#", Q2)),
                subscriber("clean3", Version::V3, false, ("a/+", Q1)),
                subscriber("sub2", Version::V5, true, ("a/#", Q2)),
                subscriber("sub1", Version::V3, true, ("a/+", Q1)),
                subscriber("old2", Version::V3, true, ("#", Q2)),
                subscriber("share-a", Version::V5, true, ("$share/g/a/#", Q2)),
                subscriber("share-b", Version::V5, true, ("$share/g/a/#", Q2)),
            ],
            next_conn: 1,
            acknowledged: vec![],
            effects: vec![],
            failed_writes: 0,
            resumed: VecDeque::new(),
        };
        for client in 0..world.clients.len() {
            world.connect(client);
            world.settle();
            let (topic, qos) = world.clients[client].filter.unwrap();
            let filters = vec![filter(topic, qos)];
            let subscribe = Subscribe { id: id(60_000), subscription_id: None, filters };
            world.packet(client, Packet::Subscribe(Box::new(subscribe)));
            world.settle();
        }
        world
    }

    fn input(&mut self, input: Input) {
        self.input_alone(input);
        while let Some((conn, mut unread)) = self.resumed.pop_front() {
            while let Some(packet) = unread.pop_front() {
                match self.by_conn(conn).and_then(|client| self.clients[client].unread.as_mut()) {
                    Some(again) => again.push_back(packet),
                    None => self.input_alone(Input::Packet { conn, packet }),
                }
            }
        }
    }

    fn input_alone(&mut self, input: Input) {
        let mut effects = vec![];
        self.broker.handle(self.now, input, &mut effects);
        self.broker.flush(self.now, &mut effects);
        for effect in effects {
            match effect {
                Effect::Send { conn, packet, bytes } => self.arrive(conn, Wire::Packet(packet), bytes),
                Effect::Deliver { conn, message, qos, id, dup, topic_alias, bytes, .. } => {
                    let payload = String::from_utf8_lossy(&message.payload).into_owned();
                    let topic = message.topic.clone();
                    self.arrive(
                        conn,
                        Wire::Message { topic, payload, qos, id, dup, alias: topic_alias },
                        bytes,
                    );
                }
                Effect::Close { conn, .. } => {
                    if let Some(client) = self.by_conn(conn) {
                        self.lost(client);
                    }
                }
                Effect::Pause { conn } => {
                    if let Some(client) = self.by_conn(conn) {
                        assert!(self.clients[client].unread.replace(VecDeque::new()).is_none());
                    }
                }
                Effect::Resume { conn } => {
                    if let Some(client) = self.by_conn(conn) {
                        self.resumed.push_back((conn, self.clients[client].unread.take().unwrap()));
                    }
                }
                Effect::Store { seq, batch } => {
                    assert!(self.stores.is_empty(), "one store at a time");
                    self.stores.push_back((seq, batch));
                }
                Effect::Take { ticket, message, receipt } => self.takes.push_back((ticket, message, receipt)),
            }
        }
    }

    fn by_conn(&self, conn: ConnId) -> Option<usize> {
        self.clients.iter().position(|client| client.conn == Some(conn))
    }

    fn arrive(&mut self, conn: ConnId, wire: Wire, bytes: usize) {
        if let Some(client) = self.by_conn(conn) {
            self.clients[client].inbox.push_back((wire, bytes));
        }
    }

    fn lost(&mut self, client: usize) {
        let client = &mut self.clients[client];
        client.conn = None;
        client.is_up = false;
        client.unread = None;
        client.inbox.clear();
        client.aliases.clear();
        client.in_flight.clear();
    }

    fn packet(&mut self, client: usize, packet: Packet) {
        let client = &mut self.clients[client];
        match (client.conn, &mut client.unread) {
            (Some(_), Some(unread)) => unread.push_back(packet),
            (Some(conn), None) => self.input(Input::Packet { conn, packet }),
            (None, _) => {}
        }
    }

    fn connect(&mut self, at: usize) {
        self.lost(at);
        let conn = self.next_conn;
        self.next_conn += 1;
        let client = &mut self.clients[at];
        let version = client.version.unwrap();
        let connect = Connect {
            clean_start: !client.kept,
            session_expiry_secs: client.kept.then_some(1_000_000),
            receive_maximum: NonZeroU16::new(client.receive_maximum),
            topic_alias_maximum: 2,
            ..connect(version, &client.name)
        };
        client.conn = Some(conn);
        self.input(Input::Connect { conn, connect: Box::new(connect), access: Arc::new(All) });
    }

    fn publish(&mut self, at: usize, topic: &str, qos: QoS) {
        let client = &mut self.clients[at];
        if !client.is_up || client.out.len() >= 8 {
            return;
        }
        let payload = format!("{}:{topic}:{qos:?}:{:05}", client.name, client.next_number);
        client.next_number += 1;
        let mut packet_id = 0;
        if qos > Q0 {
            client.next_id = client.next_id % 50 + 1;
            packet_id = client.next_id;
            if client.out.contains_key(&packet_id) {
                return;
            }
        }
        let publish = message(topic, &payload, qos, packet_id);
        if qos > Q0 {
            client.out.insert(packet_id, Out::Publish(publish.clone()));
            client.order.push_back(packet_id);
        }
        self.packet(at, Packet::Publish(Box::new(publish)));
    }

    /// The client reads one packet.
    fn read(&mut self, at: usize) -> bool {
        let client = &mut self.clients[at];
        let Some(conn) = client.conn else { return false };
        let Some((wire, bytes)) = client.inbox.pop_front() else { return false };
        match wire {
            Wire::Message { topic, payload, qos, id, dup, alias } => {
                match alias {
                    TopicAlias::None => {}
                    TopicAlias::New(alias) => {
                        assert!(alias.get() <= 2);
                        client.aliases.insert(alias.get(), topic.clone());
                    }
                    TopicAlias::Known(alias) => assert_eq!(client.aliases.get(&alias.get()), Some(&topic)),
                }
                let Some(packet_id) = id else {
                    client.received.push((payload, qos));
                    self.input(Input::Wrote { conn, bytes });
                    return true;
                };
                client.in_flight.insert(packet_id.get());
                if client.version == Some(Version::V5) {
                    assert!(client.in_flight.len() <= usize::from(client.receive_maximum), "[MQTT-3.3.4-9]");
                }
                if qos == Q1 {
                    client.received.push((payload, qos));
                    client.in_flight.remove(&packet_id.get());
                    self.packet(at, Packet::PubAck { id: packet_id, reason: Reason::SUCCESS });
                } else {
                    if client.held.insert(packet_id.get()) {
                        client.received.push((payload, qos));
                    } else {
                        assert!(dup, "an id in use comes again only as a repetition [MQTT-2.2.1-4]");
                    }
                    self.packet(at, Packet::PubRec { id: packet_id, reason: Reason::SUCCESS });
                }
            }
            Wire::Packet(packet) => self.read_packet(at, packet),
        }
        self.input(Input::Wrote { conn, bytes });
        true
    }

    fn read_packet(&mut self, at: usize, packet: Packet) {
        let client = &mut self.clients[at];
        match packet {
            Packet::ConnAck(connack) => {
                assert!(!connack.reason.is_failure(), "{connack:?}");
                client.is_up = true;
                if !connack.session_present {
                    assert!(
                        !client.kept
                            || client.next_number == 0
                            || client.received.is_empty()
                            || client.conn == Some(1)
                    );
                    client.out.clear();
                    client.order.clear();
                    client.held.clear();
                    if let Some((topic, qos)) = client.filter.filter(|_| !client.kept) {
                        let filters = vec![filter(topic, qos)];
                        let subscribe = Subscribe { id: id(60_000), subscription_id: None, filters };
                        self.packet(at, Packet::Subscribe(Box::new(subscribe)));
                    }
                    return;
                }
                // [MQTT-4.4.0-1]
                for packet_id in client.order.clone() {
                    let packet = match self.clients[at].out.get(&packet_id) {
                        Some(Out::Publish(publish)) => {
                            Packet::Publish(Box::new(Publish { dup: true, ..publish.clone() }))
                        }
                        Some(Out::Released) => pubrel(packet_id),
                        None => continue,
                    };
                    self.packet(at, packet);
                }
            }
            Packet::PubAck { id, reason } => {
                let out = client.done(id);
                if let (Some(Out::Publish(publish)), false) = (out, reason.is_failure()) {
                    self.acknowledged.push(String::from_utf8_lossy(&publish.payload).into_owned());
                }
            }
            Packet::PubRec { id, reason } if reason.is_failure() => {
                client.done(id);
            }
            Packet::PubRec { id, .. } => {
                if let Some(out) = client.out.get_mut(&id.get())
                    && let Out::Publish(publish) = std::mem::replace(out, Out::Released)
                {
                    self.acknowledged.push(String::from_utf8_lossy(&publish.payload).into_owned());
                }
                self.packet(at, pubrel(id.get()));
            }
            Packet::PubComp { id, .. } => {
                client.done(id);
            }
            Packet::PubRel { id, .. } => {
                client.held.remove(&id.get());
                client.in_flight.remove(&id.get());
                self.packet(at, Packet::PubComp { id, reason: Reason::SUCCESS });
            }
            Packet::SubAck { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn store(&mut self, ok: bool) {
        let Some((seq, batch)) = self.stores.pop_front() else { return };
        if ok {
            self.write(&batch);
            self.input(Input::Stored { seq });
        } else {
            self.failed_writes += 1;
            self.input(Input::NotStored { seq });
        }
    }

    fn write(&mut self, batch: &Batch) {
        for op in batch.ops() {
            match op.clone() {
                Op::Put { table, key, value } => self.disk.insert((table, key), value),
                Op::Delete { table, key } => self.disk.remove(&(table, key)),
            };
        }
    }

    fn take(&mut self, ok: bool, answered: bool) {
        let Some((ticket, message, receipt)) = self.takes.pop_front() else { return };
        if ok {
            self.write(&receipt);
            self.effects.push(String::from_utf8_lossy(&message.payload).into_owned());
        }
        if answered {
            self.input(Input::Taken { ticket, ok });
        } else {
            // It was done, and the power went before the answer.
            self.crash(false);
        }
    }

    /// kill -9; the write under way may have reached the disk.
    fn crash(&mut self, written: bool) {
        if let (true, Some((_, batch))) = (written, self.stores.pop_front()) {
            self.write(&batch);
        }
        self.stores.clear();
        self.takes.clear();
        for client in 0..self.clients.len() {
            self.lost(client);
        }
        self.broker = Broker::new(limits(), &["$hw/events/#"]);
        let rows: Vec<Row> = self.disk.iter().map(|((_, key), value)| (key.clone(), value.clone())).collect();
        let loaded = self.broker.load(rows, self.now);
        assert!(loaded.unreadable.is_empty(), "{:?}", loaded.unreadable);
        self.input(Input::Tick);
    }

    /// Everything that can happen happens, until nothing more does.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut moved = !self.stores.is_empty() || !self.takes.is_empty();
            self.store(true);
            self.take(true, true);
            for client in 0..self.clients.len() {
                while self.read(client) {
                    moved = true;
                }
            }
            if !moved {
                let Some(at) = self.broker.next_deadline().filter(|at| *at < self.now + 60_000) else {
                    return;
                };
                self.now = self.now.max(at);
                self.input(Input::Tick);
                if self.stores.is_empty() && self.takes.is_empty() && self.broker.next_deadline() == Some(at)
                {
                    return;
                }
            }
        }
        panic!("it never comes to rest");
    }

    fn step(&mut self, (what, which, how): (u8, u8, u8)) {
        let client = usize::from(which) % self.clients.len();
        let publisher = usize::from(which) % 4;
        match what % 32 {
            0..10 => {
                let qos = [Q0, Q1, Q2, Q2][usize::from(how) % 4];
                self.publish(publisher, TOPICS[usize::from(how) / 4 % 3], qos);
            }
            10..19 => {
                for _ in 0..=how % 8 {
                    self.read(client);
                }
            }
            19..24 => self.store(true),
            24 => self.store(how % 3 > 0),
            25 | 26 => self.take(true, true),
            27 => self.take(how % 2 == 0, how % 4 != 2),
            28 => {
                if let Some(conn) = self.clients[client].conn {
                    self.lost(client);
                    self.input(Input::Gone { conn });
                }
            }
            29 => self.connect(client),
            30 => {
                self.now += i64::from(how) * 10;
                self.input(Input::Tick);
            }
            _ if how < 100 => self.crash(how % 2 == 0),
            _ => {
                if self.clients[client].conn.is_none() {
                    self.connect(client);
                }
            }
        }
    }

    fn finish(&mut self) {
        for client in 0..self.clients.len() {
            self.connect(client);
        }
        self.settle();
    }

    fn check(&self) {
        let by_name = |name: &str| self.clients.iter().find(|client| client.name == name).unwrap();
        let acknowledged = || self.acknowledged.iter().filter(|payload| payload.contains(":a/"));
        for name in ["sub2", "sub1", "old2"] {
            let received: BTreeSet<&str> = by_name(name).received.iter().map(|(got, _)| &**got).collect();
            for payload in acknowledged() {
                assert!(received.contains(payload.as_str()), "{name} lost {payload}");
            }
        }
        let both = || by_name("share-a").received.iter().chain(&by_name("share-b").received);
        for payload in acknowledged() {
            assert!(both().any(|(got, _)| got == payload), "the group lost {payload}");
        }
        for payload in self.acknowledged.iter().filter(|payload| payload.contains("$hw")) {
            assert!(self.effects.contains(payload), "edgecore lost {payload}");
        }
        // Exactly once wherever publisher and subscriber have sessions that survive.
        let kept = |payload: &&String| payload.starts_with("kept") && payload.contains("ExactlyOnce");
        let once = |what: &str, got: Vec<&String>| {
            let mut seen = BTreeSet::new();
            for payload in got.into_iter().filter(|payload| kept(payload)) {
                assert!(seen.insert(payload), "{what} got {payload} twice");
            }
        };
        for name in ["sub2", "old2"] {
            once(name, by_name(name).received.iter().map(|(payload, _)| payload).collect());
        }
        once("the group", both().map(|(payload, _)| payload).collect());
        once("edgecore", self.effects.iter().collect());
        // A repetition may reach another member of a group, or the next session of a clean client.
        for client in self.clients.iter().filter(|client| client.kept && !client.name.starts_with("share")) {
            client.check_order(self.failed_writes > 0);
        }
        let figures = self.broker.figures();
        assert_eq!((figures.queued_messages, figures.queued_bytes, figures.unsent_bytes), (0, 0, 0));
        assert_eq!((figures.local_waiting, figures.held_back, figures.deferred_bytes), (0, 0, 0));
        assert!(self.clients.iter().all(|client| client.unread.is_none()), "everybody is read");
        assert_eq!(self.broker.open_promises(), 0);
        let left: Vec<_> = self.disk.keys().filter(|(_, key)| key.starts_with(b"mqtt/q/")).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

impl Client {
    fn done(&mut self, id: PacketId) -> Option<Out> {
        self.order.retain(|other| *other != id.get());
        self.out.remove(&id.get())
    }

    /// First arrivals of one publisher, topic and quality are in the order of sending
    /// [MQTT-4.6.0-5], [MQTT-4.6.0-6].
    ///
    /// Not for publishers of version 5 after a failed write: one that lost its connection before it
    /// read that a message failed sends it again after later ones.
    fn check_order(&self, disk_failed: bool) {
        let mut last: BTreeMap<(&str, QoS), &str> = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for (payload, qos) in &self.received {
            if !seen.insert(payload) || disk_failed && payload.split(':').next().unwrap().ends_with('5') {
                continue;
            }
            let (stream, number) = payload.rsplit_once(':').unwrap();
            if let Some(before) = last.insert((stream, *qos), number) {
                assert!(before < number, "{} got {payload} after {before}", self.name);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_acknowledged_is_lost_and_qos_2_comes_once(
        steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 1..400)
    ) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.finish();
        world.check();
    }
}
