//! CONNECT, takeover, session expiry, wills, DISCONNECT.

use super::*;

fn refused(connect: Connect) -> (Reason, Bench) {
    let mut bench = Bench::with(Limits { clients: 2, sessions: 3, ..Limits::default() });
    bench.connect(98, super::connect(Version::V3, "one"));
    let reason = bench.connect_as(99, connect, Arc::new(NotSecret)).unwrap().reason;
    (reason, bench)
}

#[test]
fn who_is_refused() {
    let base = |version| connect(version, "x");
    for (case, connect, want) in [
        ("fine", base(Version::V5), Reason::SUCCESS),
        (
            "3.1.1 without id, clean",
            Connect { client_id: String::new(), ..base(Version::V3) },
            Reason::SUCCESS,
        ),
        (
            "3.1.1 without id, kept [MQTT-3.1.3-8]",
            Connect { client_id: String::new(), clean_start: false, ..base(Version::V3) },
            Reason::CLIENT_ID_NOT_VALID,
        ),
        (
            "5 without id",
            Connect { client_id: String::new(), clean_start: false, ..base(Version::V5) },
            Reason::SUCCESS,
        ),
        (
            "authentication method",
            Connect { authentication_method: Some("SCRAM".into()), ..base(Version::V5) },
            Reason::BAD_AUTHENTICATION_METHOD,
        ),
        (
            "will with wildcard",
            Connect { will: Some(will("a/#", 0)), ..base(Version::V5) },
            Reason::TOPIC_NAME_INVALID,
        ),
        (
            "will out of reach",
            Connect { will: Some(will("secret/a", 0)), ..base(Version::V5) },
            Reason::NOT_AUTHORIZED,
        ),
        (
            "will in $SYS",
            Connect { will: Some(will("$SYS/a", 0)), ..base(Version::V5) },
            Reason::NOT_AUTHORIZED,
        ),
    ] {
        let (reason, bench) = refused(connect);
        assert_eq!(reason, want, "{case}");
        assert_eq!(bench.closed.contains_key(&99), reason.is_failure(), "{case}");
        assert_eq!(
            bench.broker.figures().clients_connected,
            if reason.is_failure() { 1 } else { 2 },
            "{case}"
        );
    }
}

#[test]
fn too_many() {
    let mut bench = Bench::with(Limits { clients: 2, sessions: 3, ..Limits::default() });
    bench.connect(1, connect(Version::V3, "a"));
    bench.connect(2, kept("b", 100));
    assert_eq!(bench.connect(3, connect(Version::V5, "c")).reason, Reason::QUOTA_EXCEEDED);
    assert_eq!(bench.connect(4, connect(Version::V3, "c")).reason, Reason::SERVER_UNAVAILABLE);
    assert_eq!(bench.connect(5, kept("b", 100)).reason, Reason::SUCCESS, "a takeover is no client more");
    bench.input(Input::Gone { conn: 5 });
    bench.connect(6, kept("d", 100));
    bench.input(Input::Gone { conn: 6 });
    assert_eq!(bench.connect(7, kept("e", 100)).reason, Reason::QUOTA_EXCEEDED, "a, b, d are sessions");
    assert_eq!(bench.connect(8, kept("d", 100)).reason, Reason::SUCCESS);
    assert_eq!(bench.broker.figures().counters.closed.refused_full, 3);
}

#[test]
fn connack_says_what_the_broker_takes() {
    let mut bench = Bench::with(Limits { session_expiry_secs: 50, ..Limits::default() });
    let ack = bench.connect(1, Connect { client_id: String::new(), keep_alive_secs: 120, ..kept("", 100) });
    let id = ack.assigned_client_id.unwrap();
    assert!(id.len() > 10);
    assert_eq!(ack.session_expiry_secs, Some(50));
    assert_eq!(ack.receive_maximum, NonZeroU16::new(100));
    assert_eq!(ack.maximum_packet_bytes, Some(1 << 20));
    assert_eq!(ack.topic_alias_maximum, Some(32));
    assert_eq!(ack.server_keep_alive_secs, Some(60), "120 is more than the broker allows");
    let ack = bench.connect(2, Connect { keep_alive_secs: 0, ..kept("x", 40) });
    assert_eq!((ack.server_keep_alive_secs, ack.session_expiry_secs), (None, None));
    let other = bench.connect(3, Connect { client_id: String::new(), ..kept("", 100) });
    assert_ne!(other.assigned_client_id.unwrap(), id);
}

#[test]
fn second_connect_and_foreign_packets_are_errors() {
    for packet in [
        Packet::Connect(Box::new(connect(Version::V5, "x"))),
        Packet::Auth,
        Packet::PingResp,
        Packet::SubAck { id: id(1), reasons: vec![] },
        Packet::UnsubAck { id: id(1), reasons: vec![] },
    ] {
        let mut bench = Bench::new();
        bench.connect(1, connect(Version::V5, "x"));
        bench.packet(1, packet.clone());
        assert_eq!(bench.closed.get(&1), Some(&Reason::PROTOCOL_ERROR), "{packet:?}");
    }
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V3, "x"));
    bench.packet(1, Packet::PingReq);
    assert_eq!(bench.packets(1), [Packet::PingResp]);
}

