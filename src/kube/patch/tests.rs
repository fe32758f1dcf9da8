use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;

#[test]
fn rfc_7386_examples() {
    for (target, patch, want) in [
        (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "b"}), json!({"b": "c"}), json!({"a": "b", "b": "c"})),
        (json!({"a": "b"}), json!({"a": null}), json!({})),
        (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
        (json!({"a": ["b"]}), json!({"a": "c"}), json!({"a": "c"})),
        (json!({"a": "c"}), json!({"a": ["b"]}), json!({"a": ["b"]})),
        (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
        (json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]})),
        (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
        (json!({"a": "b"}), json!(["c"]), json!(["c"])),
        (json!({"a": "foo"}), json!("bar"), json!("bar")),
        (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        (json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"})),
        (json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}})),
        (json!({}), json!({"a": [{"b": null, "c": 1}]}), json!({"a": [{"c": 1}]})),
    ] {
        let mut merged = target.clone();
        merge(&mut merged, &patch);
        assert_eq!(merged, want, "{target} + {patch}");
    }
}

#[test]
fn json_patches_apply_or_say_why() {
    let target = json!({"a": {"b": [1, 2]}, "c": "d"});
    for (ops, want) in [
        (json!([]), Ok(target.clone())),
        (json!([{"op": "replace", "path": "/c", "value": 1}]), Ok(json!({"a": {"b": [1, 2]}, "c": 1}))),
        (json!([{"op": "add", "path": "/a/b/-", "value": 3}]), Ok(json!({"a": {"b": [1, 2, 3]}, "c": "d"}))),
        (json!([{"op": "remove", "path": "/a/b/0"}]), Ok(json!({"a": {"b": [2]}, "c": "d"}))),
        (json!([{"op": "move", "from": "/c", "path": "/a/c"}]), Ok(json!({"a": {"b": [1, 2], "c": "d"}}))),
        (json!([{"op": "test", "path": "/c", "value": "d"}]), Ok(target.clone())),
        (
            json!([{"op": "remove", "path": "/c"}, {"op": "test", "path": "/a/b/0", "value": 9}]),
            Err("operation 1 (test /a/b/0): the value there is not the expected one"),
        ),
        (
            json!([{"op": "remove", "path": "/x"}]),
            Err("operation 0 (remove /x): there is nothing at that path"),
        ),
        (
            json!([{"op": "copy", "from": "/x", "path": "/y"}]),
            Err("operation 0 (copy /y): there is nothing at the from path"),
        ),
    ] {
        let got = json(&target, &ops);
        assert_eq!(got, want.map_err(|text: &str| PatchError(text.to_owned())), "{ops}");
    }
    for ops in
        [json!({}), json!([{"op": "hop", "path": "/a"}]), json!([{"op": "add", "path": "a", "value": 1}])]
    {
        let error = json(&target, &ops).unwrap_err();
        assert!(error.0.starts_with("not a JSON patch"), "{error}");
    }
}

#[test]
fn json_patches_have_bounds() {
    let many = Value::Array(vec![json!({"op": "test", "path": "/a", "value": 1}); MAX_OPERATIONS + 1]);
    assert!(json(&json!({"a": 1}), &many).unwrap_err().0.contains("10001 operations"));

    let bomb =
        Value::Array((0..40).map(|n| json!({"op": "copy", "from": "", "path": format!("/{n}")})).collect());
    assert!(json(&json!({"a": "0123456789"}), &bomb).unwrap_err().0.contains("copies or moves too much"));

    let deep: Vec<Value> = (0..200)
        .flat_map(|_| {
            [
                json!({"op": "add", "path": "/n", "value": {}}),
                json!({"op": "move", "from": "/a", "path": "/n/a"}),
                json!({"op": "move", "from": "/n", "path": "/a"}),
            ]
        })
        .collect();
    assert!(json(&json!({"a": {}}), &Value::Array(deep)).unwrap_err().0.contains("too deep"));
}

fn pod(containers: Value) -> Value {
    json!({"metadata": {"name": "p", "labels": {"a": "1"}, "finalizers": ["f1", "f2"]}, "spec": {"containers": containers}})
}

