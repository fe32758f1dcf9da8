use k8s_pb::api::coordination::v1::{Lease, LeaseSpec};
use k8s_pb::api::core::v1::Pod;
use k8s_pb::api::rbac::v1::{ClusterRole, PolicyRule, RoleBinding, RoleRef, Subject};
use k8s_pb::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference, Time};
use k8s_pb::apimachinery::pkg::runtime::TypeMeta;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2);
    pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// A body as a client sends it.
fn body(api_version: &str, kind: &str, raw: Vec<u8>) -> Vec<u8> {
    let type_meta = TypeMeta { api_version: Some(api_version.into()), kind: Some(kind.into()) };
    let unknown = Unknown { type_meta: Some(type_meta), raw: Some(raw), ..Unknown::default() };
    [MAGIC, &unknown.encode_to_vec()].concat()
}

/// Bodies that kubectl 1.32.4 and 1.33 posted (both the same) to a logging HTTP server.
#[test]
fn bodies_of_kubectl() {
    for (command, hex, want) in [
        (
            "create configmap cm --from-literal=a=b",
            "6b3873000a0f0a0276311209436f6e6669674d6170121c0a120a02636d12001a0022002a0032003800420012060a01611201621a002200",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm"}, "data": {"a": "b"}}),
        ),
        (
            "create configmap cm2 --from-literal=e= --from-file=bin",
            "6b3873000a0f0a0276311209436f6e6669674d617012280a130a03636d3212001a0022002a0032003800420012050a016512001a0a0a0362696e120378ff001a002200",
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cm2"}, "data": {"e": ""}, "binaryData": {"bin": "eP8A"}}),
        ),
        (
            "create namespace n1",
            "6b3873000a0f0a02763112094e616d657370616365121a0a120a026e3112001a0022002a0032003800420012001a020a001a002200",
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n1"}}),
        ),
        (
            "create secret generic s --from-literal=k=v",
            "6b3873000a0c0a0276311206536563726574121d0a110a017312001a0022002a0032003800420012060a016b1201761a001a002200",
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "dg=="}}),
        ),
        (
            "create serviceaccount robot",
            "6b3873000a140a027631120e536572766963654163636f756e7412170a150a05726f626f7412001a0022002a003200380042001a002200",
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}),
        ),
        (
            "create token robot --duration=1h --audience=a1 --bound-object-kind=Pod --bound-object-name=p1",
            "6b3873000a280a1861757468656e7469636174696f6e2e6b38732e696f2f7631120c546f6b656e5265717565737412320a100a0012001a0022002a0032003800420012180a0261311a0f0a03506f64120276311a027031220020901c1a040a0012001a002200",
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "metadata": {}, "spec": {"audiences": ["a1"],
                "expirationSeconds": 3600, "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p1"}}}),
        ),
        (
            "auth can-i get pods",
            "6b3873000a320a17617574686f72697a6174696f6e2e6b38732e696f2f7631121753656c665375626a656374416363657373526576696577123c0a100a0012001a0022002a00320038004200121e0a1c0a0764656661756c7412036765741a0022002a04706f647332003a001a08080012001a0020001a002200",
            json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "metadata": {},
                "spec": {"resourceAttributes": {"namespace": "default", "verb": "get", "resource": "pods"}}}),
        ),
    ] {
        assert_eq!(decode(&bytes(hex)), Ok(want), "{command}");
    }
}

#[test]
fn times_owners_and_numbers() {
    let metadata = ObjectMeta {
        name: Some("n".into()),
        generation: Some(0),
        creation_timestamp: Some(Time { seconds: Some(1_800_000_000), nanos: Some(5) }),
        deletion_timestamp: Some(Time { seconds: Some(i64::MAX), nanos: None }),
        labels: [("a".to_owned(), String::new())].into(),
        owner_references: vec![OwnerReference {
            uid: Some("u".into()),
            controller: Some(true),
            ..Default::default()
        }],
        finalizers: vec!["f".into()],
        ..ObjectMeta::default()
    };
    let spec = LeaseSpec {
        holder_identity: Some("n".into()),
        lease_duration_seconds: Some(40),
        renew_time: Some(MicroTime { seconds: Some(1_800_000_000), nanos: Some(12_345_678) }),
        acquire_time: Some(MicroTime { seconds: Some(1), nanos: Some(i32::MAX) }),
        ..LeaseSpec::default()
    };
    let lease = Lease { metadata: Some(metadata), spec: Some(spec) };
    let want = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "n", "creationTimestamp": "2027-01-15T08:00:00Z", "labels": {"a": ""},
            "ownerReferences": [{"uid": "u", "controller": true}], "finalizers": ["f"]},
        "spec": {"holderIdentity": "n", "leaseDurationSeconds": 40, "renewTime": "2027-01-15T08:00:00.012345Z"},
    });
    assert_eq!(decode(&body("coordination.k8s.io/v1", "Lease", lease.encode_to_vec())), Ok(want));
}

