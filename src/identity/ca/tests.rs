use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::*;
use crate::identity::issuing::ROOT_DAYS;
use crate::identity::{MAX_TTL, PeerIdentity, cert_der_from_pem, new_node_csr, unix_secs, validity};

struct Fixture {
    dir: tempfile::TempDir,
    ca: Ca,
}

fn settings(dir: &Path) -> CaSettings {
    CaSettings::new(&dir.join("ca/rootCA.crt"), &dir.join("ca/rootCA.key"))
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let ca = Ca::open(settings(dir.path()), SystemTime::now());
        Self { ca: ca.expect("ca"), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("ca").join(name)
    }

    fn reload(&self) -> Result<Ca, IdentityError> {
        Ca::open(settings(self.dir.path()), SystemTime::now())
    }

    fn error(&self) -> String {
        self.reload().err().expect("refused").to_string()
    }

    fn node_chain(&self) -> Vec<Vec<u8>> {
        let node = NodeName::parse("edge-1").expect("name");
        let (csr, _) = new_node_csr(&node).expect("csr");
        let ttl = Duration::from_secs(3600);
        self.ca.sign_node_csr(&csr, &node, ttl, None, SystemTime::now()).expect("signed")
    }

    /// Runs the openssl program; it is part of what the tests need (apt: openssl).
    fn openssl(&self, args: &[&str]) -> (bool, String) {
        let out =
            Command::new("openssl").args(args).current_dir(self.path("")).output().expect("openssl runs");
        let text = [out.stdout, out.stderr].concat();
        (out.status.success(), String::from_utf8_lossy(&text).into_owned())
    }
}

#[test]
fn created_once_then_loaded() {
    let f = Fixture::new();
    let mode = |name| fs::metadata(f.path(name)).expect("metadata").permissions().mode() & 0o777;
    assert_eq!((mode("rootCA.key"), mode("rootCA.crt")), (0o600, 0o644));
    assert_eq!(f.reload().expect("reload").hash_hex(), f.ca.hash_hex());
    assert_eq!(f.ca.cert_pem(), fs::read_to_string(f.path("rootCA.crt")).expect("read"));
    assert!(fs::read_to_string(f.path("rootCA.key")).expect("read").starts_with("-----BEGIN EC PRIVATE KEY"));
    let valid = validity(&f.ca.cert_der()).expect("validity");
    let days = valid.not_after.duration_since(valid.not_before).expect("order").as_secs() / 86_400;
    assert_eq!(days, ROOT_DAYS);
}

#[test]
fn one_missing_or_wrong_file_is_named_and_nothing_is_replaced() {
    let f = Fixture::new();
    let (cert, key) =
        (fs::read(f.path("rootCA.crt")).expect("cert"), fs::read(f.path("rootCA.key")).expect("key"));

    fs::remove_file(f.path("rootCA.key")).expect("remove");
    fs::remove_file(f.path("issuing.key")).expect("remove");
    assert!(f.error().contains("rootCA.key: it is missing"), "{}", f.error());
    assert_eq!(fs::read(f.path("rootCA.crt")).expect("cert"), cert);

    fs::write(f.path("rootCA.key"), &key).expect("write");
    fs::remove_file(f.path("rootCA.crt")).expect("remove");
    assert!(f.error().contains("rootCA.crt: it is missing"), "{}", f.error());
    assert_eq!(fs::read(f.path("rootCA.key")).expect("key"), key);

    fs::write(f.path("rootCA.crt"), "nonsense").expect("write");
    assert!(f.error().contains("rootCA.crt: it holds no PEM certificate"), "{}", f.error());

    let other = Fixture::new();
    fs::copy(other.path("rootCA.crt"), f.path("rootCA.crt")).expect("copy");
    assert!(f.error().contains("rootCA.key: it is not the key of"), "{}", f.error());

    let leaf = f.ca.issue_server("x", &["x.example".into()], Duration::from_secs(60)).expect("leaf");
    fs::write(f.path("rootCA.crt"), leaf.cert_pem).expect("write");
    fs::write(f.path("rootCA.key"), leaf.key_pem).expect("write");
    assert!(f.error().contains("rootCA.crt: it is not the certificate of a CA"), "{}", f.error());
}

