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
mod mapper_worker;
mod report;
mod roster;
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
use self::lane::{Key, Lane, Outcome, Step};
use self::roster::Mapper;
use self::serve_worker::Door;
use self::unserved::Unserved;
use crate::bus::device_twin::{
    DesiredChanged, DeviceChanged, DeviceObjects, DeviceRemoved, ListDesired, ListDevices, ModelChanged,
    ModelRemoved, ReportState, ReportTwins,
};
use crate::bus::meta::ReportEvent;
use crate::bus::{ActorStats, Link};
use crate::model::{DeviceId, NodeName};
use crate::store::{Committer, Store, Table};
use crate::supervise::{doubled, spread};
use crate::telemetry::dmi::DmiMetrics;
use crate::wire::dmi::{MapperClient, MapperRegisterResponse, device_id};

pub use self::roster::socket_path;

/// The actor's name in the tree.
pub const NAME: &str = "Dmi";

const TICK: Duration = Duration::from_secs(5);
const ASK_DEADLINE: Duration = Duration::from_secs(10);
const ASK_RETRY: Duration = Duration::from_secs(1);
/// So long mappers wait at a start for DeviceTwin to say which desired values are in force: nobody
/// should see an actuator go to an old value and back.
const SETTLE: Duration = Duration::from_secs(30);
/// Registrations that may wait for a write.
const OWN_MAILBOX: usize = 256;
/// Protocols, and so mappers, one node serves at most.
const MAX_MAPPERS: usize = 256;
const DIAL_FIRST: Duration = Duration::from_millis(200);
const DIAL_LONGEST: Duration = Duration::from_secs(10);
/// A connection this long proves the mapper well: the next failure starts over.
const GOOD_CONNECTION: Duration = Duration::from_secs(10);

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

/// A registered mapper and how it is reached.
struct Connection {
    mapper: Mapper,
    /// Tells apart what was begun for an earlier registration or connection.
    session: u64,
    client: Option<MapperClient>,
    since: Instant,
    failures: u32,
    lane: Lane,
    is_calling: bool,
    wake: Option<SpawnHandle>,
    /// The last complaint of the mapper that was logged.
    complaint: String,
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

    /// The mappers as they registered before this start.
    fn load_mappers(&mut self) {
        match self.store.scan(Table::Objects, roster::PREFIX.as_bytes(), None, MAX_MAPPERS) {
            Ok(rows) => {
                for mapper in rows.iter().filter_map(Mapper::from_row) {
                    self.add(mapper, Lane::default());
                }
            }
            Err(err) => tracing::error!(error = %err, "registered mappers cannot be read"),
        }
    }

    fn add(&mut self, mapper: Mapper, lane: Lane) {
        self.sessions += 1;
        let connection = Connection {
            session: self.sessions,
            client: None,
            since: now(),
            failures: 0,
            lane,
            is_calling: false,
            wake: None,
            complaint: String::new(),
            mapper,
        };
        self.mappers.insert(connection.mapper.protocol.clone(), connection);
    }

    /// Asks for everything that is stored, until it is answered.
    fn ask_devices(&mut self, ctx: &mut Context<Self>) {
        let link = self.links.list_devices.clone();
        let asked = async move { link.ask(ListDevices, ASK_DEADLINE).await };
        ctx.spawn(asked.into_actor(self).map(|answer, dmi, ctx| {
            let why = match answer {
                Ok(Ok(objects)) => return dmi.take_listing(objects, ctx),
                Ok(Err(err)) => err.to_string(),
                Err(err) => err.to_string(),
            };
            tracing::debug!(error = %why, "stored devices are not known yet");
            ctx.run_later(ASK_RETRY, Self::ask_devices);
        }));
    }

    fn take_listing(&mut self, objects: DeviceObjects, ctx: &mut Context<Self>) {
        let newer = self.changed_early.take().unwrap_or_default();
        for object in objects.models {
            self.put(&object, true, |key| !newer.contains(key));
        }
        for object in objects.devices {
            self.put(&object, false, |key| !newer.contains(key));
        }
        self.complain_of_objects();
        self.ask_desired(ctx);
        ctx.run_later(SETTLE, Self::settle);
    }

