//! Certificate requests of nodes: making one, and checking one strictly.

use rcgen::{CertificateParams, DistinguishedName, DnType};
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::key::EcKey;
use super::peer::{NODE_GROUP, NODE_PREFIX, common_name, texts};
use super::{IdentityError, SpiffeId};
use crate::model::NodeName;

/// Largest request looked at, in bytes. A P-256 request has about 400; the enrolment port is open to
/// callers without an identity, so the limit is small (CVE-2022-31075).
const MAX_CSR_BYTES: usize = 16 * 1024;

fn fail(why: impl Into<String>) -> IdentityError {
    IdentityError::Csr(why.into())
}

/// A fresh P-256 key and a CSR for `node` with the subject of protocol section 5.4.
/// Returns (CSR DER, key PEM).
///
/// # Errors
/// [`IdentityError::Csr`] if the system has no randomness.
pub fn new_node_csr(node: &NodeName) -> Result<(Vec<u8>, String), IdentityError> {
    let key = EcKey::generate().map_err(fail)?;
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CountryName, "CN");
    subject.push(DnType::OrganizationName, NODE_GROUP);
    subject.push(DnType::LocalityName, "Hangzhou");
    subject.push(DnType::StateOrProvinceName, "Zhejiang");
    subject.push(DnType::CommonName, format!("{NODE_PREFIX}{node}"));
    params.distinguished_name = subject;
    let request = params
        .serialize_request(&key.for_rcgen().map_err(fail)?)
        .map_err(|err| fail(format!("it could not be made: {err}")))?;
    Ok((request.der().to_vec(), key.to_pem()))
}

/// Checks that a request asks for exactly this node's identity and proves it has the key.
/// Returns the public key, `SubjectPublicKeyInfo` DER: the only thing taken over.
///
/// Country, locality and state of a Go edge are ignored, as Go's cloud drops them.
pub(crate) fn check_node_csr(
    der: &[u8],
    node: &NodeName,
    spiffe: &SpiffeId,
) -> Result<Vec<u8>, IdentityError> {
    let request = read(der)?;
    let info = &request.certification_request_info;

    let name = common_name(&info.subject).map_err(|why| fail(format!("CN: {why}")))?;
    let want = format!("{NODE_PREFIX}{node}");
    if name != want {
        return Err(fail(format!("CN: want {want:?}, the request asks for {:?}", clip(&name))));
    }
    let organizations = texts(info.subject.iter_organization()).map_err(|why| fail(format!("O: {why}")))?;
    if organizations != [NODE_GROUP] {
        let asked = clip(&organizations.join(","));
        return Err(fail(format!("O: want {NODE_GROUP:?}, the request asks for {asked:?}")));
    }
    for attribute in info.iter_attributes() {
        if let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() {
            for extension in &requested.extensions {
                check_extension(extension.parsed_extension(), spiffe)?;
            }
        }
    }
    Ok(info.subject_pki.raw.to_vec())
}

/// Checks that a request asks for the CA of this node, or names nobody, and proves it has the key.
/// Returns the public key as [`check_node_csr`] does.
pub(crate) fn check_node_ca_csr(der: &[u8], node: &NodeName) -> Result<Vec<u8>, IdentityError> {
    let request = read(der)?;
    let info = &request.certification_request_info;
    let name = common_name(&info.subject).map_err(|why| fail(format!("CN: {why}")))?;
    if !name.is_empty() && name != node.as_str() {
        return Err(fail(format!("CN: want {:?}, the request asks for {:?}", node.as_str(), clip(&name))));
    }
    for attribute in info.iter_attributes() {
        if let ParsedCriAttribute::ExtensionRequest(requested) = attribute.parsed_attribute() {
            for extension in &requested.extensions {
                match extension.parsed_extension() {
                    ParsedExtension::SubjectAlternativeName(_) => {
                        return Err(fail("subjectAltName: a node's CA is given its names"));
                    }
                    ParsedExtension::NameConstraints(_) => {
                        return Err(fail("nameConstraints: a node's CA is given its constraints"));
                    }
                    ParsedExtension::ParseError { .. } => {
                        return Err(fail("extensions: one of them does not parse"));
                    }
                    _ => {}
                }
            }
        }
    }
    Ok(info.subject_pki.raw.to_vec())
}