#[test]
fn openssl_agrees_with_every_chain() {
    let f = Fixture::new();
    fs::write(f.path("node.crt"), chain_pem(&f.node_chain())).expect("write");
    let server = f
        .ca
        .issue_server("KubeEdge", &["127.0.0.1".into(), "cloud.example".into()], Duration::from_secs(3600))
        .expect("server");
    fs::write(f.path("server.crt"), &server.cert_pem).expect("write");
    fs::write(f.path("server.key"), &server.key_pem).expect("write");

    for args in [
        [
            "verify",
            "-x509_strict",
            "-CAfile",
            "rootCA.crt",
            "-purpose",
            "sslclient",
            "-untrusted",
            "node.crt",
            "node.crt",
        ]
        .as_slice(),
        &[
            "verify",
            "-x509_strict",
            "-CAfile",
            "rootCA.crt",
            "-purpose",
            "sslserver",
            "-untrusted",
            "node.crt",
            "node.crt",
        ],
        &[
            "verify",
            "-CAfile",
            "rootCA.crt",
            "-purpose",
            "sslserver",
            "-verify_ip",
            "127.0.0.1",
            "-untrusted",
            "server.crt",
            "server.crt",
        ],
        &[
            "verify",
            "-CAfile",
            "rootCA.crt",
            "-verify_hostname",
            "cloud.example",
            "-untrusted",
            "server.crt",
            "server.crt",
        ],
        &["ec", "-in", "server.key", "-check", "-noout"],
    ] {
        let (ok, text) = f.openssl(args);
        assert!(ok, "openssl {args:?}: {text}");
    }
    let (ok, text) = f.openssl(&[
        "verify",
        "-CAfile",
        "rootCA.crt",
        "-purpose",
        "sslclient",
        "-untrusted",
        "server.crt",
        "server.crt",
    ]);
    assert!(!ok, "a server certificate is no client's: {text}");
    let (_, text) = f.openssl(&["x509", "-in", "node.crt", "-noout", "-text"]);
    for want in [
        "O = system:nodes, CN = system:node:edge-1",
        "Issuer: O = KubeEdge, CN = KubeEdge issuing CA ",
        "URI:spiffe://kubeedge.local/node/edge-1",
        "CA:FALSE",
        "TLS Web Client Authentication, TLS Web Server Authentication",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
    ] {
        assert!(text.contains(want), "{want} in {text}");
    }
}

#[test]
fn a_go_style_ca_made_by_openssl_loads_and_signs() {
    let f = Fixture::new();
    for args in [
        ["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", "rootCA.key"].as_slice(),
        &["req", "-x509", "-key", "rootCA.key", "-subj", "/CN=KubeEdge", "-days", "30", "-out", "rootCA.crt"],
    ] {
        let (ok, text) = f.openssl(args);
        assert!(ok, "{text}");
    }
    let ca = f.reload().expect("loads");
    assert_ne!(ca.hash_hex(), f.ca.hash_hex());
    let client = ca.issue_client("kubernetes-admin", &["system:masters"], MAX_TTL).expect("client");
    fs::write(f.path("admin.crt"), &client.cert_pem).expect("write");
    let (ok, text) = f.openssl(&[
        "verify",
        "-CAfile",
        "rootCA.crt",
        "-purpose",
        "sslclient",
        "-untrusted",
        "admin.crt",
        "admin.crt",
    ]);
    assert!(ok, "{text}");
    // A certificate does not outlive its CA.
    let der = cert_der_from_pem(&client.cert_pem).expect("der");
    let end = validity(&der).expect("validity").not_after;
    assert_eq!(end, ca.issuing_validity().not_after);
}

#[test]
fn a_node_certificate_says_who_and_when() {
    let f = Fixture::new();
    let node = NodeName::parse("edge-1").expect("name");
    let (csr, _) = new_node_csr(&node).expect("csr");
    let now = std::time::UNIX_EPOCH + Duration::from_secs(unix_secs(SystemTime::now()));
    let sign = |ttl| f.ca.sign_node_csr(&csr, &node, ttl, None, now).map(|mut chain| chain.swap_remove(0));
    let der = sign(Duration::from_secs(3600)).expect("signed");
    let identity = PeerIdentity::from_der(&der).expect("identity");
    assert_eq!(identity.node(), Some(node.clone()));
    assert_eq!(identity.spiffe_id.as_deref(), Some("spiffe://kubeedge.local/node/edge-1"));
    let valid = validity(&der).expect("validity");
    assert_eq!(valid.not_before, now - Duration::from_secs(60));
    assert_eq!(valid.not_after, now + Duration::from_secs(3600));
    assert_ne!(der, sign(Duration::from_secs(3600)).expect("signed"), "serial numbers differ");
    assert!(sign(Duration::ZERO).is_err());

    let other = NodeName::parse("edge-2").expect("name");
    let ttl = Duration::from_secs(60);
    let err = f.ca.sign_node_csr(&csr, &other, ttl, None, now).expect_err("another node");
    assert!(err.to_string().contains("CN: want \"system:node:edge-2\""), "{err}");
    let settings = CaSettings { trust_domain: "Not A Domain".into(), ..settings(f.dir.path()) };
    let err = Ca::open(settings, now).err().expect("trust domain");
    assert!(err.to_string().contains("trust domain"), "{err}");
}

