//! DeviceTwin's core in a world without actors: a disk, a clock, a cloud.

mod convergence;
mod crash;
mod desired;
mod offline;
mod recorded;
mod refusals;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::twins::{Effect, Limits, Now, PREFIX, Twins};
use crate::bus::event_bus::Publication;
use crate::model::{Body, DeviceId, Envelope, Resource};
use crate::store::{Batch, Op, Row};

pub const NODE: &str = "edge-1";

pub fn id(name: &str) -> DeviceId {
    DeviceId::new("default", name)
}

/// An edge: the core, and what survives it.
pub struct Edge {
    pub core: Twins,
    pub disk: BTreeMap<Vec<u8>, Vec<u8>>,
    pub models: Vec<Value>,
    pub devices: Vec<Value>,
    pub now_ms: i64,
    pub clock: Instant,
    ids: Arc<AtomicU64>,
    window: usize,
}

/// What a write let out.
#[derive(Default)]
pub struct Out {
    pub published: Vec<Publication>,
    pub effects: Vec<Effect>,
    pub messages: Vec<Envelope>,
}

fn core(ids: &Arc<AtomicU64>, window: usize) -> Twins {
    let ids = Arc::clone(ids);
    let limits = Limits { payload_bytes: 1 << 20, window, exported_values: 3 };
    Twins::new(NODE, limits, move || format!("uuid-{}", ids.fetch_add(1, Ordering::Relaxed)))
}

impl Edge {
    pub fn new(window: usize) -> Self {
        let ids = Arc::new(AtomicU64::new(0));
        Self {
            core: core(&ids, window),
            disk: BTreeMap::new(),
            models: Vec::new(),
            devices: Vec::new(),
            now_ms: 1_795_376_600_000,
            clock: Instant::now(),
            ids,
            window,
        }
    }

    /// With these devices as members.
    pub fn with(names: &[&str]) -> Self {
        let mut edge = Self::new(256);
        edge.join(names);
        edge.commit();
        edge
    }

    pub fn join(&mut self, names: &[&str]) {
        let added: Vec<Value> =
            names.iter().map(|name| json!({"id": format!("default/{name}"), "name": name})).collect();
        self.cloud(
            "membership",
            json!({"event_id": "e", "timestamp": 1, "added_devices": added, "removed_devices": null}),
        );
    }

    pub fn now(&self) -> Now {
        Now { wall_ms: self.now_ms, clock: self.clock }
    }

    pub fn wait(&mut self, time: Duration) {
        self.clock += time;
        self.now_ms += i64::try_from(time.as_millis()).unwrap();
        self.core.tick(self.clock, || 1.0);
    }

    pub fn cloud(&mut self, resource: &str, body: Value) {
        let resource = Resource::parse(resource);
        let message = Envelope::new("devicecontroller", "twin", "update", resource, Body::Object(body), 1);
        self.core.cloud_message(&message, self.now(), 0.0);
    }

    /// The cloud's answer to a report.
    pub fn answer(&mut self, msg_id: &str, operation: &str) {
        let body = Body::Text("OK".into());
        let mut message = Envelope::new("devicecontroller", "twin", operation, Resource::Twin, body, 1);
        message.header.parent_msg_id = Some(msg_id.to_owned());
        self.core.cloud_message(&message, self.now(), 0.0);
    }

    pub fn mqtt(&mut self, topic: &str, payload: &str) {
        self.core.message(topic, payload.as_bytes(), Batch::new(), self.now());
    }

    pub fn update(&mut self, name: &str, twin: Value) {
        let payload = json!({"event_id": "e", "timestamp": 0, "twin": twin}).to_string();
        self.mqtt(&format!("$hw/events/device/default/{name}/twin/update"), &payload);
    }

    pub fn connect(&mut self) {
        self.core.link_changed(true, self.now());
    }

    /// A model or a Device is stored here, and told.
    pub fn apply(&mut self, object: Value) {
        let is_model = object["kind"] == "DeviceModel";
        let list = if is_model { &mut self.models } else { &mut self.devices };
        list.retain(|other| other["metadata"]["name"] != object["metadata"]["name"]);
        list.push(object.clone());
        if is_model {
            self.core.model_changed(&object, self.now());
        } else {
            self.core.device_changed(&object, self.now());
        }
    }

    /// Makes everything durable and does it.
    pub fn commit(&mut self) -> Out {
        let write = self.core.begin_write(self.now(), true);
        self.store(&write.batch);
        let published = write.effects.iter().filter_map(|effect| match effect {
            Effect::Publish(publication) => Some(publication.clone()),
            _ => None,
        });
        Out { published: published.collect(), effects: write.effects, messages: write.messages }
    }

