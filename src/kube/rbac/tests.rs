//! The documented semantics as tables, and evaluation against a naive one.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn rule(value: Value) -> Rule {
    serde_json::from_value(value).unwrap()
}

fn res<'a>(verb: &'a str, group: &'a str, resource: &'a str, namespace: &'a str, name: &'a str) -> Ask<'a> {
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    Ask::Resource(ResourceAsk { verb, group, resource, subresource, namespace, name })
}

#[test]
fn one_rule() {
    let pods = json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]});
    let named = json!({"verbs": ["get", "update"], "apiGroups": [""], "resources": ["configmaps"],
        "resourceNames": ["mine"]});
    let all = json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]});
    let scale = json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["*/scale"]});
    let urls = json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/healthz/*", "/api*"]});
    for (own, ask, want) in [
        (&pods, res("get", "", "pods", "a", "p"), true),
        (&pods, res("list", "", "pods", "a", ""), true),
        (&pods, res("watch", "", "pods", "a", ""), false),
        (&pods, res("get", "", "pods/log", "a", "p"), true),
        (&pods, res("get", "", "pods/status", "a", "p"), false),
        (&pods, res("get", "apps", "pods", "a", "p"), false),
        (&named, res("get", "", "configmaps", "a", "mine"), true),
        (&named, res("get", "", "configmaps", "a", "other"), false),
        // A name in a rule never allows a collection.
        (&named, res("get", "", "configmaps", "a", ""), false),
        (&all, res("delete", "x.io", "things/status", "", "t"), true),
        (&all, Ask::Path { verb: "get", path: "/metrics" }, false),
        (&scale, res("get", "apps", "deployments/scale", "a", "d"), true),
        (&scale, res("get", "apps", "deployments", "a", "d"), false),
        (&scale, res("get", "apps", "scale", "a", "d"), false),
        (&urls, Ask::Path { verb: "get", path: "/healthz" }, true),
        (&urls, Ask::Path { verb: "get", path: "/healthz/ping" }, true),
        (&urls, Ask::Path { verb: "get", path: "/healthzz" }, false),
        (&urls, Ask::Path { verb: "get", path: "/apis/x" }, true),
        (&urls, Ask::Path { verb: "post", path: "/healthz" }, false),
        (&urls, res("get", "", "healthz", "", ""), false),
    ] {
        assert_eq!(rule(own.clone()).allows(&ask), want, "{own} {ask:?}");
    }
}

#[test]
fn bindings_reach_as_far_as_they_say() {
    let mut access = Access::default();
    let read = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "nodes"]},
        {"verbs": ["get"], "nonResourceURLs": ["/metrics"]}]);
    access.put("ClusterRole", &json!({"metadata": {"name": "reader"}, "rules": read}));
    access.put(
        "Role",
        &json!({"metadata": {"name": "reader", "namespace": "b"}, "rules": [
        {"verbs": ["delete"], "apiGroups": [""], "resources": ["pods"]}]}),
    );
    let binding = |namespace: &str, role: &str, subject: Value| {
        json!({"metadata": {"name": "x", "namespace": namespace}, "roleRef": {"kind": role, "name": "reader"},
            "subjects": [subject]})
    };
    access.put("RoleBinding", &binding("a", "ClusterRole", json!({"kind": "User", "name": "ann"})));
    access.put("RoleBinding", &binding("b", "Role", json!({"kind": "Group", "name": "team"})));
    access.put(
        "ClusterRoleBinding",
        &binding("", "ClusterRole", json!({"kind": "ServiceAccount", "namespace": "a", "name": "bot"})),
    );
    let team = ["team".to_owned()];
    let url = Ask::Path { verb: "get", path: "/metrics" };
    for (user, groups, ask, want) in [
        ("ann", &team[..0], res("get", "", "pods", "a", "p"), true),
        ("ann", &team[..0], res("get", "", "pods", "b", "p"), false),
        // A RoleBinding gives nothing at the cluster scope, whatever the ClusterRole says.
        ("ann", &team[..0], res("get", "", "pods", "", ""), false),
        ("ann", &team[..0], res("get", "", "nodes", "", "n"), false),
        ("ann", &team[..0], url, false),
        ("bob", &team[..], res("delete", "", "pods", "b", "p"), true),
        ("bob", &team[..], res("get", "", "pods", "b", "p"), false),
        ("team", &team[..0], res("delete", "", "pods", "b", "p"), false),
        ("system:serviceaccount:a:bot", &team[..0], res("get", "", "nodes", "", "n"), true),
        ("system:serviceaccount:a:bot", &team[..0], res("get", "", "pods", "z", "p"), true),
        ("system:serviceaccount:a:bot", &team[..0], url, true),
        ("system:serviceaccount:b:bot", &team[..0], res("get", "", "nodes", "", "n"), false),
    ] {
        let who = Subjects { user, groups };
        assert_eq!(access.allows(who, &ask), want, "{user} {ask:?}");
    }
    access.remove("RoleBinding", "a", "x");
    assert!(!access.allows(Subjects { user: "ann", groups: &[] }, &res("get", "", "pods", "a", "p")));
    access.remove("ClusterRole", "", "reader");
    let bot = Subjects { user: "system:serviceaccount:a:bot", groups: &[] };
    assert!(!access.allows(bot, &res("get", "", "nodes", "", "n")), "the role is gone, the binding is not");
}

#[test]
fn what_is_missing_to_grant() {
    let held = [
        json!({"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "*/status"]}),
        json!({"verbs": ["update"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"]}),
        json!({"verbs": ["get"], "nonResourceURLs": ["/x/*"]}),
        json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["*"]}),
    ]
    .map(rule);
    let held: Vec<&Rule> = held.iter().collect();
    for (wanted, want) in [
        (json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}), vec![]),
        (json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods/status", "nodes/status"]}), vec![]),
        (json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "resourceNames": ["p"]}), vec![]),
        (json!({"verbs": ["get"], "apiGroups": ["apps"], "resources": ["x", "x/y", "*"]}), vec![]),
        (json!({"verbs": ["get"], "nonResourceURLs": ["/x/y", "/x/*"]}), vec![]),
        (
            json!({"verbs": ["get", "delete"], "apiGroups": [""], "resources": ["pods"]}),
            vec![r#"{APIGroups:[""], Resources:["pods"], Verbs:["delete"]}"#],
        ),
        (
            json!({"verbs": ["*"], "apiGroups": [""], "resources": ["pods"]}),
            vec![r#"{APIGroups:[""], Resources:["pods"], Verbs:["*"]}"#],
        ),
        (
            json!({"verbs": ["get"], "apiGroups": ["*"], "resources": ["pods"]}),
            vec![r#"{APIGroups:["*"], Resources:["pods"], Verbs:["get"]}"#],
        ),
        (
            json!({"verbs": ["update"], "apiGroups": [""], "resources": ["configmaps"]}),
            vec![r#"{APIGroups:[""], Resources:["configmaps"], Verbs:["update"]}"#],
        ),
        (
            json!({"verbs": ["update"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a", "b"]}),
            vec![r#"{APIGroups:[""], Resources:["configmaps"], ResourceNames:["b"], Verbs:["update"]}"#],
        ),
        (
            json!({"verbs": ["get"], "nonResourceURLs": ["/x"]}),
            vec![r#"{NonResourceURLs:["/x"], Verbs:["get"]}"#],
        ),
    ] {
        let got: Vec<String> =
            missing(&held, &[rule(wanted.clone())]).iter().map(ToString::to_string).collect();
        assert_eq!(got, want, "{wanted}");
    }
}

/// As the documentation reads, with no index: every binding, every subject, every rule.
fn naive(objects: &[(&'static str, Value)], who: Subjects<'_>, ask: &Ask<'_>) -> bool {
    let text =
        |value: &Value, at: &str| value.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
    objects.iter().filter(|(kind, _)| kind.ends_with("Binding")).any(|(kind, binding)| {
        let space = text(binding, "/metadata/namespace");
        if *kind == "RoleBinding" && (space != ask.namespace() || ask.namespace().is_empty()) {
            return false;
        }
        let named = binding["subjects"].as_array().into_iter().flatten().any(|subject| {
            match (&*text(subject, "/kind"), text(subject, "/name")) {
                ("User", name) => name == who.user,
                ("Group", name) => who.groups.contains(&name),
                (_, name) => {
                    who.user == format!("system:serviceaccount:{}:{name}", text(subject, "/namespace"))
                }
            }
        });
        let role = text(binding, "/roleRef/kind");
        let rules = objects.iter().filter(|(kind, object)| {
            *kind == role
                && text(object, "/metadata/name") == text(binding, "/roleRef/name")
                && (role == "ClusterRole" || text(object, "/metadata/namespace") == space)
        });
        named && rules.flat_map(|(_, role)| rules_of(role)).any(|rule| rule.allows(ask))
    })
}

fn word(words: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(words)
}

fn some(words: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(word(words), 0..3)
}

const SPACES: &[&str] = &["a", "b"];
const NAMES: &[&str] = &["x", "y"];
const VERBS: &[&str] = &["get", "list", "*"];
const RESOURCES: &[&str] = &["pods", "pods/log", "*/log", "*"];

fn object() -> impl Strategy<Value = (&'static str, Value)> {
    let rules = prop::collection::vec(
        (some(VERBS), some(&["", "apps", "*"]), some(RESOURCES), some(NAMES), some(&["/m", "/m/*", "*"]))
            .prop_map(|(verbs, groups, resources, names, urls)| {
                json!({"verbs": verbs, "apiGroups": groups, "resources": resources, "resourceNames": names,
                    "nonResourceURLs": urls})
            }),
        0..3,
    );
    let subjects = prop::collection::vec(
        (word(&["User", "Group", "ServiceAccount"]), word(NAMES), word(SPACES))
            .prop_map(|(kind, name, space)| json!({"kind": kind, "name": name, "namespace": space})),
        0..3,
    );
    let kinds = word(&["Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"]);
    (kinds, word(SPACES), word(NAMES), word(&["Role", "ClusterRole"]), word(NAMES), rules, subjects).prop_map(
        |(kind, space, name, of, role, rules, subjects)| {
            let space = if kind.starts_with("Cluster") { "" } else { space };
            let of = if kind == "ClusterRoleBinding" { "ClusterRole" } else { of };
            let object = json!({"metadata": {"name": name, "namespace": space}, "rules": rules,
                "roleRef": {"kind": of, "name": role}, "subjects": subjects});
            (kind, object)
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever was put, changed and removed before, evaluation equals the naive one.
    #[test]
    fn evaluation_equals_a_naive_one(
        steps in prop::collection::vec((object(), prop::bool::weighted(0.2)), 0..25),
        user in word(&["x", "y", "system:serviceaccount:a:x", "system:serviceaccount:b:y"]),
        groups in some(NAMES),
        verb in word(&["get", "list"]), group in word(&["", "apps"]),
        resource in word(&["pods", "pods/log", "nodes", "nodes/log"]),
        space in word(&["", "a", "b"]), name in word(&["", "x", "z"]),
        path in word(&["/m", "/m/n", "/n"]),
    ) {
        let mut access = Access::default();
        let mut objects: Vec<(&'static str, Value)> = Vec::new();
        for ((kind, object), removes) in steps {
            let same = |old: &(&'static str, Value)| old.0 == kind && old.1["metadata"] == object["metadata"];
            objects.retain(|old| !same(old));
            if removes {
                let text = |field: &str| object["metadata"][field].as_str().unwrap().to_owned();
                access.remove(kind, &text("namespace"), &text("name"));
            } else {
                access.put(kind, &object);
                objects.push((kind, object));
            }
        }
        let groups: Vec<String> = groups.into_iter().map(str::to_owned).collect();
        let who = Subjects { user, groups: &groups };
        for ask in [res(verb, group, resource, space, name), Ask::Path { verb, path }] {
            prop_assert_eq!(access.allows(who, &ask), naive(&objects, who, &ask), "{:?}", ask);
        }
    }

    /// Who may grant a rule holds everything it allows.
    #[test]
    fn covered_means_held(
        held in object(), wanted in object(),
        verb in word(&["get", "list"]), group in word(&["", "apps"]),
        resource in word(&["pods", "pods/log", "nodes/log"]), name in word(&["", "x", "z"]),
        path in word(&["/m", "/m/n"]),
    ) {
        let (held, wanted) = (rules_of(&held.1), rules_of(&wanted.1));
        let own: Vec<&Rule> = held.iter().collect();
        if missing(&own, &wanted).is_empty() {
            for ask in [res(verb, group, resource, "a", name), Ask::Path { verb, path }] {
                let granted = wanted.iter().any(|rule| rule.allows(&ask));
                prop_assert!(!granted || held.iter().any(|rule| rule.allows(&ask)), "{:?}", ask);
            }
        }
    }
}

#[test]
fn a_rule_of_many_parts_costs_little() {
    let words = |of: &str| (0..300).map(|n| format!("{of}{n}")).collect::<Vec<String>>();
    let wide = Rule {
        verbs: words("v"),
        api_groups: words("g"),
        resources: words("r"),
        resource_names: words("n"),
        ..Rule::default()
    };
    let some = rule(json!({"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}));
    // 8.1e9 parts: refused as a whole, and what follows is not looked at.
    assert_eq!(missing(&[&some], &[wide.clone(), some.clone()]), [Missing(wide.clone())]);
    assert_eq!(missing(&[], std::slice::from_ref(&wide)).len(), 1);
    // Who holds the whole rule may give it, and so may who holds everything.
    let all = rule(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}));
    assert!(missing(&[&some, &all], &[wide.clone(), some.clone()]).is_empty());
    assert!(missing(&[&wide], std::slice::from_ref(&wide)).is_empty());
    // Not more is told than anybody reads.
    let many =
        Rule { verbs: words("v"), api_groups: words("g"), resources: vec!["pods".into()], ..Rule::default() };
    assert_eq!(missing(&[&some], &[many]).len(), 100);
}
