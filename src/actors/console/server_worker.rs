//! The socket: limits and deadlines before anything of a request is looked at.

use std::any::Any;
use std::hash::{BuildHasher, RandomState};
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::dev::{Extensions, Server};
use actix_web::http::KeepAlive;
use actix_web::rt::net::TcpStream;
use actix_web::web::{self, Data};
use actix_web::{App, HttpServer};
use parking_lot::Mutex;
use rustls::ServerConfig;

use super::answer_worker::handle;
use crate::console::door::Hosts;
use crate::console::feed::Feed;
use crate::console::page::Pages;
use crate::console::sign_in::{Token, Tries};
use crate::console::stream::Streams;
use crate::telemetry::console::ConsoleMetrics;

/// A client has this long for a request head, and again for its body.
pub(super) const READ_DEADLINE: Duration = Duration::from_secs(5);
/// Requests of one connection before it is cut.
const MAX_REQUESTS: u32 = 16;
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
/// Connections at once; an open page holds two.
const MAX_CONNECTIONS: usize = 256;
const MAX_HANDSHAKES: usize = 64;
/// Open streams.
const MAX_STREAMS: usize = 64;

/// What all connections share.
pub(super) struct Room {
    pub feed: Arc<dyn Feed>,
    pub pages: Pages,
    pub hosts: Hosts,
    /// Is it served over TLS?
    pub secure: bool,
    pub metrics: ConsoleMetrics,
    pub tries: Mutex<Tries>,
    streams: Mutex<Streams>,
    /// Tells credentials apart without keeping them.
    hasher: RandomState,
}

impl Room {
    pub fn new(feed: Arc<dyn Feed>, address: SocketAddr, secure: bool, metrics: ConsoleMetrics) -> Self {
        let streams = Streams::new(MAX_STREAMS, feed.streams_of_one());
        Self {
            feed,
            pages: Pages::new(),
            hosts: Hosts::of(address),
            secure,
            metrics,
            tries: Mutex::default(),
            streams: Mutex::new(streams),
            hasher: RandomState::new(),
        }
    }

    /// A place for one more stream of this credential, until it is dropped.
    pub fn place(self: &Arc<Self>, token: &Token) -> Option<Place> {
        let credential = self.hasher.hash_one(token.expose());
        let mut streams = self.streams.lock();
        let place = streams.open(credential).then(|| Place { room: Arc::clone(self), credential });
        self.show(&streams);
        place
    }

    fn show(&self, streams: &Streams) {
        let count = |n: usize| f64::from(u32::try_from(n).unwrap_or(u32::MAX));
        self.metrics.streams.set(count(streams.count()));
        self.metrics.sessions.set(count(streams.credentials()));
    }
}

/// A stream that is counted.
pub(super) struct Place {
    room: Arc<Room>,
    credential: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = self.room.streams.lock();
        streams.close(self.credential);
        self.room.show(&streams);
    }
}

/// The connection below a request, to cut it: ending an answer waits for a reader who does not read.
#[derive(Clone)]
pub(super) struct Line(Arc<Connection>);

struct Connection {
    stream: std::net::TcpStream,
    asked: AtomicU32,
}

impl Line {
    pub fn cut(&self) {
        if let Err(err) = self.0.stream.shutdown(Shutdown::Both) {
            tracing::debug!(%err, "a connection of the console had ended");
        }
    }

    /// Counts a request. A connection carries one, and what came in the same packet may be answered as well;
    /// of one that asks on and on and reads nothing actix would keep every empty answer in memory.
    pub fn count(&self) {
        if self.0.asked.fetch_add(1, Ordering::Relaxed) >= MAX_REQUESTS {
            self.cut();
        }
    }
}

fn remember_line(connection: &dyn Any, data: &mut Extensions) {
    let plain = connection.downcast_ref::<TcpStream>();
    let tls = || connection.downcast_ref::<TlsStream<TcpStream>>().map(|tls| tls.get_ref().0);
    let Some(stream) = plain.or_else(tls) else { return };
    match stream.as_fd().try_clone_to_owned() {
        Ok(line) => {
            data.insert(Line(Arc::new(Connection { stream: line.into(), asked: AtomicU32::new(0) })));
        }
        Err(err) => tracing::warn!(%err, "a connection of the console cannot be cut when its reader is slow"),
    }
}

/// Serves the page on a bound listener. Await the server to run it; its handle stops it.
///
/// # Errors
/// When the listener cannot be used.
pub(super) fn serve(
    room: &Arc<Room>,
    listener: TcpListener,
    tls: Option<&ServerConfig>,
) -> std::io::Result<Server> {
    let data = Data::from(Arc::clone(room));
    let server = HttpServer::new(move || App::new().app_data(data.clone()).default_service(web::to(handle)))
        .workers(1)
        .worker_max_blocking_threads(1)
        .disable_signals()
        .shutdown_timeout(1)
        .client_request_timeout(READ_DEADLINE)
        .client_disconnect_timeout(Duration::from_secs(2))
        .tls_handshake_timeout(HANDSHAKE_DEADLINE)
        // See `Line::count`.
        .keep_alive(KeepAlive::Disabled)
        .max_connections(MAX_CONNECTIONS)
        .max_connection_rate(MAX_HANDSHAKES)
        .tcp_nodelay(true)
        .on_connect(remember_line);
    let server = match tls {
        None => server.listen(listener)?,
        Some(tls) => server.listen_rustls_0_23(listener, tls.clone())?,
    };
    Ok(server.run())
}
