//! The socket of the Workload API: where it stands, who may come in, and what a call becomes.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::{Stream, StreamExt};
use metrics::Counter;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tonic::transport::Server;
use tonic::{Request, Status};
use tower::ServiceExt;

use super::attest_worker::Attestor;
use super::origins::{Origins, Surplus, Visit};
use super::peer_worker::Peer;
use super::refusal::Refusal;
use super::stream_worker::{self, Content};
use super::view::View;
use super::workload::{Grant, Workload, grants};
use super::{IssueJwt, IssueX509};
use crate::bus::Link;
use crate::bus::identity::{AuditAction, AuditFact, audit};
use crate::identity::{SpiffeId, verify_jwt_svid};
use crate::supervise::spread;
use crate::telemetry::doors::{self, DoorMetrics};
use crate::telemetry::workload::WorkloadMetrics;
use crate::wire::grpc::counting_lengths;
use crate::wire::socket::{Accepted, GrpcSocket};
use crate::wire::workload::{
    Answers, Everything, JwtBundlesResponse, JwtSvid, JwtSvidRequest, JwtSvidResponse, SOCKET_MODE,
    ValidateJwtSvidRequest, ValidateJwtSvidResponse, WorkloadApi, WorkloadServer, X509BundlesResponse,
    X509SvidResponse, claims_struct,
};

/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 2_048;
/// Of one container, or of one process outside of any: a node's 110 pods together cannot take all.
const CONNECTIONS_PER_ORIGIN: usize = 16;
/// Calls in hand for one connection; more wait in it.
const CALLS_PER_CONNECTION: usize = 16;
/// What a client may send ahead: questions are small.
const HEADER_BYTES: u32 = 8 << 10;
const WINDOW_BYTES: u32 = 64 << 10;
/// Until an answer begins, from the whole question on: longer than what it takes to know a caller and to sign.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Streams and calls begun in one connection; a client's next ones wait on its side.
const STREAMS_PER_CONNECTION: u32 = 128;
/// Streams of all connections.
const STREAMS: usize = 2_048;
/// Of one container, or of one process outside of any.
const STREAMS_PER_ORIGIN: usize = 512;
/// Callers looked at at once.
const ATTESTING: usize = 16;
/// How long a caller waits to be known.
const ATTEST_DEADLINE: Duration = Duration::from_secs(10);
/// How long a signature may take, its turn included.
pub const ISSUE_DEADLINE: Duration = Duration::from_secs(10);
/// Pause before the socket is bound again after a failure.
const BIND_RETRY: Duration = Duration::from_secs(2);
/// Audiences of one token, and the longest of them, bytes.
const MAX_AUDIENCES: usize = 32;
const MAX_AUDIENCE_BYTES: usize = 1_024;
/// The mode of the socket's folder.
const FOLDER_MODE: u32 = 0o755;

/// What the service needs.
pub struct Door {
    pub attestor: Arc<dyn Attestor>,
    pub view: watch::Receiver<Arc<View>>,
    pub x509: Link<IssueX509>,
    pub jwt: Link<IssueJwt>,
    pub audit: Link<AuditFact>,
    pub metrics: WorkloadMetrics,
}

/// Serves until dropped.
pub async fn serve(path: PathBuf, door: Door) {
    let api = Arc::new(Api(Arc::new(Service::new(door))));
    loop {
        match bind(&path).await {
            Ok(socket) => {
                tracing::info!(path = %path.display(), "workloads are given identities");
                let metrics = DoorMetrics::new("workload_api");
                let socket = socket.counting(metrics.counter(doors::Refusal::NoRequest));
                let origins = Origins::new(CONNECTIONS_PER_ORIGIN);
                let calls = WorkloadServer::new(Arc::clone(&api))
                    .map_response(counting_lengths(metrics.counter(doors::Refusal::Length)));
                // Ends never by itself; what is open when this future is dropped ends in order.
                let served = Server::builder()
                    .concurrency_limit_per_connection(CALLS_PER_CONNECTION)
                    .max_concurrent_streams(STREAMS_PER_CONNECTION)
                    .http2_max_header_list_size(HEADER_BYTES)
                    .initial_stream_window_size(WINDOW_BYTES)
                    .initial_connection_window_size(WINDOW_BYTES)
                    .timeout(ANSWER_DEADLINE)
                    .serve_with_incoming_shutdown(
                        calls,
                        Box::pin(known(socket, origins, metrics.counter(doors::Refusal::GuestLimit))),
                        std::future::pending(),
                    )
                    .await;
                tracing::warn!(path = %path.display(), outcome = ?served, "workloads are not served any more");
            }
            Err(err) => {
                tracing::error!(path = %path.display(), error = %err, "identity.workloadApiSocket was not bound: workloads get no identity");
            }
        }
        tokio::time::sleep(spread(BIND_RETRY, fastrand::f64())).await;
    }
}

async fn bind(path: &Path) -> io::Result<GrpcSocket> {
    let owned = path.to_owned();
    tokio::task::spawn_blocking(move || prepare_folder(&owned)).await.map_err(io::Error::other)??;
    GrpcSocket::bind(path, SOCKET_MODE, CONNECTIONS).await
}

