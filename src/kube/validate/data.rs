//! ConfigMaps and Secrets: keys, sizes, what each type of secret must hold.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::{Errors, entries, names, text};

/// All values of one object together, bytes (decoded).
const DATA_MAX: usize = 1 << 20;

pub fn config_map(errors: &mut Errors, object: &Value) {
    let mut size = 0usize;
    for (key, value) in entries(object, "data") {
        errors.invalid_text(&format!("data[{key}]"), key, names::config_key(key));
        size = size.saturating_add(value.as_str().map_or(0, str::len));
    }
    for (key, value) in entries(object, "binaryData") {
        let field = format!("binaryData[{key}]");
        errors.invalid_text(&field, key, names::config_key(key));
        if object.get("data").is_some_and(|data| data.get(key).is_some()) {
            errors.invalid(field, &Value::from(key.as_str()), "duplicate of key present in data");
        }
        size = size.saturating_add(decoded_len(value));
    }
    if size > DATA_MAX {
        errors.too_long("data", DATA_MAX);
    }
}

pub fn secret(errors: &mut Errors, object: &Value) {
    let mut size = 0usize;
    for (key, value) in entries(object, "data") {
        errors.invalid_text(&format!("data[{key}]"), key, names::config_key(key));
        size = size.saturating_add(decoded_len(value));
    }
    if size > DATA_MAX {
        errors.too_long("data", DATA_MAX);
    }
    let has = |key: &str| object.get("data").is_some_and(|data| data.get(key).is_some());
    let needs: &[&str] = match text(object, "type") {
        "kubernetes.io/dockercfg" => &[".dockercfg"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => &["username", "password"],
        "kubernetes.io/service-account-token" => {
            let annotations = object.pointer("/metadata/annotations").unwrap_or(&Value::Null);
            if text(annotations, "kubernetes.io/service-account.name").is_empty() {
                errors.required("metadata.annotations[kubernetes.io/service-account.name]", "");
            }
            &[]
        }
        _ => &[],
    };
    for key in needs.iter().filter(|key| !has(key)) {
        errors.required(format!("data[{key}]"), "");
    }
    for key in needs.iter().filter(|key| key.starts_with(".docker") && has(key)) {
        let encoded = object.get("data").map_or("", |data| text(data, key));
        let readable =
            STANDARD.decode(encoded).is_ok_and(|raw| serde_json::from_slice::<Value>(&raw).is_ok());
        if !readable {
            errors.invalid(
                format!("data[{key}]"),
                &"<secret contents redacted>".into(),
                "not a JSON document",
            );
        }
    }
}

/// Bytes behind a base64 text, without decoding it.
fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or_default();
    (text.len() / 4 * 3).saturating_sub(text.bytes().rev().take_while(|byte| *byte == b'=').count())
}
