//! Listeners of the broker inside: who comes in, over what, and by what name.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::access::Who;
use super::connection_worker::Pump;
use super::gatekeeper_worker::{Door, Gatekeeper};
use super::refusals::Refusals;
use super::websocket_worker;
use super::wire::{Conn, Event, Inbox, Newcomer, Wire};
use crate::bus::Link;
use crate::bus::identity::{AuditFact, audit};
use crate::config::{EventBusConfig, InternalBrokerConfig};
use crate::identity::{Admitted, Refused};
use crate::mqtt::codec::{CodecError, Decoder, OutBuf, encode};
use crate::mqtt::{ConnAck, Connect, Packet, Reason, Version};
use crate::telemetry::event_bus::EventBusMetrics;

/// From the TCP connection to a whole CONNECT, TLS and websocket included.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const REFUSAL_DEADLINE: Duration = Duration::from_secs(2);
/// Connections that have not said who they are; they cost a file each. One more ends the oldest:
/// whoever is in earnest says CONNECT at once.
const MAX_STRANGERS: usize = 512;
/// A connection that holds no more than this of a packet is never ended for what others hold.
const SMALL_PARTIAL_BYTES: usize = 64 << 10;
/// The same for one that has not said who it is, and what all of those may hold together.
const SMALL_STRANGE_BYTES: usize = 1 << 10;
const STRANGE_BYTES: usize = 4 << 20;
const SCRATCH_BYTES: usize = 64 << 10;
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The sockets of the broker inside, bound before anything runs: a taken port is said at the start.
#[derive(Debug, Default)]
pub struct EventBusSockets {
    plain: Option<StdListener>,
    tls: Option<StdListener>,
    websocket: Option<StdListener>,
}

/// A listener that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("modules.eventBus.{key}: cannot listen on {address}")]
pub struct BindError {
    key: &'static str,
    address: String,
    #[source]
    err: io::Error,
}

impl EventBusSockets {
    /// Binds what the configuration asks for; nothing when there is no broker inside.
    ///
    /// # Errors
    /// [`BindError`] names the key.
    pub fn bind(config: &EventBusConfig) -> Result<Self, BindError> {
        if !config.has_internal() {
            return Ok(Self::default());
        }
        let plain = config.mqtt_server_internal.trim_start_matches("tcp://").trim_end_matches('/');
        let internal = &config.internal;
        Ok(Self {
            plain: Some(bind("mqttServerInternal", plain)?),
            tls: bind_some("internal.tlsAddress", &internal.tls_address)?,
            websocket: bind_some("internal.websocketAddress", &internal.websocket_address)?,
        })
    }

    /// Where the plain, TLS and websocket listeners are.
    #[must_use]
    pub fn addresses(&self) -> [Option<SocketAddr>; 3] {
        [&self.plain, &self.tls, &self.websocket]
            .map(|socket| socket.as_ref().and_then(|socket| socket.local_addr().ok()))
    }

    /// Accepts connections until the returned tasks are aborted. The sockets stay open.
    ///
    /// # Errors
    /// When a socket cannot be used.
    pub fn serve(&self, gate: &Rc<Gate>) -> io::Result<Vec<JoinHandle<()>>> {
        let mut tasks = Vec::new();
        for (socket, over) in
            [(&self.plain, Over::Tcp), (&self.tls, Over::Tls), (&self.websocket, gate.websocket())]
        {
            if let Some(socket) = socket {
                let socket = TcpListener::from_std(socket.try_clone()?)?;
                tasks.push(actix::spawn(accept(socket, over, Rc::clone(gate))));
            }
        }
        Ok(tasks)
    }
}

fn bind_some(key: &'static str, address: &str) -> Result<Option<StdListener>, BindError> {
    if address.is_empty() { Ok(None) } else { bind(key, address).map(Some) }
}

fn bind(key: &'static str, address: &str) -> Result<StdListener, BindError> {
    let fail = |err| BindError { key, address: address.to_owned(), err };
    let with_port = if address.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
        address.to_owned()
    } else {
        format!("{address}:1883")
    };
    let socket = StdListener::bind(with_port).map_err(fail)?;
    socket.set_nonblocking(true).map_err(fail)?;
    Ok(socket)
}

