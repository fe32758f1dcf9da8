//! What a change means for those who listen: results, documents and deltas in KubeEdge's order,
//! Dmi, metrics.

use super::device::Device;
use super::merge::Changed;
use super::payload::{BeforeAfter, Delta, Document, MemberOut, MembersUpdated, TwinAnswer, bytes};
use super::topic;
use super::twins::{Effect, Now, Twins, model_of, publish};
use crate::model::DeviceId;

impl Twins {
    /// `membership/updated`.
    pub(super) fn tell_members(&mut self, added: &[DeviceId], removed: Vec<(DeviceId, Device)>, now: Now) {
        let event_id = self.event_id();
        let added = added.iter().filter_map(|id| Some(MemberOut::new(id, self.devices.get(id)?)));
        let added: Vec<MemberOut<'_>> = added.collect();
        let removed: Vec<MemberOut<'_>> =
            removed.iter().map(|(id, device)| MemberOut::new(id, device)).collect();
        let news = MembersUpdated {
            event_id: &event_id,
            timestamp: now.wall_ms,
            added_devices: (!added.is_empty()).then_some(added),
            removed_devices: (!removed.is_empty()).then_some(removed),
        };
        let payload = bytes(&news);
        self.effects.push(publish(topic::of_members(&self.node, "updated"), payload));
    }

    /// The answers and reports of a change. Only a local one has a result.
    pub(super) fn finish(&mut self, id: &DeviceId, event_id: Option<&str>, changed: &Changed, now: Now) {
        for why in &changed.refused {
            tracing::warn!(device = %id, why, "what the cloud wants was not taken");
        }
        if changed.touched {
            self.touch(id);
        }
        let timestamp = now.wall_ms;
        if let Some(event_id) = event_id {
            let answer = TwinAnswer { event_id, timestamp, twin: &changed.result };
            self.effects.push(publish(topic::of_device(id, "twin/update/result"), bytes(&answer)));
        }
        if !changed.document.is_empty() {
            let own_id = self.event_id();
            let twin = changed.document.iter().map(|(name, (last, current))| {
                (name.as_str(), BeforeAfter { last: last.as_ref(), current: current.as_ref() })
            });
            let event_id = event_id.unwrap_or(&own_id);
            let document = Document { event_id, timestamp, twin: twin.collect() };
            self.effects.push(publish(topic::of_device(id, "twin/update/document"), bytes(&document)));
        }
        if event_id.is_some() || !changed.document.is_empty() {
            self.publish_delta(id, timestamp);
        }
        if changed.desired {
            self.tell_desired(id);
        }
        self.export(id, changed);
        self.mark_reports(id, now.clock);
    }

    pub(super) fn publish_delta(&mut self, id: &DeviceId, timestamp: i64) {
        let Some((twin, delta)) = self.devices.get(id).and_then(Device::delta) else { return };
        let event_id = self.event_id();
        let message = Delta { event_id: &event_id, timestamp, twin: &twin, delta: &delta };
        self.effects.push(publish(topic::of_device(id, "twin/update/delta"), bytes(&message)));
    }

    pub(super) fn tell_desired(&mut self, id: &DeviceId) {
        if let Some(device) = self.devices.get(id) {
            let desired = device.desired();
            self.effects.push(Effect::Desired(id.clone(), desired));
        }
    }

    pub(super) fn export(&mut self, id: &DeviceId, changed: &Changed) {
        let Some(spec) = self.specs.get(id) else { return };
        for (name, (_, current)) in &changed.document {
            let actual = current.as_ref().and_then(|twin| twin.actual.as_ref()?.value.as_deref());
            if let Some(value) = actual.filter(|_| spec.exports.includes(name)) {
                self.effects.extend(self.exports.set(id, name, value).map(Effect::Sample));
            }
        }
    }

    /// A property that neither the Device nor its model names is kept, and said once.
    pub(super) fn warn_of_strangers(&self, id: &DeviceId, created: &[String]) {
        let Some(spec) = self.specs.get(id) else { return };
        let model = model_of(&self.specs, &self.models, id);
        for name in created {
            if !spec.properties.contains(name) && !model.is_some_and(|model| model.knows(name)) {
                tracing::warn!(device = %id, property = %name, "neither the Device nor its model names this property; \
                    its value stays at this edge");
            }
        }
    }
}
