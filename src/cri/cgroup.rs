//! Pod cgroups: runtimes make them from a sandbox's `cgroup_parent` and leave them behind.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where the kernel's control groups are mounted, version 1 or 2.
pub const MOUNT: &str = "/sys/fs/cgroup";

/// Deepest tree below a pod's cgroup that is cleaned.
const MAX_DEPTH: usize = 8;

/// Rounds of killing what still lives there, and the pause after each.
const KILLS: u32 = 10;
const DEATH: Duration = Duration::from_millis(20);

/// Removes the cgroup `parent` (as in `cgroup_parent`, absolute) and its children from every hierarchy below `mount`, for
/// a pod whose sandboxes are gone. Missing ones are fine. What still lives there is killed, as kubelet does: a runtime that
/// was killed while it made a sandbox knows nothing of its processes. How many were. Blocking.
///
/// # Errors
/// `InvalidInput` for a path that is not a plain one of at least two parts (the root of all pods is
/// never removed); the kernel's refusal (busy) when a process outlives that.
pub fn remove(mount: &Path, parent: &str) -> io::Result<usize> {
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
    let (mut killed, mut rounds) = (BTreeSet::new(), 0);
    loop {
        let failed: Vec<io::Error> =
            roots.iter().filter_map(|root| remove_tree(root.join(relative), 0).err()).collect();
        let is_busy = failed.iter().any(|err| err.kind() == io::ErrorKind::ResourceBusy);
        match failed.into_iter().next() {
            None => return Ok(killed.len()),
            Some(err) if !is_busy || rounds == KILLS => return Err(err),
            Some(_) => {}
        }
        rounds += 1;
        for root in &roots {
            kill_tree(&root.join(relative), 0, &mut killed);
        }
        std::thread::sleep(DEATH);
    }
}

/// Kills every process of a cgroup and its children: which. One is in several hierarchies, and takes its time to die.
fn kill_tree(dir: &Path, depth: usize, killed: &mut BTreeSet<i32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // 0 is a process of another PID namespace.
    let processes = text.lines().filter_map(|line| line.parse().ok()).filter(|pid: &i32| *pid > 1);
    killed.extend(processes.filter(|pid| kill(Pid::from_raw(*pid), Signal::SIGKILL).is_ok()));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if depth < MAX_DEPTH && entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            kill_tree(&entry.path(), depth + 1, killed);
        }
    }
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
