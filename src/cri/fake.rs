//! A container runtime in memory, for unit tests: containerd's rules without containers.
//!
//! It keeps containerd's semantics where callers depend on them: names stay reserved by whatever
//! sandbox or container holds them, a container is created in a READY sandbox from a present image,
//! stopping a missing container is `NotFound` while removing one is fine, a stopped sandbox has
//! killed its containers. Tests add faults and delays per call, pull outcomes, and containers that
//! exit when told or by script. Every change is also an event. Time is tokio's, so it can be paused.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{self, BoxStream, StreamExt};
use k8s_cri::v1;
use parking_lot::Mutex;
use tokio::sync::broadcast;

use super::runtime::{CriError, CriErrorKind, Runtime, RuntimeEvent, RuntimeEventKind};

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

#[derive(Debug, Clone)]
struct Fault {
    error: CriError,
    /// `RunPodSandbox` fails but its NOTREADY sandbox stays and holds the name.
    leaves_sandbox: bool,
}

#[derive(Debug, Default)]
struct World {
    next_id: u64,
    down: bool,
    sandboxes: BTreeMap<String, FakeSandbox>,
    containers: BTreeMap<String, FakeContainer>,
    images: BTreeMap<String, v1::Image>,
    registry: BTreeMap<String, Result<(), String>>,
    behaviours: HashMap<String, VecDeque<Behaviour>>,
    faults: HashMap<&'static str, VecDeque<Fault>>,
    delays: HashMap<&'static str, Duration>,
    calls: Vec<(&'static str, String)>,
    conditions: Vec<v1::RuntimeCondition>,
    now: i64,
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

fn error(call: &'static str, kind: CriErrorKind, message: impl Into<String>) -> CriError {
    CriError { call, kind, message: message.into() }
}

fn image(name: &str) -> v1::Image {
    v1::Image {
        id: format!("sha256:{name}"),
        repo_tags: vec![name.to_owned()],
        size: 1_000_000,
        ..v1::Image::default()
    }
}

impl World {
    fn tick(&mut self) -> i64 {
        self.now += 1_000_000;
        self.now
    }

    fn id(&mut self, kind: &str) -> String {
        self.next_id += 1;
        format!("{kind}-{:04}", self.next_id)
    }

    fn add_sandbox(
        &mut self,
        call: &'static str,
        config: v1::PodSandboxConfig,
        state: v1::PodSandboxState,
    ) -> Result<String, CriError> {
        let Some(metadata) = config.metadata.clone() else {
            return Err(error(call, CriErrorKind::Other, "sandbox config must include metadata"));
        };
        let holder = self.sandboxes.values().find(|s| s.status.metadata.as_ref() == Some(&metadata));
        if let Some(holder) = holder {
            let message = format!("sandbox name is reserved for {:?}", holder.status.id);
            return Err(error(call, CriErrorKind::AlreadyExists, message));
        }
        let (id, now) = (self.id("sandbox"), self.tick());
        let options = config
            .linux
            .as_ref()
            .and_then(|l| l.security_context.as_ref())
            .and_then(|c| c.namespace_options.clone());
        let host_network = options.as_ref().is_some_and(|o| o.network == v1::NamespaceMode::Node as i32);
        let ip = if host_network { String::new() } else { format!("10.1.0.{}", self.next_id % 254 + 1) };
        let status = v1::PodSandboxStatus {
            id: id.clone(),
            metadata: Some(metadata),
            state: state as i32,
            created_at: now,
            network: Some(v1::PodSandboxNetworkStatus { ip, additional_ips: Vec::new() }),
            linux: Some(v1::LinuxPodSandboxStatus { namespaces: Some(v1::Namespace { options }) }),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            runtime_handler: String::new(),
        };
        self.sandboxes.insert(id.clone(), FakeSandbox { status, config });
        Ok(id)
    }

    fn find_image(&self, name: &str) -> Option<&v1::Image> {
        self.images.get(name).or_else(|| self.images.values().find(|image| image.id == name))
    }

    fn add_container(&mut self, sandbox_id: String, config: v1::ContainerConfig) -> Result<String, CriError> {
        const CALL: &str = "CreateContainer";
        let Some(sandbox) = self.sandboxes.get(&sandbox_id) else {
            return Err(error(CALL, CriErrorKind::NotFound, "failed to find sandbox id: not found"));
        };
        if sandbox.status.state != v1::PodSandboxState::SandboxReady as i32 {
            return Err(error(
                CALL,
                CriErrorKind::Other,
                "failed to get sandbox container task: no running task",
            ));
        }
        let name = config.image.clone().unwrap_or_default().image;
        let Some(image) = self.find_image(&name).cloned() else {
            return Err(error(
                CALL,
                CriErrorKind::NotFound,
                format!("failed to resolve image {name:?}: not found"),
            ));
        };
        let holder = self
            .containers
            .values()
            .find(|c| c.sandbox_id == sandbox_id && c.status.metadata == config.metadata);
        if let Some(holder) = holder {
            let message = format!("container name is reserved for {:?}", holder.status.id);
            return Err(error(CALL, CriErrorKind::AlreadyExists, message));
        }
        let (id, now) = (self.id("container"), self.tick());
        let status = v1::ContainerStatus {
            id: id.clone(),
            metadata: config.metadata.clone(),
            state: v1::ContainerState::ContainerCreated as i32,
            created_at: now,
            image: config.image.clone(),
            image_ref: image.id.clone(),
            image_id: image.id,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path: config.log_path.clone(),
            ..v1::ContainerStatus::default()
        };
        let behaviour = Behaviour::default();
        self.containers.insert(id.clone(), FakeContainer { status, sandbox_id, config, behaviour });
        Ok(id)
    }

    fn start(&mut self, id: &str) -> Result<Behaviour, CriError> {
        const CALL: &str = "StartContainer";
        let now = self.tick();
        let Some(container) = self.containers.get_mut(id) else {
            return Err(error(CALL, CriErrorKind::NotFound, format!("container {id:?}: not found")));
        };
        if container.status.state != v1::ContainerState::ContainerCreated as i32 {
            return Err(error(CALL, CriErrorKind::Other, "container is not in CREATED state"));
        }
        let name = container.status.metadata.clone().unwrap_or_default().name;
        let behaviour = match self.behaviours.get_mut(&name) {
            Some(script) if script.len() > 1 => script.pop_front(),
            Some(script) => script.front().cloned(),
            None => None,
        }
        .unwrap_or_default();
        container.behaviour = behaviour.clone();
        container.status.started_at = now;
        if let Some(message) = &behaviour.start_error {
            // As containerd: the container is left exited, with 128 and StartError.
            container.status.state = v1::ContainerState::ContainerExited as i32;
            container.status.exit_code = 128;
            container.status.finished_at = now;
            container.status.reason = "StartError".to_owned();
            container.status.message.clone_from(message);
            return Err(error(CALL, CriErrorKind::Other, message.clone()));
        }
        container.status.state = v1::ContainerState::ContainerRunning as i32;
        Ok(behaviour)
    }

    fn pull(&mut self, name: &str) -> Result<String, CriError> {
        let outcome = match self.registry.get(name) {
            Some(outcome) => outcome.clone(),
            None => Err(format!("failed to pull and unpack image {name:?}: no such host")),
        };
        outcome.map_err(|message| error("PullImage", CriErrorKind::Other, message))?;
        let pulled = image(name);
        let id = pulled.id.clone();
        self.images.insert(name.to_owned(), pulled);
        Ok(id)
    }

    fn container_row(&self, container: &FakeContainer) -> v1::Container {
        let status = container.status.clone();
        v1::Container {
            id: status.id,
            pod_sandbox_id: container.sandbox_id.clone(),
            metadata: status.metadata,
            image: status.image,
            image_ref: status.image_ref,
            state: status.state,
            created_at: status.created_at,
            labels: status.labels,
            annotations: status.annotations,
            image_id: status.image_id,
        }
    }
}

impl FakeRuntime {
    async fn start_now(&self, id: &str) -> Result<(), CriError> {
        let behaviour = self.call("StartContainer", id, |world| world.start(id)).await;
        let behaviour = match behaviour {
            Ok(behaviour) => behaviour,
            Err(error) => {
                self.emit(id, RuntimeEventKind::Exited);
                return Err(error);
            }
        };
        self.emit(id, RuntimeEventKind::Started);
        if let Some((after, code)) = behaviour.exits {
            let (runtime, id) = (self.clone(), id.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(after).await;
                runtime.end_container(&id, code, false);
            });
        }
        Ok(())
    }

    async fn stop_now(&self, id: &str, grace_secs: i64) -> Result<(), CriError> {
        let on_term = self
            .call("StopContainer", id, |world| match world.containers.get(id) {
                Some(container) => Ok((container.behaviour.on_term, container.status.state)),
                None => Err(error(
                    "StopContainer",
                    CriErrorKind::NotFound,
                    format!("container {id:?}: not found"),
                )),
            })
            .await?;
        let (on_term, state) = on_term;
        if state != v1::ContainerState::ContainerRunning as i32 {
            return Ok(());
        }
        let code = match on_term {
            Some(code) if grace_secs > 0 => code,
            _ => {
                tokio::time::sleep(Duration::from_secs(u64::try_from(grace_secs).unwrap_or(0))).await;
                137
            }
        };
        self.end_container(id, code, false);
        Ok(())
    }

    fn kill_sandbox(&self, id: &str) {
        let of: Vec<String> =
            self.running().into_iter().filter(|c| c.sandbox_id == id).map(|c| c.status.id).collect();
        for container in of {
            self.end_container(&container, 137, false);
        }
        let not_ready = v1::PodSandboxState::SandboxNotready as i32;
        let was_ready = match self.world.lock().sandboxes.get_mut(id) {
            Some(sandbox) => std::mem::replace(&mut sandbox.status.state, not_ready) != not_ready,
            None => false,
        };
        if was_ready {
            self.emit(id, RuntimeEventKind::Exited);
        }
    }

    fn drop_container(&self, id: &str) {
        self.end_container(id, 137, false);
        if self.world.lock().containers.remove(id).is_some() {
            self.emit(id, RuntimeEventKind::Deleted);
        }
    }
}

impl Runtime for FakeRuntime {
    fn version(&self) -> BoxFuture<'_, Result<v1::VersionResponse, CriError>> {
        Box::pin(self.call("Version", "", |_| {
            Ok(v1::VersionResponse {
                version: "0.1.0".to_owned(),
                runtime_name: "containerd".to_owned(),
                runtime_version: "1.6.20".to_owned(),
                runtime_api_version: "v1".to_owned(),
            })
        }))
    }

