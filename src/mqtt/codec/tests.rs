use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::mqtt::{
    ConnAck, Connect, Filter, MessageProperties, Publish, QoS, RetainHandling, Subscribe, Unsubscribe, Will,
};

const LIMIT: u32 = 1 << 20;

fn id(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

fn written(packet: &Packet, version: Version) -> Vec<u8> {
    let mut out = OutBuf::default();
    encode(packet, version, &mut out).unwrap();
    assert_eq!(out.len(), out.to_vec().len());
    out.to_vec()
}

fn connect(version: Version) -> Connect {
    Connect {
        version,
        client_id: "c1".into(),
        clean_start: true,
        keep_alive_secs: 30,
        username: Some("u".into()),
        password: Some(Bytes::from_static(b"p")),
        will: None,
        session_expiry_secs: None,
        receive_maximum: None,
        maximum_packet_bytes: None,
        topic_alias_maximum: 0,
        request_problem_information: true,
        authentication_method: None,
    }
}

fn server(version: Version) -> Decoder {
    let mut decoder = Decoder::of_client(LIMIT);
    let mut packets = Vec::new();
    let hello = written(&Packet::Connect(Box::new(connect(version))), version);
    decoder.feed(&hello, &mut packets).unwrap();
    assert_eq!(packets, [Packet::Connect(Box::new(connect(version)))]);
    decoder
}

fn read(bytes: &[u8], version: Version) -> Result<Vec<Packet>, CodecError> {
    let mut packets = Vec::new();
    server(version).feed(bytes, &mut packets).map(|()| packets)
}

fn message(qos: QoS) -> Publish {
    Publish {
        topic: Arc::from("a/b"),
        payload: Bytes::from_static(b"hello"),
        qos,
        retain: true,
        dup: false,
        id: (qos != QoS::AtMostOnce).then(|| id(7)),
        topic_alias: None,
        subscription_ids: Vec::new(),
        properties: Arc::default(),
    }
}

#[test]
fn packets_of_both_versions_come_back_as_they_were() {
    let filter = Filter {
        filter: "$share/g/a/#".into(),
        qos: QoS::AtLeastOnce,
        no_local: false,
        retain_as_published: false,
        retain_handling: RetainHandling::Always,
    };
    for version in [Version::V3, Version::V5] {
        for packet in [
            Packet::Publish(Box::new(message(QoS::AtMostOnce))),
            Packet::Publish(Box::new(message(QoS::ExactlyOnce))),
            Packet::PubAck { id: id(1), reason: Reason::SUCCESS },
            Packet::PubRec { id: id(2), reason: Reason::SUCCESS },
            Packet::PubRel { id: id(3), reason: Reason::SUCCESS },
            Packet::PubComp { id: id(65535), reason: Reason::SUCCESS },
            Packet::Subscribe(Box::new(Subscribe {
                id: id(9),
                subscription_id: (version == Version::V5).then_some(268_435_455),
                filters: vec![filter.clone(), Filter { qos: QoS::ExactlyOnce, ..filter.clone() }],
            })),
            Packet::Unsubscribe(Box::new(Unsubscribe { id: id(9), filters: vec!["a".into(), "#".into()] })),
            Packet::PingReq,
            Packet::Disconnect { reason: Reason::SUCCESS, session_expiry_secs: None },
        ] {
            assert_eq!(read(&written(&packet, version), version), Ok(vec![packet]), "{version:?}");
        }
        let mut packets = Vec::new();
        let sent = [
            Packet::ConnAck(Box::new(ConnAck {
                session_present: true,
                reason: Reason::SUCCESS,
                assigned_client_id: (version == Version::V5).then(|| "x".into()),
                session_expiry_secs: None,
                receive_maximum: (version == Version::V5).then(|| id(20)),
                maximum_packet_bytes: (version == Version::V5).then_some(1000),
                topic_alias_maximum: (version == Version::V5).then_some(10),
                server_keep_alive_secs: None,
                reason_text: None,
            })),
            Packet::SubAck { id: id(1), reasons: vec![Reason(0), Reason(2), Reason::UNSPECIFIED] },
            Packet::PingResp,
        ];
        for packet in &sent {
            let mut decoder = Decoder::of_server(version, LIMIT);
            decoder.feed(&written(packet, version), &mut packets).unwrap();
        }
        assert_eq!(packets, sent);
    }
}

#[test]
fn a_connect_with_everything() {
    let full = Connect {
        clean_start: false,
        will: Some(Will {
            topic: "w".into(),
            payload: Bytes::from_static(b"gone"),
            qos: QoS::AtLeastOnce,
            retain: true,
            delay_secs: 3,
            properties: MessageProperties {
                is_utf8_payload: Some(true),
                expiry_secs: Some(9),
                content_type: Some("t".into()),
                response_topic: Some("r".into()),
                correlation_data: Some(Bytes::from_static(b"c")),
                user: vec![("k".into(), "v".into())],
            },
        }),
        session_expiry_secs: Some(60),
        receive_maximum: Some(id(5)),
        maximum_packet_bytes: Some(5000),
        topic_alias_maximum: 4,
        request_problem_information: false,
        authentication_method: Some("m".into()),
        ..connect(Version::V5)
    };
    let mut packets = Vec::new();
    let bytes = written(&Packet::Connect(Box::new(full.clone())), Version::V5);
    Decoder::of_client(LIMIT).feed(&bytes, &mut packets).unwrap();
    assert_eq!(packets, [Packet::Connect(Box::new(full))]);
}

#[test]
fn what_breaks_the_protocol_is_refused_with_its_reason() {
    let long_topic = [&[0x30, 4, 0, 9][..], b"ab"].concat();
    for (case, version, bytes, want) in [
        ("type 0", Version::V5, &[0x00, 0][..], Reason::PROTOCOL_ERROR),
        ("reserved flags of PUBREL", Version::V3, &[0x60, 2, 0, 1], Reason::MALFORMED),
        ("a second CONNECT", Version::V3, &[0x10, 0], Reason::PROTOCOL_ERROR),
        ("CONNACK from a client", Version::V3, &[0x20, 2, 0, 0], Reason::PROTOCOL_ERROR),
        ("AUTH in 3.1.1", Version::V3, &[0xF0, 0], Reason::PROTOCOL_ERROR),
        ("too large by its header", Version::V3, &[0x30, 0xFF, 0xFF, 0xFF, 0x7F], Reason::PACKET_TOO_LARGE),
        ("five length bytes", Version::V3, &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F], Reason::MALFORMED),
        ("a topic longer than the packet", Version::V3, &long_topic, Reason::MALFORMED),
        ("QoS 3", Version::V3, &[0x36, 5, 0, 1, b'a', 0, 1], Reason::MALFORMED),
        ("DUP with QoS 0", Version::V3, &[0x38, 3, 0, 1, b'a'], Reason::MALFORMED),
        ("identifier 0", Version::V3, &[0x32, 5, 0, 1, b'a', 0, 0], Reason::MALFORMED),
        ("NUL in a topic", Version::V3, &[0x30, 3, 0, 1, 0], Reason::MALFORMED),
        ("no UTF-8", Version::V3, &[0x30, 3, 0, 1, 0xFF], Reason::MALFORMED),
        ("a wildcard", Version::V5, &[0x30, 4, 0, 1, b'#', 0], Reason::TOPIC_NAME_INVALID),
        ("no topic", Version::V3, &[0x30, 2, 0, 0], Reason::PROTOCOL_ERROR),
        ("alias 0", Version::V5, &[0x30, 6, 0, 0, 3, 0x23, 0, 0], Reason::TOPIC_ALIAS_INVALID),
        (
            "expiry twice",
            Version::V5,
            &[0x30, 14, 0, 1, b'a', 10, 2, 0, 0, 0, 1, 2, 0, 0, 0, 1],
            Reason::PROTOCOL_ERROR,
        ),
        ("reserved bits in SUBSCRIBE", Version::V3, &[0x82, 6, 0, 1, 0, 1, b'a', 4], Reason::MALFORMED),
        ("reserved bits of 5", Version::V5, &[0x82, 7, 0, 1, 0, 0, 1, b'a', 0x40], Reason::MALFORMED),
        ("no filters", Version::V5, &[0x82, 3, 0, 1, 0], Reason::PROTOCOL_ERROR),
        ("a ping with content", Version::V3, &[0xC0, 1, 0], Reason::MALFORMED),
        ("a long PUBACK", Version::V3, &[0x40, 3, 0, 1, 0], Reason::MALFORMED),
        ("a DISCONNECT of 3.1.1 with content", Version::V3, &[0xE0, 1, 0], Reason::PROTOCOL_ERROR),
    ] {
        assert_eq!(read(bytes, version).map_err(|err| err.reason), Err(want), "{case}");
    }
}

