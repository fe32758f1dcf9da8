//! Dmi: how mappers register, get their devices and report (protocol section 8).
//!
//! Mappers come to edgecore's socket with registrations and reports; edgecore connects back to
//! each mapper's socket and tells it of devices and models. What a mapper was told is remembered
//! for as long as its connection lives, so only differences travel; a mapper that died and came
//! back, with or without a registration, is told everything again. Reports go straight to
//! DeviceTwin and are answered when they are durable.

mod catalog;
#[cfg(test)]
mod catalog_tests;
mod event;
mod lane;
#[cfg(test)]
mod lane_tests;
mod loading_actor;
mod mapper_worker;
mod mappers_actor;
pub(crate) mod report;
pub(crate) mod roster;
mod serve_worker;
mod unserved;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use serde_json::Value;
use tokio::sync::oneshot;

use self::catalog::{Catalog, Touched};
use self::lane::Key;
use self::mappers_actor::Connection;
use self::roster::Mapper;
use self::serve_worker::Door;
use self::unserved::Unserved;
use crate::bus::device_twin::{
    DesiredChanged, DeviceChanged, DeviceRemoved, ListDesired, ListDevices, ModelChanged, ModelRemoved,
    ReportState, ReportTwins,
};
use crate::bus::meta::ReportEvent;
use crate::bus::{ActorStats, Link};
use crate::model::{DeviceId, NodeName};
use crate::store::{Committer, Store};
use crate::telemetry::dmi::DmiMetrics;
use crate::wire::dmi::{MapperRegisterResponse, device_id};

pub use self::roster::socket_path;

/// The actor's name in the tree.
pub const NAME: &str = "Dmi";

const TICK: Duration = Duration::from_secs(5);
const ASK_DEADLINE: Duration = Duration::from_secs(10);
/// Registrations that may wait for a write.
const OWN_MAILBOX: usize = 256;

/// What [`Dmi`] needs to know.
#[derive(Debug, Clone)]
pub struct DmiSettings {
    pub node: NodeName,
    /// Where mappers come to; see [`socket_path`].
    pub socket: PathBuf,
    /// User ids that may call; empty means root and this process's own.
    pub allowed_uids: Vec<u32>,
}

/// Whom [`Dmi`] talks to.
#[derive(Clone)]
pub struct DmiLinks {
    pub list_devices: Link<ListDevices>,
    pub list_desired: Link<ListDesired>,
    pub report_twins: Link<ReportTwins>,
    pub report_state: Link<ReportState>,
    pub report_event: Link<ReportEvent>,
}

/// A mapper registers. The answer is for its RPC.
#[derive(Debug, Message)]
#[rtype(result = "Result<MapperRegisterResponse, String>")]
struct Register {
    mapper: Mapper,
    with_data: bool,
}

type Registered = oneshot::Sender<Result<MapperRegisterResponse, String>>;

/// The actor.
pub struct Dmi {
    settings: DmiSettings,
    store: Arc<dyn Store>,
    committer: Committer,
    links: DmiLinks,
    metrics: DmiMetrics,
    stats: Arc<ActorStats>,
    catalog: Catalog,
    mappers: BTreeMap<String, Connection>,
    unserved: Unserved,
    /// Devices that could not be told, and why, as last logged.
    complained: BTreeMap<DeviceId, String>,
    /// Objects that changed while the list of all was under way: newer than it. `None` once known.
    changed_early: Option<HashSet<Key>>,
    /// Devices whose desired values were told since the start: newer than DeviceTwin's list.
    desired_early: HashSet<DeviceId>,
    settled: bool,
    early: Vec<(Register, Registered)>,
    sessions: u64,
}

