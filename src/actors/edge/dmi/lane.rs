//! What one mapper was told and what it must still be told. Pure.
//!
//! A lane does not queue messages but the names of what may have changed; what to say is decided
//! when its turn comes, by comparing what should be known with what was told. So the newest state
//! wins, nothing is told twice, a slow mapper costs no memory, and a report, which changes neither
//! the Device nor its desired values, never makes a mapper set up its device again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::DeviceId;
use crate::supervise::{doubled, spread};
use crate::wire::dmi::{Device, DeviceModel};

const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LONGEST: Duration = Duration::from_secs(60);

/// Something a mapper can be told about, by namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    Model(DeviceId),
    Device(DeviceId),
}

/// What a mapper should know of a key, with a hash of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Want {
    Device(Arc<Device>, u64),
    Model(Arc<DeviceModel>, u64),
    /// The mapper should not have it.
    Nothing,
    /// It cannot be told as it is: what the mapper has stays.
    Unsure,
}

/// A call to make.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    CreateModel(Arc<DeviceModel>),
    UpdateModel(Arc<DeviceModel>),
    RemoveModel(DeviceId),
    RegisterDevice(Arc<Device>),
    UpdateDevice(Arc<Device>),
    RemoveDevice(DeviceId),
}

impl Call {
    /// Its name in the protocol, for metrics and logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateModel(_) => "CreateDeviceModel",
            Self::UpdateModel(_) => "UpdateDeviceModel",
            Self::RemoveModel(_) => "RemoveDeviceModel",
            Self::RegisterDevice(_) => "RegisterDevice",
            Self::UpdateDevice(_) => "UpdateDevice",
            Self::RemoveDevice(_) => "RemoveDevice",
        }
    }
}

/// What to do now.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Make the call, then say how it went.
    Call {
        key: Key,
        call: Call,
        hash: Option<u64>,
    },
    /// Nothing before this time, unless something is marked.
    Wait(Instant),
    Idle,
}

/// How a call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// The mapper does not know what it was told to change or remove.
    Unknown,
    Failed,
}

#[derive(Debug, Default)]
pub struct Lane {
    told: BTreeMap<Key, u64>,
    models: VecDeque<DeviceId>,
    devices: VecDeque<DeviceId>,
    /// Models to remove, after the devices.
    leaving: VecDeque<DeviceId>,
    /// Everything in the three queues.
    marked: BTreeSet<Key>,
    failures: BTreeMap<Key, Failure>,
}

#[derive(Debug, Clone, Copy)]
struct Failure {
    times: u32,
    again: Instant,
}

impl Lane {
    /// The mapper has this already.
    pub fn was_told(&mut self, told: impl IntoIterator<Item = (Key, u64)>) {
        self.told = told.into_iter().collect();
    }

    /// The mapper has forgotten everything.
    pub fn forget(&mut self) {
        self.told.clear();
        self.failures.clear();
    }

    /// Something may have changed. Known again at once, even after failures.
    pub fn mark(&mut self, key: Key) {
        self.failures.remove(&key);
        self.queue(key);
    }

    fn queue(&mut self, key: Key) {
        if !self.marked.insert(key.clone()) {
            return;
        }
        match key {
            Key::Model(id) => self.models.push_back(id),
            Key::Device(id) => self.devices.push_back(id),
        }
    }

    /// How many keys wait for their turn.
    pub fn len(&self) -> usize {
        self.marked.len() + self.failures.len()
    }

    /// The next call: new models, then devices, then models nobody uses any more.
    pub fn next(&mut self, want: impl Fn(&Key) -> Want, now: Instant) -> Step {
        let due: Vec<Key> = self
            .failures
            .iter()
            .filter(|(_, failure)| failure.again <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            self.queue(key);
        }
        while let Some(id) = self.models.pop_front() {
            let key = Key::Model(id.clone());
            match want(&key) {
                Want::Nothing if self.told.contains_key(&key) => self.leaving.push_back(id),
                wanted => {
                    self.marked.remove(&key);
                    if let Some(step) = self.compare(key, wanted) {
                        return step;
                    }
                }
            }
        }
        while let Some(key) = self.devices.pop_front().map(Key::Device) {
            self.marked.remove(&key);
            if let Some(step) = self.compare(key.clone(), want(&key)) {
                return step;
            }
        }
        while let Some(key) = self.leaving.pop_front().map(Key::Model) {
            self.marked.remove(&key);
            if let Some(step) = self.compare(key.clone(), want(&key)) {
                return step;
            }
        }
        let waiting = self.failures.values().map(|failure| failure.again).min();
        waiting.map_or(Step::Idle, Step::Wait)
    }

    fn compare(&mut self, key: Key, wanted: Want) -> Option<Step> {
        let before = self.told.get(&key).copied();
        let (call, hash) = match (wanted, before) {
            (Want::Device(device, hash), None) => (Call::RegisterDevice(device), Some(hash)),
            (Want::Device(device, hash), Some(told)) if told != hash => {
                (Call::UpdateDevice(device), Some(hash))
            }
            (Want::Model(model, hash), None) => (Call::CreateModel(model), Some(hash)),
            (Want::Model(model, hash), Some(told)) if told != hash => (Call::UpdateModel(model), Some(hash)),
            (Want::Nothing, Some(_)) => match &key {
                Key::Device(id) => (Call::RemoveDevice(id.clone()), None),
                Key::Model(id) => (Call::RemoveModel(id.clone()), None),
            },
            _ => {
                self.failures.remove(&key);
                return None;
            }
        };
        Some(Step::Call { key, call, hash })
    }

    /// How the call of [`Step::Call`] went. `jitter` is uniform in 0.0..1.0.
    pub fn done(&mut self, key: Key, hash: Option<u64>, outcome: Outcome, now: Instant, jitter: f64) {
        match (outcome, hash) {
            (Outcome::Ok, Some(hash)) => {
                self.told.insert(key.clone(), hash);
                self.failures.remove(&key);
            }
            (Outcome::Ok | Outcome::Unknown, None) => {
                self.told.remove(&key);
                self.failures.remove(&key);
            }
            (Outcome::Unknown, Some(_)) if self.told.remove(&key).is_some() => self.mark(key),
            (Outcome::Unknown | Outcome::Failed, _) => {
                let times = self.failures.get(&key).map_or(0, |failure| failure.times);
                let pause = spread(doubled(RETRY_FIRST, times, RETRY_LONGEST), jitter);
                self.failures.insert(key, Failure { times: times.saturating_add(1), again: now + pause });
            }
        }
    }
}
