//! `/openapi/v3`: as much as kubectl needs to let the server validate what it sends.
//!
//! kubectl looks for a PATCH of the kind with a `fieldValidation` parameter and then leaves
//! validation to the server. Schemas are empty for now; `kubectl explain` needs them later.

use serde_json::{Map, Value, json};

use super::kinds::{self, KINDS, Kind, Nature};

/// Content type of `/openapi/v2` for kubectl. The answer is an empty document, which is no bytes:
/// kubectl asks when a kind is not in v3, finds it in neither, and says that there is no such kind.
pub const V2_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The index: one document per group and version.
#[must_use]
pub fn index() -> Value {
    let mut paths = Map::new();
    for (group, version) in kinds::groups() {
        let path = document_path(group, version);
        // The hash lets clients cache the document until the program changes.
        let url = format!("/openapi/v3/{path}?hash={}", env!("CARGO_PKG_VERSION"));
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

fn document_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The document of one group and version.
#[must_use]
pub fn document(group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    for kind in KINDS.iter().filter(|kind| kind.group == group && kind.version == version) {
        let space = if kind.namespaced { "/namespaces/{namespace}" } else { "" };
        let collection = format!("/{}{space}/{}", document_path(group, version), kind.plural);
        if kind.nature == Nature::Stored {
            let object = json!({
                "get": operation(kind, "get", &[]),
                "put": operation(kind, "put", &WRITE),
                "patch": operation(kind, "patch", &WRITE),
                "delete": operation(kind, "delete", &["dryRun", "gracePeriodSeconds", "propagationPolicy"]),
            });
            paths.insert(format!("{collection}/{{name}}"), object);
        }
        paths.insert(collection, json!({"post": operation(kind, "post", &WRITE)}));
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": concat!("v", env!("CARGO_PKG_VERSION"))},
        "paths": paths,
        "components": {"schemas": {}},
    })
}

const WRITE: [&str; 3] = ["dryRun", "fieldManager", "fieldValidation"];

fn operation(kind: &Kind, action: &str, parameters: &[&str]) -> Value {
    let parameters: Vec<Value> = parameters
        .iter()
        .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}}))
        .collect();
    json!({
        "operationId": format!("{action}{}{}", kind.version, kind.kind),
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
    })
}