    /// Asks DeviceTwin for the desired values in force, until it is answered.
    fn ask_desired(&mut self, ctx: &mut Context<Self>) {
        let link = self.links.list_desired.clone();
        let asked = async move { link.ask(ListDesired, ASK_DEADLINE).await };
        ctx.spawn(asked.into_actor(self).map(|answer, dmi, ctx| {
            let why = match answer {
                Ok(Ok(all)) => {
                    let newer = std::mem::take(&mut dmi.desired_early);
                    for told in all.into_iter().filter(|told| !newer.contains(&told.device)) {
                        let touched = dmi.catalog.put_desired(told.device, told.desired);
                        dmi.spread_news(touched, ctx);
                    }
                    dmi.settle(ctx);
                    return;
                }
                Ok(Err(err)) => err.to_string(),
                Err(err) => err.to_string(),
            };
            tracing::debug!(error = %why, "desired values are not known yet");
            ctx.run_later(ASK_RETRY, Self::ask_desired);
        }));
    }

    /// From here on mappers are told.
    fn settle(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let protocols: Vec<String> = self.mappers.keys().cloned().collect();
        for protocol in protocols {
            self.mark_all(&protocol);
            self.dial(&protocol, ctx);
        }
        for (register, answer) in std::mem::take(&mut self.early) {
            self.register(register, answer, ctx);
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

    fn connection(&mut self, protocol: &str, session: u64) -> Option<&mut Connection> {
        self.mappers.get_mut(protocol).filter(|connection| connection.session == session)
    }

    fn dial(&mut self, protocol: &str, ctx: &mut Context<Self>) {
        let Some(connection) = self.mappers.get(protocol) else { return };
        let (session, path) = (connection.session, connection.mapper.address.clone());
        let protocol = protocol.to_owned();
        let dialled = async move { mapper_worker::dial(&path).await };
        ctx.spawn(dialled.into_actor(self).map(move |outcome, dmi, ctx| match outcome {
            Ok((client, closed)) => dmi.connected(&protocol, session, client, closed, ctx),
            Err(why) => {
                let Some(connection) = dmi.connection(&protocol, session) else { return };
                if connection.failures == 0 {
                    tracing::warn!(%protocol, error = %why, "mapper is not reachable; it is dialled until it is");
                }
                dmi.dial_later(&protocol, session, ctx);
            }
        }));
    }

    fn dial_later(&mut self, protocol: &str, session: u64, ctx: &mut Context<Self>) {
        let Some(connection) = self.connection(protocol, session) else { return };
        let pause = spread(doubled(DIAL_FIRST, connection.failures, DIAL_LONGEST), fastrand::f64());
        connection.failures = connection.failures.saturating_add(1);
        let protocol = protocol.to_owned();
        ctx.run_later(pause, move |dmi, ctx| {
            if dmi.connection(&protocol, session).is_some() {
                dmi.dial(&protocol, ctx);
            }
        });
    }

    fn connected(
        &mut self,
        protocol: &str,
        session: u64,
        client: MapperClient,
        closed: oneshot::Receiver<()>,
        ctx: &mut Context<Self>,
    ) {
        let Some(connection) = self.connection(protocol, session) else { return };
        connection.client = Some(client);
        connection.since = now();
        tracing::info!(%protocol, mapper = %connection.mapper.name, waiting = connection.lane.len(), "mapper is connected");
        self.count();
        let name = protocol.to_owned();
        let closing = async move { drop(closed.await) };
        ctx.spawn(closing.into_actor(self).map(move |(), dmi, ctx| dmi.lost(&name, session, ctx)));
        self.pump(protocol, ctx);
    }

    /// The connection ended: whoever comes back knows nothing.
    fn lost(&mut self, protocol: &str, session: u64, ctx: &mut Context<Self>) {
        self.sessions += 1;
        let next = self.sessions;
        let Some(connection) = self.connection(protocol, session) else { return };
        tracing::warn!(%protocol, mapper = %connection.mapper.name, "mapper is gone; its devices are told again when it is back");
        connection.session = next;
        connection.client = None;
        connection.is_calling = false;
        if now().saturating_duration_since(connection.since) >= GOOD_CONNECTION {
            connection.failures = 0;
        }
        connection.lane.forget();
        self.mark_all(protocol);
        self.count();
        self.dial_later(protocol, next, ctx);
    }

    /// Makes the mapper's next call, one at a time.
    fn pump(&mut self, protocol: &str, ctx: &mut Context<Self>) {
        let Self { mappers, catalog, settled, metrics, .. } = self;
        let Some(connection) = mappers.get_mut(protocol).filter(|connection| !connection.is_calling) else {
            return;
        };
        let Some(client) = connection.client.clone().filter(|_| *settled) else { return };
        if let Some(wake) = connection.wake.take() {
            ctx.cancel_future(wake);
        }
        let now = now();
        match connection.lane.next(|key| catalog.want(protocol, key), now) {
            Step::Idle => {}
            Step::Wait(until) => {
                let protocol = protocol.to_owned();
                let pause = until.saturating_duration_since(now);
                let woken = ctx.run_later(pause, move |dmi, ctx| {
                    if let Some(connection) = dmi.mappers.get_mut(&protocol) {
                        connection.wake = None;
                    }
                    dmi.pump(&protocol, ctx);
                });
                connection.wake = Some(woken);
            }
            Step::Call { key, call, hash } => {
                connection.is_calling = true;
                let (session, protocol) = (connection.session, protocol.to_owned());
                let name = call.name();
                let made = mapper_worker::make(client, call, metrics.clone());
                let made = made.into_actor(self).map(move |(outcome, why), dmi, ctx| {
                    let Some(connection) = dmi.connection(&protocol, session) else { return };
                    connection.is_calling = false;
                    if outcome == Outcome::Failed && connection.complaint != why {
                        tracing::warn!(%protocol, call = name, object = ?key, error = %why, "mapper refused; it is told again later");
                        connection.complaint = why;
                    }
                    connection.lane.done(key, hash, outcome, self::now(), fastrand::f64());
                    dmi.pump(&protocol, ctx);
                });
                ctx.spawn(made);
            }
        }
    }

    /// Stores the mapper, then answers and connects back.
    fn register(&mut self, register: Register, answer: Registered, ctx: &mut Context<Self>) {
        let Register { mapper, with_data } = register;
        if !self.mappers.contains_key(&mapper.protocol) && self.mappers.len() >= MAX_MAPPERS {
            drop(answer.send(Err(format!("{MAX_MAPPERS} mappers are registered, no more are taken"))));
            return;
        }
        let (committer, batch) = (self.committer.clone(), mapper.stored());
        let written = async move { committer.commit(batch).await };
        ctx.spawn(written.into_actor(self).map(move |outcome, dmi, ctx| {
            if let Err(err) = outcome {
                drop(answer.send(Err(format!("the registration was not stored: {err}"))));
                return;
            }
            let protocol = mapper.protocol.clone();
            tracing::info!(%protocol, mapper = %mapper.name, version = %mapper.version, "mapper registered");
            let mut lane = Lane::default();
            let mut response = MapperRegisterResponse::default();
            if with_data {
                // The answer is the delivery; only what differs from it is called.
                let listing = dmi.catalog.listing(&protocol);
                lane.was_told(listing.told);
                response.model_list = listing.models;
                response.device_list = listing.devices;
            }
            if let Some(wake) = dmi.mappers.get_mut(&protocol).and_then(|before| before.wake.take()) {
                ctx.cancel_future(wake);
            }
            dmi.add(mapper, lane);
            dmi.mark_all(&protocol);
            dmi.count();
            drop(answer.send(Ok(response)));
            dmi.dial(&protocol, ctx);
        }));
    }

    fn count(&self) {
        let connected = self.mappers.values().filter(|connection| connection.client.is_some()).count();
        self.metrics.mappers.set(gauge(connected));
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
