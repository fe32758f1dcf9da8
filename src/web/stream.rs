//! A connection below HTTP: plain or TLS, listened to as its [`Flow`] allows.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actix_web::rt::net::TcpStream;
use rustls::ServerConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tokio_rustls::server::TlsStream;

use super::flow::{AHEAD_BYTES, Body, Flow, Reading};
use super::lobby::{GuestLimit, Place};
use crate::telemetry::doors::Refusal;

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

trait Duplex: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Duplex for S {}

impl Io {
    fn stream(&mut self) -> Pin<&mut dyn Duplex> {
        let stream: &mut dyn Duplex = match self {
            Self::Plain(stream) => stream,
            Self::Tls(tls) => tls.as_mut(),
        };
        Pin::new(stream)
    }
}

/// What a request may say about its connection. In its `conn_data`.
#[derive(Clone)]
pub struct Line(Rc<Inner>);

struct Inner {
    flow: RefCell<Flow>,
    place: RefCell<Place>,
    /// Of the task that reads, while it may not.
    reader: Cell<Option<Waker>>,
}

impl Line {
    /// Its client is `name`: no stranger any more.
    ///
    /// # Errors
    /// [`GuestLimit`]: answer, and close.
    pub fn admit(&self, name: &str) -> Result<(), GuestLimit> {
        self.0.place.borrow_mut().admit(name)
    }

    /// Ends the connection without another word: ending an answer waits for a reader who does not read.
    pub fn cut(&self) {
        self.0.place.borrow().end.end();
    }

    pub(super) fn begin(&self, body: Body) -> InHand {
        self.0.flow.borrow_mut().begin(body);
        self.0.place.borrow_mut().turn(true);
        self.wake();
        InHand(self.clone())
    }

    fn wake(&self) {
        if let Some(waker) = self.0.reader.take() {
            waker.wake();
        }
    }
}

/// A request is in hand until this is dropped.
pub(super) struct InHand(Line);

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.0.flow.borrow_mut().end();
        self.0.0.place.borrow_mut().turn(false);
        self.0.wake();
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// For the rest of a request's head.
    Head,
    /// For the client to read.
    Reader,
}

/// Times of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    pub head: Duration,
    pub reader: Duration,
}

/// Does a client take what is written? It is not listened to while it does not.
#[derive(Debug, Default)]
pub struct Uptake {
    is_stuck: AtomicBool,
    resumed: AtomicU64,
}

impl Uptake {
    /// It takes nothing now.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.is_stuck.load(Ordering::Relaxed)
    }

    /// How often it went on taking after it took nothing more for a while: a sign of life, as it was not listened to in
    /// between.
    #[must_use]
    pub fn resumed(&self) -> u64 {
        self.resumed.load(Ordering::Relaxed)
    }
}

/// The connection.
pub struct Wire {
    io: Io,
    line: Line,
    patience: Patience,
    uptake: Arc<Uptake>,
    /// It did so since it was listened to last: who reads slowly is heard slowly.
    may_speak: bool,
    /// It has had its turn of reading in this poll.
    has_read: bool,
    timer: Option<(Waits, Pin<Box<Sleep>>)>,
}

impl Wire {
    pub(super) fn plain(stream: TcpStream, place: Place, body_bytes: usize, patience: Patience) -> Self {
        Self::new(Io::Plain(stream), place, body_bytes, patience)
    }

    pub(super) fn tls(
        stream: TlsStream<TcpStream>,
        place: Place,
        body_bytes: usize,
        patience: Patience,
    ) -> Self {
        Self::new(Io::Tls(Box::new(stream)), place, body_bytes, patience)
    }

    fn new(io: Io, place: Place, body_bytes: usize, patience: Patience) -> Self {
        let inner = Inner {
            flow: RefCell::new(Flow::new(body_bytes)),
            place: RefCell::new(place),
            reader: Cell::new(None),
        };
        let line = Line(Rc::new(inner));
        Self { io, line, patience, uptake: Arc::default(), may_speak: false, has_read: false, timer: None }
    }

    #[must_use]
    pub fn line(&self) -> Line {
        self.line.clone()
    }

    /// Of its client, from now on.
    #[must_use]
    pub fn uptake(&self) -> Arc<Uptake> {
        Arc::clone(&self.uptake)
    }

