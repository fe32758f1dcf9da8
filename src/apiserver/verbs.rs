//! The verbs of resources: from a [`Call`] to a decision on the registry to an [`Answer`].

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use super::authz;
use super::body;
use super::core::ApiCore;
use super::delete::{self, Deleted, Options};
use super::errors::ApiError;
use super::grants;
use super::kinds::{self, EVENTS, NAMESPACES, Nature, PODS, SERVICEACCOUNTS, Sub};
use super::namespaces;
use super::object::{self, Filter, Stored};
use super::query::{self, content_type};
use super::read;
use super::render::{ListMeta, Renderer};
use super::service::{Answer, ApiBody, Call};
use super::subresources;
use super::tx::Tx;
use super::watch;
use super::write::{self, PatchKind};
use crate::kube::rbac;
use crate::kube::validate::ignored;

/// Objects of a collection deleted in one write.
const DELETE_AT_ONCE: usize = 200;
/// Seconds an event is kept, as in Kubernetes.
const EVENT_TTL_SECS: i64 = 3600;
/// Events kept in all; beyond it the ones written longest ago go, however young they are.
pub(super) const MAX_EVENTS: usize = 2_000;

impl ApiCore {
    pub(super) async fn run(self: &Arc<Self>, call: Call) -> Result<Answer, ApiError> {
        let renderer = Renderer {
            kind: call.target.kind,
            wanted: query::wanted(&call.headers)?,
            include_object: call.query.include_object.clone(),
            now: self.now(),
        };
        match call.verb {
            "get" => self.get(&call, &renderer),
            "list" => self.list(&call, &renderer),
            "watch" => self.watch(&call, renderer),
            "create" if call.target.kind.nature == Nature::Review => self.run_review(&call, &renderer),
            "create" => match call.target.sub {
                None => self.create(&call, &renderer).await,
                Some(sub) => self.create_sub(&call, sub, &renderer).await,
            },
            "update" => self.update(&call, &renderer).await,
            "patch" => self.patch(&call, &renderer).await,
            "delete" => self.delete(&call, &renderer).await,
            _ => self.delete_collection(&call, &renderer).await,
        }
    }

    fn get(&self, call: &Call, renderer: &Renderer) -> Result<Answer, ApiError> {
        if matches!(call.target.sub, Some(sub) if sub != Sub::Status) {
            return Err(ApiError::method_not_allowed());
        }
        let (namespace, name) = call.place();
        let found = self.find(call.target.kind, namespace, name);
        let found = found.ok_or_else(|| ApiError::not_found(call.target.kind, name))?;
        object_answer(StatusCode::OK, renderer, &found)
    }

    fn list(&self, call: &Call, renderer: &Renderer) -> Result<Answer, ApiError> {
        let filter = call.filter()?;
        let kind = call.target.kind;
        let (meta, items) = self.read(|registry| read::list(registry, kind, &filter, &call.query))?;
        Ok(Answer::new(StatusCode::OK, renderer.content_type(), renderer.list(&meta, &items)?))
    }

    fn watch(self: &Arc<Self>, call: &Call, renderer: Renderer) -> Result<Answer, ApiError> {
        if call.target.sub.is_some() {
            return Err(ApiError::method_not_allowed());
        }
        let stream = watch::start(self, call.filter()?, renderer, &call.query)?;
        Ok(Answer {
            status: StatusCode::OK,
            content_type: "application/json",
            body: ApiBody::Stream(stream),
            warnings: Vec::new(),
        })
    }

    fn run_review(&self, call: &Call, renderer: &Renderer) -> Result<Answer, ApiError> {
        let body = body::decode(&call.headers, &call.body)?;
        let review = self.review(call.target.kind, &call.user, body)?;
        Ok(Answer::new(StatusCode::CREATED, renderer.content_type(), renderer.encode(&review)?))
    }

    async fn create(&self, call: &Call, renderer: &Renderer) -> Result<Answer, ApiError> {
        let kind = call.target.kind;
        let (namespace, name) = call.place();
        if !name.is_empty() || kind.namespaced && namespace.is_empty() {
            return Err(ApiError::method_not_allowed());
        }
        let (new, mut warnings) = call.read_object()?;
        authz::admit_content(&call.user, &call.attributes(), &new)?;
        authz::admit_change(&call.user, &call.attributes(), None, &new)?;
        if kind.kind == "Pod" {
            warnings.extend(ignored::warnings(&new));
        }
        let stored = self
            .write(call.query.dry_run, |tx| {
                let stored = write::create(tx, kind, namespace, new)?;
                call.admit_grant(tx, None, &stored)?;
                Ok(stored)
            })
            .await?;
        let mut answer = object_answer(StatusCode::CREATED, renderer, &stored)?;
        answer.warnings = warnings;
        Ok(answer)
    }