#[test]
fn connects_that_are_refused() {
    let hello = |name: &[u8], level: u8, flags: u8, rest: &[u8]| {
        let mut content = vec![0, u8::try_from(name.len()).unwrap()];
        content.extend_from_slice(name);
        content.extend_from_slice(&[level, flags, 0, 9]);
        content.extend_from_slice(rest);
        [&[0x10, u8::try_from(content.len()).unwrap()][..], &content].concat()
    };
    let id = [0, 1, b'c'];
    for (case, bytes, reason, answer) in [
        ("3.1", hello(b"MQIsdp", 3, 2, &id), Reason::UNSUPPORTED_VERSION, Some(Version::V3)),
        ("6", hello(b"MQTT", 6, 2, &id), Reason::UNSUPPORTED_VERSION, Some(Version::V5)),
        ("http", b"GET / HTTP/1.1\r\n".to_vec(), Reason::MALFORMED, None),
        ("another protocol", hello(b"AMQP", 4, 2, &id), Reason::MALFORMED, None),
        ("reserved flag", hello(b"MQTT", 4, 3, &id), Reason::MALFORMED, None),
        ("will flags", hello(b"MQTT", 4, 0x0A, &id), Reason::MALFORMED, None),
        (
            "a password alone",
            hello(b"MQTT", 4, 0x42, &[&id[..], &[0, 1, b'p']].concat()),
            Reason::MALFORMED,
            None,
        ),
        (
            "no id, session kept",
            hello(b"MQTT", 4, 0, &[0, 0]),
            Reason::CLIENT_ID_NOT_VALID,
            Some(Version::V3),
        ),
        ("NUL in the id", hello(b"MQTT", 4, 2, &[0, 1, 0]), Reason::MALFORMED, Some(Version::V3)),
        ("cut", hello(b"MQTT", 5, 2, &[5]), Reason::MALFORMED, Some(Version::V5)),
        ("larger than any CONNECT", vec![0x10, 0xFF, 0xFF, 0x7F], Reason::PACKET_TOO_LARGE, None),
    ] {
        let err = Decoder::of_client(u32::MAX).feed(&bytes, &mut Vec::new()).unwrap_err();
        assert_eq!((err.reason, err.answer), (reason, answer), "{case}: {err}");
    }
}