/// Makes the socket's folder, or checks the one that is there: pods see all of it, so it must be
/// ours and hold nothing else. Blocking.
///
/// # Errors
/// The system's, or which file or owner is wrong.
fn prepare_folder(path: &Path) -> io::Result<()> {
    let wrong = |why: String| io::Error::new(io::ErrorKind::InvalidInput, why);
    let folder = path.parent().ok_or_else(|| wrong(format!("{} has no folder", path.display())))?;
    fs::create_dir_all(folder)?;
    let meta = fs::symlink_metadata(folder)?;
    if !meta.is_dir() {
        return Err(wrong(format!("{} is no folder", folder.display())));
    }
    let own = nix::unistd::geteuid().as_raw();
    if meta.uid() != own {
        let owner = meta.uid();
        return Err(wrong(format!("{} belongs to user {owner} and not to user {own}", folder.display())));
    }
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if Some(entry.file_name().as_os_str()) != path.file_name() {
            return Err(wrong(format!(
                "{} would be shown to pods: give identity.workloadApiSocket a folder of its own",
                entry.path().display()
            )));
        }
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(FOLDER_MODE))
}

/// Who is at the other end of a connection, and its place among those from there.
#[derive(Clone)]
pub struct Guest {
    pub peer: Arc<Peer>,
    _visit: Arc<Visit>,
}

/// Connections with what the kernel says of their clients; those of an origin that has too many
/// are closed.
fn known(
    socket: GrpcSocket,
    origins: Origins,
    refused: Counter,
) -> impl Stream<Item = io::Result<Accepted<Guest>>> + Send {
    let surplus = Arc::new(Mutex::new(Surplus::default()));
    socket.connections().filter_map(move |accepted| {
        let (origins, surplus, refused) = (origins.clone(), Arc::clone(&surplus), refused.clone());
        async move {
            let accepted = match accepted {
                Ok(accepted) => accepted,
                Err(err) => return Some(Err(err)),
            };
            let peer = Peer::of(accepted.stream()).await;
            let Some(visit) = origins.enter(peer.origin) else {
                refused.increment(1);
                let closed = surplus.lock().say(Instant::now());
                if let Some(closed) = closed {
                    tracing::warn!(pid = ?peer.pid, closed, "connections to the Workload API were closed: too many from one container");
                }
                return None;
            };
            Some(Ok(accepted.knowing(Guest { peer, _visit: Arc::new(visit) })))
        }
    })
}

/// The calls.
pub struct Service {
    door: Door,
    streams: Arc<Semaphore>,
    streams_by_origin: Origins,
    attesting: Semaphore,
}

impl Service {
    fn new(door: Door) -> Self {
        Self {
            door,
            streams: Arc::new(Semaphore::new(STREAMS)),
            streams_by_origin: Origins::new(STREAMS_PER_ORIGIN),
            attesting: Semaphore::new(ATTESTING),
        }
    }

    pub(super) fn door(&self) -> &Door {
        &self.door
    }

    /// The state now, or why there is none to give.
    fn view(&self) -> Result<Arc<View>, Refusal> {
        let view = Arc::clone(&self.door.view.borrow());
        match &view.closed {
            Some(why) => Err(Refusal::Unavailable(why.clone())),
            None => Ok(view),
        }
    }

    /// Who the caller is now.
    pub(super) async fn attest(&self, peer: &Arc<Peer>, view: &View) -> Result<Workload, Refusal> {
        let begun = Instant::now();
        let work = async {
            let _place = self.attesting.acquire().await;
            self.door.attestor.attest(peer, view.registrations()).await
        };
        let late = |_| Err(Refusal::Unavailable("the caller was not known in time".to_owned()));
        let outcome = tokio::time::timeout(ATTEST_DEADLINE, work).await.unwrap_or_else(late);
        self.door.metrics.attested(begun.elapsed());
        outcome
    }

    /// Counts a refusal; the first of a connection is logged and recorded.
    pub(super) fn refused(&self, peer: &Peer, call: &'static str, refusal: &Refusal) -> Status {
        self.door.metrics.counters.refused(refusal.counted());
        if !refusal.is_transient() && peer.tell_once() {
            let (pid, uid) = (shown(peer.pid), shown(peer.uid));
            tracing::warn!(call, pid, uid, error = %refusal, "a caller of the Workload API was refused");
            let fact =
                AuditFact::new(AuditAction::Refuse, format!("process {pid}"), false, refusal.to_string())
                    .with("call", call)
                    .with("uid", uid);
            audit(&self.door.audit, fact);
        }
        refusal.status()
    }

