//! Pod status from what is observed and remembered. Pure; phase, reasons and texts are the kubelet's.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting, ContainerStatus,
    HostIP, Pod, PodCondition, PodIP, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::observed::{Container, Life, time_of};
use super::plan::{Needs, PULL_ERROR_SHOWN, needs};
use super::state::{ImageState, PodState, full_name, is_sidecar, restart_policy, specs};
use crate::kube::time;

/// What a status needs besides the pod's own state.
#[derive(Debug, Clone, Default)]
pub struct Surroundings {
    /// The node's addresses, the primary one first.
    pub host_ips: Vec<String>,
    /// `Guaranteed`, `Burstable` or `BestEffort`.
    pub qos_class: String,
}

/// Why containers of the pod wait, one reason each.
pub fn waiting_reasons(status: &PodStatus) -> impl Iterator<Item = &str> {
    let all = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    all.filter_map(|one| one.state.as_ref()?.waiting.as_ref()?.reason.as_deref())
}

/// Computes the status. Transition times continue from `state.memory.status`.
#[must_use]
pub fn status(state: &PodState, around: &Surroundings, now: Timestamp) -> PodStatus {
    let old = &state.memory.status;
    let terminal = state.memory.terminal.as_ref();
    let nothing_seen = state.observed.containers.is_empty();
    if nothing_seen && terminal.is_some_and(|terminal| terminal.stored) {
        return old.clone();
    }
    let needs = needs(state);
    let refused = state.memory.held.as_ref().filter(|held| held.refused && !state.observed.any_alive());
    let failed = terminal.and_then(|terminal| terminal.failed.clone());
    let told = failed.clone().or_else(|| refused.map(|held| (held.reason.to_owned(), held.message.clone())));
    let mut init_statuses = Vec::new();
    let mut statuses = Vec::new();
    for (spec, init) in specs(&state.pod) {
        let status = container_status(state, &spec.name, init, &needs, now);
        let status = ContainerStatus {
            image: if status.image.is_empty() {
                spec.image.clone().unwrap_or_default()
            } else {
                status.image
            },
            ..status
        };
        if init { init_statuses.push(status) } else { statuses.push(status) }
    }
    let phase = match &failed {
        Some(_) => "Failed",
        None => phase(state, &init_statuses, &statuses),
    };
    let live = state.observed.live();
    let host_network = state.pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
    let ips = match live {
        Some(_) if host_network => around.host_ips.clone(),
        Some(sandbox) => sandbox.ips.clone(),
        // An ended pod keeps the address it had.
        None if state.ending() || terminal.is_some() => {
            old.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect()
        }
        None => Vec::new(),
    };
    let conditions = conditions(state, phase, &needs, &init_statuses, &statuses, now);
    let some = |list: Vec<ContainerStatus>| (!list.is_empty()).then_some(list);
    PodStatus {
        phase: Some(phase.to_owned()),
        conditions: Some(conditions),
        reason: told.as_ref().map(|(reason, _)| reason.clone()),
        message: told.map(|(_, message)| message),
        host_ip: around.host_ips.first().cloned(),
        host_ips: some_of(around.host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        pod_ip: ips.first().cloned(),
        pod_ips: some_of(ips.into_iter().map(|ip| PodIP { ip }).collect()),
        start_time: state.memory.started_at.map(whole_second),
        init_container_statuses: some(init_statuses),
        container_statuses: some(statuses),
        qos_class: Some(around.qos_class.clone()).filter(|class| !class.is_empty()),
        ..PodStatus::default()
    }
}

fn some_of<T>(list: Vec<T>) -> Option<Vec<T>> {
    (!list.is_empty()).then_some(list)
}

/// Kubernetes times have whole seconds.
#[must_use]
pub fn whole_second(at: Timestamp) -> Time {
    Time(time::whole_second(at))
}

/// The kubelet's `getPhase`.
fn phase(state: &PodState, init: &[ContainerStatus], main: &[ContainerStatus]) -> &'static str {
    let policy = restart_policy(&state.pod);
    let over = state.memory.terminal.is_some() || state.ending();
    let (mut pending_init, mut failed_init) = (0_usize, 0_usize);
    for (status, (spec, _)) in init.iter().zip(specs(&state.pod)) {
        if is_sidecar(spec) {
            pending_init += usize::from(status.started != Some(true) && ended(status).is_none());
            continue;
        }
        match ended(status) {
            Some(0) => {}
            Some(_) if policy == "Never" && running_or_waiting(status).is_none() => failed_init += 1,
            _ => pending_init += 1,
        }
    }
    let (mut running, mut waiting, mut stopped, mut succeeded) = (0_usize, 0_usize, 0_usize, 0_usize);
    for status in main {
        let now = status.state.as_ref();
        if now.is_some_and(|s| s.running.is_some()) {
            running += 1;
        } else if let Some(code) = ended(status) {
            stopped += 1;
            succeeded += usize::from(code == 0);
        } else {
            waiting += 1;
        }
    }
    let seen_main = running + stopped > 0;
    if failed_init > 0 && policy == "Never" && !seen_main {
        return if over { "Failed" } else { "Pending" };
    }
    if over && state.observed.containers.iter().all(|c| !c.alive()) {
        return if stopped > 0 && succeeded == main.len() { "Succeeded" } else { "Failed" };
    }
    if pending_init > 0 && !seen_main {
        return "Pending";
    }
    match (running, waiting, stopped) {
        (_, w, _) if w > 0 => "Pending",
        (r, _, _) if r > 0 => "Running",
        (0, _, s) if s > 0 && policy == "Always" => "Running",
        (0, _, s) if s > 0 && s == succeeded => "Succeeded",
        (0, _, s) if s > 0 && policy == "Never" => "Failed",
        (0, _, s) if s > 0 => "Running",
        _ => "Pending",
    }
}

