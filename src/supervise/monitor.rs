//! The monitor's HTTP endpoints: metrics, health, readiness, the live tree (design D12).
//!
//! They live here and not in `telemetry` because they show the tree. They only read, but for the
//! injection of faults, which is off unless the config turns it on, and for callers on loopback only.
//! Whoever reaches the address may read: it is loopback unless the config says otherwise.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use actix_web::dev::ServerHandle;
use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse, web};

use tokio::sync::Semaphore;

use super::handle::TreeHandle;
use super::monitor_page::page;
use crate::telemetry::doors::DoorMetrics;
use crate::telemetry::exporter::Exporter;
use crate::telemetry::federation::Federation;
use crate::telemetry::probes::Probes;
use crate::telemetry::readiness::Readiness;
use crate::web::{Limits, Lobby, Slices, serve};

const UPKEEP: Duration = Duration::from_secs(5);
/// Between two looks at files and disks.
const PROBE_EVERY: Duration = Duration::from_secs(10);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// A reader that takes nothing for so long is cut: what it asked for is in memory.
const READER_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two requests of one connection: Prometheus asks every 15 s.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Connections, all of strangers. When more come, the oldest goes.
const MAX_CONNECTIONS: usize = 32;
/// Pages with the figures of all edges that are under way at once: each is as long as there are edges.
const MAX_FEDERATE: usize = 2;
const FEDERATE: &str = "federate/edges";

/// The monitor cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("monitor cannot listen on {address}")]
pub struct MonitorError {
    pub address: String,
    pub source: std::io::Error,
}

/// A bound listener: the binary binds before it starts the tree, so that a taken port is an error
/// at start, and a restarted monitor keeps its port.
#[derive(Debug)]
pub struct MonitorSocket {
    listener: TcpListener,
    address: SocketAddr,
}

impl MonitorSocket {
    /// # Errors
    /// [`MonitorError`] names the address.
    pub fn bind(address: &str) -> Result<Self, MonitorError> {
        let fail = |source| MonitorError { address: address.to_owned(), source };
        let listener = TcpListener::bind(address).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        Ok(Self { listener, address })
    }

    /// Can other machines reach it?
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        !self.address.ip().to_canonical().is_loopback()
    }

    /// Where it listens; tells the port when port 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// What the monitor shows.
#[derive(Clone)]
pub struct MonitorSources {
    pub tree: TreeHandle,
    pub readiness: Readiness,
    pub exporter: Exporter,
    /// What edges report; `None` on an edge.
    pub federation: Option<Federation>,
    /// Figures that are looked for, not told.
    pub probes: Probes,
    /// `monitorServer.enableFaultInjection`.
    pub fault_injection: bool,
}

/// Serves `/metrics`, `/healthz`, `/readyz`, `/actors` and `POST /actors/{name}/panic`, in the cloud
/// `/federate/edges` too.
pub struct Monitor {
    socket: MonitorSocket,
    sources: MonitorSources,
    lobby: Arc<Lobby>,
    server: Option<ServerHandle>,
    /// A look at files and disks is under way.
    is_probing: bool,
}

impl Monitor {
    #[must_use]
    pub fn new(socket: MonitorSocket, sources: MonitorSources) -> Self {
        let lobby = Lobby::new(MAX_CONNECTIONS, 1, DoorMetrics::new("monitor"));
        Self { socket, sources, lobby, server: None, is_probing: false }
    }

    fn serve(&self) -> std::io::Result<actix_web::dev::Server> {
        let (sources, pages) = (self.sources.clone(), web::Data::new(Pages::default()));
        let limits = Limits {
            workers: 1,
            connections: MAX_CONNECTIONS,
            head: REQUEST_TIMEOUT,
            reader: READER_TIMEOUT,
            keep_alive: KEEP_ALIVE,
            body_bytes: 0,
            websockets: false,
        };
        let listener = self.socket.listener.try_clone()?;
        serve(
            listener,
            None,
            limits,
            &self.lobby,
            |_, _| {},
            move |app| {
                app.app_data(web::Data::new(sources.clone()))
                    .app_data(pages.clone())
                    .route("/", web::get().to(index))
                    .route("/metrics", web::get().to(metrics))
                    .route("/federate/edges", web::get().to(federate))
                    .route("/healthz", web::get().to(healthz))
                    .route("/readyz", web::get().to(readyz))
                    .route("/actors", web::get().to(actors))
                    .route("/actors/{name:.+}/panic", web::post().to(inject_panic));
            },
        )
    }

    /// Looks for figures on a thread that may block; one look at a time, however long it takes.
    fn probe(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.is_probing, true) {
            return;
        }
        let probes = self.sources.probes.clone();
        let look = tokio::task::spawn_blocking(move || probes.look());
        ctx.spawn(look.into_actor(self).map(|ended, me, _| {
            me.is_probing = false;
            if let Err(err) = ended {
                tracing::warn!(%err, "a look at files and disks failed");
            }
        }));
    }

    fn stop_server(&mut self) {
        if let Some(server) = self.server.take() {
            // The command is sent by the call; nobody needs to wait for the end.
            drop(server.stop(false));
        }
    }
}

