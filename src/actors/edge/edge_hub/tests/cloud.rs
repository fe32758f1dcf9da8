//! A cloud of its own: real TLS, real websockets, real certificates. It speaks KubeEdge's join
//! protocol, or ours too.

use std::collections::HashMap;

use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request as Upgrade, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use super::authority::{Authority, HOUR};
use super::*;
use crate::identity::{
    ClientAuth, JoinTokens, MintOptions, PeerIdentity, REENTRY_CONTEXT, X509POP_CONTEXT, proven, server_tls,
    validity, verify_proof,
};
use crate::model::identity::{AttestationRequest, Evidence};
use crate::model::operation;

/// One session as the cloud sees it.
pub struct Session {
    pub socket: WebSocketStream<TlsStream<TcpStream>>,
    pub headers: Vec<(String, String)>,
    pub certificate: Vec<u8>,
}

impl Session {
    /// The next message that is no keepalive.
    pub async fn read(&mut self) -> Envelope {
        loop {
            let envelope = self.read_any().await;
            if !envelope.is(operation::KEEPALIVE) {
                return envelope;
            }
        }
    }

    pub async fn read_any(&mut self) -> Envelope {
        loop {
            if let Message::Text(text) = self.socket.next().await.expect("open").expect("a frame") {
                return frame::decode(text.as_bytes(), 1 << 20).unwrap();
            }
        }
    }

