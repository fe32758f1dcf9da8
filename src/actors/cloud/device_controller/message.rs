//! The frames DeviceController sends (protocol sections 7.2 and 7.3).

use std::sync::Arc;

use serde_json::{Value, json};

use super::index::Change;
use super::statuses::Waiter;
use crate::bus::cloud_hub::Outgoing;
use crate::model::device::{Member, Membership};
use crate::model::{Body, Envelope, NodeName, ObjectKey, Resource, group, operation, source};

/// Members in one frame.
const MEMBERS: usize = 1_000;

/// Tells a change to its nodes. `now_ms` is Unix milliseconds.
#[must_use]
pub fn of_change(change: Change, now_ms: i64) -> Vec<(NodeName, Arc<Outgoing>)> {
    match change {
        Change::Members { node, added, removed } => membership(&node, added, removed, now_ms),
        Change::Object { nodes, operation, key, object, leaves } => {
            let message = about(operation, key, object, leaves, now_ms);
            nodes.into_iter().map(|node| (node, Arc::clone(&message))).collect()
        }
    }
}

/// Who came and who went, in as many frames as it takes.
#[must_use]
pub fn membership(
    node: &NodeName,
    added: Vec<Member>,
    removed: Vec<Member>,
    now_ms: i64,
) -> Vec<(NodeName, Arc<Outgoing>)> {
    let frame = |added: Option<Vec<Member>>, removed: Option<Vec<Member>>| {
        let event_id = uuid::Uuid::new_v4().to_string();
        let content =
            Membership { event_id, timestamp: now_ms, added_devices: added, removed_devices: removed };
        let body = serde_json::to_value(content).map_or(Body::Null, Body::Object);
        let envelope = Envelope::new(
            source::DEVICE_CONTROLLER,
            group::TWIN,
            operation::UPDATE,
            Resource::Membership,
            body,
            now_ms,
        );
        (node.clone(), Outgoing::new(envelope))
    };
    let added = added.chunks(MEMBERS).map(|some| frame(Some(some.to_vec()), None));
    let removed = removed.chunks(MEMBERS).map(|some| frame(None, Some(some.to_vec())));
    removed.chain(added).collect()
}

fn about(operation: &str, key: ObjectKey, object: Arc<Value>, leaves: bool, now_ms: i64) -> Arc<Outgoing> {
    let mut envelope =
        Envelope::new(source::DEVICE_CONTROLLER, group::RESOURCE, operation, key.into(), Body::Null, now_ms);
    let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    envelope.header.resource_version = version.map(str::to_owned);
    if leaves {
        // KubeEdge's edge looks for the device's mapper in the object itself.
        envelope.body = Body::Object(object.as_ref().clone());
        return Outgoing::leaving(envelope);
    }
    Outgoing::shared(envelope, object)
}

/// A delete of something the node has and the API does not: name and uid are all that is known.
#[must_use]
pub fn skeleton(node: &NodeName, key: ObjectKey, uid: &str, now_ms: i64) -> (NodeName, Arc<Outgoing>) {
    let content = json!({"metadata": {"name": key.name(), "namespace": key.namespace(), "uid": uid}});
    let (source, group, operation) = (source::DEVICE_CONTROLLER, group::RESOURCE, operation::DELETE);
    let envelope = Envelope::new(source, group, operation, key.into(), Body::Object(content), now_ms);
    (node.clone(), Outgoing::leaving(envelope))
}

/// Answers the question `membership/detail`: confirms it, then says the whole set of devices. Two
/// messages, because edges take one with a parent for a confirmation and look no further.
#[must_use]
pub fn detail(asked: &Waiter, devices: &[Member], now_ms: i64) -> Vec<(NodeName, Arc<Outgoing>)> {
    let content = json!({
        "event_id": uuid::Uuid::new_v4().to_string(), "timestamp": now_ms, "devices": devices,
    });
    let (source, group, operation) = (source::DEVICE_CONTROLLER, group::TWIN, operation::UPDATE);
    let body = Body::Object(content);
    let envelope = Envelope::new(source, group, operation, Resource::MembershipDetail, body, now_ms);
    vec![confirmed(asked, now_ms), (asked.node.clone(), Outgoing::new(envelope))]
}

/// The report is in the API, or nothing is left to do about it.
#[must_use]
pub fn confirmed(waiter: &Waiter, now_ms: i64) -> (NodeName, Arc<Outgoing>) {
    let body = Body::Text("OK".to_owned());
    reply(waiter, operation::RESPONSE, body, now_ms)
}

/// The report can never be taken.
#[must_use]
pub fn refused(waiter: &Waiter, why: &str, now_ms: i64) -> (NodeName, Arc<Outgoing>) {
    let body = Body::Text(why.to_owned());
    reply(waiter, operation::ERROR, body, now_ms)
}

fn reply(waiter: &Waiter, operation: &str, body: Body, now_ms: i64) -> (NodeName, Arc<Outgoing>) {
    let (source, group) = (source::DEVICE_CONTROLLER, group::TWIN);
    let mut envelope = Envelope::new(source, group, operation, Resource::Twin, body, now_ms);
    envelope.header.parent_msg_id = Some(waiter.msg_id.clone());
    (waiter.node.clone(), Outgoing::new(envelope))
}
