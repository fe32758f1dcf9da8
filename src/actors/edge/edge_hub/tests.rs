//! EdgeHub against a cloud of its own: real TLS, real websockets, real certificates.

use std::path::Path;

use futures_util::SinkExt;
use parking_lot::Mutex;
use tokio_tungstenite::tungstenite::Message as Frame;

use self::authority::{Authority, HOUR};
use self::cloud::Cloud;
use super::*;
use crate::bus::identity::Credentials;
use crate::model::{Resource, operation, source};

pub mod authority;
mod cloud;
mod identity;
mod reports;

/// The hub, what it had stored, what it told.
struct Edge {
    hub: Addr<EdgeHub>,
    stored: Arc<Mutex<Vec<String>>>,
    news: Arc<Mutex<Vec<CloudLinkChanged>>>,
    states: Arc<Mutex<Vec<LinkState>>>,
    facts: Arc<Mutex<Vec<AuditFact>>>,
    credentials: Credentials,
}

fn edge(cloud: &Cloud) -> Edge {
    let source = ReportSource::new(|| Rendered {
        metrics: "# TYPE kubeedge_edgehub_connected gauge\nkubeedge_edgehub_connected 1\n".to_owned(),
        actors: serde_json::json!({"name": "edgecore", "actors": []}),
    });
    edge_with(cloud, source)
}

fn edge_with(cloud: &Cloud, report: ReportSource) -> Edge {
    let (stored, news, states) = (Arc::<Mutex<Vec<String>>>::default(), Arc::default(), Arc::default());
    let for_twin = Arc::clone(&stored);
    let facts = Arc::<Mutex<Vec<AuditFact>>>::default();
    let for_facts = Arc::clone(&facts);
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
        audit: Link::from_fn(move |fact| {
            let facts: &Arc<Mutex<Vec<AuditFact>>> = &for_facts;
            facts.lock().push(fact);
        }),
    };
    let (sender, credentials) = watch::channel(None);
    let settings = HubSettings {
        node: NodeName::parse("edge-1").unwrap(),
        config: cloud.config.clone(),
        identity: cloud.identity.clone(),
        credentials: sender,
        report,
    };
    let publish = move |state| {
        let states: &Arc<Mutex<Vec<LinkState>>> = &for_states;
        states.lock().push(state);
    };
    let hub = EdgeHub::new(settings, links, EdgeHubMetrics::new(), Arc::new(publish)).start();
    Edge { hub, stored, news, states, facts, credentials }
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
        ("kubeedge-extensions", "ack-window,resync,identity,report"),
    ] {
        assert_eq!(session.header(name), Some(want), "{name}");
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
        session.socket.send(Frame::text(bad)).await.unwrap();
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
    let sent = edge
        .hub
        .send(SendUpstream { envelope: query(), class: Class::Control, comes_again: false })
        .await
        .unwrap();
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
    // Whichever is noticed first: silence, or no pong.
    edge.down_because("for 2s").await;
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    cloud.session().await;
}

/// What the hub does once it has renewed its certificate over HTTPS.
#[derive(Message)]
#[rtype(result = "()")]
struct Rotate;

impl Handler<Rotate> for EdgeHub {
    type Result = ();

    fn handle(&mut self, _: Rotate, ctx: &mut Context<Self>) {
        let effects = self.hub.rotate(now());
        self.run(effects, ctx);
    }
}

#[actix::test]
async fn a_renewed_certificate_is_used_without_losing_a_request() {
    let mut cloud = Cloud::start().await.with_token();
    let edge = edge(&cloud);
    let mut session = cloud.session().await;
    let before = session.certificate.clone();
    // As the hub does when the certificate is half way through its life.
    let (sender, _) = watch::channel(None);
    let node = NodeName::parse("edge-1").unwrap();
    let audit = Link::from_fn(|_| ());
    Joiner::new(node, cloud.config.clone(), cloud.identity.clone(), sender, audit).renew().await.unwrap();
    let under_way = ask(&edge, query());
    let request = session.read().await;
    edge.hub.send(Rotate).await.unwrap();
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
    let long_ago = SystemTime::now() - HOUR * 48;
    let mut cloud = Cloud::with(Authority::since(long_ago)).await;
    let mut old = cloud.authority.credentials_for("edge-1", HOUR, long_ago);
    (old.node_ca, old.jwt_key_pem) = (None, None);
    credential_files::save(&Places::new(&cloud.config), &old).unwrap();
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
