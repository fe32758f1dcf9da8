//! RocksDB behind [`Store`]: three column families, synced writes, few megabytes.

mod damage;
mod log_check;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::statvfs::statvfs;
use parking_lot::{Mutex, RwLock};
use rocksdb::{
    BlockBasedOptions, BottommostLevelCompaction, Cache, ColumnFamily, ColumnFamilyDescriptor,
    CompactOptions, DB, DBCompressionType, Direction, FlushOptions, IteratorMode, Options, ReadOptions,
    WriteBatch, WriteOptions,
};

use self::damage::{damaged, failure, io_failure, is_finished, is_fresh};
use super::reserve::Reserve;
use super::{Batch, Op, Row, Store, StoreError, Table};
use crate::telemetry::store::StoreMetrics;

/// Layout version of the rows. Raised when an older program must not touch them.
pub const SCHEMA: u32 = 1;

const SCHEMA_KEY: &[u8] = b"store/schema";
/// Between two tries to open the database again.
const REOPEN_AFTER: Duration = Duration::from_secs(1);
/// Room on the disk below which opening it again would only fail.
const REOPEN_BYTES: u64 = 2 << 20;
/// Every store has them all: one more needs a step that makes it in the stores there are.
const TABLES: [Table; 3] = [Table::Objects, Table::Outbox, Table::Local];

/// How much memory and disk one store may take, and what it does on a bad disk. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    /// Memtable of one table before it is flushed.
    pub write_buffer_bytes: usize,
    /// All memtables together.
    pub total_write_buffer_bytes: usize,
    /// Write-ahead logs together; an idle table pins old logs until this is reached.
    pub total_wal_bytes: u64,
    /// Shared cache of blocks, indexes and filters.
    pub cache_bytes: usize,
    /// Flushes and compactions at once.
    pub background_jobs: i32,
    /// File descriptors held open for tables.
    pub open_files: i32,
    /// Does it go on without what follows a rotten record of its log, where RocksDB can, and say so? An edge does: nobody
    /// is there to help, and the cloud sends its part again. A cloud is the only one who knows.
    pub forgives_rot: bool,
}

impl Tuning {
    /// A few megabytes: 200,000 rows of 1 KB cost 9 MB of resident memory instead of 85 MB with
    /// RocksDB's own defaults, and a synced write does not pay for a 70 MB log preallocation. Half a megabyte of
    /// blocks: the kernel has the files in memory anyway, and a larger cache is full of blocks of files that are gone.
    #[must_use]
    pub fn edge() -> Self {
        Self {
            write_buffer_bytes: 1 << 20,
            total_write_buffer_bytes: 4 << 20,
            total_wal_bytes: 8 << 20,
            cache_bytes: 512 << 10,
            background_jobs: 2,
            open_files: 64,
            forgives_rot: true,
        }
    }

    /// For the embedded API server: every object of a cluster of edges. It has them in memory and reads rows only when it
    /// starts: what a larger cache keeps is never asked for again.
    #[must_use]
    pub fn cloud() -> Self {
        Self {
            write_buffer_bytes: 2 << 20,
            total_write_buffer_bytes: 8 << 20,
            total_wal_bytes: 16 << 20,
            cache_bytes: 1 << 20,
            background_jobs: 2,
            open_files: 256,
            forgives_rot: false,
        }
    }

    /// What a memtable grows by: so large that the allocator maps each block (`src/app/arenas.rs`) and gives it back
    /// after a flush. Smaller ones leave holes in its heap, in which objects settle that stay.
    fn memtable_block_bytes(&self) -> usize {
        (self.write_buffer_bytes / 8).max(128 << 10)
    }
}

/// The store on disk.
///
/// After a power cut the log is replayed up to its first torn record (RocksDB's point-in-time
/// recovery): everything a synced write has answered is before that record. A record that rotted on the
/// disk mostly has others behind it, and is found before (`rocks/log_check.rs`).
///
/// RocksDB refuses every write after one failed (a full disk) until it is opened again: the next
/// write does that, once the disk has room.
pub struct RocksStore {
    /// `None` only after opening it again failed.
    db: RwLock<Option<DB>>,
    /// When a write failed and the database was not opened again since.
    failed: Mutex<Option<Instant>>,
    path: PathBuf,
    tuning: Tuning,
    metrics: StoreMetrics,
}

