//! A container runtime in memory, for unit tests: containerd's rules without containers.
//!
//! It keeps containerd's semantics where callers depend on them: names stay reserved by whatever
//! sandbox or container holds them, a container is created in a READY sandbox from a present image,
//! stopping a missing container is `NotFound` while removing one is fine, a stopped sandbox has
//! killed its containers. Tests add faults and delays per call, pull outcomes, and containers that
//! exit when told or by script. Every change is also an event. Time is tokio's, so it can be paused.

mod calls;
#[cfg(test)]
mod tests;
mod world;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use k8s_cri::v1;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use self::world::{Fault, Proofs, World, error, image};
use super::runtime::{CriError, CriErrorKind, ImageSignature, RuntimeEvent, RuntimeEventKind};

/// Events kept for a slow reader; a reader that falls further behind loses its stream.
const EVENT_BACKLOG: usize = 1024;

/// What a container's process does, by container name; the default runs until told otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behaviour {
    /// Ends by itself this long after its start, with this code.
    pub exits: Option<(Duration, i32)>,
    /// Exit code on SIGTERM; `None` ignores it and is killed (137) when the grace is over.
    pub on_term: Option<i32>,
    /// `StartContainer` fails with these words, as a missing binary does.
    pub start_error: Option<String>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self { exits: None, on_term: Some(0), start_error: None }
    }
}

/// One live or dead container, as tests look at it.
#[derive(Debug, Clone)]
pub struct FakeContainer {
    pub status: v1::ContainerStatus,
    pub sandbox_id: String,
    pub config: v1::ContainerConfig,
    /// Behaviour it was started with.
    pub behaviour: Behaviour,
}

#[derive(Debug, Clone)]
pub struct FakeSandbox {
    pub status: v1::PodSandboxStatus,
    pub config: v1::PodSandboxConfig,
}

/// Cheap to clone; clones share the same world.
#[derive(Clone)]
pub struct FakeRuntime {
    world: Arc<Mutex<World>>,
    events: broadcast::Sender<Option<RuntimeEvent>>,
}

impl Default for FakeRuntime {
    fn default() -> Self {
        Self::new()
    }
}

impl FakeRuntime {
    /// A runtime with no image, no pod, and both conditions true.
    #[must_use]
    pub fn new() -> Self {
        let ready = |name: &str| v1::RuntimeCondition {
            r#type: name.to_owned(),
            status: true,
            reason: String::new(),
            message: String::new(),
        };
        let world = World {
            conditions: vec![ready("RuntimeReady"), ready("NetworkReady")],
            now: 1_700_000_000_000_000_000,
            ..World::default()
        };
        Self { world: Arc::new(Mutex::new(world)), events: broadcast::channel(EVENT_BACKLOG).0 }
    }

    /// Makes an image present. Its id is `sha256:{name}`.
    pub fn add_image(&self, name: &str) {
        self.world.lock().images.insert(name.to_owned(), image(name));
    }

    /// Gives a present image manifest digests, and signatures attached under `repository`.
    pub fn prove(&self, name: &str, digests: Vec<String>, repository: &str, signatures: Vec<ImageSignature>) {
        let repository = repository.to_owned();
        let proofs = Proofs { digests, repository, signatures };
        self.world.lock().proofs.insert(image(name).id, proofs);
    }

    /// What a pull of `name` gives: `Ok` makes it present, `Err` fails with these words. Images
    /// nobody announced fail as an unknown host does.
    pub fn set_pull(&self, name: &str, outcome: Result<(), &str>) {
        self.world.lock().registry.insert(name.to_owned(), outcome.map_err(str::to_owned));
    }

    /// Script of the next starts of containers called `container`: each start takes the next entry,
    /// the last one stays.
    pub fn script(&self, container: &str, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.world.lock().behaviours.insert(container.to_owned(), behaviours.into_iter().collect());
    }

    /// The next call named `call` (`RunPodSandbox`, `StartContainer`, ...) fails; repeat for more.
    pub fn fail(&self, call: &'static str, kind: CriErrorKind, message: &str) {
        self.push_fault(call, kind, message, false);
    }

    /// The next `RunPodSandbox` fails and leaves a NOTREADY sandbox that keeps its name reserved.
    pub fn fail_run_sandbox_leaving(&self, message: &str) {
        self.push_fault("RunPodSandbox", CriErrorKind::Other, message, true);
    }

    /// Every call named `call` takes this long.
    pub fn delay(&self, call: &'static str, delay: Duration) {
        self.world.lock().delays.insert(call, delay);
    }

