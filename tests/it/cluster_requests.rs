//! Every request that cloudcore makes of a real cluster, looked at one by one: it is what kube-apiserver takes, the
//! rights of `deploy/kubernetes/rbac.yaml` allow it, and no right there is without a request that needs it.

use std::collections::BTreeSet;

use kubeedge::kube::rbac::{Ask, ResourceAsk, Rule, rules_of};
use kubeedge::kube::schema;
use kubeedge::model::{Body, Envelope, Resource};
use serde_json::{Value, json};

use super::boards::text;
use super::device_controller::{DEVICE, Edge};
use super::harness::api_proxy::{ApiProxy, Fault, Request};
use super::harness::cluster::{Edge as ProgramEdge, Kubectl, PATIENT};
use super::harness::process::{PATIENCE, until};
use super::harness::samples::WORDS_AND_KEY;
use super::kubernetes_manifests::{Beside, cluster, documents, proxy};

/// Groups whose kinds are custom resources: kube-apiserver has no strategic merge patch for them.
const CUSTOM: [&str; 3] = ["devices.kubeedge.io", "identity.kubeedge.io", "reliablesyncs.kubeedge.io"];
/// Kinds whose PUT must name the version it replaces (no AllowUnconditionalUpdate).
const VERSIONED: [&str; 1] = ["leases"];

/// A request as authorization sees it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Asked {
    verb: &'static str,
    group: String,
    resource: String,
    subresource: String,
    namespace: String,
    name: String,
}

/// `/api/v1/..` or `/apis/{group}/{version}/..`, as kube-apiserver's RequestInfo reads it.
fn asked(request: &Request) -> Asked {
    let parts: Vec<&str> = request.path.split('/').skip(1).collect();
    let (group, rest) = match parts[..] {
        ["api", "v1", ..] => ("", &parts[2..]),
        ["apis", group, _, ..] => (group, &parts[3..]),
        _ => panic!("not a resource: {request:?}"),
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
        rest => ("", rest),
    };
    let at = |index: usize| rest.get(index).copied().unwrap_or_default();
    assert!(rest.len() <= 3, "{request:?}");
    let verb = match (request.method.as_str(), at(1).is_empty()) {
        ("GET", _) if request.is_watch() => "watch",
        ("GET", true) => "list",
        ("GET", false) => "get",
        ("POST", _) => "create",
        ("PUT", false) => "update",
        ("PATCH", false) => "patch",
        ("DELETE", false) => "delete",
        other => panic!("{other:?}: {request:?}"),
    };
    let own = |text: &str| text.to_owned();
    Asked {
        verb,
        group: own(group),
        resource: own(at(0)),
        subresource: own(at(2)),
        namespace: own(namespace),
        name: own(at(1)),
    }
}

