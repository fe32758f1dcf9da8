//! Retained messages.

use super::*;

fn retained(topic: &str, payload: &str, qos: QoS, packet_id: u16) -> Publish {
    Publish { retain: true, ..message(topic, payload, qos, packet_id) }
}

fn with_values() -> Bench {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "pub"));
    bench.publish(1, retained("a/0", "zero", Q0, 0));
    bench.publish(1, retained("a/1", "one", Q1, 1));
    bench.publish(1, retained("a/2", "two", Q2, 2));
    bench.packet(1, pubrel(2));
    bench.publish(1, retained("b", "other", Q1, 3));
    bench
}

#[test]
fn a_new_subscription_gets_them_with_their_quality() {
    let mut bench = with_values();
    for (conn, (filter_, qos, want)) in (10..).zip([
        ("a/+", Q2, vec![("zero", Q0), ("one", Q1), ("two", Q2)]),
        ("a/#", Q1, vec![("zero", Q0), ("one", Q1), ("two", Q1)]),
        ("#", Q0, vec![("zero", Q0), ("one", Q0), ("two", Q0), ("other", Q0)]),
        ("a/1", Q2, vec![("one", Q1)]),
        ("b/#", Q2, vec![("other", Q1)]),
        ("+", Q2, vec![("other", Q1)]),
        ("+/1", Q2, vec![("one", Q1)]),
        ("c", Q2, vec![]),
        ("$share/g/a/#", Q2, vec![]),
    ]) {
        bench.connect(conn, connect(Version::V5, "sub"));
        bench.subscribe(conn, filter_, qos);
        let got = bench.got(conn);
        let seen: Vec<_> = got.iter().map(|got| (&*got.payload, got.qos)).collect();
        assert_eq!(seen, want, "{filter_}");
        assert!(got.iter().all(|got| got.retain), "[MQTT-3.3.1-8]");
    }
}

#[test]
fn an_empty_one_deletes() {
    let mut bench = with_values();
    bench.connect(2, connect(Version::V3, "live"));
    bench.subscribe(2, "a/+", Q0);
    assert_eq!(bench.got(2).len(), 3);
    bench.publish(1, retained("a/1", "", Q1, 5));
    assert_eq!(bench.got(2)[0].payload, "", "it is routed as any other");
    bench.connect(3, connect(Version::V3, "new"));
    bench.subscribe(3, "a/+", Q0);
    assert_eq!(bench.payloads(3), ["zero", "two"], "[MQTT-3.3.1-6]");
    assert_eq!(bench.keys("mqtt/retained/"), 3);
    assert_eq!(bench.broker.figures().retained_messages, 3);
    for topic in ["a/0", "a/2", "b"] {
        bench.publish(1, retained(topic, "", Q0, 0));
    }
    assert_eq!(bench.broker.figures().retained_bytes, 0);
    assert_eq!(bench.keys("mqtt/"), 0);
}

#[test]
fn retain_handling() {
    for (handling, v5_again, first, second) in [
        (RetainHandling::Always, true, 3, 3),
        (RetainHandling::IfNew, true, 3, 0),
        (RetainHandling::Never, true, 0, 0),
    ] {
        let mut bench = with_values();
        bench.connect(2, connect(Version::V5, "sub"));
        let wish = Filter { retain_handling: handling, ..filter("a/+", Q1) };
        bench.subscribe_with(2, None, vec![wish.clone()]);
        assert_eq!(bench.got(2).len(), first, "{handling:?} {v5_again}");
        bench.subscribe_with(2, None, vec![wish]);
        assert_eq!(bench.got(2).len(), second, "[MQTT-3.3.1-10] {handling:?}");
    }
}

#[test]
fn the_last_one_stays_and_survives_a_restart() {
    let mut bench = with_values();
    bench.publish(1, retained("a/1", "uno", Q0, 0));
    let loaded = bench.crash(Limits::default());
    assert_eq!((loaded.retained, loaded.unreadable.len()), (4, 0));
    bench.connect(2, connect(Version::V5, "sub"));
    bench.subscribe(2, "#", Q2);
    assert_eq!(bench.payloads(2), ["zero", "uno", "two", "other"]);
}