    /// Takes the runtime away (`Unavailable`, event streams end) or brings it back. What runs goes
    /// on running, as under containerd's shims.
    pub fn set_down(&self, down: bool) {
        self.world.lock().down = down;
        if down {
            self.events.send(None).ok();
        }
    }

    /// Sets `RuntimeReady` or `NetworkReady`.
    pub fn set_condition(&self, name: &str, status: bool, message: &str) {
        for condition in &mut self.world.lock().conditions {
            if condition.r#type == name {
                condition.status = status;
                condition.message = message.to_owned();
            }
        }
    }

    /// The process of a running container ends with `code` (137 and `OOMKilled` when `oom`).
    /// False when no such container runs.
    pub fn exit(&self, id: &str, code: i32, oom: bool) -> bool {
        if oom {
            self.emit(id, RuntimeEventKind::OutOfMemory);
        }
        self.end_container(id, if oom { 137 } else { code }, oom)
    }

    /// As a reboot: every process is gone, the runtime's records stay.
    pub fn reboot(&self) {
        let running: Vec<String> = self.running().into_iter().map(|c| c.status.id).collect();
        for id in running {
            self.end_container(&id, 255, false);
        }
        for sandbox in self.world.lock().sandboxes.values_mut() {
            sandbox.status.state = v1::PodSandboxState::SandboxNotready as i32;
        }
    }

    /// Calls so far: name and the pod, container or image it was about.
    #[must_use]
    pub fn calls(&self) -> Vec<(&'static str, String)> {
        self.world.lock().calls.clone()
    }

    /// How often `call` was made.
    #[must_use]
    pub fn count(&self, call: &str) -> usize {
        self.world.lock().calls.iter().filter(|(name, _)| *name == call).count()
    }

    #[must_use]
    pub fn containers(&self) -> Vec<FakeContainer> {
        self.world.lock().containers.values().cloned().collect()
    }

    /// Containers whose process is alive.
    #[must_use]
    pub fn running(&self) -> Vec<FakeContainer> {
        let running = v1::ContainerState::ContainerRunning as i32;
        self.containers().into_iter().filter(|c| c.status.state == running).collect()
    }

    #[must_use]
    pub fn sandboxes(&self) -> Vec<FakeSandbox> {
        self.world.lock().sandboxes.values().cloned().collect()
    }

    fn push_fault(&self, call: &'static str, kind: CriErrorKind, message: &str, leaves_sandbox: bool) {
        let error = CriError { call, kind, message: message.to_owned() };
        self.world.lock().faults.entry(call).or_default().push_back(Fault { error, leaves_sandbox });
    }

    fn emit(&self, id: &str, kind: RuntimeEventKind) {
        // No reader is fine.
        self.events.send(Some(RuntimeEvent { id: id.to_owned(), kind })).ok();
    }

    fn end_container(&self, id: &str, code: i32, oom: bool) -> bool {
        {
            let mut world = self.world.lock();
            let now = world.tick();
            let Some(container) = world.containers.get_mut(id) else { return false };
            if container.status.state != v1::ContainerState::ContainerRunning as i32 {
                return false;
            }
            container.status.state = v1::ContainerState::ContainerExited as i32;
            container.status.exit_code = code;
            container.status.finished_at = now;
            container.status.reason = match (oom, code) {
                (true, _) => "OOMKilled",
                (false, 0) => "Completed",
                (false, _) => "Error",
            }
            .to_owned();
        }
        self.emit(id, RuntimeEventKind::Exited);
        true
    }

    /// Every call passes here: recorded, delayed, refused when down or when a fault is due.
    async fn enter(&self, call: &'static str, about: &str) -> Result<(), (CriError, bool)> {
        let (delay, down, fault) = {
            let mut world = self.world.lock();
            world.calls.push((call, about.to_owned()));
            let fault = world.faults.get_mut(call).and_then(VecDeque::pop_front);
            (world.delays.get(call).copied(), world.down, fault)
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
        if down {
            return Err((error(call, CriErrorKind::Unavailable, "connection refused"), false));
        }
        match fault {
            Some(fault) => Err((fault.error, fault.leaves_sandbox)),
            None => Ok(()),
        }
    }

    async fn call<T>(
        &self,
        call: &'static str,
        about: &str,
        act: impl FnOnce(&mut World) -> Result<T, CriError>,
    ) -> Result<T, CriError> {
        self.enter(call, about).await.map_err(|(error, _)| error)?;
        act(&mut self.world.lock())
    }
}
