//! What is on disk when something is acknowledged, and what a failing disk does.

use super::*;

fn with_sleeper(qos: QoS) -> Bench {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "pub"));
    bench.connect(2, kept("sleeper", 1000));
    bench.subscribe(2, "t/#", qos);
    bench.input(Input::Gone { conn: 2 });
    bench.auto_store = false;
    bench
}

#[test]
fn an_acknowledged_message_is_there_after_kill_9() {
    for (qos, sub) in [(Q1, Q1), (Q2, Q1), (Q2, Q2), (Q1, Q2)] {
        let mut bench = with_sleeper(sub);
        bench.publish(1, message("t/a", "m", qos, 1));
        assert!(bench.packets(1).is_empty(), "not before it is on disk");
        bench.disk_answers(true);
        assert_eq!(bench.packets(1).len(), 1);
        bench.auto_store = true;
        let loaded = bench.crash(Limits::default());
        assert_eq!((loaded.sessions, loaded.queued, loaded.unreadable.len()), (1, 1, 0));
        assert!(bench.connect(3, kept("sleeper", 1000)).session_present);
        let got = bench.got(3);
        assert_eq!((&*got[0].payload, got[0].qos), ("m", qos.min(sub)));
        assert_eq!(got[0].dup, qos.min(sub) == Q1, "QoS 2 is known not to have been sent");
    }
}

#[test]
fn who_needs_no_disk_does_not_wait() {
    let mut bench = with_sleeper(Q0);
    bench.publish(1, message("t/a", "m", Q1, 1));
    bench.publish(1, message("other", "m", Q2, 2));
    assert_eq!(bench.packets(1).len(), 2);
    assert!(bench.open_stores.is_empty());
}

#[test]
fn one_burst_is_one_batch_and_the_next_waits_for_it() {
    let mut bench = with_sleeper(Q1);
    let mut effects = vec![];
    let publish =
        |n: u16| Input::Packet { conn: 1, packet: Packet::Publish(Box::new(message("t/a", "m", Q1, n))) };
    for n in 1..=10 {
        bench.broker.handle(bench.now, publish(n), &mut effects);
    }
    assert!(effects.is_empty());
    bench.broker.flush(bench.now, &mut effects);
    let [Effect::Store { seq: _, batch }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(batch.ops().len(), 10);
    bench.run(effects);
    for n in 11..=15 {
        bench.input(publish(n));
    }
    assert_eq!(bench.open_stores.len(), 1);
    bench.disk_answers(true);
    assert_eq!(bench.packets(1).len(), 10);
    assert_eq!(bench.open_stores.len(), 1);
    bench.disk_answers(true);
    assert_eq!(bench.packets(1).len(), 5);
}

#[test]
fn a_message_taken_before_its_row_is_written_costs_nothing() {
    let mut bench = with_sleeper(Q1);
    bench.connect(2, kept("sleeper", 1000));
    assert_eq!(bench.open_stores.len(), 1, "the session's own row is under way");
    bench.publish(1, message("t/a", "m", Q1, 1));
    assert_eq!(bench.payloads(2), ["m"], "QoS 1 does not wait");
    assert!(bench.packets(1).is_empty());
    bench.packet(2, puback(1, Reason::SUCCESS));
    assert_eq!(bench.packets(1), [puback(1, Reason::SUCCESS)], "nobody needs the disk any more");
    bench.disk_answers(true);
    assert!(bench.open_stores.is_empty());
    assert_eq!(bench.broker.figures().counters.rows_spared, 1);
}

#[test]
fn several_sleepers_share_one_body() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "pub"));
    for n in 0..5 {
        bench.connect(10 + n, kept(&format!("s{n}"), 1000));
        bench.subscribe(10 + n, "t", Q1);
        bench.input(Input::Gone { conn: 10 + n });
    }
    bench.publish(1, message("t", &"x".repeat(1000), Q1, 1));
    assert_eq!((bench.keys("mqtt/q/b/"), bench.keys("mqtt/q/o/")), (1, 5));
    let bytes: usize =
        bench.disk.iter().filter(|((_, key), _)| key.starts_with(b"mqtt/q/")).map(|(_, v)| v.len()).sum();
    assert!(bytes < 1300, "{bytes}");
    let loaded = bench.crash(Limits::default());
    assert_eq!((loaded.queued, loaded.orphans), (5, 0));
    for n in 0..5 {
        bench.connect(20 + n, kept(&format!("s{n}"), 1000));
        assert_eq!(bench.got(20 + n)[0].payload.len(), 1000);
        assert_eq!(bench.keys("mqtt/q/b/"), 1);
        bench.packet(20 + n, puback(1, Reason::SUCCESS));
    }
    assert_eq!(bench.keys("mqtt/q/"), 0);
}

