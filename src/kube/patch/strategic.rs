//! Strategic merge patch: maps merge, lists merge by key where the kind says so.
//!
//! Rules and directives: github.com/kubernetes/community, "Strategic Merge Patch"; the order of
//! merged lists follows what kube-apiserver does.

use serde_json::{Map, Value};

use super::PatchError;
use super::merge_keys::{Field, List, Shape, shape_of};
use super::{order, without_nulls};

type Fields = Map<String, Value>;

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// Lists merge by comparing each element of the patch with each that is there. A node with 50 images
/// needs thousands of comparisons; this many take a fraction of a second, and nobody else can write
/// meanwhile.
const MAX_COMPARISONS: usize = 2_000_000;

/// Elements of all lists, at any depth.
fn elements(patch: &Fields) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::Array(items) => items.len() + items.iter().map(of).sum::<usize>(),
            Value::Object(fields) => fields.values().map(of).sum(),
            _ => 0,
        }
    }
    patch.values().map(of).sum()
}

/// Members of the largest list or map, at any depth.
fn longest(value: &Value) -> usize {
    match value {
        Value::Array(items) => items.iter().map(longest).max().unwrap_or(0).max(items.len()),
        Value::Object(fields) => longest_of(fields),
        _ => 0,
    }
}

fn longest_of(fields: &Fields) -> usize {
    fields.values().map(longest).max().unwrap_or(0).max(fields.len())
}

/// Kubernetes strategic merge patch with the merge keys and directives ($patch, $retainKeys,
/// $setElementOrder, $deleteFromPrimitiveList) of `kind` (`Pod`, `Node`, ...).
///
/// # Errors
/// Says which directive or list element cannot be used.
pub fn strategic(kind: &str, target: &Value, patch: &Value) -> Result<Value, PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError("a strategic merge patch must be an object".to_owned()));
    };
    let work = elements(patch).saturating_mul(longest(target).saturating_add(longest_of(patch)));
    if work > MAX_COMPARISONS {
        return Err(PatchError("the lists of the patch are too long to be merged".to_owned()));
    }
    let original = target.as_object().cloned().unwrap_or_default();
    merge_map(original, patch, shape_of(kind)).map(Value::Object)
}

fn merge_map(mut fields: Fields, patch: &Fields, shape: &Shape) -> Result<Fields, PatchError> {
    match patch.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            let rest = patch.iter().filter(|(name, _)| name.as_str() != DIRECTIVE);
            let rest: Fields = rest.map(|(name, value)| (name.clone(), value.clone())).collect();
            return Ok(as_new_map(&rest));
        }
        Some("delete") => return Ok(Fields::new()),
        Some(other) => return Err(PatchError(format!("unknown patch type found: {other:?}"))),
    }
    retain_keys(&mut fields, patch)?;
    delete_from_lists(&mut fields, patch)?;
    for (name, change) in patch {
        if name == DIRECTIVE || name == RETAIN_KEYS || name.starts_with(DELETE_FROM) {
            continue;
        }
        if let Some(list) = name.strip_prefix(ELEMENT_ORDER) {
            // With a list of changes beside it, the order is applied when that list is merged.
            if !patch.contains_key(list) {
                reorder(&mut fields, list, change, shape.field(list))?;
            }
            continue;
        }
        if change.is_null() {
            fields.remove(name);
            continue;
        }
        let field = shape.field(name);
        let wanted_order = patch.get(&format!("{ELEMENT_ORDER}{name}"));
        let merged = match (fields.remove(name), change) {
            (Some(Value::Object(before)), Value::Object(change)) => {
                Value::Object(merge_map(before, change, field.shape)?)
            }
            (before, Value::Array(change)) if field.list != List::Replace => {
                let before = match before {
                    Some(Value::Array(before)) => before,
                    _ => Vec::new(),
                };
                Value::Array(merge_list(name, before, change, field, wanted_order)?)
            }
            (_, change) => as_new(change),
        };
        fields.insert(name.clone(), merged);
    }
    Ok(fields)
}

/// A value that was not there before: no nulls, no directives left in it.
fn as_new(value: &Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(as_new_map(fields)),
        Value::Array(items) => {
            let kept = items.iter().filter(|item| item.get(DIRECTIVE).is_none());
            Value::Array(kept.map(as_new).collect())
        }
        other => without_nulls(other),
    }
}

fn as_new_map(fields: &Fields) -> Fields {
    let is_directive = |name: &str| {
        name == DIRECTIVE
            || name == RETAIN_KEYS
            || name.starts_with(ELEMENT_ORDER)
            || name.starts_with(DELETE_FROM)
    };
    let kept = fields.iter().filter(|(name, value)| !value.is_null() && !is_directive(name));
    kept.map(|(name, value)| (name.clone(), as_new(value))).collect()
}

