//! DeviceTwin: what this node's devices report and what is desired of them.
//!
//! The rules are in [`merge`] (also: where desired values meet), the texts in [`topic`],
//! [`payload`] and [`value`], all devices in [`twins`], [`requests`] and [`upstream`], and what
//! the cloud has not confirmed in [`reports`]. This file writes, then publishes, then answers, then
//! reports.
//!
//! One group of writes is under way at a time; updates that come meanwhile are merged in memory and
//! written together next, one row for each device whatever number of updates it had.
//!
//! Publications go to EventBus in order, in groups. While it does not take them they wait; when too
//! many wait the oldest are dropped and counted: an answer is worth less the older it gets, and the
//! twin itself is safe.

mod answers;
mod device;
mod exports;
mod handlers_actor;
mod merge;
mod payload;
mod publishing;
mod reports;
mod requests;
pub(crate) mod spec;
pub(crate) mod topic;
pub(crate) mod twins;
mod upstream;
mod value;
mod values;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use actix::prelude::*;
use serde_json::Value;
use tokio::sync::oneshot;

use self::publishing::Publishing;
use self::twins::{Effect, Limits, Now, Refused, Tally, Twins, Write};
use crate::bus::device_twin::{DesiredChanged, ListDevices, MembersChanged};
use crate::bus::edge_hub::{Class, CloudLinkChanged, SendError, SendUpstream};
use crate::bus::event_bus::Publish;
use crate::bus::{Link, LinkError};
use crate::config::DeviceTwinConfig;
use crate::model::{DeviceId, Envelope, NodeName, unix_ms};
use crate::store::{Batch, Committer, Row, Store, StoreError, Table, scan_all};
use crate::telemetry::device_twin::{Counts, DeviceTwinMetrics};

/// The actor's name.
pub const NAME: &str = "DeviceTwin";

/// Retries, confirmations that did not come, rows that wait for another write, metrics.
const TICK: Duration = Duration::from_secs(1);
const SEND_DEADLINE: Duration = Duration::from_secs(5);
const LIST_DEADLINE: Duration = Duration::from_secs(10);
const PUBLISH_DEADLINE: Duration = Duration::from_secs(10);
/// Requests that may wait for the disk; more are refused.
const MAX_WAITING: usize = 4096;

/// What [`DeviceTwin`] needs to know.
#[derive(Debug, Clone)]
pub struct TwinSettings {
    pub node: NodeName,
    pub config: DeviceTwinConfig,
}

/// Whom [`DeviceTwin`] talks to.
#[derive(Clone)]
pub struct TwinLinks {
    pub list_devices: Link<ListDevices>,
    pub send: Link<SendUpstream>,
    pub publish: Link<Publish>,
    pub members_changed: Link<MembersChanged>,
    pub desired_changed: Link<DesiredChanged>,
}

/// News of an object.
enum News {
    Device(Arc<Value>),
    NoDevice(DeviceId),
    Model(Arc<Value>),
    NoModel {
        namespace: String,
        name: String,
    },
    /// The cloud lost what it was told.
    Anew,
}

type Waiter = oneshot::Sender<Result<(), String>>;

/// The actor.
pub struct DeviceTwin {
    settings: TwinSettings,
    store: Arc<dyn Store>,
    committer: Committer,
    links: TwinLinks,
    metrics: DeviceTwinMetrics,
    core: Twins,
    /// Why nothing is taken now: the store cannot be read, or the objects are not known yet.
    closed: Option<String>,
    /// News of objects that came before they were listed, and whether there were too many.
    early: Vec<News>,
    early_lost: bool,
    rows_read: bool,
    is_listing: bool,
    is_writing: bool,
    /// The last write failed: what the objects say is applied again with the next tick.
    apply_again: bool,
    waiting: Vec<Waiter>,
    publishing: Publishing,
    desired_untold: BTreeMap<DeviceId, BTreeMap<String, String>>,
    members_untold: Option<Vec<DeviceId>>,
    link: CloudLinkChanged,
}

