use proptest::prelude::*;

use super::super::test_authority::{Authority, DAY, Pair, TRUST_DOMAIN, bundle, ca, living, params};
use super::*;

fn name(text: &str) -> NodeName {
    NodeName::parse(text).expect("name")
}

fn check(seal: &str, roots: &TrustBundle) -> Result<SealInfo, SealError> {
    verify(seal, "pod", &name("edge-1"), b"payload", roots)
}

fn seal(key: &super::super::key::EcKey, chain: &[Vec<u8>], at: SystemTime) -> String {
    sign(&key.signer().expect("signer"), chain, "pod", &name("edge-1"), b"payload", at).expect("seal")
}

#[test]
fn what_was_sealed_holds_and_nothing_else() {
    let authority = Authority::new();
    let (chain, key) = authority.cloudcore();
    let good = seal(&key, &chain, authority.now);
    let roots = authority.bundle();
    let info = check(&good, &roots).expect("holds");
    assert_eq!(unix_secs(info.sealed_at), unix_secs(authority.now));
    let serial: String =
        parse(&chain[0]).expect("cert").raw_serial().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(info.serial_hex, serial);

    let with = |kind, node: &str, payload: &[u8], roots: &TrustBundle| {
        verify(&good, kind, &name(node), payload, roots).expect_err("refused")
    };
    assert_eq!(with("edgeidentity", "edge-1", b"payload", &roots), SealError::OtherKind);
    assert_eq!(with("pod", "edge-2", b"payload", &roots), SealError::OtherNode);
    assert_eq!(with("pod", "edge-1", b"tampered", &roots), SealError::Changed);
    let mut elsewhere = roots.clone();
    elsewhere.trust_domain = "else.where".into();
    let err = with("pod", "edge-1", b"payload", &elsewhere);
    assert!(matches!(err, SealError::Signer(SvidError::TrustDomain { .. })), "{err}");
    let err = with("pod", "edge-1", b"payload", &Authority::new().bundle());
    assert!(matches!(err, SealError::Signer(SvidError::Untrusted(_))), "{err}");
}

#[test]
fn signers_that_may_not_seal() {
    let authority = Authority::new();
    let (chain, key) = authority.cloudcore();
    let roots = authority.bundle();
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

    let refused = |seal: &str| check(seal, &roots).expect_err("refused");
    let by_path = seal(&by_path.key, &[by_path.der, issuing()], now);
    assert_eq!(refused(&by_path), SealError::NotCloudcore, "a longer path");
    assert_eq!(refused(&seal(&node_key, &node_chain, now)), SealError::NotCloudcore, "a node");
    for (case, seal, want) in [
        (
            "a node's CA that says cloudcore",
            seal(&by_node.key, &[by_node.der, node_ca.der, issuing()], now),
            "cannot be signed by the CA of node edge-1",
        ),
        ("a CA", seal(&as_ca.key, &[as_ca.der, issuing()], now), "CA"),
        (
            "issued by a leaf",
            seal(&by_leaf.key, &[by_leaf.der, leaf_issuer.der, issuing()], now),
            "no trusted root leads to the leaf",
        ),
        ("chain cut", seal(&key, &chain[..1], now), "no trusted root leads to the leaf"),
        (
            "another chain",
            seal(&key, &[chain[0].clone(), Authority::new().issuing.der], now),
            "no trusted root leads to the leaf",
        ),
        ("expired at iat", seal(&key, &chain, now + 2 * DAY), "expired"),
        ("not valid at iat", seal(&key, &chain, now - 2 * DAY), "not valid yet"),
        ("far future", seal(&key, &chain, now + 3_000 * DAY), "expired"),
    ] {
        let err = refused(&seal);
        assert!(matches!(err, SealError::Signer(_)) && err.to_string().contains(want), "{case}: {err}");
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
    check(&sealed, &bundle(&[&old_root])).expect("holds");

    // After the root was rotated: a node that knows the new root only follows no old chain, one that
    // knows both does; a node that knows the old root only follows a chain with the cross certificate.
    let new_root = Pair::root(living(ca(params("", "KubeEdge", None), None), past, 3_650 * DAY));
    assert!(check(&sealed, &bundle(&[&new_root])).is_err());
    check(&sealed, &bundle(&[&new_root, &old_root])).expect("both roots");
    let cross = old_root
        .sign(new_root.key.clone(), living(ca(params("", "KubeEdge", None), None), past, 3_650 * DAY));
    let issuing = new_root.issue(living(ca(params("KubeEdge", "i", None), Some(1)), past, 30 * DAY));
    authority.issuing = issuing;
    let (mut chain, key) = authority.cloudcore();
    chain.push(cross.der);
    let sealed = seal(&key, &chain, past);
    check(&sealed, &bundle(&[&old_root])).expect("over the cross certificate");
    check(&sealed, &bundle(&[&new_root])).expect("directly");
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
    check(&build(&header, &claims), &authority.bundle()).expect("the builder builds good ones");
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
        ("x5c of numbers", build(&but(&header, "x5c", json!([1])), &claims), "x5c is not base64"),
        ("no iat", build(&header, &but(&claims, "iat", Value::Null)), "iat is missing"),
        ("iat beyond time", build(&header, &but(&claims, "iat", json!(u64::MAX))), "iat is no time"),
    ] {
        assert_eq!(check(&seal, &authority.bundle()), Err(SealError::Malformed(want)), "{case}");
    }
    for (case, x5c) in [("empty x5c", json!([])), ("x5c of nonsense", json!(["AAAA"]))] {
        let err = check(&build(&but(&header, "x5c", x5c), &claims), &authority.bundle()).expect_err(case);
        assert!(matches!(err, SealError::Signer(_)), "{case}: {err}");
    }
    // Changed after signing.
    let good = build(&header, &claims);
    let (signed, signature) = good.rsplit_once('.').expect("parts");
    let (head, _) = signed.split_once('.').expect("parts");
    let other = encode(but(&claims, "node", json!("edge-2")).to_string().as_bytes());
    assert_eq!(check(&format!("{head}.{other}.{signature}"), &authority.bundle()), Err(SealError::Forged));
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
        let roots = TrustBundle { trust_domain: TRUST_DOMAIN.into(), roots: vec![text.clone().into()], jwt_keys: vec![] };
        prop_assert!(check(&text, &roots).is_err());
    }
}
