//! One request in, one response out, whatever carried them.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, WARNING};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};

use super::authn::User;
use super::authz::{self, Attributes};
use super::core::ApiCore;
use super::discovery;
use super::errors::ApiError;
use super::impersonate::impersonated;
use super::kinds::Nature;
use super::openapi;
use super::paths::{self, Path, Target};
use super::query::{self, Encoding, Query};
use super::render;

/// A request without its connection.
#[derive(Debug, Clone)]
pub struct ApiRequest {
    pub method: Method,
    pub path: String,
    /// After the `?`, undecoded.
    pub query: String,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// `None`: anonymous.
    pub user: Option<User>,
}

/// A response without its connection.
pub struct ApiResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: ApiBody,
}

/// A whole body, or the lines of a watch.
pub enum ApiBody {
    Full(Bytes),
    Stream(BoxStream<'static, Bytes>),
}

/// What a verb answers before it is a response.
pub(super) struct Answer {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: ApiBody,
    pub warnings: Vec<String>,
}

impl Answer {
    pub(super) fn new(status: StatusCode, content_type: &'static str, body: Bytes) -> Self {
        Self { status, content_type, body: ApiBody::Full(body), warnings: Vec::new() }
    }

    pub(super) fn json(status: StatusCode, value: &Value) -> Result<Self, ApiError> {
        Ok(Self::new(status, "application/json", render::encode(Encoding::Json, value)?))
    }
}

/// One call on a resource, authorized.
pub(super) struct Call {
    pub target: Target,
    pub verb: &'static str,
    pub query: Query,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub user: User,
}

impl ApiCore {
    /// Serves one request. Never fails: errors are `Status` bodies.
    pub async fn call(self: &Arc<Self>, request: ApiRequest) -> ApiResponse {
        let began = Instant::now();
        let (method, path) = (request.method.clone(), request.path.clone());
        let (verb, result) = self.serve(request).await;
        let response = match result {
            Ok(answer) => respond(answer),
            Err(err) => {
                failed(&err, &method, &path);
                refuse(&err)
            }
        };
        self.metrics.answered(verb, response.status.as_u16(), began.elapsed().as_secs_f64());
        response
    }

    async fn serve(self: &Arc<Self>, request: ApiRequest) -> (&'static str, Result<Answer, ApiError>) {
        let parsed = paths::parse(&request.path).and_then(|path| Ok((path, Query::parse(&request.query)?)));
        let (path, query) = match parsed {
            Ok(parsed) => parsed,
            // Strangers do not learn which paths exist.
            Err(err) if request.user.is_some() => return ("other", Err(err)),
            Err(_) => return ("other", Err(ApiError::unauthorized())),
        };
        if let Path::Health | Path::Version = path {
            return ("other", self.open_page(&path, &request));
        }
        let user = match request.user.ok_or_else(ApiError::unauthorized) {
            Ok(user) => user,
            Err(err) => return ("other", Err(err)),
        };
        let impersonated = self.read(|registry| impersonated(user, &request.headers, registry.access()));
        let user = match impersonated {
            Ok(user) => user,
            Err(err) => return ("other", Err(err)),
        };
        let Path::Resource(target) = path else {
            if request.method != Method::GET {
                return ("other", Err(ApiError::method_not_allowed()));
            }
            return ("other", describe(&path, &request.headers));
        };
        let Some(verb) = verb(&request.method, &target, &query) else {
            return ("other", Err(ApiError::method_not_allowed()));
        };
        let call = Call { target, verb, query, headers: request.headers, body: request.body, user };
        (verb, self.serve_resource(call).await)
    }

    async fn serve_resource(self: &Arc<Self>, call: Call) -> Result<Answer, ApiError> {
        let attributes = call.attributes();
        self.read(|registry| authz::authorize(&call.user, &attributes, registry))?;
        self.run(call).await
    }

