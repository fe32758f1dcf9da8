//! What a node asks the cloud for, and what it makes of the answer.

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType};

use super::chain::verify_chain;
use super::jwk::jwk;
use super::key::{EcKey, cert_pem_from_der};
use super::peer::{PeerIdentity, common_name, parse, texts, validity};
use super::{IdentityError, KeyPair, NodeCredentials, new_node_csr};
use crate::model::NodeName;
use crate::model::identity::{RenewalReply, RenewalRequest};

/// Organization in the subject of every node CA.
pub const NODE_CA_GROUP: &str = "kubeedge node CA";

/// The private keys of a request, PEM (SEC1). `Debug` hides them.
#[derive(Clone)]
pub struct NodeKeys {
    pub svid_key_pem: String,
    pub ca_key_pem: String,
    pub jwt_key_pem: String,
}

impl fmt::Debug for NodeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKeys(..)")
    }
}

/// Makes requests.
pub struct NodeRequest;

impl NodeRequest {
    /// Three fresh keys and what asks for certificates of them.
    ///
    /// # Errors
    /// [`IdentityError::Csr`] if the system has no randomness.
    #[allow(clippy::new_ret_no_self)] // The request goes out, the keys stay: there is no third thing.
    pub fn new(node: &NodeName) -> Result<(RenewalRequest, NodeKeys), IdentityError> {
        let (csr, svid_key_pem) = new_node_csr(node)?;
        let ca_key = EcKey::generate().map_err(IdentityError::Csr)?;
        let jwt_key = EcKey::generate().map_err(IdentityError::Csr)?;
        let request = RenewalRequest {
            csr: STANDARD.encode(csr),
            ca_csr: STANDARD.encode(node_ca_csr(node, &ca_key)?),
            jwt_key: jwk(&jwt_key),
        };
        let keys = NodeKeys { svid_key_pem, ca_key_pem: ca_key.to_pem(), jwt_key_pem: jwt_key.to_pem() };
        Ok((request, keys))
    }
}

/// Subject `O=kubeedge node CA, CN={node}`; everything else the cloud decides.
fn node_ca_csr(node: &NodeName, key: &EcKey) -> Result<Vec<u8>, IdentityError> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, NODE_CA_GROUP);
    subject.push(DnType::CommonName, node.as_str());
    params.distinguished_name = subject;
    let request = params
        .serialize_request(&key.for_rcgen().map_err(IdentityError::Csr)?)
        .map_err(|err| IdentityError::Csr(format!("it could not be made: {err}")))?;
    Ok(request.der().to_vec())
}

impl NodeKeys {
    /// Puts keys and answer together: the certificates are for these keys and this node, and lead to
    /// the roots that came with them. Their times are not compared with the clock, which may be wrong
    /// on a small machine; TLS will.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`] naming the part of the answer that does not fit.
    pub fn credentials(
        self,
        node: &NodeName,
        reply: &RenewalReply,
    ) -> Result<NodeCredentials, IdentityError> {
        let roots = decode("bundle.roots", &reply.bundle.roots)?;
        if roots.is_empty() {
            return Err(refuse("bundle.roots", "there is none"));
        }
        let svid = decode("svid", &reply.svid)?;
        check_part("svid", &svid, &roots, &self.svid_key_pem)?;
        let leaf = first("svid", &svid)?;
        let peer = PeerIdentity::from_der(leaf)?;
        if peer.node().as_ref() != Some(node) {
            return Err(refuse("svid", "it is not this node's"));
        }
        let trust_domain = &reply.bundle.trust_domain;
        if peer.spiffe_id.as_deref() != Some(&format!("spiffe://{trust_domain}/node/{node}")) {
            return Err(refuse("svid", "its SPIFFE ID is not this node's in the bundle's trust domain"));
        }
        if parse(leaf)?.is_ca() {
            return Err(refuse("svid", "it is a CA"));
        }

        let node_ca = decode("nodeCa", &reply.node_ca)?;
        check_part("nodeCa", &node_ca, &roots, &self.ca_key_pem)?;
        let ca = parse(first("nodeCa", &node_ca)?)?;
        let subject = ca.subject();
        let named = common_name(subject).is_ok_and(|name| name == node.as_str())
            && texts(subject.iter_organization()).is_ok_and(|groups| groups == [NODE_CA_GROUP]);
        if !ca.is_ca() || !named {
            return Err(refuse("nodeCa", "it is not this node's CA"));
        }
        EcKey::from_pem(self.jwt_key_pem.as_bytes()).map_err(|why| refuse("jwtKey", &why))?;
        Ok(NodeCredentials {
            node: node.clone(),
            trust_domain: trust_domain.clone(),
            svid: KeyPair { cert_pem: pems(&svid), key_pem: self.svid_key_pem },
            node_ca: Some(KeyPair { cert_pem: pems(&node_ca), key_pem: self.ca_key_pem }),
            jwt_key_pem: Some(self.jwt_key_pem),
            roots_pem: pems(&roots),
        })
    }
}

