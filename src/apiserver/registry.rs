//! Every object in memory: what readers see, what writers have staged, and the recent changes.
//!
//! Pure: no clock, no I/O. A write is staged first; the committer makes it durable and then
//! [`Registry::applied`] makes it visible. Readers and watchers therefore never see a write that a
//! power cut could take back, while writers check against the staged state, so that two writes in
//! flight cannot overwrite each other.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::kinds::{KINDS, Kind, ROLES};
use super::object::Stored;
use crate::kube::rbac::Access;

/// Recent changes kept per kind for watches to resume from.
pub const HISTORY_CHANGES: usize = 4096;
/// Bytes of objects the changes of one kind may hold.
pub const HISTORY_BYTES: usize = 2 * 1024 * 1024;
/// Seconds a change is kept once a newer one of its kind is that much younger; what etcd keeps by kube-apiserver's
/// defaults (`--etcd-compaction-interval`). Without it a kind that changes seldom would grow for days.
pub const HISTORY_SECS: i64 = 300;
/// What a change costs beside its object's bytes: names, selectors, links.
const CHANGE_BYTES: usize = 256;
/// Requests whose writes wait for the disk. More are refused.
pub const MAX_STAGED: usize = 8192;

/// One change of one object.
#[derive(Debug)]
pub struct Change {
    pub kind: &'static Kind,
    pub before: Option<Arc<Stored>>,
    /// The new object; for a removal the last one, with the version of the removal.
    pub after: Arc<Stored>,
    pub removed: bool,
}

/// Why staged writes were lost.
pub type CommitResult = Result<(), Arc<str>>;

/// The writes of one request on their way to the disk.
#[derive(Debug)]
pub struct Staged {
    pub changes: Vec<Arc<Change>>,
    pub done: oneshot::Sender<CommitResult>,
}

/// The changes a watch asked for are no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooOld {
    /// The oldest version a watch can start from.
    pub oldest: u64,
}

/// What objects were before they changed, by namespace and name; `None`: not there.
pub type Undo = BTreeMap<(Arc<str>, Arc<str>), Option<Arc<Stored>>>;

type Objects = BTreeMap<Arc<str>, BTreeMap<Arc<str>, Arc<Stored>>>;

#[derive(Debug, Default)]
struct Shelf {
    objects: Objects,
    count: usize,
    history: VecDeque<Arc<Change>>,
    history_bytes: usize,
    /// Every change after this version is in `history`.
    floor: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Registry {
    shelves: Vec<Shelf>,
    /// Newest version that readers see.
    visible: u64,
    /// Newest version given out.
    assigned: u64,
    staged: Vec<Staged>,
    in_flight: bool,
    /// Newest staged state of objects with staged writes.
    pending: HashMap<String, Arc<Change>>,
    /// Roles and bindings that readers see.
    access: Access,
}

impl Registry {
    /// A registry with these objects, the newest version being `version`.
    #[must_use]
    pub fn new(version: u64, objects: impl IntoIterator<Item = (&'static Kind, Stored)>) -> Self {
        let mut shelves: Vec<Shelf> = KINDS.iter().map(|_| Shelf::default()).collect();
        let mut visible = version;
        let mut access = Access::default();
        for (kind, object) in objects {
            visible = visible.max(object.version);
            follow(&mut access, kind, &object, false);
            if let Some(shelf) = shelves.get_mut(kind.id) {
                shelf.insert(Arc::new(object));
            }
        }
        for shelf in &mut shelves {
            shelf.floor = visible;
        }
        Self {
            shelves,
            visible,
            assigned: visible,
            staged: Vec::new(),
            in_flight: false,
            pending: HashMap::new(),
            access,
        }
    }

    /// Roles and bindings that readers see.
    #[must_use]
    pub fn access(&self) -> &Access {
        &self.access
    }

    /// The newest version that readers see.
    #[must_use]
    pub fn visible(&self) -> u64 {
        self.visible
    }

    /// The newest version given out.
    #[must_use]
    pub fn assigned(&self) -> u64 {
        self.assigned
    }

    /// Objects of a kind.
    #[must_use]
    pub fn count(&self, kind: &Kind) -> usize {
        self.shelves.get(kind.id).map_or(0, |shelf| shelf.count)
    }

    /// What readers see.
    #[must_use]
    pub fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Option<&Arc<Stored>> {
        self.shelves.get(kind.id)?.objects.get(namespace)?.get(name)
    }

    /// What the next write changes: the staged object if there is one.
    #[must_use]
    pub fn latest(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Stored>> {
        if !self.pending.is_empty()
            && let Some(change) = self.pending.get(&pending_key(kind, namespace, name))
        {
            return (!change.removed).then(|| Arc::clone(&change.after));
        }
        self.get(kind, namespace, name).map(Arc::clone)
    }

    /// Visible objects in the order of namespace and name, strictly after `after`.
    pub fn list<'a>(
        &'a self,
        kind: &Kind,
        namespace: Option<&'a str>,
        after: Option<(&'a str, &'a str)>,
    ) -> impl Iterator<Item = &'a Arc<Stored>> {
        let from = namespace.or(after.map(|(namespace, _)| namespace)).unwrap_or("");
        let to = namespace.map_or(Bound::Unbounded, Bound::Included);
        let shelf = self.shelves.get(kind.id).map(|shelf| &shelf.objects);
        shelf
            .into_iter()
            .flat_map(move |objects| objects.range::<str, _>((Bound::Included(from), to)))
            .flat_map(move |(space, names)| {
                let start = match after {
                    Some((at, name)) if at == &**space => Bound::Excluded(name),
                    _ => Bound::Unbounded,
                };
                names.range::<str, _>((start, Bound::Unbounded)).map(|(_, object)| object)
            })
    }

