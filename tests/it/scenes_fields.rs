//! AT17: text that a shell or a path would take for more than text, in every text field of every kind that users write.

use std::path::Path;

use serde_json::Value;

use super::devices::{apply_example, reported, start_mapper, topic, wait_member};
use super::harness::process::{PATIENCE, until};
use super::main_job::World;
use super::scenes::{bound, wait_agreement};

/// Every place of a text in `value`, as JSON pointers.
fn texts(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::String(_) => found.push(at.to_owned()),
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(n, it)| texts(it, &format!("{at}/{n}"), found))
        }
        Value::Object(map) => map.iter().for_each(|(key, it)| {
            texts(it, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
        }),
        _ => {}
    }
}

/// `example`, once for each text and each of `evils` in its place, each under a name of its own.
fn poisoned(example: &Value, evils: &[String]) -> Vec<Value> {
    let mut places = Vec::new();
    texts(example, "", &mut places);
    places.retain(|place| !["/apiVersion", "/kind"].contains(&place.as_str()));
    let mut all = Vec::new();
    for (n, place) in places.iter().enumerate() {
        for (m, evil) in evils.iter().enumerate() {
            let mut copy = example.clone();
            let name = example["metadata"]["name"].as_str().unwrap();
            copy["metadata"]["name"] = format!("{name}-{n}-{m}").into();
            *copy.pointer_mut(place).unwrap() = evil.as_str().into();
            all.push(copy);
        }
    }
    all
}

fn examples() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let mut found = Vec::new();
    for file in ["lamp.yaml", "thermometer.yaml", "plc.yaml", "identity.yaml", "image-policy.yaml"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        for document in text.split("\n---\n") {
            let value: Value = yaml_serde::from_str(document).unwrap();
            if value.is_object() && value["kind"] != "Namespace" {
                found.push(value);
            }
        }
    }
    found
}

#[test]
fn no_text_of_any_kind_is_a_command_or_a_way_out() {
    let world = World::start();
    let (kubectl, broker) = (world.kubectl(), world.edge.broker);
    let mut mapper = start_mapper(&world.edge, "mapper-sim", env!("CARGO_BIN_EXE_mapper-sim"));
    kubectl.run(&["create", "namespace", "shop"]);
    let marker = world.dir.path().join("injected");
    let evils = [
        format!("; touch {}", marker.display()),
        format!("$(touch {})", marker.display()),
        "../../injected".into(),
    ];
    let examples = examples();
    assert!(examples.len() >= 10, "{}", examples.len());
    let all: Vec<Value> = examples.iter().flat_map(|example| poisoned(example, &evils)).collect();
    let count = all.len();
    let list = serde_json::json!({"apiVersion": "v1", "kind": "List", "items": all}).to_string();
    let file = kubectl.file("poisoned.json", &list);
    // Some are refused, the rest is made; kubectl goes through all of them.
    let out = kubectl.output(&["create", "-f", &file]);
    let made = String::from_utf8_lossy(&out.stdout).lines().count();
    let refused = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(made > 0 && made < count, "{made} of {count} were made: {refused}");
    assert!(refused.contains("Invalid") || refused.contains("invalid"), "{refused}");

    // The edge has seen what was made for it, and goes on.
    apply_example(&kubectl, "lamp.yaml");
    wait_member(broker, world.dir.path(), "lamp-1");
    let payload = r#"{"twin":{"power":{"actual":{"value":"off"},"metadata":{"type":"string"}}}}"#;
    broker.publish(&topic("lamp-1", "twin/update"), payload);
    reported(&kubectl, "lamp-1", "power", "off");
    kubectl.apply(&bound("after", ""));
    kubectl.wait_running("after");
    wait_agreement(&world);
    until("everything can be deleted again", PATIENCE, || {
        for kind in ["devices", "devicemodels", "workloadidentities", "imagepolicies", "topicpolicies"] {
            kubectl.try_run(&["delete", kind, "--all", "--all-namespaces"])?;
        }
        Ok(())
    });
    assert!(!marker.exists());
    let here = std::fs::read_dir(world.dir.path()).unwrap().flatten();
    assert!(!here.map(|entry| entry.path()).any(|path| path.ends_with("injected")));
    assert!(!world.dir.path().parent().unwrap().join("injected").exists());
    assert!(mapper.is_running(), "{}", mapper.tail());
    for process in [&world.edge.process, &world.cloud.process] {
        assert!(!process.log().contains("panicked"), "{}", process.tail());
    }
}