impl Dmi {
    /// Reads its mappers from `store` when it starts.
    #[must_use]
    pub fn new(
        settings: DmiSettings,
        store: Arc<dyn Store>,
        committer: Committer,
        links: DmiLinks,
        metrics: DmiMetrics,
    ) -> Self {
        Self {
            settings,
            store,
            committer,
            links,
            metrics,
            stats: Arc::new(ActorStats::bounded(OWN_MAILBOX)),
            catalog: Catalog::default(),
            mappers: BTreeMap::new(),
            unserved: Unserved::default(),
            complained: BTreeMap::new(),
            changed_early: Some(HashSet::new()),
            desired_early: HashSet::new(),
            settled: false,
            early: Vec::new(),
            sessions: 0,
        }
    }

    fn door(&self, ctx: &Context<Self>) -> Door {
        let mut allowed = self.settings.allowed_uids.clone();
        if allowed.is_empty() {
            allowed = vec![0, nix::unistd::geteuid().as_raw()];
        }
        Door {
            register: Link::to(NAME, &ctx.address(), Arc::clone(&self.stats)),
            report_twins: self.links.report_twins.clone(),
            report_state: self.links.report_state.clone(),
            allowed_uids: allowed.into(),
            metrics: self.metrics.clone(),
        }
    }

    /// Puts an object into the catalog if `is_news` of its key.
    fn put(
        &mut self,
        object: &Arc<Value>,
        is_model: bool,
        is_news: impl Fn(&Key) -> bool,
    ) -> BTreeSet<Touched> {
        match device_id(object) {
            Ok(id) if is_model && is_news(&Key::Model(id.clone())) => {
                self.catalog.put_model(id, Arc::clone(object))
            }
            Ok(id) if !is_model && is_news(&Key::Device(id.clone())) => {
                self.catalog.put_device(id, Arc::clone(object))
            }
            Ok(_) => BTreeSet::new(),
            Err(err) => {
                tracing::warn!(error = %err, "an object of devices has no name");
                BTreeSet::new()
            }
        }
    }

    /// What was told while the list was under way is newer than the list.
    fn note_early(&mut self, key: Key) {
        if let Some(changed) = &mut self.changed_early {
            changed.insert(key);
        }
    }

    /// Tells the mappers concerned.
    fn spread_news(&mut self, touched: BTreeSet<Touched>, ctx: &mut Context<Self>) {
        let protocols: BTreeSet<String> = touched.iter().map(|touched| touched.protocol.clone()).collect();
        for Touched { protocol, key } in touched {
            if let Some(connection) = self.mappers.get_mut(&protocol) {
                connection.lane.mark(key);
            }
        }
        for protocol in protocols {
            self.pump(&protocol, ctx);
        }
    }

    fn mark_all(&mut self, protocol: &str) {
        let keys = self.catalog.keys(protocol);
        if let Some(connection) = self.mappers.get_mut(protocol) {
            keys.into_iter().for_each(|key| connection.lane.mark(key));
        }
    }

    /// Says of each device that cannot be told why, once.
    fn complain_of_objects(&mut self) {
        let now: BTreeMap<DeviceId, String> =
            self.catalog.undeliverable().map(|(id, why)| (id.clone(), why.to_owned())).collect();
        for (device, why) in &now {
            if self.complained.get(device) != Some(why) {
                tracing::warn!(%device, error = %why, "device cannot be told to a mapper");
            }
        }
        self.metrics.undeliverable.set(gauge(now.len()));
        self.complained = now;
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        if !self.settled {
            return;
        }
        self.complain_of_objects();
        let mappers = &self.mappers;
        let alone = self.catalog.in_need().filter(|(_, _, protocol)| !mappers.contains_key(*protocol));
        let alone = alone.map(|(id, _, protocol)| (id.clone(), protocol.to_owned()));
        let complaints = self.unserved.look(alone, now());
        self.metrics.unserved.set(gauge(self.unserved.len()));
        for (device, protocol) in complaints {
            tracing::warn!(%device, %protocol, "no mapper registered for this protocol: start one, it registers by itself");
            let object = self.catalog.in_need().find(|(id, ..)| **id == device).map(|(_, object, _)| object);
            let Some(event) = object.map(|object| {
                event::no_mapper(object, &protocol, self.settings.node.as_str(), jiff::Timestamp::now())
            }) else {
                continue;
            };
            let link = self.links.report_event.clone();
            let told = async move {
                match link.ask(ReportEvent(Box::new(event)), ASK_DEADLINE).await {
                    Ok(Ok(())) => {}
                    Ok(Err(err)) => tracing::debug!(error = %err, "event was not taken"),
                    Err(err) => tracing::debug!(error = %err, "event was not taken"),
                }
            };
            ctx.spawn(told.into_actor(self));
        }
    }
}

