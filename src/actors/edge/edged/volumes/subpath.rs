//! Binds one path below a volume to a place of ours, so that no symbolic link made by a container
//! can lead the mount out of the volume, not even while we look (CVE-2017-1002101).
//!
//! Links that exist are resolved first and must end inside; then the resolved path is walked with
//! one open per part, none of which may be a link, and the last handle is what gets mounted.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

use super::disk::{create_dirs, mounts_below};

/// Mounts `root/relative` on `place` and returns `place`. Folders that are missing below the root
/// are made. What was mounted there for an earlier run is replaced.
///
/// # Errors
/// When the path leaves the root, passes through a link that appeared meanwhile, or the kernel
/// refuses.
pub(super) fn bind(root: &Path, relative: &str, place: &Path) -> io::Result<PathBuf> {
    let root = fs::canonicalize(root)?;
    let wanted = root.join(relative);
    let real = resolve(&wanted)?;
    let inside = real.strip_prefix(&root).map_err(|_| io::Error::other("the path leaves the volume"))?;
    let handle = walk(&root, inside)?;
    let folder = kind(&handle)? == SFlag::S_IFDIR;
    clear(place)?;
    if folder {
        create_dirs(place, 0o750)?;
    } else {
        if let Some(parent) = place.parent() {
            create_dirs(parent, 0o750)?;
        }
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(place)?;
    }
    let source = format!("/proc/self/fd/{}", handle.as_raw_fd());
    mount(Some(source.as_str()), place, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(place.to_owned())
}

/// Resolves links of the part of a path that exists and appends the rest.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let mut missing = Vec::new();
    let mut there = path.to_owned();
    loop {
        match fs::canonicalize(&there) {
            Ok(real) => return Ok(missing.iter().rev().fold(real, |path, part| path.join(part))),
            Err(err) if err.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(&there).is_err() => {
                let Some(name) = there.file_name().map(ToOwned::to_owned) else { return Err(err) };
                missing.push(name);
                there.pop();
            }
            // A link to nowhere, or no permission.
            Err(err) => return Err(err),
        }
    }
}

/// Opens `root/inside` part by part without following any link, making missing folders.
fn walk(root: &Path, inside: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mut handle = nix::fcntl::open(root, flags, Mode::empty())?;
    refuse_link(&handle)?;
    for part in inside.components() {
        let part = part.as_os_str();
        let next = match openat(&handle, part, flags, Mode::empty()) {
            Err(Errno::ENOENT) => {
                mkdirat(&handle, part, Mode::from_bits_truncate(0o755))?;
                openat(&handle, part, flags, Mode::empty())?
            }
            other => other?,
        };
        refuse_link(&next)?;
        handle = next;
    }
    Ok(handle)
}

fn kind(handle: &OwnedFd) -> io::Result<SFlag> {
    let stat = fstat(handle)?;
    Ok(SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()))
}

fn refuse_link(handle: &OwnedFd) -> io::Result<()> {
    match kind(handle)? {
        SFlag::S_IFLNK => Err(io::Error::other("the path passes through a symbolic link")),
        _ => Ok(()),
    }
}

/// Unmounts and removes what an earlier run left at `place`. It holds nothing but mount points.
fn clear(place: &Path) -> io::Result<()> {
    if fs::symlink_metadata(place).is_err() {
        return Ok(());
    }
    let parent = place.parent().unwrap_or(place);
    let parent = fs::canonicalize(parent)?;
    let place = place.file_name().map_or_else(|| parent.clone(), |name| parent.join(name));
    for point in mounts_below(&parent)?.iter().rev().filter(|point| point.starts_with(&place)) {
        umount2(point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    if fs::symlink_metadata(&place)?.is_dir() { fs::remove_dir(&place) } else { fs::remove_file(&place) }
}
