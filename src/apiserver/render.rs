//! Answers in the shape and encoding the client asked for.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::custom;
use super::errors::ApiError;
use super::kinds::Kind;
use super::object::Stored;
use super::query::{Encoding, Shape, Wanted};
use crate::kube::crd::PrinterColumn;
use crate::kube::table;

/// `metadata` of a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListMeta {
    pub version: u64,
    pub continue_token: Option<String>,
    pub remaining: Option<usize>,
}

impl ListMeta {
    fn json(&self) -> Value {
        let mut meta = Map::new();
        meta.insert("resourceVersion".into(), self.version.to_string().into());
        if let Some(token) = &self.continue_token {
            meta.insert("continue".into(), token.clone().into());
        }
        if let Some(remaining) = self.remaining {
            meta.insert("remainingItemCount".into(), remaining.into());
        }
        Value::Object(meta)
    }
}

/// What one request wants to read, for one kind.
#[derive(Debug, Clone)]
pub struct Renderer {
    pub kind: &'static Kind,
    pub wanted: Wanted,
    /// `includeObject` of a Table: `None`, `Object`, else metadata.
    pub include_object: Option<String>,
    pub now: Timestamp,
}

impl Renderer {
    /// One object.
    ///
    /// # Errors
    /// 500 if what is kept is not JSON.
    pub fn object(&self, object: &Stored) -> Result<Bytes, ApiError> {
        match self.wanted.shape {
            Shape::Object if self.wanted.encoding == Encoding::Json => Ok(object.bytes.clone()),
            Shape::Object => self.encode(&object.value()?),
            Shape::Partial => self.encode(&partial(&object.value()?)),
            Shape::Table => {
                let meta = ListMeta { version: object.version, ..ListMeta::default() };
                let rows = vec![self.row(&object.value()?)];
                self.encode(&self.table(meta.json(), rows, true))
            }
        }
    }

    /// The `object` of a watch event, JSON. `columns`: whether a Table carries its columns.
    ///
    /// # Errors
    /// 500 if what is kept is not JSON.
    pub fn event_object(&self, object: &Stored, columns: bool) -> Result<Bytes, ApiError> {
        match self.wanted.shape {
            Shape::Object => Ok(object.bytes.clone()),
            Shape::Partial => json_bytes(&partial(&object.value()?)),
            Shape::Table => {
                let meta = ListMeta { version: object.version, ..ListMeta::default() };
                let rows = vec![self.row(&object.value()?)];
                json_bytes(&self.table(meta.json(), rows, columns))
            }
        }
    }

    /// The object of a bookmark: its version and nothing else.
    #[must_use]
    pub fn bookmark(&self, version: u64, initial_end: bool) -> Value {
        let mut metadata = json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
        if initial_end && let Some(map) = metadata.as_object_mut() {
            map.insert("annotations".into(), json!({"k8s.io/initial-events-end": "true"}));
        }
        match self.wanted.shape {
            Shape::Object => {
                json!({"kind": self.kind.kind, "apiVersion": self.kind.api_version(), "metadata": metadata})
            }
            Shape::Partial => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Shape::Table => {
                let row = json!({"cells": [], "object": {
                    "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
                }});
                let meta = ListMeta { version, ..ListMeta::default() };
                self.table(meta.json(), vec![row], false)
            }
        }
    }

    /// A list.
    ///
    /// # Errors
    /// 500 if what is kept is not JSON.
    pub fn list(&self, meta: &ListMeta, items: &[Arc<Stored>]) -> Result<Bytes, ApiError> {
        match self.wanted.shape {
            Shape::Object if self.wanted.encoding == Encoding::Json => Ok(self.plain_list(meta, items)),
            Shape::Object => {
                let json = self.plain_list(meta, items);
                let value: Value =
                    serde_json::from_slice(&json).map_err(|err| ApiError::internal(err.to_string()))?;
                self.encode(&value)
            }
            Shape::Partial => {
                let items = items
                    .iter()
                    .map(|item| Ok(partial(&item.value()?)))
                    .collect::<Result<Vec<_>, ApiError>>()?;
                self.encode(&json!({
                    "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                    "metadata": meta.json(), "items": items,
                }))
            }
            Shape::Table => {
                let rows = items
                    .iter()
                    .map(|item| Ok(self.row(&item.value()?)))
                    .collect::<Result<Vec<_>, ApiError>>()?;
                self.encode(&self.table(meta.json(), rows, true))
            }
        }
    }

