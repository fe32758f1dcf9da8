//! CloudHub: accepts nodes, keeps one session worker per node, gives certificates to new ones
//! (protocol sections 1, 4, 5; design D2, D6, D8).

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use actix_web::dev::ServerHandle;
use tokio::sync::mpsc;

use self::budget::Budgets;
use self::connection_worker::Connection;
use self::issue::Signer;
use self::issuer_worker::Issuer;
use self::join::Denied;
use self::join_worker::JoinServer;
use self::listen_worker::Door;
use self::queue::Total;
use self::renewal_worker::from_now;
use self::rivals::{Instances, Replaced, Rivals};
use self::session::{PIPE_FRAMES, Session, Settings};
use self::session_worker::{
    Broken, Down, FromEdge, Pipe, PipeMoved, SessionEnded, SessionLinks, SessionWorker,
};
use crate::bus::cloud_hub::{CloseNode, ConnectedNodes, EndReason, SendDown};
use crate::bus::device_controller::FromTwin;
use crate::bus::edge_controller::Upstream;
use crate::bus::identity::NodeCloned;
use crate::bus::sync::{Delivered, Extensions, Held, NodeConnected, NodeGone};
use crate::bus::{ActorStats, Link, Turn};
use crate::config::{CloudHubConfig, Listener};
use crate::identity::{Ca, JoinTokens};
use crate::model::NodeName;
use crate::supervise::{Policy, TreeHandle, WorkerAddr};
use crate::telemetry::cloud_hub::CloudHubMetrics;
use crate::telemetry::federation::Federation;
use crate::telemetry::identity::Refused;

mod applications;
pub(crate) mod attest;
mod attest_worker;
mod budget;
mod class;
mod connection_worker;
pub(crate) mod frames;
pub(crate) mod handshake;
mod issue;
mod issuer_worker;
pub(crate) mod join;
mod join_worker;
mod listen_worker;
mod pace;
mod pump_actor;
mod queue;
mod renewal_worker;
mod revoked;
mod rivals;
mod session;
mod session_worker;
#[cfg(test)]
mod tests;
pub(crate) mod token_use;
mod token_use_worker;

pub use self::issuer_worker::NodeIdentities;

/// The actor's name in the tree: its sessions are its workers.
pub const NAME: &str = "CloudHub";
/// Messages a session worker may have waiting; its queue is behind it.
const SESSION_MAILBOX: usize = 4_096;
/// Upgrades and session ends waiting for CloudHub.
const OWN_MAILBOX: usize = 4_096;
const SHARED: &str = "two machines share this node's certificate and end each other's sessions";
/// What may wait for all nodes together, in bytes of frames.
const ALL_QUEUES: usize = 256 << 20;
/// What waits is shown this often.
const SHOW_EVERY: Duration = Duration::from_secs(5);

/// Why CloudHub cannot start.
#[derive(Debug, thiserror::Error)]
pub enum CloudHubError {
    #[error("cloudHub.{listener}: cannot listen on {address}")]
    Bind { listener: &'static str, address: String, source: std::io::Error },
}

/// The bound sockets. They outlive restarts of the actor: nobody's connect is refused meanwhile.
pub struct Listeners {
    websocket: TcpListener,
    https: TcpListener,
}

impl Listeners {
    /// Binds both addresses. Port 0 takes a free one.
    ///
    /// # Errors
    /// [`CloudHubError::Bind`] names the address.
    pub fn bind(config: &CloudHubConfig) -> Result<Self, CloudHubError> {
        let bind = |listener: &'static str, at: &Listener| {
            let bound = TcpListener::bind((at.address.as_str(), at.port));
            bound.map_err(|source| CloudHubError::Bind {
                listener,
                address: format!("{}:{}", at.address, at.port),
                source,
            })
        };
        Ok(Self { websocket: bind("websocket", &config.websocket)?, https: bind("https", &config.https)? })
    }

    /// Where the websocket and the join server listen.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn addresses(&self) -> std::io::Result<(SocketAddr, SocketAddr)> {
        Ok((self.websocket.local_addr()?, self.https.local_addr()?))
    }
}

