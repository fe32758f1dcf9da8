//! One actor per pod: observe, plan, act, until what runs is what should run.

mod handlers_worker;

pub use handlers_worker::{Apply, Configured, Look, Recheck, Refuse, Relisted, Remove};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, SpawnHandle, Supervised, WrapFuture};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::action::{Action, Outcome, Work};
use super::action_worker::{Job, Row, RowKind, Sight, container_row};
use super::gate::seals::{Claim, Delivered, Source};
use super::names::{self, PodRef};
use super::news_worker::{News, WorkerReport};
use super::observed::{Container, Life, Observed};
use super::plan::{natural_end, plan};
use super::resources;
use super::site_worker::{Materials, Site, report_status};
use super::state::{PodState, specs};
use super::status::{Surroundings, status};
use crate::supervise::{doubled, spread};

/// Pause before a status that was not stored is offered again, doubled up to the second figure.
const REPORT_RETRY: Duration = Duration::from_secs(1);
const REPORT_RETRY_CAP: Duration = Duration::from_secs(30);
/// Pause before the runtime is listed again when it did not answer.
const LIST_RETRY: Duration = Duration::from_secs(2);

pub struct PodWorker {
    site: Arc<Site>,
    claim: Arc<Claim>,
    state: PodState,
    around: Surroundings,
    materials: Materials,
    /// `None`: what the runtime has is not known yet.
    rows: Option<Vec<Row>>,
    observed_once: bool,
    /// Nothing of this pod in the runtime is unknown to us: only then may anything be done.
    clear: bool,
    /// Events about ids that are being made right now.
    missed: BTreeSet<String>,
    /// The last status MetaManager has stored.
    stored: Option<Value>,
    /// The status that should be stored.
    wanted: Option<Value>,
    /// Edged has it.
    is_told: bool,
    reporting: bool,
    report_failures: u32,
    final_status: Option<Value>,
    wake: Option<SpawnHandle>,
    /// When a pod that never ran arrived; `None` once it runs.
    arrived: Option<Timestamp>,
    ended: bool,
}

impl PodWorker {
    /// `rows` is what the runtime already has of the pod; `None` makes the worker ask itself.
    #[must_use]
    pub fn new(site: Arc<Site>, given: Delivered, rows: Option<Vec<Row>>) -> Self {
        let Delivered { pod, claim } = given;
        let now = (site.clock)();
        let fresh = rows.as_ref().is_some_and(Vec::is_empty)
            && pod.status.as_ref().and_then(|status| status.start_time.as_ref()).is_none();
        let around = Surroundings {
            host_ips: site.host.host_ips.clone(),
            qos_class: resources::qos(&pod).map(|qos| qos.as_str().to_owned()).unwrap_or_default(),
        };
        let state = PodState::new(Arc::clone(&pod), hashes(&pod), Observed::default(), jitter(&pod), now);
        Self {
            site,
            claim,
            state,
            around,
            materials: Materials::default(),
            rows,
            observed_once: false,
            clear: false,
            missed: BTreeSet::new(),
            stored: None,
            wanted: None,
            is_told: false,
            reporting: false,
            report_failures: 0,
            final_status: None,
            wake: None,
            arrived: fresh.then_some(now),
            ended: false,
        }
    }

    fn now(&self) -> Timestamp {
        (self.site.clock)()
    }

    fn job(&self) -> Job {
        Job {
            site: Arc::clone(&self.site),
            pod: Arc::clone(&self.state.pod),
            claim: Arc::clone(&self.claim),
            materials: Arc::clone(&self.materials),
            final_status: self.final_status.clone(),
        }
    }

    fn tell(&self, news: News) {
        let report = WorkerReport { pod: Arc::clone(&self.state.pod), news };
        if let Err(err) = self.site.report.tell(report) {
            tracing::debug!(error = %err, "report of a pod worker was dropped");
        }
    }

