//! Bounds: slow consumers, full queues, clients that vanish.

use proptest::prelude::*;

use super::*;

#[test]
fn a_full_queue_drops_the_newest() {
    let mut bench = Bench::with(Limits { queued_messages: 3, ..Limits::default() });
    bench.connect(1, connect(Version::V5, "pub"));
    bench.connect(2, kept("sub", 100));
    bench.subscribe(2, "t", Q1);
    bench.input(Input::Gone { conn: 2 });
    for n in 1..=5 {
        bench.publish(1, message("t", &n.to_string(), Q1, n));
    }
    let figures = bench.broker.figures();
    assert_eq!((figures.queued_messages, figures.counters.dropped.queue_full), (3, 2));
    assert_eq!(bench.keys("mqtt/q/"), 3);
    bench.connect(3, kept("sub", 100));
    assert_eq!(bench.payloads(3), ["1", "2", "3"]);
}

#[test]
fn what_has_expired_makes_room() {
    let mut bench = Bench::with(Limits { queued_messages: 2, ..Limits::default() });
    bench.connect(1, connect(Version::V5, "pub"));
    bench.connect(2, kept("sub", 100));
    bench.subscribe(2, "t", Q1);
    bench.input(Input::Gone { conn: 2 });
    let properties = Arc::new(MessageProperties { expiry_secs: Some(1), ..Default::default() });
    bench.publish(1, message("t", "1", Q1, 1));
    bench.publish(1, Publish { properties, ..message("t", "short", Q1, 2) });
    bench.wait_secs(2);
    bench.publish(1, message("t", "3", Q1, 3));
    bench.connect(3, kept("sub", 100));
    assert_eq!(bench.payloads(3), ["1", "3"]);
}

#[test]
fn bytes_of_one_queue_and_of_all() {
    for (limits, name) in [
        (Limits { queued_bytes: 5_000, ..Limits::default() }, "one"),
        (Limits { total_bytes: 5_000, ..Limits::default() }, "all"),
    ] {
        let mut bench = Bench::with(limits);
        bench.connect(1, connect(Version::V5, "pub"));
        for n in 0..2 {
            bench.connect(10 + n, kept(&format!("sub{n}"), 100));
            bench.subscribe(10 + n, "t", Q1);
            bench.input(Input::Gone { conn: 10 + n });
        }
        for n in 1..=20 {
            bench.publish(1, message("t", &"x".repeat(1000), Q1, n));
        }
        let figures = bench.broker.figures();
        let dropped = figures.counters.dropped;
        if name == "one" {
            assert!(figures.queued_bytes <= 10_000 && figures.queued_messages == 8, "{figures:?}");
            assert_eq!((dropped.queue_full, dropped.total_full), (32, 0));
        } else {
            assert!(figures.queued_bytes <= 5_000 && figures.queued_messages == 4, "{figures:?}");
            assert_eq!((dropped.queue_full, dropped.total_full), (0, 36));
        }
    }
}

#[test]
fn a_slow_consumer_loses_qos_0_and_keeps_the_rest() {
    let mut bench = Bench::with(Limits { unsent_bytes: 5_000, ..Limits::default() });
    bench.connect(1, connect(Version::V5, "pub"));
    bench.connect(2, connect(Version::V5, "slow"));
    bench.subscribe(2, "t", Q1);
    bench.auto_read = false;
    for n in 1..=20 {
        bench.publish(1, message("t", &"0".repeat(1000), Q0, 0));
        bench.publish(1, message("t", &"1".repeat(1000), Q1, n));
        bench.input(Input::Wrote { conn: 1, bytes: usize::MAX });
    }
    let figures = bench.broker.figures();
    assert!(figures.unsent_bytes < 6_100, "{figures:?}");
    assert_eq!(figures.queued_messages, 20);
    let mut seen = bench.got(2);
    assert!(figures.counters.dropped.slow_consumer >= 15);
    assert_eq!(
        figures.counters.dropped.slow_consumer + seen.iter().filter(|got| got.qos == Q0).count() as u64,
        20
    );
    for _ in 0..20 {
        bench.input(Input::Wrote { conn: 2, bytes: usize::MAX });
        seen.extend(bench.got(2));
    }
    assert_eq!(seen.iter().filter(|got| got.qos == Q1).count(), 20, "all of QoS 1, in their time");
    assert!(bench.closed.is_empty());
    let large = "x".repeat(50_000);
    bench.publish(1, message("t", &large, Q0, 0));
    assert_eq!(bench.payloads(2), [large], "one message may be larger than the bound");
}

