//! One accepted TLS connection: who the peer is, and how to end it at once.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};

use actix_web::dev::Extensions;

use crate::bus::cloud_hub::EndReason;
use crate::identity::NodePeer;
use crate::web::{Uptake, Wire};

/// Shared by the HTTP side and the session. The socket is a second handle on the connection: a
/// websocket actor that waits for a slow client is not polled any more, so only this ends it.
#[derive(Debug)]
pub struct Connection {
    /// From the verified client certificate, if there is one.
    pub peer: Option<NodePeer>,
    /// There is one, and it does not say clearly whose it is.
    pub unclear: bool,
    socket: Option<TcpStream>,
    ended: OnceLock<EndReason>,
    uptake: Arc<Uptake>,
}

impl Connection {
    /// Closes both directions at once. The first reason stays.
    pub fn end(&self, reason: EndReason) {
        self.ended.get_or_init(|| reason);
        if let Some(socket) = &self.socket
            && let Err(err) = socket.shutdown(Shutdown::Both)
        {
            tracing::debug!(error = %err, "connection was closed before");
        }
    }

    /// The other end, as long as the socket is open.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.socket.as_ref().and_then(|socket| socket.peer_addr().ok())
    }

    /// Does the other end take what is written?
    #[must_use]
    pub fn uptake(&self) -> &Uptake {
        &self.uptake
    }

    /// Why it ended, if it did.
    #[must_use]
    pub fn ended(&self) -> Option<EndReason> {
        self.ended.get().copied()
    }
}

/// Puts an `Arc<Connection>` into the connection's extensions.
pub fn remember(wire: &Wire, extensions: &mut Extensions) {
    let Some(session) = wire.session() else { return };
    let chain = session.peer_certificates().unwrap_or_default();
    let peer = (!chain.is_empty()).then(|| NodePeer::read(chain.iter().map(AsRef::as_ref)));
    let (peer, unclear) = match peer {
        None => (None, false),
        Some(Ok(peer)) => (Some(peer), false),
        Some(Err(err)) => {
            tracing::info!(error = %err, "client certificate not understood");
            (None, true)
        }
    };
    let socket = match wire.tcp().as_fd().try_clone_to_owned() {
        Ok(fd) => Some(TcpStream::from(fd)),
        Err(err) => {
            tracing::warn!(error = %err, "no second handle on a connection");
            None
        }
    };
    let (ended, uptake) = (OnceLock::new(), wire.uptake());
    extensions.insert(Arc::new(Connection { peer, unclear, socket, ended, uptake }));
}
