//! What this edge keeps of the cluster: which version of which object, and what a message from the
//! cloud changes about it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::model::device::API_VERSION;
use crate::model::identity::{EDGE_IDENTITY_KIND, SEAL_ANNOTATION};
use crate::model::{Body, DeviceId, Envelope, ObjectKey, Resource, operation};
use crate::store::{Batch, Row, Table};
use crate::wire::extensions::LISTED_PER_MESSAGE;

/// Key prefix of stored objects.
pub const PREFIX: &str = "meta/";
/// Uids of removed pods that are remembered, so that a late duplicate does not bring one back.
const MAX_GONE: usize = 1024;

/// What the others are told once a change is durable.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    PodChanged(Arc<Value>),
    PodRemoved {
        namespace: String,
        name: String,
        uid: String,
    },
    ConfigChanged {
        kind: String,
        namespace: String,
        name: String,
    },
    NodeChanged(Arc<Value>),
    /// This node's registrations and policies; `None` when they are gone.
    EdgeIdentity(Option<Arc<Value>>),
    Device(DeviceNotice),
}

/// What DeviceTwin and Dmi are told.
#[derive(Debug, Clone, PartialEq)]
pub enum DeviceNotice {
    DeviceChanged(Arc<Value>),
    DeviceRemoved(DeviceId),
    ModelChanged(Arc<Value>),
    ModelRemoved { namespace: String, name: String },
}

impl Notice {
    /// Does this notice say all that `older` said? Each life of a pod ends with a notice of its own.
    #[must_use]
    pub fn replaces(&self, older: &Self) -> bool {
        let uid = |pod: &Value| text(pod, "/metadata/uid").to_owned();
        match (self, older) {
            (Self::PodChanged(new), Self::PodChanged(old)) => uid(new) == uid(old),
            (Self::PodRemoved { uid: new, .. }, Self::PodRemoved { uid: old, .. }) => new == old,
            (Self::PodRemoved { uid: gone, .. }, Self::PodChanged(old)) => *gone == uid(old),
            (Self::ConfigChanged { .. }, Self::ConfigChanged { .. }) => self == older,
            (Self::NodeChanged(_), Self::NodeChanged(_)) | (Self::EdgeIdentity(_), Self::EdgeIdentity(_)) => {
                true
            }
            _ => false,
        }
    }
}

impl DeviceNotice {
    /// Does this notice say all that `older` said?
    #[must_use]
    pub fn replaces(&self, older: &Self) -> bool {
        let names = |object: &Value| {
            (text(object, "/metadata/namespace").to_owned(), text(object, "/metadata/name").to_owned())
        };
        match (self, older) {
            (Self::DeviceChanged(new), Self::DeviceChanged(old))
            | (Self::ModelChanged(new), Self::ModelChanged(old)) => names(new) == names(old),
            (Self::DeviceRemoved(_), Self::DeviceRemoved(_))
            | (Self::ModelRemoved { .. }, Self::ModelRemoved { .. }) => self == older,
            _ => false,
        }
    }
}

/// Writes, and what to tell when they are on disk.
#[derive(Debug, Default)]
pub struct Change {
    pub batch: Batch,
    pub notices: Vec<Notice>,
}

/// Which incarnation and version of an object is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    uid: String,
    /// 0 when the object does not say.
    resource_version: u64,
    /// RFC 3339, empty when the object does not say.
    created: String,
    /// It is a pod with the cloud's seal.
    sealed: bool,
}

/// The versions of all stored objects. The objects themselves stay in the store.
#[derive(Debug, Default)]
pub struct Index {
    objects: BTreeMap<ObjectKey, Version>,
    gone: VecDeque<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Newer,
    /// Delivered again: nothing to write, but whoever acts on it may have missed it.
    Same,
    Stale,
}

