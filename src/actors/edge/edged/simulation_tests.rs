//! A pod's plan against a runtime that fails, loses and crashes things in any order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::json;

use super::action::{Action, Outcome};
use super::backoff::after;
use super::fixtures;
use super::observed::{Container, Life, Observed, Sandbox};
use super::plan::{natural_end, plan};
use super::state::{PodState, specs};
use super::status::{Surroundings, status};

/// The pod, its worker's state, and what really runs.
struct World {
    state: PodState,
    real: Observed,
    in_flight: Vec<Action>,
    now: Timestamp,
    ids: u64,
    generation: u32,
    torn_down: bool,
    confirmed: u32,
}

fn hashes(pod: &Pod, generation: u32) -> BTreeMap<String, String> {
    specs(pod).map(|(spec, _)| (spec.name.clone(), format!("{}-{generation}", spec.name))).collect()
}

impl World {
    fn new(policy: &str, init: bool) -> Self {
        let init = match init {
            true => {
                json!([{"name": "first", "image": "i"}, {"name": "side", "image": "i", "restartPolicy": "Always"}])
            }
            false => json!([]),
        };
        let spec = json!({
            "restartPolicy": policy,
            "initContainers": init,
            "containers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}],
        });
        let pod = Arc::new(fixtures::pod(json!({"spec": spec})));
        let now = Timestamp::from_second(1_800_000_000).expect("time");
        let state = PodState::new(Arc::clone(&pod), hashes(&pod, 0), Observed::default(), 0.5, now);
        Self {
            state,
            real: Observed::default(),
            in_flight: Vec::new(),
            now,
            ids: 0,
            generation: 0,
            torn_down: false,
            confirmed: 0,
        }
    }

    /// As the worker does after everything that may change the decision.
    fn tick(&mut self) {
        self.state.settle(self.now);
        if let Some(terminal) = natural_end(&self.state) {
            self.state.memory.terminal = Some(terminal);
        }
        self.state.note_backoffs(self.now);
        self.state.memory.status = status(&self.state, &Surroundings::default(), self.now);
        for action in plan(&self.state, self.now).actions {
            self.state.begin(&action, self.now);
            self.in_flight.push(action);
        }
        self.state.notes.clear();
    }

    /// The runtime carries out an action; `None` when it refuses.
    fn execute(&mut self, action: &Action) -> Option<Outcome> {
        self.ids += 1;
        let ids = i64::try_from(self.ids).expect("small");
        Some(match action {
            Action::RunSandbox { attempt } => {
                if self.real.sandboxes.iter().any(|s| s.attempt == *attempt) {
                    return None; // the name is reserved
                }
                let ips = vec!["10.0.0.9".to_owned()];
                let id = format!("s{ids}");
                let sandbox = Sandbox { id, attempt: *attempt, ready: true, created_ns: ids, ips };
                self.real.sandboxes.push(sandbox.clone());
                Outcome::SandboxRunning(sandbox)
            }
            Action::PrepareVolumes => Outcome::VolumesReady,
            Action::EnsureImage { container } => Outcome::ImageReady {
                container: container.clone(),
                image: "i".to_owned(),
                image_ref: "sha256:i".to_owned(),
            },
            Action::Start { container, restarts, sandbox, .. } => {
                let ready = self.real.sandboxes.iter().any(|s| s.id == sandbox.id && s.ready);
                let here = |c: &Container| c.name == *container && c.sandbox_id == sandbox.id;
                if !ready || self.real.containers.iter().any(|c| here(c) && c.restarts == *restarts) {
                    return None;
                }
                let live = self.real.containers.iter().any(|c| c.name == *container && c.alive());
                assert!(!live, "a second live container {container}");
                let container = Container {
                    id: format!("c{ids}"),
                    sandbox_id: sandbox.id.clone(),
                    name: container.clone(),
                    restarts: *restarts,
                    hash: format!("{container}-{}", self.generation),
                    life: Life::Running,
                    created_ns: ids,
                    started_ns: ids,
                    finished_ns: 0,
                    exit_code: 0,
                    reason: String::new(),
                    message: String::new(),
                    image: "i".to_owned(),
                    image_id: "sha256:i".to_owned(),
                };
                self.real.containers.push(container.clone());
                Outcome::Started(container)
            }
            Action::Kill { id, .. } => {
                self.exit(|c| c.id == *id, 143);
                match self.real.containers.iter().find(|c| c.id == *id) {
                    Some(container) => Outcome::Killed(Box::new(container.clone())),
                    None => Outcome::Gone { id: id.clone() },
                }
            }
            Action::StopSandbox { id } => {
                self.exit(|c| c.sandbox_id == *id, 137);
                self.real.sandboxes.iter_mut().filter(|s| s.id == *id).for_each(|s| s.ready = false);
                Outcome::SandboxStopped { id: id.clone() }
            }
            Action::RemoveSandbox { id } | Action::RemoveContainer { id, .. } => {
                self.real.forget(id);
                Outcome::Gone { id: id.clone() }
            }
            Action::TearDown { all } => {
                assert!(!self.real.any_alive(), "volumes go while something runs");
                self.torn_down = *all;
                Outcome::TornDown { all: *all, failed: None }
            }
            Action::Confirm => {
                assert!(!self.real.any_alive() && self.torn_down, "confirmed too early");
                self.confirmed += 1;
                Outcome::Confirmed { ok: true }
            }
        })
    }