#[test]
fn strategic_patches_merge_lists_by_key() {
    let c = |name: &str, image: &str| json!({"name": name, "image": image});
    for (case, target, patch, want) in [
        (
            "set image",
            pod(json!([c("a", "1"), c("b", "1")])),
            json!({"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "b"}], "containers": [{"name": "b", "image": "2"}]}}),
            pod(json!([c("a", "1"), c("b", "2")])),
        ),
        (
            "a new element stands first without an order",
            pod(json!([c("a", "1"), c("b", "1")])),
            json!({"spec": {"containers": [c("n", "1")]}}),
            pod(json!([c("n", "1"), c("a", "1"), c("b", "1")])),
        ),
        (
            "a new element where the order says",
            pod(json!([c("a", "1"), c("b", "1")])),
            json!({"spec": {"$setElementOrder/containers": [{"name": "a"}, {"name": "n"}, {"name": "b"}], "containers": [c("n", "1")]}}),
            pod(json!([c("a", "1"), c("n", "1"), c("b", "1")])),
        ),
        (
            "order alone",
            pod(json!([c("a", "1"), c("b", "1"), c("s", "1")])),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}),
            pod(json!([c("b", "1"), c("a", "1"), c("s", "1")])),
        ),
        (
            "delete an element",
            pod(json!([c("a", "1"), c("b", "1")])),
            json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
            pod(json!([c("b", "1")])),
        ),
        (
            "replace the list",
            pod(json!([c("a", "1"), c("b", "1")])),
            json!({"spec": {"containers": [{"$patch": "replace"}, c("z", "9")]}}),
            pod(json!([c("z", "9")])),
        ),
        (
            "nested lists",
            pod(
                json!([{"name": "a", "env": [{"name": "X", "value": "1"}], "ports": [{"containerPort": 80}], "args": ["a", "b"]}]),
            ),
            json!({"spec": {"containers": [{"name": "a", "env": [{"name": "X", "value": "2"}], "ports": [{"containerPort": 80, "name": "http"}], "args": ["c"]}]}}),
            pod(
                json!([{"name": "a", "env": [{"name": "X", "value": "2"}], "ports": [{"containerPort": 80, "name": "http"}], "args": ["c"]}]),
            ),
        ),
        (
            "null drops a field, nulls in new maps are dropped",
            pod(json!([])),
            json!({"metadata": {"labels": {"a": null}, "annotations": {"k": "v", "n": null}}}),
            json!({"metadata": {"name": "p", "labels": {}, "annotations": {"k": "v"}, "finalizers": ["f1", "f2"]}, "spec": {"containers": []}}),
        ),
        (
            "lists of scalars are sets",
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"finalizers": ["c", "a"]}}),
            json!({"metadata": {"finalizers": ["c", "a", "b"]}}),
        ),
        (
            "delete from a list of scalars",
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
            json!({"metadata": {"finalizers": ["b"]}}),
        ),
        (
            "delete and add with an order",
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "$setElementOrder/finalizers": ["b", "c"], "finalizers": ["c"]}}),
            json!({"metadata": {"finalizers": ["b", "c"]}}),
        ),
        (
            "replace a map",
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}),
            json!({"metadata": {"labels": {"c": "3"}}}),
        ),
        (
            "empty a map",
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"$patch": "delete"}}}),
            json!({"metadata": {"labels": {}}}),
        ),
        (
            "merge is the default",
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"$patch": "merge", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
        ),
        (
            "another source of a volume",
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}}),
        ),
        (
            "tolerations replace",
            json!({"spec": {"tolerations": [{"key": "a"}]}}),
            json!({"spec": {"tolerations": [{"key": "b"}]}}),
            json!({"spec": {"tolerations": [{"key": "b"}]}}),
        ),
        (
            "directives in what is new are not stored",
            json!({}),
            json!({"spec": {"$setElementOrder/containers": [{"name": "a"}], "containers": [{"name": "a", "$retainKeys": ["name"]}]}}),
            json!({"spec": {"containers": [{"name": "a"}]}}),
        ),
        (
            "conditions of the status",
            json!({"status": {"conditions": [{"type": "Ready", "status": "False", "reason": "x"}]}}),
            json!({"status": {"conditions": [{"type": "Ready", "status": "True", "reason": null}]}}),
            json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        ),
    ] {
        assert_eq!(strategic("Pod", &target, &patch), Ok(want), "{case}");
    }
}

