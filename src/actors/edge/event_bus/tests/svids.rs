//! The TLS door by the node's identity.

use std::time::SystemTime;

use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::super::*;
use super::world::*;
use crate::config::AccessRule;
use crate::identity::joined::{HOUR, ca, join, workload};
use crate::identity::{KeyPair, NodeCredentials, client_tls, validity};
use crate::model::DeviceId;
use crate::model::identity::{EdgeIdentitySpec, TopicPolicy};
use crate::mqtt::{Packet, QoS, Reason, Version};

fn door() -> EventBusConfig {
    let mut config = config();
    config.internal.tls_address = "127.0.0.1:0".into();
    config
}

/// Checks the broker's name as well.
async fn dial(
    world: &World,
    node: &NodeCredentials,
    pair: Option<&KeyPair>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = format!("{}.nodes.{}", node.node, node.trust_domain);
    let socket = TcpStream::connect(world.tls.unwrap()).await.unwrap();
    let tls = client_tls(&node.roots_pem, pair).unwrap();
    TlsConnector::from(tls).connect(ServerName::try_from(name).unwrap(), socket).await
}

/// The same as soon as there is a certificate to show.
async fn client(
    world: &World,
    node: &NodeCredentials,
    pair: &KeyPair,
    id: &str,
) -> Client<TlsStream<TcpStream>> {
    for _ in 0..400 {
        if let Ok(stream) = dial(world, node, Some(pair)).await {
            let mut client = Client::over(stream, Version::V5);
            client.connect(id, |_| {}).await;
            return client;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody comes in");
}

/// TLS 1.3 tells a client that it is refused only after its own handshake.
async fn is_refused(world: &World, node: &NodeCredentials, pair: Option<&KeyPair>) -> bool {
    let Ok(stream) = dial(world, node, pair).await else { return true };
    let mut client = Client::over(stream, Version::V5);
    let mut out = crate::mqtt::codec::OutBuf::default();
    let hello = Packet::Connect(Box::new(connect(Version::V5, "x")));
    crate::mqtt::codec::encode(&hello, Version::V5, &mut out).unwrap();
    use tokio::io::AsyncWriteExt;
    client.io.write_all(&out.to_vec()).await.ok();
    client.io.flush().await.ok();
    client.next().await.is_none()
}

fn shown(client: &Client<TlsStream<TcpStream>>) -> Vec<u8> {
    client.io.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn policy(subscribe: &[&str]) -> Option<Arc<EdgeIdentitySpec>> {
    let own = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
    let policy = TopicPolicy {
        namespace: "shop".into(),
        name: "web".into(),
        subjects: own(&["spiffe://kubeedge.local/ns/shop/sa/web"]),
        publish: own(&["orders/#"]),
        subscribe: own(subscribe),
    };
    Some(Arc::new(EdgeIdentitySpec { topic_policies: vec![policy], ..EdgeIdentitySpec::default() }))
}

#[actix::test]
async fn workloads_of_this_node_come_in_by_their_svid() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca(dir.path(), "ca");
    let (node, other, now) = (join(&ca, "edge-1"), join(&ca, "edge-2"), SystemTime::now());
    let (world, told) = start_told(&Arc::default(), door());
    let lamp = workload(&node, "/device/default/lamp", HOUR, now);
    assert!(is_refused(&world, &node, Some(&lamp)).await, "the node has no identity yet");
    told.credentials.send_replace(Some(Arc::new(node.clone())));

    let mut device = client(&world, &node, &lamp, "lamp").await;
    device.publish("$hw/events/device/default/lamp/twin/update", "own", 1).await;
    assert!(!device.expect_ack(1).await.is_failure());
    for (id, topic) in [(2, "$hw/events/device/default/other/twin/update"), (3, "a")] {
        device.publish(topic, "x", id).await;
        assert_eq!(device.expect_ack(id).await, Reason::NOT_AUTHORIZED, "{topic}");
    }
    world.bus.send(MembersChanged(vec![DeviceId::new("default", "other")])).await.unwrap();
    device.publish("$hw/events/device/default/lamp/twin/update", "gone", 4).await;
    assert_eq!(device.expect_ack(4).await, Reason::NOT_AUTHORIZED);

    let foreign = workload(&other, "/device/default/lamp", HOUR, now);
    assert!(is_refused(&world, &node, Some(&foreign)).await, "another node's word for this device");
    assert!(is_refused(&world, &node, Some(&other.svid)).await, "another node");
    assert!(is_refused(&world, &node, None).await, "nobody");
    eventually("a refusal is recorded", || {
        told.audit.lock().iter().any(|why| why.contains("was issued by node edge-2"))
    })
    .await;
    let mut itself = client(&world, &node, &node.svid, "itself").await;
    itself.publish("a", "x", 1).await;
    assert_eq!(itself.expect_ack(1).await, Reason::NOT_AUTHORIZED, "the node's own SVID gives nothing");
}

#[actix::test]
async fn a_policy_changes_what_connected_clients_may_do() {
    let dir = tempfile::tempdir().unwrap();
    let node = join(&ca(dir.path(), "ca"), "edge-1");
    let (world, told) = start_told(&Arc::default(), door());
    told.credentials.send_replace(Some(Arc::new(node.clone())));
    let pair = workload(&node, "/ns/shop/sa/web", HOUR, SystemTime::now());
    let mut web = client(&world, &node, &pair, "web").await;
    assert!(web.subscribe("orders/#", QoS::AtLeastOnce).await.is_failure());

    told.policies.send_replace(policy(&["orders/#", "prices/#"]));
    for _ in 0..400 {
        if !web.subscribe("orders/#", QoS::AtLeastOnce).await.is_failure() {
            break;
        }
    }
    assert_eq!(web.subscribe("prices/#", QoS::AtLeastOnce).await, Reason(1));
    let mut local = world.client("local").await;
    local.publish("orders/1", "heard", 1).await;
    local.expect_ack(1).await;
    assert_eq!(web.message().await, ("orders/1".to_owned(), "heard".into()));

    // The other is still subscribed, and delivers nothing any more.
    told.policies.send_replace(policy(&["prices/#"]));
    for _ in 0..400 {
        if web.subscribe("orders/#", QoS::AtLeastOnce).await.is_failure() {
            break;
        }
    }
    for (id, topic) in [(2, "orders/1"), (3, "prices/1")] {
        local.publish(topic, "next", id).await;
        local.expect_ack(id).await;
    }
    assert_eq!(web.message().await.0, "prices/1");
    web.publish("orders/2", "x", 9).await;
    assert!(!web.expect_ack(9).await.is_failure());
    told.policies.send_replace(None);
    for id in 10..400 {
        web.publish("orders/2", "x", id).await;
        if web.expect_ack(id).await == Reason::NOT_AUTHORIZED {
            return;
        }
    }
    panic!("the policy is gone and still counts");
}

#[actix::test]
async fn renewed_credentials_are_shown_to_newcomers_and_drop_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca(dir.path(), "ca");
    let (first, second) = (join(&ca, "edge-1"), join(&ca, "edge-1"));
    let rule = AccessRule {
        certificate: "spiffe://kubeedge.local/ns/shop/sa/web".into(),
        publish: vec!["a".into()],
        ..AccessRule::default()
    };
    let mut config = door();
    config.internal.access_rules = vec![rule];
    let (world, told) = start_told(&Arc::default(), config);
    told.credentials.send_replace(Some(Arc::new(first.clone())));
    let pair = workload(&first, "/ns/shop/sa/web", HOUR, SystemTime::now());
    let mut early = client(&world, &first, &pair, "early").await;
    told.credentials.send_replace(Some(Arc::new(second.clone())));
    let before = shown(&early);
    let mut late = None;
    for _ in 0..400 {
        let fresh = workload(&second, "/ns/shop/sa/web", HOUR, SystemTime::now());
        let one = client(&world, &second, &fresh, "late").await;
        if shown(&one) != before {
            late = Some(one);
            break;
        }
    }
    let mut late = late.expect("another certificate");
    for who in [&mut early, &mut late] {
        who.publish("a", "x", 1).await;
        assert!(!who.expect_ack(1).await.is_failure());
    }
    // What the former CA of this node issued is good to its end.
    client(&world, &second, &pair, "former").await;
}

#[actix::test]
async fn a_session_ends_when_its_certificate_has_run_out() {
    let dir = tempfile::tempdir().unwrap();
    let node = join(&ca(dir.path(), "ca"), "edge-1");
    let (world, told) = start_told(&Arc::default(), door());
    told.credentials.send_replace(Some(Arc::new(node.clone())));
    let now = SystemTime::now();
    let long = workload(&node, "/ns/shop/sa/web", HOUR, now);
    let mut stays = client(&world, &node, &long, "stays").await;
    let short = workload(&node, "/ns/shop/sa/web", Duration::from_secs(3), SystemTime::now());
    let mut goes = client(&world, &node, &short, "goes").await;
    let end = validity(&leaf(&short)).unwrap().not_after;
    match goes.next().await {
        Some(Packet::Disconnect { reason, .. }) => assert_eq!(reason, Reason::NOT_AUTHORIZED),
        other => panic!("{other:?}"),
    }
    assert!(SystemTime::now() > end, "not before its end");
    assert_eq!(goes.next().await, None);
    stays.expect_nothing().await;
    assert!(is_refused(&world, &node, Some(&short)).await);
}

fn leaf(pair: &KeyPair) -> Vec<u8> {
    crate::identity::cert_der_from_pem(&pair.cert_pem).unwrap()
}
