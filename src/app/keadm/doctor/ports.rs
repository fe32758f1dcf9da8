//! Ports: free, or held by the program they are for.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use super::super::finding::Finding;

const CHECK: &str = "port";
/// State of a listening socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";

/// One address a program listens on, and the key that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Door {
    pub key: &'static str,
    /// `host:port`.
    pub address: String,
}

impl Door {
    pub fn new(key: &'static str, address: impl Into<String>) -> Self {
        Self { key, address: address.into() }
    }
}

/// A line for each. `is_running`: the program has answered, so what is held is taken to be its own
/// when nobody tells whose it is.
pub(super) fn look(program: &str, doors: &[Door], is_running: bool) -> Vec<Finding> {
    doors.iter().map(|door| one(program, door, is_running)).collect()
}

fn one(program: &str, door: &Door, is_running: bool) -> Finding {
    let Door { key, address } = door;
    let fix = format!("set {key} to an address of this machine");
    let Ok(at) = address.parse::<SocketAddr>() else {
        return Finding::skip(CHECK, format!("{address} ({key}) is a name: not looked at"));
    };
    let err = match TcpListener::bind(at) {
        Ok(_) => return Finding::ok(CHECK, format!("{address} ({key}) is free")),
        Err(err) => err,
    };
    match err.kind() {
        ErrorKind::AddrInUse => judge(program, door, holder(at.port()).as_ref(), is_running),
        ErrorKind::AddrNotAvailable => {
            Finding::fail(CHECK, format!("{address} ({key}) is no address of this machine"), fix)
        }
        ErrorKind::PermissionDenied => Finding::skip(CHECK, format!("only root may try {address} ({key})")),
        _ => Finding::fail(CHECK, format!("{address} ({key}): {err}"), fix),
    }
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Holder {
    pid: u32,
    name: String,
}

fn judge(program: &str, door: &Door, holder: Option<&Holder>, is_running: bool) -> Finding {
    let Door { key, address } = door;
    match holder {
        Some(holder) if holder.name == program => {
            Finding::ok(CHECK, format!("{address} ({key}) is held by {program}, process {}", holder.pid))
        }
        Some(Holder { pid, name }) => Finding::fail(
            CHECK,
            format!("{address} ({key}) is held by {name}, process {pid}"),
            format!("stop {name}, or set {key} to a free port"),
        ),
        None if is_running => Finding::ok(
            CHECK,
            format!("{address} ({key}) is held, as {program} runs by it (root sees by whom)"),
        ),
        None => Finding::fail(
            CHECK,
            format!("{address} ({key}) is held by another process (root sees by which)"),
            format!("stop it, or set {key} to a free port"),
        ),
    }
}

/// Who listens on this port, as far as this user may see it.
fn holder(port: u16) -> Option<Holder> {
    let mut sockets = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        sockets.extend(listening(&std::fs::read_to_string(table).unwrap_or_default(), port));
    }
    let links: Vec<String> = sockets.iter().map(|inode| format!("socket:[{inode}]")).collect();
    let processes = std::fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let files = std::fs::read_dir(process.path().join("fd")).ok()?;
        let holds = files.flatten().any(|file| {
            let link = std::fs::read_link(file.path());
            link.is_ok_and(|link| links.iter().any(|own| Path::new(own) == link))
        });
        let name = holds.then(|| std::fs::read_to_string(process.path().join("comm")).ok()).flatten()?;
        Some(Holder { pid, name: name.trim().to_owned() })
    })
}

/// Inodes of the listening sockets of a port in a table of `/proc/net`.
fn listening(table: &str, port: u16) -> Vec<u64> {
    let rows = table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (words.get(1)?, words.get(3)?, words.get(9)?);
        let own = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
        (own == port && *state == LISTENING).then(|| inode.parse().ok()).flatten()
    });
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str =
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:2382 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 41 1 0 100 0 0 10 0
   1: 0100007F:2382 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 42 1 0 100 0 0 10 0
   2: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 43 1 0 100 0 0 10 0
garbage
";

    #[test]
    fn tables_of_sockets() {
        assert_eq!(listening(TABLE, 0x2382), [41]);
        assert_eq!(listening(TABLE, 80), [43]);
        assert_eq!(listening(TABLE, 81), Vec::<u64>::new());
    }

    #[test]
    fn free_held_and_impossible() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let held = listener.local_addr().expect("address");
        let door = Door::new("modules.x", held.to_string());
        let me = std::fs::read_to_string("/proc/self/comm").expect("name");
        let found = one(me.trim(), &door, false);
        assert!(found.text.contains("is held by") && !found.failed(), "{found}");
        let found = one("edgecore", &door, false);
        assert!(found.failed() && found.fix.contains("or set modules.x to a free port"), "{found}");
        drop(listener);
        assert!(one("edgecore", &door, false).text.ends_with("(modules.x) is free"));
        let found = one("edgecore", &Door::new("modules.x", "192.0.2.1:1"), false);
        assert!(found.text.contains("no address of this machine"), "{found}");
        assert!(
            !judge("edgecore", &door, None, true).failed() && judge("edgecore", &door, None, false).failed()
        );
    }
}
