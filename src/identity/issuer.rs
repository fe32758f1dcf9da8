//! What a node issues to its workloads, without the cloud.

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyUsagePurpose,
    SanType, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::EcdsaKeyPair;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, DnsName};
use serde_json::{Value, json};

use super::jwk::jwk;
use super::jwt::{encode, unsigned};
use super::key::EcKey;
use super::peer::{Validity, validity};
use super::{IdentityError, MAX_TTL, NodeCredentials, SpiffeId, unix_secs};

/// Certificates begin this much in the past: clocks of machines differ.
const BACKDATE: Duration = Duration::from_secs(60);
/// What a workload's path begins with; the rest of the trust domain is not this node's to give.
const WORKLOAD_PATHS: [&str; 2] = ["/ns/", "/device/"];

/// An X.509-SVID with its key.
#[derive(Clone)]
pub struct WorkloadSvid {
    /// DER, leaf first, without the root.
    pub chain: Vec<Vec<u8>>,
    pub key_pkcs8: Vec<u8>,
    pub not_after: SystemTime,
    /// Serial number of the leaf, lower-case hex.
    pub serial_hex: String,
}

impl std::fmt::Debug for WorkloadSvid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkloadSvid").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// Signs with the node's own CA and the node's key for JWT-SVIDs.
pub struct WorkloadIssuer {
    trust_domain: String,
    dns_suffix: String,
    ca_chain: Vec<Vec<u8>>,
    ca: Issuer<'static, rcgen::KeyPair>,
    ca_life: Validity,
    jwt_signer: EcdsaKeyPair,
    jwk: Value,
    random: SystemRandom,
}

impl WorkloadIssuer {
    /// # Errors
    /// [`IdentityError::Certificate`] when the credentials hold no node CA (a KubeEdge cloud gives
    /// none) or one that cannot sign.
    pub fn new(credentials: &NodeCredentials) -> Result<Self, IdentityError> {
        let pair = credentials.node_ca.as_ref().ok_or_else(|| fail("the cloud gave this node no CA"))?;
        let ca_chain: Vec<Vec<u8>> = CertificateDer::pem_slice_iter(pair.cert_pem.as_bytes())
            .map(|der| der.map(|der| der.to_vec()))
            .collect::<Result<_, _>>()
            .map_err(|_| fail("of the node CA is not PEM"))?;
        let ca_der = ca_chain.first().ok_or_else(|| fail("of the node CA is missing"))?;
        let ca_key = EcKey::from_pem(pair.key_pem.as_bytes()).map_err(IdentityError::Certificate)?;
        if super::peer::parse(ca_der)?.public_key().raw != ca_key.spki() {
            return Err(fail("of the node CA is not its key's"));
        }
        let ca_signer = ca_key.for_rcgen().map_err(IdentityError::Certificate)?;
        let ca = Issuer::from_ca_cert_der(&CertificateDer::from(ca_der.as_slice()), ca_signer)
            .map_err(|err| IdentityError::Certificate(format!("of the node CA: {err}")))?;
        let jwt_pem =
            credentials.jwt_key_pem.as_ref().ok_or_else(|| fail("there is no key for JWT-SVIDs"))?;
        let jwt_key = EcKey::from_pem(jwt_pem.as_bytes()).map_err(IdentityError::Certificate)?;
        let trust_domain = credentials.trust_domain.clone();
        Ok(Self {
            dns_suffix: format!("{}.nodes.{trust_domain}", credentials.node),
            trust_domain,
            ca_life: validity(ca_der)?,
            ca_chain,
            ca,
            jwk: jwk(&jwt_key),
            jwt_signer: jwt_key.signer().map_err(IdentityError::Certificate)?,
            random: SystemRandom::new(),
        })
    }

    /// When the node CA ends: nothing issued here lives longer.
    #[must_use]
    pub fn ends_at(&self) -> SystemTime {
        self.ca_life.not_after
    }

    /// The only DNS names that verifiers accept from this node: this one and those below it.
    #[must_use]
    pub fn dns_suffix(&self) -> &str {
        &self.dns_suffix
    }

    /// Names the key of this node's JWT-SVIDs: its RFC 7638 thumbprint.
    #[must_use]
    pub fn kid(&self) -> &str {
        self.jwk.get("kid").and_then(Value::as_str).unwrap_or_default()
    }

    /// The public key that verifies this node's JWT-SVIDs.
    #[must_use]
    pub fn jwk(&self) -> Value {
        self.jwk.clone()
    }

