//! The API server without a transport: registry, commits, signals to watchers.

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use parking_lot::{Mutex, RwLock};
use serde_json::Value;
use tokio::sync::watch;

use super::errors::ApiError;
use super::kinds::{KINDS, Kind};
use super::namespaces;
use super::object::Stored;
use super::registry::{Change, CommitResult, MAX_STAGED, Registry, Staged};
use super::roles;
use super::tx::{Tx, World};
use crate::identity::ServiceAccountKeys;
use crate::model::Reason;
use crate::store::{Batch, PROBE_EVERY, Store, StoreError, Table, probe};
use crate::telemetry::apiserver::ApiServerMetrics;
use crate::telemetry::readiness::{Readiness, STORE};

/// Key prefix of objects in [`Table::Objects`]: `{prefix}{plural.group}/{namespace}/{name}`.
pub(super) const OBJECT_PREFIX: &str = "api/o/";
/// Key of the newest resourceVersion in [`Table::Local`].
const VERSION_KEY: &str = "api/version";
/// No cluster writes so often; a row that says more is damaged.
const MAX_VERSION: u64 = 1 << 62;
/// Rows read at once at start.
const SCAN_ROWS: usize = 1000;
/// A commit slower than this answers 504; it may still take effect.
const COMMIT_DEADLINE: Duration = Duration::from_secs(30);

/// Tells the time. Tests bring their own.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What the API server is made of.
pub struct ApiSettings {
    /// Opened store; nobody else writes below `api/`.
    pub store: Arc<dyn Store>,
    pub keys: Arc<ServiceAccountKeys>,
    /// The CA that client certificates come from; published in every namespace.
    pub ca_pem: String,
    pub clock: Clock,
}

/// The API server. Cheap to share; survives the actor that listens for it.
pub struct ApiCore {
    shared: Arc<Shared>,
    wake: SyncSender<()>,
    committer: Mutex<Option<JoinHandle<()>>>,
    pub(super) keys: Arc<ServiceAccountKeys>,
    ca_pem: Arc<str>,
    clock: Clock,
    pub(super) metrics: ApiServerMetrics,
}

