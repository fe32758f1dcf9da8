//! The ways into the trust domain: proof of the old key, a factory certificate, a join token; and
//! KubeEdge's own `GET /edge.crt` where the cloud is Go's.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use rustls::ClientConfig;

use super::certificate::{Certificate, Standing};
use super::credential_files::{self as files, Asked, Identity};
use super::https_worker::Call;
use super::join_error::JoinError;
use super::join_worker::{Joiner, blocking};
use crate::identity::{
    IdentityError, KeyPair, NodeCredentials, NodeKeys, NodeRequest, REENTRY_CONTEXT, X509POP_CONTEXT,
    cert_ders_from_pem, cert_pem_from_der, client_tls, client_tls_unverified, new_node_csr, prove, proven,
    sha256_hex, split_join_token,
};
use crate::model::identity::{AttestationRequest, Evidence, RenewalReply, RenewalRequest};

const JOIN_PATH: &str = "/identity/node";

/// What to join with.
pub(super) enum Means<'a> {
    /// The certificate this node had, good or run out.
    Old(&'a Identity),
    Factory,
    Token(String),
}

impl Joiner {
    pub(super) async fn join(&self, old: Option<&Identity>, why: &str) -> Result<Identity, JoinError> {
        let mut why = why.to_owned();
        let mut means: Vec<(Means<'_>, &str)> = Vec::new();
        if let Some(old) = old {
            means.push((Means::Old(old), "proof of the old key"));
        }
        if !self.0.identity.factory_cert_file.as_os_str().is_empty() {
            means.push((Means::Factory, "factory certificate"));
        }
        let (file, configured) = (self.0.config.bootstrap_file.clone(), self.0.config.token.clone());
        let text = blocking(move || Ok(files::read(&file)?)).await?.unwrap_or_default();
        let token = [text.trim(), configured.trim()].into_iter().find(|token| !token.is_empty());
        if let Some(token) = token {
            means.push((Means::Token(token.to_owned()), "join token"));
        }
        let last = means.len().saturating_sub(1);
        for (at, (means, name)) in means.iter().enumerate() {
            match self.join_by(means).await {
                Ok(identity) => {
                    self.joined(&identity, name);
                    return Ok(identity);
                }
                // About an old certificate the last word is what to do: get a token.
                Err(JoinError::NotTakenBack(err)) => tracing::debug!(error = err, "not taken back"),
                Err(JoinError::Refused { status, text, .. })
                    if matches!(means, Means::Old(_)) && matches!(status.as_u16(), 400 | 401 | 403) =>
                {
                    why = format!("{why} and the cloud did not take it back ({status}: {text})");
                }
                Err(err) if at == last => return Err(err),
                Err(err @ (JoinError::Http { .. } | JoinError::BadServer(_))) => return Err(err),
                Err(err) => tracing::debug!(error = %err, means = name, "not joined, trying the next means"),
            }
        }
        Err(JoinError::NeedsToken { why, bootstrap_file: self.0.config.bootstrap_file.clone() })
    }

    pub(super) async fn join_by(&self, means: &Means<'_>) -> Result<Identity, JoinError> {
        match means {
            Means::Old(old) => self.join_by_old(old).await,
            Means::Factory => self.join_by_factory().await,
            Means::Token(token) => self.join_by_token(token).await,
        }
    }

    async fn join_by_old(&self, old: &Identity) -> Result<Identity, JoinError> {
        let roots = old.credentials.roots_pem.clone();
        let pair = old.credentials.svid.clone();
        let is_good = old.certificate.standing(&self.0.node, self.cloud_now()) == Standing::Usable;
        // A server refuses the handshake for an expired one; the proof is in the body anyway.
        let tls = client_tls(&roots, is_good.then_some(&pair))?;
        let (request, keys) = self.request()?;
        let proof = prove(
            REENTRY_CONTEXT,
            &self.0.node,
            &proven(&request),
            cert_ders_from_pem(&pair.cert_pem),
            &pair.key_pem,
        )?;
        match self.attest(tls, Evidence::Svid { proof }, request, keys).await {
            Err(err) if err.is_unknown_path() => {
                let tls = client_tls(&roots, Some(&pair))?;
                match self.go_certificate(tls, None, &roots).await {
                    Err(err) if !is_good => Err(JoinError::NotTakenBack(err.to_string())),
                    outcome => outcome,
                }
            }
            outcome => outcome,
        }
    }

    async fn join_by_factory(&self) -> Result<Identity, JoinError> {
        let (roots_file, identity) = (self.0.places.roots.clone(), self.0.identity.clone());
        let (roots, cert_pem, key_pem) = blocking(move || {
            let Some(roots) = files::read(&roots_file)? else {
                return Err(JoinError::NeedsRoots { file: roots_file });
            };
            let needed = |path: PathBuf| match files::read(&path) {
                Ok(Some(text)) => Ok(text),
                Ok(None) => Err(IdentityError::File { op: "read", path, why: "it is missing".into() }),
                Err(err) => Err(err),
            };
            Ok((roots, needed(identity.factory_cert_file)?, needed(identity.factory_key_file)?))
        })
        .await?;
        let (request, keys) = NodeRequest::new(&self.0.node)?;
        let chain = cert_ders_from_pem(&cert_pem);
        let proof = prove(X509POP_CONTEXT, &self.0.node, &proven(&request), chain, &key_pem)?;
        self.attest(client_tls(&roots, None)?, Evidence::X509pop { proof }, request, keys).await
    }

    async fn join_by_token(&self, token: &str) -> Result<Identity, JoinError> {
        let (ca_hash, jwt) = split_join_token(token)?;
        // The CA comes over a connection nobody vouches for; the token's hash does.
        let ca = self.send(Call::get(client_tls_unverified()?, "/ca.crt")).await?;
        if sha256_hex(&ca.body) != ca_hash {
            return Err(JoinError::WrongCa { server: self.0.config.http_server.clone() });
        }
        let ca_pem = cert_pem_from_der(&ca.body);
        let tls = client_tls(&ca_pem, None)?;
        let (request, keys) = self.asked_with(token).await?;
        let evidence = Evidence::JoinToken { token: jwt.clone() };
        let identity = match self.attest(Arc::clone(&tls), evidence, request, keys).await {
            Err(err) if err.is_unknown_path() => self.go_certificate(tls, Some(&jwt), &ca_pem).await?,
            outcome => outcome?,
        };
        let (places, bootstrap) = (self.0.places.clone(), self.0.config.bootstrap_file.clone());
        blocking(move || Ok(files::forget_asked(&places, &bootstrap)?)).await?;
        Ok(identity)
    }

    /// The request for this token: the one that was sent with it before, if its answer was lost.
    async fn asked_with(&self, token: &str) -> Result<(RenewalRequest, NodeKeys), JoinError> {
        let token_hash = sha256_hex(token.as_bytes());
        let (places, node) = (self.0.places.clone(), self.0.node.clone());
        let asked = blocking(move || {
            if let Some(asked) = files::load_asked(&places, &token_hash)? {
                return Ok(asked);
            }
            let (request, keys) = NodeRequest::new(&node)?;
            let asked = Asked {
                token_hash,
                request,
                svid_key: keys.svid_key_pem,
                ca_key: keys.ca_key_pem,
                jwt_key: keys.jwt_key_pem,
            };
            files::save_asked(&places, &asked)?;
            Ok(asked)
        })
        .await?;
        let keys =
            NodeKeys { svid_key_pem: asked.svid_key, ca_key_pem: asked.ca_key, jwt_key_pem: asked.jwt_key };
        Ok((asked.request, keys))
    }

    /// `POST /identity/node`.
    async fn attest(
        &self,
        tls: Arc<ClientConfig>,
        evidence: Evidence,
        request: RenewalRequest,
        keys: NodeKeys,
    ) -> Result<Identity, JoinError> {
        let url = || format!("{}{JOIN_PATH}", self.0.config.http_server.trim_end_matches('/'));
        let bad = |why: String| JoinError::BadAnswer { url: url(), why };
        let asked = AttestationRequest { node: self.0.node.to_string(), evidence, request };
        let body = serde_json::to_vec(&asked).map_err(|err| bad(err.to_string()))?;
        let call = Call {
            method: Method::POST,
            headers: vec![("Content-Type", "application/json".to_owned())],
            body: Bytes::from(body),
            ..Call::get(tls, JOIN_PATH)
        };
        let answer = self.send(call).await?;
        self.learn_time(&answer);
        let reply: RenewalReply = serde_json::from_slice(&answer.body).map_err(|err| bad(err.to_string()))?;
        self.install(keys, reply).await
    }

    /// `GET /edge.crt` of KubeEdge: a certificate, no chain, no node CA.
    async fn go_certificate(
        &self,
        tls: Arc<ClientConfig>,
        jwt: Option<&str>,
        roots_pem: &str,
    ) -> Result<Identity, JoinError> {
        let (csr, key_pem) = new_node_csr(&self.0.node)?;
        // clientAuth, in Go's numbering of key usages.
        let mut headers = vec![("NodeName", self.0.node.to_string()), ("ExtKeyUsages", "[2]".to_owned())];
        if let Some(jwt) = jwt {
            headers.push(("Authorization", format!("Bearer {jwt}")));
        }
        let call = Call { headers, body: Bytes::from(csr), ..Call::get(tls, "/edge.crt") };
        let answer = self.send(call).await?;
        self.learn_time(&answer);
        let certificate = Certificate::from_der(&answer.body)?;
        if certificate.node.as_ref() != Some(&self.0.node) {
            let text = format!("the cloud issued a certificate for {:?}", certificate.common_name);
            return Err(IdentityError::Certificate(text).into());
        }
        self.keep(NodeCredentials {
            node: self.0.node.clone(),
            trust_domain: certificate.trust_domain,
            svid: KeyPair { cert_pem: cert_pem_from_der(&answer.body), key_pem },
            node_ca: None,
            jwt_key_pem: None,
            roots_pem: roots_pem.to_owned(),
        })
        .await
    }
}
