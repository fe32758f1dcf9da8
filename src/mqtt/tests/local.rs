//! Messages for edgecore itself.

use super::*;

const TOPIC: &str = "$hw/events/device/default/d/twin/update";

#[test]
fn answers_wait_until_edgecore_has_it() {
    let mut bench = Bench::new();
    bench.auto_take = false;
    bench.connect(1, connect(Version::V5, "dev"));
    bench.publish(1, message(TOPIC, "0", Q0, 0));
    bench.publish(1, message(TOPIC, "1", Q1, 1));
    bench.publish(1, message(TOPIC, "2", Q2, 2));
    bench.publish(1, message("free", "3", Q1, 3));
    assert!(bench.packets(1).is_empty(), "in order [MQTT-4.6.0-2]");
    assert_eq!(bench.open_takes.len(), 3);
    bench.edgecore_takes();
    assert_eq!(bench.taken, ["0", "1", "2"]);
    let acks =
        [puback(1, Reason::SUCCESS), pubrec(2, Reason::SUCCESS), puback(3, Reason::NO_MATCHING_SUBSCRIBERS)];
    assert_eq!(bench.packets(1), acks);
    assert_eq!(bench.stores, 0, "edgecore makes it durable");
}

#[test]
fn other_subscribers_get_it_too() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "dev"));
    bench.subscribe(1, "$hw/#", Q1);
    bench.publish(1, message(TOPIC, "m", Q1, 1));
    assert_eq!(bench.payloads(1), ["m"]);
    assert_eq!(bench.taken, ["m"]);
    bench.input(Input::Publish {
        topic: TOPIC.into(),
        payload: Bytes::from_static(b"own"),
        qos: Q1,
        retain: false,
    });
    assert_eq!(bench.payloads(1), ["own"]);
    assert_eq!(bench.taken, ["m"], "edgecore does not hear itself");
}

#[test]
fn refused_ones_are_given_again() {
    let mut bench = Bench::new();
    bench.auto_take = false;
    bench.connect(1, connect(Version::V5, "dev"));
    bench.connect(2, connect(Version::V3, "old"));
    bench.publish(1, message(TOPIC, "0", Q0, 0));
    bench.publish(1, message(TOPIC, "1", Q1, 1));
    bench.publish(2, message(TOPIC, "2", Q1, 1));
    let mut given = vec![];
    for _ in 0..20 {
        for (ticket, message, _) in std::mem::take(&mut bench.open_takes) {
            given.push(String::from_utf8_lossy(&message.payload).into_owned());
            bench.input(Input::Taken { ticket, ok: false });
        }
        if let Some(at) = bench.broker.next_deadline() {
            bench.now = at;
            bench.input(Input::Tick);
        }
    }
    let times = |payload: &str| given.iter().filter(|given| *given == payload).count();
    assert_eq!((times("0"), times("1"), times("2")), (1, 5, 5));
    assert_eq!(bench.packets(1), [puback(1, Reason::IMPLEMENTATION_SPECIFIC)]);
    assert_eq!(bench.closed.get(&2), Some(&Reason::IMPLEMENTATION_SPECIFIC), "3.1.1 has no word for it");
    assert_eq!(bench.broker.figures().counters.dropped.not_taken, 3);
    assert_eq!(bench.broker.figures().local_waiting, 0);
}

#[test]
fn bounds() {
    let mut bench = Bench::with(Limits { local_takes: 2, local_queue: 4, ..Limits::default() });
    bench.auto_take = false;
    bench.connect(1, connect(Version::V5, "dev"));
    for n in 1..=5 {
        bench.publish(1, message(TOPIC, &n.to_string(), Q1, n));
        bench.publish(1, message(TOPIC, "zero", Q0, 0));
    }
    assert_eq!(bench.open_takes.len(), 2);
    assert_eq!(bench.broker.figures().local_waiting, 4);
    while !bench.open_takes.is_empty() {
        bench.edgecore_takes();
    }
    let reasons: Vec<_> = bench
        .packets(1)
        .into_iter()
        .map(|packet| match packet {
            Packet::PubAck { reason, .. } => reason,
            _ => panic!("{packet:?}"),
        })
        .collect();
    assert_eq!(reasons.iter().filter(|reason| **reason == Reason::QUOTA_EXCEEDED).count(), 2, "{reasons:?}");
    assert_eq!(bench.broker.figures().local_waiting, 0);
}

