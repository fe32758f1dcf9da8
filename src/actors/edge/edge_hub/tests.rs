//! EdgeHub against a cloud of its own: real TLS, real websockets, real certificates.

use std::path::Path;

use futures_util::{SinkExt, StreamExt};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Request as Upgrade, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use super::*;
use crate::identity::{Ca, CaSettings, ClientAuth, JoinTokens, MintOptions, PeerIdentity, server_tls};
use crate::model::{Resource, operation, source};

const HOUR: Duration = Duration::from_secs(3600);

/// One session as the cloud sees it.
struct Session {
    socket: WebSocketStream<TlsStream<TcpStream>>,
    headers: Vec<(String, String)>,
    certificate: Vec<u8>,
}

impl Session {
    /// The next message that is no keepalive.
    async fn read(&mut self) -> Envelope {
        loop {
            let envelope = self.read_any().await;
            if !envelope.is(operation::KEEPALIVE) {
                return envelope;
            }
        }
    }

    async fn read_any(&mut self) -> Envelope {
        loop {
            if let Message::Text(text) = self.socket.next().await.expect("open").expect("a frame") {
                return frame::decode(text.as_bytes(), 1 << 20).unwrap();
            }
        }
    }

    async fn write(&mut self, envelope: &Envelope) {
        let text = String::from_utf8(frame::encode(envelope).unwrap()).unwrap();
        self.socket.send(Message::text(text)).await.unwrap();
    }
}

/// CA, join endpoint and websocket endpoint.
struct Cloud {
    dir: tempfile::TempDir,
    ca: Arc<Ca>,
    token: String,
    config: EdgeHubConfig,
    sessions: Receiver<Session>,
}

impl Cloud {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let ca = Arc::new(
            Ca::open(CaSettings::new(&at("cloud-ca.crt"), &at("cloud-ca.key")), SystemTime::now()).unwrap(),
        );
        let tokens = Arc::new(JoinTokens::load_or_create(&at("join.key")).unwrap());
        let (token, _) = tokens.mint(&ca.hash_hex(), MintOptions::once(HOUR), SystemTime::now());
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
        let tls = server_tls(&pair, &ca.client_anchors_pem(), ClientAuth::Optional).unwrap();
        actix::spawn(serve_join(https, TlsAcceptor::from(tls), Arc::clone(&ca), tokens));
        let tls = server_tls(&pair, &ca.client_anchors_pem(), ClientAuth::Required).unwrap();
        actix::spawn(serve_sessions(wss, TlsAcceptor::from(tls), accepted));
        Self { dir, ca, token, config, sessions }
    }

    fn with_token(self) -> Self {
        std::fs::write(&self.config.bootstrap_file, format!("{}\n", self.token)).unwrap();
        self
    }

    async fn session(&mut self) -> Session {
        tokio::time::timeout(Duration::from_secs(20), self.sessions.recv()).await.unwrap().unwrap()
    }
}

/// Just enough HTTP for the two GETs.
async fn serve_join(listener: TcpListener, acceptor: TlsAcceptor, ca: Arc<Ca>, tokens: Arc<JoinTokens>) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let Ok(mut stream) = acceptor.accept(socket).await else { continue };
        let peer = stream.get_ref().1.peer_certificates().map(|chain| chain[0].to_vec());
        let mut raw = Vec::new();
        let (head, body) = loop {
            let mut chunk = [0; 4096];
            let read = stream.read(&mut chunk).await.unwrap();
            raw.extend_from_slice(&chunk[..read]);
            let Some(end) = raw.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = String::from_utf8(raw[..end].to_vec()).unwrap().to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.trim().parse().unwrap());
            if raw.len() >= end + 4 + length {
                break (String::from_utf8(raw[..end].to_vec()).unwrap(), raw[end + 4..].to_vec());
            }
        };
        let header = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let (status, answer) = if head.starts_with("GET /ca.crt ") {
            ("200 OK", ca.cert_der())
        } else {
            let jwt = header("authorization").unwrap_or_default();
            let jwt = jwt.strip_prefix("Bearer ").unwrap_or_default();
            let node = NodeName::parse(&header("nodename").unwrap()).unwrap();
            let known =
                peer.is_some_and(|der| PeerIdentity::from_der(&der).unwrap().node() == Some(node.clone()));
            if known || tokens.verify(jwt, SystemTime::now()).is_ok() {
                (
                    "200 OK",
                    ca.sign_node_csr(&body, &node, HOUR, None, SystemTime::now()).unwrap().swap_remove(0),
                )
            } else {
                ("401 Unauthorized", b"invalid token".to_vec())
            }
        };
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", answer.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&answer).await.unwrap();
        stream.flush().await.unwrap();
    }
}

