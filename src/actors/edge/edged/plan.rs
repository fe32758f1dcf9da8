//! What to do next for one pod. Pure: `(state, now) -> actions`, so every order of events can be tried.
//!
//! The rules are the kubelet's (kubernetes.io: "Pod lifecycle", "Init containers", "Sidecar
//! containers"). Hooks (`postStart`, `preStop`) and probes will enter here: a hook as an action
//! between start and running or before a kill, a probe as one more reason to kill.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Container as ContainerSpec;

use super::action::{Action, Why, Work};
use super::observed::{Container, Life, Sandbox};
use super::state::{ImageState, PodState, Terminal, Volumes, is_sidecar, restart_policy, specs};

/// How long a failed pull shows its own error before it shows the back-off.
pub const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);

/// Actions to begin now, and when to look again if nothing happens before.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Plan {
    pub actions: Vec<Action>,
    pub wake: Option<Duration>,
}

impl Plan {
    fn wake_in(&mut self, wait: Duration) {
        self.wake = Some(self.wake.map_or(wait, |had| had.min(wait)));
    }
}

/// Which containers should start, as far as the restart rules say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// In order of starting. Back-off is not considered.
    pub start: Vec<String>,
    /// Waiting for their turn behind init containers: their images may be fetched already.
    pub later: Vec<String>,
    /// Every init container has done its part.
    pub initialized: bool,
    /// Nothing will ever start again and nothing runs.
    pub over: bool,
}

/// Decides what to do. Actions under way are not repeated.
#[must_use]
pub fn plan(state: &PodState, now: Timestamp) -> Plan {
    let mut planner = Planner { state, now, plan: Plan::default() };
    if state.ending() {
        planner.end();
    } else if state.memory.terminal.is_some() {
        planner.finish();
    } else if state.memory.held.is_some() {
        planner.deadline(); // nothing starts, and what runs is left alone
    } else {
        planner.run();
    }
    planner.plan.actions.retain(|action| !state.busy.contains(&action.work()));
    planner.plan
}

/// Is the pod over although nobody stopped it? `Some` is what to remember.
#[must_use]
pub fn natural_end(state: &PodState) -> Option<Terminal> {
    let over = !state.ending() && state.memory.terminal.is_none() && needs(state).over;
    over.then(Terminal::default)
}

/// Applies init order, sidecars and restart policy to what is observed.
#[must_use]
pub fn needs(state: &PodState) -> Needs {
    let (pod, observed) = (&state.pod, &state.observed);
    let policy = restart_policy(pod);
    let live = observed.live();
    let mut needs = Needs { initialized: true, ..Needs::default() };
    if live.is_none() && policy == "Never" && observed.containers.iter().any(|c| c.life != Life::Created) {
        // The kubelet makes no second sandbox for a pod that may not restart anything.
        needs.over = !observed.any_alive();
        return needs;
    }
    let here = |name: &str| live.and_then(|sandbox| observed.newest_in(&sandbox.id, name));
    let main_seen = specs(pod).any(|(spec, init)| !init && here(&spec.name).is_some());
    let mut blocked = false;
    let mut init_failed = false;
    for (spec, _) in specs(pod).filter(|(_, init)| *init) {
        let container = here(&spec.name);
        if is_sidecar(spec) {
            let up = container.is_some_and(Container::alive);
            if !up && !blocked {
                needs.start.push(spec.name.clone());
            }
            if !up && !main_seen {
                blocked = true;
            }
            continue;
        }
        if main_seen {
            continue;
        }
        if blocked {
            needs.later.push(spec.name.clone());
            continue;
        }
        match container {
            Some(c) if c.succeeded() => {}
            Some(c) if c.exited() && policy == "Never" && !state.replacing(&spec.name) => {
                init_failed = true;
                blocked = true;
            }
            Some(c) if c.alive() => blocked = true,
            _ => {
                needs.start.push(spec.name.clone());
                blocked = true;
            }
        }
    }
    needs.initialized = !blocked;
    let mut all_done = true;
    for (spec, _) in specs(pod).filter(|(_, init)| !*init) {
        let start = if live.is_some() {
            here(&spec.name).is_none_or(|c| should_restart(state, c, policy))
        } else {
            // A new sandbox starts everything but what has succeeded already.
            !(policy == "OnFailure" && observed.newest(&spec.name).is_some_and(Container::succeeded))
        };
        let alive = here(&spec.name).is_some_and(Container::alive);
        all_done &= !start && !alive;
        match (start, blocked) {
            (true, false) => needs.start.push(spec.name.clone()),
            (true, true) => needs.later.push(spec.name.clone()),
            (false, _) => {}
        }
    }
    needs.over = init_failed || all_done;
    if needs.over {
        needs.start.clear();
        needs.later.clear();
    }
    needs
}

