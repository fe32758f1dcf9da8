//! What keys, types and values may be: KubeEdge's rules (protocol section 7.4) for every property,
//! and the DeviceModel's for the properties it names. The texts of KubeEdge's rules are KubeEdge's.

use std::collections::BTreeMap;

use serde_json::Value;

const MAX_KEY_BYTES: usize = 128;
const MAX_VALUE_BYTES: usize = 512;
/// Longest name and value the cloud may desire, bytes. The cloud refuses a report of longer ones,
/// and with it the other values of that report.
const MAX_DESIRED_BYTES: usize = 16 << 10;

pub const DEFAULT_TYPE: &str = "string";
/// The type of a deleted property.
pub const DELETED: &str = "deleted";

/// # Errors
/// Why a property cannot have this name.
pub fn check_key(key: &str) -> Result<(), String> {
    if !key.is_empty() && key.len() <= MAX_KEY_BYTES && key.bytes().all(is_legal) {
        return Ok(());
    }
    Err("The key of twin must only include upper or lowercase letters, number, english, and special letter \
         - _ . , : / @ # and the length of key should be less than 128 bytes"
        .to_owned())
}

/// # Errors
/// Why a property cannot have this value, whatever its type.
pub fn check_text(value: &str) -> Result<(), String> {
    if value.len() <= MAX_VALUE_BYTES && value.bytes().all(is_legal) {
        return Ok(());
    }
    Err("The value of twin must only include upper or lowercase letters, number, english, and special letter \
         - _ . , : / @ # and the length of value should be less than 512 bytes"
        .to_owned())
}

fn is_legal(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"-_.,:/@#".contains(&c)
}

/// # Errors
/// The type is not one of KubeEdge's.
pub fn check_type(kind: &str) -> Result<(), String> {
    match kind {
        "" | "string" | "int" | "integer" | "float" | "boolean" | DELETED => Ok(()),
        _ => Err("the value type is not allowed".to_owned()),
    }
}

/// The cloud may desire what no local application may, but not without bound.
///
/// # Errors
/// Name or value are too long.
pub fn check_desired(name: &str, value: &str) -> Result<(), String> {
    for (what, text) in [("name", name), ("desired value", value)] {
        if text.len() > MAX_DESIRED_BYTES {
            let start: String = name.chars().take(32).collect();
            let bytes = text.len();
            return Err(format!(
                "property {start}: its {what} has {bytes} bytes, at most {MAX_DESIRED_BYTES} are taken"
            ));
        }
    }
    Ok(())
}

/// # Errors
/// The value does not have the type.
pub fn check_value(kind: &str, value: &str) -> Result<(), String> {
    check_type(kind)?;
    let (fine, why) = match kind {
        "int" | "integer" => (value.parse::<i64>().is_ok(), "the value is not int or integer"),
        "float" => (value.parse::<f64>().is_ok(), "the value is not float"),
        "boolean" => (matches!(value, "true" | "false"), "the bool value must be true or false"),
        _ => (true, ""),
    };
    if fine { Ok(()) } else { Err(why.to_owned()) }
}

/// What a DeviceModel says of its properties.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Model {
    pub name: String,
    properties: BTreeMap<String, ModelProperty>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct ModelProperty {
    /// `INT`, `FLOAT`, `DOUBLE`, `STRING`, `BOOLEAN`, `BYTES`, `STREAM`; empty when it is not said.
    kind: String,
    minimum: String,
    maximum: String,
}

impl Model {
    /// Reads a DeviceModel of `devices.kubeedge.io/v1beta1`; what is missing is not checked.
    #[must_use]
    pub fn read(object: &Value) -> Self {
        let text = |value: &Value, name: &str| {
            value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let listed = object.pointer("/spec/properties").and_then(Value::as_array);
        let properties = listed.into_iter().flatten().map(|property| {
            let limits = ModelProperty {
                kind: text(property, "type").to_ascii_uppercase(),
                minimum: text(property, "minimum"),
                maximum: text(property, "maximum"),
            };
            (text(property, "name"), limits)
        });
        let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        Self { name: name.to_owned(), properties: properties.collect() }
    }

    #[must_use]
    pub fn knows(&self, property: &str) -> bool {
        self.properties.contains_key(property)
    }

    /// The twin type of a property nobody gave a type yet.
    #[must_use]
    pub fn twin_type(&self, property: &str) -> &'static str {
        match self.properties.get(property).map(|property| property.kind.as_str()) {
            Some("INT") => "int",
            Some("FLOAT" | "DOUBLE") => "float",
            Some("BOOLEAN") => "boolean",
            _ => DEFAULT_TYPE,
        }
    }