    /// The socket.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        match &self.io {
            Io::Plain(stream) => stream,
            Io::Tls(tls) => tls.get_ref().0,
        }
    }

    /// The TLS session, where there is one.
    #[must_use]
    pub fn session(&self) -> Option<&ServerConnection> {
        match &self.io {
            Io::Plain(_) => None,
            Io::Tls(tls) => Some(tls.get_ref().1),
        }
    }

    #[must_use]
    pub fn peer_address(&self) -> Option<SocketAddr> {
        self.tcp().peer_addr().ok()
    }

    fn refused(&self, why: Refusal) {
        self.line.0.place.borrow().metrics().refused(why);
    }

    /// Fails when it was ended, or its client was waited for too long.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.line.0.place.borrow().end.poll(cx).is_ready() {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let waits = if self.uptake.is_stuck() {
            Some((Waits::Reader, self.patience.reader))
        } else if self.line.0.flow.borrow().awaits_head() {
            Some((Waits::Head, self.patience.head))
        } else {
            None
        };
        let Some((what, time)) = waits else {
            self.timer = None;
            return Ok(());
        };
        if self.timer.as_ref().is_none_or(|(armed, _)| *armed != what) {
            self.timer = Some((what, Box::pin(sleep(time))));
        }
        if let Some((_, timer)) = &mut self.timer
            && timer.as_mut().poll(cx).is_ready()
        {
            self.refused(if what == Waits::Head { Refusal::Head } else { Refusal::Unread });
            return Err(io::ErrorKind::TimedOut.into());
        }
        Ok(())
    }

    /// What came of a write: progress starts the clock anew.
    fn wrote<T>(&mut self, cx: &mut Context<'_>, outcome: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match outcome {
            Poll::Pending => {
                self.uptake.is_stuck.store(true, Ordering::Relaxed);
                match self.check(cx) {
                    Ok(()) => Poll::Pending,
                    Err(err) => Poll::Ready(Err(err)),
                }
            }
            ready => {
                if self.uptake.is_stuck() {
                    self.timer = None;
                    self.uptake.resumed.fetch_add(1, Ordering::Relaxed);
                    self.uptake.is_stuck.store(false, Ordering::Relaxed);
                    self.may_speak = true;
                    // It was not read while it was stuck.
                    cx.waker().wake_by_ref();
                }
                ready
            }
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        me.check(cx)?;
        if me.uptake.is_stuck() && !std::mem::take(&mut me.may_speak) {
            // The socket wakes us when it takes more.
            return Poll::Pending;
        }
        if std::mem::replace(&mut me.has_read, false) {
            // What was read is dealt with before more is.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let reading = me.line.0.flow.borrow_mut().reading();
        let most = match reading {
            Reading::Go(most) => most.min(buffer.remaining()),
            Reading::Later => {
                me.line.0.reader.set(Some(cx.waker().clone()));
                return Poll::Pending;
            }
            Reading::TooLarge => {
                me.refused(Refusal::Head);
                return Poll::Ready(Err(io::Error::other("the head of a request is too long")));
            }
        };
        let before = buffer.filled().len();
        let outcome = if most > AHEAD_BYTES {
            me.io.stream().poll_read(cx, buffer)
        } else {
            let mut space = [0; AHEAD_BYTES];
            let mut piece = ReadBuf::new(space.get_mut(..most).unwrap_or_default());
            let outcome = me.io.stream().poll_read(cx, &mut piece);
            buffer.put_slice(piece.filled());
            outcome
        };
        let bytes = buffer.filled().len().saturating_sub(before);
        if bytes > 0 {
            me.has_read = true;
            me.line.0.flow.borrow_mut().read(bytes);
        }
        outcome
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        me.check(cx)?;
        let outcome = me.io.stream().poll_write(cx, bytes);
        me.wrote(cx, outcome)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let outcome = me.io.stream().poll_flush(cx);
        me.wrote(cx, outcome)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let outcome = me.io.stream().poll_shutdown(cx);
        me.wrote(cx, outcome)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if !self.line.0.flow.borrow().has_asked() {
            self.refused(Refusal::NoRequest);
        }
    }
}
