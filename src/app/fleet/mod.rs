//! edge-fleet: many simulated edges in one process, which speak to a cloudcore as edgecore does. To see
//! what a cloud bears before a thousand machines find out.
//!
//! Every edge joins by a factory certificate, has a certificate and a session of its own, registers its
//! node, renews its lease, keeps what it is sent and says that its pods run. What decides is in [`edge`]
//! and made of edgecore's own parts; there are no containers behind it.

mod edge;
mod factory;
mod figures;
mod hollow;
mod link;
mod pods;

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use self::edge::{Edge, Settings};
use self::factory::Factory;
use self::figures::{Figures, Summary};
use self::link::Linked;
use super::program::{Fatal, raise_open_files};
use crate::actors::edge::edge_hub::join_worker::Joiner;
use crate::actors::edge::edged::machine::{Machine, Usage, go_arch};
use crate::actors::edge::edged::node::{Facts, RuntimeHealth, kubelet_version};
use crate::bus::Link;
use crate::config::{EdgeHubConfig, EdgedConfig, LoggingConfig};
use crate::model::NodeName;
use crate::telemetry::logging;

/// Edges that ask for a certificate at once.
const JOINING: usize = 8;
/// So long a fleet has to say goodbye.
const GOODBYE: Duration = Duration::from_secs(10);

/// Many simulated edges in one process, to see what a cloudcore bears
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// How many edges
    #[arg(long, value_name = "COUNT", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    nodes: u32,
    /// Their names begin with this, a number follows
    #[arg(long, value_name = "NAME", default_value = "hollow")]
    prefix: String,
    /// CloudHub's HTTPS listener, where they join
    #[arg(long, value_name = "URL", default_value = "https://127.0.0.1:10002")]
    cloud: String,
    /// CloudHub's websocket listener, host:port
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:10000")]
    hub: String,
    /// Root certificate of the cloud, PEM
    #[arg(long, value_name = "FILE", default_value = "/etc/kubeedge/ca/rootCA.crt")]
    ca: PathBuf,
    /// Folder for the factory's CA and the edges' certificates, kept for the next run
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubeedge/fleet")]
    certs: PathBuf,
    /// Only make the factory's CA, DIR/factory-ca.crt, which cloudcore must be told to trust as
    /// identity.factoryCaFile before edges can join
    #[arg(long)]
    prepare: bool,
    /// Edges that begin each second
    #[arg(long, value_name = "COUNT", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Seconds until it ends; 0: until it is told to
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    seconds: u64,
    /// Seconds between two node reports of an edge; 0: none
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    reports: u32,
    /// Seconds between two lease renewals of an edge
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    lease: u32,
    /// Pods for each edge, made through the API once all edges are there, and removed at the end
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=110), requires = "kubeconfig")]
    pods: u32,
    /// Kubeconfig file of the API, for --pods
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// A line of JSON each second instead of text every ten
    #[arg(long)]
    json: bool,
    /// Log filter: error, warn, info, debug
    #[arg(long, value_name = "FILTER", default_value = "warn")]
    log: String,
}

/// Runs it until SIGTERM, SIGINT or the end of its time.
#[must_use]
pub fn run() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(err) => {
            err.print().ok();
            return ExitCode::from(u8::try_from(err.exit_code()).unwrap_or(2));
        }
    };
    match start(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            std::io::stderr().write_all(format!("edge-fleet: {err}\n").as_bytes()).ok();
            ExitCode::FAILURE
        }
    }
}

fn start(args: &Args) -> Result<(), Fatal> {
    logging::init(&LoggingConfig { level: args.log.clone(), ..LoggingConfig::default() })?;
    let factory = Factory::open(&args.certs)?;
    if args.prepare {
        let root = Factory::root(&args.certs);
        say(&format!("{}\n", root.display()));
        return Ok(());
    }
    raise_open_files();
    // Certificates and files are work for other threads; everything else is one thread's.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build()?;
    runtime.block_on(fleet(args, &factory))
}

