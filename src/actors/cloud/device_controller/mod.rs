//! DeviceController: tells nodes about their devices, and the API what nodes report of them
//! (protocol section 7).
//!
//! In a cluster its account needs: `list watch` on `nodes`; `list watch` on `devices` and `devicemodels`,
//! `get list watch create patch delete` on `devicestatuses`, all of `devices.kubeedge.io`; `create` on `events`.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ::kube::runtime::watcher;
use actix::prelude::*;
use futures_util::StreamExt;

use self::index::{Change, Index};
use self::report::{Bad, Said};
use self::statuses::{Effect, Outcome, Statuses, Waiter};
use self::stored::Kind;
use crate::actors::cloud::downlink_worker::{Downlink, SendsDown, flush};
use crate::actors::cloud::watch_worker::{Event, arrived, watch};
use crate::bus::Link;
use crate::bus::cloud_hub::{CloseNode, Outgoing, SendDown};
use crate::bus::device_controller::FromTwin;
use crate::bus::edge_controller::{ListDesired, NotReady, ObjectVersion, SendDifferences};
use crate::model::device::{API_VERSION, Member};
use crate::model::{DeviceId, NodeName, Resource, operation, unix_ms};
use crate::telemetry::device_controller::DeviceControllerMetrics;

mod calls_worker;
mod index;
mod message;
pub(crate) mod report;
pub(crate) mod status;
mod statuses;
mod stored;
#[cfg(test)]
mod tests;

/// The actor's name in the tree and as the component of its events.
pub const NAME: &str = "DeviceController";
/// Kinds whose objects at nodes it owns.
pub const KINDS: [&str; 2] = ["devicemodel", "device"];
/// Between two looks for devices that wait.
const LOOK_AROUND: Duration = Duration::from_secs(2);
/// A device that waits so long is worth an event.
const GRACE: Duration = Duration::from_secs(4);
/// An edge's clock may be so much ahead of ours.
const CLOCK_TOLERANCE_MS: i64 = 60_000;
/// Events at each look.
const NOTICES: usize = 20;

/// What DeviceController is built from.
#[derive(Clone)]
pub struct DeviceControllerParts {
    pub client: ::kube::Client,
    pub send_down: Link<SendDown>,
    pub close_node: Link<CloseNode>,
}

/// The actor.
pub struct DeviceController {
    parts: DeviceControllerParts,
    index: Index,
    statuses: Statuses,
    /// Everything is listed, so DeviceStatuses are written.
    active: bool,
    downlink: Downlink,
    metrics: DeviceControllerMetrics,
}

struct Watched(Kind, Result<Event, watcher::Error>);

impl DeviceController {
    #[must_use]
    pub fn new(parts: DeviceControllerParts) -> Self {
        Self {
            downlink: Downlink::new(parts.send_down.clone(), parts.close_node.clone()),
            parts,
            index: Index::default(),
            statuses: Statuses::default(),
            active: false,
            metrics: DeviceControllerMetrics::new(),
        }
    }

    fn send(&mut self, messages: Vec<(NodeName, Arc<Outgoing>)>, ctx: &mut Context<Self>) {
        self.downlink.extend(messages);
        flush(self, ctx);
    }

    fn tell_nodes(&mut self, changes: Vec<Change>, ctx: &mut Context<Self>) {
        let now_ms = now_ms();
        let messages: Vec<_> =
            changes.into_iter().flat_map(|change| message::of_change(change, now_ms)).collect();
        self.metrics.downstream.increment(messages.len() as u64);
        self.send(messages, ctx);
    }

    fn run(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        let mut replies = Vec::new();
        for effect in effects {
            match effect {
                Effect::Call(device, call) => {
                    let work = calls_worker::make(self.parts.client.clone(), device.clone(), call);
                    let done = work.into_actor(self).map(move |outcome, actor, ctx| {
                        if matches!(outcome, Outcome::Failed) {
                            actor.metrics.call_errors.increment(1);
                        }
                        let effects = actor.statuses.done(&device, outcome, fastrand::f64());
                        actor.run(effects, ctx);
                    });
                    ctx.spawn(done);
                }
                Effect::Confirm(waiting) => {
                    replies.extend(waiting.iter().map(|waiter| message::confirmed(waiter, now_ms())));
                }
                Effect::Refuse(waiting, why) => {
                    self.metrics.refused.increment(waiting.len() as u64);
                    replies.extend(waiting.iter().map(|waiter| message::refused(waiter, &why, now_ms())));
                }
                Effect::Written(since) => self.metrics.patch_seconds.record(since.elapsed().as_secs_f64()),
                Effect::Rest(device, pause) => {
                    ctx.run_later(pause, move |actor, ctx| {
                        let effects = actor.statuses.rested(&device);
                        actor.run(effects, ctx);
                    });
                }
            }
        }
        if !replies.is_empty() {
            self.send(replies, ctx);
        }
    }

