//! EventBus: MQTT for this node. The broker inside serves local clients; with `mqttMode` 1 or 2 it is
//! a client of a broker outside. Messages of devices go to DeviceTwin, others the node subscribes to
//! go to the cloud.
//!
//! Connections are tasks that move bytes ([`connection_worker`]); they put what they read into an
//! inbox, and the actor takes all of it at once: everything is decided under the guard, a burst
//! costs one flush, and each connection that got something is written once. After a panic the
//! connections are closed and the broker is what the disk says.

pub(crate) mod access;
mod broker_actor;
mod certificate;
mod connection_worker;
mod external_actor;
mod external_worker;
mod gatekeeper_worker;
mod lanes;
mod listen_worker;
mod local_actor;
pub(crate) mod password;
mod policy_worker;
mod refusals;
mod store_actor;
mod system;
mod upload_worker;
mod uploads;
mod websocket_worker;
mod wire;

use std::collections::HashMap;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, SystemTime};

use actix::fut::ActorFuture;
use actix::prelude::*;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Sleep, sleep_until};

pub use self::listen_worker::{BindError, EventBusSockets};

use self::access::Rules;
use self::broker_actor::Connection;
use self::external_actor::External;
use self::gatekeeper_worker::Gatekeeper;
use self::listen_worker::Gate;
use self::local_actor::Local;
use self::store_actor::StoreQueue;
use self::upload_worker::Cloud;
use self::wire::{Conn, Event};
use crate::bus::Link;
use crate::bus::device_twin::{DeviceMessage, MembersChanged};
use crate::bus::edge_hub::{Request, SendUpstream};
use crate::bus::event_bus::{NotPublished, Publish};
use crate::bus::identity::{AuditFact, Credentials, Policies};
use crate::config::EventBusConfig;
use crate::model::{NodeName, unix_ms};
use crate::mqtt::{Broker, Effect, Input};
use crate::store::{Committer, Store};
use crate::telemetry::event_bus::{EventBusLimits, EventBusMetrics};

/// Housekeeping: keep-alives, retries, figures.
const TICK: Duration = Duration::from_secs(1);
/// A deadline that has passed waits so long all the same: no turn follows at once on another.
const MIN_WAIT_MS: u64 = 5;
/// Topics of this node (protocol section 7.6).
const LOCAL_FILTERS: [&str; 6] = [
    "$hw/events/upload/#",
    "$hw/events/device/+/+/state/update",
    "$hw/events/device/+/+/twin/+",
    "$hw/events/node/+/membership/get",
    "SYS/dis/upload_records",
    "+/user/#",
];

/// What [`EventBus`] needs to know.
#[derive(Debug, Clone)]
pub struct EventBusSettings {
    pub node: NodeName,
    pub config: EventBusConfig,
}

/// Whom [`EventBus`] talks to.
#[derive(Clone)]
pub struct EventBusLinks {
    pub device: Link<DeviceMessage>,
    pub send: Link<SendUpstream>,
    pub request: Link<Request>,
    /// What the TLS listeners show when no files are configured.
    pub credentials: Credentials,
    /// What certificates may do beside their devices' topics.
    pub policies: Policies,
    pub audit: Link<AuditFact>,
}

/// The actor.
pub struct EventBus {
    config: Rc<EventBusConfig>,
    store: Arc<dyn Store>,
    committer: Committer,
    metrics: EventBusMetrics,
    sockets: EventBusSockets,
    start: Instant,
    device: Link<DeviceMessage>,
    audit: Link<AuditFact>,
    credentials: Credentials,
    policies: Policies,
    cloud: Cloud,
    node: NodeName,
    rules: Rules,
    keeper: Rc<Gatekeeper>,
    /// Connections of this life of the actor; a new one after a restart.
    gate: Rc<Gate>,
    tasks: Vec<JoinHandle<()>>,
    /// `None`: no broker inside, or the store could not be read.
    broker: Option<Broker>,
    connections: HashMap<Conn, Connection, foldhash::fast::RandomState>,
    touched: Vec<Conn>,
    effects: Vec<Effect>,
    writes: StoreQueue,
    local: Local,
    external: Option<External>,
    system: system::System,
}

impl EventBus {
    /// Serves on `sockets` when it starts; reads `store` then, and writes through `committer`.
    #[must_use]
    pub fn new(
        settings: EventBusSettings,
        sockets: EventBusSockets,
        store: Arc<dyn Store>,
        committer: Committer,
        links: EventBusLinks,
        metrics: EventBusMetrics,
    ) -> Self {
        let EventBusSettings { node, config } = settings;
        metrics.limit(EventBusLimits {
            clients: config.internal.max_connections,
            memory_bytes: config.internal.max_memory_bytes,
            retained: config.internal.max_retained_messages,
            uploads: config.internal.upload_outbox_max_messages,
        });
        let keeper = Gatekeeper::new();
        let start = Instant::now();
        let (audit, internal) = (links.audit, config.internal.clone());
        let gate = Gate::new(internal, Rc::clone(&keeper), audit.clone(), metrics.clone(), start);
        let now_ms = gate.now_ms();
        let external = config.has_external().then(|| External::new(&config, &node, now_ms));
        Self {
            rules: Rules::new(config.internal.access_rules.clone()),
            local: Local::new(config.internal.upload_outbox_max_messages),
            cloud: Cloud { send: links.send, request: links.request, node: node.to_string() },
            device: links.device,
            audit,
            credentials: links.credentials,
            policies: links.policies,
            node,
            config: Rc::new(config),
            store,
            committer,
            metrics,
            sockets,
            start,
            keeper,
            gate,
            tasks: Vec::new(),
            broker: None,
            connections: HashMap::default(),
            touched: Vec::new(),
            effects: Vec::new(),
            writes: StoreQueue::default(),
            external,
            system: system::System::default(),
        }
    }