#[test]
fn bounds() {
    let mut bench = Bench::with(Limits { retained_messages: 2, retained_bytes: 400, ..Limits::default() });
    bench.connect(1, connect(Version::V5, "pub"));
    bench.subscribe(1, "#", Q0);
    for topic in ["a", "b", "c"] {
        bench.publish(1, retained(topic, "m", Q0, 0));
    }
    assert_eq!(bench.got(1).len(), 3, "routed anyway");
    assert_eq!(bench.broker.figures().retained_messages, 2);
    bench.publish(1, retained("a", "n", Q0, 0));
    assert_eq!(bench.broker.figures().retained_messages, 2, "replacing takes no place");
    bench.publish(1, retained("a", &"x".repeat(300), Q0, 0));
    assert_eq!(bench.broker.figures().retained_messages, 1, "better none than an old one");
    assert_eq!(bench.broker.figures().counters.dropped.retained_full, 2);
}

#[test]
fn they_expire() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "pub"));
    let properties = Arc::new(MessageProperties { expiry_secs: Some(10), ..Default::default() });
    bench.publish(1, Publish { properties, ..retained("a", "m", Q0, 0) });
    bench.wait_secs(4);
    bench.subscribe(1, "a", Q0);
    assert_eq!(bench.got(1)[0].expiry, Some(6));
    bench.wait_secs(6);
    bench.subscribe(1, "a", Q0);
    assert!(bench.got(1).is_empty());
    while let Some(at) = bench.broker.next_deadline() {
        bench.now = at;
        bench.input(Input::Tick);
    }
    assert_eq!(bench.broker.figures().retained_messages, 0);
    assert_eq!(bench.keys("mqtt/"), 0);
}

#[test]
fn a_slow_reader_gets_all_of_many() {
    let mut bench = Bench::with(Limits { unsent_bytes: 2000, inflight: 3, ..Limits::default() });
    bench.connect(1, connect(Version::V5, "pub"));
    for n in 0..300 {
        bench.publish(
            1,
            retained(
                &format!("a/{n:03}"),
                &"x".repeat(100),
                if n % 2 == 0 { Q0 } else { Q1 },
                if n % 2 == 0 { 0 } else { 1 + n },
            ),
        );
    }
    bench.connect(2, connect(Version::V5, "sub"));
    bench.auto_read = false;
    bench.subscribe(2, "#", Q1);
    let mut topics = vec![];
    for _ in 0..1000 {
        let got = bench.got(2);
        assert!(bench.broker.figures().unsent_bytes <= 3000);
        bench.input(Input::Wrote { conn: 2, bytes: usize::MAX });
        for got in got {
            if let Some(packet_id) = got.id {
                bench.packet(2, puback(packet_id, Reason::SUCCESS));
            }
            topics.push(got.topic);
        }
    }
    let want: Vec<_> = (0..300).map(|n| format!("a/{n:03}")).collect();
    assert_eq!(topics, want);
    assert_eq!(bench.broker.figures().counters.dropped.total(), 0);
}

#[test]
fn a_reader_gets_all_of_many_at_qos_0() {
    let mut bench = Bench::with(Limits { unsent_bytes: 2000, ..Limits::default() });
    bench.connect(1, connect(Version::V5, "pub"));
    for n in 0..300 {
        bench.publish(1, retained(&format!("a/{n:03}"), &"x".repeat(100), Q0, 0));
    }
    bench.connect(2, connect(Version::V5, "sub"));
    bench.auto_read = false;
    bench.subscribe(2, "#", Q0);
    let mut topics = vec![];
    for _ in 0..100 {
        topics.extend(bench.got(2).into_iter().map(|got| got.topic));
        assert!(bench.broker.figures().unsent_bytes <= 2000);
        bench.input(Input::Wrote { conn: 2, bytes: usize::MAX });
    }
    let want: Vec<_> = (0..300).map(|n| format!("a/{n:03}")).collect();
    assert_eq!(topics, want);
    assert_eq!(bench.broker.figures().counters.dropped.total(), 0);
}
