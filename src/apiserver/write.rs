//! Creating, replacing and patching objects. Pure decisions on a [`Tx`].

use std::sync::Arc;

use serde_json::{Value, json};
use uuid::Uuid;

use super::admission;
use super::body;
use super::delete;
use super::errors::ApiError;
use super::kinds::{Kind, Sub};
use super::namespaces;
use super::object::{self, Stored};
use super::query::FieldValidation;
use super::tx::Tx;
use crate::kube::patch;
use crate::kube::validate::FieldError;
use crate::model::Reason;

/// Kubernetes' alphabet for generated names: no vowels, nothing that looks like another.
const NAME_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Longest prefix of a generated name.
const MAX_GENERATE_PREFIX: usize = 58;
/// Tries before a generated name counts as taken.
const NAME_TRIES: usize = 8;

/// Metadata that only the server sets.
const SYSTEM_FIELDS: [&str; 6] = [
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "generation",
    "generateName",
];

/// Stores a new object.
///
/// # Errors
/// 400 and 422 naming the field, 403, 404 for its namespace, 409 when it exists.
pub fn create(
    tx: &mut Tx<'_>,
    kind: &'static Kind,
    namespace: &str,
    mut new: Value,
) -> Result<Arc<Stored>, ApiError> {
    check_place(&new, namespace)?;
    if !object::text(&new, "resourceVersion").is_empty() {
        return Err(ApiError::bad_request("resourceVersion should not be set on objects to be created"));
    }
    let name = choose_name(tx, kind, namespace, &new)?;
    if kind.namespaced {
        namespaces::admit(tx, kind, namespace, &name)?;
    }
    let now = object::time(tx.world.now);
    let metadata = object::metadata(&mut new);
    for field in
        ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields", "generation"]
    {
        metadata.remove(field);
    }
    metadata.insert("name".into(), name.clone().into());
    object::set_or_remove(metadata, "namespace", kind.namespaced.then(|| namespace.into()));
    metadata.insert("uid".into(), Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), now);
    if kind.generation {
        metadata.insert("generation".into(), 1.into());
    }
    set_type(kind, &mut new);
    admission::before_create(tx, kind, &mut new)?;
    (kind.hooks.defaults)(kind.kind, &mut new);
    admission::after_defaults(kind, &mut new);
    let mut errors = (kind.hooks.create)(kind.kind, &new);
    if let Some(why) = (kind.hooks.name)(kind.kind, &name)
        && !errors.iter().any(|err| err.field == "metadata.name")
    {
        errors.push(FieldError {
            reason: "FieldValueInvalid",
            field: "metadata.name".into(),
            message: format!("Invalid value: {name:?}: {why}"),
        });
    }
    if !errors.is_empty() {
        return Err(ApiError::invalid(kind, &name, &errors));
    }
    if tx.get(kind, namespace, &name).is_some() {
        return Err(ApiError::already_exists(kind, &name));
    }
    let stored = tx.put(kind, new)?;
    admission::after_create(tx, kind, &stored)?;
    Ok(stored)
}

fn check_place(new: &Value, namespace: &str) -> Result<(), ApiError> {
    let said = object::text(new, "namespace");
    if said.is_empty() || said == namespace {
        return Ok(());
    }
    Err(ApiError::bad_request(format!(
        "the namespace of the provided object does not match the namespace sent on the request: {said:?} and {namespace:?}"
    )))
}

fn choose_name(tx: &Tx<'_>, kind: &Kind, namespace: &str, new: &Value) -> Result<String, ApiError> {
    let name = object::text(new, "name");
    if !name.is_empty() {
        return Ok(name.to_owned());
    }
    let prefix = object::text(new, "generateName");
    if prefix.is_empty() {
        let message = "Required value: name or generateName is required";
        return Err(ApiError::invalid_field(kind, "", "metadata.name", message));
    }
    let prefix: String = prefix.chars().take(MAX_GENERATE_PREFIX).collect();
    for _ in 0..NAME_TRIES {
        let name = format!("{prefix}{}", random_suffix());
        if tx.get(kind, namespace, &name).is_none() {
            return Ok(name);
        }
    }
    Err(ApiError::already_exists(kind, &prefix))
}

/// Five characters of Kubernetes' alphabet for generated names.
#[must_use]
pub fn random_suffix() -> String {
    let pick = |_| fastrand::choice(NAME_ALPHABET).copied().map_or('x', char::from);
    (0..5).map(pick).collect()
}

