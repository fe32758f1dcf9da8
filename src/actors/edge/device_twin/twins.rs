//! All devices of this node: which there are, what is to be written, what follows when it is on
//! disk. Pure: time and ids come from outside, what is to be done goes out with [`Twins::begin_write`].
//!
//! Memory runs ahead of the disk while a group of writes is under way. Nothing of it is seen before
//! it is durable: effects and reports leave with the write that makes them true. When a write fails
//! memory becomes what the disk says again ([`Twins::reload`]).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::device::Device;
use super::exports::{Exports, Sample};
use super::merge::Stamp;
use super::reports::{Kind, Reports, Unit};
use super::spec::{Spec, identity};
use super::value::Model;
use crate::bus::event_bus::Publication;
use crate::model::{DeviceId, Envelope};
use crate::store::{Batch, Row, Table};

/// Key prefix of the rows, one for each device: `twin/{namespace}/{name}`.
pub const PREFIX: &str = "twin/";

/// Changes are numbered on from the greatest number on disk. Nobody changes so much: a row that says more is damaged.
const MAX_NUMBER: u64 = 1 << 62;

/// What bounds the twins.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest payload taken, bytes.
    pub payload_bytes: usize,
    /// Reports to the cloud that may wait for their confirmation at once.
    pub window: usize,
    /// Device values shown as metrics.
    pub exported_values: usize,
}

/// The time, on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Unix milliseconds.
    pub wall_ms: i64,
    pub clock: Instant,
}

/// What happens once it is durable, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Publish(Publication),
    /// Dmi hears the desired values in force.
    Desired(DeviceId, BTreeMap<String, String>),
    /// EventBus hears all devices of this node.
    Members(Vec<DeviceId>),
    /// A metric.
    Sample(Sample),
}

/// One group of writes.
#[derive(Debug, Default)]
pub struct Write {
    pub batch: Batch,
    /// To be done when the batch is on disk.
    pub effects: Vec<Effect>,
    /// To be sent to the cloud after that.
    pub messages: Vec<Envelope>,
}

/// Why a request was refused, for counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refused {
    Malformed,
    TooLarge,
    UnknownDevice,
    /// A key, type or value that is not allowed.
    Invalid,
}

/// What there is to count since the last look.
#[derive(Debug, Default)]
pub struct Tally {
    pub from_edge: u64,
    pub from_cloud: u64,
    pub refused: BTreeMap<Refused, u64>,
    /// From a change to its confirmation by the cloud.
    pub synced: Vec<Duration>,
    /// Reports given up because the cloud refused them or they cannot be sent.
    pub given_up: u64,
}

/// The core.
pub struct Twins {
    pub(super) node: String,
    pub(super) limits: Limits,
    new_id: Box<dyn FnMut() -> String + Send>,
    pub(super) devices: BTreeMap<DeviceId, Device>,
    pub(super) specs: HashMap<DeviceId, Spec>,
    /// By namespace and name.
    pub(super) models: HashMap<(String, String), Model>,
    pub(super) reports: Reports,
    pub(super) exports: Exports,
    /// Number of the last change.
    number: u64,
    /// Rows to be written.
    touched: BTreeSet<DeviceId>,
    /// Rows that only forget what the cloud has confirmed: they go with the next write. Lost, they
    /// cost one report more.
    pub(super) settled: BTreeSet<DeviceId>,
    pub(super) receipts: Batch,
    pub(super) effects: Vec<Effect>,
    /// Messages besides reports.
    pub(super) messages: Vec<Envelope>,
    members_changed: bool,
    pub tally: Tally,
}

impl Twins {
    /// `new_id` makes event ids.
    #[must_use]
    pub fn new(node: &str, limits: Limits, new_id: impl FnMut() -> String + Send + 'static) -> Self {
        Self {
            node: node.to_owned(),
            limits,
            new_id: Box::new(new_id),
            devices: BTreeMap::new(),
            specs: HashMap::new(),
            models: HashMap::new(),
            reports: Reports::new(limits.window),
            exports: Exports::new(limits.exported_values),
            number: 0,
            touched: BTreeSet::new(),
            settled: BTreeSet::new(),
            receipts: Batch::new(),
            effects: Vec::new(),
            messages: Vec::new(),
            members_changed: false,
            tally: Tally::default(),
        }
    }

