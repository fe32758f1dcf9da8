//! Reading certificates: who the bearer is, and how long it is good.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::x509::X509Name;

use super::{IdentityError, SpiffeId};
use crate::model::NodeName;

/// Who a verified certificate says its bearer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    pub common_name: String,
    pub organizations: Vec<String>,
    /// The URI SAN, if it is a SPIFFE ID.
    pub spiffe_id: Option<String>,
}

impl PeerIdentity {
    /// Reads the leaf of an already verified chain.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] for what leaves room for doubt: several common names, several
    /// URI SANs beside a SPIFFE ID, a malformed SPIFFE ID.
    pub fn from_der(cert_der: &[u8]) -> Result<Self, IdentityError> {
        let cert = parse(cert_der)?;
        let mut uris = Vec::new();
        if let Ok(Some(sans)) = cert.subject_alternative_name() {
            uris.extend(sans.value.general_names.iter().filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            }));
        }
        let spiffe_id = match uris.iter().find(|uri| uri.starts_with("spiffe:")) {
            Some(_) if uris.len() > 1 => return Err(fail("it has a SPIFFE ID and other URI names")),
            Some(uri) => Some(SpiffeId::parse(uri).map_err(fail)?.as_str().to_owned()),
            None => None,
        };
        let subject = cert.subject();
        Ok(Self {
            common_name: common_name(subject).map_err(fail)?,
            organizations: texts(subject.iter_organization()).map_err(fail)?,
            spiffe_id,
        })
    }

    /// The node this is, if it is one: CN `system:node:{name}`, O `system:nodes`, and, when there
    /// is a SPIFFE ID, the same name in it.
    #[must_use]
    pub fn node(&self) -> Option<NodeName> {
        let name = NodeName::parse(self.common_name.strip_prefix(NODE_PREFIX)?).ok()?;
        if self.organizations != [NODE_GROUP] {
            return None;
        }
        match &self.spiffe_id {
            Some(id) if SpiffeId::parse(id).ok()?.path() != format!("/node/{name}") => None,
            _ => Some(name),
        }
    }
}

/// The common name of a node's certificate is this and its name.
pub(super) const NODE_PREFIX: &str = "system:node:";
/// The organization of every node's certificate.
pub(super) const NODE_GROUP: &str = "system:nodes";

/// When a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// Reads the validity of a certificate (DER).
///
/// # Errors
/// [`IdentityError::Certificate`] if it is none.
pub fn validity(cert_der: &[u8]) -> Result<Validity, IdentityError> {
    let cert = parse(cert_der)?;
    let time = |secs: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(secs).unwrap_or(0));
    let validity = cert.validity();
    Ok(Validity {
        not_before: time(validity.not_before.timestamp()),
        not_after: time(validity.not_after.timestamp()),
    })
}

/// Takes certificates (DER) that follow each other without separators apart, as the Workload API
/// sends them (protocol section 18).
///
/// # Errors
/// [`IdentityError::Certificate`] for what is none.
pub fn split_certificates(mut ders: &[u8]) -> Result<Vec<Vec<u8>>, IdentityError> {
    let mut all = Vec::new();
    while !ders.is_empty() {
        let (rest, _) =
            X509Certificate::from_der(ders).map_err(|_| fail("it is not an X.509 certificate"))?;
        all.push(ders.get(..ders.len() - rest.len()).unwrap_or_default().to_vec());
        ders = rest;
    }
    Ok(all)
}

fn fail(why: &str) -> IdentityError {
    IdentityError::Certificate(why.to_owned())
}

/// One whole X.509 certificate.
pub(super) fn parse(cert_der: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    match X509Certificate::from_der(cert_der) {
        Ok(([], cert)) => Ok(cert),
        Ok(_) => Err(fail("bytes follow it")),
        Err(_) => Err(fail("it is not an X.509 certificate")),
    }
}

/// The one common name; empty when there is none.
pub(super) fn common_name(subject: &X509Name<'_>) -> Result<String, &'static str> {
    match texts(subject.iter_common_name())?.as_slice() {
        [] => Ok(String::new()),
        [one] => Ok(one.clone()),
        _ => Err("its subject has several common names"),
    }
}

/// Attribute values as text.
pub(super) fn texts<'a, 'b: 'a>(
    attributes: impl Iterator<Item = &'a x509_parser::x509::AttributeTypeAndValue<'b>>,
) -> Result<Vec<String>, &'static str> {
    attributes.map(|one| one.as_str().map(str::to_owned).map_err(|_| "its subject holds no text")).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(cn: &str, organizations: &[&str], spiffe_id: Option<&str>) -> PeerIdentity {
        PeerIdentity {
            common_name: cn.into(),
            organizations: organizations.iter().map(|&o| o.into()).collect(),
            spiffe_id: spiffe_id.map(str::to_owned),
        }
    }

    #[test]
    fn which_node() {
        let nodes = ["system:nodes"].as_slice();
        for (case, identity, want) in [
            ("go", peer("system:node:edge-1", nodes, None), Some("edge-1")),
            ("ours", peer("system:node:edge-1", nodes, Some("spiffe://td/node/edge-1")), Some("edge-1")),
            ("two names", peer("system:node:edge-1", nodes, Some("spiffe://td/node/edge-2")), None),
            ("a workload", peer("system:node:edge-1", nodes, Some("spiffe://td/ns/a/sa/b")), None),
            ("no group", peer("system:node:edge-1", &[], None), None),
            ("more groups", peer("system:node:edge-1", &["system:nodes", "system:masters"], None), None),
            ("admin", peer("kubernetes-admin", &["system:masters"], None), None),
            ("bad name", peer("system:node:Edge 1", nodes, None), None),
            ("no name", peer("system:node:", nodes, None), None),
        ] {
            assert_eq!(identity.node().as_ref().map(NodeName::as_str), want, "{case}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(PeerIdentity::from_der(&raw).is_err());
            prop_assert!(validity(&raw).is_err());
            prop_assert_eq!(split_certificates(&raw).is_ok(), raw.is_empty());
        }
    }
}
