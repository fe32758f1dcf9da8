//! The broker outside is one of ours here: an EventBus is its client.

use super::super::*;
use super::world::*;
use crate::bus::event_bus::Publication;
use crate::mqtt::QoS;

fn outside(address: std::net::SocketAddr, mode: u8) -> EventBusConfig {
    EventBusConfig {
        mqtt_mode: mode,
        mqtt_server_external: format!("tcp://{address}"),
        mqtt_sub_client_id: "edge".into(),
        ..config()
    }
}

/// A broker of ours with nothing of devices about it: what it takes for itself is taken at once.
fn broker() -> World {
    start(&Arc::default(), config())
}

#[actix::test]
async fn messages_from_outside_are_taken_and_results_go_out() {
    let broker = broker();
    let world = start(&Arc::default(), outside(broker.plain, 2));
    let mut app = broker.client("app").await;
    app.subscribe("$hw/events/device/default/s1/twin/update/result", QoS::AtLeastOnce).await;
    // Published before the edge is there, too: it is subscribed within a moment.
    let mut n = 0;
    while world.taken.lock().is_empty() {
        n += 1;
        app.publish("$hw/events/device/default/s1/twin/update", n.to_string(), n).await;
        app.expect_ack(n).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(n < 1000, "the edge does not subscribe");
    }
    let result = |payload: &'static str| Publication {
        topic: "$hw/events/device/default/s1/twin/update/result".into(),
        payload: bytes::Bytes::from_static(payload.as_bytes()),
        retain: false,
    };
    world.bus.send(Publish(vec![result("1"), result("2")])).await.unwrap().unwrap();
    assert_eq!(app.message().await.1, "1");
    assert_eq!(app.message().await.1, "2");
}

#[actix::test]
async fn the_broker_outside_keeps_what_comes_while_the_edge_is_away() {
    let broker = broker();
    let store = Arc::default();
    let world = start(&store, outside(broker.plain, 2));
    let mut app = broker.client("app").await;
    let mut n = 0;
    while world.uploaded.lock().is_empty() {
        n += 1;
        app.publish("x/user/y", n.to_string(), n).await;
        app.expect_ack(n).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(n < 1000, "the edge does not subscribe");
    }
    world.stop().await;
    for n in 2001..=2005 {
        app.publish(&format!("x/user/{n}"), "v", n).await;
        app.expect_ack(n).await;
    }
    let world = start(&store, outside(broker.plain, 1));
    eventually("all arrive", || {
        let uploaded = world.uploaded.lock();
        (2001..=2005).all(|n| uploaded.contains(&format!("x/user/{n}")))
    })
    .await;
    // With mode 1 the broker inside serves as well.
    let mut local = world.client("local").await;
    local.publish("$hw/events/device/default/s1/twin/get", "in", 1).await;
    local.expect_ack(1).await;
    assert!(world.taken.lock().iter().any(|(_, payload)| payload == "in"));
}
