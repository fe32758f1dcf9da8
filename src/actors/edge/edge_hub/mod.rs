//! EdgeHub: the edge's one connection to the cloud. It joins, dials, keeps the session alive,
//! brings messages up by class and down to MetaManager, and renews the certificate.
//!
//! What is decided is in [`session`], [`queues`], [`routing`], [`backoff`], [`certificate`], [`clock`]
//! [`renewal`] and [`report`]; what is on disk in [`credential_files`]; the network in [`https_worker`],
//! [`join_worker`], [`attest_worker`] and [`link_worker`].

mod attest_worker;
pub(crate) mod backoff;
pub(crate) mod certificate;
mod clock;
pub(crate) mod credential_files;
mod https_worker;
pub(crate) mod join_error;
pub(crate) mod join_worker;
pub(crate) mod link_worker;
mod pulse;
mod queues;
mod renewal;
mod renewal_worker;
pub(crate) mod report;
mod report_worker;
pub(crate) mod routing;
mod session;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};

use self::credential_files::Identity;
pub use self::credential_files::Places;
use self::join_worker::Joiner;
use self::link_worker::{Dialled, Dialling, NotDialled, PumpSettings, dial, patience, pump};
use self::queues::{Outgoing, Purpose};
use self::renewal_worker::Renewing;
pub use self::report::Rendered;
pub use self::report_worker::ReportSource;
use self::report_worker::Reporting;
use self::routing::Route;
use self::session::{Effect, Hub};
use crate::bus::Link;
use crate::bus::device_twin::FromCloud;
use crate::bus::edge_hub::{Class, CloudLinkChanged, Request, SendError, SendUpstream};
use crate::bus::identity::{AuditFact, RootsChanged};
use crate::bus::meta::{ApplyDownstream, NotStored};
use crate::config::{EdgeHubConfig, EdgeIdentityConfig};
use crate::identity::NodeCredentials;
use crate::model::{Body, Envelope, NodeName, unix_ms, unix_secs};
use crate::telemetry::edge_hub::EdgeHubMetrics;
use crate::wire::frame::{self, MAX_MESSAGE_BYTES, WireError};

/// How long storing one message may take before the cloud has to send it again.
const APPLY_DEADLINE: Duration = Duration::from_secs(30);
const ANNOUNCE_DEADLINE: Duration = Duration::from_secs(5);
const ANNOUNCE_RETRY: Duration = Duration::from_millis(200);
const RENEWAL_CHECK: Duration = Duration::from_secs(1);

/// What [`EdgeHub`] needs to know.
#[derive(Debug, Clone)]
pub struct HubSettings {
    pub node: NodeName,
    pub config: EdgeHubConfig,
    pub identity: EdgeIdentityConfig,
    /// Where everybody else finds the node's credentials; they are published whenever they change.
    pub credentials: watch::Sender<Option<Arc<NodeCredentials>>>,
    /// What is reported to the cloud every `modules.edgeHub.reportIntervalSecs`.
    pub report: ReportSource,
}

/// Whom [`EdgeHub`] talks to.
#[derive(Clone)]
pub struct HubLinks {
    pub apply: Link<ApplyDownstream>,
    pub link_changed: Link<CloudLinkChanged>,
    pub twin: Link<FromCloud>,
    pub audit: Link<AuditFact>,
}

/// The link as readiness sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    Up,
    /// Says what is missing, for people.
    Down {
        why: String,
    },
}

/// Called at every change of the link.
pub type PublishState = Arc<dyn Fn(LinkState) + Send + Sync>;

type Reply = oneshot::Sender<Result<Envelope, SendError>>;

/// The actor.
pub struct EdgeHub {
    node: NodeName,
    config: Arc<EdgeHubConfig>,
    joiner: Joiner,
    /// Tells this process from another one with the same certificate.
    instance: String,
    links: HubLinks,
    metrics: EdgeHubMetrics,
    publish: PublishState,
    hub: Hub<Reply>,
    /// To the writer of the open session.
    outgoing: Option<mpsc::Sender<Vec<Bytes>>>,
    wakeup: Option<(Instant, SpawnHandle)>,
    /// The newest news for MetaManager, and whether it is being told.
    news: CloudLinkChanged,
    is_telling: bool,
    renewing: Renewing,
    reporting: Reporting,
}

/// A message from the cloud was read.
#[derive(Message)]
#[rtype(result = "()")]
struct Received {
    session: u64,
    envelope: Envelope,
    bytes: usize,
}

