//! Requests of nodes, what is asked of the API, who may ask, and the exact answers.

use super::super::answer::{answers, not_understood};
use super::super::authority::{Verdict, judge};
use super::super::index::Index;
use super::super::object::Kind;
use super::*;
use crate::actors::cloud::watch_worker::Event;
use crate::model::Resource;

fn message(operation: &str, resource: &str, body: Body) -> Envelope {
    Envelope::new("edged", "meta", operation, Resource::parse(resource), body, 0)
}

fn node() -> NodeName {
    NodeName::parse("edge-1").unwrap()
}

fn of(operation: &str, resource: &str, body: Body) -> Result<Plan, NoPlan> {
    plan(&node(), &message(operation, resource, body))
}

fn object_body() -> Body {
    Body::Object(json!({"spec": {}}))
}

fn event_patch() -> Body {
    Body::Object(json!({"event": {}, "patchData": "{\"count\":2}"}))
}

#[test]
fn requests_to_the_api() {
    let text = || Body::Text(r#"{"status":{"phase":"Running"}}"#.to_owned());
    let uid = || Body::Text("u-1".to_owned());
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    for (op, resource, body, want) in [
        ("insert", "null/node/edge-1", object_body(), "POST /api/v1/nodes"),
        ("query", "null/node/edge-1", Body::Null, "GET /api/v1/nodes/edge-1"),
        ("update", "null/node/edge-1", object_body(), "PATCH /api/v1/nodes/edge-1"),
        ("patch", "null/nodepatch/edge-1", text(), "PATCH /api/v1/nodes/edge-1/status"),
        ("update", "default/nodestatus/edge-1", object_body(), "PATCH /api/v1/nodes/edge-1/status"),
        ("patch", "ns/podpatch/p", text(), "PATCH /api/v1/namespaces/ns/pods/p/status"),
        ("update", "ns/podstatus/p", object_body(), "PATCH /api/v1/namespaces/ns/pods/p/status"),
        ("insert", "ns/pod/p", object_body(), "POST /api/v1/namespaces/ns/pods"),
        ("delete", "ns/pod/p", object_body(), "DELETE /api/v1/namespaces/ns/pods/p"),
        ("delete", "ns/pod/p", uid(), "DELETE /api/v1/namespaces/ns/pods/p"),
        ("query", "ns/configmap/c", Body::Null, "GET /api/v1/namespaces/ns/configmaps/c"),
        ("query", "ns/secret/s", Body::Null, "GET /api/v1/namespaces/ns/secrets/s"),
        ("query", "null/persistentvolume/v", Body::Null, "GET /api/v1/persistentvolumes/v"),
        (
            "query",
            "ns/persistentvolumeclaim/v",
            Body::Null,
            "GET /api/v1/namespaces/ns/persistentvolumeclaims/v",
        ),
        (
            "query",
            "default/volumeattachment/v",
            Body::Null,
            "GET /apis/storage.k8s.io/v1/volumeattachments/v",
        ),
        ("insert", "default/certificatesigningrequest/c", object_body(), &format!("POST {requests}")),
        ("query", "default/certificatesigningrequest/c", Body::Null, &format!("GET {requests}/c")),
        ("insert", "default/nodestatus/edge-1", object_body(), "POST /api/v1/nodes"),
        (
            "query",
            "ns/serviceaccounttoken/sa",
            object_body(),
            "POST /api/v1/namespaces/ns/serviceaccounts/sa/token",
        ),
        ("insert", "kube-node-lease/lease/edge-1", object_body(), &format!("POST {lease}")),
        ("update", "kube-node-lease/lease/edge-1", object_body(), &format!("PUT {lease}/edge-1")),
        ("query", "kube-node-lease/lease/edge-1", Body::Null, &format!("GET {lease}/edge-1")),
        ("insert", "ns/event/e.1", object_body(), "POST /api/v1/namespaces/ns/events"),
        ("update", "ns/event/e.1", object_body(), "PUT /api/v1/namespaces/ns/events/e.1"),
        ("patch", "ns/event/e.1", event_patch(), "PATCH /api/v1/namespaces/ns/events/e.1"),
    ] {
        let plan = of(op, resource, body).unwrap_or_else(|err| panic!("{op} {resource}: {err:?}"));
        assert_eq!(format!("{} {}", plan.calls[0].method, plan.calls[0].path), want, "{op} {resource}");
    }
    let delete = of("delete", "ns/pod/p", uid()).unwrap();
    assert_eq!(delete.calls[0].body.as_ref().unwrap()["preconditions"]["uid"], "u-1");
}

#[test]
fn bad_messages_get_the_shape_of_their_answer() {
    let other = Body::Object(json!({"metadata": {"name": "edge-2"}}));
    for (op, resource, body, shape) in [
        ("insert", "null/node/edge-1", Body::Null, Shape::ObjectResp { version: false }),
        ("insert", "null/node/edge-1", other, Shape::ObjectResp { version: false }),
        ("patch", "ns/podpatch/p", Body::Text("{".into()), Shape::ObjectResp { version: true }),
    ] {
        match of(op, resource, body) {
            Err(NoPlan::Bad { shape: got, status }) => {
                assert_eq!((got, status.code), (shape, 400), "{op} {resource}");
            }
            other => panic!("{op} {resource}: {other:?}"),
        }
    }
    for (op, resource) in [
        ("frobnicate", "ns/pod/p"),
        ("query", "ns/unicorn/u"),
        ("insert", "membership"),
        ("query", "../secret/a"),
        ("query", "ns/secret/a?x=1"),
        ("delete", "ns/pod"),
        ("delete", "null/pod/p"),
        ("query", "null/secret/s"),
    ] {
        assert_eq!(of(op, resource, object_body()), Err(NoPlan::Unknown), "{op} {resource}");
    }
    let question = message("query", "ns/unicorn/u", Body::Null);
    let answer = not_understood(&question, 7).unwrap();
    assert_eq!(answer.header.parent_msg_id.as_ref(), Some(&question.header.msg_id));
    assert!(matches!(&answer.body, Body::Error(_)), "{answer:?}");
    assert_eq!(not_understood(&answer, 8), None, "answers are not answered");
}

fn index() -> Index {
    let mut index = Index::default();
    let pod = |name: &str, node: &str| {
        json!({"metadata": {"namespace": "ns", "name": name, "uid": name, "resourceVersion": "1"},
            "spec": {"nodeName": node, "serviceAccountName": "sa",
                "volumes": [{"secret": {"secretName": format!("s-{name}")}}]}})
    };
    index.apply(Kind::Pod, Event::Applied(pod("ours", "edge-1")));
    index.apply(Kind::Pod, Event::Applied(pod("theirs", "edge-2")));
    index
}

#[test]
fn a_node_speaks_only_for_itself() {
    let bound = |pod: &str, uid: &str| {
        Body::Object(json!({"spec": {"boundObjectRef": {"kind": "Pod", "name": pod, "uid": uid}}}))
    };
    let about = |kind: &str, name: &str, host: &str| {
        Body::Object(
            json!({"involvedObject": {"kind": kind, "namespace": "ns", "name": name}, "source": {"host": host}}),
        )
    };
    let mirror = |node: &str, spec: Value| {
        let mut pod =
            json!({"metadata": {"annotations": {"kubernetes.io/config.mirror": "x"}}, "spec": spec});
        pod["spec"]["nodeName"] = node.into();
        Body::Object(pod)
    };
    let patch = || Body::Text("{}".to_owned());
    for (op, resource, body, want) in [
        ("insert", "null/node/edge-1", object_body(), "yes"),
        ("insert", "null/node/edge-2", object_body(), "no"),
        ("patch", "null/nodepatch/edge-2", patch(), "no"),
        ("update", "kube-node-lease/lease/edge-1", object_body(), "yes"),
        ("update", "kube-node-lease/lease/edge-2", object_body(), "no"),
        ("update", "default/lease/edge-1", object_body(), "no"),
        ("patch", "ns/podpatch/ours", patch(), "yes"),
        ("patch", "ns/podpatch/theirs", patch(), "no"),
        ("delete", "ns/pod/theirs", patch(), "no"),
        ("delete", "ns/pod/unknown", patch(), "ask"),
        ("query", "ns/secret/s-ours", Body::Null, "yes"),
        ("query", "ns/secret/s-theirs", Body::Null, "no"),
        ("query", "kube-system/secret/admin", Body::Null, "no"),
        ("query", "ns/configmap/kube-root-ca.crt", Body::Null, "yes"),
        ("query", "other/configmap/kube-root-ca.crt", Body::Null, "no"),
        ("query", "ns/serviceaccounttoken/sa", bound("ours", "ours"), "yes"),
        ("query", "ns/serviceaccounttoken/sa", bound("theirs", "theirs"), "no"),
        ("query", "ns/serviceaccounttoken/sa", bound("ours", "another"), "no"),
        ("query", "ns/serviceaccounttoken/admin", bound("ours", "ours"), "no"),
        ("query", "ns/serviceaccounttoken/sa", object_body(), "no"),
        ("insert", "ns/event/ours.1", about("Pod", "ours", "edge-1"), "yes"),
        ("insert", "ns/event/theirs.1", about("Pod", "theirs", "edge-1"), "no"),
        ("insert", "ns/event/ours.1", about("Pod", "ours", "edge-2"), "no"),
        ("insert", "ns/event/x.1", about("Secret", "x", "edge-1"), "no"),
        ("insert", "default/event/edge-1.1", about("Node", "edge-1", "edge-1"), "yes"),
        ("insert", "default/event/edge-2.1", about("Node", "edge-2", "edge-1"), "no"),
        ("patch", "ns/event/ours.1", event_patch(), "yes"),
        ("patch", "ns/event/theirs.1", event_patch(), "no"),
        ("patch", "ns/event/nothing", event_patch(), "no"),
        ("insert", "ns/pod/m", mirror("edge-1", json!({})), "yes"),
        ("insert", "ns/pod/m", mirror("edge-2", json!({})), "no"),
        ("insert", "ns/pod/m", mirror("edge-1", json!({"serviceAccountName": "sa"})), "no"),
        ("insert", "ns/pod/m", object_body(), "no"),
    ] {
        let plan = of(op, resource, body).unwrap_or_else(|err| panic!("{op} {resource}: {err:?}"));
        let verdict = match judge(&node(), &plan, &index()) {
            Verdict::Allowed => "yes",
            Verdict::Forbidden(_) => "no",
            Verdict::IfPodIsOurs { .. } | Verdict::IfClaimIsOurs => "ask",
        };
        assert_eq!(verdict, want, "{op} {resource}");
    }
}

#[test]
fn registration() {
    let body = Body::Object(json!({"metadata": {"name": "edge-1", "labels": {
        "kubernetes.io/hostname": "edge-1", "team.node-restriction.kubernetes.io/x": "1"}}}));
    let mut plan = of("insert", "null/node/edge-1", body).unwrap();
    complete_node(&mut plan, "10.0.0.1");
    assert_eq!(
        plan.calls[0].body,
        Some(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "edge-1",
            "labels": {"kubernetes.io/hostname": "edge-1"}, "annotations": {"cloudcore": "10.0.0.1"}}}))
    );
}

