use std::process::{Child, Command, Stdio};

use super::*;
use crate::identity::sha256_hex;

/// A connection of ours to ourselves, and what the kernel says about it.
async fn own() -> Arc<Peer> {
    let (ours, _theirs) = UnixStream::pair().unwrap();
    Peer::of(&ours).await
}

/// `peer` as if another process had connected.
fn as_if(child: &Child, started: Option<u64>) -> Peer {
    let pid = i32::try_from(child.id()).unwrap();
    Peer { pid: Some(pid), handle: Handle::Unsupported, started, ..Peer::unknown() }
}

fn sleeper() -> Child {
    Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap()
}

#[tokio::test]
async fn the_kernel_says_who_connected() {
    let peer = own().await;
    assert_eq!(peer.pid, i32::try_from(std::process::id()).ok());
    assert_eq!(peer.uid, Some(nix::unistd::geteuid().as_raw()));
    assert_eq!(peer.alive().ok(), peer.pid);
    // A test is no pod.
    assert!(matches!(peer.place(), Err(Unproven::NoContainer(_))), "{:?}", peer.place());
    assert!(peer.tell_once() && !peer.tell_once());
}

#[tokio::test]
async fn the_binary_of_a_process_is_found_and_hashed() {
    let (peer, hashes) = (own().await, Hashes::default());
    let exe = std::env::current_exe().unwrap();
    let want = sha256_hex(&fs::read(&exe).unwrap());
    for _ in 0..2 {
        let binary = peer.binary(true, &hashes).unwrap();
        assert_eq!(binary.path.as_deref(), exe.to_str());
        assert_eq!(binary.sha256.as_deref(), Some(want.as_str()));
    }
    assert_eq!(hashes.0.lock().len(), 1);
    assert_eq!(peer.binary(false, &hashes).unwrap().sha256, None);
}

#[test]
fn a_changed_file_is_hashed_again() {
    let dir = tempfile::tempdir().unwrap();
    let (path, hashes) = (dir.path().join("x"), Hashes::default());
    for text in ["one", "two"] {
        fs::write(&path, text).unwrap();
        let file = File::open(&path).unwrap();
        // Same inode, same size, and its owner sets the time back.
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
        let version = Version::of(&file).unwrap();
        assert_eq!(hashes.of(&file, version).unwrap(), Some(sha256_hex(text.as_bytes())), "{text}");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
}

/// A process that ended between connecting and being looked at, reaped or not, and a number that
/// another process has now.
#[test]
fn whoever_ended_is_nobody() {
    let mut child = sleeper();
    let started = start_of(i32::try_from(child.id()).unwrap()).unwrap();
    assert!(as_if(&child, Some(started)).alive().is_ok());
    assert_eq!(as_if(&child, Some(started - 1)).alive(), Err(Unproven::Ended), "the number of another");
    assert_eq!(as_if(&child, None).alive(), Err(Unproven::Ended), "gone at accept");
    child.kill().unwrap();
    let peer = as_if(&child, Some(started));
    let mut left = 500;
    while peer.alive().is_ok() && left > 0 {
        std::thread::sleep(std::time::Duration::from_millis(10));
        left -= 1;
    }
    assert_eq!(peer.alive(), Err(Unproven::Ended), "not reaped yet");
    child.wait().unwrap();
    assert_eq!(peer.alive(), Err(Unproven::Ended));
    assert_eq!(peer.place(), Err(Unproven::Ended));
    assert_eq!(peer.binary(true, &Hashes::default()), Err(Unproven::Ended));
    assert_eq!(Peer::unknown().alive(), Err(Unproven::NoPid));
}

/// The kernel's handle tells the dead from the living whatever `/proc` says.
#[tokio::test]
async fn a_handle_holds_one_process_only() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    // Connects, stays a moment, ends.
    let code =
        "import socket,sys,time; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); sys.stdin.read()";
    let python = Command::new("python3").args(["-c", code]).arg(&path).stdin(Stdio::piped()).spawn();
    let mut child = python.expect("python3 (deploy/tools.sh test installs it)");
    let (stream, _) = listener.accept().await.unwrap();
    let peer = Peer::of(&stream).await;
    let pid = i32::try_from(child.id()).unwrap();
    assert_eq!(peer.alive(), Ok(pid));
    if let Handle::Open(handle) = &peer.handle {
        assert_eq!(held_pid(handle), Some(pid));
    }
    drop(child.stdin.take());
    child.wait().unwrap();
    assert_eq!(peer.alive(), Err(Unproven::Ended));
    if let Handle::Open(handle) = &peer.handle {
        assert_ne!(held_pid(handle), Some(pid));
    }
}