async fn serve_sessions(listener: TcpListener, acceptor: TlsAcceptor, accepted: Sender<Session>) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let Ok(stream) = acceptor.accept(socket).await else { continue };
        let certificate = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        let mut headers = Vec::new();
        #[expect(clippy::result_large_err, reason = "the library's callback type")]
        let upgrade = |request: &Upgrade, mut response: Response| {
            headers.push(("path".to_owned(), request.uri().path().to_owned()));
            for (name, value) in request.headers() {
                headers.push((name.to_string(), value.to_str().unwrap().to_owned()));
            }
            response.headers_mut().insert("Kubeedge-Extensions", "resync, ack-window".parse().unwrap());
            Ok(response)
        };
        let socket = accept_hdr_async(stream, upgrade).await.unwrap();
        if accepted.send(Session { socket, headers, certificate }).await.is_err() {
            return;
        }
    }
}

/// The hub, what it had stored, what it told.
struct Edge {
    hub: Addr<EdgeHub>,
    stored: Arc<Mutex<Vec<String>>>,
    news: Arc<Mutex<Vec<CloudLinkChanged>>>,
    states: Arc<Mutex<Vec<LinkState>>>,
}

fn edge(cloud: &Cloud) -> Edge {
    let (stored, news, states) = (Arc::<Mutex<Vec<String>>>::default(), Arc::default(), Arc::default());
    let for_twin = Arc::clone(&stored);
    let (for_apply, for_news, for_states) = (Arc::clone(&stored), Arc::clone(&news), Arc::clone(&states));
    let links = HubLinks {
        apply: Link::from_fn(move |ApplyDownstream(message)| {
            let resource = message.route.resource.to_string();
            if resource.ends_with("refused") {
                return Err(NotStored { resource, why: "no".into() });
            }
            for_apply.lock().push(resource);
            Ok(())
        }),
        link_changed: Link::from_fn(move |change: CloudLinkChanged| {
            let news: &Arc<Mutex<Vec<CloudLinkChanged>>> = &for_news;
            news.lock().push(change);
        }),
        twin: Link::from_fn(move |FromCloud(message)| {
            for_twin.lock().push(format!("twin {}", message.route.resource));
        }),
    };
    let settings = HubSettings { node: NodeName::parse("edge-1").unwrap(), config: cloud.config.clone() };
    let publish = move |state| {
        let states: &Arc<Mutex<Vec<LinkState>>> = &for_states;
        states.lock().push(state);
    };
    let hub = EdgeHub::new(settings, links, EdgeHubMetrics::new(), Arc::new(publish)).start();
    Edge { hub, stored, news, states }
}