impl RocksStore {
    /// Opens the store in the folder `path`, creating it (mode 0700) when there is nothing.
    ///
    /// # Errors
    /// [`StoreError::NewerSchema`]; [`StoreError::Damaged`] when files are missing or do not check
    /// out, nothing is repaired or removed then; [`StoreError::Io`] for permissions, a full disk or
    /// a folder that another process has open.
    pub fn open(path: &Path, tuning: Tuning) -> Result<Self, StoreError> {
        private_folder(path)?;
        let db = RwLock::new(Some(open_somehow(path, tuning, is_fresh(path)?)?));
        let metrics = StoreMetrics::none();
        let store = Self { db, failed: Mutex::new(None), path: path.to_owned(), tuning, metrics };
        store.check_schema()?;
        private_files(path)?;
        Ok(store)
    }

    /// Counts what it does from now on.
    #[must_use]
    pub fn measured(mut self, metrics: StoreMetrics) -> Self {
        self.metrics = metrics;
        self
    }

    fn check_schema(&self) -> Result<(), StoreError> {
        let Some(row) = self.get(Table::Local, SCHEMA_KEY)? else {
            for table in TABLES {
                if !self.scan(table, b"", None, 1)?.is_empty() {
                    return Err(self.damaged("it has rows but no schema row"));
                }
            }
            let schema = Batch::new().put(Table::Local, SCHEMA_KEY, SCHEMA.to_string());
            return self.write(&[schema]);
        };
        let found = std::str::from_utf8(&row).ok().and_then(|text| text.parse::<u32>().ok());
        match found {
            Some(SCHEMA) => Ok(()),
            Some(found) if found > SCHEMA => {
                Err(StoreError::NewerSchema { path: self.path.clone(), found, known: SCHEMA })
            }
            _ => Err(self.damaged("its schema row is not a known version")),
        }
    }

    fn damaged(&self, why: &str) -> StoreError {
        damaged(&self.path, why)
    }

    fn handle<'a>(&self, db: &'a DB, table: Table) -> Result<&'a ColumnFamily, StoreError> {
        db.cf_handle(family(table)).ok_or_else(|| self.damaged("a column family is missing"))
    }

    fn default_family<'a>(&self, db: &'a DB) -> Result<&'a ColumnFamily, StoreError> {
        db.cf_handle("default").ok_or_else(|| self.damaged("a column family is missing"))
    }

    /// Does `work` on the open database.
    fn with<T>(
        &self,
        op: &'static str,
        work: impl FnOnce(&DB) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &*self.db.read() {
            Some(db) => work(db),
            None => {
                let why = Arc::from("it could not be opened again after a write had failed");
                Err(StoreError::Io { op, path: self.path.clone(), why })
            }
        }
    }

    /// After a failed write: opens the database again, at most once a second and not before the
    /// disk has room for its logs. Until then reads go on with the old one.
    fn recover(&self) -> Result<(), StoreError> {
        let mut failed = self.failed.lock();
        let Some(since) = *failed else { return Ok(()) };
        let full = |why: String| StoreError::Io { op: "write", path: self.path.clone(), why: why.into() };
        if since.elapsed() < REOPEN_AFTER {
            return Err(full("the last write failed a moment ago".to_owned()));
        }
        let room = statvfs(&self.path).map_err(|err| full(err.to_string()))?;
        let free = room.blocks_available().saturating_mul(room.fragment_size());
        if free < REOPEN_BYTES {
            return Err(full(format!("No space left on device: {free} bytes are free")));
        }
        *failed = Some(Instant::now());
        // Closing writes a missing CURRENT anew: what else went with it would pass unnoticed.
        if is_fresh(&self.path)? {
            return Err(self.damaged("its files are gone"));
        }
        let mut db = self.db.write();
        // The folder's lock must be free before it can be opened again.
        *db = None;
        *db = Some(open_somehow(&self.path, self.tuning, false)?);
        *failed = None;
        tracing::info!(path = %self.path.display(), "the store was opened again after a failed write");
        Ok(())
    }
}

