//! Which node has which devices and models. Watch events in, changes for nodes out, in the order of
//! protocol section 7.2. No clock, no I/O; objects are kept once and shared.
//!
//! A device belongs to the node it names, known or not: messages for a node without a session are
//! dropped by CloudHub, and the comparison at its next connect brings them. A device whose model
//! does not exist is not sent until it does; a node that has it already keeps it meanwhile.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::stored::{Kind, Name, Stored, name_of};
use crate::actors::cloud::watch_worker::Event;
use crate::bus::edge_controller::ObjectVersion;
use crate::model::device::Member;
use crate::model::{DeviceId, NodeName, ObjectKey, operation};

/// Something nodes must learn.
#[derive(Debug, Clone)]
pub enum Change {
    Members {
        node: NodeName,
        added: Vec<Member>,
        removed: Vec<Member>,
    },
    Object {
        nodes: Vec<NodeName>,
        operation: &'static str,
        key: ObjectKey,
        object: Arc<Value>,
        /// A delete of an object that lives on, only not there.
        leaves: bool,
    },
}

/// What DeviceStatuses need to know of a device.
#[derive(Debug, Clone)]
pub enum Owner {
    Is { device: DeviceId, uid: String, properties: Arc<BTreeSet<String>> },
    Gone(DeviceId),
}

/// Why a device waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    NodeNotFound,
    ModelNotFound,
}

impl Reason {
    /// `reason` of the event.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::NodeNotFound => "NodeNotFound",
            Self::ModelNotFound => "ModelNotFound",
        }
    }
}

/// What the user must be told about a device that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    pub device: DeviceId,
    pub uid: String,
    pub reason: Reason,
    pub message: String,
}

#[derive(Debug)]
struct Waits {
    reason: Reason,
    since: Instant,
    told: bool,
}

/// A Device and what follows from its spec.
#[derive(Debug)]
pub struct Device {
    pub stored: Stored,
    /// The node it names; `None` also if that is no legal name.
    pub node: Option<NodeName>,
    pub properties: Arc<BTreeSet<String>>,
    model: Option<Name>,
    /// Not sent yet: its model does not exist.
    pub held: bool,
    waits: Option<Waits>,
}

impl Device {
    fn new(id: &DeviceId, stored: Stored) -> Self {
        let model = Some(stored.spec("/deviceModelRef/name")).filter(|name| !name.is_empty());
        let properties = stored.object.pointer("/spec/properties").and_then(Value::as_array);
        let name = |property: &Value| property.get("name")?.as_str().map(str::to_owned);
        Self {
            node: NodeName::parse(stored.spec("/nodeName")).ok(),
            properties: Arc::new(properties.into_iter().flatten().filter_map(name).collect()),
            model: model.map(|name| (id.namespace.clone(), name.to_owned())),
            held: false,
            waits: None,
            stored,
        }
    }
}

/// The downstream state of DeviceController.
#[derive(Debug, Default)]
pub struct Index {
    nodes: HashSet<NodeName>,
    models: HashMap<Name, Stored>,
    devices: HashMap<DeviceId, Device>,
    on_node: HashMap<NodeName, BTreeSet<DeviceId>>,
    /// Devices by the model they name, held or not.
    of_model: HashMap<Name, BTreeSet<DeviceId>>,
    /// How many devices of each node use a model; held ones do not.
    users: HashMap<Name, BTreeMap<NodeName, usize>>,
    /// Names seen in the list under way, by kind.
    listing: HashMap<Kind, HashSet<Name>>,
    listed: HashSet<Kind>,
}

