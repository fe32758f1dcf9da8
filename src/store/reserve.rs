//! Room on the disk that a store keeps for the day the disk is full.

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::posix_fallocate;
use nix::sys::statvfs::statvfs;

/// Less is no help.
const LEAST: u64 = 1 << 20;

/// A file beside the store. Opening a store writes its logs into tables before it removes them: on a full disk that
/// fails, and a program that cannot start can make no room either. The file goes first then.
#[derive(Debug)]
pub struct Reserve {
    file: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// For the store in the folder `store`: as much as its logs may take.
    #[must_use]
    pub fn of(store: &Path, bytes: u64) -> Self {
        let mut file = store.as_os_str().to_owned();
        file.push(".reserve");
        Self { file: file.into(), bytes }
    }

    /// Takes the room, but no more than half of what is left.
    pub fn make(&self) {
        if let Err(err) = self.try_make() {
            tracing::debug!(file = %self.file.display(), error = %err, "no room is kept for a full disk");
            self.release();
        }
    }

    /// Gives the room back. Was there any?
    pub fn release(&self) -> bool {
        fs::remove_file(&self.file).is_ok()
    }

    fn try_make(&self) -> io::Result<()> {
        let had = fs::metadata(&self.file).map_or(0, |meta| meta.len());
        let room = statvfs(self.file.parent().unwrap_or(Path::new(".")))?;
        let free = room.blocks_available().saturating_mul(room.fragment_size());
        let bytes = self.bytes.min(free / 2);
        if had >= bytes {
            return Ok(());
        }
        if bytes < LEAST {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let file =
            fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&self.file)?;
        Ok(posix_fallocate(&file, 0, i64::try_from(bytes).unwrap_or(i64::MAX))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_taken_and_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(&dir.path().join("store"), LEAST);
        assert!(!reserve.release(), "there is none yet");
        reserve.make();
        reserve.make();
        assert_eq!(fs::metadata(dir.path().join("store.reserve")).unwrap().len(), LEAST);
        assert!(reserve.release());
        assert!(!dir.path().join("store.reserve").exists());
    }
}
