//! JSON merge patch (RFC 7386), JSON patch (RFC 6902), strategic merge patch.

mod merge_keys;
mod order;
mod strategic;

use json_patch::{Patch, PatchErrorKind, PatchOperation};
use serde_json::Value;

pub use strategic::strategic;

/// Most operations one JSON patch may have, as in Kubernetes.
const MAX_OPERATIONS: usize = 10_000;
/// Most bytes that the `copy` and `move` operations of one JSON patch may carry in all (Kubernetes
/// caps copies at its request limit, 3 MiB): a few copies of the root could fill any memory.
const MAX_CARRIED_BYTES: usize = 3 << 20;
/// Deepest document a JSON patch may build; the JSON parser allows as much.
const MAX_DEPTH: usize = 127;

/// Most list elements that the operations of one JSON patch may shift to make or close gaps: ten
/// thousand insertions before a million elements would take minutes.
const MAX_SHIFTED: usize = 20_000_000;

/// Why a patch cannot be applied. The text is for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PatchError(pub String);

/// RFC 7386. As in Kubernetes, nulls inside what the patch adds are dropped, in lists too.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = without_nulls(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    let Value::Object(fields) = target else { return };
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name.as_str()).or_insert(Value::Null), change);
        }
    }
}

/// A copy with no field that is null, at any depth. Null elements of lists stay.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(_, field)| !field.is_null());
            Value::Object(kept.map(|(name, field)| (name.clone(), without_nulls(field))).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(without_nulls).collect()),
        other => other.clone(),
    }
}

/// RFC 6902; `ops` is the array. All operations apply or none.
///
/// # Errors
/// Names the operation by its place and path: not a patch, too many operations, a path that is
/// not there, a failed `test`, or a result that would be too large or too deep.
pub fn json(target: &Value, ops: &Value) -> Result<Value, PatchError> {
    let count = ops.as_array().map_or(0, Vec::len);
    if count > MAX_OPERATIONS {
        let text = format!("the patch has {count} operations; at most {MAX_OPERATIONS} are allowed");
        return Err(PatchError(text));
    }
    let patch: Patch = serde_path_to_error::deserialize(ops)
        .map_err(|error| PatchError(format!("not a JSON patch: {}: {}", error.path(), error.inner())))?;
    let mut result = target.clone();
    let (mut carried, mut moved) = (0usize, 0usize);
    for (index, operation) in patch.0.iter().enumerate() {
        let path = operation.path().as_str();
        let fail = |why: &str| PatchError(format!("operation {index} ({} {path}): {why}", verb(operation)));
        let weight = weigh(operation, &result);
        if path.matches('/').count().saturating_add(weight.depth) > MAX_DEPTH {
            return Err(fail("the result would be nested too deep"));
        }
        carried = carried.saturating_add(weight.carried_bytes);
        if carried > MAX_CARRIED_BYTES {
            return Err(fail("the patch copies or moves too much"));
        }
        moved = moved.saturating_add(shifted(operation, &result));
        if moved > MAX_SHIFTED {
            return Err(fail("the patch moves too many list elements"));
        }
        json_patch::patch_unsafe(&mut result, std::slice::from_ref(operation)).map_err(
            |error| match error.kind {
                PatchErrorKind::TestFailed => fail("the value there is not the expected one"),
                PatchErrorKind::InvalidPointer => fail("there is nothing at that path"),
                PatchErrorKind::InvalidFromPointer => fail("there is nothing at the from path"),
                _ => fail(&error.kind.to_string()),
            },
        )?;
    }
    Ok(result)
}

fn verb(operation: &PatchOperation) -> &'static str {
    match operation {
        PatchOperation::Add(_) => "add",
        PatchOperation::Remove(_) => "remove",
        PatchOperation::Replace(_) => "replace",
        PatchOperation::Move(_) => "move",
        PatchOperation::Copy(_) => "copy",
        PatchOperation::Test(_) => "test",
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Weight {
    /// Levels below the place where the value goes.
    depth: usize,
    carried_bytes: usize,
}

/// What an operation puts in, before it does.
fn weigh(operation: &PatchOperation, document: &Value) -> Weight {
    let from = match operation {
        PatchOperation::Add(add) => return Weight { depth: depth(&add.value), carried_bytes: 0 },
        PatchOperation::Replace(replace) => return Weight { depth: depth(&replace.value), carried_bytes: 0 },
        PatchOperation::Remove(_) | PatchOperation::Test(_) => return Weight::default(),
        PatchOperation::Move(from) => from.from.as_str(),
        PatchOperation::Copy(from) => from.from.as_str(),
    };
    let Some(value) = document.pointer(from) else { return Weight::default() };
    let mut bytes = ByteCount(0);
    // Writing to a counter cannot fail.
    let carried_bytes = serde_json::to_writer(&mut bytes, value).map_or(usize::MAX, |()| bytes.0);
    Weight { depth: depth(value), carried_bytes }
}

/// Documents are at most [`MAX_DEPTH`] deep before and after each operation, so this ends.
fn depth(value: &Value) -> usize {
    match value {
        Value::Object(fields) => 1 + fields.values().map(depth).max().unwrap_or(0),
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Most elements an operation may shift: the length of the list it inserts into or removes from.
fn shifted(operation: &PatchOperation, document: &Value) -> usize {
    let list = |path: &str| {
        let parent = path.rsplit_once('/').and_then(|(parent, _)| document.pointer(parent));
        parent.and_then(Value::as_array).map_or(0, Vec::len)
    };
    match operation {
        PatchOperation::Add(_) | PatchOperation::Remove(_) | PatchOperation::Copy(_) => {
            list(operation.path().as_str())
        }
        PatchOperation::Move(from) => list(operation.path().as_str()) + list(from.from.as_str()),
        PatchOperation::Replace(_) | PatchOperation::Test(_) => 0,
    }
}

struct ByteCount(usize);

impl std::io::Write for ByteCount {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
