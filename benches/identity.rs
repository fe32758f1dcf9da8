//! `make bench-identity`: what identities for workloads cost, as a Markdown table. The edge's Identity
//! actor as it is, on its real socket, behind an attestor that knows this process's callers: a
//! benchmark is no pod. The client is the `spiffe` crate in a process of its own.

// What surrounds a measurement may fail it.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    // Other benchmarks use the rest of the shared parts.
    dead_code
)]

#[path = "../tests/it/harness/mod.rs"]
mod harness;
#[path = "world/machine.rs"]
mod machine;
#[path = "identity/nodes.rs"]
mod nodes;
#[path = "world/report.rs"]
mod report;

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use actix::prelude::*;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use kubeedge::actors::edge::identity::{
    Attestor, Identity, IdentityLinks, IdentitySettings, Peer, Refusal, Workload,
};
use kubeedge::bus::Link;
use kubeedge::identity::{Ca, CaSettings, NodeCredentials, NodeRequest};
use kubeedge::model::NodeName;
use kubeedge::model::identity::{Registration, RenewalReply};
use kubeedge::telemetry::workload::WorkloadMetrics;
use machine::{memory, quantile};
use report::{milliseconds, row};
use spiffe::WorkloadApiClient;
use tokio::sync::watch;

const NODE: &str = "edge-1";
/// Answers a round.
const CALLS: usize = 2_000;
const ROUNDS: usize = 3;
const STREAMS: usize = 100;
const DAY: Duration = Duration::from_secs(86_400);
const HOUR: Duration = Duration::from_secs(3_600);
/// Tells this program that it is the client.
const CLIENT: &str = "KUBEEDGE_BENCH_CLIENT";

fn main() {
    match std::env::var(CLIENT) {
        Ok(task) => client(&task),
        Err(_) => {
            System::new().block_on(run());
            nodes::run();
        }
    }
}

/// Every look finds a process of another pod, or always of the same.
struct Crowd {
    pods: AtomicU64,
    is_new: bool,
}

impl Attestor for Crowd {
    fn attest<'a>(
        &'a self,
        _: &'a Arc<Peer>,
        _: &'a [Registration],
    ) -> BoxFuture<'a, Result<Workload, Refusal>> {
        let pod = if self.is_new { self.pods.fetch_add(1, Ordering::Relaxed) } else { 0 };
        Box::pin(async move {
            Ok(Workload {
                namespace: "default".into(),
                pod: format!("pod-{pod}"),
                pod_uid: pod.to_string(),
                service_account: "default".into(),
                container: "main".into(),
                ..Workload::default()
            })
        })
    }
}

/// What a node of a fresh cloud holds.
fn credentials(dir: &Path) -> NodeCredentials {
    let now = SystemTime::now();
    let ca = Ca::open(CaSettings::new(&dir.join("rootCA.crt"), &dir.join("rootCA.key")), now).unwrap();
    let node = NodeName::parse(NODE).unwrap();
    let (request, keys) = NodeRequest::new(&node).unwrap();
    let der = |text: &str| STANDARD.decode(text).unwrap();
    let texts = |chain: Vec<Vec<u8>>| chain.iter().map(|der| STANDARD.encode(der)).collect();
    let reply = RenewalReply {
        svid: texts(ca.sign_node_csr(&der(&request.csr), &node, HOUR, None, now).unwrap()),
        node_ca: texts(ca.sign_node_ca_csr(&der(&request.ca_csr), &node, 7 * DAY, None, now).unwrap()),
        bundle: ca.bundle().to_document(),
    };
    keys.credentials(&node, &reply).unwrap()
}

/// Serves on a thread of its own, as edgecore does. The socket, and what renews everything.
fn serve(
    dir: &Path,
    name: &str,
    is_new: bool,
) -> (PathBuf, watch::Sender<Option<Arc<NodeCredentials>>>, Arbiter) {
    let socket = dir.join(name).join("spiffe.sock");
    let (changed, credentials) = watch::channel(Some(Arc::new(self::credentials(dir))));
    let settings = IdentitySettings {
        node: NodeName::parse(NODE).unwrap(),
        socket: Some(socket.clone()),
        x509_ttl: HOUR,
        jwt_ttl: Duration::from_secs(300),
    };
    let arbiter = Arbiter::new();
    arbiter.spawn_fn(move || {
        let links = IdentityLinks {
            get_object: Link::from_fn(|_| Ok(None)),
            roots_changed: Link::from_fn(|_| ()),
            audit: Link::from_fn(|_| ()),
        };
        let attestor = Arc::new(Crowd { pods: AtomicU64::new(0), is_new });
        let policies = watch::Sender::new(None);
        Identity::new(settings, links, credentials, policies, attestor, WorkloadMetrics::new()).start();
    });
    while !socket.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    (socket, changed, arbiter)
}