    async fn update(&self, call: &Call, renderer: &Renderer) -> Result<Answer, ApiError> {
        let kind = call.target.kind;
        let sub = call.status_only()?;
        let (mut new, warnings) = call.read_object()?;
        let place = call.place();
        if object::text(&new, "name").is_empty() {
            object::metadata(&mut new).insert("name".into(), place.1.into());
        }
        authz::admit_content(&call.user, &call.attributes(), &new)?;
        let (stored, created) = self
            .write(call.query.dry_run, |tx| {
                let old = tx.get(kind, place.0, place.1);
                let done = write::update(tx, kind, place, sub, new)?;
                call.admit_change(old.as_deref(), &done.0)?;
                call.admit_grant(tx, old.as_deref(), &done.0)?;
                Ok(done)
            })
            .await?;
        let status = if created { StatusCode::CREATED } else { StatusCode::OK };
        let mut answer = object_answer(status, renderer, &stored)?;
        answer.warnings = warnings;
        Ok(answer)
    }

    async fn patch(&self, call: &Call, renderer: &Renderer) -> Result<Answer, ApiError> {
        let kind = call.target.kind;
        let sub = call.status_only()?;
        body::check_size(&call.body)?;
        let style = PatchKind::read(content_type(&call.headers), kind)?;
        let patch = body::parse_json(&call.body)?;
        let (place, validation) = (call.place(), call.query.validation);
        let (stored, warnings) = self
            .write(call.query.dry_run, |tx| {
                let old = tx.get(kind, place.0, place.1);
                let done = write::apply_patch(tx, kind, place, sub, (style, &patch), validation)?;
                call.admit_change(old.as_deref(), &done.0)?;
                call.admit_grant(tx, old.as_deref(), &done.0)?;
                Ok(done)
            })
            .await?;
        let mut answer = object_answer(StatusCode::OK, renderer, &stored)?;
        answer.warnings = warnings;
        Ok(answer)
    }

    async fn delete(&self, call: &Call, renderer: &Renderer) -> Result<Answer, ApiError> {
        if call.target.sub.is_some() {
            return Err(ApiError::method_not_allowed());
        }
        let kind = call.target.kind;
        let options = call.delete_options()?;
        let (namespace, name) = call.place();
        let deleted = self
            .write(options.dry_run, |tx| {
                let found = tx.require(kind, namespace, name)?;
                let deleted = delete::delete(tx, kind, &found, &options)?;
                namespaces::settle(tx, namespace)?;
                Ok(deleted)
            })
            .await?;
        if kind.id == NAMESPACES && !options.dry_run {
            self.drain_namespace(name).await?;
        }
        match deleted {
            Deleted::Gone(gone) if !kind.returns_deleted => {
                Answer::json(StatusCode::OK, &write::deleted_status(kind, &gone.value()?))
            }
            Deleted::Gone(object) | Deleted::Pending(object) => {
                object_answer(StatusCode::OK, renderer, &object)
            }
        }
    }

    /// Deletes the content of an ending namespace, as far as it can go now.
    pub(super) async fn drain_namespace(&self, name: &str) -> Result<(), ApiError> {
        while self.write(false, |tx| namespaces::drain(tx, name)).await? {}
        Ok(())
    }

    async fn delete_collection(&self, call: &Call, renderer: &Renderer) -> Result<Answer, ApiError> {
        let kind = call.target.kind;
        let (namespace, _) = call.place();
        if kind.namespaced && namespace.is_empty() || !kind.deletes_collections() {
            return Err(ApiError::method_not_allowed());
        }
        let filter = call.filter()?;
        let options = call.delete_options()?;
        let (meta, items) = self.read(|registry| read::list(registry, kind, &filter, &call.query))?;
        for chunk in items.chunks(DELETE_AT_ONCE) {
            self.write(options.dry_run, |tx| {
                for item in chunk {
                    if let Some(found) = tx.get(kind, &item.namespace, &item.name) {
                        delete::delete(tx, kind, &found, &options)?;
                    }
                }
                namespaces::settle(tx, namespace)
            })
            .await?;
        }
        let meta = ListMeta { remaining: None, ..meta };
        Ok(Answer::new(StatusCode::OK, renderer.content_type(), renderer.list(&meta, &items)?))
    }

    async fn create_sub(&self, call: &Call, sub: Sub, renderer: &Renderer) -> Result<Answer, ApiError> {
        let (namespace, name) = call.place();
        let dry_run = call.query.dry_run;
        if sub == Sub::Status {
            return Err(ApiError::method_not_allowed());
        }
        let body = body::decode(&call.headers, &call.body)?;
        match sub {
            Sub::Status => Err(ApiError::method_not_allowed()),
            Sub::Binding => {
                subresources::check_kind(&body, "Binding")?;
                self.write(dry_run, |tx| subresources::bind(tx, namespace, name, &body)).await?;
                success(StatusCode::CREATED)
            }
            Sub::Eviction => {
                subresources::check_kind(&body, "Eviction")?;
                self.write(dry_run, |tx| subresources::evict(tx, namespace, name, &body, dry_run)).await?;
                success(StatusCode::CREATED)
            }
            Sub::Token => {
                subresources::check_kind(&body, "TokenRequest")?;
                authz::admit_content(&call.user, &call.attributes(), &body)?;
                let accounts = kinds::at(SERVICEACCOUNTS);
                let account = self.find(accounts, namespace, name);
                let account = account.ok_or_else(|| ApiError::not_found(accounts, name))?;
                let pod = |pod: &str| self.find(kinds::at(PODS), namespace, pod);
                let grant = subresources::grant_token(&account, pod, &body, self.now())?;
                let answer = subresources::token_answer(&self.keys, grant)?;
                Ok(Answer::new(StatusCode::CREATED, renderer.content_type(), renderer.encode(&answer)?))
            }
        }
    }