#[test]
fn qos_2_keeps_its_ids_over_a_crash() {
    // (what the subscriber did before the crash, what it sees after it)
    for (released, want) in [(false, ("m", true)), (true, ("", false))] {
        let mut bench = Bench::new();
        bench.connect(1, connect(Version::V5, "pub"));
        bench.connect(2, kept("sub", 1000));
        bench.subscribe(2, "t", Q2);
        bench.publish(1, message("t", "first", Q1, 1));
        bench.publish(1, message("t", "m", Q2, 2));
        assert_eq!(bench.got(2)[1].id, Some(2));
        bench.packet(2, puback(1, Reason::SUCCESS));
        if released {
            bench.packet(2, pubrec(2, Reason::SUCCESS));
            assert_eq!(bench.packets(2), [pubrel(2)]);
        }
        bench.crash(Limits::default());
        bench.input(Input::Connect { conn: 3, connect: Box::new(kept("sub", 1000)), access: Arc::new(All) });
        let got = bench.got(3);
        if released {
            assert!(got.is_empty());
            assert_eq!(bench.packets(3)[1..], [pubrel(2)]);
        } else {
            assert_eq!((&*got[0].payload, got[0].dup, got[0].id), (want.0, want.1, Some(2)));
            bench.packet(3, pubrec(2, Reason::SUCCESS));
        }
        bench.packet(3, pubcomp(2, Reason::SUCCESS));
        assert_eq!(bench.keys("mqtt/q/"), 0);
        assert_eq!(bench.broker.figures().queued_messages, 0);
    }
}

#[test]
fn qos_2_waits_for_the_disk_at_each_step() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "pub"));
    bench.connect(2, kept("sub", 1000));
    bench.subscribe(2, "t", Q2);
    bench.auto_store = false;
    bench.publish(1, message("t", "m", Q2, 1));
    bench.publish(1, message("t", "after", Q1, 2));
    assert!(bench.got(2).is_empty(), "else a crash would double it");
    bench.disk_answers(true);
    assert_eq!(bench.payloads(2), ["m", "after"], "in order");
    bench.disk_answers(true);
    bench.packet(2, pubrec(1, Reason::SUCCESS));
    assert!(bench.packets(2).is_empty(), "else a crash would send the message again");
    bench.packet(2, pubrec(1, Reason::SUCCESS));
    bench.disk_answers(true);
    assert_eq!(bench.packets(2), [pubrel(1)]);
}

