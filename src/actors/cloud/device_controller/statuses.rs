//! The DeviceStatus of each device: made with it, gone with it, and one write in flight for each at
//! most. Reports that come meanwhile are joined into the next one: the newest wins, and a flood
//! costs no memory. No clock, no I/O.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::index::Owner;
use super::status::Status;
use super::stored::{Kind, meta_text, name_of};
use crate::actors::cloud::watch_worker::Event;
use crate::model::device::API_VERSION;
use crate::model::{DeviceId, NodeName};
use crate::supervise::{doubled, spread};

/// Calls of the API at once, all devices together.
const CALLS: usize = 64;
/// Reports of one device that wait to be confirmed. Beyond it the oldest are forgotten: their edge
/// sends them again, and then they are confirmed at once.
const WAITERS: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(20);

/// A report to be confirmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiter {
    pub node: NodeName,
    pub msg_id: String,
}

/// One call about the DeviceStatus of a device.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    Get,
    Create(Value),
    /// A merge patch; it names the version it is made for.
    Patch(Value),
    /// Only the object with this uid.
    Delete(String),
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The object as it is now.
    Is(Value),
    NotFound,
    /// It exists already, or somebody else changed it.
    Conflict,
    /// The same call can never succeed.
    Refused(String),
    Failed,
}

/// What the shell must do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    Call(DeviceId, Call),
    Confirm(Vec<Waiter>),
    Refuse(Vec<Waiter>, String),
    /// The API has what came since then.
    Written(Instant),
    /// Call [`Statuses::rested`] after this pause.
    Rest(DeviceId, Duration),
}

#[derive(Debug, Default)]
struct Entry {
    owner: Option<(String, Arc<BTreeSet<String>>)>,
    held: Option<Held>,
    /// Said and in no call yet.
    said: Said,
    flying: Option<Flying>,
    /// What is known may be wrong: look first.
    doubtful: bool,
    failures: u32,
    resting: bool,
    /// Stands in `Statuses::ready`.
    queued: bool,
}

/// Reports, joined.
#[derive(Debug, Default)]
struct Said {
    status: Status,
    waiting: VecDeque<Waiter>,
    /// Arrival of the first.
    since: Option<Instant>,
}

impl Said {
    /// Puts `older` in front.
    fn follow(&mut self, older: Self) {
        self.status.join(&older.status);
        self.since = older.since.or(self.since);
        let newer = std::mem::replace(&mut self.waiting, older.waiting);
        self.waiting.extend(newer);
        while self.waiting.len() > WAITERS {
            self.waiting.pop_front();
        }
    }
}

/// The DeviceStatus in the API, as last heard.
#[derive(Debug)]
struct Held {
    uid: String,
    version: String,
    /// uid of the Device that controls it.
    owner: Option<String>,
    status: Status,
}

impl Held {
    fn read(object: &Value) -> Self {
        let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        let mut devices = owners
            .into_iter()
            .flatten()
            .filter(|owner| owner.get("kind").and_then(Value::as_str) == Some(Kind::Device.name()));
        let owner = devices.next().and_then(|owner| owner.get("uid")?.as_str().map(str::to_owned));
        Self {
            uid: meta_text(object, "uid").to_owned(),
            version: meta_text(object, "resourceVersion").to_owned(),
            owner,
            status: Status::read(object),
        }
    }

    /// KubeEdge needs versions to be decimal numbers; anything else counts as newer.
    fn is_newer_than(&self, old: &Self) -> bool {
        let number = |held: &Self| held.version.parse::<u64>().ok();
        match (number(self), number(old)) {
            (Some(new), Some(old_version)) if self.uid == old.uid => new > old_version,
            _ => true,
        }
    }
}

#[derive(Debug)]
struct Flying {
    said: Said,
    /// uid of the Device it was made for.
    owner: Option<String>,
    /// What the API has when the call succeeds.
    target: Status,
    is_delete: bool,
    writes: bool,
}

