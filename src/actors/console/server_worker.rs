//! The socket: limits and deadlines before anything of a request is looked at.

use std::hash::{BuildHasher, RandomState};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::web::{Data, to};
use parking_lot::Mutex;
use rustls::ServerConfig;

use super::answer_worker::{MAX_BODY, handle};
use crate::console::door::Hosts;
use crate::console::feed::Feed;
use crate::console::page::Pages;
use crate::console::sign_in::{Token, Tries};
use crate::console::stream::Streams;
use crate::telemetry::console::ConsoleMetrics;
use crate::telemetry::doors::DoorMetrics;
use crate::web::{self, Limits, Lobby};

/// A client has this long for a request head, and again for its body.
pub(super) const READ_DEADLINE: Duration = Duration::from_secs(5);
/// A reader that takes nothing for so long is cut; that of a stream sooner, by the stream.
const READER_DEADLINE: Duration = Duration::from_secs(20);
/// Between two requests of one connection.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Connections at once; an open page holds two.
const MAX_CONNECTIONS: usize = 256;
/// Connections without a stream.
const MAX_STRANGERS: usize = 128;
/// Connections with a stream, of one credential.
const MAX_OF_ONE: u32 = 64;
/// Open streams.
const MAX_STREAMS: usize = 64;

/// What all connections share.
pub(super) struct Room {
    pub feed: Arc<dyn Feed>,
    pub pages: Pages,
    pub hosts: Hosts,
    pub lobby: Arc<Lobby>,
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
            lobby: Lobby::new(MAX_STRANGERS, MAX_OF_ONE, DoorMetrics::new("console")),
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

impl Place {
    /// Whose it is, for counting.
    pub fn name(&self) -> String {
        self.credential.to_string()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut streams = self.room.streams.lock();
        streams.close(self.credential);
        self.room.show(&streams);
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
    let limits = Limits {
        workers: 1,
        connections: MAX_CONNECTIONS,
        head: READ_DEADLINE,
        reader: READER_DEADLINE,
        keep_alive: KEEP_ALIVE,
        body_bytes: MAX_BODY,
        websockets: false,
    };
    web::serve(
        listener,
        tls,
        limits,
        &room.lobby,
        |_, _| {},
        move |app| {
            app.app_data(data.clone()).default_service(to(handle));
        },
    )
}
