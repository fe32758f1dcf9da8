//! The document of the nodes: compiled when something changed, written, then told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;

use super::document::{self, EDGE_IDENTITY, SPEC, TRUST_BUNDLE};
use super::ledger::{self, JWT_KEYS, NODE_REVOCATIONS};
use super::publication::{Published, Step};
use super::sources::{Data, Map};
use super::standing::{Standing, standing};
use super::{IdentityController, REMIND_EVERY, calls_worker, config_map_worker};
use crate::actors::cloud::downlink_worker::flush;
use crate::bus::edge_controller::{ListDesired, NotReady, ObjectVersion, SendDifferences};
use crate::bus::identity::{AuditAction, AuditFact};
use crate::bus::sync::IdentityNodes;
use crate::model::identity::BundleDocument;
use crate::model::{NodeName, Resource, operation};
use crate::supervise::{doubled, spread};
use crate::telemetry::readiness;

/// Documents leave at no more than this, bytes a second: a new one replaces what waits.
const SENT_PER_SECOND: f64 = 32e6;
/// What new keys of nodes may cost on average, bytes a second, and how long they wait at most, seconds.
const KEYS_PER_SECOND: f64 = 2e6;
const LONGEST_KEYS_WAIT: f64 = 300.0;
/// Bytes of documents that are made at once.
const SENT_AT_ONCE: usize = 4 << 20;
const ASK: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(30);

/// The spec in ConfigMap [`EDGE_IDENTITY`]; one without it holds an empty text, which nobody wants.
pub(super) fn published(map: &Map) -> Published {
    let spec = map.data.get(SPEC).map(String::as_str).unwrap_or_default();
    Published { spec: spec.into(), version: map.version.clone() }
}

