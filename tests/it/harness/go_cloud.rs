//! A cloudcore of KubeEdge 1.23, played by hand: its join server and its websocket, the queue that waits
//! for each acknowledgement, and what EdgeController and DeviceController do with what an edge says. The
//! comments name the Go file each rule is from.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use kubeedge::identity::{ClientAuth, PeerIdentity, server_tls};
use kubeedge::model::{Body, Envelope, Resource, operation};
use kubeedge::wire::frame;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use super::go;
use super::go_api::GoApi;
use super::go_pki::GoPki;
use super::process::{PATIENCE, now_ms};
use super::recording::what;

/// Between two looks at what a test waits for, when the edge says nothing.
const LOOK: Duration = Duration::from_millis(100);

/// The program and the API it works for.
pub struct GoCloud {
    pub pki: Arc<GoPki>,
    pub hub_port: u16,
    pub join_port: u16,
    listener: TcpListener,
    acceptor: TlsAcceptor,
    socket: Option<WebSocketStream<TlsStream<TcpStream>>>,
    pub api: GoApi,
    /// Messages in ACK mode: one is on its way, the others wait.
    queue: VecDeque<Envelope>,
    in_flight: Option<Envelope>,
    /// Everything the edge said but keepalives and acknowledgements, in order.
    pub said: Vec<Envelope>,
    /// What was acknowledged, in order: `operation resource`.
    pub acked: Vec<String>,
    pub keepalives: usize,
    /// What it would have logged as a warning or an error.
    pub errors: Vec<String>,
}

impl GoCloud {
    /// Must be called in a runtime.
    pub async fn start(node: &str) -> Self {
        let pki = Arc::new(GoPki::new());
        let (hub, join) = (
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
        );
        let tls = |auth| TlsAcceptor::from(server_tls(&pki.server(), &pki.ca_pem(), auth).unwrap());
        let join_port = join.local_addr().unwrap().port();
        tokio::spawn(serve_join(join, tls(ClientAuth::Optional), Arc::clone(&pki)));
        Self {
            hub_port: hub.local_addr().unwrap().port(),
            join_port,
            listener: hub,
            acceptor: tls(ClientAuth::Required),
            pki,
            socket: None,
            api: GoApi::new(node),
            queue: VecDeque::new(),
            in_flight: None,
            said: Vec::new(),
            acked: Vec::new(),
            keepalives: 0,
            errors: Vec::new(),
        }
    }

    /// The next connection. Headers as KubeEdge's edges send them, or nothing is ever read.
    #[expect(clippy::result_large_err, reason = "the library's callback type")]
    pub async fn accept(&mut self) {
        let node = self.api.node_name.clone();
        let accepted = async {
            loop {
                let (socket, _) = self.listener.accept().await.unwrap();
                let Ok(stream) = self.acceptor.accept(socket).await else { continue };
                let peer = stream.get_ref().1.peer_certificates().map(|chain| chain.to_vec()).unwrap();
                // `AuthenticateConnection` in cloud/pkg/cloudhub/authorization/authorizer.go.
                assert_eq!(peer.len(), 1, "exactly one peer certificate");
                let name = PeerIdentity::from_der(&peer[0]).unwrap().node().unwrap();
                assert_eq!(name.as_str(), node);
                let check = |request: &Request, response: Response| {
                    let header = |name: &str| {
                        request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
                    };
                    assert_eq!(header("node_id"), Some(node.clone()));
                    assert_eq!(header("project_id").as_deref(), Some("e632aba927ea4ac2b575ec1603d56f10"));
                    assert_eq!(header("ConnectionUse").as_deref(), Some("msg"), "or it is never read");
                    assert_eq!(header("sec-websocket-extensions"), None, "no compression on this wire");
                    Ok(response)
                };
                if let Ok(socket) = accept_hdr_async(stream, check).await {
                    return socket;
                }
            }
        };
        let socket = tokio::time::timeout(PATIENCE, accepted).await.expect("the edge connects");
        // A new node message pool (`HandleConnection`): what was queued is lost.
        self.queue.clear();
        self.in_flight = None;
        self.socket = Some(socket);
    }

    /// Ends the session as Go does: the socket, without a closing handshake.
    pub fn hang_up(&mut self) {
        self.socket = None;
    }

    /// Puts a message into the queue in ACK mode.
    pub async fn push(&mut self, message: Envelope) {
        self.queue.push_back(message);
        self.send_next().await;
    }

    /// Sends what nobody acknowledges.
    pub async fn tell(&mut self, message: &Envelope) {
        let text = String::from_utf8(frame::encode(message).unwrap()).unwrap();
        if let Some(socket) = &mut self.socket {
            // Whether it is still open is seen when it is read.
            drop(socket.send(Message::text(text)).await);
        }
    }

    async fn send_next(&mut self) {
        if self.in_flight.is_none()
            && let Some(next) = self.queue.pop_front()
        {
            self.tell(&next).await;
            self.in_flight = Some(next);
        }
    }

    /// Everything pushed is acknowledged.
    pub fn is_settled(&self) -> bool {
        self.queue.is_empty() && self.in_flight.is_none()
    }

    /// Serves the edge until `probe` gives something.
    pub async fn wait<T>(&mut self, name: &str, mut probe: impl FnMut(&mut Self) -> Option<T>) -> T {
        let search = async {
            loop {
                if let Some(found) = probe(self) {
                    return found;
                }
                self.step().await;
            }
        };
        match tokio::time::timeout(PATIENCE, search).await {
            Ok(found) => found,
            Err(_) => panic!(
                "{name}: not within {PATIENCE:?}; on its way {:?}, said {:?}, errors {:?}",
                self.in_flight.as_ref().map(what),
                self.said.iter().map(what).collect::<Vec<_>>(),
                self.errors
            ),
        }
    }

