//! What a process listens on, as the kernel tells it.

use std::collections::HashSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// A socket that takes connections or packets from anybody.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listening {
    Tcp(SocketAddr),
    Udp(SocketAddr),
    /// A raw socket: no port.
    Raw(SocketAddr),
    /// A path, or `@name` of an abstract one.
    Unix(String),
}

/// TCP state LISTEN, and the state of a UDP or raw socket that is not connected (tcp_states.h).
const LISTEN: &str = "0A";
const UNCONNECTED: &str = "07";
/// `SO_ACCEPTCON` in the flags of `/proc/net/unix`.
const ACCEPTS: u32 = 0x1_0000;

/// Every listening socket of a process.
pub fn listening(pid: u32) -> Vec<Listening> {
    let own = inodes(pid);
    assert!(!own.is_empty(), "process {pid} has no sockets at all");
    let mut found = Vec::new();
    type Make = fn(SocketAddr) -> Listening;
    let tables: [(&str, &str, Make); 8] = [
        ("tcp", LISTEN, Listening::Tcp),
        ("tcp6", LISTEN, Listening::Tcp),
        ("udp", UNCONNECTED, Listening::Udp),
        ("udp6", UNCONNECTED, Listening::Udp),
        ("udplite", UNCONNECTED, Listening::Udp),
        ("udplite6", UNCONNECTED, Listening::Udp),
        ("raw", UNCONNECTED, Listening::Raw),
        ("raw6", UNCONNECTED, Listening::Raw),
    ];
    for (table, state, make) in tables {
        // A kernel without a protocol has no table of it.
        let Ok(text) = fs::read_to_string(format!("/proc/{pid}/net/{table}")) else { continue };
        for line in text.lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[3] == state && own.contains(fields[9]) {
                found.push(make(address(fields[1])));
            }
        }
    }
    let text = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap();
    for line in text.lines().skip(1) {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let flags = u32::from_str_radix(fields[3], 16).unwrap();
        if flags & ACCEPTS != 0 && own.contains(fields[6]) {
            found.push(Listening::Unix(fields.get(7).copied().unwrap_or_default().to_owned()));
        }
    }
    found.sort();
    found
}

/// Numbers of the sockets a process has open.
fn inodes(pid: u32) -> HashSet<String> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let targets = files.flatten().filter_map(|file| fs::read_link(file.path()).ok());
    let sockets = targets.filter_map(|target| {
        let text = target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned();
        Some(text)
    });
    sockets.collect()
}

/// `0100007F:1F90`: words of the address in the machine's order, the port in the network's.
fn address(text: &str) -> SocketAddr {
    let (ip, port) = text.split_once(':').unwrap();
    let words = (0..ip.len() / 8).map(|i| u32::from_str_radix(&ip[i * 8..i * 8 + 8], 16).unwrap());
    let bytes: Vec<u8> = words.flat_map(u32::to_ne_bytes).collect();
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
        Err(_) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).unwrap())),
    };
    SocketAddr::new(ip, u16::from_str_radix(port, 16).unwrap())
}

#[test]
fn a_listener_of_every_kind_is_seen_and_a_client_is_not() {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::{UnixListener, UnixStream};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp6 = TcpListener::bind("[::1]:0").ok();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
    connected.connect(udp.local_addr().unwrap()).unwrap();
    let unix = UnixListener::bind(&path).unwrap();
    let (one, two) =
        (TcpStream::connect(tcp.local_addr().unwrap()).unwrap(), UnixStream::connect(&path).unwrap());
    let seen = listening(std::process::id());
    assert!(seen.contains(&Listening::Tcp(tcp.local_addr().unwrap())), "{seen:?}");
    assert!(tcp6.is_none_or(|tcp6| seen.contains(&Listening::Tcp(tcp6.local_addr().unwrap()))), "{seen:?}");
    assert!(seen.contains(&Listening::Udp(udp.local_addr().unwrap())), "{seen:?}");
    assert!(seen.contains(&Listening::Unix(path.display().to_string())), "{seen:?}");
    assert!(!seen.contains(&Listening::Udp(connected.local_addr().unwrap())), "{seen:?}");
    assert!(!seen.contains(&Listening::Tcp(one.local_addr().unwrap())), "{seen:?}");
    drop((unix, two));
}
