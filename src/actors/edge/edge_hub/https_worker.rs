//! Requests to the cloud's join server: one connection each, with a deadline and a size limit.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::{interval, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::clock::http_date;
use super::join_error::JoinError;

/// A bundle holds a public key for each node of the trust domain; a certificate is 1 KiB.
const MAX_RESPONSE_BYTES: usize = 4 << 20;
const DEFAULT_PORT: u16 = 10002;
/// How long a fresh attempt to connect may take.
const FRESH_CONNECT: Duration = Duration::from_secs(2);

/// One request. Go's servers take the CSR as the body of a GET.
pub struct Call<'a> {
    pub tls: Arc<ClientConfig>,
    pub method: Method,
    pub path: &'a str,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

impl<'a> Call<'a> {
    pub fn get(tls: Arc<ClientConfig>, path: &'a str) -> Self {
        Self { tls, method: Method::GET, path, headers: Vec::new(), body: Bytes::new() }
    }
}

/// What the server said.
#[derive(Debug)]
pub struct Answer {
    pub body: Bytes,
    /// Its clock, if it tells.
    pub date: Option<SystemTime>,
}

/// Sends `call` to `https://host[:port]`.
///
/// # Errors
/// [`JoinError::Refused`] for any status but 200, [`JoinError::Http`] without an answer,
/// [`JoinError::BadServer`] when `server` is no such URL.
pub async fn send(server: &str, deadline: Duration, call: Call<'_>) -> Result<Answer, JoinError> {
    let url = format!("{}{}", server.trim_end_matches('/'), call.path);
    let uri: Uri = url.parse().map_err(|err| JoinError::BadServer(format!("{url:?}: {err}")))?;
    if uri.scheme_str() != Some("https") {
        return Err(JoinError::BadServer(format!("{url:?} does not begin with https://")));
    }
    let Some(host) = uri.host() else {
        return Err(JoinError::BadServer(format!("{url:?} names no host")));
    };
    let http = |why: String| JoinError::Http { url: url.clone(), why };
    let mut request = Request::builder().method(call.method).uri(uri.path()).header("Host", host);
    for (name, value) in &call.headers {
        request = request.header(*name, value);
    }
    let request = request.body(Full::new(call.body)).map_err(|err| http(err.to_string()))?;
    let port = uri.port_u16().unwrap_or(DEFAULT_PORT);
    let exchange = async {
        let stream = connect(host.trim_matches(['[', ']']), port, call.tls).await?;
        exchange(stream, request).await
    };
    let (status, answer) = timeout(deadline, exchange)
        .await
        .map_err(|_| http(format!("no answer within {deadline:?}")))?
        .map_err(http)?;
    if status != StatusCode::OK {
        let text: String = String::from_utf8_lossy(&answer.body).trim().chars().take(200).collect();
        return Err(JoinError::Refused { url, status, text });
    }
    Ok(answer)
}

async fn exchange(
    stream: TlsStream<TcpStream>,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Answer), String> {
    let text = |err: hyper::Error| err.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(text)?;
        let status = response.status();
        let date = response.headers().get(http::header::DATE);
        let date = date.and_then(|date| date.to_str().ok()).and_then(http_date);
        let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES);
        let body = body.collect().await.map_err(|err| err.to_string())?;
        Ok((status, Answer { body: body.to_bytes(), date }))
    };
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

/// The patient attempt, or the first of the fresh ones beside it that succeeds. They follow each other, each `every`
/// long: when packets were dropped without a word, an attempt that began before the link came back waits for
/// retransmissions that are far apart by then (a SYN's after 1, 2, 4, 8 and 16 seconds); a fresh one does not.
///
/// # Errors
/// Why the patient one failed.
pub async fn beside_fresh<T, E, F>(
    patient: impl Future<Output = Result<T, E>>,
    every: Duration,
    attempt: impl Fn() -> F,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let fresh = async {
        let mut turn = interval(every);
        turn.tick().await;
        loop {
            turn.tick().await;
            if let Ok(Ok(made)) = timeout(every, attempt()).await {
                return made;
            }
        }
    };
    tokio::select! {
        outcome = patient => outcome,
        made = fresh => Ok(made),
    }
}

/// TCP and TLS to `host:port`. The caller bounds the time.
pub async fn connect(host: &str, port: u16, tls: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, String> {
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no host name or address"))?;
    let dial = || TcpStream::connect((host, port));
    let socket = beside_fresh(dial(), FRESH_CONNECT, dial)
        .await
        .map_err(|err| format!("connect {host}:{port}: {err}"))?;
    socket.set_nodelay(true).map_err(|err| err.to_string())?;
    TlsConnector::from(tls).connect(name, socket).await.map_err(|err| {
        let text = err.to_string();
        // The one mistake that looks like an attack: say what it is.
        let hint = if text.contains("not valid yet") {
            ": this machine's clock is probably behind"
        } else if text.contains("certificate expired") {
            ": this machine's clock is probably ahead, or the cloud's certificate was not renewed"
        } else {
            ""
        };
        format!("tls with {host}:{port}: {text}{hint}")
    })
}