impl DeviceTwin {
    /// Reads `store` when it starts and writes through `committer`.
    #[must_use]
    pub fn new(
        settings: TwinSettings,
        store: Arc<dyn Store>,
        committer: Committer,
        links: TwinLinks,
        metrics: DeviceTwinMetrics,
    ) -> Self {
        Self {
            core: new_core(&settings),
            publishing: Publishing::new(settings.config.max_queued_publications as usize),
            settings,
            store,
            committer,
            links,
            metrics,
            closed: Some("the store was not read yet".to_owned()),
            early: Vec::new(),
            early_lost: false,
            rows_read: false,
            is_listing: false,
            is_writing: false,
            apply_again: false,
            waiting: Vec::new(),
            desired_untold: BTreeMap::new(),
            members_untold: None,
            link: CloudLinkChanged { connected: false, session: 0, resync: false },
        }
    }

    /// Makes memory what the disk says.
    fn load(&mut self) {
        self.rows_read = false;
        match read_rows(&*self.store) {
            Ok(rows) => {
                let unreadable = self.core.reload(&rows, now().clock);
                if unreadable > 0 {
                    tracing::warn!(rows = unreadable, "stored twins that cannot be read are left alone");
                }
                self.rows_read = true;
                self.closed = Some("the device objects are not known yet".to_owned());
            }
            Err(err) => {
                tracing::error!(error = %err, "the stored twins cannot be read");
                self.closed = Some(err.to_string());
            }
        }
    }

    /// Asks MetaManager for every Device and DeviceModel.
    fn list_objects(&mut self, ctx: &mut Context<Self>) {
        if self.is_listing || !self.rows_read {
            return;
        }
        self.is_listing = true;
        let link = self.links.list_devices.clone();
        let listed = async move { link.ask(ListDevices, LIST_DEADLINE).await };
        ctx.spawn(listed.into_actor(self).map(|outcome, twin, ctx| {
            twin.is_listing = false;
            match outcome {
                Ok(Ok(objects)) if twin.rows_read => {
                    let models = objects.models.iter().map(AsRef::as_ref);
                    let devices = objects.devices.iter().map(AsRef::as_ref);
                    twin.core.set_objects(models, devices, now());
                    // A version that is older than the one listed changes nothing.
                    for news in std::mem::take(&mut twin.early) {
                        twin.apply(news);
                    }
                    if std::mem::take(&mut twin.early_lost) {
                        return twin.list_objects(ctx);
                    }
                    twin.closed = None;
                    twin.write(false, ctx);
                }
                Ok(Ok(_)) => {}
                Ok(Err(err)) => tracing::debug!(error = %err, "the device objects cannot be listed"),
                Err(err) => tracing::debug!(error = %err, "the device objects were not listed"),
            }
        }));
    }

    /// # Errors
    /// Why nothing is taken now.
    fn check(&self) -> Result<(), String> {
        match &self.closed {
            Some(why) => Err(why.clone()),
            None if self.waiting.len() >= MAX_WAITING => Err(StoreError::Busy.to_string()),
            None => Ok(()),
        }
    }

