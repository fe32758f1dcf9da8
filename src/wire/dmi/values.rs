//! Free fields of a device (`configData`) as `google.protobuf.Any` and back.
//!
//! KubeEdge wraps texts as `StringValue`, booleans as `BoolValue`, every number as `FloatValue`
//! (32 bits) and refuses the whole device for anything nested. Here a number that a `FloatValue`
//! would change travels as `Int64Value` or `DoubleValue` instead (mappers know these wrappers), a
//! nested object or list as a `StringValue` with its JSON text, and `null` is left out: what
//! KubeEdge delivers has the same bytes, what it loses arrives.

use std::collections::BTreeMap;

use prost::Message;
use prost_types::Any;
use serde_json::{Map, Number, Value};

use super::CustomizedValue;

const PREFIX: &str = "type.googleapis.com/google.protobuf.";

/// A wrapper this side cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    #[error("{field}: {type_url:?} is no wrapper of a plain value")]
    Unknown { field: String, type_url: String },
    #[error("{field}: the bytes are no {wrapper}")]
    Broken { field: String, wrapper: String },
    #[error("{field}: {value} is not a number JSON can hold")]
    NotFinite { field: String, value: String },
}

/// One value; `None` for `null`.
#[must_use]
pub fn pack(value: &Value) -> Option<Any> {
    Some(match value {
        Value::Null => return None,
        Value::Bool(is) => wrap("BoolValue", is),
        Value::String(text) => wrap("StringValue", text),
        Value::Number(number) => pack_number(number),
        Value::Array(_) | Value::Object(_) => wrap("StringValue", &value.to_string()),
    })
}

/// As a `FloatValue` when its shortest text stays the same, else as the wrapper that keeps it.
fn pack_number(number: &Number) -> Any {
    let wide = number.as_f64().unwrap_or_default();
    #[expect(clippy::cast_possible_truncation, reason = "checked on the next lines")]
    let narrow = wide as f32;
    let text = number.to_string();
    let same = |text: &str| text == narrow.to_string() || text == format!("{narrow}.0");
    if narrow.is_finite() && (same(&text) || same(&wide.to_string()) && number.is_f64()) {
        return wrap("FloatValue", &narrow);
    }
    if let Some(whole) = number.as_i64() {
        return wrap("Int64Value", &whole);
    }
    match number.as_u64() {
        Some(whole) => wrap("UInt64Value", &whole),
        None => wrap("DoubleValue", &wide),
    }
}

fn wrap(kind: &str, value: &impl Message) -> Any {
    Any { type_url: format!("{PREFIX}{kind}"), value: value.encode_to_vec() }
}

/// The value in a wrapper. A 32-bit float reads as its shortest decimal: 0.1 stays 0.1.
///
/// # Errors
/// [`ValueError`], naming `field`.
pub fn unpack(field: &str, any: &Any) -> Result<Value, ValueError> {
    let kind = any.type_url.rsplit('/').next().and_then(|name| name.strip_prefix("google.protobuf."));
    let Some(kind) = kind else {
        return Err(ValueError::Unknown { field: field.to_owned(), type_url: any.type_url.clone() });
    };
    let bytes = any.value.as_slice();
    let broken = |_| ValueError::Broken { field: field.to_owned(), wrapper: kind.to_owned() };
    Ok(match kind {
        "StringValue" => Value::String(String::decode(bytes).map_err(broken)?),
        "BoolValue" => Value::Bool(bool::decode(bytes).map_err(broken)?),
        "FloatValue" => {
            let narrow = f32::decode(bytes).map_err(broken)?;
            float(field, narrow.to_string().parse().unwrap_or(f64::from(narrow)))?
        }
        "DoubleValue" => float(field, f64::decode(bytes).map_err(broken)?)?,
        "Int32Value" => Value::from(i32::decode(bytes).map_err(broken)?),
        "Int64Value" => Value::from(i64::decode(bytes).map_err(broken)?),
        "UInt32Value" => Value::from(u32::decode(bytes).map_err(broken)?),
        "UInt64Value" => Value::from(u64::decode(bytes).map_err(broken)?),
        "BytesValue" => {
            let bytes = Vec::<u8>::decode(bytes).map_err(broken)?;
            Value::String(String::from_utf8_lossy(&bytes).into_owned())
        }
        _ => {
            return Err(ValueError::Unknown { field: field.to_owned(), type_url: any.type_url.clone() });
        }
    })
}

