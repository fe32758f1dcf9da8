//! What KubeEdge's programs would refuse of what ours send them: Go's decoding, as strict as it is.

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod, Secret};
use serde_json::Value;

/// RFC 3339 in whole seconds or with a fraction: what `metav1.Time` reads.
pub fn is_time(text: &str) -> bool {
    text.len() >= 20 && text.contains('T') && text.parse::<jiff::Timestamp>().is_ok()
}

/// `2006-01-02T15:04:05.000000Z07:00`: what `metav1.MicroTime` reads, six digits and no other number.
pub fn is_micro_time(text: &str) -> bool {
    let digits = text.split_once('.').map(|(_, rest)| rest.bytes().take_while(u8::is_ascii_digit).count());
    is_time(text) && digits == Some(6)
}

/// What is wrong with a frame, whatever it is about (protocol sections 1.2 and 2.1; `model.Message` of
/// beehive). Go would read some of this; but nothing of Go's writes it.
pub fn frame(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    if !text.ends_with('\n') {
        wrong.push("it does not end with a newline".to_owned());
    }
    let value: Value = match serde_json::from_str(text) {
        Ok(value) => value,
        Err(err) => return vec![format!("it is no JSON: {err}")],
    };
    let fields = |part: &str, known: &[&str], wrong: &mut Vec<String>| {
        let Some(object) = value.pointer(part).and_then(Value::as_object) else {
            return wrong.push(format!("{part:?} is no object"));
        };
        for (field, value) in object {
            if !known.contains(&field.as_str()) {
                wrong.push(format!("{part}/{field} is no field of Go's"));
            } else if !part.is_empty() && field != "timestamp" && !value.is_string() {
                wrong.push(format!("{part}/{field} is {value}: no text"));
            }
        }
    };
    fields("", &["header", "route", "content"], &mut wrong);
    let header = ["msg_id", "parent_msg_id", "timestamp", "resourceversion"]; // sync is never on the wire
    fields("/header", &header, &mut wrong);
    fields("/route", &["source", "group", "operation", "resource"], &mut wrong);
    if value.get("content").is_none() {
        wrong.push("content is missing".to_owned());
    }
    let id = value.pointer("/header/msg_id").and_then(Value::as_str).unwrap_or_default();
    if uuid::Uuid::parse_str(id).is_err() {
        wrong.push(format!("msg_id {id:?} is no UUID"));
    }
    // 2020 to 2100, in milliseconds.
    let at = value.pointer("/header/timestamp").and_then(Value::as_i64).unwrap_or_default();
    if !(1_577_836_800_000..4_102_444_800_000).contains(&at) {
        wrong.push(format!("timestamp {at} is no time in milliseconds"));
    }
    let version = value.pointer("/header/resourceversion").and_then(Value::as_str);
    if version.is_some_and(|version| version.parse::<u64>().is_err()) {
        wrong.push(format!("resourceversion {version:?} is no decimal: it panics a Go cloud"));
    }
    wrong
}

/// Does Go's struct for this kind read the object?
///
/// # Errors
/// What its decoder says.
pub fn decode(kind: &str, object: &Value) -> Result<(), String> {
    let read = match kind {
        "pod" | "podpatch" => read::<Pod>(object),
        "node" | "nodepatch" => read::<Node>(object),
        "lease" => read::<Lease>(object),
        "configmap" => read::<ConfigMap>(object),
        "secret" => read::<Secret>(object),
        "serviceaccounttoken" => read::<TokenRequest>(object),
        "event" => read::<Event>(object),
        "device" => device(object),
        "devicemodel" => model(object),
        other => return Err(format!("kind {other:?} is not known to KubeEdge 1.23")),
    };
    read.and_then(|()| times("", object))
}

fn read<T: serde::de::DeserializeOwned>(object: &Value) -> Result<(), String> {
    // Go's structs have kind and apiVersion inline and read what is there; k8s-openapi insists on them.
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    drop_nulls(&mut object); // Go's zero value everywhere
    serde_json::from_value::<T>(object).map(drop).map_err(|err| err.to_string())
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(drop_nulls);
        }
        Value::Array(elements) => elements.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