    fn refused(action: &Action) -> Outcome {
        let message = "it failed".to_owned();
        match action {
            Action::RunSandbox { .. } => Outcome::SandboxFailed { message },
            Action::PrepareVolumes => Outcome::VolumesFailed { message },
            Action::EnsureImage { container } => Outcome::ImageFailed {
                container: container.clone(),
                image: "i".to_owned(),
                reason: "ErrImagePull".to_owned(),
                message,
            },
            Action::Start { container, .. } => Outcome::StartFailed {
                container: container.clone(),
                reason: "CreateContainerError".to_owned(),
                message,
                left: None,
            },
            Action::Kill { id, .. }
            | Action::StopSandbox { id }
            | Action::RemoveSandbox { id }
            | Action::RemoveContainer { id, .. } => Outcome::CallFailed { id: id.clone() },
            Action::TearDown { all } => Outcome::TornDown { all: *all, failed: Some(message) },
            Action::Confirm => Outcome::Confirmed { ok: false },
        }
    }

    /// Ends the `n`th action under way: done, refused, or done with the answer lost.
    fn complete(&mut self, n: usize, how: u8) {
        if self.in_flight.is_empty() {
            return;
        }
        let action = self.in_flight.remove(n % self.in_flight.len());
        let outcome = match how {
            0 => self.execute(&action).unwrap_or_else(|| Self::refused(&action)),
            1 => Self::refused(&action),
            _ => {
                self.execute(&action);
                Self::refused(&action)
            }
        };
        let listed = matches!(
            outcome,
            Outcome::SandboxFailed { .. } | Outcome::StartFailed { .. } | Outcome::CallFailed { .. }
        );
        self.state.end(&action.work(), outcome, self.now);
        if listed {
            self.state.observe(self.real.clone(), self.now);
        }
    }

    fn exit(&mut self, which: impl Fn(&Container) -> bool, code: i32) {
        let (ids, which) =
            (i64::try_from(self.ids).expect("small"), |c: &&mut Container| c.alive() && which(c));
        for container in self.real.containers.iter_mut().filter(which) {
            (container.life, container.exit_code, container.finished_ns) = (Life::Exited, code, ids);
        }
    }

    /// The worker panicked: what was under way may have happened or not.
    fn restart(&mut self, happened: bool) {
        for action in std::mem::take(&mut self.in_flight) {
            if happened {
                self.execute(&action);
            }
        }
        let mut pod = Pod::clone(&self.state.pod);
        pod.status = Some(self.state.memory.status.clone());
        let (hashes, removed) = (self.state.hashes.clone(), self.state.memory.removed);
        let (pod, real) = (Arc::new(pod), self.real.clone());
        self.state = PodState::new(pod, hashes, real, 0.5, self.now);
        self.state.memory.removed = removed;
    }

    fn delete(&mut self) {
        let mut pod = Pod::clone(&self.state.pod);
        pod.metadata.deletion_timestamp = Some(Time(after(self.now, Duration::from_secs(30))));
        pod.metadata.deletion_grace_period_seconds = Some(30);
        let hashes = self.state.hashes.clone();
        self.state.update(Arc::new(pod), hashes);
    }

    fn change(&mut self) {
        // A start under way uses the old spec: it must end before the world speaks the new hash.
        self.in_flight_first();
        self.generation += 1;
        let pod = Arc::clone(&self.state.pod);
        let hashes = hashes(&pod, self.generation);
        self.state.update(pod, hashes);
    }

