//! Whether a node is alive, and what must change in the API when that is not what it says. Pure.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::kube::time::whole_second;

/// Keys of the taints that follow from the Ready condition.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";

/// The conditions a node agent reports.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Reason of the Ready condition of pods whose node is silent: what is taken back later.
const POD_REASON: &str = "NodeNotReady";

/// What counts of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    pub name: String,
    pub uid: String,
    /// `True`, `False`, `Unknown`; empty when the condition is missing.
    pub ready: String,
    /// `lastHeartbeatTime` of Ready: moves when the node reports.
    pub heartbeat: String,
    /// Types of its conditions, and their status.
    pub conditions: Vec<(String, String)>,
    pub taints: Vec<Value>,
}

/// What must change.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Ready of its pods becomes `False`: nobody knows how they are.
    PodsUnknown,
    /// The node reports again: take back what `PodsUnknown` did.
    PodsKnown,
    /// Strategic-merge patch of the node's status.
    Conditions(Value),
    /// All its taints, replacing the present ones.
    Taints(Vec<Value>),
}

impl Node {
    pub fn read(object: &Value) -> Self {
        let at = |pointer: &str| text(object.pointer(pointer).unwrap_or(&Value::Null));
        let list =
            |pointer: &str| object.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default();
        let field = |condition: &Value, name: &str| text(condition.get(name).unwrap_or(&Value::Null));
        let conditions = list("/status/conditions");
        let ready = conditions.iter().find(|condition| field(condition, "type") == "Ready");
        Self {
            name: at("/metadata/name"),
            uid: at("/metadata/uid"),
            ready: ready.map(|ready| field(ready, "status")).unwrap_or_default(),
            heartbeat: ready.map(|ready| field(ready, "lastHeartbeatTime")).unwrap_or_default(),
            conditions: conditions
                .iter()
                .map(|condition| (field(condition, "type"), field(condition, "status")))
                .collect(),
            taints: list("/spec/taints"),
        }
    }

    /// Whether `newer` shows that the node itself reported in between.
    pub fn reported(&self, newer: &Self) -> bool {
        let came_back = self.ready != newer.ready && newer.ready != "Unknown";
        self.heartbeat != newer.heartbeat || came_back
    }

    fn has_taint(&self, key: &str) -> bool {
        self.taints.iter().any(|taint| taint.get("key").is_some_and(|found| found == key))
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What to change about `node`, in the order it must happen (each is harmless to repeat).
///
/// `heard`: when this process last saw a sign of life, by its own clock (a renewed lease or a
/// reported status; clocks of edges are not trusted). A process that has just started gives every
/// node the whole `grace` from `started_at`. `shown` is the time of day, for what is written down:
/// unlike the others it may jump.
///
/// Pods are never evicted: an edge that is cut off still runs them (users.md, C2).
pub fn judge(
    node: &Node,
    heard: Option<Timestamp>,
    now: Timestamp,
    started_at: Timestamp,
    grace: SignedDuration,
    shown: Timestamp,
) -> Vec<Change> {
    let mut changes = Vec::new();
    let alive_at = heard.map_or(started_at, |heard| heard.max(started_at));
    let silent = now.duration_since(alive_at) > grace;
    if silent && node.ready != "Unknown" {
        changes.push(Change::PodsUnknown);
        changes.push(Change::Conditions(unknown(node, shown)));
    }
    let wanted = match node.ready.as_str() {
        _ if silent => Some(UNREACHABLE),
        "Unknown" => Some(UNREACHABLE),
        "True" => None,
        _ => Some(NOT_READY),
    };
    if node.has_taint(UNREACHABLE) && wanted != Some(UNREACHABLE) {
        changes.push(Change::PodsKnown);
    }
    let taints = taints(node, wanted, shown);
    if taints != node.taints {
        changes.push(Change::Taints(taints));
    }
    changes
}

/// The node's own taints and the one that fits its state.
fn taints(node: &Node, wanted: Option<&str>, now: Timestamp) -> Vec<Value> {
    let ours = |taint: &Value| {
        let key = taint.get("key").and_then(Value::as_str).unwrap_or_default();
        let effect = taint.get("effect").and_then(Value::as_str).unwrap_or_default();
        (key == NOT_READY || key == UNREACHABLE) && effect == "NoSchedule"
    };
    let fits = |taint: &Value| taint.get("key").and_then(Value::as_str) == wanted;
    let mut taints: Vec<Value> =
        node.taints.iter().filter(|taint| !ours(taint) || fits(taint)).cloned().collect();
    if let Some(key) = wanted
        && !taints.iter().any(ours)
    {
        taints.push(json!({"key": key, "effect": "NoSchedule", "timeAdded": seconds(now)}));
    }
    taints
}

fn unknown(node: &Node, now: Timestamp) -> Value {
    let conditions = REPORTED.iter().filter_map(|kind| {
        let status =
            node.conditions.iter().find(|(found, _)| found == kind).map(|(_, status)| status.as_str());
        let (reason, message) = match status {
            Some("Unknown") => return None,
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        Some(json!({
            "type": kind, "status": "Unknown", "reason": reason, "message": message,
            "lastTransitionTime": seconds(now),
        }))
    });
    json!({"status": {"conditions": conditions.collect::<Vec<_>>()}})
}

/// The status patch for one pod of a node that fell silent (`known` false) or came back; `None`
/// when its Ready condition is as it should be.
pub fn pod_patch(pod: &Value, known: bool, now: Timestamp) -> Option<Value> {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array)?;
    let condition =
        |kind: &str| conditions.iter().find(|condition| condition.get("type").is_some_and(|t| t == kind));
    let is = |condition: &Value, field: &str, value: &str| {
        condition.get(field).is_some_and(|found| found == value)
    };
    let ready = condition("Ready")?;
    let changed = if known {
        let containers_ready =
            condition("ContainersReady").is_some_and(|condition| is(condition, "status", "True"));
        if !is(ready, "reason", POD_REASON) || !containers_ready {
            return None;
        }
        json!({"type": "Ready", "status": "True", "reason": null, "message": null, "lastTransitionTime": seconds(now)})
    } else {
        if !is(ready, "status", "True") {
            return None;
        }
        json!({
            "type": "Ready", "status": "False", "reason": POD_REASON,
            "message": "the node stopped reporting; its pods may still run", "lastTransitionTime": seconds(now),
        })
    };
    Some(json!({"status": {"conditions": [changed]}}))
}

fn seconds(time: Timestamp) -> String {
    whole_second(time).to_string()
}
