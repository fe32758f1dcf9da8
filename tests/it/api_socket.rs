//! The embedded API on its socket: who gets in, what a bad client can do, and its restart.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant, SystemTime};

use kubeedge::apiserver::http::Deadlines;
use kubeedge::identity::{CaSettings, KeyPair, Rotation, chain_pem};
use kubeedge::model::NodeName;

use crate::harness::api::{Api, kubectls};
use crate::harness::process::eventually;

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes()
}

#[test]
fn strangers_are_refused() {
    let api = Api::start();
    assert!(api.raw(None, &get("/healthz")).ends_with("\r\n\r\nok"));
    assert!(api.raw(None, &get("/version")).contains("\"gitVersion\":\"v1.32"));
    let answer = api.raw(None, &get("/api/v1/secrets"));
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("\"reason\":\"Unauthorized\""), "{answer}");
    let mode = std::fs::metadata(api.path("admin.conf")).expect("admin.conf").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_node_reaches_only_what_is_its_own() {
    let api = Api::start();
    let day = Duration::from_secs(86_400);
    let node = api.ca.issue_client("system:node:edge-1", &["system:nodes"], day).expect("certificate");
    let own = api.raw(Some(&node), &get("/api/v1/nodes/edge-1"));
    assert!(own.starts_with("HTTP/1.1 404"), "its own node may be asked for: {own}");
    for path in ["/api/v1/nodes/edge-2", "/api/v1/secrets", "/api/v1/namespaces/kube-system/configmaps"] {
        let answer = api.raw(Some(&node), &get(path));
        assert!(answer.starts_with("HTTP/1.1 403"), "{path}: {answer}");
        assert!(answer.contains("User \\\"system:node:edge-1\\\" cannot"), "{answer}");
    }
}