/// The first certificate has this key, and the chain holds in the middle of its life.
fn check_part(part: &str, chain: &[Vec<u8>], roots: &[Vec<u8>], key_pem: &str) -> Result<(), IdentityError> {
    let leaf = first(part, chain)?;
    let key = EcKey::from_pem(key_pem.as_bytes()).map_err(|why| refuse(part, &why))?;
    if parse(leaf)?.public_key().raw != key.spki() {
        return Err(refuse(part, "it is not for the key that was asked for"));
    }
    let life = validity(leaf)?;
    let length = life.not_after.duration_since(life.not_before).unwrap_or(Duration::ZERO);
    let middle: SystemTime = life.not_before + length / 2;
    verify_chain(chain, roots, middle).map_err(|why| refuse(part, why))
}

fn first<'a>(part: &str, chain: &'a [Vec<u8>]) -> Result<&'a Vec<u8>, IdentityError> {
    chain.first().ok_or_else(|| refuse(part, "there is none"))
}

fn decode(part: &str, texts: &[String]) -> Result<Vec<Vec<u8>>, IdentityError> {
    texts.iter().map(|text| STANDARD.decode(text).map_err(|_| refuse(part, "it is not base64"))).collect()
}

fn pems(ders: &[Vec<u8>]) -> String {
    ders.iter().map(|der| cert_pem_from_der(der)).collect()
}

fn refuse(part: &str, why: &str) -> IdentityError {
    IdentityError::Certificate(format!("{part} of the cloud's answer: {why}"))
}

#[cfg(test)]
mod tests {
    use super::super::test_authority::{Authority, TRUST_DOMAIN};
    use super::*;

    fn node() -> NodeName {
        NodeName::parse("edge-1").expect("name")
    }

    #[test]
    fn request_answer_credentials() {
        let authority = Authority::new();
        let (request, keys) = NodeRequest::new(&node()).expect("request");
        let reply = authority.reply("edge-1", &request);
        let got = keys.credentials(&node(), &reply).expect("credentials");
        assert_eq!((got.node.as_str(), got.trust_domain.as_str()), ("edge-1", TRUST_DOMAIN));
        assert_eq!(got.svid.cert_pem.matches("BEGIN CERTIFICATE").count(), 2);
        assert_eq!(got.roots_pem.matches("BEGIN CERTIFICATE").count(), 1);
        assert!(got.node_ca.is_some() && got.jwt_key_pem.is_some());
        crate::identity::client_tls(&got.roots_pem, Some(&got.svid)).expect("TLS takes it");
    }

    #[test]
    fn an_answer_that_does_not_fit_is_refused_by_its_part() {
        let (authority, stranger) = (Authority::new(), Authority::new());
        let (request, keys) = NodeRequest::new(&node()).expect("request");
        let (other_request, _) = NodeRequest::new(&node()).expect("request");
        let good = authority.reply("edge-1", &request);
        let other_key = authority.reply("edge-1", &other_request);
        let other_node = authority.reply("edge-2", &request);
        let foreign = stranger.reply("edge-1", &request);
        let with = |change: &dyn Fn(&mut RenewalReply)| {
            let mut reply = good.clone();
            change(&mut reply);
            reply
        };
        for (case, reply, want) in [
            (
                "svid for another key",
                with(&|r| r.svid = other_key.svid.clone()),
                "svid of the cloud's answer: it is not for",
            ),
            (
                "CA for another key",
                with(&|r| r.node_ca = other_key.node_ca.clone()),
                "nodeCa of the cloud's answer: it is not for",
            ),
            ("another node", with(&|r| r.svid = other_node.svid.clone()), "it is not this node's"),
            (
                "another node's CA",
                with(&|r| r.node_ca = other_node.node_ca.clone()),
                "nodeCa of the cloud's answer: it is not this node's CA",
            ),
            ("another root", with(&|r| r.bundle = foreign.bundle.clone()), "svid of the cloud's answer: "),
            ("chain cut", with(&|r| r.svid.truncate(1)), "leads to no root"),
            ("another trust domain", with(&|r| r.bundle.trust_domain = "else.where".into()), "trust domain"),
            ("no svid", with(&|r| r.svid.clear()), "svid of the cloud's answer: there is none"),
            ("no roots", with(&|r| r.bundle.roots.clear()), "bundle.roots"),
            (
                "no base64",
                with(&|r| r.node_ca = vec!["!".into()]),
                "nodeCa of the cloud's answer: it is not base64",
            ),
            ("no certificate", with(&|r| r.svid = vec!["AAAA".into()]), "not an X.509 certificate"),
        ] {
            let err = keys.clone().credentials(&node(), &reply).expect_err(case).to_string();
            assert!(err.contains(want), "{case}: {err}");
        }
    }
}
