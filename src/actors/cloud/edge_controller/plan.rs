//! What an upstream message asks for: the API calls and the shape of the answer (protocol section
//! 6.4). No I/O.

use serde_json::{Value, json};

use super::lanes::Class;
use crate::model::{Body, Envelope, NodeName, ObjectKey, Reason, Resource, Route, Status, operation};

/// `Content-Type` of a strategic merge patch.
pub const STRATEGIC: &str = "application/strategic-merge-patch+json";
/// `Content-Type` of a merge patch.
pub const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json";

/// One HTTP request to the API server.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    pub method: &'static str,
    pub path: String,
    pub content_type: &'static str,
    pub body: Option<Value>,
    /// Do it with the node's own rights (certificate requests).
    pub as_node: bool,
}

/// How the result travels back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// `{"Object": .., "Err": ..}`; with the object's resourceVersion in the header if `version`.
    ObjectResp { version: bool },
    /// The object, or `{"ErrStatus": ..}`; with the resourceVersion if `version`.
    Object { version: bool },
    /// `"OK"` with the resourceVersion; nothing on error.
    OkOrNothing,
    /// `"OK"` or the error's text, about `null/node/{n}` (legacy `nodestatus`).
    NodeStatus,
    /// `"OK"`, also when the pod is gone or another one; else `{"ErrStatus": ..}`.
    PodDelete,
    /// `"OK"`, and a delete for pods that are gone (legacy `podstatus`).
    PodStatus,
    /// No answer (events).
    Nothing,
}

/// What must hold before the calls are made: nobody speaks for another node (design D8).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// The node itself: its Node, its lease, its certificate requests.
    Own {
        name: String,
    },
    /// A pod bound to this node.
    Pod {
        namespace: String,
        name: String,
    },
    /// A mirror pod that this node creates.
    MirrorPod,
    /// A ConfigMap, Secret or claim that one of its pods names.
    Referenced {
        kind: &'static str,
        namespace: String,
        name: String,
    },
    /// A volume bound to a claim that one of its pods names.
    Volume,
    /// A token for one of its pods.
    Token {
        namespace: String,
        account: String,
    },
    /// An event about itself or one of its pods.
    Event {
        namespace: String,
        name: String,
    },
    VolumeAttachment,
}

/// Everything needed to serve a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    pub class: Class,
    /// Calls about the same object run in order.
    pub object: String,
    pub subject: Subject,
    pub calls: Vec<Call>,
    pub shape: Shape,
}

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq)]
pub enum NoPlan {
    /// A kind or operation we do not know: counted, and the answer says so.
    Unknown,
    /// The message is wrong; the answer says how.
    Bad { shape: Shape, status: Box<Status> },
}

/// One message for each object: a legacy `podstatus` without a name carries a list of statuses.
/// Elements that name no pod are left out.
#[must_use]
pub fn singles(message: Envelope) -> Vec<Envelope> {
    let (Resource::Object(key), Body::Unknown(Value::Array(statuses))) =
        (&message.route.resource, &message.body)
    else {
        return vec![message];
    };
    if key.kind != "podstatus" || key.name.is_some() {
        return vec![message];
    }
    let single = |status: &Value| {
        let name = Some(status.get("Name")?.as_str()?.to_owned());
        let route = Route { resource: ObjectKey { name, ..key.clone() }.into(), ..message.route.clone() };
        Some(Envelope { header: message.header.clone(), route, body: Body::Object(status.clone()) })
    };
    statuses.iter().filter_map(single).collect()
}

