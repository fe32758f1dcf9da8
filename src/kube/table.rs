//! What `kubectl get` prints: columns and cells per kind.
//!
//! Columns, their order and the words in them are those of Kubernetes 1.32's own printers.

mod duration;
mod pod;

use jiff::Timestamp;
use serde_json::Value;

pub use duration::human;
pub use pod::PodSummary;

/// One column of a `meta.k8s.io/v1` Table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    pub name: &'static str,
    /// `string`, `integer`, `boolean`, `date`.
    pub kind: &'static str,
    /// `name` for the first column, else empty.
    pub format: &'static str,
    pub description: &'static str,
    /// 0 always, 1 only with `-o wide`.
    pub priority: u8,
}

const fn column(name: &'static str, kind: &'static str, priority: u8, description: &'static str) -> Column {
    Column { name, kind, format: "", description, priority }
}

const fn text(name: &'static str, description: &'static str) -> Column {
    column(name, "string", 0, description)
}

const fn wide(name: &'static str, description: &'static str) -> Column {
    column(name, "string", 1, description)
}

/// The first column of nearly every table.
pub const NAME: Column =
    Column { name: "Name", kind: "string", format: "name", description: "Name of the object.", priority: 0 };
const AGE: Column = text("Age", "Time since the object was created.");

static PLAIN: [Column; 2] = [NAME, AGE];

static POD: [Column; 9] = [
    NAME,
    text("Ready", "Containers that are ready, of all containers."),
    text("Status", "Phase of the pod, or what keeps it from running."),
    text("Restarts", "Restarts of the containers, and when the last one was."),
    AGE,
    wide("IP", "First IP address of the pod."),
    wide("Node", "Node the pod is bound to."),
    wide("Nominated Node", "Node that preemption set aside for the pod."),
    wide("Readiness Gates", "Readiness gates that are open, of all."),
];

static NODE: [Column; 10] = [
    NAME,
    text("Status", "Whether the node is ready and takes pods."),
    text("Roles", "Roles from the labels node-role.kubernetes.io/<role>."),
    AGE,
    text("Version", "Version the node agent reports."),
    wide("Internal-IP", "First internal address."),
    wide("External-IP", "First external address."),
    wide("OS-Image", "Operating system."),
    wide("Kernel-Version", "Kernel."),
    wide("Container-Runtime", "Container runtime and its version."),
];

static NAMESPACE: [Column; 3] = [NAME, text("Status", "Active or Terminating."), AGE];
static CONFIG_MAP: [Column; 3] = [NAME, text("Data", "Number of entries."), AGE];
static SECRET: [Column; 4] =
    [NAME, text("Type", "What the secret is for."), text("Data", "Number of entries."), AGE];
static SERVICE_ACCOUNT: [Column; 3] = [NAME, text("Secrets", "Number of secrets listed."), AGE];
static LEASE: [Column; 3] = [NAME, text("Holder", "Who holds the lease."), AGE];

static ROLE: [Column; 2] = [NAME, column("Created At", "date", 0, "When the object was created.")];
static ROLE_BINDING: [Column; 6] = [
    NAME,
    text("Role", "Kind and name of the role that is given."),
    AGE,
    wide("Users", "Users it is given to."),
    wide("Groups", "Groups it is given to."),
    wide("ServiceAccounts", "Service accounts it is given to."),
];

static EVENT: [Column; 10] = [
    text("Last Seen", "Time since it happened last."),
    text("Type", "Normal or Warning."),
    text("Reason", "Why, in one word."),
    text("Object", "What it is about."),
    wide("Subobject", "Part of the object."),
    wide("Source", "Who reports it."),
    text("Message", "What happened."),
    wide("First Seen", "Time since it happened first."),
    wide("Count", "How often it happened."),
    Column { priority: 1, ..NAME },
];

/// Columns of `kind` (`Pod`, `Node`, ...); NAME and AGE for kinds without their own.
#[must_use]
pub fn columns(kind: &str) -> &'static [Column] {
    match kind {
        "Pod" => &POD,
        "Node" => &NODE,
        "Namespace" => &NAMESPACE,
        "ConfigMap" => &CONFIG_MAP,
        "Secret" => &SECRET,
        "ServiceAccount" => &SERVICE_ACCOUNT,
        "Lease" => &LEASE,
        "Event" => &EVENT,
        "Role" | "ClusterRole" => &ROLE,
        "RoleBinding" | "ClusterRoleBinding" => &ROLE_BINDING,
        _ => &PLAIN,
    }
}

/// The cells of one object, as many as there are columns.
#[must_use]
pub fn cells(kind: &str, object: &Value, now: Timestamp) -> Vec<Value> {
    let name = Value::from(at(object, "/metadata/name"));
    let age = Value::from(since(object.pointer("/metadata/creationTimestamp"), now));
    match kind {
        "Pod" => pod::cells(object, now),
        "Node" => node(object, now),
        "Namespace" => vec![name, at(object, "/status/phase").into(), age],
        "ConfigMap" => vec![name, (entries(object, "data") + entries(object, "binaryData")).into(), age],
        "Secret" => vec![name, at(object, "/type").into(), entries(object, "data").into(), age],
        "ServiceAccount" => vec![name, entries(object, "secrets").into(), age],
        "Lease" => vec![name, at(object, "/spec/holderIdentity").into(), age],
        "Event" => event(object, now),
        "Role" | "ClusterRole" => vec![name, at(object, "/metadata/creationTimestamp").into()],
        "RoleBinding" | "ClusterRoleBinding" => binding(object, now),
        _ => vec![name, age],
    }
}

