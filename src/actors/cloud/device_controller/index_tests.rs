//! What nodes are told, in which order, and a model check: a node that applies every change has what
//! it should have.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

fn device(name: &str, uid: &str, version: u64, node: &str, model: &str, desired: u64) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "uid": uid, "resourceVersion": version.to_string(),
            "labels": {"description": "in the hall"}, "managedFields": [{}]},
        "spec": {"nodeName": node, "deviceModelRef": {"name": model},
            "properties": [{"name": "temperature", "desired": {"value": desired.to_string()}}]}})
}

fn model(name: &str, uid: &str, version: u64, unit: u64) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "uid": uid, "resourceVersion": version.to_string()},
        "spec": {"protocol": "fake", "properties": [{"name": "temperature", "unit": unit.to_string()}]}})
}

fn print(changes: &[Change]) -> Vec<String> {
    let mut all = Vec::new();
    for change in changes {
        match change {
            Change::Members { node, added, removed } => {
                all.extend(added.iter().map(|it| format!("{node} +{}", it.id)));
                all.extend(removed.iter().map(|it| format!("{node} -{}", it.id)));
            }
            Change::Object { nodes, operation, key, leaves, .. } => {
                let left = if *leaves { " (lives on)" } else { "" };
                all.extend(nodes.iter().map(|node| format!("{node} {operation} {key}{left}")));
            }
        }
    }
    all
}

fn apply(index: &mut Index, kind: Kind, object: Value) -> Vec<String> {
    print(&index.apply(kind, Event::Applied(object)).0)
}

fn remove(index: &mut Index, kind: Kind, object: Value) -> Vec<String> {
    print(&index.apply(kind, Event::Removed(object)).0)
}

const PLACED: [&str; 3] = ["n1 +default/d", "n1 insert default/devicemodel/m", "n1 insert default/device/d"];

#[test]
fn a_device_on_its_node() {
    let mut index = Index::default();
    assert!(apply(&mut index, Kind::Model, model("m", "1", 1, 0)).is_empty());
    assert_eq!(apply(&mut index, Kind::Device, device("d", "2", 2, "n1", "m", 20)), PLACED);
    let second = apply(&mut index, Kind::Device, device("e", "3", 3, "n1", "m", 20));
    assert_eq!(second, ["n1 +default/e", "n1 insert default/device/e"], "the model is there");
    assert!(
        apply(&mut index, Kind::Device, device("d", "2", 4, "n1", "m", 20)).is_empty(),
        "only the spec counts"
    );
    let version = |index: &Index| index.desired(&node("n1"))[1].resource_version.clone();
    assert_eq!(version(&index), "2", "a copy from before is good");
    let changed = apply(&mut index, Kind::Device, device("d", "2", 5, "n1", "m", 25));
    assert_eq!(changed, ["n1 update default/devicemodel/m", "n1 update default/device/d"]);
    assert_eq!(version(&index), "5");

    let moved = apply(&mut index, Kind::Device, device("d", "2", 6, "n2", "m", 25));
    let want = [
        "n1 -default/d",
        "n1 delete default/device/d (lives on)",
        "n2 +default/d",
        "n2 insert default/devicemodel/m",
        "n2 insert default/device/d",
    ];
    assert_eq!(moved, want, "e still uses the model on n1");
    let gone = remove(&mut index, Kind::Device, device("d", "2", 6, "n2", "m", 25));
    let want = ["n2 -default/d", "n2 delete default/device/d", "n2 delete default/devicemodel/m (lives on)"];
    assert_eq!(gone, want);
    let changed = apply(&mut index, Kind::Model, model("m", "1", 7, 1));
    assert_eq!(changed, ["n1 update default/devicemodel/m"]);
}

#[test]
fn a_membership_describes_the_device() {
    let mut index = Index::default();
    let (changes, owners) = index.apply(Kind::Device, Event::Applied(device("d", "2", 2, "n1", "", 20)));
    let Change::Members { added, .. } = &changes[0] else { panic!() };
    let want = Member {
        id: "default/d".to_owned(),
        name: "d".to_owned(),
        description: "in the hall".to_owned(),
        ..Member::default()
    };
    assert_eq!((added.as_slice(), changes.len()), (&[want][..], 2), "a device may have no model");
    let Owner::Is { uid, properties, .. } = &owners[0] else { panic!() };
    assert_eq!((uid.as_str(), properties.iter().next().unwrap().as_str()), ("2", "temperature"));
    let Change::Object { object, .. } = &changes[1] else { panic!() };
    assert_eq!(
        (&object["kind"], &object["apiVersion"]),
        (&json!("Device"), &json!(crate::model::device::API_VERSION))
    );
    assert!(object["metadata"].get("managedFields").is_none());
}

