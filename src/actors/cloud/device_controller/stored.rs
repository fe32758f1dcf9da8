//! Objects of the API as DeviceController keeps them.

use std::sync::Arc;

use serde_json::Value;

use crate::model::device::{API_VERSION, EXPORT_ANNOTATION};

/// Kinds that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Node,
    Model,
    Device,
    Status,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Node, Self::Model, Self::Device, Self::Status];

    /// `kind` of the object.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Model => "DeviceModel",
            Self::Device => "Device",
            Self::Status => "DeviceStatus",
        }
    }

    /// The word in API paths.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Node => "nodes",
            Self::Model => "devicemodels",
            Self::Device => "devices",
            Self::Status => "devicestatuses",
        }
    }
}

/// Namespace (empty for nodes) and name.
pub type Name = (String, String);

/// A Device or a DeviceModel.
#[derive(Debug, Clone)]
pub struct Stored {
    /// With apiVersion and kind, without `managedFields`, which no edge reads.
    pub object: Arc<Value>,
    pub uid: String,
    /// The version of the last change that counts. Copies at least this new are good.
    pub version: String,
}

impl Stored {
    /// Reads what a watch delivered. `None` for an object without a name.
    #[must_use]
    pub fn read(kind: Kind, mut object: Value) -> Option<(Name, Self)> {
        let fields = object.as_object_mut()?;
        fields.insert("apiVersion".to_owned(), API_VERSION.into());
        fields.insert("kind".to_owned(), kind.name().into());
        let meta = fields.get_mut("metadata")?.as_object_mut()?;
        meta.remove("managedFields");
        let name = name_of(&object)?;
        let (uid, version) = (meta_text(&object, "uid"), meta_text(&object, "resourceVersion"));
        Some((name, Self { uid: uid.to_owned(), version: version.to_owned(), object: Arc::new(object) }))
    }

    /// Is it the same object with the same spec (protocol section 7.2: only the spec counts) and the
    /// same wish for metrics? Then the older version stays good.
    pub fn follows(&mut self, old: &Self) -> bool {
        let exports =
            |of: &Self| of.object.get("metadata")?.get("annotations")?.get(EXPORT_ANNOTATION).cloned();
        let same = self.uid == old.uid
            && self.object.get("spec") == old.object.get("spec")
            && exports(self) == exports(old);
        if same {
            self.version.clone_from(&old.version);
        }
        same
    }

    /// A text of the spec, empty if there is none.
    #[must_use]
    pub fn spec(&self, path: &str) -> &str {
        let found = self.object.get("spec").and_then(|spec| spec.pointer(path));
        found.and_then(Value::as_str).unwrap_or_default()
    }
}

/// Namespace and name of an object.
#[must_use]
pub fn name_of(object: &Value) -> Option<Name> {
    let name = meta_text(object, "name");
    (!name.is_empty()).then(|| (meta_text(object, "namespace").to_owned(), name.to_owned()))
}

/// A text of the metadata, empty if there is none.
#[must_use]
pub fn meta_text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|meta| meta.get(field)).and_then(Value::as_str).unwrap_or_default()
}