#[test]
fn one_encoding_serves_all_subscribers_of_a_version() {
    let properties = MessageProperties { content_type: Some("x".into()), ..MessageProperties::default() };
    let payload = Bytes::from(vec![b'p'; 5000]);
    let shared = SharedPublish::new("a/b", &properties, Some(3), Version::V5);
    for (ids, alias, hide_topic) in
        [(&[][..], None, false), (&[1, 300], Some(id(2)), false), (&[], Some(id(2)), true)]
    {
        let numbers: Vec<_> = ids.iter().copied().filter_map(NonZeroU32::new).collect();
        let header = PublishHeader {
            qos: QoS::AtLeastOnce,
            dup: true,
            retain: false,
            id: Some(id(9)),
            topic_alias: alias,
            hide_topic,
            subscription_ids: &numbers,
        };
        let mut out = OutBuf::default();
        out.put(b"");
        shared.write(&header, &payload, &mut out);
        assert_eq!(out.len(), shared.size(&header, payload.len()));
        let mut decoder = Decoder::of_server(Version::V5, LIMIT);
        let mut packets = Vec::new();
        decoder.feed(&out.to_vec(), &mut packets).unwrap();
        let [Packet::Publish(got)] = packets.as_slice() else { panic!("{packets:?}") };
        assert_eq!(&*got.topic, if hide_topic { "" } else { "a/b" });
        assert_eq!((got.topic_alias, &*got.subscription_ids, got.dup), (alias, ids, true));
        assert_eq!(got.properties.expiry_secs, Some(3));
        assert_eq!((got.id, &got.payload), (Some(id(9)), &payload));
        // Written in pieces of any size.
        let whole = out.to_vec();
        let mut pieces = Vec::new();
        while !out.is_empty() {
            let mut slices = [std::io::IoSlice::new(&[]); 4];
            let count = out.slices(&mut slices);
            let taken: Vec<u8> = slices[..count].iter().flat_map(|s| s.iter().copied()).take(777).collect();
            pieces.extend_from_slice(&taken);
            out.advance(taken.len());
        }
        assert_eq!(pieces, whole);
    }
}