/// Kind, namespace and name.
type Place = (&'static Kind, String, String);

struct Shared {
    registry: RwLock<Registry>,
    /// Per kind, the newest visible version.
    signals: Vec<watch::Sender<u64>>,
    /// The commit thread panicked.
    broken: AtomicBool,
    /// The last write to the store went wrong.
    failing: AtomicBool,
    closing: AtomicBool,
    /// Row keys of objects whose write failed: it may have reached the disk all the same.
    doubtful: Mutex<BTreeMap<String, Place>>,
    readiness: OnceLock<Readiness>,
    metrics: ApiServerMetrics,
}

impl ApiCore {
    /// Loads everything, makes the namespaces every cluster has, and starts the thread that
    /// commits. Blocks: call it while the program starts.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot be read or written, or holds what is not JSON.
    pub fn start(settings: ApiSettings) -> Result<Arc<Self>, StoreError> {
        let registry = load(&*settings.store, (settings.clock)())?;
        let metrics = ApiServerMetrics::new();
        let shared = Arc::new(Shared {
            registry: RwLock::new(registry),
            signals: KINDS.iter().map(|_| watch::Sender::new(0)).collect(),
            broken: AtomicBool::new(false),
            failing: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            doubtful: Mutex::default(),
            readiness: OnceLock::new(),
            metrics: metrics.clone(),
        });
        let (wake, woken) = sync_channel(1);
        let core = Arc::new(Self {
            shared: Arc::clone(&shared),
            wake,
            committer: Mutex::new(None),
            keys: settings.keys,
            ca_pem: settings.ca_pem.into(),
            clock: settings.clock,
            metrics,
        });
        core.bootstrap(&*settings.store)?;
        // The thread owns the store: when it ends, the store is closed, whoever still has the core.
        let store = settings.store;
        let thread = std::thread::Builder::new()
            .name("api-commit".into())
            .stack_size(512 * 1024)
            .spawn(move || commit_loop(&shared, &*store, &woken))
            .map_err(|err| StoreError::Io {
                op: "start the commit thread of",
                path: "apiserver".into(),
                why: err.to_string().into(),
            })?;
        *core.committer.lock() = Some(thread);
        Ok(core)
    }

    /// Commits what is staged, refuses later writes, and closes the store. Blocks until that is
    /// done: the process must not end while the engine is at work.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        // A full channel wakes the thread as well; without a thread there is nothing to close.
        self.wake.try_send(()).ok();
        let thread = self.committer.lock().take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the api commit thread had panicked");
        }
    }

    /// The namespaces every cluster has, with what belongs into each, and the roles.
    fn bootstrap(&self, store: &dyn Store) -> Result<(), StoreError> {
        let mut registry = self.shared.registry.write();
        let mut tx = Tx::new(&registry, self.world());
        if let Err(err) = namespaces::ensure_defaults(&mut tx).and_then(|()| roles::restore(&mut tx)) {
            return Err(StoreError::Io {
                op: "prepare",
                path: "apiserver".into(),
                why: err.to_string().into(),
            });
        }
        let changes = tx.finish();
        if !changes.is_empty() && registry.stage(changes).is_ok() {
            let staged = registry.take_staged();
            store.write(&[batch(&staged)])?;
            registry.applied(&staged);
        }
        self.shared.count_objects(&registry);
        Ok(())
    }

    pub(super) fn now(&self) -> Timestamp {
        (self.clock)()
    }

    pub(super) fn world(&self) -> World {
        World { now: self.now(), ca_pem: Arc::clone(&self.ca_pem) }
    }

    /// Reads what is durable. `read` must be short: it holds the lock.
    pub(super) fn read<T>(&self, read: impl FnOnce(&Registry) -> T) -> T {
        read(&self.shared.registry.read())
    }

    /// An object that readers see.
    pub(super) fn find(&self, kind: &Kind, namespace: &str, name: &str) -> Option<Arc<Stored>> {
        self.read(|registry| registry.get(kind, namespace, name).map(Arc::clone))
    }

    /// Wakes on every visible change of a kind.
    pub(super) fn signal(&self, kind: &Kind) -> watch::Receiver<u64> {
        match self.shared.signals.get(kind.id) {
            Some(sender) => sender.subscribe(),
            None => watch::Sender::new(0).subscribe(),
        }
    }

    /// Does the commit thread live? Only a new process brings it back.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        !self.shared.broken.load(Ordering::Acquire)
    }

    /// Is there reason to hope that a write will be stored? Not after one that failed, until the
    /// next one succeeds.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_healthy() && !self.shared.failing.load(Ordering::Acquire)
    }

    /// From now on `readiness` tells, under [`STORE`], whether writes are stored.
    pub fn show_in(&self, readiness: &Readiness) {
        readiness.set(STORE, self.is_ready());
        self.shared.readiness.get_or_init(|| readiness.clone());
    }

    /// Decides under the lock, then waits until the writes are on disk and visible. With `dry_run`
    /// the decision is all.
    ///
    /// # Errors
    /// What `decide` refuses; 429 when the disk is too slow; 500 when it fails: then nothing of
    /// the request is kept; 504 when it does not answer.
    pub(super) async fn write<T>(
        &self,
        dry_run: bool,
        decide: impl FnOnce(&mut Tx<'_>) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        let (answer, wait) = {
            let mut registry = self.shared.registry.write();
            let mut tx = Tx::new(&registry, self.world());
            let answer = decide(&mut tx)?;
            let changes = tx.finish();
            if dry_run {
                return Ok(answer);
            }
            if !self.is_healthy() || self.shared.closing.load(Ordering::Acquire) {
                return Err(ApiError::new(Reason::ServiceUnavailable, "the store is closed"));
            }
            let wait = registry
                .stage(changes)
                .map_err(|_| ApiError::busy("too many writes wait for the disk, please try again later"))?;
            (answer, wait)
        };
        let Some(wait) = wait else { return Ok(answer) };
        match self.wake.try_send(()) {
            Ok(()) | Err(TrySendError::Full(())) => {}
            Err(TrySendError::Disconnected(())) => return Err(ApiError::internal("the store is closed")),
        }
        match tokio::time::timeout(COMMIT_DEADLINE, wait).await {
            Ok(Ok(Ok(()))) => Ok(answer),
            Ok(Ok(Err(why))) => Err(ApiError::internal(format!("the write could not be stored: {why}"))),
            Ok(Err(_)) => Err(ApiError::internal("the store is closed")),
            Err(_) => Err(ApiError::new(
                Reason::Timeout,
                "the disk did not answer in 30 s; the write may still take effect",
            )),
        }
    }
}