impl Index {
    /// Takes rows of [`PREFIX`]; says how many it could not read (they are left alone).
    pub fn load(&mut self, rows: &[Row]) -> usize {
        let mut unreadable = 0;
        for (key, value) in rows {
            match (parse_key(key), serde_json::from_slice::<Value>(value)) {
                (Some(key), Ok(object)) => {
                    let version = version(&object, None);
                    self.objects.insert(key, version);
                }
                _ => unreadable += 1,
            }
        }
        unreadable
    }

    /// Keys of all stored objects of a kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a ObjectKey> {
        self.objects.keys().filter(move |key| key.kind == kind)
    }

    /// Keys of everything stored.
    pub fn keys(&self) -> impl Iterator<Item = &ObjectKey> {
        self.objects.keys()
    }

    /// Stored objects: pods, configmaps, secrets, nodes, others.
    #[must_use]
    pub fn counts(&self) -> [u32; 5] {
        let mut counts = [0; 5];
        let [pods, configmaps, secrets, nodes, others] = &mut counts;
        for key in self.objects.keys() {
            match key.kind.as_str() {
                "pod" => *pods += 1,
                "configmap" => *configmaps += 1,
                "secret" => *secrets += 1,
                "node" => *nodes += 1,
                _ => *others += 1,
            }
        }
        counts
    }

    /// A message of the cloud that has no parent, or a tracked reply.
    ///
    /// # Errors
    /// Why it cannot be stored: it has no object where there must be one.
    pub fn apply(&mut self, envelope: &Envelope) -> Result<Change, &'static str> {
        let Resource::Object(key) = &envelope.route.resource else { return Ok(Change::default()) };
        if key.name.is_none() || matches!(key.kind.as_str(), "podpatch" | "nodepatch" | "podstatus" | "lease")
        {
            return Ok(Change::default());
        }
        match envelope.route.operation.as_str() {
            operation::DELETE => {
                let body = object(&envelope.body);
                let uid = body.as_ref().map(|body| text(body, "/metadata/uid").to_owned());
                Ok(self.remove(key, uid.as_deref().unwrap_or_default()))
            }
            operation::INSERT | operation::UPDATE | operation::RESPONSE => match object(&envelope.body) {
                Some(object) => Ok(self.upsert(key, object, envelope.header.resource_version.as_deref())),
                None => Err("the content is not an object"),
            },
            _ => Ok(Change::default()),
        }
    }

    /// Stores `object` unless something newer is stored.
    pub fn upsert(&mut self, key: &ObjectKey, mut object: Value, header_version: Option<&str>) -> Change {
        let mut change = Change::default();
        let new = version(&object, header_version);
        let stored = self.objects.get(key);
        let verdict = if self.gone.contains(&new.uid) { Verdict::Stale } else { compare(stored, &new) };
        if verdict == Verdict::Stale {
            return change;
        }
        name_kind(key, &mut object);
        // The same object under a new seal: cloudcore signs under another root now.
        let resealed = verdict == Verdict::Same && new.sealed;
        if verdict == Verdict::Newer || resealed {
            if let Some(old) = stored
                && old.uid != new.uid
            {
                match key.kind.as_str() {
                    "pod" => change.notices.push(pod_removed(key, &old.uid)),
                    "device" => change.notices.extend(device_removed(key)),
                    _ => {}
                }
            }
            change.batch = change.batch.put(Table::Objects, store_key(key), object.to_string());
            self.objects.insert(key.clone(), new);
        }
        change.notices.extend(changed(key, object));
        change
    }

    /// Stores the object of a patch reply. The others are told only when something besides its
    /// status changed: they made that status. `stored` is the object as it is on disk.
    pub fn upsert_reply(&mut self, key: &ObjectKey, object: Value, stored: Option<&Value>) -> Change {
        let is_complete = key.kind != "pod" || object.get("spec").is_some_and(Value::is_object);
        if !is_complete {
            return Change::default();
        }
        let is_news = stored.is_none_or(|stored| essence(stored) != essence(&object));
        let mut change = self.upsert(key, object, None);
        if !is_news {
            change.notices.clear();
        }
        change
    }

    /// Removes the object, unless another incarnation than `uid` is stored. An empty `uid` means
    /// whichever is there.
    pub fn remove(&mut self, key: &ObjectKey, uid: &str) -> Change {
        let mut change = Change::default();
        let stored = self.objects.get(key).map(|version| version.uid.clone());
        let uid = if uid.is_empty() { stored.as_deref().unwrap_or_default() } else { uid };
        if key.kind == "pod" {
            if !uid.is_empty() && !self.gone.iter().any(|gone| gone == uid) {
                self.gone.push_back(uid.to_owned());
                if self.gone.len() > MAX_GONE {
                    self.gone.pop_front();
                }
            }
            // Told even when it is not stored: something of it may still run.
            change.notices.push(pod_removed(key, uid));
        }
        if stored.as_deref().is_some_and(|stored| stored == uid || stored.is_empty()) {
            self.objects.remove(key);
            change.batch = change.batch.delete(Table::Objects, store_key(key));
            change.notices.extend(config_changed(key));
            change.notices.extend(device_removed(key));
            if key.kind == EDGE_IDENTITY_KIND {
                change.notices.push(Notice::EdgeIdentity(None));
            }
        } else if stored.is_none() && key.kind == "secret" {
            // A row that cannot be decrypted is not known here, and must not stay for ever.
            change.batch = change.batch.delete(Table::Objects, store_key(key));
        }
        change
    }

    /// The cloud was restored from older data: how new the copies here are means nothing any more, and
    /// what was removed here may be there again.
    pub fn forget_versions(&mut self) {
        self.gone.clear();
        for version in self.objects.values_mut() {
            version.resource_version = 0;
        }
    }

    /// The listing of the resync extension: everything the cloud may compare, in frames.
    #[must_use]
    pub fn listing(&self) -> Vec<Value> {
        let listed = ["pod", "configmap", "secret", "node", "device", "devicemodel", EDGE_IDENTITY_KIND];
        let is_listed = |kind: &str| listed.contains(&kind);
        let rows: Vec<Value> = self
            .objects
            .iter()
            .filter(|(key, _)| is_listed(&key.kind))
            .map(|(key, version)| {
                // A pod from before there were seals: asked for once more.
                let is_whole = version.sealed || key.kind != "pod";
                let number = if is_whole { version.resource_version.to_string() } else { String::new() };
                json!([key.to_string(), version.uid, number])
            })
            .collect();
        let mut frames: Vec<&[Value]> = rows.chunks(LISTED_PER_MESSAGE).collect();
        if frames.is_empty() {
            frames.push(&[]);
        }
        let last = frames.len() - 1;
        let frame = |(part, objects)| json!({"objects": objects, "part": part, "last": part == last});
        frames.into_iter().enumerate().map(frame).collect()
    }
}

