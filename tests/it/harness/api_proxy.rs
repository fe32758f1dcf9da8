//! In front of an API server, over TLS: notes every request and breaks what it is told to, the way real API servers,
//! load balancers and networks do.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use kubeedge::identity::client_tls;
use parking_lot::Mutex;
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

/// A request as the API server got it, and what it answered. 0: there was no answer.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    /// Names in small letters.
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    pub status: u16,
    /// It was answered or cut here.
    pub broken: bool,
}

impl Request {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn is_watch(&self) -> bool {
        self.query.split('&').any(|part| part == "watch=true" || part == "watch=1")
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// A failure with this status and this `Retry-After`, empty for none.
    Answer(u16, &'static str),
    /// The connection ends before the server hears it.
    Lost,
    /// The server does it, and the answer is lost.
    AnswerLost,
    /// The server hears it so much later.
    Slow(Duration),
}

/// How running watches end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// As at the end of their time.
    Quiet,
    /// In the middle, by a reset.
    Cut,
    /// By an event that says 410.
    Gone,
}

type Choice = Box<dyn Fn(&Request) -> bool + Send>;

struct Planned {
    which: Choice,
    left: usize,
    fault: Fault,
}

struct Chaos {
    random: fastrand::Rng,
    /// One request in so many.
    one_in: u32,
}

#[derive(Default)]
struct State {
    log: Vec<Request>,
    planned: Vec<Planned>,
    chaos: Option<Chaos>,
    /// Tokens that are good no more.
    refused_tokens: Vec<String>,
}

type Client = Arc<Mutex<StreamOwned<ServerConnection, TcpStream>>>;

struct Watch {
    client: Client,
    server: TcpStream,
    ended: Arc<AtomicBool>,
}

struct Shared {
    target: u16,
    tls: Arc<ServerConfig>,
    to_server: Arc<ClientConfig>,
    state: Mutex<State>,
    away: AtomicBool,
    /// Connections tried while it was away.
    knocks: AtomicUsize,
    sockets: Mutex<Vec<TcpStream>>,
    watches: Mutex<Vec<Watch>>,
}

/// Stands on a port of its own, with a certificate of its own.
pub struct ApiProxy {
    pub port: u16,
    /// What clients believe.
    pub ca_pem: String,
    shared: Arc<Shared>,
}

impl ApiProxy {
    /// In front of the API server on `target`, whose certificate is signed by `ca_pem`.
    pub fn to(target: u16, ca_pem: &str) -> Self {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
        let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key.into())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            target,
            tls: Arc::new(tls),
            to_server: client_tls(ca_pem, None).unwrap(),
            state: Mutex::default(),
            away: AtomicBool::new(false),
            knocks: AtomicUsize::new(0),
            sockets: Mutex::default(),
            watches: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                if serving.away.load(Ordering::SeqCst) {
                    serving.knocks.fetch_add(1, Ordering::SeqCst);
                    continue;
                }
                let mut sockets = serving.sockets.lock();
                sockets.retain(|socket| socket.peer_addr().is_ok());
                sockets.push(socket.try_clone().unwrap());
                drop(sockets);
                let serving = Arc::clone(&serving);
                // The end of a connection is no news here.
                std::thread::spawn(move || serving.serve(socket).ok());
            }
        });
        Self { port, ca_pem: own.cert.pem(), shared }
    }

    /// Every request so far.
    pub fn log(&self) -> Vec<Request> {
        self.shared.state.lock().log.clone()
    }

    /// Requests so far that are `which`.
    pub fn count(&self, which: impl Fn(&Request) -> bool) -> usize {
        self.shared.state.lock().log.iter().filter(|request| which(request)).count()
    }

    /// The next `times` requests that are `which` meet this.
    pub fn plan(&self, times: usize, fault: Fault, which: impl Fn(&Request) -> bool + Send + 'static) {
        let planned = Planned { which: Box::new(which), left: times, fault };
        self.shared.state.lock().planned.push(planned);
    }

    /// Faults that have not happened yet.
    pub fn planned(&self) -> usize {
        self.shared.state.lock().planned.iter().map(|planned| planned.left).sum()
    }

    /// From now on one request in so many meets some fault, the same ones for the same seed and order; 0: none.
    pub fn chaos(&self, seed: u64, one_in: u32) {
        let chaos = Chaos { random: fastrand::Rng::with_seed(seed), one_in };
        self.shared.state.lock().chaos = (one_in > 0).then_some(chaos);
    }

    /// The server answers 401 to this token from now on.
    pub fn refuse_token(&self, token: &str) {
        self.shared.state.lock().refused_tokens.push(token.to_owned());
    }

    /// How many watches run.
    pub fn watching(&self) -> usize {
        self.shared.watches.lock().iter().filter(|watch| !watch.ended.load(Ordering::SeqCst)).count()
    }

    /// Ends all running watches. Returns how many.
    pub fn end_watches(&self, how: End) -> usize {
        let watches = std::mem::take(&mut *self.shared.watches.lock());
        let running =
            watches.iter().filter(|watch| !watch.ended.swap(true, Ordering::SeqCst)).collect::<Vec<_>>();
        for watch in &running {
            let mut client = watch.client.lock();
            if how == End::Gone {
                let event = json!({"type": "ERROR", "object": failure(410, "Expired")});
                let line = format!("{event}\n");
                write!(client, "{:x}\r\n{line}\r\n", line.len()).ok();
            }
            if how != End::Cut {
                client.write_all(b"0\r\n\r\n").ok();
                client.flush().ok();
            }
            client.sock.shutdown(Shutdown::Both).ok();
            watch.server.shutdown(Shutdown::Both).ok();
        }
        running.len()
    }

    /// The API server is gone: connections end and new ones are closed at once.
    pub fn leave(&self) {
        self.shared.away.store(true, Ordering::SeqCst);
        for socket in self.shared.sockets.lock().drain(..) {
            socket.shutdown(Shutdown::Both).ok();
        }
    }

    /// Connections that were tried in vain.
    pub fn knocks(&self) -> usize {
        self.shared.knocks.load(Ordering::SeqCst)
    }

    pub fn come_back(&self) {
        self.shared.away.store(false, Ordering::SeqCst);
    }
}

