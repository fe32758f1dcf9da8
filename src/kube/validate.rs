//! Field validation of known kinds, with Kubernetes' error texts.

use serde_json::Value;

/// One `StatusCause`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// `FieldValueRequired`, `FieldValueInvalid`, `FieldValueNotSupported`, `FieldValueDuplicate`,
    /// `FieldValueForbidden`, `FieldValueTooLong`.
    pub reason: &'static str,
    /// `spec.containers[0].name`.
    pub field: String,
    /// As Kubernetes prints it after the field: `Required value: must specify...`.
    pub message: String,
}

/// Checks an object that is about to be stored for the first time (after defaulting).
#[must_use]
pub fn create(kind: &str, object: &Value) -> Vec<FieldError> {
    let _ = (kind, object);
    Vec::new()
}

/// Checks a change: everything `create` checks, and fields that may not change.
#[must_use]
pub fn update(kind: &str, old: &Value, new: &Value) -> Vec<FieldError> {
    let _ = (kind, old, new);
    Vec::new()
}

/// `metadata.name` rules by kind; `None` when fine.
#[must_use]
pub fn name(kind: &str, name: &str) -> Option<String> {
    let _ = (kind, name);
    None
}
