//! MQTT: packets of clients and servers, topics and filters, the broker behind them, its rows on disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::text;
use crate::mqtt::codec::{Decoder, OutBuf, encode};
use crate::mqtt::rows::{QueuedRow, RowName, SessionRow, decode_message, encode_message};
use crate::mqtt::trie::{Matches, Options, Trie};
use crate::mqtt::{
    Access, Broker, Connect, Effect, Input, Limits, Packet, QoS, Version, check_filter, check_topic, matches,
};
use crate::store::{Batch, Op, Row};

const MAX_PACKET: u32 = 1 << 20;
const NOW: i64 = 1_800_000_000_000;

#[derive(Debug)]
struct All;

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

/// What came before the first error, and whether there was one.
fn read(mut decoder: Decoder, bytes: &[u8], at_once: usize) -> (Vec<Packet>, bool) {
    let mut packets = Vec::new();
    let is_broken = bytes.chunks(at_once.max(1)).any(|piece| {
        let failed = decoder.feed(piece, &mut packets).is_err();
        assert!(decoder.partial_bytes() <= bytes.len());
        failed
    });
    (packets, is_broken)
}

/// A packet that is written can be read, and what was read is written as the same bytes. (What a peer may not say, such as a
/// session that is present where the connection is refused, is not said again.)
fn say_again(packets: &[Packet], version: Version, decoder: impl Fn() -> Decoder) {
    for packet in packets {
        let mut out = OutBuf::default();
        // Some are never said by us, or not in this version.
        if encode(packet, version, &mut out).is_err() || out.is_empty() {
            continue;
        }
        let said = out.to_vec();
        let (again, is_broken) = read(decoder(), &said, usize::MAX);
        assert!(!is_broken && again.len() == 1, "{packet:?} cannot be read again: {again:?}");
        let mut out = OutBuf::default();
        for packet in &again {
            encode(packet, version, &mut out).expect("what was said can be said again");
        }
        assert_eq!(out.to_vec(), said, "{packet:?} {again:?}");
    }
}

/// The bytes of one client, in one piece and in small ones.
pub fn mqtt_client(bytes: &[u8]) {
    let whole = read(Decoder::of_client(MAX_PACKET), bytes, usize::MAX);
    assert_eq!(whole, read(Decoder::of_client(MAX_PACKET), bytes, 3), "however the bytes come");
    let Some((Packet::Connect(connect), rest)) = whole.0.split_first() else { return };
    let version = connect.version;
    say_again(&whole.0[..1], version, || Decoder::of_client(MAX_PACKET));
    say_again(rest, version, || {
        let mut decoder = Decoder::of_client(MAX_PACKET);
        let hello: &[u8] = match version {
            Version::V3 => b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00",
            Version::V5 => b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x00\x00\x00\x00",
        };
        decoder.feed(hello, &mut Vec::new()).expect("a CONNECT");
        decoder
    });
}

/// The bytes of one server, as `edgecore` reads them from an outside broker.
pub fn mqtt_server(bytes: &[u8]) {
    for version in [Version::V3, Version::V5] {
        let of = || Decoder::of_server(version, MAX_PACKET);
        let whole = read(of(), bytes, usize::MAX);
        assert_eq!(whole, read(of(), bytes, 3), "however the bytes come");
        say_again(&whole.0, version, of);
    }
}

/// Names and filters: a trie of filters finds what comparing one by one finds.
pub fn mqtt_topic(bytes: &[u8]) {
    let Some(text) = text(bytes) else { return };
    let limits = Limits::default();
    let (filters, topics): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.starts_with('F'));
    let filters: Vec<&str> = filters.iter().filter_map(|line| line.get(1..)).collect();
    let options = Options { qos: QoS::AtMostOnce, no_local: false, retain_as_published: false, id: None };
    let mut trie = Trie::default();
    let mut plain = Vec::new();
    for (at, filter) in filters.iter().take(64).enumerate() {
        let Ok(parts) = check_filter(filter, &limits) else { continue };
        trie.insert(filter, at, options);
        plain.push((at, *filter, parts.filter, parts.group.is_some()));
    }
    for topic in topics.iter().take(64) {
        if check_topic(topic, &limits).is_err() {
            continue;
        }
        let mut found = Matches::default();
        trie.find(topic, &mut found);
        let mut got: Vec<usize> = found.subscribers.iter().map(|one| one.session).collect();
        let fits = |(at, _, filter, is_shared): &(usize, &str, &str, bool)| {
            (!is_shared && matches(filter, topic)).then_some(*at)
        };
        got.sort_unstable();
        assert_eq!(got, plain.iter().filter_map(fits).collect::<Vec<_>>(), "{topic:?}");
    }
    for (at, filter, ..) in &plain {
        trie.remove(filter, *at);
    }
    assert_eq!(trie.len(), 0);
}

