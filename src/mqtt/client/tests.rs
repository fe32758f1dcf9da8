use proptest::prelude::*;

use super::*;
use crate::mqtt::ConnAck;

fn client(max_queued: usize) -> Client {
    let settings = ClientSettings {
        client_id: "edge".into(),
        username: None,
        password: None,
        keep_alive_secs: 10,
        filters: vec![("a/#".into(), QoS::AtLeastOnce), ("b".into(), QoS::AtLeastOnce)],
        max_queued,
        max_queued_bytes: 1000,
    };
    Client::new(settings, 0)
}

fn conn_ack(session_present: bool, reason: Reason) -> Packet {
    Packet::ConnAck(Box::new(ConnAck {
        session_present,
        reason,
        assigned_client_id: None,
        session_expiry_secs: None,
        receive_maximum: None,
        maximum_packet_bytes: None,
        topic_alias_maximum: None,
        server_keep_alive_secs: None,
        reason_text: None,
    }))
}

fn up(client: &mut Client, now: u64, session_present: bool) -> Vec<ClientEffect> {
    client.dialling();
    let hello = client.opened(now);
    assert!(matches!(&hello[..], [ClientEffect::Send(Packet::Connect(c))] if !c.clean_start));
    client.received(conn_ack(session_present, Reason::SUCCESS), now)
}

fn sent(effects: &[ClientEffect]) -> Vec<(String, bool)> {
    let publishes = effects.iter().filter_map(|effect| match effect {
        ClientEffect::Send(Packet::Publish(publish)) => Some((publish.topic.to_string(), publish.dup)),
        _ => None,
    });
    publishes.collect()
}

fn put(client: &mut Client, topic: &str) -> Vec<ClientEffect> {
    client.publish(topic, Bytes::from_static(b"x"), QoS::AtLeastOnce, false, 1)
}

#[test]
fn what_waits_goes_after_connecting_and_what_is_not_acknowledged_goes_again() {
    let mut client = client(10);
    assert_eq!(client.dial_at_ms(), Some(0));
    assert!(put(&mut client, "1").is_empty());
    put(&mut client, "2");
    let effects = up(&mut client, 5, false);
    assert!(matches!(effects[0], ClientEffect::Connected { session_present: false }));
    assert!(matches!(&effects[1], ClientEffect::Send(Packet::Subscribe(s)) if s.filters.len() == 2));
    assert_eq!(sent(&effects), [("1".into(), false), ("2".into(), false)]);
    let ClientEffect::Send(Packet::Publish(first)) = &effects[2] else { panic!("{effects:?}") };
    client.received(Packet::PubAck { id: first.id.unwrap(), reason: Reason::SUCCESS }, 6);
    client.closed(7, 0.0);
    assert_eq!(client.dial_at_ms(), Some(7 + BACKOFF_MIN_MS / 2));
    assert_eq!(sent(&put(&mut client, "3")), []);
    let effects = up(&mut client, 300, true);
    assert_eq!(sent(&effects), [("2".into(), true), ("3".into(), false)]);
}

#[test]
fn the_oldest_are_dropped_and_counted_when_too_much_waits() {
    let mut client = client(3);
    for topic in ["1", "2", "3", "4", "5"] {
        put(&mut client, topic);
    }
    assert_eq!(client.take_dropped(), 2);
    client.publish("big", vec![0; 995].into(), QoS::AtMostOnce, false, 1);
    assert_eq!(client.take_dropped(), 1 + 1, "by number, then by bytes");
    let effects = up(&mut client, 5, true);
    assert_eq!(sent(&effects).last().unwrap().0, "big");
    assert_eq!(client.take_dropped(), 0);
}

#[test]
fn messages_are_acknowledged_when_they_are_taken_and_only_in_their_connection() {
    let mut client = client(3);
    up(&mut client, 0, true);
    let id = PacketId::new(4).unwrap();
    let message = Message {
        topic: "a/1".into(),
        payload: Bytes::from_static(b"v"),
        qos: QoS::AtLeastOnce,
        retain: false,
    };
    let effects = client.received(message.packet(Some(id), false), 1);
    assert!(matches!(&effects[..], [ClientEffect::Deliver { id: Some(got), .. }] if *got == id));
    assert_eq!(client.received(message.packet(Some(id), true), 1), [], "still being taken");
    let ack = ClientEffect::Send(Packet::PubAck { id, reason: Reason::SUCCESS });
    assert_eq!(client.taken(id, 2), [ack]);
    assert_eq!(client.taken(id, 2), []);
    client.received(message.packet(Some(id), false), 3);
    client.closed(4, 0.0);
    assert_eq!(client.taken(id, 5), [], "the broker sends it again");
}

#[test]
fn pings_and_deadlines() {
    let mut client = client(3);
    client.dialling();
    client.opened(100);
    assert_eq!(client.tick(10_099), []);
    assert_eq!(client.tick(10_100), [ClientEffect::Close("no answer to CONNECT")]);
    client.closed(10_100, 1.0);
    up(&mut client, 11_000, true);
    assert_eq!(client.deadline_ms(), Some(21_000));
    assert_eq!(client.tick(21_000), [ClientEffect::Send(Packet::PingReq)]);
    client.received(Packet::PingResp, 21_001);
    assert_eq!(client.tick(31_000), [ClientEffect::Send(Packet::PingReq)]);
    assert_eq!(client.tick(36_000), [ClientEffect::Close("no answer to a ping")]);
}

#[test]
fn refusals_end_the_connection_and_the_pause_grows_up_to_its_bound() {
    let mut client = client(3);
    let mut now = 0;
    for pause in [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
        client.dialling();
        client.opened(now);
        let effects = client.received(conn_ack(false, Reason::NOT_AUTHORIZED), now);
        assert_eq!(effects, [ClientEffect::Close("the broker refused: not authorized")]);
        client.closed(now, 1.0);
        assert_eq!(client.dial_at_ms(), Some(now + pause));
        now += pause;
    }
    up(&mut client, now, true);
    let refused = client
        .received(Packet::SubAck { id: SUBSCRIBE_ID, reasons: vec![Reason(1), Reason::NOT_AUTHORIZED] }, now);
    assert_eq!(refused, [ClientEffect::Refused(vec!["b".into()])]);
    client.closed(now + STEADY_MS, 1.0);
    assert_eq!(client.dial_at_ms(), Some(now + STEADY_MS + 500), "it was a good connection");
}

proptest! {
    /// Nothing acknowledged comes again; everything else arrives in order, whatever breaks.
    #[test]
    fn order_is_kept_over_broken_connections(cuts in proptest::collection::vec(0_usize..6, 1..8)) {
        let mut client = client(1000);
        let mut arrived: Vec<u32> = Vec::new();
        let mut now = 0;
        let mut next = 0_u32;
        for cut in cuts {
            now += 1000;
            let mut effects = up(&mut client, now, true);
            for _ in 0..3 {
                effects.extend(put(&mut client, &next.to_string()));
                next += 1;
            }
            let mut handled = 0;
            while let Some(at) = effects.iter().position(|e| matches!(e, ClientEffect::Send(Packet::Publish(_)))) {
                let ClientEffect::Send(Packet::Publish(publish)) = effects.remove(at) else { break };
                if handled == cut { break; }
                handled += 1;
                let number: u32 = publish.topic.parse().unwrap();
                if !arrived.contains(&number) { arrived.push(number); }
                effects.extend(client.received(Packet::PubAck { id: publish.id.unwrap(), reason: Reason::SUCCESS }, now));
            }
            client.closed(now, 0.0);
        }
        prop_assert!(arrived.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{arrived:?}");
    }
}
