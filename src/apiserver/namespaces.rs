//! Namespaces: the ones every cluster has, what belongs into each, and how one ends.

use serde_json::{Value, json};

use super::delete;
use super::errors::ApiError;
use super::kinds::{self, CONFIGMAPS, KINDS, NAMESPACES, SERVICEACCOUNTS};
use super::object;
use super::tx::Tx;
use uuid::Uuid;

/// Namespaces made at start.
pub const DEFAULT_NAMESPACES: [&str; 5] =
    ["default", "kube-system", "kube-public", "kube-node-lease", "kubeedge"];

/// Namespaces that cannot be deleted, as in Kubernetes.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Objects deleted in one write while a namespace ends.
const DRAIN_AT_ONCE: usize = 200;

/// Makes missing default namespaces, and what is missing inside every living namespace.
///
/// # Errors
/// 500 if something does not serialize.
pub fn ensure_defaults(tx: &mut Tx<'_>) -> Result<(), ApiError> {
    let kind = kinds::at(NAMESPACES);
    for name in DEFAULT_NAMESPACES {
        if tx.get(kind, "", name).is_none() {
            tx.put(
                kind,
                json!({
                    "apiVersion": "v1", "kind": "Namespace",
                    "metadata": {
                        "name": name,
                        "uid": Uuid::new_v4().to_string(),
                        "creationTimestamp": object::time(tx.world.now),
                        "labels": {"kubernetes.io/metadata.name": name},
                    },
                    "spec": {"finalizers": ["kubernetes"]},
                    "status": {"phase": "Active"},
                }),
            )?;
        }
    }
    for namespace in tx.list(kind, "") {
        if !object::is_deleting(&namespace.value()?) {
            furnish(tx, &namespace.name)?;
        }
    }
    Ok(())
}

/// Puts the `default` service account and the CA certificate into a namespace.
///
/// # Errors
/// 500 if something does not serialize.
pub fn furnish(tx: &mut Tx<'_>, namespace: &str) -> Result<(), ApiError> {
    let meta = |tx: &Tx<'_>, name: &str| {
        json!({
            "name": name, "namespace": namespace,
            "uid": Uuid::new_v4().to_string(),
            "creationTimestamp": object::time(tx.world.now),
        })
    };
    let accounts = kinds::at(SERVICEACCOUNTS);
    if tx.get(accounts, namespace, "default").is_none() {
        let metadata = meta(tx, "default");
        tx.put(accounts, json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": metadata}))?;
    }
    let maps = kinds::at(CONFIGMAPS);
    let data = json!({"ca.crt": *tx.world.ca_pem});
    match tx.get(maps, namespace, "kube-root-ca.crt") {
        None => {
            let metadata = meta(tx, "kube-root-ca.crt");
            tx.put(
                maps,
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}),
            )?;
        }
        Some(map) => {
            let mut value = map.value()?;
            if value.get("data") != Some(&data) && !object::is_deleting(&value) {
                object::map(&mut value).insert("data".into(), data);
                tx.put(maps, value)?;
            }
        }
    }
    Ok(())
}

/// Refuses new content in a namespace that is absent or ends.
///
/// # Errors
/// 404 or 403, in Kubernetes' words.
pub fn admit(tx: &Tx<'_>, kind: &kinds::Kind, namespace: &str, name: &str) -> Result<(), ApiError> {
    let place = tx.require(kinds::at(NAMESPACES), "", namespace)?;
    if object::is_deleting(&place.value()?) {
        let why =
            format!("unable to create new content in namespace {namespace} because it is being terminated");
        return Err(ApiError::forbidden(kind, name, &why).causes([json!({
            "reason": "NamespaceTerminating",
            "message": format!("namespace {namespace} is being terminated"),
            "field": "metadata.namespace",
        })]));
    }
    Ok(())
}

/// May this namespace be deleted?
///
/// # Errors
/// 403.
pub fn admit_delete(name: &str) -> Result<(), ApiError> {
    if IMMORTAL.contains(&name) {
        let kind = kinds::at(NAMESPACES);
        return Err(ApiError::forbidden(kind, name, "this namespace may not be deleted"));
    }
    Ok(())
}

/// What a namespace looks like while it ends.
pub fn mark_terminating(namespace: &mut Value) {
    object::child(namespace, "status").insert("phase".into(), "Terminating".into());
}

/// Deletes some content of an ending namespace, and the namespace once it is empty.
/// `true`: there is more to delete now. Pods on nodes end gracefully; the last one that goes takes
/// the namespace with it.
///
/// # Errors
/// 500 if something does not serialize.
pub fn drain(tx: &mut Tx<'_>, name: &str) -> Result<bool, ApiError> {
    let Some(namespace) = tx.get(kinds::at(NAMESPACES), "", name) else { return Ok(false) };
    if !object::is_deleting(&namespace.value()?) {
        return Ok(false);
    }
    let mut budget = DRAIN_AT_ONCE;
    for kind in KINDS.iter().filter(|kind| kind.namespaced) {
        for found in tx.list(kind, name) {
            if object::is_deleting(&found.value()?) {
                continue;
            }
            if budget == 0 {
                return Ok(true);
            }
            budget -= 1;
            delete::delete(tx, kind, &found, &delete::Options::default())?;
        }
    }
    settle(tx, name)?;
    Ok(false)
}

/// Removes an ending namespace that is empty and has no finalizers of others.
///
/// # Errors
/// 500 if something does not serialize.
pub fn settle(tx: &mut Tx<'_>, name: &str) -> Result<(), ApiError> {
    let kind = kinds::at(NAMESPACES);
    let Some(namespace) = tx.get(kind, "", name) else { return Ok(()) };
    let value = namespace.value()?;
    if !object::is_deleting(&value) || object::has_finalizers(&value) {
        return Ok(());
    }
    let occupied = KINDS.iter().filter(|kind| kind.namespaced).any(|kind| !tx.is_empty(kind, name));
    if !occupied {
        tx.remove(kind, &namespace)?;
    }
    Ok(())
}