    pub async fn write(&mut self, envelope: &Envelope) {
        let text = String::from_utf8(frame::encode(envelope).unwrap()).unwrap();
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// How the cloud behaves; tests change it while it runs.
#[derive(Clone)]
pub struct Manners {
    /// It knows `POST /identity/node` and the identity extension.
    pub ours: bool,
    /// It takes reports.
    pub takes_reports: bool,
    pub svid_ttl: Duration,
    /// Signs, takes the token, and says nothing: so many answers are lost.
    pub lost_answers: usize,
    /// An SVID that ran out is good for so long.
    pub grace: Duration,
    /// Sessions are refused.
    pub revoked: bool,
    /// What the `Date` of its answers says.
    pub date: Option<&'static str>,
    /// Roots of factories (the leaf itself is compared).
    pub factory: Vec<Vec<u8>>,
    /// What was asked of the join server.
    pub asked: Vec<String>,
    /// Hash of the key each token was used for.
    used: HashMap<String, String>,
}

impl Default for Manners {
    fn default() -> Self {
        Self {
            ours: false,
            takes_reports: false,
            svid_ttl: HOUR,
            lost_answers: 0,
            grace: HOUR,
            revoked: false,
            date: None,
            factory: Vec::new(),
            asked: Vec::new(),
            used: HashMap::new(),
        }
    }
}

/// CA, join endpoint and websocket endpoint.
pub struct Cloud {
    pub dir: tempfile::TempDir,
    pub authority: Arc<Authority>,
    pub token: String,
    pub config: EdgeHubConfig,
    pub identity: EdgeIdentityConfig,
    pub sessions: Receiver<Session>,
    pub manners: Arc<Mutex<Manners>>,
    tokens: Arc<JoinTokens>,
}

impl Cloud {
    /// KubeEdge's.
    pub async fn start() -> Self {
        Self::with(Authority::new()).await
    }

    /// Ours.
    pub async fn ours() -> Self {
        let cloud = Self::start().await;
        cloud.manners.lock().ours = true;
        cloud
    }

    pub async fn with(authority: Authority) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let authority = Arc::new(authority);
        let ca = &authority.ca;
        let tokens = Arc::new(JoinTokens::load_or_create(&at("join.key")).unwrap());
        let pair = ca.issue_server("cloudcore", &["127.0.0.1".to_owned()], HOUR).unwrap();
        let (accepted, sessions) = channel(8);
        let https = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wss = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut config = EdgeHubConfig {
            heartbeat: 1,
            http_server: format!("https://{}", https.local_addr().unwrap()),
            tls_ca_file: at("edge/rootCA.crt"),
            tls_cert_file: at("edge/server.crt"),
            tls_private_key_file: at("edge/server.key"),
            bootstrap_file: at("bootstrap.conf"),
            ..EdgeHubConfig::default()
        };
        config.websocket.server = wss.local_addr().unwrap().to_string();
        config.websocket.read_deadline = 0;
        let manners = Arc::<Mutex<Manners>>::default();
        let anchors = ca.client_anchors_pem();
        let tls = TlsAcceptor::from(server_tls(&pair, &anchors, ClientAuth::Optional).unwrap());
        let join = Join {
            authority: Arc::clone(&authority),
            tokens: Arc::clone(&tokens),
            manners: Arc::clone(&manners),
        };
        actix::spawn(serve_join(https, tls, join));
        let tls = TlsAcceptor::from(server_tls(&pair, &anchors, ClientAuth::Required).unwrap());
        actix::spawn(serve_sessions(wss, tls, accepted, Arc::clone(&manners)));
        let mut cloud = Self {
            dir,
            authority,
            token: String::new(),
            config,
            identity: EdgeIdentityConfig::default(),
            sessions,
            manners,
            tokens,
        };
        cloud.token = cloud.mint();
        cloud
    }

    pub fn mint(&self) -> String {
        let options = MintOptions { ttl: HOUR, node: None, reusable: false };
        self.tokens.mint(&self.authority.ca.hash_hex(), options, SystemTime::now()).0
    }

    pub fn with_token(self) -> Self {
        std::fs::write(&self.config.bootstrap_file, format!("{}\n", self.token)).unwrap();
        self
    }

    pub async fn session(&mut self) -> Session {
        tokio::time::timeout(Duration::from_secs(20), self.sessions.recv()).await.unwrap().unwrap()
    }

    /// What was asked of the join server, in order.
    pub fn asked(&self) -> Vec<String> {
        self.manners.lock().asked.clone()
    }
}

struct Join {
    authority: Arc<Authority>,
    tokens: Arc<JoinTokens>,
    manners: Arc<Mutex<Manners>>,
}

/// Just enough HTTP for the join protocol.
async fn serve_join(listener: TcpListener, acceptor: TlsAcceptor, join: Join) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = acceptor.accept(socket).await else { continue };
        let peer = stream.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec());
        let mut raw = Vec::new();
        let (head, body) = loop {
            let mut chunk = [0; 4096];
            let read = stream.read(&mut chunk).await.unwrap();
            assert!(read > 0, "the request ends early");
            raw.extend_from_slice(&chunk[..read]);
            let Some(end) = raw.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = String::from_utf8(raw[..end].to_vec()).unwrap().to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
            if raw.len() >= end + 4 + length {
                break (String::from_utf8(raw[..end].to_vec()).unwrap(), raw[end + 4..].to_vec());
            }
        };
        let line = head.lines().next().unwrap().trim_end_matches(" HTTP/1.1").to_owned();
        join.manners.lock().asked.push(line.clone());
        let (status, answer) = match line.as_str() {
            "GET /ca.crt" => ("200 OK", join.authority.ca.cert_der()),
            "POST /identity/node" if join.manners.lock().ours => match join.attest(peer, &body) {
                Ok(reply) => ("200 OK", reply),
                Err(why) => ("401 Unauthorized", why.into_bytes()),
            },
            "GET /edge.crt" => join.go_certificate(peer, &head, &body),
            _ => ("404 Not Found", b"not found".to_vec()),
        };
        {
            let mut manners = join.manners.lock();
            if line.starts_with("POST") && status.starts_with("200") && manners.lost_answers > 0 {
                manners.lost_answers -= 1;
                continue;
            }
        }
        let date = join.manners.lock().date.map(|date| format!("Date: {date}\r\n")).unwrap_or_default();
        let head = format!("HTTP/1.1 {status}\r\n{date}Content-Length: {}\r\n\r\n", answer.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&answer).await.unwrap();
        stream.flush().await.unwrap();
    }
}