    /// Makes memory what these rows say; says how many cannot be read. The objects and the state
    /// of the link are kept; [`Twins::apply_all`] applies the objects to what was read.
    pub fn reload(&mut self, rows: &[Row], now: Instant) -> usize {
        let connected = self.reports.is_connected();
        self.devices.clear();
        self.touched.clear();
        self.settled.clear();
        self.receipts = Batch::new();
        self.effects.clear();
        self.messages.clear();
        self.reports = Reports::new(self.limits.window);
        self.reports.link_changed(connected);
        self.members_changed = true;
        let mut unreadable = 0;
        for (key, value) in rows {
            let id = std::str::from_utf8(key).ok().and_then(|key| DeviceId::parse(key.strip_prefix(PREFIX)?));
            let marks = |device: &Device| {
                let marks = device.properties.values().map(|property| property.mark);
                marks.chain([device.state_mark]).max().unwrap_or_default()
            };
            match (id, serde_json::from_slice::<Device>(value)) {
                (Some(id), Ok(device)) if marks(&device) <= MAX_NUMBER => {
                    self.number = self.number.max(marks(&device));
                    self.devices.insert(id, device);
                }
                _ => unreadable += 1,
            }
        }
        let ids: Vec<DeviceId> = self.devices.keys().cloned().collect();
        for id in ids {
            self.mark_reports(&id, now);
            self.tell_desired(&id);
        }
        unreadable
    }