    /// A fresh key and its X.509-SVID (protocol section 18), good until `ttl` from now or the node
    /// CA's end, whichever comes first.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] naming the ID or DNS name that this node may not give, or that
    /// the node CA has ended.
    pub fn x509(
        &self,
        id: &SpiffeId,
        dns_names: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<WorkloadSvid, IdentityError> {
        let not_after = self.end(id, ttl, now)?;
        // A tenth of a short life: renewal at half of it must lie ahead.
        let not_before = now.checked_sub(BACKDATE.min(ttl / 10)).unwrap_or(now).max(self.ca_life.not_before);
        let mut params = CertificateParams::default();
        // No common name: OpenSSL would take one for a DNS name and hold it to the constraints.
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, "kubeedge workload");
        params.distinguished_name = subject;
        let epoch = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = epoch + Duration::from_secs(unix_secs(not_before));
        params.not_after = epoch + Duration::from_secs(unix_secs(not_after));
        let mut serial = [0; 16];
        self.random.fill(&mut serial).map_err(|_| fail("the system gave no random bytes"))?;
        // A positive number of full length: its hex is the same everywhere.
        if let Some(first) = serial.first_mut() {
            *first = *first & 0x3f | 0x40;
        }
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let uri = id.as_str().try_into().map_err(|_| fail("a SPIFFE ID is ASCII"))?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        for name in dns_names {
            params.subject_alt_names.push(self.dns_san(name)?);
        }
        let key = EcKey::generate().map_err(IdentityError::Certificate)?;
        let public = key.for_rcgen().map_err(IdentityError::Certificate)?;
        let cert = params
            .signed_by(&public, &self.ca)
            .map_err(|err| IdentityError::Certificate(format!("it could not be signed: {err}")))?;
        let mut chain = vec![cert.der().to_vec()];
        chain.extend(self.ca_chain.iter().cloned());
        let serial_hex = serial.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(WorkloadSvid { chain, key_pkcs8: public.serialize_der(), not_after, serial_hex })
    }

    /// A JWT-SVID for these audiences and when it ends, unix seconds.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] when there is no audience, for an ID this node may not give, or
    /// when the node CA has ended.
    pub fn jwt(
        &self,
        id: &SpiffeId,
        audiences: &[String],
        ttl: Duration,
        now: SystemTime,
    ) -> Result<(String, u64), IdentityError> {
        if audiences.is_empty() || audiences.iter().any(String::is_empty) {
            return Err(fail("a JWT-SVID needs an audience"));
        }
        let expires_at = unix_secs(self.end(id, ttl, now)?);
        let header = json!({"alg": "ES256", "kid": self.kid(), "typ": "JWT"});
        let claims = json!({
            "sub": id.as_str(),
            "aud": audiences,
            "iat": unix_secs(now),
            "exp": expires_at,
            "jti": uuid::Uuid::new_v4().to_string(),
        });
        let signed = unsigned(&header, &claims);
        let signature = self
            .jwt_signer
            .sign(&self.random, signed.as_bytes())
            .map_err(|_| fail("the system gave no random bytes"))?;
        Ok((format!("{signed}.{}", encode(signature.as_ref())), expires_at))
    }

    /// May this node give that identity, and until when?
    fn end(&self, id: &SpiffeId, ttl: Duration, now: SystemTime) -> Result<SystemTime, IdentityError> {
        if id.trust_domain() != self.trust_domain {
            return Err(IdentityError::Certificate(format!("{id} is of another trust domain")));
        }
        if !WORKLOAD_PATHS.iter().any(|head| id.path().starts_with(head)) {
            return Err(IdentityError::Certificate(format!("{id} is no workload's")));
        }
        if ttl.is_zero() {
            return Err(fail("its life must be longer than 0 s"));
        }
        let ends_at = self.ca_life.not_after;
        if now >= ends_at {
            return Err(fail("this node's CA has expired; it is renewed by the cloud"));
        }
        Ok(now.checked_add(ttl.min(MAX_TTL)).unwrap_or(ends_at).min(ends_at))
    }

    fn dns_san(&self, name: &str) -> Result<SanType, IdentityError> {
        let wrong = |why: &str| IdentityError::Certificate(format!("DNS name {name:?}: {why}"));
        DnsName::try_from(name).map_err(|_| wrong("it is none"))?;
        let inside =
            name.strip_suffix(&self.dns_suffix).is_some_and(|head| head.is_empty() || head.ends_with('.'));
        if !inside {
            return Err(wrong(&format!("this node may only give {} and names below it", self.dns_suffix)));
        }
        Ok(SanType::DnsName(name.try_into().map_err(|_| wrong("it is not ASCII"))?))
    }
}

fn fail(why: &str) -> IdentityError {
    IdentityError::Certificate(why.to_owned())
}

#[cfg(test)]
mod tests;
