//! One connection: moves bytes both ways, and nothing else. It reads again only when the actor has
//! handled what was read before.

use std::future::Future;
use std::io::IoSlice;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::listen_worker::Gate;
use super::wire::{Conn, Event, Wire};
use crate::mqtt::Reason;
use crate::mqtt::codec::{CodecError, Decoder};

/// Slices of one vectored write.
const SLICES: usize = 16;
/// Reads and writes in one poll before other tasks get their turn.
const TURNS: usize = 8;

/// A client with so much unread is not listened to: what it sends would be answered with more.
const UNWRITTEN_BYTES: usize = 256 << 10;

/// What a peer may still say that nobody listens to any more: he is about to hear why.
const IGNORED_BYTES: usize = 4 << 20;

/// All connections together have begun too many large packets.
const TOO_MUCH: CodecError = CodecError {
    reason: Reason::QUOTA_EXCEEDED,
    why: "the packets that have not arrived whole take too much memory",
    answer: None,
};

/// The task of a connection. Whatever ends it, the actor hears of it.
pub struct Pump<S> {
    pub io: S,
    pub conn: Conn,
    pub wire: Rc<Wire>,
    pub decoder: Decoder,
    pub gate: Rc<Gate>,
    pub needs_flush: bool,
    /// Nothing more can be read: a broken protocol.
    pub deaf: bool,
    /// Nothing more will be written, and the peer knows it.
    pub shut: bool,
    /// Bytes that came after that.
    pub ignored: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Pump<S> {
    /// Writes until nothing waits or the peer does not take more. `Ready`: all is written.
    fn write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        loop {
            let mut out = self.wire.out.borrow_mut();
            if out.is_empty() {
                break;
            }
            let written = {
                let mut slices = [IoSlice::new(&[]); SLICES];
                let count = out.slices(&mut slices);
                let io = Pin::new(&mut self.io);
                io.poll_write_vectored(cx, slices.get(..count).unwrap_or_default())
            };
            match written {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(count)) => {
                    out.advance(count);
                    self.needs_flush = true;
                    let wire = &self.wire;
                    wire.written.set(wire.written.get() + u64::try_from(count).unwrap_or_default());
                    if !wire.told_written.replace(true) {
                        self.gate.inbox.push(Event::Wrote(self.conn));
                    }
                }
                Poll::Ready(Err(err)) => return Poll::Ready(Err(err)),
                Poll::Pending => return Poll::Pending,
            }
        }
        if self.needs_flush {
            match Pin::new(&mut self.io).poll_flush(cx) {
                Poll::Ready(Ok(())) => self.needs_flush = false,
                other => return other,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once. `Ready(false)`: the peer is gone.
    fn read(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let mut packets = Vec::new();
        let broken = {
            let mut scratch = self.gate.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(err)) => {
                    // Not the system's: what was said is no websocket, or too much of it.
                    if err.kind() == std::io::ErrorKind::Other {
                        self.gate.metrics.refused("websocket").increment(1);
                    }
                    return Poll::Ready(false);
                }
                Poll::Ready(Ok(())) if buffer.filled().is_empty() => return Poll::Ready(false),
                Poll::Ready(Ok(())) => {
                    let count = u64::try_from(buffer.filled().len()).unwrap_or_default();
                    self.gate.metrics.received_bytes.increment(count);
                    let before = self.decoder.partial_bytes();
                    let broken = self.decoder.feed(buffer.filled(), &mut packets).err();
                    if self.gate.holds(before, self.decoder.partial_bytes()) {
                        broken
                    } else {
                        Some(TOO_MUCH)
                    }
                }
            }
        };
        self.wire.read_at_ms.set(self.gate.now_ms());
        self.deaf = broken.is_some();
        if self.deaf || !packets.is_empty() {
            self.wire.may_read.set(false);
            self.gate.inbox.push(Event::Read { conn: self.conn, packets, broken });
        }
        Poll::Ready(true)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Pump<S> {
    /// Ends the way out, then listens until the peer ends its own: closing at once would make the
    /// system throw away what the peer has not read yet, our last words with it. The actor cuts a
    /// peer that does not hear.
    fn leave(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.shut {
            match Pin::new(&mut self.io).poll_shutdown(cx) {
                Poll::Ready(Ok(())) => self.shut = true,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        for _ in 0..TURNS {
            let mut scratch = self.gate.scratch.borrow_mut();
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.io).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    self.ignored += buffer.filled().len();
                    if self.ignored > IGNORED_BYTES {
                        return Poll::Ready(());
                    }
                }
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Pump<S> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let me = self.get_mut();
        me.wire.register(cx.waker());
        for _ in 0..TURNS {
            if me.wire.cut.get() || me.gate.inbox.is_closed() {
                return Poll::Ready(());
            }
            let is_written = match me.write(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => true,
                Poll::Pending => false,
            };
            if me.wire.ending.get() {
                if !is_written {
                    return Poll::Pending;
                }
                return me.leave(cx);
            }
            let is_slow = !is_written && me.wire.out.borrow().len() > UNWRITTEN_BYTES;
            if me.deaf || is_slow || !me.wire.may_read.get() {
                return Poll::Pending;
            }
            match me.read(cx) {
                Poll::Ready(true) => {}
                Poll::Ready(false) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<S> Drop for Pump<S> {
    fn drop(&mut self) {
        self.gate.holds(self.decoder.partial_bytes(), 0);
        self.gate.inbox.push(Event::Closed(self.conn));
    }
}
