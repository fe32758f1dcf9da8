//! One request's view of the registry while it decides: reads see its own writes, nothing leaves
//! before [`Tx::finish`]. Pure; runs under the registry's lock, so it is short.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value;

use super::errors::ApiError;
use super::kinds::Kind;
use super::object::{self, Stored};
use super::registry::{Change, Registry};
use crate::kube::rbac::Access;

/// What a decision may know besides the objects.
#[derive(Debug, Clone)]
pub struct World {
    pub now: Timestamp,
    /// Goes into every namespace as `kube-root-ca.crt`.
    pub ca_pem: Arc<str>,
}

/// See the module.
#[derive(Debug)]
pub struct Tx<'a> {
    registry: &'a Registry,
    pub world: World,
    changes: Vec<Arc<Change>>,
    version: u64,
}

impl<'a> Tx<'a> {
    #[must_use]
    pub fn new(registry: &'a Registry, world: World) -> Self {
        Self { registry, world, changes: Vec::new(), version: registry.assigned() }
    }

    /// Roles and bindings that readers see.
    #[must_use]
    pub fn access(&self) -> &'a Access {
        self.registry.access()
    }

    /// The object as this request sees it.
    #[must_use]
    pub fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Stored>> {
        let own = self.changes.iter().rev().find(|change| is_at(change, kind, namespace, name));
        match own {
            Some(change) => (!change.removed).then(|| Arc::clone(&change.after)),
            None => self.registry.latest(kind, namespace, name),
        }
    }

    /// As [`Tx::get`].
    ///
    /// # Errors
    /// 404.
    pub fn require(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Arc<Stored>, ApiError> {
        self.get(kind, namespace, name).ok_or_else(|| ApiError::not_found(kind, name))
    }

    /// The objects of a kind in a namespace, as this request sees them.
    #[must_use]
    pub fn list(&self, kind: &Kind, namespace: &str) -> Vec<Arc<Stored>> {
        let mut found = self.registry.latest_in(kind, namespace);
        if !self.changes.is_empty() {
            found.retain(|object| {
                !self.changes.iter().any(|change| is_at(change, kind, namespace, &object.name))
            });
            let mut seen: Vec<Arc<Stored>> = Vec::new();
            for change in self.changes.iter().rev() {
                let mine = change.kind.id == kind.id && &*change.after.namespace == namespace;
                if mine && !change.removed && !seen.iter().any(|object| object.name == change.after.name) {
                    seen.push(Arc::clone(&change.after));
                }
            }
            seen.retain(|object| self.get(kind, namespace, &object.name).is_some());
            found.extend(seen);
        }
        found
    }

    /// Has the namespace objects of this kind, as this request sees them?
    #[must_use]
    pub fn is_empty(&self, kind: &Kind, namespace: &str) -> bool {
        let mut count = self.registry.latest_count(kind, namespace);
        for (position, change) in self.changes.iter().enumerate() {
            let name = &change.after.name;
            // Only the newest change of an object counts.
            let newer = self.changes.iter().skip(position + 1).any(|c| is_at(c, kind, namespace, name));
            if newer || !is_at(change, kind, namespace, name) {
                continue;
            }
            let was = self.registry.latest(kind, namespace, name).is_some();
            match (was, change.removed) {
                (true, true) => count = count.saturating_sub(1),
                (false, false) => count += 1,
                _ => {}
            }
        }
        count == 0
    }

    /// Writes an object under its own namespace and name, with the next resourceVersion.
    /// An object that would not change is not written.
    ///
    /// # Errors
    /// 500 if it does not serialize.
    pub fn put(&mut self, kind: &'static Kind, mut value: Value) -> Result<Arc<Stored>, ApiError> {
        let namespace = object::text(&value, "namespace").to_owned();
        let name = object::text(&value, "name").to_owned();
        let before = self.get(kind, &namespace, &name);
        if let Some(before) = &before {
            let metadata = object::metadata(&mut value);
            metadata.insert("resourceVersion".into(), before.version.to_string().into());
            if before.value()? == value {
                return Ok(Arc::clone(before));
            }
        }
        self.push(kind, before, value, false)
    }

    /// Removes an object; the answer is its last state with the version of the removal.
    ///
    /// # Errors
    /// 500 if it does not serialize.
    pub fn remove(&mut self, kind: &'static Kind, before: &Arc<Stored>) -> Result<Arc<Stored>, ApiError> {
        let value = before.value()?;
        self.push(kind, Some(Arc::clone(before)), value, true)
    }

    fn push(
        &mut self,
        kind: &'static Kind,
        before: Option<Arc<Stored>>,
        mut value: Value,
        removed: bool,
    ) -> Result<Arc<Stored>, ApiError> {
        let version = self.version + 1;
        object::metadata(&mut value).insert("resourceVersion".into(), version.to_string().into());
        let after = Arc::new(Stored::new(kind, version, self.world.now.as_second(), &value)?);
        self.version = version;
        self.changes.push(Arc::new(Change { kind, before, after: Arc::clone(&after), removed }));
        Ok(after)
    }

    /// What is to be made durable, in order.
    #[must_use]
    pub fn finish(self) -> Vec<Arc<Change>> {
        self.changes
    }
}

fn is_at(change: &Change, kind: &Kind, namespace: &str, name: &str) -> bool {
    change.kind.id == kind.id && &*change.after.namespace == namespace && &*change.after.name == name
}
