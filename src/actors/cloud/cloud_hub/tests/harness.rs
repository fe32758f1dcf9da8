//! A CloudHub, its CA, and edges that dial it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as Ws};

use super::super::*;
use crate::bus::identity::{AuditFact, NodeCloned, NodeKeyChanged, Revocation};
use crate::identity::{
    CaSettings, ClientAuth, FactoryRoots, KeyPair, chain_pem, client_tls, new_node_csr, server_tls,
};
use crate::model::Envelope;
use crate::supervise::{Running, Tree, TreeSettings};
use crate::wire::frame;

/// What CloudHub told others, in order of arrival.
#[derive(Debug)]
pub enum Told {
    Connected(NodeConnected),
    Gone(NodeGone),
    Upstream(Upstream),
    Twin(FromTwin),
    Held { last: bool },
    Delivered(Delivered),
    Cloned(NodeCloned),
}

pub struct World {
    pub ca: Arc<Ca>,
    pub tokens: Arc<JoinTokens>,
    pub hub: Link<SendDown>,
    pub close: Link<CloseNode>,
    pub nodes: Link<ConnectedNodes>,
    pub told: mpsc::Receiver<Told>,
    /// The audit log.
    pub facts: Arc<Mutex<Vec<AuditFact>>>,
    /// What IdentityController heard.
    pub keys: Arc<Mutex<Vec<NodeKeyChanged>>>,
    pub revoked: watch::Sender<Option<Arc<BTreeMap<NodeName, Revocation>>>>,
    pub tree: TreeHandle,
    pub federation: Federation,
    /// Answers of the API by path; `None` in place of the map: it is down.
    pub api: Arc<Mutex<Option<HashMap<String, Value>>>>,
    websocket: std::net::SocketAddr,
    https: std::net::SocketAddr,
    _running: Running,
    _folder: tempfile::TempDir,
}

pub fn node(name: &str) -> NodeName {
    NodeName::parse(name).unwrap()
}

pub type Edge = WebSocketStream<TlsStream<TcpStream>>;

impl World {
    pub fn start(change: impl FnOnce(&mut CloudHubConfig)) -> Self {
        Self::start_with(change, |_| {})
    }

    pub fn start_with(
        change: impl FnOnce(&mut CloudHubConfig),
        change_identities: impl FnOnce(&mut NodeIdentities),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let ca =
            Arc::new(Ca::open(CaSettings::new(&at("ca.crt"), &at("ca.key")), SystemTime::now()).unwrap());
        let tokens = Arc::new(JoinTokens::load_or_create(&at("token.key")).unwrap());
        let pair =
            ca.issue_server("KubeEdge", &["127.0.0.1".to_owned()], Duration::from_secs(3_600)).unwrap();
        let mut config = CloudHubConfig::default();
        for listener in [&mut config.websocket, &mut config.https] {
            listener.address = "127.0.0.1".to_owned();
            listener.port = 0;
        }
        change(&mut config);
        let listeners = Listeners::bind(&config).unwrap();
        let (websocket, https) = listeners.addresses().unwrap();
        let (tell, told) = mpsc::channel(1_000);
        let api = Arc::new(Mutex::new(Some(HashMap::new())));
        let mut tree = Tree::new("test", TreeSettings::default());
        let slot = tree.slot::<CloudHub>(NAME, 1_000);
        let (hub, close, nodes) = (slot.link(), slot.link(), slot.link());
        macro_rules! told {
            ($variant:ident) => {{
                let tell = tell.clone();
                Link::from_fn(move |message| tell.try_send(Told::$variant(message)).unwrap())
            }};
        }
        let (facts, keys) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let revoked = watch::Sender::new(Some(Arc::default()));
        let mut identities = NodeIdentities {
            factory: None::<Arc<FactoryRoots>>,
            reentry_grace: Duration::from_secs(86_400),
            reusable_tokens: false,
            svid_ttl: Duration::from_secs(3_600),
            go_ttl: Duration::from_secs(86_400),
            node_ca_ttl: Duration::from_secs(86_400),
            revocations: revoked.subscribe(),
            bundle: watch::Sender::new(Arc::new(ca.bundle().to_document())).subscribe(),
            key_changed: {
                let keys = Arc::clone(&keys);
                Link::from_fn(move |told| keys.lock().push(told))
            },
            audit: {
                let facts = Arc::clone(&facts);
                Link::from_fn(move |fact| facts.lock().push(fact))
            },
        };
        change_identities(&mut identities);
        let federation = Federation::new(100);
        let parts = CloudHubParts {
            identities,
            cloned: told!(Cloned),
            config,
            listeners,
            websocket_tls: server_tls(&pair, &ca.client_anchors_pem(), ClientAuth::Required).unwrap(),
            https_tls: server_tls(&pair, &ca.client_anchors_pem(), ClientAuth::Optional).unwrap(),
            ca: Arc::clone(&ca),
            tokens: Arc::clone(&tokens),
            cluster_ca_pem: "CLUSTER CA".into(),
            client: fake_api(Arc::clone(&api)),
            tree: tree.handle(),
            upstream: told!(Upstream),
            twin: Some(told!(Twin)),
            node_connected: told!(Connected),
            node_gone: vec![told!(Gone)],
            held: {
                let tell = tell.clone();
                Link::from_fn(move |held: Held| {
                    let last =
                        matches!(&held.envelope.body, crate::model::Body::Object(it) if it["last"] == true);
                    tell.try_send(Told::Held { last }).unwrap();
                })
            },
            delivered: told!(Delivered),
            federation: federation.clone(),
        };
        let quick = Policy { backoff_base: Duration::from_millis(1), ..Policy::default() };
        tree.add(slot, crate::supervise::MAIN_THREAD, quick, move || CloudHub::new(parts));
        let handle = tree.handle();
        let running = tree.start().unwrap();
        Self {
            ca,
            tokens,
            hub,
            close,
            nodes,
            told,
            facts,
            keys,
            revoked,
            tree: handle,
            federation,
            api,
            websocket,
            https,
            _running: running,
            _folder: folder,
        }
    }