    /// Looks at rows, then goes on.
    fn look_at(&mut self, rows: Vec<Row>, ctx: &mut Context<Self>) {
        let job = self.job();
        let look = async move { job.look_at(&rows).await };
        let done = look.into_actor(self).map(|sights, worker, ctx| worker.saw(sights, ctx));
        ctx.spawn(done);
    }

    fn saw(&mut self, sights: Vec<Sight>, ctx: &mut Context<Self>) {
        let now = self.now();
        self.clear = true;
        for sight in sights {
            self.say(&sight);
            match sight {
                Sight::Sandbox(sandbox) => self.state.saw_sandbox(sandbox),
                Sight::Container(container) => self.state.saw_container(container, now),
                Sight::Gone(id) => self.state.saw_gone(&id, now),
                Sight::Unclear(id) => self.clear &= self.state.observed.knows(&id),
            }
        }
        if !self.clear {
            ctx.run_later(LIST_RETRY, Self::list);
        }
        self.observed_once |= self.clear;
        self.tick(ctx);
    }

    /// Tells the log of what ended: containers, and a sandbox that the runtime takes for dead although nobody here has
    /// stopped it, so that all of the pod is made again.
    fn say(&self, sight: &Sight) {
        let (id, gone) = match sight {
            Sight::Container(container) => return self.say_end(container),
            Sight::Sandbox(sandbox) if !sandbox.ready => (&sandbox.id, false),
            Sight::Gone(id) => (id, true),
            _ => return,
        };
        let was = self.state.observed.sandboxes.iter().any(|known| known.id == *id && known.ready);
        let ours = self.state.ending() || self.state.memory.stopped.contains(id);
        if was && !ours && !self.state.busy.contains(&Work::StopSandbox(id.clone())) {
            tracing::warn!(pod = %self.name(), sandbox = %id, gone, "the runtime has lost the pod's sandbox");
        }
    }

    fn say_end(&self, container: &Container) {
        let was_alive = self.state.observed.containers.iter().any(|c| c.id == container.id && c.alive());
        if was_alive && container.exited() {
            let Container { name, exit_code, reason, .. } = container;
            tracing::info!(pod = %self.name(), container = %name, exit_code, reason, "container ended");
        }
    }

    /// Asks the runtime for all it has of this pod.
    fn list(&mut self, ctx: &mut Context<Self>) {
        let job = self.job();
        let list = async move { job.list().await };
        let done = list.into_actor(self).map(|rows, worker, ctx| match rows {
            Ok(rows) => worker.relisted(rows, ctx),
            Err(err) => {
                tracing::warn!(pod = %worker.name(), error = %err, "runtime was not listed");
                ctx.run_later(LIST_RETRY, Self::list);
            }
        });
        ctx.spawn(done);
    }

    /// Takes a complete list: what differs from what is known is looked at.
    fn relisted(&mut self, rows: Vec<Row>, ctx: &mut Context<Self>) {
        let observed = &self.state.observed;
        let mut look: Vec<Row> = Vec::new();
        for known in &observed.sandboxes {
            if rows.iter().all(|row| row.id != known.id) {
                look.push(Row { id: known.id.clone(), kind: RowKind::Sandbox { ready: false } });
            }
        }
        for known in &observed.containers {
            if rows.iter().all(|row| row.id != known.id) {
                look.push(Row { id: known.id.clone(), kind: container_row(&known.sandbox_id) });
            }
        }
        for row in rows {
            let same = match &row.kind {
                RowKind::Sandbox { ready } => {
                    observed.sandboxes.iter().any(|s| s.id == row.id && s.ready == *ready)
                }
                RowKind::Container { life, .. } => {
                    observed.containers.iter().any(|c| c.id == row.id && c.life == *life)
                }
            };
            if !same {
                self.tell(News::Owns(row.id.clone()));
                look.push(row);
            }
        }
        if look.is_empty() {
            (self.observed_once, self.clear) = (true, true);
            return self.tick(ctx);
        }
        self.look_at(look, ctx);
    }

    fn name(&self) -> String {
        let pod = PodRef::of(&self.state.pod);
        format!("{}/{}", pod.namespace, pod.name)
    }

