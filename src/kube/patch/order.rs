//! Order of a merged list: what the patch names stands in the patch's order, what only the server
//! has keeps its place relative to the neighbours it had.

use serde_json::Value;

use super::PatchError;

/// Identity of a list element: the whole scalar, or the value of its merge key.
pub fn id<'v>(item: &'v Value, key: Option<&str>) -> Option<&'v Value> {
    match key {
        None => Some(item),
        Some(key) => item.get(key),
    }
}

fn place(list: &[Value], item: &Value, key: Option<&str>) -> Option<usize> {
    let wanted = id(item, key)?;
    list.iter().position(|other| id(other, key) == Some(wanted))
}

/// Orders `merged` by `order` (elements, or maps holding only their key), and what `order` does
/// not name by `before`, the list of the server.
pub fn arrange(merged: Vec<Value>, order: &[Value], before: &[Value], key: Option<&str>) -> Vec<Value> {
    let (mut named, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| place(order, item, key).is_some());
    named.sort_by_key(|item| place(order, item, key));
    others.sort_by_key(|item| place(before, item, key).unwrap_or(usize::MAX));
    let mut arranged = Vec::with_capacity(named.len() + others.len());
    let mut named = named.into_iter().peekable();
    let mut others = others.into_iter().peekable();
    loop {
        let other_first = match (others.peek(), named.peek()) {
            (None, None) => return arranged,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some(other), Some(named)) => match (place(before, other, key), place(before, named, key)) {
                (Some(other), Some(named)) => other < named,
                _ => false,
            },
        };
        arranged.extend(if other_first { others.next() } else { named.next() });
    }
}

/// The elements of a patch must stand in the order that its `$setElementOrder` list says.
pub fn check(patch: &[Value], order: &[Value], key: Option<&str>, field: &str) -> Result<(), PatchError> {
    let mut last = None;
    for item in patch.iter().filter(|item| item.get("$patch").is_none()) {
        let at = place(order, item, key);
        if at.is_none() || at < last {
            return Err(PatchError(format!(
                "the order in patch list of {field} doesn't match the $setElementOrder/{field} list"
            )));
        }
        last = at;
    }
    Ok(())
}