/// What CloudHub is built from.
pub struct CloudHubParts {
    pub config: CloudHubConfig,
    pub listeners: Listeners,
    /// Client certificates required (`ClientAuth::Required`).
    pub websocket_tls: Arc<rustls::ServerConfig>,
    /// Client certificates optional (`ClientAuth::Optional`).
    pub https_tls: Arc<rustls::ServerConfig>,
    pub ca: Arc<Ca>,
    pub tokens: Arc<JoinTokens>,
    pub identities: NodeIdentities,
    pub cloned: Link<NodeCloned>,
    /// PEM of the CA that the Kubernetes API's certificate is signed by; edges ask for it.
    pub cluster_ca_pem: Arc<str>,
    pub client: ::kube::Client,
    pub tree: TreeHandle,
    pub upstream: Link<Upstream>,
    /// `None` where no DeviceController runs.
    pub twin: Option<Link<FromTwin>>,
    pub node_connected: Link<NodeConnected>,
    pub node_gone: Vec<Link<NodeGone>>,
    pub held: Link<Held>,
    pub delivered: Link<Delivered>,
    /// Takes what nodes report.
    pub federation: Federation,
}

/// The actor.
pub struct CloudHub {
    parts: CloudHubParts,
    live: HashMap<NodeName, Live>,
    next_session: u64,
    rivals: Rivals,
    instances: Instances,
    issuer: Arc<Issuer>,
    queued: Arc<Total>,
    servers: Vec<ServerHandle>,
    metrics: CloudHubMetrics,
    /// Of the links that its own listeners and sessions have on it.
    stats: Arc<ActorStats>,
}

/// One connected node.
struct Live {
    session: u64,
    worker: WorkerAddr<SessionWorker>,
    down: Link<Down>,
    connection: Arc<Connection>,
}

impl Live {
    fn end(&self, reason: EndReason) {
        self.connection.end(reason);
        self.worker.stop();
    }
}

/// A listener asks for a session. Private to CloudHub.
#[derive(Message)]
#[rtype(result = "Result<Opened, NotOpened>")]
pub(crate) struct OpenSession {
    node: NodeName,
    extensions: Extensions,
    instance: Option<String>,
    silence: Option<Duration>,
    connection: Arc<Connection>,
}

/// The join server asks: is a machine of this name at work now? Private to CloudHub.
#[derive(Message)]
#[rtype(result = "bool")]
pub(crate) struct IsConnected(NodeName);

/// The pump's ends of a new session.
pub(crate) struct Opened {
    frames: mpsc::Receiver<bytes::Bytes>,
    pipe: Arc<Pipe>,
    from_edge: Link<FromEdge>,
    moved: Link<PipeMoved>,
    broken: Link<Broken>,
}

/// Why a node got no session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotOpened {
    #[error("{0} nodes are connected, which is cloudHub.nodeLimit")]
    NodeLimit(u32),
    #[error("{}", .0.why)]
    Denied(Denied),
}

impl CloudHub {
    #[must_use]
    pub fn new(parts: CloudHubParts) -> Self {
        let signer = Signer {
            ca: Arc::clone(&parts.ca),
            svid_ttl: parts.identities.svid_ttl,
            go_ttl: parts.identities.go_ttl,
            node_ca_ttl: parts.identities.node_ca_ttl,
        };
        Self {
            issuer: Arc::new(Issuer::new(signer, parts.identities.clone())),
            parts,
            instances: Instances::default(),
            live: HashMap::new(),
            next_session: 1,
            rivals: Rivals::default(),
            queued: Arc::new(Total::new(ALL_QUEUES)),
            servers: Vec::new(),
            metrics: CloudHubMetrics::new(),
            stats: Arc::new(ActorStats::bounded(OWN_MAILBOX)),
        }
    }

