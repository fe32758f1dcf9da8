//! What decides about identities, as the API has it. Watch events in, what they touch out. No I/O.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::Value;

use crate::actors::cloud::watch_worker::Event;
use crate::kube::validate;
use crate::model::identity::{
    IDENTITY_API_VERSION, ImagePolicy, ImageRule, PolicyMode, Registration, TopicPolicy,
};

/// Kinds that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    WorkloadIdentity,
    ImagePolicy,
    TopicPolicy,
    /// Only those of namespace `kubeedge`.
    ConfigMap,
}

impl Kind {
    pub const ALL: [Self; 4] =
        [Self::WorkloadIdentity, Self::ImagePolicy, Self::TopicPolicy, Self::ConfigMap];

    /// `kind` of the object.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::WorkloadIdentity => "WorkloadIdentity",
            Self::ImagePolicy => "ImagePolicy",
            Self::TopicPolicy => "TopicPolicy",
            Self::ConfigMap => "ConfigMap",
        }
    }

    /// The word in API paths.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::WorkloadIdentity => "workloadidentities",
            Self::ImagePolicy => "imagepolicies",
            Self::TopicPolicy => "topicpolicies",
            Self::ConfigMap => "configmaps",
        }
    }

    #[must_use]
    pub fn api_version(self) -> &'static str {
        if self == Self::ConfigMap { "v1" } else { IDENTITY_API_VERSION }
    }
}

/// Namespace and name.
pub type Name = (String, String);

/// `data` of a ConfigMap.
pub type Data = BTreeMap<String, String>;

/// A ConfigMap of namespace `kubeedge`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Map {
    pub data: Data,
    /// Its resourceVersion.
    pub version: String,
}

/// Registrations and policies, each list sorted by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lists {
    pub registrations: Vec<Registration>,
    pub image_policies: Vec<ImagePolicy>,
    pub topic_policies: Vec<TopicPolicy>,
}

/// An object that a cluster's schema let through and that means nothing, or less than it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub kind: Kind,
    pub name: Name,
    pub uid: String,
    pub why: String,
}

/// What an event touched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Touched {
    /// A registration or a policy.
    pub lists: bool,
    /// ConfigMaps that came, changed or went.
    pub maps: BTreeSet<String>,
    /// Removed ConfigMaps and the resourceVersion they were removed at.
    pub removed: Vec<(String, String)>,
    pub notice: Option<Notice>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Sources {
    registrations: BTreeMap<Name, Registration>,
    image_policies: BTreeMap<Name, ImagePolicy>,
    topic_policies: BTreeMap<Name, TopicPolicy>,
    maps: BTreeMap<String, Map>,
    /// Names seen in the list under way, by kind.
    listing: HashMap<Kind, HashSet<Name>>,
    listed: HashSet<Kind>,
}

impl Sources {
    /// Has everything been listed at least once?
    #[must_use]
    pub fn is_complete(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.listed.contains(kind))
    }

    /// Have the ConfigMaps been listed?
    #[must_use]
    pub fn has_maps(&self) -> bool {
        self.listed.contains(&Kind::ConfigMap)
    }

    #[must_use]
    pub fn map(&self, name: &str) -> Option<&Map> {
        self.maps.get(name)
    }

    /// Entries of a ConfigMap, none when there is no such map.
    #[must_use]
    pub fn data(&self, name: &str) -> Data {
        self.maps.get(name).map(|map| map.data.clone()).unwrap_or_default()
    }

    #[must_use]
    pub fn lists(&self) -> Lists {
        Lists {
            registrations: self.registrations.values().cloned().collect(),
            image_policies: self.image_policies.values().cloned().collect(),
            topic_policies: self.topic_policies.values().cloned().collect(),
        }
    }

    /// How many there are: registrations, image policies, topic policies.
    #[must_use]
    pub fn counts(&self) -> [usize; 3] {
        [self.registrations.len(), self.image_policies.len(), self.topic_policies.len()]
    }

    /// Takes one event of the watch of `kind`.
    pub fn apply(&mut self, kind: Kind, event: Event) -> Touched {
        let mut touched = Touched::default();
        match event {
            Event::Listing => {
                self.listing.insert(kind, HashSet::new());
            }
            Event::Applied(object) => {
                let Some(name) = name_of(&object) else { return touched };
                if let Some(seen) = self.listing.get_mut(&kind) {
                    seen.insert(name.clone());
                }
                self.put(kind, name, &object, &mut touched);
            }
            Event::Removed(object) => {
                if let Some(name) = name_of(&object) {
                    self.remove(kind, &name, meta(&object, "resourceVersion"), &mut touched);
                }
            }
            Event::Listed => {
                if let Some(seen) = self.listing.remove(&kind) {
                    for name in self.names(kind).into_iter().filter(|name| !seen.contains(name)) {
                        self.remove(kind, &name, "", &mut touched);
                    }
                }
                self.listed.insert(kind);
                touched.lists = true;
            }
        }
        touched
    }

    fn names(&self, kind: Kind) -> Vec<Name> {
        match kind {
            Kind::WorkloadIdentity => self.registrations.keys().cloned().collect(),
            Kind::ImagePolicy => self.image_policies.keys().cloned().collect(),
            Kind::TopicPolicy => self.topic_policies.keys().cloned().collect(),
            Kind::ConfigMap => {
                self.maps.keys().map(|name| (super::NAMESPACE.to_owned(), name.clone())).collect()
            }
        }
    }

    fn put(&mut self, kind: Kind, name: Name, object: &Value, touched: &mut Touched) {
        let (changed, why) = match kind {
            Kind::WorkloadIdentity => {
                let (new, why) = split(registration(&name, object));
                (set(&mut self.registrations, &name, new), why)
            }
            Kind::ImagePolicy => {
                let (new, why) = image_policy(&name, object);
                (set(&mut self.image_policies, &name, Some(new)), why)
            }
            Kind::TopicPolicy => {
                let (new, why) = split(topic_policy(&name, object));
                (set(&mut self.topic_policies, &name, new), why)
            }
            Kind::ConfigMap => {
                if name.0 == super::NAMESPACE {
                    touched.maps.insert(name.1.clone());
                    self.maps.insert(name.1, map(object));
                }
                return;
            }
        };
        touched.lists |= changed;
        let uid = meta(object, "uid").to_owned();
        touched.notice = why.map(|why| Notice { kind, name, uid, why });
    }

    fn remove(&mut self, kind: Kind, name: &Name, version: &str, touched: &mut Touched) {
        touched.lists |= match kind {
            Kind::WorkloadIdentity => self.registrations.remove(name).is_some(),
            Kind::ImagePolicy => self.image_policies.remove(name).is_some(),
            Kind::TopicPolicy => self.topic_policies.remove(name).is_some(),
            Kind::ConfigMap => {
                if name.0 == super::NAMESPACE && self.maps.remove(&name.1).is_some() {
                    touched.maps.insert(name.1.clone());
                    touched.removed.push((name.1.clone(), version.to_owned()));
                }
                false
            }
        };
    }
}

