//! Pods: the STATUS that kubectl prints, and why.

use serde_json::Value;

use super::{MAX_TEXT, clip, items, key, number, rfc3339_ms, short, text, time, why};
use crate::console::protocol::{ContainerView, PodView};
use crate::kube::table::PodSummary;

/// Containers of a pod that are shown; Kubernetes has no bound but the size of the object.
const MAX_CONTAINERS: usize = 100;

/// A Pod.
#[must_use]
pub fn pod(object: &Value) -> PodView {
    let summary = PodSummary::of(object);
    let containers = containers(object);
    let ip = match items(object, "/status/podIPs").first() {
        Some(first) => text(first, "/ip"),
        None => text(object, "/status/podIP"),
    };
    PodView {
        key: key(object),
        namespace: short(object, "/metadata/namespace"),
        name: short(object, "/metadata/name"),
        uid: short(object, "/metadata/uid"),
        node: short(object, "/spec/nodeName"),
        message: message(object, &containers),
        status: clip(&summary.reason, 128),
        ready: small(summary.ready),
        total: small(summary.total),
        restarts: u32::try_from(summary.restarts.max(0)).unwrap_or(u32::MAX),
        ip: clip(ip, 64),
        created_ms: time(object, "/metadata/creationTimestamp"),
        containers,
    }
}

fn small(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// Why something is not well: of the pod, of a container that waits or failed, of the scheduler.
fn message(object: &Value, containers: &[ContainerView]) -> String {
    let own = why(text(object, "/status/reason"), text(object, "/status/message"));
    if !own.is_empty() {
        return own;
    }
    // A container that only waits its turn has no more to say than its state.
    let telling = |view: &&ContainerView| {
        let is_bad =
            view.state == "waiting" || view.state == "terminated" && !view.why.starts_with("Completed");
        is_bad && view.why.contains(": ")
    };
    if let Some(view) = containers.iter().find(telling) {
        return view.why.clone();
    }
    let unmet = items(object, "/status/conditions")
        .iter()
        .find(|condition| condition["type"] == "PodScheduled" && text(condition, "/status") == "False");
    unmet.map(|condition| why(text(condition, "/reason"), text(condition, "/message"))).unwrap_or_default()
}

/// Init containers first, as they run.
fn containers(object: &Value) -> Vec<ContainerView> {
    let specs = |part: &str, statuses: &str| {
        let statuses = items(object, statuses);
        let of = |spec: &Value| statuses.iter().find(|status| status["name"] == spec["name"]);
        let specs = items(object, part).iter();
        specs.map(|spec| container(spec, of(spec))).collect::<Vec<ContainerView>>()
    };
    let mut all = specs("/spec/initContainers", "/status/initContainerStatuses");
    all.append(&mut specs("/spec/containers", "/status/containerStatuses"));
    all.truncate(MAX_CONTAINERS);
    all
}

fn container(spec: &Value, status: Option<&Value>) -> ContainerView {
    let nothing = Value::Null;
    let status = status.unwrap_or(&nothing);
    let mut view = ContainerView {
        name: short(spec, "/name"),
        image: short(spec, "/image"),
        state: "waiting".to_owned(),
        ready: status["ready"] == true,
        restarts: number(status, "/restartCount"),
        last_end: status.pointer("/lastState/terminated").map(end).unwrap_or_default(),
        ..ContainerView::default()
    };
    if let Some(running) = status.pointer("/state/running").filter(|state| state.is_object()) {
        view.state = "running".to_owned();
        view.started_ms = rfc3339_ms(text(running, "/startedAt"));
    } else if let Some(ended) = status.pointer("/state/terminated").filter(|state| state.is_object()) {
        view.state = "terminated".to_owned();
        view.why = end(ended);
        view.started_ms = rfc3339_ms(text(ended, "/startedAt"));
    } else {
        view.why = why(text(status, "/state/waiting/reason"), text(status, "/state/waiting/message"));
    }
    view
}

/// `Error, exit code 7: what it said last`.
fn end(terminated: &Value) -> String {
    if !terminated.is_object() {
        return String::new();
    }
    let code = terminated.get("exitCode").and_then(Value::as_i64).unwrap_or_default();
    let signal = terminated.get("signal").and_then(Value::as_i64).unwrap_or_default();
    let reason = match text(terminated, "/reason") {
        "" if code == 0 && signal == 0 => "Completed",
        "" => "Error",
        reason => reason,
    };
    let mut said = match (code, signal) {
        (0, 0) => reason.to_owned(),
        (code, 0) => format!("{reason}, exit code {code}"),
        (_, signal) => format!("{reason}, signal {signal}"),
    };
    let message = text(terminated, "/message");
    if !message.is_empty() {
        said = format!("{said}: {message}");
    }
    clip(&said, MAX_TEXT)
}
