//! Who should have what: nodes, their pods, and what those reference. Watch events in, changes for
//! nodes out. No clock, no I/O; objects are kept once and shared.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::object::{Kind, Stored, significant_change};
use crate::actors::cloud::watch_worker::Event;
use crate::bus::edge_controller::ObjectVersion;
use crate::kube::references::{self, RefKind, Reference};
use crate::model::{NodeName, ObjectKey, operation};

/// Namespace (empty for nodes) and name.
pub type Name = (String, String);

/// Something nodes must learn.
#[derive(Debug, Clone)]
pub struct Change {
    pub nodes: Vec<NodeName>,
    pub operation: &'static str,
    pub key: ObjectKey,
    pub content: Content,
}

/// What travels.
#[derive(Debug, Clone)]
pub enum Content {
    Object(Arc<Value>),
    /// Name, namespace and uid only: the object may live on, but not on this node.
    Skeleton {
        uid: String,
    },
}

#[derive(Debug)]
struct Pod {
    stored: Stored,
    phase: Box<str>,
    node: Option<NodeName>,
    /// What the pod itself names; the account's pull secrets are added when counting.
    refs: BTreeSet<Reference>,
    /// What was counted for `node`.
    counted: BTreeSet<Reference>,
}

/// The whole state of EdgeController's downstream side.
#[derive(Debug, Default)]
pub struct Index {
    pods: HashMap<Name, Pod>,
    pods_of: HashMap<NodeName, BTreeSet<Name>>,
    nodes: HashMap<NodeName, Stored>,
    /// ConfigMaps, secrets and service accounts of the whole API.
    objects: HashMap<Reference, Stored>,
    /// How many pods of each node reference an object.
    followers: HashMap<Reference, BTreeMap<NodeName, usize>>,
    accounts: HashMap<Reference, BTreeSet<Name>>,
    /// Names seen in the list under way, by kind.
    listing: HashMap<Kind, HashSet<Name>>,
    listed: HashSet<Kind>,
}