    fn listen(&mut self, ctx: &mut Context<Self>) -> std::io::Result<()> {
        let parts = &self.parts;
        let open = Link::to(NAME, &ctx.address(), Arc::clone(&self.stats));
        let join = Arc::new(JoinServer::new(
            Arc::clone(&self.issuer),
            Arc::clone(&parts.tokens),
            parts.client.clone(),
            Link::to(NAME, &ctx.address(), Arc::clone(&self.stats)),
            self.metrics.clone(),
        ));
        let (websocket, https) = (parts.listeners.websocket.try_clone()?, parts.listeners.https.try_clone()?);
        let (held, dropped) = (self.metrics.held.clone(), self.metrics.dropped.clone());
        let door =
            Door { open, issuer: Arc::clone(&self.issuer), budgets: Budgets::default(), held, dropped };
        let limit = parts.config.node_limit;
        let patience = Duration::from_secs(parts.config.write_timeout.max(1));
        let tls = &parts.websocket_tls;
        self.servers.push(listen_worker::websocket(websocket, tls, door, limit, patience)?);
        self.servers.push(listen_worker::join(https, &parts.https_tls, join)?);
        Ok(())
    }

    fn stop_listening(&mut self) {
        for server in self.servers.drain(..) {
            actix::spawn(server.stop(false));
        }
    }

    fn end_all(&mut self, reason: EndReason) {
        for live in self.live.values() {
            live.end(reason);
        }
        self.live.clear();
        self.show_connected();
    }

    /// Ends the session that a new connection takes over from.
    fn replace(&mut self, node: &NodeName, connection: &Connection) -> Replaced {
        let Some(old) = self.live.remove(node) else { return Replaced::Plain };
        let replaced = self.rivals.replaced(node, Instant::now());
        if replaced == Replaced::Rival {
            let (one, other) = (old.connection.address(), connection.address());
            tracing::warn!(%node, ?one, ?other, "{SHARED}");
        }
        old.end(EndReason::Replaced);
        replaced
    }

    /// Looks whether this process of an edge lives beside another one of the same node.
    fn meet(&mut self, node: &NodeName, instance: &str, connection: &Connection) {
        let address = connection.address().map(|it| it.to_string()).unwrap_or_default();
        let Some(addresses) = self.instances.opened(node, instance, address, Instant::now()) else { return };
        let [one, other] = &addresses;
        tracing::warn!(%node, one, other, "{SHARED}");
        // What is done about it is IdentityController's; not told, it is seen again.
        if let Err(err) = self.parts.cloned.tell(NodeCloned { node: node.clone(), addresses }) {
            tracing::warn!(%node, error = %err, "nobody acts on the shared certificate yet");
        }
    }

    /// Shows what waits for nodes, and the bounds.
    fn show_queued(&mut self, _: &mut Context<Self>) {
        self.metrics.queued_bytes.set(self.queued.bytes() as f64);
        self.metrics.queued_limit.set(ALL_QUEUES as f64);
        self.metrics.node_limit.set(f64::from(self.parts.config.node_limit));
    }

    fn show_connected(&self) {
        let nodes = self.live.len() as f64;
        self.metrics.connected_nodes.set(nodes);
    }

    fn open(&mut self, asked: OpenSession, ctx: &mut Context<Self>) -> Result<Opened, NotOpened> {
        let OpenSession { node, extensions, instance, silence, connection } = asked;
        let Some(peer) = &connection.peer else {
            let denied = Denied::new(403, Refused::Chain, "no client certificate");
            return Err(NotOpened::Denied(denied));
        };
        // Here and not before: a revocation that comes later closes what is live.
        self.issuer.admit(&node, peer).map_err(NotOpened::Denied)?;
        let ends = from_now(peer.valid.not_after);
        let limit = self.parts.config.node_limit;
        if !self.live.contains_key(&node) && self.live.len() >= limit as usize {
            self.metrics.refused.increment(1);
            return Err(NotOpened::NodeLimit(limit));
        }
        let replaced = self.replace(&node, &connection);
        if let Some(instance) = instance {
            self.meet(&node, &instance, &connection);
        }
        let session = self.next_session;
        self.next_session += 1;
        let (sender, frames) = mpsc::channel(PIPE_FRAMES);
        let pipe = Arc::new(Pipe::default());
        let config = &self.parts.config;
        let settings = Settings::new(
            Duration::from_secs(config.keepalive_interval.max(1)),
            Duration::from_secs(config.write_timeout.max(1)),
        )
        .told(silence);
        let cluster_ca = Arc::clone(&self.parts.cluster_ca_pem);
        let worker = SessionWorker {
            node: node.clone(),
            id: session,
            extensions,
            state: Session::new(node.clone(), extensions, settings, cluster_ca, Instant::now())
                .sharing(&self.queued)
                .until(ends),
            frames: Some(sender),
            pipe: Arc::clone(&pipe),
            connection: Arc::clone(&connection),
            issuer: Arc::clone(&self.issuer),
            links: SessionLinks {
                upstream: self.parts.upstream.clone(),
                twin: self.parts.twin.clone(),
                connected: self.parts.node_connected.clone(),
                gone: self.parts.node_gone.clone(),
                held: self.parts.held.clone(),
                delivered: self.parts.delivered.clone(),
                ended: Link::to(NAME, &ctx.address(), Arc::clone(&self.stats)),
            },
            federation: self.parts.federation.clone(),
            metrics: self.metrics.clone(),
            timer: None,
            unacked: 0,
            turn: Turn::default(),
        };
        let name = format!("session {node}");
        let tree = &self.parts.tree;
        let worker =
            tree.spawn_worker(NAME, "Session", name, SESSION_MAILBOX, Policy::default(), move || worker);
        let opened =
            Opened { frames, pipe, from_edge: worker.link(), moved: worker.link(), broken: worker.link() };
        if replaced == Replaced::Plain {
            tracing::info!(%node, session, ack_window = extensions.ack_window, resync = extensions.resync,
                "session opened");
        }
        self.live.insert(node, Live { session, down: worker.link(), worker, connection });
        self.show_connected();
        Ok(opened)
    }
}

