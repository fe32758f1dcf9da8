//! Reading `configData`: KubeEdge's mappers spell and type the same fields in several ways
//! (`slaveID`, `SlaveId`; `502`, `"502"`), so names match in any case and numbers may be texts. Pure.

use serde_json::{Map, Value};

/// The fields of one `configData`.
#[derive(Debug, Clone, Copy)]
pub struct Fields<'v> {
    /// For errors: `configData`, or `temperature.configData`.
    path: &'v str,
    map: &'v Map<String, Value>,
}

impl<'v> Fields<'v> {
    #[must_use]
    pub fn new(path: &'v str, map: &'v Map<String, Value>) -> Self {
        Self { path, map }
    }

    /// The first of `names` that is there.
    fn get(&self, names: &[&str]) -> Option<&'v Value> {
        names.iter().find_map(|name| {
            self.map.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        })
    }

    fn wrong(&self, names: &[&str], value: &Value, wanted: &str) -> String {
        let name = names.first().copied().unwrap_or_default();
        let shown: String = value.to_string().chars().take(60).collect();
        format!("{}.{name}: {shown} is not {wanted}", self.path)
    }

    /// A text; numbers are texts too.
    ///
    /// # Errors
    /// Names the field. So with all of these.
    pub fn text(&self, names: &[&str]) -> Result<Option<String>, String> {
        match self.get(names) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(value) => Err(self.wrong(names, value, "a text")),
        }
    }

    /// A number.
    ///
    /// # Errors
    /// Names the field.
    pub fn float(&self, names: &[&str]) -> Result<Option<f64>, String> {
        let value = match self.get(names) {
            None | Some(Value::Null) => return Ok(None),
            Some(value) => value,
        };
        let number = match value {
            Value::String(text) if text.trim().is_empty() => return Ok(None),
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_f64(),
        };
        match number.filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(names, value, "a number")),
        }
    }

    /// A whole number of `low..=high`.
    ///
    /// # Errors
    /// Names the field.
    pub fn int(&self, names: &[&str], low: i64, high: i64) -> Result<Option<i64>, String> {
        let Some(number) = self.float(names)? else { return Ok(None) };
        #[expect(clippy::cast_possible_truncation, reason = "whole, and bounded on the next line")]
        let whole = number as i64;
        #[expect(clippy::cast_precision_loss, reason = "bounds are small")]
        if number.fract() == 0.0 && number >= low as f64 && number <= high as f64 {
            return Ok(Some(whole));
        }
        let value = self.get(names).unwrap_or(&Value::Null);
        Err(self.wrong(names, value, &format!("a whole number from {low} to {high}")))
    }

    /// `true` or `false`; absent is `false`.
    ///
    /// # Errors
    /// Names the field.
    pub fn flag(&self, names: &[&str]) -> Result<bool, String> {
        match self.get(names) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(Value::String(text)) if text.is_empty() || text.eq_ignore_ascii_case("false") => Ok(false),
            Some(Value::String(text)) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some(value) => Err(self.wrong(names, value, "true or false")),
        }
    }
}

/// Lifts the fields of a nested object (`communication: {mode, ip, port}`), which travels as JSON
/// text, beside the others; fields that are there already stay.
#[must_use]
pub fn flattened(map: &Map<String, Value>, nested: &str) -> Map<String, Value> {
    let mut flat = map.clone();
    let found = map.iter().find(|(key, _)| key.eq_ignore_ascii_case(nested)).map(|(_, value)| value);
    let inner = match found {
        Some(Value::Object(inner)) => Some(inner.clone()),
        Some(Value::String(text)) => serde_json::from_str(text).ok(),
        _ => None,
    };
    for (key, value) in inner.into_iter().flatten() {
        flat.entry(key).or_insert(value);
    }
    flat
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_are_found_in_any_spelling() {
        let map = json!({"SlaveID": 3, "port": "1502", "IsSwap": "true", "ip": "h", "scale": "0.1", "none": null, "e": ""});
        let map = map.as_object().unwrap();
        let fields = Fields::new("configData", map);
        assert_eq!(fields.int(&["slaveID"], 0, 255), Ok(Some(3)));
        assert_eq!(fields.int(&["Port"], 1, 65_535), Ok(Some(1502)));
        assert_eq!(fields.float(&["scale"]), Ok(Some(0.1)));
        assert_eq!(fields.flag(&["isSwap"]), Ok(true));
        assert_eq!(fields.text(&["host", "ip"]), Ok(Some("h".to_owned())));
        assert_eq!(fields.text(&["port"]), Ok(Some("1502".to_owned())));
        assert_eq!(
            (fields.text(&["none"]), fields.text(&["e"]), fields.flag(&["x"])),
            (Ok(None), Ok(None), Ok(false))
        );
        assert_eq!((fields.float(&["e"]), fields.int(&["x"], 0, 1)), (Ok(None), Ok(None)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let map = json!({"port": 70_000, "slaveID": 1.5, "scale": "fast", "isSwap": 1, "ip": {}});
        let map = map.as_object().unwrap();
        let fields = Fields::new("configData", map);
        for (got, want) in [
            (
                fields.int(&["port"], 1, 65_535).map(drop),
                "configData.port: 70000 is not a whole number from 1 to 65535",
            ),
            (
                fields.int(&["slaveID"], 0, 9).map(drop),
                "configData.slaveID: 1.5 is not a whole number from 0 to 9",
            ),
            (fields.float(&["scale"]).map(drop), "configData.scale: \"fast\" is not a number"),
            (fields.flag(&["isSwap"]).map(drop), "configData.isSwap: 1 is not true or false"),
            (fields.text(&["ip"]).map(drop), "configData.ip: {} is not a text"),
        ] {
            assert_eq!(got.unwrap_err(), want);
        }
    }

    #[test]
    fn a_nested_object_is_lifted_even_as_text() {
        let map = json!({"slaveID": 1, "communication": "{\"ip\":\"h\",\"slaveID\":9}"});
        let flat = flattened(map.as_object().unwrap(), "communication");
        assert_eq!((&flat["ip"], &flat["slaveID"]), (&json!("h"), &json!(1)));
        let real = json!({"Communication": {"port": 5}});
        assert_eq!(flattened(real.as_object().unwrap(), "communication")["port"], json!(5));
        let broken = json!({"communication": "tcp"});
        assert_eq!(flattened(broken.as_object().unwrap(), "communication").len(), 1);
    }
}
