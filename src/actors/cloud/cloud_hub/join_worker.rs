//! The join server: CA certificate, node certificates, does a node exist (protocol section 5.3).

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::BytesMut;
use futures_util::StreamExt;
use parking_lot::Mutex;
use serde_json::Value;

use super::connection_worker::Connection;
use super::join::{Credential, Denied, MAX_BODY_BYTES, RateLimit, Route, credential, route};
use crate::identity::{Ca, JoinTokens};
use crate::model::NodeName;
use crate::telemetry::cloud_hub::CloudHubMetrics;

/// Ids of revoked join tokens are the keys of this Secret's data.
const REVOKED: &str = "/api/v1/namespaces/kubeedge/secrets/revoked-tokens";
/// How long an answer about revocations is good.
const REVOKED_TTL: Duration = Duration::from_secs(5);
const API_TIMEOUT: Duration = Duration::from_secs(5);
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of one address: many edges may stand behind one.
const BURST: u32 = 100;
const PER_SEC: u32 = 20;
const MAX_PEERS: usize = 4_096;

/// What the join server needs.
pub struct JoinServer {
    ca: Arc<Ca>,
    tokens: Arc<JoinTokens>,
    client: ::kube::Client,
    node_cert_ttl: Duration,
    limit: Mutex<RateLimit>,
    revoked: Mutex<Option<(Instant, Arc<HashSet<String>>)>>,
    metrics: CloudHubMetrics,
}

impl JoinServer {
    #[must_use]
    pub fn new(
        ca: Arc<Ca>,
        tokens: Arc<JoinTokens>,
        client: ::kube::Client,
        node_cert_ttl: Duration,
        metrics: CloudHubMetrics,
    ) -> Self {
        let limit = Mutex::new(RateLimit::new(BURST, PER_SEC, MAX_PEERS));
        Self { ca, tokens, client, node_cert_ttl, limit, revoked: Mutex::new(None), metrics }
    }

    /// `None`: whoever asks may have a certificate but sent no request for one, as `keadm join` does to
    /// learn whether its token is good.
    async fn edge_certificate(
        &self,
        request: &HttpRequest,
        payload: web::Payload,
    ) -> Result<Option<Vec<u8>>, Denied> {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let connection = request.conn_data::<Arc<Connection>>();
        let peer = connection.and_then(|connection| connection.peer.as_ref());
        let node = match credential(peer, header("NodeName"), header("Authorization"))? {
            Credential::Certificate(node) => node,
            Credential::Token { node, jwt } => {
                self.check_token(&jwt).await?;
                node
            }
        };
        let csr = body(payload).await?;
        if csr.is_empty() {
            return Ok(None);
        }
        let signed = self.ca.sign_node_csr(&csr, &node, self.node_cert_ttl, None, SystemTime::now());
        let chain = signed.map_err(|err| Denied::new(400, err.to_string()))?;
        tracing::info!(%node, rotation = peer.is_some(), "node certificate signed");
        // A Go edge knows one certificate only; our listeners know the issuing CAs.
        Ok(chain.into_iter().next())
    }

    async fn check_token(&self, jwt: &str) -> Result<(), Denied> {
        let claims =
            self.tokens.verify(jwt, SystemTime::now()).map_err(|err| Denied::new(401, err.to_string()))?;
        if self.revoked().await?.contains(&claims.id) {
            return Err(Denied::new(401, "the token was revoked"));
        }
        Ok(())
    }

    /// The revoked ids. When the API cannot be asked, nobody joins by token: a revoked token must
    /// not come back through an outage, and without the API the node could not register anyway.
    async fn revoked(&self) -> Result<Arc<HashSet<String>>, Denied> {
        if let Some((at, ids)) = &*self.revoked.lock()
            && at.elapsed() < REVOKED_TTL
        {
            return Ok(Arc::clone(ids));
        }
        let secret = self.get(REVOKED).await?;
        let data = secret.as_ref().and_then(|secret| secret.get("data")).and_then(Value::as_object);
        let ids = Arc::new(data.map(|data| data.keys().cloned().collect()).unwrap_or_default());
        *self.revoked.lock() = Some((Instant::now(), Arc::clone(&ids)));
        Ok(ids)
    }

    /// An object of the API, `None` when there is none.
    async fn get(&self, path: &str) -> Result<Option<Value>, Denied> {
        let unavailable = || Denied::new(503, "the Kubernetes API cannot be asked, try again later");
        let request = http::Request::get(path).body(Vec::new()).map_err(|_| unavailable())?;
        match tokio::time::timeout(API_TIMEOUT, self.client.request::<Value>(request)).await {
            Ok(Ok(object)) => Ok(Some(object)),
            Ok(Err(::kube::Error::Api(status))) if status.code == 404 => Ok(None),
            Ok(Err(err)) => {
                tracing::warn!(path, error = %err, "call to the api server failed");
                Err(unavailable())
            }
            Err(_) => Err(unavailable()),
        }
    }

    async fn node(&self, name: &NodeName) -> HttpResponse {
        match self.get(&format!("/api/v1/nodes/{name}")).await {
            Ok(Some(_)) => HttpResponse::Ok().body("Node found"),
            Ok(None) => HttpResponse::NotFound().body("Node not found"),
            Err(denied) => refuse(&denied),
        }
    }
}

/// Every request of the join listener.
pub async fn serve(
    request: HttpRequest,
    payload: web::Payload,
    server: web::Data<JoinServer>,
) -> HttpResponse {
    let peer = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
    if !server.limit.lock().admit(peer, Instant::now()) {
        return refuse(&Denied::new(429, "too many requests from this address"));
    }
    match route(request.method().as_str(), request.path()) {
        Route::CaCertificate => binary(server.ca.cert_der()),
        Route::Node(name) => server.node(&name).await,
        Route::EdgeCertificate => match server.edge_certificate(&request, payload).await {
            Ok(None) => refuse(&Denied::new(400, "the body holds no certificate request")),
            Ok(Some(der)) => {
                server.metrics.joins_signed.increment(1);
                binary(der)
            }
            Err(denied) => {
                server.metrics.joins_refused.increment(1);
                tracing::info!(%peer, code = denied.code, why = denied.why, "no certificate signed");
                refuse(&denied)
            }
        },
        Route::Unknown => refuse(&Denied::new(404, "not found")),
    }
}

fn binary(der: Vec<u8>) -> HttpResponse {
    HttpResponse::Ok().content_type("application/octet-stream").body(der)
}

fn refuse(denied: &Denied) -> HttpResponse {
    let code = StatusCode::from_u16(denied.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    // What is left of the body is not read.
    HttpResponse::build(code).force_close().content_type("text/plain; charset=utf-8").body(denied.why.clone())
}

/// Reads a body by what arrives, never by what its length says.
async fn body(mut payload: web::Payload) -> Result<BytesMut, Denied> {
    let read = async {
        let mut whole = BytesMut::new();
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|err| Denied::new(400, format!("body: {err}")))?;
            if whole.len() + chunk.len() > MAX_BODY_BYTES {
                return Err(Denied::new(413, format!("the body is larger than {MAX_BODY_BYTES} bytes")));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    };
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(result) => result,
        Err(_) => Err(Denied::new(408, "the body did not arrive in time")),
    }
}