/// Row key of an object.
#[must_use]
pub fn store_key(key: &ObjectKey) -> String {
    format!("{PREFIX}{key}")
}

/// The object of a row key.
#[must_use]
pub fn parse_key(row: &[u8]) -> Option<ObjectKey> {
    let text = std::str::from_utf8(row).ok()?.strip_prefix(PREFIX)?;
    Resource::parse(text).object().cloned()
}

/// Text at a JSON pointer, or nothing.
#[must_use]
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The object in a body, which may also come as a string of JSON (protocol 2.2).
#[must_use]
pub fn object(body: &Body) -> Option<Value> {
    match body {
        Body::Object(value) if value.is_object() => Some(value.clone()),
        Body::Text(text) => serde_json::from_str(text).ok().filter(Value::is_object),
        _ => None,
    }
}

fn version(object: &Value, header: Option<&str>) -> Version {
    let in_object = text(object, "/metadata/resourceVersion");
    let number = |text: &str| text.parse::<u64>().ok();
    Version {
        uid: text(object, "/metadata/uid").to_owned(),
        resource_version: number(in_object).or_else(|| header.and_then(number)).unwrap_or(0),
        created: text(object, "/metadata/creationTimestamp").to_owned(),
        sealed: seal(object).is_some(),
    }
}