/// Opens it, on a full disk with the room that was kept for that.
fn open_somehow(path: &Path, tuning: Tuning, fresh: bool) -> Result<DB, StoreError> {
    let reserve = Reserve::of(path, tuning.total_wal_bytes);
    let db = match open(path, tuning, fresh) {
        Err(StoreError::Io { why, .. }) if why.contains("No space left") && reserve.release() => {
            tracing::warn!(path = %path.display(), "the disk is full: the store is opened in the room kept for that");
            open(path, tuning, fresh)?
        }
        opened => opened?,
    };
    reserve.make();
    Ok(db)
}

/// `fresh`: there is nothing yet and a database is to be made. Never for one that was open: whoever
/// holds its rows in memory would go on with an empty disk.
fn open(path: &Path, tuning: Tuning, fresh: bool) -> Result<DB, StoreError> {
    let shared = Shared::new(tuning);
    let mut options = shared.database(tuning);
    // A store whose CURRENT file is gone must not be taken for an empty one: RocksDB would
    // create a new one over it and purge the rest.
    options.create_if_missing(fresh);
    options.create_missing_column_families(true);

    let mut names: Vec<String> = TABLES.iter().map(|table| family(*table).to_owned()).collect();
    let mut rot = None;
    if !fresh {
        rot = damage::of_logs(path)?;
        if let (Some(why), false) = (&rot, tuning.forgives_rot) {
            return Err(damaged(path, why));
        }
        // Families of a newer program must be opened too before its schema row can be read.
        let listed = DB::list_cf(&options, path).map_err(|err| failure("open", path, &err))?;
        if !names.iter().all(|name| listed.contains(name)) && is_finished(path)? {
            return Err(damaged(path, "its manifest has lost a table"));
        }
        names.extend(listed.into_iter().filter(|name| name != "default" && !is_ours(name)));
    }
    let families = names.into_iter().map(|name| {
        let options = shared.family(&name, tuning);
        ColumnFamilyDescriptor::new(name, options)
    });
    let db = DB::open_cf_descriptors(&options, path, families).map_err(|err| failure("open", path, &err))?;
    if let Some(why) = rot {
        tracing::error!(
            path = %path.display(), %why,
            "the disk has lost something that was written: what followed it is left out, the cloud sends its part again"
        );
    }
    Ok(db)
}

impl Store for RocksStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.metrics.counted(self.with("read", |db| {
            db.get_cf(self.handle(db, table)?, key).map_err(|err| failure("read", &self.path, &err))
        }))
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let mut options = ReadOptions::default();
        if let Some(end) = prefix_end(prefix) {
            options.set_iterate_upper_bound(end);
        }
        let start = scan_start(prefix, after);
        let mode = IteratorMode::From(&start, Direction::Forward);
        self.metrics.counted(self.with("read", |db| {
            let mut rows = Vec::new();
            for row in db.iterator_cf_opt(self.handle(db, table)?, options, mode).take(limit) {
                let (key, value) = row.map_err(|err| failure("read", &self.path, &err))?;
                rows.push((key.into_vec(), value.into_vec()));
            }
            Ok(rows)
        }))
    }

    fn write(&self, batches: &[Batch]) -> Result<(), StoreError> {
        let begun = Instant::now();
        self.metrics.counted(self.recover())?;
        let written = self.with("write", |db| {
            let mut all = WriteBatch::default();
            for op in batches.iter().flat_map(Batch::ops) {
                match op {
                    Op::Put { table, key, value } => all.put_cf(self.handle(db, *table)?, key, value),
                    Op::Delete { table, key } => all.delete_cf(self.handle(db, *table)?, key),
                }
            }
            let mut synced = WriteOptions::default();
            synced.set_sync(true);
            db.write_opt(all, &synced).map_err(|err| failure("write", &self.path, &err))
        });
        if written.is_err() {
            *self.failed.lock() = Some(Instant::now());
        }
        self.metrics.wrote(begun.elapsed());
        self.metrics.counted(written)
    }

    fn size_bytes(&self) -> u64 {
        let Ok(entries) = std::fs::read_dir(&self.path) else { return 0 };
        entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum()
    }

    /// Flushes every family, so that the logs go, and rewrites the table down to its lowest level.
    fn scrub(&self, table: Table) -> Result<(), StoreError> {
        let fail = |err: &rocksdb::Error| failure("scrub", &self.path, err);
        self.with("scrub", |db| {
            let mut options = CompactOptions::default();
            options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
            let mut families = vec![self.default_family(db)?];
            for table in TABLES {
                families.push(self.handle(db, table)?);
            }
            db.flush_cfs_opt(&families, &FlushOptions::default()).map_err(|err| fail(&err))?;
            db.compact_range_cf_opt(self.handle(db, table)?, None::<&[u8]>, None::<&[u8]>, &options);
            // What the first flush replaced is removed with the second.
            db.flush_cfs_opt(&families, &FlushOptions::default()).map_err(|err| fail(&err))
        })
    }
}

