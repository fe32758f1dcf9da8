use proptest::prelude::*;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose as Purpose, IsCa, KeyUsagePurpose,
    SanType,
};

use super::*;
use crate::identity::issuing::{self, Authority};
use crate::identity::key::EcKey;
use crate::identity::peer::Validity;
use crate::identity::signer::{AuthorityKey, KeyStore, KeysInFiles};
use crate::identity::test_chain::*;

const HOUR: Duration = Duration::from_secs(3600);

fn change(change: impl FnOnce(&mut CertificateParams) + 'static) -> Box<dyn FnOnce(&mut CertificateParams)> {
    Box::new(change)
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ascii"))
}

type Change = Box<dyn FnOnce(&mut CertificateParams)>;

#[test]
fn what_verifies_and_what_it_says() {
    let w = World::new();
    for (case, chain, path, issuer) in [
        ("a node", w.leaf("/node/edge-1", HOUR), "/node/edge-1", SvidIssuer::Cloud),
        ("cloudcore", w.leaf("/cloudcore", HOUR), "/cloudcore", SvidIssuer::Cloud),
        (
            "a workload",
            w.workload("edge-1", "/ns/default/sa/web"),
            "/ns/default/sa/web",
            SvidIssuer::Node(node("edge-1")),
        ),
        (
            "a device",
            w.workload("edge-1", "/device/default/s1"),
            "/device/default/s1",
            SvidIssuer::Node(node("edge-1")),
        ),
    ] {
        let svid = verify_x509_svid(&chain, &w.bundle(), now()).unwrap_or_else(|err| panic!("{case}: {err}"));
        assert_eq!((svid.id.path(), &svid.issuer), (path, &issuer), "{case}");
        assert_eq!((svid.not_before, svid.not_after), (now() - HOUR / 60, now() + HOUR), "{case}");
        assert_eq!(svid.peer.spiffe_id.as_deref(), Some(svid.id.as_str()), "{case}");
        assert!(svid.serial_hex.len() >= 20, "{case}: {}", svid.serial_hex);
    }
}

