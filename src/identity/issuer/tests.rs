use std::fs;
use std::process::Command;

use super::super::key::cert_pem_from_der;
use super::super::peer::{PeerIdentity, parse};
use super::super::test_authority::{Authority, DAY, TRUST_DOMAIN};
use super::super::{KeyPair, client_tls};
use super::*;

fn id(path: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://{TRUST_DOMAIN}{path}")).expect("id")
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn svids_say_who_and_when_and_differ() {
    let authority = Authority::new();
    let (credentials, _) = authority.credentials("edge-1");
    let issuer = WorkloadIssuer::new(&credentials).expect("issuer");
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_secs(authority.now));
    let names = vec!["edge-1.nodes.kubeedge.local".to_owned(), "a.edge-1.nodes.kubeedge.local".to_owned()];
    let svid = issuer.x509(&id("/ns/default/sa/web"), &names, HOUR, now).expect("svid");
    assert_eq!(svid.chain.len(), 3, "leaf, node CA, issuing CA");
    let leaf = &svid.chain[0];
    assert_eq!(
        PeerIdentity::from_der(leaf).expect("id").spiffe_id.as_deref(),
        Some(id("/ns/default/sa/web").as_str())
    );
    let life = validity(leaf).expect("validity");
    assert_eq!((life.not_before, life.not_after), (now - BACKDATE, now + HOUR));
    assert_eq!(svid.not_after, now + HOUR);
    let short = issuer.x509(&id("/ns/default/sa/web"), &[], Duration::from_secs(20), now).expect("svid");
    assert_eq!(validity(&short.chain[0]).expect("validity").not_before, now - Duration::from_secs(2));

    let mut serials = std::collections::BTreeSet::new();
    for _ in 0..50 {
        let svid = issuer.x509(&id("/device/default/sensor"), &[], HOUR, now).expect("svid");
        let cert = parse(&svid.chain[0]).expect("cert");
        let shown: String = cert.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(svid.serial_hex, shown);
        serials.insert(cert.raw_serial().to_vec());
    }
    assert_eq!(serials.len(), 50);

    // Nothing outlives the node's CA.
    let long = issuer.x509(&id("/ns/a/sa/b"), &[], 30 * DAY, now).expect("svid");
    assert_eq!(long.not_after, issuer.ends_at());
    assert_eq!(validity(&long.chain[0]).expect("validity").not_after, issuer.ends_at());
    let (_, expires_at) = issuer.jwt(&id("/ns/a/sa/b"), &["x".into()], 30 * DAY, now).expect("jwt");
    assert_eq!(expires_at, unix_secs(issuer.ends_at()));
}

