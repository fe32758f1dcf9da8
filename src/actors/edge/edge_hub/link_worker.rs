//! One websocket: dial, then read and write until something ends it. Frames and bytes only; the
//! actor decides what they mean.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use actix::Addr;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::HeaderValue;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WebSocketError, Message, Utf8Bytes};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::clock::http_date;
use super::credential_files::Identity;
use super::https_worker::{beside_fresh, connect};
use super::pulse::Pulse;
use super::{EdgeHub, Received, Written};
use crate::config::EdgeHubConfig;
use crate::identity::client_tls;
use crate::model::{Body, Envelope, NodeName, Resource, group, operation, source, unix_ms};
use crate::wire::counted::{Counted, Flow};
use crate::wire::extensions;
use crate::wire::frame::{self, MAX_FRAME_BYTES, MAX_MESSAGE_BYTES};

/// How long a fresh attempt beside the patient one may take.
const FRESH_ATTEMPT: Duration = Duration::from_secs(3);
/// Looks at the pulse of a link within the time in which it is dead without one.
const LOOKS: u32 = 12;

/// What is read and written. What it counts is a sign of life.
pub type Stream = WebSocketStream<Counted<TlsStream<TcpStream>>>;

/// A connection after its handshake.
pub struct Dialled {
    pub stream: Stream,
    /// Bytes read from it so far.
    pub flow: Arc<Flow>,
    /// The cloud offered the resync extension too.
    pub resync: bool,
    /// The cloud offered the identity extension too: it renews over the session.
    pub identity: bool,
    /// The cloud offered the report extension too, and so did we.
    pub report: bool,
    /// The cloud's clock, if it tells.
    pub date: Option<SystemTime>,
}

/// Why there is no session.
#[derive(Debug)]
pub struct NotDialled {
    pub why: String,
    /// The cloud was reached and does not take this certificate.
    pub refused: bool,
}

impl From<String> for NotDialled {
    fn from(why: String) -> Self {
        // What a peer says that verified our certificate and did not like it (RFC 8446, 6.2).
        let refused = why.contains("received fatal alert: ")
            && ["Certificate", "AccessDenied", "UnknownCA"].iter().any(|word| why.contains(word));
        Self { why, refused }
    }
}

/// Who dials, and where.
#[derive(Clone, Copy)]
pub struct Dialling<'a> {
    pub config: &'a EdgeHubConfig,
    pub node: &'a NodeName,
    pub identity: &'a Identity,
    /// Of this process.
    pub instance: &'a str,
}

/// Without anything from the other side for so long the link is dead.
#[must_use]
pub fn patience(config: &EdgeHubConfig) -> Duration {
    let seconds = config.websocket.read_deadline.max(config.heartbeat.max(1).saturating_mul(2));
    Duration::from_secs(seconds)
}

/// How the pump talks to the actor, and how patient it is.
pub struct PumpSettings {
    pub session: u64,
    pub hub: Addr<EdgeHub>,
    pub metrics: crate::telemetry::edge_hub::EdgeHubMetrics,
    pub heartbeat: Duration,
    pub write_deadline: Duration,
    /// Without anything read, or a pong, for so long the link is dead ([`Pulse`]).
    pub idle: Duration,
    pub flow: Arc<Flow>,
}

/// Opens a session for `node`.
///
/// One patient attempt has the whole handshake timeout, which a slow link may need ([`beside_fresh`]).
///
/// # Errors
/// What went wrong, for the log.
pub async fn dial(dialling: Dialling<'_>) -> Result<Dialled, NotDialled> {
    let websocket = &dialling.config.websocket;
    let deadline = Duration::from_secs(websocket.handshake_timeout.max(1));
    let patient = async {
        timeout(deadline, handshake(dialling)).await.unwrap_or_else(|_| {
            Err(format!("no connection to {} within {deadline:?}", websocket.server).into())
        })
    };
    beside_fresh(patient, FRESH_ATTEMPT, || handshake(dialling)).await
}

