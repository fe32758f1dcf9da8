//! [`Store`] in memory, with faults on demand: for tests and simulated edges.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::PathBuf;
use std::time::Duration;

use parking_lot::Mutex;

use super::rocks::scan_start;
use super::{Batch, Op, Row, Store, StoreError, Table};

/// What goes wrong next. Default: nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// So many of the next writes fail, leaving nothing behind.
    pub fail_writes: u32,
    /// What fails is there all the same: as rows in a log whose sync failed.
    pub keep_failed: bool,
    /// Every read fails while set.
    pub fail_reads: bool,
    /// Every write takes this long.
    pub write_delay: Duration,
}

#[derive(Default)]
struct State {
    tables: BTreeMap<Table, BTreeMap<Vec<u8>, Vec<u8>>>,
    faults: Faults,
    writes: u64,
}

/// Keeps everything in memory. Rows live as long as the value: reopening is cloning an `Arc`.
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

impl MemoryStore {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the faults to come.
    pub fn set_faults(&self, faults: Faults) {
        self.state.lock().faults = faults;
    }

    /// Successful [`Store::write`] calls so far: shows how well commits were grouped.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.state.lock().writes
    }
}

fn injected(op: &'static str) -> StoreError {
    StoreError::Io { op, path: PathBuf::from("memory"), why: "injected fault".into() }
}

impl Store for MemoryStore {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let state = self.state.lock();
        if state.faults.fail_reads {
            return Err(injected("read"));
        }
        Ok(state.tables.get(&table).and_then(|rows| rows.get(key)).cloned())
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let state = self.state.lock();
        if state.faults.fail_reads {
            return Err(injected("read"));
        }
        let Some(rows) = state.tables.get(&table) else { return Ok(Vec::new()) };
        let from = (Bound::Included(scan_start(prefix, after)), Bound::Unbounded);
        let found = rows.range(from).take_while(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn write(&self, batches: &[Batch]) -> Result<(), StoreError> {
        let delay = self.state.lock().faults.write_delay;
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let mut state = self.state.lock();
        let fails = state.faults.fail_writes > 0;
        state.faults.fail_writes = state.faults.fail_writes.saturating_sub(1);
        if fails && !state.faults.keep_failed {
            return Err(injected("write"));
        }
        for op in batches.iter().flat_map(Batch::ops) {
            match op {
                Op::Put { table, key, value } => {
                    state.tables.entry(*table).or_default().insert(key.clone(), value.clone());
                }
                Op::Delete { table, key } => {
                    state.tables.entry(*table).or_default().remove(key);
                }
            }
        }
        if fails {
            return Err(injected("sync"));
        }
        state.writes += 1;
        Ok(())
    }

    fn size_bytes(&self) -> u64 {
        let state = self.state.lock();
        let rows = state.tables.values().flatten();
        rows.map(|(key, value)| (key.len() + value.len()) as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::conformance;

    #[test]
    fn conforms() {
        conformance::check(|_| Arc::new(MemoryStore::new()));
    }

    #[test]
    fn faults_leave_nothing_behind() {
        let store = MemoryStore::new();
        store.set_faults(Faults { fail_writes: 1, ..Faults::default() });
        let batch = [Batch::new().put(Table::Local, "a", "1")];
        assert!(store.write(&batch).is_err());
        assert_eq!(store.get(Table::Local, b"a").unwrap(), None);
        store.write(&batch).unwrap();
        store.set_faults(Faults { fail_reads: true, ..Faults::default() });
        assert!(store.get(Table::Local, b"a").is_err());
        assert!(store.scan(Table::Local, b"", None, 1).is_err());
    }
}
