//! Messages for this node: to DeviceTwin, or kept for the cloud.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;

use super::lanes::{Attempt, Lanes, Send};
use super::store_actor::Done;
use super::uploads::{self, Upload};
use super::wire::{Conn, Event};
use super::{EventBus, now_unix_ms};
use crate::bus::device_twin::DeviceMessage;
use crate::mqtt::{Input, PacketId};
use crate::store::{Batch, Outbox, Row, Table, scan_all};
use crate::supervise::spread;
use crate::wire::frame::MAX_FIELD_BYTES;

/// How long DeviceTwin may take: it waits for the disk.
const TAKE_DEADLINE: Duration = Duration::from_secs(30);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// Uploads sent before the cloud is asked whether it has them.
const UPLOADS_AT_ONCE: usize = 100;

/// Where a message came from, to be told when it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The broker inside; its ticket.
    Inside(u64),
    /// The broker outside: the connection and the packet, if it wants an acknowledgement.
    Outside(Conn, Option<PacketId>),
}

/// A message on its way to DeviceTwin.
#[derive(Debug, Clone)]
pub struct Parcel {
    pub source: Source,
    pub topic: Arc<str>,
    pub payload: Bytes,
    /// Writes of the broker that become durable with the change.
    pub receipt: Batch,
}

/// What is on its way.
#[derive(Debug)]
pub struct Local {
    pub lanes: Lanes<Parcel>,
    /// Payloads in the lanes.
    pub untaken_bytes: usize,
    /// Which uploads wait; they are on disk.
    pub uploads: Outbox,
    is_draining: bool,
    /// The cloud has uploads up to this one, whatever is on disk still: a full disk deletes nothing either.
    confirmed: Option<u64>,
    /// Deletes that failed; tried again at the next tick.
    leaves: Option<Batch>,
}

impl Local {
    #[must_use]
    pub fn new(max_uploads: u32) -> Self {
        let uploads = Outbox::new(uploads::PREFIX, max_uploads);
        Self {
            lanes: Lanes::default(),
            untaken_bytes: 0,
            uploads,
            is_draining: false,
            confirmed: None,
            leaves: None,
        }
    }
}

/// The lane of a topic of devices: the device, or all of the node's together.
fn lane(topic: &str) -> Option<&str> {
    if topic.starts_with("$hw/events/device/") {
        let end = topic.match_indices('/').nth(4).map_or(topic.len(), |(at, _)| at);
        return topic.get(..end);
    }
    topic.starts_with("$hw/events/node/").then_some("$hw/events/node")
}

impl EventBus {
    /// Gives a message to its module.
    pub(super) fn deliver(&mut self, parcel: Parcel) {
        if let Some(key) = lane(&parcel.topic).map(str::to_owned) {
            self.local.untaken_bytes += parcel.payload.len();
            let sends = self.local.lanes.push(&key, parcel);
            return self.send_parcels(sends);
        }
        let Parcel { source, topic, payload, receipt } = parcel;
        if topic.len() > MAX_FIELD_BYTES {
            // The cloud would not take it.
            self.metrics.dropped("bad_topic").increment(1);
            return self.writes.push(receipt, Done::Kept(source));
        }
        match serde_json::to_vec(&Upload::new(&topic, &payload, now_unix_ms())) {
            Ok(row) => {
                let (mut batch, dropped) = self.local.uploads.push(row);
                self.metrics.dropped("upload_outbox_full").increment(dropped);
                batch.append(receipt);
                self.writes.push(batch, Done::Kept(source));
            }
            Err(err) => {
                // Text always becomes JSON; were it not so, it would never go.
                tracing::error!(%topic, error = %err, "an upload was not understood");
                self.writes.push(receipt, Done::Kept(source));
            }
        }
    }

    fn send_parcels(&mut self, sends: Vec<Send<Parcel>>) {
        for Send { attempt, item } in sends {
            let (link, gate) = (self.device.clone(), std::rc::Rc::clone(&self.gate));
            let Parcel { topic, payload, receipt, .. } = item;
            let message = DeviceMessage { topic: topic.to_string(), payload, receipt };
            actix::spawn(async move {
                let is_taken = match link.ask(message, TAKE_DEADLINE).await {
                    Ok(Ok(())) => true,
                    Ok(Err(err)) => {
                        tracing::debug!(%topic, error = %err, "not taken, trying again");
                        false
                    }
                    Err(err) => {
                        tracing::debug!(%topic, error = %err, "not taken, trying again");
                        false
                    }
                };
                gate.inbox.push(Event::Answer { attempt, is_taken });
            });
        }
    }

