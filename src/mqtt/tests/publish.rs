//! What may be published, and how it arrives.

use super::*;

#[test]
fn which_topics() {
    for (version, topic, qos, answer, closed) in [
        (Version::V5, "a/b", Q1, Some(puback(1, Reason::NO_MATCHING_SUBSCRIBERS)), None),
        (Version::V3, "a/b", Q1, Some(puback(1, Reason::SUCCESS)), None),
        (Version::V5, "a/+", Q1, None, Some(Reason::TOPIC_NAME_INVALID)),
        (Version::V3, "#", Q0, None, Some(Reason::TOPIC_NAME_INVALID)),
        (Version::V5, "a\0b", Q0, None, Some(Reason::TOPIC_NAME_INVALID)),
        (Version::V3, "", Q0, None, Some(Reason::TOPIC_NAME_INVALID)),
        (Version::V5, "", Q0, None, Some(Reason::PROTOCOL_ERROR)),
        (Version::V5, "1/2/3/4/5/6", Q1, Some(puback(1, Reason::TOPIC_NAME_INVALID)), None),
        (Version::V5, "1/2/3/4/5/6", Q2, Some(pubrec(1, Reason::TOPIC_NAME_INVALID)), None),
        (Version::V3, "1/2/3/4/5/6", Q1, Some(puback(1, Reason::SUCCESS)), None),
        (Version::V3, "1/2/3/4/5/6", Q2, Some(pubrec(1, Reason::SUCCESS)), None),
        (Version::V5, "1/2/3/4/5/6", Q0, None, None),
        (Version::V5, "$SYS/x", Q1, Some(puback(1, Reason::NOT_AUTHORIZED)), None),
        (Version::V5, "$hw/events/x", Q1, Some(puback(1, Reason::SUCCESS)), None),
        (Version::V5, "secret/x", Q1, Some(puback(1, Reason::NOT_AUTHORIZED)), None),
        (Version::V5, "secret/x", Q2, Some(pubrec(1, Reason::NOT_AUTHORIZED)), None),
        (Version::V3, "secret/x", Q2, Some(pubrec(1, Reason::SUCCESS)), None),
        (Version::V3, "secret/x", Q0, None, None),
    ] {
        let mut bench = Bench::with(Limits { topic_levels: 5, ..Limits::default() });
        bench.connect_as(1, connect(version, "x"), Arc::new(NotSecret));
        bench.connect(2, connect(Version::V5, "y"));
        bench.subscribe(2, "secret/#", Q2);
        bench.subscribe(2, "1/#", Q2);
        bench.publish(1, message(topic, "m", qos, if qos == Q0 { 0 } else { 1 }));
        assert_eq!(bench.packets(1), answer.into_iter().collect::<Vec<_>>(), "{version:?} {topic:?} {qos:?}");
        assert_eq!(bench.closed.get(&1), closed.as_ref(), "{version:?} {topic:?} {qos:?}");
        assert!(bench.got(2).is_empty(), "{topic}");
        let dropped = bench.broker.figures().counters.dropped;
        let refused = topic.starts_with("secret") || topic.starts_with("$SYS") || topic.starts_with("1/");
        assert_eq!(dropped.total(), u64::from(refused), "{topic:?} {dropped:?}");
    }
}

#[test]
fn a_refused_qos_2_of_3_1_1_goes_to_its_end() {
    let mut bench = Bench::new();
    bench.connect_as(1, connect(Version::V3, "x"), Arc::new(NotSecret));
    bench.publish(1, message("secret/x", "m", Q2, 1));
    bench.packet(1, pubrel(1));
    assert_eq!(bench.packets(1), [pubrec(1, Reason::SUCCESS), pubcomp(1, Reason::SUCCESS)]);
}

