//! A clock that can be set while programs run under it, without touching this machine's: libfaketime.

use std::fs;
use std::path::{Path, PathBuf};

/// What the programs that are started with [`FakedClock::env`] take for the time of day. Their
/// monotonic clock goes on as it does for programs on a machine whose clock is set.
pub struct FakedClock {
    file: PathBuf,
    library: PathBuf,
}

impl FakedClock {
    /// Right at first.
    pub fn new(dir: &Path) -> Self {
        let folders = fs::read_dir("/usr/lib").unwrap().flatten();
        let library = folders
            .map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"))
            .find(|library| library.exists())
            .expect("libfaketime (deploy/tools.sh test installs it)");
        let clock = Self { file: dir.join("clock"), library };
        clock.set(0);
        clock
    }

    /// Sets it to so many seconds beside the true time. Seen within a second.
    pub fn set(&self, beside_secs: i64) {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{beside_secs:+}\n")).unwrap();
        fs::rename(new, &self.file).unwrap();
    }

    pub fn env(&self) -> Vec<(&'static str, PathBuf)> {
        vec![
            ("LD_PRELOAD", self.library.clone()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.clone()),
            ("FAKETIME_CACHE_DURATION", "1".into()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
            ("NO_FAKE_STAT", "1".into()),
        ]
    }
}
