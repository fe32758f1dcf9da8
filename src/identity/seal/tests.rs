use proptest::prelude::*;

use super::super::test_authority::{Authority, DAY, Pair, TRUST_DOMAIN, ca, living, params};
use super::*;

fn name(text: &str) -> NodeName {
    NodeName::parse(text).expect("name")
}

fn check(seal: &str, roots: &[Vec<u8>]) -> Result<SealInfo, SealError> {
    verify_against(seal, "pod", &name("edge-1"), b"payload", TRUST_DOMAIN, roots)
}

fn seal(key: &super::super::key::EcKey, chain: &[Vec<u8>], at: SystemTime) -> String {
    sign(&key.signer().expect("signer"), chain, "pod", &name("edge-1"), b"payload", at).expect("seal")
}

#[test]
fn what_was_sealed_holds_and_nothing_else() {
    let authority = Authority::new();
    let (chain, key) = authority.cloudcore();
    let good = seal(&key, &chain, authority.now);
    let roots = authority.roots();
    let info = check(&good, &roots).expect("holds");
    assert_eq!(unix_secs(info.sealed_at), unix_secs(authority.now));
    assert_eq!(info.serial_hex, serial_hex(&parse(&chain[0]).expect("cert")));

    let with = |kind, node: &str, payload: &[u8], td, roots: &[Vec<u8>]| {
        verify_against(&good, kind, &name(node), payload, td, roots).expect_err("refused")
    };
    assert_eq!(with("edgeidentity", "edge-1", b"payload", TRUST_DOMAIN, &roots), SealError::OtherKind);
    assert_eq!(with("pod", "edge-2", b"payload", TRUST_DOMAIN, &roots), SealError::OtherNode);
    assert_eq!(with("pod", "edge-1", b"tampered", TRUST_DOMAIN, &roots), SealError::Changed);
    let not_ours = SealError::Signer("it is not cloudcore of this trust domain");
    assert_eq!(with("pod", "edge-1", b"payload", "else.where", &roots), not_ours);
    let stranger = Authority::new().roots();
    let no_root = SealError::Signer("the chain leads to no root of this trust domain");
    assert_eq!(with("pod", "edge-1", b"payload", TRUST_DOMAIN, &stranger), no_root);
    assert_eq!(with("pod", "edge-1", b"payload", TRUST_DOMAIN, &[]), no_root);
}

#[test]
fn signers_that_may_not_seal() {
    let authority = Authority::new();
    let (chain, key) = authority.cloudcore();
    let roots = authority.roots();
    let now = authority.now;
    let issuing = || authority.issuing.der.clone();
    let cloudcore_id = format!("spiffe://{TRUST_DOMAIN}/cloudcore");
    let cloudcore = |ttl| living(params("KubeEdge", "cloudcore", Some(&cloudcore_id)), now, ttl);

    let node_ca = authority.issuing.issue(living(Authority::node_ca_params("edge-1"), now, DAY));
    let by_node = node_ca.issue(cloudcore(DAY));
    let (node_chain, node_key) = authority.node("edge-1");
    let node_key = super::super::key::EcKey::from_pem(node_key.as_bytes()).expect("key");
    let as_ca = authority.issuing.issue(living(ca(params("", "x", Some(&cloudcore_id)), Some(0)), now, DAY));
    let leaf_issuer = authority.issuing.issue(cloudcore(DAY));
    let by_leaf = leaf_issuer.issue(cloudcore(DAY));
    let below = format!("{cloudcore_id}/x");
    let by_path = authority.issuing.issue(living(params("KubeEdge", "cloudcore", Some(&below)), now, DAY));

    let not_cloudcore = "it is not cloudcore of this trust domain";
    for (case, seal, want) in [
        ("a node", seal(&node_key, &node_chain, now), not_cloudcore),
        ("a longer path", seal(&by_path.key, &[by_path.der, issuing()], now), not_cloudcore),
        (
            "a node's CA that says cloudcore",
            seal(&by_node.key, &[by_node.der, node_ca.der, issuing()], now),
            "it was issued by a node",
        ),
        ("a CA", seal(&as_ca.key, &[as_ca.der, issuing()], now), "it is a CA"),
        (
            "issued by a leaf",
            seal(&by_leaf.key, &[by_leaf.der, leaf_issuer.der, issuing()], now),
            "a certificate that signed another is not a CA",
        ),
        ("chain cut", seal(&key, &chain[..1], now), "the chain leads to no root of this trust domain"),
        (
            "another chain",
            seal(&key, &[chain[0].clone(), Authority::new().issuing.der], now),
            "a certificate of the chain is not signed by the next one",
        ),
        ("expired at iat", seal(&key, &chain, now + 2 * DAY), "a certificate of the chain had expired"),
        (
            "not valid at iat",
            seal(&key, &chain, now - 2 * DAY),
            "a certificate of the chain was not valid yet",
        ),
        ("far future", seal(&key, &chain, now + 3_000 * DAY), "a certificate of the chain had expired"),
    ] {
        assert_eq!(check(&seal, &roots), Err(SealError::Signer(want)), "{case}");
    }
    // Of another key than the certificate's.
    let forged = seal(&super::super::key::EcKey::generate().expect("key"), &chain, now);
    assert_eq!(check(&forged, &roots), Err(SealError::Forged));
}