/// The text at a JSON pointer, empty when absent.
fn at<'v>(object: &'v Value, pointer: &str) -> &'v str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn or<'v>(text: &'v str, otherwise: &'v str) -> &'v str {
    if text.is_empty() { otherwise } else { text }
}

/// The elements of a list, none when absent.
fn items<'v>(object: &'v Value, pointer: &str) -> &'v [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn entries(object: &Value, field: &str) -> usize {
    match object.get(field) {
        Some(Value::Object(map)) => map.len(),
        Some(Value::Array(list)) => list.len(),
        _ => 0,
    }
}

/// RFC 3339 text as a point in time.
fn time(value: Option<&Value>) -> Option<Timestamp> {
    value.and_then(Value::as_str).and_then(|text| text.parse().ok())
}

/// How long ago, as kubectl prints ages.
fn since(value: Option<&Value>, now: Timestamp) -> String {
    time(value).map_or_else(|| "<unknown>".to_owned(), |then| human(now.duration_since(then)))
}

fn node(node: &Value, now: Timestamp) -> Vec<Value> {
    let ready = items(node, "/status/conditions").iter().find(|condition| condition["type"] == "Ready");
    let mut status = match ready {
        None => "Unknown",
        Some(ready) if ready["status"] == "True" => "Ready",
        Some(_) => "NotReady",
    }
    .to_owned();
    if node.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let address = |kind: &str| {
        let addresses = items(node, "/status/addresses");
        let found = addresses.iter().find(|address| address["type"] == *kind);
        or(found.map_or("", |address| at(address, "/address")), "<none>").to_owned()
    };
    let info = |field: &str| or(at(node, &format!("/status/nodeInfo/{field}")), "<unknown>").to_owned();
    vec![
        at(node, "/metadata/name").into(),
        status.into(),
        roles(node).into(),
        since(node.pointer("/metadata/creationTimestamp"), now).into(),
        at(node, "/status/nodeInfo/kubeletVersion").into(),
        address("InternalIP").into(),
        address("ExternalIP").into(),
        info("osImage").into(),
        info("kernelVersion").into(),
        info("containerRuntimeVersion").into(),
    ]
}

fn roles(node: &Value) -> String {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some(role) => Some(role),
            None => value.as_str().filter(|_| key == "kubernetes.io/role"),
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    or(&roles.join(","), "<none>").to_owned()
}

fn event(event: &Value, now: Timestamp) -> Vec<Value> {
    let given = |pointer: &str| event.pointer(pointer).filter(|value| value.as_str().is_some());
    let first = given("/firstTimestamp").or_else(|| given("/eventTime"));
    let mut last = given("/lastTimestamp").or(first);
    let mut count = event["count"].as_i64().filter(|count| *count > 0).unwrap_or(1);
    if event["series"].is_object() {
        last = given("/series/lastObservedTime");
        count = event.pointer("/series/count").and_then(Value::as_i64).unwrap_or_default();
    }
    let kind = at(event, "/involvedObject/kind").to_lowercase();
    let name = at(event, "/involvedObject/name");
    let object = if name.is_empty() { kind } else { format!("{kind}/{name}") };
    let source = or(at(event, "/source/component"), at(event, "/reportingComponent"));
    let host = or(at(event, "/source/host"), at(event, "/reportingInstance"));
    let source = if host.is_empty() { source.to_owned() } else { format!("{source}, {host}") };
    vec![
        since(last, now).into(),
        at(event, "/type").into(),
        at(event, "/reason").into(),
        object.into(),
        at(event, "/involvedObject/fieldPath").into(),
        source.into(),
        at(event, "/message").trim().into(),
        since(first, now).into(),
        count.into(),
        at(event, "/metadata/name").into(),
    ]
}

fn binding(object: &Value, now: Timestamp) -> Vec<Value> {
    let of = |kind: &str| {
        let subjects = items(object, "/subjects").iter().filter(|subject| at(subject, "/kind") == kind);
        let names: Vec<String> = subjects
            .map(|subject| match at(subject, "/namespace") {
                namespace if kind == "ServiceAccount" => format!("{namespace}/{}", at(subject, "/name")),
                _ => at(subject, "/name").to_owned(),
            })
            .collect();
        Value::from(names.join(", "))
    };
    vec![
        at(object, "/metadata/name").into(),
        format!("{}/{}", at(object, "/roleRef/kind"), at(object, "/roleRef/name")).into(),
        since(object.pointer("/metadata/creationTimestamp"), now).into(),
        of("User"),
        of("Group"),
        of("ServiceAccount"),
    ]
}

#[cfg(test)]
mod tests;
