//! L2: what must survive. Bytes in, bytes out; durability is part of the contract.

mod committer;
#[cfg(test)]
mod conformance;
mod memory;
mod outbox;
mod reserve;
mod rocks;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use committer::{Committer, CommitterGuard, CommitterSettings};
pub use memory::{Faults, MemoryStore};
pub use outbox::Outbox;
pub use rocks::{RocksStore, Tuning};

/// One table per durability and compaction policy, never one per module (design section 3).
/// Owners share a table by key prefix, e.g. `meta/`, `token/`, `edged/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    /// Kubernetes objects and module state: point reads, overwritten in place.
    Objects,
    /// Queues in arrival order: written once, deleted soon.
    Outbox,
    /// Few small rows about this store itself and this node.
    Local,
}

/// Writes that become durable together or not at all.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    ops: Vec<Op>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Put { table: Table, key: Vec<u8>, value: Vec<u8> },
    Delete { table: Table, key: Vec<u8> },
}

impl Batch {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[must_use]
    pub fn put(mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Self {
        self.ops.push(Op::Put { table, key: key.into(), value: value.into() });
        self
    }

    #[must_use]
    pub fn delete(mut self, table: Table, key: impl Into<Vec<u8>>) -> Self {
        self.ops.push(Op::Delete { table, key: key.into() });
        self
    }

    /// Bytes of keys and values.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let bytes = |op: &Op| match op {
            Op::Put { key, value, .. } => key.len() + value.len(),
            Op::Delete { key, .. } => key.len(),
        };
        self.ops.iter().map(bytes).sum()
    }

    /// Adds the writes of `other` after these.
    pub fn append(&mut self, other: Self) {
        self.ops.extend(other.ops);
    }

    #[must_use]
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Ordered tables. Implementations: RocksDB, and memory with faults for tests; both pass the
/// conformance suite.
pub trait Store: Send + Sync + 'static {
    /// # Errors
    /// [`StoreError`] when the engine refuses. Reads are short; arbiters may call them.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// Rows whose key starts with `prefix`, in key order, strictly after the key `after`, at most
    /// `limit`.
    ///
    /// # Errors
    /// [`StoreError`] when the engine refuses.
    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError>;

    /// Writes all batches in order as one and returns once the write-ahead log is on disk.
    /// Blocks: only the committer's thread calls it.
    ///
    /// # Errors
    /// [`StoreError`]; then none of it is durable.
    fn write(&self, batches: &[Batch]) -> Result<(), StoreError>;

    /// Bytes on disk, approximate.
    fn size_bytes(&self) -> u64;

    /// Removes from the disk what was overwritten or deleted in a table: rows that held a secret in
    /// plain. Blocks for as long as rewriting the table takes.
    ///
    /// # Errors
    /// [`StoreError`] when the engine refuses; old values may then still be in its files.
    fn scrub(&self, _table: Table) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Rows read in one go.
const PAGE: usize = 500;

/// Hands all rows whose key starts with `prefix` to `page`, in key order, a page at a time.
///
/// # Errors
/// [`StoreError`] when the engine refuses; the pages before were handed over.
pub fn scan_all(
    store: &dyn Store,
    table: Table,
    prefix: &str,
    mut page: impl FnMut(Vec<Row>),
) -> Result<(), StoreError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let rows = store.scan(table, prefix.as_bytes(), after.as_deref(), PAGE)?;
        after = rows.last().filter(|_| rows.len() == PAGE).map(|(key, _)| key.clone());
        page(rows);
        if after.is_none() {
            return Ok(());
        }
    }
}

/// Pause between two looks at a store whose last write failed.
pub const PROBE_EVERY: Duration = Duration::from_secs(5);

/// Writes a row of no meaning: is the store well again, although nobody has anything to write?
///
/// # Errors
/// What the engine says.
pub fn probe(store: &dyn Store) -> Result<(), StoreError> {
    store.write(&[Batch::new().put(Table::Local, "store/probe", "")])
}

/// What went wrong with the store. Cloneable because one failed commit answers many waiters.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {op} {}: {why}", path.display())]
    Io { op: &'static str, path: PathBuf, why: Arc<str> },
    /// The store was written by a newer program.
    #[error("{} has schema {found}, this program knows up to {known}: install a newer version or restore a backup", path.display())]
    NewerSchema { path: PathBuf, found: u32, known: u32 },
    /// The files are damaged. Nothing was changed.
    #[error("{} is damaged ({why}); nothing was changed. Move the folder away and restart: an edge fetches its objects from the cloud again, a cloud needs its backup", path.display())]
    Damaged { path: PathBuf, why: Arc<str> },
    /// The commit queue is full: the disk is slower than the writers.
    #[error("the commit queue is full")]
    Busy,
    /// The committer has ended.
    #[error("the store is closed")]
    Closed,
}