    fn in_flight_first(&mut self) {
        while !self.in_flight.is_empty() {
            self.complete(0, 0);
        }
    }

    fn step(&mut self, op: u8, n: u8) {
        let pick = usize::from(n);
        match op {
            0..=6 => self.complete(pick, 0),
            7 => self.complete(pick, 1),
            8 => self.complete(pick, 2),
            9 | 10 => {
                let alive: Vec<String> =
                    self.real.containers.iter().filter(|c| c.alive()).map(|c| c.id.clone()).collect();
                if let Some(id) = alive.get(pick % alive.len().max(1)) {
                    self.exit(|c| c.id == *id, i32::from(n % 3));
                    self.state.observe(self.real.clone(), self.now);
                }
            }
            11 => {
                self.real.sandboxes.iter_mut().for_each(|s| s.ready = false);
                self.exit(|_| true, 255);
                self.state.observe(self.real.clone(), self.now);
            }
            12 => self.now = after(self.now, Duration::from_secs(u64::from(n))),
            13 => self.restart(n.is_multiple_of(2)),
            14 => self.change(),
            15 if n < 24 => self.delete(),
            15 if n < 32 => self.state.memory.removed = true,
            15 => {
                // The runtime's records are wiped.
                self.real = Observed::default();
                self.state.observe(Observed::default(), self.now);
            }
            _ => {}
        }
        self.tick();
        for name in ["first", "side", "a", "b"] {
            let live = self.real.containers.iter().filter(|c| c.name == name && c.alive()).count();
            assert!(live <= 1, "{live} live containers {name}");
        }
    }

    /// No more faults: everything succeeds and time passes.
    fn calm(&mut self) {
        for _ in 0..400 {
            // Init containers do their part and end.
            if self.real.containers.iter().any(|c| c.name == "first" && c.alive()) {
                self.exit(|c| c.name == "first", 0);
                self.state.observe(self.real.clone(), self.now);
            }
            self.tick();
            if self.in_flight.is_empty() {
                match plan(&self.state, self.now).wake {
                    Some(wait) => self.now = after(self.now, wait),
                    None => break,
                }
            } else {
                self.complete(0, 0);
            }
        }
        self.tick();
        assert!(self.in_flight.is_empty(), "never comes to rest: {:?}", self.in_flight);
    }

    fn running(&self, name: &str) -> bool {
        let hash = format!("{name}-{}", self.generation);
        let mut live = self.real.containers.iter().filter(|c| c.name == name && c.alive());
        live.next().is_some_and(|c| c.hash == hash)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_history_converges(
        policy in prop::sample::select(vec!["Always", "OnFailure", "Never"]),
        init in any::<bool>(),
        ops in prop::collection::vec((0u8..16, any::<u8>()), 0..120),
    ) {
        let mut world = World::new(policy, init);
        world.tick();
        for (op, n) in ops {
            world.step(op, n);
        }
        world.calm();
        let ended = world.state.ending();
        if ended {
            prop_assert!(world.real.is_empty(), "left behind: {:?}", world.real);
            prop_assert!(world.torn_down);
            prop_assert!(world.state.memory.removed || world.confirmed > 0);
            prop_assert!(!world.state.memory.removed || world.state.finished());
            return Ok(());
        }
        let ready = world.real.sandboxes.iter().filter(|s| s.ready).count();
        let terminal = world.state.memory.terminal.is_some();
        let phase = world.state.memory.status.phase.clone().unwrap_or_default();
        if terminal {
            prop_assert!(policy != "Always");
            prop_assert!(!world.real.any_alive());
            prop_assert!(phase == "Succeeded" || phase == "Failed", "{phase}");
            prop_assert_eq!(ready, 0);
        } else {
            prop_assert_eq!(ready, 1);
            prop_assert_eq!(phase, "Running");
            for name in ["a", "b"] {
                let done = world.state.observed.newest(name).is_some_and(Container::exited) && policy != "Always";
                prop_assert!(world.running(name) || done, "{name} does not run: {:?}", world.real);
            }
            prop_assert!(!init || world.running("side"));
        }
        for name in ["first", "side", "a", "b"] {
            let dead = world.real.containers.iter().filter(|c| c.name == name && !c.alive()).count();
            prop_assert!(dead <= 1, "{dead} dead containers {name} are kept");
        }
    }
}
