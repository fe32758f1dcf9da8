//! MetaManager's reports to the cloud: pod statuses, confirmed deletions, events.

use actix::prelude::*;
use serde_json::Value;
use tokio::sync::oneshot;

use super::cloud_worker::{Cloud, edged};
use super::objects::text;
use super::reports::{Answer, Job, PodId, judge, status_patch};
use super::{MetaManager, count, later, node, now, store_error};
use crate::bus::edge_hub::Class;
use crate::bus::meta::{ConfirmPodDeleted, MetaError, ReportEvent, ReportPodStatus};
use crate::model::{Body, ObjectKey, operation};
use crate::store::{Batch, Table};

/// Events sent before the cloud is asked whether it has them.
const EVENTS_AT_ONCE: usize = 50;

impl Handler<ReportPodStatus> for MetaManager {
    type Result = ResponseFuture<Result<(), MetaError>>;

    fn handle(&mut self, msg: ReportPodStatus, ctx: &mut Context<Self>) -> Self::Result {
        if let Err(err) = self.check() {
            return Box::pin(async { Err(err) });
        }
        let pod = PodId { namespace: msg.namespace, name: msg.name, uid: msg.uid };
        let batch = self.reports.report(pod, msg.status, now());
        self.keep_report(batch, ctx)
    }
}

impl Handler<ConfirmPodDeleted> for MetaManager {
    type Result = ResponseFuture<Result<(), MetaError>>;

    fn handle(&mut self, msg: ConfirmPodDeleted, ctx: &mut Context<Self>) -> Self::Result {
        if let Err(err) = self.check() {
            return Box::pin(async { Err(err) });
        }
        let pod = PodId { namespace: msg.namespace, name: msg.name, uid: msg.uid };
        let batch = self.reports.confirm_deleted(pod, now());
        self.keep_report(batch, ctx)
    }
}

impl Handler<ReportEvent> for MetaManager {
    type Result = ResponseFuture<Result<(), MetaError>>;

    fn handle(&mut self, ReportEvent(event): ReportEvent, ctx: &mut Context<Self>) -> Self::Result {
        if let Err(err) = self.check() {
            return Box::pin(async { Err(err) });
        }
        let row = match serde_json::to_vec(&*event) {
            Ok(row) => row,
            Err(err) => return Box::pin(async move { Err(MetaError::Protocol(err.to_string())) }),
        };
        self.recent.push(event);
        let (batch, dropped) = self.outbox.push(row);
        self.metrics.outbox.dropped.increment(dropped);
        self.metrics.outbox.messages.set(count(self.outbox.len()));
        self.keep_report(batch, ctx)
    }
}

impl MetaManager {
    /// Answers once the report is durable, then sends what is due.
    fn keep_report(
        &mut self,
        batch: Batch,
        ctx: &mut Context<Self>,
    ) -> ResponseFuture<Result<(), MetaError>> {
        let (reply, answer) = oneshot::channel();
        self.commit(batch, ctx, |meta, ctx, outcome| {
            drop(reply.send(outcome.map_err(|err| store_error(&err))));
            meta.send_reports(ctx);
            meta.drain_outbox(ctx);
        });
        later(answer)
    }

    /// Starts the calls that are due.
    pub(super) fn send_reports(&mut self, ctx: &mut Context<Self>) {
        if !self.link.connected || self.broken.is_some() {
            return;
        }
        for job in self.reports.due(now()) {
            let cloud = self.cloud.clone();
            let call = async move {
                let answer = run(&cloud, &job).await;
                (job, answer)
            };
            ctx.spawn(call.into_actor(self).map(|(job, answer), meta, ctx| meta.settle(&job, answer, ctx)));
        }
    }

    fn settle(&mut self, job: &Job, answer: Result<Option<Value>, Answer>, ctx: &mut Context<Self>) {
        let (Job::Patch { pod, .. } | Job::Delete { pod }) = job;
        let key = ObjectKey::namespaced(&pod.namespace, "pod", &pod.name);
        let (verdict, object) = match answer {
            Ok(object) => (Answer::Accepted, object),
            Err(verdict) => (verdict, None),
        };
        if verdict == Answer::Refused {
            tracing::info!(pod = %key, uid = %pod.uid, "the cloud takes no report about this pod any more");
        }
        let settled = self.reports.settle(job, verdict, now(), fastrand::f64());
        let mut change = if settled.pod_is_gone {
            self.index.remove(&key, &pod.uid)
        } else if let Some(object) = object.filter(|object| text(object, "/metadata/uid") == pod.uid) {
            let stored = self.read(&key).unwrap_or_default();
            self.reply_change(&key, object, stored.as_ref())
        } else {
            super::Change::default()
        };
        change.batch.append(settled.batch);
        self.commit_change(change, ctx, |meta, ctx, _| meta.send_reports(ctx));
    }

