//! The server of one door: takes connections, shakes hands, and gives requests to the door's handlers.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive};
use actix_service::{IntoServiceFactory, ServiceFactoryExt, map_config};
use actix_web::body::{BodySize, MessageBody};
use actix_web::dev::{AppConfig, Extensions, Server, Service, ServiceRequest, fn_factory};
use actix_web::http::header;
use actix_web::rt::net::TcpStream;
use actix_web::web::ServiceConfig;
use actix_web::{App, Error};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use nix::sys::socket::sockopt::{RcvBuf, SndBuf};
use nix::sys::socket::{Backlog, listen, setsockopt};
use rustls::ServerConfig;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::flow::Body;
use super::lobby::{Lobby, Place};
use super::stream::{InHand, Line, Patience, Wire};
use crate::telemetry::doors::Refusal;

/// A client has this long for the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// After a refusal a client has this long to hear it before the connection is cut.
const LINGER: Duration = Duration::from_secs(2);
/// So much of a hello is waited for, bytes; the rest comes with it.
const HELLO: usize = 512;
/// Between two looks at a hello of which a part has come.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// HTTP/1.1 is what is spoken (RFC 7301).
const ALPN: &[u8] = b"http/1.1";
/// Connections that wait in the system.
const BACKLOG: i32 = 1_024;
/// What the system may keep of a connection in each direction.
const SOCKET_BYTES: usize = 256 << 10;
/// What may stand between a connection that is taken and its place.
const SPARE: usize = 128;

/// What a door allows.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub workers: usize,
    /// Connections in all.
    pub connections: usize,
    /// A client has this long for a request's head.
    pub head: Duration,
    /// A client that reads nothing for so long is cut.
    pub reader: Duration,
    /// Between two requests; zero: a connection has one.
    pub keep_alive: Duration,
    /// Largest body that is taken, bytes.
    pub body_bytes: usize,
    /// Are requests upgraded to websockets here?
    pub websockets: bool,
}

/// Serves `routes` on a bound listener. `remember` puts what the door wants to know of a connection into
/// its requests' `conn_data`; the [`Line`] is there already. Await the server to run it; its handle stops it.
///
/// # Errors
/// When the listener cannot be used.
pub fn serve(
    listener: TcpListener,
    tls: Option<&ServerConfig>,
    limits: Limits,
    lobby: &Arc<Lobby>,
    remember: fn(&Wire, &mut Extensions),
    routes: impl Fn(&mut ServiceConfig) + Clone + Send + 'static,
) -> io::Result<Server> {
    let acceptor = tls.map(|tls| {
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![ALPN.to_vec()];
        TlsAcceptor::from(Arc::new(tls))
    });
    // The standard library asks for 128: a fleet that comes back at once needs more.
    if let Err(err) = Backlog::new(BACKLOG).and_then(|most| listen(&listener, most)) {
        tracing::debug!(error = %err, "the line before a door stays short");
    }
    // Connections inherit it. By itself the system keeps megabytes for each that is not read.
    let narrow = setsockopt(&listener, SndBuf, &SOCKET_BYTES)
        .and_then(|()| setsockopt(&listener, RcvBuf, &SOCKET_BYTES));
    if let Err(err) = narrow {
        tracing::debug!(error = %err, "the buffers of a door's connections stay large");
    }
    let lobby = Arc::clone(lobby);
    let builder = Server::build()
        .workers(limits.workers)
        .worker_max_blocking_threads(1)
        .max_concurrent_connections(limits.connections + SPARE)
        .shutdown_timeout(1)
        .disable_signals();
    let websockets = limits.websockets;
    let builder = builder.listen("http", listener, move || {
        let (acceptor, lobby, routes) = (acceptor.clone(), Arc::clone(&lobby), routes.clone());
        let app = App::new()
            .wrap_fn(move |request, service| {
                let in_hand = begin(&request, websockets);
                let work = service.call(request);
                async move { Ok(work.await?.map_body(|_, body| Answer { body, _in_hand: in_hand })) }
            })
            .configure(move |config: &mut ServiceConfig| routes(config));
        let app = app.into_factory().map_err(|err: Error| err.error_response());
        let http = HttpService::build()
            .keep_alive(if limits.keep_alive.is_zero() {
                KeepAlive::Disabled
            } else {
                KeepAlive::Timeout(limits.keep_alive)
            })
            .client_request_timeout(limits.head)
            .client_disconnect_timeout(LINGER)
            .on_connect_ext(move |wire: &Wire, data: &mut Extensions| {
                data.insert(wire.line());
                remember(wire, data);
            })
            .h1(map_config(app, |()| AppConfig::default()));
        let entrance = fn_factory(move || {
            let entrance = Entrance { acceptor: acceptor.clone(), lobby: Arc::clone(&lobby), limits };
            async move { Ok::<_, ()>(entrance) }
        });
        entrance.and_then(http)
    })?;
    Ok(builder.run())
}