fn gauge(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

/// Follows tokio's clock, so that tests can pause it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Actor for Dmi {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.load_mappers();
        let serving = serve_worker::serve(self.settings.socket.clone(), self.door(ctx));
        ctx.spawn(serving.into_actor(self));
        self.ask_devices(ctx);
        ctx.run_interval(TICK, Self::tick);
    }
}

impl Supervised for Dmi {
    /// `started` reads the mappers and asks for the objects again. The socket and the connections
    /// went with the context.
    fn restarting(&mut self, _: &mut Context<Self>) {
        self.stats = Arc::new(ActorStats::bounded(OWN_MAILBOX));
        self.catalog.clear();
        self.mappers.clear();
        self.changed_early = Some(HashSet::new());
        self.desired_early.clear();
        self.settled = false;
        self.early.clear();
        self.count();
    }
}

crate::handles!(Dmi: Register, DeviceChanged, DeviceRemoved, ModelChanged, ModelRemoved, DesiredChanged);

impl Handler<Register> for Dmi {
    type Result = ResponseFuture<Result<MapperRegisterResponse, String>>;

    fn handle(&mut self, msg: Register, ctx: &mut Context<Self>) -> Self::Result {
        let (answer, answered) = oneshot::channel();
        if self.settled {
            self.register(msg, answer, ctx);
        } else if self.early.len() < OWN_MAILBOX {
            self.early.push((msg, answer));
        }
        Box::pin(async {
            let gone = |_| Err("edgecore's DMI is starting, register again".to_owned());
            answered.await.unwrap_or_else(gone)
        })
    }
}

impl Handler<DeviceChanged> for Dmi {
    type Result = ();

    fn handle(&mut self, DeviceChanged(object): DeviceChanged, ctx: &mut Context<Self>) {
        if let Ok(id) = device_id(&object) {
            self.note_early(Key::Device(id));
        }
        let touched = self.put(&object, false, |_| true);
        self.spread_news(touched, ctx);
    }
}

impl Handler<DeviceRemoved> for Dmi {
    type Result = ();

    fn handle(&mut self, DeviceRemoved(id): DeviceRemoved, ctx: &mut Context<Self>) {
        self.note_early(Key::Device(id.clone()));
        let touched = self.catalog.remove_device(&id);
        self.spread_news(touched, ctx);
    }
}

impl Handler<ModelChanged> for Dmi {
    type Result = ();

    fn handle(&mut self, ModelChanged(object): ModelChanged, ctx: &mut Context<Self>) {
        if let Ok(id) = device_id(&object) {
            self.note_early(Key::Model(id));
        }
        let touched = self.put(&object, true, |_| true);
        self.spread_news(touched, ctx);
    }
}

impl Handler<ModelRemoved> for Dmi {
    type Result = ();

    fn handle(&mut self, ModelRemoved { namespace, name }: ModelRemoved, ctx: &mut Context<Self>) {
        let id = DeviceId::new(namespace, name);
        self.note_early(Key::Model(id.clone()));
        let touched = self.catalog.remove_model(&id);
        self.spread_news(touched, ctx);
    }
}

impl Handler<DesiredChanged> for Dmi {
    type Result = ();

    fn handle(&mut self, DesiredChanged { device, desired }: DesiredChanged, ctx: &mut Context<Self>) {
        if !self.settled {
            self.desired_early.insert(device.clone());
        }
        let touched = self.catalog.put_desired(device, desired);
        self.spread_news(touched, ctx);
    }
}

#[cfg(test)]
mod tests;
