//! Clients that publish to each other as fast as they may, with sockets between them and the broker
//! that are not read while it says so: who reads loses nothing, and nobody waits for ever.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

struct Client {
    conn: ConnId,
    /// It reads; else it stands still with its connection open.
    is_reading: bool,
    is_paused: bool,
    /// What it sent and the broker has not read.
    to_broker: VecDeque<Packet>,
    /// What it has not read, with its bytes.
    inbox: VecDeque<(Packet, String, usize)>,
    unacknowledged: Vec<(u16, String)>,
    next_id: u16,
    next_number: u32,
    received: Vec<String>,
}

struct World {
    broker: Broker,
    now: i64,
    clients: Vec<Client>,
    /// QoS 1 and 2 messages the broker has answered for, by topic.
    acknowledged: Vec<(String, String)>,
    window: usize,
}

const COUNT: usize = 4;

fn limits() -> Limits {
    Limits {
        inflight: 4,
        behind_messages: 6,
        behind_bytes: 4_000,
        queued_messages: 40,
        unsent_bytes: 8_000,
        deferred_messages: 5,
        deferred_bytes: 2_000,
        receive_maximum: 5,
        behind_secs: 5,
        ..Limits::default()
    }
}

/// Who subscribes to what: a ring, both ways, and all of it.
fn filters(client: usize) -> Vec<Filter> {
    let (before, after) = ((client + COUNT - 1) % COUNT, (client + 1) % COUNT);
    match client % 3 {
        0 => vec![filter(&format!("from/{before}"), Q1), filter(&format!("from/{after}"), Q2)],
        1 => vec![filter("from/+", Q2)],
        _ => vec![filter(&format!("from/{before}"), Q1)],
    }
}

impl World {
    fn new(window: usize) -> Self {
        let mut world = Self {
            broker: Broker::new(limits(), &[]),
            now: 1_000_000,
            clients: vec![],
            acknowledged: vec![],
            window,
        };
        for at in 0..COUNT {
            let conn = 1 + at as ConnId;
            world.clients.push(Client {
                conn,
                is_reading: true,
                is_paused: false,
                to_broker: VecDeque::new(),
                inbox: VecDeque::new(),
                unacknowledged: vec![],
                next_id: 0,
                next_number: 0,
                received: vec![],
            });
            let version = if at % 2 == 0 { Version::V3 } else { Version::V5 };
            let connect = Box::new(connect(version, &format!("c{at}")));
            world.input(Input::Connect { conn, connect, access: Arc::new(All) });
            let subscribe = Subscribe { id: id(9), subscription_id: None, filters: filters(at) };
            world.input(Input::Packet { conn, packet: Packet::Subscribe(Box::new(subscribe)) });
        }
        world
    }

