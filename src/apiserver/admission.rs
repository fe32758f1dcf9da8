//! What particular kinds need when they are written, beyond defaults and validation.

use std::sync::Arc;

use serde_json::{Value, json};

use super::errors::ApiError;
use super::kinds::{self, Kind, NAMESPACES, PODS, SERVICEACCOUNTS, Sub};
use super::namespaces;
use super::object::{self, Stored};
use super::tx::Tx;

/// Before defaults are filled in.
///
/// # Errors
/// 403 when a pod names a service account that does not exist.
pub fn before_create(tx: &Tx<'_>, kind: &Kind, new: &mut Value) -> Result<(), ApiError> {
    match kind.id {
        NAMESPACES => {
            let name = object::text(new, "name").to_owned();
            object::child(object::map(new).entry("metadata").or_insert(Value::Null), "labels")
                .insert("kubernetes.io/metadata.name".into(), name.into());
            object::child(new, "spec").insert("finalizers".into(), json!(["kubernetes"]));
            object::map(new).insert("status".into(), json!({"phase": "Active"}));
            Ok(())
        }
        PODS => service_account(tx, new),
        _ => {
            // Custom resources start without a status; nodes register with theirs.
            if kind.has(Sub::Status) && kind.hooks.status_keeps_metadata {
                object::map(new).remove("status");
            }
            Ok(())
        }
    }
}

/// After defaults are filled in: a pod starts pending, whatever its author wrote.
pub fn after_defaults(kind: &Kind, new: &mut Value) {
    if kind.id == PODS {
        let class = new.pointer("/status/qosClass").cloned();
        let status = object::map(new).entry("status").or_insert(Value::Null);
        *status = json!({"phase": "Pending"});
        object::set_or_remove(object::map(status), "qosClass", class);
    }
}

/// What comes with a new object.
///
/// # Errors
/// 500 if something does not serialize.
pub fn after_create(tx: &mut Tx<'_>, kind: &Kind, stored: &Arc<Stored>) -> Result<(), ApiError> {
    if kind.id == NAMESPACES { namespaces::furnish(tx, &stored.name) } else { Ok(()) }
}

/// Parts that an update may not change although no validation says so.
pub fn before_update(kind: &Kind, old: &Value, new: &mut Value, sub: Option<Sub>) {
    match kind.id {
        NAMESPACES => {
            // Our own finalizer; and the phase follows the deletion, not the writer.
            let spec = old.get("spec").cloned();
            object::set_or_remove(object::map(new), "spec", spec);
            let phase = old.pointer("/status/phase").cloned();
            object::set_or_remove(object::child(new, "status"), "phase", phase);
        }
        PODS if sub == Some(Sub::Status) => {
            let class = old.pointer("/status/qosClass").cloned();
            if let Some(class) = class {
                object::child(new, "status").insert("qosClass".into(), class);
            }
        }
        _ => {}
    }
}

/// Gives a pod its service account, and the pull secrets of that account if it names none.
fn service_account(tx: &Tx<'_>, new: &mut Value) -> Result<(), ApiError> {
    let pods = kinds::at(PODS);
    let namespace = object::text(new, "namespace").to_owned();
    let name = object::text(new, "name").to_owned();
    if object::metadata(new)
        .get("annotations")
        .and_then(|all| all.get("kubernetes.io/config.mirror"))
        .is_some()
    {
        return Ok(());
    }
    let spec = object::child(new, "spec");
    let wanted = match spec.get("serviceAccountName").and_then(Value::as_str) {
        Some(account) if !account.is_empty() => account.to_owned(),
        _ => "default".to_owned(),
    };
    let Some(account) = tx.get(kinds::at(SERVICEACCOUNTS), &namespace, &wanted) else {
        let why = format!(
            "error looking up service account {namespace}/{wanted}: serviceaccount \"{wanted}\" not found"
        );
        return Err(ApiError::forbidden(pods, &name, &why));
    };
    spec.insert("serviceAccountName".into(), wanted.clone().into());
    spec.insert("serviceAccount".into(), wanted.into());
    let has_secrets =
        spec.get("imagePullSecrets").and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    let account = account.value()?;
    if !has_secrets && let Some(secrets) = account.get("imagePullSecrets") {
        spec.insert("imagePullSecrets".into(), secrets.clone());
    }
    if spec.get("automountServiceAccountToken").is_none()
        && account.get("automountServiceAccountToken") == Some(&Value::Bool(false))
    {
        spec.insert("automountServiceAccountToken".into(), Value::Bool(false));
    }
    Ok(())
}
