//! What each request gets.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::web::{Bytes, BytesMut, Data, Payload};
use actix_web::{HttpRequest, HttpResponse};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::json;

use super::server_worker::{READ_DEADLINE, Room};
use super::stream_worker::stream;
use crate::console::door::{Origin, Refused};
use crate::console::feed::{Denied, Visitor};
use crate::console::page::{HEADERS, HOME, takes_gzip};
use crate::console::sign_in::{Token, no_cookie};
use crate::web::Line;

/// Largest body taken.
pub(super) const MAX_BODY: usize = 8 << 10;
/// Largest request head taken.
const MAX_HEAD: usize = 16 << 10;
/// How long whoever knows the credentials may take.
const ADMIT_DEADLINE: Duration = Duration::from_secs(10);

/// A refusal, with words for the visitor.
pub(super) struct Refusal {
    why: Refused,
    text: String,
    retry_after: Option<Duration>,
}

impl Refusal {
    fn new(why: Refused, text: impl Into<String>) -> Self {
        Self { why, text: text.into(), retry_after: None }
    }
}

pub(super) async fn handle(request: HttpRequest, payload: Payload, room: Data<Room>) -> HttpResponse {
    let room = room.into_inner();
    let mut response = match answer(&request, payload, &room).await {
        Ok(response) => response,
        Err(refusal) => refuse(&room, &refusal),
    };
    for (name, value) in HEADERS {
        let headers = response.headers_mut();
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if !response.headers().contains_key(header::CACHE_CONTROL) {
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    room.metrics.answered(response.status().as_u16());
    response
}

fn refuse(room: &Room, refusal: &Refusal) -> HttpResponse {
    room.metrics.refused(refusal.why.label());
    let status = StatusCode::from_u16(refusal.why.status()).unwrap_or(StatusCode::FORBIDDEN);
    let mut answer = HttpResponse::build(status);
    if let Some(pause) = refusal.retry_after {
        answer.insert_header((header::RETRY_AFTER, pause.as_secs().max(1)));
    }
    if refusal.why == Refused::NoToken || refusal.why == Refused::BadToken {
        answer.insert_header((header::WWW_AUTHENTICATE, "Bearer"));
    }
    answer.json(json!({"error": refusal.text}))
}

async fn answer(request: &HttpRequest, payload: Payload, room: &Arc<Room>) -> Result<HttpResponse, Refusal> {
    let head: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if head + request.uri().to_string().len() > MAX_HEAD {
        return Err(Refusal::new(Refused::Body, "the request's head is too long"));
    }
    let host = host(request);
    if !room.hosts.admit(host.as_deref()) {
        return Err(Refusal::new(
            Refused::Host,
            "this console listens on loopback and answers to localhost and loopback addresses only",
        ));
    }
    let origin = Origin {
        host: host.as_deref(),
        origin: said(request, header::ORIGIN),
        fetch_site: said(request, HeaderName::from_static("sec-fetch-site")),
    };
    let foreign = || Refusal::new(Refused::Origin, "this request comes from another page");
    let reads = request.method() == Method::GET || request.method() == Method::HEAD;
    match request.path() {
        "/" | "/console" if reads => {
            Ok(HttpResponse::Found().insert_header((header::LOCATION, HOME)).finish())
        }
        "/console/session" => {
            if !origin.is_own() {
                return Err(foreign());
            }
            session(request, payload, room).await
        }
        "/console/stream" if request.method() == Method::GET => {
            if !origin.is_own() {
                return Err(foreign());
            }
            let visitor = visitor(request, room).await?;
            let place = room.place(&visitor.token).ok_or_else(|| Refusal {
                why: Refused::TooManyStreams,
                text: "too many consoles are open; close one".to_owned(),
                retry_after: Some(Duration::from_secs(5)),
            })?;
            let line = request.conn_data::<Line>().cloned();
            if let Some(line) = &line {
                // The place bounds it.
                line.admit(&place.name())
                    .map_err(|limit| Refusal::new(Refused::TooManyStreams, limit.to_string()))?;
            }
            Ok(stream(room, visitor, place, line))
        }
        path if reads => Ok(file(request, room, path)),
        _ => Ok(HttpResponse::MethodNotAllowed().finish()),
    }
}

/// Of a header, or of the request line where it is whole.
fn host(request: &HttpRequest) -> Option<String> {
    let of_line = || request.uri().authority().map(|authority| authority.to_string());
    text(request, header::HOST).map(str::to_owned).or_else(of_line)
}

fn text(request: &HttpRequest, name: HeaderName) -> Option<&str> {
    request.headers().get(name).and_then(|value| value.to_str().ok())
}

/// What is there but cannot be read, or twice, is not taken for absent.
fn said(request: &HttpRequest, name: HeaderName) -> Option<&str> {
    let mut all = request.headers().get_all(name);
    let first = all.next()?;
    Some(if all.next().is_some() { "" } else { first.to_str().unwrap_or_default() })
}

fn file(request: &HttpRequest, room: &Room, path: &str) -> HttpResponse {
    let Some(asset) = path.strip_prefix(HOME).and_then(|name| room.pages.find(name)) else {
        return HttpResponse::NotFound().json(json!({"error": "there is no such page"}));
    };
    let is_held = asset.is_held(text(request, header::IF_NONE_MATCH));
    let mut answer = if is_held { HttpResponse::NotModified() } else { HttpResponse::Ok() };
    answer
        .insert_header((header::ETAG, asset.etag.as_str()))
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((header::VARY, "Accept-Encoding"));
    if is_held {
        return answer.finish();
    }
    answer.insert_header((header::CONTENT_TYPE, asset.media_type));
    match &asset.gzip {
        Some(packed) if takes_gzip(text(request, header::ACCEPT_ENCODING)) => {
            answer.insert_header((header::CONTENT_ENCODING, "gzip")).body(packed.clone())
        }
        _ => answer.body(asset.plain.clone()),
    }
}

#[derive(Deserialize)]
struct SignIn {
    token: String,
}

/// `POST` signs in, `DELETE` out.
async fn session(request: &HttpRequest, payload: Payload, room: &Room) -> Result<HttpResponse, Refusal> {
    if request.method() != Method::POST && request.method() != Method::DELETE {
        return Ok(HttpResponse::MethodNotAllowed().insert_header((header::ALLOW, "POST, DELETE")).finish());
    }
    let kind = text(request, header::CONTENT_TYPE).and_then(|kind| kind.split(';').next());
    if !kind.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        return Err(Refusal::new(Refused::ContentType, "Content-Type must be application/json"));
    }
    if request.method() == Method::DELETE {
        return Ok(HttpResponse::NoContent()
            .insert_header((header::SET_COOKIE, no_cookie(room.secure)))
            .finish());
    }
    let body = read_body(payload).await?;
    // What is wrong with it is not told: it may be a token.
    let said = serde_json::from_slice::<SignIn>(&body);
    let said = said.map_err(|_| Refusal::new(Refused::Body, "the body must be {\"token\": \"..\"}"))?;
    let visitor = match Token::parse(&said.token) {
        Some(token) => admit(request, room, token).await?,
        None => return Err(wrong(request, room, "this is not a token")),
    };
    Ok(HttpResponse::NoContent()
        .insert_header((header::SET_COOKIE, visitor.token.cookie(room.secure)))
        .finish())
}

async fn visitor(request: &HttpRequest, room: &Room) -> Result<Visitor, Refusal> {
    let token = Token::of(text(request, header::AUTHORIZATION), text(request, header::COOKIE));
    match token {
        Some(token) => admit(request, room, token).await,
        None => Err(Refusal::new(Refused::NoToken, "sign in first")),
    }
}

/// Where the request comes from.
fn from(request: &HttpRequest) -> IpAddr {
    request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip())
}

