//! What the twin needs of a Device object (`devices.kubeedge.io/v1beta1`).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::model::DeviceId;
use crate::model::device::EXPORT_ANNOTATION;

/// The parts of a Device that matter here.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spec {
    pub uid: String,
    /// 0 when the object does not say.
    pub version: u64,
    /// Name of the DeviceModel, in the same namespace.
    pub model: Option<String>,
    pub description: String,
    pub properties: BTreeSet<String>,
    /// Desired values by property; no entry where none is said.
    pub desired: BTreeMap<String, String>,
    pub exports: Exported,
}

/// Which properties become metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Exported {
    #[default]
    None,
    All,
    These(BTreeSet<String>),
}

impl Exported {
    fn read(annotation: &str) -> Self {
        let names: BTreeSet<String> =
            annotation.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
        match names {
            names if names.contains("*") => Self::All,
            names if names.is_empty() => Self::None,
            names => Self::These(names),
        }
    }

    #[must_use]
    pub fn includes(&self, property: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::These(names) => names.contains(property),
        }
    }
}

/// Namespace and name of an object.
#[must_use]
pub fn identity(object: &Value) -> Option<DeviceId> {
    let text =
        |pointer: &str| object.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    DeviceId::plain(text("/metadata/namespace")?, text("/metadata/name")?)
}

impl Spec {
    /// `other` is an earlier version of the same object.
    #[must_use]
    pub fn is_newer_than(&self, other: &Self) -> bool {
        self.uid == other.uid && self.version > other.version && other.version > 0
    }

    #[must_use]
    pub fn read(object: &Value) -> Self {
        let metadata = object.get("metadata");
        let annotation =
            metadata.and_then(|metadata| metadata.get("annotations")?.get(EXPORT_ANNOTATION)?.as_str());
        let description = metadata.and_then(|metadata| metadata.get("labels")?.get("description")?.as_str());
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let mut spec = Self {
            uid: text("/metadata/uid").to_owned(),
            version: text("/metadata/resourceVersion").parse().unwrap_or_default(),
            model: object
                .pointer("/spec/deviceModelRef/name")
                .and_then(Value::as_str)
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
            description: description.unwrap_or_default().to_owned(),
            exports: annotation.map(Exported::read).unwrap_or_default(),
            ..Self::default()
        };
        let listed = object.pointer("/spec/properties").and_then(Value::as_array);
        for property in listed.into_iter().flatten() {
            let Some(name) = property.get("name").and_then(Value::as_str) else { continue };
            // An absent value and an empty one are the same in KubeEdge's types.
            let desired = property.pointer("/desired/value").and_then(Value::as_str).unwrap_or_default();
            if !desired.is_empty() {
                spec.desired.insert(name.to_owned(), desired.to_owned());
            }
            spec.properties.insert(name.to_owned());
        }
        spec
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn reads_what_matters_and_forgives_the_rest() {
        let object = json!({"metadata": {"namespace": "default", "name": "sensor-1", "labels": {"description": "hall"},
            "annotations": {EXPORT_ANNOTATION: "temperature, humidity,"}},
            "spec": {"deviceModelRef": {"name": "m"}, "properties": [
                {"name": "temperature", "desired": {"value": "20"}}, {"name": "humidity", "desired": {"value": ""}},
                {"name": "door"}, {"desired": {"value": "1"}}, 7]}});
        let spec = Spec::read(&object);
        assert_eq!(spec.model.as_deref(), Some("m"));
        assert_eq!(spec.description, "hall");
        assert_eq!(spec.desired, BTreeMap::from([("temperature".to_owned(), "20".to_owned())]));
        assert_eq!(spec.properties.len(), 3);
        assert!(spec.exports.includes("humidity") && !spec.exports.includes("door"));
        assert_eq!(identity(&object), Some(DeviceId::new("default", "sensor-1")));
        assert_eq!(
            (Spec::read(&json!("x")), identity(&json!({"metadata": {"name": "x"}}))),
            (Spec::default(), None)
        );
        for name in ["a/b", "+", "#", "a\0", "a\n", "", &"x".repeat(254)] {
            let object = json!({"metadata": {"namespace": "default", "name": name}});
            assert_eq!(
                (identity(&object), DeviceId::parse(&format!("default/{name}"))),
                (None, None),
                "{name:?}"
            );
        }
        assert_eq!([" ", "a,*"].map(Exported::read), [Exported::None, Exported::All]);
    }
}
