//! Security contexts of pods and containers: ids and kernel settings.

use std::collections::HashSet;

use serde_json::Value;

use super::{Errors, list, text};

/// Linux gives no larger ones.
const MAX_ID: i64 = i32::MAX as i64;

pub fn check(errors: &mut Errors, field: &str, context: &Value) {
    for id in ["runAsUser", "runAsGroup", "fsGroup"] {
        errors.in_range(format!("{field}.{id}"), context.get(id), 0, MAX_ID);
    }
    for (index, group) in list(context, "supplementalGroups").iter().enumerate() {
        errors.in_range(format!("{field}.supplementalGroups[{index}]"), Some(group), 0, MAX_ID);
    }
    let mut seen: HashSet<&str> = HashSet::new();
    for (index, sysctl) in list(context, "sysctls").iter().enumerate() {
        let (name, field) = (text(sysctl, "name"), format!("{field}.sysctls[{index}].name"));
        if name.is_empty() {
            errors.required(field, "");
        } else if !is_sysctl(name) {
            errors.invalid(field, &name.into(), "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$");
        } else if !seen.insert(name) {
            errors.duplicate(field, name);
        }
    }
}

fn is_sysctl(name: &str) -> bool {
    let end = |c: Option<&u8>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let part = |part: &str| {
        let bytes = part.as_bytes();
        let inside = |c: &u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'-' | b'_');
        end(bytes.first()) && end(bytes.last()) && bytes.iter().all(inside)
    };
    name.len() <= 253 && name.split(['.', '/']).all(part)
}
