use std::net::SocketAddr;
use std::num::NonZeroU16;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::super::*;
use crate::bus::device_twin::NotTaken;
use crate::bus::edge_hub::SendError;
use crate::bus::identity::AuditFact;
use crate::identity::NodeCredentials;
use crate::model::identity::EdgeIdentitySpec;
use crate::model::{Body, Envelope};
use crate::mqtt::codec::{Decoder, OutBuf, encode};
use crate::mqtt::{
    Connect, Filter, MessageProperties, Packet, QoS, Reason, RetainHandling, Subscribe, Version,
};
use crate::store::{CommitterGuard, CommitterSettings, MemoryStore, Table};

pub type Script<T> = Arc<Mutex<Box<dyn FnMut(&T) -> bool + Send>>>;

/// An EventBus on a memory store, with a DeviceTwin and a cloud that do as they are told.
pub struct World {
    pub store: Arc<MemoryStore>,
    pub bus: Addr<EventBus>,
    pub plain: SocketAddr,
    pub tls: Option<SocketAddr>,
    pub websocket: Option<SocketAddr>,
    /// Topics and payloads DeviceTwin has taken.
    pub taken: Arc<Mutex<Vec<(String, String)>>>,
    /// Topics the cloud was sent.
    pub uploaded: Arc<Mutex<Vec<String>>>,
    pub takes: Script<DeviceMessage>,
    pub online: Script<Envelope>,
    /// Dropped with the world: the store is written to the end.
    _guard: CommitterGuard,
}

pub fn config() -> EventBusConfig {
    EventBusConfig { mqtt_server_internal: "tcp://127.0.0.1:0".into(), ..EventBusConfig::default() }
}

/// What the cloud tells a node about identities.
pub struct Told {
    pub credentials: watch::Sender<Option<Arc<NodeCredentials>>>,
    pub policies: watch::Sender<Option<Arc<EdgeIdentitySpec>>>,
    /// Reasons of what was recorded.
    pub audit: Arc<Mutex<Vec<String>>>,
}

pub fn start(store: &Arc<MemoryStore>, config: EventBusConfig) -> World {
    start_told(store, config).0
}

pub fn start_told(store: &Arc<MemoryStore>, config: EventBusConfig) -> (World, Told) {
    let (told_credentials, credentials) = watch::channel(None);
    let (told_policies, policies) = watch::channel(None);
    let told = Told {
        credentials: told_credentials,
        policies: told_policies,
        audit: Arc::new(Mutex::new(Vec::new())),
    };
    let records = Arc::clone(&told.audit);
    let sockets = EventBusSockets::bind(&config).unwrap();
    let [plain, tls, websocket] = sockets.addresses();
    let (taken, uploaded) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
    let takes: Script<DeviceMessage> = Arc::new(Mutex::new(Box::new(|_| true)));
    let online: Script<Envelope> = Arc::new(Mutex::new(Box::new(|_| true)));
    let (committer, guard) =
        Committer::start(Arc::clone(store) as Arc<dyn Store>, CommitterSettings::default()).unwrap();
    let (log, script, writes) = (Arc::clone(&taken), Arc::clone(&takes), Arc::clone(store));
    let (sent, up, asked) = (Arc::clone(&uploaded), Arc::clone(&online), Arc::clone(&online));
    let links = EventBusLinks {
        device: Link::from_fn(move |message: DeviceMessage| {
            if !(script.lock())(&message) {
                return Err(NotTaken("as the test wants".into()));
            }
            let payload = String::from_utf8_lossy(&message.payload).into_owned();
            log.lock().push((message.topic, payload));
            writes.write(&[message.receipt]).map_err(|err| NotTaken(err.to_string()))
        }),
        send: Link::from_fn(move |upstream: SendUpstream| {
            if !(up.lock())(&upstream.envelope) {
                return Err(SendError::NotConnected);
            }
            sent.lock().push(upstream.envelope.route.resource.to_string());
            Ok(())
        }),
        request: Link::from_fn(move |request: Request| {
            if !(asked.lock())(&request.envelope) {
                return Err(SendError::NotConnected);
            }
            Ok(request.envelope.response(Body::Null, 1))
        }),
        credentials,
        policies,
        audit: Link::from_fn(move |fact: AuditFact| records.lock().push(fact.reason)),
    };
    let settings = EventBusSettings { node: NodeName::parse("edge-1").unwrap(), config };
    let store_link = Arc::clone(store) as Arc<dyn Store>;
    let bus = EventBus::new(settings, sockets, store_link, committer, links, EventBusMetrics::new()).start();
    let plain = plain.unwrap_or_else(|| "127.0.0.1:1".parse().unwrap());
    let world = World {
        store: Arc::clone(store),
        bus,
        plain,
        tls,
        websocket,
        taken,
        uploaded,
        takes,
        online,
        _guard: guard,
    };
    (world, told)
}

impl World {
    pub async fn client(&self, id: &str) -> Client<TcpStream> {
        let mut client = Client::over(TcpStream::connect(self.plain).await.unwrap(), Version::V5);
        client.connect(id, |_| {}).await;
        client
    }