    /// Decides and acts. Called after everything that may change the decision.
    fn tick(&mut self, ctx: &mut Context<Self>) {
        if !self.observed_once {
            return;
        }
        let now = self.now();
        self.state.hold(&self.site.gate.judge(&self.state.pod, &self.claim));
        self.state.settle(now);
        if let Some(terminal) = natural_end(&self.state) {
            self.state.memory.terminal = Some(terminal);
        }
        self.state.note_backoffs(now);
        self.publish(now, ctx);
        if !self.clear {
            return;
        }
        let plan = plan(&self.state, now);
        if plan.actions.is_empty() && self.state.busy.is_empty() && plan.wake.is_none() {
            self.materials = Materials::default();
        }
        for action in plan.actions {
            self.state.begin(&action, now);
            self.act(action, ctx);
        }
        for note in std::mem::take(&mut self.state.notes) {
            if !self.state.memory.removed || note.reason == "Killing" {
                self.tell(News::Note(note));
            }
        }
        if let Some(wake) = self.wake.take() {
            ctx.cancel_future(wake);
        }
        self.wake = plan.wake.map(|wait| {
            // Never a busy loop, whatever the clock does.
            ctx.run_later(wait.max(Duration::from_millis(10)), |worker, ctx| {
                worker.wake = None;
                worker.tick(ctx);
            })
        });
        if self.state.ending() && self.state.memory.torn_down && !self.ended {
            self.ended = true;
            tracing::info!(pod = %self.name(), "pod is gone");
            self.tell(News::Ended);
        }
        if self.state.finished() {
            self.tell(News::Finished);
        }
    }

    fn act(&mut self, action: Action, ctx: &mut Context<Self>) {
        tracing::debug!(pod = %self.name(), action = ?action.work(), "pod action begins");
        let job = self.job();
        let work = action.work();
        let run = async move { job.perform(&action).await };
        ctx.spawn(run.into_actor(self).map(move |outcome, worker, ctx| worker.done(&work, outcome, ctx)));
    }

    fn done(&mut self, work: &Work, outcome: Outcome, ctx: &mut Context<Self>) {
        let failed = match &outcome {
            Outcome::SandboxFailed { message } => Some(message.clone()),
            Outcome::StartFailed { message, .. } => Some(message.clone()),
            Outcome::ImageFailed { message, .. } => {
                tracing::warn!(pod = %self.name(), error = %message, "image is not ready");
                None
            }
            Outcome::CallFailed { id } => Some(id.clone()),
            Outcome::VolumesFailed { message } => {
                tracing::warn!(pod = %self.name(), error = %message, "volumes are not ready");
                self.materials = Materials::default();
                None
            }
            Outcome::Started(container) => {
                let Container { name, restarts, .. } = container;
                tracing::info!(pod = %self.name(), container = %name, restarts, "container started");
                None
            }
            Outcome::Killed(container) => {
                self.say_end(container);
                None
            }
            _ => None,
        };
        let now = self.now();
        self.state.end(work, outcome, now);
        if let Some(message) = failed {
            // What the runtime made in spite of the failure has to be known before trying again.
            tracing::warn!(pod = %self.name(), action = ?work, error = %message, "pod action failed");
            self.materials = Materials::default();
            self.clear = false;
            self.list(ctx);
        }
        self.tick(ctx);
        self.catch_up(ctx);
    }

    /// Events that came before the answer of the call that made their subject.
    fn catch_up(&mut self, ctx: &mut Context<Self>) {
        let known: Vec<String> =
            self.missed.iter().filter(|id| self.state.observed.knows(id)).cloned().collect();
        for id in known {
            self.missed.remove(&id);
            self.look(&id, ctx);
        }
        if !self.making() {
            self.missed.clear();
        }
    }

    fn making(&self) -> bool {
        self.state.busy.iter().any(|work| matches!(work, Work::Start(_) | Work::Sandbox))
    }