#[test]
fn answer_shapes() {
    let found = || json!({"metadata": {"name": "x", "resourceVersion": "9"}});
    let missing = || Box::new(Status::failure(Reason::NotFound, "gone"));
    let denied = || Box::new(Status::failure(Reason::Forbidden, "no"));
    let sent = |shape: Shape, result: Result<Value, Box<Status>>| -> Vec<(String, String, Option<String>)> {
        let request = message("update", "ns/podstatus/p", Body::Object(json!({"UID": "u"})));
        let all = answers(&request, shape, result, 0);
        all.iter()
            .map(|answer| {
                let kind = match &answer.body {
                    Body::Text(text) => text.clone(),
                    Body::Object(_) => "object".to_owned(),
                    Body::Error(err) => err.status.inner.reason.clone(),
                    Body::ObjectResp(both) => format!("{} {}", both.object.is_some(), both.err.is_some()),
                    other => format!("{other:?}"),
                };
                let version = answer.header.resource_version.clone();
                assert_eq!(answer.route.source, "edgecontroller");
                assert_eq!(answer.route.group, "resource");
                (kind, format!("{} {}", answer.route.operation, answer.route.resource), version)
            })
            .collect()
    };
    let response = |kind: &str, version: Option<&str>| {
        vec![(kind.to_owned(), "response ns/podstatus/p".to_owned(), version.map(str::to_owned))]
    };
    assert_eq!(sent(Shape::ObjectResp { version: true }, Ok(found())), response("true false", Some("9")));
    assert_eq!(sent(Shape::ObjectResp { version: false }, Ok(found())), response("true false", None));
    assert_eq!(sent(Shape::ObjectResp { version: true }, Err(denied())), response("false true", None));
    assert_eq!(sent(Shape::Object { version: true }, Ok(found())), response("object", Some("9")));
    assert_eq!(sent(Shape::Object { version: true }, Err(missing())), response("NotFound", None));
    assert_eq!(sent(Shape::OkOrNothing, Ok(found())), response("OK", Some("9")));
    assert_eq!(sent(Shape::OkOrNothing, Err(denied())), []);
    assert_eq!(sent(Shape::PodDelete, Err(missing())), response("OK", None));
    assert_eq!(sent(Shape::PodDelete, Err(denied())), response("Forbidden", None));
    assert_eq!(sent(Shape::Nothing, Ok(found())), []);
    let legacy = sent(Shape::NodeStatus, Err(denied()));
    assert_eq!(legacy, [("no".to_owned(), "response ns/node/p".to_owned(), None)]);
    let gone = sent(Shape::PodStatus, Err(missing()));
    assert_eq!(gone[0].0, "OK");
    assert_eq!((gone[1].0.as_str(), gone[1].1.as_str()), ("object", "delete ns/pod/p"));
}