impl Edge {
    async fn down_because(&self, needle: &str) {
        for _ in 0..1000 {
            let is_it = |state: &LinkState| matches!(state, LinkState::Down { why } if why.contains(needle));
            if self.states.lock().iter().any(is_it) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{needle:?} in {:?}", self.states.lock());
    }
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn push(resource: &str) -> Envelope {
    let body = Body::Object(serde_json::json!({"metadata": {"name": "x"}}));
    Envelope::new(source::EDGE_CONTROLLER, "resource", "insert", Resource::parse(resource), body, 1)
}

fn query() -> Envelope {
    let lease = Resource::parse("kube-node-lease/lease/edge-1");
    Envelope::new(source::EDGED, "meta", "query", lease, Body::Null, 1)
}

/// As the cloud answers: protocol 6.4.
fn answer(request: &Envelope, body: Body) -> Envelope {
    let mut answer = request.response(body, 2);
    answer.route.source = source::EDGE_CONTROLLER.into();
    answer.route.group = "resource".into();
    answer
}

fn ask(edge: &Edge, envelope: Envelope) -> actix::dev::Request<EdgeHub, Request> {
    edge.hub.send(Request { envelope, class: Class::Control, timeout: Duration::from_secs(10) })
}

#[actix::test]
async fn joins_with_a_token_and_opens_a_session() {
    let mut cloud = Cloud::start().await.with_token();
    let edge = edge(&cloud);
    let mut session = cloud.session().await;
    for (name, want) in [
        ("path", "/e632aba927ea4ac2b575ec1603d56f10/edge-1/events"),
        ("node_id", "edge-1"),
        ("project_id", "e632aba927ea4ac2b575ec1603d56f10"),
        ("connectionuse", "msg"),
        ("kubeedge-extensions", "ack-window,resync"),
    ] {
        let found = session.headers.iter().find(|(key, _)| key == name);
        assert_eq!(found.map(|(_, value)| value.as_str()), Some(want), "{name}");
    }
    let first = session.read_any().await;
    assert!(first.is(operation::KEEPALIVE) && first.body == Body::Text("ping".into()), "{first:?}");
    assert_eq!(
        edge.news.lock().last(),
        Some(&CloudLinkChanged { connected: true, session: 1, resync: true })
    );
    assert_eq!(edge.states.lock().last(), Some(&LinkState::Up));
    assert!(!cloud.config.bootstrap_file.exists(), "the token is gone");
    assert_eq!(mode(&cloud.config.tls_private_key_file), 0o600);
    assert!(session.read_any().await.is(operation::KEEPALIVE), "and every heartbeat");
}

#[actix::test]
async fn messages_both_ways_and_a_link_that_breaks() {
    let mut cloud = Cloud::start().await.with_token();
    let edge = edge(&cloud);
    let mut session = cloud.session().await;

    for bad in
        ["{", "[]", "{\"header\":1}", &"[".repeat(5000), &format!("{{\"x\":\"{}\"}}", "y".repeat(5 << 20))]
    {
        session.socket.send(Message::text(bad)).await.unwrap();
    }
    session.write(&push("default/pod/refused")).await;
    let pod = push("default/pod/a");
    session.write(&pod).await;
    let ack = session.read().await;
    assert_eq!(ack.header.parent_msg_id.as_ref(), Some(&pod.header.msg_id), "only what was stored");
    assert!(ack.is(operation::RESPONSE) && ack.body == Body::Text("OK".into()), "{ack:?}");
    assert_eq!(*edge.stored.lock(), ["default/pod/a"]);

    let asked = ask(&edge, query());
    let request = session.read().await;
    session.write(&answer(&request, Body::Text("yes".into()))).await;
    assert_eq!(asked.await.unwrap().unwrap().body, Body::Text("yes".into()));

    // Nobody waits for this reply any more, yet it is stored and acknowledged (protocol 17.5).
    let mut late = push("default/configmap/c");
    late.route.operation = "response".into();
    late.header.parent_msg_id = Some("long ago".into());
    session.write(&late).await;
    assert_eq!(session.read().await.header.parent_msg_id, Some(late.header.msg_id));

    let asked = ask(&edge, query());
    session.read().await;
    drop(session);
    assert_eq!(asked.await.unwrap(), Err(SendError::Disconnected));
    let sent = edge.hub.send(SendUpstream { envelope: query(), class: Class::Control }).await.unwrap();
    assert_eq!(sent, Err(SendError::NotConnected));
    let mut session = cloud.session().await;
    session.write(&push("default/pod/b")).await;
    session.read().await;
    let sessions: Vec<u64> =
        edge.news.lock().iter().filter(|news| news.connected).map(|news| news.session).collect();
    assert_eq!(sessions, [1, 2]);
}

#[actix::test]
async fn a_half_open_link_is_found_within_two_heartbeats() {
    let mut cloud = Cloud::start().await.with_token();
    let edge = edge(&cloud);
    // Keeps the socket open, reads nothing and answers no ping.
    let _silent = cloud.session().await;
    let begun = Instant::now();
    edge.down_because("nothing was read for 2s").await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    cloud.session().await;
}

#[actix::test]
async fn a_renewed_certificate_is_used_without_losing_a_request() {
    let mut cloud = Cloud::start().await.with_token();
    let edge = edge(&cloud);
    let mut session = cloud.session().await;
    let before = session.certificate.clone();
    let node = NodeName::parse("edge-1").unwrap();
    Joiner::new(node, Arc::new(cloud.config.clone())).renew().await.unwrap();
    let under_way = ask(&edge, query());
    let request = session.read().await;
    edge.hub.send(CertificateRotated).await.unwrap();
    let queued = ask(&edge, query());
    session.write(&answer(&request, Body::Null)).await;
    under_way.await.unwrap().unwrap();
    let mut renewed = cloud.session().await;
    assert_ne!(renewed.certificate, before);
    let request = renewed.read().await;
    renewed.write(&answer(&request, Body::Null)).await;
    queued.await.unwrap().unwrap();
}

#[actix::test]
async fn an_expired_certificate_needs_a_token_and_says_so() {
    let mut cloud = Cloud::start().await;
    let node = NodeName::parse("edge-1").unwrap();
    let (csr, key) = crate::identity::new_node_csr(&node).unwrap();
    let long_ago = SystemTime::now() - HOUR * 48;
    let der = cloud.ca.sign_node_csr(&csr, &node, HOUR, None, long_ago).unwrap().swap_remove(0);
    let files = [
        (&cloud.config.tls_ca_file, cloud.ca.cert_pem()),
        (&cloud.config.tls_cert_file, crate::identity::cert_pem_from_der(&der)),
        (&cloud.config.tls_private_key_file, key),
    ];
    for (file, content) in files {
        crate::identity::write_atomic(file, content.as_bytes(), 0o600).unwrap();
    }
    let edge = edge(&cloud);
    edge.down_because("expired while this node was offline: put a fresh join token into").await;
    cloud = cloud.with_token();
    cloud.session().await;
}

#[actix::test]
async fn a_wrong_ca_or_a_refused_token_is_named() {
    let cloud = Cloud::start().await;
    let forged = format!("{}x", cloud.token);
    std::fs::write(&cloud.config.bootstrap_file, forged).unwrap();
    edge(&cloud).down_because("401 Unauthorized: invalid token").await;
    let other = format!("{}{}", "0".repeat(64), &cloud.token[64..]);
    std::fs::write(&cloud.config.bootstrap_file, other).unwrap();
    edge(&cloud).down_because("is not the one the join token names").await;
    assert!(!cloud.dir.path().join("edge/server.crt").exists());
}
