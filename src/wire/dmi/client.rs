//! Clients of both services, over a unix socket.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};

use super::calls::{self, Call};
use super::messages::{
    Device, DeviceMessage, DeviceModel, MapperRegisterRequest, MapperRegisterResponse, ModelMessage,
    ObjectName, ReportDeviceStatesRequest, ReportDeviceStatusRequest,
};
use super::{MAX_LISTING_BYTES, MAX_MESSAGE_BYTES};

/// A connection, and a word when it is over: both sides of the DMI want to know at once that the
/// other has ended, not with the next call.
pub struct Dialled {
    pub channel: Channel,
    /// Resolves (with an error) when the connection is closed by either side.
    pub closed: oneshot::Receiver<()>,
}

/// Nobody serves at that path.
#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {}: {why}", path.display())]
pub struct DialError {
    pub path: PathBuf,
    pub why: String,
}

/// Connects to the unix socket at `path`. The channel never connects again by itself: a lost
/// connection is news for the caller, who dials anew.
///
/// # Errors
/// [`DialError`] when nobody listens or `deadline` passes.
pub async fn dial(path: &Path, deadline: Duration) -> Result<Dialled, DialError> {
    let failed = |why: String| DialError { path: path.to_owned(), why };
    let connected = tokio::time::timeout(deadline, UnixStream::connect(path)).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(err)) => return Err(failed(err.to_string())),
        Err(_) => return Err(failed(format!("no answer within {deadline:?}"))),
    };
    let (open, closed) = oneshot::channel();
    let once = Mutex::new(Some(Watched { stream, _open: open }));
    // The URI is only the HTTP/2 authority; the connector hands out the one connection there is.
    let endpoint = Endpoint::from_static("http://localhost");
    let connecting = endpoint.connect_with_connector(tower::service_fn(move |_: Uri| {
        let stream = once.lock().take();
        async move {
            let gone = || io::Error::new(io::ErrorKind::NotConnected, "the connection was closed");
            stream.map(TokioIo::new).ok_or_else(gone)
        }
    }));
    let channel = match tokio::time::timeout(deadline, connecting).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(err)) => return Err(failed(err.to_string())),
        Err(_) => return Err(failed(format!("no answer within {deadline:?}"))),
    };
    Ok(Dialled { channel, closed })
}

/// A stream that drops its half of `closed` with itself.
struct Watched {
    stream: UnixStream,
    _open: oneshot::Sender<()>,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
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

/// One call within `deadline`; the other side learns the deadline too.
async fn call<C: Call>(
    channel: &Channel,
    request: C::Request,
    deadline: Duration,
    max_answer: usize,
) -> Result<C::Response, Status> {
    let work = async {
        let mut grpc = tonic::client::Grpc::new(channel.clone()).max_decoding_message_size(max_answer);
        grpc.ready().await.map_err(|err| Status::unavailable(err.to_string()))?;
        let mut request = Request::new(request);
        request.set_timeout(deadline);
        let codec = tonic_prost::ProstCodec::<C::Request, C::Response>::default();
        grpc.unary(request, PathAndQuery::from_static(C::PATH), codec).await
    };
    match tokio::time::timeout(deadline, work).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(Status::deadline_exceeded(format!("no answer within {deadline:?}"))),
    }
}

/// edgecore, as a mapper sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ManagerClient {
    channel: Channel,
    deadline: Duration,
}

impl ManagerClient {
    /// `deadline` is for each call.
    #[must_use]
    pub fn new(channel: Channel, deadline: Duration) -> Self {
        Self { channel, deadline }
    }

    /// # Errors
    /// What edgecore answers, or `Unavailable` and `DeadlineExceeded`.
    pub async fn register(&self, request: MapperRegisterRequest) -> Result<MapperRegisterResponse, Status> {
        call::<calls::MapperRegister>(&self.channel, request, self.deadline, MAX_LISTING_BYTES).await
    }

    /// # Errors
    /// As [`Self::register`].
    pub async fn report_status(&self, request: ReportDeviceStatusRequest) -> Result<(), Status> {
        call::<calls::ReportDeviceStatus>(&self.channel, request, self.deadline, MAX_MESSAGE_BYTES)
            .await
            .map(drop)
    }

    /// # Errors
    /// As [`Self::register`].
    pub async fn report_states(&self, request: ReportDeviceStatesRequest) -> Result<(), Status> {
        call::<calls::ReportDeviceStates>(&self.channel, request, self.deadline, MAX_MESSAGE_BYTES)
            .await
            .map(drop)
    }
}

/// A mapper, as edgecore sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MapperClient {
    channel: Channel,
    deadline: Duration,
}

impl MapperClient {
    /// `deadline` is for each call.
    #[must_use]
    pub fn new(channel: Channel, deadline: Duration) -> Self {
        Self { channel, deadline }
    }

    async fn call<C: Call>(&self, request: C::Request) -> Result<C::Response, Status> {
        call::<C>(&self.channel, request, self.deadline, MAX_MESSAGE_BYTES).await
    }

    /// # Errors
    /// What the mapper answers, or `Unavailable` and `DeadlineExceeded`. So with all of these.
    pub async fn register_device(&self, device: Device) -> Result<(), Status> {
        self.call::<calls::RegisterDevice>(DeviceMessage { device: Some(device) }).await.map(drop)
    }

    /// # Errors
    /// See [`Self::register_device`].
    pub async fn update_device(&self, device: Device) -> Result<(), Status> {
        self.call::<calls::UpdateDevice>(DeviceMessage { device: Some(device) }).await.map(drop)
    }

    /// # Errors
    /// See [`Self::register_device`].
    pub async fn remove_device(&self, device: ObjectName) -> Result<(), Status> {
        self.call::<calls::RemoveDevice>(device).await.map(drop)
    }

    /// # Errors
    /// See [`Self::register_device`].
    pub async fn get_device(&self, device: ObjectName) -> Result<Option<Device>, Status> {
        self.call::<calls::GetDevice>(device).await.map(|answer| answer.device)
    }

    /// # Errors
    /// See [`Self::register_device`].
    pub async fn create_model(&self, model: DeviceModel) -> Result<(), Status> {
        self.call::<calls::CreateDeviceModel>(ModelMessage { model: Some(model) }).await.map(drop)
    }

    /// # Errors
    /// See [`Self::register_device`].
    pub async fn update_model(&self, model: DeviceModel) -> Result<(), Status> {
        self.call::<calls::UpdateDeviceModel>(ModelMessage { model: Some(model) }).await.map(drop)
    }

    /// # Errors
    /// See [`Self::register_device`].
    pub async fn remove_model(&self, model: ObjectName) -> Result<(), Status> {
        self.call::<calls::RemoveDeviceModel>(model).await.map(drop)
    }
}
