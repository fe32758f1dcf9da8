//! Who reads is waited for, who does not is not.

use super::*;

fn limits() -> Limits {
    Limits {
        inflight: 4,
        behind_messages: 8,
        queued_messages: 40,
        deferred_messages: 3,
        patience_ms: 500,
        behind_secs: 10,
        ..Limits::default()
    }
}

/// 1 publishes, 2 subscribes and acknowledges only when told.
fn two(version: Version) -> Bench {
    let mut bench = Bench::with(limits());
    bench.connect(1, connect(version, "pub"));
    bench.connect(2, connect(version, "sub"));
    bench.subscribe(2, "t", Q1);
    bench
}

impl Bench {
    fn send_many(&mut self, conn: ConnId, topic: &str, ids: std::ops::RangeInclusive<u16>) {
        for n in ids {
            self.publish(conn, message(topic, &n.to_string(), Q1, n));
        }
    }

    fn ack_all(&mut self, conn: ConnId) -> usize {
        let got = self.got(conn);
        for got in &got {
            if let Some(id_) = got.id {
                self.packet(conn, puback(id_, Reason::SUCCESS));
            }
        }
        got.len()
    }

    fn acked(&mut self, conn: ConnId) -> usize {
        self.packets(conn).iter().filter(|packet| matches!(packet, Packet::PubAck { .. })).count()
    }

    fn wait_ms(&mut self, ms: i64) {
        self.now += ms;
        self.input(Input::Tick);
    }

    fn held(&self) -> usize {
        self.broker.figures().held_back
    }
}

#[test]
fn a_publisher_waits_until_its_subscriber_has_caught_up() {
    for version in [Version::V3, Version::V5] {
        let mut bench = two(version);
        bench.send_many(1, "t", 1..=12);
        assert_eq!((bench.held(), bench.acked(1)), (0, 12), "4 in flight and 8 that wait");
        bench.send_many(1, "t", 13..=16);
        assert_eq!((bench.held(), bench.acked(1)), (1, 1), "14 to 16 are kept back");
        assert!(bench.broker.figures().deferred_bytes > 0 && bench.paused.is_empty());
        bench.packet(1, Packet::PingReq);
        assert_eq!(bench.packets(1), [Packet::PingResp], "pings overtake");
        bench.send_many(1, "t", 17..=17);
        assert_eq!(bench.paused, [1], "more than 3 are kept back");
        assert_eq!(bench.ack_all(2), 4);
        assert_eq!((bench.held(), bench.paused.len()), (1, 1), "still 5 that wait");
        assert_eq!(bench.ack_all(2), 4);
        assert_eq!((bench.held(), bench.paused.len()), (0, 0));
        assert_eq!((bench.acked(1), bench.broker.figures().deferred_bytes), (4, 0));
        let mut rest = 8;
        while rest < 17 {
            rest += bench.ack_all(2);
        }
        let figures = bench.broker.figures();
        assert_eq!((figures.queued_messages, figures.counters.dropped.total()), (0, 0));
        assert_eq!(figures.counters.given_up, 0);
    }
}

#[test]
fn order_is_kept_and_what_depends_on_it_waits_too() {
    let mut bench = two(Version::V5);
    bench.send_many(1, "t", 1..=15);
    let subscribe = Subscribe { id: id(9), subscription_id: None, filters: vec![filter("t", Q1)] };
    bench.packet(1, Packet::Subscribe(Box::new(subscribe)));
    bench.send_many(1, "t", 16..=16);
    let mut seen = vec![];
    for _ in 0..10 {
        let got = bench.got(2);
        for got in got {
            bench.packet(2, puback(got.id.unwrap(), Reason::SUCCESS));
            seen.push(got.payload);
        }
    }
    assert_eq!(seen, (1..=16).map(|n| n.to_string()).collect::<Vec<_>>());
    assert_eq!(bench.payloads(1), ["16"], "subscribed before this one, after the others");
}