/// Reads a message of `node`.
///
/// # Errors
/// [`NoPlan`].
pub fn plan(node: &NodeName, message: &Envelope) -> Result<Plan, NoPlan> {
    let key = message.route.resource.object().ok_or(NoPlan::Unknown)?;
    let cluster_scoped = matches!(key.kind.as_str(), "node" | "nodepatch" | "persistentvolume");
    if key.name.is_none() || (key.namespace.is_none() && !cluster_scoped) {
        return Err(NoPlan::Unknown); // a delete without a name would delete a collection
    }
    let planned = match key.kind.as_str() {
        "node" | "nodepatch" | "nodestatus" => of_node(key, message),
        "pod" | "podpatch" | "podstatus" => of_pod(key, message),
        "lease" => of_lease(key, message),
        "event" => of_event(key, message),
        "configmap" | "secret" | "persistentvolume" | "persistentvolumeclaim" | "volumeattachment" => {
            of_query(key, message)
        }
        "serviceaccounttoken" => of_token(key, message),
        "certificatesigningrequest" => of_csr(node, key, message),
        _ => return Err(NoPlan::Unknown),
    };
    let plan = planned?;
    // Names become parts of URLs.
    let legal = |text: &str| {
        !text.is_empty()
            && text.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'.' | b'_' | b':'))
            && text != "."
            && text != ".."
    };
    let texts = [key.namespace.as_deref(), key.name.as_deref()];
    if texts.into_iter().flatten().any(|text| !legal(text) || text.len() > NodeName::MAX_BYTES) {
        return bad(plan.shape, format!("{key} is not a legal name"));
    }
    for body in plan.calls.iter().filter_map(|call| call.body.as_ref()) {
        for (field, want) in [("name", &key.name), ("namespace", &key.namespace)] {
            let got = body.pointer(&format!("/metadata/{field}")).and_then(Value::as_str);
            if let (Some(got), Some(want)) = (got, want)
                && got != want
                && !got.is_empty()
            {
                return bad(plan.shape, format!("metadata.{field} is {got:?} in a message about {key}"));
            }
        }
    }
    Ok(plan)
}

/// Finishes the registration of a Node: who serves it, and nothing that only admins may say.
pub fn complete_node(plan: &mut Plan, cloudcore: &str) {
    let Subject::Own { .. } = &plan.subject else { return };
    if !plan.object.starts_with("node/") {
        return;
    }
    for call in &mut plan.calls {
        let Some(meta) = call.body.as_mut().and_then(|body| body.get_mut("metadata")) else { continue };
        if let Some(labels) = meta.get_mut("labels").and_then(Value::as_object_mut) {
            labels.retain(|key, _| !key.contains("node-restriction.kubernetes.io/"));
        }
        if call.method == "POST"
            && let Some(meta) = meta.as_object_mut()
        {
            let annotations = meta.entry("annotations").or_insert_with(|| json!({}));
            if !annotations.is_object() {
                *annotations = json!({});
            }
            if let Some(annotations) = annotations.as_object_mut() {
                annotations.insert("cloudcore".to_owned(), cloudcore.into());
            }
        }
    }
}

fn bad<T>(shape: Shape, why: String) -> Result<T, NoPlan> {
    Err(NoPlan::Bad { shape, status: Box::new(Status::failure(Reason::BadRequest, why)) })
}

fn call(method: &'static str, path: String, body: Option<Value>) -> Call {
    Call { method, path, content_type: JSON, body, as_node: false }
}

fn patch(path: String, content_type: &'static str, body: Value) -> Call {
    Call { method: "PATCH", path, content_type, body: Some(body), as_node: false }
}

/// An object as content: inline, or a string that contains it (protocol section 2.2).
fn object(message: &Envelope, shape: Shape) -> Result<Value, NoPlan> {
    let parsed = match &message.body {
        Body::Object(value) => Some(value.clone()),
        Body::Text(text) => serde_json::from_str::<Value>(text).ok().filter(Value::is_object),
        _ => None,
    };
    match parsed {
        Some(value) => Ok(value),
        None => bad(shape, format!("the content about {} is not an object", message.route.resource)),
    }
}

/// The same with the type that a Go edge leaves out.
fn typed(message: &Envelope, shape: Shape, api_version: &str, kind: &str) -> Result<Value, NoPlan> {
    let mut value = object(message, shape)?;
    if let Some(fields) = value.as_object_mut() {
        fields.insert("apiVersion".to_owned(), api_version.into());
        fields.insert("kind".to_owned(), kind.into());
    }
    Ok(value)
}

