//! Events in, changes for nodes out.

use super::*;
use crate::actors::cloud::edge_controller::object;
use proptest::prelude::*;
use serde_json::json;

fn pod(name: &str, uid: &str, version: u64, node: &str, spec: Value) -> Value {
    let mut spec = spec;
    if !node.is_empty() {
        spec["nodeName"] = node.into();
    }
    json!({"metadata": {"namespace": "ns", "name": name, "uid": uid, "resourceVersion": version.to_string()},
        "spec": spec, "status": {"phase": version.to_string()}})
}

fn thing(name: &str, uid: &str, version: u64) -> Value {
    json!({"metadata": {"namespace": "ns", "name": name, "uid": uid, "resourceVersion": version.to_string(),
        "managedFields": [{"manager": "kubectl"}]}, "data": {"v": version.to_string()}})
}

fn uses(config: &str) -> Value {
    json!({"containers": [{"envFrom": [{"configMapRef": {"name": config}}]}]})
}

fn told(changes: &[Change]) -> Vec<String> {
    changes
        .iter()
        .map(|change| {
            let nodes: Vec<&str> = change.nodes.iter().map(NodeName::as_str).collect();
            format!("{} {} to {}", change.operation, change.key, nodes.join("+"))
        })
        .collect()
}

fn put(index: &mut Index, kind: Kind, object: Value) -> Vec<String> {
    told(&index.apply(kind, Event::Applied(object)))
}

fn gone(index: &mut Index, kind: Kind, object: Value) -> Vec<String> {
    told(&index.apply(kind, Event::Removed(object)))
}

#[test]
fn what_a_pod_references_follows_it() {
    let mut index = Index::default();
    let none: [&str; 0] = [];
    assert_eq!(put(&mut index, Kind::ConfigMap, thing("c", "c1", 1)), none, "nobody needs it");
    assert_eq!(put(&mut index, Kind::Pod, pod("p", "p1", 2, "", uses("c"))), none, "not bound");
    assert_eq!(
        put(&mut index, Kind::Pod, pod("p", "p1", 3, "n1", uses("c"))),
        ["insert ns/configmap/c to n1", "insert ns/pod/p to n1"]
    );
    assert_eq!(
        put(&mut index, Kind::Pod, pod("q", "q1", 4, "n1", uses("c"))),
        ["update ns/configmap/c to n1", "insert ns/pod/q to n1"],
        "what is there may be older than the pod"
    );
    assert_eq!(
        put(&mut index, Kind::Pod, pod("r", "r1", 5, "n2", uses("c"))),
        ["insert ns/configmap/c to n2", "insert ns/pod/r to n2"]
    );
    assert_eq!(put(&mut index, Kind::ConfigMap, thing("c", "c1", 6)), ["update ns/configmap/c to n1+n2"]);
    assert_eq!(put(&mut index, Kind::ConfigMap, thing("c", "c1", 6)), none, "listed again");
    assert_eq!(gone(&mut index, Kind::Pod, pod("p", "p1", 7, "n1", uses("c"))), ["delete ns/pod/p to n1"]);
    assert_eq!(
        gone(&mut index, Kind::Pod, pod("q", "q1", 8, "n1", uses("c"))),
        ["delete ns/pod/q to n1", "delete ns/configmap/c to n1"]
    );
    assert_eq!(put(&mut index, Kind::ConfigMap, thing("c", "c1", 9)), ["update ns/configmap/c to n2"]);
    assert_eq!(gone(&mut index, Kind::ConfigMap, thing("c", "c1", 9)), ["delete ns/configmap/c to n2"]);
    assert_eq!(put(&mut index, Kind::ConfigMap, thing("c", "c2", 11)), ["insert ns/configmap/c to n2"]);
    assert_eq!(
        put(&mut index, Kind::ConfigMap, thing("c", "c3", 12)),
        ["delete ns/configmap/c to n2", "insert ns/configmap/c to n2"],
        "deleted and created again between two lists"
    );
}

#[test]
fn status_only_changes_are_not_sent() {
    let mut index = Index::default();
    put(&mut index, Kind::Pod, pod("p", "p1", 1, "n1", json!({})));
    let none: [&str; 0] = [];
    assert_eq!(put(&mut index, Kind::Pod, pod("p", "p1", 2, "n1", json!({}))), none);
    let node = NodeName::parse("n1").unwrap();
    assert_eq!(index.desired(&node)[0].resource_version, "1", "a copy of version 1 is good enough");
    let mut leaving = pod("p", "p1", 3, "n1", json!({}));
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
    assert_eq!(put(&mut index, Kind::Pod, leaving.clone()), ["update ns/pod/p to n1"]);
    assert_eq!(gone(&mut index, Kind::Pod, leaving), ["delete ns/pod/p to n1"]);
    let mut node_object =
        json!({"metadata": {"name": "n1", "uid": "n", "resourceVersion": "4"}, "status": {"a": 1}});
    assert_eq!(put(&mut index, Kind::Node, node_object.clone()), ["update null/node/n1 to n1"]);
    node_object["status"]["a"] = 2.into();
    node_object["metadata"]["resourceVersion"] = "5".into();
    assert_eq!(put(&mut index, Kind::Node, node_object.clone()), none);
    assert_eq!(gone(&mut index, Kind::Node, node_object), ["delete null/node/n1 to n1"]);
}

