//! One node's session: runs the state machine of `session.rs` beside the websocket pump.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use actix::prelude::*;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::connection_worker::Connection;
use super::issuer_worker::Issuer;
use super::session::{Effect, Progress, Session};
use crate::bus::cloud_hub::{EndReason, Outgoing};
use crate::bus::device_controller::FromTwin;
use crate::bus::edge_controller::Upstream;
use crate::bus::sync::{Delivered, Extensions, Held, NodeConnected, NodeGone};
use crate::bus::{Link, Turn};
use crate::model::{Envelope, Moment, NodeName, operation, unix_ms};
use crate::telemetry::cloud_hub::CloudHubMetrics;
use crate::telemetry::federation::Federation;
use crate::wire::node_report::report_of;

/// A decoded frame of the edge. Answered when it is handled, so the pump reads no faster.
#[derive(Message)]
#[rtype(result = "()")]
pub struct FromEdge(pub Envelope, pub Turn);

/// The connection is gone or unusable.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Broken(pub EndReason);

/// The pump took frames while the session waited for room.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PipeMoved;

/// Something to send down.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Down(pub Arc<Outgoing>);

/// Told to CloudHub.
#[derive(Message)]
#[rtype(result = "()")]
pub struct SessionEnded {
    pub node: NodeName,
    pub session: u64,
}

/// What pump and session share beside the channel of frames.
#[derive(Debug, Default)]
pub struct Pipe {
    /// Frames the pump took since the start.
    pub taken: AtomicU64,
    /// When bytes of the node came last.
    pub heard: Mutex<Option<Instant>>,
    /// The pump waits until what the node said last is dealt with, and does not listen meanwhile.
    pub is_deaf: AtomicBool,
    /// The session wants [`PipeMoved`].
    pub starved: AtomicBool,
}

/// Where a session's messages go.
#[derive(Clone)]
pub struct SessionLinks {
    pub upstream: Link<Upstream>,
    /// `None` where no DeviceController runs.
    pub twin: Option<Link<FromTwin>>,
    pub connected: Link<NodeConnected>,
    pub gone: Vec<Link<NodeGone>>,
    pub held: Link<Held>,
    pub delivered: Link<Delivered>,
    pub ended: Link<SessionEnded>,
}

/// The actor. It ends with its connection; a panic ends both.
pub struct SessionWorker {
    pub node: NodeName,
    pub id: u64,
    pub extensions: Extensions,
    pub state: Session,
    /// To the pump. `None` once the session is over.
    pub frames: Option<mpsc::Sender<Bytes>>,
    pub pipe: Arc<Pipe>,
    pub connection: Arc<Connection>,
    pub issuer: Arc<Issuer>,
    pub links: SessionLinks,
    pub federation: Federation,
    pub metrics: CloudHubMetrics,
    pub timer: Option<(Instant, SpawnHandle)>,
    /// As shown in the gauge.
    pub unacked: usize,
    /// Of the message of the edge that is being looked at.
    pub turn: Turn,
}

impl SessionWorker {
    /// Lets the state machine see time and pump first, then `input`, and does what it says.
    pub(super) fn step(
        &mut self,
        ctx: &mut Context<Self>,
        input: impl FnOnce(&mut Session, Instant) -> Vec<Effect>,
    ) {
        let now = Instant::now();
        let effects = self.state.turn(self.progress(), now);
        self.run(effects, ctx);
        let effects = input(&mut self.state, now);
        self.run(effects, ctx);
        self.settle(now, ctx);
    }

    fn progress(&self) -> Progress {
        Progress {
            taken: self.pipe.taken.load(Ordering::Acquire),
            resumed: self.connection.uptake().resumed(),
            is_deaf: self.connection.uptake().is_stuck() || self.pipe.is_deaf.load(Ordering::Acquire),
            heard: *self.pipe.heard.lock(),
        }
    }

