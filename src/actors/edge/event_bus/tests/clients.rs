use super::super::*;
use super::world::*;
use crate::bus::event_bus::Publication;
use crate::mqtt::{Packet, QoS, Reason, Version, Will};
use crate::store::{Faults, MemoryStore};
use crate::supervise::{Policy, Tree, TreeSettings};
use tokio::net::TcpStream;

#[actix::test]
async fn messages_go_through_in_order_and_large_ones_too() {
    let world = start(&Arc::default(), config());
    let mut sub = world.client("sub").await;
    let mut other = world.client("other").await;
    assert_eq!(sub.subscribe("a/#", QoS::AtLeastOnce).await, Reason(1));
    assert_eq!(other.subscribe("a/+", QoS::AtMostOnce).await, Reason(0));
    let mut publisher = world.client("pub").await;
    let big: bytes::Bytes = vec![b'x'; 1 << 20].into();
    publisher.publish("a/big", big.clone(), 1).await;
    assert_eq!(publisher.expect_ack(1).await, Reason::SUCCESS);
    for n in 0..1000_u16 {
        publisher.publish("a/b", n.to_string(), 0).await;
    }
    for client in [&mut sub, &mut other] {
        assert_eq!(client.message().await, ("a/big".into(), big.clone()));
        for n in 0..1000 {
            assert_eq!(client.message().await.1, n.to_string());
        }
    }
}

#[actix::test]
async fn device_messages_are_acknowledged_when_device_twin_has_them() {
    let world = start(&Arc::default(), config());
    let mut fails = 2;
    *world.takes.lock() = Box::new(move |_| {
        fails -= 1;
        fails < 0
    });
    let mut client = world.client("c").await;
    for n in 1..=20 {
        client.publish("$hw/events/device/default/s1/twin/update", n.to_string(), n).await;
    }
    for n in 1..=20 {
        client.expect_ack(n).await;
    }
    let taken: Vec<u16> = world.taken.lock().iter().map(|(_, payload)| payload.parse().unwrap()).collect();
    let mut distinct = taken.clone();
    distinct.dedup();
    assert_eq!(taken.last(), Some(&20));
    let last_run: Vec<u16> = taken[taken.len() - 20..].to_vec();
    assert_eq!(last_run, (1..=20).collect::<Vec<_>>(), "{taken:?}");
    // A result is heard by whoever subscribed, and is no message for DeviceTwin.
    assert_eq!(
        client.subscribe("$hw/events/device/default/s1/twin/update/result", QoS::AtLeastOnce).await,
        Reason(1)
    );
    let result = Publication {
        topic: "$hw/events/device/default/s1/twin/update/result".into(),
        payload: bytes::Bytes::from_static(b"{}"),
        retain: false,
    };
    world.bus.send(Publish(vec![result])).await.unwrap().unwrap();
    assert_eq!(client.message().await.1, "{}");
}

#[actix::test]
async fn uploads_wait_on_disk_while_the_cloud_is_away_and_go_in_order() {
    let world = start(&Arc::default(), config());
    *world.online.lock() = Box::new(|_| false);
    let mut client = world.client("c").await;
    for n in 1..=150 {
        client.publish(&format!("$hw/events/upload/{n}"), "v", n).await;
        client.expect_ack(n).await;
    }
    assert_eq!(world.rows("upload/"), 150);
    drop(client);
    let store = Arc::clone(&world.store);
    world.stop().await;
    let world = start(&store, config());
    eventually("all uploaded", || world.uploaded.lock().len() >= 150).await;
    let want: Vec<String> = (1..=150).map(|n| format!("$hw/events/upload/{n}")).collect();
    assert_eq!(*world.uploaded.lock(), want);
    eventually("the outbox is empty", || world.rows("upload/") == 0).await;
}