#[test]
fn who_asks_and_does_not_read_is_closed() {
    let mut bench = Bench::with(Limits { unsent_bytes_hard: 1_000, ..Limits::default() });
    bench.connect(1, connect(Version::V3, "x"));
    bench.auto_read = false;
    for _ in 0..1_000 {
        bench.packet(1, Packet::PingReq);
    }
    assert_eq!(bench.closed.get(&1), Some(&Reason::QUOTA_EXCEEDED));
    let figures = bench.broker.figures();
    assert_eq!((figures.unsent_bytes, figures.counters.closed.slow), (0, 1));
}

#[test]
fn a_socket_that_takes_nothing_is_closed_after_a_time() {
    let mut bench = Bench::with(Limits { stalled_secs: 10, ..Limits::default() });
    bench.auto_read = false;
    for (conn, name) in [(1, "stalled"), (2, "slow"), (3, "idle")] {
        bench.connect(conn, connect(Version::V5, name));
        bench.input(Input::Wrote { conn, bytes: usize::MAX });
        bench.subscribe(conn, "t", Q0);
    }
    bench.input(Input::Wrote { conn: 3, bytes: usize::MAX });
    for _ in 0..15 {
        bench.wait_secs(1);
        bench.input(Input::Wrote { conn: 2, bytes: 0 });
    }
    assert_eq!(bench.closed.keys().collect::<Vec<_>>(), [&1]);
    assert_eq!(bench.broker.figures().counters.closed.slow, 1);
    bench.input(Input::Gone { conn: 2 });
    bench.wait_secs(2);
    assert_eq!(bench.broker.next_deadline(), None, "nothing to look after");
}

#[test]
fn a_3_1_1_client_that_overruns_the_disk_is_paused() {
    let mut bench = Bench::with(Limits { v3_unacknowledged: 10, ..Limits::default() });
    bench.connect(2, kept("sub", 100));
    bench.subscribe(2, "t", Q1);
    bench.input(Input::Gone { conn: 2 });
    bench.connect(1, connect(Version::V3, "fast"));
    bench.auto_store = false;
    for n in 1..=12 {
        bench.publish(1, message("t", "m", Q1, n));
        assert_eq!(bench.paused.contains(&1), n >= 10);
    }
    bench.disk_answers(true);
    assert!(bench.paused.contains(&1), "11 of 12 still wait");
    bench.disk_answers(true);
    assert!(bench.paused.is_empty());
    assert_eq!(bench.packets(1).len(), 12);
}

#[test]
fn ids_that_are_never_released_are_bounded() {
    let mut bench = Bench::with(Limits { unreleased: 10, ..Limits::default() });
    bench.connect(1, connect(Version::V3, "keeper"));
    for n in 1..=11 {
        assert!(!bench.closed.contains_key(&1), "{n}");
        bench.publish(1, message("t", "m", Q2, n));
    }
    assert!(bench.closed.contains_key(&1), "3.1.1 has no word for it");
}

#[test]
fn two_thousand_clients_that_vanish_leave_nothing() {
    let mut bench = Bench::new();
    for round in 0..2 {
        for n in 0..2_000 {
            let conn = 10_000 * round + n;
            bench.connect(
                conn,
                Connect { will: Some(will("w", 0)), ..connect(Version::V5, &format!("c{n}")) },
            );
            bench.subscribe(conn, &format!("device/{n}/#"), Q1);
            bench.subscribe(conn, "all", Q1);
            bench.subscribe(conn, "$share/g/work", Q1);
        }
        assert_eq!(bench.broker.figures().clients_connected, 2_000);
        assert_eq!(bench.broker.figures().subscriptions, 6_000);
        for n in 0..2_000 {
            bench.input(Input::Gone { conn: 10_000 * round + n });
        }
        let figures = bench.broker.figures();
        assert_eq!((figures.clients_connected, figures.sessions, figures.subscriptions), (0, 0, 0));
        assert_eq!((figures.queued_bytes, figures.unsent_bytes, bench.broker.levels()), (0, 0, 1));
    }
    assert_eq!(bench.broker.figures().counters.wills, 4_000);
}