/// A `Status` as kube-apiserver writes it.
fn failure(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "reason": reason,
        "message": format!("the proxy says {reason}"), "code": code})
}

fn reason(code: u16) -> &'static str {
    match code {
        401 => "Unauthorized",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        other => panic!("no reason for {other}"),
    }
}

impl State {
    /// What happens to this request.
    fn judge(&mut self, request: &Request) -> Option<Fault> {
        let said = request.header("authorization");
        if self.refused_tokens.iter().any(|token| said.strip_prefix("Bearer ") == Some(token)) {
            return Some(Fault::Answer(401, ""));
        }
        if let Some(planned) = self.planned.iter_mut().find(|it| it.left > 0 && (it.which)(request)) {
            planned.left -= 1;
            return Some(planned.fault.clone());
        }
        let chaos = self.chaos.as_mut()?;
        if chaos.random.u32(0..chaos.one_in) > 0 {
            return None;
        }
        // 409 is an answer to a patch that names no version too: others wrote at the same time.
        let patches = request.method == "PATCH";
        let faults = [
            Fault::Answer(429, "1"),
            Fault::Answer(500, ""),
            Fault::Answer(503, ""),
            Fault::Answer(if patches { 409 } else { 504 }, ""),
            Fault::Lost,
            Fault::AnswerLost,
            Fault::Slow(Duration::from_millis(chaos.random.u64(50..1_500))),
        ];
        chaos.random.choice(faults)
    }
}