    /// Objects of a kind in a namespace as the next write sees them.
    #[must_use]
    pub fn latest_in(&self, kind: &Kind, namespace: &str) -> Vec<Arc<Stored>> {
        let mut found: BTreeMap<Arc<str>, Arc<Stored>> = self
            .list(kind, Some(namespace), None)
            .map(|object| (Arc::clone(&object.name), Arc::clone(object)))
            .collect();
        for change in self.pending.values() {
            if change.kind.id == kind.id && &*change.after.namespace == namespace {
                if change.removed {
                    found.remove(&change.after.name);
                } else {
                    found.insert(Arc::clone(&change.after.name), Arc::clone(&change.after));
                }
            }
        }
        found.into_values().collect()
    }

    /// How many objects of a kind a namespace has as the next write sees it.
    #[must_use]
    pub fn latest_count(&self, kind: &Kind, namespace: &str) -> usize {
        let visible =
            self.shelves.get(kind.id).and_then(|shelf| shelf.objects.get(namespace)).map_or(0, BTreeMap::len);
        let mut count = visible;
        for change in self.pending.values() {
            if change.kind.id == kind.id && &*change.after.namespace == namespace {
                let shown = self.get(kind, namespace, &change.after.name).is_some();
                match (shown, change.removed) {
                    (true, true) => count = count.saturating_sub(1),
                    (false, false) => count += 1,
                    _ => {}
                }
            }
        }
        count
    }

    /// Objects of a kind that changed after `version`, as they were then (`None`: not there).
    ///
    /// # Errors
    /// [`TooOld`] when the history does not reach back.
    pub fn undo_to(&self, kind: &Kind, version: u64) -> Result<Undo, TooOld> {
        let mut undo = BTreeMap::new();
        for change in self.changes_since(kind, version, usize::MAX)? {
            let key = (Arc::clone(&change.after.namespace), Arc::clone(&change.after.name));
            undo.entry(key).or_insert_with(|| change.before.clone());
        }
        Ok(undo)
    }

    /// Changes after `version`, oldest first, at most `max`.
    ///
    /// # Errors
    /// [`TooOld`] when some of them are no longer kept.
    pub fn changes_since(&self, kind: &Kind, version: u64, max: usize) -> Result<Vec<Arc<Change>>, TooOld> {
        let Some(shelf) = self.shelves.get(kind.id) else { return Ok(Vec::new()) };
        if version < shelf.floor {
            return Err(TooOld { oldest: shelf.floor });
        }
        let start = shelf.history.partition_point(|change| change.after.version <= version);
        Ok(shelf.history.iter().skip(start).take(max).cloned().collect())
    }

