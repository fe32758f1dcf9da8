//! What both programs do the same way: logs, metrics, monitor, tree, end.

use std::error::Error;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use nix::sys::stat::{Mode, umask};

use crate::actors::audit::{self, Audit, AuditSettings};
use crate::bus::Link;
use crate::bus::identity::AuditFact;
use crate::config::CommonConfig;
use crate::store::Store;
use crate::supervise::{
    MAIN_THREAD, Monitor, MonitorSocket, MonitorSources, Policy, Tree, TreeSettings, install_panic_hook,
};
use crate::telemetry::exporter::{self, Exporter};
use crate::telemetry::federation::Federation;
use crate::telemetry::host::{DiskMetrics, show_build};
use crate::telemetry::identity::AuditMetrics;
use crate::telemetry::logging;
use crate::telemetry::probes::Probes;
use crate::telemetry::readiness::Readiness;

/// Something that keeps a program from starting. Printed as one line with its causes.
pub type Fatal = Box<dyn Error + Send + Sync>;

/// What a program declares its actors with.
pub struct Stage {
    pub tree: Tree,
    pub readiness: Readiness,
    /// What `/metrics` shows.
    pub exporter: Exporter,
    /// Figures that are looked for every few seconds.
    pub probes: Probes,
}

impl Stage {
    /// Shows how full the disk is that the program keeps everything on.
    pub fn watch_disk(&self, data_dir: &Path) {
        let (disk, folder) = (DiskMetrics::new(), data_dir.to_owned());
        self.probes.add(move || disk.look(&folder));
    }

    /// Shows how many bytes a store takes, for as long as somebody else keeps it open.
    pub fn watch_store(&self, store: &Arc<impl Store>, show: impl Fn(u64) + Send + Sync + 'static) {
        let store = Arc::downgrade(store);
        self.probes.add(move || {
            if let Some(store) = store.upgrade() {
                show(store.size_bytes());
            }
        });
    }
}

/// What must outlive the tree and ends after it: the store's committer.
pub type KeepAlive = Box<dyn std::any::Any>;

/// Runs a program until it is told to end; the exit code. `declare` opens what the program needs
/// and declares its actors; what it returns is dropped after the last actor. `federation` is what the
/// monitor of a cloudcore shows of its edges.
pub fn run(
    name: &'static str,
    common: &CommonConfig,
    default_monitor: &str,
    warnings: &[String],
    federation: Option<Federation>,
    declare: impl AsyncFnOnce(&mut Stage) -> Result<KeepAlive, Fatal>,
) -> u8 {
    if let Err(err) = logging::init(&common.logging) {
        // There is no log yet: this is the one line a service manager will show.
        std::io::stderr().write_all(format!("{name}: {}\n", chain(&err)).as_bytes()).ok();
        return 1;
    }
    install_panic_hook();
    // Stores, logs and keys are root's alone. What others must reach (volumes of pods, their logs,
    // sockets) is opened to them by name where it is made.
    umask(Mode::from_bits_truncate(0o077));
    raise_open_files();
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "{name} starts");
    // One thread for the main arbiter; blocking work (files, DNS) may take a few more.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(err) => return refuse(name, &err),
    };
    let system = actix::System::with_tokio_rt(move || runtime);
    let result = system.block_on(drive(name, common, default_monitor, federation, declare));
    match result {
        Ok(code) => code,
        Err(err) => refuse(name, &*err),
    }
}

async fn drive(
    name: &'static str,
    common: &CommonConfig,
    default_monitor: &str,
    federation: Option<Federation>,
    declare: impl AsyncFnOnce(&mut Stage) -> Result<KeepAlive, Fatal>,
) -> Result<u8, Fatal> {
    let exporter = exporter::install()?;
    show_build(name);
    logging::show_counts();
    let monitor = &common.monitor_server;
    let address =
        if monitor.bind_address.is_empty() { default_monitor } else { monitor.bind_address.as_str() };
    let socket = MonitorSocket::bind(address)?;
    tracing::info!(address = %socket.address(), "monitor listens");
    if socket.is_exposed() {
        tracing::warn!(
            address = %socket.address(),
            "commonConfig.monitorServer.bindAddress is not loopback: whoever reaches it reads metrics and the actors"
        );
    }

    let settings =
        TreeSettings { max_restarts: Some(common.max_restarts as usize), ..TreeSettings::default() };
    let (readiness, probes) = (Readiness::default(), Probes::default());
    let mut stage = Stage { tree: Tree::new(name, settings), readiness, exporter: exporter.clone(), probes };
    let monitor_slot = stage.tree.slot("Monitor", 8);
    let sources = MonitorSources {
        tree: stage.tree.handle(),
        readiness: stage.readiness.clone(),
        exporter,
        federation,
        probes: stage.probes.clone(),
        fault_injection: monitor.enable_fault_injection,
    };
    stage.tree.add(monitor_slot, MAIN_THREAD, Policy::default(), move || Monitor::new(socket, sources));

    let keep = declare(&mut stage).await?;
    let running = stage.tree.start()?;
    let reason = running.wait_for_end().await;
    drop(keep);
    let code = reason.code();
    if code == 0 {
        tracing::info!(%reason, "{name} ends");
    } else {
        tracing::error!(%reason, "{name} gives up; its service manager should start it again");
    }
    Ok(code)
}

/// Declares the audit log of a program below `data_dir`. Comes before every actor that has facts to
/// tell: what is declared first ends last.
pub fn keep_audit(tree: &mut Tree, thread: &'static str, data_dir: &Path) -> Link<AuditFact> {
    let slot = tree.slot::<Audit>(audit::NAME, 1_024);
    let link = slot.link();
    let settings = AuditSettings::below(data_dir);
    tree.add(slot, thread, Policy::default(), move || Audit::new(settings, AuditMetrics::new()));
    link
}

/// A connection costs a file, and many systems begin with 1,024.
pub(super) fn raise_open_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    const ENOUGH: u64 = 65_536;
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| match hard.min(ENOUGH) {
        want if want > soft => setrlimit(Resource::RLIMIT_NOFILE, want, hard),
        _ => Ok(()),
    });
    if let Err(err) = raised {
        tracing::warn!(error = %err, "the limit of open files stays as it is");
    }
}

fn refuse(name: &str, err: &dyn Error) -> u8 {
    let text = chain(err);
    tracing::error!("{name} cannot start: {text}");
    1
}

/// An error with its causes in one line.
#[must_use]
pub fn chain(err: &dyn Error) -> String {
    let mut text = err.to_string();
    let mut cause = err.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        // Some errors tell their cause themselves.
        if !text.contains(&inner_text) {
            // Writing to a String cannot fail.
            write!(text, ": {inner_text}").ok();
        }
        cause = inner.source();
    }
    text
}
