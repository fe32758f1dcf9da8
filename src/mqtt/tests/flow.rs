//! QoS flows (mqtt-v5.0-os 4.3, 4.4, 4.6) in both directions.

use super::*;

#[test]
fn each_quality_from_one_client_to_another() {
    for version in [Version::V3, Version::V5] {
        let mut bench = Bench::new();
        bench.connect(1, connect(version, "pub"));
        bench.connect(2, connect(version, "sub"));
        bench.subscribe(2, "a/+", Q2);
        bench.publish(1, message("a/b", "0", Q0, 0));
        bench.publish(1, message("a/b", "1", Q1, 10));
        bench.publish(1, message("a/b", "2", Q2, 11));
        assert_eq!(bench.packets(1), [puback(10, Reason::SUCCESS), pubrec(11, Reason::SUCCESS)]);
        let got = bench.got(2);
        let seen: Vec<_> = got.iter().map(|got| (&*got.payload, got.qos, got.id, got.dup)).collect();
        assert_eq!(seen, [("0", Q0, None, false), ("1", Q1, Some(1), false), ("2", Q2, Some(2), false)]);
        bench.packet(1, pubrel(11));
        assert_eq!(bench.packets(1), [pubcomp(11, Reason::SUCCESS)]);
        bench.packet(2, puback(1, Reason::SUCCESS));
        bench.packet(2, pubrec(2, Reason::SUCCESS));
        assert_eq!(bench.packets(2), [pubrel(2)]);
        bench.packet(2, pubcomp(2, Reason::SUCCESS));
        assert_eq!(bench.broker.figures().queued_messages, 0);
        assert_eq!(bench.broker.figures().queued_bytes, 0);
        assert_eq!(bench.stores, 0, "nobody needs the disk");
    }
}

#[test]
fn the_lower_quality_wins() {
    for (published, subscribed, want) in
        [(Q0, Q2, Q0), (Q1, Q0, Q0), (Q2, Q1, Q1), (Q1, Q2, Q1), (Q2, Q2, Q2)]
    {
        let mut bench = Bench::new();
        bench.connect(1, connect(Version::V3, "x"));
        bench.subscribe(1, "a", subscribed);
        bench.publish(1, message("a", "m", published, if published == Q0 { 0 } else { 1 }));
        assert_eq!(bench.got(1)[0].qos, want, "[MQTT-3.8.4-8] {published:?} {subscribed:?}");
    }
}

#[test]
fn a_qos_2_message_sent_twice_is_published_once() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V3, "x"));
    bench.subscribe(1, "a", Q0);
    bench.publish(1, message("a", "m", Q2, 5));
    bench.publish(1, Publish { dup: true, ..message("a", "m", Q2, 5) });
    assert_eq!(bench.packets(1), [pubrec(5, Reason::SUCCESS), pubrec(5, Reason::SUCCESS)]);
    assert_eq!(bench.payloads(1), ["m"], "[MQTT-4.3.3-10]");
    bench.packet(1, pubrel(5));
    bench.packet(1, pubrel(5));
    assert_eq!(bench.packets(1), [pubcomp(5, Reason::SUCCESS), pubcomp(5, Reason::SUCCESS)]);
    bench.publish(1, message("a", "n", Q2, 5));
    assert_eq!(bench.payloads(1), ["n"], "the id is free again");
}

#[test]
fn unknown_ids() {
    for (version, sent, want) in [
        (Version::V3, pubrel(7), Some(pubcomp(7, Reason::SUCCESS))),
        (Version::V5, pubrel(7), Some(pubcomp(7, Reason::PACKET_ID_NOT_FOUND))),
        (Version::V3, pubrec(7, Reason::SUCCESS), Some(pubrel(7))),
        (
            Version::V5,
            pubrec(7, Reason::SUCCESS),
            Some(Packet::PubRel { id: id(7), reason: Reason::PACKET_ID_NOT_FOUND }),
        ),
        (Version::V5, puback(7, Reason::SUCCESS), None),
        (Version::V5, pubcomp(7, Reason::SUCCESS), None),
    ] {
        let mut bench = Bench::new();
        bench.connect(1, connect(version, "x"));
        bench.packet(1, sent.clone());
        assert_eq!(bench.packets(1), want.into_iter().collect::<Vec<_>>(), "{sent:?}");
        assert!(bench.closed.is_empty());
    }
}