    /// Handles everything that happened, then writes each connection once.
    fn turn(&mut self, ctx: &mut Context<Self>) {
        while !self.gate.inbox.is_empty() {
            for event in self.gate.inbox.take() {
                self.event(event);
            }
        }
        self.flush_broker();
        self.write_store(ctx);
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Open(newcomer) => self.open(*newcomer),
            Event::Read { conn, packets, broken } if self.is_external(conn) => {
                self.external_read(packets, broken);
            }
            Event::Read { conn, packets, broken } => self.read(conn, packets, broken),
            Event::Wrote(conn) => self.wrote(conn),
            Event::Closed(conn) if self.is_external(conn) => self.external_closed("connection closed"),
            Event::Closed(conn) => self.closed(conn),
            Event::Answer { attempt, is_taken } => self.answered(attempt, is_taken),
            Event::Retry(lane) => self.retry_lane(lane),
            Event::Dialled(dialled) => self.external_dialled(dialled),
            Event::Policies => self.take_policies(),
        }
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        if self.broker.is_none() && self.config.has_internal() {
            self.load();
        }
        self.input(Input::Tick);
        self.check_keep_alives();
        self.check_certificates();
        self.external_tick();
        self.let_leave();
        self.drain_uploads(ctx);
        self.show_figures();
        self.turn(ctx);
    }

    /// The rights of connected clients are those of the newest policies, from now on.
    fn take_policies(&mut self) {
        let policies = self.policies.borrow_and_update().clone();
        if self.rules.set_policies(policies.as_deref()) {
            self.renew_rights();
        }
    }

    /// Ends all connections and listeners of this life.
    fn close_all(&mut self) {
        self.gate.inbox.close();
        for connection in self.connections.values() {
            connection.wire.cut.set(true);
            connection.wire.wake();
        }
        self.connections.clear();
        if let Some(external) = &mut self.external {
            external.cut();
        }
        for task in self.tasks.drain(..) {
            task.abort();
        }
    }
}

impl Actor for EventBus {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.load();
        self.take_policies();
        let watching = policy_worker::watch(self.policies.clone(), Rc::clone(&self.gate));
        self.tasks.push(actix::spawn(watching));
        let keeper = Rc::clone(&self.keeper);
        self.tasks.push(actix::spawn(keeper.keep_reading(
            self.node.clone(),
            self.config.internal.clone(),
            self.credentials.clone(),
        )));
        match self.sockets.serve(&self.gate) {
            Ok(tasks) => {
                self.tasks.extend(tasks);
                for (over, address) in ["tcp", "tls", "websocket"].into_iter().zip(self.sockets.addresses()) {
                    if let Some(address) = address {
                        tracing::info!(over, %address, "MQTT clients are served");
                    }
                }
            }
            Err(err) => tracing::error!(error = %err, "the MQTT listeners cannot be used"),
        }
        ctx.run_interval(TICK, Self::tick);
        ctx.spawn(Turns { timer: None });
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.close_all();
    }
}

impl Supervised for EventBus {
    /// Closes every connection; `started` reads the disk again. Members were told, not computed.
    fn restarting(&mut self, _: &mut Context<Self>) {
        self.close_all();
        self.gate = Gate::new(
            self.config.internal.clone(),
            Rc::clone(&self.keeper),
            self.audit.clone(),
            self.metrics.clone(),
            self.start,
        );
        self.broker = None;
        self.touched.clear();
        self.effects.clear();
        self.writes = StoreQueue::default();
        self.local = Local::new(self.config.internal.upload_outbox_max_messages);
        self.system = system::System::default();
    }
}

/// Has [`EventBus::turn`] run whenever its inbox was filled, a message was handled, or the broker's
/// next deadline came: the context polls it after its mailbox.
struct Turns {
    timer: Option<(i64, Pin<Box<Sleep>>)>,
}

impl ActorFuture<EventBus> for Turns {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        bus: &mut EventBus,
        ctx: &mut Context<EventBus>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<()> {
        bus.gate.inbox.register(cx.waker());
        if let Some((_, timer)) = &mut self.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            self.timer = None;
            bus.input(Input::Tick);
        }
        bus.turn(ctx);
        let next = bus.broker.as_ref().and_then(Broker::next_deadline);
        if self.timer.as_ref().map(|(at, _)| *at) != next {
            self.timer = next.map(|at| {
                let wait =
                    u64::try_from(at.saturating_sub(now_unix_ms())).unwrap_or_default().max(MIN_WAIT_MS);
                (at, Box::pin(sleep_until(Instant::now() + Duration::from_millis(wait))))
            });
            if let Some((_, timer)) = &mut self.timer
                && timer.as_mut().poll(cx).is_ready()
            {
                cx.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }
}

crate::handles!(EventBus: Publish, MembersChanged);

impl Handler<Publish> for EventBus {
    type Result = Result<(), NotPublished>;

    fn handle(&mut self, Publish(publications): Publish, _: &mut Context<Self>) -> Self::Result {
        if self.broker.is_none() && self.external.is_none() {
            return Err(NotPublished("no broker runs".to_owned()));
        }
        for publication in publications {
            self.publish(publication);
        }
        Ok(())
    }
}

impl Handler<MembersChanged> for EventBus {
    type Result = ();

    fn handle(&mut self, MembersChanged(members): MembersChanged, _: &mut Context<Self>) {
        if self.rules.set_members(members) {
            self.renew_rights();
        }
    }
}

/// Unix milliseconds.
fn now_unix_ms() -> i64 {
    unix_ms(SystemTime::now())
}

#[cfg(test)]
mod tests;
