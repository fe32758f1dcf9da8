//! The websocket side of a session: frames in, frames out, nothing decided. actix-web does not
//! poll this actor while its client is slow, so deadlines live in the session.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::{Duration, Instant};

use actix::prelude::*;
use actix_http::ws::Item;
use actix_web::error::PayloadError;
use actix_web_actors::ws;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, stream};
use metrics::Counter;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::budget::Budget;
use super::frames::Frames;
use super::session_worker::{Broken, FromEdge, Pipe, PipeMoved};
use crate::bus::Link;
use crate::bus::cloud_hub::EndReason;
use crate::wire::frame::{self, MAX_MESSAGE_BYTES, WireError};

/// Written at once. Larger messages become fragments (RFC 6455 section 5.4).
const PIECE_BYTES: usize = 32 << 10;
/// A part of a message so large, or a whole one, is a sign of life: a byte now and then is none.
const SIGN_OF_LIFE: usize = 8 << 10;
/// For a session to take one message.
const TAKE_DEADLINE: Duration = Duration::from_secs(10);

/// The actor. Dropping it tells the session.
pub struct Pump {
    pub frames: Option<mpsc::Receiver<Bytes>>,
    pub pipe: Arc<Pipe>,
    pub from_edge: Link<FromEdge>,
    pub moved: Link<PipeMoved>,
    pub broken: Link<Broken>,
    /// What this node says is dealt with a bit at a time, and no faster than this: others have their turn.
    pub budget: Arc<Budget>,
    /// Messages that waited for that.
    pub held: Counter,
    /// And those that waited in vain.
    pub dropped: Counter,
    /// A fragmented message under way.
    pub partial: Option<BytesMut>,
    /// Frames heard so far, whole or not.
    pub heard: Rc<Cell<u64>>,
}

/// What a node says, a frame at a time: the next one once the last was heard. actix-web-actors takes in all that is there
/// before it looks at the first frame, so a node that speaks faster than it is heard would fill memory.
pub struct Incoming<S> {
    stream: S,
    frames: Frames,
    rest: Bytes,
    given: u64,
    heard: Rc<Cell<u64>>,
    pipe: Arc<Pipe>,
    /// Bytes since the node was last heard.
    unheard: usize,
}

impl<S> Incoming<S> {
    pub fn new(stream: S, heard: Rc<Cell<u64>>, pipe: Arc<Pipe>) -> Self {
        Self {
            stream,
            frames: Frames::new(MAX_MESSAGE_BYTES),
            rest: Bytes::new(),
            given: 0,
            heard,
            pipe,
            unheard: 0,
        }
    }
}

impl<S: Stream<Item = Result<Bytes, PayloadError>> + Unpin> Stream for Incoming<S> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<S::Item>> {
        let me = self.get_mut();
        if me.given > me.heard.get() {
            // The codec has a whole frame: it comes back after that.
            return Poll::Pending;
        }
        while me.rest.is_empty() {
            match ready!(Pin::new(&mut me.stream).poll_next(cx)) {
                Some(Ok(bytes)) => {
                    me.unheard += bytes.len();
                    me.rest = bytes;
                }
                end => return Poll::Ready(end),
            }
        }
        let (size, is_end) = match me.frames.split(&me.rest) {
            Ok(piece) => piece,
            Err(long) => return Poll::Ready(Some(Err(PayloadError::Io(io::Error::other(long))))),
        };
        if is_end || me.unheard >= SIGN_OF_LIFE {
            *me.pipe.heard.lock() = Some(Instant::now());
            me.unheard = 0;
        }
        me.given += u64::from(is_end);
        Poll::Ready(Some(Ok(me.rest.split_to(size))))
    }
}

/// A frame, or a part of one, and whether it is the last.
struct Out(ws::Message, bool);

/// Frames on their way out, in pieces. The actor is not polled, so nobody is listened to, until what it wrote has gone
/// into the socket: on a slow link a large frame would keep the node's leases and keepalives waiting for a minute.
struct Pieces {
    frames: mpsc::Receiver<Bytes>,
    rest: Bytes,
    is_first: bool,
    /// Bytes since the last pause.
    given: usize,
}