fn of_node(key: &ObjectKey, message: &Envelope) -> Result<Plan, NoPlan> {
    let name = key.name();
    let path = format!("/api/v1/nodes/{name}");
    let (calls, shape) = match (key.kind.as_str(), message.route.operation.as_str()) {
        ("node", operation::INSERT) | ("nodestatus", operation::INSERT) => {
            let shape = match key.kind.as_str() {
                "node" => Shape::ObjectResp { version: false },
                _ => Shape::NodeStatus,
            };
            let body = typed(message, shape, "v1", "Node")?;
            (vec![call("POST", "/api/v1/nodes".to_owned(), Some(body))], shape)
        }
        ("node", operation::QUERY) => (vec![call("GET", path, None)], Shape::Object { version: false }),
        ("node", operation::UPDATE) => {
            let content = object(message, Shape::OkOrNothing)?;
            let pick = |field: &str| content.pointer(&format!("/metadata/{field}")).cloned();
            let body = json!({"metadata": {
                "labels": pick("labels").unwrap_or(json!({})),
                "annotations": pick("annotations").unwrap_or(json!({}))}});
            (vec![patch(path, STRATEGIC, body)], Shape::OkOrNothing)
        }
        ("nodepatch", operation::PATCH) => {
            let shape = Shape::ObjectResp { version: true };
            let body = object(message, shape)?;
            (vec![patch(format!("{path}/status"), STRATEGIC, body)], shape)
        }
        ("nodestatus", operation::UPDATE) => {
            let content = object(message, Shape::NodeStatus)?;
            let status = content.get("Status").or_else(|| content.get("status")).cloned();
            let body = json!({"status": status.unwrap_or(json!({}))});
            (vec![patch(format!("{path}/status"), STRATEGIC, body)], Shape::NodeStatus)
        }
        _ => return Err(NoPlan::Unknown),
    };
    let subject = Subject::Own { name: name.to_owned() };
    Ok(Plan { class: Class::Status, object: format!("node/{name}"), subject, calls, shape })
}

fn of_pod(key: &ObjectKey, message: &Envelope) -> Result<Plan, NoPlan> {
    let (namespace, name) = (key.namespace(), key.name());
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let mut subject = Subject::Pod { namespace: namespace.to_owned(), name: name.to_owned() };
    let (calls, shape) = match (key.kind.as_str(), message.route.operation.as_str()) {
        ("pod", operation::INSERT) => {
            subject = Subject::MirrorPod;
            let shape = Shape::ObjectResp { version: true };
            (vec![call("POST", pods, Some(typed(message, shape, "v1", "Pod")?))], shape)
        }
        ("pod", operation::DELETE) => {
            let options = match &message.body {
                Body::Text(uid) if !uid.trim_start().starts_with('{') => {
                    json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}})
                }
                _ => object(message, Shape::PodDelete)?,
            };
            let mut options = options;
            if let Some(fields) = options.as_object_mut() {
                fields.insert("apiVersion".to_owned(), "v1".into());
                fields.insert("kind".to_owned(), "DeleteOptions".into());
            }
            (vec![call("DELETE", format!("{pods}/{name}"), Some(options))], Shape::PodDelete)
        }
        ("podpatch", operation::PATCH) => {
            let shape = Shape::ObjectResp { version: true };
            let content = object(message, shape)?;
            // Labels decide whose traffic a pod gets: a node says what happened, and which pod it
            // means, nothing else.
            let uid = content.pointer("/metadata/uid").cloned().unwrap_or_default();
            let status = content.get("status").cloned().unwrap_or(json!({}));
            let body = match uid {
                Value::Null => json!({"status": status}),
                uid => json!({"metadata": {"uid": uid}, "status": status}),
            };
            (vec![patch(format!("{pods}/{name}/status"), STRATEGIC, body)], shape)
        }
        ("podstatus", operation::UPDATE) => {
            let content = object(message, Shape::PodStatus)?;
            let status = content.get("Status").cloned().unwrap_or(json!({}));
            let uid = content.get("UID").and_then(Value::as_str).unwrap_or_default();
            let body = json!({"metadata": {"uid": uid}, "status": status});
            (vec![patch(format!("{pods}/{name}/status"), MERGE, body)], Shape::PodStatus)
        }
        _ => return Err(NoPlan::Unknown),
    };
    Ok(Plan { class: Class::Status, object: format!("pod/{namespace}/{name}"), subject, calls, shape })
}

fn of_lease(key: &ObjectKey, message: &Envelope) -> Result<Plan, NoPlan> {
    let (namespace, name) = (key.namespace(), key.name());
    let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    let shape = Shape::ObjectResp { version: false };
    let body = || typed(message, shape, "coordination.k8s.io/v1", "Lease").map(Some);
    let calls = match message.route.operation.as_str() {
        operation::INSERT => vec![call("POST", leases, body()?)],
        operation::UPDATE => vec![call("PUT", format!("{leases}/{name}"), body()?)],
        operation::QUERY => vec![call("GET", format!("{leases}/{name}"), None)],
        _ => return Err(NoPlan::Unknown),
    };
    // A node has one lease, in one namespace.
    let owner = if namespace == "kube-node-lease" { name } else { "" };
    let subject = Subject::Own { name: owner.to_owned() };
    Ok(Plan { class: Class::Status, object: format!("lease/{name}"), subject, calls, shape })
}

