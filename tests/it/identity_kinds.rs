//! WorkloadIdentity, ImagePolicy and TopicPolicy in the real cloudcore, with the real kubectl.

use std::path::Path;

use crate::harness::api::kubectls;
use crate::harness::cluster::{Cloud, Kubectl};
use crate::harness::process::{PATIENCE, eventually};

const IDENTITY: &str = "
apiVersion: identity.kubeedge.io/v1alpha1
kind: WorkloadIdentity
metadata: {name: press}
spec:
  path: /ns/default/press
  selectors:
    serviceAccount: robot
    container: controller
    podLabels: {app: press}
  dnsNames: [press.plant]
  ttlSecs: 600
";

const IMAGES: &str = "
apiVersion: identity.kubeedge.io/v1alpha1
kind: ImagePolicy
metadata: {name: factory}
spec:
  allow:
  - registry: registry.example.com/factory
  - digest: sha256:9ae97d36d26566ff84e8893c64a6dc4fe8ca6d1144bf5b87b2b85a32def253c7
";

const TOPICS: &str = "
apiVersion: identity.kubeedge.io/v1alpha1
kind: TopicPolicy
metadata: {name: press}
spec:
  subjects: ['spiffe://kubeedge.local/ns/default/press/*']
  publish: [press/+/state]
  subscribe: ['press/#', alarms]
";

const ALL: &str = "workloadidentities,imagepolicies,topicpolicies";
const GROUP: &str = "identity.kubeedge.io";

/// One cloudcore; every kubectl in turn, on a clean namespace.
fn each(test: impl Fn(&Kubectl)) {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(dir.path(), &[]);
    for binary in kubectls() {
        println!("with {}", binary.display());
        let kubectl = cloud.kubectl().with(&binary);
        test(&kubectl);
        kubectl.run(&["delete", ALL, "--all"]);
    }
}

fn cells(line: Option<&str>) -> Vec<&str> {
    line.unwrap_or_default().split("  ").map(str::trim).filter(|it| !it.is_empty()).collect()
}

#[test]
fn identity_kinds_from_apply_to_delete() {
    each(|kubectl| {
        for (file, name, changed) in [
            (IDENTITY, "workloadidentity.identity.kubeedge.io/press", ("ttlSecs: 600", "ttlSecs: 60")),
            (
                IMAGES,
                "imagepolicy.identity.kubeedge.io/factory",
                ("factory\n  - digest", "other\n  - digest"),
            ),
            (TOPICS, "topicpolicy.identity.kubeedge.io/press", ("alarms", "alerts")),
        ] {
            assert_eq!(kubectl.apply(file), format!("{name} created\n"));
            assert_eq!(kubectl.apply(file), format!("{name} unchanged\n"));
            assert_eq!(kubectl.apply(&file.replace(changed.0, changed.1)), format!("{name} configured\n"));
            let generation = kubectl.run(&["get", name, "-o", "jsonpath={.metadata.generation}"]);
            assert_eq!(generation, "2", "{name}");
        }
        for (short, columns, row) in [
            (
                "wid",
                vec!["NAME", "PATH", "SERVICE ACCOUNT", "AGE"],
                vec!["press", "/ns/default/press", "robot"],
            ),
            ("imgpol", vec!["NAME", "MODE", "REGISTRIES", "AGE"], vec!["factory", "enforce"]),
            (
                "tpol",
                vec!["NAME", "SUBJECTS", "PUBLISH", "SUBSCRIBE", "AGE"],
                vec![
                    "press",
                    "spiffe://kubeedge.local/ns/default/press/*",
                    "press/+/state",
                    "press/# alerts",
                ],
            ),
        ] {
            let table = kubectl.run(&["get", short]);
            assert_eq!(cells(table.lines().next()), columns);
            assert_eq!(cells(table.lines().nth(1))[..row.len()], row);
        }
        let wide = kubectl.run(&["get", "wid", "-o", "wide"]);
        assert!(wide.contains("controller") && wide.contains("press.plant"), "{wide}");
        for (what, words) in [
            ("wid/press", ["Kind: WorkloadIdentity", "/ns/default/press", "Ttl Secs: 60"]),
            ("imgpol/factory", ["Kind: ImagePolicy", "enforce", "registry.example.com/other"]),
            ("tpol/press", ["Kind: TopicPolicy", "alerts", "press/+/state"]),
        ] {
            let said = kubectl.run(&["describe", what]);
            let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
            for word in words {
                assert!(said.contains(word), "no {word:?} in\n{said}");
            }
        }
        let patch = r#"{"spec":{"mode":"warn"}}"#;
        let said = kubectl.run(&["patch", "imgpol", "factory", "--type", "merge", "-p", patch]);
        assert_eq!(said, "imagepolicy.identity.kubeedge.io/factory patched\n");
        kubectl.wait_for("imgpol/factory", "{.spec.mode}", "warn", PATIENCE);
        let said = kubectl.edit("wid/press", "s/robot/arm/");
        assert_eq!(said, "workloadidentity.identity.kubeedge.io/press edited\n");
        let said = kubectl.run(&["delete", "wid", "press"]);
        assert!(said.starts_with("workloadidentity.identity.kubeedge.io \"press\" deleted"), "{said}");
        let gone = kubectl.try_run(&["get", "wid", "press"]).unwrap_err();
        let want =
            "Error from server (NotFound): workloadidentities.identity.kubeedge.io \"press\" not found\n";
        assert_eq!(gone, want);
    });
}

