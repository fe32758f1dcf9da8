//! Random operations against a naive model: the same objects, versions that only grow, and a
//! watch from any version that leads to the same state.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Operation {
    Create(u8, u8),
    Put(u8, u8),
    Patch(u8, u8),
    Delete(u8),
    LostWrite(u8, u8),
    Restart,
}

fn any_operation() -> impl Strategy<Value = Operation> {
    let name = 0_u8..4;
    prop_oneof![
        3 => (name.clone(), any::<u8>()).prop_map(|(n, v)| Operation::Create(n, v)),
        2 => (name.clone(), any::<u8>()).prop_map(|(n, v)| Operation::Put(n, v)),
        3 => (name.clone(), 0_u8..3).prop_map(|(n, v)| Operation::Patch(n, v)),
        2 => name.clone().prop_map(Operation::Delete),
        1 => (name, any::<u8>()).prop_map(|(n, v)| Operation::LostWrite(n, v)),
        1 => Just(Operation::Restart),
    ]
}

fn object(name: u8, value: u8) -> Value {
    json!({"metadata": {"name": format!("m{name}")}, "data": {"v": value.to_string()}})
}

type Model = BTreeMap<String, String>;

fn read_model(list: &Value) -> Model {
    let items = list["items"].as_array().unwrap().iter();
    items.filter(|item| item["metadata"]["name"] != "kube-root-ca.crt").map(entry).collect()
}

fn entry(object: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&object["metadata"]["name"]), text(&object["data"]["v"]))
}

async fn replay(bench: &Bench, version: u64, state: &mut Model, until: u64) {
    let mut watch = bench.watch(&format!("{MAPS}?watch=true&resourceVersion={version}")).await;
    let mut at = version;
    while at < until {
        let event = watch.next().await.unwrap();
        let (name, value) = entry(&event["object"]);
        let newer: u64 = event["object"]["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert!(newer > at, "versions in a watch grow");
        at = newer;
        match event["type"].as_str().unwrap() {
            "ADDED" => assert!(state.insert(name, value).is_none(), "added twice"),
            "MODIFIED" => assert!(state.insert(name, value).is_some(), "modified what was not there"),
            _ => assert!(state.remove(&name).is_some(), "deleted what was not there"),
        }
    }
}

fn version_of(list: &Value) -> u64 {
    list["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

async fn run(operations: Vec<Operation>) {
    let mut bench = Bench::new();
    let mut model = Model::new();
    let mut snapshots: Vec<(u64, Model)> = Vec::new();
    for operation in operations {
        let (_, list) = bench.get(MAPS).await;
        let version = version_of(&list);
        if snapshots.last().is_none_or(|(last, _)| *last < version) {
            snapshots.push((version, model.clone()));
        }
        let name_of = |name: u8| format!("m{name}");
        match operation {
            Operation::Create(name, value) => {
                let (code, _) = bench.post(MAPS, &object(name, value)).await;
                let taken = model.contains_key(&name_of(name));
                assert_eq!(code, if taken { 409 } else { 201 });
                model.entry(name_of(name)).or_insert(value.to_string());
            }
            Operation::Put(name, value) => {
                let (code, _) = bench.put(&format!("{MAPS}/m{name}"), &object(name, value)).await;
                match model.get_mut(&name_of(name)) {
                    Some(slot) => (assert_eq!(code, 200), *slot = value.to_string()).0,
                    None => assert_eq!(code, 404),
                }
            }
            Operation::Patch(name, value) => {
                let patch = json!({"data": {"v": value.to_string()}});
                let (code, _) = bench.merge(&format!("{MAPS}/m{name}"), &patch).await;
                match model.get_mut(&name_of(name)) {
                    Some(slot) => (assert_eq!(code, 200), *slot = value.to_string()).0,
                    None => assert_eq!(code, 404),
                }
            }
            Operation::Delete(name) => {
                let (code, _) = bench.delete(&format!("{MAPS}/m{name}"), &Value::Null).await;
                let was = model.remove(&name_of(name)).is_some();
                assert_eq!(code, if was { 200 } else { 404 });
            }
            Operation::LostWrite(name, value) => {
                if model.contains_key(&name_of(name)) {
                    continue;
                }
                bench.store.set_faults(crate::store::Faults { fail_writes: 1, ..Default::default() });
                assert_eq!(bench.post(MAPS, &object(name, value)).await.0, 500);
            }
            Operation::Restart => {
                bench.restart();
                // The history does not survive; clients list again.
                snapshots.clear();
            }
        }
        let (_, list) = bench.get(MAPS).await;
        assert_eq!(read_model(&list), model);
        assert!(version_of(&list) >= version, "the version never goes back");
    }
    let (_, list) = bench.get(MAPS).await;
    let now = version_of(&list);
    for (version, mut state) in snapshots {
        let url = format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact");
        assert_eq!(read_model(&bench.get(&url).await.1), state, "the snapshot at {version}");
        replay(&bench, version, &mut state, now).await;
        assert_eq!(state, model, "replayed from {version}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn the_api_is_a_map_with_a_history(operations in prop::collection::vec(any_operation(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(operations));
    }
}
