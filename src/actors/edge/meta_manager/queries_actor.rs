//! MetaManager's answers: from the store first, from the cloud when only it can know.

use std::sync::Arc;
use std::time::SystemTime;

use actix::prelude::*;
use k8s_openapi::api::core::v1::Event;
use serde_json::Value;
use tokio::sync::oneshot;

use super::tokens::{self, Decision, Stored};
use super::{MetaManager, later, node, store_error};
use crate::bus::meta::{GetObject, GetToken, ListEvents, ListPods, MetaError};
use crate::model::{Body, ObjectKey, Reason, Resource};
use crate::store::{Batch, Table};

/// Kinds that the cloud answers queries for and that may be missing here.
const REMOTE_KINDS: [&str; 5] =
    ["configmap", "secret", "persistentvolume", "persistentvolumeclaim", "volumeattachment"];

impl Handler<ListPods> for MetaManager {
    type Result = Result<Vec<Arc<Value>>, MetaError>;

    fn handle(&mut self, _: ListPods, _: &mut Context<Self>) -> Self::Result {
        self.check()?;
        let mut pods = Vec::new();
        for key in self.index.of_kind("pod") {
            // Indexed but not there: its write is under way, and edged is told when it is done.
            if let Some(pod) = self.read(key)? {
                pods.push(Arc::new(pod));
            }
        }
        Ok(pods)
    }
}

impl Handler<ListEvents> for MetaManager {
    type Result = Result<Vec<Arc<Event>>, MetaError>;

    fn handle(&mut self, _: ListEvents, _: &mut Context<Self>) -> Self::Result {
        Ok(self.recent.all())
    }
}

impl Handler<GetObject> for MetaManager {
    type Result = ResponseFuture<Result<Option<Arc<Value>>, MetaError>>;

    fn handle(&mut self, GetObject(key): GetObject, ctx: &mut Context<Self>) -> Self::Result {
        let stored = match self.read(&key) {
            Ok(stored) => stored.map(Arc::new),
            Err(err) => return Box::pin(async { Err(err) }),
        };
        // A name that cannot be an object's (Kubernetes does not check references) is nowhere.
        let is_name = Resource::parse(&key.to_string()).object() == Some(&key);
        if stored.is_some() || !is_name || !REMOTE_KINDS.contains(&key.kind.as_str()) {
            return Box::pin(async { Ok(stored) });
        }
        if !self.link.connected {
            return Box::pin(async { Err(MetaError::Offline) });
        }
        let (waiter, answer) = oneshot::channel();
        let waiters = self.queries.entry(key.clone()).or_default();
        waiters.push(waiter);
        if waiters.len() == 1 {
            let (cloud, asked) = (self.cloud.clone(), key.clone());
            let query = async move { cloud.query(&asked, Body::Null).await };
            ctx.spawn(query.into_actor(self).map(|answer, meta, ctx| meta.queried(key, answer, ctx)));
        }
        later(answer)
    }
}

impl MetaManager {
    fn queried(&mut self, key: ObjectKey, answer: Result<Value, MetaError>, ctx: &mut Context<Self>) {
        let object = match answer {
            Ok(object) => object,
            Err(err) => {
                let outcome = if node::is(&err, Reason::NotFound) { Ok(None) } else { Err(err) };
                return self.answer_query(&key, &outcome);
            }
        };
        let change = self.index.upsert(&key, object, None);
        self.commit_change(change, ctx, move |meta, _, outcome| {
            // What is stored now may be newer than the answer.
            let outcome = outcome.map_err(|err| store_error(&err)).and_then(|()| meta.read(&key));
            meta.answer_query(&key, &outcome.map(|object| object.map(Arc::new)));
        });
    }

    fn answer_query(&mut self, key: &ObjectKey, outcome: &Result<Option<Arc<Value>>, MetaError>) {
        for waiter in self.queries.remove(key).unwrap_or_default() {
            // Whoever asked may have stopped waiting.
            drop(waiter.send(outcome.clone()));
        }
    }
}

impl Handler<GetToken> for MetaManager {
    type Result = ResponseFuture<Result<Arc<Value>, MetaError>>;

    fn handle(&mut self, msg: GetToken, ctx: &mut Context<Self>) -> Self::Result {
        let row_key = tokens::key(&msg.namespace, &msg.service_account, &msg.request);
        let row = match self.check().map(|()| self.store.get(Table::Objects, row_key.as_bytes())) {
            Ok(Ok(row)) => row,
            Ok(Err(err)) => return Box::pin(async move { Err(store_error(&err)) }),
            Err(err) => return Box::pin(async { Err(err) }),
        };
        let stored = row.as_deref().and_then(Stored::from_row);
        let decision = stored.as_ref().map_or(Decision::Fetch, |stored| stored.decide(SystemTime::now()));
        let stored = stored.map(|stored| Arc::new(stored.answer));
        if decision == Decision::Use || !self.link.connected {
            return Box::pin(async { stored.ok_or(MetaError::Offline) });
        }
        let (waiter, answer) = oneshot::channel();
        let waiters = self.fetches.entry(row_key.clone()).or_default();
        waiters.push(waiter);
        if waiters.len() == 1 {
            let account = ObjectKey::namespaced(&msg.namespace, "serviceaccounttoken", &msg.service_account);
            let cloud = self.cloud.clone();
            let fetch = async move { cloud.query(&account, Body::Object(msg.request)).await };
            ctx.spawn(
                fetch.into_actor(self).map(|answer, meta, ctx| meta.fetched(row_key, answer, stored, ctx)),
            );
        }
        later(answer)
    }
}

impl MetaManager {
    fn fetched(
        &mut self,
        row_key: String,
        answer: Result<Value, MetaError>,
        stored: Option<Arc<Value>>,
        ctx: &mut Context<Self>,
    ) {
        let token = match answer {
            Ok(token) if tokens::is_token(&token) => token,
            Ok(_) => {
                let err = MetaError::Protocol("a token request without a token".to_owned());
                return self.answer_fetch(&row_key, &stored.ok_or(err));
            }
            Err(err) => {
                tracing::warn!(error = %err, has_older = stored.is_some(), "service-account token not renewed");
                return self.answer_fetch(&row_key, &stored.ok_or(err));
            }
        };
        let row = Stored::new(token.clone(), SystemTime::now()).to_row();
        let batch = Batch::new().put(Table::Objects, row_key.as_str(), row);
        self.commit(batch, ctx, move |meta, _, outcome| {
            let outcome = outcome.map(|()| Arc::new(token)).map_err(|err| store_error(&err));
            meta.answer_fetch(&row_key, &outcome);
        });
    }

    fn answer_fetch(&mut self, row_key: &str, outcome: &Result<Arc<Value>, MetaError>) {
        for waiter in self.fetches.remove(row_key).unwrap_or_default() {
            // Whoever asked may have stopped waiting.
            drop(waiter.send(outcome.clone()));
        }
    }
}