    async fn jwt_svids(&self, peer: &Arc<Peer>, request: JwtSvidRequest) -> Result<JwtSvidResponse, Refusal> {
        let JwtSvidRequest { audience, spiffe_id } = request;
        check_audiences(&audience)?;
        let view = self.view()?;
        let workload = Arc::new(self.attest(peer, &view).await?);
        let all = grants(&workload, &view.bundle.trust_domain, view.registrations());
        let chosen: Vec<Grant> = match spiffe_id.as_str() {
            "" => all,
            wanted => {
                let wanted = SpiffeId::parse(wanted)
                    .map_err(|why| Refusal::Invalid(format!("spiffe_id {wanted:?}: {why}")))?;
                let theirs = all.into_iter().find(|grant| grant.id == wanted);
                vec![theirs.ok_or_else(|| Refusal::NotTheirs(wanted.to_string()))?]
            }
        };
        let mut svids = Vec::with_capacity(chosen.len());
        for grant in chosen {
            let (workload, audiences, id) = (Arc::clone(&workload), audience.clone(), grant.id.clone());
            let issue = IssueJwt { workload, id, audiences };
            let (svid, _) = answered(self.door.jwt.ask(issue, ISSUE_DEADLINE).await)?;
            svids.push(JwtSvid { spiffe_id: grant.id.to_string(), svid, hint: grant.hint });
        }
        Ok(JwtSvidResponse { svids })
    }

    async fn validated(
        &self,
        peer: &Arc<Peer>,
        request: ValidateJwtSvidRequest,
    ) -> Result<ValidateJwtSvidResponse, Refusal> {
        let ValidateJwtSvidRequest { audience, svid } = request;
        check_audiences(std::slice::from_ref(&audience))?;
        if svid.is_empty() {
            return Err(Refusal::Invalid("svid is missing".to_owned()));
        }
        let view = self.view()?;
        self.attest(peer, &view).await?;
        let valid = verify_jwt_svid(&svid, &audience, &view.bundle, SystemTime::now())
            .map_err(|err| Refusal::BadToken(format!("svid: {err}")))?;
        let (spiffe_id, claims) = (valid.id.to_string(), claims_struct(&valid.claims));
        Ok(ValidateJwtSvidResponse { spiffe_id, claims: Some(claims) })
    }
}

/// What an issuing message came to.
pub fn answered<T>(outcome: Result<Result<T, Refusal>, crate::bus::LinkError>) -> Result<T, Refusal> {
    outcome.unwrap_or_else(|err| Err(Refusal::Unavailable(err.to_string())))
}

fn check_audiences(audiences: &[String]) -> Result<(), Refusal> {
    let fine = |audience: &String| (1..=MAX_AUDIENCE_BYTES).contains(&audience.len());
    if audiences.is_empty() || !audiences.iter().all(fine) {
        return Err(Refusal::Invalid(format!("audience: one to {MAX_AUDIENCE_BYTES} bytes each are needed")));
    }
    if audiences.len() > MAX_AUDIENCES {
        return Err(Refusal::Invalid(format!("audience: more than {MAX_AUDIENCES}")));
    }
    Ok(())
}

fn shown<T: std::fmt::Display>(value: Option<T>) -> String {
    value.map_or_else(|| "unknown".to_owned(), |value| value.to_string())
}

fn peer<T>(request: &Request<T>) -> Arc<Peer> {
    let guest = request.extensions().get::<Guest>();
    guest.map_or_else(|| Arc::new(Peer::unknown()), |guest| Arc::clone(&guest.peer))
}

/// The service as its streams hold it.
struct Api(Arc<Service>);

impl Api {
    /// Opens a stream: its first answer is there, or it is refused.
    async fn open<T: Content>(&self, request: &Request<Everything>) -> Result<Answers<T>, Status> {
        let (service, peer) = (&self.0, peer(request));
        let opened = async {
            let view = service.view()?;
            let visit = service.streams_by_origin.enter(peer.origin).ok_or(Refusal::TooMany)?;
            let place = Arc::clone(&service.streams).try_acquire_owned().map_err(|_| Refusal::TooMany)?;
            stream_worker::open(Arc::clone(service), Arc::clone(&peer), &view, (place, visit)).await
        };
        opened.await.map_err(|refusal| service.refused(&peer, T::CALL, &refusal))
    }
}

impl WorkloadApi for Api {
    async fn fetch_x509_svid(
        &self,
        request: Request<Everything>,
    ) -> Result<Answers<X509SvidResponse>, Status> {
        self.open(&request).await
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<Everything>,
    ) -> Result<Answers<X509BundlesResponse>, Status> {
        self.open(&request).await
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<Everything>,
    ) -> Result<Answers<JwtBundlesResponse>, Status> {
        self.open(&request).await
    }

    async fn fetch_jwt_svid(&self, request: Request<JwtSvidRequest>) -> Result<JwtSvidResponse, Status> {
        let peer = peer(&request);
        let answer = self.0.jwt_svids(&peer, request.into_inner()).await;
        answer.map_err(|refusal| self.0.refused(&peer, "FetchJWTSVID", &refusal))
    }

    async fn validate_jwt_svid(
        &self,
        request: Request<ValidateJwtSvidRequest>,
    ) -> Result<ValidateJwtSvidResponse, Status> {
        let peer = peer(&request);
        let answer = self.0.validated(&peer, request.into_inner()).await;
        answer.map_err(|refusal| self.0.refused(&peer, "ValidateJWTSVID", &refusal))
    }
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
