//! The state machine of one node's session: keepalive, write deadline, acknowledgements, routing
//! of what the node says (protocol sections 1.4, 1.7, 2.5). No clock, no I/O.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::queue::{Limits, Pushed, Queue, Total};
use super::{applications, class};
use crate::bus::cloud_hub::{EndReason, Outgoing};
use crate::bus::edge_controller::ObjectVersion;
use crate::bus::sync::{Delivered, Extensions};
use crate::model::{Body, Envelope, NodeName, Resource, group, operation, source};
use crate::wire::frame::MAX_FRAME_BYTES;

/// Frames handed to the pump and not yet taken by it.
pub const PIPE_FRAMES: usize = 64;
/// Bytes of such frames; a single larger frame may go alone.
const PIPE_BYTES: usize = 1 << 20;
/// What waits for a node that takes nothing may be no more than this before its questions are not answered.
const UNREAD_ANSWERS: usize = 4 << 20;
/// Messages in flight with the `ack-window` extension; a Go edge gets one (protocol section 4.2).
const ACK_WINDOW: usize = 32;

/// Nobody is gone sooner.
const LEAST_SILENCE: Duration = Duration::from_secs(2);
/// A node that is silent is looked at once more after this part of its silence, but within [`LOOK_AGAIN`]: if it was us who
/// stood still, its words are still to be read.
const LOOK_AGAIN_PART: u32 = 3;
const LOOK_AGAIN: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(5);

/// Times and sizes of a session.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Without a sign of the node for so long it is gone.
    pub keepalive: Duration,
    /// The same while it is listened to, if the node said so: at most `keepalive`.
    pub silence: Duration,
    pub write_timeout: Duration,
    pub queue_messages: usize,
    pub queue_bytes: usize,
}

impl Settings {
    #[must_use]
    pub fn new(keepalive: Duration, write_timeout: Duration) -> Self {
        let silence = keepalive;
        Self { keepalive, silence, write_timeout, queue_messages: 16_384, queue_bytes: 64 << 20 }
    }

    /// With what the node said of its silence.
    #[must_use]
    pub fn told(mut self, silence: Option<Duration>) -> Self {
        if let Some(silence) = silence {
            self.silence = silence.max(LEAST_SILENCE).min(self.keepalive);
        }
        self
    }
}

/// What became of the frames, counted since the start.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Frames that the pump took.
    pub taken: u64,
    /// How often the node took bytes again after the connection had been full.
    pub resumed: u64,
    /// The node is not listened to now: the connection is full, or what it said last waits for its turn.
    pub is_deaf: bool,
    /// When bytes of the node came last: parts of a large message count, its keepalives wait behind that.
    pub heard: Option<Instant>,
}

/// What the shell must do, in order.
#[derive(Debug)]
pub enum Effect {
    /// Give the frame to the pump.
    Write(Bytes),
    /// Tell EdgeController.
    Upstream(Envelope),
    /// Tell DeviceController.
    Twin(Envelope),
    /// Tell SyncController: a part of the edge's listing.
    Listing(Envelope),
    /// Tell SyncController: the edge has it.
    Delivered(Box<Delivered>),
    /// Observe the time from first send to acknowledgement.
    AckSeconds(f64),
    /// The node asks for new certificates: decide, sign, and call [`Session::renewed`].
    Renew(Envelope),
    /// The node says how it does.
    Report(Envelope),
    /// Count a message that has no receiver here.
    Unhandled { source: String, operation: String, resource: String },
    /// Log what the edge complains about; it is neither an acknowledgement nor a refusal.
    EdgeError { resource: String, why: String },
    /// Count a message too large to send.
    TooLarge { resource: String, why: String },
    /// Count an answer that the node does not take.
    NotAnswered,
    /// Stop and close the socket at once. Nothing follows.
    End(EndReason),
}