#[test]
fn server_names_are_checked() {
    let f = Fixture::new();
    let ttl = Duration::from_secs(60);
    let names = ["", "::1", "*.edge.example", "spiffe://kubeedge.local/cloudcore"].map(String::from);
    let pair = f.ca.issue_server("KubeEdge", &names, ttl).expect("issued");
    let der = cert_der_from_pem(&pair.cert_pem).expect("der");
    let identity = PeerIdentity::from_der(&der).expect("identity");
    assert_eq!(identity.spiffe_id.as_deref(), Some("spiffe://kubeedge.local/cloudcore"));
    assert_eq!(identity.node(), None);
    for bad in ["two words", "a/b", "spiffe://X/y", "-"] {
        let err = f.ca.issue_server("KubeEdge", &[bad.to_owned()], ttl).expect_err(bad);
        assert!(err.to_string().contains(bad), "{err}");
    }
}

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn a_ca_that_is_gone_is_not_replaced_where_nodes_know_it() {
    let f = Fixture::new();
    for name in ["rootCA.crt", "rootCA.key", "issuing.crt", "issuing.key"] {
        fs::remove_file(f.path(name)).expect("remove");
    }
    let closed = CaSettings { may_create: false, ..settings(f.dir.path()) };
    let err = Ca::open(closed.clone(), SystemTime::now()).err().expect("refused").to_string();
    assert!(err.contains("rootCA.crt: it is missing, and no new CA is made"), "{err}");
    assert!(!f.path("rootCA.crt").exists());
    assert!(f.ca.reload(SystemTime::now()).is_err(), "a running cloudcore goes on with what it has");
    f.node_chain();
    Ca::open(CaSettings { may_create: true, ..closed }, SystemTime::now()).expect("a new cloud");
}

#[test]
fn without_the_roots_key_the_issuing_ca_works_until_its_end() {
    let f = Fixture::new();
    fs::remove_file(f.path("rootCA.key")).expect("offline");
    let now = SystemTime::now();
    let at = |later| Ca::open(settings(f.dir.path()), now + later);
    let ca = at(Duration::ZERO).expect("opens");
    assert!(!ca.has_root_key() && f.ca.has_root_key());
    assert_eq!(ca.hash_hex(), f.ca.hash_hex());
    assert_eq!(at(29 * DAY).expect("past its half").issuing_validity(), ca.issuing_validity());
    assert_eq!(ca.reload(now + 29 * DAY).expect("nothing to do"), CaChanged::default());
    let err = at(31 * DAY).err().expect("ended").to_string();
    assert!(err.contains("issuing.crt: it expired") && err.contains("rootCA.key"), "{err}");
    fs::remove_file(f.path("issuing.crt")).expect("remove");
    assert!(at(Duration::ZERO).is_err());
}

#[test]
fn the_issuing_ca_is_renewed_at_half_of_its_life_and_the_former_stays_an_anchor() {
    let f = Fixture::new();
    let now = SystemTime::now();
    let before = f.node_chain();
    assert_eq!(f.ca.reload(now + 14 * DAY).expect("reload"), CaChanged::default());
    let changed = f.ca.reload(now + 16 * DAY).expect("reload");
    assert_eq!(changed, CaChanged { bundle: false, issuing: true });
    assert_eq!(f.ca.generation(), 1);
    let after = f.node_chain();
    assert_ne!(before[1], after[1]);
    let anchors = f.ca.client_anchors_pem();
    for der in [&before[1], &after[1], &f.ca.cert_der()] {
        assert!(anchors.contains(&cert_pem_from_der(der)));
    }
    // When the former ended it is forgotten.
    let late = Ca::open(settings(f.dir.path()), now + 40 * DAY).expect("opens");
    assert!(!late.client_anchors_pem().contains(&cert_pem_from_der(&before[1])));
    // Another trust domain, another issuing CA.
    let other = CaSettings { trust_domain: "other.example".into(), ..settings(f.dir.path()) };
    let other = Ca::open(other, now + 16 * DAY).expect("opens");
    let (csr, _) = new_node_csr(&NodeName::parse("edge-1").expect("name")).expect("csr");
    let node = NodeName::parse("edge-1").expect("name");
    let chain = other.sign_node_csr(&csr, &node, DAY, None, now + 16 * DAY).expect("signed");
    let svid = crate::identity::verify_x509_svid(&chain, &other.bundle(), now + 16 * DAY).expect("verifies");
    assert_eq!(svid.id.as_str(), "spiffe://other.example/node/edge-1");
}

