//! The API on a socket: actix-web over TLS, client certificates or bearer tokens.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderMap;
use ::http::{HeaderName, HeaderValue, Method};
use actix_http::ConnectionType;
use actix_web::dev::{Extensions, Server};
use actix_web::web::to;
use actix_web::web::{Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures_util::StreamExt;
use rustls::ServerConfig;

use super::bodies::{Bodies, Held, Incoming};
use super::body::{MAX_BODY_BYTES, too_large};
use super::core::ApiCore;
use super::errors::ApiError;
use super::service::{ApiBody, ApiRequest, ApiResponse, failed, refuse};
use crate::identity::PeerIdentity;
use crate::model::Reason;
use crate::web::{self, Limits, Line, Lobby, Slices, Wire};

/// How long a client may keep the server waiting, and the other way round.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// A client has this long to send its request head, and again its body.
    pub read: Duration,
    /// A request is answered within this; a watch begins within it.
    pub answer: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self { read: Duration::from_secs(20), answer: Duration::from_secs(60) }
    }
}

const KEEP_ALIVE: Duration = Duration::from_secs(90);
/// A client that reads nothing for so long is cut: watches are told something every few seconds.
const READER_DEADLINE: Duration = Duration::from_secs(15);
/// Connections at once; a watch holds one.
const MAX_CONNECTIONS: usize = 20_000;
/// Connections that have not shown credentials yet.
pub const MAX_STRANGERS: usize = 512;
/// Connections of one user.
pub const MAX_OF_ONE_USER: u32 = 256;

/// The verified identity of a connection's client, if it showed a certificate.
#[derive(Clone)]
struct Peer(Option<PeerIdentity>);

/// Serves `core` on a bound listener. Await the server to run it; its handle stops it.
///
/// # Errors
/// When the listener cannot be used.
pub fn serve(
    core: &Arc<ApiCore>,
    listener: TcpListener,
    tls: &ServerConfig,
    deadlines: Deadlines,
    lobby: &Arc<Lobby>,
) -> std::io::Result<Server> {
    let data = Data::from(Arc::clone(core));
    let bodies = Data::new(Bodies::default());
    let limits = Limits {
        workers: 1,
        connections: MAX_CONNECTIONS,
        head: deadlines.read,
        reader: READER_DEADLINE,
        keep_alive: KEEP_ALIVE,
        body_bytes: MAX_BODY_BYTES,
        websockets: false,
    };
    web::serve(listener, Some(tls), limits, lobby, remember_peer, move |app| {
        app.app_data(data.clone())
            .app_data(bodies.clone())
            .app_data(Data::new(deadlines))
            .default_service(to(handle));
    })
}

fn remember_peer(wire: &Wire, data: &mut Extensions) {
    let leaf = wire.session().and_then(|session| session.peer_certificates()).and_then(<[_]>::first);
    let Some(leaf) = leaf else { return };
    match PeerIdentity::from_der(leaf) {
        Ok(peer) => {
            data.insert(Peer(Some(peer)));
        }
        Err(err) => {
            tracing::warn!(%err, "client certificate cannot be read");
            data.insert(Peer(None));
        }
    }
}

async fn handle(
    request: HttpRequest,
    payload: Payload,
    core: Data<ApiCore>,
    bodies: Data<Bodies>,
    deadlines: Data<Deadlines>,
) -> HttpResponse {
    let core = core.into_inner();
    // Bytes that are no HTTP follow, or the connection is what there are too many of.
    let mut ends = wants_upgrade(&request);
    let bodies = bodies.into_inner();
    let mut answer = match receive(&request, payload, &core, &bodies, deadlines.read).await {
        Ok((received, _held)) => match tokio::time::timeout(deadlines.answer, core.call(received)).await {
            Ok(response) => to_actix(response),
            Err(_) => {
                let late = ApiError::new(Reason::Timeout, "the request was not answered in time");
                failed(&late, request.method(), request.path());
                to_actix(refuse(&late))
            }
        },
        Err(err) => {
            ends |= err.status.is(Reason::TooManyRequests);
            core.refused_early(&err);
            failed(&err, request.method(), request.path());
            to_actix(refuse(&err))
        }
    };
    if ends {
        answer.head_mut().set_connection_type(ConnectionType::Close);
    }
    answer
}

async fn receive(
    request: &HttpRequest,
    payload: Payload,
    core: &ApiCore,
    bodies: &Arc<Bodies>,
    deadline: Duration,
) -> Result<(ApiRequest, Option<Held>), ApiError> {
    let headers = headers_of(request);
    let authorization = match headers.get(::http::header::AUTHORIZATION) {
        None => None,
        Some(value) => Some(value.to_str().map_err(|_| ApiError::unauthorized())?),
    };
    let peer = match request.conn_data::<Peer>() {
        Some(Peer(None)) => return Err(ApiError::unauthorized()),
        Some(Peer(Some(peer))) => Some(peer),
        None => None,
    };
    let user = core.authenticate(peer, authorization)?;
    if let (Some(user), Some(line)) = (&user, request.conn_data::<Line>()) {
        line.admit(&user.name).map_err(|limit| ApiError::new(Reason::TooManyRequests, limit.to_string()))?;
    }
    // Strangers do not get to send bodies, and what follows the head of an upgrade is none.
    let (body, held) = match &user {
        Some(user) if !wants_upgrade(request) => {
            let (body, held) = read_body(request, payload, bodies.begin(&user.name), deadline).await?;
            (body, Some(held))
        }
        _ => (Bytes::new(), None),
    };
    let method = Method::from_bytes(request.method().as_str().as_bytes())
        .map_err(|_| ApiError::method_not_allowed())?;
    let path = request.uri().path().to_owned();
    let query = request.query_string().to_owned();
    Ok((ApiRequest { method, path, query, headers, body, user }, held))
}

/// `kubectl exec` and its like ask for another protocol on this connection.
fn wants_upgrade(request: &HttpRequest) -> bool {
    request.headers().contains_key("upgrade")
}

fn headers_of(request: &HttpRequest) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in request.headers() {
        let name = HeaderName::from_bytes(name.as_str().as_bytes());
        let value = HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

async fn read_body(
    request: &HttpRequest,
    mut payload: Payload,
    mut incoming: Incoming,
    deadline: Duration,
) -> Result<(Bytes, Held), ApiError> {
    let announced = request.headers().get("content-length").and_then(|value| value.to_str().ok());
    if announced.and_then(|text| text.parse::<usize>().ok()).is_some_and(|size| size > MAX_BODY_BYTES) {
        return Err(too_large());
    }
    let read = async {
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|err| ApiError::bad_request(format!("the body ended early: {err}")))?;
            incoming.push(&chunk)?;
        }
        Ok(incoming.whole())
    };
    match tokio::time::timeout(deadline, read).await {
        Ok(body) => body,
        Err(_) => Err(ApiError::new(Reason::Timeout, "the body did not arrive in time")),
    }
}

fn to_actix(response: ApiResponse) -> HttpResponse {
    let status = actix_web::http::StatusCode::from_u16(response.status.as_u16())
        .unwrap_or(actix_web::http::StatusCode::INTERNAL_SERVER_ERROR);
    let mut builder = HttpResponse::build(status);
    for (name, value) in &response.headers {
        builder.append_header((name.as_str(), value.as_bytes()));
    }
    match response.body {
        ApiBody::Full(bytes) => builder.body(Slices::new(bytes, ())),
        ApiBody::Stream(lines) => builder.streaming(lines.map(Ok::<_, std::convert::Infallible>)),
    }
}