/// Whole numbers read as integers.
fn float(field: &str, value: f64) -> Result<Value, ValueError> {
    /// Up to here every whole `f64` is exact.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and small")]
        return Ok(Value::from(value as i64));
    }
    Number::from_f64(value)
        .map(Value::Number)
        .ok_or_else(|| ValueError::NotFinite { field: field.to_owned(), value: value.to_string() })
}

/// The fields of an object; anything else has none.
#[must_use]
pub fn customized(object: &Map<String, Value>) -> CustomizedValue {
    let data: BTreeMap<String, Any> =
        object.iter().filter_map(|(name, value)| Some((name.clone(), pack(value)?))).collect();
    CustomizedValue { data }
}

/// The fields as plain JSON. A text that holds a JSON object or list stays a text.
///
/// # Errors
/// [`ValueError`], naming the field.
pub fn plain(value: &CustomizedValue) -> Result<Map<String, Value>, ValueError> {
    value.data.iter().map(|(name, any)| Ok((name.clone(), unpack(name, any)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn each_value_travels_in_the_wrapper_mappers_know() {
        for (value, wrapper, back) in [
            (json!("on"), "StringValue", json!("on")),
            (json!(true), "BoolValue", json!(true)),
            (json!(502), "FloatValue", json!(502)),
            (json!(0.1), "FloatValue", json!(0.1)),
            (json!(2.0), "FloatValue", json!(2)),
            (json!(16_777_217), "Int64Value", json!(16_777_217)),
            (json!(1_234.567_89), "DoubleValue", json!(1_234.567_89)),
            (json!(u64::MAX), "UInt64Value", json!(u64::MAX)),
            (json!({"mode": "TCP"}), "StringValue", json!("{\"mode\":\"TCP\"}")),
            (json!([1, 2]), "StringValue", json!("[1,2]")),
        ] {
            let any = pack(&value).unwrap();
            assert_eq!(any.type_url, format!("{PREFIX}{wrapper}"), "{value}");
            assert_eq!(unpack("f", &any).unwrap(), back, "{value}");
        }
        assert_eq!(pack(&Value::Null), None);
    }

    #[test]
    fn reads_what_other_mappers_write_and_names_what_it_cannot_read() {
        let any = |kind: &str, value: Vec<u8>| Any { type_url: format!("{PREFIX}{kind}"), value };
        assert_eq!(unpack("f", &any("Int32Value", vec![8, 5])).unwrap(), json!(5));
        assert_eq!(unpack("f", &any("UInt32Value", vec![8, 5])).unwrap(), json!(5));
        assert_eq!(unpack("f", &any("FloatValue", vec![])).unwrap(), json!(0));
        assert_eq!(unpack("f", &any("BytesValue", vec![10, 1, 65])).unwrap(), json!("A"));
        let unknown = unpack("slaveID", &any("Struct", vec![])).unwrap_err();
        assert!(unknown.to_string().starts_with("slaveID: "), "{unknown}");
        let broken = unpack("slaveID", &any("StringValue", vec![10, 9])).unwrap_err();
        assert_eq!(broken.to_string(), "slaveID: the bytes are no StringValue");
        let nan = unpack("f", &any("FloatValue", vec![0x0d, 0, 0, 0xc0, 0x7f])).unwrap_err();
        assert!(nan.to_string().contains("NaN"), "{nan}");
    }

    proptest! {
        #[test]
        fn no_number_changes_on_the_way(whole in any::<i64>(), wide in any::<f64>()) {
            for value in [json!(whole), json!(wide)].iter().filter(|value| value.is_number()) {
                let back = unpack("f", &pack(value).unwrap()).unwrap();
                prop_assert_eq!(back.as_f64(), value.as_f64());
                if value.is_i64() {
                    prop_assert_eq!(&back, value);
                }
            }
        }

        #[test]
        fn any_bytes_never_panic(kind in "(String|Bool|Float|Double|Int64|Bytes)Value", value in prop::collection::vec(any::<u8>(), 0..24)) {
            drop(unpack("f", &Any { type_url: format!("{PREFIX}{kind}"), value }));
        }
    }
}