/// A whole request for a P-256 key, signed with that key.
fn read(der: &[u8]) -> Result<X509CertificationRequest<'_>, IdentityError> {
    if der.len() > MAX_CSR_BYTES {
        return Err(fail("it is larger than 16 KiB"));
    }
    let request = match X509CertificationRequest::from_der(der) {
        Ok(([], request)) => request,
        Ok(_) => return Err(fail("bytes follow it")),
        Err(_) => return Err(fail("it is not a PKCS#10 request")),
    };
    require_p256(&request.certification_request_info.subject_pki)?;
    request.verify_signature().map_err(|_| fail("signature: it was not made with the key in the request"))?;
    Ok(request)
}

fn require_p256(key: &SubjectPublicKeyInfo<'_>) -> Result<(), IdentityError> {
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let point = &key.subject_public_key.data;
    let p256 = key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY && curve == Some(OID_EC_P256);
    if !p256 || point.len() != 65 || point.first() != Some(&4) {
        return Err(fail("public key: only ECDSA P-256 is signed here"));
    }
    Ok(())
}

/// Requested extensions are never copied. Asking for another name is refused loudly, asking to be a
/// CA too; key usages are ours to choose and ignored.
fn check_extension(extension: &ParsedExtension<'_>, spiffe: &SpiffeId) -> Result<(), IdentityError> {
    match extension {
        ParsedExtension::SubjectAlternativeName(sans) => {
            for name in &sans.general_names {
                match name {
                    GeneralName::URI(uri) if *uri == spiffe.as_str() => {}
                    _ => {
                        return Err(fail(format!(
                            "subjectAltName: {} is not this node's",
                            clip(&name.to_string())
                        )));
                    }
                }
            }
            Ok(())
        }
        ParsedExtension::BasicConstraints(constraints) if constraints.ca => {
            Err(fail("basicConstraints: a node does not become a CA"))
        }
        ParsedExtension::ParseError { .. } => Err(fail("extensions: one of them does not parse")),
        _ => Ok(()),
    }
}

