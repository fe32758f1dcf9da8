//! The server: from HTTP/2 requests to the methods of a trait.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::stream::BoxStream;
use tonic::codegen::http;
use tonic::{Request, Status};

use super::MAX_REQUEST_BYTES;
use super::messages::{
    Everything, JwtBundlesResponse, JwtSvidRequest, JwtSvidResponse, ValidateJwtSvidRequest,
    ValidateJwtSvidResponse, X509BundlesResponse, X509SvidResponse,
};
use crate::wire::grpc::{Answer, HttpRequest, refuse, server_streaming, unary, unknown};

/// Every request carries it with the value `true`: a program that was talked into a request (server
/// side request forgery) cannot add it.
pub const SECURITY_HEADER: &str = "workload.spiffe.io";

/// A stream of answers.
pub type Answers<T> = BoxStream<'static, Result<T, Status>>;

/// What the edge answers to workloads. Requests carry what is known about the connection's client
/// in their extensions.
pub trait WorkloadApi: Send + Sync + 'static {
    fn fetch_x509_svid(
        &self,
        request: Request<Everything>,
    ) -> impl Future<Output = Result<Answers<X509SvidResponse>, Status>> + Send;
    fn fetch_x509_bundles(
        &self,
        request: Request<Everything>,
    ) -> impl Future<Output = Result<Answers<X509BundlesResponse>, Status>> + Send;
    fn fetch_jwt_svid(
        &self,
        request: Request<JwtSvidRequest>,
    ) -> impl Future<Output = Result<JwtSvidResponse, Status>> + Send;
    fn fetch_jwt_bundles(
        &self,
        request: Request<Everything>,
    ) -> impl Future<Output = Result<Answers<JwtBundlesResponse>, Status>> + Send;
    fn validate_jwt_svid(
        &self,
        request: Request<ValidateJwtSvidRequest>,
    ) -> impl Future<Output = Result<ValidateJwtSvidResponse, Status>> + Send;
}

/// Serves a [`WorkloadApi`].
pub struct WorkloadServer<T>(Arc<T>);

impl<T> WorkloadServer<T> {
    #[must_use]
    pub fn new(inner: Arc<T>) -> Self {
        Self(inner)
    }
}

impl<T> Clone for WorkloadServer<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: WorkloadApi> tower::Service<HttpRequest> for WorkloadServer<T> {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, http: HttpRequest) -> Answer {
        if http.headers().get(SECURITY_HEADER).is_none_or(|value| value.as_bytes() != b"true") {
            return refuse(Status::invalid_argument("security header missing from request"));
        }
        let (to, max) = (Arc::clone(&self.0), MAX_REQUEST_BYTES);
        match http.uri().path() {
            "/SpiffeWorkloadAPI/FetchX509SVID" => {
                server_streaming(http, max, |request| async move { to.fetch_x509_svid(request).await })
            }
            "/SpiffeWorkloadAPI/FetchX509Bundles" => {
                server_streaming(http, max, |request| async move { to.fetch_x509_bundles(request).await })
            }
            "/SpiffeWorkloadAPI/FetchJWTSVID" => {
                unary(http, max, |request| async move { to.fetch_jwt_svid(request).await })
            }
            "/SpiffeWorkloadAPI/FetchJWTBundles" => {
                server_streaming(http, max, |request| async move { to.fetch_jwt_bundles(request).await })
            }
            "/SpiffeWorkloadAPI/ValidateJWTSVID" => {
                unary(http, max, |request| async move { to.validate_jwt_svid(request).await })
            }
            _ => unknown("no such call in SpiffeWorkloadAPI"),
        }
    }
}
