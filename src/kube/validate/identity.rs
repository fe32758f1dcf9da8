//! The kinds of identity: what their schemas cannot say.
//!
//! A cluster that only knows the schemas lets more through; IdentityController asks here too and
//! leaves out what is wrong.

use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;

use super::{Errors, entries, list, present, text};
use crate::kube::names;
use crate::model::identity::TopicPolicy;

/// Longest path: with `spiffe://` and the longest trust domain (255 bytes) before it, the ID stays
/// within the 2048 bytes of the standard (protocol section 18).
pub const MAX_PATH: usize = 2048 - 9 - 255;
/// Longest SPIFFE ID.
const MAX_ID: usize = 2048;
/// Shortest life of a certificate that is asked for, seconds.
const MIN_TTL_SECS: u64 = 10;
/// Longest topic filter, bytes.
const MAX_FILTER: usize = 1024;
const SELECTORS: [&str; 6] = ["serviceAccount", "container", "imageDigest", "uid", "path", "sha256"];
/// `SubjectPublicKeyInfo` of an uncompressed P-256 point, up to the point (RFC 5480).
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A path of its own namespace, at least one selector, lives that can be renewed.
pub fn workload_identity(errors: &mut Errors, object: &Value) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    if let Some(path) = spec.get("path").and_then(Value::as_str)
        && let Err(why) = check_path(path, namespace(object))
    {
        errors.invalid("spec.path", &Value::from(path), &why);
    }
    let selectors = spec.get("selectors").unwrap_or(&Value::Null);
    let some_given = SELECTORS.iter().any(|field| present(selectors, field).is_some())
        || entries(selectors, "podLabels").next().is_some();
    if spec.is_object() && !some_given {
        errors.required("spec.selectors", "at least one selector must be given");
    }
    for (key, value) in entries(selectors, "podLabels") {
        errors.invalid_text("spec.selectors.podLabels", key, names::qualified_name(key));
        let value = value.as_str().unwrap_or_default();
        errors.invalid_text("spec.selectors.podLabels", value, names::label_value(value));
    }
    digest(errors, "spec.selectors.imageDigest".to_owned(), text(selectors, "imageDigest"));
    let hash = text(selectors, "sha256");
    if !hash.is_empty() && !is_hex_sha256(hash) {
        errors.invalid("spec.selectors.sha256", &Value::from(hash), "must be 64 lower-case hex digits");
    }
    for (index, name) in list(spec, "dnsNames").iter().enumerate() {
        let name = name.as_str().unwrap_or_default();
        errors.invalid_text(&format!("spec.dnsNames[{index}]"), name, names::dns_subdomain(name));
    }
    if let Some(ttl) = spec.get("ttlSecs").and_then(Value::as_u64)
        && (1..MIN_TTL_SECS).contains(&ttl)
    {
        let detail = format!("must be 0 or at least {MIN_TTL_SECS}");
        errors.invalid("spec.ttlSecs", &Value::from(ttl), &detail);
    }
}

/// Each rule says something, digests are whole, keys can be read.
pub fn image_policy(errors: &mut Errors, object: &Value) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    for (index, rule) in list(spec, "allow").iter().enumerate() {
        let at = format!("spec.allow[{index}]");
        let fields = ["registry", "digest", "cosignKey"];
        if !fields.iter().any(|field| !text(rule, field).is_empty()) {
            errors.required(at.as_str(), "one of registry, digest and cosignKey must be given");
        }
        digest(errors, format!("{at}.digest"), text(rule, "digest"));
        let key = text(rule, "cosignKey");
        if !key.is_empty() && !is_p256_key(key) {
            let detail = "must be a PEM public key (BEGIN PUBLIC KEY) of the curve P-256";
            errors.invalid(format!("{at}.cosignKey"), &Value::from(key), detail);
        }
    }
}

/// Subjects of its own namespace, filters that a client could subscribe to.
pub fn topic_policy(errors: &mut Errors, object: &Value) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    for (index, subject) in list(spec, "subjects").iter().enumerate() {
        let Some(subject) = subject.as_str() else { continue };
        if let Err(why) = check_subject(subject, namespace(object)) {
            errors.invalid(format!("spec.subjects[{index}]"), &Value::from(subject), &why);
        }
    }
    for field in ["publish", "subscribe"] {
        for (index, filter) in list(spec, field).iter().enumerate() {
            let Some(filter) = filter.as_str() else { continue };
            let at = format!("spec.{field}[{index}]");
            if let Err(why) = check_filter(filter) {
                errors.invalid(at, &Value::from(filter), why);
            } else if TopicPolicy::is_foreign(filter, namespace(object)) {
                let why = "must not reach devices of other namespaces";
                errors.invalid(at, &Value::from(filter), why);
            }
        }
    }
}

