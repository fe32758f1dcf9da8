//! The twins and the cloud (protocol sections 7.2, 7.3 and 17.6): membership and confirmations
//! down, reports up.

use std::collections::BTreeSet;
use std::time::Instant;

use super::payload::{MembersRequest, StateAnswer, UpdateIn, json};
use super::reports::{Kind, Marks, Settled, Unit};
use super::twins::{Now, Twins};
use crate::model::device::{Member, Membership, TwinUpdate};
use crate::model::{Body, DeviceId, Envelope, Resource, group, operation, source};

/// Who may say which devices this node has.
const MEMBERSHIP_SOURCES: [&str; 2] = [source::DEVICE_CONTROLLER, source::EDGE_MANAGER];

#[derive(Debug, Default, serde::Deserialize)]
#[serde(default)]
struct WholeMembership {
    devices: Option<Vec<Member>>,
}

impl Twins {
    /// A message of group `twin`. `random` is uniform in 0.0..1.0.
    pub fn cloud_message(&mut self, message: &Envelope, now: Now, random: f64) {
        let route = &message.route;
        if let Some(parent) = message.header.parent_msg_id.as_deref().filter(|parent| !parent.is_empty()) {
            let refused = route.operation == operation::ERROR || matches!(message.body, Body::Error(_));
            return self.answered(parent, refused, now.clock, random);
        }
        let may_change_members = MEMBERSHIP_SOURCES.contains(&route.source.as_str());
        match &route.resource {
            Resource::Membership | Resource::MembershipDetail if !may_change_members => {
                tracing::warn!(source = %route.source, "a membership of this source is not taken");
            }
            Resource::Membership => self.membership(message, now),
            Resource::MembershipDetail => self.whole_membership(message, now),
            resource => {
                let Some(id) = resource.cloud_updated() else {
                    return tracing::debug!(%resource, "nothing here handles this message");
                };
                let update = read::<UpdateIn>(&message.body);
                match update.and_then(|update| update.twin) {
                    Some(twin) => self.cloud_updated(&id, &twin, now),
                    None => tracing::warn!(device = %id, "twin/cloud_updated without a twin"),
                }
            }
        }
    }

    fn membership(&mut self, message: &Envelope, now: Now) {
        let Some(change) = read::<Membership>(&message.body) else {
            return tracing::warn!("a membership that cannot be read");
        };
        let removed: Vec<DeviceId> =
            change.removed_devices.unwrap_or_default().iter().filter_map(id_of).collect();
        self.remove(&removed, now);
        self.add_members(members(change.added_devices.unwrap_or_default()), now);
    }

    /// Replaces the whole set.
    fn whole_membership(&mut self, message: &Envelope, now: Now) {
        let Some(devices) = read::<WholeMembership>(&message.body).and_then(|whole| whole.devices) else {
            return tracing::warn!("a membership/detail without devices");
        };
        let listed = members(devices);
        let names: BTreeSet<&DeviceId> = listed.iter().map(|(id, _)| id).collect();
        let gone: Vec<DeviceId> = self.devices.keys().filter(|id| !names.contains(id)).cloned().collect();
        self.remove(&gone, now);
        self.add_members(listed, now);
    }

    fn answered(&mut self, parent: &str, refused: bool, now: Instant, random: f64) {
        if !refused {
            if let Some(settled) = self.reports.confirmed(parent, now) {
                self.tally.synced.push(settled.took);
                self.settle(&settled, now);
            }
        } else if let Some(settled) = self.reports.refused(parent, now, random) {
            tracing::warn!(device = %settled.unit.device, "the cloud refuses this report; its next change is reported again");
            self.tally.given_up += 1;
            self.settle(&settled, now);
        }
    }

    fn settle(&mut self, settled: &Settled, now: Instant) {
        let id = &settled.unit.device;
        let Some(device) = self.devices.get_mut(id) else { return };
        let changed = match &settled.marks {
            Marks::Twin(marks) => device.settle(marks),
            Marks::State(mark) if device.state_mark == *mark => {
                device.state_mark = 0;
                true
            }
            Marks::State(_) => false,
        };
        if changed {
            self.settled.insert(id.clone());
        }
        self.mark_reports(id, now);
    }