#[test]
fn what_a_node_may_not_give_is_named() {
    let authority = Authority::new();
    let (credentials, _) = authority.credentials("edge-1");
    let issuer = WorkloadIssuer::new(&credentials).expect("issuer");
    let now = authority.now;
    let other = SpiffeId::parse("spiffe://else.where/ns/a/sa/b").expect("id");
    let x509 = |id: &SpiffeId, dns: &[&str], ttl, now| {
        let names: Vec<String> = dns.iter().map(|name| (*name).to_owned()).collect();
        issuer.x509(id, &names, ttl, now).expect_err("refused").to_string()
    };
    let good = id("/ns/a/sa/b");
    for (case, err, want) in [
        ("trust domain", x509(&other, &[], HOUR, now), "of another trust domain"),
        ("the node", x509(&id("/node/edge-1"), &[], HOUR, now), "is no workload's"),
        ("cloudcore", x509(&id("/cloudcore"), &[], HOUR, now), "is no workload's"),
        ("the trust domain itself", x509(&id(""), &[], HOUR, now), "is no workload's"),
        ("a path that looks like one", x509(&id("/nsx/a"), &[], HOUR, now), "is no workload's"),
        ("DNS of another node", x509(&good, &["edge-2.nodes.kubeedge.local"], HOUR, now), "edge-2.nodes"),
        (
            "DNS with our name at its end",
            x509(&good, &["xedge-1.nodes.kubeedge.local"], HOUR, now),
            "xedge-1",
        ),
        ("an address", x509(&good, &["10.0.0.1"], HOUR, now), "10.0.0.1"),
        ("no DNS name", x509(&good, &["a b"], HOUR, now), "it is none"),
        ("no life", x509(&good, &[], Duration::ZERO, now), "longer than 0 s"),
        ("the CA ended", x509(&good, &[], HOUR, now + 2 * DAY), "this node's CA has expired"),
        (
            "no audience",
            issuer.jwt(&good, &[], HOUR, now).expect_err("refused").to_string(),
            "needs an audience",
        ),
        (
            "the node's JWT",
            issuer.jwt(&id("/node/edge-1"), &["x".into()], HOUR, now).expect_err("refused").to_string(),
            "is no workload's",
        ),
    ] {
        assert!(err.contains(want), "{case}: {err}");
    }

    let but = |change: &dyn Fn(&mut NodeCredentials)| {
        let mut credentials = credentials.clone();
        change(&mut credentials);
        WorkloadIssuer::new(&credentials).err().expect("refused").to_string()
    };
    let foreign = authority.credentials("edge-1").0.node_ca.expect("CA");
    let key_of_another = |credentials: &mut NodeCredentials| {
        if let Some(ca) = &mut credentials.node_ca {
            ca.key_pem.clone_from(&foreign.key_pem);
        }
    };
    assert!(but(&|c| c.node_ca = None).contains("the cloud gave this node no CA"));
    assert!(but(&|c| c.jwt_key_pem = None).contains("no key for JWT-SVIDs"));
    assert!(but(&key_of_another).contains("is not its key's"));
}

