//! Request bodies: JSON, YAML or Kubernetes protobuf in, one JSON tree out; unknown fields.

use http::HeaderMap;
use serde_json::Value;

use super::custom;
use super::errors::ApiError;
use super::kinds::Kind;
use super::query::{FieldValidation, content_type};
use crate::kube::{protobuf, yaml};

/// Largest body accepted, bytes, as in Kubernetes.
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// Bytes of a YAML body times the lists and maps in brackets it opens: the parser's work, as each may stand in
/// the one before.
const MAX_FLOW: usize = 1 << 28;

/// What bodies may be written in.
const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

/// Decodes a body by its Content-Type.
///
/// # Errors
/// 413, 415, or 400 saying where it is malformed.
pub fn decode(headers: &HeaderMap, body: &[u8]) -> Result<Value, ApiError> {
    check_size(body)?;
    match content_type(headers) {
        "application/json" => parse_json(body),
        "application/yaml" => parse_yaml(body),
        "application/vnd.kubernetes.protobuf" => protobuf::decode(body).map_err(|err| match err {
            protobuf::DecodeError::UnsupportedKind { .. } => {
                let mut refused = ApiError::unsupported_media("application/json, application/yaml");
                refused.status.message = format!("{}: {err}", refused.status.message);
                refused
            }
            protobuf::DecodeError::Malformed(_) => ApiError::bad_request(err.to_string()),
        }),
        _ => Err(ApiError::unsupported_media(ACCEPTED)),
    }
}

/// # Errors
/// 413.
pub fn check_size(body: &[u8]) -> Result<(), ApiError> {
    if body.len() > MAX_BODY_BYTES {
        return Err(too_large());
    }
    Ok(())
}

/// 413.
#[must_use]
pub fn too_large() -> ApiError {
    let reason = crate::model::Reason::RequestEntityTooLarge;
    ApiError::new(reason, format!("Request entity too large: limit is {MAX_BODY_BYTES}"))
}

/// # Errors
/// 400 saying where.
pub fn parse_json(body: &[u8]) -> Result<Value, ApiError> {
    serde_json::from_slice(body).map_err(|err| ApiError::bad_request(format!("the body is not JSON: {err}")))
}

/// # Errors
/// 400 saying where.
pub fn parse_yaml(body: &[u8]) -> Result<Value, ApiError> {
    let fail = |why: String| ApiError::bad_request(format!("the body is not YAML: {why}"));
    let text = std::str::from_utf8(body).map_err(|err| fail(err.to_string()))?;
    // Clients send JSON; who sends YAML of another sort has to as well.
    if yaml::flow(text).opened.saturating_mul(body.len()) > MAX_FLOW {
        return Err(fail("it has too many lists in [] and maps in {} for its length; send JSON".to_owned()));
    }
    let mut all = yaml::documents(text, MAX_BODY_BYTES);
    match (all.next(), all.next()) {
        (None, _) => Ok(Value::Null),
        (Some(Err(why)), _) => Err(fail(why)),
        (Some(Ok(_)), Some(_)) => Err(fail("it has more than one document".to_owned())),
        (Some(Ok(document)), None) => Ok(document),
    }
}

/// Does the body carry this kind? A body that says nothing is taken to.
///
/// # Errors
/// 400.
pub fn check_kind(kind: &Kind, object: &Value) -> Result<(), ApiError> {
    if !object.is_object() {
        return Err(ApiError::bad_request(format!("the body is not an object of kind {}", kind.kind)));
    }
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let (api_version, named) = (text("apiVersion"), text("kind"));
    if !named.is_empty() && named != kind.kind {
        return Err(ApiError::bad_request(format!(
            "{named} in version {:?} cannot be handled as a {}",
            api_version, kind.kind
        )));
    }
    let expected = kind.api_version();
    if !api_version.is_empty() && api_version != expected {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({expected})"
        )));
    }
    Ok(())
}

/// Checks types and treats unknown fields as asked; what is left is what is stored.
/// Returns warnings for the client.
///
/// # Errors
/// 400 naming the field; for `Strict`, all unknown ones.
pub fn check_fields(
    kind: &Kind,
    object: &mut Value,
    validation: FieldValidation,
) -> Result<Vec<String>, ApiError> {
    let schema = custom::of(kind)?;
    let report = if let Some(crd) = schema {
        custom::tidy(crd, object)
    } else {
        strip_nulls(object);
        match (kind.hooks.check)(&kind.api_version(), kind.kind, object) {
            Some(report) => report,
            None => return Ok(Vec::new()),
        }
    };
    let cannot = |why: String| {
        ApiError::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {why}",
            kind.kind, kind.version, kind.kind
        ))
    };
    if let Some((path, why)) = report.wrong_type {
        return Err(cannot(format!("json: cannot unmarshal field {path}: {why}")));
    }
    if report.unknown_fields.is_empty() {
        return Ok(Vec::new());
    }
    let warnings = told(&report.unknown_fields);
    if validation == FieldValidation::Strict {
        return Err(cannot(format!("strict decoding error: {}", warnings.join(", "))));
    }
    if schema.is_none() {
        // Back to front, so that positions in arrays stay true.
        for path in report.unknown_fields.iter().rev() {
            prune(object, path);
        }
    }
    Ok(if validation == FieldValidation::Warn { warnings } else { Vec::new() })
}

/// Bytes of warnings of one answer: they are headers, and clients read so much of those.
const MAX_WARNINGS_BYTES: usize = 4 << 10;

/// Unknown fields in words, as many as are worth it.
fn told(unknown: &[String]) -> Vec<String> {
    let mut left = MAX_WARNINGS_BYTES;
    let mut said: Vec<String> = Vec::new();
    for path in unknown {
        let warning = format!("unknown field {path:?}");
        if warning.len() > left {
            said.push(format!("and {} more unknown fields", unknown.len() - said.len()));
            break;
        }
        left -= warning.len();
        said.push(warning);
    }
    said
}