/// All DeviceStatuses.
#[derive(Debug, Default)]
pub struct Statuses {
    entries: HashMap<DeviceId, Entry>,
    ready: VecDeque<DeviceId>,
    calls: usize,
    /// Names seen in the list under way.
    listing: Option<HashSet<DeviceId>>,
    listed: bool,
    /// Devices are listed too: from now on calls are made.
    active: bool,
}

impl Statuses {
    /// Has the API been listed once?
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// Everything is listed: what is missing is made, what is left over goes.
    pub fn activate(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.active = true;
        let all: Vec<DeviceId> = self.entries.keys().cloned().collect();
        all.iter().for_each(|id| self.step(id, &mut effects));
        effects
    }

    /// A Device is there, or gone.
    pub fn own(&mut self, owner: Owner) -> Vec<Effect> {
        let mut effects = Vec::new();
        let (id, owner) = match owner {
            Owner::Is { device, uid, properties } => (device, Some((uid, properties))),
            Owner::Gone(device) => (device, None),
        };
        let entry = self.entries.entry(id.clone()).or_default();
        let uid = owner.as_ref().map(|(uid, _)| uid.as_str());
        if entry.owner.is_some() && entry.owner_uid() != uid {
            // Said about another device. If that is gone, nobody waits for anything any more.
            let said = std::mem::take(&mut entry.said);
            if owner.is_none() && !said.waiting.is_empty() {
                effects.push(Effect::Confirm(said.waiting.into()));
            }
        }
        entry.owner = owner;
        self.step(&id, &mut effects);
        effects
    }

    /// What the API has from after `limit_ms` gives way to the next report.
    pub fn doubt_after(&mut self, id: &DeviceId, limit_ms: i64) {
        if let Some(held) = self.entries.get_mut(id).and_then(|entry| entry.held.as_mut()) {
            held.status.doubt_after(limit_ms);
        }
    }

    /// A report of the device's node. Returns how many properties the device does not have.
    pub fn report(
        &mut self,
        id: &DeviceId,
        mut status: Status,
        waiter: Waiter,
        now: Instant,
    ) -> (usize, Vec<Effect>) {
        let mut effects = Vec::new();
        let Some(entry) = self.entries.get_mut(id) else { return (0, effects) };
        let Some((_, properties)) = &entry.owner else { return (0, effects) };
        let foreign = status.keep_only(properties);
        let mut newer = std::mem::take(&mut entry.said);
        newer.status.join(&status);
        newer.since = newer.since.or(Some(now));
        if newer.waiting.len() >= WAITERS {
            newer.waiting.pop_front();
        }
        newer.waiting.push_back(waiter);
        entry.said = newer;
        self.step(id, &mut effects);
        (foreign, effects)
    }

    /// An event of the watch of DeviceStatuses.
    pub fn apply(&mut self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        let id = |object: &Value| name_of(object).map(|(namespace, name)| DeviceId::new(namespace, name));
        match event {
            Event::Listing => self.listing = Some(HashSet::new()),
            Event::Applied(object) => {
                let Some(id) = id(&object) else { return effects };
                if let Some(seen) = &mut self.listing {
                    seen.insert(id.clone());
                }
                let entry = self.entries.entry(id.clone()).or_default();
                entry.hear(Held::read(&object));
                self.step(&id, &mut effects);
            }
            Event::Removed(object) => {
                let (Some(id), uid) = (id(&object), meta_text(&object, "uid")) else { return effects };
                if let Some(entry) = self.entries.get_mut(&id)
                    && entry.held.as_ref().is_some_and(|held| held.uid == uid)
                {
                    entry.lose();
                    self.step(&id, &mut effects);
                }
            }
            Event::Listed => {
                let seen = self.listing.take().unwrap_or_default();
                let gone = |(id, entry): (&DeviceId, &Entry)| {
                    (entry.held.is_some() && !seen.contains(id)).then(|| id.clone())
                };
                let gone: Vec<DeviceId> = self.entries.iter().filter_map(gone).collect();
                for id in gone {
                    if let Some(entry) = self.entries.get_mut(&id) {
                        entry.lose();
                    }
                    self.step(&id, &mut effects);
                }
                self.listed = true;
            }
        }
        effects
    }