#[test]
fn the_same_filter_a_thousand_times_is_one() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "x"));
    for _ in 0..1_000 {
        bench.subscribe(1, "#", Q1);
    }
    assert_eq!(bench.broker.figures().subscriptions, 1);
    bench.publish(1, message("t", "m", Q0, 0));
    assert_eq!(bench.got(1).len(), 1);
}

#[test]
fn figures_for_sys() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "x"));
    bench.subscribe(1, "t", Q1);
    bench.publish(1, message("t", "12345", Q0, 0));
    bench.publish(1, message("t", "12345", Q1, 1));
    let figures = bench.broker.figures();
    assert_eq!((figures.counters.messages_in, figures.counters.messages_out), ([1, 1, 0], [1, 1, 0]));
    let topics = figures.sys_topics("0.1", 7);
    let value = |topic: &str| topics.iter().find(|(name, _)| *name == topic).map(|(_, value)| &**value);
    assert_eq!(value("$SYS/broker/uptime"), Some("7 seconds"));
    assert_eq!(value("$SYS/broker/clients/connected"), Some("1"));
    assert_eq!(value("$SYS/broker/publish/messages/received"), Some("2"));
    assert_eq!(value("$SYS/broker/publish/bytes/received"), Some("24"), "11 + 13");
    assert!(topics.iter().all(|(topic, _)| check_topic(topic, &Limits::default()).is_ok()));
}

fn any_qos() -> impl Strategy<Value = QoS> {
    prop::sample::select(vec![Q0, Q1, Q2])
}

fn any_topic() -> impl Strategy<Value = String> {
    prop_oneof![
        prop::sample::select(vec![
            "a",
            "a/b",
            "",
            "#",
            "+/b",
            "a/#",
            "$share/g/a/#",
            "$SYS/x",
            "$hw/events/x",
            "a\0"
        ])
        .prop_map(str::to_owned),
        "[ab/+#$]{0,6}",
    ]
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let id = || (1..6u16).prop_map(super::id);
    let reason = || any::<u8>().prop_map(Reason);
    let publish = (any_topic(), any_qos(), any::<(bool, bool, bool)>(), 0..6u16, 0..4u16, 0..200usize)
        .prop_map(|(topic, qos, (retain, dup, right), packet_id, alias, length)| {
            let packet_id = if right && qos == Q0 { 0 } else { packet_id };
            let topic_alias = NonZeroU16::new(alias).filter(|_| length % 3 == 0);
            let expiry_secs = (length % 5 == 0).then_some(length as u32);
            let properties = Arc::new(MessageProperties { expiry_secs, ..Default::default() });
            let payload = "x".repeat(length);
            let publish = message(&topic, &payload, qos, packet_id);
            Packet::Publish(Box::new(Publish { retain, dup, topic_alias, properties, ..publish }))
        });
    let filters = (prop::collection::vec((any_topic(), any_qos(), any::<(bool, bool)>()), 0..4), 0..3u32);
    let subscribe = (id(), filters).prop_map(|(id, (filters, subscription_id))| {
        let filters = filters.into_iter().map(|(topic, qos, (no_local, retain_as_published))| Filter {
            no_local,
            retain_as_published,
            ..filter(&topic, qos)
        });
        let subscription_id = Some(subscription_id).filter(|id| *id < 2);
        Packet::Subscribe(Box::new(Subscribe { id, subscription_id, filters: filters.collect() }))
    });
    let unsubscribe = (id(), prop::collection::vec(any_topic(), 0..3))
        .prop_map(|(id, filters)| Packet::Unsubscribe(Box::new(Unsubscribe { id, filters })));
    prop_oneof![
        8 => publish,
        3 => subscribe,
        1 => unsubscribe,
        3 => (id(), reason()).prop_map(|(id, reason)| Packet::PubAck { id, reason }),
        3 => (id(), reason()).prop_map(|(id, reason)| Packet::PubRec { id, reason }),
        3 => (id(), reason()).prop_map(|(id, reason)| Packet::PubRel { id, reason }),
        3 => (id(), reason()).prop_map(|(id, reason)| Packet::PubComp { id, reason }),
        1 => (reason(), prop::option::of(0..3u32))
            .prop_map(|(reason, session_expiry_secs)| Packet::Disconnect { reason, session_expiry_secs }),
        1 => Just(Packet::PingReq),
    ]
}