#[test]
fn leaves_that_are_no_svids() {
    let w = World::new();
    let id = |path: &str| format!("spiffe://{DOMAIN}{path}");
    let san = |text: String| change(move |p| p.subject_alt_names = vec![uri(&text)]);
    let long = id(&format!("/ns/{}", "a".repeat(2_048)));
    let cases: Vec<(&str, Change, &str, &str)> = vec![
        ("no name", change(|p| p.subject_alt_names.clear()), "not_svid", "0 URI names"),
        (
            "two URI names",
            change(|p| p.subject_alt_names.push(uri("spiffe://kubeedge.local/ns/a/sa/c"))),
            "not_svid",
            "2 URI names",
        ),
        (
            "a URI beside",
            change(|p| p.subject_alt_names.push(uri("https://example.com/"))),
            "not_svid",
            "2 URI names",
        ),
        (
            "DNS name only",
            change(|p| p.subject_alt_names = vec![SanType::DnsName("a.example".try_into().expect("dns"))]),
            "not_svid",
            "0 URI names",
        ),
        ("another scheme", san("https://kubeedge.local/ns/a/sa/b".into()), "not_svid", "spiffe://"),
        ("another domain", san("spiffe://evil.example/ns/a/sa/b".into()), "trust_domain", "evil.example"),
        ("capitals", san("spiffe://KubeEdge.local/ns/a/sa/b".into()), "not_svid", "lower-case"),
        ("percent", san(id("/ns/%61/sa/b")), "not_svid", "path segments"),
        ("dots", san(id("/ns/a/../b")), "not_svid", "path segments"),
        ("double slash", san(id("/ns//sa/b")), "not_svid", "path segments"),
        ("trailing slash", san(id("/ns/a/")), "not_svid", "path segments"),
        ("query", san(id("/ns/a?x=1")), "not_svid", "path segments"),
        ("too long", san(long), "not_svid", "2048"),
        ("the domain itself", san(id("")), "not_svid", "has no path"),
        (
            "CA bit",
            change(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            "not_svid",
            "it is a CA's",
        ),
        (
            "signs certificates",
            change(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
            "not_svid",
            "key usage",
        ),
        ("signs CRLs", change(|p| p.key_usages.push(KeyUsagePurpose::CrlSign)), "not_svid", "key usage"),
        ("no key usage", change(|p| p.key_usages.clear()), "not_svid", "no key usage"),
        (
            "no digitalSignature",
            change(|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
            "not_svid",
            "key usage",
        ),
        (
            "server only",
            change(|p| p.extended_key_usages = vec![Purpose::ServerAuth]),
            "not_svid",
            "extended key usage",
        ),
        (
            "code signing",
            change(|p| p.extended_key_usages = vec![Purpose::CodeSigning]),
            "not_svid",
            "extended key usage",
        ),
    ];
    for (case, change, reason, why) in cases {
        let chain = w.changed("edge-1", "/ns/a/sa/b", change);
        let err = verify_x509_svid(&chain, &w.bundle(), now()).expect_err(case);
        assert_eq!(err.reason(), reason, "{case}: {err}");
        assert!(err.to_string().contains(why), "{case}: {err}");
    }
    let plain = w.changed("edge-1", "/ns/a/sa/b", change(|p| p.extended_key_usages.clear()));
    verify_x509_svid(&plain, &w.bundle(), now()).expect("extended key usages may be absent");
}

#[test]
fn who_may_sign_what() {
    let w = World::new();
    for path in ["/node/edge-1", "/node/edge-2", "/cloudcore", "/nsx/a", "/ns", "/device", "/other"] {
        let chain = w.workload("edge-1", path);
        let err = verify_x509_svid(&chain, &w.bundle(), now()).expect_err(path);
        assert_eq!(err.reason(), "path", "{path}: {err}");
    }
    let own = w.workload("edge-1", "/ns/a/sa/b");
    let others = w.workload("edge-2", "/ns/a/sa/b");
    let stranger = World::new();
    let foreign = stranger.workload("edge-1", "/ns/a/sa/b");
    let with = |leaf: &Vec<Vec<u8>>, rest: &Vec<Vec<u8>>| [&leaf[..1], &rest[1..]].concat();
    let mut forged = own.clone();
    if let Some(byte) = forged[0].last_mut() {
        *byte ^= 1;
    }
    let mut swapped = own.clone();
    swapped.swap(0, 1);
    // A node that makes itself a second authority: pathLen 0 ends it.
    let second_key = KeysInFiles.create().expect("key").0;
    let window = Validity { not_before: now() - HOUR, not_after: now() + HOUR };
    let second = issuing::node_ca(&node("edge-2"), DOMAIN, window).expect("params");
    let second = w.node_authority("edge-1").sign(&second, &second_key).expect("signed");
    let second = Authority::new(second, second_key).expect("authority");
    let mut under_second = vec![w.leaf_of(&second, "/ns/a/sa/b", HOUR, change(|_| {})), second.der.clone()];
    under_second.extend(own[1..].iter().cloned());
    for (case, chain, reason) in [
        ("forged", forged, "untrusted"),
        ("another trust domain's root", foreign.clone(), "untrusted"),
        ("through another node's intermediate", with(&own, &others), "untrusted"),
        ("leaf of a stranger, chain of ours", with(&foreign, &own), "untrusted"),
        ("without the node's CA", vec![own[0].clone(), own[2].clone()], "untrusted"),
        ("without the issuing CA", own[..2].to_vec(), "untrusted"),
        ("leaf not first", swapped, "not_svid"),
        ("only the CA", own[1..].to_vec(), "not_svid"),
        ("a node's CA below a node's CA", under_second, "untrusted"),
        ("none", vec![], "depth"),
        ("too deep", [own.clone(), own.clone()].concat(), "depth"),
        ("not a certificate", vec![b"nonsense".to_vec()], "malformed"),
        ("huge", vec![vec![0x30; MAX_CERTIFICATE_BYTES + 1]], "malformed"),
    ] {
        let err = verify_x509_svid(&chain, &w.bundle(), now()).expect_err(case);
        assert_eq!(err.reason(), reason, "{case}: {err}");
    }
    let bundle = TrustBundle { trust_domain: "other.example".into(), ..w.bundle() };
    assert_eq!(verify_x509_svid(&own, &bundle, now()).expect_err("domain").reason(), "trust_domain");
    let spare = [own.clone(), vec![others[1].clone()]].concat();
    let svid = verify_x509_svid(&spare, &w.bundle(), now()).expect("an unused certificate is no harm");
    assert_eq!(svid.issuer, SvidIssuer::Node(node("edge-1")));
}

#[test]
fn dns_names_of_a_workload_stay_below_its_node() {
    let w = World::new();
    let named = |name: &str| {
        let name = SanType::DnsName(name.try_into().expect("dns"));
        w.changed("edge-1", "/ns/a/sa/b", change(move |p| p.subject_alt_names.push(name)))
    };
    verify_x509_svid(&named("web.edge-1.nodes.kubeedge.local"), &w.bundle(), now()).expect("its own name");
    for foreign in ["cloud.example", "web.edge-2.nodes.kubeedge.local", "edge-11.nodes.kubeedge.local"] {
        let err = verify_x509_svid(&named(foreign), &w.bundle(), now()).expect_err(foreign);
        assert_eq!(err.reason(), "untrusted", "{foreign}: {err}");
    }
    let address = change(|p| p.subject_alt_names.push(SanType::IpAddress([10, 0, 0, 1].into())));
    let chain = w.changed("edge-1", "/ns/a/sa/b", address);
    assert_eq!(verify_x509_svid(&chain, &w.bundle(), now()).expect_err("address").reason(), "untrusted");
}

/// Authorities that only look like ours: their names are signed by a root, their rights are not.
#[test]
fn authorities_must_be_ours() {
    let w = World::new();
    let make = |cn: &str, org: &str, id: Option<&str>, usage: KeyUsagePurpose| {
        let window = Validity { not_before: now() - HOUR, not_after: now() + HOUR };
        let mut params = issuing::base(cn, &[org], window).expect("params");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
        params.key_usages = vec![usage];
        params.subject_alt_names = id.map(uri).into_iter().collect();
        let key = KeysInFiles.create().expect("key").0;
        let der = w.root.sign(&params, &key).expect("signed");
        Authority::new(der, key)
    };
    let sign = KeyUsagePurpose::KeyCertSign;
    let td = Some("spiffe://kubeedge.local");
    for (case, authority, want) in [
        ("as ours", make("x", "KubeEdge", td, sign), Ok(SvidIssuer::Cloud)),
        ("no name", make("x", "KubeEdge", None, sign), Ok(SvidIssuer::Cloud)),
        ("another domain", make("x", "KubeEdge", Some("spiffe://evil.example"), sign), Err("authority")),
        ("a path", make("x", "KubeEdge", Some("spiffe://kubeedge.local/node/a"), sign), Err("authority")),
        ("no node's name", make("No Node", NODE_CA_ORGANIZATION, td, sign), Err("authority")),
    ] {
        let authority = authority.expect("authority");
        let leaf = w.leaf_of(&authority, "/ns/a/sa/b", HOUR, change(|_| {}));
        let got = verify_x509_svid(&[leaf, authority.der.clone()], &w.bundle(), now());
        match (got, want) {
            (Ok(svid), Ok(issuer)) => assert_eq!(svid.issuer, issuer, "{case}"),
            (Err(err), Err(reason)) => assert_eq!(err.reason(), reason, "{case}: {err}"),
            (got, want) => panic!("{case}: got {got:?}, want {want:?}"),
        }
    }
}

#[test]
fn keys_and_signatures_are_p256() {
    let w = World::new();
    let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("key");
    let leaf = w.leaf_params("/ns/a/sa/b", HOUR);
    let mut chain = w.workload("edge-1", "/ns/a/sa/b");
    chain[0] = w.node_authority("edge-1").sign(&leaf, &p384).expect("signed");
    let err = verify_x509_svid(&chain, &w.bundle(), now()).expect_err("P-384 leaf");
    assert_eq!(err.reason(), "not_svid", "{err}");

    // A root of another curve signs nothing that counts.
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "P-384 root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = params.self_signed(&p384).expect("root");
    let issuer = rcgen::Issuer::new(params, &p384);
    let key = EcKey::generate().expect("key").for_rcgen().expect("key");
    let signed = leaf.signed_by(&key, &issuer).expect("signed");
    let bundle = TrustBundle { roots: vec![root.der().to_vec()], ..w.bundle() };
    let err = verify_x509_svid(&[signed.der().to_vec()], &bundle, now()).expect_err("P-384 root");
    assert_eq!(err.reason(), "untrusted", "{err}");
}

#[test]
fn clocks_an_hour_off_either_way() {
    let w = World::new();
    let short = w.leaf("/node/edge-1", HOUR / 2);
    let long = w.leaf("/node/edge-1", 2 * HOUR);
    for (case, chain, at, want) in [
        ("right clock", &short, now(), Ok(())),
        ("an hour fast, certificate of half an hour", &short, now() + HOUR, Err("expired")),
        ("an hour fast, certificate of two", &long, now() + HOUR, Ok(())),
        ("an hour slow", &long, now() - HOUR, Err("not_yet_valid")),
        ("half a minute slow", &long, now() - HOUR / 120, Ok(())),
        ("the last second", &short, now() + HOUR / 2, Ok(())),
        ("the second after", &short, now() + HOUR / 2 + Duration::from_secs(1), Err("expired")),
        ("1970", &long, UNIX_EPOCH, Err("not_yet_valid")),
        ("before 1970", &long, UNIX_EPOCH - HOUR, Err("not_yet_valid")),
    ] {
        let got = verify_x509_svid(chain, &w.bundle(), at);
        assert_eq!(got.map(drop).map_err(|err| err.reason()), want, "{case}");
    }
    // The chain above the leaf ends too.
    let mut chain = w.workload("edge-1", "/ns/a/sa/b");
    chain[0] = w.leaf_of(
        w.node_authority("edge-1"),
        "/ns/a/sa/b",
        Duration::from_secs(900 * 86_400),
        change(|_| {}),
    );
    let late = now() + Duration::from_secs(31 * 86_400);
    assert_eq!(verify_x509_svid(&chain, &w.bundle(), late).expect_err("ended").reason(), "expired");
}

proptest! {
    #[test]
    fn any_bytes_never_panic(chain in proptest::collection::vec(
        proptest::collection::vec(any::<u8>(), 0..200), 0..7)
    ) {
        prop_assert!(verify_x509_svid(&chain, &fixed().bundle(), now()).is_err());
    }

    #[test]
    fn any_flipped_byte_is_refused_or_says_the_same(at in 0usize..3_000, flip in 1u8..) {
        let world = fixed();
        let good = world.fixed_chain.clone();
        let svid = verify_x509_svid(&good, &world.bundle(), now()).expect("good");
        let (mut chain, mut at) = (good, at);
        for der in &mut chain {
            if let Some(byte) = der.get_mut(at) {
                *byte ^= flip;
                break;
            }
            at -= der.len();
        }
        if let Ok(other) = verify_x509_svid(&chain, &world.bundle(), now()) {
            prop_assert_eq!(other, svid);
        }
    }
}

/// Made once: keys cost time.
fn fixed() -> &'static World {
    static WORLD: std::sync::OnceLock<World> = std::sync::OnceLock::new();
    WORLD.get_or_init(World::new)
}

#[test]
fn keys_never_show_in_debug_output() {
    let key: AuthorityKey = KeysInFiles.create().expect("key").0;
    assert_eq!(format!("{key:?}"), "AuthorityKey(..)");
}