fn any_qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

prop_compose! {
    fn any_publish()(
        topic in "[a-z/$é]{1,20}", payload in proptest::collection::vec(any::<u8>(), 0..6000),
        qos in any_qos(), retain in any::<bool>(), number in 1_u16.., dup in any::<bool>(),
        expiry_secs in any::<Option<u32>>(), utf8 in any::<Option<bool>>(), content_type in any::<Option<bool>>(),
        data in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..9)),
        user in proptest::collection::vec(("[a-z]{0,4}", "[a-z]{0,4}"), 0..3),
    ) -> Publish {
        Publish {
            topic: Arc::from(topic), payload: payload.into(), qos, retain,
            dup: dup && qos != QoS::AtMostOnce,
            id: (qos != QoS::AtMostOnce).then(|| id(number)),
            topic_alias: None, subscription_ids: Vec::new(),
            properties: Arc::new(MessageProperties {
                is_utf8_payload: utf8, expiry_secs,
                content_type: content_type.map(|_| "text".into()),
                response_topic: content_type.map(|_| "to/me".into()),
                correlation_data: data.map(Bytes::from), user,
            }),
        }
    }
}

proptest! {
    #[test]
    fn publish_round_trip_in_pieces(publishes in proptest::collection::vec(any_publish(), 1..4), cut in 1_usize..500) {
        for version in [Version::V3, Version::V5] {
            let mut out = OutBuf::default();
            let mut want = Vec::new();
            for publish in &publishes {
                let mut publish = publish.clone();
                if version == Version::V3 {
                    publish.properties = Arc::default();
                }
                let packet = Packet::Publish(Box::new(publish));
                encode(&packet, version, &mut out).unwrap();
                want.push(packet);
            }
            let mut decoder = server(version);
            let mut got = Vec::new();
            for piece in out.to_vec().chunks(cut) {
                decoder.feed(piece, &mut got).unwrap();
            }
            prop_assert_eq!(got, want);
        }
    }

    /// Any bytes, and bytes that look like a packet of each type.
    #[test]
    fn any_bytes_never_panic(
        raw in proptest::collection::vec(any::<u8>(), 0..80), kind in any::<u8>(), connect_level in 3_u8..7,
    ) {
        for version in [Version::V3, Version::V5] {
            let framed = [&[kind, u8::try_from(raw.len()).unwrap()][..], &raw].concat();
            for bytes in [&raw, &framed] {
                server(version).feed(bytes, &mut Vec::new()).ok();
                Decoder::of_server(version, 1000).feed(bytes, &mut Vec::new()).ok();
            }
        }
        let mut hello = vec![0x10, u8::try_from(raw.len() + 7).unwrap(), 0, 4];
        hello.extend_from_slice(b"MQTT");
        hello.push(connect_level);
        hello.extend_from_slice(&raw);
        Decoder::of_client(LIMIT).feed(&hello, &mut Vec::new()).ok();
    }

    /// Good packets with one byte changed.
    #[test]
    fn damaged_packets_never_panic(publish in any_publish(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let all = [
            Packet::Publish(Box::new(Publish { payload: Bytes::new(), ..publish })),
            Packet::Connect(Box::new(Connect { will: Some(Will {
                topic: "w".into(), payload: Bytes::from_static(b"x"), qos: QoS::AtLeastOnce, retain: true,
                delay_secs: 1, properties: MessageProperties::default(),
            }), session_expiry_secs: Some(1), ..connect(Version::V5) })),
            Packet::Disconnect { reason: Reason::UNSPECIFIED, session_expiry_secs: Some(1) },
            Packet::SubAck { id: id(1), reasons: vec![Reason(0)] },
        ];
        for packet in all {
            let mut bytes = written(&packet, Version::V5);
            let place = at.index(bytes.len());
            bytes[place] = byte;
            server(Version::V5).feed(&bytes, &mut Vec::new()).ok();
            Decoder::of_client(LIMIT).feed(&bytes, &mut Vec::new()).ok();
            Decoder::of_server(Version::V5, LIMIT).feed(&bytes, &mut Vec::new()).ok();
        }
    }
}