/// Exit code of a container that has ended (and perhaps waits to start again).
fn ended(status: &ContainerStatus) -> Option<i32> {
    let of = |state: &Option<ContainerState>| state.as_ref()?.terminated.as_ref().map(|t| t.exit_code);
    let waiting = status.state.as_ref().is_some_and(|state| state.waiting.is_some());
    of(&status.state).or_else(|| if waiting { of(&status.last_state) } else { None })
}

fn running_or_waiting(status: &ContainerStatus) -> Option<()> {
    let state = status.state.as_ref()?;
    (state.running.is_some() || state.waiting.is_some()).then_some(())
}

fn container_status(
    state: &PodState,
    name: &str,
    init: bool,
    needs: &Needs,
    now: Timestamp,
) -> ContainerStatus {
    let observed = &state.observed;
    let newest = observed.newest(name).filter(|c| c.life != Life::Created);
    let waits = if state.ending() || state.memory.terminal.is_some() {
        None
    } else {
        waiting(state, name, init, newest, needs, now)
    };
    let mut status = ContainerStatus { name: name.to_owned(), ..ContainerStatus::default() };
    status.last_state = Some(ContainerState::default());
    let Some(container) = newest else {
        let waits = waits.unwrap_or_else(|| not_started(state, init));
        status.state = Some(ContainerState { waiting: Some(waits), ..ContainerState::default() });
        status.started = Some(false);
        carry_over(state, name, &mut status);
        return status;
    };
    status.restart_count = i32::try_from(container.restarts).unwrap_or(i32::MAX);
    status.container_id = Some(container_id(&container.id));
    status.image.clone_from(&container.image);
    status.image_id.clone_from(&container.image_id);
    let running = container.alive();
    status.started = Some(running);
    let sidecar = specs(&state.pod).any(|(spec, init)| init && spec.name == name && is_sidecar(spec));
    // Readiness probes will have their say here.
    status.ready = if init && !sidecar { container.succeeded() } else { running };
    let last = observed.previous(name, &container.id);
    if let Some(last) = last {
        status.last_state = Some(ContainerState { terminated: Some(terminated(last)), ..Default::default() });
    }
    status.state = Some(match (running, waits) {
        (true, _) => {
            let started_at = time_of(container.started_ns).map(whole_second);
            ContainerState { running: Some(ContainerStateRunning { started_at }), ..Default::default() }
        }
        (false, Some(waits)) => {
            let terminated = Some(terminated(container));
            status.last_state = Some(ContainerState { terminated, ..Default::default() });
            ContainerState { waiting: Some(waits), ..Default::default() }
        }
        (false, None) => ContainerState { terminated: Some(terminated(container)), ..Default::default() },
    });
    status
}

