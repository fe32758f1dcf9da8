//! The process at the other end of a connection: who it is by the kernel, and whether it still is.
//!
//! A pid alone names nobody: the process may have ended and another have its number. The kernel's
//! handle on the peer (`SO_PEERPIDFD`, Linux 6.5) and the time the process began, taken when the
//! connection is accepted, say whether what `/proc` tells is about the one who connected. Facts are
//! read between two such checks.

use std::collections::HashMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt::PeerPidfd};
use parking_lot::Mutex;
use ring::digest::{Context, SHA256};
use tokio::net::UnixStream;

use super::attest::{self, ContainerRef};

/// Longest file of `/proc` that is read, bytes.
const MAX_PROC_BYTES: u64 = 64 << 10;
/// Largest binary that is hashed, bytes; a larger one matches no hash.
const MAX_BINARY_BYTES: u64 = 512 << 20;
const HASH_CHUNK: usize = 64 << 10;
/// Hashes of binaries that are remembered.
const MAX_HASHES: usize = 256;

/// The process that connected. What is known of it is taken once, at accept.
#[derive(Debug)]
pub struct Peer {
    /// In our pid namespace; `None` when the kernel did not say.
    pub pid: Option<i32>,
    pub uid: Option<u32>,
    handle: Handle,
    /// Clock ticks after boot; `None` when it was gone before it could be asked.
    started: Option<u64>,
    /// Names its container, or the cgroup or process outside of any, for counting only.
    pub origin: u64,
    /// Its refusal is on record already.
    is_told: AtomicBool,
}

#[derive(Debug)]
enum Handle {
    Open(OwnedFd),
    /// A kernel before 6.5: whoever ends between connecting and being accepted, and whose number is
    /// given to another in that moment, is taken for that other.
    Unsupported,
    /// There is nobody to hold.
    Gone,
}

/// Why nothing can be said about the process.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    #[error("the caller's process is not known")]
    NoPid,
    #[error("the process that connected has ended")]
    Ended,
    #[error("the process moved to another cgroup meanwhile")]
    Moved,
    #[error("the process runs another program now")]
    OtherProgram,
    #[error("{0}")]
    NoContainer(#[from] attest::NoContainer),
    #[error("{0} of the process is not readable")]
    Unreadable(&'static str),
}

/// Where a process runs and as whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub container: ContainerRef,
    pub uid: u32,
}

/// A process's binary.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Binary {
    pub path: Option<String>,
    pub sha256: Option<String>,
}

impl Peer {
    /// Asks the kernel who connected. Blocking (`/proc`).
    pub async fn of(stream: &UnixStream) -> Arc<Self> {
        let cred = stream.peer_cred().ok();
        let pid = cred.and_then(|cred| cred.pid());
        let handle = match getsockopt(stream, PeerPidfd) {
            Ok(handle) => Handle::Open(handle),
            Err(Errno::ENOPROTOOPT | Errno::EINVAL) => Handle::Unsupported,
            Err(_) => Handle::Gone,
        };
        let asked = tokio::task::spawn_blocking(move || pid.map(|pid| (start_of(pid).ok(), origin(pid))));
        let (started, origin) = asked.await.ok().flatten().unwrap_or_default();
        let uid = cred.map(|cred| cred.uid());
        Arc::new(Self { pid, uid, handle, started, origin, is_told: AtomicBool::new(false) })
    }

    /// Somebody whose process is not known.
    #[must_use]
    pub fn unknown() -> Self {
        Self {
            pid: None,
            uid: None,
            handle: Handle::Gone,
            started: None,
            origin: 0,
            is_told: AtomicBool::new(false),
        }
    }

    /// True once: refusals of one connection are one record.
    pub fn tell_once(&self) -> bool {
        !self.is_told.swap(true, Ordering::Relaxed)
    }

    /// Where the process runs. Blocking.
    ///
    /// # Errors
    /// [`Unproven`].
    pub fn place(&self) -> Result<Place, Unproven> {
        let pid = self.alive()?;
        let container = container_of(pid)?;
        let status = read(pid, "status").map_err(|_| Unproven::Unreadable("status"))?;
        let uid = attest::effective_uid(&status).ok_or(Unproven::Unreadable("status"))?;
        self.alive()?;
        Ok(Place { container, uid })
    }

