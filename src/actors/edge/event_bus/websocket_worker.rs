//! MQTT over websocket (mqtt-v5.0 section 6): binary frames of the subprotocol `mqtt`, seen as a
//! stream of bytes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use futures_util::{Sink, Stream};
use http::{HeaderValue, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use super::listen_worker::{Source, Unread};
use crate::wire::counted::{Counted, Flow};

const PROTOCOL: &str = "mqtt";
const PROTOCOL_HEADER: &str = "Sec-WebSocket-Protocol";
/// Bytes of one frame we send.
const FRAME_BYTES: usize = 64 << 10;

/// A websocket whose binary frames are a stream of bytes.
pub struct WebSocketBytes<S> {
    socket: WebSocketStream<S>,
    /// Bytes that came and are not part of a message that was given out: fragments wait in the library.
    flow: Arc<Flow>,
    held: Option<Unread>,
    unread: Bytes,
    /// A ping was answered: the answer leaves before more is read, or those who never read would fill memory with them.
    owes_pong: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin + 'static> Source for WebSocketBytes<S> {
    fn known(&mut self) {
        if let Some(held) = &mut self.held {
            held.known();
        }
    }
}

/// Bytes of a control frame of a client: two, its mask, and what it says (RFC 6455 section 5.2).
fn control(payload: &[u8]) -> u64 {
    6 + payload.len() as u64
}

/// Answers the upgrade. Frames may be as large as a packet.
///
/// # Errors
/// What is wrong with the request, after it was answered.
pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    max_packet_bytes: usize,
    held: Unread,
) -> Result<WebSocketBytes<Counted<S>>, Error> {
    let flow = Arc::new(Flow::default());
    let stream = Counted::new(stream, Arc::clone(&flow));
    let limits = WebSocketConfig::default()
        .read_buffer_size(4 << 10)
        .write_buffer_size(0)
        .max_write_buffer_size(1 << 20)
        .max_frame_size(Some(max_packet_bytes))
        .max_message_size(Some(max_packet_bytes));
    let socket = accept_hdr_async_with_config(stream, choose_protocol, Some(limits)).await?;
    flow.read.store(0, Ordering::Relaxed);
    Ok(WebSocketBytes { socket, flow, held: Some(held), unread: Bytes::new(), owes_pong: false })
}

// The size of the error is the library's choice.
#[allow(clippy::result_large_err)]
fn choose_protocol(request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let offered = request.headers().get_all(PROTOCOL_HEADER);
    let mut names = offered.iter().filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(','));
    if names.any(|name| name.trim() == PROTOCOL) {
        response.headers_mut().insert(PROTOCOL_HEADER, HeaderValue::from_static(PROTOCOL));
        return Ok(response);
    }
    let mut refusal = ErrorResponse::new(Some("the subprotocol must be mqtt".to_owned()));
    *refusal.status_mut() = StatusCode::BAD_REQUEST;
    Err(refusal)
}

fn broken(err: Error) -> io::Error {
    match err {
        Error::Io(err) => err,
        other => io::Error::other(other.to_string()),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for WebSocketBytes<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        while me.unread.is_empty() {
            if me.owes_pong {
                ready!(Pin::new(&mut me.socket).poll_flush(cx)).map_err(broken)?;
                me.owes_pong = false;
            }
            let next = Pin::new(&mut me.socket).poll_next(cx);
            let mut given = 0;
            match &next {
                Poll::Ready(Some(Ok(Message::Binary(bytes)))) => {
                    me.flow.read.store(0, Ordering::Relaxed);
                    given = bytes.len();
                }
                Poll::Ready(Some(Ok(Message::Ping(said) | Message::Pong(said)))) => {
                    // Nobody else counts meanwhile: this task reads.
                    let before = me.flow.read.load(Ordering::Relaxed);
                    me.flow.read.store(before.saturating_sub(control(said)), Ordering::Relaxed);
                }
                _ => {}
            }
            let came = usize::try_from(me.flow.read.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
            if me.held.as_mut().is_some_and(|held| !held.is_now(came.saturating_add(given))) {
                return Poll::Ready(Err(io::Error::other("fragments that take too much memory")));
            }
            match ready!(next) {
                Some(Ok(Message::Binary(bytes))) => me.unread = bytes,
                Some(Ok(Message::Close(_))) | None => return Poll::Ready(Ok(())),
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::other("a text frame")));
                }
                // The library answers pings.
                Some(Ok(Message::Ping(_))) => me.owes_pong = true,
                Some(Ok(_)) => {}
                Some(Err(err)) => return Poll::Ready(Err(broken(err))),
            }
        }
        let count = me.unread.len().min(buffer.remaining());
        buffer.put_slice(me.unread.get(..count).unwrap_or_default());
        me.unread.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WebSocketBytes<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        ready!(Pin::new(&mut me.socket).poll_ready(cx)).map_err(broken)?;
        let frame = bytes.get(..bytes.len().min(FRAME_BYTES)).unwrap_or_default();
        let message = Message::Binary(Bytes::copy_from_slice(frame));
        Pin::new(&mut me.socket).start_send(message).map_err(broken)?;
        Poll::Ready(Ok(frame.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx).map_err(broken)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_close(cx).map_err(broken)
    }
}

#[cfg(test)]
impl<S> WebSocketBytes<S> {
    /// The other end, for tests.
    pub fn of_client(socket: WebSocketStream<S>) -> Self {
        Self { socket, flow: Arc::default(), held: None, unread: Bytes::new(), owes_pong: false }
    }
}