/// Times by the names of their fields.
fn times(path: &str, value: &Value) -> Result<(), String> {
    match value {
        Value::Object(fields) => {
            fields.iter().try_for_each(|(field, value)| {
                let path = format!("{path}/{field}");
                match value {
                    Value::String(text)
                        if matches!(field.as_str(), "renewTime" | "acquireTime" | "eventTime") =>
                    {
                        if is_micro_time(text) {
                            Ok(())
                        } else {
                            Err(format!("{path}: {text:?} is no MicroTime"))
                        }
                    }
                    Value::String(text) if is_time_field(field) && !path.contains("/twins/") => {
                        if is_time(text) { Ok(()) } else { Err(format!("{path}: {text:?} is no Time")) }
                    }
                    value => times(&path, value),
                }
            })
        }
        Value::Array(elements) => elements.iter().try_for_each(|element| times(path, element)),
        _ => Ok(()),
    }
}

fn is_time_field(field: &str) -> bool {
    const SHORT: [&str; 4] = ["startedAt", "finishedAt", "startTime", "time"];
    field.ends_with("Timestamp")
        || SHORT.contains(&field)
        || (field.starts_with("last") && field.ends_with("Time"))
}

/// `DeviceSpec` of `devices.kubeedge.io/v1beta1`.
fn device(object: &Value) -> Result<(), String> {
    let spec = object.get("spec").ok_or("spec is missing")?;
    let text = |value: Option<&Value>, what: &str| match value {
        None | Some(Value::String(_)) => Ok(()),
        Some(other) => Err(format!("{what} is {other}: no text")),
    };
    text(spec.pointer("/deviceModelRef/name"), "deviceModelRef.name")?;
    text(spec.get("nodeName"), "nodeName")?;
    for property in spec.get("properties").and_then(Value::as_array).into_iter().flatten() {
        text(property.get("name"), "name")?;
        text(property.pointer("/desired/value"), "desired.value")?;
        for cycle in ["reportCycle", "collectCycle"] {
            if property.get(cycle).is_some_and(|value| !value.is_i64()) {
                return Err(format!("{cycle} is no int64"));
            }
        }
    }
    Ok(())
}

fn model(object: &Value) -> Result<(), String> {
    let properties = object.pointer("/spec/properties").and_then(Value::as_array);
    for property in properties.into_iter().flatten() {
        for field in ["name", "description", "type", "accessMode", "minimum", "maximum", "unit"] {
            if property.get(field).is_some_and(|value| !value.is_string()) {
                return Err(format!("{field} of a property is no text"));
            }
        }
    }
    Ok(())
}

#[test]
fn what_go_refuses() {
    use serde_json::json;
    assert!(is_micro_time("2026-11-22T19:40:17.934080Z") && !is_micro_time("2026-11-22T19:40:17.934Z"));
    assert!(is_time("2026-11-22T19:40:17Z") && !is_time("2026-11-22") && !is_time("today"));
    let lease = |at: &str| json!({"metadata": {"creationTimestamp": null}, "spec": {"renewTime": at}});
    assert_eq!(decode("lease", &lease("2026-11-22T19:40:17.934080Z")), Ok(()));
    assert!(decode("lease", &lease("2026-11-22T19:40:17Z")).is_err());
    assert!(decode("pod", &json!({"spec": {"containers": "none"}})).is_err());
    assert!(decode("device", &json!({"spec": {"properties": [{"desired": {"value": 7}}]}})).is_err());
    assert!(decode("edgeidentity", &json!({})).is_err(), "ours, not for Go");
    let sync = "{\"header\":{\"msg_id\":\"459e86d6-5727-44be-9152-7f29eb03d37c\",\"timestamp\":1795376407516,\
                \"sync\":true},\"route\":{},\"content\":null}\n";
    assert_eq!(frame(sync).len(), 1, "{:?}", frame(sync));
    assert_eq!(frame(&sync.replace(",\"sync\":true", "")), [""; 0]);
}