    fn settle(&mut self, now: Instant, ctx: &mut Context<Self>) {
        if self.state.is_starved() {
            self.pipe.starved.store(true, Ordering::Release);
            // It may have moved before it saw the flag.
            let effects = self.state.turn(self.progress(), now);
            self.run(effects, ctx);
        }
        let unacked = self.state.unacked();
        self.show_unacked(unacked);
        self.arm(ctx);
    }

    /// One timer at the next deadline: an idle session wakes once in a keepalive interval.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        if self.frames.is_none() {
            return;
        }
        let at = self.state.next_deadline();
        if let Some((armed, handle)) = self.timer {
            if armed <= at {
                return;
            }
            ctx.cancel_future(handle);
        }
        let handle = ctx.run_later(at.saturating_duration_since(Instant::now()), |actor, ctx| {
            actor.timer = None;
            actor.step(ctx, |_, _| Vec::new());
        });
        self.timer = Some((at, handle));
    }

    fn run(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        for effect in effects {
            match effect {
                Effect::Write(frame) => self.write(frame, ctx),
                Effect::Upstream(envelope) => {
                    let turn = self.turn.clone();
                    let told = self.links.upstream.tell(Upstream {
                        node: self.node.clone(),
                        session: self.id,
                        envelope,
                        turn,
                    });
                    if let Err(err) = told {
                        self.metrics.dropped.increment(1);
                        tracing::warn!(node = %self.node, error = %err, "message of the edge dropped");
                    }
                }
                Effect::Twin(envelope) => {
                    let Some(twin) = &self.links.twin else {
                        self.metrics.unhandled.increment(1);
                        continue;
                    };
                    // The edge sends it again until it is answered.
                    let turn = self.turn.clone();
                    if let Err(err) = twin.tell(FromTwin { node: self.node.clone(), envelope, turn }) {
                        self.metrics.dropped.increment(1);
                        tracing::warn!(node = %self.node, error = %err, "message of the edge dropped");
                    }
                }
                Effect::Listing(envelope) => {
                    let turn = self.turn.clone();
                    let held = Held { node: self.node.clone(), session: self.id, envelope, turn };
                    if let Err(err) = self.links.held.tell(held) {
                        tracing::warn!(node = %self.node, error = %err, "listing dropped, session ends");
                        self.finish(EndReason::QueueFull, ctx);
                    }
                }
                Effect::Delivered(delivered) => {
                    if let Err(err) = self.links.delivered.tell(*delivered) {
                        tracing::debug!(node = %self.node, error = %err, "delivery not written down");
                    }
                }
                Effect::Renew(envelope) => self.renew(envelope, ctx),
                Effect::Report(envelope) => self.take_report(&envelope),
                Effect::AckSeconds(seconds) => self.metrics.ack_seconds.record(seconds),
                Effect::Unhandled { source, operation, resource } => {
                    self.metrics.unhandled.increment(1);
                    tracing::debug!(node = %self.node, source, operation, resource, "no receiver");
                }
                Effect::EdgeError { resource, why } => {
                    tracing::info!(node = %self.node, resource, why, "the edge reports an error");
                }
                Effect::TooLarge { resource, why } => {
                    self.metrics.too_large.increment(1);
                    tracing::error!(node = %self.node, resource, why, "too large to send");
                }
                Effect::NotAnswered => self.metrics.not_answered.increment(1),
                Effect::End(reason) => self.finish(reason, ctx),
            }
        }
    }

    /// Whatever is wrong with it is counted there, and ends nothing.
    fn take_report(&self, envelope: &Envelope) {
        let taken = match report_of(&envelope.body) {
            Some(report) => self.federation.report(&self.node, self.id, report, Moment::now()),
            None => self.federation.unreadable(&self.node, self.id),
        };
        if let Err(why) = taken {
            tracing::debug!(node = %self.node, reason = why.label(), "report of the edge refused");
        }
    }

    fn write(&mut self, frame: Bytes, ctx: &mut Context<Self>) {
        let Some(frames) = &self.frames else { return };
        match frames.try_send(frame) {
            Ok(()) => self.metrics.sent.increment(1),
            // The state machine never gives more than fits, so this is a closed pump.
            Err(_) => self.finish(EndReason::Closed, ctx),
        }
    }

    pub(super) fn finish(&mut self, reason: EndReason, ctx: &mut Context<Self>) {
        self.connection.end(reason);
        self.frames = None;
        ctx.stop();
    }

    fn show_unacked(&mut self, unacked: usize) {
        self.metrics.unacked_messages.increment(unacked as f64 - self.unacked as f64);
        self.unacked = unacked;
    }
}