#[test]
fn incoming_qos_2_ids_survive() {
    let mut bench = Bench::new();
    bench.connect(1, kept("pub", 1000));
    bench.connect(2, connect(Version::V5, "sub"));
    bench.subscribe(2, "t", Q0);
    bench.auto_store = false;
    bench.publish(1, message("t", "m", Q2, 1));
    assert!(bench.packets(1).is_empty());
    bench.disk_answers(true);
    assert_eq!(bench.packets(1), [pubrec(1, Reason::SUCCESS)]);
    bench.auto_store = true;
    bench.crash(Limits::default());
    bench.connect(3, kept("pub", 1000));
    bench.connect(4, connect(Version::V5, "sub"));
    bench.subscribe(4, "t", Q0);
    bench.publish(3, Publish { dup: true, ..message("t", "m", Q2, 1) });
    assert!(bench.got(4).is_empty(), "it was published before");
    bench.auto_store = false;
    bench.packet(3, pubrel(1));
    assert_eq!(
        bench.packets(3),
        [pubrec(1, Reason::SUCCESS)],
        "PUBCOMP waits: a kept id would swallow the next message"
    );
    bench.packet(3, pubrel(1));
    bench.disk_answers(true);
    assert_eq!(bench.packets(3), [pubcomp(1, Reason::SUCCESS), pubcomp(1, Reason::SUCCESS)]);
    assert_eq!(bench.keys("mqtt/q/i/"), 0);
}

#[test]
fn a_failing_disk() {
    for (version, qos) in [(Version::V5, Q1), (Version::V5, Q2), (Version::V3, Q1), (Version::V3, Q2)] {
        let mut bench = with_sleeper(Q1);
        bench.connect(5, connect(version, "p5"));
        bench.publish(5, message("t/a", "m", qos, 1));
        bench.publish(5, message("free", "n", Q1, 2));
        bench.disk_answers(false);
        let reason = Reason::IMPLEMENTATION_SPECIFIC;
        if version == Version::V5 {
            let ack = if qos == Q1 { puback(1, reason) } else { pubrec(1, reason) };
            assert_eq!(bench.packets(5)[0], ack);
            bench.publish(5, message("free", "again", Q2, 1));
            assert_eq!(bench.packets(5).last(), Some(&pubrec(1, Reason::SUCCESS)), "the id is free");
        } else {
            assert!(bench.packets(5).is_empty());
            assert_eq!(bench.closed.get(&5), Some(&reason), "{qos:?}");
        }
        let figures = bench.broker.figures();
        assert_eq!((figures.queued_messages, figures.queued_bytes), (0, 0), "nothing is half kept");
        assert_eq!(figures.counters.dropped.not_stored, 1);
        assert_eq!(figures.counters.failed_writes, 1);
        // The disk is well again.
        bench.auto_store = true;
        bench.wait_secs(2);
        bench.connect(6, connect(Version::V5, "p6"));
        bench.publish(6, message("t/a", "well", Q1, 1));
        assert_eq!(bench.packets(6), [puback(1, Reason::SUCCESS)]);
        bench.crash(Limits::default());
        bench.connect(7, kept("sleeper", 1000));
        assert_eq!(bench.payloads(7), ["well"]);
    }
}

#[test]
fn what_was_sent_when_the_disk_failed_goes_to_its_end() {
    let mut bench = with_sleeper(Q1);
    bench.connect(2, kept("sleeper", 1000));
    bench.disk_answers(true);
    bench.publish(1, message("t/a", "m", Q1, 1));
    assert_eq!(bench.payloads(2), ["m"]);
    bench.disk_answers(false);
    assert_eq!(bench.packets(1), [puback(1, Reason::IMPLEMENTATION_SPECIFIC)]);
    bench.packet(2, puback(1, Reason::SUCCESS));
    assert_eq!(bench.broker.figures().queued_messages, 0);
    bench.wait_secs(2);
    assert!(bench.open_stores.is_empty(), "no row, nothing to delete");
}

#[test]
fn deletes_are_tried_again() {
    let mut bench = Bench::new();
    bench.connect(1, kept("x", 1000));
    bench.subscribe(1, "t", Q1);
    bench.publish(1, message("t", "m", Q1, 1));
    assert_eq!(bench.keys("mqtt/q/o/"), 1);
    bench.auto_store = false;
    bench.packet(1, puback(1, Reason::SUCCESS));
    for _ in 0..3 {
        bench.disk_answers(false);
        assert!(bench.open_stores.is_empty(), "not at once");
        bench.now = bench.broker.next_deadline().expect("a retry");
        bench.input(Input::Tick);
        assert_eq!(bench.open_stores.len(), 1);
    }
    bench.disk_answers(true);
    assert_eq!(bench.keys("mqtt/q/o/"), 0);
}

