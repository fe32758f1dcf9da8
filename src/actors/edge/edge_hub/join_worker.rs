//! How this node gets, keeps and renews its certificate (protocol 5.3, 5.4): files on disk, and
//! GETs with a body over TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificate::{Certificate, Standing};
use crate::config::EdgeHubConfig;
use crate::identity::{
    IdentityError, KEY_MODE, KeyPair, TokenError, cert_pem_from_der, client_tls, client_tls_unverified,
    new_node_csr, sha256_hex, split_join_token, write_atomic,
};
use crate::model::NodeName;

/// Certificates are around 1 KiB; nothing longer is taken from the network.
const MAX_RESPONSE_BYTES: usize = 64 << 10;
const DEFAULT_PORT: u16 = 10002;

/// Why there is no usable certificate.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("{} was issued for {found:?}, not for node {node}: remove it and its key to join anew, or correct hostnameOverride", file.display())]
    OtherNode { file: PathBuf, found: String, node: NodeName },
    #[error("{why}: put a fresh join token into {} (`keadm gettoken` prints one on the cloud side)", bootstrap_file.display())]
    NeedsToken { why: String, bootstrap_file: PathBuf },
    #[error("join token: {0}")]
    Token(#[from] TokenError),
    #[error("the CA at {server} is not the one the join token names: wrong server, or somebody in between")]
    WrongCa { server: String },
    #[error("{url} answered {status}: {text}")]
    Refused { url: String, status: StatusCode, text: String },
    #[error("cannot get {url}: {why}")]
    Http { url: String, why: String },
    #[error("modules.edgeHub.httpServer: {0}")]
    BadServer(String),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// What opens a session.
#[derive(Debug, Clone)]
pub struct Identity {
    pub ca_pem: String,
    pub pair: KeyPair,
    pub certificate: Certificate,
}

/// Gets certificates for one node.
#[derive(Debug, Clone)]
pub struct Joiner {
    node: NodeName,
    config: Arc<EdgeHubConfig>,
}

impl Joiner {
    #[must_use]
    pub fn new(node: NodeName, config: Arc<EdgeHubConfig>) -> Self {
        Self { node, config }
    }

    /// The identity on disk, or, when there is none or its time is over, a new one.
    ///
    /// # Errors
    /// [`JoinError`] says what the operator has to do, if it is up to the operator.
    pub async fn ensure(&self) -> Result<Identity, JoinError> {
        let Some(stored) = self.load().await? else { return self.join("there is no certificate yet").await };
        match stored.certificate.standing(&self.node, SystemTime::now()) {
            Standing::Usable => Ok(stored),
            Standing::OtherNode => Err(JoinError::OtherNode {
                file: self.config.tls_cert_file.clone(),
                found: stored.certificate.common_name,
                node: self.node.clone(),
            }),
            Standing::Expired => match self.renew_from(&stored).await {
                Ok(renewed) => Ok(renewed),
                Err(err) => {
                    tracing::warn!(error = %err, "the expired certificate was not renewed");
                    self.join("the certificate expired while this node was offline").await
                }
            },
        }
    }

    /// Renews the stored certificate with itself as the proof.
    ///
    /// # Errors
    /// [`JoinError`]; the stored one stays as it is then.
    pub async fn renew(&self) -> Result<Identity, JoinError> {
        let Some(stored) = self.load().await? else { return self.join("there is no certificate yet").await };
        self.renew_from(&stored).await
    }

    async fn renew_from(&self, stored: &Identity) -> Result<Identity, JoinError> {
        let tls = client_tls(&stored.ca_pem, Some(&stored.pair))?;
        self.request_certificate(tls, None, &stored.ca_pem).await
    }

    async fn join(&self, why: &str) -> Result<Identity, JoinError> {
        let config = Arc::clone(&self.config);
        let found = blocking(move || Ok(read_token(&config))).await?;
        let Some(token) = found else {
            let bootstrap_file = self.config.bootstrap_file.clone();
            return Err(JoinError::NeedsToken { why: why.to_owned(), bootstrap_file });
        };
        let (ca_hash, jwt) = split_join_token(&token)?;
        // The CA comes over a connection nobody vouches for; the token's hash does.
        let ca_der = self.get(client_tls_unverified()?, "/ca.crt", &[], Bytes::new()).await?;
        if sha256_hex(&ca_der) != ca_hash {
            return Err(JoinError::WrongCa { server: self.config.http_server.clone() });
        }
        let ca_pem = cert_pem_from_der(&ca_der);
        let tls = client_tls(&ca_pem, None)?;
        let identity = self.request_certificate(tls, Some(&jwt), &ca_pem).await?;
        let bootstrap = self.config.bootstrap_file.clone();
        blocking(move || match std::fs::remove_file(&bootstrap) {
            Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                Err(IdentityError::File { op: "remove", path: bootstrap, why: err.to_string() }.into())
            }
            _ => Ok(()),
        })
        .await?;
        tracing::info!(node = %self.node, server = %self.config.http_server, "joined");
        Ok(identity)
    }

    async fn request_certificate(
        &self,
        tls: Arc<ClientConfig>,
        jwt: Option<&str>,
        ca_pem: &str,
    ) -> Result<Identity, JoinError> {
        let (csr, key_pem) = new_node_csr(&self.node)?;
        // clientAuth, in Go's numbering of key usages.
        let mut headers = vec![("NodeName", self.node.to_string()), ("ExtKeyUsages", "[2]".to_owned())];
        if let Some(jwt) = jwt {
            headers.push(("Authorization", format!("Bearer {jwt}")));
        }
        let der = self.get(tls, "/edge.crt", &headers, Bytes::from(csr)).await?;
        let certificate = Certificate::from_der(&der)?;
        if certificate.node.as_ref() != Some(&self.node) {
            let text = format!("the cloud issued a certificate for {:?}", certificate.common_name);
            return Err(IdentityError::Certificate(text).into());
        }
        let pair = KeyPair { cert_pem: cert_pem_from_der(&der), key_pem };
        let identity = Identity { ca_pem: ca_pem.to_owned(), pair, certificate };
        let (config, saved) = (Arc::clone(&self.config), identity.clone());
        blocking(move || Ok(save(&config, &saved)?)).await?;
        Ok(identity)
    }

    async fn load(&self) -> Result<Option<Identity>, JoinError> {
        let config = Arc::clone(&self.config);
        blocking(move || Ok(load(&config)?)).await
    }

    /// One GET. Go's servers take the CSR as the body of a GET.
    async fn get(
        &self,
        tls: Arc<ClientConfig>,
        path: &str,
        headers: &[(&str, String)],
        body: Bytes,
    ) -> Result<Bytes, JoinError> {
        let url = format!("{}{path}", self.config.http_server.trim_end_matches('/'));
        let uri: Uri = url.parse().map_err(|err| JoinError::BadServer(format!("{url:?}: {err}")))?;
        if uri.scheme_str() != Some("https") {
            return Err(JoinError::BadServer(format!("{url:?} does not begin with https://")));
        }
        let Some(host) = uri.host() else {
            return Err(JoinError::BadServer(format!("{url:?} names no host")));
        };
        let http = |why: String| JoinError::Http { url: url.clone(), why };
        let mut request = Request::get(uri.path()).header("Host", host);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(body)).map_err(|err| http(err.to_string()))?;
        let port = uri.port_u16().unwrap_or(DEFAULT_PORT);
        let deadline = Duration::from_secs(self.config.websocket.handshake_timeout.max(1));
        let exchange = async {
            let stream = connect(host.trim_matches(['[', ']']), port, tls).await?;
            exchange(stream, request).await
        };
        let (status, bytes) = tokio::time::timeout(deadline, exchange)
            .await
            .map_err(|_| http(format!("no answer within {deadline:?}")))?
            .map_err(http)?;
        if status != StatusCode::OK {
            let text: String = String::from_utf8_lossy(&bytes).trim().chars().take(200).collect();
            return Err(JoinError::Refused { url, status, text });
        }
        Ok(bytes)
    }
}

