//! What a pod worker knows of its pod, and how answers change it. Pure.

mod held;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod, PodStatus};

pub use held::Held;

use super::action::{Action, Note, Outcome, Why, Work};
use super::backoff::{CRASH_BASE, CRASH_CAP, CrashLoop, Retry, after, since};
use super::observed::{Container, Life, Observed, Sandbox, time_of};

/// Shortest grace a container gets, seconds.
const MIN_GRACE_SECS: i64 = 1;
/// The API's default of `terminationGracePeriodSeconds`.
const DEFAULT_GRACE_SECS: i64 = 30;
/// Pauses between tries of what is not a crash: sandbox, volumes, creation, runtime calls.
const STEP_BASE: Duration = Duration::from_secs(1);
const STEP_CAP: Duration = Duration::from_secs(60);

/// Everything a worker decides from.
#[derive(Debug, Clone)]
pub struct PodState {
    pub pod: Arc<Pod>,
    /// Hash of each container's spec, by name.
    pub hashes: BTreeMap<String, String>,
    pub observed: Observed,
    pub memory: Memory,
    /// Actions under way.
    pub busy: BTreeSet<Work>,
    /// Events to report, oldest first; whoever reports takes them.
    pub notes: Vec<Note>,
}

/// What is remembered beyond what the runtime can tell.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    pub sandbox: Retry,
    pub sandbox_error: Option<String>,
    /// Sandboxes stopped by us: network and ports are free.
    pub stopped: BTreeSet<String>,
    pub volumes: Volumes,
    /// They were written once: a later failure to refresh them stops no restart.
    pub mounted: bool,
    /// Their sources changed while they were being written.
    pub volumes_again: bool,
    pub containers: BTreeMap<String, ContainerMemory>,
    /// Restart count of the next instance, by container name, where one ran before.
    pub next_restarts: BTreeMap<String, u32>,
    /// When an exit was first seen, by container id.
    pub exits: BTreeMap<String, Timestamp>,
    /// Runtime calls about one id that failed.
    pub calls: BTreeMap<String, Retry>,
    /// The pod will never run again on its own account.
    pub terminal: Option<Terminal>,
    /// The cloud removed the object.
    pub removed: bool,
    /// When what is left of the pod must be dead.
    pub kill_by: Option<Timestamp>,
    /// The volumes are gone.
    pub unmounted: bool,
    /// Folder, logs and cgroup are gone too.
    pub torn_down: bool,
    pub confirmed: bool,
    pub confirm: Retry,
    pub started_at: Option<Timestamp>,
    /// The status that was computed last; transition times continue from it.
    pub status: PodStatus,
    /// Why nothing of the pod may start now.
    pub held: Option<Held>,
    /// 0.0..=1.0, spreads the retries of different pods.
    pub jitter: f64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub enum Volumes {
    #[default]
    Wanted,
    Ready,
    Failed {
        message: String,
        retry: Retry,
    },
}

#[derive(Debug, Clone, Default)]
pub struct ContainerMemory {
    pub image: ImageState,
    pub pulls: Retry,
    pub crash: CrashLoop,
    /// Creation or start failed: reason and message for the status.
    pub error: Option<(String, String)>,
    pub tries: Retry,
    /// Killed because its spec changed: starts again whatever the restart policy says.
    pub replace: bool,
    /// The exit for which a BackOff event was written.
    pub noted_exit: String,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub enum ImageState {
    #[default]
    Unknown,
    /// The reference to create containers with.
    Ready(String),
    /// `ErrImagePull`, `ErrImageNeverPull`, `InvalidImageName` and the cause.
    Failed { reason: String, message: String },
}

/// Why a pod is over.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terminal {
    /// `Some` fixes the phase to Failed at once, with reason and message; otherwise exit codes decide.
    pub failed: Option<(String, String)>,
    /// The stored object said so already: its status stands.
    pub stored: bool,
}

