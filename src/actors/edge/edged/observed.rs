//! What the runtime has of one pod, in our words.

use jiff::Timestamp;
use k8s_cri::v1;

/// Sandboxes and containers of one pod. No order is promised.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Observed {
    pub sandboxes: Vec<Sandbox>,
    pub containers: Vec<Container>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    pub id: String,
    pub attempt: u32,
    pub ready: bool,
    /// Unix nanoseconds.
    pub created_ns: i64,
    /// Pod addresses, the primary first. Empty with host network.
    pub ips: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// Created, never started.
    Created,
    Running,
    Exited,
    /// The runtime does not know: it may run.
    Unknown,
}

impl Life {
    /// From CRI's number.
    #[must_use]
    pub fn of(state: i32) -> Self {
        match v1::ContainerState::try_from(state) {
            Ok(v1::ContainerState::ContainerCreated) => Self::Created,
            Ok(v1::ContainerState::ContainerRunning) => Self::Running,
            Ok(v1::ContainerState::ContainerExited) => Self::Exited,
            Ok(v1::ContainerState::ContainerUnknown) | Err(_) => Self::Unknown,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    pub id: String,
    pub sandbox_id: String,
    pub name: String,
    /// Restarts before this one (CRI `metadata.attempt`).
    pub restarts: u32,
    /// Hash of the container's spec when it was created.
    pub hash: String,
    pub life: Life,
    pub created_ns: i64,
    pub started_ns: i64,
    pub finished_ns: i64,
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, ...
    pub reason: String,
    pub message: String,
    /// As the runtime resolved it.
    pub image: String,
    pub image_id: String,
}

impl Container {
    /// Reads a runtime's answer. `sandbox_id` is not part of it; `hash` is our annotation.
    #[must_use]
    pub fn read(status: v1::ContainerStatus, sandbox_id: &str, hash: String) -> Self {
        let metadata = status.metadata.unwrap_or_default();
        Self {
            id: status.id,
            sandbox_id: sandbox_id.to_owned(),
            name: metadata.name,
            restarts: metadata.attempt,
            hash,
            life: Life::of(status.state),
            created_ns: status.created_at,
            started_ns: status.started_at,
            finished_ns: status.finished_at,
            exit_code: status.exit_code,
            reason: status.reason,
            message: status.message,
            image: status.image.map(|image| image.image).unwrap_or_default(),
            image_id: status.image_ref,
        }
    }

    /// May a process of it be alive?
    #[must_use]
    pub fn alive(&self) -> bool {
        matches!(self.life, Life::Running | Life::Unknown)
    }

    #[must_use]
    pub fn exited(&self) -> bool {
        self.life == Life::Exited
    }

    /// Ended with exit code 0.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        self.exited() && self.exit_code == 0
    }

    fn age_key(&self) -> (u32, i64) {
        (self.restarts, self.created_ns)
    }
}

impl Sandbox {
    /// Reads a runtime's answer.
    #[must_use]
    pub fn read(status: v1::PodSandboxStatus) -> Self {
        let network = status.network.unwrap_or_default();
        let more = network.additional_ips.into_iter().map(|ip| ip.ip);
        Self {
            id: status.id,
            attempt: status.metadata.map(|metadata| metadata.attempt).unwrap_or_default(),
            ready: status.state == v1::PodSandboxState::SandboxReady as i32,
            created_ns: status.created_at,
            ips: std::iter::once(network.ip).chain(more).filter(|ip| !ip.is_empty()).collect(),
        }
    }
}

impl Observed {
    /// The newest ready sandbox.
    #[must_use]
    pub fn live(&self) -> Option<&Sandbox> {
        self.sandboxes.iter().filter(|s| s.ready).max_by_key(|s| (s.attempt, s.created_ns))
    }

    /// The newest sandbox, ready or not.
    #[must_use]
    pub fn newest_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.iter().max_by_key(|s| (s.attempt, s.created_ns))
    }

    /// The newest container of this name, in any sandbox.
    #[must_use]
    pub fn newest(&self, name: &str) -> Option<&Container> {
        self.containers.iter().filter(|c| c.name == name).max_by_key(|c| c.age_key())
    }

    /// The newest container of this name in one sandbox.
    #[must_use]
    pub fn newest_in(&self, sandbox_id: &str, name: &str) -> Option<&Container> {
        let here = |c: &&Container| c.sandbox_id == sandbox_id && c.name == name;
        self.containers.iter().filter(here).max_by_key(|c| c.age_key())
    }

    /// The newest exited container of this name other than `than`.
    #[must_use]
    pub fn previous(&self, name: &str, than: &str) -> Option<&Container> {
        let here = |c: &&Container| c.name == name && c.id != than && c.exited();
        self.containers.iter().filter(here).max_by_key(|c| c.age_key())
    }

    #[must_use]
    pub fn any_alive(&self) -> bool {
        self.containers.iter().any(Container::alive)
    }

    /// Puts a newer view of one container in place of the older one. Looks can overtake each
    /// other, but a container never goes back: what has exited stays so.
    pub fn put_container(&mut self, mut container: Container) {
        if let Some(old) = self.containers.iter().find(|c| c.id == container.id) {
            let back = old.exited() || (old.life == Life::Running && container.life == Life::Created);
            if back && !container.exited() {
                return;
            }
            if container.sandbox_id.is_empty() {
                container.sandbox_id.clone_from(&old.sandbox_id);
            }
        }
        self.containers.retain(|c| c.id != container.id);
        self.containers.push(container);
    }

    pub fn put_sandbox(&mut self, sandbox: Sandbox) {
        self.sandboxes.retain(|s| s.id != sandbox.id);
        self.sandboxes.push(sandbox);
    }

    /// The runtime knows this id no more. A sandbox takes its containers with it.
    pub fn forget(&mut self, id: &str) {
        self.sandboxes.retain(|s| s.id != id);
        self.containers.retain(|c| c.id != id && c.sandbox_id != id);
    }

    /// Is this the id of a container or sandbox here?
    #[must_use]
    pub fn knows(&self, id: &str) -> bool {
        self.sandboxes.iter().any(|s| s.id == id) || self.containers.iter().any(|c| c.id == id)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }
}

/// Unix nanoseconds as a time; `None` for zero (containerd's "never").
#[must_use]
pub fn time_of(ns: i64) -> Option<Timestamp> {
    if ns <= 0 {
        return None;
    }
    Timestamp::from_nanosecond(i128::from(ns)).ok()
}