/// Independent of our own reading: chain, purposes, constraints, key.
#[test]
fn openssl_agrees_with_a_workloads_chain() {
    let authority = Authority::new();
    let (credentials, _) = authority.credentials("edge-1");
    let issuer = WorkloadIssuer::new(&credentials).expect("issuer");
    let names = vec!["web.edge-1.nodes.kubeedge.local".to_owned()];
    let svid = issuer.x509(&id("/ns/default/sa/web"), &names, HOUR, authority.now).expect("svid");
    let dir = tempfile::tempdir().expect("temp dir");
    let write = |name: &str, text: &[u8]| fs::write(dir.path().join(name), text).expect("write");
    write("root.crt", cert_pem_from_der(&authority.root.der).as_bytes());
    write("leaf.crt", cert_pem_from_der(&svid.chain[0]).as_bytes());
    let between: String = svid.chain[1..].iter().map(|der| cert_pem_from_der(der)).collect();
    write("between.crt", between.as_bytes());
    write("key.der", &svid.key_pkcs8);
    let openssl = |args: &[&str]| {
        let out = Command::new("openssl").args(args).current_dir(dir.path()).output().expect("openssl runs");
        (out.status.success(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    };
    let verify = ["verify", "-x509_strict", "-CAfile", "root.crt", "-untrusted", "between.crt"];
    for purpose in ["sslclient", "sslserver"] {
        let args = [verify.as_slice(), &["-purpose", purpose, "leaf.crt"]].concat();
        let (ok, text) = openssl(&args);
        assert!(ok, "{purpose}: {text}");
    }
    let host = ["-verify_hostname", "web.edge-1.nodes.kubeedge.local", "leaf.crt"];
    let (ok, text) = openssl(&[verify.as_slice(), &host].concat());
    assert!(ok, "{text}");
    let (ok, text) = openssl(&["pkey", "-inform", "DER", "-in", "key.der", "-pubout"]);
    let (_, public) = openssl(&["x509", "-in", "leaf.crt", "-noout", "-pubkey"]);
    assert!(ok && text == public, "{text}{public}");
    let (_, text) = openssl(&["x509", "-in", "leaf.crt", "-noout", "-text"]);
    for want in [
        "URI:spiffe://kubeedge.local/ns/default/sa/web",
        "CA:FALSE",
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
        "X509v3 Authority Key Identifier",
    ] {
        assert!(text.contains(want), "{want} in {text}");
    }

    // rustls takes it as well: the chain and key of a client.
    let pair = KeyPair {
        cert_pem: svid.chain.iter().map(|der| cert_pem_from_der(der)).collect(),
        key_pem: super::super::key::EcKey::from_pem(
            openssl(&["pkey", "-inform", "DER", "-in", "key.der"]).1.as_bytes(),
        )
        .expect("key")
        .to_pem(),
    };
    client_tls(&credentials.roots_pem, Some(&pair)).expect("rustls");
}

/// The SPIFFE project's own reader in Rust takes chain and key as they go over the Workload API.
#[test]
fn the_spiffe_crate_reads_a_workloads_svid() {
    let authority = Authority::new();
    let (credentials, _) = authority.credentials("edge-1");
    let issuer = WorkloadIssuer::new(&credentials).expect("issuer");
    let svid = issuer.x509(&id("/ns/default/sa/web"), &[], HOUR, authority.now).expect("svid");
    let read = spiffe::X509Svid::parse_from_der(&svid.chain.concat(), &svid.key_pkcs8).expect("X.509-SVID");
    assert_eq!(read.spiffe_id().to_string(), id("/ns/default/sa/web").as_str());
    assert_eq!(read.cert_chain().len(), 3);
}

/// The signature of a JWT-SVID, checked by OpenSSL with the key that is published.
#[test]
fn openssl_agrees_with_a_jwt_svid() {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let authority = Authority::new();
    let (credentials, bundle) = authority.credentials("edge-1");
    let issuer = WorkloadIssuer::new(&credentials).expect("issuer");
    let (jwt, _) = issuer.jwt(&id("/ns/a/sa/b"), &["db".into()], HOUR, authority.now).expect("jwt");
    let (signed, signature) = jwt.rsplit_once('.').expect("parts");
    let raw = URL_SAFE_NO_PAD.decode(signature).expect("base64url");
    let integer = |bytes: &[u8]| {
        let start = bytes.iter().position(|byte| *byte != 0).expect("not zero");
        let mut out = bytes[start..].to_vec();
        if out[0] & 0x80 != 0 {
            out.insert(0, 0);
        }
        [vec![0x02, u8::try_from(out.len()).expect("short")], out].concat()
    };
    let pair = [integer(&raw[..32]), integer(&raw[32..])].concat();
    let asn1 = [vec![0x30, u8::try_from(pair.len()).expect("short")], pair].concat();
    let point = super::super::jwk::point(&bundle.jwt_keys[0]).expect("published key");
    let head = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
    let head = (0..head.len()).step_by(2).map(|i| u8::from_str_radix(&head[i..i + 2], 16).expect("hex"));
    let spki: Vec<u8> = head.chain(point).collect();

    let dir = tempfile::tempdir().expect("temp dir");
    let write = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).expect("write");
    write("signed", signed.as_bytes());
    write("other", format!("{signed}x").as_bytes());
    write("signature", &asn1);
    write("key.der", &spki);
    let verifies = |data: &str| {
        let args = ["dgst", "-sha256", "-verify", "key.pem", "-signature", "signature", data];
        Command::new("openssl")
            .args(args)
            .current_dir(dir.path())
            .output()
            .expect("openssl runs")
            .status
            .success()
    };
    let convert = ["pkey", "-pubin", "-inform", "DER", "-in", "key.der", "-out", "key.pem"];
    let out = Command::new("openssl").args(convert).current_dir(dir.path()).output().expect("openssl runs");
    assert!(out.status.success(), "{out:?}");
    assert!(verifies("signed") && !verifies("other"));
}