    /// A report did not leave. `never`: it never can.
    pub fn not_sent(&mut self, msg_id: &str, never: bool, now: Instant, random: f64) {
        if !never {
            return self.reports.failed(msg_id, now, random);
        }
        if let Some(settled) = self.reports.impossible(msg_id, now) {
            tracing::warn!(device = %settled.unit.device, "this report cannot be sent to the cloud");
            self.tally.given_up += 1;
            self.settle(&settled, now);
        }
    }

    /// A session opened or ended. At each opening the cloud is asked for the whole membership, as
    /// Go asks; Go's cloud does not answer.
    pub fn link_changed(&mut self, connected: bool, now: Now) {
        self.reports.link_changed(connected);
        if !connected {
            self.messages.clear();
            return;
        }
        let event_id = self.event_id();
        let request = MembersRequest {
            event_type: "group_membership_event",
            event_id: &event_id,
            group_id: &self.node,
            operation: "detail",
            timestamp: now.wall_ms,
        };
        let body = Body::Text(json(&request));
        self.messages = vec![upstream(operation::GET, Resource::MembershipDetail, body, now)];
    }

    /// Time passed: what was not confirmed in time is due again.
    pub fn tick(&mut self, now: Instant, random: impl FnMut() -> f64) {
        self.reports.tick(now, random);
    }

    /// The reports that may leave now, from what memory says: the caller sends them when that is
    /// durable.
    pub(super) fn make_reports(&mut self, now: Now) -> Vec<Envelope> {
        let mut messages = Vec::new();
        for unit in self.reports.take() {
            let Some((message, marks)) = self.report(&unit, now) else {
                self.reports.forget(&unit);
                continue;
            };
            self.reports.sent(&unit, message.header.msg_id.clone(), marks, now.clock);
            messages.push(message);
        }
        messages
    }

    fn report(&mut self, unit: &Unit, now: Now) -> Option<(Envelope, Marks)> {
        let event_id = self.event_id();
        let id = &unit.device;
        let device = self.devices.get(id)?;
        let (namespace, name) = (id.namespace.clone(), id.name.clone());
        match unit.kind {
            Kind::Twin => {
                let (twin, marks) = device.unconfirmed();
                if twin.is_empty() {
                    return None;
                }
                let update = TwinUpdate { event_id, timestamp: now.wall_ms, twin: Some(twin) };
                let body = Body::Object(serde_json::to_value(update).ok()?);
                let resource = Resource::DeviceTwin { namespace, name };
                Some((upstream(operation::UPDATE, resource, body, now), Marks::Twin(marks)))
            }
            Kind::State => {
                if device.state_mark == 0 {
                    return None;
                }
                let body = Body::Text(json(&StateAnswer::new(&event_id, device.state_ms, id, device)));
                let resource = Resource::DeviceState { namespace, name };
                let message = upstream(operation::UPDATE, resource, body, now);
                Some((message, Marks::State(device.state_mark)))
            }
        }
    }
}

fn upstream(operation: &str, resource: Resource, body: Body, now: Now) -> Envelope {
    Envelope::new(source::TWIN, group::RESOURCE, operation, resource, body, now.wall_ms)
}

fn id_of(member: &Member) -> Option<DeviceId> {
    let id = DeviceId::parse(&member.id);
    if id.is_none() {
        tracing::warn!(id = %member.id, "a member that is no namespace/name");
    }
    id
}

fn members(members: Vec<Member>) -> Vec<(DeviceId, String)> {
    members.into_iter().filter_map(|member| Some((id_of(&member)?, member.description))).collect()
}

/// Content that is an object, or a string of one.
fn read<T: serde::de::DeserializeOwned>(body: &Body) -> Option<T> {
    match body {
        Body::Object(value) => serde_json::from_value(value.clone()).ok(),
        Body::Text(text) => serde_json::from_str(text).ok(),
        _ => None,
    }
}