async fn exchange(
    stream: TlsStream<TcpStream>,
    request: Request<Full<Bytes>>,
) -> Result<(StatusCode, Bytes), String> {
    let text = |err: hyper::Error| err.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(text)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_RESPONSE_BYTES);
        let body = body.collect().await.map_err(|err| err.to_string())?;
        Ok((status, body.to_bytes()))
    };
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        _ = connection => answer.await,
    }
}

/// TCP and TLS to `host:port`. The caller bounds the time.
pub async fn connect(host: &str, port: u16, tls: Arc<ClientConfig>) -> Result<TlsStream<TcpStream>, String> {
    let name =
        ServerName::try_from(host.to_owned()).map_err(|_| format!("{host:?} is no host name or address"))?;
    let socket =
        TcpStream::connect((host, port)).await.map_err(|err| format!("connect {host}:{port}: {err}"))?;
    socket.set_nodelay(true).map_err(|err| err.to_string())?;
    TlsConnector::from(tls)
        .connect(name, socket)
        .await
        .map_err(|err| format!("tls with {host}:{port}: {err}"))
}

/// Runs file work, syncs included, off the arbiter.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, JoinError> + Send + 'static,
) -> Result<T, JoinError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(err) => Err(IdentityError::Certificate(format!("reading its files failed: {err}")).into()),
    }
}