    fn input(&mut self, input: Input) {
        let mut effects = vec![];
        self.broker.handle(self.now, input, &mut effects);
        self.broker.flush(self.now, &mut effects);
        for effect in effects {
            match effect {
                Effect::Send { conn, packet, bytes } => {
                    self.client(conn).inbox.push_back((packet, String::new(), bytes));
                }
                Effect::Deliver { conn, message, qos, id, bytes, .. } => {
                    let payload = String::from_utf8_lossy(&message.payload).into_owned();
                    let packet = Packet::Publish(Box::new(Publish {
                        qos,
                        id,
                        ..super::message(&message.topic, "", qos, 0)
                    }));
                    self.client(conn).inbox.push_back((packet, payload, bytes));
                }
                Effect::Pause { conn } => {
                    assert!(!std::mem::replace(&mut self.client(conn).is_paused, true), "paused twice");
                }
                Effect::Resume { conn } => {
                    assert!(std::mem::replace(&mut self.client(conn).is_paused, false), "resumed twice");
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn client(&mut self, conn: ConnId) -> &mut Client {
        self.clients.iter_mut().find(|client| client.conn == conn).unwrap()
    }

    /// A client publishes if it may.
    fn publish(&mut self, at: usize, qos: QoS) {
        let window = self.window;
        let client = &mut self.clients[at];
        if qos > Q0 && client.unacknowledged.len() >= window || client.to_broker.len() > 20 {
            return;
        }
        let payload = format!("{at}:{qos:?}:{:05}", client.next_number);
        client.next_number += 1;
        let mut packet_id = 0;
        if qos > Q0 {
            client.next_id = client.next_id % 1_000 + 1;
            packet_id = client.next_id;
            client.unacknowledged.push((packet_id, payload.clone()));
        }
        let publish = message(&format!("from/{at}"), &payload, qos, packet_id);
        client.to_broker.push_back(Packet::Publish(Box::new(publish)));
    }

    /// The broker reads a packet of a client if it may.
    fn serve(&mut self, at: usize) -> bool {
        let client = &mut self.clients[at];
        if client.is_paused {
            return false;
        }
        let conn = client.conn;
        let Some(packet) = client.to_broker.pop_front() else { return false };
        self.input(Input::Packet { conn, packet });
        true
    }

    /// A client reads a packet if it reads.
    fn read(&mut self, at: usize) -> bool {
        let client = &mut self.clients[at];
        if !client.is_reading {
            return false;
        }
        let Some((packet, payload, bytes)) = client.inbox.pop_front() else { return false };
        let conn = client.conn;
        let done = |client: &mut Client, id: PacketId| {
            let place = client.unacknowledged.iter().position(|(other, _)| *other == id.get());
            place.map(|place| client.unacknowledged.remove(place).1)
        };
        let ok = Reason::SUCCESS;
        match packet {
            Packet::Publish(publish) => {
                client.received.push(payload);
                match (publish.qos, publish.id) {
                    (Q1, Some(id)) => client.to_broker.push_back(Packet::PubAck { id, reason: ok }),
                    (Q2, Some(id)) => client.to_broker.push_back(Packet::PubRec { id, reason: ok }),
                    _ => {}
                }
            }
            Packet::PubAck { id, .. } | Packet::PubComp { id, .. } => {
                let payload = done(client, id).expect("an answer to a message");
                self.acknowledged.push((format!("from/{at}"), payload));
            }
            Packet::PubRec { id, .. } => {
                client.to_broker.push_back(Packet::PubRel { id, reason: ok });
            }
            Packet::PubRel { id, .. } => client.to_broker.push_back(Packet::PubComp { id, reason: ok }),
            _ => {}
        }
        self.input(Input::Wrote { conn, bytes });
        true
    }

    /// Everybody who reads, and the broker, do what there is to do; then time passes.
    fn pass(&mut self, ms: i64) {
        loop {
            let mut is_moving = false;
            for at in 0..COUNT {
                is_moving |= self.read(at) | self.serve(at);
            }
            if !is_moving {
                break;
            }
        }
        self.now += ms;
        self.input(Input::Tick);
    }

    fn step(&mut self, (what, at, how): (u8, u8, u8)) {
        let at = usize::from(at) % COUNT;
        match what % 16 {
            0..6 => {
                for _ in 0..=how % 16 {
                    self.publish(at, [Q0, Q1, Q2, Q1][usize::from(how / 16 % 4)]);
                    self.serve(at);
                }
            }
            6..10 => drop((0..=how % 16).map(|_| self.serve(at)).collect::<Vec<_>>()),
            10..13 => drop((0..=how % 16).map(|_| self.read(at)).collect::<Vec<_>>()),
            13 => self.pass(i64::from(how)),
            // Only the last one ever stands still, and some time goes by then.
            14 => self.clients[COUNT - 1].is_reading = how % 4 > 0,
            _ => {}
        }
    }

    fn check(&mut self) {
        // Whoever stands still is given up, and the others come to rest without it.
        for _ in 0..200 {
            self.pass(100);
        }
        for at in 0..COUNT - 1 {
            let client = &self.clients[at];
            assert!(!client.is_paused && client.to_broker.is_empty(), "{at} is read");
            assert!(client.unacknowledged.is_empty() && client.inbox.is_empty(), "{at} is answered");
        }
        assert_eq!(self.broker.figures().held_back, 0);
        for at in 0..COUNT - 1 {
            let topics: Vec<String> = filters(at).into_iter().map(|filter| filter.filter).collect();
            let received = &self.clients[at].received;
            for (topic, payload) in &self.acknowledged {
                let is_mine = topics.iter().any(|filter| matches(filter, topic));
                assert!(!is_mine || received.contains(payload), "{at} lost {payload}");
            }
        }
        self.clients[COUNT - 1].is_reading = true;
        for _ in 0..200 {
            self.pass(100);
        }
        let figures = self.broker.figures();
        assert!(self.clients.iter().all(|client| !client.is_paused && client.to_broker.is_empty()));
        assert_eq!((figures.queued_messages, figures.unsent_bytes, figures.deferred_bytes), (0, 0, 0));
        assert_eq!(figures.held_back, 0);
        assert_eq!(self.broker.next_deadline(), None, "nobody is looked after");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    /// With windows within the limits nobody is ever given up but who stands still.
    #[test]
    fn who_reads_loses_nothing(
        window in 1..=5usize,
        steps in prop::collection::vec((any::<u8>(), any::<u8>(), any::<u8>()), 1..300)
    ) {
        let mut world = World::new(window);
        for step in steps {
            world.step(step);
            let figures = world.broker.figures();
            prop_assert!(figures.deferred_bytes <= COUNT * 2_400, "{figures:?}");
        }
        world.check();
    }
}