    /// Comes back when everything decided so far is on disk, or failed.
    fn durable(&mut self, ctx: &mut Context<Self>) -> impl Future<Output = Result<(), String>> + 'static {
        let (waiter, answer) = oneshot::channel();
        self.waiting.push(waiter);
        self.write(false, ctx);
        async { answer.await.unwrap_or_else(|_| Err("DeviceTwin restarted meanwhile".to_owned())) }
    }

    /// Begins a group of writes unless one is under way; then it follows. `all`: also what may wait.
    fn write(&mut self, all: bool, ctx: &mut Context<Self>) {
        if self.is_writing || !self.rows_read {
            return;
        }
        let Write { batch, effects, messages } = self.core.begin_write(now(), all);
        let waiting = std::mem::take(&mut self.waiting);
        self.count();
        if batch.is_empty() {
            self.written(effects, waiting, messages, ctx);
            return;
        }
        self.is_writing = true;
        let committer = self.committer.clone();
        let written = async move { committer.commit(batch).await };
        ctx.spawn(written.into_actor(self).map(|outcome, twin, ctx| {
            twin.is_writing = false;
            match outcome {
                Ok(()) => twin.written(effects, waiting, messages, ctx),
                Err(err) => twin.not_written(waiting, &err),
            }
            if !twin.waiting.is_empty() || twin.core.has_work() {
                twin.write(false, ctx);
            }
        }));
    }

    fn written(
        &mut self,
        effects: Vec<Effect>,
        waiting: Vec<Waiter>,
        messages: Vec<Envelope>,
        ctx: &mut Context<Self>,
    ) {
        for effect in effects {
            match effect {
                Effect::Publish(publication) => self.publishing.push(publication),
                Effect::Desired(device, desired) => {
                    self.desired_untold.insert(device, desired);
                }
                Effect::Members(members) => self.members_untold = Some(members),
                Effect::Sample(sample) => self.metrics.export(&sample.device, &sample.property, sample.value),
            }
        }
        self.tell();
        self.publish(ctx);
        for waiter in waiting {
            // Whoever asked may have stopped waiting.
            drop(waiter.send(Ok(())));
        }
        self.send(messages, ctx);
    }

    /// What was decided did not become real; nor did what was decided on top of it.
    fn not_written(&mut self, waiting: Vec<Waiter>, err: &StoreError) {
        let later = std::mem::take(&mut self.waiting);
        for waiter in waiting.into_iter().chain(later) {
            drop(waiter.send(Err(err.to_string())));
        }
        self.metrics.store_errors.increment(1);
        let was_closed = self.closed.is_some();
        self.load();
        if self.rows_read && !was_closed {
            self.closed = None;
        }
        self.apply_again = true;
    }

    /// Tells Dmi and EventBus; whoever's mailbox is full hears it with the next tick.
    fn tell(&mut self) {
        if let Some(members) = self.members_untold.take()
            && let Err(LinkError::Full { .. }) =
                self.links.members_changed.tell(MembersChanged(members.clone()))
        {
            self.members_untold = Some(members);
        }
        while let Some((device, desired)) = self.desired_untold.pop_first() {
            let news = DesiredChanged { device: device.clone(), desired: desired.clone() };
            if let Err(LinkError::Full { .. }) = self.links.desired_changed.tell(news) {
                self.desired_untold.insert(device, desired);
                return;
            }
        }
    }

    /// Hands the next group of publications to EventBus, one group at a time.
    fn publish(&mut self, ctx: &mut Context<Self>) {
        let Some(group) = self.publishing.next_group() else { return };
        let link = self.links.publish.clone();
        let published = async move { link.ask(Publish(group), PUBLISH_DEADLINE).await };
        ctx.spawn(published.into_actor(self).map(|outcome, twin, ctx| {
            match outcome {
                Ok(Ok(())) => twin.publishing.done(),
                // Nobody knows whether it was published: twice is better than never.
                Ok(Err(err)) => twin.publish_later(&err.to_string()),
                Err(err) => twin.publish_later(&err.to_string()),
            }
            if !twin.publishing.is_pausing() {
                twin.publish(ctx);
            }
        }));
    }

    fn publish_later(&mut self, why: &str) {
        tracing::debug!(error = why, "publications wait");
        self.publishing.put_back();
    }

    /// Hands reports to EdgeHub.
    fn send(&mut self, messages: Vec<Envelope>, ctx: &mut Context<Self>) {
        if messages.is_empty() {
            return;
        }
        let link = self.links.send.clone();
        let sent = async move {
            let mut failed = Vec::new();
            for envelope in messages {
                let msg_id = envelope.header.msg_id.clone();
                let message = SendUpstream { envelope, class: Class::Device, comes_again: false };
                match link.ask(message, SEND_DEADLINE).await {
                    Ok(Ok(())) => {}
                    Ok(Err(err)) => {
                        let never = matches!(err, SendError::TooLarge { .. } | SendError::Unprintable(_));
                        failed.push((msg_id, never));
                    }
                    Err(_) => failed.push((msg_id, false)),
                }
            }
            failed
        };
        ctx.spawn(sent.into_actor(self).map(|failed, twin, _| {
            for (msg_id, never) in failed {
                twin.core.not_sent(&msg_id, never, now().clock, fastrand::f64());
            }
        }));
    }

    fn count(&mut self) {
        let tally = std::mem::take(&mut self.core.tally);
        self.metrics.count(&counts(tally));
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        if !self.rows_read && !self.is_writing {
            self.load();
        }
        if self.closed.is_some() {
            self.list_objects(ctx);
        } else if std::mem::take(&mut self.apply_again) {
            self.core.apply_all(now());
        }
        self.core.tick(now().clock, fastrand::f64);
        self.write(true, ctx);
        self.tell();
        self.publishing.resume();
        self.publish(ctx);
        let (unconfirmed, exports_refused) = self.core.open_counts();
        self.metrics.show(&self.core.states(), unconfirmed, exports_refused, self.publishing.dropped());
    }
}