/// Replaces an object, or its status. The second value is `true` when it was created.
///
/// # Errors
/// 404, 409 when the version or uid does not fit, 400 and 422 naming the field.
pub fn update(
    tx: &mut Tx<'_>,
    kind: &'static Kind,
    place: (&str, &str),
    sub: Option<Sub>,
    new: Value,
) -> Result<(Arc<Stored>, bool), ApiError> {
    let (namespace, name) = place;
    let said = object::text(&new, "name");
    if !said.is_empty() && said != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({said}) does not match the name on the URL ({name})"
        )));
    }
    check_place(&new, namespace)?;
    let Some(found) = tx.get(kind, namespace, name) else {
        if kind.create_on_update && sub.is_none() && object::text(&new, "resourceVersion").is_empty() {
            let mut new = new;
            object::metadata(&mut new).insert("name".into(), name.into());
            return Ok((create(tx, kind, namespace, new)?, true));
        }
        return Err(ApiError::not_found(kind, name));
    };
    if !kind.hooks.unconditional_update && object::text(&new, "resourceVersion").is_empty() {
        let message = "Invalid value: 0x0: must be specified for an update";
        return Err(ApiError::invalid_field(kind, name, "metadata.resourceVersion", message));
    }
    let old = found.value()?;
    Ok((replace(tx, kind, &old, sub, new)?, false))
}

/// Puts `new` in the place of `old`, keeping what may not change this way.
fn replace(
    tx: &mut Tx<'_>,
    kind: &'static Kind,
    old: &Value,
    sub: Option<Sub>,
    mut new: Value,
) -> Result<Arc<Stored>, ApiError> {
    let name = object::text(old, "name").to_owned();
    let version = object::text(&new, "resourceVersion");
    if !version.is_empty() && version != "0" && version != object::text(old, "resourceVersion") {
        return Err(ApiError::stale(kind, &name));
    }
    let uid = object::text(&new, "uid");
    if !uid.is_empty() && uid != object::text(old, "uid") {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            object::text(old, "uid")
        );
        return Err(ApiError::conflict(kind, &name, &why));
    }
    for field in SYSTEM_FIELDS.into_iter().chain(["name", "namespace"]) {
        object::keep_metadata(old, &mut new, field);
    }
    for field in ["selfLink", "managedFields"] {
        object::metadata(&mut new).remove(field);
    }
    set_type(kind, &mut new);
    match sub {
        Some(_) => keep_all_but_status(kind, old, &mut new),
        None => {
            if kind.has(Sub::Status) {
                keep_member(old, &mut new, "status");
            }
            (kind.hooks.defaults)(kind.kind, &mut new);
        }
    }
    admission::before_update(kind, old, &mut new, sub);
    check_finalizers(kind, &name, old, &new)?;
    let errors = (kind.hooks.update)(kind.kind, old, &new);
    if !errors.is_empty() {
        return Err(ApiError::invalid(kind, &name, &errors));
    }
    if kind.generation && sub.is_none() && wanted_differs(kind, old, &new) {
        delete::bump_generation(&mut new);
    }
    let stored = tx.put(kind, new)?;
    delete::finish_if_due(tx, kind, &stored)?;
    Ok(stored)
}

/// A write to `/status` changes the status, and for built-in kinds labels, annotations and
/// finalizers, as in Kubernetes.
fn keep_all_but_status(kind: &Kind, old: &Value, new: &mut Value) {
    let members: Vec<String> = old.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    let extra: Vec<String> = new.as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
    for member in members.iter().chain(&extra) {
        let own = member == "status" || (member == "metadata" && !kind.hooks.status_keeps_metadata);
        if !own {
            keep_member(old, new, member);
        }
    }
    object::keep_metadata(old, new, "ownerReferences");
}

fn keep_member(old: &Value, new: &mut Value, member: &str) {
    let value = old.get(member).cloned();
    object::set_or_remove(object::map(new), member, value);
}

/// Does anything but metadata differ, and but status where that has its own writers?
fn wanted_differs(kind: &Kind, old: &Value, new: &Value) -> bool {
    let apart = |member: &str| member == "metadata" || member == "status" && kind.has(Sub::Status);
    let members = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let (before, after) = (members(old), members(new));
    before.keys().chain(after.keys()).any(|name| !apart(name) && before.get(name) != after.get(name))
}

