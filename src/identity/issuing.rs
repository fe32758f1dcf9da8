//! What authorities sign: the shape of every certificate of the trust domain, and how long it lives.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyUsagePurpose, NameConstraints, PublicKeyData, SanType, SerialNumber,
};
use ring::rand::SecureRandom;
use rustls_pki_types::{CertificateDer, DnsName};

use super::peer::{Validity, parse, texts};
use super::signer::AuthorityKey;
use super::{IdentityError, MAX_TTL, SpiffeId, sha256_hex, unix_secs};
use crate::model::NodeName;

/// Days a root is good for, as Go KubeEdge has it (protocol section 5.1).
pub(super) const ROOT_DAYS: u64 = 100 * 364;
/// Certificates begin this much in the past: clocks at the edge run behind.
pub(super) const BACKDATE: Duration = Duration::from_secs(60);
/// Organization of the intermediate CAs of nodes. Verifiers know them by it.
pub(super) const NODE_CA_ORGANIZATION: &str = "kubeedge node CA";

/// An authority at work: its certificate, what it signs with, until when.
pub(super) struct Authority {
    pub der: Vec<u8>,
    pub valid: Validity,
    issuer: Issuer<'static, AuthorityKey>,
}

impl Authority {
    pub fn new(der: Vec<u8>, key: AuthorityKey) -> Result<Self, IdentityError> {
        let valid = super::validity(&der)?;
        let issuer = Issuer::from_ca_cert_der(&CertificateDer::from(der.as_slice()), key)
            .map_err(|err| fail(format!("of the CA: {err}")))?;
        Ok(Self { der, valid, issuer })
    }

    pub fn key(&self) -> &AuthorityKey {
        self.issuer.key()
    }

    /// Signs `params` for a public key; DER.
    pub fn sign(
        &self,
        params: &CertificateParams,
        public: &impl PublicKeyData,
    ) -> Result<Vec<u8>, IdentityError> {
        let cert = params
            .signed_by(public, &self.issuer)
            .map_err(|err| fail(format!("it could not be signed: {err}")))?;
        Ok(cert.der().to_vec())
    }

    /// From a minute ago (less for a short life, never before `not_before_min`) until `ttl` from now,
    /// at most as long as this authority.
    pub fn window(
        &self,
        ttl: Duration,
        not_before_min: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<Validity, IdentityError> {
        if ttl.is_zero() {
            return Err(fail("its life must be longer than 0 s"));
        }
        if now >= self.valid.not_after {
            return Err(fail("the CA expired"));
        }
        // A tenth of a short life: renewal at half of it must lie ahead.
        let backdated = now.checked_sub(BACKDATE.min(ttl / 10)).unwrap_or(now);
        let not_before = not_before_min.map_or(backdated, |min| min.max(backdated));
        let not_after = now.checked_add(ttl.min(MAX_TTL)).unwrap_or(self.valid.not_after);
        let not_after = not_after.min(self.valid.not_after);
        if not_before >= not_after {
            return Err(fail("it would end before it begins"));
        }
        Ok(Validity { not_before, not_after })
    }
}

fn fail(why: impl Into<String>) -> IdentityError {
    IdentityError::Certificate(why.into())
}

/// A root, self-signed. `generation` is empty for the first root of a cloud, which is named as Go
/// KubeEdge names it; later ones differ in it, so that two roots are never mistaken for each other.
pub(super) fn root(key: &AuthorityKey, generation: &str, now: SystemTime) -> Result<Vec<u8>, IdentityError> {
    let not_before = now.checked_sub(BACKDATE).unwrap_or(now);
    let not_after = now + Duration::from_secs(ROOT_DAYS * 86_400);
    let mut params = base("KubeEdge", &[], Validity { not_before, not_after })?;
    if !generation.is_empty() {
        params.distinguished_name.push(DnType::OrganizationalUnitName, generation);
    }
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let cert =
        params.self_signed(key).map_err(|err| fail(format!("of the CA could not be signed: {err}")))?;
    Ok(cert.der().to_vec())
}

/// A root's key and name, signed by the root before it: whoever trusts only that one follows.
pub(super) fn cross(old: &Authority, new: &Authority) -> Result<Vec<u8>, IdentityError> {
    let not_after = new.valid.not_after.min(old.valid.not_after);
    let mut params = base("KubeEdge", &[], Validity { not_before: new.valid.not_before, not_after })?;
    let parsed = parse(&new.der)?;
    for generation in texts(parsed.subject().iter_organizational_unit()).map_err(fail)? {
        params.distinguished_name.push(DnType::OrganizationalUnitName, generation);
    }
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    let cross = old.sign(&params, new.key())?;
    if parse(&cross)?.subject().as_raw() != parsed.subject().as_raw() {
        return Err(fail("of the next root has a subject that is not ours"));
    }
    Ok(cross)
}

/// cloudcore's issuing CA: may sign the CAs of nodes, which may sign leaves only.
pub(super) fn issuing(
    root: &Authority,
    key: &AuthorityKey,
    trust_domain: &str,
    ttl: Duration,
    now: SystemTime,
) -> Result<Vec<u8>, IdentityError> {
    let name: String = sha256_hex(&key.spki()).chars().take(8).collect();
    let cn = format!("KubeEdge issuing CA {name}");
    let mut params = base(&cn, &["KubeEdge"], root.window(ttl, None, now)?)?;
    authority(&mut params, trust_domain, 1)?;
    root.sign(&params, key)
}

/// The intermediate CA of a node. By X.509 itself it is good for DNS names below
/// `{node}.nodes.{trust_domain}` and for no address; which SPIFFE IDs it may sign is checked by
/// [`super::verify_x509_svid`] (webpki refuses every certificate below a URI constraint).
pub(super) fn node_ca(
    node: &NodeName,
    trust_domain: &str,
    window: Validity,
) -> Result<CertificateParams, IdentityError> {
    let mut params = base(node.as_str(), &[NODE_CA_ORGANIZATION], window)?;
    authority(&mut params, trust_domain, 0)?;
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(format!("{node}.nodes.{trust_domain}"))],
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])),
            GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])),
        ],
    });
    Ok(params)
}