#[test]
fn who_does_not_read_is_not_waited_for() {
    let mut bench = two(Version::V5);
    bench.connect(3, connect(Version::V5, "good"));
    bench.subscribe(3, "t", Q1);
    bench.send_many(1, "t", 1..=20);
    bench.ack_all(3);
    bench.ack_all(3);
    bench.ack_all(3);
    assert_eq!(bench.held(), 1);
    bench.wait_ms(499);
    assert_eq!(bench.held(), 1);
    bench.wait_ms(1);
    let figures = bench.broker.figures();
    assert_eq!((figures.held_back, figures.counters.given_up, bench.paused.len()), (0, 1, 0));
    assert_eq!(bench.acked(1), 20, "all that was kept back is handled");
    for n in 21..=60 {
        bench.send_many(1, "t", n..=n);
        bench.ack_all(3);
    }
    assert_eq!(bench.held(), 0, "not waited for again");
    assert_eq!(bench.broker.figures().counters.dropped.queue_full, 20, "its queue holds 40");
    // It wakes up.
    while bench.ack_all(2) > 0 {}
    bench.send_many(1, "t", 61..=73);
    bench.ack_all(3);
    assert_eq!(bench.held(), 1, "waited for as before");
    assert_eq!(bench.broker.figures().counters.dropped.queue_full, 20);
}

#[test]
fn progress_counts_but_not_for_ever() {
    let mut bench = two(Version::V5);
    bench.send_many(1, "t", 1..=14);
    let mut acknowledged = 0;
    // One acknowledgement in 400 ms is too slow to catch up in 10 s.
    for round in 0..24 {
        bench.wait_ms(200);
        bench.wait_ms(200);
        let got = bench.got(2);
        if (acknowledged < 4 || round % 6 == 0)
            && let Some(got) = got.first()
        {
            bench.packet(2, puback(got.id.unwrap(), Reason::SUCCESS));
            acknowledged += 1;
            continue;
        }
        bench.input(Input::Wrote { conn: 2, bytes: 1 });
        bench.packet(2, puback(1, Reason::SUCCESS));
        assert_eq!(bench.held(), 1, "{round}");
    }
    bench.wait_ms(200);
    bench.wait_ms(200);
    bench.wait_ms(200);
    assert_eq!((bench.held(), bench.broker.figures().counters.given_up), (0, 1));
}

#[test]
fn a_broker_that_was_late_judges_nobody() {
    let mut bench = two(Version::V5);
    bench.send_many(1, "t", 1..=14);
    bench.wait_ms(5_000);
    assert_eq!(bench.held(), 1, "its acknowledgements may be in our hands");
    bench.wait_ms(500);
    assert_eq!(bench.held(), 0);
}

#[test]
fn the_end_of_a_subscriber_ends_the_waiting() {
    for how in ["gone", "goodbye", "taken over", "protocol error"] {
        let mut bench = two(Version::V5);
        bench.send_many(1, "t", 1..=18);
        assert_eq!(bench.paused, [1]);
        match how {
            "gone" => bench.input(Input::Gone { conn: 2 }),
            "goodbye" => {
                bench.packet(2, Packet::Disconnect { reason: Reason::SUCCESS, session_expiry_secs: None })
            }
            "taken over" => drop(bench.connect(3, connect(Version::V5, "sub"))),
            _ => bench.packet(2, pubcomp(1, Reason::SUCCESS)),
        }
        let figures = bench.broker.figures();
        assert_eq!((figures.held_back, figures.deferred_bytes, bench.paused.len()), (0, 0, 0), "{how}");
        assert_eq!(bench.acked(1), 18, "{how}");
        bench.wait_ms(60_000);
        assert_eq!(bench.broker.next_deadline(), None, "{how}");
    }
}

#[test]
fn a_session_taken_over_is_waited_for_again() {
    let mut bench = Bench::with(limits());
    bench.connect(1, connect(Version::V5, "pub"));
    bench.connect(2, kept("sub", 100));
    bench.subscribe(2, "t", Q1);
    bench.send_many(1, "t", 1..=18);
    assert_eq!(bench.paused, [1]);
    bench.wait_ms(500);
    assert_eq!((bench.held(), bench.acked(1)), (0, 18), "given up");
    bench.connect(3, kept("sub", 100));
    bench.send_many(1, "t", 19..=20);
    assert_eq!((bench.held(), bench.acked(1)), (1, 1), "a new connection, a new trial");
    while bench.ack_all(3) > 0 {}
    let figures = bench.broker.figures();
    assert_eq!((figures.held_back, figures.queued_messages), (0, 0));
    assert_eq!((figures.counters.given_up, figures.counters.dropped.total()), (1, 0));
}