    /// The reply to a patch carries the pod as the cloud has it. It replaces what is stored only if
    /// that is the same incarnation: a reply never brings back a pod that was removed meanwhile.
    fn reply_change(&mut self, key: &ObjectKey, object: Value, stored: Option<&Value>) -> super::Change {
        match stored {
            Some(stored) if text(stored, "/metadata/uid") == text(&object, "/metadata/uid") => {
                self.index.upsert_reply(key, object, Some(stored))
            }
            _ => super::Change::default(),
        }
    }

    /// Sends waiting events, oldest first. They leave the disk when the cloud has read them.
    pub(super) fn drain_outbox(&mut self, ctx: &mut Context<Self>) {
        if self.is_draining || !self.link.connected || self.outbox.is_empty() || self.broken.is_some() {
            return;
        }
        let mut last = None;
        let mut events = Vec::new();
        for sequence in self.outbox.oldest(EVENTS_AT_ONCE) {
            let row = self.store.get(Table::Outbox, self.outbox.key(sequence).as_bytes());
            match row {
                Ok(Some(row)) => events.extend(serde_json::from_slice::<Value>(&row)),
                // Its write is under way or comes next; in between, nothing is being written.
                Ok(None) if self.is_writing || !self.next_batch.is_empty() => break,
                Ok(None) => {}
                Err(err) => {
                    tracing::warn!(error = %err, "the outbox cannot be read");
                    break;
                }
            }
            last = Some(sequence);
        }
        let Some(last) = last else { return };
        self.is_draining = true;
        let cloud = self.cloud.clone();
        let sent = async move { send_events(&cloud, events).await };
        ctx.spawn(sent.into_actor(self).map(move |outcome, meta, ctx| {
            meta.is_draining = false;
            if let Err(err) = outcome {
                tracing::debug!(error = %err, "events wait");
                return;
            }
            let batch = meta.outbox.confirm(last);
            meta.metrics.outbox.messages.set(count(meta.outbox.len()));
            meta.commit(batch, ctx, |meta, ctx, _| meta.drain_outbox(ctx));
        }));
    }
}

async fn send_events(cloud: &Cloud, events: Vec<Value>) -> Result<(), MetaError> {
    for event in events {
        let namespace = match text(&event, "/metadata/namespace") {
            "" => "default",
            namespace => namespace,
        };
        let key = ObjectKey::namespaced(namespace, "event", text(&event, "/metadata/name"));
        let is_repeated = event.get("count").and_then(Value::as_i64).is_some_and(|count| count > 1);
        let operation = if is_repeated { operation::UPDATE } else { operation::INSERT };
        match cloud.tell(edged(operation, key, Body::Object(event)), Class::Event).await {
            // It would never go: it must not hold up the others.
            Ok(()) | Err(MetaError::Protocol(_)) => {}
            Err(err) => return Err(err),
        }
    }
    cloud.barrier(Class::Event).await
}

/// Makes one call; a pod comes back for an accepted patch.
async fn run(cloud: &Cloud, job: &Job) -> Result<Option<Value>, Answer> {
    let message = match job {
        Job::Patch { pod, status, .. } => {
            let key = ObjectKey::namespaced(&pod.namespace, "podpatch", &pod.name);
            edged(operation::PATCH, key, Body::Text(status_patch(pod, status)))
        }
        Job::Delete { pod } => {
            let key = ObjectKey::namespaced(&pod.namespace, "pod", &pod.name);
            let options = serde_json::json!({"gracePeriodSeconds": 0, "preconditions": {"uid": pod.uid}});
            edged(operation::DELETE, key, Body::Object(options))
        }
    };
    let reply = match cloud.ask(message, Class::Control, cloud.call_timeout).await {
        Ok(reply) => reply,
        Err(MetaError::Protocol(_)) => return Err(Answer::Refused),
        Err(_) => return Err(Answer::Later),
    };
    if matches!((job, &reply.body), (Job::Delete { .. }, Body::Text(text)) if text == "OK") {
        return Ok(None);
    }
    match node::object_of(reply) {
        Ok(object) => Ok(Some(object)),
        Err(MetaError::Api(status)) => Err(judge(&status)),
        Err(err) => {
            tracing::warn!(error = %err, "a report was not answered in a known shape");
            Err(Answer::Later)
        }
    }
}