    fn look(&mut self, id: &str, ctx: &mut Context<Self>) {
        let observed = &self.state.observed;
        let container = observed.containers.iter().find(|c| c.id == id);
        let kind = match container {
            // Nothing new can happen to what has exited but its removal, which we do ourselves.
            Some(c) if c.life == Life::Exited => return,
            Some(c) => container_row(&c.sandbox_id),
            None => RowKind::Sandbox { ready: true },
        };
        self.look_at(vec![Row { id: id.to_owned(), kind }], ctx);
    }

    /// Computes the status and has it stored when it differs from the last one.
    fn publish(&mut self, now: Timestamp, ctx: &mut Context<Self>) {
        if self.state.memory.removed || self.final_status.is_some() {
            return;
        }
        let computed = status(&self.state, &self.around, now);
        let Ok(value) = serde_json::to_value(&computed) else { return };
        if !self.is_told || self.wanted.as_ref() != Some(&value) {
            // What a full mailbox refused is told with the next look.
            let news = News::Status(Arc::new(computed.clone()));
            let report = WorkerReport { pod: Arc::clone(&self.state.pod), news };
            self.is_told = self.site.report.tell(report).is_ok();
        }
        if computed.phase.as_deref() == Some("Running")
            && let Some(arrived) = self.arrived.take()
        {
            let took = super::backoff::since(now, arrived);
            self.site.metrics.pod_start_seconds.record(took.as_secs_f64());
        }
        self.state.memory.status = computed;
        let starting = self.state.busy.iter().any(|work| matches!(work, Work::Start(_)));
        if self.state.ending() && !self.state.observed.any_alive() && !starting {
            self.final_status = Some(value.clone());
        }
        self.wanted = Some(value);
        self.report(ctx);
    }

    fn report(&mut self, ctx: &mut Context<Self>) {
        let Some(wanted) = self.wanted.clone().filter(|wanted| Some(wanted) != self.stored.as_ref()) else {
            return;
        };
        if self.claim.source == Source::File {
            // The API does not know the pod.
            self.stored = Some(wanted);
            return;
        }
        if self.reporting {
            return;
        }
        self.reporting = true;
        let (site, pod, status) = (Arc::clone(&self.site), Arc::clone(&self.state.pod), wanted.clone());
        let ask = async move { report_status(&site, &pod, status).await };
        ctx.spawn(ask.into_actor(self).map(|ok, worker, ctx| {
            worker.reporting = false;
            if ok {
                worker.report_failures = 0;
                worker.stored = Some(wanted);
                return worker.report(ctx);
            }
            let pause = doubled(REPORT_RETRY, worker.report_failures, REPORT_RETRY_CAP);
            let pause = spread(pause, worker.state.memory.jitter);
            worker.report_failures = worker.report_failures.saturating_add(1);
            ctx.run_later(pause, Self::report);
        }));
    }
}

/// Hash of each container's spec.
fn hashes(pod: &Pod) -> BTreeMap<String, String> {
    specs(pod).map(|(spec, _)| (spec.name.clone(), names::container_hash(spec))).collect()
}

/// A number of this pod between 0 and 1: spreads retries without chance.
fn jitter(pod: &Pod) -> f64 {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let sum = uid.bytes().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(byte)));
    f64::from(sum % 1000) / 1000.0
}

impl Actor for PodWorker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        match self.rows.take() {
            Some(rows) => self.relisted(rows, ctx),
            None => self.list(ctx),
        }
    }
}

impl Supervised for PodWorker {
    /// Only the pod and the status that was reported survive; the runtime tells the rest.
    fn restarting(&mut self, _: &mut Context<Self>) {
        let mut pod = Pod::clone(&self.state.pod);
        pod.status = Some(self.state.memory.status.clone());
        let removed = self.state.memory.removed;
        let given = Delivered { pod: Arc::new(pod), claim: Arc::clone(&self.claim) };
        *self = Self::new(Arc::clone(&self.site), given, None);
        self.state.memory.removed = removed;
    }
}