fn check_finalizers(kind: &Kind, name: &str, old: &Value, new: &Value) -> Result<(), ApiError> {
    let of = |value: &Value| value.pointer("/metadata/finalizers").and_then(Value::as_array).cloned();
    let before = of(old).unwrap_or_default();
    let added = of(new).unwrap_or_default().into_iter().find(|finalizer| !before.contains(finalizer));
    match added {
        Some(added) if object::is_deleting(old) => {
            let message = format!(
                "Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{{{added}}}"
            );
            Err(ApiError::invalid_field(kind, name, "metadata.finalizers", message))
        }
        _ => Ok(()),
    }
}

fn set_type(kind: &Kind, object: &mut Value) {
    let map = object::map(object);
    map.insert("apiVersion".into(), kind.api_version().into());
    map.insert("kind".into(), kind.kind.into());
}

/// How a patch is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PatchKind {
    Json,
    Merge,
    Strategic,
}

impl PatchKind {
    /// Reads a Content-Type.
    ///
    /// # Errors
    /// 415.
    pub fn read(content_type: &str, kind: &Kind) -> Result<Self, ApiError> {
        match content_type {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" if kind.hooks.strategic.is_some() => Ok(Self::Strategic),
            "application/apply-patch+yaml" | "application/apply-patch+cbor" => Err(ApiError::new(
                Reason::UnsupportedMediaType,
                "server-side apply is not supported by this server; use client-side apply (kubectl apply without --server-side)",
            )),
            _ if kind.hooks.strategic.is_some() => Err(ApiError::unsupported_media(
                "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json",
            )),
            _ => {
                Err(ApiError::unsupported_media("application/json-patch+json, application/merge-patch+json"))
            }
        }
    }
}

/// Changes an object, or its status. Returns warnings too.
///
/// # Errors
/// As [`update`], and 400 or 422 for a patch that does not apply.
pub fn apply_patch(
    tx: &mut Tx<'_>,
    kind: &'static Kind,
    place: (&str, &str),
    sub: Option<Sub>,
    patch: (PatchKind, &Value),
    validation: FieldValidation,
) -> Result<(Arc<Stored>, Vec<String>), ApiError> {
    let (namespace, name) = place;
    let found = tx.require(kind, namespace, name)?;
    let old = found.value()?;
    let mut new = patched(kind, name, &old, patch)?;
    body::check_kind(kind, &new)?;
    let said = object::text(&new, "name");
    if said != name || object::text(&new, "namespace") != namespace {
        return Err(ApiError::invalid_field(
            kind,
            name,
            "metadata.name",
            format!("Invalid value: {said:?}: field is immutable"),
        ));
    }
    let warnings = body::check_fields(kind, &mut new, validation).map_err(|err| {
        if validation == FieldValidation::Strict && err.status.message.contains("strict decoding") {
            let why = err.status.message.split_once("strict").map_or("", |(_, rest)| rest);
            ApiError::invalid_field(kind, name, "patch", format!("Invalid value: strict{why}"))
        } else {
            err
        }
    })?;
    Ok((replace(tx, kind, &old, sub, new)?, warnings))
}

fn patched(kind: &Kind, name: &str, old: &Value, patch: (PatchKind, &Value)) -> Result<Value, ApiError> {
    let does_not_apply = |why: String| {
        let mut err = ApiError::new(
            Reason::Invalid,
            format!("the server rejected our request due to an error in our request: {why}"),
        );
        err.status.details = Some(crate::model::StatusDetails {
            name: name.to_owned(),
            group: kind.group.to_owned(),
            kind: kind.plural.to_owned(),
            ..crate::model::StatusDetails::default()
        });
        err
    };
    let (style, patch) = patch;
    let fits = if style == PatchKind::Json { patch.is_array() } else { patch.is_object() };
    if !fits {
        return Err(ApiError::bad_request("the patch is not of the type its Content-Type says"));
    }
    match (style, kind.hooks.strategic) {
        (PatchKind::Json, _) => patch::json(old, patch).map_err(|err| does_not_apply(err.to_string())),
        (PatchKind::Strategic, Some(strategic)) => strategic(kind.kind, old, patch)
            .map_err(|err| ApiError::bad_request(format!("the patch does not apply: {err}"))),
        _ => {
            let mut new = old.clone();
            patch::merge(&mut new, patch);
            Ok(new)
        }
    }
}

/// `{"kind": "Status", ...}` of a deletion that is done.
#[must_use]
pub fn deleted_status(kind: &Kind, gone: &Value) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
        "details": {
            "name": object::text(gone, "name"), "group": kind.group, "kind": kind.plural,
            "uid": object::text(gone, "uid"),
        },
    })
}
