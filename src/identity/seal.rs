//! The cloud's signature over what a node acts on: compact JWS (RFC 7515), ES256, with the signer's
//! chain in `x5c`. It is verified with the roots alone, as of the time it was made, so that it holds
//! for years without the cloud.
//!
//! Only cloudcore seals: the leaf is exactly `spiffe://{trust domain}/cloudcore`, and no node's CA
//! signed it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED, EcdsaKeyPair, UnparsedPublicKey};
use serde_json::{Map, Value, json};

use super::jwt::{Compact, encode, unsigned};
use super::peer::parse;
use super::{IdentityError, SvidError, SvidIssuer, TrustBundle, sha256_hex, unix_secs, verify_x509_svid};
use crate::model::NodeName;
use crate::model::identity::SEAL_ANNOTATION;

/// Keeps seals apart from every other JWS of ours.
const TYPE: &str = "kubeedge-seal";

/// What a seal says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealInfo {
    pub sealed_at: SystemTime,
    /// Of the certificate that signed, lower-case hex.
    pub serial_hex: String,
}

/// Why a seal does not hold. `Display` is what a pod's status says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("the seal is malformed: {0}")]
    Malformed(&'static str),
    #[error("the seal's signature does not verify")]
    Forged,
    #[error("the seal is for an object of another kind")]
    OtherKind,
    #[error("the seal is for another node")]
    OtherNode,
    #[error("the object differs from what was sealed")]
    Changed,
    #[error("the seal's signer is not trusted: {0}")]
    Signer(SvidError),
    #[error("the seal's signer is not cloudcore")]
    NotCloudcore,
}

/// Seals `payload` for `node`. `x5c` is the signer's chain, leaf first, without the root.
///
/// # Errors
/// [`IdentityError::Certificate`] when there is no chain or the system has no randomness.
pub fn sign(
    signer: &EcdsaKeyPair,
    x5c: &[Vec<u8>],
    kind: &str,
    node: &NodeName,
    payload: &[u8],
    now: SystemTime,
) -> Result<String, IdentityError> {
    if x5c.is_empty() {
        return Err(IdentityError::Certificate("of the seal's signer is missing".into()));
    }
    let chain: Vec<String> = x5c.iter().map(|der| STANDARD.encode(der)).collect();
    let header = json!({"alg": "ES256", "typ": TYPE, "x5c": chain});
    let claims = json!({
        "kind": kind,
        "node": node.as_str(),
        "hash": sha256_hex(payload),
        "iat": unix_secs(now),
    });
    let signed = unsigned(&header, &claims);
    let signature = signer
        .sign(&SystemRandom::new(), signed.as_bytes())
        .map_err(|_| IdentityError::Certificate("a seal could not be signed".into()))?;
    Ok(format!("{signed}.{}", encode(signature.as_ref())))
}

/// Is this cloudcore's seal over exactly this object for this node?
///
/// # Errors
/// What is wrong, in the order in which it is looked at: form, signer, signature, then what it is for.
pub fn verify(
    seal: &str,
    kind: &str,
    node: &NodeName,
    payload: &[u8],
    roots: &TrustBundle,
) -> Result<SealInfo, SealError> {
    let jws = Compact::parse(seal).map_err(|_| SealError::Malformed("it is not a compact JWS"))?;
    let malformed = SealError::Malformed;
    jws.require_alg("ES256").map_err(|_| malformed("its alg is not ES256"))?;
    if jws.header.get("typ").and_then(Value::as_str) != Some(TYPE) {
        return Err(malformed("its typ is not that of a seal"));
    }
    let chain = x5c(&jws.header)?;
    let iat = jws.seconds("iat").ok_or(malformed("iat is missing"))?;
    let sealed_at = UNIX_EPOCH
        .checked_add(Duration::from_secs(iat))
        .filter(|_| iat <= LAST_SECOND)
        .ok_or(malformed("iat is no time"))?;

    let signer = verify_x509_svid(&chain, roots, sealed_at).map_err(SealError::Signer)?;
    // The path is the standing of the signer: nodes and workloads seal nothing.
    if signer.id.path() != "/cloudcore" || signer.issuer != SvidIssuer::Cloud {
        return Err(SealError::NotCloudcore);
    }
    let leaf = chain.first().and_then(|der| parse(der).ok()).ok_or(malformed("x5c is empty"))?;
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, leaf.public_key().subject_public_key.data.as_ref())
        .verify(jws.signed.as_bytes(), &jws.signature)
        .map_err(|_| SealError::Forged)?;

    let text = |claim: &str| jws.claims.get(claim).and_then(Value::as_str);
    if text("kind") != Some(kind) {
        return Err(SealError::OtherKind);
    }
    if text("node") != Some(node.as_str()) {
        return Err(SealError::OtherNode);
    }
    if text("hash") != Some(&sha256_hex(payload)) {
        return Err(SealError::Changed);
    }
    Ok(SealInfo { sealed_at, serial_hex: signer.serial_hex })
}

/// End of the year 9999, the last X.509 can say.
const LAST_SECOND: u64 = 253_402_300_799;

fn x5c(header: &Map<String, Value>) -> Result<Vec<Vec<u8>>, SealError> {
    let list = header.get("x5c").and_then(Value::as_array).ok_or(SealError::Malformed("x5c is missing"))?;
    list.iter()
        .map(|one| one.as_str().and_then(|text| STANDARD.decode(text).ok()))
        .collect::<Option<_>>()
        .ok_or(SealError::Malformed("x5c is not base64"))
}

/// What a pod's seal is over: name, namespace, uid, labels, annotations without the seal, and spec.
/// Status and what the API counts (resourceVersion, managedFields) change without changing what runs.
#[must_use]
pub fn pod_payload(pod: &Value) -> Vec<u8> {
    let metadata = pod.get("metadata").unwrap_or(&Value::Null);
    let part = |name: &str| metadata.get(name).cloned().unwrap_or(Value::Null);
    let map = |name: &str| match part(name) {
        Value::Null => Value::Object(Map::new()),
        other => other,
    };
    let mut annotations = map("annotations");
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.remove(SEAL_ANNOTATION);
    }
    canonical(&json!({
        "metadata": {
            "namespace": part("namespace"),
            "name": part("name"),
            "uid": part("uid"),
            "labels": map("labels"),
            "annotations": annotations,
        },
        "spec": pod.get("spec").cloned().unwrap_or(Value::Null),
    }))
}

/// JSON with sorted keys and no white space: equal values give equal bytes.
#[must_use]
pub fn canonical(value: &Value) -> Vec<u8> {
    let mut out = String::new();
    write_canonical(value, &mut out);
    out.into_bytes()
}

/// Values come from JSON text, whose depth serde_json bounds at 128.
fn write_canonical(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_unstable_by_key(|(key, _)| key.as_str());
            out.push('{');
            for (i, (key, member)) in sorted.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                write_canonical(member, out);
            }
            out.push('}');
        }
        // serde_json reads a long fraction back with an error in its last bit: 15 digits are sure.
        Value::Number(number) if number.is_f64() => {
            out.push_str(&format!("{:.14e}", number.as_f64().unwrap_or_default()));
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

#[cfg(test)]
mod tests;
