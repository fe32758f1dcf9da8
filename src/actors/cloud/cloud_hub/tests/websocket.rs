//! Sessions: opened, used, refused, replaced, broken.

use futures_util::SinkExt;
use serde_json::json;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as Ws};

use super::super::*;
use super::harness::*;
use crate::bus::cloud_hub::Outgoing;
use crate::model::{Body, Envelope, ObjectKey, Resource};

const MSG: (&str, &str) = ("ConnectionUse", "msg");

fn keepalive() -> Envelope {
    Envelope::new("websocket", "resource", "keepalive", Resource::Keepalive, Body::Text("ping".into()), 1)
}

fn pod(name: &str, size: usize) -> Envelope {
    let object = json!({"apiVersion": "v1", "kind": "Pod", "data": "x".repeat(size),
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")}});
    let resource = ObjectKey::namespaced("default", "pod", name).into();
    Envelope::new("edgecontroller", "resource", "insert", resource, Body::Object(object), 1)
        .with_resource_version("7")
}

async fn send(world: &World, name: &str, envelope: Envelope) {
    let messages = vec![(node(name), Outgoing::new(envelope))];
    world.hub.ask(SendDown { messages }, Duration::from_secs(5)).await.unwrap();
}

async fn refusal(world: &World, pair: &crate::identity::KeyPair, headers: &[(&str, &str)]) -> (u16, String) {
    match world.dial(pair, headers).await {
        Err(WsError::Http(response)) => {
            let body = response.body().clone().unwrap_or_default();
            (response.status().as_u16(), String::from_utf8(body).unwrap())
        }
        other => panic!("{:?}", other.map(|_| ())),
    }
}

#[actix::test]
async fn a_session_both_ways() {
    let mut world = World::start(|_| {});
    let pair = world.certificate("edge-1");
    let offered = [MSG, ("Node_id", "edge-1"), ("Kubeedge-Extensions", "ack-window, zip")];
    let (mut edge, response) = world.dial(&pair, &offered).await.unwrap();
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["kubeedge-extensions"], "ack-window");
    match world.next_told().await {
        Told::Connected(it) => {
            assert_eq!(it.node, node("edge-1"));
            assert_eq!(it.extensions, Extensions { ack_window: true, ..Extensions::default() });
        }
        other => panic!("{other:?}"),
    }
    say(&mut edge, &keepalive()).await;
    let query = Envelope::new("edged", "meta", "query", Resource::parse("default/secret/s"), Body::Null, 1);
    say(&mut edge, &query).await;
    match world.next_told().await {
        Told::Upstream(it) => {
            assert_eq!((it.node, it.envelope.header.msg_id), (node("edge-1"), query.header.msg_id));
        }
        other => panic!("{other:?}"),
    }
    let insert = pod("nginx", 10);
    send(&world, "edge-1", insert.clone()).await;
    send(&world, "edge-2", pod("elsewhere", 10)).await;
    assert_eq!(hear(&mut edge).await, Some(insert.clone()));
    say(&mut edge, &insert.ack(2)).await;
    match world.next_told().await {
        Told::Delivered(it) => assert_eq!((it.kind.as_str(), it.version.uid.as_str()), ("Pod", "uid-nginx")),
        other => panic!("{other:?}"),
    }
    let ca = Envelope::new("metamanager", "meta", "query", Resource::ClusterCa, Body::Null, 1);
    say(&mut edge, &ca).await;
    let answer = hear(&mut edge).await.unwrap();
    assert_eq!(answer.header.parent_msg_id, Some(ca.header.msg_id));
    assert_eq!((answer.route.source.as_str(), answer.body), ("cloudhub", Body::Text("CLUSTER CA".into())));
    edge.close(None).await.unwrap();
    assert!(matches!(world.next_told().await, Told::Gone(it) if it.node == node("edge-1")));
}

#[actix::test]
async fn what_devices_say_goes_to_their_controller() {
    let mut world = World::start(|_| {});
    let mut edge = world.connect("edge-1").await;
    assert!(matches!(world.next_told().await, Told::Connected(_)));
    let resource = Resource::parse("device/default/sensor-1/twin/edge_updated");
    say(&mut edge, &Envelope::new("twin", "resource", "update", resource.clone(), Body::Null, 1)).await;
    match world.next_told().await {
        Told::Twin(it) => assert_eq!((it.node, it.envelope.route.resource), (node("edge-1"), resource)),
        other => panic!("{other:?}"),
    }
}

#[actix::test]
async fn identity_is_the_certificate() {
    let world = World::start(|_| {});
    let pair = world.certificate("edge-1");
    let (code, why) = refusal(&world, &pair, &[MSG, ("node_id", "edge-2")]).await;
    assert_eq!(code, 403);
    assert_eq!(why, "header node_id says \"edge-2\" but the certificate is for node \"edge-1\"");
    assert_eq!(refusal(&world, &pair, &[("node_id", "edge-1")]).await.0, 400);
    assert_eq!(refusal(&world, &pair, &[("ConnectionUse", "str")]).await.0, 400);
    let admin =
        world.ca.issue_client("kubernetes-admin", &["system:masters"], Duration::from_secs(60)).unwrap();
    assert_eq!(refusal(&world, &admin, &[MSG]).await.0, 403);

    let other = World::start(|_| {});
    let foreign = other.certificate("edge-1");
    let refused = match world.dial(&foreign, &[MSG]).await {
        Err(WsError::Io(_) | WsError::Protocol(_) | WsError::Tls(_)) => true,
        Err(_) | Ok(_) => false,
    };
    assert!(refused, "a certificate of another CA does not get past TLS");
    assert_eq!(world.nodes.ask(ConnectedNodes, Duration::from_secs(5)).await.unwrap(), []);
}

#[actix::test]
async fn a_second_connection_replaces_the_first() {
    let mut world = World::start(|_| {});
    let mut first = world.connect("edge-1").await;
    let mut second = world.connect("edge-1").await;
    assert_eq!(hear(&mut first).await, None, "the first one is closed");
    send(&world, "edge-1", pod("nginx", 10)).await;
    assert!(hear(&mut second).await.is_some());
    assert_eq!(world.nodes.ask(ConnectedNodes, Duration::from_secs(5)).await.unwrap(), [node("edge-1")]);
    let mut sessions = Vec::new();
    while sessions.len() < 3 {
        match world.next_told().await {
            Told::Connected(it) => sessions.push(("connected", it.session)),
            Told::Gone(it) => sessions.push(("gone", it.session)),
            other => panic!("{other:?}"),
        }
    }
    sessions.sort_unstable();
    assert_eq!(sessions, [("connected", 1), ("connected", 2), ("gone", 1)]);
}

#[actix::test]
async fn bad_frames_end_only_their_session() {
    let world = World::start(|_| {});
    let mut good = world.connect("good").await;
    let deep = format!("{{\"header\":{}1{}}}", "[".repeat(5_000), "]".repeat(5_000));
    for bad in ["{", "[]", "{\"header\":{}}", "\u{0}", deep.as_str(), &"x".repeat(5 << 20)] {
        let mut edge = world.connect("bad").await;
        // The hub may close before all of an oversized frame is written.
        let _cut = edge.send(Ws::text(bad)).await;
        assert_eq!(hear(&mut edge).await, None, "{:.20}", bad);
    }
    send(&world, "good", pod("nginx", 10)).await;
    assert!(hear(&mut good).await.is_some());
}

#[actix::test]
async fn the_node_limit() {
    let world = World::start(|config| config.node_limit = 1);
    let _first = world.connect("edge-1").await;
    let pair = world.certificate("edge-2");
    let (code, why) = refusal(&world, &pair, &[MSG]).await;
    assert_eq!((code, why.as_str()), (503, "1 nodes are connected, which is cloudHub.nodeLimit"));
    let _again = world.connect("edge-1").await;
}

#[actix::test]
async fn a_silent_edge_loses_its_session() {
    let mut world = World::start(|config| config.keepalive_interval = 1);
    let mut edge = world.connect("edge-1").await;
    assert_eq!(hear(&mut edge).await, None);
    assert!(matches!(world.next_told().await, Told::Connected(_)));
    assert!(matches!(world.next_told().await, Told::Gone(_)));
}

/// It takes what it is sent, and nothing of it arrives.
#[actix::test]
async fn an_edge_that_told_its_silence_is_missed_after_that() {
    let mut world = World::start(|config| config.keepalive_interval = 600);
    let pair = world.certificate("edge-1");
    let (mut edge, _) = world.dial(&pair, &[MSG, ("Kubeedge-Silence", "2")]).await.unwrap();
    assert!(matches!(world.next_told().await, Told::Connected(_)));
    // Its words are dealt with, and after them it is listened to again.
    say(&mut edge, &keepalive()).await;
    send(&world, "edge-1", pod("nginx", 10)).await;
    assert!(hear(&mut edge).await.is_some());
    assert!(matches!(world.next_told().await, Told::Gone(_)));
}

#[actix::test]
async fn an_edge_that_does_not_read_loses_its_session() {
    let mut world = World::start(|config| config.write_timeout = 1);
    let _slow = world.connect("slow").await;
    let mut good = world.connect("good").await;
    for n in 0..12 {
        send(&world, "slow", pod(&format!("large-{n}"), 3 << 20)).await;
    }
    let gone = loop {
        match world.next_told().await {
            Told::Gone(it) => break it.node,
            Told::Connected(_) => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(gone, node("slow"), "its socket is closed although its pump is not polled");
    send(&world, "good", pod("nginx", 10)).await;
    assert!(hear(&mut good).await.is_some());
}

#[actix::test]
async fn a_listing_reaches_the_comparison() {
    let mut world = World::start(|_| {});
    let mut edge = world.connect("edge-1").await;
    assert!(matches!(world.next_told().await, Told::Connected(it) if it.extensions.resync));
    let content = Body::Object(json!({"objects": [["default/pod/p", "u", "1"]], "part": 0, "last": true}));
    say(&mut edge, &Envelope::new("metamanager", "meta", "resync", Resource::parse("null"), content, 1))
        .await;
    assert!(matches!(world.next_told().await, Told::Held { last: true }));
}

#[actix::test]
async fn closing_and_deleting() {
    let world = World::start(|_| {});
    let mut one = world.connect("one").await;
    let mut two = world.connect("two").await;
    let close = CloseNode { node: Some(node("one")), reason: EndReason::NodeDeleted };
    world.close.ask(close, Duration::from_secs(5)).await.unwrap();
    assert_eq!(hear(&mut one).await, None);
    let resource = ObjectKey::cluster("node", "two").into();
    let deleted = Envelope::new("edgecontroller", "resource", "delete", resource, Body::Null, 1);
    send(&world, "two", deleted).await;
    assert_eq!(hear(&mut two).await, None, "a deleted Node ends its session");
}

#[actix::test]
async fn panics_cost_one_reconnect() {
    let world = World::start(|_| {});
    for actor in ["session edge-1", NAME] {
        let mut edge = world.reconnect("edge-1").await;
        world.tree.inject_panic(actor).unwrap();
        assert_eq!(hear(&mut edge).await, None, "{actor}");
    }
    // A connection to the listener that is being replaced may still break.
    let delivered = async {
        loop {
            let mut edge = world.reconnect("edge-1").await;
            send(&world, "edge-1", pod("nginx", 10)).await;
            if let Some(message) = hear(&mut edge).await {
                break message;
            }
        }
    };
    assert!(within(delivered).await.is("insert"));
}
