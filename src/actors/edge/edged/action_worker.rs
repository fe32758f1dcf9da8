//! Carries out one action of a pod's plan against the runtime and the disk.

mod image_worker;

use std::path::Path;
use std::sync::Arc;

use futures_util::future::join_all;
use k8s_cri::v1;
use k8s_openapi::api::core::v1::{Container as ContainerSpec, Pod};
use serde_json::Value;

use super::action::{Action, Note, Outcome};
use super::gate::IMAGE_WARNING;
use super::gate::seals::{Claim, SEAL_INVALID, Verdict};
use super::names::{self, PodRef};
use super::news_worker::{News, WorkerReport};
use super::observed::{Container, Life, Sandbox};
use super::site_worker::{Fetched, Materials, STORE_DEADLINE, Site, fetch, report_status};
use super::state::specs;
use super::volumes::{PodVolumes, material};
use super::{environment, resources, security, spec, volumes_worker};
use crate::bus::meta;
use crate::cri::runtime::{CriError, CriErrorKind};

/// One action with all it needs.
pub struct Job {
    pub site: Arc<Site>,
    pub pod: Arc<Pod>,
    /// Why the pod is believed.
    pub claim: Arc<Claim>,
    pub materials: Materials,
    /// The status that must be known before the pod's end is confirmed.
    pub final_status: Option<Value>,
}

/// A container or sandbox the runtime has, as listed.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    pub id: String,
    pub kind: RowKind,
}

#[derive(Debug, Clone, PartialEq)]
pub enum RowKind {
    Sandbox { ready: bool },
    Container { sandbox_id: String, life: Life },
}

/// A second look at something.
#[derive(Debug, Clone, PartialEq)]
pub enum Sight {
    Sandbox(Sandbox),
    Container(Container),
    Gone(String),
    /// The runtime did not answer about this id; what was known stands.
    Unclear(String),
}

impl Job {
    /// Does it. Never fails: the outcome says how it went.
    pub async fn perform(&self, action: &Action) -> Outcome {
        match action {
            Action::RunSandbox { attempt } => match self.run_sandbox(*attempt).await {
                Ok(sandbox) => Outcome::SandboxRunning(sandbox),
                Err(message) => Outcome::SandboxFailed { message },
            },
            Action::PrepareVolumes => match self.prepare_volumes().await {
                Ok(()) => Outcome::VolumesReady,
                Err(message) => Outcome::VolumesFailed { message },
            },
            Action::EnsureImage { container } => self.ensure_image(container).await,
            Action::Start { container, restarts, image_ref, sandbox } => {
                self.start(container, *restarts, image_ref, sandbox).await
            }
            Action::Kill { id, grace_secs, .. } => self.kill(id, *grace_secs).await,
            Action::StopSandbox { id } => {
                let stopped = self.site.runtime.stop_sandbox(id.clone()).await;
                self.settled(id, stopped, Outcome::SandboxStopped { id: id.clone() })
            }
            Action::RemoveSandbox { id } => {
                let removed = self.site.runtime.remove_sandbox(id.clone()).await;
                self.settled(id, removed, Outcome::Gone { id: id.clone() })
            }
            Action::RemoveContainer { id, name, restarts } => {
                let removed = self.site.runtime.remove_container(id.clone()).await;
                let log = PodRef::of(&self.pod).log_file(&self.site.host, name, *restarts);
                remove_file(&log).await;
                self.settled(id, removed, Outcome::Gone { id: id.clone() })
            }
            Action::TearDown { all } => self.tear_down(*all).await,
            Action::Confirm => Outcome::Confirmed { ok: self.confirm().await },
        }
    }

    fn settled(&self, id: &str, result: Result<(), CriError>, done: Outcome) -> Outcome {
        match result {
            Ok(()) => done,
            Err(err) if err.kind == CriErrorKind::NotFound => done,
            Err(err) => {
                tracing::warn!(pod = %PodRef::of(&self.pod).name, id, call = err.call, error = %err.message, "runtime call failed");
                Outcome::CallFailed { id: id.to_owned() }
            }
        }
    }

    fn note(&self, warning: bool, reason: &'static str, message: String, container: &str) {
        let container = (!container.is_empty()).then(|| container.to_owned());
        self.tell(News::Note(Note { warning, reason, message, container }));
    }

