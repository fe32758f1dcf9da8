use proptest::prelude::*;

use super::*;
use crate::store::Op;

fn pod(uid: &str, version: u64) -> Value {
    json!({"metadata": {"name": "a", "namespace": "default", "uid": uid, "resourceVersion": version.to_string(),
        "creationTimestamp": format!("2026-01-0{}T00:00:00Z", uid.len())}, "spec": {"nodeName": "e"}})
}

fn message(operation: &str, resource: &str, body: Value) -> Envelope {
    let body = if body.is_null() { Body::Null } else { Body::Object(body) };
    Envelope::new("edgecontroller", "resource", operation, Resource::parse(resource), body, 1)
}

fn names(change: &Change) -> Vec<String> {
    let name = |notice: &Notice| match notice {
        Notice::PodChanged(pod) => {
            format!("pod {} {}", text(pod, "/metadata/uid"), text(pod, "/metadata/resourceVersion"))
        }
        Notice::PodRemoved { uid, .. } => format!("gone {uid}"),
        Notice::ConfigChanged { kind, namespace, name } => format!("{kind} {namespace}/{name}"),
        Notice::NodeChanged(node) => format!("node {}", text(node, "/metadata/name")),
        Notice::EdgeIdentity(document) => {
            format!("identity {:?}", document.as_deref().map(|it| text(it, "/metadata/resourceVersion")))
        }
        Notice::Device(notice) => format!("{notice:?}"),
    };
    change.notices.iter().map(name).collect()
}

#[test]
fn deliveries_in_sequence() {
    let mut index = Index::default();
    let skeleton = |uid: &str| json!({"metadata": {"namespace": "default", "name": "a", "uid": uid}});
    for (case, operation, body, writes, want) in [
        ("update is an upsert", "update", pod("u", 5), 1, vec!["pod u 5"]),
        ("again: told, not written", "insert", pod("u", 5), 0, vec!["pod u 5"]),
        ("older", "update", pod("u", 4), 0, vec![]),
        ("newer", "update", pod("u", 6), 1, vec!["pod u 6"]),
        ("delete of another incarnation", "delete", skeleton("x"), 0, vec!["gone x"]),
        ("recreated", "insert", pod("uu", 2), 1, vec!["gone u", "pod uu 2"]),
        ("the older incarnation again", "update", pod("u", 7), 0, vec![]),
        ("delete without a uid", "delete", Value::Null, 1, vec!["gone uu"]),
        ("deleted twice", "delete", skeleton("uu"), 0, vec!["gone uu"]),
        ("a late duplicate does not bring it back", "update", pod("uu", 2), 0, vec![]),
        ("a new one may come", "insert", pod("uuu", 9), 1, vec!["pod uuu 9"]),
    ] {
        let change = index.apply(&message(operation, "default/pod/a", body)).unwrap();
        assert_eq!(change.batch.ops().len(), writes, "{case}");
        assert_eq!(names(&change), want, "{case}");
    }
    assert_eq!(index.counts(), [1, 0, 0, 0, 0]);
}

#[test]
fn kinds_and_shapes() {
    let mut index = Index::default();
    let config =
        |version: &str| json!({"metadata": {"uid": "c", "resourceVersion": version}, "data": {"k": "v"}});
    let key = "default/configmap/app";
    let change = index.apply(&message("response", key, config("3"))).unwrap();
    assert_eq!(names(&change), ["configmap default/app"]);
    let Some(Op::Put { key: row, value, .. }) = change.batch.ops().first() else { panic!("{change:?}") };
    assert_eq!(row, b"meta/default/configmap/app");
    let stored: Value = serde_json::from_slice(value).unwrap();
    assert_eq!((text(&stored, "/kind"), text(&stored, "/apiVersion")), ("ConfigMap", "v1"));

    let mut as_text = message("update", key, Value::Null);
    as_text.body = Body::Text(config("4").to_string());
    assert_eq!(names(&index.apply(&as_text).unwrap()), ["configmap default/app"]);
    // A reference that went and came again has the same uid: it is not a late duplicate.
    assert_eq!(names(&index.apply(&message("delete", key, config("4"))).unwrap()), ["configmap default/app"]);
    assert_eq!(names(&index.apply(&message("update", key, config("4"))).unwrap()), ["configmap default/app"]);

    assert!(index.apply(&message("update", key, Value::Null)).is_err(), "nothing to store");
    for ignored in ["watchapp/sync", "default/podlist", "null/nodepatch/e", "k8s/ca.crt"] {
        assert!(index.apply(&message("update", ignored, config("1"))).unwrap().batch.is_empty(), "{ignored}");
    }
    assert!(!index.apply(&message("insert", "default/gadget/x", config("1"))).unwrap().batch.is_empty());
}

#[test]
fn the_nodes_registrations_and_policies() {
    let mut index = Index::default();
    let key = "kubeedge/edgeidentity/edge-1";
    let document = |version: &str| json!({"metadata": {"uid": "i", "resourceVersion": version}, "seal": "s"});
    for (operation, version, writes, want) in [
        ("insert", "5", 1, vec!["identity Some(\"5\")"]),
        ("update", "4", 0, vec![]),
        ("update", "6", 1, vec!["identity Some(\"6\")"]),
        ("delete", "6", 1, vec!["identity None"]),
        ("delete", "6", 0, vec![]),
    ] {
        let change = index.apply(&message(operation, key, document(version))).unwrap();
        assert_eq!(
            (change.batch.ops().len(), names(&change)),
            (writes, want.iter().map(|it| (*it).to_owned()).collect()),
            "{operation} {version}"
        );
    }
    index.apply(&message("insert", key, document("7"))).unwrap();
    assert_eq!(index.listing()[0]["objects"], json!([[key, "i", "7"]]));
}

