//! What there is to tell mappers: devices merged with their models and with the desired values in
//! force, as messages. Pure.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher;
use std::sync::Arc;

use prost::Message;
use serde_json::Value;

use super::lane::{Key, Want};
use crate::model::DeviceId;
use crate::wire::dmi::{self, Device, DeviceModel};

/// Something a mapper of `protocol` may have to be told.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Touched {
    pub protocol: String,
    pub key: Key,
}

/// Devices and models of this node.
#[derive(Default)]
pub struct Catalog {
    models: BTreeMap<DeviceId, Model>,
    devices: BTreeMap<DeviceId, Entry>,
    /// By device; told by DeviceTwin, perhaps before the device itself.
    desired: BTreeMap<DeviceId, BTreeMap<String, String>>,
}

struct Model {
    object: Arc<Value>,
    message: Result<(Arc<DeviceModel>, u64), String>,
}

struct Entry {
    object: Arc<Value>,
    protocol: Option<String>,
    /// Namespace and name of its model, if it names one.
    model: Option<DeviceId>,
    message: Result<(Arc<Device>, u64), String>,
}

/// What a mapper gets in answer to its registration.
#[derive(Default)]
pub struct Listing {
    pub models: Vec<DeviceModel>,
    pub devices: Vec<Device>,
    /// The same, as a lane remembers what was told.
    pub told: Vec<(Key, u64)>,
}

impl Catalog {
    /// Forgets the objects. The desired values stay: they were told, not computed.
    pub fn clear(&mut self) {
        self.models.clear();
        self.devices.clear();
    }

    /// The devices that are of no use without a mapper, with their protocols. A device that says
    /// nothing of how it is reached speaks for itself, over MQTT.
    pub fn in_need(&self) -> impl Iterator<Item = (&DeviceId, &Arc<Value>, &str)> {
        self.devices.iter().filter_map(|(id, entry)| {
            let (device, _) = entry.message.as_ref().ok()?;
            let spec = device.spec.as_ref()?;
            let config = spec.protocol.as_ref().and_then(|protocol| protocol.config_data.as_ref());
            let is_reached = config.is_some_and(|config| !config.data.is_empty())
                || spec.properties.iter().any(|property| property.visitors.is_some());
            Some((id, &entry.object, entry.protocol.as_deref().filter(|_| is_reached)?))
        })
    }

    /// Devices that cannot be told, and why.
    pub fn undeliverable(&self) -> impl Iterator<Item = (&DeviceId, &str)> {
        self.devices.iter().filter_map(|(id, entry)| Some((id, entry.message.as_ref().err()?.as_str())))
    }

    /// A device is new or changed.
    pub fn put_device(&mut self, id: DeviceId, object: Arc<Value>) -> BTreeSet<Touched> {
        let entry = self.compile(&id, object);
        let mut touched = about(&id, &entry);
        if let Some(before) = self.devices.insert(id.clone(), entry) {
            touched.extend(about(&id, &before));
        }
        touched
    }

    pub fn remove_device(&mut self, id: &DeviceId) -> BTreeSet<Touched> {
        self.desired.remove(id);
        self.devices.remove(id).map(|before| about(id, &before)).unwrap_or_default()
    }

    /// A model is new or changed: its devices are merged anew.
    pub fn put_model(&mut self, id: DeviceId, object: Arc<Value>) -> BTreeSet<Touched> {
        let message = dmi::model(&object).map_err(|err| err.to_string());
        let message = message.map(|message| with_hash(message, Message::encode_to_vec));
        self.models.insert(id.clone(), Model { object, message });
        self.recompile(|entry| entry.model.as_ref() == Some(&id))
    }

    pub fn remove_model(&mut self, id: &DeviceId) -> BTreeSet<Touched> {
        self.models.remove(id);
        self.recompile(|entry| entry.model.as_ref() == Some(id))
    }

    /// The desired values in force for a device.
    pub fn put_desired(&mut self, id: DeviceId, desired: BTreeMap<String, String>) -> BTreeSet<Touched> {
        if self.desired.get(&id) == Some(&desired) {
            return BTreeSet::new();
        }
        self.desired.insert(id.clone(), desired);
        match self.devices.get(&id).map(|entry| Arc::clone(&entry.object)) {
            Some(object) => self.put_device(id, object),
            None => BTreeSet::new(),
        }
    }