/// The rules of rbac.yaml: name, namespace (empty: everywhere), rule.
fn rules() -> Vec<(String, String, Rule)> {
    let roles = documents("rbac.yaml").into_iter().filter(|it| text(&it["kind"]).ends_with("Role"));
    let named = |role: Value| {
        let namespace = role["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
        let name = format!("{} {namespace}", text(&role["kind"]));
        let rules = rules_of(&role).into_iter();
        rules.map(move |rule| (name.clone(), namespace.clone(), rule)).collect::<Vec<_>>()
    };
    roles.flat_map(named).collect()
}

fn allows((_, namespace, rule): &(String, String, Rule), asked: &Asked) -> bool {
    let ask = ResourceAsk {
        verb: asked.verb,
        group: &asked.group,
        resource: &asked.resource,
        subresource: &asked.subresource,
        namespace: &asked.namespace,
        name: &asked.name,
    };
    (namespace.is_empty() || *namespace == asked.namespace) && rule.allows(&Ask::Resource(ask))
}

/// Panics at what kube-apiserver would not take, or would take otherwise than it is meant.
fn is_right(request: &Request) {
    let asked = asked(request);
    let context = || {
        let body = String::from_utf8_lossy(&request.body).chars().take(600).collect::<String>();
        format!("{} {}?{}\n{body}", request.method, request.path, request.query)
    };
    let agent = request.header("user-agent");
    assert!(agent.starts_with("cloudcore/"), "the field manager would be {agent:?}: {}", context());
    assert!(!request.header("authorization").is_empty(), "{}", context());
    let known: &[&str] = match asked.verb {
        "list" => &["limit", "continue", "labelSelector", "fieldSelector"],
        "watch" => &[
            "watch",
            "labelSelector",
            "fieldSelector",
            "resourceVersion",
            "allowWatchBookmarks",
            "timeoutSeconds",
        ],
        _ => &["fieldManager"],
    };
    for part in request.query.split('&').filter(|part| !part.is_empty()) {
        let name = part.split('=').next().unwrap_or_default();
        assert!(known.contains(&name), "parameter {name}: {}", context());
    }
    let kind = request.header("content-type");
    let is_custom = CUSTOM.contains(&asked.group.as_str());
    match asked.verb {
        "create" | "update" => assert_eq!(kind, "application/json", "{}", context()),
        "patch" => {
            let strategic = kind == "application/strategic-merge-patch+json";
            let merge = kind == "application/merge-patch+json";
            assert!(merge || strategic && !is_custom, "{kind:?}: {}", context());
        }
        _ => {}
    }
    let body = request.json();
    match asked.verb {
        "create" => {
            whole(&body, &asked, &context());
            assert!(body.pointer("/metadata/resourceVersion").is_none(), "{}", context());
        }
        "update" => {
            whole(&body, &asked, &context());
            assert_eq!(body["metadata"]["name"], *asked.name, "{}", context());
            let version =
                body.pointer("/metadata/resourceVersion").and_then(Value::as_str).unwrap_or_default();
            assert!(!version.is_empty() || !VERSIONED.contains(&&*asked.resource), "{}", context());
        }
        "patch" => {
            assert!(body.is_object(), "{}", context());
            // A patch of a subresource changes nothing else there.
            if !asked.subresource.is_empty() {
                let members: BTreeSet<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
                assert!(members.is_subset(&["metadata", "status"].into()), "{}", context());
                let meta = body["metadata"].as_object().cloned().unwrap_or_default();
                assert!(meta.keys().all(|key| key == "uid" || key == "resourceVersion"), "{}", context());
            }
        }
        "delete" => {
            assert!(body["preconditions"]["uid"].is_string() || is_custom, "whichever object: {}", context());
        }
        _ => assert!(request.body.is_empty(), "{}", context()),
    }
    if asked.resource == "events" && asked.verb == "create" {
        event(&body, &asked, &context());
    }
    if asked.resource == "leases" && matches!(asked.verb, "create" | "update") {
        // Go reads a MicroTime with exactly six digits.
        let at = body["spec"]["renewTime"].as_str().unwrap_or_default();
        let digits = at.split('.').nth(1).and_then(|rest| rest.strip_suffix('Z')).unwrap_or_default();
        assert!(digits.len() == 6 && digits.bytes().all(|c| c.is_ascii_digit()), "{at:?}: {}", context());
    }
}

/// A whole object: type and kind are named, and its type knows every field.
fn whole(body: &Value, asked: &Asked, context: &str) {
    let (version, kind) = (text(&body["apiVersion"]), text(&body["kind"]));
    let group = version.split_once('/').map_or("", |(group, _)| group);
    let of_token = asked.subresource == "token" && group == "authentication.k8s.io";
    assert!(group == asked.group || of_token, "{version} {kind}: {context}");
    for value in body.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten() {
        assert!(text(value.1).len() <= 63, "label {}: {context}", value.0);
    }
    match schema::check(version, kind, body) {
        Some(report) => {
            assert_eq!(report.unknown_fields, Vec::<String>::new(), "{context}");
            assert_eq!(report.wrong_type, None, "{context}");
        }
        None => assert!(CUSTOM.contains(&group), "no type for {version} {kind}: {context}"),
    }
}

/// What `ValidateEvent` of kube-apiserver asks of events of the old form.
fn event(body: &Value, asked: &Asked, context: &str) {
    let about = body.pointer("/involvedObject/namespace").and_then(Value::as_str).unwrap_or_default();
    let fits = if about.is_empty() { asked.namespace == "default" } else { about == asked.namespace };
    assert!(fits, "involvedObject.namespace does not match event.namespace: {context}");
    assert_eq!(body["metadata"]["namespace"], *asked.namespace, "{context}");
    if body.get("eventTime").is_some_and(|at| !at.is_null()) {
        for field in ["action", "reason", "reportingComponent", "reportingInstance"] {
            assert!(body[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {context}");
        }
    }
}

/// All of a log: each request right and allowed.
pub(super) fn check_all(log: &[Request]) -> BTreeSet<Asked> {
    let rules = rules();
    let mut all = BTreeSet::new();
    for request in log {
        is_right(request);
        let asked = asked(request);
        assert!(rules.iter().any(|rule| allows(rule, &asked)), "no rule for {asked:?}");
        assert_ne!(request.status, 403, "{request:?}");
        all.insert(asked);
    }
    all
}

fn body(content: Value) -> Body {
    Body::Object(content)
}

impl Edge {
    async fn tell(&mut self, operation: &str, resource: &str, content: Body) -> Envelope {
        let message = Envelope::new("edged", "meta", operation, Resource::parse(resource), content, 1);
        self.say(&message).await;
        message
    }

    /// Says it, and waits for the answer.
    async fn ask(&mut self, operation: &str, resource: &str, content: Body) -> Envelope {
        self.tell(operation, resource, content).await;
        self.hear(&format!("response {resource}")).await
    }
}

const WEB: &str = "
apiVersion: v1
kind: Pod
metadata: { name: web }
spec:
  nodeName: go-1
  containers: [{ name: main, image: 'registry.local/hello:1' }]
  volumes:
  - { name: words, configMap: { name: words } }
  - { name: key, secret: { secretName: key } }
  - { name: claim, persistentVolumeClaim: { claimName: claim } }
";

fn uid(kubectl: &Kubectl, object: &str) -> String {
    kubectl.run(&["get", object, "-o", "jsonpath={.metadata.uid}"])
}

/// What an edge of KubeEdge asks a cloud for, all of it.
async fn a_day_of_a_go_edge(edge: &mut Edge, kubectl: &Kubectl, proxy: &ApiProxy) {
    let node =
        || json!({"metadata": {"name": "go-1", "labels": {"node-role.kubernetes.io/edge": ""}}, "spec": {}});
    edge.ask("insert", "null/node/go-1", body(node())).await;
    edge.ask("query", "null/node/go-1", Body::Null).await;
    edge.ask("update", "null/node/go-1", body(json!({"metadata": {"labels": {"site": "a"}}}))).await;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}).to_string();
    edge.ask("patch", "null/nodepatch/go-1", Body::Text(ready)).await;
    let spec = json!({"holderIdentity": "go-1", "leaseDurationSeconds": 40, "renewTime": "2026-07-01T08:00:00.000000Z"});
    let lease = json!({"metadata": {"name": "go-1", "namespace": "kube-node-lease"}, "spec": spec});
    let own = "kube-node-lease/lease/go-1";
    edge.ask("query", own, Body::Null).await;
    edge.ask("insert", own, body(lease)).await;
    let known = edge.ask("query", own, Body::Null).await;
    let Body::ObjectResp(known) = known.body else { panic!("{:?}", known.body) };
    edge.ask("update", own, body(known.object.unwrap())).await;

    kubectl.apply(&format!("{WORDS_AND_KEY}{WEB}"));
    // Without a listing this edge gets everything as updates.
    edge.hear("insert default/pod/web").await;
    edge.ask("query", "default/configmap/words", Body::Null).await;
    edge.ask("query", "default/secret/key", Body::Null).await;
    edge.ask("query", "default/persistentvolumeclaim/claim", Body::Null).await;
    edge.ask("query", "null/persistentvolume/volume", Body::Null).await;
    let pod = uid(kubectl, "pod/web");
    let token = json!({"spec": {"audiences": [], "expirationSeconds": 3607,
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": pod}}});
    edge.ask("query", "default/serviceaccounttoken/default", body(token)).await;
    let running = json!({"metadata": {"uid": pod}, "status": {"phase": "Running"}}).to_string();
    edge.ask("patch", "default/podpatch/web", Body::Text(running)).await;
    let mirror = json!({"metadata": {"name": "static-go-1", "namespace": "default",
            "annotations": {"kubernetes.io/config.mirror": "a", "kubernetes.io/config.source": "file"}},
        "spec": {"nodeName": "go-1", "containers": [{"name": "main", "image": "registry.local/hello:1"}]}});
    edge.ask("insert", "default/pod/static-go-1", body(mirror)).await;
    // A pod that nobody has heard of yet is asked for.
    let unknown = json!({"metadata": {"uid": "u"}, "status": {}}).to_string();
    edge.ask("patch", "default/podpatch/unknown", Body::Text(unknown)).await;

    let event = |count: u32| {
        json!({"metadata": {"name": "web.1", "namespace": "default"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web", "uid": pod},
        "reason": "Pulled", "message": "m", "type": "Normal", "source": {"component": "kubelet", "host": "go-1"},
        "firstTimestamp": "2026-07-01T08:00:00Z", "lastTimestamp": "2026-07-01T08:00:00Z", "count": count})
    };
    edge.tell("insert", "default/event/web.1", body(event(1))).await;
    edge.tell("update", "default/event/web.1", body(event(2))).await;
    let patch = json!({"event": event(2), "patchData": "{\"count\":3}"});
    edge.tell("patch", "default/event/web.1", body(patch)).await;

    kubectl.apply(DEVICE.replace("edge-1", "go-1").as_str());
    edge.hear("update membership").await;
    // Its first write fails, so what is there is looked at first.
    let is_status = |request: &Request| request.path.ends_with("/devicestatuses/sensor-1");
    proxy.plan(1, Fault::Answer(409, ""), move |request| request.method == "PATCH" && is_status(request));
    edge.report("21", 1_900_000).await;
    kubectl.run(&["delete", "device", "sensor-1"]);
    kubectl.wait_gone("devicestatus/sensor-1");

    kubectl.run(&["delete", "pod", "web", "--wait=false"]);
    edge.hear("update default/pod/web").await;
    let options = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": pod}});
    edge.tell("delete", "default/pod/web", body(options)).await;
    // The answer, and in any order the message that it is gone: that is written down too.
    let mut both = BTreeSet::from(["response", "delete"]);
    while !both.is_empty() {
        let heard =
            tokio::time::timeout(PATIENCE, edge.next()).await.unwrap_or_else(|_| panic!("no {both:?}"));
        let heard = heard.expect("the session goes on");
        if heard.route.resource.to_string() == "default/pod/web" {
            both.remove(heard.route.operation.as_str());
        }
    }
}

#[test]
fn every_request_is_right_and_every_right_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(&dir.path().join("cluster"));
    let kubectl = cluster.kubectl();
    let proxy = proxy(&cluster);
    let beside = Beside::behind(&cluster, &proxy, &dir.path().join("one"), &[PATIENT]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _edge = runtime.block_on(async {
        let mut edge = Edge::connect(&beside.cloud, "go-1", "").await;
        a_day_of_a_go_edge(&mut edge, &kubectl, &proxy).await;
        edge
    });
    // New edges of ours join with tokens, which are used up in the API, and their keys are published. They need no
    // runtime for that.
    let socket = dir.path().join("no-runtime.sock");
    let join = |name: &str| {
        ProgramEdge::start(&beside.cloud, &dir.path().join(name), name, &socket, &beside.cloud.token(), &[])
    };
    let _edges = [join("ours-1"), join("ours-2")];

    until("every right is used", PATIENCE, || {
        let all = check_all(&proxy.log());
        let missing = unused(&all);
        if missing.is_empty() { Ok(()) } else { Err(format!("granted and not used: {missing:#?}")) }
    });
    assert_eq!(beside.refusals(), Vec::<String>::new());
}

/// Each verb on each resource of each rule that no request needed.
fn unused(all: &BTreeSet<Asked>) -> Vec<String> {
    let mut unused = Vec::new();
    for (role, namespace, rule) in rules() {
        for verb in &rule.verbs {
            for resource in &rule.resources {
                let one =
                    Rule { verbs: vec![verb.clone()], resources: vec![resource.clone()], ..rule.clone() };
                let one = (role.clone(), namespace.clone(), one);
                if !all.iter().any(|asked| allows(&one, asked)) {
                    unused.push(format!("{role}: {verb} {resource}"));
                }
            }
        }
    }
    unused
}