#[test]
fn models_come_late_change_and_go() {
    let mut index = Index::default();
    assert!(apply(&mut index, Kind::Device, device("d", "2", 2, "n1", "m", 20)).is_empty(), "held back");
    let key = |kind: &str, name: &str| ObjectKey::namespaced("default", kind, name);
    assert!(!index.desired_object(&node("n1"), &key("device", "d")).unwrap().1, "not sent, not surplus");
    assert_eq!(apply(&mut index, Kind::Model, model("m", "1", 3, 0)), PLACED);
    let gone = remove(&mut index, Kind::Model, model("m", "1", 3, 0));
    assert_eq!(gone, ["n1 delete default/devicemodel/m"]);
    assert_eq!(index.desired(&node("n1")).len(), 1, "the device stays");
    assert_eq!(
        apply(&mut index, Kind::Model, model("m", "9", 4, 0)),
        ["n1 insert default/devicemodel/m"],
        "back"
    );
    let again = apply(&mut index, Kind::Model, model("m", "10", 5, 0));
    assert_eq!(again, ["n1 delete default/devicemodel/m", "n1 insert default/devicemodel/m"], "re-created");

    apply(&mut index, Kind::Model, model("other", "7", 6, 0));
    let switched = apply(&mut index, Kind::Device, device("d", "2", 7, "n1", "other", 20));
    let want = [
        "n1 insert default/devicemodel/other",
        "n1 update default/device/d",
        "n1 delete default/devicemodel/m (lives on)",
    ];
    assert_eq!(switched, want);
    let missing = apply(&mut index, Kind::Device, device("d", "2", 8, "n1", "none", 20));
    assert_eq!(missing, ["n1 delete default/devicemodel/other (lives on)"]);
    let found = apply(&mut index, Kind::Model, model("none", "11", 9, 0));
    assert_eq!(found.len(), 3, "{found:?}");
}

#[test]
fn a_re_created_device_is_another_one() {
    let mut index = Index::default();
    apply(&mut index, Kind::Device, device("d", "2", 2, "n1", "", 20));
    let again = apply(&mut index, Kind::Device, device("d", "3", 3, "n1", "", 20));
    let want = ["n1 -default/d", "n1 delete default/device/d", "n1 +default/d", "n1 insert default/device/d"];
    assert_eq!(again, want);
}

#[test]
fn what_a_new_list_lacks_is_gone() {
    let mut index = Index::default();
    for (kind, objects) in [
        (Kind::Node, vec![json!({"metadata": {"name": "n1"}})]),
        (Kind::Model, vec![model("m", "1", 1, 0)]),
        (Kind::Device, vec![device("d", "2", 2, "n1", "m", 20), device("e", "3", 3, "n1", "m", 20)]),
    ] {
        assert!(!index.is_complete());
        index.apply(kind, Event::Listing);
        objects.into_iter().for_each(|object| drop(index.apply(kind, Event::Applied(object))));
        index.apply(kind, Event::Listed);
    }
    assert!(index.is_complete());
    index.apply(Kind::Device, Event::Listing);
    index.apply(Kind::Device, Event::Applied(device("e", "3", 3, "n1", "m", 20)));
    let (changes, owners) = index.apply(Kind::Device, Event::Listed);
    assert_eq!(print(&changes), ["n1 -default/d", "n1 delete default/device/d"]);
    assert!(matches!(&owners[0], Owner::Gone(id) if id.name == "d"));
}

#[test]
fn waiting_is_told_once() {
    let (mut index, start) = (Index::default(), Instant::now());
    let (grace, after) = (Duration::from_secs(4), Duration::from_secs(5));
    apply(&mut index, Kind::Device, device("d", "2", 2, "n1", "m", 20));
    apply(&mut index, Kind::Device, device("free", "4", 2, "", "", 20));
    let look = |index: &mut Index, now: Instant| {
        let (placed, waiting, notices) = index.look_around(now, grace, 10);
        (placed, waiting, notices.into_iter().map(|it| (it.reason, it.message)).collect::<Vec<_>>())
    };
    assert_eq!(look(&mut index, start), (0, 2, vec![]), "not yet");
    let (_, _, told) = look(&mut index, start + after);
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].0, told[0].1.contains("\"n1\"")), (Reason::NodeNotFound, true));
    assert_eq!(look(&mut index, start + after * 2), (0, 2, vec![]), "not again");
    apply(&mut index, Kind::Node, json!({"metadata": {"name": "n1"}}));
    assert_eq!(look(&mut index, start + after * 3), (0, 2, vec![]));
    let (_, _, told) = look(&mut index, start + after * 4);
    assert_eq!((told[0].0, told[0].1.contains("\"m\"")), (Reason::ModelNotFound, true));
    apply(&mut index, Kind::Model, model("m", "1", 3, 0));
    assert_eq!(look(&mut index, start + after * 5), (1, 1, vec![]));
    remove(&mut index, Kind::Node, json!({"metadata": {"name": "n1"}}));
    assert_eq!(look(&mut index, start + after * 6), (0, 2, vec![]));
    assert_eq!(look(&mut index, start + after * 7).2.len(), 1, "a new reason to wait");
}

