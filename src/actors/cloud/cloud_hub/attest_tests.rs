//! Who gets in without a session, and what everybody else is told.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair as RcgenPair};
use serde_json::json;

use super::*;
use crate::bus::identity::Revocation;
use crate::identity::{
    Ca, CaSettings, KeyPair, MintOptions, NodeRequest, PeerIdentity, Validity, cert_ders_from_pem, chain_pem,
    new_node_csr, prove, split_join_token,
};
use crate::model::unix_secs;

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

struct Cloud {
    ca: Ca,
    tokens: JoinTokens,
    factory: FactoryRoots,
    revoked: Revoked,
    now: SystemTime,
    _folder: tempfile::TempDir,
    maker: Issuer<'static, RcgenPair>,
}

fn factory_params(cn: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, cn);
    params
}

impl Cloud {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let now = SystemTime::now();
        // It has been there for some days: what it signed may have ended.
        let ca = Ca::open(CaSettings::new(&at("ca.crt"), &at("ca.key")), now - 4 * DAY).unwrap();
        let key = RcgenPair::generate().unwrap();
        let mut params = factory_params("factory");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        Self {
            tokens: JoinTokens::load_or_create(&at("token.key")).unwrap(),
            factory: FactoryRoots::from_pem(root.pem().as_bytes()).unwrap(),
            revoked: Revoked::new(),
            maker: Issuer::new(params, key),
            now,
            ca,
            _folder: folder,
        }
    }

    /// A CSR as a node that joins makes it.
    fn csr(name: &str) -> Vec<u8> {
        new_node_csr(&node(name)).unwrap().0
    }

    /// A node's SVID, signed `ago` for `ttl`.
    fn svid(&self, name: &str, ago: Duration, ttl: Duration) -> KeyPair {
        let (csr, key_pem) = new_node_csr(&node(name)).unwrap();
        let chain = self.ca.sign_node_csr(&csr, &node(name), ttl, None, self.now - ago).unwrap();
        KeyPair { cert_pem: chain_pem(&chain), key_pem }
    }

    fn svid_proof(pair: &KeyPair, name: &str, csr: &[u8]) -> Evidence {
        let chain = cert_ders_from_pem(&pair.cert_pem);
        Evidence::Svid { proof: prove(REENTRY_CONTEXT, &node(name), csr, chain, &pair.key_pem).unwrap() }
    }

    fn factory_proof(&self, certified: &str, asked: &str, csr: &[u8]) -> Evidence {
        let key = RcgenPair::generate().unwrap();
        let leaf = factory_params(certified).signed_by(&key, &self.maker).unwrap();
        let chain = vec![leaf.der().to_vec()];
        let proof = prove(X509POP_CONTEXT, &node(asked), csr, chain, &key.serialize_pem()).unwrap();
        Evidence::X509pop { proof }
    }

    fn token(&self, options: MintOptions) -> Evidence {
        let (token, _) = self.tokens.mint(&self.ca.hash_hex(), options, self.now);
        Evidence::JoinToken { token: split_join_token(&token).unwrap().1 }
    }

    fn judge(
        &self,
        peer: Option<&NodePeer>,
        name: &str,
        evidence: &Evidence,
        csr: &[u8],
    ) -> Result<Shown, Denied> {
        self.judge_at(self.now, Some(&self.factory), peer, name, evidence, csr)
    }

    fn judge_at(
        &self,
        now: SystemTime,
        factory: Option<&FactoryRoots>,
        peer: Option<&NodePeer>,
        name: &str,
        evidence: &Evidence,
        csr: &[u8],
    ) -> Result<Shown, Denied> {
        let bundle = self.ca.bundle();
        let world =
            World { tokens: &self.tokens, factory, bundle: &bundle, grace: DAY, revoked: &self.revoked, now };
        judge(&world, peer, &node(name), evidence, csr)
    }

    fn revoke(&mut self, name: &str, allowed: Option<SystemTime>) {
        let at = unix_secs(self.now) - 100;
        let revocation = Revocation { at, reason: "stolen".to_owned(), allowed_at: allowed.map(unix_secs) };
        self.revoked.insert(node(name), revocation);
    }
}