impl IdentityController {
    /// Compiles soon; what comes until then comes along.
    pub(super) fn refresh_soon(&mut self, after: Duration, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.busy.refresh, true) {
            ctx.run_later(after, |actor, ctx| {
                actor.busy.refresh = false;
                actor.refresh(ctx);
            });
        }
    }

    fn refresh(&mut self, ctx: &mut Context<Self>) {
        if !self.sources.is_complete() {
            return;
        }
        let (revoked, _) = ledger::revocations(&self.sources.data(NODE_REVOCATIONS));
        let mut bundle = self.roots.clone();
        self.look_at_keys(ctx);
        bundle.jwt_keys = ledger::bundle_keys(&self.keys, &revoked);
        let news = Arc::new(bundle);
        self.parts.published.bundle.send_if_modified(|known| {
            let changed = *known != news;
            known.clone_from(&news);
            changed
        });
        self.metrics.show(self.sources.counts(), revoked.len());
        let last = self.publication.current().or(self.publication.stored()).cloned();
        let kept = || document::lists_of(&last?.spec);
        match document::compile(&news, self.sources.lists(), kept) {
            Ok(compiled) => {
                self.metrics.document_bytes.set(compiled.text.len() as f64);
                match compiled.too_long {
                    Some(length) => self.tell_too_long(length, ctx),
                    None => self.busy.too_long_told = None,
                }
                self.publication.want(compiled.text);
            }
            Err(length) => self.tell_too_long(length, ctx),
        }
        let data = self.sources.map(TRUST_BUNDLE).map(|map| map.data.clone());
        if !self.stand(data.as_ref(), ctx) {
            return;
        }
        if data.is_some() || self.parts.sole {
            self.advance(ctx);
        }
        // Where there is none, who writes it first decides; its watch brings us here again.
        self.write_bundle(&news, ctx);
    }

    /// May this cloudcore tell nodes whom to believe? Says so when that changes.
    fn stand(&mut self, stored: Option<&Data>, ctx: &mut Context<Self>) -> bool {
        let now = match self.parts.sole {
            true => Standing::Ours,
            false => standing(&self.roots, stored),
        };
        let before = std::mem::replace(&mut self.standing, now);
        self.parts.readiness.set(readiness::TRUST_BUNDLE, now == Standing::Ours);
        if now != Standing::Ours && before != now {
            let why = now.advice();
            tracing::error!(why, "nodes are told nothing about identities and this cloudcore is not ready");
            self.audit(AuditFact::new(AuditAction::Authority, "trust bundle", false, why));
            let told = calls_worker::explain_map(
                self.parts.client.clone(),
                TRUST_BUNDLE,
                "OtherRoots",
                why.to_owned(),
            );
            ctx.spawn(told.into_actor(self));
        }
        now == Standing::Ours
    }

    /// Takes the nodes' keys as they are now, unless the document that told the last ones has cost too
    /// much for that: a thousand nodes that join would make a thousand documents for a thousand nodes.
    fn look_at_keys(&mut self, ctx: &mut Context<Self>) {
        let now = self.sources.data(JWT_KEYS);
        if now == self.keys {
            return;
        }
        // What is gone is gone at once.
        self.keys.retain(|name, _| now.contains_key(name));
        let wait = self.busy.keys_from.map(|from| from.saturating_duration_since(Instant::now()));
        match wait.filter(|wait| !wait.is_zero()) {
            None => self.keys = now,
            Some(wait) if !std::mem::replace(&mut self.busy.keys_wait, true) => {
                ctx.run_later(wait, |actor, ctx| {
                    actor.busy.keys_wait = false;
                    actor.refresh_soon(Duration::ZERO, ctx);
                });
            }
            Some(_) => {}
        }
    }

    fn tell_too_long(&mut self, length: usize, ctx: &mut Context<Self>) {
        self.metrics.too_long.increment(1);
        if self.busy.too_long_told.is_some_and(|at| at.elapsed() < REMIND_EVERY) {
            return;
        }
        self.busy.too_long_told = Some(Instant::now());
        let why = format!(
            "registrations, policies and keys are {length} bytes together, more than {}: nodes keep the last \
             that fitted",
            document::MAX_SPEC
        );
        tracing::error!(why, "identity document not changed");
        let told = calls_worker::explain_map(self.parts.client.clone(), EDGE_IDENTITY, "TooLong", why);
        ctx.spawn(told.into_actor(self));
    }

    /// Does what the publication needs next.
    fn advance(&mut self, ctx: &mut Context<Self>) {
        match self.publication.step() {
            Step::Nothing => {}
            Step::Publish(published) => {
                tracing::info!(
                    version = published.version,
                    bytes = published.spec.len(),
                    "identity document"
                );
                self.push(ctx);
            }
            Step::Write(spec) => self.write_document(spec, ctx),
        }
    }

    fn write_document(&mut self, spec: Arc<str>, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.busy.writing, true) {
            return; // its end advances again
        }
        let client = self.parts.client.clone();
        let work = async move {
            let edit = |data: &mut Data| {
                let wanted = Data::from([(SPEC.to_owned(), spec.to_string())]);
                let changed = *data != wanted;
                *data = wanted;
                changed
            };
            config_map_worker::amend(&client, EDGE_IDENTITY, edit).await
        };
        ctx.spawn(work.into_actor(self).map(|result, actor, ctx| {
            actor.busy.writing = false;
            match result {
                Ok(map) => {
                    actor.busy.failures = 0;
                    if let Some(found) = map.map(|map| published(&map)) {
                        actor.publication.seen(found);
                    }
                    actor.advance(ctx);
                }
                Err(err) => actor.try_again(&err.to_string(), ctx),
            }
        }));
    }

    /// A write failed: everything is looked at again after a pause.
    pub(super) fn try_again(&mut self, why: &str, ctx: &mut Context<Self>) {
        self.metrics.write_errors.increment(1);
        let pause = spread(doubled(RETRY, self.busy.failures, LAST_RETRY), fastrand::f64());
        self.busy.failures = self.busy.failures.saturating_add(1);
        tracing::warn!(error = why, ?pause, "the api does not take what identities need, trying again");
        self.refresh_soon(pause, ctx);
    }

    /// The trust bundle for users.
    fn write_bundle(&mut self, bundle: &BundleDocument, ctx: &mut Context<Self>) {
        let Some(wanted) = document::trust_bundle(bundle) else { return };
        let known = self.sources.map(TRUST_BUNDLE).is_some_and(|map| map.data == wanted);
        if known || std::mem::replace(&mut self.busy.bundle, true) {
            return;
        }
        let (client, roots, sole) = (self.parts.client.clone(), self.roots.clone(), self.parts.sole);
        let work = async move {
            let edit = |data: &mut Data| {
                if !sole && standing(&roots, Some(data)) != Standing::Ours {
                    return false; // another one was faster; the watch tells
                }
                let changed = *data != wanted;
                data.clone_from(&wanted);
                changed
            };
            config_map_worker::amend(&client, TRUST_BUNDLE, edit).await
        };
        // What changed meanwhile is seen when the watch brings this write.
        ctx.spawn(work.into_actor(self).map(|result, actor, ctx| {
            actor.busy.bundle = false;
            match result {
                Ok(_) => actor.busy.failures = 0,
                Err(err) => actor.try_again(&err.to_string(), ctx),
            }
        }));
    }

    /// Tells all nodes of ours the document that holds now.
    pub(super) fn push(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.busy.pushing, true) {
            self.busy.push_again = true;
            return;
        }
        let Some(current) = self.publication.current().cloned() else {
            self.busy.pushing = false;
            return;
        };
        let nodes = self.parts.identity_nodes.clone();
        let asked = async move { nodes.ask(IdentityNodes, ASK).await };
        ctx.spawn(asked.into_actor(self).map(move |result, actor, ctx| match result {
            Ok(mut nodes) => {
                let all = nodes.len() as f64 * current.spec.len() as f64;
                let pause = (all / KEYS_PER_SECOND).min(LONGEST_KEYS_WAIT);
                actor.busy.keys_from = Some(Instant::now() + Duration::from_secs_f64(pause));
                // A newer document begins anew: in this order nobody would always be the last.
                fastrand::shuffle(&mut nodes);
                actor.push_to(nodes, current, ctx);
            }
            Err(err) => actor.push_later(&err.to_string(), ctx),
        }));
    }

    /// Tells these nodes, some at a time: the documents of all of them together may be larger than
    /// memory.
    fn push_to(&mut self, mut nodes: Vec<NodeName>, current: Published, ctx: &mut Context<Self>) {
        if nodes.is_empty() || self.busy.push_again {
            self.busy.pushing = false;
            if std::mem::take(&mut self.busy.push_again) {
                self.push(ctx);
            }
            return;
        }
        let bytes = current.spec.len().max(1);
        let now = nodes.split_off(nodes.len().saturating_sub((SENT_AT_ONCE / bytes).max(1)));
        let pause = Duration::from_secs_f64((now.len() as f64 * bytes as f64 / SENT_PER_SECOND).min(60.0));
        let (ca, sealed) = (Arc::clone(&self.parts.ca), current.clone());
        let work = async move { calls_worker::seal(ca, now, sealed, operation::UPDATE).await };
        ctx.spawn(work.into_actor(self).map(move |result, actor, ctx| match result {
            Ok(messages) => {
                actor.busy.push_failures = 0;
                actor.metrics.sent.increment(messages.len() as u64);
                actor.downlink.extend(messages);
                flush(actor, ctx);
                ctx.run_later(pause, move |actor, ctx| actor.push_to(nodes, current, ctx));
            }
            Err(why) => actor.push_later(&why, ctx),
        }));
    }

    fn push_later(&mut self, why: &str, ctx: &mut Context<Self>) {
        tracing::warn!(why, "the identity document is not told to nodes yet");
        let pause = spread(doubled(RETRY, self.busy.push_failures, LAST_RETRY), fastrand::f64());
        self.busy.push_failures = self.busy.push_failures.saturating_add(1);
        ctx.run_later(pause, |actor, ctx| {
            actor.busy.pushing = false;
            actor.busy.push_again = false;
            actor.push(ctx);
        });
    }
}