impl Actor for Monitor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let server = match self.serve() {
            Ok(server) => server,
            Err(err) => {
                tracing::error!(address = %self.socket.address, %err, "monitor cannot serve");
                return ctx.stop();
            }
        };
        self.server = Some(server.handle());
        // Not in the context: after a panic it must still be polled to take the stop command.
        let server = actix::spawn(server).into_actor(self);
        ctx.spawn(server.map(|ended, _, ctx| {
            tracing::error!(ended_well = matches!(ended, Ok(Ok(()))), "monitor server ended");
            ctx.stop();
        }));
        ctx.run_interval(UPKEEP, |me, _| me.sources.exporter.upkeep());
        self.probe(ctx);
        ctx.run_interval(PROBE_EVERY, Self::probe);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.stop_server();
    }
}

impl Supervised for Monitor {
    fn restarting(&mut self, _: &mut Self::Context) {
        self.is_probing = false;
        self.stop_server();
    }
}

crate::handles!(Monitor);

/// What there is to see.
async fn index(sources: web::Data<MonitorSources>) -> HttpResponse {
    const PAGES: [(&str, &str); 5] = [
        ("actors", "the actors, their restarts and mailboxes (JSON, or HTML for a browser)"),
        ("metrics", "figures in Prometheus' text format"),
        (FEDERATE, "the figures of all edges, each with the label node"),
        ("readyz", "can the program do its work?"),
        ("healthz", "does the program live?"),
    ];
    let here = |page: &str| page != FEDERATE || sources.federation.is_some();
    let pages = PAGES.iter().filter(|(page, _)| here(page));
    let rows: String =
        pages.map(|(page, what)| format!("<li><a href=\"/{page}\">/{page}</a> {what}\n")).collect();
    let body = format!("<!doctype html><meta charset=\"utf-8\"><title>monitor</title><ul>\n{rows}</ul>\n");
    HttpResponse::Ok().insert_header(header::ContentType::html()).body(body)
}

async fn metrics(sources: web::Data<MonitorSources>) -> HttpResponse {
    sources.tree.publish_metrics();
    sources.readiness.publish();
    prometheus(sources.exporter.render(), ())
}

/// The page of many edges takes a while to write: not on the thread that answers whether it lives.
async fn federate(sources: web::Data<MonitorSources>, pages: web::Data<Pages>) -> HttpResponse {
    let Some(federation) = sources.federation.clone() else {
        return HttpResponse::NotFound().body("only a cloudcore knows edges\n");
    };
    let Ok(page) = Arc::clone(&pages.0).try_acquire_owned() else {
        let mut busy = HttpResponse::ServiceUnavailable();
        return busy.insert_header((header::RETRY_AFTER, 1)).body("others are reading this page\n");
    };
    match web::block(move || federation.render(Instant::now())).await {
        Ok(text) => prometheus(text, page),
        Err(err) => HttpResponse::ServiceUnavailable().body(format!("{err}\n")),
    }
}

/// Pages of all edges that may be under way.
struct Pages(Arc<Semaphore>);

impl Default for Pages {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_FEDERATE)))
    }
}

fn prometheus<T: Unpin + 'static>(text: String, until_gone: T) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8"))
        .body(Slices::new(text, until_gone))
}

/// The process lives if it answers.
async fn healthz() -> HttpResponse {
    HttpResponse::Ok().body("ok\n")
}

async fn readyz(sources: web::Data<MonitorSources>) -> HttpResponse {
    let report = sources.readiness.report();
    let mut answer = if report.ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    answer.json(report)
}

async fn actors(request: HttpRequest, sources: web::Data<MonitorSources>) -> HttpResponse {
    let tree = sources.tree.snapshot();
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    if accept.is_some_and(|accept| accept.contains("text/html")) {
        HttpResponse::Ok().insert_header(header::ContentType::html()).body(page(&tree))
    } else {
        HttpResponse::Ok().json(tree)
    }
}

async fn inject_panic(
    request: HttpRequest,
    name: web::Path<String>,
    sources: web::Data<MonitorSources>,
) -> HttpResponse {
    if !sources.fault_injection {
        return HttpResponse::Forbidden().body("monitorServer.enableFaultInjection is off\n");
    }
    if !may_inject(request.peer_addr()) {
        return HttpResponse::Forbidden().body("faults are injected from loopback only\n");
    }
    match sources.tree.inject_panic(&name) {
        Ok(()) => {
            tracing::warn!(actor = %name, "panic injected");
            HttpResponse::Accepted().body("injected\n")
        }
        Err(err) => HttpResponse::NotFound().body(format!("{err}\n")),
    }
}

