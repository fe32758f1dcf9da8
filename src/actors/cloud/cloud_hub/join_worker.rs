//! The join server: CA certificate, node certificates, does a node exist (protocol section 5.3), and
//! our own routes.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::BytesMut;
use futures_util::StreamExt;
use parking_lot::Mutex;
use serde_json::Value;

use super::IsConnected;
use super::attest::{Reusable, token};
use super::connection_worker::Connection;
use super::issuer_worker::Issuer;
use super::join::{Credential, Denied, MAX_BODY_BYTES, RateLimit, Route, credential, peer_of, route};
use super::revoked;
use super::token_use_worker::TokenUses;
use crate::bus::Link;
use crate::bus::identity::{AuditAction, AuditFact};
use crate::identity::{JoinTokens, NodePeer, TrustBundle};
use crate::model::NodeName;
use crate::telemetry::cloud_hub::CloudHubMetrics;
use crate::telemetry::identity::{Issued, Refused};

const API_TIMEOUT: Duration = Duration::from_secs(5);
const HUB_TIMEOUT: Duration = Duration::from_secs(5);
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Requests of one address: many edges may stand behind one.
const BURST: u32 = 100;
const PER_SEC: u32 = 20;
const MAX_PEERS: usize = 4_096;

/// What the join server needs.
pub struct JoinServer {
    pub(super) issuer: Arc<Issuer>,
    pub(super) tokens: Arc<JoinTokens>,
    pub(super) uses: TokenUses,
    client: ::kube::Client,
    connected: Link<IsConnected>,
    limit: Mutex<RateLimit>,
    metrics: CloudHubMetrics,
}

impl JoinServer {
    #[must_use]
    pub fn new(
        issuer: Arc<Issuer>,
        tokens: Arc<JoinTokens>,
        client: ::kube::Client,
        connected: Link<IsConnected>,
        metrics: CloudHubMetrics,
    ) -> Self {
        let limit = Mutex::new(RateLimit::new(BURST, PER_SEC, MAX_PEERS));
        let uses = TokenUses::new(client.clone());
        Self { issuer, tokens, uses, client, connected, limit, metrics }
    }

    /// A token is no proof of being the machine that has the name: while one is connected under it, another
    /// would get its pods as well, and both would run them.
    pub(super) async fn check_free(&self, node: &NodeName) -> Result<(), Denied> {
        match self.connected.ask(IsConnected(node.clone()), HUB_TIMEOUT).await {
            Ok(false) => Ok(()),
            Ok(true) => {
                let why = format!(
                    "a machine is connected as node {node} now: stop it first, or give this one another name \
                     (modules.edged.hostnameOverride)"
                );
                Err(Denied::new(409, Refused::Cloned, why))
            }
            Err(_) => Err(Denied::new(503, Refused::Unavailable, "cloudhub is busy, try again later")),
        }
    }

    /// A certificate for a Go edge. `None`: whoever asks may have one but sent no request for it, as
    /// `keadm join` does to learn whether its token is good.
    async fn edge_certificate(
        &self,
        request: &HttpRequest,
        payload: web::Payload,
    ) -> Result<Option<Vec<u8>>, Denied> {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let now = SystemTime::now();
        let (authorization, name) = (header("Authorization"), header("NodeName"));
        let (node, shown, token) = match credential(peer(request)?, name, authorization, now)? {
            Credential::Certificate { node, not_before } => (node, Some(not_before), None),
            Credential::Token { node, jwt } => {
                let reusable = Reusable::If(self.issuer.with.reusable_tokens);
                let claims = token(&self.tokens, &jwt, &node, reusable, now)?;
                self.uses.check_revoked(&claims).await?;
                self.check_free(&node).await?;
                (node, None, Some(claims))
            }
        };
        let not_before_min = revoked::check(&*self.issuer.revoked().await?, &node, shown)?;
        let once = token.as_ref().filter(|token| !token.reusable);
        let csr = body(payload).await?;
        if csr.is_empty() {
            if let Some(token) = once {
                self.uses.check_unused(token, &node).await?;
            }
            return Ok(None);
        }
        // Signed first and given out last: a request that is not signed costs nobody a token.
        let svid = self.issuer.go_certificate(&node, csr.to_vec(), not_before_min).await?;
        let mut kind = Issued::GoNode;
        if let Some(token) = once
            && self.uses.take(token, &node, &svid.key_hash).await?
        {
            kind = Issued::Repeated;
        }
        let action = if token.is_some() { AuditAction::Join } else { AuditAction::Renew };
        let fact = AuditFact::new(action, node.as_str(), true, "").with("address", address(request));
        let fact = match &token {
            Some(token) => fact.with("way", "edge.crt").with("token", token.id.as_str()),
            None => fact.with("way", "certificate"),
        };
        self.issuer.issued(fact, svid.changed(&node), kind);
        tracing::info!(%node, rotation = token.is_none(), "node certificate signed");
        Ok(svid.chain.into_iter().next())
    }