/// The writer wants more.
#[derive(Message)]
#[rtype(result = "()")]
struct Written {
    session: u64,
}

impl EdgeHub {
    /// Dials when it starts. `publish` is called with the state of the link at every change.
    #[must_use]
    pub fn new(
        settings: HubSettings,
        links: HubLinks,
        metrics: EdgeHubMetrics,
        publish: PublishState,
    ) -> Self {
        let HubSettings { node, config, identity, credentials, report } = settings;
        let hub = Hub::new(config.message_qps, config.message_burst, 0, now());
        let joiner = Joiner::new(node.clone(), config.clone(), identity, credentials, links.audit.clone());
        let reporting = Reporting::new(report, config.report_interval_secs);
        let config = Arc::new(config);
        Self {
            joiner,
            instance: uuid::Uuid::new_v4().to_string(),
            node,
            config,
            links,
            metrics,
            publish,
            hub,
            outgoing: None,
            wakeup: None,
            news: CloudLinkChanged { connected: false, session: 0, resync: false },
            is_telling: false,
            renewing: Renewing::default(),
            reporting,
        }
    }

    /// Does what the core decided, in order, then sleeps until the core wants to be woken.
    fn run(&mut self, effects: Vec<Effect<Reply>>, ctx: &mut Context<Self>) {
        for effect in effects {
            match effect {
                Effect::Dial => self.dial(ctx),
                Effect::Write(frames) => {
                    if let Some(outgoing) = &self.outgoing
                        && outgoing.try_send(frames).is_err()
                    {
                        tracing::debug!("the writer has ended, the session follows");
                    }
                }
                Effect::Close => self.outgoing = None,
                // Whoever asked may have stopped waiting.
                Effect::Resolve(reply, outcome) => drop(reply.send(outcome)),
                Effect::Apply(envelope) => self.apply(envelope, ctx),
                Effect::Announce { connected, session, resync } => {
                    self.news = CloudLinkChanged { connected, session, resync };
                    self.metrics.connected.set(if connected { 1.0 } else { 0.0 });
                    self.metrics.session_changed.set(unix_secs(SystemTime::now()) as f64);
                    self.tell_news(ctx);
                }
            }
        }
        self.sleep(ctx);
    }

    fn sleep(&mut self, ctx: &mut Context<Self>) {
        let now = now();
        let next = self.hub.next_wakeup(now);
        if self.wakeup.map(|(at, _)| at) == next {
            return;
        }
        if let Some((_, timer)) = self.wakeup.take() {
            ctx.cancel_future(timer);
        }
        if let Some(at) = next {
            let timer = ctx.run_later(at.saturating_duration_since(now), |hub, ctx| {
                hub.wakeup = None;
                let effects = hub.hub.tick(self::now());
                hub.run(effects, ctx);
            });
            self.wakeup = Some((at, timer));
        }
    }

    fn dial(&mut self, ctx: &mut Context<Self>) {
        let (joiner, config, node) = (self.joiner.clone(), Arc::clone(&self.config), self.node.clone());
        let instance = self.instance.clone();
        let dialled = async move {
            let identity = joiner.ensure().await.map_err(|err| err.to_string())?;
            let dialling =
                Dialling { config: &config, node: &node, identity: &identity, instance: &instance };
            let why = match dial(dialling).await {
                Ok(dialled) => {
                    if let Some(date) = dialled.date {
                        joiner.learn(date);
                    }
                    return Ok((identity, dialled));
                }
                Err(NotDialled { why, refused: false }) => return Err(why),
                Err(NotDialled { why, .. }) => why,
            };
            // The certificate is good, yet refused: the node was revoked. Only the operator can help.
            match joiner.rejoin().await {
                Ok(Some(_)) => Err(format!("{why}: joined anew")),
                Ok(None) => Err(format!(
                    "{why}: the cloud refuses this node's certificate; to join anew put a fresh join token into {}",
                    config.bootstrap_file.display()
                )),
                Err(err) => Err(format!("{why}: {err}")),
            }
        };
        ctx.spawn(dialled.into_actor(self).map(|outcome, hub, ctx| match outcome {
            Ok((identity, dialled)) => hub.open(&identity, dialled, ctx),
            Err(why) => {
                tracing::debug!(server = %hub.config.websocket.server, error = %why, "no session with the cloud");
                (hub.publish)(LinkState::Down { why });
                let effects = hub.hub.dial_failed(now(), fastrand::f64());
                hub.run(effects, ctx);
            }
        }));
    }