fn new_core(settings: &TwinSettings) -> Twins {
    let config = &settings.config;
    let limits = Limits {
        payload_bytes: config.max_payload_bytes as usize,
        window: config.max_reports_in_flight as usize,
        exported_values: config.max_exported_values as usize,
    };
    Twins::new(settings.node.as_str(), limits, || uuid::Uuid::new_v4().to_string())
}

fn counts(tally: Tally) -> Counts {
    let refused = |kind| tally.refused.get(&kind).copied().unwrap_or_default();
    let kinds = [Refused::Malformed, Refused::TooLarge, Refused::UnknownDevice, Refused::Invalid];
    Counts {
        from_edge: tally.from_edge,
        from_cloud: tally.from_cloud,
        rejected: kinds.map(refused),
        given_up: tally.given_up,
        synced: tally.synced,
    }
}

fn read_rows(store: &dyn Store) -> Result<Vec<Row>, StoreError> {
    let mut rows: Vec<Row> = Vec::new();
    scan_all(store, Table::Objects, twins::PREFIX, |page| rows.extend(page))?;
    Ok(rows)
}

/// Follows tokio's clock, so that tests can pause it.
fn now() -> Now {
    let clock: Instant = tokio::time::Instant::now().into_std();
    Now { wall_ms: unix_ms(SystemTime::now()), clock }
}

impl Actor for DeviceTwin {
    type Context = Context<Self>;

    /// A write of an earlier life may be under way: the store is read when it has ended.
    fn started(&mut self, ctx: &mut Context<Self>) {
        self.is_writing = true;
        let committer = self.committer.clone();
        let ended = async move { committer.commit(Batch::new()).await };
        ctx.spawn(ended.into_actor(self).map(|_, twin, ctx| {
            twin.is_writing = false;
            twin.load();
            twin.list_objects(ctx);
        }));
        ctx.run_interval(TICK, Self::tick);
    }
}

impl Supervised for DeviceTwin {
    /// `started` reads the disk again. The link is kept: it was told, not computed. Those who wait
    /// hear that their update was not taken; what waits to be published is published.
    fn restarting(&mut self, _: &mut Context<Self>) {
        // The bound of exported series is the process's: the registry forgets none of them.
        let exports = self.core.take_exports();
        self.core = new_core(&self.settings);
        self.core.set_exports(exports);
        self.core.link_changed(self.link.connected, now());
        self.closed = Some("DeviceTwin restarts".to_owned());
        self.rows_read = false;
        self.is_listing = false;
        self.is_writing = false;
        self.apply_again = false;
        self.waiting.clear();
        // The listing asked for at start is the newest news.
        self.early.clear();
        self.publishing.put_back();
        self.desired_untold.clear();
        self.members_untold = None;
    }
}

#[cfg(test)]
mod actor_tests;
#[cfg(test)]
mod tests;