#[test]
fn pull_secrets_of_the_service_account() {
    let mut index = Index::default();
    let account = |version: u64, secrets: Value| {
        json!({"metadata": {"namespace": "ns", "name": "default", "uid": "a", "resourceVersion": version.to_string()},
            "imagePullSecrets": secrets})
    };
    put(&mut index, Kind::Secret, thing("pull", "s1", 1));
    put(&mut index, Kind::ServiceAccount, account(2, json!([])));
    put(&mut index, Kind::Pod, pod("p", "p1", 3, "n1", json!({})));
    let added = put(&mut index, Kind::ServiceAccount, account(4, json!([{"name": "pull"}])));
    assert_eq!(added, ["update ns/secret/pull to n1"]);
    let changed = put(&mut index, Kind::Secret, thing("pull", "s1", 5));
    assert_eq!(changed, ["update ns/secret/pull to n1"]);
    let removed = put(&mut index, Kind::ServiceAccount, account(6, json!([])));
    assert_eq!(removed, ["delete ns/secret/pull to n1"]);
}

#[test]
fn a_new_list_removes_what_it_does_not_have() {
    let mut index = Index::default();
    assert!(!index.is_complete());
    for kind in Kind::ALL {
        index.apply(kind, Event::Listing);
        if kind == Kind::Pod {
            put(&mut index, kind, pod("p", "p1", 1, "n1", json!({})));
            put(&mut index, kind, pod("q", "q1", 1, "n1", json!({})));
        }
        assert!(index.apply(kind, Event::Listed).is_empty());
    }
    assert!(index.is_complete());
    index.apply(Kind::Pod, Event::Listing);
    put(&mut index, Kind::Pod, pod("q", "q1", 1, "n1", json!({})));
    assert_eq!(told(&index.apply(Kind::Pod, Event::Listed)), ["delete ns/pod/p to n1"]);
}

#[test]
fn wire_shapes() {
    let mut index = Index::default();
    put(&mut index, Kind::ConfigMap, thing("c", "c1", 900));
    let changes = index.apply(Kind::Pod, Event::Applied(pod("p", "p1", 901, "n1", uses("c"))));
    let config = object::message(&changes[0], 5).envelope();
    assert_eq!(config.header.resource_version.as_deref(), Some("900"));
    assert_eq!((config.route.source.as_str(), config.route.group.as_str()), ("edgecontroller", "resource"));
    let want = json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"v": "900"},
        "metadata": {"namespace": "ns", "name": "c", "uid": "c1", "resourceVersion": "900"}});
    assert_eq!(config.body, crate::model::Body::Object(want));
    let changes = index.apply(Kind::Pod, Event::Removed(pod("p", "p1", 902, "n1", uses("c"))));
    let skeleton = object::message(&changes[1], 5).envelope();
    assert_eq!(skeleton.header.resource_version, None);
    let want = json!({"metadata": {"namespace": "ns", "name": "c", "uid": "c1"}});
    assert_eq!(skeleton.body, crate::model::Body::Object(want));
}

#[derive(Debug, Clone)]
enum Step {
    Config(u8),
    NoConfig(u8),
    Pod { pod: u8, node: u8, config: u8 },
    NoPod(u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..3).prop_map(Step::Config),
        (0u8..3).prop_map(Step::NoConfig),
        (0u8..4, 0u8..2, 0u8..3).prop_map(|(pod, node, config)| Step::Pod { pod, node, config }),
        (0u8..4).prop_map(Step::NoPod),
    ]
}

proptest! {
    /// A node that applies every change it is told holds exactly what `desired` lists.
    #[test]
    fn changes_lead_to_desired(steps in prop::collection::vec(step(), 1..60)) {
        let mut index = Index::default();
        let mut holds: HashMap<NodeName, BTreeMap<String, String>> = HashMap::new();
        for (at, step) in steps.into_iter().enumerate() {
            let version = at as u64 + 1;
            let changes = match step {
                Step::Config(c) => {
                    index.apply(Kind::ConfigMap, Event::Applied(thing(&format!("c{c}"), &format!("cu{c}"), version)))
                }
                Step::NoConfig(c) => {
                    index.apply(Kind::ConfigMap, Event::Removed(thing(&format!("c{c}"), "", version)))
                }
                Step::Pod { pod: p, node, config } => {
                    let uid = format!("p{p}-{node}");
                    let object = pod(&format!("p{p}"), &uid, version, &format!("n{node}"), uses(&format!("c{config}")));
                    index.apply(Kind::Pod, Event::Applied(object))
                }
                Step::NoPod(p) => {
                    index.apply(Kind::Pod, Event::Removed(pod(&format!("p{p}"), "", version, "", json!({}))))
                }
            };
            for change in changes {
                for node in &change.nodes {
                    let held = holds.entry(node.clone()).or_default();
                    match (change.operation, &change.content) {
                        ("delete", _) => { held.remove(&change.key.to_string()); }
                        (_, Content::Object(object)) => {
                            let version = object["metadata"]["resourceVersion"].as_str().unwrap();
                            held.insert(change.key.to_string(), version.to_owned());
                        }
                        (_, Content::Skeleton { .. }) => prop_assert!(false, "an update without an object"),
                    }
                }
            }
            for (node, held) in &holds {
                let want: BTreeMap<String, String> = index.desired(node).into_iter()
                    .map(|it| (it.resource.to_string(), it.resource_version)).collect();
                prop_assert_eq!(held, &want);
            }
        }
    }
}