/// The cloud's seal on a pod.
fn seal(object: &Value) -> Option<&Value> {
    object.get("metadata")?.get("annotations")?.get(SEAL_ANNOTATION)
}

fn compare(stored: Option<&Version>, new: &Version) -> Verdict {
    let Some(stored) = stored else { return Verdict::Newer };
    if stored.uid != new.uid {
        // A recreated object may have a smaller version, if the cluster was set up anew: only its
        // birth tells which one is the later.
        let is_older = !new.created.is_empty() && !stored.created.is_empty() && new.created < stored.created;
        return if is_older { Verdict::Stale } else { Verdict::Newer };
    }
    match (new.resource_version, stored.resource_version) {
        (0, _) => Verdict::Newer,
        (new, stored) if new > stored => Verdict::Newer,
        (new, stored) if new == stored => Verdict::Same,
        _ => Verdict::Stale,
    }
}

/// Typed clients leave these out of replies (protocol 17.1).
fn name_kind(key: &ObjectKey, object: &mut Value) {
    let (version, kind) = match key.kind.as_str() {
        "pod" => ("v1", "Pod"),
        "node" => ("v1", "Node"),
        "configmap" => ("v1", "ConfigMap"),
        "secret" => ("v1", "Secret"),
        "device" => (API_VERSION, "Device"),
        "devicemodel" => (API_VERSION, "DeviceModel"),
        _ => return,
    };
    if let Some(fields) = object.as_object_mut() {
        fields.entry("apiVersion").or_insert_with(|| json!(version));
        fields.entry("kind").or_insert_with(|| json!(kind));
    }
}

/// What edged acts on: everything but the status, the bookkeeping and the seal, which is another one
/// each time.
fn essence(object: &Value) -> (Option<&Value>, Vec<(&String, &Value)>) {
    let dull = ["resourceVersion", "managedFields", "generation", "annotations"];
    let metadata = object.get("metadata").and_then(Value::as_object);
    let annotations = metadata.and_then(|meta| meta.get("annotations")).and_then(Value::as_object);
    let metadata = metadata.into_iter().flatten().filter(|(name, _)| !dull.contains(&name.as_str()));
    let annotations = annotations.into_iter().flatten().filter(|(name, _)| *name != SEAL_ANNOTATION);
    (object.get("spec"), metadata.chain(annotations).collect())
}

fn pod_removed(key: &ObjectKey, uid: &str) -> Notice {
    Notice::PodRemoved {
        namespace: key.namespace().to_owned(),
        name: key.name().to_owned(),
        uid: uid.to_owned(),
    }
}

fn config_changed(key: &ObjectKey) -> Option<Notice> {
    matches!(key.kind.as_str(), "configmap" | "secret").then(|| Notice::ConfigChanged {
        kind: key.kind.clone(),
        namespace: key.namespace().to_owned(),
        name: key.name().to_owned(),
    })
}

fn device_removed(key: &ObjectKey) -> Option<Notice> {
    let (namespace, name) = (key.namespace().to_owned(), key.name().to_owned());
    match key.kind.as_str() {
        "device" => Some(Notice::Device(DeviceNotice::DeviceRemoved(DeviceId::new(namespace, name)))),
        "devicemodel" => Some(Notice::Device(DeviceNotice::ModelRemoved { namespace, name })),
        _ => None,
    }
}

/// What a stored object means for the others.
pub fn changed(key: &ObjectKey, object: Value) -> Option<Notice> {
    match key.kind.as_str() {
        "pod" => Some(Notice::PodChanged(Arc::new(object))),
        "node" => Some(Notice::NodeChanged(Arc::new(object))),
        EDGE_IDENTITY_KIND => Some(Notice::EdgeIdentity(Some(Arc::new(object)))),
        "device" => Some(Notice::Device(DeviceNotice::DeviceChanged(Arc::new(object)))),
        "devicemodel" => Some(Notice::Device(DeviceNotice::ModelChanged(Arc::new(object)))),
        _ => config_changed(key),
    }
}

#[cfg(test)]
mod tests;