    /// The process's binary, its hash only if wanted. Blocking.
    ///
    /// # Errors
    /// [`Unproven`].
    pub fn binary(&self, hash: bool, hashes: &Hashes) -> Result<Binary, Unproven> {
        let pid = self.alive()?;
        let link = format!("/proc/{pid}/exe");
        let unreadable = |_: io::Error| Unproven::Unreadable("exe");
        let path = fs::read_link(&link).map_err(unreadable)?;
        let file = File::open(&link).map_err(unreadable)?;
        let version = Version::of(&file).map_err(unreadable)?;
        let sha256 = if hash { hashes.of(&file, version).map_err(unreadable)? } else { None };
        let again = File::open(&link).map_err(unreadable)?;
        let same_path = fs::read_link(&link).map_err(unreadable)? == path;
        if !same_path || Version::of(&again).map_err(unreadable)? != version {
            return Err(Unproven::OtherProgram);
        }
        self.alive()?;
        Ok(Binary { path: path.to_str().and_then(attest::binary_path), sha256 })
    }

    /// The same process, still there, still in that place? Blocking.
    ///
    /// # Errors
    /// [`Unproven`].
    pub fn confirm(&self, place: &Place) -> Result<(), Unproven> {
        if self.place()? == *place { Ok(()) } else { Err(Unproven::Moved) }
    }

    /// Its pid, as long as it is its own.
    fn alive(&self) -> Result<i32, Unproven> {
        let pid = self.pid.filter(|pid| *pid > 0).ok_or(Unproven::NoPid)?;
        let started = self.started.ok_or(Unproven::Ended)?;
        match &self.handle {
            Handle::Gone => return Err(Unproven::Ended),
            Handle::Open(handle) if held_pid(handle) != Some(pid) => return Err(Unproven::Ended),
            Handle::Open(_) | Handle::Unsupported => {}
        }
        if start_of(pid)? == started { Ok(pid) } else { Err(Unproven::Ended) }
    }
}

/// The pid a handle holds; -1 or nothing once it is reaped.
fn held_pid(handle: &OwnedFd) -> Option<i32> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", handle.as_raw_fd())).ok()?;
    text.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim().parse().ok()
}

/// When a living process began.
fn start_of(pid: i32) -> Result<u64, Unproven> {
    let text = read(pid, "stat").map_err(|_| Unproven::Ended)?;
    let stat = attest::stat(&text).ok_or(Unproven::Unreadable("stat"))?;
    if stat.is_dead { Err(Unproven::Ended) } else { Ok(stat.started) }
}

fn container_of(pid: i32) -> Result<ContainerRef, Unproven> {
    let cgroup = read(pid, "cgroup").map_err(|_| Unproven::Ended)?;
    // Where even that is hidden pods are looked for at the top only.
    let init = read(1, "cgroup").unwrap_or_default();
    Ok(attest::container(&cgroup, &init)?)
}

fn origin(pid: i32) -> u64 {
    let mut hasher = DefaultHasher::new();
    match (container_of(pid), read(pid, "cgroup")) {
        (Ok(container), _) => container.container_id.hash(&mut hasher),
        (_, Ok(cgroup)) => cgroup.hash(&mut hasher),
        _ => pid.hash(&mut hasher),
    }
    hasher.finish()
}

fn read(pid: i32, name: &str) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/{name}"))?.take(MAX_PROC_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A file as it is now. Its change time is not its owner's to set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Version {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    fn of(file: &File) -> io::Result<Self> {
        let meta = file.metadata()?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

/// Hashes of binaries by their versions; all forgotten when there are too many.
#[derive(Debug, Default)]
pub struct Hashes(Mutex<HashMap<Version, String>>);

impl Hashes {
    /// `None` for a file that is too large.
    fn of(&self, file: &File, version: Version) -> io::Result<Option<String>> {
        if version.bytes > MAX_BINARY_BYTES {
            return Ok(None);
        }
        if let Some(hash) = self.0.lock().get(&version) {
            return Ok(Some(hash.clone()));
        }
        let mut context = Context::new(&SHA256);
        let mut chunk = vec![0; HASH_CHUNK];
        let mut limited = file.take(MAX_BINARY_BYTES);
        loop {
            let count = limited.read(&mut chunk)?;
            match chunk.get(..count) {
                None | Some([]) => break,
                Some(bytes) => context.update(bytes),
            }
        }
        let hash: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let mut known = self.0.lock();
        if known.len() >= MAX_HASHES {
            known.clear();
        }
        known.insert(version, hash.clone());
        Ok(Some(hash))
    }
}

#[cfg(test)]
#[path = "peer_tests.rs"]
mod tests;
