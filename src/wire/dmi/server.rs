//! Servers of both services: from HTTP/2 requests to the methods of a trait, and the unix socket
//! they listen on.

use std::convert::Infallible;
use std::fs;
use std::future::{Future, ready};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::Stream;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::codegen::http;
use tonic::transport::server::{Connected, UdsConnectInfo};
use tonic::{Request, Response, Status};

use super::MAX_MESSAGE_BYTES;
use super::calls::{self, Call};
use super::messages::{
    DeviceMessage, Empty, MapperRegisterRequest, MapperRegisterResponse, ModelMessage, ObjectName,
    ReportDeviceStatesRequest, ReportDeviceStatusRequest,
};
use crate::wire::authority::AuthorityFilter;

/// Bytes read from a connection at once.
const READ_BYTES: usize = 16_384;

/// Pause after the system refused a connection (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// What edgecore answers to mappers. Requests carry [`UdsConnectInfo`] in their extensions.
pub trait DeviceManager: Send + Sync + 'static {
    fn register(
        &self,
        request: Request<MapperRegisterRequest>,
    ) -> impl Future<Output = Result<MapperRegisterResponse, Status>> + Send;
    fn report_status(
        &self,
        request: Request<ReportDeviceStatusRequest>,
    ) -> impl Future<Output = Result<(), Status>> + Send;
    fn report_states(
        &self,
        request: Request<ReportDeviceStatesRequest>,
    ) -> impl Future<Output = Result<(), Status>> + Send;
}

/// What a mapper answers to edgecore.
pub trait DeviceMapper: Send + Sync + 'static {
    fn register_device(
        &self,
        request: DeviceMessage,
    ) -> impl Future<Output = Result<ObjectName, Status>> + Send;
    fn update_device(&self, request: DeviceMessage) -> impl Future<Output = Result<(), Status>> + Send;
    fn remove_device(&self, request: ObjectName) -> impl Future<Output = Result<(), Status>> + Send;
    fn get_device(&self, request: ObjectName) -> impl Future<Output = Result<DeviceMessage, Status>> + Send;
    fn create_model(&self, request: ModelMessage) -> impl Future<Output = Result<ObjectName, Status>> + Send;
    fn update_model(&self, request: ModelMessage) -> impl Future<Output = Result<(), Status>> + Send;
    fn remove_model(&self, request: ObjectName) -> impl Future<Output = Result<(), Status>> + Send;
}

type Answer = BoxFuture<'static, Result<http::Response<tonic::body::Body>, Infallible>>;
type HttpRequest = http::Request<tonic::body::Body>;

/// Runs one call: decodes (bounded), calls `method`, encodes.
fn unary<C, F, W>(http: HttpRequest, method: F) -> Answer
where
    C: Call,
    F: FnOnce(Request<C::Request>) -> W + Send + 'static,
    W: Future<Output = Result<C::Response, Status>> + Send + 'static,
{
    let mut once = Some(method);
    let service = tower::service_fn(move |request: Request<C::Request>| {
        let work = once.take().map(|method| method(request));
        async move {
            match work {
                Some(work) => work.await.map(Response::new),
                None => Err(Status::internal("called twice")),
            }
        }
    });
    Box::pin(async move {
        let codec = tonic_prost::ProstCodec::<C::Response, C::Request>::default();
        let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(grpc.unary(service, http).await)
    })
}

fn unknown() -> Answer {
    Box::pin(ready(Ok(Status::unimplemented("no such call in package v1beta1").into_http())))
}

/// Serves a [`DeviceManager`].
pub struct ManagerServer<T>(Arc<T>);

impl<T> ManagerServer<T> {
    #[must_use]
    pub fn new(inner: Arc<T>) -> Self {
        Self(inner)
    }
}

impl<T> Clone for ManagerServer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: DeviceManager> tower::Service<HttpRequest> for ManagerServer<T> {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, http: HttpRequest) -> Answer {
        let to = Arc::clone(&self.0);
        match http.uri().path() {
            calls::MapperRegister::PATH => {
                unary::<calls::MapperRegister, _, _>(
                    http,
                    |request| async move { to.register(request).await },
                )
            }
            calls::ReportDeviceStatus::PATH => {
                unary::<calls::ReportDeviceStatus, _, _>(http, |request| async move {
                    to.report_status(request).await.map(|()| Empty {})
                })
            }
            calls::ReportDeviceStates::PATH => {
                unary::<calls::ReportDeviceStates, _, _>(http, |request| async move {
                    to.report_states(request).await.map(|()| Empty {})
                })
            }
            _ => unknown(),
        }
    }
}

/// Serves a [`DeviceMapper`].
pub struct MapperServer<T>(Arc<T>);