impl Pieces {
    async fn next(mut self) -> Option<(Out, Self)> {
        if self.rest.is_empty() {
            self.rest = self.frames.recv().await?;
            self.is_first = true;
        }
        let size = self.rest.len().min(PIECE_BYTES);
        if self.given + size > PIECE_BYTES {
            // The connection has a turn.
            tokio::task::yield_now().await;
            self.given = 0;
        }
        self.given += size;
        let piece = self.rest.split_to(size);
        let is_last = self.rest.is_empty();
        let message = match (std::mem::take(&mut self.is_first), is_last) {
            (true, true) => match piece.try_into() {
                Ok(text) => ws::Message::Text(text),
                Err(_) => ws::Message::Nop,
            },
            (true, false) => ws::Message::Continuation(Item::FirstText(piece)),
            (false, false) => ws::Message::Continuation(Item::Continue(piece)),
            (false, true) => ws::Message::Continuation(Item::Last(piece)),
        };
        Some((Out(message, is_last), self))
    }
}

impl Pump {
    /// A whole message. `pause`: so long the node spoke too fast.
    fn receive(&mut self, bytes: &[u8], pause: Duration, ctx: &mut ws::WebsocketContext<Self>) {
        let envelope = match frame::decode(bytes, MAX_MESSAGE_BYTES) {
            Ok(envelope) => envelope,
            Err(err @ WireError::LongField { .. }) => {
                // Not a peer that lost its way: an edge without our extensions sends any topic as a resource. Ending the
                // session would only bring the message again.
                tracing::debug!(error = %err, "a message of an edge is left out");
                self.dropped.increment(1);
                return self.rest(pause, ctx);
            }
            Err(err) => return self.fail(&err.to_string(), ctx),
        };
        let (link, turns) = (self.from_edge.clone(), self.budget.turns.clone());
        let memory = envelope.body.memory().max(bytes.len());
        if pause.is_zero() && !turns.has(memory) {
            self.held.increment(1);
        }
        let dropped = self.dropped.clone();
        let taken = async move {
            if !pause.is_zero() {
                sleep(pause).await;
            }
            let Ok(turn) = timeout(TAKE_DEADLINE, turns.take(memory)).await else {
                // What came before it is not done with: the API is away. The edge says it again.
                dropped.increment(1);
                return Ok(());
            };
            link.ask(FromEdge(envelope, turn), TAKE_DEADLINE).await
        };
        // Until the session has it, nothing more is read: TCP slows the edge down.
        self.pipe.is_deaf.store(true, Ordering::Release);
        ctx.wait(taken.into_actor(self).map(|result, actor, ctx| {
            *actor.pipe.heard.lock() = Some(Instant::now());
            actor.pipe.is_deaf.store(false, Ordering::Release);
            if let Err(err) = result {
                actor.fail(&err.to_string(), ctx);
            }
        }));
    }

    fn assemble(&mut self, item: Item, pause: Duration, ctx: &mut ws::WebsocketContext<Self>) {
        let (bytes, last) = match item {
            Item::FirstText(bytes) | Item::FirstBinary(bytes) => {
                self.partial = Some(BytesMut::new());
                (bytes, false)
            }
            Item::Continue(bytes) => (bytes, false),
            Item::Last(bytes) => (bytes, true),
        };
        let Some(partial) = &mut self.partial else { return self.fail("a fragment without a start", ctx) };
        if partial.len() + bytes.len() > MAX_MESSAGE_BYTES {
            return self.fail("a fragmented message is too large", ctx);
        }
        partial.extend_from_slice(&bytes);
        if !last {
            self.rest(pause, ctx);
        } else if let Some(whole) = self.partial.take() {
            self.receive(&whole, pause, ctx);
        }
    }

    /// Nothing more is heard for so long.
    fn rest(&self, pause: Duration, ctx: &mut ws::WebsocketContext<Self>) {
        if !pause.is_zero() {
            ctx.wait(sleep(pause).into_actor(self));
        }
    }