    pub fn certificate(&self, name: &str) -> KeyPair {
        let (csr, key_pem) = new_node_csr(&node(name)).unwrap();
        let ttl = Duration::from_secs(600);
        let chain = self.ca.sign_node_csr(&csr, &node(name), ttl, None, SystemTime::now()).unwrap();
        KeyPair { cert_pem: chain_pem(&chain), key_pem }
    }

    async fn tls(
        &self,
        at: std::net::SocketAddr,
        pair: Option<&KeyPair>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let config = client_tls(&self.ca.cert_pem(), pair).unwrap();
        let tcp = TcpStream::connect(at).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        TlsConnector::from(config).connect(name, tcp).await
    }

    /// Dials the websocket with these headers.
    pub async fn dial(&self, pair: &KeyPair, headers: &[(&str, &str)]) -> Result<(Edge, Response), WsError> {
        let tls = self.tls(self.websocket, Some(pair)).await.map_err(WsError::Io)?;
        let mut request = http::Request::builder()
            .uri(format!("wss://{}/e632aba927ea4ac2b575ec1603d56f10/x/events", self.websocket))
            .header("Host", self.websocket.to_string())
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "zJAdv+Yl9/VYB7b+LNYF0g==");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        tokio_tungstenite::client_async(request.body(()).unwrap(), tls).await
    }

    pub async fn connect(&self, name: &str) -> Edge {
        self.try_connect(name).await.unwrap()
    }

    pub async fn try_connect(&self, name: &str) -> Result<Edge, WsError> {
        let pair = self.certificate(name);
        let headers =
            [("ConnectionUse", "msg"), ("node_id", name), ("Kubeedge-Extensions", "ack-window,resync")];
        self.dial(&pair, &headers).await.map(|(edge, _)| edge)
    }

    /// An edge of ours: it has the extension and says which process it is.
    pub async fn connect_ours(&self, pair: &KeyPair, instance: &str) -> Result<Edge, WsError> {
        let headers = [
            ("ConnectionUse", "msg"),
            ("Kubeedge-Extensions", "ack-window,resync,identity"),
            ("Kubeedge-Instance", instance),
        ];
        self.dial(pair, &headers).await.map(|(edge, _)| edge)
    }

    /// Nodes with a session.
    pub async fn connected(&self) -> Vec<NodeName> {
        self.nodes.ask(ConnectedNodes, Duration::from_secs(5)).await.unwrap()
    }

    /// As `keadm node revoke` and IdentityController do it: published first, then closed.
    pub async fn revoke(&self, name: &str, allowed_at: Option<u64>) {
        let revocation = Revocation { at: 1, reason: "stolen".to_owned(), allowed_at };
        self.revoked.send_modify(|all| {
            let mut known = all.take().map(Arc::unwrap_or_clone).unwrap_or_default();
            known.insert(node(name), revocation);
            *all = Some(Arc::new(known));
        });
        let close = CloseNode { node: Some(node(name)), reason: EndReason::Revoked };
        self.close.ask(close, Duration::from_secs(5)).await.unwrap();
    }

    /// As edges do: dials until it works.
    pub async fn reconnect(&self, name: &str) -> Edge {
        let dial = async {
            loop {
                match self.try_connect(name).await {
                    Ok(edge) => break edge,
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        };
        within(dial).await
    }

    pub async fn next_told(&mut self) -> Told {
        within(self.told.recv()).await.unwrap()
    }

    /// `GET path` at the join server: status and body.
    pub async fn get(
        &self,
        path: &str,
        pair: Option<&KeyPair>,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (u16, Vec<u8>) {
        self.send("GET", path, pair, headers, body).await
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        pair: Option<&KeyPair>,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (u16, Vec<u8>) {
        let mut tls = self.tls(self.https, pair).await.unwrap();
        let mut head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n",
            body.len()
        );
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        tls.write_all(head.as_bytes()).await.unwrap();
        // A refused upload may be cut: the answer is what counts.
        let _cut = tls.write_all(body).await;
        let mut answer = Vec::new();
        let _cut = within(tls.read_to_end(&mut answer)).await;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let code = std::str::from_utf8(&answer[9..12]).unwrap().parse().unwrap();
        (code, answer[end + 4..].to_vec())
    }
}

/// Fails the test instead of hanging.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.unwrap()
}

pub async fn say(edge: &mut Edge, envelope: &Envelope) {
    let text = String::from_utf8(frame::encode(envelope).unwrap()).unwrap();
    edge.send(Ws::text(text)).await.unwrap();
}

/// The next message, `None` when the connection is over.
pub async fn hear(edge: &mut Edge) -> Option<Envelope> {
    loop {
        match within(edge.next()).await {
            Some(Ok(Ws::Text(text))) => return Some(frame::decode(text.as_bytes(), 1 << 24).unwrap()),
            Some(Ok(Ws::Close(_)) | Err(_)) | None => return None,
            Some(Ok(_)) => {}
        }
    }
}

pub fn pem(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Reads by path; Secrets may be made, and replaced by who has seen the newest version.
fn fake_api(objects: Arc<Mutex<Option<HashMap<String, Value>>>>) -> ::kube::Client {
    let service = tower::service_fn(move |request: http::Request<::kube::client::Body>| {
        let objects = Arc::clone(&objects);
        async move {
            let (parts, body) = request.into_parts();
            let body = http_body_util::BodyExt::collect(body).await.unwrap().to_bytes();
            let mut objects = objects.lock();
            let Some(objects) = &mut *objects else { return Err(std::io::Error::other("down")) };
            let (code, answer) = answer(objects, parts.method.as_str(), parts.uri.path(), &body);
            let body = ::kube::client::Body::from(answer.to_string().into_bytes());
            Ok(http::Response::builder().status(code).body(body).unwrap())
        }
    });
    ::kube::Client::new(service, "default")
}

fn answer(objects: &mut HashMap<String, Value>, method: &str, path: &str, body: &[u8]) -> (u16, Value) {
    let failure = |code: u16, reason: &str| {
        let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason,
            "message": reason, "code": code});
        (code, status)
    };
    if method == "GET" {
        return objects.get(path).map_or_else(|| failure(404, "NotFound"), |found| (200, found.clone()));
    }
    let mut object: Value = serde_json::from_slice(body).unwrap();
    let path = match method {
        "POST" => format!("{path}/{}", object["metadata"]["name"].as_str().unwrap()),
        _ => path.to_owned(),
    };
    let version = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
    let there = objects.get(&path).map(version);
    match (method, &there) {
        ("POST", Some(_)) => return failure(409, "AlreadyExists"),
        ("PUT", None) => return failure(404, "NotFound"),
        ("PUT", Some(there)) if *there != version(&object) => return failure(409, "Conflict"),
        _ => {}
    }
    let next = there.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0) + 1;
    object["metadata"]["resourceVersion"] = next.to_string().into();
    objects.insert(path, object.clone());
    (200, object)
}