    /// A call has ended. `chance` is 0.0 to 1.0, for the pause before another try.
    pub fn done(&mut self, id: &DeviceId, outcome: Outcome, chance: f64) -> Vec<Effect> {
        let mut effects = Vec::new();
        self.calls = self.calls.saturating_sub(1);
        if let Some(entry) = self.entries.get_mut(id) {
            entry.land(id, outcome, chance, &mut effects);
        }
        self.step(id, &mut effects);
        while self.calls < CALLS {
            let Some(next) = self.ready.pop_front() else { break };
            if let Some(entry) = self.entries.get_mut(&next) {
                entry.queued = false;
            }
            self.step(&next, &mut effects);
        }
        effects
    }

    /// The pause of a device is over.
    pub fn rested(&mut self, id: &DeviceId) -> Vec<Effect> {
        let mut effects = Vec::new();
        if let Some(entry) = self.entries.get_mut(id) {
            entry.resting = false;
        }
        self.step(id, &mut effects);
        effects
    }

    fn step(&mut self, id: &DeviceId, effects: &mut Vec<Effect>) {
        let Some(entry) = self.entries.get_mut(id).filter(|_| self.active) else { return };
        if entry.flying.is_some() || entry.resting || entry.queued {
            return;
        }
        let Some((call, target)) = entry.next(id) else {
            let said = std::mem::take(&mut entry.said);
            if !said.waiting.is_empty() {
                effects.push(Effect::Confirm(said.waiting.into()));
            }
            if entry.owner.is_none() && entry.held.is_none() {
                self.entries.remove(id);
            }
            return;
        };
        if self.calls >= CALLS {
            entry.queued = true;
            self.ready.push_back(id.clone());
            return;
        }
        self.calls += 1;
        let writes = matches!(call, Call::Create(_) | Call::Patch(_));
        let is_delete = matches!(call, Call::Delete(_));
        let said = if writes { std::mem::take(&mut entry.said) } else { Said::default() };
        let owner = entry.owner_uid().map(str::to_owned);
        entry.flying = Some(Flying { said, owner, target, is_delete, writes });
        effects.push(Effect::Call(id.clone(), call));
    }
}

impl Entry {
    fn owner_uid(&self) -> Option<&str> {
        self.owner.as_ref().map(|(uid, _)| uid.as_str())
    }

    /// What must be done now, and what the API has then.
    fn next(&mut self, id: &DeviceId) -> Option<(Call, Status)> {
        if self.doubtful {
            return Some((Call::Get, Status::default()));
        }
        let Some((uid, properties)) = &self.owner else {
            // One without an owner was made by hand: it is not ours.
            let held = self.held.as_ref().filter(|held| held.owner.is_some())?;
            return Some((Call::Delete(held.uid.clone()), Status::default()));
        };
        let Some(held) = &mut self.held else {
            let mut target = self.said.status.clone();
            target.keep_only(properties);
            return Some((Call::Create(object(id, uid, &target)), target));
        };
        if held.owner.as_ref().is_some_and(|owner| owner != uid) {
            return Some((Call::Delete(held.uid.clone()), Status::default()));
        }
        let mut target = held.status.clone();
        target.join(&self.said.status);
        target.keep_only(properties);
        let status = target.patch(&held.status);
        if status.is_none() && held.owner.is_some() {
            held.status = target; // the same to see, but with what only we remember
            return None;
        }
        let mut metadata = Map::new();
        metadata.insert("resourceVersion".to_owned(), held.version.as_str().into());
        if held.owner.is_none() {
            metadata.insert("ownerReferences".to_owned(), owners(id, uid));
        }
        let mut patch = json!({ "metadata": metadata });
        if let (Some(fields), Some(status)) = (patch.as_object_mut(), status) {
            fields.insert("status".to_owned(), status);
        }
        Some((Call::Patch(patch), target))
    }