#[test]
fn malformed_publishes_close() {
    let base = || message("a", "m", Q1, 1);
    let response_topic = |topic: &str| {
        let properties = MessageProperties { response_topic: Some(topic.into()), ..Default::default() };
        Publish { properties: Arc::new(properties), ..base() }
    };
    for (case, publish, want) in [
        ("no id", Publish { id: None, ..base() }, Some(Reason::PROTOCOL_ERROR)),
        ("id with QoS 0", Publish { qos: Q0, ..base() }, Some(Reason::PROTOCOL_ERROR)),
        (
            "subscription id [MQTT-3.3.4-6]",
            Publish { subscription_ids: vec![1], ..base() },
            Some(Reason::PROTOCOL_ERROR),
        ),
        ("response topic [MQTT-3.3.2-14]", response_topic("a/+"), Some(Reason::PROTOCOL_ERROR)),
        ("fine", response_topic("a/b"), None),
    ] {
        let mut bench = Bench::new();
        bench.connect(1, connect(Version::V5, "x"));
        bench.publish(1, publish);
        assert_eq!(bench.closed.get(&1), want.as_ref(), "{case}");
    }
}

#[test]
fn inbound_topic_alias() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "x"));
    bench.subscribe(1, "#", Q0);
    let aliased = |topic: &str, payload: &str, alias| Publish {
        topic_alias: NonZeroU16::new(alias),
        ..message(topic, payload, Q0, 0)
    };
    bench.publish(1, aliased("a", "1", 1));
    bench.publish(1, aliased("", "2", 1));
    bench.publish(1, aliased("b", "3", 1));
    bench.publish(1, aliased("", "4", 1));
    bench.publish(1, aliased("c", "5", 32));
    let topics: Vec<_> = bench.got(1).into_iter().map(|got| got.topic).collect();
    assert_eq!(topics, ["a", "a", "b", "b", "c"]);
    for (topic, alias) in [("", 2), ("a", 33), ("", 33)] {
        let mut bench = Bench::new();
        bench.connect(1, connect(Version::V5, "x"));
        bench.publish(1, aliased(topic, "m", alias));
        assert_eq!(bench.closed.get(&1), Some(&Reason::TOPIC_ALIAS_INVALID), "{topic:?} {alias}");
    }
    // They end with the connection.
    let mut bench = Bench::new();
    bench.connect(1, kept("x", 100));
    bench.publish(1, aliased("a", "1", 1));
    bench.input(Input::Gone { conn: 1 });
    bench.connect(2, kept("x", 100));
    bench.publish(2, aliased("", "2", 1));
    assert_eq!(bench.closed.get(&2), Some(&Reason::TOPIC_ALIAS_INVALID));
}

#[test]
fn outbound_topic_alias() {
    let mut bench = Bench::new();
    bench.connect(1, Connect { topic_alias_maximum: 1, ..kept("x", 100) });
    bench.subscribe(1, "#", Q2);
    bench.publish(1, message("a", "0", Q0, 0));
    bench.publish(1, message("a", "1", Q1, 1));
    bench.publish(1, message("b", "2", Q0, 0));
    bench.publish(1, message("b", "3", Q0, 0));
    bench.publish(1, message("a", "4", Q0, 0));
    let one = NonZeroU16::MIN;
    let aliases: Vec<_> = bench.got(1).into_iter().map(|got| got.alias).collect();
    let (new, known) = (TopicAlias::New(one), TopicAlias::Known(one));
    assert_eq!(aliases, [new, known, new, known, new]);
    bench.input(Input::Gone { conn: 1 });
    bench.connect(2, Connect { topic_alias_maximum: 1, ..kept("x", 100) });
    bench.publish(2, message("a", "5", Q0, 0));
    let aliases: Vec<_> = bench.got(2).into_iter().map(|got| (got.payload, got.alias)).collect();
    assert_eq!(aliases, [("1".to_owned(), new), ("5".to_owned(), known)], "a new connection knows none");
    for version in [Version::V3, Version::V5] {
        let mut bench = Bench::new();
        bench.connect(1, connect(version, "x"));
        bench.subscribe(1, "#", Q2);
        bench.publish(1, message("a", "0", Q0, 0));
        assert_eq!(bench.got(1)[0].alias, TopicAlias::None);
    }
    let mut bench = Bench::new();
    bench.connect(1, Connect { topic_alias_maximum: 1000, ..kept("x", 100) });
    bench.subscribe(1, "#", Q0);
    for n in 0..200 {
        bench.publish(1, message(&n.to_string(), "0", Q0, 0));
    }
    for got in bench.got(1) {
        assert!(matches!(got.alias, TopicAlias::New(alias) if alias.get() <= 32), "{got:?}");
    }
}