impl Handler<ListDesired> for IdentityController {
    type Result = Result<Vec<ObjectVersion>, NotReady>;

    fn handle(&mut self, ListDesired { node }: ListDesired, _: &mut Self::Context) -> Self::Result {
        let current = self.publication.current().ok_or(NotReady)?;
        Ok(vec![ObjectVersion {
            resource: document::key(&node).into(),
            uid: document::uid(&node),
            resource_version: current.version.clone(),
        }])
    }
}

impl Handler<SendDifferences> for IdentityController {
    type Result = ResponseActFuture<Self, Result<(), NotReady>>;

    fn handle(&mut self, asked: SendDifferences, _: &mut Self::Context) -> Self::Result {
        let SendDifferences { node, missing, changed, surplus, answer: _ } = asked;
        let own = document::key(&node);
        let now_ms = calls_worker::now_ms();
        let mut messages = Vec::new();
        for old in surplus {
            let Resource::Object(key) = old.resource else { continue };
            if key != own || old.uid != document::uid(&node) {
                messages.push((node.clone(), document::removal(key, &old.uid, now_ms)));
            }
        }
        let own = Resource::from(own);
        let operation = match (missing.contains(&own), changed.contains(&own)) {
            (true, _) => Some(operation::INSERT),
            (_, true) => Some(operation::UPDATE),
            _ => None,
        };
        let (ca, current) = (Arc::clone(&self.parts.ca), self.publication.current().cloned());
        let work = async move {
            let Some(operation) = operation else { return Ok(messages) };
            let sealed = calls_worker::seal(ca, vec![node], current.ok_or(NotReady)?, operation).await;
            messages.extend(sealed.map_err(|why| {
                tracing::error!(why, "the identity document is not sealed");
                NotReady
            })?);
            Ok(messages)
        };
        Box::pin(work.into_actor(self).map(|result, actor, ctx| {
            let messages = result?;
            actor.metrics.sent.increment(messages.len() as u64);
            actor.downlink.extend(messages);
            flush(actor, ctx);
            Ok(())
        }))
    }
}
