use std::time::{Duration, SystemTime};

use super::*;
use crate::identity::test_chain::World;
use crate::identity::test_handshake::handshake;
use crate::identity::{Ca, CaSettings, cert_der_from_pem, chain_pem};

const HOUR: Duration = Duration::from_secs(3600);

fn ca() -> Ca {
    let dir = tempfile::tempdir().expect("temp dir");
    Ca::open(CaSettings::new(&dir.path().join("ca.crt"), &dir.path().join("ca.key")), SystemTime::now())
        .expect("ca")
}

fn server_pair(ca: &Ca) -> KeyPair {
    ca.issue_server("KubeEdge", &["cloud.example".into()], HOUR).expect("server")
}

#[test]
fn who_gets_through() {
    let (ours, theirs) = (ca(), ca());
    let pair = server_pair(&ours);
    let required = server_tls(&pair, &ours.client_anchors_pem(), ClientAuth::Required).expect("server");
    let optional = server_tls(&pair, &ours.client_anchors_pem(), ClientAuth::Optional).expect("server");
    let ours_pem = ours.cert_pem();
    let client = |pair: Option<&KeyPair>| client_tls(&ours_pem, pair).expect("client");
    let admin = ours.issue_client("admin", &["system:masters"], HOUR).expect("client");
    let foreign = theirs.issue_client("admin", &["system:masters"], HOUR).expect("client");
    let stranger = client_tls(&theirs.cert_pem(), Some(&admin)).expect("client");
    let blind = client_tls_unverified().expect("client");
    let host = "cloud.example";
    for (case, server, client, name, want) in [
        ("mutual", &required, client(Some(&admin)), host, Ok(true)),
        ("optional, none", &optional, client(None), host, Ok(false)),
        ("optional, one", &optional, client(Some(&admin)), host, Ok(true)),
        ("believes anyone", &optional, blind, "10.1.2.3", Ok(false)),
        ("required, none", &required, client(None), host, Err("server: peer sent no certificates")),
        (
            "required, foreign",
            &required,
            client(Some(&foreign)),
            host,
            Err("server: invalid peer certificate"),
        ),
        (
            "optional, foreign",
            &optional,
            client(Some(&foreign)),
            host,
            Err("server: invalid peer certificate"),
        ),
        ("server as client", &required, client(Some(&pair)), host, Err("server: invalid peer certificate")),
        ("other CA", &required, stranger, host, Err("client: invalid peer certificate")),
        (
            "other name",
            &required,
            client(Some(&admin)),
            "evil.example",
            Err("client: invalid peer certificate"),
        ),
    ] {
        match (handshake(server, &client, name), want) {
            (Ok((_, seen)), Ok(presented)) => assert_eq!(seen.is_some(), presented, "{case}"),
            (Err(err), Err(want)) => assert!(err.starts_with(want), "{case}: {err}"),
            (got, want) => panic!("{case}: got {got:?}, want {want:?}"),
        }
    }
}

#[test]
fn a_replaced_certificate_is_served_at_once_and_a_bad_one_never() {
    let ca = ca();
    let (old, new) = (server_pair(&ca), server_pair(&ca));
    let tls = ReloadableServerTls::new(&old, &ca.cert_pem(), ClientAuth::Optional).expect("tls");
    let client = client_tls(&ca.cert_pem(), None).expect("client");
    let seen = || handshake(&tls.config(), &client, "cloud.example").expect("ok").0;
    let leaf = |pair: &KeyPair| cert_der_from_pem(&pair.cert_pem).expect("pem");
    assert_eq!(seen(), leaf(&old));
    tls.replace(&new).expect("replaced");
    assert_eq!(seen(), leaf(&new));
    let mixed = KeyPair { cert_pem: old.cert_pem.clone(), key_pem: new.key_pem.clone() };
    let err = tls.replace(&mixed).expect_err("mixed").to_string();
    assert!(err.contains("not the certificate's"), "{err}");
    assert_eq!(seen(), leaf(&new));
}

#[test]
fn nonsense_is_refused_with_a_text() {
    let ca = ca();
    let pair = server_pair(&ca);
    let no_cert = KeyPair { cert_pem: "x".into(), ..pair.clone() };
    let no_key = KeyPair { key_pem: "x".into(), ..pair.clone() };
    let server = |pair: &KeyPair, ca: &str| server_tls(pair, ca, ClientAuth::Required).expect_err("refused");
    assert!(server(&no_cert, &ca.cert_pem()).to_string().contains("no PEM certificate"));
    assert!(server(&no_key, &ca.cert_pem()).to_string().contains("no PEM private key"));
    assert!(server(&pair, "").to_string().contains("no PEM certificate"));
    assert!(client_tls("", None).is_err());
    assert!(!format!("{pair:?}").contains("PRIVATE"));
}

/// One node's workload, with a client's key.
fn workload(w: &World, path: &str, change: impl FnOnce(&mut rcgen::CertificateParams)) -> KeyPair {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key");
    let mut params = w.leaf_params(path, HOUR);
    change(&mut params);
    let authority = w.node_authority("edge-1");
    let leaf = authority.sign(&params, &key).expect("leaf");
    let chain = [leaf, authority.der.clone(), w.issuing.der.clone()];
    KeyPair { cert_pem: chain_pem(&chain), key_pem: key.serialize_pem() }
}