/// What connections have in common. All on the actor's thread.
pub struct Gate {
    pub inbox: Inbox,
    pub metrics: EventBusMetrics,
    /// What is read goes through here: an idle connection has no buffer.
    pub scratch: RefCell<Box<[u8]>>,
    keeper: Rc<Gatekeeper>,
    audit: Link<AuditFact>,
    refusals: RefCell<Refusals>,
    config: InternalBrokerConfig,
    start: Instant,
    /// Connections that have not said who they are, oldest first: dropping a sender ends one.
    strangers: RefCell<BTreeMap<u64, oneshot::Sender<()>>>,
    /// Bytes of packets that have not arrived whole, all connections together.
    partial_bytes: Cell<usize>,
    /// The same of connections that have not said who they are.
    strange_bytes: Cell<usize>,
    next: Cell<Conn>,
}

impl Gate {
    #[must_use]
    pub fn new(
        config: InternalBrokerConfig,
        keeper: Rc<Gatekeeper>,
        audit: Link<AuditFact>,
        metrics: EventBusMetrics,
        start: Instant,
    ) -> Rc<Self> {
        Rc::new(Self {
            inbox: Inbox::default(),
            metrics,
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into()),
            keeper,
            audit,
            refusals: RefCell::default(),
            config,
            start,
            strangers: RefCell::default(),
            partial_bytes: Cell::new(0),
            strange_bytes: Cell::new(0),
            next: Cell::new(1),
        })
    }

    /// Milliseconds of the actor's clock.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A client's certificate was turned away: counted, logged, and recorded as often as a flood of
    /// them may write to the disk.
    fn refuse_certificate(&self, peer: SocketAddr, why: &Refused) {
        self.metrics.refused("certificate").increment(1);
        tracing::info!(%peer, error = %why, "MQTT client refused: its certificate");
        if let Some(fact) = self.refusals.borrow_mut().record(&peer.to_string(), why, self.now_ms()) {
            audit(&self.audit, fact);
        }
    }

    fn websocket(&self) -> Over {
        if self.config.websocket_tls { Over::WebSocketTls } else { Over::WebSocket }
    }

    /// A connection holds `now` bytes of a packet that has not arrived whole, instead of `before`.
    /// `false`: all together are too many, and this one is not among the small ones.
    pub fn holds(&self, before: usize, now: usize) -> bool {
        let all = (self.partial_bytes.get() + now).saturating_sub(before);
        self.partial_bytes.set(all);
        let most = usize::try_from(self.config.max_memory_bytes / 4).unwrap_or(usize::MAX);
        now <= SMALL_PARTIAL_BYTES || now <= before || all <= most
    }

    /// The same for a connection that has not said who it is.
    fn strange(&self, before: usize, now: usize) -> bool {
        let all = (self.strange_bytes.get() + now).saturating_sub(before);
        self.strange_bytes.set(all);
        let has_room = now <= SMALL_STRANGE_BYTES || now <= before || all <= STRANGE_BYTES;
        if !has_room {
            self.metrics.refused("too_many_strangers").increment(1);
        }
        has_room
    }

    pub fn next_conn(&self) -> Conn {
        self.next.replace(self.next.get() + 1)
    }
}

/// What one connection holds that nobody has looked at yet; counted until dropped.
pub struct Unread {
    gate: Rc<Gate>,
    bytes: usize,
    /// It has said who it is.
    is_known: bool,
}

impl Unread {
    #[must_use]
    pub fn new(gate: &Rc<Gate>) -> Self {
        Self { gate: Rc::clone(gate), bytes: 0, is_known: false }
    }

    /// It is `bytes` now. `false`: all connections together hold too much, and this one is not among the
    /// small ones.
    pub fn is_now(&mut self, bytes: usize) -> bool {
        let before = std::mem::replace(&mut self.bytes, bytes);
        if self.is_known { self.gate.holds(before, bytes) } else { self.gate.strange(before, bytes) }
    }

    /// It has said who it is.
    pub fn known(&mut self) {
        let bytes = self.bytes;
        self.is_now(0);
        self.is_known = true;
        self.is_now(bytes);
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        self.is_now(0);
    }
}

