//! What local applications and mappers ask of the twins, and how they are answered.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::payload::{
    AskIn, MemberOut, MembersAnswer, Refusal, StateAnswer, StateIn, TwinAnswer, UpdateIn, bytes as json_bytes,
};
use super::topic::{self, Topic, UNPARSABLE_RESULT};
use super::twins::{Now, Refused, Twins, publish};
use crate::bus::device_twin::{MapperReport, ReportRejected};
use crate::model::DeviceId;
use crate::model::device::{MsgTwin, Twin, TwinValue};
use crate::store::Batch;

/// States KubeEdge knows (protocol section 7.6).
const STATES: [&str; 5] = ["online", "offline", "ok", "unknown", "unhealthy"];

/// Where an update is answered.
const UPDATE_RESULT: &str = "twin/update/result";
const BAD_UPDATE: &str = "Unmarshal update request body failed, please check the request";
const NO_TWIN: &str = "Update twin error, key:twin does not exist";
const NO_DEVICE: &str = "update rejected due to the device is not existed";

impl Twins {
    /// A message on a topic of devices. `receipt` becomes durable with what it changes. Bad
    /// payloads are answered and change nothing; topics nobody handles are only receipted.
    pub fn message(&mut self, topic: &str, payload: &[u8], receipt: Batch, now: Now) {
        self.receipts.append(receipt);
        match Topic::parse(topic) {
            Topic::TwinUpdate(id) => self.twin_update(&id, payload, now),
            Topic::TwinGet(id) => self.twin_get(&id, payload, now),
            Topic::CloudUpdated(id) => self.cloud_update(&id, payload, now),
            Topic::StateUpdate(id) => self.state_update(&id, payload, now),
            Topic::MembershipGet(node) if node == self.node => self.members_get(payload, now),
            Topic::MembershipGet(_) | Topic::Other => {
                tracing::debug!(topic, "nothing here handles this topic");
            }
        }
    }

    fn twin_update(&mut self, id: &DeviceId, payload: &[u8], now: Now) {
        let Some((event_id, twin)) = self.read_update(id, payload, now) else { return };
        if let Err(why) = self.update(id, &event_id, &twin, now) {
            let answer = topic::of_device(id, UPDATE_RESULT);
            self.refuse(Refused::Invalid, answer, &event_id, 400, &why, now);
        }
    }

    /// The event id and the twin of an update; `None` when it was refused.
    fn read_update(&mut self, id: &DeviceId, payload: &[u8], now: Now) -> Option<(String, Twin)> {
        let answer = topic::of_device(id, UPDATE_RESULT);
        if let Some(why) = self.too_large(payload) {
            self.refuse(Refused::TooLarge, answer, "", 400, &why, now);
            return None;
        }
        let Ok(update) = serde_json::from_slice::<UpdateIn>(payload) else {
            self.refuse(Refused::Malformed, UNPARSABLE_RESULT.to_owned(), "", 400, BAD_UPDATE, now);
            return None;
        };
        let event_id = update.event_id.unwrap_or_default();
        let Some(twin) = update.twin else {
            self.refuse(Refused::Malformed, answer, &event_id, 400, NO_TWIN, now);
            return None;
        };
        if !self.devices.contains_key(id) {
            self.refuse(Refused::UnknownDevice, answer, &event_id, 404, NO_DEVICE, now);
            return None;
        }
        Some((event_id, twin))
    }

    fn twin_get(&mut self, id: &DeviceId, payload: &[u8], now: Now) {
        let topic = topic::of_device(id, "twin/get/result");
        let ask = match self.read_ask(payload) {
            Ok(ask) => ask,
            Err((kind, why)) => return self.refuse(kind, topic, "", 400, &why, now),
        };
        let event_id = ask.event_id.unwrap_or_default();
        let Some(device) = self.devices.get(id) else {
            let why = format!("Device {id} not found while getting twin");
            return self.refuse(Refused::UnknownDevice, topic, &event_id, 404, &why, now);
        };
        let answer = TwinAnswer { event_id: &event_id, timestamp: now.wall_ms, twin: &device.twin() };
        let payload = json_bytes(&answer);
        self.effects.push(publish(topic, payload));
    }

    fn cloud_update(&mut self, id: &DeviceId, payload: &[u8], now: Now) {
        if let Some((_, twin)) = self.read_update(id, payload, now) {
            self.cloud_updated(id, &twin, now);
        }
    }

    fn state_update(&mut self, id: &DeviceId, payload: &[u8], now: Now) {
        // Go is silent about bad requests; whoever made one should hear of it.
        let answer = topic::of_device(id, "state/update/result");
        if let Some(why) = self.too_large(payload) {
            return self.refuse(Refused::TooLarge, answer, "", 400, &why, now);
        }
        let Ok(update) = serde_json::from_slice::<StateIn>(payload) else {
            return self.refuse(Refused::Malformed, answer, "", 400, BAD_UPDATE, now);
        };
        let event_id = update.event_id.unwrap_or_default();
        if !self.devices.contains_key(id) {
            return self.refuse(Refused::UnknownDevice, answer, &event_id, 404, NO_DEVICE, now);
        }
        if let Err(why) = self.set_state(id, update.state.as_deref().unwrap_or_default(), now) {
            self.refuse(Refused::Invalid, answer, &event_id, 400, &why, now);
        }
    }