    fn recompile(&mut self, concerned: impl Fn(&Entry) -> bool) -> BTreeSet<Touched> {
        let again: Vec<(DeviceId, Arc<Value>)> = self
            .devices
            .iter()
            .filter(|(_, entry)| concerned(entry))
            .map(|(id, entry)| (id.clone(), Arc::clone(&entry.object)))
            .collect();
        again.into_iter().flat_map(|(id, object)| self.put_device(id, object)).collect()
    }

    fn compile(&self, id: &DeviceId, object: Arc<Value>) -> Entry {
        let named = dmi::model_of(&object).map(|name| DeviceId::new(id.namespace.clone(), name));
        let model = named.as_ref().ok().and_then(|name| self.models.get(name));
        let model_object = model.map(|model| &*model.object);
        let protocol = dmi::protocol_of(&object, model_object);
        let no_desired = BTreeMap::new();
        let desired = self.desired.get(id).unwrap_or(&no_desired);
        let message = match (&named, model_object) {
            (Err(err), _) => Err(err.to_string()),
            (Ok(name), None) => Err(format!("spec.deviceModelRef.name: device model {name} is unknown here")),
            (Ok(_), Some(model)) => dmi::device(&object, model, desired).map_err(|err| err.to_string()),
        };
        let message = message.map(|message| with_hash(message, Message::encode_to_vec));
        Entry { object, protocol, model: named.ok(), message }
    }

    fn is_used(&self, model: &DeviceId, protocol: &str) -> bool {
        let uses = |entry: &Entry| {
            entry.model.as_ref() == Some(model) && entry.protocol.as_deref() == Some(protocol)
        };
        self.devices.values().any(uses)
    }

    /// What a mapper of `protocol` should know of `key`.
    pub fn want(&self, protocol: &str, key: &Key) -> Want {
        match key {
            Key::Device(id) => match self.devices.get(id) {
                Some(entry) if entry.protocol.as_deref() == Some(protocol) => match &entry.message {
                    Ok((device, hash)) => Want::Device(Arc::clone(device), *hash),
                    Err(_) => Want::Unsure,
                },
                _ => Want::Nothing,
            },
            Key::Model(id) if self.is_used(id, protocol) => {
                match self.models.get(id).map(|model| &model.message) {
                    Some(Ok((model, hash))) => Want::Model(Arc::clone(model), *hash),
                    // Its devices are still there: a model that went first is on its way back or out.
                    Some(Err(_)) | None => Want::Unsure,
                }
            }
            Key::Model(_) => Want::Nothing,
        }
    }

    /// Every key a mapper of `protocol` may have to be told.
    pub fn keys(&self, protocol: &str) -> BTreeSet<Key> {
        let mine = |entry: &&Entry| entry.protocol.as_deref() == Some(protocol);
        let models = self.devices.values().filter(mine).filter_map(|entry| entry.model.clone());
        let mut keys: BTreeSet<Key> = models.map(Key::Model).collect();
        let devices = self.devices.iter().filter(|(_, entry)| mine(entry));
        keys.extend(devices.map(|(id, _)| Key::Device(id.clone())));
        keys
    }

    /// Everything a mapper of `protocol` can be told, each model once.
    pub fn listing(&self, protocol: &str) -> Listing {
        let mut listing = Listing::default();
        for key in self.keys(protocol) {
            match self.want(protocol, &key) {
                Want::Device(device, hash) => {
                    listing.devices.push((*device).clone());
                    listing.told.push((key, hash));
                }
                Want::Model(model, hash) => {
                    listing.models.push((*model).clone());
                    listing.told.push((key, hash));
                }
                Want::Nothing | Want::Unsure => {}
            }
        }
        listing
    }
}

fn about(id: &DeviceId, entry: &Entry) -> BTreeSet<Touched> {
    let Some(protocol) = &entry.protocol else { return BTreeSet::new() };
    let keys = entry.model.iter().cloned().map(Key::Model).chain([Key::Device(id.clone())]);
    keys.map(|key| Touched { protocol: protocol.clone(), key }).collect()
}

fn with_hash<M>(message: M, encode: impl Fn(&M) -> Vec<u8>) -> (Arc<M>, u64) {
    let mut hasher = DefaultHasher::new();
    hasher.write(&encode(&message));
    (Arc::new(message), hasher.finish())
}