#[test]
fn mistakes_in_identity_kinds_are_named() {
    each(|kubectl| {
        for (file, from, to, want) in [
            (IDENTITY, "  ttlSecs:", "  ttlSec:", "strict decoding error: unknown field \"spec.ttlSec\""),
            (
                IDENTITY,
                "/ns/default/press",
                "/ns/kube-system/press",
                "The WorkloadIdentity \"press\" is invalid: spec.path: Invalid value: \"/ns/kube-system/press\": must be below /ns/default/ or /device/default/",
            ),
            (IDENTITY, "/ns/default/press", "/ns/default/../x", "must have segments of letters"),
            (IDENTITY, "/ns/default/press", "/ns/default/sa/admin", "must not be below /ns/default/sa/"),
            (
                IDENTITY,
                "container: controller",
                "uid: root",
                "spec.selectors.uid in body must be of type integer",
            ),
            (
                IDENTITY,
                "ttlSecs: 600",
                "ttlSecs: 1",
                "spec.ttlSecs: Invalid value: 1: must be 0 or at least 10",
            ),
            (IMAGES, "- registry", "- {}\n  - registry", "spec.allow[0]: Required value"),
            (IMAGES, "sha256:9ae9", "sha256:", "spec.allow[1].digest"),
            (
                IMAGES,
                "- registry: registry.example.com/factory",
                "- cosignKey: none",
                "spec.allow[0].cosignKey: Invalid value: \"none\": must be a PEM public key",
            ),
            (TOPICS, "ns/default", "ns/other", "must be below spiffe://kubeedge.local/ns/default/"),
            (
                TOPICS,
                "press/+/state",
                "press+/state",
                "spec.publish[0]: Invalid value: \"press+/state\": must have '+' as a whole level",
            ),
        ] {
            let refused = kubectl.try_apply(&file.replace(from, to)).expect_err(to);
            assert!(refused.contains(want), "{to}: {refused}");
        }
        let kept = kubectl.run(&["get", ALL, "-o", "name"]);
        assert_eq!(kept, "", "nothing of it is kept");
    });
}

#[test]
fn what_the_server_tells_about_identity_kinds() {
    each(|kubectl| {
        let group = format!("--api-group={GROUP}");
        let resources = kubectl.run(&["api-resources", &group, "--no-headers"]);
        let words: Vec<Vec<&str>> = resources.lines().map(|line| line.split_whitespace().collect()).collect();
        let version = "identity.kubeedge.io/v1alpha1";
        assert_eq!(
            words,
            [
                ["imagepolicies", "imgpol", version, "true", "ImagePolicy"],
                ["topicpolicies", "tpol", version, "true", "TopicPolicy"],
                ["workloadidentities", "wid", version, "true", "WorkloadIdentity"],
            ]
        );
        let watch = kubectl.spawn(&["get", "imgpol", "-w"], "watch-policies");
        kubectl.apply(IMAGES);
        eventually("the watch shows the policy", || watch.log().contains("factory"));
        let patch = r#"{"spec":{"mode":"warn"}}"#;
        kubectl.run(&["patch", "imgpol", "factory", "--type=merge", "-p", patch]);
        eventually("the watch shows the change", || watch.log().contains("warn"));
    });
}

/// The file a user copies from.
#[test]
fn the_example_of_identity_applies() {
    each(|kubectl| {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/identity.yaml");
        let said = kubectl.run(&["apply", "-f", file.to_str().unwrap()]);
        let want = "workloadidentity.identity.kubeedge.io/press-controller created
imagepolicy.identity.kubeedge.io/from-the-factory created
topicpolicy.identity.kubeedge.io/press-topics created
";
        assert_eq!(said, want);
    });
}

/// What cloudcore makes of it, for users to see, and after a restart still the same.
#[test]
fn cloudcore_publishes_trust_and_what_nodes_hold() {
    let dir = tempfile::tempdir().unwrap();
    let mut cloud = Cloud::start(dir.path(), &[]);
    let kubectl = cloud.kubectl();
    let map = |name: &str| kubectl.try_run(&["get", "cm", "-n", "kubeedge", name, "-o", "json"]);
    let read = |name: &str| -> serde_json::Value { serde_json::from_str(&map(name).unwrap()).unwrap() };
    eventually("the bundle is published", || map("trust-bundle").is_ok());
    let root = std::fs::read_to_string(dir.path().join("ca/rootCA.crt")).unwrap();
    assert_eq!(read("trust-bundle")["data"]["roots.pem"].as_str().unwrap().trim(), root.trim());
    kubectl.apply(IDENTITY);
    let holds = |word: &str| map("edge-identity").is_ok_and(|map| map.contains(word));
    eventually("nodes are to hold the identity", || holds("/ns/default/press"));
    kubectl.apply(IMAGES);
    eventually("nodes are to hold the policy", || holds("registry.example.com/factory"));
    let before = read("edge-identity");
    cloud.process.kill9();
    cloud.restart(&[]);
    kubectl.apply(TOPICS);
    eventually("a restarted cloudcore goes on", || holds("press/+/state"));
    let after = read("edge-identity");
    let version = |map: &serde_json::Value| -> u64 {
        map["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
    };
    assert!(version(&after) > version(&before));
    assert!(after["data"]["spec"].as_str().unwrap().contains("/ns/default/press"), "nothing is lost");
}