#[test]
fn big_and_slow_requests_end() {
    let api = Api::start_with(Deadlines { read: Duration::from_secs(4), answer: Duration::from_secs(5) });
    let day = Duration::from_secs(86_400);
    let admin = api.ca.issue_client("admin", &["system:masters"], day).expect("certificate");
    let head = |length: usize| {
        format!(
            "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let answer = api.raw(Some(&admin), head(100 << 20).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    // A stranger's body is not waited for.
    let answer = api.raw(None, head(1000).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    let began = Instant::now();
    let answer = api.raw(Some(&admin), head(1000).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 504") && answer.contains("did not arrive in time"), "{answer}");
    let answer = api.raw(None, b"GET /healthz HTTP/1.1\r\nHo");
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(began.elapsed() < Duration::from_secs(60));
    let deep = format!("{}{}", head(200_000), "[".repeat(200_000));
    let answer = api.raw(Some(&admin), deep.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

/// Whoever may do nothing may send bodies all the same: they are bounded, and nobody else has to wait.
#[test]
fn one_user_fills_no_memory_with_bodies() {
    let api = Api::start_with(Deadlines { read: Duration::from_secs(40), answer: Duration::from_secs(10) });
    let day = Duration::from_secs(86_400);
    let client = |name: &str, group: &str| api.ca.issue_client(name, &[group], day).expect("certificate");
    let (nobody, admin) = (client("nobody", "nobodies"), client("admin", "system:masters"));
    let post = |length: usize, body: &str| {
        format!(
            "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .into_bytes()
    };
    let small = r#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"small"},"data":{"a":"b"}}"#;
    let small = post(small.len(), small);
    let refused = api.raw(Some(&nobody), &small);
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    std::thread::scope(|scope| {
        // 16 MiB less 20 bytes, none of them whole.
        let largest = 3 << 20;
        for bytes in [largest - 1, largest - 1, largest - 1, largest - 1, largest - 1, (1 << 20) - 15] {
            let unfinished = post(bytes + 1, &" ".repeat(bytes));
            let (api, nobody) = (&api, &nobody);
            scope.spawn(move || {
                let answer = api.raw(Some(nobody), &unfinished);
                assert!(answer.starts_with("HTTP/1.1 504"), "{answer}");
            });
        }
        eventually("no more is taken", || {
            let answer = api.raw(Some(&nobody), &small);
            let is_full = answer.starts_with("HTTP/1.1 429");
            assert!(is_full || answer.starts_with("HTTP/1.1 403"), "{answer}");
            is_full && answer.contains("retry-after: 1") && answer.contains("\\\"nobody\\\"")
        });
        let answer = api.raw(Some(&admin), &small);
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    });
    let refused = api.raw(Some(&nobody), &small);
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
}

#[test]
fn a_panic_of_the_actor_costs_connections_only() {
    let api = Api::start();
    let kubectls = kubectls();
    let kubectl = kubectls.last().expect("kubectl");
    api.ok(kubectl, &["create", "configmap", "kept", "--from-literal=a=b"]);
    let watch = api.spawn(kubectl, &["get", "configmaps", "-w"], "watch");
    eventually("the watch runs", || watch.log().contains("kept"));
    api.tree.inject_panic("ApiServer").expect("known actor");
    eventually("the actor came back", || {
        api.tree.snapshot().actors.iter().any(|actor| actor.name == "ApiServer" && actor.restarts == 1)
    });
    eventually("kubectl works again", || api.run(kubectl, &["get", "configmap", "kept"]).status.success());
    assert!(api.core.is_healthy());
    drop(watch);
}

/// The CA of a node is below the root that the API believes; an administrator it makes is none.
#[test]
fn a_node_makes_no_administrators() {
    let api = Api::start();
    let (now, day) = (SystemTime::now(), Duration::from_secs(86_400));
    let node = NodeName::parse("edge-1").unwrap();
    let key = || rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let (ca_key, leaf_key) = (key(), key());
    let mut request = rcgen::CertificateParams::default();
    request.distinguished_name = rcgen::DistinguishedName::new();
    let csr = request.serialize_request(&ca_key).unwrap();
    let chain = api.ca.sign_node_ca_csr(csr.der(), &node, day, None, now).expect("the CA of a node");
    let issuer = rcgen::Issuer::from_ca_cert_der(&chain[0].clone().into(), ca_key).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:masters");
    params.distinguished_name.push(rcgen::DnType::CommonName, "kubernetes-admin");
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let leaf = params.signed_by(&leaf_key, &issuer).unwrap();
    let mut whole = vec![leaf.der().to_vec()];
    whole.extend(chain);
    let forged = KeyPair { cert_pem: chain_pem(&whole), key_pem: leaf_key.serialize_pem() };
    let answer = api.raw(Some(&forged), &get("/api/v1/secrets"));
    assert_eq!(answer, "", "the handshake is refused");
    let admin = api.ca.issue_client("kubernetes-admin", &["system:masters"], day).expect("certificate");
    let answer = api.raw(Some(&admin), &get("/api/v1/secrets"));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

/// The administrator's kubeconfig is written again when the authorities change, and works at once.
#[test]
fn the_kubeconfig_follows_a_new_root() {
    let api = Api::start();
    let kubectls = kubectls();
    let kubectl = kubectls.last().expect("kubectl");
    let before = std::fs::read_to_string(api.path("admin.conf")).unwrap();
    let rotation = Rotation::new(&CaSettings::new(&api.path("ca.crt"), &api.path("ca.key"))).unwrap();
    rotation.prepare(SystemTime::now()).expect("prepared");
    rotation.activate(SystemTime::now()).expect("activated");
    assert!(api.ca.reload(SystemTime::now()).expect("reload").issuing);
    eventually("the kubeconfig is written again", || {
        std::fs::read_to_string(api.path("admin.conf")).is_ok_and(|text| text != before)
    });
    // The listener has its old certificate still: the kubeconfig knows both roots.
    api.ok(kubectl, &["get", "namespaces"]);
    // Whoever kept the old kubeconfig is still let in.
    std::fs::write(api.path("admin.conf"), before).unwrap();
    api.ok(kubectl, &["get", "namespaces"]);
}