/// The signer's certificate has long expired and the issuing CA too: what was sealed in their time
/// still holds.
#[test]
fn a_seal_holds_after_its_signer_is_gone() {
    let mut authority = Authority::new();
    let past = authority.now - 400 * DAY;
    let old_root = Pair::root(living(ca(params("", "KubeEdge", None), None), past, 3_650 * DAY));
    authority.issuing = old_root.issue(living(ca(params("KubeEdge", "i", None), Some(1)), past, 30 * DAY));
    authority.now = past;
    let (chain, key) = authority.cloudcore();
    let sealed = seal(&key, &chain, past);
    check(&sealed, std::slice::from_ref(&old_root.der)).expect("holds");

    // After the root was rotated: a node that knows the new root only follows no old chain, one that
    // knows both does; a node that knows the old root only follows a chain with the cross certificate.
    let new_root = Pair::root(living(ca(params("", "KubeEdge", None), None), past, 3_650 * DAY));
    assert!(check(&sealed, std::slice::from_ref(&new_root.der)).is_err());
    check(&sealed, &[new_root.der.clone(), old_root.der.clone()]).expect("both roots");
    let cross = old_root
        .sign(new_root.key.clone(), living(ca(params("", "KubeEdge", None), None), past, 3_650 * DAY));
    let issuing = new_root.issue(living(ca(params("KubeEdge", "i", None), Some(1)), past, 30 * DAY));
    authority.issuing = issuing;
    let (mut chain, key) = authority.cloudcore();
    chain.push(cross.der);
    let sealed = seal(&key, &chain, past);
    check(&sealed, std::slice::from_ref(&old_root.der)).expect("over the cross certificate");
    check(&sealed, std::slice::from_ref(&new_root.der)).expect("directly");
}

#[test]
fn malformed_seals_are_named() {
    let authority = Authority::new();
    let (chain, key) = authority.cloudcore();
    let signer = key.signer().expect("signer");
    let build = |header: &Value, claims: &Value| {
        let signed = unsigned(header, claims);
        let signature = signer.sign(&SystemRandom::new(), signed.as_bytes()).expect("signature");
        format!("{signed}.{}", encode(signature.as_ref()))
    };
    let x5c: Vec<String> = chain.iter().map(|der| STANDARD.encode(der)).collect();
    let header = json!({"alg": "ES256", "typ": TYPE, "x5c": x5c});
    let claims = json!({"kind": "pod", "node": "edge-1", "hash": sha256_hex(b"payload"),
        "iat": unix_secs(authority.now)});
    check(&build(&header, &claims), &authority.roots()).expect("the builder builds good ones");
    let but = |value: &Value, member: &str, to: Value| {
        let mut value = value.clone();
        value[member] = to;
        value
    };
    for (case, seal, want) in [
        ("no JWS", "seal".to_owned(), "it is not a compact JWS"),
        ("alg none", build(&but(&header, "alg", json!("none")), &claims), "its alg is not ES256"),
        ("alg HS256", build(&but(&header, "alg", json!("HS256")), &claims), "its alg is not ES256"),
        ("a JWT-SVID", build(&but(&header, "typ", json!("JWT")), &claims), "its typ is not that of a seal"),
        ("no x5c", build(&but(&header, "x5c", Value::Null), &claims), "x5c is missing"),
        ("empty x5c", build(&but(&header, "x5c", json!([])), &claims), "x5c is empty"),
        ("x5c of numbers", build(&but(&header, "x5c", json!([1])), &claims), "x5c is not base64"),
        (
            "x5c of nonsense",
            build(&but(&header, "x5c", json!(["AAAA"])), &claims),
            "x5c holds no X.509 certificate",
        ),
        ("no iat", build(&header, &but(&claims, "iat", Value::Null)), "iat is missing"),
        ("iat beyond time", build(&header, &but(&claims, "iat", json!(u64::MAX))), "iat is no time"),
    ] {
        assert_eq!(check(&seal, &authority.roots()), Err(SealError::Malformed(want)), "{case}");
    }
    // Changed after signing.
    let good = build(&header, &claims);
    let (signed, signature) = good.rsplit_once('.').expect("parts");
    let (head, _) = signed.split_once('.').expect("parts");
    let other = encode(but(&claims, "node", json!("edge-2")).to_string().as_bytes());
    assert_eq!(check(&format!("{head}.{other}.{signature}"), &authority.roots()), Err(SealError::Forged));
}