#[test]
fn messages_are_weighed_too() {
    let limits = Limits { local_bytes: 1_000, ..Limits::default() };
    let mut bench = Bench::with(limits);
    bench.auto_take = false;
    bench.connect(1, connect(Version::V5, "dev"));
    let large = "x".repeat(600);
    for round in 0..2 {
        for n in 1..=3 {
            bench.publish(1, message(TOPIC, &large, Q1, n));
            bench.publish(1, message(TOPIC, &large, Q0, 0));
        }
        assert_eq!(bench.broker.figures().local_waiting, 2, "round {round}");
        while !bench.open_takes.is_empty() {
            bench.edgecore_takes();
        }
        assert_eq!(bench.broker.figures().local_waiting, 0);
        let acks = bench.packets(1);
        let refused =
            |packet: &&Packet| matches!(packet, Packet::PubAck { reason, .. } if reason.is_failure());
        assert_eq!((acks.len(), acks.iter().filter(refused).count()), (3, 2));
    }
    assert_eq!(bench.broker.figures().counters.dropped.not_taken, 2 * 4);
}

#[test]
fn exactly_once_over_a_crash_at_every_step() {
    // Where the power goes: before the store, after it, after the take, after its receipt.
    for step in 0..4 {
        let mut bench = Bench::new();
        bench.connect(1, kept("dev", 100));
        (bench.auto_store, bench.auto_take) = (false, false);
        bench.publish(1, message(TOPIC, "m", Q2, 1));
        assert!(bench.packets(1).is_empty() && bench.open_takes.is_empty(), "nothing before it is durable");
        if step > 0 {
            bench.disk_answers(true);
            assert_eq!(bench.packets(1), [pubrec(1, Reason::SUCCESS)]);
            assert_eq!(bench.open_takes.len(), 1);
        }
        if step == 3 {
            // What edgecore did and the receipt are one write.
            bench.edgecore_takes();
        }
        (bench.auto_store, bench.auto_take) = (true, true);
        bench.crash(Limits::default());
        bench.connect(2, kept("dev", 100));
        bench.publish(2, Publish { dup: true, ..message(TOPIC, "m", Q2, 1) });
        bench.packet(2, pubrel(1));
        assert_eq!(bench.packets(2), [pubrec(1, Reason::SUCCESS), pubcomp(1, Reason::SUCCESS)], "{step}");
        assert_eq!(bench.taken, ["m"], "once, step {step}");
        assert_eq!(bench.keys("mqtt/q/"), 0, "step {step}");
        bench.publish(2, message(TOPIC, "n", Q2, 1));
        assert_eq!(bench.taken, ["m", "n"], "the id is free again");
    }
}

#[test]
fn a_durable_one_is_given_until_it_is_taken() {
    let mut bench = Bench::new();
    bench.auto_take = false;
    bench.connect(1, kept("dev", 100));
    bench.publish(1, message(TOPIC, "m", Q2, 1));
    assert_eq!(bench.packets(1), [pubrec(1, Reason::SUCCESS)]);
    for _ in 0..30 {
        let (ticket, ..) = bench.open_takes.pop().expect("given again");
        bench.input(Input::Taken { ticket, ok: false });
        bench.wait_secs(30);
    }
    bench.edgecore_takes();
    assert_eq!(bench.taken, ["m"]);
    assert_eq!(bench.broker.figures().local_waiting, 0);
}
