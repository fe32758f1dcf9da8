//! Rows: what is written is read again, and rubbish is passed over.

use std::num::{NonZeroU32, NonZeroU64};

use proptest::prelude::*;

use super::super::rows::{Content, QueuedRow, RowName, SessionRow, VERSION, decode_message, encode_message};
use super::super::trie::Options;
use super::*;

fn any_qos() -> impl Strategy<Value = QoS> {
    prop::sample::select(vec![Q0, Q1, Q2])
}

fn any_properties() -> impl Strategy<Value = MessageProperties> {
    let text = || prop::option::of(".{0,8}");
    let bytes = prop::option::of(prop::collection::vec(any::<u8>(), 0..8));
    let user = prop::collection::vec((".{0,4}", ".{0,4}"), 0..3);
    (any::<Option<bool>>(), any::<Option<u32>>(), text(), text(), bytes, user).prop_map(
        |(is_utf8_payload, expiry_secs, content_type, response_topic, correlation_data, user)| {
            MessageProperties {
                is_utf8_payload,
                expiry_secs,
                content_type,
                response_topic,
                correlation_data: correlation_data.map(Bytes::from),
                user,
            }
        },
    )
}

fn any_message() -> impl Strategy<Value = Message> {
    (".{1,12}", prop::collection::vec(any::<u8>(), 0..40), any_qos(), any::<bool>(), any_properties())
        .prop_map(|(topic, payload, qos, retain, properties)| {
            Message::new(topic.into(), payload.into(), qos, retain, Arc::new(properties), 1_700_000_000_000)
        })
}

fn any_session() -> impl Strategy<Value = SessionRow> {
    let options =
        (any_qos(), any::<bool>(), any::<bool>(), any::<u32>()).prop_map(|(qos, no_local, rap, id)| {
            Options { qos, no_local, retain_as_published: rap, id: NonZeroU32::new(id) }
        });
    let will = (any_message(), any::<u32>()).prop_map(|(message, delay_secs)| Will {
        topic: message.topic.to_string(),
        payload: message.payload.clone(),
        qos: message.qos,
        retain: message.retain,
        delay_secs,
        properties: (*message.properties).clone(),
    });
    let subscriptions = prop::collection::vec((".{1,8}", options), 0..4);
    (".{1,8}", any::<(u32, bool, i64, u64)>(), prop::option::of(will), subscriptions).prop_map(
        |(client_id, (expiry_secs, connected, disconnected_at, sent_below), will, subscriptions)| {
            let owner = client_id.to_lowercase();
            SessionRow {
                client_id,
                expiry_secs,
                connected,
                disconnected_at,
                sent_below,
                will,
                subscriptions,
                owner,
            }
        },
    )
}

proptest! {
    #[test]
    fn messages_and_queue_entries(
        message in any_message(),
        ids in prop::collection::vec(1..u32::MAX, 0..4),
        kind in 0..3,
        shared in any::<bool>(),
    ) {
        prop_assert_eq!(decode_message(&encode_message(&message)), Some(message.clone()));
        let mut subscription_ids = SubscriptionIds::None;
        for id in ids {
            subscription_ids.add(NonZeroU32::new(id));
        }
        let (qos, retain) = (message.qos, message.retain);
        let content = match kind {
            0 => Content::Released,
            1 => Content::Here(Arc::new(message)),
            _ => Content::In(NonZeroU64::MIN),
        };
        let shared = shared.then(|| "$share/g/a".into());
        let row = QueuedRow { qos, retain, subscription_ids, shared, content };
        prop_assert_eq!(QueuedRow::decode(&row.encode()), Some(row));
    }

    #[test]
    fn sessions(row in any_session()) {
        prop_assert_eq!(SessionRow::decode(&row.encode()), Some(row));
    }

    #[test]
    fn names(session in 0..1u64 << 62, number in 1..1u64 << 62, packet_id in 1..u16::MAX, topic in ".{1,20}") {
        for name in [
            RowName::Session(session),
            RowName::Retained(topic),
            RowName::Body(NonZeroU64::new(number).unwrap()),
            RowName::Inbound { session, id: id(packet_id) },
            RowName::Local(number),
            RowName::Queued { session, serial: number },
        ] {
            let (table, key) = name.encode();
            prop_assert!(PREFIXES.iter().any(|(at, prefix)| *at == table && key.starts_with(prefix.as_bytes())));
            prop_assert_eq!(RowName::decode(&key), Some(name));
        }
    }

    #[test]
    fn rubbish_is_passed_over(
        mut value in prop::collection::vec(any::<u8>(), 0..60),
        right_version in any::<bool>(),
        kind in 0..6,
        row in any_session(),
        cut in any::<prop::sample::Index>(),
    ) {
        if right_version && !value.is_empty() {
            value[0] = VERSION;
        }
        let _ = (decode_message(&value), QueuedRow::decode(&value), SessionRow::decode(&value));
        let whole = row.encode();
        let short = &whole[..cut.index(whole.len())];
        prop_assert_eq!(SessionRow::decode(short), None);
        let key = match kind {
            0 => "mqtt/session/0000000000000001",
            1 => "mqtt/retained/a",
            2 => "mqtt/q/b/0000000000000001",
            3 => "mqtt/q/l/0000000000000001",
            4 => "mqtt/q/o/0000000000000001/0000000000000001",
            _ => "mqtt/q/rubbish",
        };
        let mut broker = Broker::new(Limits::default(), &[]);
        let loaded = broker.load([(key.as_bytes().to_vec(), value)], 0);
        prop_assert!(loaded.unreadable.len() + loaded.orphans + loaded.sessions + loaded.local + loaded.retained <= 1);
        let mut effects = vec![];
        broker.handle(1, Input::Tick, &mut effects);
        broker.flush(1, &mut effects);
    }
}

#[test]
fn damaged_rows_do_not_hide_the_others() {
    let mut bench = Bench::new();
    bench.connect(1, kept("a", 1000));
    bench.subscribe(1, "t", Q1);
    bench.publish(1, message("t", "m", Q1, 1));
    bench.publish(1, message("t", "n", Q1, 2));
    let (at, value) = bench.disk.iter_mut().find(|((_, key), _)| key.starts_with(b"mqtt/q/o/")).unwrap();
    let last = value.pop().unwrap();
    let at = at.clone();
    let body = encode_message(&Message::new("t".into(), Bytes::new(), Q1, false, Arc::default(), 0));
    for (name, value) in [
        (RowName::Inbound { session: 0xff, id: id(1) }, vec![VERSION]),
        (RowName::Body(NonZeroU64::new(7).unwrap()), body),
    ] {
        bench.disk.insert(name.encode(), value);
    }
    let loaded = bench.crash(Limits::default());
    assert_eq!(loaded.unreadable, std::slice::from_ref(&at.1));
    assert_eq!((loaded.sessions, loaded.queued, loaded.orphans), (1, 1, 2));
    bench.connect(2, kept("a", 1000));
    assert_eq!(bench.payloads(2), ["n"]);
    assert_eq!(bench.keys("mqtt/q/i/") + bench.keys("mqtt/q/b/"), 2, "the damaged row might belong to them");
    bench.disk.get_mut(&at).unwrap().push(last);
    assert_eq!(bench.crash(Limits::default()).unreadable.len(), 0);
    bench.connect(3, kept("a", 1000));
    assert_eq!(bench.payloads(3), ["m", "n"]);
    assert_eq!(bench.keys("mqtt/q/i/") + bench.keys("mqtt/q/b/"), 0, "orphans are deleted");
}