    /// An object of the API, `None` when there is none.
    async fn get(&self, path: &str) -> Result<Option<Value>, Denied> {
        let unavailable =
            || Denied::new(503, Refused::Unavailable, "the Kubernetes API cannot be asked, try again later");
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

    /// The SPIFFE bundle document: public, like `/ca.crt`.
    fn bundle(&self) -> HttpResponse {
        let jwt_keys = self.issuer.bundle().jwt_keys.clone();
        let bundle = TrustBundle { jwt_keys, ..self.issuer.signer.ca.bundle() };
        HttpResponse::Ok().json(bundle.spiffe_bundle())
    }

    /// What a request for a certificate came to, for the caller and the record.
    fn answer(
        &self,
        request: &HttpRequest,
        subject: &str,
        result: Result<HttpResponse, Denied>,
    ) -> HttpResponse {
        let denied = match result {
            Ok(response) => {
                self.metrics.joins_signed.increment(1);
                return response;
            }
            Err(denied) => denied,
        };
        self.metrics.joins_refused.increment(1);
        let peer = request.peer_addr();
        let shown = peer.map(tracing::field::display);
        tracing::info!(peer = shown, subject, code = denied.code, why = denied.why, "no certificate signed");
        self.issuer.refused(subject, &denied, peer);
        refuse(&denied)
    }
}

/// Who the TLS client is, if it presented a certificate. One that is not understood is no node's.
pub(super) fn peer(request: &HttpRequest) -> Result<Option<&NodePeer>, Denied> {
    let connection = request.conn_data::<Arc<Connection>>();
    match connection.map(|connection| (&connection.peer, connection.unclear)) {
        Some((_, true)) => Err(Denied::new(403, Refused::Chain, "the client certificate is not a node's")),
        Some((peer, false)) => Ok(peer.as_ref()),
        None => Ok(None),
    }
}

pub(super) fn address(request: &HttpRequest) -> String {
    request.peer_addr().map(|peer| peer.ip().to_string()).unwrap_or_default()
}

/// Every request of the join listener.
pub async fn serve(
    request: HttpRequest,
    payload: web::Payload,
    server: web::Data<JoinServer>,
) -> HttpResponse {
    let peer = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
    if !server.limit.lock().admit(peer_of(peer), Instant::now()) {
        let denied = Denied::new(429, Refused::Limit, "too many requests from this address");
        server.issuer.refused("", &denied, request.peer_addr());
        return refuse(&denied);
    }
    match route(request.method().as_str(), request.path()) {
        Route::CaCertificate => binary(server.issuer.signer.ca.cert_der()),
        Route::Bundle => server.bundle(),
        Route::Node(name) => server.node(&name).await,
        Route::EdgeCertificate => {
            let result = match server.edge_certificate(&request, payload).await {
                Ok(Some(der)) => Ok(binary(der)),
                // Whoever only asks is neither joined nor refused.
                Ok(None) => {
                    let why = "the body holds no certificate request";
                    return refuse(&Denied::new(400, Refused::Malformed, why));
                }
                Err(denied) => Err(denied),
            };
            let subject = request.headers().get("NodeName").and_then(|name| name.to_str().ok());
            server.answer(&request, &short(subject.unwrap_or_default()), result)
        }
        Route::NodeIdentity => {
            let (subject, result) = server.node_identity(&request, payload).await;
            let result = result.map(|reply| HttpResponse::Ok().json(reply));
            server.answer(&request, &subject, result)
        }
        Route::Unknown => refuse(&Denied::new(404, Refused::Malformed, "not found")),
    }
}

/// A name that nobody checked, fit for a log.
fn short(name: &str) -> String {
    name.chars().take(NodeName::MAX_BYTES).collect()
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
pub(super) async fn body(mut payload: web::Payload) -> Result<BytesMut, Denied> {
    let read = async {
        let mut whole = BytesMut::new();
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|err| Denied::new(400, Refused::Malformed, format!("body: {err}")))?;
            if whole.len() + chunk.len() > MAX_BODY_BYTES {
                let why = format!("the body is larger than {MAX_BODY_BYTES} bytes");
                return Err(Denied::new(413, Refused::Limit, why));
            }
            whole.extend_from_slice(&chunk);
        }
        Ok(whole)
    };
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(result) => result,
        Err(_) => Err(Denied::new(408, Refused::Limit, "the body did not arrive in time")),
    }
}
