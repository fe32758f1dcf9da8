//! Puts prepared volumes on disk and takes them away again. Blocking; see `volumes_worker`.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::mounts::volume_plugin;
use super::{HostPathCheck, PodVolumes, Volume, VolumeError, VolumeMaterial, Why, payload};
use crate::actors::edge::edged::host::HostContext;
use crate::actors::edge::edged::names::PodRef;

/// Pod folders are closed to everyone but root: what is in them reaches containers as mounts.
const POD_DIR_MODE: u32 = 0o750;

/// Makes or updates every volume of the pod. Safe to repeat; true when a file changed.
///
/// # Errors
/// [`VolumeError::Setup`] naming the volume, or [`VolumeError::Io`] for the pod's own folder.
pub fn apply(at: &PodRef, host: &HostContext, volumes: &PodVolumes) -> Result<bool, VolumeError> {
    at.check()?;
    let dir = at.dir(host);
    create_dirs(&dir, POD_DIR_MODE).map_err(|err| io_error("create", &dir, &err))?;
    let mut changed = false;
    for volume in &volumes.volumes {
        changed |= apply_one(at, host, volume, volumes.fs_group)
            .map_err(|why| VolumeError::Setup { volume: volume.name.clone(), why })?;
    }
    Ok(changed)
}

fn apply_one(at: &PodRef, host: &HostContext, volume: &Volume, group: Option<u32>) -> Result<bool, Why> {
    let dir = at.volume_dir(host, volume_plugin(&volume.material), &volume.name);
    match &volume.material {
        VolumeMaterial::HostPath { path, check } => host_path(path, *check).map(|()| false),
        VolumeMaterial::EmptyDir { memory, size_limit_bytes } => {
            let new = !dir.is_dir();
            create_dirs(&dir, POD_DIR_MODE).map_err(|err| disk(&dir, &err))?;
            let mounted = *memory && mount_memory(&dir, *size_limit_bytes)?;
            if new || mounted {
                let mode = if group.is_some() { 0o2777 } else { 0o777 };
                open_to(&dir, mode, group).map_err(|err| disk(&dir, &err))?;
            }
            Ok(false)
        }
        VolumeMaterial::Files { files, memory, .. } => {
            let new = !dir.is_dir();
            create_dirs(&dir, POD_DIR_MODE).map_err(|err| disk(&dir, &err))?;
            let mounted = match *memory && new {
                true => mount_memory(&dir, None).unwrap_or_else(|why| {
                    tracing::warn!(volume = %volume.name, %why, "secrets of a volume are kept on disk");
                    false
                }),
                false => false,
            };
            if new || mounted {
                let mode = if group.is_some() { 0o2755 } else { 0o755 };
                open_to(&dir, mode, group).map_err(|err| disk(&dir, &err))?;
            }
            payload::write(&dir, files, group).map_err(|err| disk(&dir, &err))
        }
    }
}

/// Removes everything of a pod from the disk: bind mounts and memory disks first, then files. Never
/// follows a symbolic link, and removes nothing while something is still mounted below.
///
/// # Errors
/// [`VolumeError::Io`]; repeat it later.
pub fn teardown(at: &PodRef, host: &HostContext) -> Result<(), VolumeError> {
    at.check()?;
    let dir = at.dir(host);
    match fs::symlink_metadata(&dir) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(io_error("look at", &dir, &err)),
        Ok(meta) if !meta.is_dir() => {
            return Err(io_error("remove", &dir, &io::Error::other("not a folder")));
        }
        Ok(_) => {}
    }
    // The kernel's table has resolved paths, so compare with one.
    let real = fs::canonicalize(&dir).map_err(|err| io_error("resolve", &dir, &err))?;
    let below = mounts_below(&real).map_err(|err| io_error("list mounts below", &dir, &err))?;
    for point in below.iter().rev() {
        let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
        umount2(point, flags).map_err(|err| io_error("unmount", point, &io::Error::from(err)))?;
    }
    let left = mounts_below(&real).map_err(|err| io_error("list mounts below", &dir, &err))?;
    if let Some(point) = left.first() {
        return Err(io_error("unmount", point, &io::Error::other("still mounted")));
    }
    fs::remove_dir_all(&dir).map_err(|err| io_error("remove", &dir, &err))
}

/// Removes the pod's log folder.
///
/// # Errors
/// [`VolumeError::Io`].
pub fn remove_logs(at: &PodRef, host: &HostContext) -> Result<(), VolumeError> {
    at.check()?;
    let dir = at.log_dir(host);
    match fs::remove_dir_all(&dir) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &dir, &err)),
        _ => Ok(()),
    }
}

