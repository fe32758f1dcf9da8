//! The state behind the fake runtime and its rules. No time, no faults.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use k8s_cri::v1;

use super::{Behaviour, FakeContainer, FakeSandbox};
use crate::cri::runtime::{CriError, CriErrorKind, ImageEvidence, ImageSignature};

#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) error: CriError,
    /// `RunPodSandbox` fails but its NOTREADY sandbox stays and holds the name.
    pub(super) leaves_sandbox: bool,
}

/// What is known of an image beyond its name.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    pub(super) digests: Vec<String>,
    pub(super) repository: String,
    pub(super) signatures: Vec<ImageSignature>,
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) next_id: u64,
    pub(super) down: bool,
    pub(super) sandboxes: BTreeMap<String, FakeSandbox>,
    pub(super) containers: BTreeMap<String, FakeContainer>,
    pub(super) images: BTreeMap<String, v1::Image>,
    /// By image id.
    pub(super) proofs: BTreeMap<String, Proofs>,
    pub(super) registry: BTreeMap<String, Result<(), String>>,
    pub(super) behaviours: HashMap<String, VecDeque<Behaviour>>,
    pub(super) faults: HashMap<&'static str, VecDeque<Fault>>,
    pub(super) delays: HashMap<&'static str, Duration>,
    pub(super) calls: Vec<(&'static str, String)>,
    pub(super) conditions: Vec<v1::RuntimeCondition>,
    pub(super) now: i64,
}

pub(super) fn error(call: &'static str, kind: CriErrorKind, message: impl Into<String>) -> CriError {
    CriError { call, kind, message: message.into() }
}

pub(super) fn image(name: &str) -> v1::Image {
    v1::Image {
        id: format!("sha256:{name}"),
        repo_tags: vec![name.to_owned()],
        size: 1_000_000,
        ..v1::Image::default()
    }
}

impl World {
    pub(super) fn tick(&mut self) -> i64 {
        self.now += 1_000_000;
        self.now
    }

    pub(super) fn id(&mut self, kind: &str) -> String {
        self.next_id += 1;
        format!("{kind}-{:04}", self.next_id)
    }

    pub(super) fn add_sandbox(
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

    pub(super) fn find_image(&self, name: &str) -> Option<&v1::Image> {
        self.images.get(name).or_else(|| self.images.values().find(|image| image.id == name))
    }

    /// Signatures only under the repository they were attached to.
    pub(super) fn evidence(&self, name: &str, signed_as: Option<&str>) -> Option<ImageEvidence> {
        let image = self.find_image(name)?;
        let proofs = self.proofs.get(&image.id);
        let signatures = match (proofs, signed_as) {
            (Some(proofs), Some(wanted)) if proofs.repository == wanted => proofs.signatures.clone(),
            _ => Vec::new(),
        };
        Some(ImageEvidence {
            id: image.id.clone(),
            names: image.repo_tags.clone(),
            digests: proofs.map(|proofs| proofs.digests.clone()).unwrap_or_default(),
            signatures,
        })
    }

    pub(super) fn add_container(
        &mut self,
        sandbox_id: String,
        config: v1::ContainerConfig,
    ) -> Result<String, CriError> {
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

    pub(super) fn start(&mut self, id: &str) -> Result<Behaviour, CriError> {
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

    pub(super) fn pull(&mut self, name: &str) -> Result<String, CriError> {
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

    pub(super) fn container_row(&self, container: &FakeContainer) -> v1::Container {
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