    fn status(&self) -> BoxFuture<'_, Result<v1::RuntimeStatus, CriError>> {
        Box::pin(
            self.call("Status", "", |world| Ok(v1::RuntimeStatus { conditions: world.conditions.clone() })),
        )
    }

    fn list_sandboxes(&self) -> BoxFuture<'_, Result<Vec<v1::PodSandbox>, CriError>> {
        let row = |status: v1::PodSandboxStatus| v1::PodSandbox {
            id: status.id,
            metadata: status.metadata,
            state: status.state,
            created_at: status.created_at,
            labels: status.labels,
            annotations: status.annotations,
            runtime_handler: String::new(),
        };
        Box::pin(self.call("ListPodSandbox", "", move |world| {
            Ok(world.sandboxes.values().map(|sandbox| row(sandbox.status.clone())).collect())
        }))
    }

    fn sandbox_status(&self, id: String) -> BoxFuture<'_, Result<v1::PodSandboxStatus, CriError>> {
        Box::pin(async move {
            self.call("PodSandboxStatus", &id, |world| match world.sandboxes.get(&id) {
                Some(sandbox) => Ok(sandbox.status.clone()),
                None => Err(error("PodSandboxStatus", CriErrorKind::NotFound, "sandbox: not found")),
            })
            .await
        })
    }

    fn run_sandbox(&self, config: v1::PodSandboxConfig) -> BoxFuture<'_, Result<String, CriError>> {
        const CALL: &str = "RunPodSandbox";
        Box::pin(async move {
            let about = config.metadata.clone().unwrap_or_default().name;
            if let Err((fault, leaves_sandbox)) = self.enter(CALL, &about).await {
                if leaves_sandbox {
                    self.world.lock().add_sandbox(CALL, config, v1::PodSandboxState::SandboxNotready)?;
                }
                return Err(fault);
            }
            let id = self.world.lock().add_sandbox(CALL, config, v1::PodSandboxState::SandboxReady)?;
            self.emit(&id, RuntimeEventKind::Started);
            Ok(id)
        })
    }

    fn stop_sandbox(&self, id: String) -> BoxFuture<'_, Result<(), CriError>> {
        Box::pin(async move {
            self.call("StopPodSandbox", &id, |_| Ok(())).await?;
            self.kill_sandbox(&id);
            Ok(())
        })
    }

    fn remove_sandbox(&self, id: String) -> BoxFuture<'_, Result<(), CriError>> {
        Box::pin(async move {
            self.call("RemovePodSandbox", &id, |_| Ok(())).await?;
            self.kill_sandbox(&id);
            for container in self.containers() {
                if container.sandbox_id == id {
                    self.drop_container(&container.status.id);
                }
            }
            if self.world.lock().sandboxes.remove(&id).is_some() {
                self.emit(&id, RuntimeEventKind::Deleted);
            }
            Ok(())
        })
    }

    fn list_containers(&self) -> BoxFuture<'_, Result<Vec<v1::Container>, CriError>> {
        Box::pin(self.call("ListContainers", "", |world| {
            Ok(world.containers.values().map(|container| world.container_row(container)).collect())
        }))
    }

    fn container_status(&self, id: String) -> BoxFuture<'_, Result<v1::ContainerStatus, CriError>> {
        Box::pin(async move {
            self.call("ContainerStatus", &id, |world| match world.containers.get(&id) {
                Some(container) => Ok(container.status.clone()),
                None => Err(error("ContainerStatus", CriErrorKind::NotFound, "container: not found")),
            })
            .await
        })
    }

    fn create_container(
        &self,
        sandbox_id: String,
        config: v1::ContainerConfig,
        _sandbox: v1::PodSandboxConfig,
    ) -> BoxFuture<'_, Result<String, CriError>> {
        Box::pin(async move {
            let about = config.metadata.clone().unwrap_or_default().name;
            self.call("CreateContainer", &about, |world| world.add_container(sandbox_id, config)).await
        })
    }

    fn start_container(&self, id: String) -> BoxFuture<'_, Result<(), CriError>> {
        Box::pin(async move { self.start_now(&id).await })
    }

    fn stop_container(&self, id: String, grace_secs: i64) -> BoxFuture<'_, Result<(), CriError>> {
        Box::pin(async move { self.stop_now(&id, grace_secs).await })
    }

    fn remove_container(&self, id: String) -> BoxFuture<'_, Result<(), CriError>> {
        Box::pin(async move {
            self.call("RemoveContainer", &id, |_| Ok(())).await?;
            self.drop_container(&id);
            Ok(())
        })
    }

    fn list_images(&self) -> BoxFuture<'_, Result<Vec<v1::Image>, CriError>> {
        Box::pin(self.call("ListImages", "", |world| Ok(world.images.values().cloned().collect())))
    }

    fn image_status(&self, image: String) -> BoxFuture<'_, Result<Option<v1::Image>, CriError>> {
        Box::pin(async move {
            self.call("ImageStatus", &image, |world| Ok(world.find_image(&image).cloned())).await
        })
    }

    fn pull_image(
        &self,
        image: String,
        _auth: Option<v1::AuthConfig>,
        _sandbox: v1::PodSandboxConfig,
    ) -> BoxFuture<'_, Result<String, CriError>> {
        Box::pin(async move { self.call("PullImage", &image, |world| world.pull(&image)).await })
    }

    fn remove_image(&self, image: String) -> BoxFuture<'_, Result<(), CriError>> {
        Box::pin(async move {
            self.call("RemoveImage", &image, |world| {
                world.images.retain(|name, present| *name != image && present.id != image);
                Ok(())
            })
            .await
        })
    }

    fn image_fs_info(&self) -> BoxFuture<'_, Result<Vec<v1::FilesystemUsage>, CriError>> {
        Box::pin(self.call("ImageFsInfo", "", |_| Ok(Vec::new())))
    }

    fn exec_sync(
        &self,
        id: String,
        command: Vec<String>,
        _timeout_secs: i64,
    ) -> BoxFuture<'_, Result<v1::ExecSyncResponse, CriError>> {
        Box::pin(async move {
            self.call("ExecSync", &id, |world| match world.containers.get(&id) {
                Some(container) if container.status.state == v1::ContainerState::ContainerRunning as i32 => {
                    Ok(v1::ExecSyncResponse { stdout: command.join(" ").into_bytes(), ..Default::default() })
                }
                Some(_) => Err(error("ExecSync", CriErrorKind::Other, "container is not running")),
                None => Err(error("ExecSync", CriErrorKind::NotFound, "container: not found")),
            })
            .await
        })
    }

    fn container_stats(&self, id: String) -> BoxFuture<'_, Result<v1::ContainerStats, CriError>> {
        Box::pin(async move {
            self.call("ContainerStats", &id, |world| match world.containers.contains_key(&id) {
                true => Ok(v1::ContainerStats::default()),
                false => Err(error("ContainerStats", CriErrorKind::NotFound, "container: not found")),
            })
            .await
        })
    }

    fn list_container_stats(&self) -> BoxFuture<'_, Result<Vec<v1::ContainerStats>, CriError>> {
        Box::pin(self.call("ListContainerStats", "", |_| Ok(Vec::new())))
    }

    fn reopen_log(&self, id: String) -> BoxFuture<'_, Result<(), CriError>> {
        Box::pin(async move { self.call("ReopenContainerLog", &id, |_| Ok(())).await })
    }

    fn update_resources(
        &self,
        id: String,
        _resources: v1::LinuxContainerResources,
    ) -> BoxFuture<'_, Result<(), CriError>> {
        Box::pin(async move { self.call("UpdateContainerResources", &id, |_| Ok(())).await })
    }

    fn cgroup_driver(&self) -> BoxFuture<'_, Result<Option<v1::CgroupDriver>, CriError>> {
        Box::pin(self.call("RuntimeConfig", "", |_| Ok(Some(v1::CgroupDriver::Cgroupfs))))
    }

    fn events(&self) -> BoxFuture<'_, Result<BoxStream<'static, RuntimeEvent>, CriError>> {
        Box::pin(async move {
            let reader = self.events.subscribe();
            self.call("Events", "", |_| Ok(())).await?;
            let stream = stream::unfold(reader, |mut reader| async move {
                match reader.recv().await {
                    Ok(Some(event)) => Some((event, reader)),
                    Ok(None) | Err(_) => None,
                }
            });
            Ok(stream.boxed())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sandbox(attempt: u32) -> v1::PodSandboxConfig {
        let metadata = v1::PodSandboxMetadata {
            name: "web".into(),
            uid: "u1".into(),
            namespace: "default".into(),
            attempt,
        };
        v1::PodSandboxConfig { metadata: Some(metadata), ..Default::default() }
    }

    fn container(name: &str, attempt: u32) -> v1::ContainerConfig {
        v1::ContainerConfig {
            metadata: Some(v1::ContainerMetadata { name: name.into(), attempt }),
            image: Some(v1::ImageSpec { image: "registry.local/hello:1".into(), ..Default::default() }),
            ..Default::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn names_stay_reserved_and_scripts_run() {
        let runtime = FakeRuntime::new();
        runtime.add_image("registry.local/hello:1");
        runtime.fail_run_sandbox_leaving("network plugin is not ready");
        assert!(runtime.run_sandbox(sandbox(0)).await.is_err());
        let again = runtime.run_sandbox(sandbox(0)).await.unwrap_err();
        assert_eq!(again.kind, CriErrorKind::AlreadyExists);
        let id = runtime.run_sandbox(sandbox(1)).await.unwrap();

        let mut events = runtime.events().await.unwrap();
        let exits = Some((Duration::from_secs(5), 7));
        runtime.script("main", [Behaviour { exits, ..Default::default() }, Behaviour::default()]);
        let first = runtime.create_container(id.clone(), container("main", 0), sandbox(1)).await.unwrap();
        let taken = runtime.create_container(id.clone(), container("main", 0), sandbox(1)).await.unwrap_err();
        assert_eq!(taken.kind, CriErrorKind::AlreadyExists);
        runtime.start_container(first.clone()).await.unwrap();
        assert_eq!(events.next().await.unwrap().kind, RuntimeEventKind::Started);
        assert_eq!(events.next().await.unwrap().kind, RuntimeEventKind::Exited);
        let status = runtime.container_status(first).await.unwrap();
        assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));

        let second = runtime.create_container(id.clone(), container("main", 1), sandbox(1)).await.unwrap();
        runtime.start_container(second).await.unwrap();
        assert_eq!(runtime.running().len(), 1);
        runtime.stop_sandbox(id.clone()).await.unwrap();
        assert!(runtime.running().is_empty());
        runtime.remove_sandbox(id).await.unwrap();
        assert!(runtime.containers().is_empty());
        assert_eq!(runtime.sandboxes().len(), 1, "the NOTREADY leftover of attempt 0 stays");
    }

    #[tokio::test]
    async fn down_is_unavailable_and_ends_event_streams() {
        let runtime = FakeRuntime::new();
        let mut events = runtime.events().await.unwrap();
        runtime.set_down(true);
        assert_eq!(runtime.version().await.unwrap_err().kind, CriErrorKind::Unavailable);
        assert_eq!(events.next().await, None);
        runtime.set_down(false);
        assert!(runtime.version().await.is_ok());
    }
}
