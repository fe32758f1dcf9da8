//! From HTTP/2 requests to functions: what the servers of all our gRPC services share. They are
//! written by hand on tonic's own building blocks.

use std::convert::Infallible;
use std::future::{Future, ready};

use futures_util::Stream;
use futures_util::future::BoxFuture;
use metrics::Counter;
use prost::Message;
use tonic::codegen::http;
use tonic::{Code, Request, Response, Status};

/// An answer under way.
pub type Answer = BoxFuture<'static, Result<http::Response<tonic::body::Body>, Infallible>>;
/// A request as it comes from HTTP/2.
pub type HttpRequest = http::Request<tonic::body::Body>;

/// Runs one call with one answer: decodes (at most `max_bytes`), calls `method`, encodes.
pub fn unary<Q, A, F, W>(http: HttpRequest, max_bytes: usize, method: F) -> Answer
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: FnOnce(Request<Q>) -> W + Send + 'static,
    W: Future<Output = Result<A, Status>> + Send + 'static,
{
    let service = once(method);
    Box::pin(async move {
        let codec = tonic_prost::ProstCodec::<A, Q>::default();
        let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(max_bytes);
        Ok(grpc.unary(service, http).await)
    })
}

/// Runs one call with a stream of answers.
pub fn server_streaming<Q, A, F, W, S>(http: HttpRequest, max_bytes: usize, method: F) -> Answer
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: FnOnce(Request<Q>) -> W + Send + 'static,
    W: Future<Output = Result<S, Status>> + Send + 'static,
    S: Stream<Item = Result<A, Status>> + Send + 'static,
{
    let service = once(method);
    Box::pin(async move {
        let codec = tonic_prost::ProstCodec::<A, Q>::default();
        let mut grpc = tonic::server::Grpc::new(codec).max_decoding_message_size(max_bytes);
        Ok(grpc.server_streaming(service, http).await)
    })
}

/// A service of tonic's that is called for one request.
fn once<Q, T, F, W>(
    method: F,
) -> impl tower::Service<Request<Q>, Response = Response<T>, Error = Status, Future: Send> + Send
where
    Q: Send + 'static,
    T: Send + 'static,
    F: FnOnce(Request<Q>) -> W + Send + 'static,
    W: Future<Output = Result<T, Status>> + Send + 'static,
{
    let mut once = Some(method);
    tower::service_fn(move |request: Request<Q>| {
        let work = once.take().map(|method| method(request));
        async move {
            match work {
                Some(work) => work.await.map(Response::new),
                None => Err(Status::internal("called twice")),
            }
        }
    })
}

/// Counts the answers to messages that are longer than allowed: a service's `map_response`. Tonic refuses them by
/// the length they declare, with `OUT_OF_RANGE`, which none of our methods answers.
pub fn counting_lengths(
    refused: Counter,
) -> impl Fn(http::Response<tonic::body::Body>) -> http::Response<tonic::body::Body> + Clone {
    move |answer| {
        let status = answer.headers().get(Status::GRPC_STATUS);
        if status.is_some_and(|status| Code::from_bytes(status.as_bytes()) == Code::OutOfRange) {
            refused.increment(1);
        }
        answer
    }
}

/// Refuses a request before its message is read.
#[must_use]
pub fn refuse(status: Status) -> Answer {
    Box::pin(ready(Ok(status.into_http())))
}

/// Answers a call the service does not have.
#[must_use]
pub fn unknown(why: &'static str) -> Answer {
    refuse(Status::unimplemented(why))
}
