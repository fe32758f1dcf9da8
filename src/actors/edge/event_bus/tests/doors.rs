//! Who comes in, over what.

use std::path::Path;
use std::time::{Duration, SystemTime};

use futures_util::SinkExt;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::super::password::hash_for_tests;
use super::super::*;
use super::world::*;
use crate::config::AccessRule;
use crate::identity::{Ca, CaSettings, KeyPair, client_tls};
use crate::model::DeviceId;
use crate::mqtt::{Packet, QoS, Reason, Version};

const HOUR: Duration = Duration::from_secs(3600);

fn with_files(dir: &Path) -> (EventBusConfig, Ca) {
    let ca = Ca::open(CaSettings::new(&dir.join("ca.crt"), &dir.join("ca.key")), SystemTime::now()).unwrap();
    let pair = ca.issue_server("edge", &["localhost".into(), "127.0.0.1".into()], HOUR).unwrap();
    std::fs::write(dir.join("s.crt"), &pair.cert_pem).unwrap();
    std::fs::write(dir.join("s.key"), &pair.key_pem).unwrap();
    let users = format!(
        "alice:{}
",
        hash_for_tests("wonder")
    );
    std::fs::write(dir.join("passwords"), users).unwrap();
    let mut config = config();
    config.internal.tls_address = "127.0.0.1:0".into();
    config.internal.websocket_address = "127.0.0.1:0".into();
    config.internal.tls_ca_file = dir.join("ca.crt");
    config.internal.tls_cert_file = dir.join("s.crt");
    config.internal.tls_private_key_file = dir.join("s.key");
    config.internal.password_file = dir.join("passwords");
    (config, ca)
}

async fn tls(world: &World, ca: &str, pair: Option<&KeyPair>) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost").unwrap();
    for _ in 0..400 {
        let socket = TcpStream::connect(world.tls.unwrap()).await.unwrap();
        let tls = client_tls(ca, pair).unwrap();
        match TlsConnector::from(tls).connect(name.clone(), socket).await {
            // The broker has not read its certificate yet: it closes without a word.
            Err(err) if err.kind() != std::io::ErrorKind::InvalidData => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            other => return other,
        }
    }
    panic!("no certificate was read");
}

#[actix::test]
async fn certificates_are_asked_for_and_say_who_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (config, ca) = with_files(dir.path());
    let world = start(&Arc::default(), config);
    let device = ca.issue_client("device:default:s1", &[], HOUR).unwrap();
    let mut client = Client::over(tls(&world, &ca.cert_pem(), Some(&device)).await.unwrap(), Version::V5);
    client.connect("d", |_| {}).await;
    client.publish("$hw/events/device/default/s1/twin/update", "own", 1).await;
    assert!(!client.expect_ack(1).await.is_failure());
    client.publish("$hw/events/device/default/s2/twin/update", "other", 2).await;
    assert_eq!(client.expect_ack(2).await, Reason::NOT_AUTHORIZED);
    assert!(client.subscribe("#", QoS::AtMostOnce).await.is_failure());
    assert_eq!(client.subscribe("$hw/events/device/default/s1/#", QoS::AtMostOnce).await, Reason(0));
    // It is no member any more: its rights end at once.
    world.bus.send(MembersChanged(vec![DeviceId::new("default", "s9")])).await.unwrap();
    client.publish("$hw/events/device/default/s1/twin/update", "late", 3).await;
    assert_eq!(client.expect_ack(3).await, Reason::NOT_AUTHORIZED);
    let payloads: Vec<String> = world.taken.lock().iter().map(|(_, payload)| payload.clone()).collect();
    assert_eq!(payloads, ["own"]);

    // TLS 1.3 tells a client without a certificate only after its handshake.
    for pair in [None, Some(&stranger())] {
        let refused = match tls(&world, &ca.cert_pem(), pair).await {
            Err(_) => true,
            Ok(stream) => {
                let mut client = Client::over(stream, Version::V5);
                let hello = Packet::Connect(Box::new(connect(Version::V5, "x")));
                let mut out = crate::mqtt::codec::OutBuf::default();
                crate::mqtt::codec::encode(&hello, Version::V5, &mut out).unwrap();
                use tokio::io::AsyncWriteExt;
                client.io.write_all(&out.to_vec()).await.ok();
                client.io.flush().await.ok();
                client.next().await.is_none()
            }
        };
        assert!(refused, "{pair:?}");
    }
}