#[test]
fn other_kinds_have_their_own_lists() {
    let node = json!({"spec": {"taints": [{"key": "a"}]}, "status": {"addresses": [{"type": "Hostname", "address": "x"}], "images": [{"names": ["i"]}]}});
    let patch = json!({"spec": {"taints": [{"key": "b"}], "unschedulable": true},
        "status": {"addresses": [{"type": "InternalIP", "address": "y"}], "images": []}});
    let want = json!({"spec": {"taints": [{"key": "b"}], "unschedulable": true},
        "status": {"addresses": [{"type": "InternalIP", "address": "y"}, {"type": "Hostname", "address": "x"}], "images": []}});
    assert_eq!(strategic("Node", &node, &patch), Ok(want));

    let unknown = json!({"spec": {"list": [1, 2], "map": {"a": 1}}});
    let patch = json!({"spec": {"list": [3], "map": {"b": 2}}});
    let want = json!({"spec": {"list": [3], "map": {"a": 1, "b": 2}}});
    assert_eq!(strategic("Odd", &unknown, &patch), Ok(want));
}

#[test]
fn bad_strategic_patches_say_why() {
    let target = pod(json!([{"name": "a"}]));
    for (patch, want) in [
        (json!([]), "a strategic merge patch must be an object"),
        (json!({"$patch": "hop"}), "unknown patch type found: \"hop\""),
        (
            json!({"spec": {"containers": [{"image": "x"}]}}),
            "an element of containers does not contain declared merge key: name",
        ),
        (json!({"spec": {"containers": ["x"]}}), "an element of containers is not an object"),
        (
            json!({"spec": {"containers": [{"$patch": "merge"}]}}),
            "merging lists cannot yet be specified in the patch",
        ),
        (
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "a"}]}}),
            "the order in patch list of containers doesn't match the $setElementOrder/containers list",
        ),
        (
            json!({"spec": {"$retainKeys": ["a"], "b": 1}}),
            "invalid patch format of retainKeys: b is not in the list",
        ),
        (
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}),
            "invalid patch format of primitive list: $deleteFromPrimitiveList/finalizers is not a list",
        ),
        (
            json!({"metadata": {"finalizers": [{}]}}),
            "finalizers holds scalars, the patch or the object does not",
        ),
    ] {
        assert_eq!(strategic("Pod", &target, &patch), Err(PatchError(want.to_owned())), "{patch}");
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        (0..9).prop_map(Value::from),
        "[a-c]".prop_map(Value::from)
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::btree_map("[a-d]", inner, 0..4).prop_map(|map| map.into_iter().collect()),
        ]
    })
}

fn any_object() -> impl Strategy<Value = Value> {
    prop::collection::btree_map("[a-d]", any_json(), 0..4).prop_map(|map| map.into_iter().collect())
}

/// Names, images, environment.
fn any_containers() -> impl Strategy<Value = Value> {
    let env = prop::collection::btree_map("[X-Z]", "[0-9]", 0..3);
    prop::collection::btree_map("[a-e]", ("[0-9]", env), 0..5).prop_map(|containers| {
        let env = |env: std::collections::BTreeMap<String, String>| -> Value {
            env.into_iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
        };
        let container = |(name, (image, vars))| json!({"name": name, "image": image, "env": env(vars)});
        containers.into_iter().map(container).collect()
    })
}

/// The plainest patch that turns `from` into `to`.
fn diff(from: &Value, to: &Value) -> Value {
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return to.clone() };
    let mut patch = Map::new();
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in to {
        let before = from.get(name);
        if before != Some(value) {
            patch.insert(name.clone(), before.map_or_else(|| value.clone(), |before| diff(before, value)));
        }
    }
    Value::Object(patch)
}