    fn fail(&mut self, why: &str, ctx: &mut ws::WebsocketContext<Self>) {
        tracing::info!(why, "bad frame, session ends");
        self.tell(EndReason::BadFrame);
        ctx.stop();
    }

    fn tell(&self, reason: EndReason) {
        if let Err(err) = self.broken.tell(Broken(reason)) {
            tracing::trace!(error = %err, "session is over already");
        }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.tell(EndReason::Closed);
    }
}

impl Actor for Pump {
    type Context = ws::WebsocketContext<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let Some(frames) = self.frames.take() else { return ctx.stop() };
        let pieces = Pieces { frames, rest: Bytes::new(), is_first: true, given: 0 };
        ctx.add_stream(stream::unfold(pieces, Pieces::next));
    }
}

impl StreamHandler<Out> for Pump {
    fn handle(&mut self, Out(message, is_last): Out, ctx: &mut Self::Context) {
        if matches!(message, ws::Message::Nop) {
            return self.fail("our own frame is not text", ctx);
        }
        ctx.write_raw(message);
        if !is_last {
            return;
        }
        self.pipe.taken.fetch_add(1, Ordering::AcqRel);
        if self.pipe.starved.swap(false, Ordering::AcqRel)
            && let Err(err) = self.moved.tell(PipeMoved)
        {
            tracing::debug!(error = %err, "session sees it at its next turn");
        }
    }

    /// The session is over.
    fn finished(&mut self, ctx: &mut Self::Context) {
        ctx.close(None);
        ctx.stop();
    }
}

impl StreamHandler<Result<ws::Message, ws::ProtocolError>> for Pump {
    fn handle(&mut self, message: Result<ws::Message, ws::ProtocolError>, ctx: &mut Self::Context) {
        self.heard.set(self.heard.get() + 1);
        let pause = self.budget.spend(message.as_ref().map_or(0, size), Instant::now());
        if !pause.is_zero() {
            self.held.increment(1);
        }
        match message {
            Ok(ws::Message::Text(text)) => self.receive(text.as_bytes(), pause, ctx),
            Ok(ws::Message::Binary(bytes)) => self.receive(&bytes, pause, ctx),
            Ok(ws::Message::Continuation(item)) => self.assemble(item, pause, ctx),
            Ok(ws::Message::Ping(bytes)) => {
                ctx.pong(&bytes);
                self.rest(pause, ctx);
            }
            Ok(ws::Message::Pong(_) | ws::Message::Nop) => self.rest(pause, ctx),
            Ok(ws::Message::Close(reason)) => {
                ctx.close(reason);
                ctx.stop();
            }
            Err(err) => self.fail(&err.to_string(), ctx),
        }
    }
}

/// Bytes of payload.
fn size(message: &ws::Message) -> usize {
    match message {
        ws::Message::Text(text) => text.len(),
        ws::Message::Binary(bytes) | ws::Message::Ping(bytes) | ws::Message::Pong(bytes) => bytes.len(),
        ws::Message::Continuation(
            Item::FirstText(bytes) | Item::FirstBinary(bytes) | Item::Continue(bytes) | Item::Last(bytes),
        ) => bytes.len(),
        ws::Message::Close(_) | ws::Message::Nop => 0,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, StreamExt};

    use super::*;

    #[test]
    fn a_frame_is_given_when_the_one_before_was_heard() {
        let hello = [0x81, 0x02, b'h', b'i'];
        let all = [hello, hello, hello].concat();
        // Cut in the second frame's head and in the third's payload.
        let pieces = [&all[..5], &all[5..11], &all[11..]].map(|piece| Ok(Bytes::copy_from_slice(piece)));
        let heard = Rc::new(Cell::new(0));
        let mut incoming = Incoming::new(stream::iter(pieces), Rc::clone(&heard), Arc::default());
        for frame in 1..=3 {
            let mut got = Vec::new();
            while let Some(Some(Ok(piece))) = incoming.next().now_or_never() {
                got.extend_from_slice(&piece);
            }
            assert_eq!(got, hello, "frame {frame}");
            heard.set(frame);
        }
        assert!(matches!(incoming.next().now_or_never(), Some(None)), "its end");
    }
}