#[test]
fn a_patch_reply_is_news_only_if_more_than_its_status_changed() {
    let mut index = Index::default();
    let key = ObjectKey::namespaced("default", "pod", "a");
    index.upsert(&key, pod("u", 5), None);
    let mut reply = pod("u", 6);
    reply["status"] = json!({"phase": "Running"});
    let change = index.upsert_reply(&key, reply.clone(), Some(&pod("u", 5)));
    assert_eq!((change.batch.ops().len(), names(&change).len()), (1, 0));
    reply["metadata"]["resourceVersion"] = json!("7");
    reply["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    let change = index.upsert_reply(&key, reply, Some(&pod("u", 6)));
    assert_eq!(names(&change), ["pod u 7"]);
    let change = index.upsert_reply(&key, pod("u", 6), Some(&pod("u", 7)));
    assert!(change.batch.is_empty() && change.notices.is_empty(), "late reply of an older patch");
    let bare = json!({"metadata": {"uid": "u", "resourceVersion": "9"}});
    assert!(index.upsert_reply(&key, bare, None).batch.is_empty(), "without a spec it is no pod");
}

fn sealed(version: u64, seal: &str) -> Value {
    let mut pod = pod("u", version);
    pod["metadata"]["annotations"] = json!({SEAL_ANNOTATION: seal, "own": "1"});
    pod
}

/// A new seal on the same object must be on disk before the old root goes, and wakes nobody but who
/// is told anyway. A pod from before there were seals is asked for again.
#[test]
fn a_new_seal_is_kept_and_a_missing_one_asked_for() {
    let mut index = Index::default();
    let key = ObjectKey::namespaced("default", "pod", "a");
    let listed = |index: &Index| index.listing()[0]["objects"][0][2].clone();
    index.upsert(&key, pod("u", 5), None);
    assert_eq!(listed(&index), "", "the cloud sends it once more");
    let change = index.upsert(&key, sealed(5, "first"), None);
    assert_eq!((change.batch.ops().len(), listed(&index)), (1, json!("5")));
    assert_eq!(index.upsert(&key, pod("u", 5), None).batch.ops().len(), 0, "never the other way round");
    assert_eq!(index.upsert(&key, sealed(5, "second"), None).batch.ops().len(), 1);
    let change = index.upsert_reply(&key, sealed(6, "third"), Some(&sealed(5, "second")));
    assert_eq!((change.batch.ops().len(), names(&change).len()), (1, 0), "a seal alone is no news");
    let mut labelled = sealed(7, "fourth");
    labelled["metadata"]["annotations"]["own"] = json!("2");
    let change = index.upsert_reply(&key, labelled, Some(&sealed(6, "third")));
    assert_eq!(names(&change), ["pod u 7"]);
}

#[test]
fn listing_comes_in_bounded_frames_and_survives_a_reload() {
    let mut index = Index::default();
    assert_eq!(index.listing(), [json!({"objects": [], "part": 0, "last": true})]);
    let mut rows = Vec::new();
    for n in 0..4500 {
        let object = json!({"metadata": {"uid": format!("u{n}"), "resourceVersion": "7"}});
        rows.push((format!("meta/default/secret/s{n:04}").into_bytes(), object.to_string().into_bytes()));
    }
    rows.push((b"meta/default/device/d".to_vec(), b"{}".to_vec()));
    rows.push((b"meta/default/rule/r".to_vec(), b"{}".to_vec()));
    rows.push((b"meta/default/pod/broken".to_vec(), b"{".to_vec()));
    assert_eq!(index.load(&rows), 1);
    assert_eq!(index.counts(), [0, 0, 4500, 0, 2]);
    let frames = index.listing();
    let sizes: Vec<usize> = frames.iter().map(|frame| frame["objects"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [2000, 2000, 501]);
    assert_eq!(frames[2]["last"], true);
    assert_eq!(frames[1]["last"], false);
    assert_eq!(frames[0]["objects"][0], json!(["default/device/d", "", "0"]));
    assert_eq!(frames[0]["objects"][1], json!(["default/secret/s0000", "u0", "7"]));
}

proptest! {
    /// However the versions of one incarnation arrive, and however often, the newest stays; and
    /// once it is deleted it stays deleted.
    #[test]
    fn any_order_and_duplication_converges(
        order in proptest::collection::vec(1_u64..20, 1..60),
        deleted_after in proptest::option::of(0_usize..60),
    ) {
        let mut index = Index::default();
        let mut stored = None;
        for (at, version) in order.iter().enumerate() {
            if deleted_after == Some(at) {
                let body = json!({"metadata": {"uid": "u"}});
                index.apply(&message("delete", "default/pod/a", body)).unwrap();
                stored = None;
            }
            let change = index.apply(&message("update", "default/pod/a", pod("u", *version))).unwrap();
            for op in change.batch.ops() {
                let Op::Put { value, .. } = op else { panic!("{op:?}") };
                let value: Value = serde_json::from_slice(value).unwrap();
                stored = Some(text(&value, "/metadata/resourceVersion").parse::<u64>().unwrap());
            }
        }
        let was_deleted = deleted_after.is_some_and(|at| at < order.len());
        prop_assert_eq!(stored, if was_deleted { None } else { order.iter().copied().max() });
    }
}