impl Index {
    /// Have nodes, models and devices been listed at least once? Before that nothing is known to be
    /// surplus or unknown.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        [Kind::Node, Kind::Model, Kind::Device].iter().all(|kind| self.listed.contains(kind))
    }

    /// Takes one event of the watch of `kind`; a DeviceStatus is none of its kinds.
    pub fn apply(&mut self, kind: Kind, event: Event) -> (Vec<Change>, Vec<Owner>) {
        let (mut changes, mut owners) = (Vec::new(), Vec::new());
        match event {
            Event::Listing => {
                self.listing.insert(kind, HashSet::new());
            }
            Event::Applied(object) => {
                let Some((name, stored)) = Stored::read(kind, object) else { return (changes, owners) };
                if let Some(seen) = self.listing.get_mut(&kind) {
                    seen.insert(name.clone());
                }
                match kind {
                    Kind::Node => self.nodes.extend(NodeName::parse(&name.1)),
                    Kind::Model => self.put_model(name, stored, &mut changes),
                    Kind::Device => self.put_device(id(&name), stored, &mut changes, &mut owners),
                    Kind::Status => {}
                }
            }
            Event::Removed(object) => {
                if let Some(name) = name_of(&object) {
                    self.remove(kind, &name, &mut changes, &mut owners);
                }
            }
            Event::Listed => {
                if let Some(seen) = self.listing.remove(&kind) {
                    for name in self.names(kind).into_iter().filter(|name| !seen.contains(name)) {
                        self.remove(kind, &name, &mut changes, &mut owners);
                    }
                }
                self.listed.insert(kind);
            }
        }
        (changes, owners)
    }

    #[must_use]
    pub fn device(&self, id: &DeviceId) -> Option<&Device> {
        self.devices.get(id)
    }

    /// Every device of `node`, those held back too: the node may have them already.
    #[must_use]
    pub fn members(&self, node: &NodeName) -> Vec<Member> {
        let ids = self.on_node.get(node).into_iter().flatten();
        ids.filter_map(|id| Some(member(id, self.devices.get(id)?))).collect()
    }

    /// Everything `node` should hold, models first.
    #[must_use]
    pub fn desired(&self, node: &NodeName) -> Vec<ObjectVersion> {
        let version = |key: ObjectKey, stored: &Stored| ObjectVersion {
            resource: key.into(),
            uid: stored.uid.clone(),
            resource_version: stored.version.clone(),
        };
        let ids = || self.on_node.get(node).into_iter().flatten();
        let devices = ids().filter_map(|id| Some((id, self.devices.get(id)?)));
        let names: BTreeSet<&Name> =
            devices.clone().filter_map(|(_, device)| device.model.as_ref()).collect();
        let models = names.into_iter().filter_map(|name| Some((name, self.models.get(name)?)));
        let models = models.map(|(name, stored)| version(model_key(name), stored));
        models.chain(devices.map(|(id, device)| version(device_key(id), &device.stored))).collect()
    }

    /// The object `key` if `node` should hold it now, and whether it may be sent.
    #[must_use]
    pub fn desired_object(&self, node: &NodeName, key: &ObjectKey) -> Option<(&Stored, bool)> {
        if key.kind == "device" {
            let device = self.devices.get(&DeviceId::new(key.namespace(), key.name()))?;
            return (device.node.as_ref() == Some(node)).then_some((&device.stored, !device.held));
        }
        let name = (key.namespace().to_owned(), key.name().to_owned());
        let mut users = self.of_model.get(&name)?.iter().filter_map(|id| self.devices.get(id));
        users.any(|device| device.node.as_ref() == Some(node)).then_some(())?;
        self.models.get(&name).map(|stored| (stored, true))
    }

    /// Devices that are placed and devices that wait; at most `most` notices about those that have
    /// waited for `grace` and were not told about. A file with a Device before its DeviceModel is
    /// no mistake, so the first moment is not worth an event.
    pub fn look_around(&mut self, now: Instant, grace: Duration, most: usize) -> (usize, usize, Vec<Notice>) {
        let (mut waiting, mut notices) = (0, Vec::new());
        for (id, device) in &mut self.devices {
            let named = device.stored.spec("/nodeName");
            let is_known = device.node.as_ref().is_some_and(|node| self.nodes.contains(node));
            let reason = match device.held {
                _ if named.is_empty() => None,
                _ if !is_known => Some(Reason::NodeNotFound),
                true => Some(Reason::ModelNotFound),
                false => None,
            };
            waiting += usize::from(reason.is_some() || named.is_empty());
            let Some(reason) = reason else {
                device.waits = None;
                continue;
            };
            let fresh = Waits { reason, since: now, told: false };
            let waits = match device.waits.take().filter(|waits| waits.reason == reason) {
                Some(waits) => device.waits.insert(waits),
                None => device.waits.insert(fresh),
            };
            if waits.told || now < waits.since + grace || notices.len() >= most {
                continue;
            }
            waits.told = true;
            let model = device.model.as_ref().map(|name| name.1.as_str()).unwrap_or_default();
            let message = match reason {
                Reason::NodeNotFound => format!("no edge node {named:?}: the device waits until it joins"),
                Reason::ModelNotFound => {
                    format!("no device model {model:?} in its namespace: the device waits until there is one")
                }
            };
            notices.push(Notice { device: id.clone(), uid: device.stored.uid.clone(), reason, message });
        }
        (self.devices.len() - waiting, waiting, notices)
    }

    fn names(&self, kind: Kind) -> Vec<Name> {
        match kind {
            Kind::Node => self.nodes.iter().map(|node| (String::new(), node.as_str().to_owned())).collect(),
            Kind::Model => self.models.keys().cloned().collect(),
            Kind::Device => self.devices.keys().map(|id| (id.namespace.clone(), id.name.clone())).collect(),
            Kind::Status => Vec::new(),
        }
    }

    fn remove(&mut self, kind: Kind, name: &Name, changes: &mut Vec<Change>, owners: &mut Vec<Owner>) {
        match kind {
            Kind::Node => {
                // Its session ends with it; if it comes back, the comparison brings its devices.
                if let Ok(node) = NodeName::parse(&name.1) {
                    self.nodes.remove(&node);
                }
            }
            Kind::Model => self.remove_model(name, changes),
            Kind::Device => {
                let id = id(name);
                self.remove_device(&id, false, changes);
                owners.push(Owner::Gone(id));
            }
            Kind::Status => {}
        }
    }

    fn put_device(
        &mut self,
        id: DeviceId,
        stored: Stored,
        changes: &mut Vec<Change>,
        owners: &mut Vec<Owner>,
    ) {
        let mut new = Device::new(&id, stored);
        let (device, uid) = (id.clone(), new.stored.uid.clone());
        owners.push(Owner::Is { device, uid, properties: Arc::clone(&new.properties) });
        if let Some(old) = self.devices.get_mut(&id) {
            if new.stored.follows(&old.stored) {
                old.stored = new.stored;
                return;
            }
            let same_object = old.stored.uid == new.stored.uid;
            if same_object && old.node == new.node {
                new.waits = old.waits.take();
                return self.change_spec(id, new, changes);
            }
            self.remove_device(&id, same_object, changes);
        }
        if let Some(name) = &new.model {
            self.of_model.entry(name.clone()).or_default().insert(id.clone());
        }
        if let Some(node) = &new.node {
            self.on_node.entry(node.clone()).or_default().insert(id.clone());
        }
        self.devices.insert(id.clone(), new);
        self.place(&id, changes);
    }

    /// First the membership, then the model if it is new there, then the device.
    fn place(&mut self, id: &DeviceId, changes: &mut Vec<Change>) {
        let Some(device) = self.devices.get_mut(id) else { return };
        device.held = device.model.as_ref().is_some_and(|name| !self.models.contains_key(name));
        if device.held {
            return;
        }
        let Some(node) = device.node.clone() else { return };
        changes.push(Change::Members {
            node: node.clone(),
            added: vec![member(id, device)],
            removed: Vec::new(),
        });
        let (model, object) = (device.model.clone(), Arc::clone(&device.stored.object));
        if let Some(name) = model
            && self.count(&name, &node)
        {
            self.send_model(&name, operation::INSERT, vec![node.clone()], changes);
        }
        changes.push(one(&node, operation::INSERT, device_key(id), object, false));
    }

    fn change_spec(&mut self, id: DeviceId, mut new: Device, changes: &mut Vec<Change>) {
        let Some(old) = self.devices.remove(&id) else { return };
        if old.model != new.model {
            if let Some(users) = old.model.as_ref().and_then(|name| self.of_model.get_mut(name)) {
                users.remove(&id);
            }
            if let Some(name) = &new.model {
                self.of_model.entry(name.clone()).or_default().insert(id.clone());
            }
        }
        let is_missing = |name: &Name| !self.models.contains_key(name);
        let moved_on = old.held || old.model != new.model;
        if moved_on && (old.held || new.model.as_ref().is_some_and(is_missing)) {
            let (node, model) = (new.node.clone(), old.model.filter(|_| !old.held));
            self.devices.insert(id.clone(), new);
            self.place(&id, changes);
            return self.drop_model(model, node.as_ref(), changes);
        }
        new.held = false;
        let (node, model, object) = (new.node.clone(), new.model.clone(), Arc::clone(&new.stored.object));
        self.devices.insert(id.clone(), new);
        let Some(node) = node else { return };
        if let Some(name) = model {
            let is_new = moved_on && self.count(&name, &node);
            let operation = if is_new { operation::INSERT } else { operation::UPDATE };
            self.send_model(&name, operation, vec![node.clone()], changes);
        }
        changes.push(one(&node, operation::UPDATE, device_key(&id), object, false));
        self.drop_model(old.model.filter(|_| moved_on), Some(&node), changes);
    }

    /// `lives_on`: the device is only somewhere else now.
    fn remove_device(&mut self, id: &DeviceId, lives_on: bool, changes: &mut Vec<Change>) {
        let Some(device) = self.devices.remove(id) else { return };
        if let Some(users) = device.model.as_ref().and_then(|name| self.of_model.get_mut(name)) {
            users.remove(id);
        }
        let Some(node) = device.node.clone() else { return };
        if let Some(devices) = self.on_node.get_mut(&node) {
            devices.remove(id);
        }
        let gone = Member { description: String::new(), ..member(id, &device) };
        changes.push(Change::Members { node: node.clone(), added: Vec::new(), removed: vec![gone] });
        let object = Arc::clone(&device.stored.object);
        changes.push(one(&node, operation::DELETE, device_key(id), object, lives_on));
        self.drop_model(device.model.filter(|_| !device.held), Some(&node), changes);
    }

    fn put_model(&mut self, name: Name, mut new: Stored, changes: &mut Vec<Change>) {
        let old = self.models.get(&name);
        let (same, re_created) =
            (old.is_some_and(|old| new.follows(old)), old.is_some_and(|old| old.uid != new.uid));
        let operation = if old.is_some() && !re_created { operation::UPDATE } else { operation::INSERT };
        if re_created {
            self.remove_model(&name, changes);
        }
        self.models.insert(name.clone(), new);
        if same {
            return;
        }
        let nodes = self.users.get(&name).into_iter().flat_map(BTreeMap::keys).cloned().collect();
        self.send_model(&name, operation, nodes, changes);
        let users: Vec<DeviceId> = self.of_model.get(&name).into_iter().flatten().cloned().collect();
        for id in users {
            if self.devices.get(&id).is_some_and(|device| device.held) {
                self.place(&id, changes);
            }
        }
    }

    fn remove_model(&mut self, name: &Name, changes: &mut Vec<Change>) {
        let Some(old) = self.models.remove(name) else { return };
        let nodes: Vec<NodeName> =
            self.users.get(name).into_iter().flat_map(BTreeMap::keys).cloned().collect();
        if !nodes.is_empty() {
            let (operation, key, object) = (operation::DELETE, model_key(name), old.object);
            changes.push(Change::Object { nodes, operation, key, object, leaves: false });
        }
    }

    /// One device of `node` more uses the model. Is it the first?
    fn count(&mut self, name: &Name, node: &NodeName) -> bool {
        let count = self.users.entry(name.clone()).or_default().entry(node.clone()).or_default();
        *count += 1;
        *count == 1
    }

    /// One device of `node` less uses the model; after the last one it leaves the node.
    fn drop_model(&mut self, name: Option<Name>, node: Option<&NodeName>, changes: &mut Vec<Change>) {
        let (Some(name), Some(node)) = (name, node) else { return };
        let Some(nodes) = self.users.get_mut(&name) else { return };
        let Some(count) = nodes.get_mut(node) else { return };
        *count = count.saturating_sub(1);
        if *count > 0 {
            return;
        }
        nodes.remove(node);
        if nodes.is_empty() {
            self.users.remove(&name);
        }
        if let Some(stored) = self.models.get(&name) {
            let object = Arc::clone(&stored.object);
            changes.push(one(node, operation::DELETE, model_key(&name), object, true));
        }
    }

    fn send_model(
        &self,
        name: &Name,
        operation: &'static str,
        nodes: Vec<NodeName>,
        changes: &mut Vec<Change>,
    ) {
        if let Some(stored) = self.models.get(name)
            && !nodes.is_empty()
        {
            let (key, object) = (model_key(name), Arc::clone(&stored.object));
            changes.push(Change::Object { nodes, operation, key, object, leaves: false });
        }
    }
}

fn one(node: &NodeName, operation: &'static str, key: ObjectKey, object: Arc<Value>, leaves: bool) -> Change {
    Change::Object { nodes: vec![node.clone()], operation, key, object, leaves }
}

fn id(name: &Name) -> DeviceId {
    DeviceId::new(name.0.as_str(), name.1.as_str())
}

fn device_key(id: &DeviceId) -> ObjectKey {
    ObjectKey::namespaced(&id.namespace, "device", &id.name)
}

fn model_key(name: &Name) -> ObjectKey {
    ObjectKey::namespaced(&name.0, "devicemodel", &name.1)
}

fn member(id: &DeviceId, device: &Device) -> Member {
    let label = device.stored.object.pointer("/metadata/labels/description").and_then(Value::as_str);
    let description = label.unwrap_or_default().to_owned();
    Member { id: id.to_string(), name: id.name.clone(), description, ..Member::default() }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
