//! Pod cgroups: runtimes make them from a sandbox's `cgroup_parent` and leave them behind.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

/// Where the kernel's control groups are mounted, version 1 or 2.
pub const MOUNT: &str = "/sys/fs/cgroup";

/// Deepest tree below a pod's cgroup that is cleaned.
const MAX_DEPTH: usize = 8;

/// Removes the cgroup `parent` (as in `cgroup_parent`, absolute) and its empty children from every
/// hierarchy below `mount`. Missing ones are fine. Blocking.
///
/// # Errors
/// `InvalidInput` for a path that is not a plain one of at least two parts (the root of all pods is
/// never removed); the kernel's refusal (busy) when a process still lives there.
pub fn remove(mount: &Path, parent: &str) -> io::Result<()> {
    let relative = parent.trim_start_matches('/');
    let parts = Path::new(relative).components();
    let plain = parts.clone().all(|part| matches!(part, Component::Normal(_)));
    if !plain || parts.count() < 2 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{parent:?} is not a pod's cgroup")));
    }
    let mut roots = vec![mount.to_owned()];
    if !mount.join("cgroup.controllers").exists() {
        // Version 1: one hierarchy a controller, some reachable under several names.
        for entry in fs::read_dir(mount)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                roots.push(entry.path());
            }
        }
    }
    let mut failed = None;
    for root in roots {
        if let Err(err) = remove_tree(root.join(relative), 0) {
            failed = Some(err);
        }
    }
    failed.map_or(Ok(()), Err)
}

/// A cgroup's files cannot be removed; its folder can, once it has no children and no processes.
fn remove_tree(dir: PathBuf, depth: usize) -> io::Result<()> {
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(err),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() && depth < MAX_DEPTH {
            remove_tree(entry.path(), depth + 1)?;
        }
    }
    match fs::remove_dir(&dir) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(err),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_the_pod_from_every_hierarchy_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        for hierarchy in ["cpu", "memory"] {
            fs::create_dir_all(dir.path().join(hierarchy).join("kubepods/burstable/podu/box")).unwrap();
            fs::create_dir_all(dir.path().join(hierarchy).join("kubepods/burstable/podv")).unwrap();
        }
        remove(dir.path(), "/kubepods/burstable/podu").unwrap();
        remove(dir.path(), "/kubepods/burstable/podu").unwrap();
        for hierarchy in ["cpu", "memory"] {
            let class = dir.path().join(hierarchy).join("kubepods/burstable");
            assert!(!class.join("podu").exists() && class.join("podv").exists());
        }
        for bad in ["", "/", "/kubepods", "/kubepods/../x", "kubepods/.."] {
            assert!(remove(dir.path(), bad).is_err(), "{bad}");
        }
    }
}