/// The id is being released when its session ends, and the disk fails: nobody will ask again.
#[test]
fn an_id_whose_session_ended_is_not_left_behind() {
    let mut bench = Bench::new();
    bench.connect(1, kept("pub", 1000));
    bench.publish(1, message("t", "m", Q2, 1));
    assert_eq!(bench.keys("mqtt/q/i/"), 1);
    bench.auto_store = false;
    bench.packet(1, pubrel(1));
    bench.input(Input::Gone { conn: 1 });
    bench.input(Input::Connect {
        conn: 2,
        connect: Box::new(Connect { clean_start: true, ..connect(Version::V5, "pub") }),
        access: Arc::new(All),
    });
    bench.disk_answers(false);
    bench.auto_store = true;
    bench.disk_answers(true);
    bench.now = bench.broker.next_deadline().expect("a retry");
    bench.input(Input::Tick);
    assert_eq!(bench.keys("mqtt/q/i/"), 0);
}

#[test]
fn a_subscription_that_is_not_stored_is_refused() {
    for version in [Version::V5, Version::V3] {
        let mut bench = Bench::new();
        let kept = Connect { version, ..kept("x", 1000) };
        bench.connect(1, kept);
        bench.subscribe(1, "old", Q1);
        bench.auto_store = false;
        assert!(bench.subscribe_with(1, None, vec![filter("t", Q1), filter("old", Q1)]).is_empty());
        bench.disk_answers(false);
        let reason =
            if version == Version::V5 { Reason::IMPLEMENTATION_SPECIFIC } else { Reason::UNSPECIFIED };
        assert_eq!(bench.packets(1), [Packet::SubAck { id: id(9), reasons: vec![reason; 2] }]);
        bench.publish(1, message("t", "m", Q0, 0));
        assert!(bench.got(1).is_empty());
        bench.publish(1, message("old", "m", Q0, 0));
        assert_eq!(bench.got(1).len(), 1);
    }
}

#[test]
fn sessions_come_back_as_they_were() {
    let mut bench = Bench::new();
    let v3 = Connect { clean_start: false, ..connect(Version::V3, "v3") };
    bench.connect(1, v3.clone());
    bench.subscribe(1, "a/+", Q2);
    bench.connect(2, kept("v5", 10));
    let wish = Filter { no_local: true, retain_as_published: true, ..filter("b/#", Q1) };
    bench.subscribe_with(2, Some(77), vec![wish]);
    bench.subscribe(2, "$share/g/c", Q1);
    bench.subscribe(2, "gone", Q1);
    bench.packet(2, Packet::Unsubscribe(Box::new(Unsubscribe { id: id(1), filters: vec!["gone".into()] })));
    bench.connect(3, connect(Version::V5, "clean"));
    bench.now += 1000;
    let loaded = bench.crash(Limits::default());
    assert_eq!((loaded.sessions, bench.broker.figures().subscriptions), (2, 3));
    bench.connect(4, connect(Version::V5, "pub"));
    for topic in ["a/1", "b/1", "c"] {
        bench.publish(4, Publish { retain: topic == "b/1", ..message(topic, topic, Q1, 1) });
    }
    assert!(bench.connect(5, v3).session_present);
    assert_eq!(bench.payloads(5), ["a/1"]);
    assert!(bench.connect(6, kept("v5", 10)).session_present);
    let got = bench.got(6);
    assert_eq!((&*got[0].payload, got[0].retain, &*got[0].ids), ("b/1", true, &[77][..]));
    assert_eq!(got[1].payload, "c");
    bench.publish(6, message("b/1", "own", Q1, 1));
    assert!(bench.got(6).is_empty(), "no local");
    assert!(
        !bench.connect(7, Connect { clean_start: false, ..connect(Version::V5, "clean") }).session_present
    );
    // The life of a session without connection goes on over restarts.
    bench.input(Input::Gone { conn: 6 });
    bench.now += 6000;
    bench.crash(Limits::default());
    bench.wait_secs(5);
    assert!(!bench.connect(8, kept("v5", 10)).session_present);
}