/// As kubectl writes it: deletions, changes and the order of the whole list.
fn list_diff(name: &str, from: &Value, to: &Value) -> Value {
    let items = |list: &Value| list.as_array().cloned().unwrap_or_default();
    let named = |list: &[Value], id: &Value| list.iter().find(|item| item["name"] == *id).cloned();
    let (from, to) = (items(from), items(to));
    let mut changes = Vec::new();
    for item in &to {
        let mut change =
            named(&from, &item["name"]).map_or_else(|| item.clone(), |before| diff(&before, item));
        if let (Some(before), true) = (named(&from, &item["name"]), item.get("env").is_some()) {
            let Value::Object(env) = list_diff("env", &before["env"], &item["env"]) else {
                panic!("no object")
            };
            change.as_object_mut().unwrap().remove("env");
            change.as_object_mut().unwrap().extend(env);
        }
        change["name"] = item["name"].clone();
        changes.push(change);
    }
    for gone in from.iter().filter(|item| named(&to, &item["name"]).is_none()) {
        changes.push(json!({"name": gone["name"], "$patch": "delete"}));
    }
    let order: Value = to.iter().map(|item| json!({"name": item["name"]})).collect();
    json!({ name: changes, format!("$setElementOrder/{name}"): order })
}

proptest! {
    #[test]
    fn a_merge_patch_made_by_a_diff_gives_the_target(from in any_object(), to in any_object()) {
        let patch = diff(&from, &to);
        let mut merged = from.clone();
        merge(&mut merged, &patch);
        prop_assert_eq!(&merged, &to);
        merge(&mut merged, &patch);
        prop_assert_eq!(&merged, &to);
        // Where nothing has merge keys, the strategic one is the same.
        prop_assert_eq!(strategic("Odd", &from, &patch), Ok(to));
    }

    #[test]
    fn a_strategic_patch_made_by_a_diff_gives_the_target(from in any_containers(), to in any_containers()) {
        let patch = json!({"spec": list_diff("containers", &from, &to)});
        let (from, to) = (json!({"spec": {"containers": from}}), json!({"spec": {"containers": to}}));
        let once = strategic("Pod", &from, &patch);
        prop_assert_eq!(once.as_ref(), Ok(&to));
        prop_assert_eq!(strategic("Pod", &to, &patch), Ok(to));
    }

    #[test]
    fn any_patch_applies_or_is_refused(target in any_object(), patch in any_json(), ops in any_json()) {
        let mut merged = target.clone();
        merge(&mut merged, &patch);
        if let Ok(result) = strategic("Pod", &target, &patch) {
            prop_assert!(result.is_object());
        }
        prop_assert!(json(&target, &ops).is_ok() || !ops.as_array().is_some_and(Vec::is_empty));
    }
}

#[test]
fn patches_that_would_take_minutes_are_refused() {
    let rows =
        |n: usize| Value::Array((0..n).map(|i| json!({"type": i.to_string(), "status": "x"})).collect());
    for patch in [
        json!({"status": {"conditions": rows(20_000)}}),
        json!({"status": {"conditions": [], "$setElementOrder/conditions": rows(20_000)}}),
        json!({"metadata": {"finalizers": rows(20_000)}}),
    ] {
        let error = strategic("Node", &json!({"status": {}}), &patch).unwrap_err();
        assert!(error.0.contains("too long"), "{error}");
    }
    let many = json!({"status": {"conditions": rows(400)}});
    let before = strategic("Node", &json!({"status": {}}), &many).unwrap();
    assert_eq!(strategic("Node", &before, &many).unwrap(), before);

    let mut operations = vec![json!({"op": "add", "path": "/x", "value": vec![0; 100_000]})];
    operations.extend((0..1000).map(|_| json!({"op": "add", "path": "/x/0", "value": 0})));
    let error = super::json(&json!({}), &Value::Array(operations)).unwrap_err();
    assert!(error.0.contains("too many list elements"), "{error}");
}
