//! How controllers give CloudHub their messages: in order, one batch at a time, bounded.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;

use crate::bus::cloud_hub::{CloseNode, EndReason, Outgoing, SendDown};
use crate::bus::{Link, LinkError};
use crate::model::NodeName;
use crate::supervise::spread;

/// Messages for CloudHub in one go.
const BATCH: usize = 256;
/// Messages waiting for CloudHub. Beyond it all sessions end: comparing costs less than keeping.
const OUTBOX: usize = 200_000;
const HUB_DEADLINE: Duration = Duration::from_secs(10);
const HUB_RETRY: Duration = Duration::from_millis(250);

/// Messages of one controller on their way to CloudHub.
pub struct Downlink {
    send: Link<SendDown>,
    close: Link<CloseNode>,
    outbox: VecDeque<(NodeName, Arc<Outgoing>)>,
    /// A batch is with CloudHub.
    sending: bool,
    /// Sessions must end before anything else is sent: they missed something.
    heal: bool,
}

/// A controller that sends to nodes.
pub trait SendsDown: Actor<Context = Context<Self>> {
    fn downlink(&mut self) -> &mut Downlink;

    /// Can it answer a node's comparison? Sessions are not ended before it can.
    fn is_complete(&self) -> bool;
}

impl Downlink {
    pub fn new(send: Link<SendDown>, close: Link<CloseNode>) -> Self {
        Self { send, close, outbox: VecDeque::new(), sending: false, heal: false }
    }

    /// What sessions missed is found by their comparison, so all of them end once.
    #[must_use]
    pub fn healing(mut self) -> Self {
        self.heal = true;
        self
    }

    /// [`flush`] must follow.
    pub fn extend(&mut self, messages: impl IntoIterator<Item = (NodeName, Arc<Outgoing>)>) {
        self.outbox.extend(messages);
    }
}

/// Gives CloudHub the next batch. One at a time: the order is kept, and a busy CloudHub is waited
/// for.
pub fn flush<A: SendsDown>(actor: &mut A, ctx: &mut Context<A>) {
    let complete = actor.is_complete();
    let down = actor.downlink();
    if down.outbox.len() > OUTBOX {
        tracing::warn!(messages = down.outbox.len(), "queue to cloudhub is full, all sessions end");
        down.outbox.clear();
        down.heal = true;
    }
    if down.sending || (down.heal && !complete) {
        return;
    }
    if down.heal {
        down.sending = true;
        let close = CloseNode { node: None, reason: EndReason::Restarted };
        let link = down.close.clone();
        let asked = async move { link.ask(close, HUB_DEADLINE).await };
        let done = asked.into_actor(actor).map(|result, actor, ctx| {
            actor.downlink().sending = false;
            match result {
                Ok(()) => {
                    actor.downlink().heal = false;
                    flush(actor, ctx);
                }
                Err(err) => retry(actor, &err, ctx),
            }
        });
        ctx.spawn(done);
        return;
    }
    if down.outbox.is_empty() {
        return;
    }
    let count = down.outbox.len().min(BATCH);
    let batch = SendDown { messages: down.outbox.drain(..count).collect() };
    let (link, sent) = (down.send.clone(), batch.clone());
    down.sending = true;
    let asked = async move { link.ask(sent, HUB_DEADLINE).await };
    let done = asked.into_actor(actor).map(move |result, actor, ctx| {
        let down = actor.downlink();
        down.sending = false;
        match result {
            Ok(()) => flush(actor, ctx),
            Err(err) => {
                // It may have been sent: sessions drop what they have already.
                batch.messages.into_iter().rev().for_each(|message| down.outbox.push_front(message));
                retry(actor, &err, ctx);
            }
        }
    });
    ctx.spawn(done);
}

fn retry<A: SendsDown>(actor: &mut A, err: &LinkError, ctx: &mut Context<A>) {
    let down = actor.downlink();
    tracing::warn!(error = %err, waiting = down.outbox.len(), "cloudhub does not take messages");
    down.sending = true;
    ctx.run_later(spread(HUB_RETRY, fastrand::f64()), |actor, ctx| {
        actor.downlink().sending = false;
        flush(actor, ctx);
    });
}
