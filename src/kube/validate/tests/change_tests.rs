//! What of a stored object may change.

use super::*;

#[test]
fn what_may_not_change() {
    let stored = |spec: Value| {
        let mut pod = with_spec(spec);
        pod["metadata"]["uid"] = "u".into();
        pod
    };
    let base =
        stored(json!({"tolerations": [{"key": "a", "operator": "Exists"}], "activeDeadlineSeconds": 10}));
    for (case, change, want) in [
        ("image", json!({"/spec/containers/0/image": "b:2"}), vec![]),
        ("shorter deadline", json!({"/spec/activeDeadlineSeconds": 5}), vec![]),
        (
            "more tolerations",
            json!({"/spec/tolerations": [{"key": "a", "operator": "Exists"}, {"key": "b", "operator": "Exists"}]}),
            vec![],
        ),
        ("labels", json!({"/metadata/labels": {"a": "b"}}), vec![]),
        ("no uid", json!({"/metadata/uid": null}), vec![]),
        (
            "longer deadline",
            json!({"/spec/activeDeadlineSeconds": 11}),
            vec![
                "spec.activeDeadlineSeconds: Invalid value: 11: must be less than or equal to previous value",
            ],
        ),
        (
            "no deadline",
            json!({"/spec/activeDeadlineSeconds": null}),
            vec![
                "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value",
            ],
        ),
        (
            "other toleration",
            json!({"/spec/tolerations": [{"key": "b", "operator": "Exists"}]}),
            vec!["spec.tolerations: Forbidden: existing toleration can not be modified"],
        ),
        (
            "command",
            json!({"/spec/containers/0/command": ["x"]}),
            vec!["spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`"],
        ),
        ("node", json!({"/spec/nodeName": "n"}), vec!["spec: Forbidden: pod updates may not change fields"]),
        (
            "containers",
            json!({"/spec/containers": [{"name": "c", "image": "b"}, {"name": "d", "image": "b"}]}),
            vec!["spec.containers: Forbidden: pod updates may not add or remove containers"],
        ),
        (
            "uid",
            json!({"/metadata/uid": "v"}),
            vec!["metadata.uid: Invalid value: \"v\": field is immutable"],
        ),
        (
            "name",
            json!({"/metadata/name": "q"}),
            vec!["metadata.name: Invalid value: \"q\": field is immutable"],
        ),
    ] {
        let mut new = base.clone();
        for (pointer, value) in change.as_object().unwrap() {
            let (parent, field) = pointer.rsplit_once('/').unwrap();
            let parent = new.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            match value {
                Value::Null => drop(parent.remove(field)),
                value => drop(parent.insert(field.to_owned(), value.clone())),
            }
        }
        let got = texts(&update("Pod", &base, &new));
        assert!(
            got.len() == want.len() && got.iter().zip(&want).all(|(got, want)| got.starts_with(want)),
            "{case}: {got:#?}"
        );
    }
}

#[test]
fn sealed_data_stays() {
    let meta = json!({"name": "x", "namespace": "n"});
    let map =
        |immutable: bool, data: &str| json!({"metadata": meta, "immutable": immutable, "data": {"a": data}});
    let secret = |kind: &str| json!({"metadata": meta, "type": kind});
    for (kind, old, new, want) in [
        ("ConfigMap", map(false, "1"), map(true, "2"), vec![]),
        ("ConfigMap", map(true, "1"), map(true, "1"), vec![]),
        (
            "ConfigMap",
            map(true, "1"),
            map(false, "1"),
            vec!["immutable: Forbidden: field is immutable when `immutable` is set"],
        ),
        (
            "Secret",
            map(true, "1"),
            map(true, "2"),
            vec!["data: Forbidden: field is immutable when `immutable` is set"],
        ),
        ("Secret", secret("a"), secret("b"), vec!["type: Invalid value: \"b\": field is immutable"]),
    ] {
        assert_eq!(texts(&update(kind, &old, &new)), want, "{kind}");
    }
    let dying = json!({"metadata": {"name": "x", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["a.b/c"]}});
    let mut more = dying.clone();
    more["metadata"]["finalizers"] = json!(["a.b/c", "d.e/f"]);
    assert_eq!(
        texts(&update("Odd", &dying, &more)),
        [
            "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"d.e/f\"}"
        ]
    );
}
