//! SUBSCRIBE, UNSUBSCRIBE and the options of subscriptions.

use super::*;

#[test]
fn answers_of_suback() {
    for (filter_, qos, v5, v3) in [
        ("a/#", Q0, 0, 0),
        ("a/#", Q1, 1, 1),
        ("a/#", Q2, 2, 2),
        ("$share/g/a/#", Q2, 2, 2),
        ("a#", Q2, 0x8F, 0x80),
        ("+a", Q2, 0x8F, 0x80),
        ("", Q2, 0x8F, 0x80),
        ("$share/g", Q2, 0x8F, 0x80),
        // What the Eclipse Paho suites ask for; see Limits::subscribe_refusal.
        ("secret/a", Q2, 0x80, 0x80),
        ("$share/g/secret/a", Q2, 0x80, 0x80),
    ] {
        for (version, want) in [(Version::V5, v5), (Version::V3, v3)] {
            let mut bench = Bench::new();
            bench.connect_as(1, connect(version, "x"), Arc::new(NotSecret));
            let reasons = bench.subscribe_with(1, None, vec![filter(filter_, qos), filter("ok", Q1)]);
            assert_eq!(reasons, [Reason(want), Reason(1)], "{version:?} {filter_:?}");
            assert!(bench.closed.is_empty());
        }
    }
}

#[test]
fn protocol_errors_of_subscribe() {
    let no_local_share = Filter { no_local: true, ..filter("$share/g/a", Q1) };
    for (case, id_, filters) in [
        ("none [MQTT-3.8.3-2]", None, vec![]),
        ("no local on a shared one [MQTT-3.8.3-4]", None, vec![no_local_share]),
        ("id 0", Some(0), vec![filter("a", Q1)]),
    ] {
        let mut bench = Bench::new();
        bench.connect(1, connect(Version::V5, "x"));
        bench.subscribe_with(1, id_, filters);
        assert_eq!(bench.closed.get(&1), Some(&Reason::PROTOCOL_ERROR), "{case}");
    }
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "x"));
    bench.packet(1, Packet::Unsubscribe(Box::new(Unsubscribe { id: id(1), filters: vec![] })));
    assert_eq!(bench.closed.get(&1), Some(&Reason::PROTOCOL_ERROR), "[MQTT-3.10.3-2]");
}

#[test]
fn too_many_subscriptions() {
    let mut bench = Bench::with(Limits { subscriptions_per_session: 2, ..Limits::default() });
    bench.connect(1, connect(Version::V5, "x"));
    let filters = ["a", "b", "c", "a"].map(|topic| filter(topic, Q1)).to_vec();
    let reasons = bench.subscribe_with(1, None, filters);
    assert_eq!(reasons, [Reason(1), Reason(1), Reason::QUOTA_EXCEEDED, Reason(1)]);
    assert_eq!(bench.broker.figures().subscriptions, 2);
}

#[test]
fn unsubscribe_answers() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "x"));
    bench.subscribe(1, "a", Q1);
    bench.subscribe(1, "$share/g/a", Q1);
    let filters = ["a", "a", "b#", "$share/g/a"].map(str::to_owned).to_vec();
    bench.packet(1, Packet::Unsubscribe(Box::new(Unsubscribe { id: id(3), filters })));
    let reasons =
        vec![Reason::SUCCESS, Reason::NO_SUBSCRIPTION_EXISTED, Reason::TOPIC_FILTER_INVALID, Reason::SUCCESS];
    assert_eq!(bench.packets(1), [Packet::UnsubAck { id: id(3), reasons }]);
    bench.publish(1, message("a", "m", Q0, 0));
    assert!(bench.got(1).is_empty());
    assert_eq!(bench.broker.figures().subscriptions, 0);
}

