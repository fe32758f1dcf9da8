//! Kubernetes objects as EdgeController keeps and sends them.

use std::sync::Arc;

use ring::digest::{Context, SHA256};
use serde_json::{Value, json};

use super::index::{Change, Content, Name};
use crate::bus::cloud_hub::Outgoing;
use crate::kube::references::RefKind;
use crate::model::{Body, Envelope, group, source};

/// Kinds that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Pod,
    Node,
    ConfigMap,
    Secret,
    ServiceAccount,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::ServiceAccount, Self::ConfigMap, Self::Secret, Self::Node, Self::Pod];

    /// `kind` of the object.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::ServiceAccount => "ServiceAccount",
        }
    }

    /// The word in API paths.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Pod => "pods",
            Self::Node => "nodes",
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
            Self::ServiceAccount => "serviceaccounts",
        }
    }

    /// The same kind as a pod's reference.
    #[must_use]
    pub fn reference(self) -> Option<RefKind> {
        match self {
            Self::ConfigMap => Some(RefKind::ConfigMap),
            Self::Secret => Some(RefKind::Secret),
            Self::ServiceAccount => Some(RefKind::ServiceAccount),
            Self::Pod | Self::Node => None,
        }
    }
}

/// An object of the API. It is kept as text: as a tree it takes four times as much, and there is one for
/// each node and pod.
#[derive(Debug, Clone)]
pub struct Stored {
    /// JSON with apiVersion and kind, without `managedFields` (no edge reads them, and they are often
    /// larger than the rest).
    json: Arc<[u8]>,
    /// SHA-256 of what edges are told changes of.
    essence: [u8; 32],
    terminating: bool,
    pub uid: String,
    pub resource_version: String,
    /// The version of the last change that edges are told about. Copies at least this new are good.
    pub significant_version: String,
}

impl Stored {
    /// Reads what a watch delivered. `None` for an object without a name.
    #[must_use]
    pub fn read(kind: Kind, mut object: Value) -> Option<(Name, Self)> {
        let fields = object.as_object_mut()?;
        fields.insert("apiVersion".to_owned(), Value::from("v1"));
        fields.insert("kind".to_owned(), Value::from(kind.name()));
        let meta = fields.get_mut("metadata")?.as_object_mut()?;
        meta.remove("managedFields");
        let text = |field: &str| meta.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let name = (text("namespace"), text("name"));
        if name.1.is_empty() {
            return None;
        }
        let (uid, resource_version) = (text("uid"), text("resourceVersion"));
        let terminating = meta.get("deletionTimestamp").is_some_and(|at| !at.is_null());
        let stored = Self {
            essence: essence(&object),
            json: serde_json::to_vec(&object).ok()?.into(),
            terminating,
            uid,
            significant_version: resource_version.clone(),
            resource_version,
        };
        Some((name, stored))
    }

    /// The object itself.
    #[must_use]
    pub fn object(&self) -> Arc<Value> {
        // What was printed here can be read here.
        Arc::new(serde_json::from_slice(&self.json).unwrap_or_default())
    }

    /// Compares with what was known: must edges be told? If not, the older significant version
    /// stays.
    pub fn follow_on(&mut self, old: Option<&Self>, differs: impl Fn(&Self, &Self) -> bool) -> bool {
        match old {
            Some(old) if old.uid == self.uid && !differs(old, self) => {
                self.significant_version.clone_from(&old.significant_version);
                false
            }
            _ => true,
        }
    }

    #[must_use]
    pub fn is_terminating(&self) -> bool {
        self.terminating
    }
}

/// Did more than the status change (protocol section 6.2: metadata without resourceVersion and
/// generation, or the spec)?
#[must_use]
pub fn significant_change(old: &Stored, new: &Stored) -> bool {
    old.resource_version != new.resource_version && old.essence != new.essence
}

/// A digest of metadata without resourceVersion and generation, and of the spec. Keys of JSON objects
/// are sorted here, so the same content has the same digest.
fn essence(object: &Value) -> [u8; 32] {
    let meta = object.get("metadata").and_then(Value::as_object);
    let counts = |key: &str| key != "resourceVersion" && key != "generation";
    let mut digest = Context::new(&SHA256);
    let mut add = |key: &str, value: &Value| {
        digest.update(key.as_bytes());
        digest.update(value.to_string().as_bytes());
    };
    for (key, value) in meta.into_iter().flatten().filter(|(key, _)| counts(key)) {
        add(key, value);
    }
    add("spec", object.get("spec").unwrap_or(&Value::Null));
    let mut essence = [0; 32];
    for (to, from) in essence.iter_mut().zip(digest.finish().as_ref()) {
        *to = *from;
    }
    essence
}

/// The wire message of a change (protocol section 6.2). `now_ms` is Unix milliseconds.
#[must_use]
pub fn message(change: &Change, now_ms: i64) -> Arc<Outgoing> {
    let resource = change.key.clone().into();
    let blank = |body| {
        Envelope::new(source::EDGE_CONTROLLER, group::RESOURCE, change.operation, resource, body, now_ms)
    };
    match &change.content {
        Content::Object(object) => {
            let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
            let mut envelope = blank(Body::Null);
            envelope.header.resource_version = version.map(str::to_owned);
            Outgoing::shared(envelope, Arc::clone(object))
        }
        Content::Skeleton { uid } if uid.is_empty() => Outgoing::new(blank(Body::Null)),
        Content::Skeleton { uid } => {
            let mut meta = json!({"name": change.key.name(), "uid": uid});
            if let (Some(meta), Some(namespace)) = (meta.as_object_mut(), &change.key.namespace) {
                meta.insert("namespace".to_owned(), Value::from(namespace.as_str()));
            }
            Outgoing::leaving(blank(Body::Object(json!({ "metadata": meta }))))
        }
    }
}