/// The disk of a broker.
#[derive(Default)]
struct Disk(BTreeMap<Vec<u8>, Vec<u8>>);

impl Disk {
    fn write(&mut self, batch: &Batch) {
        for op in batch.ops() {
            match op.clone() {
                Op::Put { key, value, .. } => self.0.insert(key, value),
                Op::Delete { key, .. } => self.0.remove(&key),
            };
        }
    }

    fn rows(&self) -> Vec<Row> {
        self.0.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

struct World {
    broker: Broker,
    disk: Disk,
    now: i64,
}

impl World {
    fn input(&mut self, input: Input) {
        let mut inputs = vec![input];
        let mut steps = 0;
        while let Some(input) = inputs.pop() {
            steps += 1;
            assert!(steps < 20_000, "the broker does not come to rest");
            let mut effects = Vec::new();
            self.broker.handle(self.now, input, &mut effects);
            self.broker.flush(self.now, &mut effects);
            for effect in effects {
                match effect {
                    Effect::Send { conn, packet, bytes } => {
                        let mut out = OutBuf::default();
                        // What the broker says can be written.
                        encode(&packet, Version::V5, &mut out).expect("a packet of the broker");
                        inputs.push(Input::Wrote { conn, bytes });
                    }
                    Effect::Deliver { conn, bytes, .. } => inputs.push(Input::Wrote { conn, bytes }),
                    Effect::Store { seq, batch } => {
                        self.disk.write(&batch);
                        inputs.push(Input::Stored { seq });
                    }
                    Effect::Take { ticket, receipt, .. } => {
                        self.disk.write(&receipt);
                        inputs.push(Input::Taken { ticket, ok: true });
                    }
                    Effect::Close { .. } | Effect::Pause { .. } | Effect::Resume { .. } => {}
                }
            }
        }
    }
}

fn limits() -> Limits {
    Limits { queued_messages: 20, clients: 4, sessions: 4, retained_messages: 8, ..Limits::default() }
}

/// Two clients of one broker: connections are cut by a byte 0xFF 0xFF 0xFF 0xFF. What is on disk afterwards is read by the
/// next broker without a row it does not know.
pub fn mqtt_broker(bytes: &[u8]) {
    let mut world =
        World { broker: Broker::new(limits(), &["$hw/events/#"]), disk: Disk::default(), now: NOW };
    let mut rest = bytes;
    for conn in 1..=4 {
        let end = rest.windows(4).position(|four| four == [0xFF; 4]);
        let (one, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after.get(4..).unwrap_or_default();
        let (packets, _) = read(Decoder::of_client(MAX_PACKET), one, usize::MAX);
        for packet in packets {
            world.now += 1;
            match packet {
                Packet::Connect(connect) => {
                    let connect: Box<Connect> = connect;
                    world.input(Input::Connect { conn, connect, access: Arc::new(All) });
                }
                packet => world.input(Input::Packet { conn, packet }),
            }
        }
        if conn % 2 == 0 {
            world.input(Input::Gone { conn });
        }
    }
    world.input(Input::Tick);
    let figures = world.broker.figures();
    assert!(figures.sessions <= 4 && figures.clients_connected <= 4, "{figures:?}");
    for conn in 1..=4 {
        world.input(Input::Gone { conn });
    }
    let mut next = Broker::new(limits(), &["$hw/events/#"]);
    let loaded = next.load(world.disk.rows(), world.now);
    assert!(loaded.unreadable.is_empty(), "{loaded:?}");
    let mut again = World { broker: next, disk: world.disk, now: world.now + 1_000_000 };
    again.input(Input::Tick);
}

/// Rows of the broker on a disk that lies: first line the key, the rest the value.
pub fn mqtt_rows(bytes: &[u8]) {
    let (key, value) = super::cut(bytes, b"\n");
    if let Some(name) = RowName::decode(key) {
        assert_eq!(name.encode().1, key);
    }
    if let Some(row) = SessionRow::decode(value) {
        assert_eq!(SessionRow::decode(&row.encode()).as_ref(), Some(&row));
    }
    if let Some(row) = QueuedRow::decode(value) {
        assert_eq!(QueuedRow::decode(&row.encode()).as_ref(), Some(&row));
    }
    if let Some(message) = decode_message(value) {
        assert_eq!(decode_message(&encode_message(&message)).as_ref(), Some(&message));
    }
    let mut broker = Broker::new(limits(), &["$hw/events/#"]);
    let session = b"mqtt/session/0000000000000001".to_vec();
    broker.load([(key.to_vec(), value.to_vec()), (session, value.to_vec())], NOW);
    World { broker, disk: Disk::default(), now: NOW + 1 }.input(Input::Tick);
}