/// Did it change?
fn set<T: PartialEq>(all: &mut BTreeMap<Name, T>, name: &Name, new: Option<T>) -> bool {
    match new {
        Some(new) if all.get(name) == Some(&new) => false,
        Some(new) => {
            all.insert(name.clone(), new);
            true
        }
        None => all.remove(name).is_some(),
    }
}

fn split<T>(read: Result<T, String>) -> (Option<T>, Option<String>) {
    match read {
        Ok(object) => (Some(object), None),
        Err(why) => (None, Some(format!("left out: {why}"))),
    }
}

/// What it grants is only granted when all of it is right.
fn registration(name: &Name, object: &Value) -> Result<Registration, String> {
    check(Kind::WorkloadIdentity, object)?;
    let mut read: Registration = read_spec(object)?;
    (read.namespace, read.name) = name.clone();
    Ok(read)
}

fn topic_policy(name: &Name, object: &Value) -> Result<TopicPolicy, String> {
    check(Kind::TopicPolicy, object)?;
    let mut read: TopicPolicy = read_spec(object)?;
    (read.namespace, read.name) = name.clone();
    Ok(read)
}

/// A policy forbids by being there: only what is wrong in it is left out, so that a mistake never
/// allows more. Without a rule that can be read it allows nothing.
fn image_policy(name: &Name, object: &Value) -> (ImagePolicy, Option<String>) {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let mut wrong = Vec::new();
    let mode = match spec.get("mode").and_then(Value::as_str) {
        Some("warn") => PolicyMode::Warn,
        Some("enforce") | None => PolicyMode::Enforce,
        Some(other) => {
            wrong.push(format!("spec.mode: {other:?} is read as enforce"));
            PolicyMode::Enforce
        }
    };
    let rules = spec.get("allow").and_then(Value::as_array);
    let mut allow = Vec::new();
    for (index, rule) in rules.into_iter().flatten().enumerate() {
        let alone = serde_json::json!({
            "metadata": {"name": name.1, "namespace": name.0}, "spec": {"allow": [rule]},
        });
        let read = serde_json::from_value::<ImageRule>(rule.clone()).map_err(|err| err.to_string());
        match check(Kind::ImagePolicy, &alone).and(read) {
            Ok(rule) => allow.push(rule),
            Err(why) => wrong.push(format!("spec.allow[{index}] is left out: {why}")),
        }
    }
    let (namespace, name) = name.clone();
    (ImagePolicy { namespace, name, mode, allow }, (!wrong.is_empty()).then(|| wrong.join("; ")))
}

fn check(kind: Kind, object: &Value) -> Result<(), String> {
    let errors = validate::create(kind.name(), object);
    let first = errors.iter().find(|err| err.field.starts_with("spec"));
    first.map_or(Ok(()), |err| Err(format!("{}: {}", err.field, err.message)))
}

fn read_spec<T: serde::de::DeserializeOwned>(object: &Value) -> Result<T, String> {
    let spec = object.get("spec").cloned().ok_or("spec is missing")?;
    serde_path_to_error::deserialize(spec).map_err(|err| format!("spec.{err}"))
}

fn map(object: &Value) -> Map {
    let entries = object.get("data").and_then(Value::as_object).into_iter().flatten();
    let data = entries.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect();
    Map { data, version: meta(object, "resourceVersion").to_owned() }
}

fn name_of(object: &Value) -> Option<Name> {
    let name = meta(object, "name");
    (!name.is_empty()).then(|| (meta(object, "namespace").to_owned(), name.to_owned()))
}

fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get("metadata").and_then(|meta| meta.get(field)).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
#[path = "sources_tests.rs"]
mod tests;