#[test]
fn maximum_packet_size() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "pub"));
    bench.connect(2, Connect { maximum_packet_bytes: Some(30), ..connect(Version::V5, "small") });
    bench.connect(3, connect(Version::V5, "large"));
    bench.subscribe(2, "t", Q2);
    bench.subscribe(3, "t", Q2);
    for (qos, overhead) in [(Q0, 6), (Q1, 8), (Q2, 8)] {
        let packet_id = if qos == Q0 { 0 } else { 1 + overhead as u16 + qos as u16 };
        let fits = "x".repeat(30 - overhead);
        bench.publish(1, message("t", &fits, qos, packet_id));
        assert_eq!(bench.payloads(2), std::slice::from_ref(&fits), "{qos:?}");
        bench.packet(1, pubrel(packet_id.max(1)));
        bench.publish(1, message("t", &format!("{fits}x"), qos, packet_id));
        assert!(bench.got(2).is_empty(), "[MQTT-3.1.2-24] {qos:?}");
        bench.got(3);
        bench.packet(1, pubrel(packet_id.max(1)));
    }
    assert_eq!(bench.broker.figures().counters.dropped.too_large, 3);
    assert!(bench.closed.is_empty());
    bench.publish(1, message("t", "next", Q1, 50));
    assert_eq!(bench.payloads(2), ["next"]);
}

#[test]
fn message_expiry() {
    let expiring = |secs, payload: &str, packet_id| {
        let properties = MessageProperties { expiry_secs: Some(secs), ..MessageProperties::default() };
        Publish { properties: Arc::new(properties), ..message("t", payload, Q1, packet_id) }
    };
    let mut bench = Bench::new();
    bench.connect(1, kept("sub", 100));
    bench.subscribe(1, "t", Q1);
    bench.connect(2, connect(Version::V5, "pub"));
    bench.publish(2, expiring(6, "online", 1));
    assert_eq!(bench.got(1)[0].expiry, Some(6));
    bench.packet(1, puback(1, Reason::SUCCESS));
    bench.input(Input::Gone { conn: 1 });
    bench.publish(2, expiring(1, "short", 2));
    bench.publish(2, expiring(6, "long", 3));
    bench.publish(2, message("t", "for ever", Q1, 4));
    bench.wait_secs(3);
    bench.connect(1, kept("sub", 100));
    let got: Vec<_> = bench.got(1).into_iter().map(|got| (got.payload, got.expiry)).collect();
    assert_eq!(got, [("long".to_owned(), Some(3)), ("for ever".to_owned(), None)]);
    assert_eq!(bench.broker.figures().counters.dropped.expired, 1);
    assert_eq!(bench.keys("mqtt/q/"), 2);
}

#[test]
fn receive_maximum_of_the_broker() {
    let limits = || Limits { receive_maximum: 2, ..Limits::default() };
    for (version, qos, want) in [
        (Version::V5, Q2, Some(Reason::RECEIVE_MAXIMUM_EXCEEDED)),
        (Version::V5, Q1, None),
        (Version::V3, Q2, None),
    ] {
        let mut bench = Bench::with(limits());
        bench.connect(1, connect(version, "x"));
        for n in 1..=3 {
            bench.publish(1, message("t", "m", qos, n));
        }
        assert_eq!(bench.closed.get(&1), want.as_ref(), "{version:?} {qos:?}");
    }
    // PUBCOMP and a PUBREC with an error give room again.
    let mut bench = Bench::with(limits());
    bench.connect_as(1, connect(Version::V5, "x"), Arc::new(NotSecret));
    for n in 1..=20 {
        bench.publish(1, message("t", "m", Q2, n));
        bench.packet(1, pubrel(n));
        bench.publish(1, message("secret/t", "m", Q2, n));
    }
    assert!(bench.closed.is_empty());
}

#[test]
fn packet_id_in_use() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "x"));
    bench.publish(1, message("t", "m", Q2, 1));
    bench.publish(1, message("t", "m", Q1, 1));
    assert_eq!(bench.closed.get(&1), Some(&Reason::PACKET_ID_IN_USE));
}