#[test]
fn a_pod_patch_says_only_what_happened() {
    let text = r#"{"metadata":{"uid":"u","labels":{"app":"victim"},"finalizers":["a/b"]},
        "spec":{"nodeName":"other"},"status":{"phase":"Running"}}"#;
    let plan = of("patch", "ns/podpatch/p", Body::Text(text.to_owned())).unwrap();
    assert_eq!(plan.calls[0].body, Some(json!({"metadata": {"uid": "u"}, "status": {"phase": "Running"}})));
}

#[test]
fn a_list_of_pod_statuses_is_one_message_for_each() {
    let status = |name: &str| json!({"UID": "u", "Name": name, "Status": {"phase": "Running"}});
    let list = json!([status("a"), {"UID": "nameless"}, 7, status("b")]);
    let list = message("update", "ns/podstatus", Body::Unknown(list));
    let parts = singles(list.clone());
    let about: Vec<String> = parts.iter().map(|part| part.route.resource.to_string()).collect();
    assert_eq!(about, ["ns/podstatus/a", "ns/podstatus/b"]);
    assert!(parts.iter().all(|part| part.header == list.header), "all answers name the message");
    assert_eq!(parts[1].body, Body::Object(status("b")));
    for other in [
        message("update", "ns/podstatus/p", Body::Object(status("p"))),
        message("update", "ns/podstatus/p", Body::Unknown(json!([status("p")]))),
        message("update", "ns/pod", Body::Unknown(json!([status("p")]))),
    ] {
        assert_eq!(singles(other.clone()), [other]);
    }
}
