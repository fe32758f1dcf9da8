//! JSON merge patch (RFC 7386), JSON patch (RFC 6902), strategic merge patch.

use serde_json::Value;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatchError(pub String);

/// RFC 7386.
pub fn merge(target: &mut Value, patch: &Value) {
    *target = patch.clone();
}

/// RFC 6902; `ops` is the array.
pub fn json(target: &Value, ops: &Value) -> Result<Value, PatchError> {
    let _ = (target, ops);
    Err(PatchError(String::new()))
}

/// Kubernetes strategic merge patch with the merge keys and directives ($patch, $retainKeys,
/// $setElementOrder, $deleteFromPrimitiveList) of `kind` (`Pod`, `Node`, ...).
pub fn strategic(kind: &str, target: &Value, patch: &Value) -> Result<Value, PatchError> {
    let _ = (kind, target, patch);
    Err(PatchError(String::new()))
}
