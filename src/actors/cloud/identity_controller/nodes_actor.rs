//! What is known of nodes: their keys, their certificates, who is revoked.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix::prelude::*;

use super::ledger::{self, JWT_KEYS, NODE_IDENTITIES, NODE_REVOCATIONS};
use super::{IdentityController, calls_worker};
use crate::bus::cloud_hub::{CloseNode, EndReason};
use crate::bus::identity::{AuditAction, AuditFact, NodeCloned, NodeKeyChanged, Revocation};
use crate::config::ClonedNodes;
use crate::model::unix_secs;
use crate::supervise::{doubled, spread};

/// What nodes do meanwhile is written together: the maps hold a line for every node.
const LEDGER_PAUSE: Duration = Duration::from_millis(200);
const RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(30);

impl IdentityController {
    /// Writes down what nodes did.
    pub(super) fn write_ledger(&mut self, ctx: &mut Context<Self>) {
        if self.busy.ledger || self.pending.is_empty() {
            return;
        }
        self.busy.ledger = true;
        let (client, taken) = (self.parts.client.clone(), std::mem::take(&mut self.pending));
        let work = async move {
            let result = calls_worker::write(&client, &taken).await;
            (taken, result)
        };
        ctx.spawn(work.into_actor(self).map(|(taken, result), actor, ctx| {
            let pause = match result {
                Ok(()) => LEDGER_PAUSE,
                Err(err) => {
                    actor.metrics.write_errors.increment(1);
                    tracing::warn!(error = %err, "what is known of nodes is not written down yet");
                    actor.pending.put_back(taken, unix_secs(SystemTime::now()));
                    let pause = doubled(RETRY, actor.busy.failures, LAST_RETRY);
                    actor.busy.failures = actor.busy.failures.saturating_add(1);
                    spread(pause, fastrand::f64())
                }
            };
            ctx.run_later(pause, |actor, ctx| {
                actor.busy.ledger = false;
                actor.write_ledger(ctx);
            });
        }));
    }

    pub(super) fn sweep(&mut self, ctx: &mut Context<Self>) {
        if !self.sources.has_maps() {
            return;
        }
        let (keys, known) = (self.sources.data(JWT_KEYS), self.sources.data(NODE_IDENTITIES));
        if ledger::needs_sweep(&keys, &known, unix_secs(SystemTime::now())) {
            self.pending.sweep();
            self.write_ledger(ctx);
        }
    }

    /// Publishes who is revoked, ends their sessions, takes their keys out.
    pub(super) fn revocations_changed(&mut self, ctx: &mut Context<Self>) {
        if !self.sources.has_maps() {
            return;
        }
        let (revoked, wrong) = ledger::revocations(&self.sources.data(NODE_REVOCATIONS));
        for name in wrong {
            tracing::error!(name, "an entry of ConfigMap kubeedge/{NODE_REVOCATIONS} names no node");
        }
        let known = self.parts.published.revocations.borrow().clone();
        let before = known.filter(|_| self.heard_revocations).map(Arc::unwrap_or_clone).unwrap_or_default();
        let news = ledger::newly_revoked(&before, &revoked);
        let in_force = !std::mem::replace(&mut self.heard_revocations, true);
        self.parts.published.revocations.send_replace(Some(Arc::new(revoked)));
        for (node, revocation) in news {
            let allowed_again = revocation.allowed_at.is_some();
            let fact = AuditFact::new(AuditAction::Revoke, node.as_str(), allowed_again, &*revocation.reason)
                .with("at", revocation.at.to_string())
                .with("seen", if in_force { "at start" } else { "now" });
            self.audit(fact);
            if allowed_again {
                tracing::info!(%node, "node may join again");
                if in_force || before.get(&node).is_some_and(|known| known.at == revocation.at) {
                    continue; // its sessions ended when it was revoked
                }
            } else if !in_force {
                tracing::warn!(%node, reason = revocation.reason, "node revoked");
            }
            let close = self.parts.close_node.clone();
            let message = CloseNode { node: Some(node.clone()), reason: EndReason::Revoked };
            ctx.spawn(async move { calls_worker::until_taken(&close, message).await }.into_actor(self));
            if !allowed_again {
                self.pending.forget(node);
            }
        }
        self.write_ledger(ctx);
    }
}

impl Handler<NodeKeyChanged> for IdentityController {
    type Result = ();

    fn handle(&mut self, told: NodeKeyChanged, ctx: &mut Self::Context) {
        let node = told.node.clone();
        if let Err(why) = self.pending.renewed(told, unix_secs(SystemTime::now())) {
            tracing::warn!(%node, why, "the node's key for JWT-SVIDs is not published");
        }
        self.write_ledger(ctx);
    }
}

impl Handler<NodeCloned> for IdentityController {
    type Result = ();

    fn handle(&mut self, NodeCloned { node, addresses }: NodeCloned, ctx: &mut Self::Context) {
        let [one, other] = &addresses;
        let reason = format!("two machines hold its certificate: one at {one}, one at {other}");
        let revokes = self.parts.cloned_nodes == ClonedNodes::Revoke;
        tracing::error!(%node, reason, revokes, "a node was cloned");
        let fact = AuditFact::new(AuditAction::Refuse, node.as_str(), !revokes, &*reason);
        self.audit(fact.with("rule", if revokes { "revoke" } else { "warn" }));
        let told = calls_worker::explain_node(self.parts.client.clone(), node.clone(), reason.clone());
        ctx.spawn(told.into_actor(self));
        if revokes {
            let at = unix_secs(SystemTime::now());
            self.pending.revoke(node, Revocation { at, reason, allowed_at: None });
            self.write_ledger(ctx);
        }
    }
}