fn refused(result: Result<Shown, Denied>, code: u16, reason: Refused, word: &str, case: &str) {
    let denied = result.expect_err(case);
    assert_eq!((denied.code, denied.reason), (code, reason), "{case}: {}", denied.why);
    assert!(denied.why.contains(word), "{case}: {}", denied.why);
}

#[test]
fn tokens() {
    let mut cloud = Cloud::new();
    let csr = Cloud::csr("edge-1");
    let bound = MintOptions { node: Some(node("edge-1")), ..MintOptions::once(HOUR) };
    for options in [MintOptions::once(HOUR), bound.clone()] {
        let shown = cloud.judge(None, "edge-1", &cloud.token(options), &csr).unwrap();
        assert!(matches!(shown.way, Way::Token(claims) if !claims.reusable));
        assert_eq!(shown.not_before_min, None);
    }
    let minute = MintOptions::once(Duration::from_secs(60));
    let short = cloud.token(minute.clone());
    let late = cloud.now + Duration::from_secs(61);
    let other = Cloud::new();
    let reusable = MintOptions { reusable: true, ..minute.clone() };
    let garbage = Evidence::JoinToken { token: "a.b.c".into() };
    for (case, result, reason, word) in [
        (
            "after its time",
            cloud.judge_at(late, None, None, "edge-1", &short, &csr),
            Refused::TokenExpired,
            "expired",
        ),
        (
            "of another cloud",
            cloud.judge(None, "edge-1", &other.token(minute), &csr),
            Refused::TokenInvalid,
            "signature",
        ),
        ("no token", cloud.judge(None, "edge-1", &garbage, &csr), Refused::TokenInvalid, "malformed"),
        (
            "for another node",
            cloud.judge(None, "edge-2", &cloud.token(bound), &csr),
            Refused::OtherNode,
            "it is for edge-1",
        ),
        (
            "a Go edge's",
            cloud.judge(None, "edge-1", &cloud.token(reusable.clone()), &csr),
            Refused::TokenReusable,
            "KubeEdge's own edges",
        ),
    ] {
        refused(result, 401, reason, word, case);
    }
    // The route of Go edges takes a reusable one where the configuration says so.
    let Evidence::JoinToken { token: jwt } = cloud.token(reusable) else { panic!("a token") };
    let go = |allowed| token(&cloud.tokens, &jwt, &node("go-1"), Reusable::If(allowed), cloud.now);
    assert!(go(true).unwrap().reusable);
    assert_eq!(go(false).unwrap_err().reason, Refused::TokenReusable);

    let evidence = cloud.token(MintOptions::once(HOUR));
    cloud.revoke("edge-1", None);
    refused(cloud.judge(None, "edge-1", &evidence, &csr), 403, Refused::Revoked, "stolen", "a revoked node");
    let now = cloud.now;
    cloud.revoke("edge-1", Some(now));
    let shown = cloud.judge(None, "edge-1", &evidence, &csr).unwrap();
    assert_eq!(shown.not_before_min.map(unix_secs), Some(unix_secs(now)), "nothing from before is signed");
}

#[test]
fn factory_certificates() {
    let mut cloud = Cloud::new();
    let csr = Cloud::csr("edge-1");
    let good = cloud.factory_proof("edge-1", "edge-1", &csr);
    assert_eq!(cloud.judge(None, "edge-1", &good, &csr).unwrap().way, Way::Factory);

    let other_factory = Cloud::new().factory_proof("edge-1", "edge-1", &csr);
    let other_name = cloud.factory_proof("edge-2", "edge-1", &csr);
    let no_name = cloud.factory_proof("Serial 0815", "edge-1", &csr);
    let Evidence::X509pop { proof } = good.clone() else { panic!("a proof") };
    let wrong_context = Evidence::Svid { proof };
    for (case, evidence, code, reason, word) in [
        ("of another factory", &other_factory, 401, Refused::Chain, "of the factory"),
        ("for another node", &other_name, 403, Refused::OtherNode, "edge-2 cannot ask for node edge-1"),
        ("without a node's name", &no_name, 401, Refused::Chain, "common name"),
        ("sent as an SVID", &wrong_context, 401, Refused::Proof, "signature"),
    ] {
        refused(cloud.judge(None, "edge-1", evidence, &csr), code, reason, word, case);
    }
    let again = Cloud::csr("edge-1");
    refused(
        cloud.judge(None, "edge-1", &good, &again),
        401,
        Refused::Proof,
        "signature",
        "sent again for another key",
    );
    let off = cloud.judge_at(cloud.now, None, None, "edge-1", &good, &csr);
    refused(off, 401, Refused::Disabled, "identity.factoryCaFile", "not configured");
    cloud.revoke("edge-1", None);
    refused(cloud.judge(None, "edge-1", &good, &csr), 403, Refused::Revoked, "keadm node allow", "revoked");
}