fn should_restart(state: &PodState, container: &Container, policy: &str) -> bool {
    match container.life {
        Life::Running | Life::Unknown => false,
        Life::Created => true,
        Life::Exited => match policy {
            "Never" => state.replacing(&container.name),
            "OnFailure" => container.exit_code != 0 || state.replacing(&container.name),
            _ => true,
        },
    }
}

struct Planner<'a> {
    state: &'a PodState,
    now: Timestamp,
    plan: Plan,
}

impl PodState {
    fn replacing(&self, name: &str) -> bool {
        self.memory.containers.get(name).is_some_and(|memory| memory.replace)
    }

    /// The crash-loop pause in force for a container: whole pause and what is left of it.
    #[must_use]
    pub fn crash_pause(&self, name: &str, now: Timestamp) -> Option<(Duration, Duration)> {
        let memory = self.memory.containers.get(name).filter(|memory| !memory.replace)?;
        let exited = self.observed.newest(name).filter(|c| c.exited())?;
        memory.crash.blocked(*self.memory.exits.get(&exited.id)?, now)
    }

    /// Notes a BackOff event for every exit that has to wait and was not noted yet.
    pub fn note_backoffs(&mut self, now: Timestamp) {
        if self.ending() || self.memory.terminal.is_some() || self.memory.held.is_some() {
            return;
        }
        for name in needs(self).start {
            let Some(exited) = self.observed.newest(&name).map(|c| c.id.clone()) else { continue };
            if self.crash_pause(&name, now).is_some() && self.container(&name).noted_exit != exited {
                let pod = super::state::full_name(&self.pod);
                let text = format!("Back-off restarting failed container {name} in pod {pod}");
                self.note(true, "BackOff", text, Some(&name));
                self.container(&name).noted_exit = exited;
            }
        }
    }
}