/// What packets are read from.
pub trait Source: AsyncRead + AsyncWrite + Unpin + 'static {
    /// Its client has said who he is.
    fn known(&mut self) {}
}

impl Source for TcpStream {}
impl Source for TlsStream<TcpStream> {}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Over {
    Tcp,
    Tls,
    WebSocket,
    WebSocketTls,
}

/// One of the places for connections without a name.
struct Place {
    gate: Rc<Gate>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.strangers.borrow_mut().remove(&self.number);
    }
}

async fn accept(socket: TcpListener, over: Over, gate: Rc<Gate>) {
    loop {
        let (stream, peer) = match socket.accept().await {
            Ok(accepted) => accepted,
            Err(err) => {
                tracing::debug!(error = %err, "no connection was accepted");
                sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (end, ended) = oneshot::channel();
        let place = Place { gate: Rc::clone(&gate), number: gate.next_conn() };
        {
            let mut strangers = gate.strangers.borrow_mut();
            strangers.insert(place.number, end);
            if strangers.len() > MAX_STRANGERS {
                strangers.pop_first();
                gate.metrics.refused("too_many_strangers").increment(1);
            }
        }
        actix::spawn(async move {
            let whole = timeout(CONNECT_DEADLINE, meet(stream, peer, over, &place));
            tokio::select! {
                met = whole => if met.is_err() {
                    place.gate.metrics.refused("connect_timeout").increment(1);
                    tracing::debug!(%peer, "no CONNECT in time");
                },
                _ = ended => tracing::debug!(%peer, "no CONNECT, and others wait"),
            }
        });
    }
}

async fn meet(stream: TcpStream, peer: SocketAddr, over: Over, place: &Place) {
    // Small packets answer small packets here.
    if let Err(err) = stream.set_nodelay(true) {
        tracing::debug!(error = %err, "TCP_NODELAY");
    }
    let gate = &place.gate;
    let limit = usize::try_from(gate.config.max_packet_bytes).unwrap_or(usize::MAX);
    let is_local = peer.ip().to_canonical().is_loopback();
    let refused = |why: &'static str, err: String| {
        gate.metrics.refused(why).increment(1);
        tracing::debug!(%peer, error = %err, "connection refused");
    };
    match over {
        Over::Tcp => greet(stream, is_local, None, gate).await,
        Over::WebSocket => match websocket_worker::accept(stream, limit, Unread::new(gate)).await {
            Ok(stream) => greet(stream, is_local, None, gate).await,
            Err(err) => refused("websocket", err.to_string()),
        },
        Over::Tls | Over::WebSocketTls => {
            let Some(door) = gate.keeper.door() else {
                return refused("no_certificate", "this broker has no certificate yet".to_owned());
            };
            let stream = match TlsAcceptor::from(Arc::clone(&door.tls)).accept(stream).await {
                Ok(stream) => stream,
                Err(err) => {
                    let tls = err.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
                    return match tls.and_then(Refused::of) {
                        Some(why) => gate.refuse_certificate(peer, &why),
                        None => refused("tls", err.to_string()),
                    };
                }
            };
            let identity = match admitted(&stream, &door) {
                Ok(identity) => identity,
                Err(why) => return gate.refuse_certificate(peer, &why),
            };
            if over == Over::Tls {
                return greet(stream, is_local, identity, gate).await;
            }
            match websocket_worker::accept(stream, limit, Unread::new(gate)).await {
                Ok(stream) => greet(stream, is_local, identity, gate).await,
                Err(err) => refused("websocket", err.to_string()),
            }
        }
    }
}

/// Whom the certificate of a finished handshake names; `None` when there was none.
fn admitted(stream: &TlsStream<TcpStream>, door: &Door) -> Result<Option<Admitted>, Refused> {
    match stream.get_ref().1.peer_certificates() {
        Some(chain) => door.rule.admit(chain, SystemTime::now()).map(Some),
        None => Ok(None),
    }
}

/// Reads the CONNECT, checks who it is, and hands the connection over.
async fn greet<S>(mut io: S, is_local: bool, identity: Option<Admitted>, gate: &Rc<Gate>)
where
    S: Source,
{
    let mut unread = Unread::new(gate);
    let mut decoder = Decoder::of_client(gate.config.max_packet_bytes);
    let mut packets = Vec::new();
    let mut buffer = vec![0; 1 << 10];
    let broken = loop {
        let count = match io.read(&mut buffer).await {
            Ok(count) if count > 0 => count,
            _ => return,
        };
        gate.metrics.received_bytes.increment(u64::try_from(count).unwrap_or_default());
        let broken = decoder.feed(buffer.get(..count).unwrap_or_default(), &mut packets).err();
        if broken.is_some() || !packets.is_empty() {
            break broken;
        }
        if !unread.is_now(decoder.partial_bytes()) {
            return tracing::debug!("connections without a name hold too much");
        }
    };
    drop(unread);
    if packets.is_empty() {
        if let Some(CodecError { reason, answer, why }) = broken {
            gate.metrics.refused("malformed").increment(1);
            tracing::debug!(error = why, "not a CONNECT");
            if let Some(version) = answer {
                refuse(&mut io, version, reason).await;
            }
        }
        return;
    }
    let Packet::Connect(connect) = packets.remove(0) else { return };
    let ends_at = identity.as_ref().map(|admitted| admitted.not_after);
    let who = match identify(&connect, is_local, identity, gate).await {
        Ok(who) => who,
        Err(reason) => {
            gate.metrics.refused("not_authorized").increment(1);
            tracing::info!(client = %connect.client_id, local = is_local, "MQTT client refused: no name, or a wrong password");
            return refuse(&mut io, connect.version, reason).await;
        }
    };
    let (conn, wire) = (gate.next_conn(), Rc::new(Wire::default()));
    wire.read_at_ms.set(gate.now_ms());
    // Nothing more is read before the actor has handled this.
    let newcomer = Newcomer { conn, wire: Rc::clone(&wire), connect: *connect, who, ends_at };
    gate.inbox.push(Event::Open(Box::new(newcomer)));
    if !packets.is_empty() || broken.is_some() {
        gate.inbox.push(Event::Read { conn, packets, broken });
    }
    io.known();
    let gate = Rc::clone(gate);
    let deaf = broken.is_some();
    gate.holds(0, decoder.partial_bytes());
    actix::spawn(Pump { io, conn, wire, decoder, gate, needs_flush: false, deaf, shut: false, ignored: 0 });
}

async fn identify(
    connect: &Connect,
    is_local: bool,
    identity: Option<Admitted>,
    gate: &Gate,
) -> Result<Who, Reason> {
    if let Some(Admitted { common_name, spiffe_id, .. }) = identity {
        return Ok(Who::Certificate { common_name, spiffe_id });
    }
    let has_passwords = !gate.config.password_file.as_os_str().is_empty();
    if let (Some(user), true) = (&connect.username, has_passwords) {
        let password = connect.password.as_deref().unwrap_or_default();
        return match gate.keeper.verify(user, password).await {
            true => Ok(Who::User(user.clone())),
            false => Err(Reason::BAD_USER_OR_PASSWORD),
        };
    }
    if is_local && gate.config.anonymous_on_loopback {
        return Ok(Who::Anonymous);
    }
    Err(Reason::NOT_AUTHORIZED)
}

/// Answers a CONNECT with a refusal, and closes.
async fn refuse(io: &mut (impl AsyncWrite + Unpin), version: Version, reason: Reason) {
    let mut out = OutBuf::default();
    if encode(&refusal(reason), version, &mut out).is_err() {
        return;
    }
    let bytes = out.to_vec();
    let written = async {
        io.write_all(&bytes).await?;
        io.flush().await?;
        io.shutdown().await
    };
    if !matches!(timeout(REFUSAL_DEADLINE, written).await, Ok(Ok(()))) {
        tracing::debug!("a refused client did not wait for its answer");
    }
}

/// A CONNACK that says no.
#[must_use]
pub fn refusal(reason: Reason) -> Packet {
    Packet::ConnAck(Box::new(ConnAck {
        session_present: false,
        reason,
        assigned_client_id: None,
        session_expiry_secs: None,
        receive_maximum: None,
        maximum_packet_bytes: None,
        topic_alias_maximum: None,
        server_keep_alive_secs: None,
        reason_text: None,
    }))
}
