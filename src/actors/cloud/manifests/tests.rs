//! The pure parts with tables; the actor with the real API over a store in memory.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use ::kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use ::kube::core::GroupVersionKind;
use actix::Actor;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::Manifests;
use super::plan::{LOOK_EVERY, Note, Outcome, Plan};
use super::read::{DIGEST, File, Wanted, read};
use crate::apiserver::{ApiCore, ApiSettings};
use crate::identity::ServiceAccountKeys;
use crate::store::MemoryStore;

fn file(name: &str, text: &str) -> File {
    File { name: name.to_owned(), text: text.to_owned() }
}

const DEVICES: &str = "
apiVersion: devices.kubeedge.io/v1beta1
kind: Device
metadata: {name: d, annotations: }
spec: {nodeName: edge-1}
---
# nothing
---
apiVersion: v1
kind: List
items:
  - {apiVersion: devices.kubeedge.io/v1beta1, kind: DeviceModel, metadata: {name: m}}
  - {apiVersion: v1, kind: Namespace, metadata: {name: n, annotations: {a: b}}}
";

#[test]
fn what_others_need_comes_first_and_each_has_a_digest() {
    let wanted = read(&[file("a.yaml", DEVICES)]);
    assert_eq!(wanted.wrong, [""; 0]);
    let names: Vec<String> = wanted.manifests.iter().map(|manifest| manifest.key.to_string()).collect();
    assert_eq!(names, ["Namespace n", "DeviceModel m", "Device d"]);
    for manifest in &wanted.manifests {
        assert_eq!(manifest.object["metadata"]["annotations"][DIGEST], json!(manifest.digest));
    }
    assert_eq!(wanted.manifests[0].object["metadata"]["annotations"]["a"], "b");
    assert_eq!(read(&[file("a.yaml", DEVICES)]), wanted, "same text, same digests");
    let changed = read(&[file("a.yaml", &DEVICES.replace("edge-1", "edge-2"))]);
    assert_ne!(changed.manifests[2].digest, wanted.manifests[2].digest);
    assert_eq!(changed.manifests[1].digest, wanted.manifests[1].digest);
}

#[test]
fn mistakes_name_file_and_document_and_stop_nothing_else() {
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: p}}";
    for (text, want) in [
        ("a: b: c", "x.yaml: "),
        ("{kind: Pod, metadata: {name: p}}", "x.yaml: document 1: apiVersion is missing"),
        ("apiVersion: v1\nkind: Pod", "x.yaml: document 1: metadata.name is missing"),
        ("just text", "x.yaml: document 1: apiVersion is missing"),
        ("{kind: List, items: 3}", "x.yaml: List: items is no list"),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: p, annotations: [a]}}",
            "x.yaml: document 1: metadata.annotations is no map",
        ),
    ] {
        let wanted = read(&[file("x.yaml", text), file("y.yaml", pod)]);
        assert_eq!(wanted.manifests.len(), 1, "{text}");
        assert!(wanted.wrong.len() == 1 && wanted.wrong[0].starts_with(want), "{text}: {:?}", wanted.wrong);
    }
    let bombs = [
        format!("a: {}", "[".repeat(100_000)),
        format!("a: &a {}\nb: [{}*a]", "x".repeat(500_000), "*a,".repeat(100_000)),
    ];
    for bomb in bombs {
        let wanted = read(&[file("x.yaml", &bomb), file("y.yaml", pod)]);
        assert_eq!((wanted.manifests.len(), wanted.wrong.len()), (1, 1), "{:?}", wanted.wrong);
    }
    let twice = read(&[file("x.yaml", pod), file("y.yaml", &pod.replace("p}", "p, labels: {a: b}}"))]);
    assert_eq!(twice.manifests.len(), 1);
    assert_eq!(twice.manifests[0].object["metadata"]["labels"]["a"], "b", "the later counts");
}