impl Shared {
    fn serve(&self, socket: TcpStream) -> std::io::Result<()> {
        let tls = ServerConnection::new(Arc::clone(&self.tls)).map_err(std::io::Error::other)?;
        let client = Arc::new(Mutex::new(StreamOwned::new(tls, socket)));
        let mut server: Option<BufReader<StreamOwned<ClientConnection, TcpStream>>> = None;
        loop {
            let mut request = read_request(&mut *client.lock())?;
            let fault = self.state.lock().judge(&request);
            request.broken = fault.as_ref().is_some_and(|fault| !matches!(fault, Fault::Slow(_)));
            match &fault {
                Some(Fault::Answer(code, pause)) => {
                    request.status = *code;
                    self.state.lock().log.push(request);
                    let body = failure(*code, reason(*code)).to_string();
                    let pause =
                        if pause.is_empty() { String::new() } else { format!("Retry-After: {pause}\r\n") };
                    let head = format!(
                        "HTTP/1.1 {code} Fault\r\nContent-Type: application/json\r\n{pause}Content-Length: {}\r\n\r\n",
                        body.len()
                    );
                    let mut client = client.lock();
                    client.write_all(format!("{head}{body}").as_bytes())?;
                    client.flush()?;
                    continue;
                }
                Some(Fault::Lost) => {
                    self.state.lock().log.push(request);
                    return client.lock().sock.shutdown(Shutdown::Both);
                }
                Some(Fault::Slow(pause)) => std::thread::sleep(*pause),
                Some(Fault::AnswerLost) | None => {}
            }
            let upstream = match server.take() {
                Some(upstream) => upstream,
                None => self.connect()?,
            };
            let upstream = server.insert(upstream);
            upstream.get_mut().write_all(&written(&request))?;
            upstream.get_mut().flush()?;
            let head = read_head(upstream)?;
            request.status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
            let watch = request.is_watch() && request.status == 200;
            self.state.lock().log.push(request);
            if matches!(fault, Some(Fault::AnswerLost)) {
                return client.lock().sock.shutdown(Shutdown::Both);
            }
            let ended = Arc::new(AtomicBool::new(false));
            if watch {
                let server = upstream.get_ref().sock.try_clone()?;
                let watch = Watch { client: Arc::clone(&client), server, ended: Arc::clone(&ended) };
                self.watches.lock().push(watch);
            }
            pass(upstream, &client, &head, &ended)?;
            ended.store(true, Ordering::SeqCst);
        }
    }

    fn connect(&self) -> std::io::Result<BufReader<StreamOwned<ClientConnection, TcpStream>>> {
        let name = ServerName::try_from("127.0.0.1").map_err(std::io::Error::other)?;
        let tls = ClientConnection::new(Arc::clone(&self.to_server), name).map_err(std::io::Error::other)?;
        let socket = TcpStream::connect(("127.0.0.1", self.target))?;
        self.sockets.lock().push(socket.try_clone()?);
        Ok(BufReader::new(StreamOwned::new(tls, socket)))
    }
}

fn read_request(client: &mut impl Read) -> std::io::Result<Request> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        client.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).map_err(|_| ErrorKind::InvalidData)?;
    let mut lines = text.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let headers: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    assert!(!headers.contains_key("transfer-encoding"), "{text}");
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    client.read_exact(&mut body)?;
    let (method, path, query) = (method.to_owned(), path.to_owned(), query.to_owned());
    Ok(Request { method, path, query, headers, body, status: 0, broken: false })
}

fn written(request: &Request) -> Vec<u8> {
    let query = if request.query.is_empty() { String::new() } else { format!("?{}", request.query) };
    let mut bytes = format!("{} {}{query} HTTP/1.1\r\n", request.method, request.path).into_bytes();
    for (name, value) in &request.headers {
        bytes.extend(format!("{name}: {value}\r\n").bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(&request.body);
    bytes
}

fn read_head(server: &mut impl BufRead) -> std::io::Result<String> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if server.read_line(&mut head)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        if &head[before..] == "\r\n" {
            return Ok(head);
        }
    }
}

/// Gives head and body on. Chunks are given on whole, so that a watch can be ended between two.
fn pass(server: &mut impl BufRead, client: &Client, head: &str, ended: &AtomicBool) -> std::io::Result<()> {
    let lower = head.to_ascii_lowercase();
    let give = |bytes: &[u8]| {
        let mut client = client.lock();
        if ended.load(Ordering::SeqCst) {
            return Err(std::io::Error::from(ErrorKind::BrokenPipe));
        }
        client.write_all(bytes)?;
        client.flush()
    };
    if !lower.contains("transfer-encoding: chunked") {
        let length =
            lower.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        server.read_exact(&mut body)?;
        return give(&[head.as_bytes(), &body].concat());
    }
    give(head.as_bytes())?;
    loop {
        let mut size = String::new();
        server.read_line(&mut size)?;
        let length = usize::from_str_radix(size.trim(), 16).map_err(|_| ErrorKind::InvalidData)?;
        let mut chunk = vec![0; length + 2];
        server.read_exact(&mut chunk)?;
        give(&[size.as_bytes(), &chunk].concat())?;
        if length == 0 {
            return Ok(());
        }
    }
}