#[test]
fn takeover() {
    for (old, new, present) in [
        (connect(Version::V3, "x"), connect(Version::V3, "x"), false),
        (kept("x", 100), kept("x", 100), true),
        (kept("x", 100), connect(Version::V5, "x"), false),
        // Its session ended with the connection.
        (kept("x", 0), kept("x", 100), false),
        (Connect { clean_start: false, ..connect(Version::V3, "x") }, kept("x", 0), true),
    ] {
        let mut bench = Bench::new();
        bench.connect(1, old.clone());
        bench.subscribe(1, "t", Q1);
        let ack = bench.connect(2, new.clone());
        assert_eq!(bench.closed.get(&1), Some(&Reason::SESSION_TAKEN_OVER), "[MQTT-3.1.4-3]");
        assert_eq!(ack.session_present, present, "{old:?} {new:?}");
        bench.publish(2, message("t", "m", Q0, 0));
        assert_eq!(bench.payloads(2).len(), usize::from(present));
        bench.input(Input::Gone { conn: 1 });
        bench.packet(1, Packet::PingReq);
        assert!(!bench.closed.contains_key(&2), "the old connection does not end the new one");
        assert_eq!(bench.broker.figures().sessions, 1);
    }
}

#[test]
fn session_expiry() {
    for (case, connect, disconnect, after_secs, present) in [
        ("5, absent", connect(Version::V5, "x"), None, 0, false),
        ("5, in time", kept("x", 5), None, 4, true),
        ("5, too late", kept("x", 5), None, 5, false),
        ("5, for ever", kept("x", u32::MAX), None, 1_000_000_000, true),
        ("5, prolonged", kept("x", 1), Some(5), 3, true),
        ("5, ended", kept("x", 5), Some(0), 0, false),
        ("3.1.1 clean", super::connect(Version::V3, "x"), None, 0, false),
        ("3.1.1 kept", Connect { clean_start: false, ..super::connect(Version::V3, "x") }, None, 3600, true),
        (
            "3.1.1 kept too long",
            Connect { clean_start: false, ..super::connect(Version::V3, "x") },
            None,
            8 * 24 * 3600,
            false,
        ),
    ] {
        for gone in [false, true] {
            if gone && disconnect.is_some() {
                continue;
            }
            let mut bench = Bench::new();
            bench.connect(1, connect.clone());
            bench.subscribe(1, "t", Q1);
            if gone {
                bench.input(Input::Gone { conn: 1 });
            } else {
                let session_expiry_secs = disconnect;
                bench.packet(1, Packet::Disconnect { reason: Reason::SUCCESS, session_expiry_secs });
                assert_eq!(bench.closed.remove(&1), Some(Reason::SUCCESS));
            }
            assert_eq!(bench.keys("mqtt/") > 0, bench.broker.figures().sessions == 1, "{case}");
            bench.wait_secs(after_secs);
            assert_eq!(bench.broker.figures().sessions, usize::from(present), "{case}");
            assert_eq!(bench.broker.figures().subscriptions, usize::from(present), "{case}");
            let ack = bench.connect(2, Connect { clean_start: false, ..connect.clone() });
            assert_eq!(ack.session_present, present, "{case}");
        }
    }
}

#[test]
fn expiry_must_not_come_to_life_at_disconnect() {
    let mut bench = Bench::new();
    bench.connect(1, Connect { will: Some(will("w", 0)), ..connect(Version::V5, "x") });
    bench.connect(2, connect(Version::V5, "y"));
    bench.subscribe(2, "w", Q0);
    bench.packet(1, Packet::Disconnect { reason: Reason::SUCCESS, session_expiry_secs: Some(5) });
    assert_eq!(bench.closed.get(&1), Some(&Reason::PROTOCOL_ERROR));
    assert_eq!(bench.payloads(2), ["gone"]);
}