    fn tell(&self, news: News) {
        let report = WorkerReport { pod: Arc::clone(&self.pod), news };
        if let Err(err) = self.site.report.tell(report) {
            tracing::debug!(error = %err, "report of a pod worker was dropped");
        }
    }

    async fn run_sandbox(&self, attempt: u32) -> Result<Sandbox, String> {
        let config =
            spec::sandbox_config(&self.pod, &self.site.host, attempt).map_err(|err| err.to_string())?;
        let (at, host) = (PodRef::of(&self.pod), self.site.host.clone());
        volumes_worker::create_log_dir(at, host).await.map_err(|err| err.to_string())?;
        let id = self.site.runtime.run_sandbox(config).await.map_err(|err| err.message)?;
        self.tell(News::Owns(id.clone()));
        match self.site.runtime.sandbox_status(id.clone()).await {
            Ok(status) => Ok(Sandbox::read(status)),
            Err(err) => Err(err.to_string()),
        }
    }

    async fn fetched(&self) -> &Fetched {
        self.materials.get_or_init(|| fetch(&self.site.links, &self.pod)).await
    }

    /// What the volumes hold, from sources that are fetched by now.
    fn material(&self, fetched: &Fetched) -> Result<PodVolumes, String> {
        material::prepare(&self.pod, &fetched.sources, &self.site.host).map_err(|err| {
            let causes = fetched.problems.iter().map(|problem| format!("; {problem}"));
            format!("{err}{}", causes.collect::<String>())
        })
    }

    async fn prepare_volumes(&self) -> Result<(), String> {
        let volumes = self.material(self.fetched().await)?;
        let (at, host) = (PodRef::of(&self.pod), self.site.host.clone());
        volumes_worker::apply(at, host, volumes).await.map(|_| ()).map_err(|err| err.to_string())
    }

    fn spec(&self, container: &str) -> Option<&ContainerSpec> {
        specs(&self.pod).map(|(spec, _)| spec).find(|spec| spec.name == container)
    }

    async fn start(&self, name: &str, restarts: u32, image_ref: &str, sandbox: &Sandbox) -> Outcome {
        let fail = |reason: &str, message: String, left: Option<Container>| Outcome::StartFailed {
            container: name.to_owned(),
            reason: reason.to_owned(),
            message,
            left: left.map(Box::new),
        };
        // Asked again right before the start: credentials and policies may have changed since.
        if let Verdict::Refused(why) = self.site.gate.judge(&self.pod, &self.claim) {
            return fail(SEAL_INVALID, why, None);
        }
        let image = self.spec(name).and_then(|spec| spec.image.clone()).unwrap_or_default();
        let runtime = &self.site.runtime;
        let admitted = self.site.gate.admit_image(&**runtime, &self.pod, name, &image, image_ref).await;
        let image_ref = match admitted {
            Ok(admitted) => {
                for warning in admitted.warnings {
                    self.note(true, IMAGE_WARNING, warning, name);
                }
                admitted.image_ref
            }
            Err(denial) => return fail(denial.reason, denial.message, None),
        };
        let (config, sandbox_config) = match self.configs(name, restarts, &image_ref, sandbox).await {
            Ok(configs) => configs,
            Err(message) => return fail("CreateContainerConfigError", message, None),
        };
        let hash = config.annotations.get(names::CONTAINER_HASH).cloned().unwrap_or_default();
        let created = runtime.create_container(sandbox.id.clone(), config, sandbox_config).await;
        let id = match created {
            Ok(id) => id,
            Err(err) => return fail("CreateContainerError", err.message, None),
        };
        self.tell(News::Owns(id.clone()));
        self.note(false, "Created", format!("Created container: {name}"), name);
        let started = runtime.start_container(id.clone()).await;
        if started.is_ok() {
            self.note(false, "Started", format!("Started container {name}"), name);
            if restarts > 0 {
                self.site.metrics.container_restarts.increment(1);
            }
        }
        let seen = runtime.container_status(id.clone()).await;
        let seen = seen.ok().map(|status| Container::read(status, &sandbox.id, hash.clone()));
        match (started, seen) {
            (Ok(()), Some(container)) => Outcome::Started(container),
            // It was started and cannot be looked at: the next look corrects this.
            (Ok(()), None) => Outcome::Started(Container {
                id,
                sandbox_id: sandbox.id.clone(),
                name: name.to_owned(),
                restarts,
                hash,
                life: Life::Running,
                created_ns: 0,
                started_ns: 0,
                finished_ns: 0,
                exit_code: 0,
                reason: String::new(),
                message: String::new(),
                image: String::new(),
                image_id: String::new(),
            }),
            (Err(err), seen) => fail("RunContainerError", err.message, seen),
        }
    }