    /// # Errors
    /// Property, value and what the model wants, when the value has another type or is out of range.
    pub fn check(&self, property: &str, value: &str) -> Result<(), String> {
        let Some(limits) = self.properties.get(property) else { return Ok(()) };
        let model = &self.name;
        let says = |what: &str| {
            Err(format!("property {property}: the value {value:?} {what} of the device model {model}"))
        };
        let is_typed = match limits.kind.as_str() {
            "INT" => value.parse::<i64>().is_ok(),
            "FLOAT" | "DOUBLE" => value.parse::<f64>().is_ok(),
            "BOOLEAN" => matches!(value, "true" | "false"),
            _ => true,
        };
        if !is_typed {
            return says(&format!("does not have the type {}", limits.kind));
        }
        if !matches!(limits.kind.as_str(), "INT" | "FLOAT" | "DOUBLE") {
            return Ok(());
        }
        if is_outside(value, &limits.minimum, |value, bound| value >= bound, |value, bound| value >= bound) {
            return says(&format!("is below the minimum {}", limits.minimum));
        }
        if is_outside(value, &limits.maximum, |value, bound| value <= bound, |value, bound| value <= bound) {
            return says(&format!("is above the maximum {}", limits.maximum));
        }
        Ok(())
    }
}

/// Compares as integers when both are: a float does not hold every one of them. A bound that is no
/// number bounds nothing; NaN is in no range.
fn is_outside(value: &str, bound: &str, int: fn(i64, i64) -> bool, float: fn(f64, f64) -> bool) -> bool {
    if let (Ok(value), Ok(bound)) = (value.parse(), bound.parse()) {
        return !int(value, bound);
    }
    match (value.parse(), bound.parse()) {
        (Ok(value), Ok(bound)) => !float(value, bound),
        _ => false,
    }
}

/// The value as a number for a metric: numbers, and booleans as 0 and 1.
#[must_use]
pub fn number(value: &str) -> Option<f64> {
    match value {
        "true" => Some(1.0),
        "false" => Some(0.0),
        _ => value.parse().ok().filter(|number: &f64| number.is_finite()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn types_and_texts() {
        for (kind, value, fine) in [
            ("", "x", true),
            ("string", "x", true),
            ("int", "-12", true),
            ("int", "", false),
            ("integer", "1.5", false),
            ("int", "9223372036854775808", false),
            ("float", "1e3", true),
            ("float", "x", false),
            ("boolean", "true", true),
            ("boolean", "True", false),
            ("boolean", "1", false),
            ("deleted", "x", true),
            ("double", "1", false),
            ("Updated", "1", false),
        ] {
            assert_eq!(check_value(kind, value).is_ok(), fine, "{kind} {value}");
        }
        for (text, key_fine, value_fine) in [
            ("aZ09-_.,:/@#", true, true),
            ("", false, true),
            ("a b", false, false),
            ("\"", false, false),
            ("{}", false, false),
            ("ä", false, false),
            ("a\0", false, false),
        ] {
            assert_eq!(
                (check_key(text).is_ok(), check_text(text).is_ok()),
                (key_fine, value_fine),
                "{text:?}"
            );
        }
        assert!(check_key(&"k".repeat(128)).is_ok() && check_key(&"k".repeat(129)).is_err());
        assert!(check_text(&"v".repeat(512)).is_ok() && check_text(&"v".repeat(513)).is_err());
    }

    #[test]
    fn a_model_names_property_value_and_bound() {
        let model = Model::read(&json!({"metadata": {"name": "m"}, "spec": {"properties": [
            {"name": "t", "type": "INT", "minimum": "-5", "maximum": "100"},
            {"name": "f", "type": "DOUBLE", "minimum": "0.5", "maximum": "high"},
            {"name": "b", "type": "BOOLEAN", "maximum": "0"},
            {"name": "s", "type": "STRING", "maximum": "3"},
            {"name": "big", "type": "INT", "maximum": "9007199254740992"},
            {"name": "untyped", "maximum": "1"}]}}));
        for (property, value, want) in [
            ("t", "100", ""),
            ("t", "-5", ""),
            ("t", "101", "property t: the value \"101\" is above the maximum 100 of the device model m"),
            ("t", "-6", "property t: the value \"-6\" is below the minimum -5 of the device model m"),
            ("t", "1.0", "property t: the value \"1.0\" does not have the type INT of the device model m"),
            ("f", "7e9", ""),
            ("f", "0.4", "property f: the value \"0.4\" is below the minimum 0.5 of the device model m"),
            ("f", "NaN", "property f: the value \"NaN\" is below the minimum 0.5 of the device model m"),
            ("b", "true", ""),
            ("b", "1", "property b: the value \"1\" does not have the type BOOLEAN of the device model m"),
            ("s", "12345", ""),
            (
                "big",
                "9007199254740993",
                "property big: the value \"9007199254740993\" is above the maximum \
              9007199254740992 of the device model m",
            ),
            ("untyped", "5", ""),
            ("unknown", "5", ""),
        ] {
            assert_eq!(model.check(property, value).err().unwrap_or_default(), want, "{property} {value}");
        }
        assert_eq!(
            ["t", "f", "b", "s", "x"].map(|p| model.twin_type(p)),
            ["int", "float", "boolean", "string", "string"]
        );
        assert_eq!(Model::read(&json!(7)), Model::default());
        assert_eq!(
            ["1.5", "true", "false", "x", "inf"].map(number),
            [Some(1.5), Some(1.0), Some(0.0), None, None]
        );
    }
}