/// `$retainKeys`: every key that is not listed goes (unions such as a volume's source).
fn retain_keys(fields: &mut Fields, patch: &Fields) -> Result<(), PatchError> {
    let Some(listed) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(listed) = listed else {
        return Err(PatchError("invalid patch format of retainKeys: not a list".to_owned()));
    };
    let kept = |name: &str| listed.iter().any(|item| item.as_str() == Some(name));
    let stray =
        patch.iter().find(|(name, value)| !name.starts_with('$') && !value.is_null() && !kept(name.as_str()));
    if let Some((name, _)) = stray {
        return Err(PatchError(format!("invalid patch format of retainKeys: {name} is not in the list")));
    }
    fields.retain(|name, _| kept(name));
    Ok(())
}

/// `$deleteFromPrimitiveList/x`.
fn delete_from_lists(fields: &mut Fields, patch: &Fields) -> Result<(), PatchError> {
    for (name, gone) in patch {
        let Some(list) = name.strip_prefix(DELETE_FROM) else { continue };
        let Value::Array(gone) = gone else {
            return Err(PatchError(format!("invalid patch format of primitive list: {name} is not a list")));
        };
        if let Some(Value::Array(items)) = fields.get_mut(list) {
            items.retain(|item| !gone.contains(item));
        }
    }
    Ok(())
}

/// `$setElementOrder/x` without changes to `x`.
fn reorder(fields: &mut Fields, list: &str, wanted: &Value, field: Field) -> Result<(), PatchError> {
    let Value::Array(wanted) = wanted else { return Err(not_an_order(list)) };
    let key = match field.list {
        List::ByKey(key) => Some(key),
        List::Set => None,
        List::Replace => return Ok(()),
    };
    if let Some(Value::Array(items)) = fields.get_mut(list) {
        let before = std::mem::take(items);
        *items = order::arrange(before.clone(), wanted, &before, key);
    }
    Ok(())
}

fn not_an_order(list: &str) -> PatchError {
    PatchError(format!("invalid patch format of setElementOrder list: $setElementOrder/{list} is not a list"))
}

fn merge_list(
    name: &str,
    before: Vec<Value>,
    patch: &[Value],
    field: Field,
    wanted_order: Option<&Value>,
) -> Result<Vec<Value>, PatchError> {
    let key = match field.list {
        List::ByKey(key) => Some(key),
        List::Set | List::Replace => None,
    };
    let merged = match key {
        Some(key) => merge_by_key(name, &before, patch, key, field.shape)?,
        None => {
            let mut merged: Vec<Value> = Vec::with_capacity(before.len() + patch.len());
            for item in before.iter().chain(patch) {
                if item.is_object() || item.is_array() {
                    return Err(PatchError(format!(
                        "{name} holds scalars, the patch or the object does not"
                    )));
                }
                if !merged.contains(item) {
                    merged.push(item.clone());
                }
            }
            merged
        }
    };
    match wanted_order {
        Some(Value::Array(wanted)) => {
            order::check(patch, wanted, key, name)?;
            Ok(order::arrange(merged, wanted, &before, key))
        }
        Some(_) => Err(not_an_order(name)),
        None => Ok(order::arrange(merged, patch, &before, key)),
    }
}

fn merge_by_key(
    name: &str,
    before: &[Value],
    patch: &[Value],
    key: &str,
    shape: &Shape,
) -> Result<Vec<Value>, PatchError> {
    let no_key = || PatchError(format!("an element of {name} does not contain declared merge key: {key}"));
    let mut changes = Vec::with_capacity(patch.len());
    let mut merged = before.to_vec();
    let mut replace = false;
    for item in patch {
        let Value::Object(item) = item else {
            return Err(PatchError(format!("an element of {name} is not an object")));
        };
        match item.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
            None => changes.push(item),
            Some("delete") => {
                let gone = item.get(key).ok_or_else(no_key)?;
                merged.retain(|item| item.get(key) != Some(gone));
            }
            Some("replace") => replace = true,
            Some("merge") => {
                return Err(PatchError("merging lists cannot yet be specified in the patch".to_owned()));
            }
            Some(other) => return Err(PatchError(format!("unknown patch type found: {other:?}"))),
        }
    }
    if replace {
        return Ok(changes.into_iter().map(|item| Value::Object(as_new_map(item))).collect());
    }
    for change in changes {
        let wanted = change.get(key).ok_or_else(no_key)?;
        match merged.iter_mut().find(|item| item.get(key) == Some(wanted)) {
            Some(Value::Object(item)) => *item = merge_map(std::mem::take(item), change, shape)?,
            _ => merged.push(Value::Object(as_new_map(change))),
        }
    }
    Ok(merged)
}
