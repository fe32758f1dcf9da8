//! The socket mappers come to: who may call, what a call becomes, and how much at once.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tonic::transport::Server;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Status};
use tower::ServiceExt;

use super::Register;
use super::report;
use super::roster::Mapper;
use crate::bus::device_twin::{ReportRejected, ReportState, ReportTwins};
use crate::bus::{Link, LinkError};
use crate::supervise::spread;
use crate::telemetry::dmi::DmiMetrics;
use crate::telemetry::doors::{DoorMetrics, Refusal};
use crate::wire::dmi::{
    DeviceManager, ManagerServer, MapperRegisterRequest, MapperRegisterResponse, ReportDeviceStatesRequest,
    ReportDeviceStatusRequest, SOCKET_MODE,
};
use crate::wire::grpc::counting_lengths;
use crate::wire::socket::GrpcSocket;

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 128;
/// Calls in hand for one connection; more wait in it.
const CALLS_PER_CONNECTION: usize = 32;
/// Calls begun in one connection; a client's next ones wait on its side.
const STREAMS_PER_CONNECTION: u32 = 128;
/// What a mapper may send ahead of being read.
const HEADER_BYTES: u32 = 8 << 10;
const WINDOW_BYTES: u32 = 256 << 10;
/// Reports in hand for all connections; more wait.
const REPORTS: usize = 1_024;
/// How long a call waits for its turn and its answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// Pause before the socket is bound again after a failure.
const BIND_RETRY: Duration = Duration::from_secs(2);

/// Where calls go.
#[derive(Clone)]
pub struct Door {
    pub register: Link<Register>,
    pub report_twins: Link<ReportTwins>,
    pub report_state: Link<ReportState>,
    pub allowed_uids: Arc<[u32]>,
    pub metrics: DmiMetrics,
}

/// Serves until dropped.
pub async fn serve(path: PathBuf, door: Door) {
    let service = Arc::new(Service { door, room: Semaphore::new(REPORTS) });
    loop {
        match GrpcSocket::bind(&path, SOCKET_MODE, CONNECTIONS).await {
            Ok(socket) => {
                let metrics = DoorMetrics::new("dmi");
                let socket = socket.counting(metrics.counter(Refusal::NoRequest));
                let calls = ManagerServer::new(Arc::clone(&service))
                    .map_response(counting_lengths(metrics.counter(Refusal::Length)));
                tracing::info!(path = %path.display(), "mappers are served");
                // Ends never by itself; what is open when this future is dropped ends in order.
                let served = Server::builder()
                    .concurrency_limit_per_connection(CALLS_PER_CONNECTION)
                    .max_concurrent_streams(STREAMS_PER_CONNECTION)
                    .http2_max_header_list_size(HEADER_BYTES)
                    .initial_stream_window_size(WINDOW_BYTES)
                    .initial_connection_window_size(WINDOW_BYTES)
                    .timeout(2 * DEADLINE)
                    .serve_with_incoming_shutdown(
                        calls,
                        Box::pin(socket.connections()),
                        std::future::pending(),
                    )
                    .await;
                tracing::warn!(path = %path.display(), outcome = ?served, "mappers are not served any more");
            }
            Err(err) => {
                tracing::error!(path = %path.display(), error = %err, "mappers cannot be served: the socket was not bound");
            }
        }
        tokio::time::sleep(spread(BIND_RETRY, fastrand::f64())).await;
    }
}

struct Service {
    door: Door,
    room: Semaphore,
}

impl Service {
    /// Only root and edgecore's own user, unless configured otherwise: a report sets values in the
    /// cloud, a registration takes devices over.
    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let peer = request.extensions().get::<UdsConnectInfo>().and_then(|info| info.peer_cred);
        let uid = peer.map(|peer| peer.uid());
        if uid.is_some_and(|uid| self.door.allowed_uids.contains(&uid)) {
            return Ok(());
        }
        self.door.metrics.refused.increment(1);
        let shown = uid.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string());
        tracing::warn!(uid = %shown, pid = ?peer.and_then(|peer| peer.pid()), "a caller of the DMI was refused");
        Err(Status::permission_denied(format!(
            "user id {shown} may not use the DMI: add it to modules.deviceTwin.dmiAllowedUids of edgecore.yaml"
        )))
    }

    async fn measured<T>(
        &self,
        call: &'static str,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let started = Instant::now();
        let result = work.await;
        self.door.metrics.record(call, started.elapsed(), result.is_ok());
        if let Err(status) = &result {
            tracing::debug!(call, code = ?status.code(), error = status.message(), "a mapper's call failed");
        }
        result
    }

    /// Gives a report to DeviceTwin and waits until it is durable.
    async fn hand_over<M>(&self, link: &Link<M>, message: M) -> Result<(), Status>
    where
        M: actix::Message<Result = Result<(), ReportRejected>> + Send + 'static,
    {
        let started = Instant::now();
        let Ok(Ok(_place)) = tokio::time::timeout(DEADLINE, self.room.acquire()).await else {
            return Err(too_much());
        };
        let left = DEADLINE.saturating_sub(started.elapsed());
        match link.ask(message, left).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(err @ ReportRejected::UnknownDevice(_))) => Err(Status::not_found(err.to_string())),
            Ok(Err(err @ ReportRejected::Invalid(_))) => Err(Status::invalid_argument(err.to_string())),
            Ok(Err(err @ ReportRejected::NotStored(_))) => Err(Status::unavailable(err.to_string())),
            Err(LinkError::Full { .. } | LinkError::Timeout { .. }) => Err(too_much()),
            Err(err @ LinkError::Lost { .. }) => Err(Status::unavailable(err.to_string())),
        }
    }
}

fn too_much() -> Status {
    Status::resource_exhausted(format!(
        "edgecore could not store the report within {} s: send it again, and report less often (a longer reportCycle) \
         or fewer properties at once",
        DEADLINE.as_secs()
    ))
}

impl DeviceManager for Service {
    async fn register(
        &self,
        request: Request<MapperRegisterRequest>,
    ) -> Result<MapperRegisterResponse, Status> {
        self.admit(&request)?;
        self.measured("MapperRegister", async {
            let MapperRegisterRequest { with_data, mapper } = request.into_inner();
            let info = mapper.ok_or_else(|| Status::invalid_argument("mapper: is missing"))?;
            let mapper = Mapper::from_info(info).map_err(Status::invalid_argument)?;
            match self.door.register.ask(Register { mapper, with_data }, DEADLINE).await {
                Ok(Ok(listing)) => Ok(listing),
                Ok(Err(why)) => Err(Status::unavailable(why)),
                Err(err) => Err(Status::unavailable(err.to_string())),
            }
        })
        .await
    }

    async fn report_status(&self, request: Request<ReportDeviceStatusRequest>) -> Result<(), Status> {
        self.admit(&request)?;
        self.measured("ReportDeviceStatus", async {
            let message = report::twins(request.into_inner()).map_err(Status::invalid_argument)?;
            self.hand_over(&self.door.report_twins, message).await
        })
        .await
    }

    async fn report_states(&self, request: Request<ReportDeviceStatesRequest>) -> Result<(), Status> {
        self.admit(&request)?;
        self.measured("ReportDeviceStates", async {
            let message = report::state(request.into_inner()).map_err(Status::invalid_argument)?;
            self.hand_over(&self.door.report_state, message).await
        })
        .await
    }
}