impl PodState {
    /// A pod as stored. `observed` is what the runtime already has of it.
    #[must_use]
    pub fn new(
        pod: Arc<Pod>,
        hashes: BTreeMap<String, String>,
        observed: Observed,
        jitter: f64,
        now: Timestamp,
    ) -> Self {
        let status = pod.status.clone().unwrap_or_default();
        let mut memory = Memory { jitter, ..Memory::default() };
        memory.started_at = Some(status.start_time.as_ref().map_or(now, |time| time.0));
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            memory.terminal = Some(Terminal { failed: None, stored: true });
        }
        for old in status.init_container_statuses.iter().chain(&status.container_statuses).flatten() {
            if old.container_id.is_some() || old.restart_count > 0 {
                let next = u32::try_from(old.restart_count).unwrap_or_default().saturating_add(1);
                memory.next_restarts.insert(old.name.clone(), next);
            }
        }
        memory.status = status;
        let mut state =
            Self { pod, hashes, observed: Observed::default(), memory, busy: BTreeSet::new(), notes: vec![] };
        for container in observed.containers.iter().filter(|c| c.exited()) {
            let finished = time_of(container.finished_ns).map_or(now, |at| at.min(now));
            state.memory.exits.insert(container.id.clone(), finished);
        }
        state.observe(observed, now);
        state
    }

    /// The pod changed. Containers are compared by hash; failures of configuration are tried anew.
    pub fn update(&mut self, pod: Arc<Pod>, hashes: BTreeMap<String, String>) {
        let images = |pod: &Pod| -> BTreeMap<String, Option<String>> {
            specs(pod).map(|(c, _)| (c.name.clone(), c.image.clone())).collect()
        };
        if images(&self.pod) != images(&pod) {
            for memory in self.memory.containers.values_mut() {
                memory.image = ImageState::Unknown;
                memory.pulls = Retry::default();
            }
        }
        let meta = |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
        if self.pod.spec != pod.spec || meta(&self.pod) != meta(&pod) {
            self.config_changed();
        }
        self.pod = pod;
        self.hashes = hashes;
    }

    /// A configmap or secret of the pod changed: write volumes again, try again what lacked it.
    pub fn config_changed(&mut self) {
        if !self.memory.unmounted {
            match &mut self.memory.volumes {
                Volumes::Failed { retry, .. } => retry.hurry(),
                volumes => *volumes = Volumes::Wanted,
            }
            self.memory.volumes_again = self.busy.contains(&Work::Volumes);
        }
        for memory in self.memory.containers.values_mut() {
            memory.tries.hurry();
        }
    }

    /// The runtime is back: what failed is tried again at once.
    pub fn hurry(&mut self) {
        self.memory.sandbox.hurry();
        self.memory.calls.clear();
        for memory in self.memory.containers.values_mut() {
            memory.tries.hurry();
        }
    }

    /// Tokens in volumes run out: written again now and then, MetaManager renews them in time.
    pub fn refresh_tokens(&mut self) {
        let volumes = self.pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
        let mut sources =
            volumes.flat_map(|volume| volume.projected.iter().flat_map(|p| p.sources.iter().flatten()));
        if sources.any(|source| source.service_account_token.is_some())
            && self.memory.volumes == Volumes::Ready
            && !self.memory.unmounted
        {
            self.memory.volumes = Volumes::Wanted;
        }
    }

    /// A complete new view of the runtime.
    pub fn observe(&mut self, observed: Observed, now: Timestamp) {
        self.observed = observed;
        self.seen(now);
    }

    fn seen(&mut self, now: Timestamp) {
        for container in self.observed.containers.iter().filter(|c| c.exited()) {
            self.memory.exits.entry(container.id.clone()).or_insert(now);
        }
        for container in self.observed.containers.iter().filter(|c| c.life != Life::Created) {
            let next = self.memory.next_restarts.entry(container.name.clone()).or_default();
            *next = (*next).max(container.restarts.saturating_add(1));
        }
        let known: BTreeSet<&str> = self.observed.containers.iter().map(|c| c.id.as_str()).collect();
        self.memory.exits.retain(|id, _| known.contains(id.as_str()));
        let sandboxes: BTreeSet<&str> = self.observed.sandboxes.iter().map(|s| s.id.as_str()).collect();
        self.memory.stopped.retain(|id| sandboxes.contains(id.as_str()));
        let here = |id: &str| id.is_empty() || known.contains(id) || sandboxes.contains(id);
        self.memory.calls.retain(|id, _| here(id));
    }

    /// One container was looked at.
    pub fn saw_container(&mut self, container: Container, now: Timestamp) {
        self.observed.put_container(container);
        self.seen(now);
    }

    pub fn saw_sandbox(&mut self, sandbox: Sandbox) {
        self.observed.put_sandbox(sandbox);
    }

    pub fn saw_gone(&mut self, id: &str, now: Timestamp) {
        self.observed.forget(id);
        self.seen(now);
    }

    pub fn container(&mut self, name: &str) -> &mut ContainerMemory {
        self.memory.containers.entry(name.to_owned()).or_default()
    }

    /// The pod is to end: deleted, or removed from the cloud.
    #[must_use]
    pub fn ending(&self) -> bool {
        self.memory.removed || self.pod.metadata.deletion_timestamp.is_some()
    }

    /// Nothing is left and nobody waits for anything: the worker may go.
    #[must_use]
    pub fn finished(&self) -> bool {
        let idle = self.busy.iter().all(|work| matches!(work, Work::Image(_)));
        self.memory.removed && self.memory.torn_down && self.observed.is_empty() && idle
    }

    /// Grace of the pod's own choosing, seconds.
    #[must_use]
    pub fn own_grace_secs(&self) -> i64 {
        let spec = self.pod.spec.as_ref();
        spec.and_then(|spec| spec.termination_grace_period_seconds).unwrap_or(DEFAULT_GRACE_SECS)
    }

    /// Draws the conclusions that depend on time: when an ending pod must be dead, deadlines.
    pub fn settle(&mut self, now: Timestamp) {
        if self.ending() {
            let wanted = self.pod.metadata.deletion_grace_period_seconds;
            let grace = wanted.unwrap_or_else(|| self.own_grace_secs()).max(MIN_GRACE_SECS);
            let mut by = after(now, secs(grace));
            // A deletion that waited for us (we were offline or down) has used up part of its grace.
            let deleted = self.pod.metadata.deletion_timestamp.as_ref();
            if let Some(at) = deleted.filter(|_| !self.memory.removed) {
                by = by.min(at.0.max(after(now, secs(MIN_GRACE_SECS))));
            }
            let earlier = self.memory.kill_by.is_none_or(|had| by < had);
            if earlier {
                self.memory.kill_by = Some(by);
            }
        } else if self.memory.terminal.is_none() {
            let limit = self.pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
            if let (Some(limit), Some(start)) = (limit, self.memory.started_at)
                && since(now, start) >= secs(limit)
            {
                let message = "Pod was active on the node longer than the specified deadline";
                self.fail("DeadlineExceeded", message);
            }
        }
    }

    /// The pod fails for good.
    pub fn fail(&mut self, reason: &'static str, message: &str) {
        let failed = Some((reason.to_owned(), message.to_owned()));
        self.memory.terminal = Some(Terminal { failed, stored: false });
        self.note(true, reason, message.to_owned(), None);
    }

    /// Seconds a container may take to end from now on.
    #[must_use]
    pub fn grace_left_secs(&self, now: Timestamp) -> i64 {
        match self.memory.kill_by {
            Some(by) => {
                let left = since(by, now);
                i64::try_from(left.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(MIN_GRACE_SECS)
            }
            None => self.own_grace_secs().max(MIN_GRACE_SECS),
        }
    }

    /// An action is about to run.
    pub fn begin(&mut self, action: &Action, now: Timestamp) {
        self.busy.insert(action.work());
        match action {
            Action::Kill { name, why, .. } => {
                let message = match why {
                    Why::PodEnds | Why::SandboxGone | Why::Lost => format!("Stopping container {name}"),
                    Why::SpecChanged => format!("Container {name} definition changed, will be restarted"),
                };
                if *why == Why::SpecChanged {
                    let memory = self.container(name);
                    memory.replace = true;
                    memory.image = ImageState::Unknown;
                }
                self.note(false, "Killing", message, Some(name));
            }
            Action::Start { container, .. } => {
                let exited = self.observed.newest(container).filter(|c| c.exited()).map(|c| c.id.clone());
                if let Some(at) = exited.and_then(|id| self.memory.exits.get(&id).copied()) {
                    self.container(container).crash.restarted(at, now);
                }
            }
            Action::RunSandbox { .. }
                if !self.observed.sandboxes.is_empty() && self.memory.sandbox_error.is_none() =>
            {
                let message = "Pod sandbox changed, it will be killed and re-created.".to_owned();
                self.note(false, "SandboxChanged", message, None);
            }
            _ => {}
        }
    }

    /// An action ended.
    pub fn end(&mut self, work: &Work, outcome: Outcome, now: Timestamp) {
        self.busy.remove(work);
        let jitter = self.memory.jitter;
        match outcome {
            Outcome::SandboxRunning(sandbox) => {
                self.memory.sandbox = Retry::default();
                self.memory.sandbox_error = None;
                self.observed.put_sandbox(sandbox);
            }
            Outcome::SandboxFailed { message } => {
                self.memory.sandbox.fail(now, STEP_BASE, STEP_CAP, jitter);
                let text = format!("Failed to create pod sandbox: {message}");
                self.note(true, "FailedCreatePodSandBox", text, None);
                self.memory.sandbox_error = Some(message);
            }
            Outcome::VolumesReady => {
                self.memory.mounted = true;
                let again = std::mem::take(&mut self.memory.volumes_again);
                self.memory.volumes = if again { Volumes::Wanted } else { Volumes::Ready };
            }
            Outcome::VolumesFailed { message } => {
                let mut retry = match &self.memory.volumes {
                    Volumes::Failed { retry, .. } => retry.clone(),
                    _ => Retry::default(),
                };
                retry.fail(now, STEP_BASE, STEP_CAP, jitter);
                if std::mem::take(&mut self.memory.volumes_again) {
                    retry.hurry();
                }
                self.note(true, "FailedMount", message.clone(), None);
                self.memory.volumes = Volumes::Failed { message, retry };
            }
            // The spec may have changed meanwhile: an answer about another image is worth nothing.
            Outcome::ImageReady { container, image, .. } | Outcome::ImageFailed { container, image, .. }
                if !self.wants_image(&container, &image) => {}
            Outcome::ImageReady { container, image_ref, .. } => {
                let memory = self.container(&container);
                memory.image = ImageState::Ready(image_ref);
                memory.pulls = Retry::default();
            }
            Outcome::ImageFailed { container, reason, message, .. } => {
                let text = format!("Error: {reason}");
                let memory = self.container(&container);
                memory.pulls.fail(now, CRASH_BASE, CRASH_CAP, 0.0);
                memory.image = ImageState::Failed { reason, message };
                self.note(true, "Failed", text, Some(&container));
            }
            Outcome::Started(container) => {
                let name = container.name.clone();
                let memory = self.container(&name);
                memory.error = None;
                memory.tries = Retry::default();
                memory.replace = false;
                memory.image = ImageState::Unknown;
                self.saw_container(container, now);
            }
            Outcome::StartFailed { container, reason, message, left } => {
                let (event, text) = held::event_of(&reason, &message);
                let memory = self.container(&container);
                if held::by_gate(&reason) {
                    memory.crash = CrashLoop::default(); // it was no start, so it is no crash either
                }
                memory.tries.fail(now, STEP_BASE, STEP_CAP, jitter);
                memory.error = Some((reason, message));
                memory.image = ImageState::Unknown;
                self.note(true, event, text, Some(&container));
                if let Some(left) = left {
                    self.saw_container(*left, now);
                }
            }
            Outcome::Killed(container) => {
                if container.alive() {
                    self.call_failed(&container.id, now);
                }
                self.saw_container(*container, now);
            }
            Outcome::SandboxStopped { id } => {
                for sandbox in self.observed.sandboxes.iter_mut().filter(|s| s.id == id) {
                    sandbox.ready = false;
                    self.memory.stopped.insert(id.clone());
                }
            }
            Outcome::Gone { id } => self.saw_gone(&id, now),
            Outcome::CallFailed { id } => self.call_failed(&id, now),
            Outcome::TornDown { all, failed: None } => {
                self.memory.unmounted = true;
                self.memory.torn_down |= all;
            }
            Outcome::TornDown { failed: Some(_), .. } => self.call_failed("", now),
            Outcome::Confirmed { ok: true } => self.memory.confirmed = true,
            Outcome::Confirmed { ok: false } => {
                self.memory.confirm.fail(now, STEP_BASE, STEP_CAP, jitter);
            }
        }
    }

    fn wants_image(&self, container: &str, image: &str) -> bool {
        let spec = specs(&self.pod).find(|(spec, _)| spec.name == container);
        spec.is_some_and(|(spec, _)| spec.image.as_deref().unwrap_or_default() == image)
    }

    fn call_failed(&mut self, id: &str, now: Timestamp) {
        let jitter = self.memory.jitter;
        let retry = self.memory.calls.entry(id.to_owned()).or_default();
        retry.fail(now, STEP_BASE, STEP_CAP, jitter);
    }

    pub fn note(&mut self, warning: bool, reason: &'static str, message: String, container: Option<&str>) {
        self.notes.push(Note { warning, reason, message, container: container.map(str::to_owned) });
    }
}

fn secs(secs: i64) -> Duration {
    Duration::from_secs(u64::try_from(secs).unwrap_or_default())
}

/// The pod's containers: init containers first, each with `true` if it is one.
pub fn specs(pod: &Pod) -> impl Iterator<Item = (&ContainerSpec, bool)> {
    let spec = pod.spec.as_ref();
    let init = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    let main = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    init.iter().map(|c| (c, true)).chain(main.iter().map(|c| (c, false)))
}

/// An init container that runs beside the others (`restartPolicy: Always`).
#[must_use]
pub fn is_sidecar(container: &ContainerSpec) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

/// Restart policy of the pod; the API's default is Always.
#[must_use]
pub fn restart_policy(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always")
}

/// `name_namespace(uid)`, as the kubelet writes pods in messages.
#[must_use]
pub fn full_name(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid))
}