/// A container the runtime lost (a reboot that wiped it) keeps its restart count and last end.
fn carry_over(state: &PodState, name: &str, status: &mut ContainerStatus) {
    let old = &state.memory.status;
    let all = old.init_container_statuses.iter().chain(&old.container_statuses).flatten();
    if let Some(old) = all.into_iter().find(|old| old.name == name) {
        status.restart_count = old.restart_count;
        let ended = old.state.as_ref().filter(|state| state.terminated.is_some());
        if let Some(last) = ended.or(old.last_state.as_ref()) {
            status.last_state = Some(last.clone());
        }
    }
}

fn not_started(state: &PodState, init: bool) -> ContainerStateWaiting {
    let has_init = specs(&state.pod).any(|(_, init)| init);
    let reason = if has_init && !init { "PodInitializing" } else { "ContainerCreating" };
    ContainerStateWaiting { reason: Some(reason.to_owned()), message: None }
}

/// Why a container that should run does not, most telling reason first.
fn waiting(
    state: &PodState,
    name: &str,
    init: bool,
    newest: Option<&Container>,
    needs: &Needs,
    now: Timestamp,
) -> Option<ContainerStateWaiting> {
    let due = needs.start.iter().any(|n| n == name);
    if newest.is_some_and(Container::alive) || !(due || needs.later.iter().any(|n| n == name)) {
        return None;
    }
    let say = |reason: &str, message: String| {
        Some(ContainerStateWaiting { reason: Some(reason.to_owned()), message: Some(message) })
    };
    if let Some(held) = &state.memory.held {
        return say(held.reason, held.message.clone());
    }
    if let Some(memory) = state.memory.containers.get(name).filter(|_| due) {
        if let ImageState::Failed { reason, message } = &memory.image {
            let fresh = memory.pulls.age(now).is_none_or(|age| age < PULL_ERROR_SHOWN);
            if reason != "ErrImagePull" || fresh {
                return say(reason, message.clone());
            }
            let spec = specs(&state.pod).find(|(spec, _)| spec.name == name);
            let image = spec.and_then(|(spec, _)| spec.image.as_deref()).unwrap_or_default();
            return say(
                "ImagePullBackOff",
                format!("Back-off pulling image \"{image}\": {reason}: {message}"),
            );
        }
        if let Some((pause, _)) = state.crash_pause(name, now) {
            let pod = full_name(&state.pod);
            let text =
                format!("back-off {} restarting failed container={name} pod={pod}", go_duration(pause));
            return say("CrashLoopBackOff", text);
        }
        if let Some((reason, message)) = &memory.error {
            return say(reason, message.clone());
        }
    }
    if newest.is_some() {
        return None; // it ended and starts again at once: its end is what there is to say
    }
    Some(not_started(state, init))
}

fn terminated(container: &Container) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: Some(container_id(&container.id)),
        exit_code: container.exit_code,
        reason: Some(match container.reason.as_str() {
            "" if container.exit_code == 0 => "Completed".to_owned(),
            "" => "Error".to_owned(),
            reason => reason.to_owned(),
        }),
        message: Some(container.message.clone()).filter(|message| !message.is_empty()),
        started_at: Some(whole_second(time_of(container.started_ns).unwrap_or(Timestamp::UNIX_EPOCH))),
        finished_at: Some(whole_second(time_of(container.finished_ns).unwrap_or(Timestamp::UNIX_EPOCH))),
        signal: None,
    }
}

