//! The two HTTPS listeners: websocket sessions and the join server.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_http::ws::Codec;
use actix_web::dev::{Server, ServerHandle};
use actix_web::http::header::HeaderValue;
use actix_web::{HttpRequest, HttpResponse, web};
use actix_web_actors::ws;
use metrics::Counter;

use super::budget::Budgets;
use super::connection_worker::{Connection, remember};
use super::handshake::{self, Asked};
use super::issuer_worker::Issuer;
use super::join::{Denied, MAX_BODY_BYTES};
use super::join_worker::{JoinServer, serve};
use super::pump_actor::{Incoming, Pump};
use super::{NotOpened, OpenSession};
use crate::bus::Link;
use crate::telemetry::doors::DoorMetrics;
use crate::telemetry::identity::Refused;
use crate::web::{Limits, Line, Lobby};
use crate::wire::extensions;
use crate::wire::frame::MAX_MESSAGE_BYTES;

const OPEN_DEADLINE: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two requests of one connection.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// A joining machine that reads nothing for so long is cut. A session has its own deadline for writing.
const READER_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that have no session yet, or want to join.
const STRANGERS: usize = 512;
/// Connections of one node: the newest, and those that it is about to replace.
const OF_ONE_NODE: u32 = 8;

/// What an upgrade needs.
#[derive(Clone)]
pub struct Door {
    pub open: Link<OpenSession>,
    pub issuer: Arc<Issuer>,
    pub budgets: Budgets,
    /// Messages of nodes that waited for their turn.
    pub held: Counter,
    /// And those that waited in vain.
    pub dropped: Counter,
}

/// Starts the websocket listener. `nodes` connections and some more are accepted.
///
/// # Errors
/// When the listener cannot be used.
pub fn websocket(
    listener: TcpListener,
    tls: &rustls::ServerConfig,
    door: Door,
    nodes: u32,
    write_timeout: Duration,
) -> io::Result<ServerHandle> {
    let workers = std::thread::available_parallelism().map_or(2, usize::from).min(4);
    let limits = Limits {
        workers,
        connections: nodes as usize + STRANGERS,
        head: HEADER_TIMEOUT,
        // The session's deadline comes first.
        reader: write_timeout.saturating_mul(2),
        keep_alive: KEEP_ALIVE,
        body_bytes: 0,
        websockets: true,
    };
    let lobby = Lobby::new(STRANGERS, OF_ONE_NODE, DoorMetrics::new("cloudhub"));
    let server = crate::web::serve(listener, Some(tls), limits, &lobby, remember, move |app| {
        app.app_data(web::Data::new(door.clone())).default_service(web::to(upgrade));
    })?;
    Ok(run(server, "websocket"))
}

/// Starts the join listener.
///
/// # Errors
/// When the listener cannot be used.
pub fn join(
    listener: TcpListener,
    tls: &rustls::ServerConfig,
    state: Arc<JoinServer>,
) -> io::Result<ServerHandle> {
    let data = web::Data::from(state);
    let limits = Limits {
        workers: 1,
        connections: STRANGERS,
        head: HEADER_TIMEOUT,
        reader: READER_TIMEOUT,
        keep_alive: KEEP_ALIVE,
        body_bytes: MAX_BODY_BYTES,
        websockets: false,
    };
    let lobby = Lobby::new(STRANGERS, OF_ONE_NODE, DoorMetrics::new("join"));
    let server = crate::web::serve(listener, Some(tls), limits, &lobby, remember, move |app| {
        app.app_data(data.clone()).default_service(web::to(serve));
    })?;
    Ok(run(server, "join"))
}

fn run(server: Server, name: &'static str) -> ServerHandle {
    let handle = server.handle();
    actix::spawn(async move {
        if let Err(err) = server.await {
            tracing::error!(listener = name, error = %err, "listener failed");
        }
    });
    handle
}

async fn upgrade(request: HttpRequest, payload: web::Payload, door: web::Data<Door>) -> HttpResponse {
    let refuse = |code: u16, why: String| {
        let peer = request.peer_addr().map(tracing::field::display);
        tracing::info!(peer, code, why, "session refused");
        let code = actix_web::http::StatusCode::from_u16(code).unwrap_or_default();
        HttpResponse::build(code).force_close().content_type("text/plain; charset=utf-8").body(why)
    };
    let deny = |subject: &str, denied: Denied| {
        door.issuer.refused(subject, &denied, request.peer_addr());
        refuse(denied.code, denied.why)
    };
    let Some(connection) = request.conn_data::<Arc<Connection>>().cloned() else {
        return refuse(403, "no client certificate".to_owned());
    };
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let asked = Asked {
        connection_use: header("ConnectionUse"),
        node_id: header("node_id"),
        extensions: header(extensions::HEADER),
        instance: header(extensions::INSTANCE_HEADER),
        silence: header(extensions::SILENCE_HEADER),
    };
    let identity = connection.peer.as_ref().map(|peer| &peer.identity);
    let accepted = match handshake::admit(identity, &asked) {
        Ok(accepted) => accepted,
        Err(why) => {
            let reason = match &why {
                handshake::Refused::NotANode => Refused::Chain,
                handshake::Refused::OtherNode { .. } => Refused::OtherNode,
                handshake::Refused::ConnectionUse => return refuse(why.code(), why.to_string()),
            };
            let subject = identity.map(|peer| peer.common_name.as_str()).unwrap_or_default();
            return deny(subject, Denied::new(why.code(), reason, why.to_string()));
        }
    };
    if let Err(denied) = door.issuer.revoked().await {
        return deny(accepted.node.as_str(), denied);
    }
    // Before the upgrade: whoever only asks, as keadm doctor does, hears it too.
    let admitted = connection.peer.as_ref().map(|peer| door.issuer.admit(&accepted.node, peer));
    if let Some(Err(denied)) = admitted {
        return deny(accepted.node.as_str(), denied);
    }
    if let Some(line) = request.conn_data::<Line>()
        && let Err(limit) = line.admit(accepted.node.as_str())
    {
        return refuse(429, limit.to_string());
    }
    let mut response = match ws::handshake(&request) {
        Ok(response) => response,
        Err(err) => return refuse(400, err.to_string()),
    };
    let extensions = accepted.extensions;
    let subject = accepted.node.as_str().to_owned();
    let budget = door.budgets.of(&accepted.node, Instant::now());
    let message = OpenSession {
        node: accepted.node,
        extensions,
        instance: accepted.instance,
        silence: accepted.silence,
        connection,
    };
    let opened = match door.open.ask(message, OPEN_DEADLINE).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(NotOpened::Denied(denied))) => return deny(&subject, denied),
        Ok(Err(limit @ NotOpened::NodeLimit(_))) => return refuse(503, limit.to_string()),
        Err(err) => return refuse(503, err.to_string()),
    };
    let pump = Pump {
        frames: Some(opened.frames),
        pipe: opened.pipe,
        from_edge: opened.from_edge,
        moved: opened.moved,
        broken: opened.broken,
        budget,
        held: door.held.clone(),
        dropped: door.dropped.clone(),
        partial: None,
        heard: Rc::default(),
    };
    if let Some(list) = handshake::extensions_header(extensions)
        && let Ok(list) = HeaderValue::from_str(&list)
    {
        response.insert_header((extensions::HEADER, list));
    }
    let incoming = Incoming::new(payload, Rc::clone(&pump.heard), Arc::clone(&pump.pipe));
    let codec = Codec::new().max_size(MAX_MESSAGE_BYTES);
    response.streaming(ws::WebsocketContext::with_codec(pump, incoming, codec))
}