#[test]
fn openssl_agrees_with_the_ca_of_a_node() {
    let f = Fixture::new();
    let node = NodeName::parse("edge-1").expect("name");
    let key = crate::identity::key::EcKey::generate().expect("key");
    let request = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        change(&mut params);
        params.serialize_request(&key.for_rcgen().expect("key")).expect("csr").der().to_vec()
    };
    let now = SystemTime::now();
    let sign = |csr: &[u8]| f.ca.sign_node_ca_csr(csr, &node, DAY, None, now);
    let chain = sign(&request(&|_| {})).expect("signed");
    sign(&request(&|p| p.distinguished_name.push(rcgen::DnType::CommonName, "edge-1"))).expect("its name");

    fs::write(f.path("chain.crt"), chain_pem(&chain)).expect("write");
    for args in [
        ["verify", "-x509_strict", "-CAfile", "rootCA.crt", "-untrusted", "chain.crt", "chain.crt"]
            .as_slice(),
        &["verify", "-CAfile", "rootCA.crt", "issuing.crt"],
    ] {
        let (ok, text) = f.openssl(args);
        assert!(ok, "openssl {args:?}: {text}");
    }
    let (_, text) = f.openssl(&["x509", "-in", "chain.crt", "-noout", "-text"]);
    for want in [
        "Subject: O = kubeedge node CA, CN = edge-1",
        "CA:TRUE, pathlen:0",
        "X509v3 Name Constraints: critical",
        "Permitted:\n                  DNS:edge-1.nodes.kubeedge.local",
        "Excluded:\n                  IP:0.0.0.0/0.0.0.0",
        "IP:0:0:0:0:0:0:0:0/0:0:0:0:0:0:0:0",
        "URI:spiffe://kubeedge.local\n",
        "X509v3 Key Usage: critical\n                Certificate Sign\n",
    ] {
        assert!(text.contains(want), "{want} in {text}");
    }
    let (_, text) = f.openssl(&["x509", "-in", "issuing.crt", "-noout", "-text"]);
    for want in ["Issuer: CN = KubeEdge\n", "CA:TRUE, pathlen:1", "URI:spiffe://kubeedge.local\n"] {
        assert!(text.contains(want), "{want} in {text}");
    }

    // A workload below it, and one whose DNS name is outside: OpenSSL keeps the constraints too.
    let authority = crate::identity::signer::AuthorityKey::new(std::sync::Arc::new(
        crate::identity::signer::SoftKey::new(&key).expect("key"),
    ));
    let authority = issuing::Authority::new(chain[0].clone(), authority).expect("authority");
    let mut params =
        issuing::base("web", &[], authority.window(DAY, None, now).expect("window")).expect("params");
    let id = crate::identity::SpiffeId::parse("spiffe://kubeedge.local/ns/a/sa/b").expect("id");
    for (dns, want) in [("web.edge-1.nodes.kubeedge.local", true), ("cloud.example", false)] {
        params.subject_alt_names = vec![issuing::uri_san(&id).expect("id"), issuing::san(dns).expect("dns")];
        let public = EcKey::generate().expect("key").for_rcgen().expect("key");
        let leaf = authority.sign(&params, &public).expect("leaf");
        fs::write(f.path("leaf.crt"), cert_pem_from_der(&leaf)).expect("write");
        for purpose in ["sslclient", "sslserver"] {
            let args = [
                "verify",
                "-CAfile",
                "rootCA.crt",
                "-purpose",
                purpose,
                "-untrusted",
                "chain.crt",
                "leaf.crt",
            ];
            let (ok, text) = f.openssl(&args);
            assert_eq!(ok, want, "{dns}: {text}");
            assert!(want || text.contains("permitted subtree violation"), "{text}");
        }
    }

    for (case, csr, want) in [
        ("another node", request(&|p| p.distinguished_name.push(rcgen::DnType::CommonName, "edge-2")), "CN:"),
        (
            "extra names",
            request(&|p| p.subject_alt_names = vec![issuing::san("cloud.example").expect("dns")]),
            "subjectAltName:",
        ),
        ("no request", b"nonsense".to_vec(), "not a PKCS#10 request"),
    ] {
        let err = sign(&csr).expect_err(case).to_string();
        assert!(err.contains(want), "{case}: {err}");
    }
}

