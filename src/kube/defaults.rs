//! Defaults Kubernetes fills in when an object is written.
//!
//! Source: the defaulting and the built-in admission of kube-apiserver 1.32 (fields and values as
//! `kubectl get -o yaml` of a fresh object shows them). All of it is idempotent: it runs on
//! creates and on updates alike.

mod container;
mod pod;
mod qos;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::rbac;

pub use container::pull_policy;
pub use qos::class as qos_class;

type Fields = Map<String, Value>;

/// Fills in what the API server would for `kind` (pods: restartPolicy, dnsPolicy, image pull
/// policies, the service-account token volume, tolerations, ...). Null fields of known kinds are
/// dropped, as Go's types drop them. Objects of another shape are left to validation.
pub fn apply(kind: &str, object: &mut Value) {
    let fill: fn(&mut Fields) = match kind {
        "Pod" => pod::fill,
        "Namespace" => namespace,
        "Node" => node,
        "Secret" => secret,
        "Event" => event,
        "Lease" => lease,
        "TokenRequest" => token_request,
        "RoleBinding" | "ClusterRoleBinding" => binding,
        "Role" | "ClusterRole" => role,
        "ConfigMap" | "ServiceAccount" => |_| {},
        _ => return,
    };
    drop_nulls(object);
    if let Value::Object(fields) = object {
        fill(fields);
    }
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Sets a field that is absent.
fn default(fields: &mut Fields, name: &str, value: impl Into<Value>) {
    if !fields.contains_key(name) {
        fields.insert(name.to_owned(), value.into());
    }
}

/// Sets a field that is absent or an empty text (Go does not tell them apart).
fn default_text(fields: &mut Fields, name: &str, value: &str) {
    if fields.get(name).is_none_or(|old| old == "") {
        fields.insert(name.to_owned(), value.into());
    }
}

/// The map in a field, made if absent; `None` if something else is there.
fn map<'f>(fields: &'f mut Fields, name: &str) -> Option<&'f mut Fields> {
    fields.entry(name).or_insert_with(|| json!({})).as_object_mut()
}

/// The map in a field, if there is one.
fn present<'f>(fields: &'f mut Fields, name: &str) -> Option<&'f mut Fields> {
    fields.get_mut(name).and_then(Value::as_object_mut)
}

/// The maps in a list, none if there is no list.
fn each<'f>(fields: &'f mut Fields, name: &str) -> impl Iterator<Item = &'f mut Fields> {
    let items = fields.get_mut(name).and_then(Value::as_array_mut);
    items.into_iter().flatten().filter_map(Value::as_object_mut)
}

fn text<'f>(fields: &'f Fields, name: &str) -> &'f str {
    fields.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// `cpu: 1` and `cpu: "1"` are the same quantity; only the text is stored.
fn quantities_to_text(fields: &mut Fields, name: &str) {
    for quantity in present(fields, name).into_iter().flat_map(Fields::values_mut) {
        if quantity.is_number() {
            *quantity = Value::from(quantity.to_string());
        }
    }
}

fn being_deleted(fields: &Fields) -> bool {
    fields.get("metadata").is_some_and(|metadata| metadata.get("deletionTimestamp").is_some())
}

fn namespace(fields: &mut Fields) {
    let deleting = being_deleted(fields);
    if let Some(metadata) = map(fields, "metadata") {
        let name = text(metadata, "name").to_owned();
        if !name.is_empty()
            && let Some(labels) = map(metadata, "labels")
        {
            labels.insert("kubernetes.io/metadata.name".to_owned(), name.into());
        }
    }
    // Once it is being deleted the finalizer goes and must not come back.
    if let Some(spec) = map(fields, "spec")
        && !deleting
    {
        default(spec, "finalizers", json!(["kubernetes"]));
    }
    if let Some(status) = map(fields, "status") {
        default_text(status, "phase", if deleting { "Terminating" } else { "Active" });
    }
}

/// The taint `not-ready` of a new node is NodeMonitor's, which also takes it away.
fn node(fields: &mut Fields) {
    map(fields, "spec");
    let Some(status) = map(fields, "status") else { return };
    quantities_to_text(status, "capacity");
    quantities_to_text(status, "allocatable");
    if let Some(capacity) = status.get("capacity").cloned() {
        default(status, "allocatable", capacity);
    }
}

fn secret(fields: &mut Fields) {
    default_text(fields, "type", "Opaque");
    let Some(Value::Object(plain)) = fields.remove("stringData") else { return };
    let Some(data) = map(fields, "data") else { return };
    for (key, value) in plain {
        if let Value::String(text) = value {
            data.insert(key, STANDARD.encode(text).into());
        }
    }
}

fn event(fields: &mut Fields) {
    for name in ["metadata", "involvedObject", "source"] {
        map(fields, name);
    }
    // Printed by Kubernetes even when empty.
    default(fields, "reportingComponent", "");
    default(fields, "reportingInstance", "");
}

/// Kubernetes shows `rules: null` where there are none; here an empty list.
fn role(fields: &mut Fields) {
    default(fields, "rules", json!([]));
}

/// Users, groups and roles are of one API group; service accounts of the core.
fn binding(fields: &mut Fields) {
    if let Some(role) = present(fields, "roleRef") {
        default_text(role, "apiGroup", rbac::GROUP);
    }
    for subject in each(fields, "subjects") {
        if matches!(text(subject, "kind"), "User" | "Group") {
            default_text(subject, "apiGroup", rbac::GROUP);
        }
    }
}

fn lease(fields: &mut Fields) {
    map(fields, "spec");
}

fn token_request(fields: &mut Fields) {
    if let Some(spec) = map(fields, "spec") {
        default(spec, "expirationSeconds", 3600);
    }
}

#[cfg(test)]
mod tests;