impl Shared {
    fn count_objects(&self, registry: &Registry) {
        for kind in &KINDS {
            self.metrics.set_objects(kind.plural, registry.count(kind));
        }
    }

    fn commit(&self, store: &dyn Store) {
        loop {
            let staged = self.registry.write().take_staged();
            if staged.is_empty() {
                return;
            }
            let changed = staged.iter().any(|staged| !staged.changes.is_empty());
            let too_many = || self.doubtful.lock().len() >= MAX_STAGED;
            if changed && too_many() {
                self.try_again(store);
            }
            let written = if !changed {
                Ok(())
            } else if too_many() {
                let why = "writes have failed for a while".into();
                Err(StoreError::Io { op: "write to", path: "apiserver".into(), why })
            } else {
                let written = store.write(&[self.amends(), batch(&staged)]);
                self.wrote(&staged, written.is_ok());
                written
            };
            let (result, lost): (CommitResult, Vec<Staged>) = {
                let mut registry = self.registry.write();
                match written {
                    Ok(()) => {
                        registry.applied(&staged);
                        self.count_objects_of(&registry, &staged);
                        (Ok(()), Vec::new())
                    }
                    Err(err) => (Err(err.to_string().into()), registry.failed()),
                }
            };
            if let Err(why) = &result {
                tracing::error!(%why, requests = staged.len() + lost.len(), "api write lost");
            }
            self.answer(staged, lost, &result);
        }
    }

    /// What makes the disk say of doubtful objects what readers see. A sync that failed may leave its rows in
    /// the log, and who opens the store next would find what was refused.
    fn amends(&self) -> Batch {
        let doubtful = self.doubtful.lock();
        let registry = self.registry.read();
        doubtful.iter().fold(Batch::new(), |batch, (key, (kind, namespace, name))| {
            match registry.get(kind, namespace, name) {
                Some(object) => batch.put(Table::Objects, key.clone(), object.bytes.to_vec()),
                None => batch.delete(Table::Objects, key.clone()),
            }
        })
    }

    /// These changes were written, with the amends, or not.
    fn wrote(&self, staged: &[Staged], written: bool) {
        let mut doubtful = self.doubtful.lock();
        if written {
            doubtful.clear();
        } else {
            for change in staged.iter().flat_map(|staged| &staged.changes) {
                let place = (change.kind, change.after.namespace.to_string(), change.after.name.to_string());
                doubtful.insert(object_key(change), place);
            }
        }
        drop(doubtful);
        self.note(written);
    }

    /// Is the store well again? Then what it should not have is gone from it.
    fn try_again(&self, store: &dyn Store) {
        let written = probe(store).and_then(|()| store.write(&[self.amends()]));
        self.wrote(&[], written.is_ok());
    }

    /// What the last write says about the store.
    fn note(&self, written: bool) {
        self.failing.store(!written, Ordering::Release);
        if let Some(readiness) = self.readiness.get() {
            readiness.set(STORE, written);
        }
    }

    fn count_objects_of(&self, registry: &Registry, staged: &[Staged]) {
        for kind in &KINDS {
            if staged.iter().flat_map(|staged| &staged.changes).any(|change| change.kind.id == kind.id) {
                self.metrics.set_objects(kind.plural, registry.count(kind));
            }
        }
    }

    fn answer(&self, staged: Vec<Staged>, lost: Vec<Staged>, result: &CommitResult) {
        if result.is_ok() {
            let mut newest = vec![0; KINDS.len()];
            for change in staged.iter().flat_map(|staged| &staged.changes) {
                if let Some(slot) = newest.get_mut(change.kind.id) {
                    *slot = change.after.version;
                }
            }
            for (version, signal) in newest.into_iter().zip(&self.signals) {
                if version > 0 {
                    signal.send_replace(version);
                }
            }
        }
        for staged in staged.into_iter().chain(lost) {
            // The client may be gone: its write is durable all the same.
            drop(staged.done.send(result.clone()));
        }
    }
}

impl Drop for ApiCore {
    fn drop(&mut self) {
        self.close();
    }
}