/// The client in a process of its own; its answers line by line.
struct Caller {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Caller {
    fn start(task: &str, socket: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .env(CLIENT, task)
            .env("SPIFFE_ENDPOINT_SOCKET", format!("unix://{}", socket.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        assert!(!line.is_empty(), "the client ended");
        line
    }

    /// Times of a round, in seconds.
    fn times(&mut self) -> Vec<f64> {
        self.line().split_whitespace().map(|word| word.parse().unwrap()).collect()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().unwrap();
}

fn client(task: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if task == "streams" {
            return streams().await;
        }
        let client = WorkloadApiClient::connect_env().await.unwrap();
        loop {
            let mut times = Vec::with_capacity(CALLS);
            for _ in 0..CALLS {
                let begun = Instant::now();
                match task {
                    "x509" => drop(client.fetch_x509_context().await.unwrap()),
                    "jwt" => drop(client.fetch_jwt_svid(["bench"], None).await.unwrap()),
                    other => panic!("unknown task {other}"),
                }
                times.push(begun.elapsed().as_secs_f64().to_string());
            }
            say(&times.join(" "));
        }
    });
}

/// A hundred connections with a stream each; tells when all have the first answer, and when all have
/// another.
async fn streams() {
    let mut all = Vec::new();
    for _ in 0..STREAMS {
        let client = WorkloadApiClient::connect_env().await.unwrap();
        let mut stream = client.stream_x509_contexts().await.unwrap();
        stream.next().await.unwrap().unwrap();
        all.push((client, stream));
    }
    say("open");
    loop {
        for (_, stream) in &mut all {
            stream.next().await.unwrap().unwrap();
        }
        say("all have another");
    }
}

fn rates(name: &str, task: &str, socket: &Path) {
    let mut caller = Caller::start(task, socket);
    // The first pays for what only the first pays for.
    caller.times();
    let mut rates = Vec::new();
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let round = caller.times();
        rates.push(round.len() as f64 / round.iter().sum::<f64>());
        times.extend(round);
    }
    let (low, high) = (quantile(&rates, 0.0), quantile(&rates, 1.0));
    row(&format!("{name}, one caller, one after the other"), &milliseconds(&times), "-");
    row(&format!("{name} per second"), &format!("{:.0} ({low:.0}-{high:.0})", quantile(&rates, 0.5)), "-");
}

async fn run() {
    let dir = tempfile::tempdir().unwrap();
    println!("| what | here | - |");
    println!("|---|---|---|");
    let (fresh, _keep_fresh, _) = serve(dir.path(), "new", true);
    rates("X.509-SVID, a new key and certificate each", "x509", &fresh);
    rates("JWT-SVID", "jwt", &fresh);
    let (held, changed, _) = serve(dir.path(), "held", false);
    rates("X.509-SVID that is held", "x509", &held);

    let own = std::process::id();
    let before = memory(own);
    let mut caller = Caller::start("streams", &held);
    assert_eq!(caller.line().trim(), "open");
    let after = memory(own);
    let grown = after[0] - before[0];
    let each = grown * 1024.0 / STREAMS as f64;
    row(
        &format!("memory of {STREAMS} streams, a connection each (RSS)"),
        &format!("{grown:.2} MiB, {each:.1} KiB each"),
        "-",
    );
    let mut times = Vec::new();
    for n in 0..5 {
        let place = dir.path().join(n.to_string());
        std::fs::create_dir(&place).unwrap();
        // Another cloud: every certificate and every bundle is another.
        let other = credentials(&place);
        let begun = Instant::now();
        changed.send_replace(Some(Arc::new(other)));
        caller.line();
        times.push(begun.elapsed().as_secs_f64());
    }
    row(&format!("all {STREAMS} streams have a new bundle and certificate"), &milliseconds(&times), "-");
}
