use rustls::{ClientConfig, ClientConnection, ServerConnection};
use rustls_pki_types::ServerName;

use super::*;
use crate::identity::joined::{self, HOUR, ca, join};
use crate::identity::key::EcKey;
use crate::identity::{NodeCredentials, client_tls};

fn workload(node: &NodeCredentials, id: &str, ttl: Duration, now: SystemTime) -> Vec<Vec<u8>> {
    let path = id.strip_prefix(&format!("spiffe://{}", node.trust_domain)).expect("of its domain");
    chain(&joined::workload(node, path, ttl, now).cert_pem)
}

fn chain(pem: &str) -> Vec<Vec<u8>> {
    certificates(pem).expect("pem").iter().map(|der| der.to_vec()).collect()
}

fn bundle(node: &NodeCredentials) -> TrustBundle {
    TrustBundle::from_pem(&node.trust_domain, &node.roots_pem).expect("bundle")
}

fn admit(door: &EdgeDoor, chain: &[Vec<u8>], now: SystemTime) -> Result<Admitted, String> {
    let chain: Vec<CertificateDer<'_>> =
        chain.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    door.admit(&chain, now).map_err(|why| why.to_string())
}

#[test]
fn svids_of_this_node_and_nobody_elses() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (ours, theirs) = (ca(dir.path(), "ours"), ca(dir.path(), "theirs"));
    let (one, two, far) = (join(&ours, "edge-1"), join(&ours, "edge-2"), join(&theirs, "edge-1"));
    let td = one.trust_domain.clone();
    let now = SystemTime::now();
    let door = EdgeDoor::new(one.node.clone(), Some(bundle(&one)), ClientAuth::Required);
    let web = format!("spiffe://{td}/ns/shop/sa/web");
    let lamp = format!("spiffe://{td}/device/default/lamp-1");
    for (case, chain, want) in [
        ("a workload", workload(&one, &web, HOUR, now), Ok(web.clone())),
        ("a device", workload(&one, &lamp, HOUR, now), Ok(lamp.clone())),
        ("the node", chain(&one.svid.cert_pem), Ok(format!("spiffe://{td}/node/edge-1"))),
        ("another node's workload", workload(&two, &web, HOUR, now), Err("not by this one")),
        ("another node", chain(&two.svid.cert_pem), Err("is not of this node")),
        ("another cloud's node of this name", workload(&far, &web, HOUR, now), Err("")),
        (
            "a certificate without an ID",
            chain(&ours.issue_client("admin", &["a"], HOUR).expect("c").cert_pem),
            Err(""),
        ),
        ("the CA itself", chain(&one.node_ca.as_ref().expect("ca").cert_pem), Err("")),
        ("no certificate", Vec::new(), Err("no certificate")),
        ("nonsense", vec![vec![1, 2, 3]], Err("")),
    ] {
        match (admit(&door, &chain, now), want) {
            (Ok(admitted), Ok(id)) => {
                assert_eq!(admitted.spiffe_id, Some(id), "{case}");
                assert_eq!(admitted.common_name, "", "{case}");
                assert_eq!(admitted.not_after, validity(&chain[0]).expect("validity").not_after, "{case}");
            }
            (Err(why), Err(part)) => assert!(why.contains(part), "{case}: {why}"),
            (got, want) => panic!("{case}: {got:?}, {want:?}"),
        }
    }
    // Mixed chains: the leaf of one node under the CA of the other.
    let mixed =
        [vec![workload(&two, &web, HOUR, now)[0].clone()], workload(&one, &web, HOUR, now)[1..].to_vec()];
    assert!(admit(&door, &mixed.concat(), now).is_err());
    let blind = EdgeDoor::new(one.node.clone(), None, ClientAuth::Required);
    assert!(admit(&blind, &workload(&one, &web, HOUR, now), now).is_err(), "without a bundle");
}

#[test]
fn certificates_count_while_they_are_good() {
    let dir = tempfile::tempdir().expect("temp dir");
    let node = join(&ca(dir.path(), "ours"), "edge-1");
    let door = EdgeDoor::new(node.node.clone(), Some(bundle(&node)), ClientAuth::Required);
    let now = SystemTime::now();
    let id = format!("spiffe://{}/ns/shop/sa/web", node.trust_domain);
    let svid = workload(&node, &id, Duration::from_secs(600), now);
    for (case, at, want) in [
        ("now", now, true),
        ("just before its end", now + Duration::from_secs(598), true),
        ("after its end", now + Duration::from_secs(602), false),
        ("an hour behind", now - HOUR, false),
        ("an hour ahead", now + HOUR, false),
    ] {
        assert_eq!(admit(&door, &svid, at).is_ok(), want, "{case}");
    }
}

