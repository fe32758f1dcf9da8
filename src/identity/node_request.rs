//! What a node asks the cloud for, and what it makes of the answer.

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, DistinguishedName, DnType};

use super::issuing::NODE_CA_ORGANIZATION;
use super::jwk::jwk;
use super::key::{EcKey, chain_pem};
use super::peer::{parse, validity};
use super::{
    IdentityError, KeyPair, NodeCredentials, SpiffeId, SvidIssuer, TrustBundle, WorkloadIssuer, new_node_csr,
    verify_x509_svid,
};
use crate::model::identity::{RenewalReply, RenewalRequest};
use crate::model::{NodeName, unix_secs};

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

/// So long a node signs its JWT-SVIDs with one key.
pub const JWT_KEY_LIFE: Duration = Duration::from_secs(86_400);
/// Stands before the PEM text of that key, with the unix time at which it was made (RFC 7468 lets text
/// stand there).
const CREATED: &str = "Created: ";

/// Was this key made less than [`JWT_KEY_LIFE`] ago?
fn is_young(pem: &str, now: SystemTime) -> bool {
    let created = pem.lines().next().and_then(|line| line.strip_prefix(CREATED)?.parse::<u64>().ok());
    created.is_some_and(|at| {
        let now = unix_secs(now);
        at <= now && now - at < JWT_KEY_LIFE.as_secs()
    })
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
        Self::renewing(node, None, SystemTime::now())
    }

    /// The same for a node whose key for JWT-SVIDs is this one: it is kept for [`JWT_KEY_LIFE`], since
    /// every new one has to reach every node.
    ///
    /// # Errors
    /// [`IdentityError::Csr`] if the system has no randomness.
    pub fn renewing(
        node: &NodeName,
        held_jwt_key: Option<&str>,
        now: SystemTime,
    ) -> Result<(RenewalRequest, NodeKeys), IdentityError> {
        let (csr, svid_key_pem) = new_node_csr(node)?;
        let ca_key = EcKey::generate().map_err(IdentityError::Csr)?;
        let held = held_jwt_key.filter(|pem| is_young(pem, now));
        let held = held.and_then(|pem| Some((EcKey::from_pem(pem.as_bytes()).ok()?, pem.to_owned())));
        let (jwt_key, jwt_key_pem) = match held {
            Some(held) => held,
            None => {
                let key = EcKey::generate().map_err(IdentityError::Csr)?;
                let pem = format!("{CREATED}{}\n{}", unix_secs(now), key.to_pem());
                (key, pem)
            }
        };
        let request = RenewalRequest {
            csr: STANDARD.encode(csr),
            ca_csr: STANDARD.encode(node_ca_csr(node, &ca_key)?),
            jwt_key: jwk(&jwt_key),
        };
        let keys = NodeKeys { svid_key_pem, ca_key_pem: ca_key.to_pem(), jwt_key_pem };
        Ok((request, keys))
    }
}

/// Subject `O=kubeedge node CA, CN={node}`; everything else the cloud decides.
fn node_ca_csr(node: &NodeName, key: &EcKey) -> Result<Vec<u8>, IdentityError> {
    let mut params = CertificateParams::default();
    let mut subject = DistinguishedName::new();
    subject.push(DnType::OrganizationName, NODE_CA_ORGANIZATION);
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
        let part = |part: &'static str| move |why: String| refuse(part, &why);
        let bundle =
            TrustBundle::from_document(&reply.bundle).map_err(|err| part("bundle")(err.to_string()))?;
        let svid = decode("svid", &reply.svid)?;
        let middle = check_key("svid", &svid, &self.svid_key_pem)?;
        let verified =
            verify_x509_svid(&svid, &bundle, middle).map_err(|err| part("svid")(err.to_string()))?;
        if verified.peer.node().as_ref() != Some(node) || verified.id.path() != format!("/node/{node}") {
            return Err(refuse("svid", "it is not this node's"));
        }

        let node_ca = decode("nodeCa", &reply.node_ca)?;
        let middle = check_key("nodeCa", &node_ca, &self.ca_key_pem)?;
        let credentials = NodeCredentials {
            node: node.clone(),
            trust_domain: bundle.trust_domain.clone(),
            svid: KeyPair { cert_pem: chain_pem(&svid), key_pem: self.svid_key_pem },
            node_ca: Some(KeyPair { cert_pem: chain_pem(&node_ca), key_pem: self.ca_key_pem }),
            jwt_key_pem: Some(self.jwt_key_pem),
            roots_pem: bundle.roots_pem(),
        };
        check_node_ca(&credentials, &bundle, middle).map_err(part("nodeCa"))?;
        Ok(credentials)
    }
}

