//! The API for controllers of this program: a `kube::Client` without a socket.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use ::kube::client::Body;
use bytes::Bytes;
use futures_util::StreamExt;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};

use super::authn::User;
use super::body::too_large;
use super::core::ApiCore;
use super::service::{ApiBody, ApiRequest, ApiResponse, refuse};

/// Serves `http` requests on behalf of one user.
#[derive(Clone)]
pub struct InProcess {
    core: Arc<ApiCore>,
    user: User,
}

type ResponseBody = UnsyncBoxBody<Bytes, Infallible>;

impl tower::Service<http::Request<Body>> for InProcess {
    type Response = http::Response<ResponseBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let (core, user) = (Arc::clone(&self.core), self.user.clone());
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let response = match body.collect_bytes().await {
                Ok(body) => {
                    let request = ApiRequest {
                        method: head.method,
                        path: head.uri.path().to_owned(),
                        query: head.uri.query().unwrap_or_default().to_owned(),
                        headers: head.headers,
                        body,
                        user: Some(user),
                    };
                    core.call(request).await
                }
                Err(_) => refuse(&too_large()),
            };
            Ok(to_http(response))
        })
    }
}

fn to_http(response: ApiResponse) -> http::Response<ResponseBody> {
    let body = match response.body {
        ApiBody::Full(bytes) => Full::new(bytes).boxed_unsync(),
        ApiBody::Stream(lines) => {
            StreamBody::new(lines.map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)))).boxed_unsync()
        }
    };
    let mut out = http::Response::new(body);
    *out.status_mut() = response.status;
    *out.headers_mut() = response.headers;
    out
}

impl ApiCore {
    /// A client for controllers of this program, with all rights. Call it inside an async runtime.
    #[must_use]
    pub fn client(self: &Arc<Self>) -> ::kube::Client {
        self.client_as(User::system("system:kubeedge"))
    }

    /// A client that acts as `user`.
    #[must_use]
    pub fn client_as(self: &Arc<Self>, user: User) -> ::kube::Client {
        ::kube::Client::new(InProcess { core: Arc::clone(self), user }, "default")
    }
}