#[test]
fn a_pods_seal_is_over_what_edged_acts_on() {
    let pod = json!({
        "metadata": {"namespace": "default", "name": "web", "uid": "u-1", "labels": {"app": "web"},
            "annotations": {"note": "x"}, "resourceVersion": "7", "managedFields": []},
        "spec": {"containers": [{"name": "c", "image": "web:1"}]},
        "status": {"phase": "Pending"},
    });
    let sealed = pod_payload(&pod);
    let change = |path: &str, value: Value| {
        let mut pod = pod.clone();
        match pod.pointer_mut(path) {
            Some(place) => *place = value,
            None => pod["metadata"]["annotations"][SEAL_ANNOTATION] = value,
        }
        pod_payload(&pod)
    };
    for (path, value) in [
        ("/status", json!({"phase": "Running"})),
        ("/metadata/resourceVersion", json!("8")),
        ("/metadata/managedFields", json!([1])),
        ("/metadata/annotations/seal", json!("a seal")),
    ] {
        assert_eq!(change(path, value), sealed, "{path} is not sealed");
    }
    for (path, value) in [
        ("/metadata/name", json!("other")),
        ("/metadata/namespace", json!("kube-system")),
        ("/metadata/uid", json!("u-2")),
        ("/metadata/labels/app", json!("db")),
        ("/metadata/annotations/note", json!("y")),
        ("/spec/containers/0/image", json!("evil:1")),
        (
            "/spec/containers/0",
            json!({"name": "c", "image": "web:1", "securityContext": {"privileged": true}}),
        ),
    ] {
        assert_ne!(change(path, value), sealed, "{path} is sealed");
    }
    // The seal's own annotation may be the only one.
    let bare = json!({"metadata": {"name": "a"}, "spec": {}});
    let mut only = bare.clone();
    only["metadata"]["annotations"] = json!({SEAL_ANNOTATION: "s"});
    assert_eq!(pod_payload(&only), pod_payload(&bare));
}

#[test]
fn canonical_json() {
    let text = r#"{"b":[1,{"z":null,"a":true}],"a":"\u0001\"é","aa":-1.5}"#;
    let value: Value = serde_json::from_str(text).expect("json");
    let want = r#"{"a":"\u0001\"é","aa":-1.50000000000000e0,"b":[1,{"a":true,"z":null}]}"#;
    assert_eq!(String::from_utf8(canonical(&value)).expect("utf-8"), want);
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (any::<i32>(), 0..6).prop_map(|(n, places)| Value::from(f64::from(n) / 10f64.powi(places))),
        ".{0,8}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(".{0,6}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    /// Both sides parse what the other wrote: the canonical text must be a fixed point.
    #[test]
    fn canonical_json_survives_parsing(value in any_json()) {
        let text = canonical(&value);
        let parsed: Value = serde_json::from_slice(&text).expect("json");
        prop_assert_eq!(canonical(&parsed), text);
    }

    #[test]
    fn any_text_never_panics(text in "[a-zA-Z0-9_.=-]{0,80}|.{0,40}") {
        prop_assert!(check(&text, &[]).is_err());
        prop_assert!(check(&text, &[text.clone().into_bytes()]).is_err());
    }

    #[test]
    fn any_certificates_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(verify_chain(std::slice::from_ref(&raw), std::slice::from_ref(&raw), UNIX_EPOCH).is_err());
    }
}