#[test]
fn the_last_svid() {
    let mut cloud = Cloud::new();
    let csr = Cloud::csr("edge-1");
    let proof = |pair: &KeyPair| Cloud::svid_proof(pair, "edge-1", &csr);
    let live = cloud.svid("edge-1", HOUR, 2 * HOUR);
    let ended = cloud.svid("edge-1", 3 * HOUR, HOUR);
    for pair in [&live, &ended] {
        let shown = cloud.judge(None, "edge-1", &proof(pair), &csr).unwrap();
        assert!(matches!(shown.way, Way::Reentry(serial) if !serial.is_empty()));
    }
    let long_ago = cloud.svid("edge-1", 3 * DAY, DAY);
    let early = cloud.now - 2 * HOUR;
    let other_cloud = Cloud::new().svid("edge-1", HOUR, 2 * HOUR);
    let other_node = cloud.svid("edge-2", HOUR, 2 * HOUR);
    let cloudcore =
        cloud.ca.issue_server("KubeEdge", &["spiffe://kubeedge.local/cloudcore".into()], HOUR).unwrap();
    let Evidence::Svid { proof: mut stolen } = proof(&live) else { panic!("a proof") };
    stolen.chain = Cloud::chain_text(&cloud.svid("edge-1", HOUR, 2 * HOUR));
    for (case, at, evidence, code, reason, word) in [
        (
            "after the grace",
            cloud.now,
            proof(&long_ago),
            401,
            Refused::GraceOver,
            "identity.reentryGraceSecs",
        ),
        ("not yet valid", early, proof(&live), 401, Refused::Chain, "not valid yet"),
        ("of another cloud", cloud.now, proof(&other_cloud), 401, Refused::Chain, "no trusted root"),
        ("of another node", cloud.now, proof(&other_node), 403, Refused::OtherNode, "node edge-2"),
        ("of cloudcore", cloud.now, proof(&cloudcore), 401, Refused::Chain, "not a node's"),
        (
            "a certificate of somebody",
            cloud.now,
            Evidence::Svid { proof: stolen },
            401,
            Refused::Proof,
            "signature",
        ),
    ] {
        refused(cloud.judge_at(at, None, None, "edge-1", &evidence, &csr), code, reason, word, case);
    }
    refused(
        cloud.judge(None, "edge-2", &proof(&live), &csr),
        401,
        Refused::Proof,
        "signature",
        "for another name",
    );
    cloud.revoke("edge-1", None);
    refused(cloud.judge(None, "edge-1", &proof(&live), &csr), 403, Refused::Revoked, "stolen", "revoked");
    cloud.revoke("edge-1", Some(cloud.now));
    refused(
        cloud.judge(None, "edge-1", &proof(&live), &csr),
        403,
        Refused::Revoked,
        "from before",
        "allowed again",
    );
}