fn of_event(key: &ObjectKey, message: &Envelope) -> Result<Plan, NoPlan> {
    let (namespace, name) = (key.namespace(), key.name());
    let events = format!("/api/v1/namespaces/{namespace}/events");
    let shape = Shape::Nothing;
    let calls = match message.route.operation.as_str() {
        operation::INSERT => vec![call("POST", events, Some(typed(message, shape, "v1", "Event")?))],
        operation::UPDATE => {
            vec![call("PUT", format!("{events}/{name}"), Some(typed(message, shape, "v1", "Event")?))]
        }
        operation::PATCH => {
            let content = object(message, shape)?;
            let data = content.get("patchData").and_then(Value::as_str).unwrap_or_default();
            let Ok(body) = serde_json::from_str::<Value>(data) else {
                return bad(shape, format!("patchData of {key} is not JSON"));
            };
            vec![patch(format!("{events}/{name}"), STRATEGIC, body)]
        }
        _ => return Err(NoPlan::Unknown),
    };
    let subject = Subject::Event { namespace: namespace.to_owned(), name: name.to_owned() };
    let object = format!("event/{namespace}/{name}");
    Ok(Plan { class: Class::Rest, object, subject, calls, shape })
}

fn of_query(key: &ObjectKey, message: &Envelope) -> Result<Plan, NoPlan> {
    if message.route.operation != operation::QUERY {
        return Err(NoPlan::Unknown);
    }
    let (namespace, name) = (key.namespace().to_owned(), key.name().to_owned());
    let referenced = |kind| Subject::Referenced { kind, namespace: namespace.clone(), name: name.clone() };
    let (path, subject) = match key.kind.as_str() {
        "configmap" => (format!("/api/v1/namespaces/{namespace}/configmaps/{name}"), referenced("ConfigMap")),
        "secret" => (format!("/api/v1/namespaces/{namespace}/secrets/{name}"), referenced("Secret")),
        "persistentvolumeclaim" => (
            format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims/{name}"),
            referenced("PersistentVolumeClaim"),
        ),
        "persistentvolume" => (format!("/api/v1/persistentvolumes/{name}"), Subject::Volume),
        _ => (format!("/apis/storage.k8s.io/v1/volumeattachments/{name}"), Subject::VolumeAttachment),
    };
    let shape = Shape::Object { version: true };
    let object = format!("{}/{namespace}/{name}", key.kind);
    Ok(Plan { class: Class::Rest, object, subject, calls: vec![call("GET", path, None)], shape })
}

fn of_token(key: &ObjectKey, message: &Envelope) -> Result<Plan, NoPlan> {
    if message.route.operation != operation::QUERY {
        return Err(NoPlan::Unknown);
    }
    let (namespace, name) = (key.namespace(), key.name());
    let shape = Shape::Object { version: false };
    let mut body = typed(message, shape, "authentication.k8s.io/v1", "TokenRequest")?;
    // The name in a TokenRequest's metadata is not the account's; Kubernetes ignores it.
    if let Some(fields) = body.as_object_mut() {
        fields.remove("metadata");
    }
    let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token");
    let subject = Subject::Token { namespace: namespace.to_owned(), account: name.to_owned() };
    let calls = vec![call("POST", path, Some(body))];
    // Tokens of different pods of one account need not wait for each other.
    let object = format!("token/{}", message.header.msg_id);
    Ok(Plan { class: Class::Rest, object, subject, calls, shape })
}

fn of_csr(node: &NodeName, key: &ObjectKey, message: &Envelope) -> Result<Plan, NoPlan> {
    const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let (mut made, shape) = match message.route.operation.as_str() {
        operation::INSERT => {
            let shape = Shape::ObjectResp { version: false };
            let mut body = typed(message, shape, "certificates.k8s.io/v1", "CertificateSigningRequest")?;
            if let Some(meta) = body.get_mut("metadata").and_then(Value::as_object_mut) {
                meta.remove("namespace");
            }
            (call("POST", REQUESTS.to_owned(), Some(body)), shape)
        }
        operation::QUERY => {
            (call("GET", format!("{REQUESTS}/{}", key.name()), None), Shape::Object { version: false })
        }
        _ => return Err(NoPlan::Unknown),
    };
    made.as_node = true;
    let subject = Subject::Own { name: node.as_str().to_owned() };
    Ok(Plan { class: Class::Rest, object: format!("csr/{}", key.name()), subject, calls: vec![made], shape })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