/// One session.
#[derive(Debug)]
pub struct Session {
    node: NodeName,
    extensions: Extensions,
    settings: Settings,
    /// PEM of the cluster's CA, for `k8s/ca.crt`.
    cluster_ca: Arc<str>,
    queue: Queue,
    /// The last sign that the node speaks.
    heard: Instant,
    /// Frames given to the pump: when, and how large.
    pipe: VecDeque<(Instant, usize)>,
    pipe_bytes: usize,
    /// As last heard.
    progress: Progress,
    /// The last sign that the node reads. A full connection is not listened to: its keepalives wait behind that.
    moved: Instant,
    /// Since when the node is thought to be gone, and what the last sign of it was then.
    suspected: Option<(Instant, Instant)>,
    /// When the node's certificate ends: `None` where it has no end here.
    ends: Option<Instant>,
    /// A renewal is being signed.
    renewing: bool,
    ended: bool,
}

impl Session {
    #[must_use]
    pub fn new(
        node: NodeName,
        extensions: Extensions,
        settings: Settings,
        cluster_ca: Arc<str>,
        now: Instant,
    ) -> Self {
        let window = if extensions.ack_window { ACK_WINDOW } else { 1 };
        let limits = Limits { messages: settings.queue_messages, bytes: settings.queue_bytes, window };
        Self {
            node,
            extensions,
            settings,
            cluster_ca,
            queue: Queue::new(limits),
            heard: now,
            pipe: VecDeque::new(),
            pipe_bytes: 0,
            progress: Progress::default(),
            moved: now,
            suspected: None,
            ends: None,
            renewing: false,
            ended: false,
        }
    }

    /// What waits counts into `total`.
    #[must_use]
    pub fn sharing(mut self, total: &Arc<Total>) -> Self {
        self.queue = self.queue.sharing(total);
        self
    }

    /// The node's certificate ends then, and the session with it, unless it is renewed.
    #[must_use]
    pub fn until(mut self, ends: Instant) -> Self {
        self.ends = Some(ends);
        self
    }

    /// A renewal was decided: the node gets `answer`, and with new certificates a later end.
    pub fn renewed(&mut self, answer: Envelope, ends: Option<Instant>, now: Instant) -> Vec<Effect> {
        self.renewing = false;
        if let Some(ends) = ends {
            self.ends = Some(ends);
        }
        self.send(Outgoing::new(answer), now)
    }

    /// Messages sent and not acknowledged.
    #[must_use]
    pub fn unacked(&self) -> usize {
        self.queue.unacked()
    }