    fn report(
        &mut self,
        waiter: Waiter,
        device: &DeviceId,
        mut said: status::Status,
        ctx: &mut Context<Self>,
    ) {
        if !self.active {
            self.metrics.early.increment(1);
            return; // no answer: the edge sends it again
        }
        let node = &waiter.node;
        let Some(known) = self.index.device(device) else {
            // The device is gone, and whatever the edge says of it will never be wanted. Without an
            // answer the edge would send it for ever; it learns of the removal on its own.
            self.metrics.unknown.increment(1);
            tracing::debug!(%node, %device, "report about a device that does not exist");
            return self.send(vec![message::confirmed(&waiter, now_ms())], ctx);
        };
        if known.node.as_ref() != Some(node) {
            self.metrics.forbidden.increment(1);
            tracing::warn!(%node, %device, "a node reports a device of another node, refused");
            return;
        }
        self.metrics.taken.increment(1);
        let now_ms = now_ms();
        let limit_ms = now_ms.saturating_add(CLOCK_TOLERANCE_MS);
        said.not_after(limit_ms, now_ms);
        self.statuses.doubt_after(device, limit_ms);
        let (foreign, effects) = self.statuses.report(device, said, waiter, Instant::now());
        self.metrics.foreign_properties.increment(foreign as u64);
        self.run(effects, ctx);
    }

    /// Once everything is listed.
    fn activate(&mut self, ctx: &mut Context<Self>) {
        if self.active || !self.index.is_complete() || !self.statuses.is_listed() {
            return;
        }
        self.active = true;
        tracing::info!("all devices are listed");
        let effects = self.statuses.activate();
        self.run(effects, ctx);
        flush(self, ctx);
        self.look_around(ctx);
    }

    /// Shows how many devices wait, and tells why.
    fn look_around(&mut self, ctx: &mut Context<Self>) {
        if !self.active {
            return;
        }
        let (placed, waiting, notices) = self.index.look_around(Instant::now(), GRACE, NOTICES);
        self.metrics.placed.set(placed as f64);
        self.metrics.waiting.set(waiting as f64);
        for notice in notices {
            let told = calls_worker::explain(self.parts.client.clone(), notice);
            ctx.spawn(told.into_actor(self));
        }
    }

    /// What a comparison found, checked against what is desired now. It comes once in each session,
    /// so the membership, which nobody acknowledges, is said again.
    fn differences(&self, asked: SendDifferences) -> Vec<(NodeName, Arc<Outgoing>)> {
        let SendDifferences { node, missing, changed, surplus, answer } = asked;
        let now_ms = now_ms();
        let mut removed = Vec::new();
        let mut deletes = Vec::new();
        for old in surplus {
            let Resource::Object(key) = old.resource else { continue };
            let wanted = self.index.desired_object(&node, &key);
            if wanted.is_some_and(|(wanted, _)| wanted.uid == old.uid) {
                continue;
            }
            if key.kind == "device" && wanted.is_none() {
                let id = DeviceId::new(key.namespace(), key.name());
                removed.push(Member { id: id.to_string(), name: id.name, ..Member::default() });
            }
            deletes.push(message::skeleton(&node, key, &old.uid, now_ms));
        }
        let mut messages = message::membership(&node, self.index.members(&node), removed, now_ms);
        messages.extend(deletes);
        let with = |op: &'static str, list: Vec<Resource>| list.into_iter().map(move |it| (op, it));
        for (operation, resource) in with(operation::INSERT, missing).chain(with(operation::UPDATE, changed))
        {
            let Resource::Object(key) = resource else { continue };
            let Some((wanted, true)) = self.index.desired_object(&node, &key) else { continue };
            let (nodes, object) = (vec![node.clone()], Arc::clone(&wanted.object));
            let change = Change::Object { nodes, operation, key, object, leaves: false };
            messages.extend(message::of_change(change, now_ms));
        }
        self.metrics.downstream.increment(messages.len() as u64);
        messages.extend(answer.map(|answer| (node, Outgoing::new(answer))));
        messages
    }
}