#[derive(Debug, Clone)]
enum Act {
    Packet(u64, Packet),
    Connect(u64, bool, bool, u32, bool),
    Gone(u64),
    Wrote(u64, usize),
    Store(bool),
    Take(bool),
    Wait(i64),
    Crash,
}

fn any_act() -> impl Strategy<Value = Act> {
    let conn = || 1..5u64;
    prop_oneof![
        40 => (conn(), any_packet()).prop_map(|(conn, packet)| Act::Packet(conn, packet)),
        8 => (conn(), any::<(bool, bool, bool)>(), 0..3u32)
            .prop_map(|(conn, (v5, clean, with_will), expiry)| Act::Connect(conn, v5, clean, expiry, with_will)),
        2 => conn().prop_map(Act::Gone),
        6 => (conn(), 0..500usize).prop_map(|(conn, bytes)| Act::Wrote(conn, bytes)),
        6 => any::<bool>().prop_map(Act::Store),
        4 => any::<bool>().prop_map(Act::Take),
        3 => (0..3000i64).prop_map(Act::Wait),
        1 => Just(Act::Crash),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever clients send, nothing panics, every bound holds, and when all have gone nothing is
    /// left.
    #[test]
    fn bounds_hold_whatever_comes(acts in prop::collection::vec(any_act(), 1..300)) {
        let limits = || Limits {
            clients: 3,
            sessions: 4,
            subscriptions_per_session: 3,
            queued_messages: 4,
            queued_bytes: 900,
            unsent_bytes: 600,
            unsent_bytes_hard: 1_500,
            behind_messages: 1,
            behind_bytes: 400,
            deferred_messages: 2,
            total_bytes: 2_000,
            retained_messages: 2,
            retained_bytes: 600,
            receive_maximum: 3,
            local_takes: 2,
            local_queue: 3,
            topic_levels: 4,
            ..Limits::default()
        };
        let mut bench = Bench::with(limits());
        (bench.auto_store, bench.auto_take, bench.auto_read) = (false, false, false);
        let mut next_conn = 100;
        let mut conns = [0; 5];
        for act in acts {
            match act {
                Act::Packet(client, packet) => bench.packet(conns[client as usize], packet),
                Act::Connect(client, v5, clean_start, expiry, with_will) => {
                    next_conn += 1;
                    conns[client as usize] = next_conn;
                    let version = if v5 { Version::V5 } else { Version::V3 };
                    let connect = Connect {
                        clean_start,
                        session_expiry_secs: Some(expiry),
                        will: with_will.then(|| will("a/b", expiry)),
                        maximum_packet_bytes: Some(150),
                        topic_alias_maximum: 1,
                        receive_maximum: NonZeroU16::new(2),
                        ..connect(version, &format!("c{client}"))
                    };
                    let access = Arc::new(All);
                    bench.input(Input::Connect { conn: next_conn, connect: Box::new(connect), access });
                }
                Act::Gone(client) => bench.input(Input::Gone { conn: conns[client as usize] }),
                Act::Wrote(client, bytes) => bench.input(Input::Wrote { conn: conns[client as usize], bytes }),
                Act::Store(ok) => bench.disk_answers(ok),
                Act::Take(ok) => {
                    if let Some((ticket, _, receipt)) = bench.open_takes.pop() {
                        if ok {
                            bench.apply(&receipt);
                        }
                        bench.input(Input::Taken { ticket, ok });
                    }
                }
                Act::Wait(ms) => {
                    bench.now += ms;
                    bench.input(Input::Tick);
                }
                Act::Crash => {
                    bench.crash(limits());
                }
            }
            let figures = bench.broker.figures();
            prop_assert!(figures.clients_connected <= 3 && figures.sessions <= 4);
            prop_assert!(figures.subscriptions <= 4 * 3);
            prop_assert!(figures.queued_messages <= 4 * 4);
            prop_assert!(figures.queued_bytes <= 4 * (900 + 96), "{figures:?}");
            prop_assert!(figures.unsent_bytes <= 3 * 1_800, "{figures:?}");
            prop_assert!(figures.queued_bytes + figures.unsent_bytes <= 2_000 + 4 * 400, "{figures:?}");
            prop_assert!(figures.retained_messages <= 2 && figures.retained_bytes <= 600);
            prop_assert!(figures.local_waiting <= 3 + 2 + 4, "QoS 0 and wills come on top: {figures:?}");
        }
        (bench.auto_store, bench.auto_take) = (true, true);
        for _ in 0..3 {
            bench.disk_answers(true);
            bench.edgecore_takes();
            for conn in conns {
                bench.input(Input::Gone { conn });
            }
            bench.wait_secs(1_000_000);
        }
        let figures = bench.broker.figures();
        prop_assert_eq!((figures.clients_connected, figures.sessions, figures.subscriptions), (0, 0, 0));
        prop_assert_eq!((figures.queued_messages, figures.queued_bytes, figures.unsent_bytes), (0, 0, 0));
        prop_assert_eq!((bench.broker.open_promises(), figures.local_waiting), (0, 0));
        prop_assert_eq!((figures.held_back, figures.deferred_bytes), (0, 0));
        prop_assert_eq!(bench.keys("mqtt/"), figures.retained_messages, "{:?}", bench.disk.keys());
    }
}

#[test]
fn what_sessions_hold_is_bounded_for_one_and_in_all() {
    let long = |n: usize| format!("{n}/{}", "x".repeat(1_000));
    let one = super::super::session::filter_bytes(&long(10));
    let limits = Limits { session_bytes: 4 * one, sessions_bytes: 6 * one, ..Limits::default() };
    let mut bench = Bench::with(limits.clone());
    bench.connect(1, kept("a", 100));
    bench.connect(2, kept("b", 100));
    let filters = |conn: usize| (1..9).map(|n| filter(&long(conn * 10 + n), Q1)).collect::<Vec<_>>();
    let mut taken = Vec::new();
    for conn in [1, 2] {
        let filters = filters(if conn == 1 { 1 } else { 2 });
        let reasons = bench.subscribe_with(conn, None, filters);
        assert!(reasons.contains(&Reason::QUOTA_EXCEEDED), "{reasons:?}");
        taken.push(reasons.iter().filter(|reason| !reason.is_failure()).count());
    }
    assert_eq!(taken, [4, 2], "the bound of one session, then that of all");
    assert_eq!(bench.broker.figures().session_bytes, 6 * one);
    // A will counts, too, and a restart counts the same.
    let mut with_will = kept("c", 100);
    with_will.will = Some(Will { payload: Bytes::from(vec![0; one]), ..will("w", 0) });
    bench.input(Input::Connect { conn: 3, connect: Box::new(with_will), access: Arc::new(All) });
    assert!(bench.closed.contains_key(&3), "no room for the will");
    bench.crash(limits);
    assert_eq!(bench.broker.figures().session_bytes, 6 * one);
    for conn in [4, 5] {
        bench.connect(conn, connect(Version::V5, if conn == 4 { "a" } else { "b" }));
        bench.packet(conn, Packet::Disconnect { reason: Reason::SUCCESS, session_expiry_secs: None });
    }
    assert_eq!(bench.broker.figures().session_bytes, 0);
}

#[test]
fn user_properties_count_with_what_they_cost() {
    let user = vec![(String::new(), String::new()); 10_000];
    let properties = Arc::new(MessageProperties { user, ..Default::default() });
    let message = Message::new("t".into(), Bytes::new(), Q1, true, properties, 0);
    assert!(message.bytes() >= 10_000 * size_of::<(String, String)>(), "{}", message.bytes());
}