impl Index {
    /// Has every kind been listed at least once? Before that nothing is known to be surplus.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.listed.contains(kind))
    }

    /// Has `kind` been listed at least once?
    #[must_use]
    pub fn has_listed(&self, kind: Kind) -> bool {
        self.listed.contains(&kind)
    }

    /// Every edge node.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeName> {
        self.nodes.keys()
    }

    /// Takes one event of the watch of `kind`.
    pub fn apply(&mut self, kind: Kind, event: Event) -> Vec<Change> {
        let mut changes = Vec::new();
        match event {
            Event::Listing => {
                self.listing.insert(kind, HashSet::new());
            }
            Event::Applied(object) => {
                let Some((name, stored)) = Stored::read(kind, object) else { return changes };
                if let Some(seen) = self.listing.get_mut(&kind) {
                    seen.insert(name.clone());
                }
                self.put(kind, name, stored, &mut changes);
            }
            Event::Removed(object) => {
                if let Some((name, _)) = Stored::read(kind, object) {
                    self.remove(kind, &name, &mut changes);
                }
            }
            Event::Listed => {
                if let Some(seen) = self.listing.remove(&kind) {
                    for name in self.names(kind).into_iter().filter(|name| !seen.contains(name)) {
                        self.remove(kind, &name, &mut changes);
                    }
                }
                self.listed.insert(kind);
            }
        }
        changes
    }

    /// Everything `node` should hold, each with the version from which on a copy is good enough.
    #[must_use]
    pub fn desired(&self, node: &NodeName) -> Vec<ObjectVersion> {
        let version = |key: ObjectKey, stored: &Stored| ObjectVersion {
            resource: key.into(),
            uid: stored.uid.clone(),
            resource_version: stored.significant_version.clone(),
        };
        let own =
            self.nodes.get(node).map(|stored| version(ObjectKey::cluster("node", node.as_str()), stored));
        let mut refs = BTreeSet::new();
        let mut pods = Vec::new();
        for name in self.pods_of.get(node).into_iter().flatten() {
            if let Some(pod) = self.pods.get(name) {
                refs.extend(&pod.counted);
                pods.push(version(ObjectKey::namespaced(&name.0, "pod", &name.1), &pod.stored));
            }
        }
        let referenced = refs.into_iter().filter_map(|reference| {
            let key = wire_key(reference)?;
            Some(version(key, self.objects.get(reference)?))
        });
        own.into_iter().chain(referenced).chain(pods).collect()
    }

    /// The object `key` if `node` should hold it now.
    #[must_use]
    pub fn desired_object(&self, node: &NodeName, key: &ObjectKey) -> Option<&Stored> {
        match key.kind.as_str() {
            "node" => self.nodes.get(node).filter(|_| key.name() == node.as_str()),
            "pod" => {
                let pod = self.pods.get(&(key.namespace().to_owned(), key.name().to_owned()))?;
                (pod.node.as_ref() == Some(node)).then_some(&pod.stored)
            }
            kind => {
                let kind = if kind == "configmap" { RefKind::ConfigMap } else { RefKind::Secret };
                let reference = Reference::new(kind, key.namespace(), key.name());
                self.objects.get(&reference).filter(|_| self.follows(node, &reference))
            }
        }
    }

    /// The pods of `node`, or of all nodes, each as an update.
    #[must_use]
    pub fn pods_of(&self, node: Option<&NodeName>) -> Vec<Change> {
        let names: Vec<&Name> = match node {
            Some(node) => self.pods_of.get(node).into_iter().flatten().collect(),
            None => self.pods.keys().collect(),
        };
        let bound = names.into_iter().filter_map(|name| {
            let pod = self.pods.get(name)?;
            Some((name, pod, pod.node.clone()?))
        });
        let update = |(name, pod, node): (&Name, &Pod, NodeName)| Change {
            nodes: vec![node],
            operation: operation::UPDATE,
            key: ObjectKey::namespaced(&name.0, "pod", &name.1),
            content: Content::Object(pod.stored.object()),
        };
        bound.map(update).collect()
    }

    /// Namespace and phase of every pod; the phase is empty before somebody reported one.
    pub fn phases(&self) -> impl Iterator<Item = (&str, &str)> {
        self.pods.iter().map(|((namespace, _), pod)| (namespace.as_str(), &*pod.phase))
    }

    /// Does a pod of `node` name this object?
    #[must_use]
    pub fn follows(&self, node: &NodeName, reference: &Reference) -> bool {
        self.followers.get(reference).is_some_and(|nodes| nodes.contains_key(node))
    }

    /// The node a pod is bound to. `None`: the pod is not known (yet).
    #[must_use]
    pub fn node_of_pod(&self, namespace: &str, name: &str) -> Option<(Option<&NodeName>, &Stored)> {
        let pod = self.pods.get(&(namespace.to_owned(), name.to_owned()))?;
        Some((pod.node.as_ref(), &pod.stored))
    }

    /// Does `node` run a pod in `namespace`?
    #[must_use]
    pub fn runs_in(&self, node: &NodeName, namespace: &str) -> bool {
        self.pods_of.get(node).is_some_and(|pods| pods.iter().any(|(ns, _)| ns == namespace))
    }

    fn names(&self, kind: Kind) -> Vec<Name> {
        match kind {
            Kind::Pod => self.pods.keys().cloned().collect(),
            Kind::Node => self.nodes.keys().map(|node| (String::new(), node.as_str().to_owned())).collect(),
            Kind::ConfigMap | Kind::Secret | Kind::ServiceAccount => {
                let of_kind =
                    self.objects.keys().filter(|reference| Some(reference.kind) == kind.reference());
                of_kind.map(|reference| (reference.namespace.clone(), reference.name.clone())).collect()
            }
        }
    }

    fn put(&mut self, kind: Kind, name: Name, stored: Stored, changes: &mut Vec<Change>) {
        match kind {
            Kind::Pod => self.put_pod(name, stored, changes),
            Kind::Node => self.put_node(&name, stored, changes),
            Kind::ConfigMap | Kind::Secret | Kind::ServiceAccount => {
                self.put_object(kind, &name, stored, changes);
            }
        }
    }

    fn remove(&mut self, kind: Kind, name: &Name, changes: &mut Vec<Change>) {
        match kind {
            Kind::Pod => self.remove_pod(name, changes),
            Kind::Node => {
                let Ok(node) = NodeName::parse(&name.1) else { return };
                if self.nodes.remove(&node).is_some() {
                    let key = ObjectKey::cluster("node", &name.1);
                    let content = Content::Skeleton { uid: String::new() };
                    changes.push(Change { nodes: vec![node], operation: operation::DELETE, key, content });
                }
            }
            Kind::ConfigMap | Kind::Secret | Kind::ServiceAccount => {
                let Some(ref_kind) = kind.reference() else { return };
                let reference = Reference::new(ref_kind, &name.0, &name.1);
                let Some(old) = self.objects.remove(&reference) else { return };
                if kind == Kind::ServiceAccount {
                    return self.recount_account(&reference, changes);
                }
                self.tell_followers(&reference, operation::DELETE, &old, changes);
            }
        }
    }

    fn put_node(&mut self, name: &Name, mut stored: Stored, changes: &mut Vec<Change>) {
        let Ok(node) = NodeName::parse(&name.1) else { return };
        let changed = stored.follow_on(self.nodes.get(&node), significant_change);
        let object = changed.then(|| stored.object());
        self.nodes.insert(node.clone(), stored);
        if let Some(object) = object {
            let key = ObjectKey::cluster("node", &name.1);
            let content = Content::Object(object);
            changes.push(Change { nodes: vec![node], operation: operation::UPDATE, key, content });
        }
    }

    fn put_object(&mut self, kind: Kind, name: &Name, mut stored: Stored, changes: &mut Vec<Change>) {
        let Some(ref_kind) = kind.reference() else { return };
        let reference = Reference::new(ref_kind, &name.0, &name.1);
        let old = self.objects.get(&reference);
        let re_created = old.filter(|old| old.uid != stored.uid).cloned();
        let known = old.is_some() && re_created.is_none();
        let changed = stored.follow_on(old, |old, new| old.resource_version != new.resource_version);
        self.objects.insert(reference.clone(), stored.clone());
        if !changed {
            return;
        }
        if kind == Kind::ServiceAccount {
            return self.recount_account(&reference, changes);
        }
        if let Some(old) = re_created {
            self.tell_followers(&reference, operation::DELETE, &old, changes);
        }
        let insert = kind == Kind::ConfigMap && !known;
        let op = if insert { operation::INSERT } else { operation::UPDATE };
        self.tell_followers(&reference, op, &stored, changes);
    }

    fn put_pod(&mut self, name: Name, mut stored: Stored, changes: &mut Vec<Change>) {
        let object = stored.object();
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let node = NodeName::parse(text("/spec/nodeName")).ok();
        let phase = text("/status/phase").into();
        let old = self.pods.get(&name);
        if old.is_some_and(|old| old.stored.uid != stored.uid || (old.node.is_some() && old.node != node)) {
            self.remove_pod(&name, changes);
        }
        let old = self.pods.remove(&name);
        let was_there = old.as_ref().is_some_and(|old| old.node == node);
        let changed = stored.follow_on(old.as_ref().map(|old| &old.stored), significant_change);
        let (refs, counted) = match old {
            Some(old) if !changed => (old.refs, old.counted),
            Some(old) => (references::of_pod(&object), old.counted),
            None => (references::of_pod(&object), BTreeSet::new()),
        };
        let terminating = stored.is_terminating();
        self.pods.insert(name.clone(), Pod { stored, phase, node: node.clone(), refs, counted });
        let Some(node) = node else { return };
        self.pods_of.entry(node.clone()).or_default().insert(name.clone());
        if !changed && was_there {
            return;
        }
        // What the pod needs travels before it; what it no longer needs goes after it.
        let insert = !was_there && !terminating;
        let dropped = self.recount_pod(&name, insert, changes);
        changes.push(Change {
            nodes: vec![node.clone()],
            operation: if insert { operation::INSERT } else { operation::UPDATE },
            key: ObjectKey::namespaced(&name.0, "pod", &name.1),
            content: Content::Object(object),
        });
        self.drop_references(&node, dropped, changes);
    }

    fn remove_pod(&mut self, name: &Name, changes: &mut Vec<Change>) {
        let Some(pod) = self.pods.remove(name) else { return };
        for reference in pod.refs.iter().filter(|it| it.kind == RefKind::ServiceAccount) {
            if let Some(users) = self.accounts.get_mut(reference) {
                users.remove(name);
                if users.is_empty() {
                    self.accounts.remove(reference);
                }
            }
        }
        let Some(node) = pod.node else { return };
        if let Some(pods) = self.pods_of.get_mut(&node) {
            pods.remove(name);
            if pods.is_empty() {
                self.pods_of.remove(&node);
            }
        }
        changes.push(Change {
            nodes: vec![node.clone()],
            operation: operation::DELETE,
            key: ObjectKey::namespaced(&name.0, "pod", &name.1),
            content: Content::Object(pod.stored.object()),
        });
        self.drop_references(&node, pod.counted, changes);
    }

    /// Counts what the pod references now; new ones are sent. Returns what it no longer does.
    ///
    /// A pod that `starts` brings everything along, also what others at its node have already: that copy can be older
    /// than the pod where the session is young and not compared yet, and what a container gets as environment stays.
    fn recount_pod(&mut self, name: &Name, starts: bool, changes: &mut Vec<Change>) -> BTreeSet<Reference> {
        let Some(pod) = self.pods.get_mut(name) else { return BTreeSet::new() };
        let Some(node) = pod.node.clone() else { return BTreeSet::new() };
        let mut wanted = pod.refs.clone();
        for account in pod.refs.iter().filter(|it| it.kind == RefKind::ServiceAccount) {
            self.accounts.entry(account.clone()).or_default().insert(name.clone());
            if let Some(account) = self.objects.get(account) {
                wanted.extend(references::of_service_account(&account.object()));
            }
        }
        let added: Vec<Reference> = wanted.difference(&pod.counted).cloned().collect();
        let dropped = pod.counted.difference(&wanted).cloned().collect();
        pod.counted = wanted;
        for reference in added {
            let count = self.followers.entry(reference.clone()).or_default().entry(node.clone()).or_default();
            *count += 1;
            let first = *count == 1;
            if !first && !starts {
                continue;
            }
            let (Some(key), Some(stored)) = (wire_key(&reference), self.objects.get(&reference)) else {
                continue;
            };
            let insert = first && reference.kind == RefKind::ConfigMap;
            changes.push(Change {
                nodes: vec![node.clone()],
                operation: if insert { operation::INSERT } else { operation::UPDATE },
                key,
                content: Content::Object(stored.object()),
            });
        }
        dropped
    }

    fn recount_account(&mut self, account: &Reference, changes: &mut Vec<Change>) {
        let users: Vec<Name> = self.accounts.get(account).into_iter().flatten().cloned().collect();
        for name in users {
            let dropped = self.recount_pod(&name, false, changes);
            let node = self.pods.get(&name).and_then(|pod| pod.node.clone());
            if let Some(node) = node {
                self.drop_references(&node, dropped, changes);
            }
        }
    }

    /// One pod of `node` less uses these; what nobody there uses leaves the node.
    fn drop_references(&mut self, node: &NodeName, dropped: BTreeSet<Reference>, changes: &mut Vec<Change>) {
        for reference in dropped {
            let Some(nodes) = self.followers.get_mut(&reference) else { continue };
            let Some(count) = nodes.get_mut(node) else { continue };
            *count = count.saturating_sub(1);
            if *count > 0 {
                continue;
            }
            nodes.remove(node);
            if nodes.is_empty() {
                self.followers.remove(&reference);
            }
            if let (Some(key), Some(stored)) = (wire_key(&reference), self.objects.get(&reference)) {
                let content = Content::Skeleton { uid: stored.uid.clone() };
                changes.push(Change {
                    nodes: vec![node.clone()],
                    operation: operation::DELETE,
                    key,
                    content,
                });
            }
        }
    }

    fn tell_followers(
        &self,
        reference: &Reference,
        operation: &'static str,
        stored: &Stored,
        changes: &mut Vec<Change>,
    ) {
        let nodes: Vec<NodeName> =
            self.followers.get(reference).into_iter().flat_map(BTreeMap::keys).cloned().collect();
        if let Some(key) = wire_key(reference)
            && !nodes.is_empty()
        {
            let content = Content::Object(stored.object());
            changes.push(Change { nodes, operation, key, content });
        }
    }
}

/// The wire key of what is sent to edges; accounts and claims are not.
fn wire_key(reference: &Reference) -> Option<ObjectKey> {
    let kind = match reference.kind {
        RefKind::ConfigMap => "configmap",
        RefKind::Secret => "secret",
        RefKind::ServiceAccount | RefKind::PersistentVolumeClaim => return None,
    };
    Some(ObjectKey::namespaced(&reference.namespace, kind, &reference.name))
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