impl SendsDown for DeviceController {
    fn downlink(&mut self) -> &mut Downlink {
        &mut self.downlink
    }

    fn is_complete(&self) -> bool {
        self.index.is_complete()
    }
}

impl Actor for DeviceController {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        for kind in Kind::ALL {
            let version = if kind == Kind::Node { "v1" } else { API_VERSION };
            let events = watch(&self.parts.client, version, kind.name(), kind.plural());
            ctx.add_stream(events.map(move |event| Watched(kind, event)));
        }
        ctx.run_interval(LOOK_AROUND, Self::look_around);
    }
}

impl Supervised for DeviceController {
    /// Everything here can be listed again, and what was not confirmed is reported again. What
    /// sessions missed meanwhile is found by their comparison, so they must end once.
    fn restarting(&mut self, _: &mut Self::Context) {
        *self = Self::new(self.parts.clone());
        let parts = &self.parts;
        self.downlink = Downlink::new(parts.send_down.clone(), parts.close_node.clone()).healing();
    }
}

impl StreamHandler<Watched> for DeviceController {
    fn handle(&mut self, Watched(kind, event): Watched, ctx: &mut Self::Context) {
        let Some(event) = arrived(kind.plural(), event, &self.metrics.watch_errors) else { return };
        if kind == Kind::Status {
            let effects = self.statuses.apply(event);
            self.run(effects, ctx);
        } else {
            let (changes, owners) = self.index.apply(kind, event);
            self.tell_nodes(changes, ctx);
            for owner in owners {
                let effects = self.statuses.own(owner);
                self.run(effects, ctx);
            }
        }
        self.activate(ctx);
    }
}

impl Handler<FromTwin> for DeviceController {
    type Result = ();

    fn handle(&mut self, FromTwin { node, envelope, turn: _turn }: FromTwin, ctx: &mut Self::Context) {
        let msg_id = envelope.header.msg_id.clone();
        match report::read(&envelope) {
            Ok(Said::Report { device, said }) => {
                self.report(Waiter { node, msg_id }, &device, said, ctx);
            }
            Ok(Said::Members) if self.index.is_complete() => {
                let members = self.index.members(&node);
                let answers = message::detail(&Waiter { node, msg_id }, &members, now_ms());
                self.send(answers, ctx);
            }
            Ok(Said::Members) => {} // asked again at the next connect, which brings a membership
            Err(Bad::Content(why)) => {
                self.metrics.bad.increment(1);
                tracing::info!(%node, resource = %envelope.route.resource, why, "bad report");
                let waiter = Waiter { node, msg_id };
                self.send(vec![message::refused(&waiter, &why, now_ms())], ctx);
            }
            Err(Bad::Unknown) => {
                self.metrics.bad.increment(1);
                tracing::debug!(%node, resource = %envelope.route.resource, "message of an unknown kind");
            }
        }
    }
}

impl Handler<ListDesired> for DeviceController {
    type Result = Result<Vec<ObjectVersion>, NotReady>;

    fn handle(&mut self, message: ListDesired, _: &mut Self::Context) -> Self::Result {
        if !self.index.is_complete() {
            return Err(NotReady);
        }
        Ok(self.index.desired(&message.node))
    }
}

impl Handler<SendDifferences> for DeviceController {
    type Result = Result<(), NotReady>;

    fn handle(&mut self, message: SendDifferences, ctx: &mut Self::Context) -> Self::Result {
        if !self.index.is_complete() {
            return Err(NotReady);
        }
        let messages = self.differences(message);
        self.send(messages, ctx);
        Ok(())
    }
}

crate::handles!(DeviceController: FromTwin, ListDesired, SendDifferences);

fn now_ms() -> i64 {
    unix_ms(SystemTime::now())
}