fn stranger() -> KeyPair {
    let dir = tempfile::tempdir().unwrap();
    let ca =
        Ca::open(CaSettings::new(&dir.path().join("ca.crt"), &dir.path().join("ca.key")), SystemTime::now())
            .unwrap();
    ca.issue_client("device:default:s1", &[], HOUR).unwrap()
}

#[actix::test]
async fn passwords_and_rules() {
    let dir = tempfile::tempdir().unwrap();
    let (mut config, _ca) = with_files(dir.path());
    config.internal.access_rules = vec![AccessRule {
        user: "alice".into(),
        publish: vec!["home/%u/#".into()],
        subscribe: vec!["home/+/x".into()],
        ..AccessRule::default()
    }];
    let world = start(&Arc::default(), config);
    let login = async |user: &str, password: &str, version: Version| {
        let mut client = Client::over(TcpStream::connect(world.plain).await.unwrap(), version);
        let (user, password) = (user.to_owned(), password.to_owned());
        let answer = client
            .hello("a", |connect| {
                connect.username = Some(user);
                connect.password = Some(password.into());
            })
            .await;
        let Some(Packet::ConnAck(ack)) = answer else { panic!("{answer:?}") };
        (ack.reason, client)
    };
    // The file is read soon after the start.
    let mut alice = None;
    for _ in 0..100 {
        if let (Reason::SUCCESS, client) = login("alice", "wonder", Version::V5).await {
            alice = Some(client);
            break;
        }
    }
    let mut alice = alice.expect("logged in");
    for (user, password) in [("alice", "wrong"), ("nobody", "wonder"), ("", "")] {
        assert_eq!(login(user, password, Version::V5).await.0, Reason::BAD_USER_OR_PASSWORD);
        assert_eq!(login(user, password, Version::V3).await.0, Reason::BAD_USER_OR_PASSWORD);
    }
    alice.publish("home/alice/x", "v", 1).await;
    assert!(!alice.expect_ack(1).await.is_failure());
    alice.publish("home/bob/x", "v", 2).await;
    assert_eq!(alice.expect_ack(2).await, Reason::NOT_AUTHORIZED);
    assert_eq!(alice.subscribe("home/+/x", QoS::AtMostOnce).await, Reason(0));
    assert!(alice.subscribe("home/#", QoS::AtMostOnce).await.is_failure());
}

#[actix::test]
async fn anonymous_clients_come_in_only_where_the_configuration_says_so() {
    let mut config = config();
    config.internal.anonymous_on_loopback = false;
    let world = start(&Arc::default(), config);
    for version in [Version::V3, Version::V5] {
        let mut client = Client::over(TcpStream::connect(world.plain).await.unwrap(), version);
        let answer = client.hello("x", |_| {}).await;
        assert!(
            matches!(&answer, Some(Packet::ConnAck(ack)) if ack.reason == Reason::NOT_AUTHORIZED),
            "{answer:?}"
        );
        assert_eq!(client.next().await, None);
    }
}

#[actix::test]
async fn over_websocket() {
    let dir = tempfile::tempdir().unwrap();
    let (config, _ca) = with_files(dir.path());
    let world = start(&Arc::default(), config);
    let address = world.websocket.unwrap();
    let mut request = format!("ws://{address}/mqtt").into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "mqttv3.1, mqtt".parse().unwrap());
    let socket = TcpStream::connect(address).await.unwrap();
    let (stream, response) = tokio_tungstenite::client_async(request, socket).await.unwrap();
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "mqtt");
    let mut client = Client::over(websocket_worker::WebSocketBytes::of_client(stream), Version::V5);
    client.connect("ws", |_| {}).await;
    client.subscribe("a", QoS::AtMostOnce).await;
    let big: bytes::Bytes = vec![7; 300_000].into();
    client.publish("a", big.clone(), 0).await;
    assert_eq!(client.message().await.1, big);

    // Another subprotocol, or text, is refused.
    let socket = TcpStream::connect(address).await.unwrap();
    let plain = format!("ws://{address}/").into_client_request().unwrap();
    assert!(tokio_tungstenite::client_async(plain, socket).await.is_err());
    let mut request = format!("ws://{address}/").into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
    let socket = TcpStream::connect(address).await.unwrap();
    let (mut stream, _) = tokio_tungstenite::client_async(request, socket).await.unwrap();
    stream.send(Message::text("hello")).await.unwrap();
    let mut client = Client::over(websocket_worker::WebSocketBytes::of_client(stream), Version::V5);
    assert_eq!(client.next().await, None);
}