    fn open_page(&self, path: &Path, request: &ApiRequest) -> Result<Answer, ApiError> {
        if request.method != Method::GET {
            return Err(ApiError::method_not_allowed());
        }
        if *path == Path::Version {
            return Answer::json(StatusCode::OK, &discovery::version());
        }
        let well = if request.path.starts_with("/livez") { self.is_healthy() } else { self.is_ready() };
        if well {
            return Ok(Answer::new(StatusCode::OK, "text/plain; charset=utf-8", Bytes::from_static(b"ok")));
        }
        let body = Bytes::from_static(b"the store cannot be written\n");
        Ok(Answer::new(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", body))
    }
}

impl Call {
    pub(super) fn attributes(&self) -> Attributes<'_> {
        Attributes {
            verb: self.verb,
            kind: self.target.kind,
            sub: self.target.sub,
            namespace: self.target.namespace.as_deref().unwrap_or_default(),
            name: self.target.name.as_deref().unwrap_or_default(),
            fields: &self.query.fields,
        }
    }
}

fn verb(method: &Method, target: &Target, query: &Query) -> Option<&'static str> {
    let named = target.name.is_some();
    let review = target.kind.nature == Nature::Review;
    match (method.as_str(), named) {
        ("POST", _) => Some("create"),
        _ if review => None,
        ("GET", _) if query.watch || target.watch => Some("watch"),
        ("GET", false) => Some("list"),
        ("GET", true) => Some("get"),
        ("PUT", true) => Some("update"),
        ("PATCH", true) => Some("patch"),
        ("DELETE", true) => Some("delete"),
        ("DELETE", false) => Some("deletecollection"),
        _ => None,
    }
}

fn describe(path: &Path, headers: &HeaderMap) -> Result<Answer, ApiError> {
    let aggregated = query::wants_aggregated_discovery(headers);
    let value = match path {
        Path::CoreVersions | Path::Groups if aggregated => {
            let body = discovery::aggregated(*path == Path::CoreVersions);
            let bytes = render::encode(Encoding::Json, &body)?;
            return Ok(Answer::new(StatusCode::OK, discovery::AGGREGATED, bytes));
        }
        Path::CoreVersions => discovery::core_versions(),
        Path::Groups => discovery::groups(),
        Path::Group(name) => discovery::group(name).ok_or_else(ApiError::no_route)?,
        Path::Resources { group, version } => discovery::resources(group, version),
        Path::OpenApiV2 if query::wants_openapi_v2(headers) => {
            return Ok(Answer::new(StatusCode::OK, openapi::V2_PROTOBUF, Bytes::new()));
        }
        Path::OpenApiV2 => return Err(ApiError::no_route()),
        Path::OpenApiIndex => openapi::index(),
        Path::OpenApi { group, version } => openapi::document(group, version),
        Path::Health | Path::Version | Path::Resource(_) => json!({}),
    };
    Answer::json(StatusCode::OK, &value)
}

fn respond(answer: Answer) -> ApiResponse {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(answer.content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    for warning in &answer.warnings {
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            headers.append(WARNING, value);
        }
    }
    ApiResponse { status: answer.status, headers, body: answer.body }
}

impl ApiCore {
    /// Counts a request that was refused before it was one of a verb: no credentials that can be read, a body too large.
    pub fn refused_early(&self, err: &ApiError) {
        self.metrics.answered("other", err.code(), 0.0);
    }
}

/// Says what went wrong here, if that was it, and with which request.
pub fn failed(err: &ApiError, method: &dyn Display, path: &str) {
    if err.code() >= 500 {
        tracing::warn!(%method, path, code = err.code(), message = %err.status.message, "api request failed");
    }
}

/// The response of an error.
#[must_use]
pub fn refuse(err: &ApiError) -> ApiResponse {
    let status = StatusCode::from_u16(err.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if err.status.details.as_ref().is_some_and(|details| details.retry_after_seconds > 0) {
        headers.insert(HeaderName::from_static("retry-after"), HeaderValue::from_static("1"));
    }
    ApiResponse { status, headers, body: ApiBody::Full(err.body().to_string().into()) }
}