fn authority(params: &mut CertificateParams, trust_domain: &str, path_len: u8) -> Result<(), IdentityError> {
    params.subject_alt_names = vec![uri_san(&domain_id(trust_domain)?)?];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_len));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(())
}

/// What all certificates share: subject, window, random serial number, `CA:FALSE`,
/// digitalSignature (an X.509-SVID's leaf has neither keyCertSign nor cRLSign, protocol section 18).
pub(super) fn base(cn: &str, orgs: &[&str], window: Validity) -> Result<CertificateParams, IdentityError> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    // DistinguishedName keeps one value per type; more organizations than one are never needed here.
    match orgs {
        [] => {}
        [org] => subject.push(DnType::OrganizationName, *org),
        _ => return Err(fail("a subject has one organization here")),
    }
    if !cn.is_empty() {
        subject.push(DnType::CommonName, cn);
    }
    params.distinguished_name = subject;
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + Duration::from_secs(unix_secs(window.not_before));
    params.not_after = epoch + Duration::from_secs(unix_secs(window.not_after));
    let mut serial = [0; 16];
    ring::rand::SystemRandom::new().fill(&mut serial).map_err(|_| fail("the system gave no random bytes"))?;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The ID of the trust domain itself.
pub(super) fn domain_id(trust_domain: &str) -> Result<SpiffeId, IdentityError> {
    id_in(trust_domain, "")
}

/// The ID of this path, which begins with a slash.
pub(super) fn id_in(trust_domain: &str, path: &str) -> Result<SpiffeId, IdentityError> {
    SpiffeId::parse(&format!("spiffe://{trust_domain}{path}"))
        .map_err(|why| fail(format!("trust domain {trust_domain:?}: {why}")))
}

pub(super) fn uri_san(id: &SpiffeId) -> Result<SanType, IdentityError> {
    let uri = id.as_str().try_into().map_err(|_| fail(format!("{id} is not ASCII")))?;
    Ok(SanType::URI(uri))
}

/// A name of a server: an IP address, a DNS name, or a SPIFFE ID.
pub(super) fn san(name: &str) -> Result<SanType, IdentityError> {
    let wrong = |why: &str| fail(format!("name {name:?}: {why}"));
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