    /// The node said something. `now_ms` is Unix milliseconds.
    pub fn receive(&mut self, envelope: Envelope, now: Instant, now_ms: i64) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.ended {
            return effects;
        }
        // It is listened to right now.
        self.heard = now;
        self.progress.is_deaf = false;
        match envelope.route.operation.as_str() {
            operation::KEEPALIVE => {}
            operation::RESPONSE => self.acknowledge(&envelope, now, &mut effects),
            "config" | "ping" | "pong" => {
                let ack = envelope.response(Body::Text("ack".to_owned()), now_ms);
                self.push(Outgoing::new(ack), &mut effects);
            }
            operation::ERROR => {
                let why = match &envelope.body {
                    Body::Text(text) => text.chars().take(200).collect(),
                    _ => String::new(),
                };
                let resource = envelope.route.resource.to_string();
                effects.push(Effect::EdgeError { resource, why });
            }
            operation::RESYNC if self.extensions.resync => effects.push(Effect::Listing(envelope)),
            _ => self.dispatch(envelope, now_ms, &mut effects),
        }
        self.fill_pipe(now, &mut effects);
        effects
    }

    /// Another module sends something down.
    pub fn send(&mut self, message: Arc<Outgoing>, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.ended {
            return effects;
        }
        self.push(message, &mut effects);
        self.fill_pipe(now, &mut effects);
        effects
    }

    /// Time passed or the pump moved.
    pub fn turn(&mut self, progress: Progress, now: Instant) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.ended {
            return effects;
        }
        if self.progress.resumed != progress.resumed {
            self.progress.resumed = progress.resumed;
            self.moved = now;
        }
        self.progress.is_deaf = progress.is_deaf;
        self.heard = progress.heard.map_or(self.heard, |heard| self.heard.max(heard));
        while self.progress.taken < progress.taken {
            self.progress.taken += 1;
            if let Some((_, bytes)) = self.pipe.pop_front() {
                self.pipe_bytes = self.pipe_bytes.saturating_sub(bytes);
            }
        }
        let stuck = self.stuck_at().is_some_and(|at| at <= now);
        if self.ends.is_some_and(|ends| ends <= now) {
            self.end(EndReason::Expired, &mut effects);
        } else if self.is_gone(now) {
            self.end(EndReason::KeepaliveLost, &mut effects);
        } else if stuck {
            self.end(EndReason::WriteTimeout, &mut effects);
        } else {
            self.fill_pipe(now, &mut effects);
        }
        effects
    }

    /// When [`Session::turn`] must be called at the latest.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        let others = [self.ends, self.stuck_at()];
        let silent = self.suspected.map_or_else(|| self.silent_at(), |(since, _)| since + self.look_again());
        let deadline = others.into_iter().flatten().fold(silent, Instant::min);
        match self.queue.next_deadline() {
            Some(resend) if self.pipe_has_room() => deadline.min(resend),
            _ => deadline,
        }
    }

    /// When the node has said nothing for too long.
    fn silent_at(&self) -> Instant {
        let patience = if self.progress.is_deaf { self.settings.keepalive } else { self.settings.silence };
        self.heard.max(self.moved) + patience
    }

    /// Was it silent for too long, and still is after another look?
    fn is_gone(&mut self, now: Instant) -> bool {
        if now < self.silent_at() {
            self.suspected = None;
            return false;
        }
        let sign = self.heard.max(self.moved);
        let (since, _) = *self.suspected.insert(match self.suspected {
            Some((since, before)) if before == sign => (since, sign),
            _ => (now, sign),
        });
        since + self.look_again() <= now
    }

    fn look_again(&self) -> Duration {
        (self.settings.silence / LOOK_AGAIN_PART).clamp(*LOOK_AGAIN.start(), *LOOK_AGAIN.end())
    }

    /// When the node has taken nothing for too long.
    fn stuck_at(&self) -> Option<Instant> {
        let (since, _) = self.pipe.front()?;
        Some(self.moved.max(*since) + self.settings.write_timeout)
    }

    /// Does the session wait for the pump to take frames?
    #[must_use]
    pub fn is_starved(&self) -> bool {
        !self.pipe_has_room()
    }

    fn end(&mut self, reason: EndReason, effects: &mut Vec<Effect>) {
        self.ended = true;
        effects.push(Effect::End(reason));
    }

    fn push(&mut self, message: Arc<Outgoing>, effects: &mut Vec<Effect>) {
        if class::is_node_delete(&message) {
            return self.end(EndReason::NodeDeleted, effects);
        }
        let resource = || message.route.resource.to_string();
        let frame = match message.frame() {
            Ok(frame) if frame.len() <= MAX_FRAME_BYTES => frame,
            Ok(frame) => {
                let why = format!("{} bytes", frame.len());
                return effects.push(Effect::TooLarge { resource: resource(), why });
            }
            Err(err) => {
                return effects.push(Effect::TooLarge { resource: resource(), why: err.to_string() });
            }
        };
        // Answers to a node that does not take them: it may ask again when it reads.
        let is_answer = message.header.parent_msg_id.is_some();
        if is_answer && !self.pipe_has_room() && self.queue.untracked_bytes() + frame.len() > UNREAD_ANSWERS {
            return effects.push(Effect::NotAnswered);
        }
        match self.queue.push(message, frame) {
            Pushed::Queued | Pushed::Outdated => {}
            Pushed::Full => self.end(EndReason::QueueFull, effects),
        }
    }

    fn acknowledge(&mut self, envelope: &Envelope, now: Instant, effects: &mut Vec<Effect>) {
        let Some(parent) = envelope.header.parent_msg_id.as_deref() else { return };
        // Edges also answer answers: an unknown parent is normal (protocol section 4.3).
        let Some(acked) = self.queue.ack(parent, now) else { return };
        effects.push(Effect::AckSeconds(acked.waited.as_secs_f64()));
        if !self.extensions.resync
            && let Some(delivered) = delivered(&self.node, &acked.message)
        {
            effects.push(Effect::Delivered(Box::new(delivered)));
        }
    }

    /// Routing of protocol section 2.5, after control messages.
    fn dispatch(&mut self, envelope: Envelope, now_ms: i64, effects: &mut Vec<Effect>) {
        let route = &envelope.route;
        if route.resource == Resource::ClusterCa && route.operation == operation::QUERY {
            let mut answer = envelope.response(Body::Text(self.cluster_ca.to_string()), now_ms);
            source::CLOUD_HUB.clone_into(&mut answer.route.source);
            group::RESOURCE.clone_into(&mut answer.route.group);
            return self.push(Outgoing::new(answer), effects);
        }
        if route.resource == Resource::IdentityRenewal
            && route.operation == operation::QUERY
            && self.extensions.identity
        {
            if !self.renewing {
                self.renewing = true;
                return effects.push(Effect::Renew(envelope));
            }
            let why = "a renewal is under way".to_owned();
            return self.push(Outgoing::new(envelope.response(Body::Text(why), now_ms)), effects);
        }
        if route.resource == Resource::NodeReport
            && route.operation == operation::REPORT
            && self.extensions.report
        {
            return effects.push(Effect::Report(envelope));
        }
        if route.source == source::TWIN
            && matches!(
                route.resource,
                Resource::DeviceTwin { .. } | Resource::DeviceState { .. } | Resource::MembershipDetail
            )
        {
            return effects.push(Effect::Twin(envelope));
        }
        if route.source == applications::META_SERVER
            && let Some(answer) = applications::refused(&envelope, now_ms)
        {
            return self.push(Outgoing::new(answer), effects);
        }
        let handled = match route.source.as_str() {
            // No edge may speak with the cloud's own voice.
            source::CLOUD_HUB
            | source::EDGE_CONTROLLER
            | source::DEVICE_CONTROLLER
            | "cloudStream"
            | "synccontroller" => false,
            source::TWIN | applications::META_SERVER => false,
            _ => route.operation != operation::UPLOAD && route.resource.object().is_some(),
        };
        if handled {
            effects.push(Effect::Upstream(envelope));
        } else {
            let short = |text: &str| text.chars().take(80).collect::<String>();
            effects.push(Effect::Unhandled {
                source: short(&route.source),
                operation: short(&route.operation),
                resource: short(&route.resource.to_string()),
            });
        }
    }

    fn pipe_has_room(&self) -> bool {
        self.pipe.is_empty() || (self.pipe.len() < PIPE_FRAMES && self.pipe_bytes < PIPE_BYTES)
    }

    fn fill_pipe(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if !self.pipe.is_empty() || self.progress.is_deaf {
            self.queue.postpone(now);
        }
        while !self.ended && self.pipe_has_room() {
            let Some(frame) = self.queue.next(now) else { return };
            self.pipe.push_back((now, frame.len()));
            self.pipe_bytes = self.pipe_bytes.saturating_add(frame.len());
            effects.push(Effect::Write(frame));
        }
    }
}

fn delivered(node: &NodeName, message: &Outgoing) -> Option<Delivered> {
    let text = |key: &str| {
        let value = message.object().and_then(|object| object.get(key));
        value.and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    };
    if message.route.group != group::RESOURCE {
        return None;
    }
    Some(Delivered {
        node: node.clone(),
        resource: message.route.resource.clone(),
        api_version: text("apiVersion"),
        kind: text("kind"),
        deleted: class::is_delete(message),
        version: ObjectVersion {
            resource: message.route.resource.clone(),
            uid: class::uid(message)?.to_owned(),
            resource_version: message.header.resource_version.clone().unwrap_or_default(),
        },
    })
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