#[test]
fn the_will_of_a_kept_session_survives_the_broker() {
    let mut bench = Bench::new();
    bench.connect(1, Connect { will: Some(will("w", 3)), ..kept("x", 100) });
    bench.connect(2, kept("watcher", 100));
    bench.subscribe(2, "w", Q1);
    bench.crash(Limits::default());
    bench.connect(3, kept("watcher", 100));
    assert!(bench.got(3).is_empty());
    bench.wait_secs(3);
    assert_eq!(bench.payloads(3), ["gone"]);
    bench.crash(Limits::default());
    bench.wait_secs(10);
    bench.connect(4, kept("watcher", 100));
    assert_eq!(bench.got(4).len(), 1, "once");
}

#[test]
fn the_will_of_a_clean_session_too() {
    for (version, says_goodbye) in [(Version::V3, false), (Version::V5, false), (Version::V5, true)] {
        let mut bench = Bench::new();
        bench.connect(1, Connect { will: Some(will("w", 30)), ..connect(version, "x") });
        bench.subscribe(1, "#", Q2);
        bench.connect(2, kept("watcher", 100));
        bench.subscribe(2, "w", Q1);
        assert_eq!(bench.keys("mqtt/session/"), 2);
        if says_goodbye {
            bench.packet(1, Packet::Disconnect { reason: Reason::SUCCESS, session_expiry_secs: None });
            assert_eq!(bench.keys("mqtt/session/"), 1);
        }
        bench.crash(Limits::default());
        assert_eq!((bench.broker.figures().sessions, bench.broker.figures().subscriptions), (1, 1));
        assert_eq!(bench.keys("mqtt/session/"), 1);
        bench.connect(3, kept("watcher", 100));
        assert_eq!(bench.payloads(3).len(), usize::from(!says_goodbye));
        assert!(!bench.connect(4, kept("x", 100)).session_present);
    }
}

#[test]
fn a_session_whose_time_is_up_is_not_resumed_before_the_timer() {
    let mut bench = Bench::new();
    bench.connect(1, Connect { will: Some(will("w", 50)), ..kept("x", 5) });
    bench.connect(2, connect(Version::V5, "watcher"));
    bench.subscribe(2, "w", Q0);
    bench.input(Input::Gone { conn: 1 });
    bench.now += 5_000;
    assert!(!bench.connect(3, kept("x", 5)).session_present);
    assert_eq!(bench.payloads(2), ["gone"]);
}

#[test]
fn a_session_that_ends_leaves_nothing() {
    let mut bench = Bench::new();
    bench.connect(1, kept("x", 100));
    bench.subscribe(1, "#", Q2);
    bench.publish(1, message("t", "1", Q1, 1));
    bench.publish(1, message("t", "2", Q2, 2));
    bench.packet(1, pubrec(2, Reason::SUCCESS));
    assert!(bench.keys("mqtt/") > 3);
    let figures = |bench: &Bench| {
        let figures = bench.broker.figures();
        (figures.sessions, figures.subscriptions, figures.queued_messages, figures.queued_bytes)
    };
    let mut other = Bench::new();
    other.disk = bench.disk.clone();
    bench.connect(2, connect(Version::V5, "x"));
    bench.packet(2, Packet::Disconnect { reason: Reason::SUCCESS, session_expiry_secs: None });
    assert_eq!((bench.keys("mqtt/"), figures(&bench)), (0, (0, 0, 0, 0)));
    // The same when it expires after a restart.
    other.crash(Limits::default());
    assert_eq!(other.broker.figures().sessions, 1);
    other.wait_secs(101);
    assert_eq!((other.keys("mqtt/"), figures(&other)), (0, (0, 0, 0, 0)));
}