    /// Serves the edge until everything pushed is acknowledged.
    pub async fn settle(&mut self) {
        self.wait("everything is acknowledged", |cloud| cloud.is_settled().then_some(())).await;
    }

    /// The next message `operation resource` that comes from now on, or came after the first `from`.
    pub async fn hear(&mut self, wanted: &str, from: usize) -> Envelope {
        self.wait(&format!("the edge says {wanted}"), |cloud| {
            cloud.said.iter().skip(from).find(|said| what(said) == wanted).cloned()
        })
        .await
    }

    /// Reads one frame, or waits a moment. A new connection replaces one that ended.
    async fn step(&mut self) {
        let Some(socket) = &mut self.socket else { return self.accept().await };
        match tokio::time::timeout(LOOK, socket.next()).await {
            Err(_) => {}
            Ok(Some(Ok(Message::Text(text)))) => self.received(&text).await,
            Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) => self.socket = None,
            Ok(Some(Ok(_))) => {}
        }
    }

    /// `DispatchUpstream` in `cloud/pkg/cloudhub/dispatcher/message_dispatcher.go`.
    async fn received(&mut self, text: &str) {
        let message = frame::decode(text.as_bytes(), frame::MAX_FRAME_BYTES).unwrap();
        let about = what(&message);
        self.errors.extend(go::frame(text).into_iter().map(|why| format!("{about}: {why}")));
        let route = &message.route;
        match route.operation.as_str() {
            operation::KEEPALIVE => {
                let plain = (route.source.as_str(), route.group.as_str()) == ("websocket", "resource")
                    && route.resource == Resource::Keepalive
                    && message.body == Body::Text("ping".to_owned());
                if !plain {
                    self.errors.push(format!("{about}: no keepalive of KubeEdge's: {message:?}"));
                }
                self.keepalives += 1;
            }
            operation::RESPONSE => self.acknowledged(&message).await,
            operation::ERROR => self.errors.push(format!("{about}: error response: {:?}", message.body)),
            _ if matches!(route.source.as_str(), "edgecontroller" | "devicecontroller" | "cloudhub") => {
                self.errors.push(format!("{about}: dropped, the source is one of the cloud's"));
            }
            _ => {
                let handled = match route.source.as_str() {
                    "twin" => self.api.device_twin(&message),
                    _ => self.api.edge_controller(&message),
                };
                self.said.push(message);
                match handled {
                    Ok(done) => {
                        for answer in done.no_ack {
                            self.tell(&answer).await;
                        }
                        for push in done.ack {
                            self.push(push).await;
                        }
                    }
                    Err(why) => self.errors.push(format!("{about}: {why}")),
                }
            }
        }
    }

    /// `ReceiveMessageAck`: an unknown parent is nothing to it. Only the parent counts, but the rest must
    /// be what KubeEdge's edges send.
    async fn acknowledged(&mut self, ack: &Envelope) {
        let parent = ack.header.parent_msg_id.as_deref().unwrap_or_default();
        let Some(sent) = self.in_flight.take_if(|sent| sent.header.msg_id == parent) else { return };
        if ack.body != Body::Text("OK".to_owned()) || ack.route.resource != sent.route.resource {
            self.errors.push(format!("{}: a strange acknowledgement of {}", what(ack), what(&sent)));
        }
        self.acked.push(what(&sent));
        self.send_next().await;
    }
}

/// The routes of `cloud/pkg/cloudhub/servers/httpserver/server.go` that an edge needs.
async fn serve_join(listener: TcpListener, acceptor: TlsAcceptor, pki: Arc<GoPki>) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = acceptor.accept(socket).await else { continue };
        let certified = stream.get_ref().1.peer_certificates().is_some();
        let Some((head, body)) = request(&mut stream).await else { continue };
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        let (code, answer) = match head.lines().next().unwrap_or_default() {
            "GET /ca.crt HTTP/1.1" => (200, pki.ca_der.clone()),
            "GET /edge.crt HTTP/1.1" => {
                let usages: Option<Value> =
                    header("ExtKeyUsages").map(|text| serde_json::from_str(text).unwrap());
                assert!(usages.is_none_or(|usages| usages == serde_json::json!([2])), "clientAuth");
                let node = header("NodeName").expect("header NodeName");
                match pki.edge_crt(node, header("Authorization"), certified, &body) {
                    Ok(der) => (200, der),
                    Err((code, why)) => (code, why.into_bytes()),
                }
            }
            // Ours ask for what only ours serve: go-restful's text.
            _ => (404, b"404: Page Not Found".to_vec()),
        };
        let head =
            format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", answer.len());
        // The edge sees for itself whether the answer came.
        drop(stream.write_all(&[head.as_bytes(), &answer].concat()).await);
        drop(stream.shutdown().await);
    }
}

async fn request(stream: &mut TlsStream<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut raw = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let read = stream.read(&mut chunk).await.ok().filter(|read| *read > 0)?;
        raw.extend_from_slice(&chunk[..read]);
        let Some(end) = raw.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(raw[..end].to_vec()).unwrap();
        let lower = head.to_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
        if raw.len() >= end + 4 + length {
            return Some((head, raw[end + 4..].to_vec()));
        }
    }
}

/// A message of the cloud's (`BuildRouter`).
pub fn message(source: &str, group: &str, operation: &str, resource: &str, body: Body) -> Envelope {
    Envelope::new(source, group, operation, Resource::parse(resource), body, now_ms())
}