/// Typed decoding takes null for absent.
pub(super) fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, member| !member.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

/// Removes the member that `spec.containers[0].imagee` names; does nothing if it is not there.
pub(super) fn prune(object: &mut Value, path: &str) {
    // A name may have dots itself; known fields have none.
    if object.as_object_mut().is_some_and(|map| map.remove(path).is_some()) {
        return;
    }
    let Some((part, rest)) = path.split_once('.') else { return };
    let (name, indexes) = part.split_once('[').unwrap_or((part, ""));
    let mut at = object.get_mut(name);
    for index in indexes.split('[').filter_map(|text| text.trim_end_matches(']').parse::<usize>().ok()) {
        at = at.and_then(|list| list.get_mut(index));
    }
    if let Some(next) = at {
        prune(next, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::kinds;
    use serde_json::json;

    #[test]
    fn of_many_unknown_fields_the_first_are_told() {
        let unknown: Vec<String> = (0..1_000).map(|n| format!("k{n}")).collect();
        let said = told(&unknown);
        assert!(said.iter().map(String::len).sum::<usize>() < MAX_WARNINGS_BYTES + 100);
        let told_of = said.len() - 1;
        assert_eq!(said[told_of], format!("and {} more unknown fields", 1_000 - told_of));
        assert_eq!(told(&unknown[..2]), ["unknown field \"k0\"", "unknown field \"k1\""]);
    }

    #[test]
    fn pruning_follows_paths() {
        let mut value = json!({"spec": {"containers": [{"a": 1}, {"b": 2, "c": {"d": 3}}]}, "x": 1});
        for path in
            ["spec.containers[1].b", "spec.containers[1].c.d", "x", "spec.none.z", "spec.containers[9].q"]
        {
            prune(&mut value, path);
        }
        assert_eq!(value, json!({"spec": {"containers": [{"a": 1}, {"c": {}}]}}));
        let mut dotted = json!({"metadata": {"labels": {"app": "a"}, "labels.app": "b"}});
        prune(&mut dotted, "metadata.labels.app");
        assert_eq!(dotted, json!({"metadata": {"labels": {"app": "a"}}}));
    }

    #[test]
    fn nulls_are_absent() {
        let mut value = json!({"metadata": {"creationTimestamp": null}, "list": [{"a": null}]});
        strip_nulls(&mut value);
        assert_eq!(value, json!({"metadata": {}, "list": [{}]}));
    }

    #[test]
    fn bodies_are_refused_with_a_reason() {
        let mut headers = HeaderMap::new();
        assert_eq!(decode(&headers, b"{").unwrap_err().code(), 400);
        assert_eq!(decode(&headers, &vec![b' '; MAX_BODY_BYTES + 1]).unwrap_err().code(), 413);
        let deep = "[".repeat(100_000);
        assert_eq!(decode(&headers, deep.as_bytes()).unwrap_err().code(), 400);
        headers.insert(http::header::CONTENT_TYPE, "application/yaml".parse().unwrap());
        assert_eq!(decode(&headers, b"a: [1").unwrap_err().code(), 400);
        assert_eq!(decode(&headers, b"- &x 1\n- *c").unwrap_err().code(), 400);
        assert_eq!(decode(&headers, b"a: {b: 1}").unwrap(), json!({"a": {"b": 1}}));
        headers.insert(http::header::CONTENT_TYPE, "text/plain".parse().unwrap());
        assert_eq!(decode(&headers, b"{}").unwrap_err().code(), 415);
    }

    #[test]
    fn aliases_cannot_blow_a_document_up() {
        let nested = "a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a,*a]\n\
            c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c,*c]\n\
            e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e,*e]\n\
            g: [*f,*f,*f,*f,*f,*f,*f,*f,*f,*f]\n";
        let flat = format!("a: &a {}\nb: [{}*a]\n", "x".repeat(100_000), "*a,".repeat(1000));
        for bomb in [nested, &flat] {
            assert!(parse_yaml(bomb.as_bytes()).is_err_and(|err| err.code() == 400));
        }
        for open in ["[", "{", "[ ", "{a: [", "? [", "- [", "[#]]]\n"] {
            let deep = open.repeat(100_000);
            assert!(parse_yaml(deep.as_bytes()).is_err_and(|err| err.code() == 400), "{open}");
        }
        let long = format!("a: [{}1]", "1,".repeat(100_000));
        assert_eq!(parse_yaml(long.as_bytes()).unwrap()["a"].as_array().unwrap().len(), 100_001);
        assert!(parse_yaml(b"a: 1\n---\nb: 2").is_err_and(|err| err.code() == 400), "one document");
        let shared = parse_yaml(b"a: &a {x: 1}\nb: *a\nc: [~, true, -1, 1.5, \"t\"]").unwrap();
        assert_eq!(shared, json!({"a": {"x": 1}, "b": {"x": 1}, "c": [null, true, -1, 1.5, "t"]}));
    }

    #[test]
    fn kinds_must_fit() {
        let pods = kinds::find("", "v1", "pods").unwrap();
        for (body, code) in [
            (json!({}), None),
            (json!({"kind": "Pod", "apiVersion": "v1"}), None),
            (json!({"kind": "Node", "apiVersion": "v1"}), Some(400)),
            (json!({"kind": "Pod", "apiVersion": "v2"}), Some(400)),
            (json!([]), Some(400)),
        ] {
            assert_eq!(check_kind(pods, &body).err().map(|err| err.code()), code, "{body}");
        }
    }
}
