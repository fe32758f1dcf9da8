//! Factory certificates: a machine that was given one when it was made joins without a token
//! (X.509 proof of possession).

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter, anchor_from_trusted_cert};

use super::peer::{common_name, parse};
use super::{IdentityError, files};
use crate::model::NodeName;

/// The roots of `identity.factoryCaFile`.
#[derive(Debug)]
pub struct FactoryRoots {
    anchors: Vec<TrustAnchor<'static>>,
}

/// Factories write what they like into the extended key usage.
struct AnyUsage;

impl ExtendedKeyUsageValidator for AnyUsage {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        Ok(())
    }
}

impl FactoryRoots {
    /// Reads a PEM file of one or more roots.
    ///
    /// # Errors
    /// [`IdentityError::File`] naming it.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        let fail = |op, why: &str| IdentityError::File { op, path: path.into(), why: why.into() };
        let pem = files::read_small(path)?.ok_or_else(|| fail("read", "it does not exist"))?;
        Self::from_pem(&pem).map_err(|err| fail("use", &err.to_string()))
    }

    /// # Errors
    /// [`IdentityError::Certificate`] unless it is one or more PEM certificates.
    pub fn from_pem(pem: &[u8]) -> Result<Self, IdentityError> {
        let fail = |why: String| IdentityError::Certificate(why);
        let mut anchors = Vec::new();
        for der in CertificateDer::pem_slice_iter(pem) {
            let der = der.map_err(|err| fail(err.to_string()))?;
            anchors.push(anchor_from_trusted_cert(&der).map_err(|err| fail(err.to_string()))?.to_owned());
        }
        if anchors.is_empty() {
            return Err(fail("there is no PEM certificate".to_owned()));
        }
        Ok(Self { anchors })
    }

    /// The node a factory certificate is for: its common name, once the chain (leaf first) leads to
    /// one of the roots. Whether the caller has the key is shown elsewhere.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] with the reason.
    pub fn node_of(&self, chain: &[Vec<u8>], now: SystemTime) -> Result<NodeName, IdentityError> {
        let fail = |why: String| IdentityError::Certificate(why);
        let (leaf, rest) = chain.split_first().ok_or_else(|| fail("there is none".to_owned()))?;
        let leaf_der = CertificateDer::from(leaf.as_slice());
        let between: Vec<CertificateDer<'_>> = rest.iter().map(|der| der.as_slice().into()).collect();
        let time = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO));
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
        EndEntityCert::try_from(&leaf_der)
            .and_then(|leaf| {
                leaf.verify_for_usage(algorithms, &self.anchors, &between, time, AnyUsage, None, None)?;
                Ok(())
            })
            .map_err(|err| fail(format!("of the factory: {err}")))?;
        let name = common_name(parse(leaf)?.subject()).map_err(|why| fail(why.to_owned()))?;
        NodeName::parse(&name).map_err(|err| fail(format!("of the factory: common name: {err}")))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    };

    use super::*;

    fn params(cn: &str, ca: bool) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, cn);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2040, 1, 1);
        if ca {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        }
        params
    }

    #[test]
    fn who_the_factory_says_it_is() {
        let key = || KeyPair::generate().expect("key");
        let (root_key, line_key) = (key(), key());
        let root = params("factory", true).self_signed(&root_key).expect("root");
        let root_issuer = Issuer::new(params("factory", true), root_key);
        let line = params("line 7", true).signed_by(&line_key, &root_issuer).expect("line");
        let line_issuer = Issuer::new(params("line 7", true), line_key);
        let leaf = |cn: &str, change: fn(&mut CertificateParams)| {
            let mut params = params(cn, false);
            change(&mut params);
            params.signed_by(&key(), &line_issuer).expect("leaf").der().to_vec()
        };
        let other_key = key();
        let other = params("edge-7", false).self_signed(&other_key).expect("self").der().to_vec();
        let now = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let roots = FactoryRoots::from_pem(root.pem().as_bytes()).expect("roots");
        let line = line.der().to_vec();
        let plain = |_: &mut CertificateParams| {};
        for (case, chain, want) in [
            ("good", vec![leaf("edge-7", plain), line.clone()], Ok("edge-7")),
            (
                "any usage",
                vec![
                    leaf("edge-7", |it| {
                        it.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
                    }),
                    line.clone(),
                ],
                Ok("edge-7"),
            ),
            ("no intermediate", vec![leaf("edge-7", plain)], Err("UnknownIssuer")),
            ("of nobody", vec![other], Err("")),
            (
                "expired",
                vec![leaf("edge-7", |it| it.not_after = rcgen::date_time_ymd(2021, 1, 1)), line.clone()],
                Err("CertExpired"),
            ),
            ("no name", vec![leaf("Edge 7", plain), line.clone()], Err("common name")),
            ("a CA as leaf", vec![line.clone()], Err("CaUsedAsEndEntity")),
            ("nonsense", vec![vec![1, 2, 3]], Err("")),
            ("empty", vec![], Err("there is none")),
        ] {
            match (roots.node_of(&chain, now), want) {
                (Ok(node), Ok(name)) => assert_eq!(node.as_str(), name, "{case}"),
                (Err(err), Err(word)) => assert!(err.to_string().contains(word), "{case}: {err}"),
                (got, want) => panic!("{case}: got {got:?}, want {want:?}"),
            }
        }
        assert!(FactoryRoots::from_pem(b"").is_err());
        let missing = FactoryRoots::load(Path::new("/nowhere/factory.crt")).expect_err("missing");
        assert!(missing.to_string().contains("/nowhere/factory.crt: it does not exist"), "{missing}");
    }
}
