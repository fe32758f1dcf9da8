//! What the worker of a pod is told.

use actix::{Context, Handler, Message};

use super::super::action_worker::Row;
use super::super::gate::seals::Delivered;
use super::super::site_worker::Materials;
use super::{PodWorker, hashes};

/// The pod as it is wanted now.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Apply(pub Delivered);

/// The cloud removed the pod: end it, tell nobody.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Remove;

/// A configmap or secret changed that this pod uses.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Configured;

/// Something happened to this container or sandbox.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Look(pub String);

/// What the runtime has of this pod, by a complete list.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Relisted {
    pub rows: Vec<Row>,
    /// The runtime was away: what failed is tried again at once.
    pub recovered: bool,
}

/// The pod may not run here.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Refuse {
    pub reason: &'static str,
    pub message: String,
}

/// Credentials or policies changed: what was refused may be fine now, and the other way round.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Recheck;

impl Handler<Apply> for PodWorker {
    type Result = ();
    fn handle(&mut self, Apply(given): Apply, ctx: &mut Context<Self>) {
        let Delivered { pod, claim } = given;
        let hashes = hashes(&pod);
        self.claim = claim;
        if self.state.pod.spec != pod.spec {
            self.materials = Materials::default();
        }
        // A cloud restored from older data shows what it was told once: it is told again.
        let shown = pod.status.as_ref().and_then(|status| serde_json::to_value(status).ok());
        if shown.is_some() && shown != self.stored {
            self.stored = None;
        }
        self.state.update(pod, hashes);
        self.tick(ctx);
    }
}

impl Handler<Remove> for PodWorker {
    type Result = ();
    fn handle(&mut self, _: Remove, ctx: &mut Context<Self>) {
        self.state.memory.removed = true;
        self.tick(ctx);
    }
}

impl Handler<Refuse> for PodWorker {
    type Result = ();
    fn handle(&mut self, refusal: Refuse, ctx: &mut Context<Self>) {
        if self.state.memory.terminal.is_none() {
            self.state.fail(refusal.reason, &refusal.message);
        }
        self.tick(ctx);
    }
}

impl Handler<Recheck> for PodWorker {
    type Result = ();
    fn handle(&mut self, _: Recheck, ctx: &mut Context<Self>) {
        self.state.gate_changed();
        self.tick(ctx);
    }
}

impl Handler<Configured> for PodWorker {
    type Result = ();
    fn handle(&mut self, _: Configured, ctx: &mut Context<Self>) {
        self.materials = Materials::default();
        self.state.config_changed();
        self.tick(ctx);
    }
}

impl Handler<Look> for PodWorker {
    type Result = ();
    fn handle(&mut self, Look(id): Look, ctx: &mut Context<Self>) {
        if self.state.observed.knows(&id) {
            self.look(&id, ctx);
        } else if self.making() {
            self.missed.insert(id);
        }
    }
}

impl Handler<Relisted> for PodWorker {
    type Result = ();
    fn handle(&mut self, relisted: Relisted, ctx: &mut Context<Self>) {
        if relisted.recovered {
            self.state.hurry();
        }
        self.state.refresh_tokens();
        self.relisted(relisted.rows, ctx);
    }
}

crate::handles!(PodWorker: Apply, Remove, Refuse, Recheck, Configured, Look, Relisted);