/// Mount points strictly below `dir`, in the order they were mounted.
pub(super) fn mounts_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read("/proc/self/mountinfo")?;
    Ok(mount_points(&table).filter(|point| point.starts_with(dir) && point != dir).collect())
}

/// Mount points of a `mountinfo` table: its fifth field, with octal escapes.
fn mount_points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    let lines = table.split(|byte| *byte == b'\n');
    lines.filter_map(|line| {
        let field = line.split(|byte| *byte == b' ').nth(4)?;
        Some(PathBuf::from(std::ffi::OsString::from_vec(unescape(field))))
    })
}

fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let octal =
            after.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match (octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()), after.get(3..)) {
            (Some(byte), Some(tail)) => {
                out.push(byte);
                rest = tail;
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// Mounts a memory disk on `dir` unless one is there; true when it did.
fn mount_memory(dir: &Path, size_bytes: Option<i64>) -> Result<bool, Why> {
    if is_mount_point(dir).map_err(|err| disk(dir, &err))? {
        return Ok(false);
    }
    let options = size_bytes.map(|bytes| format!("size={bytes}"));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), dir, Some("tmpfs"), flags, options.as_deref())
        .map_err(|err| Why::Disk(format!("cannot mount tmpfs on {}: {err}", dir.display())))?;
    Ok(true)
}

/// A folder on another device than its parent.
fn is_mount_point(dir: &Path) -> io::Result<bool> {
    let parent = dir.parent().unwrap_or(dir);
    Ok(fs::symlink_metadata(dir)?.dev() != fs::symlink_metadata(parent)?.dev())
}

fn host_path(path: &Path, check: HostPathCheck) -> Result<(), Why> {
    let wrong = |what| Err(Why::HostPath { path: path.to_owned(), what });
    let found = match fs::metadata(path) {
        Ok(meta) => Some(meta.file_type()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => None,
        Err(err) => return Err(disk(path, &err)),
    };
    match (check, found) {
        (HostPathCheck::Unchecked, _) => Ok(()),
        (HostPathCheck::DirectoryOrCreate, None) => create_open_dirs(path).map_err(|err| disk(path, &err)),
        (HostPathCheck::FileOrCreate, None) => {
            let made = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
            // The umask took bits that users in containers need.
            let opened = made.and_then(|file| file.set_permissions(fs::Permissions::from_mode(0o644)));
            opened.map_err(|err| disk(path, &err))
        }
        (HostPathCheck::Directory | HostPathCheck::DirectoryOrCreate, kind) => {
            if kind.is_some_and(|kind| kind.is_dir()) { Ok(()) } else { wrong("is not a directory") }
        }
        (HostPathCheck::File | HostPathCheck::FileOrCreate, kind) => {
            if kind.is_some_and(|kind| kind.is_file()) { Ok(()) } else { wrong("is not a file") }
        }
        (HostPathCheck::Socket, kind) => {
            if kind.is_some_and(|kind| kind.is_socket()) {
                Ok(())
            } else {
                wrong("is not a socket")
            }
        }
        (HostPathCheck::CharDevice, kind) => {
            if kind.is_some_and(|kind| kind.is_char_device()) {
                Ok(())
            } else {
                wrong("is not a character device")
            }
        }
        (HostPathCheck::BlockDevice, kind) => {
            if kind.is_some_and(|kind| kind.is_block_device()) {
                Ok(())
            } else {
                wrong("is not a block device")
            }
        }
    }
}

pub(super) fn create_dirs(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

/// Makes a folder and those above it that are missing, readable for everybody whatever the umask.
pub fn create_open_dirs(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        create_open_dirs(parent)?;
    }
    match fs::create_dir(path) {
        Ok(()) => fs::set_permissions(path, fs::Permissions::from_mode(0o755)),
        // Somebody else made it meanwhile.
        Err(err) if err.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(err) => Err(err),
    }
}

/// Sets mode and group of a folder that we have just made, whatever the umask.
fn open_to(dir: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    if group.is_some() {
        chown(dir, None, group)?;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

fn disk(path: &Path, err: &io::Error) -> Why {
    Why::Disk(format!("{}: {err}", path.display()))
}

/// `None` when there is no such file.
pub fn open_if_there(path: &Path) -> Result<Option<fs::File>, VolumeError> {
    match fs::File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(io_error("read", path, &err)),
    }
}

pub(super) fn io_error(op: &'static str, path: &Path, err: &io::Error) -> VolumeError {
    VolumeError::Io { op, path: path.to_owned(), why: err.to_string() }
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
