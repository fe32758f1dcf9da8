//! From the parts of a protobuf message to the fields of a JSON object.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_pb::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use serde_json::{Map, Value};

/// A JSON object being built. What is absent or empty is left out.
#[derive(Debug, Default)]
pub struct Object(Map<String, Value>);

impl Object {
    pub fn text(mut self, name: &str, value: Option<String>) -> Self {
        if let Some(text) = value.filter(|text| !text.is_empty()) {
            self.0.insert(name.to_owned(), text.into());
        }
        self
    }

    pub fn number(mut self, name: &str, value: Option<impl Into<i64>>) -> Self {
        if let Some(number) = value {
            self.0.insert(name.to_owned(), Value::from(number.into()));
        }
        self
    }

    /// A number whose zero means absent.
    pub fn count(self, name: &str, value: Option<impl Into<i64>>) -> Self {
        let value = value.map(Into::into).filter(|number| *number != 0);
        self.number(name, value)
    }

    pub fn flag(mut self, name: &str, value: Option<bool>) -> Self {
        if let Some(flag) = value {
            self.0.insert(name.to_owned(), flag.into());
        }
        self
    }

    /// To the second; a time that no calendar has is left out.
    pub fn time(self, name: &str, value: Option<Time>) -> Self {
        let seconds = value.and_then(|time| time.seconds);
        let time = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
        self.text(name, time.map(|time| time.to_string()))
    }

    /// To the microsecond.
    pub fn micro_time(self, name: &str, value: Option<MicroTime>) -> Self {
        let time = value.and_then(|time| {
            let seconds = time.seconds?;
            Timestamp::new(seconds, time.nanos.unwrap_or_default()).ok()
        });
        self.text(name, time.map(|time| format!("{time:.6}")))
    }

    pub fn texts(self, name: &str, values: Vec<String>) -> Self {
        self.list(name, values.into_iter().map(Value::from).collect())
    }

    pub fn list(mut self, name: &str, values: Vec<Value>) -> Self {
        if !values.is_empty() {
            self.0.insert(name.to_owned(), Value::Array(values));
        }
        self
    }

    pub fn map(self, name: &str, values: BTreeMap<String, String>) -> Self {
        self.entries(name, values.into_iter().map(|(key, value)| (key, value.into())).collect())
    }

    pub fn bytes_map(self, name: &str, values: BTreeMap<String, Vec<u8>>) -> Self {
        let encoded = values.into_iter().map(|(key, value)| (key, STANDARD.encode(value).into()));
        self.entries(name, encoded.collect())
    }

    fn entries(mut self, name: &str, entries: Map<String, Value>) -> Self {
        if !entries.is_empty() {
            self.0.insert(name.to_owned(), Value::Object(entries));
        }
        self
    }

    /// A nested object, kept even when empty: it was there.
    pub fn object(mut self, name: &str, value: Option<Self>) -> Self {
        if let Some(object) = value {
            self.0.insert(name.to_owned(), object.into());
        }
        self
    }

    /// A nested object that says something.
    pub fn filled(self, name: &str, value: Option<Self>) -> Self {
        self.object(name, value.filter(|object| !object.0.is_empty()))
    }

    /// A JSON document carried as bytes.
    pub fn raw(mut self, name: &str, value: Option<Vec<u8>>) -> Self {
        if let Some(document) = value.and_then(|raw| serde_json::from_slice(&raw).ok()) {
            self.0.insert(name.to_owned(), document);
        }
        self
    }
}

impl From<Object> for Value {
    fn from(object: Object) -> Self {
        Self::Object(object.0)
    }
}