    /// The API has this, unless something newer is known.
    fn hear(&mut self, mut new: Held) {
        if let Some(old) = &self.held {
            if !new.is_newer_than(old) {
                return;
            }
            if new.uid == old.uid {
                new.status.remember(&old.status);
            }
        }
        self.held = Some(new);
    }

    /// The DeviceStatus is gone. If it was this device's, the next one begins with its values.
    fn lose(&mut self) {
        let Some(held) = self.held.take() else { return };
        if held.owner.is_some() && held.owner.as_deref() == self.owner_uid() {
            let mut status = held.status;
            status.join(&self.said.status);
            self.said.status = status;
        }
    }

    fn land(&mut self, id: &DeviceId, outcome: Outcome, chance: f64, effects: &mut Vec<Effect>) {
        let Some(mut flying) = self.flying.take() else { return };
        let failures = std::mem::take(&mut self.failures);
        let may_loop = match outcome {
            Outcome::Is(object) => {
                self.doubtful = false;
                if flying.is_delete {
                    self.held = None;
                } else {
                    self.hear(Held::read(&object));
                    if let Some(held) = &mut self.held {
                        held.status.remember(&flying.target);
                    }
                }
                if flying.writes {
                    effects.extend(flying.said.since.map(Effect::Written));
                }
                if !flying.said.waiting.is_empty() {
                    effects.push(Effect::Confirm(std::mem::take(&mut flying.said.waiting).into()));
                }
                return;
            }
            Outcome::NotFound => {
                let was_there = self.held.is_some() || self.doubtful;
                self.doubtful = false;
                if flying.is_delete {
                    self.held = None;
                } else {
                    self.lose();
                }
                !was_there // nothing to be made there: its namespace goes, or the kind is not served
            }
            Outcome::Conflict => {
                self.doubtful = true;
                failures > 3
            }
            Outcome::Refused(why) => {
                effects.push(Effect::Refuse(std::mem::take(&mut flying.said.waiting).into(), why));
                flying.said = Said::default();
                true
            }
            Outcome::Failed => {
                self.doubtful = true;
                true
            }
        };
        if flying.owner.as_deref() == self.owner_uid() {
            self.said.follow(flying.said);
        } else if self.owner.is_none() && !flying.said.waiting.is_empty() {
            effects.push(Effect::Confirm(flying.said.waiting.into()));
        }
        self.failures = failures.saturating_add(1);
        if may_loop {
            let pause = spread(doubled(FIRST_PAUSE, failures, LAST_PAUSE), chance);
            self.resting = true;
            effects.push(Effect::Rest(id.clone(), pause));
        }
    }
}

/// It does not block the Device's deletion, as KubeEdge's does: nobody waits for a status, and clusters that check such
/// references (admission plugin OwnerReferencesPermissionEnforcement) would ask for rights on the Device.
fn owners(id: &DeviceId, uid: &str) -> Value {
    json!([{
        "apiVersion": API_VERSION, "kind": Kind::Device.name(), "name": id.name, "uid": uid, "controller": true,
    }])
}

/// A new DeviceStatus: same name and namespace as its Device.
fn object(id: &DeviceId, uid: &str, status: &Status) -> Value {
    json!({
        "apiVersion": API_VERSION, "kind": Kind::Status.name(),
        "metadata": {"name": id.name, "namespace": id.namespace, "ownerReferences": owners(id, uid)},
        "spec": {},
        "status": status.patch(&Status::default()).unwrap_or_else(|| json!({})),
    })
}

#[cfg(test)]
#[path = "statuses_tests.rs"]
mod tests;