    pub fn rows(&self, prefix: &str) -> usize {
        self.store.scan(Table::Outbox, prefix.as_bytes(), None, 100_000).unwrap().len()
    }
}

/// Ends the actor in order.
#[derive(Message)]
#[rtype(result = "()")]
struct Stop;

impl Handler<Stop> for EventBus {
    type Result = ();

    fn handle(&mut self, _: Stop, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

impl World {
    pub async fn stop(self) {
        self.bus.send(Stop).await.unwrap();
        while self.bus.connected() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

pub async fn eventually(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..4000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}");
}

/// A client that says exactly what it is told to.
pub struct Client<S> {
    pub io: S,
    pub version: Version,
    decoder: Decoder,
    read: std::collections::VecDeque<Packet>,
}

pub fn connect(version: Version, id: &str) -> Connect {
    Connect {
        version,
        client_id: id.into(),
        clean_start: true,
        keep_alive_secs: 0,
        username: None,
        password: None,
        will: None,
        session_expiry_secs: None,
        receive_maximum: None,
        maximum_packet_bytes: None,
        topic_alias_maximum: 0,
        request_problem_information: true,
        authentication_method: None,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub fn over(io: S, version: Version) -> Self {
        Self { io, version, decoder: Decoder::of_server(version, 4 << 20), read: Default::default() }
    }

    pub async fn hello(&mut self, id: &str, change: impl FnOnce(&mut Connect)) -> Option<Packet> {
        let mut hello = connect(self.version, id);
        change(&mut hello);
        self.send(Packet::Connect(Box::new(hello))).await;
        self.next().await
    }

    /// Connects; was there a session?
    pub async fn connect(&mut self, id: &str, change: impl FnOnce(&mut Connect)) -> bool {
        match self.hello(id, change).await {
            Some(Packet::ConnAck(ack)) if ack.reason == Reason::SUCCESS => ack.session_present,
            other => panic!("{other:?}"),
        }
    }

    pub async fn send(&mut self, packet: Packet) {
        let mut out = OutBuf::default();
        encode(&packet, self.version, &mut out).unwrap();
        self.raw(&out.to_vec()).await;
    }

    pub async fn raw(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    /// The next packet; `None` when the broker closed the connection.
    pub async fn next(&mut self) -> Option<Packet> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Some(packet) = self.read.pop_front() {
                return Some(packet);
            }
            let read = tokio::time::timeout(Duration::from_secs(20), self.io.read(&mut buffer));
            let count = read.await.expect("the broker says nothing").unwrap_or(0);
            if count == 0 {
                return None;
            }
            let mut packets = Vec::new();
            self.decoder.feed(&buffer[..count], &mut packets).unwrap();
            self.read.extend(packets);
        }
    }

    pub async fn subscribe(&mut self, filter: &str, qos: QoS) -> Reason {
        let filter = Filter {
            filter: filter.into(),
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Always,
        };
        let id = NonZeroU16::MIN;
        self.send(Packet::Subscribe(Box::new(Subscribe {
            id,
            subscription_id: None,
            filters: vec![filter],
        })))
        .await;
        match self.next().await {
            Some(Packet::SubAck { reasons, .. }) => reasons[0],
            other => panic!("{other:?}"),
        }
    }

    pub async fn publish(&mut self, topic: &str, payload: impl Into<bytes::Bytes>, id: u16) {
        self.publish_with(topic, payload, id, false).await;
    }

    /// `id` 0: QoS 0, otherwise QoS 1.
    pub async fn publish_with(
        &mut self,
        topic: &str,
        payload: impl Into<bytes::Bytes>,
        id: u16,
        retain: bool,
    ) {
        let id = NonZeroU16::new(id);
        self.send(Packet::Publish(Box::new(crate::mqtt::Publish {
            topic: topic.into(),
            payload: payload.into(),
            qos: if id.is_some() { QoS::AtLeastOnce } else { QoS::AtMostOnce },
            retain,
            dup: false,
            id,
            topic_alias: None,
            subscription_ids: Vec::new(),
            properties: Arc::new(MessageProperties::default()),
        })))
        .await;
    }

    pub async fn expect_ack(&mut self, want: u16) -> Reason {
        match self.next().await {
            Some(Packet::PubAck { id, reason }) if id.get() == want => reason,
            other => panic!("{other:?}"),
        }
    }

    /// The next message, acknowledged.
    pub async fn message(&mut self) -> (String, bytes::Bytes) {
        match self.next().await {
            Some(Packet::Publish(publish)) => {
                if let Some(id) = publish.id {
                    self.send(Packet::PubAck { id, reason: Reason::SUCCESS }).await;
                }
                (publish.topic.to_string(), publish.payload.clone())
            }
            other => panic!("{other:?}"),
        }
    }

    /// Nothing has come before the answer to a ping.
    pub async fn expect_nothing(&mut self) {
        self.send(Packet::PingReq).await;
        assert_eq!(self.next().await, Some(Packet::PingResp));
    }
}