fn begin(request: &ServiceRequest, websockets: bool) -> Option<InHand> {
    let line = request.conn_data::<Line>()?;
    let headers = request.headers();
    let body = if websockets && headers.contains_key(header::UPGRADE) {
        Body::Endless
    } else if headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
    {
        Body::Some
    } else {
        Body::None
    };
    Some(line.begin(body))
}

/// An answer; its request is in hand as long as there is more of it.
struct Answer<B> {
    body: B,
    _in_hand: Option<InHand>,
}

impl<B: MessageBody + Unpin> MessageBody for Answer<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_next(cx)
    }
}

/// From a TCP connection to one that may speak.
struct Entrance {
    acceptor: Option<TlsAcceptor>,
    lobby: Arc<Lobby>,
    limits: Limits,
}

impl Service<TcpStream> for Entrance {
    type Response = (Wire, Option<SocketAddr>);
    type Error = DispatchError;
    type Future = LocalBoxFuture<'static, Result<Self::Response, DispatchError>>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), DispatchError>> {
        self.lobby.poll_room(cx).map(Ok)
    }

    fn call(&self, stream: TcpStream) -> Self::Future {
        let (acceptor, lobby, limits) = (self.acceptor.clone(), Arc::clone(&self.lobby), self.limits);
        Box::pin(async move {
            let place = lobby.enter().await;
            // Small answers must not wait for company.
            if let Err(err) = stream.set_nodelay(true) {
                tracing::debug!(error = %err, "TCP_NODELAY");
            }
            let wire = meet(stream, acceptor, place, limits).await.map_err(DispatchError::Io)?;
            let peer = wire.peer_address();
            Ok((wire, peer))
        })
    }
}

/// Waits until a client has said its whole hello, or what is certainly none.
async fn hello(stream: &TcpStream) -> io::Result<()> {
    let mut seen = [0; HELLO];
    loop {
        stream.readable().await?;
        let count = match stream.peek(&mut seen).await {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(err) => return Err(err),
        };
        // A record of type handshake, its version, its length (RFC 8446 section 5.1).
        let whole = match seen.get(..count) {
            Some([0x16, _, _, high, low, ..]) => 5 + usize::from(u16::from_be_bytes([*high, *low])),
            Some([0x16, ..]) => HELLO,
            _ => 0,
        };
        if count >= whole.min(HELLO) {
            return Ok(());
        }
        // There is something to read until somebody reads it.
        sleep(LOOK_AGAIN).await;
    }
}

async fn meet(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    place: Place,
    limits: Limits,
) -> io::Result<Wire> {
    // HTTP says so itself where it can, first.
    let patience = Patience { head: limits.head + Duration::from_secs(1), reader: limits.reader };
    let Some(acceptor) = acceptor else {
        return Ok(Wire::plain(stream, place, limits.body_bytes, patience));
    };
    let end = Arc::clone(&place.end);
    let mut place = place;
    let handshake = timeout(HANDSHAKE, async {
        hello(&stream).await?;
        // From here on it waits for us as much as we for it: a fleet that comes back at once is no crowd.
        place.turn(true);
        let shaken = acceptor.accept(stream).await;
        place.turn(false);
        shaken
    });
    let shaken = tokio::select! {
        shaken = handshake => shaken,
        () = end.ended() => return Err(io::ErrorKind::ConnectionAborted.into()),
    };
    match shaken {
        Ok(Ok(stream)) => Ok(Wire::tls(stream, place, limits.body_bytes, patience)),
        Ok(Err(err)) => {
            place.metrics().refused(Refusal::Handshake);
            tracing::debug!(error = %err, "TLS handshake failed");
            Err(err)
        }
        Err(_) => {
            place.metrics().refused(Refusal::Handshake);
            Err(io::ErrorKind::TimedOut.into())
        }
    }
}
