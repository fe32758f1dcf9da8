//! What of a store's files is damage: said by name, and nothing is repaired or removed then.

use std::io;
use std::path::Path;

use rocksdb::ErrorKind;

use super::log_check;
use crate::store::StoreError;

/// Is there no store yet? A creation that was cut short counts as none: it holds no data file.
pub(super) fn is_fresh(path: &Path) -> Result<bool, StoreError> {
    if path.join("CURRENT").exists() {
        return Ok(false);
    }
    let holds_data = |name: &str| name.ends_with(".sst") || name.ends_with(".log");
    if is_finished(path)? || has_file(path, holds_data)? {
        return Err(damaged(path, "its CURRENT file is missing"));
    }
    Ok(true)
}

/// Is something wrong with its logs, of which RocksDB would say nothing?
pub(super) fn of_logs(path: &Path) -> Result<Option<String>, StoreError> {
    let logs = log_check::check(path).map_err(|err| io_failure("read the log of", path, &err))?;
    // A finished store has a log, if an empty one.
    if logs.files == 0 && is_finished(path)? {
        return Ok(Some("its log is gone".to_owned()));
    }
    Ok(logs.broken.map(|broken| broken.to_string()))
}

/// Was the creation of the store finished, all its tables made? RocksDB writes its options last.
pub(super) fn is_finished(path: &Path) -> Result<bool, StoreError> {
    has_file(path, |name| name.starts_with("OPTIONS-") && !name.ends_with(".dbtmp"))
}

/// Sorts the engine's refusals into damage and everything else.
pub(super) fn failure(op: &'static str, path: &Path, err: &rocksdb::Error) -> StoreError {
    let why = err.to_string();
    let missing_file = op == "open" && why.contains("No such file or directory");
    let is_damage = match err.kind() {
        ErrorKind::Corruption => true,
        // How an unreadable CURRENT or a table file that is gone shows.
        ErrorKind::IOError | ErrorKind::NotFound | ErrorKind::InvalidArgument => {
            missing_file || why.contains("CURRENT")
        }
        _ => false,
    };
    if is_damage {
        return damaged(path, &why);
    }
    if op == "open" && why.contains("lock") {
        let why = format!("another process has it open ({why})").into();
        return StoreError::Io { op, path: path.to_owned(), why };
    }
    StoreError::Io { op, path: path.to_owned(), why: why.into() }
}

fn has_file(path: &Path, is_meant: impl Fn(&str) -> bool) -> Result<bool, StoreError> {
    let io = |err| io_failure("list", path, &err);
    for entry in std::fs::read_dir(path).map_err(io)? {
        if is_meant(&entry.map_err(io)?.file_name().to_string_lossy()) {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn damaged(path: &Path, why: &str) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), why: why.into() }
}

pub(super) fn io_failure(op: &'static str, path: &Path, err: &io::Error) -> StoreError {
    StoreError::Io { op, path: path.to_owned(), why: err.to_string().into() }
}