    fn set_state(&mut self, id: &DeviceId, state: &str, now: Now) -> Result<(), String> {
        let state = state.to_ascii_lowercase();
        if !STATES.contains(&state.as_str()) {
            return Err(format!("the state {:?} is not one of {}", clip(&state), STATES.join(", ")));
        }
        let number = self.next_number();
        let Some(device) = self.devices.get_mut(id) else { return Ok(()) };
        device.last_online = match state.as_str() {
            "online" | "ok" => rfc3339(now.wall_ms),
            _ => String::new(),
        };
        device.state = state;
        device.state_ms = now.wall_ms.max(device.state_ms.saturating_add(1));
        device.state_mark = number;
        self.tally.from_edge += 1;
        self.touch(id);
        let event_id = self.event_id();
        if let Some(device) = self.devices.get(id) {
            let answer = json_bytes(&StateAnswer::new(&event_id, now.wall_ms, id, device));
            self.effects.push(publish(topic::of_device(id, "state/update/result"), answer));
        }
        self.mark_reports(id, now.clock);
        Ok(())
    }

    fn members_get(&mut self, payload: &[u8], now: Now) {
        let topic = topic::of_members(&self.node, "get/result");
        let ask = match self.read_ask(payload) {
            Ok(ask) => ask,
            Err((kind, why)) => return self.refuse(kind, topic, "", 400, &why, now),
        };
        let event_id = ask.event_id.unwrap_or_default();
        let devices = self.devices.iter().map(|(id, device)| MemberOut::new(id, device)).collect();
        let answer = json_bytes(&MembersAnswer { event_id: &event_id, timestamp: now.wall_ms, devices });
        self.effects.push(publish(topic, answer));
    }

    /// Values a mapper reports. What it has acted on (`observed_desired`) sets nothing: see
    /// [`super::merge`].
    ///
    /// # Errors
    /// Unknown device, or the twin's rules.
    pub fn mapper_twins(
        &mut self,
        id: &DeviceId,
        twins: BTreeMap<String, MapperReport>,
        now: Now,
    ) -> Result<(), ReportRejected> {
        self.check_known(id)?;
        let reported = twins.into_iter().filter_map(|(name, report)| {
            let actual = TwinValue { value: Some(report.reported?), metadata: None };
            Some((name, Some(MsgTwin { actual: Some(actual), ..MsgTwin::default() })))
        });
        let twin: Twin = reported.collect();
        if twin.is_empty() {
            return Ok(());
        }
        let event_id = self.event_id();
        self.update(id, &event_id, &twin, now).map_err(|why| self.invalid(why))
    }

    /// A state a mapper reports.
    ///
    /// # Errors
    /// Unknown device, unknown state.
    pub fn mapper_state(&mut self, id: &DeviceId, state: &str, now: Now) -> Result<(), ReportRejected> {
        self.check_known(id)?;
        self.set_state(id, state, now).map_err(|why| self.invalid(why))
    }

    fn check_known(&mut self, id: &DeviceId) -> Result<(), ReportRejected> {
        if self.devices.contains_key(id) {
            return Ok(());
        }
        *self.tally.refused.entry(Refused::UnknownDevice).or_default() += 1;
        Err(ReportRejected::UnknownDevice(id.clone()))
    }

    fn invalid(&mut self, why: String) -> ReportRejected {
        *self.tally.refused.entry(Refused::Invalid).or_default() += 1;
        ReportRejected::Invalid(why)
    }

    fn read_ask(&self, payload: &[u8]) -> Result<AskIn, (Refused, String)> {
        if let Some(why) = self.too_large(payload) {
            return Err((Refused::TooLarge, why));
        }
        serde_json::from_slice(payload)
            .map_err(|err| (Refused::Malformed, format!("Unmarshal twin info failed , err: {err}")))
    }

    fn too_large(&self, payload: &[u8]) -> Option<String> {
        let most = self.limits.payload_bytes;
        let bytes = payload.len();
        (bytes > most)
            .then(|| format!("the payload of {bytes} bytes is larger than the limit of {most} bytes"))
    }

    fn refuse(&mut self, kind: Refused, topic: String, event_id: &str, code: u16, reason: &str, now: Now) {
        *self.tally.refused.entry(kind).or_default() += 1;
        let answer: Bytes = json_bytes(&Refusal { event_id, timestamp: now.wall_ms, code, reason });
        self.effects.push(publish(topic, answer));
    }
}

/// Somebody else's text, for a message.
fn clip(text: &str) -> String {
    text.chars().take(32).collect()
}

/// UTC, whole seconds.
fn rfc3339(wall_ms: i64) -> String {
    let second = jiff::Timestamp::from_second(wall_ms.div_euclid(1000)).unwrap_or_default();
    second.to_string()
}