fn namespace(object: &Value) -> &str {
    object.get("metadata").map(|meta| text(meta, "namespace")).unwrap_or_default()
}

/// The path of an identity that objects of `namespace` may give.
fn check_path(path: &str, namespace: &str) -> Result<(), String> {
    if path.len() > MAX_PATH {
        return Err(format!("must be no more than {MAX_PATH} bytes"));
    }
    check_segments(path)?;
    let mut segments = path.split('/').skip(1);
    let (root, owner, first) = (segments.next(), segments.next(), segments.next());
    match (root, owner, first) {
        (Some("ns"), Some(own), Some("sa")) if own == namespace => Err(format!(
            "must not be below /ns/{namespace}/sa/: pods have these identities by their service accounts alone"
        )),
        (Some("ns" | "device"), Some(own), Some(_)) if own == namespace => Ok(()),
        _ => Err(format!("must be below /ns/{namespace}/ or /device/{namespace}/")),
    }
}

/// The rules of SPIFFE for what stands behind the trust domain (protocol section 18).
fn check_segments(path: &str) -> Result<(), String> {
    let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    let Some(inside) = path.strip_prefix('/') else { return Err("must begin with '/'".to_owned()) };
    for segment in inside.split('/') {
        if segment.is_empty() || segment == "." || segment == ".." || !segment.bytes().all(legal) {
            let rule = "must have segments of letters, digits, '.', '-' and '_', none empty, '.' or '..'";
            return Err(rule.to_owned());
        }
    }
    Ok(())
}

fn check_subject(subject: &str, namespace: &str) -> Result<(), String> {
    if subject.len() > MAX_ID {
        return Err(format!("must be no more than {MAX_ID} bytes"));
    }
    let covers = subject.strip_suffix("/*");
    let Some(rest) = covers.unwrap_or(subject).strip_prefix("spiffe://") else {
        return Err("must begin with spiffe://".to_owned());
    };
    let (domain, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_');
    if domain.is_empty() || domain.len() > 255 || !domain.bytes().all(legal) {
        return Err("must have a trust domain of lower-case letters, digits, '.', '-' and '_'".to_owned());
    }
    check_segments(path)?;
    let mut segments = path.split('/').skip(1);
    let owner = (segments.next(), segments.next());
    let is_inside = segments.next().is_some() || covers.is_some();
    match owner {
        (Some("ns" | "device"), Some(own)) if own == namespace && is_inside => Ok(()),
        _ => Err(format!(
            "must be below spiffe://{domain}/ns/{namespace}/ or spiffe://{domain}/device/{namespace}/"
        )),
    }
}

/// The rules of MQTT 5.0 section 4.7; a shared subscription is no topic.
fn check_filter(filter: &str) -> Result<(), &'static str> {
    if filter.is_empty() {
        return Err("must not be empty");
    }
    if filter.len() > MAX_FILTER {
        return Err("must be no more than 1024 bytes");
    }
    if filter.contains('\0') {
        return Err("must not contain NUL");
    }
    if filter == "$share" || filter.starts_with("$share/") {
        return Err("must name topics: a shared subscription is covered by its filter alone");
    }
    let mut ended = false;
    for level in filter.split('/') {
        if ended || (level.len() > 1 && level.contains(['+', '#'])) {
            return Err("must have '+' as a whole level and '#' as the whole last one");
        }
        ended = level == "#";
    }
    Ok(())
}

fn digest(errors: &mut Errors, field: String, digest: &str) {
    if !digest.is_empty() && !digest.strip_prefix("sha256:").is_some_and(is_hex_sha256) {
        errors.invalid(field, &Value::from(digest), "must be sha256: and 64 lower-case hex digits");
    }
}

fn is_hex_sha256(hex: &str) -> bool {
    hex.len() == 64 && hex.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

/// Is it one PEM public key whose point lies on P-256?
fn is_p256_key(pem: &str) -> bool {
    let mut keys = SubjectPublicKeyInfoDer::pem_slice_iter(pem.as_bytes());
    let (Some(Ok(key)), None) = (keys.next(), keys.next()) else { return false };
    let Some(point) = key.as_ref().strip_prefix(P256_SPKI.as_slice()) else { return false };
    // ring checks a point only when it is used; a key agreement uses nothing else.
    let random = ring::rand::SystemRandom::new();
    let peer = ring::agreement::UnparsedPublicKey::new(&ring::agreement::ECDH_P256, point);
    ring::agreement::EphemeralPrivateKey::generate(&ring::agreement::ECDH_P256, &random)
        .and_then(|own| ring::agreement::agree_ephemeral(own, &peer, |_| ()))
        .is_ok()
}

#[cfg(test)]
#[path = "tests/identity_tests.rs"]
mod tests;
