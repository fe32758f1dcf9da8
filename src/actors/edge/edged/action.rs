//! What a plan asks for, how it ended, and the events told about it. Data only.

use super::observed::{Container, Sandbox};

/// One action under way. Two of the same key never run at once.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    Sandbox,
    Volumes,
    Image(String),
    Start(String),
    /// Container id and the second it must be dead by.
    Kill(String, i64),
    StopSandbox(String),
    Remove(String),
    TearDown,
    Confirm,
}

/// One thing to do, complete.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    RunSandbox {
        attempt: u32,
    },
    PrepareVolumes,
    EnsureImage {
        container: String,
    },
    /// Creates and starts.
    Start {
        container: String,
        restarts: u32,
        image_ref: String,
        sandbox: Sandbox,
    },
    Kill {
        id: String,
        name: String,
        grace_secs: i64,
        by: i64,
        why: Why,
    },
    StopSandbox {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    RemoveContainer {
        id: String,
        name: String,
        restarts: u32,
    },
    /// Volumes, and with `all` the pod's folder, logs and cgroup.
    TearDown {
        all: bool,
    },
    /// Final status, then the confirmation.
    Confirm,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The pod ends.
    PodEnds,
    /// The container's spec changed.
    SpecChanged,
    /// Its sandbox is gone.
    SandboxGone,
    /// The runtime lost track of it.
    Lost,
}

/// How an action ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    SandboxRunning(Sandbox),
    SandboxFailed {
        message: String,
    },
    VolumesReady,
    VolumesFailed {
        message: String,
    },
    /// `image` is the name that was asked for.
    ImageReady {
        container: String,
        image: String,
        image_ref: String,
    },
    ImageFailed {
        container: String,
        image: String,
        reason: String,
        message: String,
    },
    Started(Container),
    StartFailed {
        container: String,
        reason: String,
        message: String,
        left: Option<Box<Container>>,
    },
    Killed(Box<Container>),
    SandboxStopped {
        id: String,
    },
    Gone {
        id: String,
    },
    /// A runtime call about `id` failed; it is tried again.
    CallFailed {
        id: String,
    },
    /// `all`: folder, logs and cgroup too, not only the volumes.
    TornDown {
        all: bool,
        failed: Option<String>,
    },
    Confirmed {
        ok: bool,
    },
}

/// A Kubernetes event to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
    pub container: Option<String>,
}

impl Action {
    #[must_use]
    pub fn work(&self) -> Work {
        match self {
            Self::RunSandbox { .. } => Work::Sandbox,
            Self::PrepareVolumes => Work::Volumes,
            Self::EnsureImage { container } => Work::Image(container.clone()),
            Self::Start { container, .. } => Work::Start(container.clone()),
            Self::Kill { id, by, .. } => Work::Kill(id.clone(), *by),
            Self::StopSandbox { id } => Work::StopSandbox(id.clone()),
            Self::RemoveSandbox { id } | Self::RemoveContainer { id, .. } => Work::Remove(id.clone()),
            Self::TearDown { .. } => Work::TearDown,
            Self::Confirm => Work::Confirm,
        }
    }
}
