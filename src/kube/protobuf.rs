//! Kubernetes protobuf request bodies (`k8s\0` + runtime.Unknown), for the kinds kubectl posts.
//!
//! kubectl 1.32 and newer send protobuf for `create configmap`, `create namespace` and others, and
//! do not fall back to JSON. The envelope is described in kubernetes.io, "API Concepts",
//! "Kubernetes Protobuf encoding".

mod json;
mod kinds;

use k8s_pb::apimachinery::pkg::runtime::Unknown;
use prost::Message;
use serde_json::Value;

const MAGIC: &[u8] = b"k8s\0";
const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Why a protobuf body was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("the body is not Kubernetes protobuf: {0}")]
    Malformed(String),
    /// The kind exists but this server takes it as JSON only.
    #[error("{kind} in {api_version} is accepted as JSON or YAML only")]
    UnsupportedKind { api_version: String, kind: String },
}

/// The object as JSON, with apiVersion and kind. Bytes (secrets) become base64 text; empty texts
/// and times count as absent, as in Go's types. The caller bounds the size of `body`.
///
/// # Errors
/// [`DecodeError::Malformed`] names what cannot be read; [`DecodeError::UnsupportedKind`] asks for
/// JSON instead.
pub fn decode(body: &[u8]) -> Result<Value, DecodeError> {
    let malformed = |text: &str| DecodeError::Malformed(text.to_owned());
    let envelope = body.strip_prefix(MAGIC).ok_or_else(|| malformed("it does not start with k8s\\0"))?;
    let unknown = Unknown::decode(envelope).map_err(|error| malformed(&error.to_string()))?;
    if unknown.content_encoding.as_deref().is_some_and(|encoding| !encoding.is_empty()) {
        return Err(malformed("its content has an encoding of its own"));
    }
    if unknown.content_type.as_deref().is_some_and(|kind| !kind.is_empty() && kind != CONTENT_TYPE) {
        return Err(malformed("its content is of another type"));
    }
    let type_meta = unknown.type_meta.unwrap_or_default();
    let (api_version, kind) = (type_meta.api_version.unwrap_or_default(), type_meta.kind.unwrap_or_default());
    kinds::decode(&api_version, &kind, &unknown.raw.unwrap_or_default())
}

#[cfg(test)]
mod tests;
