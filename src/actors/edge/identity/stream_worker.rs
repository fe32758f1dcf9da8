//! The three streams of the Workload API: the whole state first, again at every change, until the
//! caller is not any more who it was.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::unfold;
use metrics::Gauge;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tonic::Status;

use super::IssueX509;
use super::origins::Visit;
use super::peer_worker::Peer;
use super::refusal::Refusal;
use super::serve_worker::{ISSUE_DEADLINE, Service, answered};
use super::view::View;
use super::workload::grants;
use crate::supervise::spread;
use crate::wire::workload::{Answers, JwtBundlesResponse, X509BundlesResponse, X509Svid, X509SvidResponse};

/// The caller and its pod are looked at again this often: labels change, processes end.
const RECHECK: Duration = Duration::from_secs(15);
/// Pause after something that should pass: the runtime does not answer, the node's CA ended.
const RETRY: Duration = Duration::from_secs(2);
/// No stream looks more often than this.
const LEAST_PAUSE: Duration = Duration::from_millis(200);

/// What a stream tells.
pub trait Content: PartialEq + Clone + Send + Sync + Sized + 'static {
    const CALL: &'static str;

    /// What is to be told now, and when it should be looked at again at the latest.
    fn make(
        service: &Service,
        peer: &Arc<Peer>,
        view: &View,
    ) -> impl Future<Output = Result<(Self, Option<SystemTime>), Refusal>> + Send;
}

impl Content for X509SvidResponse {
    const CALL: &'static str = "FetchX509SVID";

    async fn make(
        service: &Service,
        peer: &Arc<Peer>,
        view: &View,
    ) -> Result<(Self, Option<SystemTime>), Refusal> {
        let workload = Arc::new(service.attest(peer, view).await?);
        let bundle = view.roots();
        let (mut response, mut renew_at) = (Self::default(), None::<SystemTime>);
        for grant in grants(&workload, &view.bundle.trust_domain, view.registrations()) {
            // One signature a message: the actor's thread is never taken for long.
            let issue = IssueX509 { workload: Arc::clone(&workload), grant: grant.clone() };
            let issued = answered(service.door().x509.ask(issue, ISSUE_DEADLINE).await)?;
            renew_at = Some(renew_at.map_or(issued.renew_at, |before| before.min(issued.renew_at)));
            response.svids.push(X509Svid {
                spiffe_id: grant.id.to_string(),
                x509_svid: issued.svid.chain.concat(),
                x509_svid_key: issued.svid.key_pkcs8.clone(),
                bundle: bundle.clone(),
                hint: grant.hint,
            });
        }
        Ok((response, renew_at))
    }
}

impl Content for X509BundlesResponse {
    const CALL: &'static str = "FetchX509Bundles";

    async fn make(
        service: &Service,
        peer: &Arc<Peer>,
        view: &View,
    ) -> Result<(Self, Option<SystemTime>), Refusal> {
        service.attest(peer, view).await?;
        Ok((Self { crl: Vec::new(), bundles: view.by_domain(view.roots()) }, None))
    }
}

impl Content for JwtBundlesResponse {
    const CALL: &'static str = "FetchJWTBundles";

    async fn make(
        service: &Service,
        peer: &Arc<Peer>,
        view: &View,
    ) -> Result<(Self, Option<SystemTime>), Refusal> {
        service.attest(peer, view).await?;
        let set = view.bundle.jwk_set().to_string().into_bytes();
        Ok((Self { bundles: view.by_domain(set) }, None))
    }
}

/// Begins a stream, once its first answer is there.
///
/// # Errors
/// Why the caller gets none.
pub async fn open<T: Content>(
    service: Arc<Service>,
    peer: Arc<Peer>,
    view: &Arc<View>,
    place: (OwnedSemaphorePermit, Visit),
) -> Result<Answers<T>, Refusal> {
    // What changes meanwhile is seen: this receiver has seen nothing but `view` and what was before.
    let mut views = service.door().view.clone();
    views.mark_unchanged();
    if !Arc::ptr_eq(&views.borrow(), view) {
        views.mark_changed();
    }
    let (told, renew_at) = T::make(&service, &peer, view).await?;
    let counted = Counted::new(&service.door().metrics.streams);
    let flow = Flow {
        service,
        peer,
        views,
        first: Some(told.clone()),
        told,
        renew_at,
        retry: false,
        _place: place,
        _counted: counted,
    };
    Ok(unfold(Some(flow), |flow| async { flow?.next().await }).boxed())
}

struct Flow<T> {
    service: Arc<Service>,
    peer: Arc<Peer>,
    views: watch::Receiver<Arc<View>>,
    /// Not told yet.
    first: Option<T>,
    /// Told last.
    told: T,
    renew_at: Option<SystemTime>,
    retry: bool,
    /// Among all streams, and among those of its origin.
    _place: (OwnedSemaphorePermit, Visit),
    _counted: Counted,
}

impl<T: Content> Flow<T> {
    /// The next change, or the end. Runs only while the client reads.
    async fn next(mut self) -> Option<(Result<T, Status>, Option<Self>)> {
        if let Some(first) = self.first.take() {
            return Some((Ok(first), Some(self)));
        }
        loop {
            if self.wait().await.is_err() {
                let gone = Status::unavailable("edgecore stops serving the Workload API");
                return Some((Err(gone), None));
            }
            let view = Arc::clone(&self.views.borrow_and_update());
            self.retry = view.closed.is_some();
            if self.retry {
                continue;
            }
            match T::make(&self.service, &self.peer, &view).await {
                Ok((content, renew_at)) => {
                    self.renew_at = renew_at;
                    if content != self.told {
                        self.told = content.clone();
                        return Some((Ok(content), Some(self)));
                    }
                }
                // What the client holds stays good for as long as it says.
                Err(refusal) if refusal.is_transient() => {
                    tracing::debug!(call = T::CALL, error = %refusal, "a stream waits");
                    self.retry = true;
                }
                Err(refusal) => {
                    let status = self.service.refused(&self.peer, T::CALL, &refusal);
                    return Some((Err(status), None));
                }
            }
        }
    }

    /// Until something changed, or something is due.
    async fn wait(&mut self) -> Result<(), watch::error::RecvError> {
        let until_renewal =
            self.renew_at.map(|at| at.duration_since(SystemTime::now()).unwrap_or_default().max(LEAST_PAUSE));
        let pause = match (self.retry, until_renewal) {
            (true, _) => spread(RETRY, fastrand::f64()),
            (false, Some(pause)) if pause < RECHECK => pause,
            (false, _) => spread(RECHECK, fastrand::f64()),
        };
        tokio::select! {
            changed = self.views.changed() => changed,
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }
}

/// One open stream in the gauge.
struct Counted(Gauge);

impl Counted {
    fn new(gauge: &Gauge) -> Self {
        gauge.increment(1.0);
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}
