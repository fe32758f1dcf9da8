//! Console: serves the web page of this program, reading only. What it shows comes from a [`Feed`]:
//! cloudcore's watches the Kubernetes API as the visitor, edgecore's asks its own actors.
//!
//! Each open page is one stream, fed by a task on the server's thread. A slow reader waits in nobody's
//! way but his own, and is cut off.

mod answer_worker;
mod server_worker;
mod stream_worker;

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_web::dev::ServerHandle;
use rustls::ServerConfig;

use self::server_worker::{Room, serve};
use crate::bus::identity::Credentials;
use crate::console::feed::Feed;
use crate::identity::{ClientAuth, NodeCredentials, ReloadableServerTls};
use crate::telemetry::console::ConsoleMetrics;

/// Name in the tree.
pub const NAME: &str = "Console";
/// Pause before the socket is served again after a failure.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The console cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("modules.console.bindAddress: cannot listen on {address}")]
pub struct ConsoleError {
    pub address: String,
    pub source: std::io::Error,
}

/// A bound listener: bound before the tree starts, so that a taken port is an error at start, and a
/// restarted console keeps its port.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: TcpListener,
    address: SocketAddr,
}

impl ConsoleSocket {
    /// # Errors
    /// [`ConsoleError`] names key and address.
    pub fn bind(address: &str) -> Result<Self, ConsoleError> {
        let fail = |source| ConsoleError { address: address.to_owned(), source };
        let listener = TcpListener::bind(address).map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        Ok(Self { listener, address })
    }

    /// Where it listens; tells the port when port 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Can only this machine reach it?
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }
}

/// Who protects what travels to the browser.
pub enum Tls {
    Off,
    /// Whoever made it renews it.
    On(Arc<ServerConfig>),
    /// With the certificate of this node, from when it has one.
    Node(Credentials),
}

/// What the actor is made of.
pub struct ConsoleParts {
    pub socket: ConsoleSocket,
    pub tls: Tls,
    pub feed: Arc<dyn Feed>,
    pub metrics: ConsoleMetrics,
}

/// The actor.
pub struct Console {
    socket: ConsoleSocket,
    tls: Tls,
    /// Made of [`Tls::Node`].
    node_tls: Option<ReloadableServerTls>,
    room: Arc<Room>,
    server: Option<ServerHandle>,
    /// Counts servers: the end of an older one is expected.
    generation: u64,
}

impl Console {
    #[must_use]
    pub fn new(parts: ConsoleParts) -> Self {
        let ConsoleParts { socket, tls, feed, metrics } = parts;
        let secure = !matches!(tls, Tls::Off);
        let room = Arc::new(Room::new(feed, socket.address(), secure, metrics));
        Self { socket, tls, node_tls: None, room, server: None, generation: 0 }
    }

    fn serve(&mut self, ctx: &mut Context<Self>) {
        self.stop_server();
        self.generation += 1;
        let tls = match (&self.tls, &self.node_tls) {
            (Tls::Off, _) => None,
            (Tls::On(config), _) => Some(Arc::clone(config)),
            (Tls::Node(_), Some(tls)) => Some(tls.config()),
            (Tls::Node(_), None) => return,
        };
        let served = self.socket.listener.try_clone();
        match served.and_then(|listener| serve(&self.room, listener, tls.as_deref())) {
            Ok(server) => {
                self.server = Some(server.handle());
                let generation = self.generation;
                // Not in the context: after a panic it must still be polled to take the stop command.
                let ended = actix_web::rt::spawn(server);
                ctx.spawn(ended.into_actor(self).map(move |_, console, ctx| {
                    if generation == console.generation {
                        console.ended("it ended", ctx);
                    }
                }));
                let scheme = if tls.is_some() { "https" } else { "http" };
                tracing::info!(url = %format!("{scheme}://{}/console/", self.socket.address), "console listens");
            }
            Err(err) => self.ended(&err.to_string(), ctx),
        }
    }

    /// The server ended by itself: serve again.
    fn ended(&mut self, why: &str, ctx: &mut Context<Self>) {
        tracing::error!(why, "the console stopped listening, starting again");
        ctx.run_later(RETRY_AFTER, Self::serve);
    }

    fn stop_server(&mut self) {
        if let Some(server) = self.server.take() {
            // The command is sent by the call; nobody needs to wait for the end.
            drop(server.stop(false));
        }
    }

    /// Takes the node's newest certificate, and each that follows, where it serves with the node's.
    fn follow(&mut self, ctx: &mut Context<Self>) {
        let Tls::Node(credentials) = &self.tls else { return };
        let mut credentials = credentials.clone();
        let newest = credentials.borrow_and_update().clone();
        if let Some(newest) = newest {
            self.certify(&newest, ctx);
        }
        let changed = async move { credentials.changed().await.is_ok() };
        ctx.spawn(changed.into_actor(self).map(|there, console, ctx| {
            if there {
                console.follow(ctx);
            }
        }));
    }

    fn certify(&mut self, newest: &NodeCredentials, ctx: &mut Context<Self>) {
        let taken = match &self.node_tls {
            Some(tls) => tls.replace(&newest.svid),
            None => ReloadableServerTls::new(&newest.svid, &newest.roots_pem, ClientAuth::None).map(|tls| {
                self.node_tls = Some(tls);
                self.serve(ctx);
            }),
        };
        if let Err(err) = taken {
            tracing::error!(%err, "the console cannot use the node's certificate");
        }
    }
}

impl Actor for Console {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.serve(ctx);
        self.follow(ctx);
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        self.stop_server();
    }
}

impl Supervised for Console {
    /// Streams end with the server; pages open them again.
    fn restarting(&mut self, _: &mut Context<Self>) {
        self.stop_server();
    }
}

crate::handles!(Console);