    fn open(&mut self, identity: &Identity, dialled: Dialled, ctx: &mut Context<Self>) {
        self.renew_in_session(identity, dialled.identity);
        let takes_reports = dialled.report;
        let (sender, receiver) = mpsc::channel(1);
        self.outgoing = Some(sender);
        let effects = self.hub.opened(dialled.resync, now());
        let session = self.hub.session();
        let heartbeat = Duration::from_secs(self.config.heartbeat.max(1));
        let websocket = &self.config.websocket;
        let settings = PumpSettings {
            session,
            hub: ctx.address(),
            metrics: self.metrics.clone(),
            heartbeat,
            write_deadline: Duration::from_secs(websocket.write_deadline.max(1)),
            idle: patience(&self.config),
            flow: dialled.flow,
        };
        tracing::debug!(server = %websocket.server, session, resync = dialled.resync, "session open");
        if session > 1 {
            self.metrics.reconnects.increment(1);
        }
        (self.publish)(LinkState::Up);
        let link = pump(dialled.stream, receiver, settings);
        ctx.spawn(link.into_actor(self).map(move |why, hub, ctx| {
            tracing::debug!(session, reason = %why, "session ended");
            hub.outgoing = None;
            (hub.publish)(LinkState::Down { why });
            let effects = hub.hub.closed(session, now(), fastrand::f64());
            hub.run(effects, ctx);
        }));
        self.run(effects, ctx);
        self.report_in_session(takes_reports, ctx);
    }

    fn apply(&mut self, envelope: Envelope, ctx: &mut Context<Self>) {
        let session = self.hub.session();
        let link = self.links.apply.clone();
        // The acknowledgement needs header and route only.
        let receipt =
            Envelope { header: envelope.header.clone(), route: envelope.route.clone(), body: Body::Null };
        let stored = async move { link.ask(ApplyDownstream(envelope), APPLY_DEADLINE).await };
        ctx.spawn(stored.into_actor(self).map(move |outcome, hub, ctx| {
            let resource = receipt.route.resource.to_string();
            let why = match outcome {
                Ok(Ok(())) => None,
                Ok(Err(NotStored { why, .. })) => Some(why),
                Err(err) => Some(err.to_string()),
            };
            if let Some(why) = &why {
                tracing::warn!(%resource, error = %why, "not stored, so not acknowledged");
            }
            let ack = match why {
                None => outgoing(&receipt.ack(unix_ms(SystemTime::now())), Class::Control, Purpose::Ack).ok(),
                Some(_) => None,
            };
            let effects = hub.hub.applied(&resource, session, ack, now());
            hub.run(effects, ctx);
        }));
    }

    /// Tells MetaManager the newest state of the link until it has it. States in between may be
    /// skipped: the session number shows that there was a change.
    fn tell_news(&mut self, ctx: &mut Context<Self>) {
        if self.is_telling {
            return;
        }
        self.is_telling = true;
        let (link, news) = (self.links.link_changed.clone(), self.news);
        let told = async move { (link.ask(news, ANNOUNCE_DEADLINE).await, news) };
        ctx.spawn(told.into_actor(self).map(|(outcome, told), hub, ctx| {
            hub.is_telling = false;
            if let Err(err) = outcome {
                tracing::debug!(error = %err, "the state of the link was not taken, trying again");
                ctx.run_later(ANNOUNCE_RETRY, |hub, ctx| hub.tell_news(ctx));
            } else if told != hub.news {
                hub.tell_news(ctx);
            }
        }));
    }
}

impl Actor for EdgeHub {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        ctx.run_interval(RENEWAL_CHECK, |hub, ctx| hub.renew_if_due(ctx));
        self.report_regularly(ctx);
        // Workloads get their identities before, and without, a connection.
        let joiner = self.joiner.clone();
        let loaded = async move { joiner.start().await };
        ctx.spawn(loaded.into_actor(self).map(|outcome, hub, _| match outcome {
            Ok(Some(identity)) => hub.plan_first_renewal(&identity),
            Ok(None) => {}
            Err(err) => tracing::warn!(error = %err, "the stored credentials cannot be used"),
        }));
        // After a restart the session is gone and MetaManager does not know.
        self.tell_news(ctx);
        let effects = self.hub.tick(now());
        self.run(effects, ctx);
    }
}