/// A wrong credential: counted.
fn wrong(request: &HttpRequest, room: &Room, text: &str) -> Refusal {
    room.tries.lock().failed(from(request), Instant::now());
    Refusal::new(Refused::BadToken, text)
}

async fn admit(request: &HttpRequest, room: &Room, token: Token) -> Result<Visitor, Refusal> {
    room.tries.lock().check(from(request), Instant::now()).map_err(|pause| Refusal {
        why: Refused::TooManyTries,
        text: "too many wrong tokens from this address; wait a little".to_owned(),
        retry_after: Some(pause),
    })?;
    match tokio::time::timeout(ADMIT_DEADLINE, room.feed.admit(token)).await {
        Ok(Ok(visitor)) => Ok(visitor),
        Ok(Err(Denied::BadToken(text))) => Err(wrong(request, room, &text)),
        Ok(Err(Denied::Unavailable(text))) => Err(Refusal::new(Refused::Unavailable, text)),
        Err(_) => Err(Refusal::new(Refused::Unavailable, "the token could not be checked in time")),
    }
}

async fn read_body(mut payload: Payload) -> Result<Bytes, Refusal> {
    let read = async {
        let mut body = BytesMut::new();
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|_| Refusal::new(Refused::Body, "the body ended early"))?;
            if body.len() + chunk.len() > MAX_BODY {
                return Err(Refusal::new(Refused::Body, "the body is too long"));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    };
    match tokio::time::timeout(READ_DEADLINE, read).await {
        Ok(body) => body,
        Err(_) => Err(Refusal::new(Refused::Body, "the body did not come in time")),
    }
}