fn container_id(id: &str) -> String {
    format!("containerd://{id}")
}

/// Go's `time.Duration` text of whole seconds: `10s`, `2m40s`, `5m0s`.
fn go_duration(pause: Duration) -> String {
    match pause.as_secs() {
        secs if secs < 60 => format!("{secs}s"),
        secs => format!("{}m{}s", secs / 60, secs % 60),
    }
}

fn conditions(
    state: &PodState,
    phase: &str,
    needs: &Needs,
    init: &[ContainerStatus],
    main: &[ContainerStatus],
    now: Timestamp,
) -> Vec<PodCondition> {
    let mut list = Vec::new();
    let mut add = |kind: &str, ok: bool, reason: Option<&str>, message: Option<String>| {
        list.push(condition(&state.memory.status, kind, ok, reason, message, now));
    };
    let sandbox_up = state.observed.live().is_some() && !state.ending();
    add("PodReadyToStartContainers", sandbox_up, None, None);

    let undone: Vec<&str> =
        init.iter().filter(|status| !init_done(state, status)).map(|s| s.name.as_str()).collect();
    let main_seen = main.iter().any(|status| status.container_id.is_some());
    if phase == "Succeeded" {
        add("Initialized", true, Some("PodCompleted"), None);
    } else if undone.is_empty() || main_seen || needs.initialized && phase == "Running" {
        add("Initialized", true, None, None);
    } else {
        let text = format!("containers with incomplete status: [{}]", undone.join(" "));
        add("Initialized", false, Some("ContainersNotInitialized"), Some(text));
    }

    let sidecars = init.iter().zip(specs(&state.pod)).filter(|(_, (spec, _))| is_sidecar(spec));
    let serving = sidecars.map(|(status, _)| status).chain(main);
    let unready: Vec<&str> = serving.filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    let (reason, message) = match phase {
        "Succeeded" => (Some("PodCompleted"), None),
        "Failed" => (Some("PodFailed"), None),
        _ if unready.is_empty() => (None, None),
        _ => {
            let text = format!("containers with unready status: [{}]", unready.join(" "));
            (Some("ContainersNotReady"), Some(text))
        }
    };
    let ready = reason.is_none();
    let missing = if ready { unmet_gates(&state.pod) } else { Vec::new() };
    match missing.is_empty() {
        true => add("Ready", ready, reason, message.clone()),
        false => {
            let text = format!(
                "corresponding condition of pod readiness gate \"{}\" does not exist.",
                missing.join(", ")
            );
            add("Ready", false, Some("ReadinessGatesNotReady"), Some(text));
        }
    }
    add("ContainersReady", ready, reason, message);
    add("PodScheduled", true, None, None);
    list
}

fn init_done(state: &PodState, status: &ContainerStatus) -> bool {
    let sidecar = specs(&state.pod).any(|(spec, _)| spec.name == status.name && is_sidecar(spec));
    if sidecar { status.started == Some(true) } else { status.ready }
}

/// Readiness gates whose condition is not True on the stored pod.
fn unmet_gates(pod: &Pod) -> Vec<&str> {
    let gates = pod.spec.as_ref().and_then(|spec| spec.readiness_gates.as_deref()).unwrap_or_default();
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let met = |kind: &str| conditions.iter().any(|c| c.type_ == kind && c.status == "True");
    gates.iter().map(|gate| gate.condition_type.as_str()).filter(|kind| !met(kind)).collect()
}

fn condition(
    old: &PodStatus,
    kind: &str,
    ok: bool,
    reason: Option<&str>,
    message: Option<String>,
    now: Timestamp,
) -> PodCondition {
    let status = if ok { "True" } else { "False" };
    let before = old.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == status);
    let since = before.and_then(|c| c.last_transition_time.clone());
    PodCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.map(str::to_owned),
        message,
        last_transition_time: Some(since.unwrap_or_else(|| whole_second(now))),
        ..PodCondition::default()
    }
}