async fn handshake(dialling: Dialling<'_>) -> Result<Dialled, NotDialled> {
    let Dialling { config, node, identity, instance } = dialling;
    let server = &config.websocket.server;
    let (host, port) = server
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
        .ok_or_else(|| format!("modules.edgeHub.websocket.server: {server:?} is not host:port"))?;
    let url = format!("wss://{server}/{}/{node}/events", config.project_id);
    let mut request = url
        .as_str()
        .into_client_request()
        .map_err(|err| format!("cannot make a request for {url}: {err}"))?;
    let headers = request.headers_mut();
    let value = |text: &str| HeaderValue::from_str(text).map_err(|_| format!("{text:?} fits no header"));
    headers.insert("node_id", value(node.as_str())?);
    headers.insert("project_id", value(&config.project_id)?);
    headers.insert("ConnectionUse", HeaderValue::from_static("msg"));
    let reports = config.report_interval_secs > 0;
    let mut offered = vec![extensions::ACK_WINDOW, extensions::RESYNC, extensions::IDENTITY];
    offered.extend(reports.then_some(extensions::REPORT));
    headers.insert(extensions::HEADER, value(&offered.join(","))?);
    headers.insert(extensions::INSTANCE_HEADER, value(instance)?);
    headers.insert(extensions::SILENCE_HEADER, patience(config).as_secs().into());

    let held = &identity.credentials;
    let tls = client_tls(&held.roots_pem, Some(&held.svid)).map_err(|err| err.to_string())?;
    let flow = Arc::new(Flow::default());
    let inner = connect(host.trim_matches(['[', ']']), port, Arc::clone(&tls)).await?;
    let stream = Counted::new(inner, Arc::clone(&flow));
    let limits = WebSocketConfig::default()
        .read_buffer_size(8 << 10)
        .write_buffer_size(8 << 10)
        // Messages, and answers to the cloud's pings that it does not read.
        .max_write_buffer_size(2 * MAX_FRAME_BYTES)
        .max_frame_size(Some(MAX_FRAME_BYTES))
        .max_message_size(Some(MAX_FRAME_BYTES));
    let (stream, response) = client_async_with_config(request, stream, Some(limits))
        .await
        .map_err(|err| not_upgraded(server, err))?;
    let accepted = response.headers().get_all(extensions::HEADER);
    let names = accepted.iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    let names: Vec<&str> = names.map(str::trim).collect();
    let date = response.headers().get(http::header::DATE);
    Ok(Dialled {
        stream,
        flow,
        resync: names.contains(&extensions::RESYNC),
        identity: names.contains(&extensions::IDENTITY),
        report: reports && names.contains(&extensions::REPORT),
        date: date.and_then(|date| date.to_str().ok()).and_then(http_date),
    })
}

fn not_upgraded(server: &str, err: WebSocketError) -> NotDialled {
    let WebSocketError::Http(response) = &err else {
        return format!("websocket with {server}: {err}").into();
    };
    let status = response.status();
    let text = String::from_utf8_lossy(response.body().as_deref().unwrap_or_default()).into_owned();
    let text: String = text.trim().chars().take(200).collect();
    NotDialled {
        why: format!("websocket with {server}: {status}: {text}"),
        refused: matches!(status.as_u16(), 401 | 403),
    }
}

/// Reads and writes until the link ends; says why it did. Dropping the sender of `outgoing` closes
/// it in order.
pub async fn pump(stream: Stream, outgoing: mpsc::Receiver<Vec<Bytes>>, settings: PumpSettings) -> String {
    let (sink, source) = stream.split();
    let pulse = Mutex::new(Pulse::new(settings.idle, Instant::now()));
    tokio::select! {
        why = read(source, &pulse, &settings) => why,
        why = write(sink, outgoing, &pulse, &settings) => why,
    }
}

async fn read(
    mut source: impl StreamExt<Item = Result<Message, WebSocketError>> + Unpin,
    pulse: &Mutex<Pulse>,
    settings: &PumpSettings,
) -> String {
    loop {
        let raw: Bytes = match timeout(settings.idle / LOOKS, source.next()).await {
            Err(_) => match pulse.lock().judge(settings.flow.read.load(Ordering::Relaxed), Instant::now()) {
                Some(why) => return why,
                None => continue,
            },
            Ok(None | Some(Ok(Message::Close(_)))) => return "the cloud closed it".to_owned(),
            Ok(Some(Err(err))) => return broken(err),
            Ok(Some(Ok(Message::Text(text)))) => text.into(),
            Ok(Some(Ok(Message::Binary(bytes)))) => bytes,
            Ok(Some(Ok(Message::Pong(_)))) => {
                pulse.lock().answered();
                continue;
            }
            Ok(Some(Ok(Message::Ping(_) | Message::Frame(_)))) => continue,
        };
        settings.metrics.received.increment(1);
        let envelope = match frame::decode(&raw, MAX_MESSAGE_BYTES) {
            Ok(envelope) => envelope,
            Err(err) => {
                settings.metrics.bad_frames.increment(1);
                tracing::warn!(error = %err, bytes = raw.len(), "skipped a frame from the cloud");
                continue;
            }
        };
        // Waiting for the actor is the back-pressure: meanwhile nothing more is read.
        let message = Received { session: settings.session, envelope, bytes: raw.len() };
        if settings.hub.send(message).await.is_err() {
            return "the hub restarts".to_owned();
        }
    }
}