#[test]
fn openssl_follows_a_rotation() {
    let f = Fixture::new();
    fs::copy(f.path("rootCA.crt"), f.path("first.crt")).expect("copy");
    let now = SystemTime::now();
    let rotation = crate::identity::Rotation::new(&settings(f.dir.path())).expect("rotation");
    rotation.prepare(now).expect("prepared");
    rotation.activate(now).expect("activated");
    f.ca.reload(now).expect("reload");
    fs::write(f.path("node.crt"), chain_pem(&f.node_chain())).expect("write");
    for root in ["first.crt", "rootCA.crt"] {
        let args = [
            "verify",
            "-x509_strict",
            "-CAfile",
            root,
            "-purpose",
            "sslclient",
            "-untrusted",
            "node.crt",
            "node.crt",
        ];
        let (ok, text) = f.openssl(&args);
        assert!(ok, "{root}: {text}");
    }
    let (_, text) = f.openssl(&["x509", "-in", "rootCA.crt", "-noout", "-subject"]);
    assert!(text.contains("CN = KubeEdge, OU = root "), "{text}");
}

#[test]
fn a_certificate_after_a_pardon_does_not_begin_before_it() {
    let f = Fixture::new();
    let node = NodeName::parse("edge-1").expect("name");
    let (csr, _) = new_node_csr(&node).expect("csr");
    let now = std::time::UNIX_EPOCH + Duration::from_secs(unix_secs(SystemTime::now()));
    let sign = |min| f.ca.sign_node_csr(&csr, &node, DAY, Some(min), now);
    let begins = |min| validity(&sign(min).expect("signed")[0]).expect("validity").not_before;
    assert_eq!(begins(now - DAY), now - Duration::from_secs(60), "long ago changes nothing");
    assert_eq!(begins(now - Duration::from_secs(10)), now - Duration::from_secs(10));
    assert_eq!(begins(now + Duration::from_secs(1)), now + Duration::from_secs(1));
    assert!(sign(now + 2 * DAY).is_err(), "it would end before it begins");
}

#[test]
fn seals_hold_for_years_and_follow_rotations() {
    let f = Fixture::new();
    let node = NodeName::parse("edge-1").expect("name");
    let now = std::time::UNIX_EPOCH + Duration::from_secs(unix_secs(SystemTime::now()));
    let bundle = f.ca.bundle();
    let check = |text: &str, payload: &[u8]| seal::verify(text, "pod", &node, payload, &bundle);
    let one = f.ca.seal("pod", &node, b"one", now).expect("sealed");
    let two = f.ca.seal("pod", &node, b"two", now + Duration::from_secs(3600)).expect("sealed");
    let (first, second) = (check(&one, b"one").expect("holds"), check(&two, b"two").expect("holds"));
    assert_eq!((first.sealed_at, &first.serial_hex), (now, &second.serial_hex), "one certificate for many");
    assert!(check(&one, b"two").is_err());

    // Past half of its life the signer is renewed; what it sealed stays sealed.
    let later = f.ca.seal("pod", &node, b"one", now + Duration::from_secs(13 * 3600)).expect("sealed");
    assert_ne!(check(&later, b"one").expect("holds").serial_hex, first.serial_hex);
    check(&one, b"one").expect("holds on");
    for back in [600, 7200, 90 * 86_400] {
        let set_back = f.ca.seal("pod", &node, b"one", now - Duration::from_secs(back)).expect("sealed");
        check(&set_back, b"one").unwrap_or_else(|err| panic!("a clock that was set back by {back} s: {err}"));
    }

    // A new root seals so that who knows only the old one believes it.
    let rotation = crate::identity::Rotation::new(&settings(f.dir.path())).expect("rotation");
    rotation.prepare(now).expect("prepared");
    rotation.activate(now).expect("activated");
    f.ca.reload(now).expect("reload");
    let rotated = f.ca.seal("pod", &node, b"one", now).expect("sealed");
    check(&rotated, b"one").expect("the cross certificate is in it");
    seal::verify(&rotated, "pod", &node, b"one", &f.ca.bundle()).expect("holds");
}
