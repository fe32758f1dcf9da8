//! Only verified workloads run: seals, image policies, static pods, on a real containerd.

use std::fs;
use std::path::Path;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use kubeedge::store::{Batch, RocksStore, Store, Table, Tuning};
use serde_json::{Value, json};

use super::harness::cluster::Kubectl;
use super::harness::containerd::Containerd;
use super::harness::process::{PATIENCE, http, until};
use super::main_job::{World, sleeper};

const HELLO: &str = "registry.local/hello:1";

fn policy(name: &str, mode: &str, rule: &Value) -> String {
    json!({
        "apiVersion": "identity.kubeedge.io/v1alpha1",
        "kind": "ImagePolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"mode": mode, "allow": [rule]},
    })
    .to_string()
}

/// Waits until `kubectl describe pod` shows all of these words.
fn described(kubectl: &Kubectl, pod: &str, words: &[&str]) {
    until(&format!("{pod} is explained"), PATIENCE, || {
        let text = kubectl.run(&["describe", "pod", pod]);
        if words.iter().all(|word| text.contains(word)) { Ok(()) } else { Err(text) }
    });
}

/// What `ctr` says an image's digest is.
fn digest(runtime: &Containerd, image: &str) -> String {
    let out = runtime.ctr(&["images", "ls", &format!("name=={image}")]).stdout;
    let text = String::from_utf8(out).unwrap();
    let found = text.split_whitespace().find(|word| word.starts_with("sha256:"));
    found.unwrap_or_else(|| panic!("no digest in\n{text}")).to_owned()
}

#[test]
fn a_store_that_was_tampered_with_starts_nothing_and_says_why() {
    let mut world = World::start();
    let kubectl = world.kubectl();
    for pod in ["changed", "left-alone"] {
        kubectl.apply(&sleeper(pod, ""));
        kubectl.wait_running(pod);
    }
    world.cloud.process.kill9();
    world.edge.process.terminate(PATIENCE);
    world.runtime.remove_all_pods();
    {
        let store = RocksStore::open(&world.edge.dir.join("edge/store"), Tuning::edge()).unwrap();
        let read = |name: &str| {
            let key = format!("meta/default/pod/{name}");
            let row = store.get(Table::Objects, key.as_bytes()).unwrap().expect("a stored pod");
            (key, serde_json::from_slice::<Value>(&row).unwrap())
        };
        let (key, mut changed) = read("changed");
        let container = &mut changed["spec"]["containers"][0];
        container["command"] = json!(["/bin/sh", "-c", "while true; do sleep 1; done"]);
        // A pod of nobody, with the seal of another one.
        let (_, mut planted) = read("left-alone");
        planted["metadata"]["name"] = json!("planted");
        planted["metadata"]["uid"] = json!("11111111-2222-3333-4444-555555555555");
        let batch = Batch::new().put(Table::Objects, key, changed.to_string()).put(
            Table::Objects,
            "meta/default/pod/planted",
            planted.to_string(),
        );
        store.write(&[batch]).unwrap();
    }
    world.edge.restart(&[]);
    until("the pod that nobody touched runs without a cloud", PATIENCE, || {
        let running = world.runtime.running_containers("left-alone");
        if running == 1 { Ok(()) } else { Err(format!("{running}\n{}", world.edge.process.tail())) }
    });
    until("the others are refused", PATIENCE, || {
        let log = world.edge.process.log();
        let refused =
            |pod: &str| log.lines().any(|line| line.contains("pod is refused") && line.contains(pod));
        if refused("changed") && refused("planted") { Ok(()) } else { Err(log) }
    });
    let ran = ["changed", "planted"].map(|pod| world.runtime.running_containers(pod));
    assert_eq!(ran, [0, 0]);
    // The log comes first, then the counter, then the record, which another actor writes.
    until("it is on record and counted", PATIENCE, || {
        let audit =
            fs::read_to_string(world.edge.dir.join("edge/audit.log")).map_err(|err| err.to_string())?;
        let (_, metrics) = http("GET", &world.edge.monitor, "/metrics", &[])?;
        let refused = "kubeedge_identity_refused_total{reason=\"seal\"} 2";
        let recorded = ["changed", "planted"].iter().all(|pod| audit.contains(&format!("pod default/{pod}")));
        if recorded && metrics.lines().any(|line| line == refused) { Ok(()) } else { Err(audit + &metrics) }
    });
    world.cloud.restart(&[]);
    kubectl.wait_node("edge-1", "True");
    // The cloud sends what it holds, sealed anew: the pod is itself again, and the planted one gone.
    until("it runs again", PATIENCE, || match world.runtime.running_containers("changed") {
        1 => Ok(()),
        running => Err(format!("{running} containers")),
    });
    let command = world.runtime.exec("changed", "main", &["/bin/cat", "/proc/1/cmdline"]);
    assert!(command.contains("echo started"), "{command:?}");
    described(&kubectl, "changed", &["SealInvalid", "differs from what was sealed"]);
    assert_eq!(world.runtime.running_containers("planted"), 0);
    let stored = kubectl.try_run(&["get", "pod", "planted"]);
    assert!(stored.as_ref().is_err_and(|err| err.contains("NotFound")), "{stored:?}");
}

