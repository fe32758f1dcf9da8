//! Field validation of known kinds, with Kubernetes' error texts.
//!
//! The rules and words are those of kube-apiserver 1.32, as far as users meet them.

mod change;
mod container;
mod data;
mod device;
mod identity;
pub mod ignored;
mod meta;
mod node;
mod pod;
mod rbac;
mod security;
mod volume;

use serde_json::Value;

use super::names;

/// One `StatusCause`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// `FieldValueRequired`, `FieldValueInvalid`, `FieldValueNotSupported`, `FieldValueDuplicate`,
    /// `FieldValueForbidden`, `FieldValueTooLong`, `FieldValueNotFound`.
    pub reason: &'static str,
    /// `spec.containers[0].name`.
    pub field: String,
    /// As Kubernetes prints it after the field: `Required value: must specify...`.
    pub message: String,
}

/// Checks an object that is about to be stored for the first time (after defaulting, with its
/// name generated and its namespace filled in).
#[must_use]
pub fn create(kind: &str, object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    meta::check(&mut errors, kind, object);
    match kind {
        "Pod" => pod::check(&mut errors, object),
        "ConfigMap" => data::config_map(&mut errors, object),
        "Secret" => data::secret(&mut errors, object),
        "Node" => node::node(&mut errors, object),
        "Lease" => node::lease(&mut errors, object),
        "Event" => node::event(&mut errors, object),
        "Role" | "ClusterRole" => rbac::role(&mut errors, kind, object),
        "RoleBinding" | "ClusterRoleBinding" => rbac::binding(&mut errors, kind, object),
        "DeviceModel" => device::model(&mut errors, object),
        "WorkloadIdentity" => identity::workload_identity(&mut errors, object),
        "ImagePolicy" => identity::image_policy(&mut errors, object),
        "TopicPolicy" => identity::topic_policy(&mut errors, object),
        _ => {}
    }
    errors.0
}

/// Checks a change: everything `create` checks, and fields that may not change.
#[must_use]
pub fn update(kind: &str, old: &Value, new: &Value) -> Vec<FieldError> {
    let mut errors = Errors(create(kind, new));
    change::metadata(&mut errors, old, new);
    match kind {
        "Pod" => change::pod(&mut errors, old, new),
        "ConfigMap" => change::sealed(&mut errors, old, new, &["data", "binaryData"]),
        "Secret" => {
            change::immutable(&mut errors, "type", old.get("type"), new.get("type"));
            change::sealed(&mut errors, old, new, &["data"]);
        }
        "RoleBinding" | "ClusterRoleBinding" => rbac::binding_change(&mut errors, old, new),
        _ => {}
    }
    errors.0
}

/// `metadata.name` rules by kind; `None` when fine.
#[must_use]
pub fn name(kind: &str, name: &str) -> Option<String> {
    let problems = match kind {
        "Namespace" => names::dns_label(name),
        "Role" | "ClusterRole" | "RoleBinding" | "ClusterRoleBinding" => names::path_segment(name),
        _ => names::dns_subdomain(name),
    };
    (!problems.is_empty()).then(|| problems.join("; "))
}

/// More is not said of one object: whoever sends a hundred thousand wrong fields learns of the first ones.
const MAX_ERRORS: usize = 100;

/// Collects what is wrong, in Kubernetes' words.
#[derive(Debug, Default)]
struct Errors(Vec<FieldError>);

impl Errors {
    fn add(&mut self, reason: &'static str, field: impl Into<String>, message: String) {
        if self.0.len() < MAX_ERRORS {
            self.0.push(FieldError { reason, field: field.into(), message });
        }
    }

    fn required(&mut self, field: impl Into<String>, detail: &str) {
        let message = if detail.is_empty() { String::new() } else { format!(": {detail}") };
        self.add("FieldValueRequired", field, format!("Required value{message}"));
    }

    fn invalid(&mut self, field: impl Into<String>, value: &Value, detail: &str) {
        self.add("FieldValueInvalid", field, format!("Invalid value: {value}: {detail}"));
    }

    /// One error for each problem a rule of `names` found.
    fn invalid_text(&mut self, field: &str, text: &str, problems: Vec<String>) {
        for problem in problems {
            self.invalid(field, &Value::from(text), &problem);
        }
    }

    fn not_supported(&mut self, field: impl Into<String>, text: &str, supported: &[&str]) {
        let supported: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let message = format!("Unsupported value: {text:?}: supported values: {}", supported.join(", "));
        self.add("FieldValueNotSupported", field, message);
    }

    fn duplicate(&mut self, field: impl Into<String>, text: &str) {
        self.add("FieldValueDuplicate", field, format!("Duplicate value: {text:?}"));
    }

    fn not_found(&mut self, field: impl Into<String>, text: &str) {
        self.add("FieldValueNotFound", field, format!("Not found: {text:?}"));
    }

    fn forbidden(&mut self, field: impl Into<String>, detail: &str) {
        self.add("FieldValueForbidden", field, format!("Forbidden: {detail}"));
    }

    fn too_long(&mut self, field: impl Into<String>, max: usize) {
        self.add("FieldValueTooLong", field, format!("Too long: may not be more than {max} bytes"));
    }

    /// A text that must be one of a few; empty is left to `required`.
    fn one_of(&mut self, field: String, text: &str, supported: &[&str]) {
        if !text.is_empty() && !supported.contains(&text) {
            self.not_supported(field, text, supported);
        }
    }

    /// A number that may be absent.
    fn in_range(&mut self, field: String, value: Option<&Value>, min: i64, max: i64) {
        let Some(number) = value.and_then(Value::as_i64) else { return };
        if !(min..=max).contains(&number) {
            let detail = if max == i64::MAX {
                format!("must be greater than or equal to {min}")
            } else {
                format!("must be between {min} and {max}, inclusive")
            };
            self.invalid(field, &Value::from(number), &detail);
        }
    }
}

/// The text of a field, empty when absent.
fn text<'v>(object: &'v Value, field: &str) -> &'v str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The elements of a list field, none when absent.
fn list<'v>(object: &'v Value, field: &str) -> &'v [Value] {
    object.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The entries of a map field, none when absent.
fn entries<'v>(object: &'v Value, field: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    object.get(field).and_then(Value::as_object).into_iter().flatten()
}

/// A field that is there and not null.
fn present<'v>(object: &'v Value, field: &str) -> Option<&'v Value> {
    object.get(field).filter(|value| !value.is_null())
}

#[cfg(test)]
mod tests;
