//! The certificate authority of cloudcore, and what it signs.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyUsagePurpose, SanType, SerialNumber,
};
use ring::rand::SecureRandom;
use rustls_pki_types::{CertificateDer, DnsName};

use super::key::{EcKey, cert_pem_from_der};
use super::peer::{NODE_GROUP, NODE_PREFIX, Validity, parse, validity};
use super::{
    IdentityError, KEY_MODE, KeyPair, MAX_TTL, PUBLIC_MODE, SpiffeId, csr, files, key, sha256_hex, unix_secs,
};
use crate::model::NodeName;

/// Days the CA is good for, as Go KubeEdge has it (protocol section 5.1).
const CA_DAYS: u64 = 100 * 364;
/// Certificates begin this much in the past: clocks at the edge run behind.
const BACKDATE: Duration = Duration::from_secs(60);

/// The certificate authority of cloudcore: ECDSA P-256 (protocol section 5.1).
pub struct Ca {
    cert_der: Vec<u8>,
    valid: Validity,
    issuer: Issuer<'static, rcgen::KeyPair>,
}

impl Ca {
    /// Loads both files; creates both if neither exists. One of the two missing is an error that
    /// names it: a CA is never replaced silently.
    ///
    /// # Errors
    /// [`IdentityError::File`] naming the file that is missing, unreadable or wrong.
    pub fn load_or_create(cert_file: &Path, key_file: &Path) -> Result<Self, IdentityError> {
        let missing = |path: &Path, other: &Path| IdentityError::File {
            op: "read",
            path: path.into(),
            why: format!(
                "it is missing while {} exists; bring it back, or move that one away to start with a new CA \
                 (every node must then join again)",
                other.display()
            ),
        };
        match (files::read_small(cert_file)?, files::read_small(key_file)?) {
            (Some(cert), Some(key)) => Self::load(cert_file, &cert, key_file, &key),
            (Some(_), None) => Err(missing(key_file, cert_file)),
            (None, Some(_)) => Err(missing(cert_file, key_file)),
            (None, None) => {
                let key = EcKey::generate().map_err(IdentityError::Certificate)?;
                let cert_der = self_sign(&key, SystemTime::now())?;
                files::write_atomic(key_file, key.to_pem().as_bytes(), KEY_MODE)?;
                files::write_atomic(cert_file, cert_pem_from_der(&cert_der).as_bytes(), PUBLIC_MODE)?;
                tracing::info!(cert = %cert_file.display(), hash = sha256_hex(&cert_der), "created a new CA");
                Self::new(cert_der, &key)
            }
        }
    }

    fn load(cert_file: &Path, cert: &[u8], key_file: &Path, key: &[u8]) -> Result<Self, IdentityError> {
        let wrong = |path: &Path, why: String| IdentityError::File { op: "use", path: path.into(), why };
        let cert_der = std::str::from_utf8(cert)
            .ok()
            .and_then(key::cert_der_from_pem)
            .ok_or_else(|| wrong(cert_file, "it holds no PEM certificate".into()))?;
        let key = EcKey::from_pem(key).map_err(|why| wrong(key_file, why))?;
        let certificate = parse(&cert_der).map_err(|err| wrong(cert_file, err.to_string()))?;
        if !certificate.is_ca() {
            return Err(wrong(cert_file, "it is not the certificate of a CA".into()));
        }
        if certificate.public_key().raw != key.spki() {
            return Err(wrong(key_file, format!("it is not the key of {}", cert_file.display())));
        }
        Self::new(cert_der, &key)
    }