impl Planner<'_> {
    fn run(&mut self) {
        let state = self.state;
        let needs = needs(state);
        let live = state.observed.live();
        self.deadline();
        self.collect(live);
        self.replace_changed(live);
        if !matches!(state.memory.volumes, Volumes::Ready) {
            self.volumes();
        }
        if needs.start.is_empty() {
            return;
        }
        for name in needs.start.iter().chain(&needs.later) {
            self.image(name);
        }
        match live {
            None => self.sandbox(),
            Some(sandbox) => self.start(sandbox, &needs.start),
        }
    }

    /// The next deadline of the pod itself.
    fn deadline(&mut self) {
        let limit = self.state.pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        if let (Some(limit), Some(start)) = (limit, self.state.memory.started_at) {
            let limit = Duration::from_secs(u64::try_from(limit).unwrap_or_default());
            self.plan.wake_in(limit.saturating_sub(super::backoff::since(self.now, start)));
        }
    }

    /// Old sandboxes and dead containers: the newest dead one of each name stays for its logs.
    fn collect(&mut self, live: Option<&Sandbox>) {
        let observed = &self.state.observed;
        let live_id = live.map(|s| s.id.as_str()).unwrap_or_default();
        let mut kept: BTreeSet<&str> = BTreeSet::new();
        let names: BTreeSet<&str> = observed.containers.iter().map(|c| c.name.as_str()).collect();
        let working = |name: &str| self.state.busy.contains(&Work::Start(name.to_owned()));
        let mut remove = Vec::new();
        let mut kill = Vec::new();
        for name in names {
            let newest_dead = observed.previous(name, "").map(|c| c.id.as_str()).unwrap_or_default();
            for container in observed.containers.iter().filter(|c| c.name == name) {
                let stale = container.alive() && container.sandbox_id != live_id;
                let lost = container.life == Life::Unknown;
                let superseded = container.exited() && container.id != newest_dead;
                let leftover = container.life == Life::Created && !working(name);
                if stale || lost {
                    kill.push((container.clone(), if lost { Why::Lost } else { Why::SandboxGone }));
                } else if (superseded && !working(name)) || leftover {
                    remove.push(container.clone());
                    continue;
                }
                kept.insert(container.sandbox_id.as_str());
            }
        }
        for (container, why) in kill {
            self.kill(&container, why);
        }
        for c in remove {
            self.call(
                &c.id.clone(),
                Action::RemoveContainer { id: c.id, name: c.name, restarts: c.restarts },
            );
        }
        for sandbox in observed.sandboxes.iter().filter(|s| s.id != live_id) {
            if sandbox.ready || !self.state.memory.stopped.contains(&sandbox.id) {
                self.call(&sandbox.id, Action::StopSandbox { id: sandbox.id.clone() });
            } else if !kept.contains(sandbox.id.as_str()) {
                self.call(&sandbox.id, Action::RemoveSandbox { id: sandbox.id.clone() });
            }
        }
    }

    /// Running containers whose spec is another one now.
    fn replace_changed(&mut self, live: Option<&Sandbox>) {
        let Some(live) = live else { return };
        for (spec, init) in specs(&self.state.pod) {
            let Some(container) = self.state.observed.newest_in(&live.id, &spec.name) else { continue };
            let wanted = self.state.hashes.get(&spec.name).map(String::as_str).unwrap_or_default();
            let changed = container.life == Life::Running && container.hash != wanted;
            if changed && (!init || is_sidecar(spec)) {
                self.kill(container, Why::SpecChanged);
            }
        }
    }

    fn volumes(&mut self) {
        if let Volumes::Failed { retry, .. } = &self.state.memory.volumes
            && let Some(wait) = retry.wait(self.now)
        {
            return self.plan.wake_in(wait);
        }
        self.plan.actions.push(Action::PrepareVolumes);
    }

    fn image(&mut self, name: &str) {
        let Some(memory) = self.state.memory.containers.get(name) else {
            return self.plan.actions.push(Action::EnsureImage { container: name.to_owned() });
        };
        if matches!(memory.image, ImageState::Ready(_)) {
            return;
        }
        // While the container waits anyway, its image is not asked for again and again.
        let crash = self.state.crash_pause(name, self.now).map(|(_, left)| left);
        let Some(wait) = memory.pulls.wait(self.now).max(crash).max(memory.tries.wait(self.now)) else {
            return self.plan.actions.push(Action::EnsureImage { container: name.to_owned() });
        };
        self.plan.wake_in(wait);
        if let Some(age) = memory.pulls.age(self.now)
            && age < PULL_ERROR_SHOWN
        {
            self.plan.wake_in(PULL_ERROR_SHOWN.saturating_sub(age));
        }
    }

    fn sandbox(&mut self) {
        let observed = &self.state.observed;
        let stopped = &self.state.memory.stopped;
        if observed.any_alive() || observed.sandboxes.iter().any(|s| !stopped.contains(&s.id)) {
            return; // `collect` clears them away first
        }
        if let Some(wait) = self.state.memory.sandbox.wait(self.now) {
            return self.plan.wake_in(wait);
        }
        let used = observed.newest_sandbox().map(|s| s.attempt.saturating_add(1)).unwrap_or_default();
        // A failed try may have left a reserved name that no list shows.
        let attempt = used.max(self.state.memory.sandbox.failures());
        self.plan.actions.push(Action::RunSandbox { attempt });
    }

    /// Starts the first container that may start: one at a time, in the order of the spec.
    fn start(&mut self, sandbox: &Sandbox, names: &[String]) {
        if !self.state.memory.mounted
            || self.state.busy.iter().any(|work| matches!(work, Work::Start(_)))
            || self.state.busy.contains(&Work::StopSandbox(sandbox.id.clone()))
        {
            return;
        }
        for name in names {
            let memory = self.state.memory.containers.get(name);
            if let Some((_, left)) = self.state.crash_pause(name, self.now) {
                self.plan.wake_in(left);
                continue;
            }
            if let Some(wait) = memory.and_then(|memory| memory.tries.wait(self.now)) {
                self.plan.wake_in(wait);
                continue;
            }
            let Some(ImageState::Ready(image_ref)) = memory.map(|memory| &memory.image) else { continue };
            let newest = self.state.observed.newest(name);
            if newest.is_some_and(|c| c.life == Life::Created || c.alive()) {
                continue; // a leftover, being removed or killed
            }
            self.plan.actions.push(Action::Start {
                container: name.clone(),
                restarts: self.state.memory.next_restarts.get(name).copied().unwrap_or_default(),
                image_ref: image_ref.clone(),
                sandbox: sandbox.clone(),
            });
            return;
        }
    }

    /// The pod is over but still there: nothing runs, its containers stay for their logs.
    fn finish(&mut self) {
        if self.state.observed.any_alive() {
            return self.kill_all();
        }
        self.collect(None);
        if !self.state.memory.unmounted {
            self.call("", Action::TearDown { all: false });
        }
    }

    /// Everything goes: containers with their grace, sandboxes, volumes; then the cloud is told.
    fn end(&mut self) {
        let state = self.state;
        if state.observed.any_alive() {
            return self.kill_all();
        }
        let starting = |work: &Work| matches!(work, Work::Start(_) | Work::Sandbox | Work::Volumes);
        if state.busy.iter().any(starting) {
            return; // its result has to go too
        }
        let mut released = true;
        for sandbox in &state.observed.sandboxes {
            if sandbox.ready || !state.memory.stopped.contains(&sandbox.id) {
                released = false;
                self.call(&sandbox.id, Action::StopSandbox { id: sandbox.id.clone() });
            }
        }
        if !released {
            return;
        }
        for sandbox in &state.observed.sandboxes {
            self.call(&sandbox.id, Action::RemoveSandbox { id: sandbox.id.clone() });
        }
        let orphan =
            |c: &&Container| state.observed.sandboxes.iter().all(|sandbox| sandbox.id != c.sandbox_id);
        for c in state.observed.containers.iter().filter(orphan) {
            let remove =
                Action::RemoveContainer { id: c.id.clone(), name: c.name.clone(), restarts: c.restarts };
            self.call(&c.id, remove);
        }
        // The pod's cgroup and folder can go only when its sandboxes are gone.
        if !state.memory.torn_down && state.observed.is_empty() {
            self.call("", Action::TearDown { all: true });
        }
        if state.memory.torn_down && !state.memory.removed && !state.memory.confirmed {
            match state.memory.confirm.wait(self.now) {
                Some(wait) => self.plan.wake_in(wait),
                None => self.plan.actions.push(Action::Confirm),
            }
        }
    }

    /// Containers first, sidecars after them in reverse order.
    fn kill_all(&mut self) {
        let sidecars: Vec<&ContainerSpec> =
            specs(&self.state.pod).filter(|(c, init)| *init && is_sidecar(c)).map(|(c, _)| c).collect();
        let is_sidecar = |c: &&Container| sidecars.iter().any(|spec| spec.name == c.name);
        let alive = || self.state.observed.containers.iter().filter(|c| c.alive());
        let mut turn: Vec<&Container> = alive().filter(|c| !is_sidecar(c)).collect();
        if turn.is_empty() {
            let last = sidecars.iter().rev().find(|spec| alive().any(|c| c.name == spec.name));
            turn = alive().filter(|c| last.is_some_and(|spec| spec.name == c.name)).collect();
        }
        for container in turn {
            self.kill(container, Why::PodEnds);
        }
    }

    fn kill(&mut self, container: &Container, why: Why) {
        let by = self.state.memory.kill_by.map_or(0, Timestamp::as_second);
        let under_way = self.state.busy.iter().any(|work| match work {
            Work::Kill(id, had) => *id == container.id && (by == 0 || (*had != 0 && *had <= by)),
            _ => false,
        });
        if under_way {
            return;
        }
        let grace_secs = match why {
            Why::PodEnds => self.state.grace_left_secs(self.now),
            Why::SpecChanged | Why::SandboxGone | Why::Lost => self.state.own_grace_secs().max(1),
        };
        let (id, name) = (container.id.clone(), container.name.clone());
        self.call(&container.id, Action::Kill { id, name, grace_secs, by, why });
    }

    /// A runtime call about `id`, unless the last one failed just now.
    fn call(&mut self, id: &str, action: Action) {
        match self.state.memory.calls.get(id).and_then(|retry| retry.wait(self.now)) {
            Some(wait) => self.plan.wake_in(wait),
            None => self.plan.actions.push(action),
        }
    }
}
