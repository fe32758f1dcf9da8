//! A CloudHub, its CA, and edges that dial it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::{Error as WsError, Message as Ws};

use super::super::*;
use crate::identity::{CaSettings, ClientAuth, KeyPair, chain_pem, client_tls, new_node_csr, server_tls};
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
}

pub struct World {
    pub ca: Arc<Ca>,
    pub tokens: Arc<JoinTokens>,
    pub hub: Link<SendDown>,
    pub close: Link<CloseNode>,
    pub nodes: Link<ConnectedNodes>,
    pub told: mpsc::Receiver<Told>,
    pub tree: TreeHandle,
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
        let parts = CloudHubParts {
            config,
            listeners,
            websocket_tls: server_tls(&pair, &ca.client_anchors_pem(), ClientAuth::Required).unwrap(),
            https_tls: server_tls(&pair, &ca.client_anchors_pem(), ClientAuth::Optional).unwrap(),
            ca: Arc::clone(&ca),
            tokens: Arc::clone(&tokens),
            node_cert_ttl: Duration::from_secs(3_600),
            cluster_ca_pem: "CLUSTER CA".into(),
            client: fake_api(Arc::clone(&api)),
            tree: tree.handle(),
            upstream: told!(Upstream),
            twin: Some(told!(Twin)),
            node_connected: told!(Connected),
            node_gone: told!(Gone),
            held: {
                let tell = tell.clone();
                Link::from_fn(move |held: Held| {
                    let last =
                        matches!(&held.envelope.body, crate::model::Body::Object(it) if it["last"] == true);
                    tell.try_send(Told::Held { last }).unwrap();
                })
            },
            delivered: told!(Delivered),
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
            tree: handle,
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
        let mut tls = self.tls(self.https, pair).await.unwrap();
        let mut head = format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n",
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

fn fake_api(objects: Arc<Mutex<Option<HashMap<String, Value>>>>) -> ::kube::Client {
    let service = tower::service_fn(move |request: http::Request<::kube::client::Body>| {
        let objects = Arc::clone(&objects);
        async move {
            let Some(objects) = &*objects.lock() else { return Err(std::io::Error::other("down")) };
            let found = objects.get(request.uri().path());
            let missing = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                "message": "not found", "code": 404});
            let code = if found.is_some() { 200 } else { 404 };
            let body = ::kube::client::Body::from(found.unwrap_or(&missing).to_string().into_bytes());
            Ok(http::Response::builder().status(code).body(body).unwrap())
        }
    });
    ::kube::Client::new(service, "default")
}