/// Foreign text in an error, kept short.
fn clip(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{BasicConstraints, IsCa, SanType};

    use super::*;

    fn node() -> NodeName {
        NodeName::parse("edge-1").expect("name")
    }

    fn id() -> SpiffeId {
        SpiffeId::parse("spiffe://kubeedge.local/node/edge-1").expect("id")
    }

    fn request(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(DnType::CommonName, "system:node:edge-1");
        change(&mut params);
        let key = EcKey::generate().expect("key").for_rcgen().expect("key");
        params.serialize_request(&key).expect("csr").der().to_vec()
    }

    #[test]
    fn our_own_request_passes() {
        let (der, key_pem) = new_node_csr(&node()).expect("csr");
        let spki = check_node_csr(&der, &node(), &id()).expect("accepted");
        assert_eq!(spki, EcKey::from_pem(key_pem.as_bytes()).expect("key").spki());
        let with_id =
            request(|p| p.subject_alt_names = vec![SanType::URI(id().as_str().try_into().expect("uri"))]);
        check_node_csr(&with_id, &node(), &id()).expect("its own SPIFFE ID is no extra name");
    }

    #[test]
    fn refusals_name_the_field() {
        let san = |san: SanType| request(move |p| p.subject_alt_names = vec![san]);
        let dns = SanType::DnsName("evil.example".try_into().expect("dns"));
        let uri = SanType::URI("spiffe://kubeedge.local/node/edge-2".try_into().expect("uri"));
        let p384 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).expect("key");
        let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("key");
        let other_key = |key: &rcgen::KeyPair| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, "system:node:edge-1");
            params.serialize_request(key).expect("csr").der().to_vec()
        };
        let mut forged = request(|_| {});
        *forged.last_mut().expect("bytes") ^= 1;
        let mut longer = request(|_| {});
        longer.push(0);
        for (case, der, want) in [
            (
                "another node",
                request(|p| p.distinguished_name.push(DnType::CommonName, "system:node:edge-2")),
                "CN:",
            ),
            ("no CN", request(|p| assert!(p.distinguished_name.remove(DnType::CommonName))), "CN:"),
            (
                "another group",
                request(|p| p.distinguished_name.push(DnType::OrganizationName, "system:masters")),
                "O:",
            ),
            ("no group", request(|p| assert!(p.distinguished_name.remove(DnType::OrganizationName))), "O:"),
            ("DNS name", san(dns), "subjectAltName:"),
            ("IP address", san(SanType::IpAddress([10, 0, 0, 1].into())), "subjectAltName:"),
            ("another SPIFFE ID", san(uri), "subjectAltName:"),
            (
                "wants to be a CA",
                request(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
                "basicConstraints:",
            ),
            ("P-384", other_key(&p384), "public key:"),
            ("Ed25519", other_key(&ed25519), "public key:"),
            ("bad signature", forged, "signature:"),
            ("trailing bytes", longer, "bytes follow it"),
            ("garbage", b"garbage".to_vec(), "not a PKCS#10 request"),
            ("huge", vec![0x30; MAX_CSR_BYTES + 1], "larger than 16 KiB"),
        ] {
            let err = check_node_csr(&der, &node(), &id()).expect_err(case).to_string();
            assert!(err.starts_with("certificate request: ") && err.contains(want), "{case}: {err}");
        }
    }

    #[test]
    fn requests_for_a_nodes_ca() {
        let plain = |change: &dyn Fn(&mut CertificateParams)| {
            request(|p| {
                p.distinguished_name = DistinguishedName::new();
                change(p);
            })
        };
        let named = |name: &'static str| plain(&|p| p.distinguished_name.push(DnType::CommonName, name));
        check_node_ca_csr(&plain(&|_| {}), &node()).expect("nameless");
        check_node_ca_csr(&named("edge-1"), &node()).expect("its name");
        let san = |san: SanType| plain(&|p| p.subject_alt_names = vec![san.clone()]);
        let mut forged = named("edge-1");
        *forged.last_mut().expect("bytes") ^= 1;
        for (case, der, want) in [
            ("another node", named("edge-2"), "CN:"),
            ("a node's SVID", named("system:node:edge-1"), "CN:"),
            ("DNS name", san(SanType::DnsName("cloud.example".try_into().expect("dns"))), "subjectAltName:"),
            (
                "SPIFFE ID",
                san(SanType::URI("spiffe://kubeedge.local/cloudcore".try_into().expect("uri"))),
                "subjectAltName:",
            ),
            (
                "its own constraints",
                plain(&|p| {
                    // Permitted: DNS name "a".
                    let content = vec![0x30, 7, 0xa0, 5, 0x30, 3, 0x82, 1, b'a'];
                    p.custom_extensions =
                        vec![rcgen::CustomExtension::from_oid_content(&[2, 5, 29, 30], content)];
                }),
                "nameConstraints:",
            ),
            ("bad signature", forged, "signature:"),
        ] {
            let err = check_node_ca_csr(&der, &node()).expect_err(case).to_string();
            assert!(err.contains(want), "{case}: {err}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(check_node_csr(&raw, &node(), &id()).is_err());
        }

        #[test]
        fn any_bytes_are_no_request_for_a_ca(raw in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(check_node_ca_csr(&raw, &node()).is_err());
        }

        #[test]
        fn any_flipped_byte_is_refused_or_harmless(at in 0usize..300, flip in 1u8..) {
            let (mut der, _) = new_node_csr(&node()).expect("csr");
            let key = check_node_csr(&der, &node(), &id()).expect("accepted");
            if let Some(byte) = der.get_mut(at) {
                *byte ^= flip;
                // Bits outside what is signed (unused bits of the signature) change nothing.
                prop_assert!(check_node_csr(&der, &node(), &id()).ok().is_none_or(|other| other == key));
            }
        }
    }
}
