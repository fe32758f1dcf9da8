//! Lists: pages of one snapshot, by label and field.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::errors::ApiError;
use super::kinds::Kind;
use super::object::{Filter, Stored};
use super::query::{Query, VersionMatch};
use super::registry::Registry;
use super::render::ListMeta;
use crate::model::Reason;

/// Where a page starts: all objects after this one, as they were at this version.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Position {
    version: u64,
    namespace: String,
    name: String,
}

impl Position {
    fn token(&self) -> String {
        URL_SAFE_NO_PAD.encode(
            json!({"v": "kubeedge/1", "rv": self.version, "ns": self.namespace, "name": self.name})
                .to_string(),
        )
    }

    fn read(token: &str) -> Result<Self, ApiError> {
        let parsed = (|| {
            let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
            Some(Self {
                version: value.get("rv")?.as_u64()?,
                namespace: value.get("ns")?.as_str()?.to_owned(),
                name: value.get("name")?.as_str()?.to_owned(),
            })
        })();
        parsed.ok_or_else(|| ApiError::bad_request("continue key is not valid"))
    }
}

/// Selects one page.
///
/// # Errors
/// 400 for a bad token, 410 when the snapshot is no longer kept, 504 for a version of the future.
pub fn list(
    registry: &Registry,
    kind: &Kind,
    filter: &Filter,
    query: &Query,
) -> Result<(ListMeta, Vec<Arc<Stored>>), ApiError> {
    let visible = registry.visible();
    let position = query.continue_token.as_deref().map(Position::read).transpose()?;
    if position.is_some() && query.resource_version.is_some_and(|version| version > 0) {
        return Err(ApiError::bad_request("specifying resource version is not allowed when using continue"));
    }
    if let Some(version) = query.resource_version
        && version > visible
    {
        return Err(ApiError::too_new(version, visible));
    }
    let version = match &position {
        Some(position) => position.version,
        None => snapshot_version(query, visible),
    };
    let after = position.as_ref().map(|at| (at.namespace.as_str(), at.name.as_str()));
    let namespace = filter.namespace.as_deref();
    let limit = query.limit.unwrap_or(usize::MAX);
    let undone;
    let mut page: Vec<Arc<Stored>> = Vec::new();
    let mut more = 0_usize;
    let mut take = |object: &Arc<Stored>| {
        if filter.matches(kind, object) {
            if page.len() < limit {
                page.push(Arc::clone(object));
            } else {
                more += 1;
                return filter.is_selective();
            }
        }
        false
    };
    if version == visible {
        for object in registry.list(kind, namespace, after) {
            if take(object) {
                break;
            }
        }
    } else {
        undone = snapshot(registry, kind, namespace, after, version, position.is_some())?;
        for object in undone.values() {
            if take(object) {
                break;
            }
        }
    }
    let mut meta = ListMeta { version, ..ListMeta::default() };
    if more > 0
        && let Some(last) = page.last()
    {
        let (namespace, name) = (last.namespace.to_string(), last.name.to_string());
        meta.continue_token = Some(Position { version, namespace, name }.token());
        meta.remaining = (!filter.is_selective()).then_some(more);
    }
    Ok((meta, page))
}

fn snapshot_version(query: &Query, visible: u64) -> u64 {
    match (query.resource_version, query.version_match) {
        (Some(version), Some(VersionMatch::Exact)) => version,
        // As Kubernetes: a page of a given version is exactly that version.
        (Some(version), None) if version > 0 && query.limit.is_some() => version,
        _ => visible,
    }
}

type Snapshot = BTreeMap<(Arc<str>, Arc<str>), Arc<Stored>>;

/// The objects after `after` as they were at `version`.
fn snapshot(
    registry: &Registry,
    kind: &Kind,
    namespace: Option<&str>,
    after: Option<(&str, &str)>,
    version: u64,
    paging: bool,
) -> Result<Snapshot, ApiError> {
    let undo = registry.undo_to(kind, version).map_err(|old| {
        if paging {
            ApiError::new(
                Reason::Expired,
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter.",
            )
        } else {
            ApiError::expired(version, old.oldest)
        }
    })?;
    let mut objects: Snapshot = registry
        .list(kind, namespace, after)
        .map(|object| ((Arc::clone(&object.namespace), Arc::clone(&object.name)), Arc::clone(object)))
        .collect();
    for (key, before) in undo {
        let here = namespace.is_none_or(|namespace| namespace == &*key.0)
            && after.is_none_or(|after| (&*key.0, &*key.1) > after);
        match before {
            Some(before) if here => objects.insert(key, before),
            _ => objects.remove(&key),
        };
    }
    Ok(objects)
}
