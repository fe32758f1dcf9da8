//! The certificate the broker shows when no files are configured: signed by the node's own CA.
//!
//! The node's SVID has no DNS name and may not serve as one, so the broker gets a leaf of its own: ID
//! `spiffe://{td}/ns/kubeedge/sa/eventbus`, DNS name `{node}.nodes.{td}`. The name constraints of the
//! node's CA allow no other names and no IP addresses: a client dials that name (an entry in its hosts
//! file will do), or checks the chain only.

use std::time::{Duration, SystemTime};

use crate::identity::{KeyPair, NodeCredentials, SpiffeId, WorkloadIssuer, chain_pem, key_pem_from_pkcs8};

/// Its life; replaced at half of it, and when the node's CA is.
const LIFE: Duration = Duration::from_secs(3_600);

/// What the broker shows.
pub struct Shown {
    pub pair: KeyPair,
    pub renew_at: SystemTime,
}

/// The name clients dial.
#[must_use]
pub fn dns_name(node: &str, trust_domain: &str) -> String {
    format!("{node}.nodes.{trust_domain}")
}

/// Has the node's CA sign a certificate for the broker.
///
/// # Errors
/// In words, when the node has no CA (its cloud is KubeEdge's) or it cannot sign.
pub fn issue(node: &NodeCredentials, now: SystemTime) -> Result<Shown, String> {
    if node.node_ca.is_none() {
        return Err("this node's cloud gave it no CA: name tlsCaFile, tlsCertFile, tlsPrivateKeyFile".into());
    }
    let issuer = WorkloadIssuer::new(node).map_err(|err| err.to_string())?;
    let id = SpiffeId::parse(&format!("spiffe://{}/ns/kubeedge/sa/eventbus", node.trust_domain))?;
    let name = dns_name(node.node.as_str(), &node.trust_domain);
    let svid = issuer.x509(&id, &[name], LIFE, now).map_err(|err| err.to_string())?;
    let life = svid.not_after.duration_since(now).map_err(|_| "the node's CA has run out".to_owned())?;
    let (cert_pem, key_pem) = (chain_pem(&svid.chain), key_pem_from_pkcs8(&svid.key_pkcs8));
    Ok(Shown { pair: KeyPair { cert_pem, key_pem }, renew_at: now + life / 2 })
}