/// The CA of a node is below the same root as administrators and nodes. Whatever it signs opens none of
/// these doors; the node's own have another rule ([`crate::identity::EdgeDoor`]).
#[test]
fn what_the_ca_of_a_node_signs_opens_no_door_here() {
    let w = World::at(SystemTime::now());
    let roots = w.bundle().roots_pem();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key");
    let mut params = w.leaf_params("/cloudcore", HOUR);
    params.subject_alt_names.push(rcgen::SanType::DnsName("cloud.example".try_into().expect("dns")));
    let leaf = w.issuing.sign(&params, &key).expect("server");
    let server =
        KeyPair { cert_pem: chain_pem(&[leaf, w.issuing.der.clone()]), key_pem: key.serialize_pem() };
    let cloud = ReloadableServerTls::new(&server, &roots, ClientAuth::Required).expect("cloud");

    let named = |cn: &'static str, org: &'static str| {
        move |p: &mut rcgen::CertificateParams| {
            p.subject_alt_names.clear();
            p.distinguished_name = rcgen::DistinguishedName::new();
            p.distinguished_name.push(rcgen::DnType::OrganizationName, org);
            p.distinguished_name.push(rcgen::DnType::CommonName, cn);
        }
    };
    let none = |_: &mut rcgen::CertificateParams| {};
    for (case, pair) in [
        ("its workload", workload(&w, "/ns/default/sa/web", none)),
        ("its device", workload(&w, "/device/default/s1", none)),
        ("a node", workload(&w, "/node/edge-1", none)),
        ("cloudcore", workload(&w, "/cloudcore", none)),
        ("an administrator", workload(&w, "", named("kubernetes-admin", "system:masters"))),
        ("a node of old", workload(&w, "", named("system:node:edge-2", "system:nodes"))),
        ("a device of old", workload(&w, "", named("device:default:s1", "x"))),
    ] {
        let client = client_tls(&roots, Some(&pair)).expect("client");
        let err = handshake(&cloud.config(), &client, "cloud.example").expect_err(case);
        assert!(err.starts_with("server: invalid peer certificate"), "{case}: {err}");
    }
    // As an anchor the CA of a node could sign anything.
    let err = ReloadableServerTls::new(
        &server,
        &chain_pem(&[&w.node_authority("edge-1").der]),
        ClientAuth::Required,
    );
    assert!(err.err().expect("no anchor").to_string().contains("edge-1 cannot be an anchor"));
}

/// A leaf that says it is an SVID must be one, also directly below the issuing CA.
#[test]
fn a_bad_svid_is_no_client() {
    let ca = ca();
    let tls = ReloadableServerTls::new(&server_pair(&ca), &ca.client_anchors_pem(), ClientAuth::Required);
    let tls = tls.expect("tls");
    let enters = |pair: &KeyPair| {
        let client = client_tls(&ca.cert_pem(), Some(pair)).expect("client");
        handshake(&tls.config(), &client, "cloud.example")
    };
    let id = |path: &str| format!("spiffe://kubeedge.local{path}");
    let good = ca.issue_server("x", &[id("/cloudcore")], HOUR).expect("pair");
    enters(&good).expect("an SVID");
    let two = ca.issue_server("x", &[id("/cloudcore"), id("/node/a")], HOUR).expect("pair");
    assert!(enters(&two).expect_err("two IDs").contains("invalid peer certificate"));
    let domain = ca.issue_server("x", &[id("")], HOUR).expect("pair");
    assert!(enters(&domain).expect_err("no path").contains("invalid peer certificate"));
}

/// A Go edge presents one certificate: the issuing CAs are anchors too, also replaced ones.
#[test]
fn a_leaf_alone_is_enough_and_anchors_are_replaced_while_serving() {
    let (ours, theirs) = (ca(), ca());
    let tls = ReloadableServerTls::new(&server_pair(&ours), &ours.client_anchors_pem(), ClientAuth::Required);
    let tls = tls.expect("tls");
    let alone = |ca: &Ca| {
        let pair = ca.issue_client("go", &["system:nodes"], HOUR).expect("client");
        let leaf = cert_der_from_pem(&pair.cert_pem).expect("pem");
        KeyPair { cert_pem: chain_pem(&[leaf]), ..pair }
    };
    let enters = |pair: &KeyPair| {
        let client = client_tls(&ours.cert_pem(), Some(pair)).expect("client");
        handshake(&tls.config(), &client, "cloud.example").map(drop)
    };
    let (one, other) = (alone(&ours), alone(&theirs));
    enters(&one).expect("a leaf alone");
    assert!(enters(&other).is_err());
    tls.replace_anchors(&theirs.client_anchors_pem()).expect("replaced");
    enters(&other).expect("the new anchors");
    assert!(enters(&one).is_err(), "the old anchors");
    assert!(tls.replace_anchors("nonsense").is_err());
    enters(&other).expect("a refused replacement changes nothing");
}

/// What a node's CA signs is no server that a node or user would take for the cloud.
#[test]
fn a_node_is_not_the_cloud() {
    let w = World::at(SystemTime::now());
    let roots = w.bundle().roots_pem();
    let client = client_tls(&roots, None).expect("client");
    let names: [(&str, rcgen::SanType, bool); 3] = [
        ("cloud.example", rcgen::SanType::DnsName("cloud.example".try_into().expect("dns")), false),
        ("127.0.0.1", rcgen::SanType::IpAddress([127, 0, 0, 1].into()), false),
        (
            "web.edge-1.nodes.kubeedge.local",
            rcgen::SanType::DnsName("web.edge-1.nodes.kubeedge.local".try_into().expect("dns")),
            true,
        ),
    ];
    for (name, san, want) in names {
        let pair = workload(&w, "/ns/default/sa/web", |p| p.subject_alt_names.push(san));
        let server = server_tls(&pair, &roots, ClientAuth::Optional).expect("server");
        assert_eq!(handshake(&server, &client, name).is_ok(), want, "{name}");
    }
}