fn read_token(config: &EdgeHubConfig) -> Option<String> {
    let file = std::fs::read_to_string(&config.bootstrap_file).unwrap_or_default();
    [file.trim(), config.token.trim()].into_iter().find(|token| !token.is_empty()).map(str::to_owned)
}

fn next(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".next");
    PathBuf::from(name)
}

fn rename(from: &Path, to: &Path) -> Result<(), IdentityError> {
    std::fs::rename(from, to).map_err(|err| IdentityError::File {
        op: "rename",
        path: from.to_owned(),
        why: err.to_string(),
    })
}

/// Replaces certificate and key so that a crash at any point leaves a pair that belongs together:
/// both are written beside the old ones first, the certificate last; [`load`] finishes the rest.
fn save(config: &EdgeHubConfig, identity: &Identity) -> Result<(), IdentityError> {
    write_atomic(&config.tls_ca_file, identity.ca_pem.as_bytes(), KEY_MODE)?;
    let (cert, key) = (next(&config.tls_cert_file), next(&config.tls_private_key_file));
    if cert.exists() {
        std::fs::remove_file(&cert).map_err(|err| IdentityError::File {
            op: "remove",
            path: cert.clone(),
            why: err.to_string(),
        })?;
    }
    write_atomic(&key, identity.pair.key_pem.as_bytes(), KEY_MODE)?;
    write_atomic(&cert, identity.pair.cert_pem.as_bytes(), KEY_MODE)?;
    install(config)
}

fn install(config: &EdgeHubConfig) -> Result<(), IdentityError> {
    let (cert, key) = (next(&config.tls_cert_file), next(&config.tls_private_key_file));
    if !cert.exists() {
        return Ok(());
    }
    if key.exists() {
        rename(&key, &config.tls_private_key_file)?;
    }
    rename(&cert, &config.tls_cert_file)
}

fn load(config: &EdgeHubConfig) -> Result<Option<Identity>, IdentityError> {
    install(config)?;
    let read = |path: &Path| match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(err) => Err(IdentityError::File { op: "read", path: path.to_owned(), why: err.to_string() }),
    };
    let (cert, key) = (read(&config.tls_cert_file)?, read(&config.tls_private_key_file)?);
    let (Some(cert_pem), Some(key_pem)) = (cert, key) else { return Ok(None) };
    let Some(ca_pem) = read(&config.tls_ca_file)? else {
        let path = config.tls_ca_file.clone();
        return Err(IdentityError::File { op: "read", path, why: "it is missing".to_owned() });
    };
    let certificate = Certificate::from_pem(&cert_pem).map_err(|err| IdentityError::File {
        op: "use",
        path: config.tls_cert_file.clone(),
        why: err.to_string(),
    })?;
    Ok(Some(Identity { ca_pem, pair: KeyPair { cert_pem, key_pem }, certificate }))
}

#[cfg(test)]
mod tests;
