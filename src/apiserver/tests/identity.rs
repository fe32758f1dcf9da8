//! WorkloadIdentity, ImagePolicy, TopicPolicy: what their definitions say, enforced as for custom
//! resources.

use super::*;
use crate::apiserver::body::parse_yaml;

const ROOT: &str = "/apis/identity.kubeedge.io/v1alpha1/namespaces/default";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

fn object(kind: &str, spec: Value) -> Value {
    json!({"apiVersion": "identity.kubeedge.io/v1alpha1", "kind": kind, "metadata": {"name": "x"}, "spec": spec})
}

fn collection(kind: &str) -> String {
    let plural = match kind {
        "WorkloadIdentity" => "workloadidentities",
        "ImagePolicy" => "imagepolicies",
        _ => "topicpolicies",
    };
    format!("{ROOT}/{plural}")
}

#[tokio::test]
async fn the_example_is_taken_and_nothing_is_lost() {
    let bench = Bench::new();
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/identity.yaml");
    let text = std::fs::read_to_string(file).unwrap();
    let mut kinds = Vec::new();
    for part in text.split("\n---\n") {
        let sent = parse_yaml(part.as_bytes()).unwrap();
        let kind = sent["kind"].as_str().unwrap().to_owned();
        let made = bench.made(&format!("{}?fieldValidation=Strict", collection(&kind)), &sent).await;
        assert_eq!(made["spec"], sent["spec"]);
        kinds.push(kind);
    }
    assert_eq!(kinds, ["WorkloadIdentity", "ImagePolicy", "TopicPolicy"]);
}

#[tokio::test]
async fn a_policy_enforces_unless_it_says_otherwise() {
    let bench = Bench::new();
    let made = bench.made(&collection("ImagePolicy"), &object("ImagePolicy", json!({"allow": []}))).await;
    assert_eq!(made["spec"]["mode"], "enforce");
    let request = bench.request(Method::GET, &collection("ImagePolicy"), b"", &[("accept", TABLE)]);
    let (_, table) = bench.send(request).await;
    assert_eq!(table["rows"][0]["cells"][1], "enforce");
}

#[tokio::test]
async fn refusals_name_the_field() {
    let bench = Bench::new();
    let td = "spiffe://kubeedge.local";
    for (kind, spec, want) in [
        ("WorkloadIdentity", json!({"path": "/ns/default/x"}), "spec.selectors: Required value"),
        (
            "WorkloadIdentity",
            json!({"path": "/ns/default/x", "selectors": {}}),
            "spec.selectors: Required value: at least one selector must be given",
        ),
        (
            "WorkloadIdentity",
            json!({"path": "/ns/other/x", "selectors": {"uid": 1}}),
            "spec.path: Invalid value: \"/ns/other/x\": must be below /ns/default/ or /device/default/",
        ),
        (
            "WorkloadIdentity",
            json!({"path": "/ns/default/x", "selectors": {"uid": "root"}}),
            "spec.selectors.uid: Invalid value: \"string\": spec.selectors.uid in body must be of type integer",
        ),
        (
            "WorkloadIdentity",
            json!({"path": "/ns/default/x", "selectors": {"uid": 4_294_967_296_u64}}),
            "should be less than or equal to 4294967295",
        ),
        ("ImagePolicy", json!({}), "spec.allow: Required value"),
        (
            "ImagePolicy",
            json!({"allow": [{}]}),
            "spec.allow[0]: Required value: one of registry, digest and cosignKey must be given",
        ),
        (
            "ImagePolicy",
            json!({"mode": "off", "allow": []}),
            "spec.mode: Unsupported value: \"off\": supported values: \"enforce\", \"warn\"",
        ),
        (
            "ImagePolicy",
            json!({"allow": [{"registry": "https://docker.io"}]}),
            "spec.allow[0].registry in body should match",
        ),
        ("TopicPolicy", json!({"subjects": []}), "spec.subjects in body should have at least 1 items"),
        (
            "TopicPolicy",
            json!({"subjects": [format!("{td}/ns/other/x")]}),
            "must be below spiffe://kubeedge.local/ns/default/",
        ),
        (
            "TopicPolicy",
            json!({"subjects": [format!("{td}/ns/default/x")], "publish": ["a/#/b"]}),
            "spec.publish[0]: Invalid value: \"a/#/b\": must have '+' as a whole level",
        ),
    ] {
        let (code, refused) = bench.post(&collection(kind), &object(kind, spec)).await;
        let said = refused["message"].as_str().unwrap_or_default();
        assert!(code == 422 && said.contains(want), "{code} {said}");
    }
    let typo = object("ImagePolicy", json!({"allow": [{"registri": "r"}]}));
    let (code, refused) =
        bench.post(&format!("{}?fieldValidation=Strict", collection("ImagePolicy")), &typo).await;
    let said = refused["message"].as_str().unwrap_or_default();
    assert!(code == 400 && said.contains("unknown field \"spec.allow[0].registri\""), "{code} {said}");
}

#[tokio::test]
async fn an_update_is_checked_too() {
    let bench = Bench::new();
    let spec = json!({"path": "/ns/default/x", "selectors": {"serviceAccount": "a"}});
    let mut made = bench.made(&collection("WorkloadIdentity"), &object("WorkloadIdentity", spec)).await;
    let url = format!("{}/x", collection("WorkloadIdentity"));
    made["spec"]["path"] = "/ns/default/sa/admin".into();
    assert_eq!(bench.put(&url, &made).await.0, 422);
    made["spec"]["path"] = "/ns/default/y".into();
    let (code, changed) = bench.put(&url, &made).await;
    assert_eq!((code, &changed["metadata"]["generation"]), (200, &2.into()));
}