async fn fleet(args: &Args, factory: &Factory) -> Result<(), Fatal> {
    let roots = fs::read_to_string(&args.ca)
        .map_err(|err| format!("--ca: cannot read {}: {err}", args.ca.display()))?;
    let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let figures = Arc::new(Figures::new(args.nodes as usize));
    let settings = Arc::new(settings(args));
    let (stop, stopped) = watch::channel(false);
    let joining = Arc::new(Semaphore::new(JOINING));
    let mut edges = JoinSet::new();
    let pods = match &args.kubeconfig {
        Some(kubeconfig) if args.pods > 0 => {
            Some(pods::Pods::new(kubeconfig, args.pods, &args.prefix).await?)
        }
        _ => None,
    };
    let starting = async {
        let pause = Duration::from_secs(1) / args.rate;
        for node in names(args)? {
            let mut config = hub_config(args);
            let identity = factory.equip(&node, &roots, &mut config)?;
            let audit = Link::from_fn(|_| ());
            let (published, _) = watch::channel(None);
            let joiner = Joiner::new(node.clone(), config.clone(), identity, published, audit);
            let linked = Linked {
                edge: Edge::new(node.clone(), Arc::clone(&settings)),
                node,
                joiner,
                config,
                figures: Arc::clone(&figures),
                joining: Arc::clone(&joining),
                stop: stopped.clone(),
            };
            edges.spawn(linked.live());
            sleep(pause).await;
        }
        if let Some(pods) = &pods {
            all_registered(&figures, args.nodes as usize).await;
            pods.create(&names(args)?).await?;
        }
        std::future::pending::<Result<(), Fatal>>().await
    };
    let outcome = tokio::select! {
        failed = starting => failed,
        () = show(args, &figures) => Ok(()),
        () = told(terminate, interrupt, args.seconds) => Ok(()),
    };
    if let Some(pods) = &pods {
        let removed = async {
            pods.remove().await?;
            while !pods.are_gone().await? {
                sleep(Duration::from_millis(200)).await;
            }
            Ok::<_, Fatal>(())
        };
        match tokio::time::timeout(GOODBYE * 6, removed).await {
            Ok(Ok(())) => {}
            Ok(Err(err)) => tracing::warn!(error = %err, "its pods were not removed"),
            Err(_) => tracing::warn!("some of its pods are not gone yet"),
        }
    }
    stop.send(true).ok();
    let goodbye = async { while edges.join_next().await.is_some() {} };
    if tokio::time::timeout(GOODBYE, goodbye).await.is_err() {
        tracing::warn!("some edges did not end in {GOODBYE:?}");
    }
    print(args, &figures.summary(true));
    outcome
}

async fn all_registered(figures: &Figures, nodes: usize) {
    while figures.summary(false).registered < nodes {
        sleep(Duration::from_millis(200)).await;
    }
}

async fn told(
    mut terminate: tokio::signal::unix::Signal,
    mut interrupt: tokio::signal::unix::Signal,
    seconds: u64,
) {
    let over = async {
        match seconds {
            0 => std::future::pending().await,
            seconds => sleep(Duration::from_secs(seconds)).await,
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = over => {}
    }
}

/// Shows how it goes, for ever.
async fn show(args: &Args, figures: &Figures) {
    let mut turn = interval(Duration::from_secs(if args.json { 1 } else { 10 }));
    turn.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turn.tick().await;
        print(args, &figures.summary(false));
    }
}

fn print(args: &Args, summary: &Summary) {
    let text = if args.json {
        serde_json::to_string(summary).unwrap_or_else(|err| format!("{{\"error\": {:?}}}", err.to_string()))
    } else {
        summary.text()
    };
    say(&format!("{text}\n"));
}

/// To a reader that may have gone away.
fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).ok();
}

fn names(args: &Args) -> Result<Vec<NodeName>, Fatal> {
    let name = |number: u32| {
        let name = format!("{}-{number}", args.prefix);
        NodeName::parse(&name).map_err(|err| format!("--prefix: {name:?} names no node: {err}").into())
    };
    (0..args.nodes).map(name).collect()
}

fn hub_config(args: &Args) -> EdgeHubConfig {
    let mut config = EdgeHubConfig {
        http_server: args.cloud.clone(),
        report_interval_secs: args.reports.into(),
        ..EdgeHubConfig::default()
    };
    config.websocket.server.clone_from(&args.hub);
    config
}

fn settings(args: &Args) -> Settings {
    let edged = EdgedConfig::default();
    let facts = Facts {
        addresses: vec!["127.0.0.1".to_owned()],
        machine: Machine::read(),
        // A machine with room, whatever this one has.
        usage: Usage {
            memory_available_bytes: 1 << 31,
            disk_bytes: 1 << 35,
            disk_free_bytes: 1 << 34,
            inodes: 1 << 20,
            inodes_free: 1 << 19,
            pids: 100,
            pids_max: 32_768,
        },
        runtime: RuntimeHealth { version: "hollow://1.0.0".to_owned(), ..RuntimeHealth::default() },
        kubelet_version: kubelet_version(),
        arch: go_arch().to_owned(),
        ..Facts::default()
    };
    Settings {
        edged,
        facts,
        lease_every: Duration::from_secs(args.lease.into()),
        status_every: Duration::from_secs(300),
        report_every: (args.reports > 0).then(|| Duration::from_secs(args.reports.into())),
    }
}
