//! Names, labels, annotations, owners.

use serde_json::Value;

use super::{Errors, entries, list, name, names, present, text};

/// Keys and values of all annotations together, bytes.
const ANNOTATIONS_MAX: usize = 256 << 10;

pub fn check(errors: &mut Errors, kind: &str, object: &Value) {
    let metadata = object.get("metadata").unwrap_or(&Value::Null);
    let given = text(metadata, "name");
    if given.is_empty() {
        errors.required("metadata.name", "name or generateName is required");
    } else if let Some(problem) = name(kind, given) {
        errors.invalid("metadata.name", &Value::from(given), &problem);
    }
    namespace(errors, kind, text(metadata, "namespace"));
    labels(errors, "metadata.labels", metadata.get("labels"));
    let mut size = 0usize;
    for (key, value) in entries(metadata, "annotations") {
        // Case does not count here, as in Kubernetes.
        errors.invalid_text("metadata.annotations", key, names::qualified_name(&key.to_lowercase()));
        size = size.saturating_add(key.len()).saturating_add(value.as_str().map_or(0, str::len));
    }
    if size > ANNOTATIONS_MAX {
        errors.too_long("metadata.annotations", ANNOTATIONS_MAX);
    }
    for finalizer in list(metadata, "finalizers").iter().filter_map(Value::as_str) {
        let problems = names::qualified_name(finalizer);
        let plain =
            !finalizer.contains('/') && !matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion");
        if problems.is_empty() && plain {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid("metadata.finalizers", &Value::from(finalizer), detail);
        }
        errors.invalid_text("metadata.finalizers", finalizer, problems);
    }
    owners(errors, metadata);
}

fn namespace(errors: &mut Errors, kind: &str, namespace: &str) {
    let namespaced = match kind {
        "Node" | "Namespace" | "ClusterRole" | "ClusterRoleBinding" => false,
        "Pod" | "ConfigMap" | "Secret" | "ServiceAccount" | "Event" | "Lease" | "Role" | "RoleBinding" => {
            true
        }
        // Of other kinds only the caller knows.
        _ => !namespace.is_empty(),
    };
    match (namespaced, namespace) {
        (false, "") => {}
        (false, _) => errors.forbidden("metadata.namespace", "not allowed on this type"),
        (true, "") => errors.required("metadata.namespace", ""),
        (true, namespace) => {
            errors.invalid_text("metadata.namespace", namespace, names::dns_label(namespace))
        }
    }
}

/// Labels, and whatever else has their syntax (node selectors).
pub fn labels(errors: &mut Errors, field: &str, labels: Option<&Value>) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        errors.invalid_text(field, key, names::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        errors.invalid_text(field, value, names::label_value(value));
    }
}

fn owners(errors: &mut Errors, metadata: &Value) {
    let owners = list(metadata, "ownerReferences");
    for (index, owner) in owners.iter().enumerate() {
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, field).is_empty() {
                errors.required(format!("metadata.ownerReferences[{index}].{field}"), "must not be empty");
            }
        }
    }
    let mut controllers =
        owners.iter().filter(|owner| present(owner, "controller") == Some(&Value::Bool(true)));
    if let (Some(first), Some(second)) = (controllers.next(), controllers.next()) {
        let detail = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {}/{} and {}/{}",
            text(first, "kind"),
            text(first, "name"),
            text(second, "kind"),
            text(second, "name"),
        );
        errors.invalid("metadata.ownerReferences", &Value::Array(owners.to_vec()), &detail);
    }
}