#[test]
fn resume_sends_again_in_order_with_dup_and_the_same_ids() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "pub"));
    bench.connect(2, kept("sub", 100));
    bench.subscribe(2, "#", Q2);
    for n in 0..4 {
        bench.publish(1, message("t", &n.to_string(), if n % 2 == 0 { Q1 } else { Q2 }, 1 + n));
        bench.packet(1, pubrel(1 + n));
    }
    assert_eq!(bench.got(2).len(), 4);
    bench.packet(2, pubrec(4, Reason::SUCCESS));
    bench.packet(2, puback(3, Reason::SUCCESS));
    assert_eq!(bench.packets(2), [pubrel(4)]);
    bench.input(Input::Gone { conn: 2 });
    bench.publish(1, message("t", "later", Q1, 20));
    assert!(bench.connect_as(3, kept("sub", 100), Arc::new(All)).unwrap().session_present);
    let seen: Vec<_> = bench.got(3).into_iter().map(|got| (got.payload, got.id.unwrap(), got.dup)).collect();
    let want = [("0", 1, true), ("1", 2, true), ("later", 5, false)];
    assert_eq!(seen, want.map(|(payload, id, dup)| (payload.to_owned(), id, dup)), "[MQTT-4.4.0-1]");
    // CONNACK was taken by `connect_as`, with it the PUBREL.
    bench.packet(3, pubrec(2, Reason::SUCCESS));
    assert_eq!(bench.packets(3), [pubrel(2)]);
    for packet in [puback(1, Reason::SUCCESS), puback(5, Reason::SUCCESS)] {
        bench.packet(3, packet);
    }
    bench.packet(3, pubcomp(2, Reason::SUCCESS));
    bench.packet(3, pubcomp(4, Reason::SUCCESS));
    assert_eq!(bench.broker.figures().queued_messages, 0);
    assert_eq!(bench.keys("mqtt/q/"), 0, "{:?}", bench.disk);
}

#[test]
fn pubrel_is_sent_again_after_resume() {
    let mut bench = Bench::new();
    bench.connect(1, kept("a", 100));
    bench.subscribe(1, "t", Q2);
    bench.publish(1, message("t", "m", Q2, 1));
    bench.packet(1, pubrec(1, Reason::SUCCESS));
    bench.input(Input::Gone { conn: 1 });
    bench.input(Input::Connect { conn: 2, connect: Box::new(kept("a", 100)), access: Arc::new(All) });
    assert_eq!(bench.packets(2)[1..], [pubrel(1)]);
    assert!(bench.got(2).is_empty());
}

#[test]
fn receive_maximum_of_the_client() {
    let mut bench = Bench::new();
    let receive_maximum = NonZeroU16::new(2);
    bench.connect(1, Connect { receive_maximum, ..connect(Version::V5, "x") });
    bench.subscribe(1, "t", Q2);
    for n in 1..=5 {
        bench.publish(1, message("t", &n.to_string(), if n == 2 { Q2 } else { Q1 }, n));
        if n == 2 {
            bench.packet(1, pubrel(2));
        }
    }
    assert_eq!(bench.payloads(1), ["1", "2"], "[MQTT-3.3.4-9]");
    bench.packet(1, pubrec(2, Reason::SUCCESS));
    assert!(bench.got(1).is_empty(), "PUBREC frees no place");
    bench.packet(1, puback(1, Reason::SUCCESS));
    assert_eq!(bench.payloads(1), ["3"]);
    bench.packet(1, pubcomp(2, Reason::SUCCESS));
    assert_eq!(bench.payloads(1), ["4"]);
    bench.publish(1, message("t", "zero", Q0, 0));
    assert_eq!(bench.payloads(1), ["zero"], "QoS 0 is not counted");
}

#[test]
fn pubrec_with_an_error_ends_the_exchange() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "x"));
    bench.subscribe(1, "t", Q2);
    bench.publish(1, message("t", "m", Q2, 1));
    bench.packet(1, pubrec(1, Reason::QUOTA_EXCEEDED));
    assert_eq!(bench.broker.figures().queued_messages, 0);
    assert!(!bench.packets(1).contains(&pubrel(1)));
}

#[test]
fn wrong_answers_close() {
    for (qos, answer) in [
        (Q1, pubrec(1, Reason::SUCCESS)),
        (Q2, puback(1, Reason::SUCCESS)),
        (Q2, pubcomp(1, Reason::SUCCESS)),
    ] {
        let mut bench = Bench::new();
        bench.connect(1, connect(Version::V5, "x"));
        bench.subscribe(1, "t", Q2);
        bench.publish(1, message("t", "m", qos, 1));
        bench.packet(1, answer.clone());
        assert_eq!(bench.closed.get(&1), Some(&Reason::PROTOCOL_ERROR), "{answer:?}");
    }
}

#[test]
fn ids_are_used_again_only_when_free() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V3, "x"));
    bench.subscribe(1, "t", Q1);
    bench.publish(1, message("t", "stuck", Q1, 1));
    assert_eq!(bench.got(1)[0].id, Some(1));
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..140_000u32 {
        bench.publish(1, message("t", "m", Q1, 1));
        let got = bench.got(1);
        assert_eq!(got.len(), 1, "{n}");
        let packet_id = got[0].id.unwrap();
        assert_ne!(packet_id, 1, "still in flight");
        seen.insert(packet_id);
        bench.packet(1, puback(packet_id, Reason::SUCCESS));
        bench.packets(1);
    }
    assert_eq!(seen.len(), 65_534);
    bench.packet(1, puback(1, Reason::SUCCESS));
    assert_eq!(bench.broker.figures().queued_messages, 0);
}
