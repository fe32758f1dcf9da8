//! `pods/binding`, `pods/eviction`, `serviceaccounts/token`.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::delete;
use super::errors::ApiError;
use super::kinds::{self, PODS, SERVICEACCOUNTS};
use super::namespaces;
use super::object::{self, Stored};
use super::tx::Tx;
use crate::identity::{ServiceAccountClaims, ServiceAccountKeys};

/// Shortest and longest life of a service-account token, seconds; Kubernetes' shortest.
const TOKEN_SECS: std::ops::RangeInclusive<i64> = 600..=(1 << 32);
const DEFAULT_TOKEN_SECS: i64 = 3600;

/// Puts a pod on a node, once.
///
/// # Errors
/// 400, 404, 409 when it has a node or is being deleted.
pub fn bind(tx: &mut Tx<'_>, namespace: &str, name: &str, binding: &Value) -> Result<(), ApiError> {
    let pods = kinds::at(PODS);
    let target = binding.get("target");
    let text = |field: &str| target.and_then(|target| target.get(field)).and_then(Value::as_str);
    let node = text("name").unwrap_or_default();
    if !matches!(text("kind"), None | Some("" | "Node")) {
        let message =
            format!("Unsupported value: {:?}: supported values: \"Node\", \"<empty>\"", text("kind"));
        return Err(ApiError::invalid_field(pods, name, "target.kind", message));
    }
    if node.is_empty() {
        return Err(ApiError::invalid_field(pods, name, "target.name", "Required value"));
    }
    let found = tx.require(pods, namespace, name)?;
    let mut pod = found.value()?;
    let uid = object::text(binding, "uid");
    if !uid.is_empty() && uid != object::text(&pod, "uid") {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            object::text(&pod, "uid")
        );
        return Err(ApiError::conflict(pods, name, &why));
    }
    if object::is_deleting(&pod) {
        return Err(ApiError::conflict(
            pods,
            name,
            &format!("pod {name} is being deleted, cannot be assigned to a host"),
        ));
    }
    let current = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    if !current.is_empty() {
        let why = format!("pod {name} is already assigned to node \"{current}\"");
        return Err(ApiError::conflict(pods, name, &why));
    }
    object::child(&mut pod, "spec").insert("nodeName".into(), node.into());
    set_scheduled(&mut pod, tx.world.now);
    delete::bump_generation(&mut pod);
    tx.put(pods, pod)?;
    Ok(())
}

fn set_scheduled(pod: &mut Value, now: Timestamp) {
    let status = object::child(pod, "status");
    let list = status.entry("conditions").or_insert_with(|| json!([]));
    if let Some(conditions) = list.as_array_mut() {
        conditions.retain(|condition| condition.get("type") != Some(&json!("PodScheduled")));
        conditions.push(json!({
            "type": "PodScheduled", "status": "True",
            "lastProbeTime": null, "lastTransitionTime": object::time(now),
        }));
    }
}

/// Evicts a pod: a deletion with the options inside. Disruption budgets are not served.
///
/// # Errors
/// As a deletion.
pub fn evict(
    tx: &mut Tx<'_>,
    namespace: &str,
    name: &str,
    eviction: &Value,
    dry_run: bool,
) -> Result<(), ApiError> {
    let pods = kinds::at(PODS);
    let found = tx.require(pods, namespace, name)?;
    let mut options = match eviction.get("deleteOptions") {
        Some(options) => delete::Options::read(options)?,
        None => delete::Options::default(),
    };
    options.dry_run |= dry_run;
    delete::delete(tx, pods, &found, &options)?;
    namespaces::settle(tx, namespace)
}

/// A service-account token as asked for, ready to be signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenGrant {
    pub claims: ServiceAccountClaims,
    /// The request with its defaults, to be answered with a status.
    pub request: Value,
    pub expires: Timestamp,
}