#[test]
fn when_wills_are_sent() {
    enum End {
        Gone,
        Goodbye(u8),
        Takeover(bool),
        ProtocolError,
    }
    let (gone, bye, over) = (|| End::Gone, End::Goodbye, End::Takeover);
    // Case, will delay, session expiry, end, sent at once, sent after 3 s, after 10 s.
    for (case, delay, expiry, end, want) in [
        ("lost", 0, 0, gone(), [1, 1, 1]),
        ("lost, kept", 0, 5, gone(), [1, 1, 1]),
        ("delayed", 3, 5, gone(), [0, 1, 1]),
        ("session ends first [MQTT-3.1.2-8]", 9, 3, gone(), [0, 1, 1]),
        ("session ends at once", 9, 0, gone(), [1, 1, 1]),
        ("goodbye", 0, 5, bye(0), [0, 0, 0]),
        ("goodbye with will", 0, 0, bye(4), [1, 1, 1]),
        ("goodbye with will, delayed", 3, 5, bye(4), [0, 1, 1]),
        ("goodbye with an error [MQTT-3.14.4-3]", 0, 0, bye(0x81), [1, 1, 1]),
        ("resumed before the delay [MQTT-3.1.3-9]", 3, 50, over(false), [0, 0, 0]),
        ("taken over without delay", 0, 50, over(false), [1, 1, 1]),
        ("started anew", 3, 50, over(true), [1, 1, 1]),
        ("broke the protocol", 0, 0, End::ProtocolError, [1, 1, 1]),
    ] {
        let mut bench = Bench::new();
        bench.connect(2, connect(Version::V5, "watcher"));
        bench.subscribe(2, "w", Q1);
        bench.connect(1, Connect { will: Some(will("w", delay)), ..kept("x", expiry) });
        match end {
            End::Gone => bench.input(Input::Gone { conn: 1 }),
            End::Goodbye(reason) => {
                bench.packet(1, Packet::Disconnect { reason: Reason(reason), session_expiry_secs: None })
            }
            End::Takeover(clean_start) => {
                bench.connect(3, Connect { clean_start, ..kept("x", 50) });
            }
            End::ProtocolError => bench.packet(1, Packet::Auth),
        }
        let mut seen = bench.payloads(2).len();
        assert_eq!(seen, want[0], "{case}");
        bench.wait_secs(3);
        seen += bench.payloads(2).len();
        assert_eq!(seen, want[1], "{case} after 3 s");
        bench.wait_secs(7);
        seen += bench.payloads(2).len();
        assert_eq!(seen, want[2], "{case} after 10 s");
    }
}

#[test]
fn a_will_has_its_properties_and_may_be_retained() {
    let mut bench = Bench::new();
    let properties = MessageProperties {
        expiry_secs: Some(10),
        user: vec![("a".into(), "2".into()), ("c".into(), "3".into())],
        ..MessageProperties::default()
    };
    let retained = Will { retain: true, properties: properties.clone(), ..will("w", 0) };
    bench.connect(1, Connect { will: Some(retained), ..connect(Version::V5, "x") });
    bench.input(Input::Gone { conn: 1 });
    bench.wait_secs(4);
    bench.connect(2, connect(Version::V5, "y"));
    bench.subscribe(2, "w", Q0);
    let got = bench.got(2);
    assert_eq!((got[0].expiry, got[0].retain), (Some(6), true));
    assert_eq!(bench.broker.figures().counters.wills, 1);
}

#[test]
fn rights_that_changed_count_for_the_will() {
    let mut bench = Bench::new();
    bench.connect(1, Connect { will: Some(will("secret/w", 0)), ..connect(Version::V5, "x") });
    bench.connect(2, connect(Version::V5, "y"));
    bench.subscribe(2, "#", Q0);
    bench.input(Input::Rights { conn: 1, access: Arc::new(NotSecret) });
    bench.input(Input::Gone { conn: 1 });
    assert!(bench.got(2).is_empty());
    assert_eq!(bench.broker.figures().counters.dropped.not_publishable, 1);
}

#[derive(Debug)]
struct Of(&'static str);

impl Access for Of {
    fn may_publish(&self, _: &str) -> bool {
        true
    }
    fn may_subscribe(&self, _: &str) -> bool {
        true
    }
    fn may_receive(&self, topic: &str) -> bool {
        self.0 != "thief" || topic != "secret"
    }
    fn owner(&self) -> &str {
        self.0
    }
}

/// Its messages would be dropped because the other may not receive them.
#[test]
fn a_session_is_not_given_to_another_owner() {
    let mut bench = Bench::new();
    bench.connect(1, connect(Version::V5, "pub"));
    bench.connect_as(2, kept("s", 100), Arc::new(Of("alice"))).unwrap();
    bench.subscribe(2, "secret", Q1);
    for conn in [10, 20] {
        for version in [Version::V3, Version::V5] {
            let thief = Connect { clean_start: conn == 10, ..connect(version, "s") };
            let conn = conn + u64::from(version == Version::V5);
            let connack = bench.connect_as(conn, thief, Arc::new(Of("thief"))).unwrap();
            assert_eq!(connack.reason, Reason::NOT_AUTHORIZED);
        }
        assert!(!bench.closed.contains_key(&2));
        if conn == 10 {
            bench.input(Input::Gone { conn: 2 });
            bench.publish(1, message("secret", "m", Q1, 1));
            bench.crash(Limits::default());
        }
    }
    let connack = bench.connect_as(3, kept("s", 100), Arc::new(Of("alice"))).unwrap();
    assert!(connack.session_present);
    assert_eq!(bench.payloads(3), ["m"]);
    // What a client without a name left may be taken over by one that has got a name since.
    bench.connect(4, kept("t", 100));
    assert_eq!(bench.connect_as(5, kept("t", 100), Arc::new(Of("bob"))).unwrap().reason, Reason::SUCCESS);
    assert_eq!(bench.connect(6, kept("t", 100)).reason, Reason::NOT_AUTHORIZED);
}