    async fn configs(
        &self,
        name: &str,
        restarts: u32,
        image_ref: &str,
        sandbox: &Sandbox,
    ) -> Result<(v1::ContainerConfig, v1::PodSandboxConfig), String> {
        let host = &self.site.host;
        let container = self.spec(name).ok_or_else(|| format!("container {name} not found"))?;
        let fetched = self.fetched().await;
        let ip = sandbox.ips.first().map(String::as_str);
        let env = environment::environment(&self.pod, container, &fetched.sources, host, ip);
        let env = env.map_err(|err| err.to_string())?;
        let mounts = volumes_worker::container_mounts(
            Pod::clone(&self.pod),
            container.clone(),
            restarts,
            self.material(fetched)?,
            env.clone(),
            ip.map(str::to_owned),
            host.clone(),
        );
        let mounts = mounts.await.map_err(|err| err.to_string())?;
        let config = spec::container_config(&self.pod, container, restarts, image_ref, env, mounts, host);
        let mut config = config.map_err(|err| err.to_string())?;
        let image = self.site.runtime.image_status(image_ref.to_owned()).await.map_err(|err| err.message)?;
        let image = image.ok_or_else(|| format!("image {image_ref} is gone"))?;
        security::apply_image_user(&mut config, &self.pod, container, &image)
            .map_err(|err| err.to_string())?;
        let sandbox = spec::sandbox_config(&self.pod, host, sandbox.attempt);
        Ok((config, sandbox.map_err(|err| err.to_string())?))
    }

    async fn kill(&self, id: &str, grace_secs: i64) -> Outcome {
        match self.site.runtime.stop_container(id.to_owned(), grace_secs).await {
            Ok(()) => {}
            Err(err) if err.kind == CriErrorKind::NotFound => return Outcome::Gone { id: id.to_owned() },
            Err(err) => {
                tracing::warn!(id, error = %err, "container was not stopped");
                return Outcome::CallFailed { id: id.to_owned() };
            }
        }
        match self.look(&Row { id: id.to_owned(), kind: container_row("") }).await {
            Sight::Container(container) => Outcome::Killed(Box::new(container)),
            Sight::Gone(id) => Outcome::Gone { id },
            Sight::Sandbox(_) | Sight::Unclear(_) => Outcome::CallFailed { id: id.to_owned() },
        }
    }

    async fn tear_down(&self, all: bool) -> Outcome {
        let (at, host) = (PodRef::of(&self.pod), &self.site.host);
        let mut done = volumes_worker::teardown(at.clone(), host.clone()).await;
        if all && done.is_ok() {
            done = volumes_worker::remove_logs(at.clone(), host.clone()).await;
        }
        if all
            && done.is_ok()
            && let Ok(qos) = resources::qos(&self.pod)
        {
            let parent = resources::cgroup_parent(&at.uid, qos, host);
            done = volumes_worker::remove_cgroup(parent).await;
        }
        let failed = done.err().map(|err| err.to_string());
        if let Some(error) = &failed {
            tracing::warn!(pod = %at.name, namespace = %at.namespace, error, "pod was not cleared away");
        }
        Outcome::TornDown { all, failed }
    }

    async fn confirm(&self) -> bool {
        let meta = PodRef::of(&self.pod);
        if let Some(status) = self.final_status.clone()
            && !report_status(&self.site, &self.pod, status).await
        {
            return false;
        }
        let message = meta::ConfirmPodDeleted { namespace: meta.namespace, name: meta.name, uid: meta.uid };
        match self.site.links.confirm_pod_deleted.ask(message, STORE_DEADLINE).await {
            Ok(Ok(())) => true,
            Ok(Err(err)) => {
                tracing::warn!(error = %err, "the pod's end was not confirmed");
                false
            }
            Err(err) => {
                tracing::warn!(error = %err, "the pod's end was not confirmed");
                false
            }
        }
    }