/// A node's own CA cannot make a node of anybody, whatever it signs.
#[test]
fn a_leaf_below_a_nodes_ca_is_no_nodes_certificate() {
    let cloud = Cloud::new();
    let (request, _keys) = NodeRequest::new(&node("edge-1")).unwrap();
    let wanted = Wanted::read(&request).unwrap();
    let ca_chain = cloud.ca.sign_node_ca_csr(&wanted.ca_csr, &node("edge-1"), DAY, None, cloud.now).unwrap();
    let mut leaf_and_ca = cert_ders_from_pem(&cloud.svid("edge-1", HOUR, 2 * HOUR).cert_pem);
    leaf_and_ca.truncate(1);
    leaf_and_ca.extend(ca_chain);
    let err = NodePeer::read(leaf_and_ca.iter().map(Vec::as_slice)).unwrap_err().to_string();
    assert!(err.contains("a node's own CA"), "{err}");
    assert!(Wanted::read(&RenewalRequest { csr: "?".into(), ..request.clone() }).is_err());
    let private = json!({"kty": "EC", "crv": "P-256", "x": "", "y": "", "kid": "k", "d": "AA"});
    let denied = Wanted::read(&RenewalRequest { jwt_key: private, ..request }).unwrap_err();
    assert_eq!((denied.code, denied.reason), (400, Refused::Malformed));
    assert!(denied.why.starts_with("jwtKey: "), "{}", denied.why);
}

/// The certificate of the TLS connection decides alone.
#[test]
fn a_connection_with_the_nodes_own_certificate() {
    let mut cloud = Cloud::new();
    let csr = Cloud::csr("edge-1");
    let peer = |name: &str, from: SystemTime, to: SystemTime| NodePeer {
        identity: PeerIdentity {
            common_name: format!("system:node:{name}"),
            organizations: vec!["system:nodes".into()],
            spiffe_id: None,
        },
        valid: Validity { not_before: from, not_after: to },
        serial_hex: "0a".into(),
    };
    let (hour_ago, soon) = (cloud.now - HOUR, cloud.now + HOUR);
    let good = peer("edge-1", hour_ago, soon);
    let garbage = Evidence::JoinToken { token: "a.b.c".into() };
    let shown = cloud.judge(Some(&good), "edge-1", &garbage, &csr).unwrap();
    assert_eq!(shown.way, Way::Renewal("0a".into()), "other evidence is not looked at");
    let token = cloud.token(MintOptions::once(HOUR));
    let ended = peer("edge-1", hour_ago, cloud.now);
    let mut admin = good.clone();
    admin.identity.common_name = "kubernetes-admin".into();
    for (case, peer, name, code, reason) in [
        ("another node's", &good, "edge-2", 403, Refused::OtherNode),
        ("ended while connected", &ended, "edge-1", 401, Refused::Expired),
        ("no node's", &admin, "edge-1", 403, Refused::Chain),
    ] {
        refused(cloud.judge(Some(peer), name, &token, &csr), code, reason, "certificate", case);
    }
    cloud.revoke("edge-1", Some(cloud.now));
    refused(
        cloud.judge(Some(&good), "edge-1", &token, &csr),
        403,
        Refused::Revoked,
        "from before",
        "revoked",
    );
}

#[test]
fn bodies() {
    let (request, _keys) = NodeRequest::new(&node("edge-1")).unwrap();
    let good = json!({"node": "edge-1", "evidence": {"attestor": "joinToken", "token": "a.b.c"}, "request": request});
    let with = |pointer: &str, value: Value| {
        let mut body = good.clone();
        *body.pointer_mut(pointer).unwrap() = value;
        body
    };
    assert!(read(good.to_string().as_bytes()).is_ok());
    for (body, word) in [
        (with("/node", json!("Edge 1")), "node: "),
        (with("/evidence/attestor", json!("trustMe")), "no request"),
        (with("/request/csr", json!("!")), "csr is not base64"),
        (with("/request/caCsr", json!("!")), "caCsr is not base64"),
        (with("/request", json!(null)), "no request"),
        (json!([]), "no request"),
    ] {
        let denied = read(body.to_string().as_bytes()).unwrap_err();
        assert_eq!((denied.code, denied.reason), (400, Refused::Malformed), "{body}");
        assert!(denied.why.contains(word), "{body}: {}", denied.why);
    }
    for garbage in [&b""[..], b"{", b"\xff\xfe", b"null"] {
        assert_eq!(read(garbage).unwrap_err().code, 400);
    }
}

impl Cloud {
    fn chain_text(pair: &KeyPair) -> Vec<String> {
        cert_ders_from_pem(&pair.cert_pem).iter().map(|der| STANDARD.encode(der)).collect()
    }
}
