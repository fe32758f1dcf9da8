//! Shared subscriptions (mqtt-v5.0-os 4.8.2).

use super::*;

fn group(members: u64) -> Bench {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "pub"));
    for n in 0..members {
        bench.connect(10 + n, kept(&format!("m{n}"), 100));
        bench.subscribe(10 + n, "$share/g/t/#", Q2);
    }
    bench
}

fn publish(bench: &mut Bench, numbers: std::ops::Range<u16>, qos: QoS) {
    for n in numbers {
        bench.publish(1, message("t/x", &n.to_string(), qos, if qos == Q0 { 0 } else { 1 + n }));
        if qos == Q2 {
            bench.packet(1, pubrel(1 + n));
        }
    }
}

#[test]
fn members_take_turns() {
    for qos in [Q0, Q1, Q2] {
        let mut bench = group(3);
        publish(&mut bench, 0..9, qos);
        for conn in 10..13 {
            let want: Vec<_> = (0..3).map(|n| (n * 3 + conn - 10).to_string()).collect();
            assert_eq!(bench.payloads(conn), want);
        }
    }
}

#[test]
fn groups_and_plain_subscriptions_do_not_mix() {
    let mut bench = group(2);
    bench.connect(20, connect(Version::V3, "plain"));
    bench.subscribe(20, "t/#", Q1);
    bench.connect(21, connect(Version::V3, "other"));
    bench.subscribe(21, "$share/h/t/#", Q1);
    bench.subscribe(21, "t/+", Q1);
    publish(&mut bench, 0..4, Q1);
    assert_eq!(bench.got(10).len() + bench.got(11).len(), 4);
    assert_eq!(bench.got(20).len(), 4);
    assert_eq!(bench.got(21).len(), 8, "once for each of its subscriptions");
}

#[test]
fn who_is_away_gets_nothing_while_others_are_there() {
    let mut bench = group(2);
    bench.input(Input::Gone { conn: 10 });
    publish(&mut bench, 0..4, Q1);
    assert_eq!(bench.got(11).len(), 4);
    bench.input(Input::Gone { conn: 11 });
    publish(&mut bench, 4..8, Q1);
    publish(&mut bench, 8..9, Q0);
    bench.connect(20, kept("m0", 100));
    bench.connect(21, kept("m1", 100));
    assert_eq!(bench.got(20).len(), 2, "kept for those who will come back, in turn");
    assert_eq!(bench.got(21).iter().filter(|got| !got.dup).count(), 2);
}

#[test]
fn a_full_window_passes_the_turn_on() {
    let mut bench = group(2);
    let receive_maximum = NonZeroU16::new(1);
    bench.connect(20, Connect { receive_maximum, ..kept("m0", 100) });
    publish(&mut bench, 0..6, Q1);
    assert_eq!((bench.got(20).len(), bench.got(11).len()), (1, 5));
}

#[test]
fn what_an_ending_session_did_not_take_goes_to_others() {
    // QoS 1: also what was sent. QoS 2 that was sent stays with it [MQTT-4.8.2-5].
    for (qos, want) in [(Q1, 4), (Q2, 2)] {
        let mut bench = group(2);
        bench.connect(20, Connect { receive_maximum: NonZeroU16::new(2), ..kept("m0", 100) });
        bench.input(Input::Gone { conn: 11 });
        publish(&mut bench, 0..4, qos);
        assert_eq!(bench.got(20).len(), 2);
        bench.connect(21, kept("m1", 100));
        assert!(bench.got(21).is_empty());
        bench.packet(20, Packet::Disconnect { reason: Reason::SUCCESS, session_expiry_secs: Some(0) });
        assert_eq!(bench.got(21).len(), want, "{qos:?}");
        assert_eq!(bench.broker.figures().queued_messages, want);
        assert_eq!(bench.keys("mqtt/q/o/"), want);
    }
}

#[test]
fn the_publisher_waits_for_the_member_that_gets_it_in_the_end() {
    let mut bench = group(2);
    bench.input(Input::Gone { conn: 11 });
    bench.auto_store = false;
    // A store is under way, so that the next rows wait.
    bench.connect(30, kept("other", 100));
    assert_eq!(bench.open_stores.len(), 1);
    publish(&mut bench, 0..1, Q1);
    assert!(bench.packets(1).is_empty());
    bench.packet(10, Packet::Disconnect { reason: Reason::SUCCESS, session_expiry_secs: Some(0) });
    assert!(bench.packets(1).is_empty(), "the row of the new member is not written");
    bench.disk_answers(true);
    assert!(bench.packets(1).is_empty());
    bench.disk_answers(true);
    assert_eq!(bench.packets(1), [puback(1, Reason::SUCCESS)]);
    bench.auto_store = true;
    bench.crash(Limits::default());
    bench.connect(40, kept("m1", 100));
    assert_eq!(bench.payloads(40), ["0"]);
}

#[test]
fn a_member_may_refuse() {
    let mut bench = group(2);
    publish(&mut bench, 0..1, Q2);
    bench.packet(10, pubrec(1, Reason::UNSPECIFIED));
    assert!(bench.got(11).is_empty(), "[MQTT-4.8.2-6]");
    assert_eq!(bench.broker.figures().queued_messages, 0);
}

#[test]
fn options_and_rights_of_members() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "pub"));
    bench.connect_as(2, connect(Version::V5, "a"), Arc::new(NotSecret));
    bench.connect(3, connect(Version::V5, "b"));
    bench.subscribe_with(2, Some(5), vec![filter("$share/g/#", Q0)]);
    bench.subscribe_with(3, Some(6), vec![filter("$share/g/#", Q1)]);
    for _ in 0..2 {
        bench.publish(1, message("secret/x", "s", Q1, 1));
        bench.publish(1, message("open/x", "o", Q1, 2));
    }
    let seen = |got: Vec<Got>| got.into_iter().map(|got| (got.payload, got.qos, got.ids)).collect::<Vec<_>>();
    let (a, b) = (seen(bench.got(2)), seen(bench.got(3)));
    assert!(a.iter().all(|got| *got == ("o".to_owned(), Q0, vec![5])), "{a:?}");
    assert_eq!(a.len() + b.len(), 4);
    assert!(b.iter().all(|got| got.1 == Q1 && got.2 == [6]), "{b:?}");
}