    /// Looks at one container or sandbox.
    pub async fn look(&self, row: &Row) -> Sight {
        let runtime = &self.site.runtime;
        let failed = |err: CriError| match err.kind {
            CriErrorKind::NotFound => Sight::Gone(row.id.clone()),
            _ => Sight::Unclear(row.id.clone()),
        };
        match &row.kind {
            RowKind::Sandbox { .. } => match runtime.sandbox_status(row.id.clone()).await {
                Ok(status) => Sight::Sandbox(Sandbox::read(status)),
                Err(err) => failed(err),
            },
            RowKind::Container { sandbox_id, .. } => match runtime.container_status(row.id.clone()).await {
                Ok(status) => {
                    let hash = status.annotations.get(names::CONTAINER_HASH).cloned().unwrap_or_default();
                    let mut container = Container::read(status, sandbox_id, hash);
                    self.last_words(&mut container).await;
                    Sight::Container(container)
                }
                Err(err) => failed(err),
            },
        }
    }

    /// Adds what an ended container wrote into its termination message file.
    async fn last_words(&self, container: &mut Container) {
        if !container.exited() || !container.message.is_empty() {
            return;
        }
        let (at, host) = (PodRef::of(&self.pod), self.site.host.clone());
        let name = container.name.clone();
        let spec = super::state::specs(&self.pod).find(|(spec, _)| spec.name == name);
        let policy = spec.and_then(|(spec, _)| spec.termination_message_policy.as_deref());
        let or_log = container.exit_code != 0 && policy == Some("FallbackToLogsOnError");
        match volumes_worker::termination_message(at, host, name, container.restarts, or_log).await {
            Ok(message) => container.message = message,
            Err(err) => tracing::debug!(error = %err, "termination message is not readable"),
        }
    }

    /// Looks at all of these.
    pub async fn look_at(&self, rows: &[Row]) -> Vec<Sight> {
        join_all(rows.iter().map(|row| self.look(row))).await
    }

    /// Lists what the runtime has of this pod.
    pub async fn list(&self) -> Result<Vec<Row>, CriError> {
        let uid = PodRef::of(&self.pod).uid;
        let (sandboxes, containers) =
            futures_util::try_join!(self.site.runtime.list_sandboxes(), self.site.runtime.list_containers())?;
        Ok(rows(&sandboxes, &containers, |labels_uid| labels_uid == uid))
    }
}

/// Rows of the pods whose uid `wanted` takes.
pub fn rows(
    sandboxes: &[v1::PodSandbox],
    containers: &[v1::Container],
    wanted: impl Fn(&str) -> bool,
) -> Vec<Row> {
    let of = |labels: &std::collections::HashMap<String, String>| {
        labels.get(names::POD_UID).is_some_and(|uid| wanted(uid))
    };
    let sandboxes = sandboxes.iter().filter(|sandbox| of(&sandbox.labels)).map(sandbox_row);
    let containers = containers.iter().filter(|c| of(&c.labels)).map(|c| Row {
        id: c.id.clone(),
        kind: RowKind::Container { sandbox_id: c.pod_sandbox_id.clone(), life: Life::of(c.state) },
    });
    sandboxes.chain(containers).collect()
}

fn sandbox_row(sandbox: &v1::PodSandbox) -> Row {
    let ready = sandbox.state == v1::PodSandboxState::SandboxReady as i32;
    Row { id: sandbox.id.clone(), kind: RowKind::Sandbox { ready } }
}

/// A container to look at; an empty `sandbox_id` keeps the one that is known.
#[must_use]
pub fn container_row(sandbox_id: &str) -> RowKind {
    RowKind::Container { sandbox_id: sandbox_id.to_owned(), life: Life::Unknown }
}

async fn remove_file(path: &Path) {
    if let Err(err) = tokio::fs::remove_file(path).await
        && err.kind() != std::io::ErrorKind::NotFound
    {
        tracing::debug!(file = %path.display(), error = %err, "file was not removed");
    }
}