#[test]
fn what_failed_is_tried_again_later_and_told_once() {
    let mut plan = Plan::default();
    let wanted = || Wanted { wrong: vec!["z.yaml: bad".into()], ..read(&[file("a.yaml", DEVICES)]) };
    let due = plan.due(wanted());
    assert_eq!(due.len(), 3);
    let outcomes = |fails: bool| {
        let outcome = if fails { Outcome::Failed("no".into()) } else { Outcome::Created };
        let device = due[2].clone();
        vec![
            (due[0].key.clone(), due[0].digest.clone(), Outcome::Kept),
            (due[1].key.clone(), due[1].digest.clone(), Outcome::Changed),
            (device.key, device.digest, outcome),
        ]
    };
    let told = plan.settle(outcomes(true));
    let trouble = |text: &str| Note::Trouble(text.to_owned());
    let applied = |text: &str| Note::Applied(text.to_owned());
    assert_eq!(told, [applied("DeviceModel m changed"), trouble("Device d: no"), trouble("z.yaml: bad")]);
    assert!(plan.pause() < LOOK_EVERY);

    let mut pauses = Vec::new();
    for _ in 0..8 {
        assert_eq!(plan.due(wanted()).len(), 1);
        assert_eq!(plan.settle(outcomes(true).split_off(2)), [], "told already");
        pauses.push(plan.pause().as_secs());
    }
    assert_eq!(pauses, [2, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(plan.due(wanted()).len(), 1);
    assert_eq!(plan.settle(outcomes(false).split_off(2)), [applied("Device d created")]);
    assert_eq!((plan.due(wanted()).len(), plan.pause()), (0, LOOK_EVERY));
    plan.due(Wanted::default());
    plan.settle(Vec::new());
    plan.due(wanted());
    assert_eq!(plan.settle(Vec::new()), [trouble("z.yaml: bad")], "it went and came back");
}

proptest! {
    #[test]
    fn any_text_is_read_without_harm(text in "[ -~\n]{0,200}") {
        let wanted = read(&[file("x.yaml", &text)]);
        prop_assert!(wanted.manifests.iter().all(|manifest| !manifest.key.name.is_empty()));
    }
}

struct Bench {
    core: Arc<ApiCore>,
    client: ::kube::Client,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        let core = ApiCore::start(ApiSettings {
            store: Arc::new(MemoryStore::new()),
            keys: Arc::new(ServiceAccountKeys::load_or_create(&dir.path().join("sa.key")).expect("key")),
            ca_pem: String::new(),
            clock: Arc::new(jiff::Timestamp::now),
        });
        let core = core.expect("core");
        fs::create_dir(dir.path().join("manifests")).expect("folder");
        Self { client: core.client(), core, dir }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.path().join("manifests").join(name), text).expect("write");
    }

    fn start(&self) -> actix::Addr<Manifests> {
        Manifests::new(self.client.clone(), self.dir.path().join("manifests")).start()
    }

    fn api(&self, group: &str, version: &str, kind: &str, plural: &str) -> Api<DynamicObject> {
        let gvk = GroupVersionKind::gvk(group, version, kind);
        let resource = ApiResource::from_gvk_with_plural(&gvk, plural);
        Api::namespaced_with(self.client.clone(), "default", &resource)
    }

    fn models(&self) -> Api<DynamicObject> {
        self.api("devices.kubeedge.io", "v1beta1", "DeviceModel", "devicemodels")
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.core.close();
    }
}

/// Waits until the object is as wanted.
async fn until(api: &Api<DynamicObject>, name: &str, fine: impl Fn(&Value) -> bool) -> Value {
    let search = async {
        loop {
            if let Ok(Some(object)) = api.get_opt(name).await {
                let object = serde_json::to_value(object).expect("JSON");
                if fine(&object) {
                    return object;
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), search).await.expect(name)
}

fn model(unit: &str) -> String {
    format!(
        "apiVersion: devices.kubeedge.io/v1beta1\nkind: DeviceModel\nmetadata: {{name: m}}\nspec:\n  \
         protocol: simulated\n  properties:\n    - {{name: t, type: FLOAT, accessMode: ReadOnly, unit: {unit}}}\n"
    )
}

#[actix::test]
async fn the_api_gets_what_the_files_say_and_keeps_what_users_do() {
    let bench = Bench::new();
    let account = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: '1', b: '2'}\n";
    bench.write("model.yaml", &model("C"));
    bench.write("map.yml", account);
    bench.write("broken.yaml", "kind: [");
    bench.write("ignored.txt", "kind: [");
    bench.write("a-large.yaml", &"#".repeat(1024 * 1024 + 1));
    fs::write(bench.dir.path().join("manifests/a-binary.json"), [0xff, 0xfe]).expect("write");
    let actor = bench.start();
    let maps = bench.api("", "v1", "ConfigMap", "configmaps");
    until(&bench.models(), "m", |model| model["spec"]["properties"][0]["unit"] == "C").await;
    until(&maps, "c", |map| map["data"]["a"] == "1").await;

    // A user's change stays, across a new start too; a change of the document comes through.
    let patch = Patch::Merge(json!({"data": {"a": "user"}}));
    maps.patch("c", &PatchParams::default(), &patch).await.expect("patch");
    drop(actor);
    bench.write("model.yaml", &model("F"));
    let _actor = bench.start();
    until(&bench.models(), "m", |model| model["spec"]["properties"][0]["unit"] == "F").await;
    let kept = until(&maps, "c", |_| true).await;
    assert_eq!(kept["data"], json!({"a": "user", "b": "2"}));
    bench.write("map.yml", &account.replace("'2'", "'3'"));
    let changed = until(&maps, "c", |map| map["data"]["b"] == "3").await;
    assert_eq!(changed["data"]["a"], "1", "the document says so");
}

#[actix::test]
async fn what_waits_for_something_else_comes_later() {
    let bench = Bench::new();
    bench.write("a.yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: later}}");
    let _actor = bench.start();
    let resource =
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("", "v1", "ConfigMap"), "configmaps");
    let later: Api<DynamicObject> = Api::namespaced_with(bench.client.clone(), "later", &resource);
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(later.get_opt("c").await.expect("call").is_none());
    bench.write("b.yaml", "{apiVersion: v1, kind: Namespace, metadata: {name: later}}");
    until(&later, "c", |_| true).await;
}
