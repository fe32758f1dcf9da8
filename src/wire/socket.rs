//! The unix sockets on which gRPC is served: binding, bounds, and connections whose clients may
//! name the socket as they like.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::Stream;
use metrics::Counter;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tonic::transport::server::{Connected, UdsConnectInfo};

use super::authority::AuthorityFilter;

/// Bytes read from a connection at once.
const READ_BYTES: usize = 16_384;
/// Pause after the system refused a connection (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// HTTP/2 begins with 24 bytes and the header of a SETTINGS frame (RFC 9113 section 3.4).
const HELLO_BYTES: usize = 33;
/// Who does not say so much within this time gives its place away.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// And within this time where others wait: the hello comes with the connection.
const CROWD_GRACE: Duration = Duration::from_millis(250);
/// So many give their places away at once.
const CROWD_STEP: usize = 64;

/// A listening unix socket with a bound on its connections; the file goes with it.
#[derive(Debug)]
pub struct GrpcSocket {
    listener: UnixListener,
    path: PathBuf,
    room: Arc<Semaphore>,
    silent: Counter,
    newcomers: Newcomers,
}

/// Connections that have not said their hello, oldest first.
#[derive(Debug, Clone, Default)]
struct Newcomers(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    /// The number of the next one; none is used twice.
    next: u64,
    /// Since when each waits, and what tells it to go.
    all: BTreeMap<u64, (Instant, Arc<Notify>)>,
}

/// One of them, until it is dropped.
struct Newcomer {
    number: u64,
    all: Newcomers,
}

impl Newcomers {
    fn add(&self) -> (Newcomer, Arc<Notify>) {
        let end = Arc::new(Notify::new());
        let mut waiting = self.0.lock();
        let number = waiting.next;
        waiting.next += 1;
        waiting.all.insert(number, (Instant::now(), Arc::clone(&end)));
        (Newcomer { number, all: self.clone() }, end)
    }

    /// Ends the one that has been silent longest, if that was long enough.
    fn end_oldest(&self) {
        let mut waiting = self.0.lock();
        if let Some(oldest) = waiting.all.first_entry()
            && oldest.get().0.elapsed() >= CROWD_GRACE
        {
            // Kept for a task that does not wait for it yet.
            oldest.remove().1.notify_one();
        }
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.all.0.lock().all.remove(&self.number);
    }
}

impl GrpcSocket {
    /// Binds `path` with these permission bits, at most `connections` at once; more wait. Replaces
    /// a socket nobody listens on any more, never another kind of file.
    ///
    /// # Errors
    /// The system's, or `AlreadyExists` for a file that is no socket, `AddrInUse` when somebody
    /// listens.
    pub async fn bind(path: &Path, mode: u32, connections: usize) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) {
            fs::create_dir_all(folder)?;
            // Callers that are not root must get through to the socket, whatever the umask.
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755))?;
        }
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => {
                if UnixStream::connect(path).await.is_ok() {
                    let why = format!("another program listens on {}", path.display());
                    return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
                }
                fs::remove_file(path)?;
            }
            Ok(_) => {
                let why = format!("{} is there and is no socket", path.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(err),
        }
        let listener = UnixListener::bind(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        let room = Arc::new(Semaphore::new(connections.max(1)));
        Ok(Self {
            listener,
            path: path.to_owned(),
            room,
            silent: Counter::noop(),
            newcomers: Newcomers::default(),
        })
    }

    /// Connections that were ended because they said nothing are counted here.
    #[must_use]
    pub fn counting(mut self, silent: Counter) -> Self {
        self.silent = silent;
        self
    }

    /// The connections as they come; each waits for a place first. Never ends.
    pub fn connections(self) -> impl Stream<Item = io::Result<Accepted>> + Send {
        futures_util::stream::unfold(self, |socket| async move {
            let place = loop {
                match timeout(CROWD_GRACE, Arc::clone(&socket.room).acquire_owned()).await {
                    Ok(place) => break place.ok(),
                    // Others wait for the places of those who say nothing.
                    Err(_) => (0..CROWD_STEP).for_each(|_| socket.newcomers.end_oldest()),
                }
            };
            let stream = loop {
                match socket.listener.accept().await {
                    Ok((stream, _)) => break stream,
                    Err(err) => {
                        tracing::warn!(path = %socket.path.display(), error = %err, "no connection was accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            };
            let (newcomer, end) = socket.newcomers.add();
            let silence = async move {
                tokio::select! {
                    () = tokio::time::sleep(HELLO_WITHIN) => {}
                    () = end.notified() => {}
                }
            };
            let accepted = Accepted {
                info: stream.connect_info(),
                stream,
                filter: AuthorityFilter::default(),
                readable: BytesMut::new(),
                unheard: HELLO_BYTES,
                silence: Box::pin(silence),
                silent: socket.silent.clone(),
                newcomer: Some(newcomer),
                _place: place,
            };
            Some((Ok(accepted), socket))
        })
    }
}

impl Drop for GrpcSocket {
    fn drop(&mut self) {
        if let Err(err) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), error = %err, "socket file was not removed");
        }
    }
}

/// A connection of a [`GrpcSocket`]; holds its place until it is closed. Requests carry `I`, what is
/// known about the client, in their extensions.
pub struct Accepted<I = UdsConnectInfo> {
    info: I,
    stream: UnixStream,
    filter: AuthorityFilter,
    /// Came through the filter, not yet read.
    readable: BytesMut,
    /// Bytes of its hello that have not come, and how long they may take.
    unheard: usize,
    silence: Pin<Box<dyn Future<Output = ()> + Send>>,
    silent: Counter,
    newcomer: Option<Newcomer>,
    _place: Option<OwnedSemaphorePermit>,
}

impl<I> Accepted<I> {
    /// The socket, to ask the system who is at its other end.
    #[must_use]
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The same connection, knowing something else about its client.
    #[must_use]
    pub fn knowing<J>(self, info: J) -> Accepted<J> {
        let Self { info: _, stream, filter, readable, unheard, silence, silent, newcomer, _place } = self;
        Accepted { info, stream, filter, readable, unheard, silence, silent, newcomer, _place }
    }
}

impl<I: Clone + Send + Sync + 'static> Connected for Accepted<I> {
    type ConnectInfo = I;

    fn connect_info(&self) -> I {
        self.info.clone()
    }
}

impl<I: Unpin> AsyncRead for Accepted<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut space = [0_u8; READ_BYTES];
        while this.readable.is_empty() {
            let mut read = ReadBuf::new(&mut space);
            if Pin::new(&mut this.stream).poll_read(cx, &mut read)?.is_pending() {
                if this.unheard > 0 && this.silence.as_mut().poll(cx).is_ready() {
                    this.silent.increment(1);
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                return Poll::Pending;
            }
            this.unheard = this.unheard.saturating_sub(read.filled().len());
            if this.unheard == 0 {
                this.newcomer = None;
            }
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.filter.feed(read.filled(), &mut this.readable).map_err(io::Error::other)?;
        }
        let taken = this.readable.len().min(buf.remaining());
        buf.put_slice(&this.readable.split_to(taken));
        Poll::Ready(Ok(()))
    }
}

impl<I: Unpin> AsyncWrite for Accepted<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