impl Supervised for EdgeHub {
    /// Everything here is about the session that is gone with the panic: those who wait hear so
    /// (their reply channel closes), the cloud resends, the files are read again.
    fn restarting(&mut self, _: &mut Context<Self>) {
        let sessions = self.hub.session();
        self.hub = Hub::new(self.config.message_qps, self.config.message_burst, sessions, now());
        self.outgoing = None;
        self.wakeup = None;
        self.is_telling = false;
        self.renewing = Renewing::default();
        self.reporting.restart();
        self.metrics.connected.set(0.0);
        self.news = CloudLinkChanged { connected: false, session: sessions, resync: false };
        (self.publish)(LinkState::Down { why: "EdgeHub restarts".to_owned() });
    }
}

crate::handles!(EdgeHub: SendUpstream, Request, RootsChanged);

impl Handler<SendUpstream> for EdgeHub {
    type Result = Result<(), SendError>;

    fn handle(&mut self, msg: SendUpstream, ctx: &mut Context<Self>) -> Self::Result {
        let purpose = if msg.comes_again { Purpose::Again } else { Purpose::Send };
        let message = outgoing(&msg.envelope, msg.class, purpose)?;
        let effects = self.hub.send(message, now())?;
        self.run(effects, ctx);
        Ok(())
    }
}

impl Handler<Request> for EdgeHub {
    type Result = ResponseFuture<Result<Envelope, SendError>>;

    fn handle(&mut self, msg: Request, ctx: &mut Context<Self>) -> Self::Result {
        let message = match outgoing(&msg.envelope, msg.class, Purpose::Request) {
            Ok(message) => message,
            Err(err) => return Box::pin(async { Err(err) }),
        };
        let (reply, answer) = oneshot::channel();
        let effects = self.hub.request(message, reply, msg.timeout, now());
        self.run(effects, ctx);
        Box::pin(async { answer.await.unwrap_or(Err(SendError::Disconnected)) })
    }
}

impl Handler<Written> for EdgeHub {
    type Result = ();

    fn handle(&mut self, msg: Written, ctx: &mut Context<Self>) {
        let effects = self.hub.written(msg.session, now());
        self.run(effects, ctx);
    }
}

impl Handler<Received> for EdgeHub {
    type Result = ();

    fn handle(&mut self, msg: Received, ctx: &mut Context<Self>) {
        let Received { session, envelope, bytes } = msg;
        if session != self.hub.session() {
            return;
        }
        match routing::route(&envelope) {
            Route::Reply { store } => {
                let parent = envelope.header.parent_msg_id.clone().unwrap_or_default();
                let copy = store.then(|| envelope.clone());
                let (waited, effects) = self.hub.replied(&parent, envelope, now());
                self.run(effects, ctx);
                match copy {
                    Some(copy) => self.store(copy, bytes, ctx),
                    None if !waited => self.metrics.unrouted.increment(1),
                    None => {}
                }
            }
            Route::Store => self.store(envelope, bytes, ctx),
            Route::Probe => {
                let body = Body::Text("ack".to_owned());
                let answer = envelope.response(body, unix_ms(SystemTime::now()));
                if let Ok(answer) = outgoing(&answer, Class::Control, Purpose::Ack)
                    && let Ok(effects) = self.hub.send(answer, now())
                {
                    self.run(effects, ctx);
                }
            }
            Route::Twin => {
                // Lost confirmations come again with the report, memberships with the Device object.
                if let Err(err) = self.links.twin.tell(FromCloud(envelope)) {
                    self.metrics.unrouted.increment(1);
                    tracing::warn!(error = %err, "a message about devices was dropped");
                }
            }
            Route::Nobody => {
                self.metrics.unrouted.increment(1);
                let route = &envelope.route;
                tracing::debug!(group = %route.group, resource = %route.resource, "no module takes this message");
            }
        }
    }
}

impl EdgeHub {
    fn store(&mut self, envelope: Envelope, bytes: usize, ctx: &mut Context<Self>) {
        let resource = envelope.route.resource.to_string();
        let (taken, effects) = self.hub.store(envelope, bytes);
        if !taken {
            tracing::warn!(%resource, "too much waits to be stored, the cloud has to send it again");
        }
        self.run(effects, ctx);
    }
}

/// Encodes, refusing what the cloud would not take.
fn outgoing(envelope: &Envelope, class: Class, purpose: Purpose) -> Result<Outgoing, SendError> {
    let frame = frame::encode_within(envelope, MAX_MESSAGE_BYTES).map_err(|err| match err {
        WireError::TooLarge { bytes, .. } => SendError::TooLarge { bytes },
        err => SendError::Unprintable(err.to_string()),
    })?;
    Ok(Outgoing { msg_id: envelope.header.msg_id.clone(), purpose, class, frame: Bytes::from(frame) })
}

/// Follows tokio's clock, so that tests can pause it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests;