    /// What is due: events older than an hour or beyond [`MAX_EVENTS`] go, default objects come back, ending namespaces
    /// end. Call it now and then.
    ///
    /// # Errors
    /// When a write fails; the next call does what is left.
    pub async fn sweep(&self) -> Result<(), ApiError> {
        let oldest = self.now().as_second() - EVENT_TTL_SECS;
        let events = kinds::at(EVENTS);
        let expired: Vec<Arc<Stored>> = self.read(|registry| {
            let mut all: Vec<&Arc<Stored>> = registry.list(events, None, None).collect();
            all.sort_by_key(|event| (event.written_secs, event.version));
            let beyond = all.len().saturating_sub(MAX_EVENTS);
            let due =
                all.iter().enumerate().filter(|(at, event)| *at < beyond || event.written_secs < oldest);
            due.map(|(_, event)| Arc::clone(event)).collect()
        });
        for chunk in expired.chunks(DELETE_AT_ONCE) {
            self.write(false, |tx| {
                for event in chunk {
                    // Not if it was counted again meanwhile.
                    let same = tx.get(events, &event.namespace, &event.name);
                    if let Some(same) = same.filter(|same| same.version == event.version) {
                        tx.remove(events, &same)?;
                    }
                }
                Ok(())
            })
            .await?;
        }
        self.write(false, namespaces::ensure_defaults).await?;
        let spaces: Vec<Arc<Stored>> =
            self.read(|registry| registry.list(kinds::at(NAMESPACES), None, None).map(Arc::clone).collect());
        for space in spaces {
            if object::is_deleting(&space.value()?) {
                self.drain_namespace(&space.name).await?;
            }
        }
        Ok(())
    }
}

impl Call {
    fn place(&self) -> (&str, &str) {
        (
            self.target.namespace.as_deref().unwrap_or_default(),
            self.target.name.as_deref().unwrap_or_default(),
        )
    }

    /// Looks at what a write would leave; an error drops the whole write.
    fn admit_change(&self, old: Option<&Stored>, new: &Stored) -> Result<(), ApiError> {
        if self.user.node().is_none() {
            return Ok(());
        }
        let old = old.map(Stored::value).transpose()?;
        authz::admit_change(&self.user, &self.attributes(), old.as_ref(), &new.value()?)
    }

    /// Looks at what a write would grant; an error drops the whole write.
    fn admit_grant(&self, tx: &Tx<'_>, old: Option<&Stored>, new: &Stored) -> Result<(), ApiError> {
        if self.target.kind.group != rbac::GROUP {
            return Ok(());
        }
        let old = old.map(Stored::value).transpose()?;
        grants::admit_grant(&self.user, &self.attributes(), tx.access(), old.as_ref(), &new.value()?)
    }

    fn filter(&self) -> Result<Filter, ApiError> {
        self.query.check_fields(self.target.kind)?;
        Ok(Filter {
            namespace: self.target.namespace.clone(),
            name: self.target.name.clone(),
            labels: self.query.labels.clone(),
            fields: self.query.fields.clone(),
        })
    }

    /// The object in the body, checked against its type, and warnings.
    fn read_object(&self) -> Result<(Value, Vec<String>), ApiError> {
        let mut object = body::decode(&self.headers, &self.body)?;
        body::check_kind(self.target.kind, &object)?;
        let warnings = body::check_fields(self.target.kind, &mut object, self.query.validation)?;
        Ok((object, warnings))
    }

    fn status_only(&self) -> Result<Option<Sub>, ApiError> {
        match self.target.sub {
            None | Some(Sub::Status) => Ok(self.target.sub),
            Some(_) => Err(ApiError::method_not_allowed()),
        }
    }

    fn delete_options(&self) -> Result<Options, ApiError> {
        let mut options = if self.body.is_empty() {
            Options::default()
        } else {
            Options::read(&body::decode(&self.headers, &self.body)?)?
        };
        options.dry_run |= self.query.dry_run;
        options.grace_period_secs = options.grace_period_secs.or(self.query.grace_period_secs);
        Ok(options)
    }
}

fn object_answer(status: StatusCode, renderer: &Renderer, object: &Stored) -> Result<Answer, ApiError> {
    Ok(Answer::new(status, renderer.content_type(), renderer.object(object)?))
}

fn success(status: StatusCode) -> Result<Answer, ApiError> {
    Answer::json(
        status,
        &json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {},
            "status": "Success", "code": status.as_u16(),
        }),
    )
}
