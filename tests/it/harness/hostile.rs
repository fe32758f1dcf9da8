//! What a hostile neighbour needs: many connections, words without an end, and a look at what they cost.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kubeedge::identity::{self, KeyPair};
use rustls::{ClientConnection, StreamOwned};

use super::process::{PATIENCE, http, until};

pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// Between two looks at a program's memory.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// Where the hostile come from: other addresses than honest clients, a new one for each thousand: the
/// system keeps the ports of closed connections for a minute.
fn address() -> SocketAddr {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed) / 1_000;
    SocketAddr::from(([127, 0, 66, u8::try_from(number % 250).unwrap() + 1], 0))
}

/// Lets this process open as many connections as a hostile one.
pub fn many_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard).unwrap();
}

/// A connection from another address.
pub async fn afar(to: SocketAddr) -> io::Result<tokio::net::TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    // Who does not read has no room for what he does not read.
    socket.set_recv_buffer_size(16 << 10)?;
    socket.bind(address())?;
    socket.connect(to).await
}

/// The same, blocking, with deadlines.
pub fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let stream = runtime.block_on(async { tokio::time::timeout(PATIENCE, afar(to)).await })??;
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.set_write_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

/// A client of TLS that looks at no name.
pub fn tls(stream: TcpStream, pair: Option<&KeyPair>) -> Tls {
    let mut config = Arc::unwrap_or_clone(identity::client_tls_unverified().unwrap());
    if let Some(pair) = pair {
        use rustls::pki_types::pem::PemObject;
        let chain = rustls::pki_types::CertificateDer::pem_slice_iter(pair.cert_pem.as_bytes());
        let chain: Vec<_> = chain.map(Result::unwrap).collect();
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap();
        let key = rustls::sign::CertifiedKey::from_der(chain, key, config.crypto_provider()).unwrap();
        config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(key));
    }
    let session = ClientConnection::new(Arc::new(config), "127.0.0.1".try_into().unwrap()).unwrap();
    StreamOwned::new(session, stream)
}

/// Writes `piece` again and again until the other side takes no more: bytes written.
pub fn pour(stream: &mut impl Write, head: &[u8], piece: &[u8], most: u64) -> u64 {
    let mut poured = 0;
    if stream.write_all(head).and_then(|()| stream.flush()).is_err() {
        return 0;
    }
    while poured < most && stream.write_all(piece).and_then(|()| stream.flush()).is_ok() {
        poured += piece.len() as u64;
    }
    poured
}

/// Everything until the other side closes, or says nothing for a while.
pub fn rest(stream: &mut impl Read) -> Vec<u8> {
    let mut said = Vec::new();
    let mut piece = [0; 16 << 10];
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        said.extend_from_slice(&piece[..count]);
        if said.len() > 1 << 20 {
            break;
        }
    }
    said
}

/// The status of an HTTP answer; 0 when there was none.
pub fn status(answer: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(answer);
    text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0)
}

/// Looks at a program's memory all the time.
pub struct Watch {
    before: u64,
    peak: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Anonymous memory, KiB: what the program itself holds.
pub fn anonymous_kib(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
}

impl Watch {
    pub fn of(pid: u32) -> Self {
        let before = anonymous_kib(pid);
        let (peak, stop) = (Arc::new(AtomicU64::new(before)), Arc::new(AtomicBool::new(false)));
        let (high, done) = (Arc::clone(&peak), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !done.load(Ordering::Relaxed) {
                high.fetch_max(anonymous_kib(pid), Ordering::Relaxed);
                std::thread::sleep(LOOK_EVERY);
            }
        });
        Self { before, peak, stop, thread: Some(thread) }
    }

    /// How far it rose at most, KiB.
    pub fn rise(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        self.peak.load(Ordering::Relaxed) - self.before
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The sum of all figures of `/metrics` whose lines begin so.
pub fn figure(monitor: &str, start: &str) -> f64 {
    let (_, text) = until("the monitor answers", PATIENCE, || http("GET", monitor, "/metrics", &[]));
    let lines = text.lines().filter(|line| line.starts_with(start));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
}

/// Connections that say nothing, from one process; they are closed when this is dropped.
pub struct Crowd {
    pub open: usize,
    _streams: Vec<tokio::net::TcpStream>,
    _runtime: tokio::runtime::Runtime,
}

impl Crowd {
    /// As many as the door's system lets through in a second or two, up to `most`; each says `word` and no more.
    pub fn at(to: SocketAddr, most: usize, word: &'static [u8]) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let streams = runtime.block_on(async {
            let begun = Instant::now();
            let one = move || async move {
                let stream = tokio::time::timeout(Duration::from_secs(2), afar(to)).await.ok()?.ok()?;
                stream.try_write(word).ok();
                Some(stream)
            };
            let all: Vec<_> = (0..most).map(|_| tokio::spawn(one())).collect();
            let mut open = Vec::new();
            for task in all {
                open.extend(task.await.unwrap());
            }
            assert!(begun.elapsed() < PATIENCE, "connecting took for ever");
            open
        });
        Self { open: streams.len(), _streams: streams, _runtime: runtime }
    }
}