    pub fn store(&mut self, batch: &Batch) {
        for op in batch.ops() {
            match op {
                Op::Put { key, value, .. } => drop(self.disk.insert(key.clone(), value.clone())),
                Op::Delete { key, .. } => drop(self.disk.remove(key)),
            }
        }
    }

    /// Everything in memory is gone; the rows and MetaManager's objects are read again.
    pub fn restart(&mut self) {
        self.core = core(&self.ids, self.window);
        self.reload();
        self.core.set_objects(self.models.iter(), self.devices.iter(), self.now());
    }

    pub fn reload(&mut self) {
        let mine = self.disk.iter().filter(|(key, _)| key.starts_with(PREFIX.as_bytes()));
        let rows: Vec<Row> = mine.map(|(key, value)| (key.clone(), value.clone())).collect();
        assert_eq!(self.core.reload(&rows, self.clock), 0, "rows that cannot be read");
    }

    pub fn row(&self, name: &str) -> Option<Value> {
        let row = self.disk.get(format!("{PREFIX}default/{name}").as_bytes())?;
        Some(serde_json::from_slice(row).unwrap())
    }

    /// The value at this edge: `expected` or `actual`.
    pub fn value(&self, name: &str, property: &str, side: &str) -> Option<String> {
        let device = self.core.devices.get(&id(name))?.properties.get(property)?;
        let held = if side == "expected" { &device.expected } else { &device.actual };
        held.as_ref().map(|held| held.value.clone())
    }
}

/// Topics below the device, and payloads.
pub fn lines(published: &[Publication]) -> Vec<(String, Value)> {
    let line = |publication: &Publication| {
        let topic = publication.topic.replace("$hw/events/device/default/", "");
        (topic, serde_json::from_slice(&publication.payload).unwrap())
    };
    published.iter().map(line).collect()
}

pub fn topics(published: &[Publication]) -> Vec<String> {
    lines(published).into_iter().map(|(topic, _)| topic).collect()
}

/// A Device as MetaManager stores it.
pub fn device(name: &str, version: u64, desired: &[(&str, &str)]) -> Value {
    let properties: Vec<Value> =
        desired.iter().map(|(name, value)| json!({"name": name, "desired": {"value": value}})).collect();
    json!({"kind": "Device", "metadata": {"namespace": "default", "name": name, "uid": "u",
        "resourceVersion": version.to_string()},
        "spec": {"deviceModelRef": {"name": "m"}, "nodeName": NODE, "properties": properties}})
}

pub fn model(properties: Value) -> Value {
    json!({"kind": "DeviceModel", "metadata": {"namespace": "default", "name": "m"}, "spec": {"properties": properties}})
}

/// What a cloud keeps of reports: the value with the newest timestamp, by device, property and side.
#[derive(Default)]
pub struct Cloud {
    pub values: BTreeMap<(String, String, &'static str), (i64, String)>,
    pub states: BTreeMap<String, (i64, String)>,
}

impl Cloud {
    pub fn take(&mut self, message: &Envelope) {
        match (&message.route.resource, &message.body) {
            (Resource::DeviceTwin { name, .. }, Body::Object(content)) => {
                for (property, twin) in content["twin"].as_object().unwrap() {
                    for side in ["expected", "actual"] {
                        let Some(value) = twin[side]["value"].as_str() else { continue };
                        let at = twin[side]["metadata"]["timestamp"].as_i64().unwrap();
                        let held = self.values.entry((name.clone(), property.clone(), side)).or_default();
                        if at > held.0 {
                            *held = (at, value.to_owned());
                        }
                    }
                }
            }
            (Resource::DeviceState { name, .. }, Body::Text(content)) => {
                let content: Value = serde_json::from_str(content).unwrap();
                let at = content["timestamp"].as_i64().unwrap();
                let held = self.states.entry(name.clone()).or_default();
                if at > held.0 {
                    *held = (at, content["device"]["state"].as_str().unwrap().to_owned());
                }
            }
            (Resource::MembershipDetail, Body::Text(_)) => {}
            other => panic!("no report: {other:?}"),
        }
    }

    pub fn value(&self, name: &str, property: &str, side: &'static str) -> Option<String> {
        let key = (name.to_owned(), property.to_owned(), side);
        self.values.get(&key).map(|(_, value)| value.clone())
    }
}