    /// Takes changes whose versions follow [`Registry::assigned`]. `None`: nothing to wait for.
    ///
    /// # Errors
    /// [`Overloaded`] when too many requests wait for the disk.
    pub fn stage(
        &mut self,
        changes: Vec<Arc<Change>>,
    ) -> Result<Option<oneshot::Receiver<CommitResult>>, Overloaded> {
        if changes.is_empty() && self.staged.is_empty() && !self.in_flight {
            return Ok(None);
        }
        if self.staged.len() >= MAX_STAGED {
            return Err(Overloaded);
        }
        for change in &changes {
            self.assigned = self.assigned.max(change.after.version);
            let key = pending_key(change.kind, &change.after.namespace, &change.after.name);
            self.pending.insert(key, Arc::clone(change));
        }
        let (done, wait) = oneshot::channel();
        self.staged.push(Staged { changes, done });
        Ok(Some(wait))
    }

    /// Everything staged, for one commit. Until [`Registry::applied`] or [`Registry::failed`] the
    /// caller owes an answer.
    pub fn take_staged(&mut self) -> Vec<Staged> {
        self.in_flight = !self.staged.is_empty();
        std::mem::take(&mut self.staged)
    }

    /// Makes durable changes visible.
    pub fn applied(&mut self, committed: &[Staged]) {
        self.in_flight = false;
        for change in committed.iter().flat_map(|staged| &staged.changes) {
            self.visible = self.visible.max(change.after.version);
            let key = pending_key(change.kind, &change.after.namespace, &change.after.name);
            if self.pending.get(&key).is_some_and(|newest| newest.after.version == change.after.version) {
                self.pending.remove(&key);
            }
            follow(&mut self.access, change.kind, &change.after, change.removed);
            if let Some(shelf) = self.shelves.get_mut(change.kind.id) {
                shelf.apply(Arc::clone(change));
            }
        }
    }

    /// Drops everything staged: what came after a lost write was checked against it.
    /// Returns the requests that were not part of the commit, to be answered too.
    pub fn failed(&mut self) -> Vec<Staged> {
        self.in_flight = false;
        self.pending.clear();
        std::mem::take(&mut self.staged)
    }
}

/// Too many writes wait for the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overloaded;

impl Shelf {
    fn insert(&mut self, object: Arc<Stored>) {
        let names = self.objects.entry(Arc::clone(&object.namespace)).or_default();
        if names.insert(Arc::clone(&object.name), object).is_none() {
            self.count += 1;
        }
    }

    fn remove(&mut self, namespace: &str, name: &str) {
        if let Some(names) = self.objects.get_mut(namespace) {
            if names.remove(name).is_some() {
                self.count -= 1;
            }
            if names.is_empty() {
                self.objects.remove(namespace);
            }
        }
    }

    fn apply(&mut self, change: Arc<Change>) {
        if change.removed {
            self.remove(&change.after.namespace, &change.after.name);
        } else {
            self.insert(Arc::clone(&change.after));
        }
        self.history_bytes += cost(&change);
        let due = change.after.written_secs.saturating_sub(HISTORY_SECS);
        self.history.push_back(change);
        while let Some(oldest) = self.history.front()
            && (self.history.len() > HISTORY_CHANGES
                || self.history_bytes > HISTORY_BYTES
                || oldest.after.written_secs < due)
        {
            self.history_bytes = self.history_bytes.saturating_sub(cost(oldest));
            self.floor = oldest.after.version;
            self.history.pop_front();
        }
        if self.history.capacity() > 4 * self.history.len() + 64 {
            self.history.shrink_to(2 * self.history.len());
        }
    }
}

fn cost(change: &Change) -> usize {
    // What is removed is kept twice: as it was, and as it is told. Otherwise the change before has what was.
    let was = change.before.as_ref().filter(|_| change.removed).map_or(0, |before| before.bytes.len());
    CHANGE_BYTES + change.after.bytes.len() + was
}

/// Keeps the index of rights in step with the objects. What cannot be read gives no rights.
fn follow(access: &mut Access, kind: &Kind, object: &Stored, removed: bool) {
    if kind.id < ROLES || kind.group != crate::kube::rbac::GROUP {
        return;
    }
    match object.value().ok().filter(|_| !removed) {
        Some(value) => access.put(kind.kind, &value),
        None => access.remove(kind.kind, &object.namespace, &object.name),
    }
}

fn pending_key(kind: &Kind, namespace: &str, name: &str) -> String {
    format!("{}/{namespace}/{name}", kind.id)
}
