//! What of a store's files is damage: said by name, and nothing is repaired or removed then.

use std::io;
use std::path::Path;

use rocksdb::ErrorKind;

use super::log_check::{self, Logs};
use crate::store::StoreError;

/// Is there no store yet? A creation that was cut short counts as none: it holds no data file.
pub(super) fn is_fresh(path: &Path) -> Result<bool, StoreError> {
    let io = |err| io_failure("list", path, &err);
    if path.join("CURRENT").exists() {
        return Ok(false);
    }
    let is_ours =
        |name: &str| name.ends_with(".sst") || name.ends_with(".log") || name.starts_with("OPTIONS-");
    if has_file(path, is_ours).map_err(io)? {
        return Err(damaged(path, "its CURRENT file is missing"));
    }
    Ok(true)
}

/// RocksDB says nothing of what it leaves out of a log.
pub(super) fn check_logs(path: &Path, forgives_rot: bool) -> Result<Logs, StoreError> {
    let io = |err| io_failure("read the log of", path, &err);
    let logs = log_check::check(path).map_err(io)?;
    if logs.files == 0 && has_file(path, |name| name.starts_with("OPTIONS-")).map_err(io)? {
        // That file is written after the first log.
        return Err(damaged(path, "its log is gone"));
    }
    match &logs.broken {
        Some(broken) if forgives_rot => {
            tracing::error!(
                path = %path.display(), %broken,
                "the disk has lost something that was written: what follows it is left out, the cloud sends its part again"
            );
        }
        Some(broken) => return Err(damaged(path, &broken.to_string())),
        None => {}
    }
    Ok(logs)
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

fn has_file(path: &Path, is_meant: impl Fn(&str) -> bool) -> io::Result<bool> {
    for entry in std::fs::read_dir(path)? {
        if is_meant(&entry?.file_name().to_string_lossy()) {
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
