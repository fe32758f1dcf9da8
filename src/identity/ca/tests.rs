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
