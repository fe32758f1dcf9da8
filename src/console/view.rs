//! Kubernetes objects as the page shows them. Pure and total: what has another type than it should is
//! not there, and what is longer than anybody reads is cut.

mod device;
mod pod;
#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde_json::Value;

pub use device::{DevicePart, ModelPart, StatusPart, TwinPart, device, device_part, model_part, status_part};
pub use pod::pod;

use super::protocol::{EventView, NodeView};

/// Longest text of an object that travels to the page, bytes.
const MAX_TEXT: usize = 1024;
const ROLE: &str = "node-role.kubernetes.io/";

/// The text at a JSON pointer, empty when absent.
fn text<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The same, not longer than the page shows.
fn short(object: &Value, pointer: &str) -> String {
    clip(text(object, pointer), MAX_TEXT)
}

/// At most `most` bytes of `text`, cut at a character.
pub(super) fn clip(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
    format!("{}…", text.get(..end).unwrap_or_default())
}

fn items<'v>(object: &'v Value, pointer: &str) -> &'v [Value] {
    object.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A number that should be small and not negative.
fn number(object: &Value, pointer: &str) -> u32 {
    let found = object.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    u32::try_from(found).unwrap_or(u32::MAX)
}

/// Milliseconds since the epoch of an RFC 3339 time; 0 when there is none.
fn time(object: &Value, pointer: &str) -> u64 {
    rfc3339_ms(text(object, pointer))
}

/// The same for a text.
#[must_use]
pub fn rfc3339_ms(text: &str) -> u64 {
    let at = text.parse::<Timestamp>().map(Timestamp::as_millisecond).unwrap_or_default();
    u64::try_from(at).unwrap_or_default()
}

/// `namespace/name`; a node has no namespace: its name.
#[must_use]
pub fn key(object: &Value) -> String {
    let name = text(object, "/metadata/name");
    match text(object, "/metadata/namespace") {
        "" => name.to_owned(),
        namespace => format!("{namespace}/{name}"),
    }
}

/// `reason: message`, or what there is of it.
fn why(reason: &str, message: &str) -> String {
    let text = match (reason, message) {
        ("", message) => message.to_owned(),
        (reason, "") => reason.to_owned(),
        (reason, message) => format!("{reason}: {message}"),
    };
    clip(&text, MAX_TEXT)
}

/// A Node.
#[must_use]
pub fn node(object: &Value) -> NodeView {
    let conditions = items(object, "/status/conditions");
    let ready = conditions.iter().find(|condition| condition["type"] == "Ready");
    let of_ready = |pointer: &str| ready.map(|condition| text(condition, pointer)).unwrap_or_default();
    let is = match of_ready("/status") {
        "" => "Unknown",
        said => said,
    };
    let address = |kind: &str| {
        let all = items(object, "/status/addresses").iter();
        all.filter(|address| address["type"] == kind).map(|address| text(address, "/address")).next()
    };
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    let roles = labels.into_iter().flatten().filter_map(|(label, value)| {
        let old_way = (label == "kubernetes.io/role").then(|| value.as_str().unwrap_or_default());
        label.strip_prefix(ROLE).or(old_way).filter(|role| !role.is_empty()).map(str::to_owned)
    });
    NodeView {
        key: key(object),
        ready: clip(is, 16),
        why: if is == "True" { String::new() } else { why(of_ready("/reason"), of_ready("/message")) },
        since_ms: rfc3339_ms(of_ready("/lastTransitionTime")),
        heartbeat_ms: rfc3339_ms(of_ready("/lastHeartbeatTime")),
        created_ms: time(object, "/metadata/creationTimestamp"),
        unschedulable: object.pointer("/spec/unschedulable") == Some(&Value::Bool(true)),
        roles: roles.collect(),
        address: address("InternalIP").or_else(|| address("Hostname")).unwrap_or_default().to_owned(),
        version: short(object, "/status/nodeInfo/kubeletVersion"),
        os_image: short(object, "/status/nodeInfo/osImage"),
        kernel: short(object, "/status/nodeInfo/kernelVersion"),
        architecture: short(object, "/status/nodeInfo/architecture"),
        runtime: short(object, "/status/nodeInfo/containerRuntimeVersion"),
        cpu: short(object, "/status/capacity/cpu"),
        memory: short(object, "/status/capacity/memory"),
        max_pods: short(object, "/status/capacity/pods"),
        pressures: conditions.iter().filter_map(pressure).collect(),
    }
}

/// A condition besides Ready that is not as it should be.
fn pressure(condition: &Value) -> Option<String> {
    let kind = text(condition, "/type");
    let is_bad = kind != "Ready" && text(condition, "/status") == "True";
    is_bad.then(|| clip(&format!("{kind}: {}", text(condition, "/message")), MAX_TEXT))
}

/// An Event of `v1`; what was written through `events.k8s.io` has its count and times elsewhere.
#[must_use]
pub fn event(object: &Value) -> EventView {
    let first_of = |pointers: &[&str]| {
        pointers.iter().map(|pointer| time(object, pointer)).find(|at| *at > 0).unwrap_or_default()
    };
    let source = match text(object, "/source/component") {
        "" => text(object, "/reportingComponent"),
        component => component,
    };
    let host = match text(object, "/source/host") {
        "" => String::new(),
        host => format!(", {host}"),
    };
    let counted = number(object, "/count").max(number(object, "/series/count"));
    EventView {
        key: key(object),
        level: clip(text(object, "/type"), 32),
        reason: short(object, "/reason"),
        message: short(object, "/message"),
        object_kind: short(object, "/involvedObject/kind"),
        object_namespace: short(object, "/involvedObject/namespace"),
        object_name: short(object, "/involvedObject/name"),
        source: clip(&format!("{source}{host}"), MAX_TEXT),
        count: counted.max(1),
        first_ms: first_of(&["/firstTimestamp", "/eventTime", "/metadata/creationTimestamp"]),
        last_ms: first_of(&[
            "/series/lastObservedTime",
            "/lastTimestamp",
            "/eventTime",
            "/metadata/creationTimestamp",
        ]),
    }
}