    fn new(cert_der: Vec<u8>, key: &EcKey) -> Result<Self, IdentityError> {
        let signer = key.for_rcgen().map_err(IdentityError::Certificate)?;
        let valid = validity(&cert_der)?;
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(cert_der.as_slice()), signer)
            .map_err(|err| IdentityError::Certificate(format!("of the CA: {err}")))?;
        Ok(Self { cert_der, valid, issuer })
    }

    /// The CA certificate, DER: what `GET /ca.crt` answers.
    #[must_use]
    pub fn cert_der(&self) -> &[u8] {
        &self.cert_der
    }

    /// The CA certificate, PEM.
    #[must_use]
    pub fn cert_pem(&self) -> String {
        cert_pem_from_der(&self.cert_der)
    }

    /// Lower-case hex sha256 of the CA certificate's DER: the first part of a join token.
    #[must_use]
    pub fn hash_hex(&self) -> String {
        sha256_hex(&self.cert_der)
    }

    /// Signs a node's CSR (DER). The CSR must ask for exactly `CN=system:node:{node}`,
    /// `O=system:nodes`; the certificate also carries `spiffe://{trust_domain}/node/{node}`.
    /// Returns DER. Nothing but the public key is taken from the request.
    ///
    /// # Errors
    /// [`IdentityError::Csr`] naming the field that is refused.
    pub fn sign_node_csr(
        &self,
        csr_der: &[u8],
        node: &NodeName,
        trust_domain: &str,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Vec<u8>, IdentityError> {
        let id = SpiffeId::parse(&format!("spiffe://{trust_domain}/node/{node}"))
            .map_err(|why| IdentityError::Certificate(format!("trust domain {trust_domain:?}: {why}")))?;
        let spki = csr::check_node_csr(csr_der, node, &id)?;
        let spki = rcgen::SubjectPublicKeyInfo::from_der(&spki)
            .map_err(|_| IdentityError::Csr("public key: it does not parse".into()))?;
        let mut params = leaf(&format!("{NODE_PREFIX}{node}"), &[NODE_GROUP], self.window(ttl, now)?)?;
        params.subject_alt_names = vec![uri_san(&id)?];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        self.sign(&params, &spki)
    }

    /// A server certificate for these IP addresses and DNS names, O `KubeEdge`. A name that begins
    /// with `spiffe://` becomes the URI SAN; empty names are skipped.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] naming the name that is none.
    pub fn issue_server(&self, cn: &str, names: &[String], ttl: Duration) -> Result<KeyPair, IdentityError> {
        let mut params = leaf(cn, &["KubeEdge"], self.window(ttl, SystemTime::now())?)?;
        params.subject_alt_names =
            names.iter().filter(|name| !name.is_empty()).map(|name| san(name)).collect::<Result<_, _>>()?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(&params)
    }

    /// A client certificate (admin: CN `kubernetes-admin`, O `system:masters`).
    ///
    /// # Errors
    /// [`IdentityError::Certificate`].
    pub fn issue_client(&self, cn: &str, orgs: &[&str], ttl: Duration) -> Result<KeyPair, IdentityError> {
        let mut params = leaf(cn, orgs, self.window(ttl, SystemTime::now())?)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&params)
    }

    fn issue(&self, params: &CertificateParams) -> Result<KeyPair, IdentityError> {
        let key = EcKey::generate().map_err(IdentityError::Certificate)?;
        let public = key.for_rcgen().map_err(IdentityError::Certificate)?;
        let cert_der = self.sign(params, &public)?;
        Ok(KeyPair { cert_pem: cert_pem_from_der(&cert_der), key_pem: key.to_pem() })
    }

    fn sign(
        &self,
        params: &CertificateParams,
        public: &impl rcgen::PublicKeyData,
    ) -> Result<Vec<u8>, IdentityError> {
        let cert = params
            .signed_by(public, &self.issuer)
            .map_err(|err| IdentityError::Certificate(format!("it could not be signed: {err}")))?;
        Ok(cert.der().to_vec())
    }

    /// From a minute ago (less for a short life) until `ttl` from now, at most as long as the CA itself.
    fn window(&self, ttl: Duration, now: SystemTime) -> Result<Validity, IdentityError> {
        if ttl.is_zero() {
            return Err(IdentityError::Certificate("its life must be longer than 0 s".into()));
        }
        if now >= self.valid.not_after {
            return Err(IdentityError::Certificate("the CA expired".into()));
        }
        // A tenth of a short life: renewal at half of it must lie ahead.
        let not_before = now.checked_sub(BACKDATE.min(ttl / 10)).unwrap_or(now);
        let not_after = now.checked_add(ttl.min(MAX_TTL)).unwrap_or(self.valid.not_after);
        Ok(Validity { not_before, not_after: not_after.min(self.valid.not_after) })
    }
}

fn self_sign(key: &EcKey, now: SystemTime) -> Result<Vec<u8>, IdentityError> {
    let life = Duration::from_secs(CA_DAYS * 86_400);
    let not_before = now.checked_sub(BACKDATE).unwrap_or(now);
    let mut params = leaf("KubeEdge", &[], Validity { not_before, not_after: now + life })?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let signer = key.for_rcgen().map_err(IdentityError::Certificate)?;
    let cert = params
        .self_signed(&signer)
        .map_err(|err| IdentityError::Certificate(format!("of the CA could not be signed: {err}")))?;
    Ok(cert.der().to_vec())
}

/// What all certificates share: subject, window, random serial number, `CA:FALSE`,
/// digitalSignature (an X.509-SVID's leaf has neither keyCertSign nor cRLSign, protocol section 18).
fn leaf(cn: &str, orgs: &[&str], window: Validity) -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    // DistinguishedName keeps one value per type; more organizations than one are never needed here.
    match orgs {
        [] => {}
        [org] => subject.push(DnType::OrganizationName, *org),
        _ => return Err(IdentityError::Certificate("a subject has one organization here".into())),
    }
    subject.push(DnType::CommonName, cn);
    params.distinguished_name = subject;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(unix_secs(window.not_before));
    params.not_after = epoch + Duration::from_secs(unix_secs(window.not_after));
    let mut serial = [0; 16];
    ring::rand::SystemRandom::new()
        .fill(&mut serial)
        .map_err(|_| IdentityError::Certificate("the system gave no random bytes".into()))?;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn uri_san(id: &SpiffeId) -> Result<SanType, IdentityError> {
    let uri = id.as_str().try_into().map_err(|_| IdentityError::Certificate(format!("{id} is not ASCII")))?;
    Ok(SanType::URI(uri))
}

fn san(name: &str) -> Result<SanType, IdentityError> {
    let wrong = |why: &str| IdentityError::Certificate(format!("name {name:?}: {why}"));
    if name.starts_with("spiffe://") {
        return uri_san(&SpiffeId::parse(name).map_err(wrong)?);
    }
    if let Ok(ip) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(ip));
    }
    let without_star = name.strip_prefix("*.").unwrap_or(name);
    DnsName::try_from(without_star).map_err(|_| wrong("it is neither an IP address nor a DNS name"))?;
    Ok(SanType::DnsName(name.try_into().map_err(|_| wrong("it is not ASCII"))?))
}

#[cfg(test)]
mod tests;
