//! Hostile clients that begin and do not go on: crowds of them at a door, and one after the other.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kubeedge::app::doors::{self, Door};

use super::harness::hostile::dial;
use super::harness::process::PATIENCE;
use super::neighbours::House;
use super::neighbours_acts::{HTTP2_HELLO, asked, has_tls, is_http, is_late, label, line, shaken};

/// What somebody begins, in what time the door ends it (docs/SECURITY.md), and how long that took.
type Stop<'h> = (&'static str, Duration, Box<dyn Fn() -> Duration + Send + Sync + 'h>);

const HANDSHAKE: Duration = Duration::from_secs(5);
const HEAD: Duration = Duration::from_secs(20);
/// For a CONNECT, with the handshake before it, and for the first bytes of HTTP/2.
const FIRST_WORDS: Duration = Duration::from_secs(10);
/// Between two bytes of whoever says one a second.
const A_SECOND: Duration = Duration::from_millis(900);
/// How a TLS client begins: a record of 512 bytes with a ClientHello (RFC 8446 section 5.1).
const TLS_HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc];
/// How a client of MQTT 5 with a name of 242 bytes begins.
const LONG_CONNECT: &[u8] = &[0x10, 0xff, 0x01, 0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 60, 0, 0, 242];

/// What moves when a crowd comes.
pub fn crowd_counters(door: &Door) -> Vec<&'static str> {
    match *door {
        doors::CLOUD_HUB => vec!["kubeedge_door_refused_total{door=\"cloudhub\",reason=\"crowd\""],
        _ => vec![label(door)],
    }
}

/// The first bytes of an honest client, as far as a silent one says them.
pub fn first_word(door: &Door) -> &'static [u8] {
    if [doors::KUBERNETES_API, doors::CLOUD_HUB].contains(door) { b"\x16\x03\x01" } else { b"" }
}

/// As many connections as the socket takes; the rest is refused at once.
pub fn unix_crowd(path: &Path, most: usize) -> Vec<UnixStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut open = Vec::new();
        for _ in 0..most {
            let connect = tokio::net::UnixStream::connect(path);
            if let Ok(Ok(stream)) = tokio::time::timeout(Duration::from_millis(50), connect).await {
                open.push(stream.into_std().unwrap());
            }
        }
        open
    })
}

/// How many of a crowd at a socket nobody has ended yet.
pub fn still_open(crowd: &[UnixStream]) -> usize {
    let is_open = |mut stream: &UnixStream| match stream.read(&mut [0; 512]) {
        Ok(count) => count > 0,
        // It waits for nothing.
        Err(err) => is_late(&err),
    };
    crowd.iter().filter(|stream| is_open(stream)).count()
}

/// The same at a port: connections of the hostile that the door has not ended, or not taken yet.
pub fn crowd_left(to: SocketAddr) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let door = format!(":{:04X}", to.port());
    let is_there = |line: &&str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        // The door's own address, then 127.0.66.x from its end, then ESTABLISHED.
        fields.len() > 3
            && fields[1].ends_with(&door)
            && fields[2].get(2..8) == Some("42007F")
            && fields[3] == "01"
    };
    table.lines().filter(is_there).count()
}

/// What moves when somebody stops half way.
pub fn stop_counters(door: &Door) -> Vec<&'static str> {
    vec![label(door)]
}

/// Says something and waits for the end: how long until it came.
fn ended(mut stream: impl Read + Write, words: &[u8]) -> Duration {
    let begun = Instant::now();
    if stream.write_all(words).and_then(|()| stream.flush()).is_err() {
        return begun.elapsed();
    }
    let mut piece = [0; 4 << 10];
    while begun.elapsed() < PATIENCE {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(_) => {}
            Err(err) if is_late(&err) => {}
            Err(_) => break,
        }
    }
    begun.elapsed()
}

/// A byte a second, of `words` first, to a stream that is read so long: how long until it was ended.
fn drips(mut stream: impl Read + Write, words: &[u8]) -> Duration {
    let begun = Instant::now();
    for byte in words.iter().copied().chain(std::iter::repeat(b'x')) {
        if stream.write_all(&[byte]).and_then(|()| stream.flush()).is_err() {
            break;
        }
        match stream.read(&mut [0; 512]) {
            Ok(0) => break,
            Err(err) if !is_late(&err) => break,
            _ => {}
        }
        if begun.elapsed() > PATIENCE {
            break;
        }
    }
    begun.elapsed()
}

/// All the ways to begin and not go on.
pub fn stops<'h>(house: &'h House, door: &'static Door) -> Vec<Stop<'h>> {
    if [doors::DMI, doors::WORKLOAD_API].contains(door) {
        let open = |path: PathBuf, patience: Duration| {
            let stream = UnixStream::connect(path).unwrap();
            stream.set_read_timeout(Some(patience)).unwrap();
            stream
        };
        let silent = move || open(house.unix(door), Duration::from_secs(5));
        return vec![
            ("nothing is said", FIRST_WORDS, Box::new(move || ended(silent(), b""))),
            ("half a hello", FIRST_WORDS, Box::new(move || ended(silent(), &HTTP2_HELLO[..10]))),
            ("a byte a second", FIRST_WORDS, {
                Box::new(move || drips(open(house.unix(door), A_SECOND), HTTP2_HELLO))
            }),
        ];
    }
    let address = house.tcp(door);
    let request = if is_http(door) { HEAD } else { FIRST_WORDS };
    let greeting = if is_http(door) && has_tls(door) { HANDSHAKE } else { request };
    let mut all: Vec<Stop<'h>> =
        vec![("nothing is said", greeting, Box::new(move || ended(dial(address).unwrap(), b"")))];
    if has_tls(door) {
        // Three bytes of what the record holds have come.
        all.push(("half a handshake", greeting, {
            Box::new(move || ended(dial(address).unwrap(), &TLS_HELLO[..8]))
        }));
        all.push(("a handshake, a byte a second", greeting, {
            Box::new(move || {
                let stream = dial(address).unwrap();
                stream.set_read_timeout(Some(A_SECOND)).unwrap();
                drips(stream, TLS_HELLO)
            })
        }));
        all.push(("after the handshake", request, Box::new(move || ended(shaken(house, door), b""))));
    } else {
        let words: &'static [u8] = if *door == doors::MQTT { &[0x10, 0x7f, 0, 4, b'M'] } else { b"GET /con" };
        all.push(("half a request", request, Box::new(move || ended(dial(address).unwrap(), words))));
    }
    let words: &'static [u8] =
        if [doors::MQTT, doors::MQTT_TLS].contains(door) { LONG_CONNECT } else { b"GET / HTTP/1.1\r\nX: " };
    all.push(("a byte a second", request, {
        Box::new(move || {
            let line = shaken(house, door);
            line.socket().set_read_timeout(Some(A_SECOND)).unwrap();
            drips(line, words)
        })
    }));
    if is_http(door) {
        all.push(("half a second request", request, {
            Box::new(move || {
                let path = if *door == doors::CLOUD_HUB { "/" } else { asked(door) };
                let mut line = line(house, door);
                let first = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
                let asked = line.write_all(first.as_bytes()).and_then(|()| line.read(&mut [0; 16 << 10]));
                assert!(asked.is_ok_and(|count| count > 0), "{} answers nothing", door.name);
                ended(line, b"GET /")
            })
        }));
    }
    all
}