#[test]
fn the_end_of_a_publisher() {
    for how in ["gone", "goodbye", "taken over"] {
        let mut bench = Bench::with(limits());
        bench.connect(2, connect(Version::V5, "sub"));
        bench.subscribe(2, "t", Q1);
        bench.connect(1, kept("pub", 100));
        bench.send_many(1, "t", 1..=15);
        assert_eq!(bench.held(), 1);
        match how {
            "gone" => bench.input(Input::Gone { conn: 1 }),
            "goodbye" => {
                bench.packet(1, Packet::Disconnect { reason: Reason::SUCCESS, session_expiry_secs: None })
            }
            _ => drop(bench.connect(3, kept("pub", 100))),
        }
        let figures = bench.broker.figures();
        assert_eq!((figures.held_back, figures.deferred_bytes), (0, 0), "{how}");
        assert_eq!(figures.queued_messages, 15, "{how}: what it had sent is routed");
        while bench.ack_all(2) > 0 {}
        bench.wait_ms(500);
        assert_eq!(bench.broker.figures().counters.given_up, 0, "{how}");
    }
}

#[test]
fn nobody_waits_for_itself() {
    let mut bench = Bench::with(limits());
    bench.connect(1, connect(Version::V5, "x"));
    bench.subscribe(1, "#", Q1);
    bench.send_many(1, "t", 1..=30);
    assert_eq!((bench.held(), bench.acked(1)), (0, 30));
}

/// A -> B -> A, both faster than the other: the acknowledgements of both are heard.
#[test]
fn clients_that_wait_for_each_other_go_on() {
    for count in [2, 3] {
        let mut bench = Bench::with(limits());
        for n in 0..count {
            bench.connect(n, connect(Version::V5, &format!("c{n}")));
            bench.subscribe(n, &format!("to/{n}"), Q1);
        }
        let mut received = vec![0; count as usize];
        for id_ in 1..=15 {
            for n in 0..count {
                bench.send_many(n, &format!("to/{}", (n + 1) % count), id_..=id_);
            }
        }
        assert_eq!((bench.held(), bench.paused.len()), (count as usize, 0));
        for _ in 0..10 {
            for n in 0..count {
                received[n as usize] += bench.ack_all(n);
            }
        }
        assert_eq!(received, vec![15; count as usize]);
        let figures = bench.broker.figures();
        assert_eq!((figures.held_back, figures.deferred_bytes), (0, 0));
        assert_eq!((figures.counters.given_up, figures.counters.dropped.total()), (0, 0));
    }
}

/// The same when both sockets are not read: patience ends it, for one of them.
#[test]
fn a_circle_of_clients_that_are_not_read_is_broken() {
    let mut bench = Bench::with(limits());
    for n in [1, 2] {
        bench.connect(n, connect(Version::V5, &format!("c{n}")));
        bench.subscribe(n, &format!("to/{n}"), Q1);
    }
    for id_ in 1..=20 {
        bench.send_many(1, "to/2", id_..=id_);
        bench.send_many(2, "to/1", id_..=id_);
    }
    assert_eq!((bench.held(), bench.paused.len()), (2, 2));
    bench.wait_ms(500);
    assert_eq!((bench.held(), &*bench.paused), (1, &[1][..]), "one given up is enough");
    while bench.ack_all(2) > 0 {}
    assert_eq!((bench.held(), bench.paused.len()), (0, 0));
    while bench.ack_all(1) + bench.ack_all(2) > 0 {}
    let figures = bench.broker.figures();
    assert_eq!((figures.queued_messages, figures.counters.given_up), (0, 1));
    assert_eq!(figures.counters.dropped.total(), 0);
}

/// 1 waits for 2, which is slow but moves; 1 is not read, and 3 waits for 1 as long.
#[test]
fn who_is_not_read_cannot_acknowledge() {
    let mut bench = Bench::with(limits());
    for n in [1, 2, 3] {
        bench.connect(n, connect(Version::V5, &format!("c{n}")));
        bench.subscribe(n, &format!("to/{n}"), Q1);
    }
    bench.send_many(1, "to/2", 1..=20);
    bench.send_many(3, "to/1", 1..=14);
    assert_eq!((bench.held(), &*bench.paused), (2, &[1][..]));
    for _ in 0..10 {
        bench.wait_ms(200);
        bench.packet(2, puback(1, Reason::SUCCESS));
    }
    assert_eq!(bench.held(), 2, "2 s later");
    while bench.ack_all(2) > 0 {}
    assert_eq!((bench.held(), bench.paused.len()), (1, 0), "1 is read, 3 still waits for it");
    while bench.ack_all(1) > 0 {}
    assert_eq!((bench.held(), bench.broker.figures().counters.given_up), (0, 0));
}