/// Devices d0..d3 and models m0..m1 come, change, move and go.
#[derive(Debug, Clone)]
enum Step {
    Device { name: u8, uid: u8, node: u8, model: u8, desired: u8 },
    NoDevice(u8),
    Model { name: u8, unit: u8 },
    NoModel(u8),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..4, 0u8..2, 0u8..3, 0u8..2, 0u8..3)
            .prop_map(|(name, uid, node, model, desired)| Step::Device { name, uid, node, model, desired }),
        1 => (0u8..4).prop_map(Step::NoDevice),
        2 => (0u8..2, 0u8..3).prop_map(|(name, unit)| Step::Model { name, unit }),
        1 => (0u8..2).prop_map(Step::NoModel),
    ];
    prop::collection::vec(step, 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A node that applies what it is told has what it should have: the newest spec of each of its
    /// devices that is not held back, their models, and its members, and nothing else.
    #[test]
    fn nodes_end_with_what_is_desired(steps in steps()) {
        let mut index = Index::default();
        let mut held: HashMap<(NodeName, ObjectKey), Arc<Value>> = HashMap::new();
        let mut members: HashMap<NodeName, BTreeSet<String>> = HashMap::new();
        let mut version = 0;
        for step in steps {
            version += 1;
            let name_only = |name: String| json!({"metadata": {"name": name, "namespace": "default"}});
            let (kind, event) = match step {
                Step::Device { name, uid, node, model, desired } => {
                    let node = if node == 2 { String::new() } else { format!("n{node}") };
                    let uid = format!("d{name}-{uid}");
                    let model = format!("m{model}");
                    let object = device(&format!("d{name}"), &uid, version, &node, &model, desired.into());
                    (Kind::Device, Event::Applied(object))
                }
                Step::NoDevice(name) => (Kind::Device, Event::Removed(name_only(format!("d{name}")))),
                Step::Model { name, unit } => {
                    let name = format!("m{name}");
                    (Kind::Model, Event::Applied(model(&name, &name, version, unit.into())))
                }
                Step::NoModel(name) => (Kind::Model, Event::Removed(name_only(format!("m{name}")))),
            };
            for change in index.apply(kind, event).0 {
                match change {
                    Change::Members { node, added, removed } => {
                        let own = members.entry(node).or_default();
                        own.extend(added.into_iter().map(|it| it.id));
                        own.retain(|id| removed.iter().all(|it| &it.id != id));
                    }
                    Change::Object { nodes, operation, key, object, .. } => for node in nodes {
                        match operation {
                            operation::DELETE => drop(held.remove(&(node, key.clone()))),
                            _ => drop(held.insert((node, key.clone()), Arc::clone(&object))),
                        }
                    },
                }
            }
        }
        for node in ["n0", "n1"].map(node) {
            let desired: HashMap<ObjectKey, ObjectVersion> = index.desired(&node).into_iter()
                .filter_map(|it| Some((it.resource.object()?.clone(), it))).collect();
            for ((_, key), object) in held.iter().filter(|((of, _), _)| of == &node) {
                let want = desired.get(key);
                prop_assert!(want.is_some(), "{key} is left on {node}");
                let (stored, may_be_sent) = index.desired_object(&node, key).unwrap();
                prop_assert!(!may_be_sent || stored.object.get("spec") == object.get("spec"), "{key} is old");
            }
            let used_by_sent = |key: &ObjectKey| index.devices.values().any(|device| {
                device.node.as_ref() == Some(&node) && !device.held
                    && device.model.as_ref().is_some_and(|name| name.1 == key.name())
            });
            for key in desired.keys() {
                let sent = index.desired_object(&node, key).unwrap().1
                    && (key.kind == "device" || used_by_sent(key));
                prop_assert!(!sent || held.contains_key(&(node.clone(), key.clone())), "{node} lacks {key}");
                let id = format!("default/{}", key.name());
                let is_member = members.get(&node).is_some_and(|own| own.contains(&id));
                prop_assert!(key.kind != "device" || !sent || is_member, "{id} is no member");
            }
            let all: BTreeSet<String> = index.members(&node).into_iter().map(|it| it.id).collect();
            let own = members.get(&node).cloned().unwrap_or_default();
            prop_assert!(own.is_subset(&all), "{own:?} of {all:?}");
        }
    }
}