    /// Every stored DeviceModel and Device. A device whose object went while nobody listened goes.
    pub fn set_objects<'a>(
        &mut self,
        models: impl Iterator<Item = &'a Value>,
        devices: impl Iterator<Item = &'a Value>,
        now: Now,
    ) {
        self.models.clear();
        for model in models {
            self.keep_model(model);
        }
        self.specs = devices.filter_map(|device| Some((identity(device)?, Spec::read(device)))).collect();
        let specs = &self.specs;
        let is_gone = |(id, device): &(&DeviceId, &Device)| device.has_object && !specs.contains_key(*id);
        let gone: Vec<DeviceId> = self.devices.iter().filter(is_gone).map(|(id, _)| id.clone()).collect();
        self.remove(&gone, now);
        self.apply_all(now);
    }

    /// Applies the objects to what is known of the devices.
    pub fn apply_all(&mut self, now: Now) {
        let mut ids: Vec<DeviceId> = self.specs.keys().cloned().collect();
        ids.sort();
        for id in ids {
            self.apply_spec(&id, now);
        }
    }

    /// A Device object is new or changed, or told again.
    pub fn device_changed(&mut self, object: &Value, now: Now) {
        let Some(id) = identity(object) else { return };
        let spec = Spec::read(object);
        if self.specs.get(&id).is_some_and(|known| known.is_newer_than(&spec)) {
            return;
        }
        self.specs.insert(id.clone(), spec);
        self.apply_spec(&id, now);
    }

    pub fn device_removed(&mut self, id: &DeviceId, now: Now) {
        self.specs.remove(id);
        self.remove(std::slice::from_ref(id), now);
    }

    pub fn model_changed(&mut self, object: &Value, now: Now) {
        let Some((namespace, name)) = self.keep_model(object) else { return };
        // Desired values it forbade before may be fine now.
        let uses = |(id, spec): &(&DeviceId, &Spec)| {
            id.namespace == namespace && spec.model.as_deref() == Some(name.as_str())
        };
        let ids: Vec<DeviceId> = self.specs.iter().filter(uses).map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.apply_spec(&id, now);
        }
    }

    pub fn model_removed(&mut self, namespace: &str, name: &str) {
        self.models.remove(&(namespace.to_owned(), name.to_owned()));
    }

    fn keep_model(&mut self, object: &Value) -> Option<(String, String)> {
        let DeviceId { namespace, name } = identity(object)?;
        self.models.insert((namespace.clone(), name.clone()), Model::read(object));
        Some((namespace, name))
    }

    fn apply_spec(&mut self, id: &DeviceId, now: Now) {
        let Some(spec) = self.specs.get(id) else { return };
        let is_new = !self.devices.contains_key(id);
        let stamp = Stamp { now_ms: now.wall_ms, number: self.number + 1 };
        let device = self.devices.entry(id.clone()).or_default();
        let is_news = is_new || !device.has_object || device.description != spec.description;
        device.has_object = true;
        device.description.clone_from(&spec.description);
        let model = model_of(&self.specs, &self.models, id);
        let changed = device.desire(&spec.desired, model, stamp);
        self.number += 1;
        let ended = self.exports.end(id, |property| spec.exports.includes(property));
        self.effects.extend(ended.into_iter().map(Effect::Sample));
        for (name, property) in &device.properties {
            let Some(actual) = property.actual.as_ref().filter(|_| spec.exports.includes(name)) else {
                continue;
            };
            self.effects.extend(self.exports.set(id, name, &actual.value).map(Effect::Sample));
        }
        if is_news {
            self.touched.insert(id.clone());
        }
        if is_new {
            self.members_changed = true;
            self.tell_members(std::slice::from_ref(id), Vec::new(), now);
        }
        if changed.touched {
            self.tally.from_cloud += 1;
        }
        self.finish(id, None, &changed, now);
    }

    /// Devices a membership message adds; those already known stay as they are.
    pub(super) fn add_members(&mut self, added: Vec<(DeviceId, String)>, now: Now) {
        let mut new = Vec::new();
        for (id, description) in added {
            if !self.devices.contains_key(&id) {
                new.push(id.clone());
            }
            let device = self.devices.entry(id.clone()).or_default();
            if !device.is_member {
                device.is_member = true;
                if !description.is_empty() {
                    device.description = description;
                }
                self.touched.insert(id);
            }
        }
        if !new.is_empty() {
            self.members_changed = true;
            self.tell_members(&new, Vec::new(), now);
        }
    }

    /// These devices are gone: with their rows and whatever waited for the cloud.
    pub(super) fn remove(&mut self, ids: &[DeviceId], now: Now) {
        let mut gone = Vec::new();
        for id in ids {
            let Some(device) = self.devices.remove(id) else { continue };
            self.touched.insert(id.clone());
            self.settled.remove(id);
            for kind in [Kind::Twin, Kind::State] {
                self.reports.forget(&Unit { device: id.clone(), kind });
            }
            let ended = self.exports.end(id, |_| false);
            self.effects.extend(ended.into_iter().map(Effect::Sample));
            gone.push((id.clone(), device));
        }
        if !gone.is_empty() {
            self.members_changed = true;
            self.tell_members(&[], gone, now);
        }
    }

    /// A local update, all of it or nothing.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn update(
        &mut self,
        id: &DeviceId,
        event_id: &str,
        twin: &crate::model::device::Twin,
        now: Now,
    ) -> Result<(), String> {
        let stamp = Stamp { now_ms: now.wall_ms, number: self.number + 1 };
        let model = model_of(&self.specs, &self.models, id);
        let Some(device) = self.devices.get_mut(id) else { return Ok(()) };
        let changed = device.update(twin, model, stamp)?;
        self.number += 1;
        self.tally.from_edge += 1;
        self.warn_of_strangers(id, &changed.created);
        self.finish(id, Some(event_id), &changed, now);
        Ok(())
    }

    /// `twin/cloud_updated`, from the cloud or on its topic.
    pub(super) fn cloud_updated(&mut self, id: &DeviceId, twin: &crate::model::device::Twin, now: Now) {
        let stamp = Stamp { now_ms: now.wall_ms, number: self.number + 1 };
        let model = model_of(&self.specs, &self.models, id);
        let Some(device) = self.devices.get_mut(id) else { return };
        let changed = device.cloud_updated(twin, model, stamp);
        self.number += 1;
        self.tally.from_cloud += 1;
        self.finish(id, None, &changed, now);
    }

    /// The cloud lost what it was told: every value and state counts as not confirmed.
    pub fn report_anew(&mut self, now: Now) {
        let ids: Vec<DeviceId> = self.devices.keys().cloned().collect();
        for id in ids {
            let Some(device) = self.devices.get_mut(&id) else { continue };
            self.number += 1;
            if device.unsettle(self.number) {
                self.touched.insert(id.clone());
                self.mark_reports(&id, now.clock);
            }
        }
    }

    /// Queues what the device has to tell the cloud.
    pub(super) fn mark_reports(&mut self, id: &DeviceId, now: Instant) {
        let Some(device) = self.devices.get(id) else { return };
        if let Some(since) = device.twin_since() {
            self.reports.mark(Unit { device: id.clone(), kind: Kind::Twin }, since, now);
        }
        if device.state_mark != 0 {
            self.reports.mark(Unit { device: id.clone(), kind: Kind::State }, device.state_mark, now);
        }
    }

    /// Takes what is to be written and done now. `all`: also what may wait for another write.
    pub fn begin_write(&mut self, now: Now, all: bool) -> Write {
        let mut batch = std::mem::take(&mut self.receipts);
        let mut rows = std::mem::take(&mut self.touched);
        if all || !rows.is_empty() || !batch.is_empty() {
            rows.append(&mut self.settled);
        }
        for id in rows {
            let key = format!("{PREFIX}{id}");
            batch = match self.devices.get(&id).map(serde_json::to_vec) {
                Some(Ok(row)) => batch.put(Table::Objects, key, row),
                // Maps with text keys always become JSON.
                Some(Err(_)) => batch,
                None => batch.delete(Table::Objects, key),
            };
        }
        let mut effects = std::mem::take(&mut self.effects);
        if std::mem::take(&mut self.members_changed) {
            effects.insert(0, Effect::Members(self.devices.keys().cloned().collect()));
        }
        let mut messages = std::mem::take(&mut self.messages);
        messages.extend(self.make_reports(now));
        Write { batch, effects, messages }
    }

    /// Is there something that [`Twins::begin_write`] would give?
    #[must_use]
    pub fn has_work(&self) -> bool {
        !(self.touched.is_empty()
            && self.receipts.is_empty()
            && self.effects.is_empty()
            && self.messages.is_empty()
            && !self.members_changed
            && self.reports.take().is_empty())
    }

    /// Every desired value in force.
    #[must_use]
    pub fn all_desired(&self) -> Vec<(DeviceId, BTreeMap<String, String>)> {
        self.devices.iter().map(|(id, device)| (id.clone(), device.desired())).collect()
    }

    /// Devices by state.
    #[must_use]
    pub fn states(&self) -> BTreeMap<&str, u32> {
        let mut states = BTreeMap::new();
        for device in self.devices.values() {
            *states.entry(device.state.as_str()).or_default() += 1;
        }
        states
    }

    /// The series this process made, for the core that comes after this one.
    pub fn take_exports(&mut self) -> Exports {
        let most = self.exports.most();
        std::mem::replace(&mut self.exports, Exports::new(most))
    }

    /// Takes over the series of the core before.
    pub fn set_exports(&mut self, exports: Exports) {
        self.exports = exports;
    }

    /// Reports the cloud has not confirmed, and values that found no room as metrics.
    #[must_use]
    pub fn open_counts(&self) -> (usize, u64) {
        (self.reports.len(), self.exports.refused)
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    pub(super) fn event_id(&mut self) -> String {
        (self.new_id)()
    }

    pub(super) fn touch(&mut self, id: &DeviceId) {
        self.touched.insert(id.clone());
    }
}

pub(super) fn model_of<'a>(
    specs: &HashMap<DeviceId, Spec>,
    models: &'a HashMap<(String, String), Model>,
    id: &DeviceId,
) -> Option<&'a Model> {
    let name = specs.get(id)?.model.clone()?;
    models.get(&(id.namespace.clone(), name))
}

pub(super) fn publish(topic: String, payload: bytes::Bytes) -> Effect {
    Effect::Publish(Publication { topic, payload, retain: false })
}