    pub(super) fn answered(&mut self, attempt: Attempt, is_taken: bool) {
        let settled = self.local.lanes.settle(attempt, is_taken);
        for parcel in settled.taken {
            self.local.untaken_bytes = self.local.untaken_bytes.saturating_sub(parcel.payload.len());
            self.taken(parcel.source, true);
        }
        self.send_parcels(settled.send);
        if let Some(lane) = settled.retry {
            let gate = std::rc::Rc::clone(&self.gate);
            let pause = spread(RETRY_PAUSE, fastrand::f64());
            actix::spawn(async move {
                tokio::time::sleep(pause).await;
                gate.inbox.push(Event::Retry(lane));
            });
        }
    }

    pub(super) fn retry_lane(&mut self, lane: u64) {
        let sends = self.local.lanes.retry(lane);
        self.send_parcels(sends);
    }

    /// A message is where it should be, or not: tells its source.
    pub(super) fn taken(&mut self, source: Source, ok: bool) {
        match source {
            Source::Inside(ticket) => self.input(Input::Taken { ticket, ok }),
            Source::Outside(conn, Some(id)) if ok => self.external_taken(conn, id),
            // Not acknowledged: the broker outside sends it again in the next session.
            Source::Outside(..) => {}
        }
    }

    pub(super) fn load_uploads(&mut self) {
        let waiting = &mut self.local.uploads;
        waiting.clear();
        let load = |rows: Vec<Row>| waiting.load(&rows);
        if let Err(err) = scan_all(&*self.store, Table::Outbox, uploads::PREFIX, load) {
            tracing::error!(error = %err, "the uploads that wait cannot be read");
        }
        if let Some(last) = self.local.confirmed {
            self.local.leaves = Some(self.local.uploads.confirm(last)).filter(|batch| !batch.is_empty());
        }
    }

    /// Deletes again what could not be deleted.
    pub(super) fn let_leave(&mut self) {
        if let Some(batch) = self.local.leaves.take() {
            self.writes.push(batch, Done::Uploaded);
        }
    }

    /// Sends the oldest uploads; they leave the disk when the cloud has read them.
    pub(super) fn drain_uploads(&mut self, ctx: &mut Context<Self>) {
        if self.local.is_draining || self.local.uploads.is_empty() {
            return;
        }
        let (mut last, mut rows) = (None, Vec::new());
        for sequence in self.local.uploads.oldest(UPLOADS_AT_ONCE) {
            match self.store.get(Table::Outbox, self.local.uploads.key(sequence).as_bytes()) {
                Ok(Some(row)) => rows.extend(serde_json::from_slice::<Upload>(&row)),
                // Its write is under way or comes next.
                Ok(None) if !self.writes.is_idle() => break,
                Ok(None) => {}
                Err(err) => {
                    tracing::warn!(error = %err, "an upload cannot be read");
                    break;
                }
            }
            last = Some(sequence);
        }
        let Some(last) = last else { return };
        self.local.is_draining = true;
        let cloud = self.cloud.clone();
        let sent = async move { cloud.upload(rows).await };
        ctx.spawn(sent.into_actor(self).map(move |outcome, bus, ctx| {
            bus.local.is_draining = false;
            if let Err(why) = outcome {
                tracing::debug!(error = %why, "uploads wait");
                return;
            }
            bus.local.confirmed = Some(last);
            let batch = bus.local.uploads.confirm(last);
            bus.writes.push(batch, Done::Uploaded);
            bus.turn(ctx);
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_devices() {
        for (topic, want) in [
            ("$hw/events/device/default/s1/twin/update", Some("$hw/events/device/default/s1")),
            ("$hw/events/device/default/s1", Some("$hw/events/device/default/s1")),
            ("$hw/events/device/", Some("$hw/events/device/")),
            ("$hw/events/node/edge/membership/get", Some("$hw/events/node")),
            ("$hw/events/upload/x", None),
            ("a/user/b", None),
        ] {
            assert_eq!(lane(topic), want, "{topic}");
        }
    }
}
