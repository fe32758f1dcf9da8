//! Deleting: preconditions, finalizers, graceful pods.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::errors::ApiError;
use super::kinds::{self, DEVICES, DEVICESTATUSES, Kind, NAMESPACES, PODS};
use super::namespaces;
use super::object::{self, Stored};
use super::tx::Tx;

/// `metav1.DeleteOptions`, the part that is acted on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    pub grace_period_secs: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
}

impl Options {
    /// Reads a body of kind `DeleteOptions`.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn read(body: &Value) -> Result<Self, ApiError> {
        let wrong = |field: &str| ApiError::bad_request(format!("DeleteOptions: {field} has the wrong type"));
        let text = |pointer: &str, field: &str| match body.pointer(pointer) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(wrong(field)),
        };
        let grace_period_secs = match body.get("gracePeriodSeconds") {
            None | Some(Value::Null) => None,
            Some(value) => Some(value.as_i64().ok_or_else(|| wrong("gracePeriodSeconds"))?),
        };
        let dry_run = match body.get("dryRun") {
            None | Some(Value::Null) => false,
            Some(Value::Array(list)) if list.iter().all(|item| item == "All") => !list.is_empty(),
            Some(_) => {
                return Err(ApiError::bad_request("dryRun: Unsupported value: supported values: \"All\""));
            }
        };
        Ok(Self {
            grace_period_secs,
            uid: text("/preconditions/uid", "preconditions.uid")?,
            resource_version: text("/preconditions/resourceVersion", "preconditions.resourceVersion")?,
            dry_run,
        })
    }
}

/// What became of the object.
#[derive(Debug)]
pub enum Deleted {
    /// It is gone; this was its last state.
    Gone(Arc<Stored>),
    /// It waits for its node or its finalizers.
    Pending(Arc<Stored>),
}

/// Deletes an object, or starts to. The caller settles its namespace ([`namespaces::settle`]).
///
/// # Errors
/// 409 when a precondition does not hold, 403 for what may not be deleted.
pub fn delete(
    tx: &mut Tx<'_>,
    kind: &'static Kind,
    found: &Arc<Stored>,
    options: &Options,
) -> Result<Deleted, ApiError> {
    let mut value = found.value()?;
    preconditions(kind, &value, options)?;
    if kind.id == NAMESPACES {
        namespaces::admit_delete(&found.name)?;
    }
    let grace = grace_secs(kind, &value, options);
    let waits = grace > 0 || object::has_finalizers(&value) || kind.id == NAMESPACES;
    if !waits {
        return Ok(Deleted::Gone(remove(tx, kind, found)?));
    }
    if object::is_deleting(&value) {
        let current = value.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
        // A running deletion can only be made shorter.
        if current.is_none_or(|current| grace >= current) {
            return Ok(Deleted::Pending(Arc::clone(found)));
        }
    }
    let ends = after(tx.world.now, grace);
    let metadata = object::metadata(&mut value);
    metadata.insert("deletionTimestamp".into(), object::time(ends));
    metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
    if kind.generation {
        bump_generation(&mut value);
    }
    if kind.id == NAMESPACES {
        // Like Kubernetes, a namespace has no grace period of its own.
        object::metadata(&mut value).remove("deletionGracePeriodSeconds");
        namespaces::mark_terminating(&mut value);
    }
    let pending = tx.put(kind, value)?;
    Ok(Deleted::Pending(pending))
}

/// Removes an object whose deletion waited only for what an update has just taken away.
/// `true` when it went.
///
/// # Errors
/// 500 if it does not serialize.
pub fn finish_if_due(tx: &mut Tx<'_>, kind: &'static Kind, stored: &Arc<Stored>) -> Result<bool, ApiError> {
    let value = stored.value()?;
    if !object::is_deleting(&value) || object::has_finalizers(&value) {
        return Ok(false);
    }
    if kind.id == NAMESPACES {
        namespaces::settle(tx, &stored.name)?;
        return Ok(tx.get(kind, "", &stored.name).is_none());
    }
    let grace = value.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64);
    if grace.unwrap_or(0) > 0 {
        return Ok(false);
    }
    remove(tx, kind, stored)?;
    if kind.namespaced {
        namespaces::settle(tx, &stored.namespace)?;
    }
    Ok(true)
}

/// Removes an object, and a Device's DeviceStatus with it: in a cluster the garbage collector does
/// that, because the one owns the other. (There it also takes one whose Device of that name was an
/// earlier one; so the uid does not count.)
fn remove(tx: &mut Tx<'_>, kind: &'static Kind, found: &Arc<Stored>) -> Result<Arc<Stored>, ApiError> {
    let gone = tx.remove(kind, found)?;
    let statuses = kinds::at(DEVICESTATUSES);
    if kind.id == DEVICES
        && let Some(status) = tx.get(statuses, &found.namespace, &found.name)
        && is_owned(&status.value()?, kind, &found.name)
    {
        delete(tx, statuses, &status, &Options::default())?;
    }
    Ok(gone)
}

fn is_owned(value: &Value, kind: &Kind, name: &str) -> bool {
    let is = |owner: &Value, field: &str, want: &str| owner.get(field).and_then(Value::as_str) == Some(want);
    let owners = value.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    owners.into_iter().flatten().any(|owner| is(owner, "kind", kind.kind) && is(owner, "name", name))
}

fn preconditions(kind: &Kind, value: &Value, options: &Options) -> Result<(), ApiError> {
    let name = object::text(value, "name");
    if let Some(uid) = &options.uid {
        let has = object::text(value, "uid");
        if uid != has {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {has}");
            return Err(ApiError::conflict(kind, name, &why));
        }
    }
    if let Some(version) = &options.resource_version {
        let has = object::text(value, "resourceVersion");
        if version != has {
            let why = format!(
                "Precondition failed: ResourceVersion in precondition: {version}, ResourceVersion in object meta: {has}"
            );
            return Err(ApiError::conflict(kind, name, &why));
        }
    }
    Ok(())
}

/// Seconds a pod gets to end: what is asked, else what it says, else 30. A pod that no node runs
/// or that has ended needs none; other kinds have no grace.
fn grace_secs(kind: &Kind, value: &Value, options: &Options) -> i64 {
    if kind.id != PODS {
        return 0;
    }
    let unbound = value.pointer("/spec/nodeName").and_then(Value::as_str).is_none_or(str::is_empty);
    let phase = value.pointer("/status/phase").and_then(Value::as_str);
    if unbound || matches!(phase, Some("Failed" | "Succeeded")) {
        return 0;
    }
    let own = || value.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
    match options.grace_period_secs {
        // A negative period means: right now, but let the node confirm.
        Some(asked) if asked < 0 => 1,
        Some(asked) => asked,
        None => own().unwrap_or(30).max(1),
    }
}

fn after(now: Timestamp, secs: i64) -> Timestamp {
    now.checked_add(SignedDuration::from_secs(secs)).unwrap_or(now)
}

/// Counts a change of what is wanted.
pub fn bump_generation(value: &mut Value) {
    let current = value.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
    object::metadata(value).insert("generation".into(), current.saturating_add(1).into());
}