    /// A list of objects as they are kept, without parsing them.
    fn plain_list(&self, meta: &ListMeta, items: &[Arc<Stored>]) -> Bytes {
        let size: usize = items.iter().map(|item| item.bytes.len() + 1).sum();
        let mut out = Vec::with_capacity(size + 256);
        let head = format!(
            "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
            self.kind.kind,
            self.kind.api_version(),
            meta.json()
        );
        out.extend_from_slice(head.as_bytes());
        for (position, item) in items.iter().enumerate() {
            if position > 0 {
                out.push(b',');
            }
            out.extend_from_slice(&item.bytes);
        }
        out.extend_from_slice(b"]}");
        out.into()
    }

    fn row(&self, object: &Value) -> Value {
        let cells = match custom::of(self.kind) {
            Ok(Some(crd)) => crd.cells(object, self.now),
            _ => table::cells(self.kind.kind, object, self.now),
        };
        match self.include_object.as_deref() {
            Some("None") => json!({"cells": cells}),
            Some("Object") => json!({"cells": cells, "object": object}),
            _ => json!({"cells": cells, "object": partial(object)}),
        }
    }

    fn table(&self, meta: Value, rows: Vec<Value>, columns: bool) -> Value {
        let columns = if columns { self.columns() } else { Vec::new() };
        json!({
            "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta,
            "columnDefinitions": columns, "rows": rows,
        })
    }

    fn columns(&self) -> Vec<Value> {
        let column = |column: &table::Column| {
            json!({
                "name": column.name, "type": column.kind, "format": column.format,
                "description": column.description, "priority": column.priority,
            })
        };
        let printed = |column: &PrinterColumn| {
            json!({
                "name": column.name, "type": column.kind.word(), "format": column.format,
                "description": column.description, "priority": column.priority,
            })
        };
        match custom::of(self.kind) {
            Ok(Some(crd)) => {
                std::iter::once(column(&table::NAME)).chain(crd.columns.iter().map(printed)).collect()
            }
            _ => table::columns(self.kind.kind).iter().map(column).collect(),
        }
    }

    /// A tree in the encoding asked for.
    ///
    /// # Errors
    /// 500 if it does not serialize.
    pub fn encode(&self, value: &Value) -> Result<Bytes, ApiError> {
        encode(self.wanted.encoding, value)
    }

    #[must_use]
    pub fn content_type(&self) -> &'static str {
        content_type(self.wanted.encoding)
    }
}

/// The `Content-Type` of an encoding.
#[must_use]
pub fn content_type(encoding: Encoding) -> &'static str {
    match encoding {
        Encoding::Json => "application/json",
        Encoding::Yaml => "application/yaml",
    }
}

/// # Errors
/// 500 if it does not serialize.
pub fn encode(encoding: Encoding, value: &Value) -> Result<Bytes, ApiError> {
    match encoding {
        Encoding::Json => json_bytes(value),
        Encoding::Yaml => yaml_serde::to_string(value)
            .map(Bytes::from)
            .map_err(|err| ApiError::internal(format!("cannot write YAML: {err}"))),
    }
}

fn json_bytes(value: &Value) -> Result<Bytes, ApiError> {
    serde_json::to_vec(value).map(Bytes::from).map_err(|err| ApiError::internal(err.to_string()))
}

fn partial(object: &Value) -> Value {
    let metadata = object.get("metadata").cloned().unwrap_or_else(|| json!({}));
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
}
