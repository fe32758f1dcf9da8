//! rustls configurations: ring by name, never a process-wide default; TLS 1.2 and 1.3.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::client_verifier::ClientVerifier;
use super::peer::parse;
use super::slow_clock::PatientServerVerifier;
use super::svid::node_of;
use super::{IdentityError, KeyPair};

/// Whether a TLS server wants client certificates. Whatever is presented must verify.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Refuse the handshake without a certificate.
    Required,
    /// Verify one if it comes.
    Optional,
    /// Ask for none: a browser would ask its user.
    None,
}

pub(super) fn fail(why: impl Into<String>) -> IdentityError {
    IdentityError::Tls(why.into())
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What every verifier of ours does alike: signatures of the handshake, by its field `algorithms`.
macro_rules! verify_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &rustls_pki_types::CertificateDer<'_>,
            dss: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls12_signature(message, cert, dss, &self.algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &rustls_pki_types::CertificateDer<'_>,
            dss: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            rustls::crypto::verify_tls13_signature(message, cert, dss, &self.algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.algorithms.supported_schemes()
        }
    };
}
pub(super) use verify_signatures;

/// A rustls server configuration, TLS 1.2 and 1.3, ring.
///
/// # Errors
/// [`IdentityError::Tls`] when the pair or the CA is no such thing.
pub fn server_tls(
    pair: &KeyPair,
    anchors_pem: &str,
    auth: ClientAuth,
) -> Result<Arc<ServerConfig>, IdentityError> {
    Ok(ReloadableServerTls::new(pair, anchors_pem, auth)?.config())
}

/// A server configuration whose certificate, and the anchors of its clients, can be replaced while
/// it serves: handshakes that begin afterwards get the new ones, no listener restarts.
#[derive(Clone)]
pub struct ReloadableServerTls {
    config: Arc<ServerConfig>,
    current: Arc<Current>,
    verifier: Arc<ClientVerifier>,
}

impl ReloadableServerTls {
    /// # Errors
    /// [`IdentityError::Tls`] when the pair or the CA is no such thing.
    pub fn new(pair: &KeyPair, anchors_pem: &str, auth: ClientAuth) -> Result<Self, IdentityError> {
        let current = Arc::new(Current(RwLock::new(certified(pair)?)));
        let verifier = Arc::new(ClientVerifier::new(anchors(anchors_pem)?, auth, &provider()));
        let config = server_config(verifier.clone(), current.clone())?;
        Ok(Self { config, current, verifier })
    }

    /// For a listener. Sharing it shares the replacements too.
    #[must_use]
    pub fn config(&self) -> Arc<ServerConfig> {
        self.config.clone()
    }

    /// Serves `pair` from the next handshake on; the old one stays when `pair` is refused.
    ///
    /// # Errors
    /// [`IdentityError::Tls`] when the key is not the certificate's.
    pub fn replace(&self, pair: &KeyPair) -> Result<(), IdentityError> {
        let fresh = certified(pair)?;
        *self.current.0.write() = fresh;
        Ok(())
    }

    /// Verifies clients with `anchors_pem` from the next handshake on; the old anchors stay when it
    /// is refused.
    ///
    /// # Errors
    /// [`IdentityError::Tls`] when it holds no certificate or one that cannot be an anchor.
    pub fn replace_anchors(&self, anchors_pem: &str) -> Result<(), IdentityError> {
        self.verifier.replace_anchors(anchors(anchors_pem)?);
        Ok(())
    }
}

/// A server that lets in whom `verifier` accepts and shows `pair`, always the same one.
///
/// # Errors
/// [`IdentityError::Tls`] when the pair is none.
pub(super) fn server_with(
    verifier: Arc<dyn ClientCertVerifier>,
    pair: &KeyPair,
) -> Result<Arc<ServerConfig>, IdentityError> {
    server_config(verifier, Arc::new(Current(RwLock::new(certified(pair)?))))
}

fn server_config(
    verifier: Arc<dyn ClientCertVerifier>,
    resolver: Arc<dyn ResolvesServerCert>,
) -> Result<Arc<ServerConfig>, IdentityError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|err| fail(err.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    // A resumed session is not verified again: an expired client certificate would live on in it.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// The certificate handed out now.
#[derive(Debug)]
struct Current(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

fn certified(pair: &KeyPair) -> Result<Arc<CertifiedKey>, IdentityError> {
    let (chain, key) = chain_and_key(pair)?;
    let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|err| match err {
        rustls::Error::InconsistentKeys(_) => fail("the key is not the certificate's"),
        other => fail(other.to_string()),
    })?;
    Ok(Arc::new(key))
}

type ChainAndKey = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn chain_and_key(pair: &KeyPair) -> Result<ChainAndKey, IdentityError> {
    let chain = certificates(&pair.cert_pem)?;
    let key = PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes())
        .map_err(|_| fail("there is no PEM private key"))?;
    Ok((chain, key))
}

pub(super) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(fail("there is no PEM certificate")),
    }
}

pub(super) fn roots(ca_pem: &str) -> Result<Arc<RootCertStore>, IdentityError> {
    let mut store = RootCertStore::empty();
    for der in certificates(ca_pem)? {
        store.add(der).map_err(|err| fail(format!("CA certificate: {err}")))?;
    }
    Ok(Arc::new(store))
}

/// Roots of clients. The CA of a node is none: as an anchor it could sign whatever it wants.
fn anchors(pem: &str) -> Result<Arc<RootCertStore>, IdentityError> {
    for der in certificates(pem)? {
        // What is no certificate is refused below.
        let Ok(cert) = parse(&der) else { continue };
        if let Some(node) = node_of(&cert).map_err(|err| fail(err.to_string()))? {
            return Err(fail(format!("the CA of node {node} cannot be an anchor")));
        }
    }
    roots(pem)
}

/// A rustls client configuration that trusts only `ca_pem`, presenting `pair` if given.
///
/// # Errors
/// [`IdentityError::Tls`] when the pair or the CA is no such thing.
pub fn client_tls(ca_pem: &str, pair: Option<&KeyPair>) -> Result<Arc<ClientConfig>, IdentityError> {
    let provider = provider();
    let algorithms = provider.signature_verification_algorithms;
    let inner = WebPkiServerVerifier::builder_with_provider(roots(ca_pem)?, Arc::clone(&provider)).build();
    let inner = inner.map_err(|err| fail(err.to_string()))?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|err| fail(err.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PatientServerVerifier { inner, algorithms }));
    let config = match pair {
        None => builder.with_no_client_auth(),
        Some(pair) => {
            let (chain, key) = chain_and_key(pair)?;
            builder.with_client_auth_cert(chain, key).map_err(|err| fail(err.to_string()))?
        }
    };
    Ok(Arc::new(config))
}

/// A client configuration that believes any server. For one call only: `GET /ca.crt` of a joining
/// node, whose answer is then compared with the CA hash in the join token (protocol section 5.4).
///
/// # Errors
/// [`IdentityError::Tls`], never in practice.
pub fn client_tls_unverified() -> Result<Arc<ClientConfig>, IdentityError> {
    let provider = provider();
    let verifier = AnyServer { algorithms: provider.signature_verification_algorithms };
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|err| fail(err.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Checks that the server has the key of its certificate, and nothing else.
#[derive(Debug)]
struct AnyServer {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    verify_signatures!();
}

#[cfg(test)]
mod tests;