#[test]
fn overlapping_filters_make_one_message_with_all_ids() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "x"));
    bench.connect(2, connect(Version::V5, "y"));
    bench.subscribe_with(1, Some(7), vec![filter("a/#", Q0)]);
    bench.subscribe_with(1, Some(8), vec![filter("a/+", Q2)]);
    bench.subscribe_with(1, None, vec![filter("#", Q1)]);
    bench.subscribe_with(1, Some(268_435_455), vec![filter("a/b", Q1)]);
    bench.publish(2, message("a/b", "m", Q2, 1));
    let got = bench.got(1);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].qos, Q2, "[MQTT-3.3.4-2]");
    let mut ids = got[0].ids.clone();
    ids.sort_unstable();
    assert_eq!(ids, [7, 8, 268_435_455], "[MQTT-3.3.4-3]");
    // Subscribing again replaces the id [MQTT-3.8.4-3].
    bench.subscribe_with(1, Some(9), vec![filter("a/+", Q2)]);
    bench.subscribe_with(1, None, vec![filter("a/b", Q2)]);
    bench.publish(2, message("a/b", "m", Q0, 0));
    let mut ids = bench.got(1)[0].ids.clone();
    ids.sort_unstable();
    assert_eq!(ids, [7, 9]);
}

#[test]
fn no_local_and_retain_as_published() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "x"));
    bench.connect(2, connect(Version::V5, "y"));
    let wish = Filter { no_local: true, retain_as_published: true, ..filter("a", Q1) };
    for conn in [1, 2] {
        bench.subscribe_with(conn, None, vec![wish.clone()]);
    }
    bench.publish(1, Publish { retain: true, ..message("a", "m", Q0, 0) });
    bench.publish(1, message("a", "n", Q0, 0));
    assert!(bench.got(1).is_empty(), "[MQTT-3.8.3-3]");
    let flags: Vec<bool> = bench.got(2).into_iter().map(|got| got.retain).collect();
    assert_eq!(flags, [true, false], "[MQTT-3.3.1-13]");
    bench.subscribe_with(2, None, vec![Filter { retain_handling: RetainHandling::Never, ..filter("a", Q1) }]);
    bench.publish(1, Publish { retain: true, ..message("a", "m", Q0, 0) });
    assert!(!bench.got(2)[0].retain, "[MQTT-3.3.1-12]");
}

#[test]
fn what_may_not_be_received_is_not_sent() {
    let mut bench = Bench::new();
    bench.connect_as(1, kept("x", 100), Arc::new(NotSecret));
    bench.connect(2, connect(Version::V5, "y"));
    bench.subscribe(1, "#", Q1);
    for (n, topic) in ["secret/a", "open/a"].into_iter().enumerate() {
        bench.publish(2, message(topic, topic, Q0, 0));
        bench.publish(2, message(topic, topic, Q1, 1 + n as u16));
    }
    assert_eq!(bench.payloads(1), ["open/a", "open/a"]);
    // Rights that are taken away, also for what is queued.
    bench.connect(3, kept("z", 100));
    bench.subscribe(3, "#", Q1);
    bench.input(Input::Gone { conn: 3 });
    bench.publish(2, message("secret/a", "queued", Q1, 5));
    bench.connect_as(3, kept("z", 100), Arc::new(NotSecret));
    bench.publish(2, message("open/b", "seen", Q1, 6));
    assert_eq!(bench.payloads(3), ["seen"]);
    bench.input(Input::Rights { conn: 3, access: Arc::new(All) });
    bench.publish(2, message("secret/a", "now", Q0, 0));
    assert_eq!(bench.payloads(3), ["now"]);
    assert_eq!(bench.broker.figures().counters.dropped.not_receivable, 5);
}

#[test]
fn dollar_topics_are_no_wildcards_business() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "x"));
    for topic in ["#", "+/events/#", "$hw/events/#", "$SYS/#"] {
        bench.subscribe(1, topic, Q0);
    }
    bench.publish(1, message("$hw/events/a", "hw", Q0, 0));
    bench.publish(1, message("$other/a", "other", Q0, 0));
    let payload = Bytes::from_static(b"sys");
    bench.input(Input::Publish { topic: "$SYS/broker/x".into(), payload, qos: Q0, retain: true });
    assert_eq!(bench.payloads(1), ["hw", "sys"], "[MQTT-4.7.2-1]");
    assert_eq!(bench.stores, 0, "$SYS is not worth a disk");
}