#[test]
fn registry_and_digest_decide_and_a_changed_policy_lets_the_pod_start() {
    let world = World::start();
    let kubectl = world.kubectl();
    kubectl.apply(&sleeper("before", ""));
    kubectl.wait_running("before");

    kubectl.apply(&policy("from-us", "enforce", &json!({"registry": "elsewhere.example/shop"})));
    denied_after(&kubectl, "by-registry", "rule 1: registry.local/hello is not from elsewhere.example/shop");
    assert_eq!(world.runtime.running_containers("before"), 1, "what runs is left alone");
    kubectl.apply(&policy("from-us", "enforce", &json!({"registry": "registry.local"})));
    kubectl.wait_running("by-registry");

    let (good, bad) = (digest(&world.runtime, HELLO), format!("sha256:{}", "0".repeat(64)));
    kubectl.apply(&policy("from-us", "enforce", &json!({"registry": "registry.local", "digest": bad})));
    denied_after(&kubectl, "by-digest", &format!("its digest is {good}"));
    kubectl.apply(&policy("from-us", "enforce", &json!({"registry": "registry.local", "digest": good})));
    kubectl.wait_running("by-digest");
    // The runtime was told the image's id, so what was checked is what runs.
    let image =
        kubectl.json(&["get", "pod", "by-digest"])["status"]["containerStatuses"][0]["imageID"].clone();
    assert!(image.as_str().unwrap().starts_with("sha256:"), "{image}");

    // Every policy must allow; a policy that goes takes its refusal with it.
    kubectl.apply(&policy("nothing", "enforce", &json!({"registry": "nowhere.example"})));
    denied_after(&kubectl, "by-two", "ImagePolicy default/nothing");
    kubectl.run(&["delete", "imagepolicy", "nothing"]);
    kubectl.wait_running("by-two");

    kubectl.apply(&policy("from-us", "warn", &json!({"registry": "elsewhere.example"})));
    until("a new pod is warned of and runs", PATIENCE, || {
        kubectl.try_run(&["delete", "pod", "warned", "--ignore-not-found", "--now"])?;
        kubectl.apply(&sleeper("warned", ""));
        kubectl.wait_running("warned");
        let text = kubectl.run(&["describe", "pod", "warned"]);
        if text.contains("ImagePolicyWarning") { Ok(()) } else { Err(text) }
    });
}

/// Makes pods of this name until one meets the policy: it may still be on its way. That one waits,
/// and says why.
fn denied_after(kubectl: &Kubectl, pod: &str, why: &str) {
    until(&format!("{pod} is denied"), PATIENCE, || {
        kubectl.try_run(&["delete", "pod", pod, "--ignore-not-found", "--now"])?;
        kubectl.apply(&sleeper(pod, ""));
        until("it runs or waits", PATIENCE, || {
            let status = kubectl.json(&["get", "pod", pod])["status"].clone();
            let waits = status["containerStatuses"][0]["state"]["waiting"]["reason"] == "ImagePolicyDenied";
            if waits || status["phase"] == "Running" { Ok(()) } else { Err(status.to_string()) }
        });
        let waiting =
            kubectl.json(&["get", "pod", pod])["status"]["containerStatuses"][0]["state"]["waiting"].clone();
        let message = waiting["message"].as_str().unwrap_or_default();
        if message.contains(why) { Ok(()) } else { Err(waiting.to_string()) }
    });
    described(kubectl, pod, &["ImagePolicyDenied", "is refused by ImagePolicy default/"]);
}

#[test]
fn signatures_of_cosign_are_verified_without_a_network() {
    let world = World::start();
    let kubectl = world.kubectl();
    let dir = world.dir.path().join("keys");
    fs::create_dir_all(&dir).unwrap();
    let (ours, other) = (Key::new(&dir, "ours"), Key::new(&dir, "other"));
    let image = digest(&world.runtime, HELLO);

    kubectl.apply(&policy("signed", "enforce", &json!({"cosignKey": ours.public()})));
    denied_after(&kubectl, "signed", "no attached signature verifies");
    // Signed by somebody else, and ours over another image: neither counts.
    attach(
        &world.runtime,
        &dir,
        &image,
        &[other.sign(&payload(&image)), ours.sign(&payload(&format!("sha256:{}", "0".repeat(64))))],
    );
    denied_after(&kubectl, "signed", "no attached signature verifies");
    attach(&world.runtime, &dir, &image, &[other.sign(&payload(&image)), ours.sign(&payload(&image))]);
    kubectl.wait_running("signed");
}