#[actix::test]
async fn sessions_retained_and_queued_messages_outlive_the_process() {
    let store = Arc::<MemoryStore>::default();
    let world = start(&store, config());
    let mut sub = Client::over(TcpStream::connect(world.plain).await.unwrap(), Version::V3);
    assert!(!sub.connect("keeps", |connect| connect.clean_start = false).await);
    sub.subscribe("s/#", QoS::AtLeastOnce).await;
    drop(sub);
    let mut publisher = world.client("pub").await;
    publisher.publish_with("s/1", "one", 1, true).await;
    publisher.expect_ack(1).await;
    publisher.publish("s/2", "two", 2).await;
    publisher.expect_ack(2).await;
    world.stop().await;
    let world = start(&store, config());
    let mut sub = Client::over(TcpStream::connect(world.plain).await.unwrap(), Version::V3);
    assert!(sub.connect("keeps", |connect| connect.clean_start = false).await);
    assert_eq!(sub.message().await, ("s/1".into(), "one".into()));
    assert_eq!(sub.message().await, ("s/2".into(), "two".into()));
    let mut late = world.client("late").await;
    late.subscribe("s/#", QoS::AtMostOnce).await;
    assert_eq!(late.message().await.1, "one");
}

#[actix::test]
async fn nothing_is_acknowledged_that_is_not_stored() {
    let store = Arc::<MemoryStore>::default();
    let world = start(&store, config());
    *world.online.lock() = Box::new(|_| false);
    let mut client = world.client("c").await;
    client.publish("x/user/1", "first", 1).await;
    client.expect_ack(1).await;
    store.set_faults(Faults { fail_writes: 1, ..Faults::default() });
    client.publish("x/user/2", "second", 2).await;
    client.publish("x/user/3", "third", 3).await;
    let mut acknowledged = Vec::new();
    for _ in 0..2 {
        match client.next().await {
            Some(Packet::PubAck { id, reason }) if reason == Reason::SUCCESS => acknowledged.push(id.get()),
            Some(Packet::PubAck { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
    eventually("what was acknowledged is stored", || world.rows("upload/") > acknowledged.len()).await;
}

#[actix::test]
async fn a_client_that_never_reads_is_bounded_and_hurts_nobody() {
    let mut config = config();
    config.internal.max_packet_bytes = 64 << 10;
    config.internal.max_client_bytes = 256 << 10;
    let world = start(&Arc::default(), config);
    let mut deaf = world.client("deaf").await;
    deaf.subscribe("flood", QoS::AtMostOnce).await;
    let mut good = world.client("good").await;
    good.subscribe("flood", QoS::AtMostOnce).await;
    let mut publisher = world.client("pub").await;
    let payload: bytes::Bytes = vec![b'x'; 32 << 10].into();
    for n in 0..400_u16 {
        publisher.publish("flood", payload.clone(), 0).await;
        assert_eq!(good.message().await.1.len(), payload.len(), "{n}");
    }
    good.expect_nothing().await;
}

#[actix::test]
async fn two_thousand_clients_that_vanish_leave_nothing_behind() {
    let world = start(&Arc::default(), config());
    for round in 0..20 {
        let clients = (0..100).map(|n| {
            let address = world.plain;
            async move {
                let mut client = Client::over(TcpStream::connect(address).await.unwrap(), Version::V5);
                let will = Will {
                    topic: "gone".into(),
                    payload: bytes::Bytes::new(),
                    qos: QoS::AtMostOnce,
                    retain: false,
                    delay_secs: 0,
                    properties: Default::default(),
                };
                client.connect(&format!("c{round}-{n}"), |connect| connect.will = Some(will)).await;
            }
        });
        futures_util::future::join_all(clients).await;
    }
    let mut client = world.client("after").await;
    client.subscribe("$SYS/broker/clients/connected", QoS::AtMostOnce).await;
    let mut other = world.client("other").await;
    other.subscribe("gone", QoS::AtMostOnce).await;
    other.publish("gone", "end", 0).await;
    while other.message().await.1 != "end" {}
    other.expect_nothing().await;
}

#[actix::test]
async fn silence_ends_a_connection_and_publishes_its_will() {
    let world = start(&Arc::default(), config());
    let mut watcher = world.client("watcher").await;
    watcher.subscribe("will", QoS::AtMostOnce).await;
    let mut silent = Client::over(TcpStream::connect(world.plain).await.unwrap(), Version::V5);
    let will = Will {
        topic: "will".into(),
        payload: "gone".into(),
        qos: QoS::AtMostOnce,
        retain: false,
        delay_secs: 0,
        properties: Default::default(),
    };
    let hello = |connect: &mut crate::mqtt::Connect| {
        connect.keep_alive_secs = 1;
        connect.will = Some(will);
    };
    silent.connect("silent", hello).await;
    assert_eq!(watcher.message().await.1, "gone");
    let goodbye = silent.next().await;
    assert!(
        matches!(goodbye, Some(Packet::Disconnect { reason: Reason::KEEP_ALIVE_TIMEOUT, .. })),
        "{goodbye:?}"
    );
    assert_eq!(silent.next().await, None);
}

#[actix::test]
async fn what_breaks_the_protocol_is_told_why_and_closed() {
    let world = start(&Arc::default(), config());
    for (case, bytes, reason) in [
        ("a wildcard", &[0x30, 4, 0, 1, b'#', 0][..], Reason::TOPIC_NAME_INVALID),
        ("NUL", &[0x30, 4, 0, 1, 0, 0], Reason::MALFORMED),
        ("too large", &[0x30, 0xFF, 0xFF, 0xFF, 0x7F], Reason::PACKET_TOO_LARGE),
        ("CONNECT twice", &[0x10, 0], Reason::PROTOCOL_ERROR),
    ] {
        let mut client = world.client("c").await;
        client.raw(bytes).await;
        let goodbye = client.next().await;
        let told = matches!(&goodbye, Some(Packet::Disconnect { reason: got, .. }) if *got == reason);
        assert!(told, "{case}: {goodbye:?}");
        assert_eq!(client.next().await, None, "{case}");
    }
    // Odd topics of devices are DeviceTwin's to judge; they arrive there.
    let mut client = world.client("c").await;
    client.publish("$hw/events/device//s1/twin/update", "x", 1).await;
    client.expect_ack(1).await;
    client.publish("$hw/events/device/a/b/c/d/twin/update", "x", 2).await;
    client.expect_ack(2).await;
    assert_eq!(world.taken.lock().len(), 1, "only the first matches a filter of ours");
}

#[actix::test]
async fn a_panic_closes_all_and_the_broker_is_what_the_disk_says() {
    let store = Arc::<MemoryStore>::default();
    let sockets = EventBusSockets::bind(&config()).unwrap();
    let address = sockets.addresses()[0].unwrap();
    let (committer, _guard) =
        Committer::start(Arc::clone(&store) as Arc<dyn Store>, Default::default()).unwrap();
    let mut tree = Tree::new("test", TreeSettings::default());
    let slot = tree.slot::<EventBus>("EventBus", 64);
    let links = EventBusLinks {
        device: Link::from_fn(|_| Ok(())),
        send: Link::from_fn(|_| Ok(())),
        request: Link::from_fn(|request: Request| Ok(request.envelope.response(crate::model::Body::Null, 1))),
        credentials: tokio::sync::watch::channel(None).1,
        policies: tokio::sync::watch::channel(None).1,
        audit: Link::from_fn(|_| ()),
    };
    let settings = EventBusSettings { node: NodeName::parse("edge-1").unwrap(), config: config() };
    let handle = tree.handle();
    let for_bus = Arc::clone(&store) as Arc<dyn Store>;
    tree.add(slot, "eventbus", Policy::default(), move || {
        EventBus::new(settings, sockets, for_bus, committer, links, EventBusMetrics::new())
    });
    let running = tree.start().unwrap();
    let mut client = Client::over(TcpStream::connect(address).await.unwrap(), Version::V3);
    client.connect("c", |connect| connect.clean_start = false).await;
    client.subscribe("a", QoS::AtLeastOnce).await;
    client.publish_with("a", "kept", 1, true).await;
    // Message and acknowledgement in either order.
    let (first, second) = (client.next().await.unwrap(), client.next().await.unwrap());
    assert!([&first, &second].iter().any(|packet| matches!(packet, Packet::PubAck { .. })));
    handle.inject_panic("EventBus").unwrap();
    assert_eq!(client.next().await, None);
    let mut again = Client::over(TcpStream::connect(address).await.unwrap(), Version::V3);
    assert!(again.connect("c", |connect| connect.clean_start = false).await);
    assert_eq!(again.message().await.1, "kept", "it was not acknowledged by the client");
    let snapshot = handle.snapshot();
    assert!(snapshot.actors.iter().any(|actor| actor.name == "EventBus" && actor.restarts == 1));
    handle.shut_down();
    running.wait_for_end().await;
}