/// First key after every key that starts with `prefix`; `None` when there is no such key.
pub(super) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

/// First key a scan may return: the prefix itself or the successor of `after`.
pub(super) fn scan_start(prefix: &[u8], after: Option<&[u8]>) -> Vec<u8> {
    let mut start = prefix.to_vec();
    if let Some(after) = after.filter(|after| *after >= prefix) {
        start = after.to_vec();
        start.push(0);
    }
    start
}

/// What all families share: one block cache.
struct Shared {
    blocks: BlockBasedOptions,
}

impl Shared {
    fn new(tuning: Tuning) -> Self {
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&Cache::new_lru_cache(tuning.cache_bytes));
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_block_size(4 << 10);
        blocks.set_bloom_filter(10.0, false);
        Self { blocks }
    }

    fn database(&self, tuning: Tuning) -> Options {
        let mut options = self.family("default", tuning);
        options.set_db_write_buffer_size(tuning.total_write_buffer_bytes);
        options.set_max_total_wal_size(tuning.total_wal_bytes);
        options.set_max_background_jobs(tuning.background_jobs);
        options.set_max_open_files(tuning.open_files);
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_keep_log_file_num(2);
        options.set_max_log_file_size(1 << 20);
        options
    }

    fn family(&self, name: &str, tuning: Tuning) -> Options {
        let mut options = Options::default();
        options.set_write_buffer_size(tuning.write_buffer_bytes);
        options.set_max_write_buffer_number(2);
        options.set_arena_block_size(tuning.memtable_block_bytes());
        options.set_target_file_size_base(4 << 20);
        options.set_max_bytes_for_level_base(16 << 20);
        options.set_compression_type(DBCompressionType::Lz4);
        options.set_block_based_table_factory(&self.blocks);
        if name == family(Table::Outbox) {
            // A drained queue is all tombstones: compact files where deletes crowd, so that the
            // scan for its oldest row stays short.
            options.add_compact_on_deletion_collector_factory(1000, 500, 0.5);
        }
        options
    }
}

fn family(table: Table) -> &'static str {
    match table {
        Table::Objects => "objects",
        Table::Outbox => "outbox",
        Table::Local => "local",
    }
}

fn is_ours(name: &str) -> bool {
    TABLES.iter().any(|table| family(*table) == name)
}

fn private_folder(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let io = |op, err| io_failure(op, path, &err);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|err| io("create", err))?;
    let mode = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(path, mode).map_err(|err| io("set the mode of", err))
}

/// Closes files that an older version, or a program with a wide umask, left open to others. The
/// engine gives new files what the umask leaves of 0644.
fn private_files(path: &Path) -> Result<(), StoreError> {
    use std::os::unix::fs::PermissionsExt;
    let io = |err| io_failure("close", path, &err);
    for entry in std::fs::read_dir(path).map_err(io)? {
        let entry = entry.map_err(io)?;
        // The engine removes files of its own meanwhile.
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_file() && meta.permissions().mode() & 0o077 != 0 {
            match std::fs::set_permissions(entry.path(), std::fs::Permissions::from_mode(0o600)) {
                Err(err) if err.kind() != std::io::ErrorKind::NotFound => return Err(io(err)),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
