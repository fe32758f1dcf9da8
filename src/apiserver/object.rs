//! One stored object, and reading and writing `metadata` of JSON objects.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::errors::ApiError;
use super::kinds::Kind;
use crate::kube::selector::{FieldSelector, LabelSelector};
use crate::kube::time::whole_second;

/// An object as it is kept: compact JSON that readers and watchers share, and what filters need.
#[derive(Debug)]
pub struct Stored {
    pub version: u64,
    /// Empty for cluster-scoped kinds.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// The whole object, `metadata.resourceVersion` included.
    pub bytes: Bytes,
    /// Unix seconds of the last write (after a restart: what the object says).
    pub written_secs: i64,
    labels: Option<Box<str>>,
    fields: Box<[Box<str>]>,
}

impl Stored {
    /// Keeps `object`, whose resourceVersion is already `version`.
    ///
    /// # Errors
    /// 500 if it does not serialize.
    pub fn new(kind: &Kind, version: u64, written_secs: i64, object: &Value) -> Result<Self, ApiError> {
        let bytes = serde_json::to_vec(object).map_err(|err| ApiError::internal(err.to_string()))?;
        // Room to grow, which printing leaves, would be kept as long as the object.
        let bytes = Bytes::from(bytes.into_boxed_slice());
        Ok(Self::from_parts(kind, version, written_secs, object, bytes))
    }

    /// As [`Stored::new`] for an object whose JSON is at hand.
    #[must_use]
    pub fn from_parts(kind: &Kind, version: u64, written_secs: i64, object: &Value, bytes: Bytes) -> Self {
        let labels = object.pointer("/metadata/labels").filter(|labels| !is_empty(labels));
        Self {
            version,
            namespace: text(object, "namespace").into(),
            name: text(object, "name").into(),
            bytes,
            written_secs,
            labels: labels.map(|labels| labels.to_string().into()),
            fields: kind.field_values(object),
        }
    }

    /// The object as a tree.
    ///
    /// # Errors
    /// 500 if what is kept is not JSON.
    pub fn value(&self) -> Result<Value, ApiError> {
        serde_json::from_slice(&self.bytes)
            .map_err(|err| ApiError::internal(format!("{}/{}: {err}", self.namespace, self.name)))
    }

    /// A field by the label that selectors use; empty when absent.
    #[must_use]
    pub fn field<'a>(&'a self, kind: &Kind, label: &str) -> &'a str {
        match label {
            "metadata.name" => &self.name,
            "metadata.namespace" => &self.namespace,
            _ => {
                let position = kind.fields.iter().position(|field| field.label == label);
                position.and_then(|at| self.fields.get(at)).map_or("", |value| value)
            }
        }
    }
}

/// What a list or a watch selects.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    pub namespace: Option<String>,
    pub name: Option<String>,
    pub labels: LabelSelector,
    pub fields: FieldSelector,
}

impl Filter {
    #[must_use]
    pub fn matches(&self, kind: &Kind, object: &Stored) -> bool {
        if self.namespace.as_deref().is_some_and(|namespace| namespace != &*object.namespace)
            || self.name.as_deref().is_some_and(|name| name != &*object.name)
        {
            return false;
        }
        if !self.fields.is_empty() && !self.fields.matches(|label| object.field(kind, label).to_owned()) {
            return false;
        }
        if self.labels.is_empty() {
            return true;
        }
        let labels: Option<Value> =
            object.labels.as_deref().and_then(|labels| serde_json::from_str(labels).ok());
        self.labels.matches(labels.as_ref())
    }

    /// Selects by more than place and name?
    #[must_use]
    pub fn is_selective(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }
}

/// A text of `metadata`, empty when absent.
#[must_use]
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|meta| meta.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// `metadata` for writing; made when absent or not an object.
pub fn metadata(object: &mut Value) -> &mut Map<String, Value> {
    child(object, "metadata")
}

/// A member that is an object, for writing; made when absent or of another type.
pub fn child<'a>(object: &'a mut Value, name: &str) -> &'a mut Map<String, Value> {
    map(map(object).entry(name).or_insert(Value::Null))
}

/// The members of an object, for writing; anything else becomes an empty object first.
pub fn map(value: &mut Value) -> &mut Map<String, Value> {
    match value {
        Value::Object(members) => members,
        other => {
            *other = Value::Object(Map::new());
            map(other)
        }
    }
}

/// Copies a member of `metadata` from one object to another; removes it where the source has none.
pub fn keep_metadata(from: &Value, to: &mut Value, field: &str) {
    let value = from.get("metadata").and_then(|meta| meta.get(field)).cloned();
    set_or_remove(metadata(to), field, value);
}

/// Sets a member, or removes it for `None`.
pub fn set_or_remove(map: &mut Map<String, Value>, field: &str, value: Option<Value>) {
    match value {
        Some(value) => map.insert(field.to_owned(), value),
        None => map.remove(field),
    };
}

/// Finalizers of an object.
#[must_use]
pub fn has_finalizers(object: &Value) -> bool {
    object
        .pointer("/metadata/finalizers")
        .and_then(Value::as_array)
        .is_some_and(|finalizers| !finalizers.is_empty())
}

/// Is the object being deleted?
#[must_use]
pub fn is_deleting(object: &Value) -> bool {
    object.pointer("/metadata/deletionTimestamp").is_some_and(|at| !at.is_null())
}

/// A time as Kubernetes writes it: whole seconds, UTC.
#[must_use]
pub fn time(at: Timestamp) -> Value {
    Value::String(whole_second(at).to_string())
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_none_or(Map::is_empty)
}