impl Actor for CloudHub {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.show_queued(ctx);
        ctx.run_interval(SHOW_EVERY, Self::show_queued);
        if let Err(err) = self.listen(ctx) {
            // The sockets are bound, so this is a lack of threads or files: supervision tries again.
            tracing::error!(error = %err, "cannot serve");
            ctx.stop();
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.stop_listening();
        self.end_all(EndReason::Shutdown);
    }
}

impl Supervised for CloudHub {
    /// Sessions end; their edges reconnect to the same sockets and compare.
    fn restarting(&mut self, _: &mut Self::Context) {
        self.stop_listening();
        self.end_all(EndReason::Restarted);
        self.stats = Arc::new(ActorStats::bounded(OWN_MAILBOX));
    }
}

impl Handler<OpenSession> for CloudHub {
    type Result = Result<Opened, NotOpened>;

    fn handle(&mut self, message: OpenSession, ctx: &mut Self::Context) -> Self::Result {
        self.open(message, ctx)
    }
}

impl Handler<SendDown> for CloudHub {
    type Result = ();

    fn handle(&mut self, message: SendDown, _: &mut Self::Context) {
        for (node, message) in message.messages {
            let Some(live) = self.live.get(&node) else { continue };
            if let Err(err) = live.down.tell(Down(message)) {
                tracing::warn!(%node, error = %err, "session does not keep up");
                live.end(EndReason::QueueFull);
            }
        }
    }
}

impl Handler<CloseNode> for CloudHub {
    type Result = ();

    fn handle(&mut self, message: CloseNode, _: &mut Self::Context) {
        match message.node {
            None => self.end_all(message.reason),
            Some(node) => {
                if let Some(live) = self.live.remove(&node) {
                    live.end(message.reason);
                    self.show_connected();
                }
            }
        }
    }
}

impl Handler<ConnectedNodes> for CloudHub {
    type Result = Vec<NodeName>;

    fn handle(&mut self, _: ConnectedNodes, _: &mut Self::Context) -> Self::Result {
        let mut nodes: Vec<NodeName> = self.live.keys().cloned().collect();
        nodes.sort();
        nodes
    }
}

impl Handler<IsConnected> for CloudHub {
    type Result = bool;

    fn handle(&mut self, IsConnected(node): IsConnected, _: &mut Self::Context) -> Self::Result {
        self.live.contains_key(&node)
    }
}

impl Handler<SessionEnded> for CloudHub {
    type Result = ();

    fn handle(&mut self, message: SessionEnded, _: &mut Self::Context) {
        if self.live.get(&message.node).is_some_and(|live| live.session == message.session) {
            self.live.remove(&message.node);
            self.show_connected();
        }
    }
}

crate::handles!(CloudHub: OpenSession, SendDown, CloseNode, ConnectedNodes, IsConnected, SessionEnded);