impl<T> MapperServer<T> {
    #[must_use]
    pub fn new(inner: Arc<T>) -> Self {
        Self(inner)
    }
}

impl<T> Clone for MapperServer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: DeviceMapper> tower::Service<HttpRequest> for MapperServer<T> {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, http: HttpRequest) -> Answer {
        let to = Arc::clone(&self.0);
        match http.uri().path() {
            calls::RegisterDevice::PATH => unary::<calls::RegisterDevice, _, _>(http, |request| async move {
                to.register_device(request.into_inner()).await
            }),
            calls::UpdateDevice::PATH => unary::<calls::UpdateDevice, _, _>(http, |request| async move {
                to.update_device(request.into_inner()).await.map(|()| Empty {})
            }),
            calls::RemoveDevice::PATH => unary::<calls::RemoveDevice, _, _>(http, |request| async move {
                to.remove_device(request.into_inner()).await.map(|()| Empty {})
            }),
            calls::GetDevice::PATH => unary::<calls::GetDevice, _, _>(http, |request| async move {
                to.get_device(request.into_inner()).await
            }),
            calls::CreateDeviceModel::PATH => {
                unary::<calls::CreateDeviceModel, _, _>(http, |request| async move {
                    to.create_model(request.into_inner()).await
                })
            }
            calls::UpdateDeviceModel::PATH => {
                unary::<calls::UpdateDeviceModel, _, _>(http, |request| async move {
                    to.update_model(request.into_inner()).await.map(|()| Empty {})
                })
            }
            calls::RemoveDeviceModel::PATH => {
                unary::<calls::RemoveDeviceModel, _, _>(http, |request| async move {
                    to.remove_model(request.into_inner()).await.map(|()| Empty {})
                })
            }
            _ => unknown(),
        }
    }
}

/// HTTP/2 begins with 24 bytes and the header of a SETTINGS frame (RFC 9113 section 3.4).
const HELLO_BYTES: usize = 33;
/// Who does not say so much within this time gives its place away.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// A listening unix socket with a bound on its connections; the file goes with it.
#[derive(Debug)]
pub struct DmiSocket {
    listener: UnixListener,
    path: PathBuf,
    room: Arc<Semaphore>,
}

impl DmiSocket {
    /// Binds `path` with mode 0660, at most `connections` at once; more wait. Replaces a socket
    /// nobody listens on any more, never another kind of file.
    ///
    /// # Errors
    /// The system's, or `AlreadyExists` for a file that is no socket, `AddrInUse` when somebody
    /// listens.
    pub async fn bind(path: &Path, connections: usize) -> io::Result<Self> {
        if let Some(folder) = path.parent().filter(|folder| !folder.is_dir()) {
            fs::create_dir_all(folder)?;
            // Mappers that are not root must get through to the socket, whatever the umask.
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
        fs::set_permissions(path, fs::Permissions::from_mode(0o660))?;
        let room = Arc::new(Semaphore::new(connections.max(1)));
        Ok(Self { listener, path: path.to_owned(), room })
    }
}

impl Drop for DmiSocket {
    fn drop(&mut self) {
        if let Err(err) = fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), error = %err, "socket file was not removed");
        }
    }
}

impl DmiSocket {
    /// The connections as they come; each waits for a place first. Never ends.
    pub fn connections(self) -> impl Stream<Item = io::Result<Accepted>> + Send {
        futures_util::stream::unfold(self, |socket| async move {
            let place = Arc::clone(&socket.room).acquire_owned().await.ok();
            let stream = loop {
                match socket.listener.accept().await {
                    Ok((stream, _)) => break stream,
                    Err(err) => {
                        tracing::warn!(path = %socket.path.display(), error = %err, "no connection was accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                }
            };
            let accepted = Accepted {
                stream,
                filter: AuthorityFilter::default(),
                readable: BytesMut::new(),
                unheard: HELLO_BYTES,
                silence: Box::pin(tokio::time::sleep(HELLO_WITHIN)),
                _place: place,
            };
            Some((Ok(accepted), socket))
        })
    }
}

/// A connection of a [`DmiSocket`]; holds its place until it is closed. Its client may name the
/// socket as it likes.
pub struct Accepted {
    stream: UnixStream,
    filter: AuthorityFilter,
    /// Came through the filter, not yet read.
    readable: BytesMut,
    /// Bytes of its hello that have not come, and how long they may take.
    unheard: usize,
    silence: Pin<Box<Sleep>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connected for Accepted {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Accepted {
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
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                return Poll::Pending;
            }
            this.unheard = this.unheard.saturating_sub(read.filled().len());
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

impl AsyncWrite for Accepted {
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