/// Reading may be opened to other machines by `bindAddress`, breaking things never.
fn may_inject(peer: Option<SocketAddr>) -> bool {
    peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::supervise::{Policy, Running, State, Tree, TreeSettings};

    async fn request(address: SocketAddr, head: &str) -> (u16, String) {
        try_request(address, head).await.unwrap()
    }

    /// `None` when the connection ended without an answer.
    async fn try_request(address: SocketAddr, head: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let head = format!("{head}\r\nHost: monitor\r\nConnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    fn start(fault_injection: bool) -> (Running, SocketAddr, Readiness) {
        let ((mut tree, slot), exporter) = Exporter::record(|| {
            let mut tree = Tree::new("bench", TreeSettings::default());
            let slot = tree.slot::<Monitor>("Monitor", 8);
            (tree, slot)
        });
        let socket = MonitorSocket::bind("127.0.0.1:0").unwrap();
        let (address, readiness) = (socket.address(), Readiness::default());
        let sources = MonitorSources {
            tree: tree.handle(),
            readiness: readiness.clone(),
            exporter,
            federation: fault_injection.then(|| Federation::new(10)),
            probes: Probes::default(),
            fault_injection,
        };
        let policy = Policy { backoff_base: Duration::from_millis(1), ..Policy::default() };
        tree.add(slot, "monitor", policy, move || Monitor::new(socket, sources));
        (tree.start().unwrap(), address, readiness)
    }

    #[actix::test]
    async fn it_shows_health_readiness_metrics_and_the_tree() {
        let (running, address, readiness) = start(false);
        assert_eq!(request(address, "GET /healthz HTTP/1.1").await, (200, "ok\n".to_owned()));
        readiness.expect("cloud link");
        let (code, body) = request(address, "GET /readyz HTTP/1.1").await;
        assert_eq!(
            (code, body.as_str()),
            (503, r#"{"ready":false,"checks":[{"name":"cloud link","ok":false}]}"#)
        );
        readiness.set("cloud link", true);
        assert_eq!(request(address, "GET /readyz HTTP/1.1").await.0, 200);
        let (code, body) = request(address, "GET /metrics HTTP/1.1").await;
        assert_eq!(code, 200);
        assert!(body.contains(r#"kubeedge_actor_mailbox_depth{actor="Monitor"} 0"#), "{body}");
        assert!(body.contains("# HELP kubeedge_actor_panics_total Panics caught in an actor"), "{body}");
        let (code, body) = request(address, "GET /actors HTTP/1.1").await;
        let tree: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((code, &tree["actors"][0]["state"]), (200, &Value::from("running")));
        let (_, body) = request(address, "GET /actors HTTP/1.1\r\nAccept: text/html,*/*").await;
        assert!(body.starts_with("<!doctype html>"));
        assert_eq!(request(address, "POST /actors/Monitor/panic HTTP/1.1").await.0, 403);
        assert_eq!(request(address, "GET /nothing HTTP/1.1").await.0, 404);
        let (code, body) = request(address, "GET / HTTP/1.1").await;
        assert_eq!(code, 200);
        for page in ["/actors", "/metrics", "/readyz", "/healthz"] {
            assert!(body.contains(&format!("href=\"{page}\"")), "{body}");
        }
        assert!(!body.contains("federate"), "no edges are known here: {body}");
        assert_eq!(request(address, "GET /federate/edges HTTP/1.1").await.0, 404);
        running.handle().shut_down();
        assert_eq!(running.wait_for_end().await.code(), 0);
    }

    #[actix::test]
    async fn it_panics_on_demand_and_keeps_its_port() {
        let (running, address, _) = start(true);
        assert_eq!(request(address, "POST /actors/Nobody/panic HTTP/1.1").await.0, 404);
        assert_eq!(request(address, "POST /actors/Monitor/panic HTTP/1.1").await.0, 202);
        let row = || running.handle().snapshot().actors.swap_remove(0);
        while (row().restarts, row().state) != (1, State::Running) {
            tokio::task::yield_now().await;
        }
        // The old server may still take a connection and drop it with itself.
        let mut answer = None;
        for _ in 0..100 {
            answer = try_request(address, "GET /healthz HTTP/1.1").await;
            if answer.is_some() {
                break;
            }
        }
        assert_eq!(answer, Some((200, "ok\n".to_owned())), "on the same port");
        let (code, body) = request(address, "GET /federate/edges HTTP/1.1").await;
        assert!(code == 200 && body.contains("\nkubeedge_federate_series 0\n"), "{code} {body}");
    }

    #[test]
    fn faults_come_from_loopback_only_and_other_addresses_are_exposed() {
        for (peer, want) in [
            (Some("127.0.0.1:5"), true),
            (Some("[::1]:5"), true),
            (Some("[::ffff:127.0.0.1]:5"), true),
            (Some("192.0.2.1:5"), false),
            (Some("[2001:db8::1]:5"), false),
            (None, false),
        ] {
            assert_eq!(may_inject(peer.map(|text| text.parse().unwrap())), want, "{peer:?}");
        }
        assert!(!MonitorSocket::bind("127.0.0.1:0").unwrap().is_exposed());
        assert!(MonitorSocket::bind("0.0.0.0:0").unwrap().is_exposed());
    }

    #[test]
    fn a_taken_port_is_an_error_that_names_the_address() {
        let taken = MonitorSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.address().to_string();
        let err = MonitorSocket::bind(&address).unwrap_err();
        assert_eq!(err.to_string(), format!("monitor cannot listen on {address}"));
    }
}
