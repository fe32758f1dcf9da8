//! Roles and their bindings.

use serde_json::Value;

use super::{Errors, list, names, text};
use crate::kube::rbac::GROUP;

pub fn role(errors: &mut Errors, kind: &str, object: &Value) {
    for (index, rule) in list(object, "rules").iter().enumerate() {
        let at = |field: &str| format!("rules[{index}].{field}");
        let has = |field: &str| !list(rule, field).is_empty();
        if !has("verbs") {
            errors.required(at("verbs"), "verbs must contain at least one value");
        }
        if has("nonResourceURLs") {
            let urls = || Value::from(list(rule, "nonResourceURLs").to_vec());
            if kind == "Role" {
                let detail = "namespaced rules cannot apply to non-resource URLs";
                errors.invalid(at("nonResourceURLs"), &urls(), detail);
            }
            if has("apiGroups") || has("resources") || has("resourceNames") {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.invalid(at("nonResourceURLs"), &urls(), detail);
            }
            continue;
        }
        if !has("apiGroups") {
            errors.required(at("apiGroups"), "resource rules must supply at least one api group");
        }
        if !has("resources") {
            errors.required(at("resources"), "resource rules must supply at least one resource");
        }
    }
}

pub fn binding(errors: &mut Errors, kind: &str, object: &Value) {
    let null = Value::Null;
    let role = object.get("roleRef").unwrap_or(&null);
    if text(role, "apiGroup") != GROUP {
        errors.not_supported("roleRef.apiGroup", text(role, "apiGroup"), &[GROUP]);
    }
    let kinds: &[&str] = if kind == "RoleBinding" { &["ClusterRole", "Role"] } else { &["ClusterRole"] };
    if !kinds.contains(&text(role, "kind")) {
        errors.not_supported("roleRef.kind", text(role, "kind"), kinds);
    }
    if text(role, "name").is_empty() {
        errors.required("roleRef.name", "");
    } else {
        errors.invalid_text("roleRef.name", text(role, "name"), names::path_segment(text(role, "name")));
    }
    for (index, subject) in list(object, "subjects").iter().enumerate() {
        let at = |field: &str| format!("subjects[{index}].{field}");
        let group = text(subject, "apiGroup");
        if text(subject, "name").is_empty() {
            errors.required(at("name"), "");
        }
        match text(subject, "kind") {
            "ServiceAccount" => {
                let name = text(subject, "name");
                if !name.is_empty() {
                    errors.invalid_text(&at("name"), name, names::dns_subdomain(name));
                }
                if !group.is_empty() {
                    errors.not_supported(at("apiGroup"), group, &[""]);
                }
                if text(subject, "namespace").is_empty() {
                    errors.required(at("namespace"), "");
                }
            }
            "User" | "Group" if group == GROUP => {}
            "User" | "Group" => errors.not_supported(at("apiGroup"), group, &[GROUP]),
            other => errors.not_supported(at("kind"), other, &["Group", "ServiceAccount", "User"]),
        }
    }
}

/// Who may change whom a role is given to may not thereby give another role.
pub fn binding_change(errors: &mut Errors, old: &Value, new: &Value) {
    let null = Value::Null;
    if old.get("roleRef") != new.get("roleRef") {
        errors.invalid("roleRef", new.get("roleRef").unwrap_or(&null), "cannot change roleRef");
    }
}