impl Join {
    fn go_certificate(&self, peer: Option<Vec<u8>>, head: &str, csr: &[u8]) -> (&'static str, Vec<u8>) {
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let jwt = header("authorization").unwrap_or_default();
        let jwt = jwt.strip_prefix("Bearer ").unwrap_or_default();
        let node = NodeName::parse(&header("nodename").unwrap()).unwrap();
        let known =
            peer.is_some_and(|der| PeerIdentity::from_der(&der).unwrap().node() == Some(node.clone()));
        if known || self.tokens.verify(jwt, SystemTime::now()).is_ok() {
            let ca = &self.authority.ca;
            let ttl = self.manners.lock().svid_ttl;
            let chain = ca.sign_node_csr(csr, &node, ttl, None, SystemTime::now()).unwrap();
            ("200 OK", chain[0].clone())
        } else {
            ("401 Unauthorized", b"invalid token".to_vec())
        }
    }

    fn attest(&self, peer: Option<Vec<u8>>, body: &[u8]) -> Result<Vec<u8>, String> {
        let AttestationRequest { node: name, evidence, request } = serde_json::from_slice(body).unwrap();
        let node = NodeName::parse(&name).unwrap();
        let asked = proven(&request);
        let now = SystemTime::now();
        let mut manners = self.manners.lock();
        let node_of = |der: &[u8]| PeerIdentity::from_der(der).unwrap().node();
        match evidence {
            _ if peer.as_deref().and_then(node_of) == Some(node.clone()) => {}
            Evidence::JoinToken { token } => {
                let claims = self.tokens.verify(&token, now).map_err(|err| err.to_string())?;
                let used_for = manners.used.entry(claims.id).or_insert_with(|| request.csr.clone());
                if *used_for != request.csr {
                    return Err("the token was used".to_owned());
                }
            }
            Evidence::X509pop { proof } => {
                let chain =
                    verify_proof(X509POP_CONTEXT, &node, &asked, &proof).map_err(|err| err.to_string())?;
                if !manners.factory.contains(&chain[0]) {
                    return Err("another factory".to_owned());
                }
            }
            Evidence::Svid { proof } => {
                let chain =
                    verify_proof(REENTRY_CONTEXT, &node, &asked, &proof).map_err(|err| err.to_string())?;
                assert_eq!(node_of(&chain[0]), Some(node));
                let end = validity(&chain[0]).unwrap().not_after;
                if now.duration_since(end).is_ok_and(|late| late > manners.grace) {
                    return Err("the grace is over".to_owned());
                }
            }
        }
        let reply = self.authority.reply(&name, &request, manners.svid_ttl, now);
        Ok(serde_json::to_vec(&reply).unwrap())
    }
}

async fn serve_sessions(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    accepted: Sender<Session>,
    manners: Arc<Mutex<Manners>>,
) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let Ok(stream) = acceptor.accept(socket).await else { continue };
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        let mut headers = Vec::new();
        let Manners { ours, takes_reports, revoked, .. } = manners.lock().clone();
        #[expect(clippy::result_large_err, reason = "the library's callback type")]
        let upgrade = |request: &Upgrade, mut response: Response| {
            headers.push(("path".to_owned(), request.uri().path().to_owned()));
            for (name, value) in request.headers() {
                headers.push((name.to_string(), value.to_str().unwrap().to_owned()));
            }
            if revoked {
                let mut refusal = ErrorResponse::new(Some("node edge-1 was revoked: stolen".to_owned()));
                *refusal.status_mut() = http::StatusCode::FORBIDDEN;
                return Err(refusal);
            }
            let mut extensions = vec!["resync", "ack-window"];
            extensions.extend(ours.then_some("identity"));
            extensions.extend(takes_reports.then_some("report"));
            let extensions = extensions.join(", ");
            response.headers_mut().insert("Kubeedge-Extensions", extensions.parse().unwrap());
            Ok(response)
        };
        let Ok(socket) = accept_hdr_async(stream, upgrade).await else { continue };
        if accepted.send(Session { socket, headers, certificate }).await.is_err() {
            return;
        }
    }
}