/// A key pair of OpenSSL.
struct Key {
    private: std::path::PathBuf,
    public: std::path::PathBuf,
}

impl Key {
    fn new(dir: &Path, name: &str) -> Self {
        let (private, public) = (dir.join(format!("{name}.key")), dir.join(format!("{name}.pub")));
        let at = |path: &Path| path.to_str().unwrap().to_owned();
        openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &at(&private)]);
        openssl(&["ec", "-in", &at(&private), "-pubout", "-out", &at(&public)]);
        Self { private, public }
    }

    fn public(&self) -> String {
        fs::read_to_string(&self.public).unwrap()
    }

    /// The text and OpenSSL's signature over it, base64.
    fn sign(&self, text: &str) -> (String, String) {
        let file = self.private.with_extension("text");
        fs::write(&file, text).unwrap();
        let key = self.private.to_str().unwrap();
        let raw = openssl(&["dgst", "-sha256", "-sign", key, file.to_str().unwrap()]);
        (text.to_owned(), STANDARD.encode(raw))
    }
}

fn openssl(args: &[&str]) -> Vec<u8> {
    let out = Command::new("openssl").args(args).output().expect("openssl runs");
    assert!(out.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    out.stdout
}

/// What cosign signs for an image.
fn payload(digest: &str) -> String {
    json!({
        "critical": {
            "identity": {"docker-reference": "registry.local/hello"},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature",
        },
        "optional": null,
    })
    .to_string()
}

/// Puts `registry.local/hello:sha256-{hex}.sig` with these signatures into the image store, as an
/// OCI layout that `ctr` imports.
fn attach(runtime: &Containerd, dir: &Path, digest: &str, signatures: &[(String, String)]) {
    let layout = dir.join("layout");
    fs::remove_dir_all(&layout).ok();
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let hex = kubeedge::identity::sha256_hex(bytes);
        fs::write(blobs.join(&hex), bytes).unwrap();
        (format!("sha256:{hex}"), bytes.len())
    };
    let mut layers = Vec::new();
    let mut diffs = Vec::new();
    for (text, signature) in signatures {
        let (digest, size) = put(text.as_bytes());
        diffs.push(digest.clone());
        layers.push(json!({
            "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
            "digest": digest, "size": size,
            "annotations": {"dev.cosignproject.cosign/signature": signature},
        }));
    }
    let arch = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let config = json!({
        "architecture": arch, "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diffs},
    });
    let (config, config_size) = put(config.to_string().as_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size,
        },
        "layers": layers,
    });
    let (manifest, manifest_size) = put(manifest.to_string().as_bytes());
    let name = format!("registry.local/hello:{}.sig", digest.replace(':', "-"));
    let index = json!({
        "schemaVersion": 2,
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest, "size": manifest_size,
            "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name},
        }],
    });
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let tar = dir.join("signature.tar");
    let packed = Command::new("tar").arg("-C").arg(&layout).arg("-cf").arg(&tar).arg(".").status().unwrap();
    assert!(packed.success());
    runtime.ctr(&["images", "import", "--no-unpack", tar.to_str().unwrap()]);
    let listed = String::from_utf8(runtime.ctr(&["images", "ls", "-q"]).stdout).unwrap();
    assert!(listed.lines().any(|line| line == name), "{name} is not among\n{listed}");
}

#[test]
fn static_pods_run_if_they_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let path = format!("modules.edged.tailoredKubeletConfig.staticPodPath={}", folder.path().display());
    let settings = [path.as_str(), "identity.staticPods=[default/watchdog]"];
    let mut world = World::with(&[], &settings);
    let file = |name: &str| folder.path().join(format!("{name}.yaml"));
    fs::write(file("watchdog"), sleeper("watchdog", "")).unwrap();
    fs::write(file("intruder"), sleeper("intruder", "")).unwrap();
    let runs = |world: &World, want: usize| {
        until("the listed pod", PATIENCE, || {
            let running = world.runtime.running_containers("watchdog-edge-1");
            if running == want { Ok(()) } else { Err(format!("{running} run")) }
        });
    };
    runs(&world, 1);
    until("the other one is refused", PATIENCE, || {
        let log = world.edge.process.log();
        let said = log
            .lines()
            .any(|line| line.contains("static pod is refused") && line.contains("default/intruder"));
        if said { Ok(()) } else { Err(log) }
    });
    assert_eq!(world.runtime.running_containers("intruder-edge-1"), 0);
    let before = world.runtime.running("watchdog-edge-1", None);
    world.edge.process.kill9();
    world.edge.restart(&settings);
    world.edge.wait_ready();
    world.kubectl().wait_node("edge-1", "True");
    assert_eq!(world.runtime.running("watchdog-edge-1", None), before, "adopted");
    fs::remove_file(file("watchdog")).unwrap();
    runs(&world, 0);
    assert!(!world.kubectl().run(&["get", "pods"]).contains("watchdog"), "no mirror of it in the API");
}