#[test]
fn other_bodies_are_refused() {
    let unsupported = |api_version: &str, kind: &str| DecodeError::UnsupportedKind {
        api_version: api_version.into(),
        kind: kind.into(),
    };
    for (case, raw, want) in [
        ("json", b"{}".to_vec(), None),
        ("empty", vec![], None),
        ("bare magic", MAGIC.to_vec(), Some(unsupported("", ""))),
        ("pod", body("v1", "Pod", Pod::default().encode_to_vec()), Some(unsupported("v1", "Pod"))),
        ("broken envelope", [MAGIC, &[0xff, 0xff]].concat(), None),
        ("broken object", body("v1", "ConfigMap", vec![0x0a, 0xff]), None),
        ("wrong group", body("v2", "ConfigMap", vec![]), Some(unsupported("v2", "ConfigMap"))),
    ] {
        let got = decode(&raw).unwrap_err();
        match want {
            Some(want) => assert_eq!(got, want, "{case}"),
            None => assert!(matches!(got, DecodeError::Malformed(_)), "{case}: {got}"),
        }
    }
    let options = decode(&body("apps/v1", "DeleteOptions", vec![0x08, 0x00])).unwrap();
    assert_eq!(options, json!({"apiVersion": "apps/v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}));
}

const KINDS: [(&str, &str); 10] = [
    ("v1", "Namespace"),
    ("v1", "ConfigMap"),
    ("v1", "Secret"),
    ("v1", "ServiceAccount"),
    ("v1", "Event"),
    ("coordination.k8s.io/v1", "Lease"),
    ("authentication.k8s.io/v1", "TokenRequest"),
    ("authorization.k8s.io/v1", "SelfSubjectAccessReview"),
    ("policy/v1", "Eviction"),
    ("v1", "DeleteOptions"),
];

proptest! {
    #[test]
    fn any_bytes_never_panic(raw in prop::collection::vec(any::<u8>(), 0..64), kind in 0..KINDS.len()) {
        let whole = [MAGIC, &raw].concat();
        for outcome in [decode(&raw), decode(&whole)] {
            prop_assert!(!matches!(outcome, Ok(Value::Null)));
        }
        let (api_version, kind) = KINDS[kind];
        if let Ok(object) = decode(&body(api_version, kind, raw)) {
            prop_assert_eq!(&object["kind"], kind);
        }
    }

    #[test]
    fn config_maps_come_through(
        data in prop::collection::btree_map("[a-z]{1,5}", ".{0,9}", 0..4),
        binary in prop::collection::btree_map("[A-Z]{1,5}", prop::collection::vec(any::<u8>(), 0..9), 0..4),
    ) {
        use base64::Engine as _;
        let map = k8s_pb::api::core::v1::ConfigMap { data: data.clone(), binary_data: binary.clone(), ..Default::default() };
        let object = decode(&body("v1", "ConfigMap", map.encode_to_vec())).unwrap();
        let encoded = |raw: &Vec<u8>| base64::engine::general_purpose::STANDARD.encode(raw);
        for (key, text) in &data {
            prop_assert_eq!(&object["data"][key], text);
        }
        for (key, raw) in &binary {
            prop_assert_eq!(&object["binaryData"][key], &encoded(raw));
        }
    }
}

#[test]
fn roles_and_bindings() {
    const RBAC: &str = "rbac.authorization.k8s.io/v1";
    let text = |text: &str| Some(text.to_owned());
    let metadata = || Some(ObjectMeta { name: text("x"), ..ObjectMeta::default() });
    let rule = PolicyRule {
        verbs: vec!["get".into()],
        api_groups: vec![String::new()],
        resources: vec!["pods/log".into()],
        resource_names: vec!["p".into()],
        ..PolicyRule::default()
    };
    let urls = PolicyRule {
        verbs: vec!["get".into()],
        non_resource_ur_ls: vec!["/m".into()],
        ..PolicyRule::default()
    };
    let role = ClusterRole { metadata: metadata(), rules: vec![rule, urls], ..ClusterRole::default() };
    assert_eq!(
        decode(&body(RBAC, "ClusterRole", role.encode_to_vec())).unwrap(),
        json!({"apiVersion": RBAC, "kind": "ClusterRole", "metadata": {"name": "x"}, "rules": [
            {"verbs": ["get"], "apiGroups": [""], "resources": ["pods/log"], "resourceNames": ["p"]},
            {"verbs": ["get"], "nonResourceURLs": ["/m"]},
        ]})
    );
    let binding = RoleBinding {
        metadata: metadata(),
        subjects: vec![Subject {
            kind: text("ServiceAccount"),
            name: text("a"),
            namespace: text("n"),
            api_group: text(""),
        }],
        role_ref: Some(RoleRef {
            api_group: text("rbac.authorization.k8s.io"),
            kind: text("Role"),
            name: text("x"),
        }),
    };
    assert_eq!(
        decode(&body(RBAC, "RoleBinding", binding.encode_to_vec())).unwrap(),
        json!({"apiVersion": RBAC, "kind": "RoleBinding", "metadata": {"name": "x"},
            "subjects": [{"kind": "ServiceAccount", "name": "a", "namespace": "n"}],
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "x"}})
    );
}
