//! Nodes, leases, events.

use std::collections::HashSet;

use serde_json::Value;

use super::{Errors, list, names, text};

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

pub fn node(errors: &mut Errors, object: &Value) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let mut seen: HashSet<(&str, &str)> = HashSet::new();
    for (index, taint) in list(spec, "taints").iter().enumerate() {
        let field = format!("spec.taints[{index}]");
        let (key, value, effect) = (text(taint, "key"), text(taint, "value"), text(taint, "effect"));
        errors.invalid_text(&format!("{field}.key"), key, names::qualified_name(key));
        errors.invalid_text(&format!("{field}.value"), value, names::label_value(value));
        if effect.is_empty() {
            errors.required(format!("{field}.effect"), "");
        }
        errors.one_of(format!("{field}.effect"), effect, &EFFECTS);
        if !seen.insert((key, effect)) {
            errors.duplicate(field, &format!("{key}:{effect}"));
        }
    }
    let status = object.get("status").unwrap_or(&Value::Null);
    let mut seen: HashSet<(&str, &str)> = HashSet::new();
    for (index, address) in list(status, "addresses").iter().enumerate() {
        if !seen.insert((text(address, "type"), text(address, "address"))) {
            errors.duplicate(format!("status.addresses[{index}]"), text(address, "address"));
        }
    }
}

pub fn lease(errors: &mut Errors, object: &Value) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let number = |field| spec.get(field).and_then(Value::as_i64);
    if let Some(secs) = number("leaseDurationSeconds").filter(|secs| *secs <= 0) {
        errors.invalid("spec.leaseDurationSeconds", &secs.into(), "must be greater than 0");
    }
    if let Some(count) = number("leaseTransitions").filter(|count| *count < 0) {
        errors.invalid("spec.leaseTransitions", &count.into(), "must be greater than or equal to 0");
    }
}

/// Events about cluster-wide objects live in `default` (or `kube-system`), others beside theirs.
pub fn event(errors: &mut Errors, object: &Value) {
    let involved = object.get("involvedObject").map_or("", |involved| text(involved, "namespace"));
    let own = object.get("metadata").map_or("", |metadata| text(metadata, "namespace"));
    let fits = match involved {
        "" => matches!(own, "" | "default" | "kube-system"),
        involved => involved == own,
    };
    if !fits {
        errors.invalid("involvedObject.namespace", &involved.into(), "does not match event.namespace");
    }
}
