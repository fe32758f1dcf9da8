//! What may not change once an object is stored.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{Errors, list, text};

const IMMUTABLE: &str = "field is immutable";
const POD_FIELDS: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Name, namespace, uid, creation time; finalizers of an object that is being deleted. What the
/// new object leaves out counts as unchanged: the server fills it in.
pub fn metadata(errors: &mut Errors, old: &Value, new: &Value) {
    let null = Value::Null;
    let (old, new) = (old.get("metadata").unwrap_or(&null), new.get("metadata").unwrap_or(&null));
    for field in ["name", "namespace", "uid", "creationTimestamp"] {
        if !text(new, field).is_empty() {
            immutable(errors, &format!("metadata.{field}"), old.get(field), new.get(field));
        }
    }
    if text(old, "deletionTimestamp").is_empty() {
        return;
    }
    let added =
        list(new, "finalizers").iter().filter(|finalizer| !list(old, "finalizers").contains(finalizer));
    let added: Vec<String> = added.map(Value::to_string).collect();
    if !added.is_empty() {
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            added.join(", ")
        );
        errors.forbidden("metadata.finalizers", &detail);
    }
}

pub fn immutable(errors: &mut Errors, field: &str, old: Option<&Value>, new: Option<&Value>) {
    if old.unwrap_or(&Value::Null) != new.unwrap_or(&Value::Null) {
        errors.invalid(field, new.unwrap_or(&Value::Null), IMMUTABLE);
    }
}

/// `immutable: true` of configmaps and secrets seals the data and itself.
pub fn sealed(errors: &mut Errors, old: &Value, new: &Value, fields: &[&str]) {
    if old.get("immutable") != Some(&Value::Bool(true)) {
        return;
    }
    let detail = "field is immutable when `immutable` is set";
    if new.get("immutable") != Some(&Value::Bool(true)) {
        errors.forbidden("immutable", detail);
    }
    let filled = |object: &Value, field: &str| {
        object.get(field).filter(|value| value.as_object().is_some_and(|map| !map.is_empty())).cloned()
    };
    for field in fields {
        if filled(old, field) != filled(new, field) {
            errors.forbidden(*field, detail);
        }
    }
}

pub fn pod(errors: &mut Errors, old: &Value, new: &Value) {
    let null = Value::Null;
    let (old, new) = (old.get("spec").unwrap_or(&null), new.get("spec").unwrap_or(&null));
    for kind in ["containers", "initContainers"] {
        if list(old, kind).len() != list(new, kind).len() {
            errors.forbidden(format!("spec.{kind}"), "pod updates may not add or remove containers");
            return;
        }
    }
    deadline(errors, old, new);
    let there: HashSet<[&str; 4]> = list(new, "tolerations").iter().map(but_seconds).collect();
    if !list(old, "tolerations").iter().all(|toleration| there.contains(&but_seconds(toleration))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.forbidden("spec.tolerations", detail);
    }
    let grace = |spec: &Value| spec.get("terminationGracePeriodSeconds").and_then(Value::as_i64);
    let grace_repaired = grace(old).is_some_and(|secs| secs < 0) && grace(new) == Some(1);
    let (fixed_old, fixed_new) = (fixed(old, grace_repaired), fixed(new, grace_repaired));
    let mut changed: Vec<&str> = fixed_old
        .iter()
        .filter(|(field, value)| fixed_new.get(*field) != Some(value))
        .map(|(field, _)| field.as_str())
        .chain(fixed_new.keys().filter(|field| !fixed_old.contains_key(*field)).map(String::as_str))
        .collect();
    changed.sort_unstable();
    if !changed.is_empty() {
        errors.forbidden("spec", &format!("{POD_FIELDS}; changed: {}", changed.join(", ")));
    }
}

/// May be set once and then only shortened.
fn deadline(errors: &mut Errors, old: &Value, new: &Value) {
    let secs = |spec: &Value| spec.get("activeDeadlineSeconds").and_then(Value::as_i64);
    let field = "spec.activeDeadlineSeconds";
    match (secs(old), secs(new)) {
        (Some(before), Some(after)) if after > before => {
            errors.invalid(field, &after.into(), "must be less than or equal to previous value");
        }
        (Some(_), None) => {
            errors.invalid(field, &Value::Null, "must not update from a positive integer to nil value");
        }
        _ => {}
    }
}

fn but_seconds(toleration: &Value) -> [&str; 4] {
    ["key", "operator", "value", "effect"].map(|field| text(toleration, field))
}

/// The part of a pod's spec that never changes.
fn fixed(spec: &Value, but_grace: bool) -> Map<String, Value> {
    let mut fixed = spec.as_object().cloned().unwrap_or_default();
    for free in ["activeDeadlineSeconds", "tolerations", "ephemeralContainers", "schedulingGates"] {
        fixed.remove(free);
    }
    if but_grace {
        fixed.remove("terminationGracePeriodSeconds");
    }
    for kind in ["containers", "initContainers"] {
        let containers = fixed.get_mut(kind).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            container.remove("image");
        }
    }
    fixed
}