/// Runs until the core is closed. A panic closes the server for writes instead of losing them.
fn commit_loop(shared: &Shared, store: &dyn Store, woken: &Receiver<()>) {
    loop {
        let woken = if shared.failing.load(Ordering::Acquire) {
            woken.recv_timeout(PROBE_EVERY)
        } else {
            woken.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        let work = || match woken {
            Err(RecvTimeoutError::Timeout) => shared.try_again(store),
            _ => shared.commit(store),
        };
        if woken == Err(RecvTimeoutError::Disconnected) {
            return;
        }
        if std::panic::catch_unwind(AssertUnwindSafe(work)).is_err() {
            shared.broken.store(true, Ordering::Release);
            shared.registry.write().failed();
            tracing::error!("api commit thread panicked, writes are refused");
            return;
        }
        if shared.closing.load(Ordering::Acquire) {
            // Who saw the server open under the lock has staged by now; nobody stages after it.
            drop(shared.registry.write());
            shared.commit(store);
            return;
        }
    }
}

fn object_key(change: &Change) -> String {
    format!("{OBJECT_PREFIX}{}/{}/{}", change.kind.qualified(), change.after.namespace, change.after.name)
}

fn batch(staged: &[Staged]) -> Batch {
    let mut batch = Batch::new();
    let mut newest = 0;
    for change in staged.iter().flat_map(|staged| &staged.changes) {
        newest = newest.max(change.after.version);
        batch = if change.removed {
            batch.delete(Table::Objects, object_key(change))
        } else {
            batch.put(Table::Objects, object_key(change), change.after.bytes.to_vec())
        };
    }
    batch.put(Table::Local, VERSION_KEY, newest.to_string())
}

/// Versions given out from `now` on are at least this, in microseconds since 1970: greater than all that
/// were given out before, also when the data is a copy from yesterday. Whoever kept an object or a
/// place in a watch since then finds the new ones newer, and his place too old instead of one that
/// means something else now. (`etcdutl snapshot restore --bump-revision` is there for the same reason.)
fn least_version(now: Timestamp) -> u64 {
    u64::try_from(now.as_microsecond()).unwrap_or_default()
}

fn load(store: &dyn Store, now: Timestamp) -> Result<Registry, StoreError> {
    let damaged = |why: String| StoreError::Damaged { path: "apiserver".into(), why: why.into() };
    // Versions are counted on from here, a write at a time.
    let is_sane = |version: u64| version <= MAX_VERSION;
    let version = match store.get(Table::Local, VERSION_KEY.as_bytes())? {
        None => 0,
        Some(raw) => String::from_utf8_lossy(&raw)
            .parse()
            .ok()
            .filter(|version| is_sane(*version))
            .ok_or_else(|| damaged(format!("{VERSION_KEY} is not a version")))?,
    };
    let mut objects = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let rows = store.scan(Table::Objects, OBJECT_PREFIX.as_bytes(), after.as_deref(), SCAN_ROWS)?;
        let Some((last, _)) = rows.last() else { break };
        after = Some(last.clone());
        for (key, raw) in rows {
            let key = String::from_utf8_lossy(&key).into_owned();
            let value: Value =
                serde_json::from_slice(&raw).map_err(|err| damaged(format!("{key}: {err}")))?;
            let place = key.strip_prefix(OBJECT_PREFIX).and_then(|rest| rest.split('/').next());
            let Some(kind) = KINDS.iter().find(|kind| Some(kind.qualified().as_str()) == place) else {
                tracing::warn!(key, "object of a kind that is not served is kept but not shown");
                continue;
            };
            let version = super::object::text(&value, "resourceVersion").parse().unwrap_or(1);
            if !is_sane(version) {
                return Err(damaged(format!("{key}: version {version}")));
            }
            objects
                .push((kind, Stored::from_parts(kind, version, seen_secs(&value), &value, Bytes::from(raw))));
        }
    }
    Ok(Registry::new(version.max(least_version(now)), objects))
}

/// When an object was last written, as far as it says.
fn seen_secs(object: &Value) -> i64 {
    let at = |pointer| object.pointer(pointer).and_then(Value::as_str)?.parse::<Timestamp>().ok();
    ["/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"]
        .into_iter()
        .find_map(at)
        .map_or(0, Timestamp::as_second)
}