#[test]
fn qos_0_waits_by_bytes() {
    let limits = Limits { behind_bytes: 5_000, unsent_bytes: 20_000, deferred_bytes: 3_000, ..limits() };
    let mut bench = Bench::with(limits);
    bench.connect(1, connect(Version::V3, "pub"));
    bench.connect(2, connect(Version::V3, "sub"));
    bench.subscribe(2, "t", Q0);
    bench.auto_read = false;
    let flood = |bench: &mut Bench, count: usize| {
        for _ in 0..count {
            bench.publish(1, message("t", &"x".repeat(1_000), Q0, 0));
        }
    };
    flood(&mut bench, 7);
    assert_eq!((bench.got(2).len(), bench.held(), bench.paused.len()), (5, 1, 0));
    flood(&mut bench, 1);
    assert_eq!(bench.paused, [1], "3 of them are too many bytes");
    bench.input(Input::Wrote { conn: 2, bytes: 3_000 });
    assert_eq!(bench.held(), 1);
    bench.input(Input::Wrote { conn: 2, bytes: usize::MAX });
    assert_eq!((bench.got(2).len(), bench.held(), bench.paused.len()), (3, 0, 0));
    flood(&mut bench, 10);
    bench.wait_ms(500);
    flood(&mut bench, 20);
    let figures = bench.broker.figures();
    assert_eq!((figures.held_back, figures.counters.given_up), (0, 1), "it reads nothing");
    assert!(figures.counters.dropped.slow_consumer > 10 && figures.unsent_bytes <= 20_000, "{figures:?}");
}

#[test]
fn many_sessions_share_what_memory_there_is() {
    let limits = Limits { total_bytes: 40_000, behind_messages: 100, queued_messages: 1_000, ..limits() };
    let mut bench = Bench::with(limits);
    bench.connect(1, connect(Version::V5, "pub"));
    for n in 10..20 {
        bench.connect(n, connect(Version::V5, &format!("sub{n}")));
        bench.subscribe(n, "t", Q1);
    }
    for n in 1..=40 {
        bench.publish(1, message("t", &"x".repeat(300), Q1, n));
    }
    let figures = bench.broker.figures();
    assert_eq!((figures.held_back, figures.counters.dropped.total_full), (1, 0), "{figures:?}");
    let mut received = 0;
    for _ in 0..40 {
        received += (10..20).map(|n| bench.ack_all(n)).sum::<usize>();
    }
    assert_eq!((received, bench.broker.figures().counters.dropped.total()), (400, 0));
}

#[test]
fn many_publishers_go_on_in_turn() {
    let mut bench = Bench::with(limits());
    bench.connect(100, connect(Version::V5, "sub"));
    bench.subscribe(100, "t", Q1);
    for n in 1..=5 {
        bench.connect(n, connect(Version::V5, &format!("pub{n}")));
    }
    bench.send_many(1, "t", 1..=12);
    for n in 1..=5 {
        bench.send_many(n, "t", 20..=23);
    }
    assert_eq!(bench.held(), 5);
    let answered = |bench: &mut Bench| (1..=5).map(|n| bench.acked(n)).collect::<Vec<_>>();
    assert_eq!(answered(&mut bench), [13, 1, 1, 1, 1], "each one more");
    bench.ack_all(100);
    bench.ack_all(100);
    bench.ack_all(100);
    bench.ack_all(100);
    assert_eq!(answered(&mut bench), [3, 3, 2, 0, 0], "some get far, the others wait for their turn");
    for _ in 0..3 {
        bench.ack_all(100);
    }
    while bench.ack_all(100) > 0 {}
    assert_eq!(answered(&mut bench), [0, 0, 1, 3, 3]);
    assert_eq!((bench.held(), bench.broker.figures().counters.dropped.total()), (0, 0));
}