#[test]
fn a_named_ca_lets_its_own_in_but_gives_nobody_an_id_of_the_trust_domain() {
    let dir = tempfile::tempdir().expect("temp dir");
    let (ours, plant) = (ca(dir.path(), "ours"), ca(dir.path(), "plant"));
    let (one, two) = (join(&ours, "edge-1"), join(&ours, "edge-2"));
    let (td, now) = (one.trust_domain.clone(), SystemTime::now());
    let web = format!("spiffe://{td}/ns/shop/sa/web");
    let door = |roots: &str| {
        let door = EdgeDoor::new(one.node.clone(), Some(bundle(&one)), ClientAuth::Required);
        door.with_named(roots).expect("named")
    };
    let own = plant.issue_client("device:default:s1", &[], HOUR).expect("client");
    let forged = join(&plant, "edge-1");
    let only_plant = door(&plant.cert_pem());
    let admitted = admit(&only_plant, &chain(&own.cert_pem), now).expect("its own");
    assert_eq!((admitted.common_name.as_str(), admitted.spiffe_id), ("device:default:s1", None));
    assert!(admit(&only_plant, &workload(&one, &web, HOUR, now), now).is_err(), "its root is not named");
    assert!(
        admit(&only_plant, &workload(&forged, &web, HOUR, now), now).is_err(),
        "the domain is not its to give"
    );

    let both = door(&format!("{}{}", plant.cert_pem(), ours.cert_pem()));
    assert!(admit(&both, &chain(&own.cert_pem), now).is_ok());
    let svid = admit(&both, &workload(&one, &web, HOUR, now), now).expect("its root is named");
    assert_eq!(svid.spiffe_id, Some(web.clone()));
    assert!(admit(&both, &workload(&two, &web, HOUR, now), now).is_err(), "another node's");
    assert!(admit(&both, &chain(&two.svid.cert_pem), now).is_err(), "another node");
    assert!(admit(&both, &workload(&forged, &web, HOUR, now), now).is_err(), "the other CA");
    let admin = ours.issue_client("admin", &["system:masters"], HOUR).expect("client");
    assert_eq!(admit(&both, &chain(&admin.cert_pem), now).expect("of the root").common_name, "admin");

    // What another node's CA signed without an ID: the root vouches for it, the rule does not.
    let nameless = nameless(&two, "device:default:s1");
    let why = admit(&both, &nameless, now).expect_err("a node's CA");
    assert!(why.contains("nothing but SVIDs"), "{why}");
}

/// A client certificate that a node's CA signed, with a common name and no ID.
fn nameless(node: &NodeCredentials, common_name: &str) -> Vec<Vec<u8>> {
    let pair = node.node_ca.as_ref().expect("ca");
    let links = chain(&pair.cert_pem);
    let key = EcKey::from_pem(pair.key_pem.as_bytes()).expect("key").for_rcgen().expect("key");
    let issuer =
        rcgen::Issuer::from_ca_cert_der(&CertificateDer::from(links[0].as_slice()), key).expect("issuer");
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(rcgen::DnType::CommonName, common_name);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let own = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("key");
    let leaf = params.signed_by(&own, &issuer).expect("leaf").der().to_vec();
    [vec![leaf], links].concat()
}

/// Runs a handshake in memory; the first error text.
fn handshake(server: &Arc<ServerConfig>, client: Arc<ClientConfig>, name: &str) -> Result<(), rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).expect("name");
    let mut client = ClientConnection::new(client, name)?;
    let mut server = ServerConnection::new(Arc::clone(server))?;
    for _ in 0..10 {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("memory");
        server.read_tls(&mut wire.as_slice()).expect("memory");
        server.process_new_packets()?;
        wire.clear();
        server.write_tls(&mut wire).expect("memory");
        client.read_tls(&mut wire.as_slice()).expect("memory");
        client.process_new_packets()?;
        if !client.is_handshaking() && !server.is_handshaking() {
            return Ok(());
        }
    }
    Err(rustls::Error::General("it does not end".into()))
}

#[test]
fn handshakes_tell_why_they_fail() {
    let dir = tempfile::tempdir().expect("temp dir");
    let ours = ca(dir.path(), "ours");
    let (one, two) = (join(&ours, "edge-1"), join(&ours, "edge-2"));
    let server_pair = ours.issue_server("edge", &["edge.example".into()], HOUR).expect("server");
    for (auth, without) in [(ClientAuth::Required, false), (ClientAuth::Optional, true)] {
        let door = Arc::new(EdgeDoor::new(one.node.clone(), Some(bundle(&one)), auth));
        let tls = door.tls(&server_pair).expect("tls");
        let client = |pair: Option<&KeyPair>| client_tls(&ours.cert_pem(), pair).expect("client");
        assert_eq!(handshake(&tls, client(None), "edge.example").is_ok(), without);
        handshake(&tls, client(Some(&one.svid)), "edge.example").expect("the node's own");
        let refused = handshake(&tls, client(Some(&two.svid)), "edge.example").expect_err("another node");
        let why = Refused::of(&refused).expect("the certificate's fault").to_string();
        assert!(why.contains("/node/edge-2 is not of this node"), "{why}");
    }
    assert_eq!(Refused::of(&rustls::Error::NoCertificatesPresented), None);
    let mixed = KeyPair { cert_pem: server_pair.cert_pem, key_pem: one.svid.key_pem.clone() };
    let door = Arc::new(EdgeDoor::new(one.node, None, ClientAuth::Required));
    assert!(door.tls(&mixed).expect_err("mixed").to_string().contains("not the certificate's"));
}