/// Why the stream broke. A killed program ends TCP without ending TLS: everyday, not an I/O error.
fn broken(err: WebSocketError) -> String {
    match err {
        WebSocketError::Io(err) if err.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the cloud closed the connection without a word".to_owned()
        }
        WebSocketError::Io(err) => err.to_string(),
        err => err.to_string(),
    }
}

async fn write(
    mut sink: impl SinkExt<Message, Error = WebSocketError> + Unpin,
    mut outgoing: mpsc::Receiver<Vec<Bytes>>,
    pulse: &Mutex<Pulse>,
    settings: &PumpSettings,
) -> String {
    let mut beat = interval(settings.heartbeat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (messages, from_hub) = tokio::select! {
            biased;
            _ = beat.tick() => match keepalive() {
                // A Go cloud says nothing unasked, but its library answers pings: the pong is the
                // sign of life that a half-open link does not give.
                Ok(text) => (vec![text, Message::Ping(Bytes::new())], false),
                Err(why) => return why,
            },
            batch = outgoing.recv() => match batch.map(texts) {
                Some(Ok(messages)) => (messages, true),
                Some(Err(why)) => return why,
                None => {
                    // The peer may be gone already; either way this ends.
                    timeout(settings.write_deadline, sink.close()).await.ok();
                    return "this side closed it".to_owned();
                }
            },
        };
        let texts = messages.iter().filter(|message| message.is_text()).count() as u64;
        let asks = messages.iter().any(Message::is_ping);
        let work = async {
            for message in messages {
                sink.feed(message).await?;
            }
            sink.flush().await
        };
        match while_moving(work, &settings.flow.written, settings.write_deadline).await {
            Some(Ok(())) => {}
            Some(Err(err)) => return broken(err),
            None => return format!("nothing was written for {:?}", settings.write_deadline),
        }
        if asks {
            pulse.lock().asked(Instant::now());
        }
        settings.metrics.sent.increment(texts);
        if from_hub && settings.hub.send(Written { session: settings.session }).await.is_err() {
            return "the hub restarts".to_owned();
        }
    }
}

/// The outcome of `work`, however long it takes, or `None` when nothing more was written for `deadline` (at most twice
/// that): on a slow link a message of a megabyte takes a minute.
async fn while_moving<T>(
    work: impl Future<Output = T>,
    written: &AtomicU64,
    deadline: Duration,
) -> Option<T> {
    let mut work = pin!(work);
    loop {
        let before = written.load(Ordering::Relaxed);
        match timeout(deadline, &mut work).await {
            Ok(outcome) => return Some(outcome),
            Err(_) if written.load(Ordering::Relaxed) != before => {}
            Err(_) => return None,
        }
    }
}

fn texts(frames: Vec<Bytes>) -> Result<Vec<Message>, String> {
    let text = |frame: Bytes| Utf8Bytes::try_from(frame).map(Message::Text).map_err(|err| err.to_string());
    frames.into_iter().map(text).collect()
}

/// The message that says that this edge is there.
pub(crate) fn keepalive() -> Result<Message, String> {
    let body = Body::Text("ping".to_owned());
    let beat = Envelope::new(
        source::EDGE_HUB,
        group::RESOURCE,
        operation::KEEPALIVE,
        Resource::Keepalive,
        body,
        unix_ms(SystemTime::now()),
    );
    let bytes = frame::encode(&beat).map_err(|err| err.to_string())?;
    Utf8Bytes::try_from(Bytes::from(bytes)).map(Message::Text).map_err(|err| err.to_string())
}
