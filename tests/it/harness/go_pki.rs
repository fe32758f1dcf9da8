//! The certificates of a cloudcore of KubeEdge (protocol sections 5.1 to 5.3): a root that signs every
//! leaf itself, no intermediate, no SPIFFE ID.

use std::net::{IpAddr, Ipv4Addr};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use kubeedge::identity::{KeyPair, cert_pem_from_der, sha256_hex};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair as RcgenPair, KeyUsagePurpose, SanType, SerialNumber,
};

/// CA and token of one cloud.
pub struct GoPki {
    pub ca_der: Vec<u8>,
    issuer: Issuer<'static, RcgenPair>,
    jwt: String,
}

impl GoPki {
    pub fn new() -> Self {
        let key = RcgenPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "KubeEdge");
        params.serial_number = Some(SerialNumber::from(1024_u64));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyEncipherment,
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
        ];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let ca_der = params.self_signed(&key).unwrap().der().to_vec();
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let claims = format!(r#"{{"exp":{}}}"#, super::process::now_ms() / 1000 + 86_400);
        let jwt = [part(r#"{"alg":"HS256","typ":"JWT"}"#), part(&claims), part("signed")].join(".");
        Self { ca_der, issuer: Issuer::new(params, key), jwt }
    }

    pub fn ca_pem(&self) -> String {
        cert_pem_from_der(&self.ca_der)
    }

    /// `{hash of the CA}.{JWT}`.
    pub fn token(&self) -> String {
        format!("{}.{}", sha256_hex(&self.ca_der), self.jwt)
    }

    /// O and CN `KubeEdge`, the addresses as names.
    pub fn server(&self) -> KeyPair {
        let key = RcgenPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "KubeEdge");
        params.distinguished_name.push(DnType::CommonName, "KubeEdge");
        params.subject_alt_names = vec![SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST))];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        KeyPair { cert_pem: cert_pem_from_der(cert.der()), key_pem: key.serialize_pem() }
    }

    /// `EdgeCoreClientCert`: CN and O of the request and its key, nothing else.
    ///
    /// # Errors
    /// Status and text, as Go's.
    pub fn edge_crt(
        &self,
        node: &str,
        bearer: Option<&str>,
        certified: bool,
        csr: &[u8],
    ) -> Result<Vec<u8>, (u16, String)> {
        if !certified && bearer != Some(&format!("Bearer {}", self.jwt)) {
            return Err((401, "failed to verify the token".to_owned()));
        }
        let der = rustls_pki_types::CertificateSigningRequestDer::from(csr);
        let mut asked =
            CertificateSigningRequestParams::from_der(&der).map_err(|err| (500, err.to_string()))?;
        let name = |kind: &DnType| match asked.params.distinguished_name.get(kind) {
            Some(rcgen::DnValue::Utf8String(text)) => text.clone(),
            Some(rcgen::DnValue::PrintableString(text)) => text.as_str().to_owned(),
            other => panic!("{kind:?} is {other:?}"),
        };
        let (organization, common) = (name(&DnType::OrganizationName), name(&DnType::CommonName));
        // The session is refused otherwise (`AuthenticateConnection`, `verifyCert`).
        assert_eq!((organization.as_str(), common), ("system:nodes", format!("system:node:{node}")));
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, format!("system:node:{node}"));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        asked.params = params;
        Ok(asked.signed_by(&self.issuer).unwrap().der().to_vec())
    }
}
