//! Disks of their own that fill up or fail, gone with the test. Needs root.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

fn run(program: &str, args: &[&str]) {
    let out = Command::new(program).args(args).output().unwrap_or_else(|err| panic!("{program}: {err}"));
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A small disk.
pub struct Disk(PathBuf);

impl Disk {
    pub fn new(path: &Path, megabytes: u32) -> Self {
        fs::create_dir_all(path).unwrap();
        let size = format!("size={megabytes}m");
        run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", path.to_str().unwrap()]);
        Self(path.to_owned())
    }

    pub fn fill(&self) {
        let block = vec![0_u8; 4096];
        let mut file = fs::File::create(self.0.join("ballast")).unwrap();
        while file.write_all(&block).is_ok() {}
    }

    pub fn make_room(&self) {
        fs::remove_file(self.0.join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// A disk whose blocks fail: a file system that believes in 64 MB, on a loop device whose file finds
/// no room for them. What is written seems written; the sync says that it is not.
pub struct FailingDisk {
    path: PathBuf,
    device: String,
    below: Disk,
}

impl FailingDisk {
    /// Mounts it at `path`. `megabytes` can really be written; what carries it is at `below`.
    pub fn new(path: &Path, below: &Path, megabytes: u32) -> Self {
        let below_disk = Disk::new(below, megabytes);
        let image = below.join("image");
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        // No journal: a file system that aborts it would want a new mount.
        run("mkfs.ext4", &["-q", "-O", "^has_journal", "-E", "nodiscard", image.to_str().unwrap()]);
        let out = Command::new("losetup").args(["--find", "--show"]).arg(&image).output().unwrap();
        assert!(out.status.success(), "losetup: {}", String::from_utf8_lossy(&out.stderr));
        let device = String::from_utf8(out.stdout).unwrap().trim().to_owned();
        fs::create_dir_all(path).unwrap();
        run("mount", &["-o", "errors=continue", &device, path.to_str().unwrap()]);
        Self { path: path.to_owned(), device, below: below_disk }
    }

    pub fn fail(&self) {
        self.below.fill();
    }

    pub fn mend(&self) {
        self.below.make_room();
    }
}

impl Drop for FailingDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.path).status());
        drop(Command::new("losetup").args(["--detach", &self.device]).status());
    }
}