/// The first certificate has this key. Returns the middle of its life.
fn check_key(part: &str, chain: &[Vec<u8>], key_pem: &str) -> Result<SystemTime, IdentityError> {
    let first = chain.first().ok_or_else(|| refuse(part, "there is none"))?;
    let key = EcKey::from_pem(key_pem.as_bytes()).map_err(|why| refuse(part, &why))?;
    let cert = parse(first).map_err(|err| refuse(part, &err.to_string()))?;
    if cert.public_key().raw != key.spki() {
        return Err(refuse(part, "it is not for the key that was asked for"));
    }
    let life = validity(first)?;
    let length = life.not_after.duration_since(life.not_before).unwrap_or(Duration::ZERO);
    Ok(life.not_before + length / 2)
}

/// What the node CA signs is believed as this node's: shown by signing something.
fn check_node_ca(credentials: &NodeCredentials, bundle: &TrustBundle, at: SystemTime) -> Result<(), String> {
    let probe = SpiffeId::parse(&format!("spiffe://{}/ns/kubeedge/sa/probe", bundle.trust_domain))?;
    let svid = WorkloadIssuer::new(credentials)
        .and_then(|issuer| issuer.x509(&probe, &[], Duration::from_secs(60), at))
        .map_err(|err| err.to_string())?;
    let verified = verify_x509_svid(&svid.chain, bundle, at).map_err(|err| err.to_string())?;
    match verified.issuer {
        SvidIssuer::Node(node) if node == credentials.node => Ok(()),
        _ => Err("it is not this node's CA".to_owned()),
    }
}

fn decode(part: &str, texts: &[String]) -> Result<Vec<Vec<u8>>, IdentityError> {
    texts.iter().map(|text| STANDARD.decode(text).map_err(|_| refuse(part, "it is not base64"))).collect()
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
    fn a_key_for_tokens_lives_a_day_and_the_others_are_new_each_time() {
        let now = SystemTime::now();
        let (first, keys) = NodeRequest::renewing(&node(), None, now).expect("request");
        for (case, held, at, kept) in [
            ("young", keys.jwt_key_pem.clone(), now + Duration::from_secs(60), true),
            ("old", keys.jwt_key_pem.clone(), now + JWT_KEY_LIFE, false),
            ("from the future", keys.jwt_key_pem.clone(), now - Duration::from_secs(60), false),
            ("of unknown age", keys.jwt_key_pem.lines().skip(1).collect::<Vec<_>>().join("\n"), now, false),
            ("damaged", keys.jwt_key_pem.lines().take(2).collect::<Vec<_>>().join("\n"), now, false),
        ] {
            let (next, next_keys) = NodeRequest::renewing(&node(), Some(&held), at).expect("request");
            assert_eq!(next.jwt_key == first.jwt_key, kept, "{case}");
            assert_eq!(next_keys.jwt_key_pem == held, kept, "{case}");
            assert!(next.csr != first.csr && next_keys.ca_key_pem != keys.ca_key_pem, "{case}");
        }
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
                "nodeCa of the cloud's answer: ",
            ),
            (
                "another root",
                with(&|r| r.bundle = foreign.bundle.clone()),
                "svid of the cloud's answer: no trusted root",
            ),
            ("chain cut", with(&|r| r.svid.truncate(1)), "no trusted root"),
            (
                "another trust domain",
                with(&|r| r.bundle.trust_domain = "else.where".into()),
                "of trust domain",
            ),
            ("no svid", with(&|r| r.svid.clear()), "svid of the cloud's answer: there is none"),
            ("no roots", with(&|r| r.bundle.roots.clear()), "bundle of the cloud's answer: "),
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
