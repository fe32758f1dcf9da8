//! The program and its disk: which build runs here, and will the disk fill up?

use std::path::Path;

use metrics::{Gauge, Unit, describe_gauge, gauge};
use nix::sys::statvfs::statvfs;

const BUILD: &str = "kubeedge_build_info";
const FREE: &str = "kubeedge_disk_free_bytes";
const SIZE: &str = "kubeedge_disk_size_bytes";

/// The commit this program was built from, where the build says so (`KUBEEDGE_GIT`).
const GIT: Option<&str> = option_env!("KUBEEDGE_GIT");

/// Shows which program this is: a gauge that is always 1.
pub fn show_build(program: &'static str) {
    describe_gauge!(BUILD, "Always 1; the labels say which program and build this is");
    let labels =
        [("program", program), ("version", env!("CARGO_PKG_VERSION")), ("git", GIT.unwrap_or("unknown"))];
    gauge!(BUILD, &labels).set(1.0);
}

/// The file system below `dataDir`.
#[derive(Clone)]
pub struct DiskMetrics {
    free: Gauge,
    size: Gauge,
}

impl DiskMetrics {
    /// Registers and describes the handles.
    #[must_use]
    pub fn new() -> Self {
        describe_gauge!(
            FREE,
            Unit::Bytes,
            "Room on the file system of a folder that this program may still fill"
        );
        describe_gauge!(SIZE, Unit::Bytes, "Size of the file system of a folder");
        Self { free: gauge!(FREE, "folder" => "data"), size: gauge!(SIZE, "folder" => "data") }
    }

    /// Looks at the file system of `folder`; leaves the figures as they are when it cannot. A disk
    /// that hangs blocks the caller: not on an arbiter.
    pub fn look(&self, folder: &Path) {
        match statvfs(folder) {
            Ok(room) => {
                let unit = room.fragment_size();
                self.free.set(room.blocks_available().saturating_mul(unit) as f64);
                self.size.set(room.blocks().saturating_mul(unit) as f64);
            }
            Err(err) => {
                tracing::debug!(folder = %folder.display(), error = %err, "the disk cannot be looked at")
            }
        }
    }
}

impl Default for DiskMetrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::exporter::Exporter;

    #[test]
    fn the_disk_is_shown_and_a_missing_folder_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let ((), exporter) = Exporter::record(|| {
            show_build("edgecore");
            let disk = DiskMetrics::new();
            disk.look(dir.path());
            disk.look(Path::new("/does/not/exist"));
        });
        let text = exporter.render();
        let value = |name: &str| {
            let line = text.lines().find(|line| line.starts_with(&format!("{name}{{folder=\"data\"}}")));
            line.and_then(|line| line.split(' ').next_back()?.parse::<f64>().ok()).unwrap()
        };
        assert!(value(SIZE) > 0.0 && value(FREE) <= value(SIZE), "{text}");
        assert!(text.contains("program=\"edgecore\"") && text.contains("git=\""), "{text}");
    }
}