impl Actor for SessionWorker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if self.frames.is_none() {
            return ctx.stop();
        }
        self.federation.session_opened(&self.node, self.id, Moment::now());
        let hello = NodeConnected { node: self.node.clone(), session: self.id, extensions: self.extensions };
        if let Err(err) = self.links.connected.tell(hello) {
            tracing::warn!(node = %self.node, error = %err, "session ends, the edge will try again");
            return self.finish(EndReason::QueueFull, ctx);
        }
        self.arm(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.connection.end(EndReason::Shutdown);
        self.frames = None;
        let reason = self.connection.ended().unwrap_or(EndReason::Shutdown);
        self.metrics.ended(reason);
        self.show_unacked(0);
        self.federation.session_ended(&self.node, self.id);
        if reason == EndReason::Replaced {
            tracing::debug!(node = %self.node, session = self.id, "session replaced");
        } else {
            tracing::info!(node = %self.node, session = self.id, reason = reason.label(), "session ended");
        }
        let gone = NodeGone { node: self.node.clone(), session: self.id };
        for link in &self.links.gone {
            if let Err(err) = link.tell(gone.clone()) {
                tracing::debug!(actor = link.actor(), error = %err, "it learns of it at the next connect");
            }
        }
        let ended = SessionEnded { node: self.node.clone(), session: self.id };
        if let Err(err) = self.links.ended.tell(ended) {
            tracing::debug!(error = %err, "cloudhub is ending too");
        }
    }
}

impl Supervised for SessionWorker {
    /// Nothing here is worth keeping: the edge reconnects and compares.
    fn restarting(&mut self, _: &mut Self::Context) {
        self.connection.end(EndReason::Restarted);
        self.frames = None;
        self.timer = None;
    }
}

impl Handler<FromEdge> for SessionWorker {
    type Result = ();

    fn handle(&mut self, FromEdge(envelope, turn): FromEdge, ctx: &mut Self::Context) {
        self.turn = turn;
        match envelope.route.operation.as_str() {
            operation::KEEPALIVE => self.metrics.received_keepalive.increment(1),
            operation::RESPONSE => self.metrics.received_response.increment(1),
            _ => self.metrics.received_other.increment(1),
        }
        self.step(ctx, |state, now| state.receive(envelope, now, now_ms()));
        self.turn = Turn::default();
    }
}

impl Handler<Down> for SessionWorker {
    type Result = ();

    fn handle(&mut self, Down(message): Down, ctx: &mut Self::Context) {
        self.step(ctx, |state, now| state.send(message, now));
    }
}

impl Handler<PipeMoved> for SessionWorker {
    type Result = ();

    fn handle(&mut self, _: PipeMoved, ctx: &mut Self::Context) {
        self.step(ctx, |_, _| Vec::new());
    }
}

impl Handler<Broken> for SessionWorker {
    type Result = ();

    fn handle(&mut self, Broken(reason): Broken, ctx: &mut Self::Context) {
        self.finish(reason, ctx);
    }
}

crate::handles!(SessionWorker: FromEdge, Down, PipeMoved, Broken);

pub(super) fn now_ms() -> i64 {
    unix_ms(SystemTime::now())
}
