//! The join server: who gets a certificate, who does not, and why.

use std::time::{Duration, SystemTime};

use super::super::*;
use super::harness::*;
use crate::identity::{MintOptions, PeerIdentity, new_node_csr};
use serde_json::json;

const REVOKED: &str = "/api/v1/namespaces/kubeedge/secrets/revoked-tokens";

fn bearer(world: &World, ttl: Duration, minted: SystemTime) -> (String, String) {
    let (token, claims) = world.tokens.mint(&world.ca.hash_hex(), MintOptions::once(ttl), minted);
    let (_, jwt) = crate::identity::split_join_token(&token).unwrap();
    (format!("Bearer {jwt}"), claims.id)
}

#[actix::test]
async fn a_node_joins_and_rotates() {
    let world = World::start(|_| {});
    let (code, ca) = world.get("/ca.crt", None, &[], b"").await;
    assert_eq!((code, ca.as_slice()), (200, world.ca.cert_der().as_slice()));

    let (auth, _) = bearer(&world, Duration::from_secs(60), SystemTime::now());
    let (csr, key_pem) = new_node_csr(&node("edge-1")).unwrap();
    let headers = [("NodeName", "edge-1"), ("Authorization", auth.as_str())];
    let (code, der) = world.get("/edge.crt", None, &headers, &csr).await;
    assert_eq!(code, 200, "{}", String::from_utf8_lossy(&der));
    assert_eq!(PeerIdentity::from_der(&der).unwrap().node(), Some(node("edge-1")));

    let valid = crate::identity::validity(&der).unwrap();
    let life = valid.not_after.duration_since(SystemTime::now()).unwrap();
    assert!(life > Duration::from_secs(80_000), "a Go edge's certificate is no SVID of an hour: {life:?}");

    let pair = crate::identity::KeyPair { cert_pem: pem(&der), key_pem };
    let (csr, _) = new_node_csr(&node("edge-1")).unwrap();
    let (code, _) = world.get("/edge.crt", Some(&pair), &[("NodeName", "edge-1")], &csr).await;
    assert_eq!(code, 200, "rotation needs no token");
    let (csr, _) = new_node_csr(&node("edge-2")).unwrap();
    let headers = [("NodeName", "edge-2"), ("Authorization", auth.as_str())];
    let (code, why) = world.get("/edge.crt", Some(&pair), &headers, &csr).await;
    let why = String::from_utf8(why).unwrap();
    assert_eq!((code, why.as_str()), (403, "the certificate of node edge-1 cannot ask for node edge-2"));
}

#[actix::test]
async fn refusals_say_why() {
    let world = World::start(|_| {});
    let now = SystemTime::now();
    let minute = Duration::from_secs(60);
    let (good, _) = bearer(&world, minute, now);
    let (expired, _) = bearer(&world, minute, now - 2 * minute);
    let (revoked, id) = bearer(&world, minute, now);
    let mut forged = good.clone();
    let last = forged.pop().unwrap();
    forged.insert(forged.rfind('.').unwrap() + 1, last);
    if let Some(api) = &mut *world.api.lock() {
        api.insert(REVOKED.to_owned(), json!({"data": {id: ""}}));
    }
    let csr = |name: &str| new_node_csr(&node(name)).unwrap().0;
    let huge = vec![0u8; 65 << 10];
    for (case, auth, body, want) in [
        ("expired", &expired, csr("edge-1"), 401),
        ("revoked", &revoked, csr("edge-1"), 401),
        ("forged", &forged, csr("edge-1"), 401),
        ("another name in the request", &good, csr("edge-2"), 400),
        ("not a request", &good, b"hello".to_vec(), 400),
        ("too large", &good, huge, 413),
        ("good: what was refused cost no token", &good, csr("edge-1"), 200),
        ("used", &good, csr("edge-1"), 401),
    ] {
        let headers = [("NodeName", "edge-1"), ("Authorization", auth.as_str())];
        let (code, why) = world.get("/edge.crt", None, &headers, &body).await;
        assert_eq!(code, want, "{case}: {}", String::from_utf8_lossy(&why));
        if want == 401 {
            let why = String::from_utf8(why).unwrap();
            assert!(why.contains(case) || case == "forged" && why.contains("signature"), "{case}: {why}");
        }
    }
}

#[actix::test]
async fn without_the_api_nobody_joins_by_token() {
    let world = World::start(|_| {});
    *world.api.lock() = None;
    let (auth, _) = bearer(&world, Duration::from_secs(60), SystemTime::now());
    let (csr, _) = new_node_csr(&node("edge-1")).unwrap();
    let headers = [("NodeName", "edge-1"), ("Authorization", auth.as_str())];
    assert_eq!(world.get("/edge.crt", None, &headers, &csr).await.0, 503);
    assert_eq!(world.get("/node/edge-1", None, &[], b"").await.0, 503);
    assert_eq!(world.get("/ca.crt", None, &[], b"").await.0, 200);
}

#[actix::test]
async fn other_paths() {
    let world = World::start(|_| {});
    if let Some(api) = &mut *world.api.lock() {
        api.insert("/api/v1/nodes/edge-1".to_owned(), json!({"metadata": {"name": "edge-1"}}));
    }
    for (path, want) in
        [("/node/edge-1", 200), ("/node/edge-2", 404), ("/node/a%2Fb", 404), ("/", 404), ("/metrics", 404)]
    {
        assert_eq!(world.get(path, None, &[], b"").await.0, want, "{path}");
    }
    let flood = (0..200).map(|_| world.get("/ca.crt", None, &[], b""));
    let answers = futures_util::future::join_all(flood).await;
    let limited = answers.iter().any(|(code, _)| *code == 429);
    assert!(limited, "one address cannot ask without end");
}

#[actix::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let websocket = Listener { address: "127.0.0.1".into(), port, enable: true };
    let config = CloudHubConfig { websocket, ..CloudHubConfig::default() };
    let err = Listeners::bind(&config).err().unwrap().to_string();
    assert_eq!(err, format!("cloudHub.websocket: cannot listen on 127.0.0.1:{port}"));
}