/// Decides on a `TokenRequest` for a service account.
///
/// # Errors
/// 422 naming the field, 404 for the bound pod, 409 when its uid differs.
pub fn grant_token(
    account: &Arc<Stored>,
    pod: impl FnOnce(&str) -> Option<Arc<Stored>>,
    request: &Value,
    now: Timestamp,
) -> Result<TokenGrant, ApiError> {
    let kind = kinds::at(SERVICEACCOUNTS);
    let wrong = |field: &str, message: String| ApiError::invalid_field(kind, &account.name, field, message);
    let mut audiences: Vec<String> = match request.pointer("/spec/audiences") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(list)) => list
            .iter()
            .map(|item| item.as_str().map(str::to_owned))
            .collect::<Option<_>>()
            .ok_or_else(|| wrong("spec.audiences", "Invalid value: not a list of texts".into()))?,
        Some(_) => return Err(wrong("spec.audiences", "Invalid value: not a list of texts".into())),
    };
    if audiences.is_empty() {
        audiences.push(ServiceAccountKeys::issuer().to_owned());
    }
    let secs = match request.pointer("/spec/expirationSeconds") {
        None | Some(Value::Null) => DEFAULT_TOKEN_SECS,
        Some(value) => value.as_i64().ok_or_else(|| {
            wrong("spec.expirationSeconds", format!("Invalid value: {value}: not a number"))
        })?,
    };
    if secs < *TOKEN_SECS.start() {
        let message = format!("Invalid value: {secs}: may not specify a duration less than 10 minutes");
        return Err(wrong("spec.expirationSeconds", message));
    }
    if secs > *TOKEN_SECS.end() {
        let message = format!("Invalid value: {secs}: may not specify a duration larger than 2^32 seconds");
        return Err(wrong("spec.expirationSeconds", message));
    }
    let bound = bound_pod(account, pod, request)?;
    let issued_at = u64::try_from(now.as_second()).unwrap_or(0);
    let expires_at = issued_at.saturating_add(u64::try_from(secs).unwrap_or(0));
    let expires = now.checked_add(SignedDuration::from_secs(secs)).unwrap_or(now);
    let account_uid = object::text(&account.value()?, "uid").to_owned();
    let mut answer = request.clone();
    let spec = object::child(&mut answer, "spec");
    spec.insert("audiences".into(), json!(audiences));
    spec.insert("expirationSeconds".into(), secs.into());
    Ok(TokenGrant {
        claims: ServiceAccountClaims {
            namespace: account.namespace.to_string(),
            service_account: account.name.to_string(),
            service_account_uid: account_uid,
            pod: bound,
            audiences,
            issued_at,
            expires_at,
        },
        request: answer,
        expires,
    })
}

fn bound_pod(
    account: &Stored,
    pod: impl FnOnce(&str) -> Option<Arc<Stored>>,
    request: &Value,
) -> Result<Option<(String, String)>, ApiError> {
    let Some(reference) = request.pointer("/spec/boundObjectRef").filter(|value| !value.is_null()) else {
        return Ok(None);
    };
    let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
    if text("kind") != "Pod" {
        return Err(ApiError::bad_request(format!(
            "spec.boundObjectRef: cannot bind token for serviceaccount {:?} to type {:?}, only to Pod",
            account.name,
            text("kind")
        )));
    }
    let pods = kinds::at(PODS);
    let name = text("name");
    let found = pod(name).ok_or_else(|| ApiError::not_found(pods, name))?;
    let value = found.value()?;
    let uid = object::text(&value, "uid").to_owned();
    if !text("uid").is_empty() && text("uid") != uid {
        let why = format!(
            "the UID in the bound object reference ({}) does not match the UID in record",
            text("uid")
        );
        return Err(ApiError::conflict(pods, name, &why));
    }
    let runs_as = value.pointer("/spec/serviceAccountName").and_then(Value::as_str).unwrap_or_default();
    if runs_as != &*account.name {
        return Err(ApiError::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            account.name
        )));
    }
    Ok(Some((name.to_owned(), uid)))
}

/// The answer to a `TokenRequest`.
///
/// # Errors
/// 500 when signing fails.
pub fn token_answer(keys: &ServiceAccountKeys, grant: TokenGrant) -> Result<Value, ApiError> {
    let token = keys.sign(&grant.claims).map_err(|err| ApiError::internal(err.to_string()))?;
    let mut answer = grant.request;
    let metadata = object::metadata(&mut answer);
    metadata.insert("name".into(), grant.claims.service_account.clone().into());
    metadata.insert("namespace".into(), grant.claims.namespace.clone().into());
    let map = object::map(&mut answer);
    map.insert("apiVersion".into(), "authentication.k8s.io/v1".into());
    map.insert("kind".into(), "TokenRequest".into());
    map.insert("status".into(), json!({"token": token, "expirationTimestamp": object::time(grant.expires)}));
    Ok(answer)
}

/// Checks that a subresource body is of the kind its path wants, when it says a kind.
///
/// # Errors
/// 400.
pub fn check_kind(body: &Value, kind: &str) -> Result<(), ApiError> {
    if !body.is_object() {
        return Err(ApiError::bad_request(format!("the body is not an object of kind {kind}")));
    }
    match body.get("kind").and_then(Value::as_str) {
        None | Some("") => Ok(()),
        Some(said) if said == kind => Ok(()),
        Some(said) => Err(ApiError::bad_request(format!("{said} cannot be handled as a {kind}"))),
    }
}
