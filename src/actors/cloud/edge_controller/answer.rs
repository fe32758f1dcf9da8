//! The exact shapes of answers to nodes (protocol sections 6.3, 6.4). No I/O.

use serde_json::{Value, json};

use super::plan::Shape;
use crate::model::{
    Body, Envelope, ErrStatus, ObjectKey, ObjectResp, Reason, Resource, Route, Status, group, operation,
    source,
};

/// The answers to `request`, in order: usually one, none for events, two when a pod is gone.
#[must_use]
pub fn answers(
    request: &Envelope,
    shape: Shape,
    result: Result<Value, Box<Status>>,
    now_ms: i64,
) -> Vec<Envelope> {
    let reply = |body: Body| {
        let mut envelope = request.response(body, now_ms);
        source::EDGE_CONTROLLER.clone_into(&mut envelope.route.source);
        group::RESOURCE.clone_into(&mut envelope.route.group);
        envelope
    };
    let ok = || Body::Text("OK".to_owned());
    match shape {
        Shape::Nothing => Vec::new(),
        Shape::ObjectResp { version } => {
            let rv = result.as_ref().ok().filter(|_| version).and_then(version_of);
            let (object, err) = match result {
                Ok(object) => (Some(object), None),
                Err(status) => (None, Some((*status).into())),
            };
            vec![with_version(reply(Body::ObjectResp(Box::new(ObjectResp { object, err }))), rv)]
        }
        Shape::Object { version } => match result {
            Ok(object) => {
                let rv = version.then(|| version_of(&object)).flatten();
                vec![with_version(reply(Body::Object(object)), rv)]
            }
            Err(status) => vec![reply(error(status))],
        },
        Shape::OkOrNothing => match result {
            Ok(object) => vec![with_version(reply(ok()), version_of(&object))],
            Err(_) => Vec::new(),
        },
        Shape::NodeStatus => {
            let mut envelope = match result {
                Ok(_) => reply(ok()),
                Err(status) => reply(Body::Text(status.message)),
            };
            if let Some(key) = request.route.resource.object() {
                envelope.route.resource = key.with_kind("node").into();
            }
            vec![envelope]
        }
        Shape::PodDelete => match result {
            Err(status) if !status.is(Reason::NotFound) && !status.is(Reason::Conflict) => {
                vec![reply(error(status))]
            }
            _ => vec![reply(ok())],
        },
        Shape::PodStatus => match result {
            Ok(_) => vec![reply(ok())],
            Err(status) if status.is(Reason::NotFound) || status.is(Reason::Conflict) => {
                let mut answers = vec![reply(ok())];
                answers.extend(gone(request, now_ms));
                answers
            }
            Err(status) => vec![reply(error(status))],
        },
    }
}

/// The answer to what nobody here understands: whoever waits for one learns so at once instead of
/// at its deadline. `None` for answers, which nobody answers.
#[must_use]
pub fn not_understood(request: &Envelope, now_ms: i64) -> Option<Envelope> {
    if request.header.parent_msg_id.as_deref().is_some_and(|parent| !parent.is_empty()) {
        return None;
    }
    let Route { resource, operation, .. } = &request.route;
    let why = format!("this cloud does not understand {operation} of {resource}");
    let status = Box::new(Status::failure(Reason::MethodNotAllowed, why));
    answers(request, Shape::Object { version: false }, Err(status), now_ms).pop()
}

fn error(status: Box<Status>) -> Body {
    Body::Error(Box::new(ErrStatus::from(*status)))
}

fn version_of(object: &Value) -> Option<String> {
    object.pointer("/metadata/resourceVersion").and_then(Value::as_str).map(str::to_owned)
}

fn with_version(mut envelope: Envelope, version: Option<String>) -> Envelope {
    envelope.header.resource_version = version;
    envelope
}

/// The delete for a pod whose status the node still reports.
fn gone(request: &Envelope, now_ms: i64) -> Option<Envelope> {
    let key = request.route.resource.object()?;
    let uid = match &request.body {
        Body::Object(value) => value.get("UID").cloned().unwrap_or(json!("")),
        _ => json!(""),
    };
    let key: ObjectKey = key.with_kind("pod");
    let skeleton = json!({"metadata": {"namespace": key.namespace(), "name": key.name(), "uid": uid}});
    Some(Envelope::new(
        source::EDGE_CONTROLLER,
        group::RESOURCE,
        operation::DELETE,
        Resource::Object(key),
        Body::Object(skeleton),
        now_ms,
    ))
}
