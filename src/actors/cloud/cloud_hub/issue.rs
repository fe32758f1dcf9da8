//! What a node that showed who it is gets. No I/O but the signing itself.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::attest::Wanted;
use super::join::Denied;
use crate::bus::identity::NodeKeyChanged;
use crate::identity::{Ca, IdentityError, cert_facts};
use crate::model::identity::RenewalReply;
use crate::model::{NodeName, unix_secs};
use crate::telemetry::identity::Refused;

/// Signs for nodes.
#[derive(Clone)]
pub struct Signer {
    pub ca: Arc<Ca>,
    pub svid_ttl: Duration,
    pub go_ttl: Duration,
    pub node_ca_ttl: Duration,
}

/// A signed SVID and its main facts.
#[derive(Debug, Clone)]
pub struct Svid {
    /// Leaf first, without the root.
    pub chain: Vec<Vec<u8>>,
    pub serial_hex: String,
    /// Of its public key: lower-case hex of the SHA-256.
    pub key_hash: String,
    pub ends: SystemTime,
}

/// Everything a node of ours gets.
#[derive(Debug, Clone)]
pub struct Issued {
    pub svid: Svid,
    pub reply: RenewalReply,
    pub changed: NodeKeyChanged,
}

impl Signer {
    /// Signs the certificate of an edge of KubeEdge's. It lives for `go_ttl`, not for an hour: such an
    /// edge has no way back once its certificate ended while it was away, and each rotation costs it its
    /// session for two heartbeats (KubeEdge 1.23, `edge/pkg/edgehub/certificate/certmanager.go` and
    /// `edge/pkg/edgehub/edgehub.go`). `keadm node revoke` cuts it off all the same.
    ///
    /// # Errors
    /// As [`Signer::svid`].
    pub fn go_certificate(
        &self,
        node: &NodeName,
        csr: &[u8],
        not_before_min: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<Svid, Denied> {
        self.leaf(node, csr, self.go_ttl, not_before_min, now)
    }

    /// Signs the SVID a request asks for.
    ///
    /// # Errors
    /// [`Denied`] with 400 for a request that is not signed, 503 when signing fails.
    pub fn svid(
        &self,
        node: &NodeName,
        csr: &[u8],
        not_before_min: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<Svid, Denied> {
        self.leaf(node, csr, self.svid_ttl, not_before_min, now)
    }

    fn leaf(
        &self,
        node: &NodeName,
        csr: &[u8],
        ttl: Duration,
        not_before_min: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<Svid, Denied> {
        let signed = self.ca.sign_node_csr(csr, node, ttl, not_before_min, now);
        let chain = signed.map_err(|err| denied("csr", &err))?;
        let leaf = chain.first().map(Vec::as_slice).unwrap_or_default();
        let facts = cert_facts(leaf).map_err(|err| denied("csr", &err))?;
        Ok(Svid {
            serial_hex: facts.serial_hex,
            key_hash: facts.key_hash,
            ends: facts.valid.not_after,
            chain,
        })
    }

    /// Signs SVID and intermediate CA.
    ///
    /// # Errors
    /// As [`Signer::svid`].
    pub fn node(
        &self,
        node: &NodeName,
        wanted: &Wanted,
        not_before_min: Option<SystemTime>,
        now: SystemTime,
    ) -> Result<Issued, Denied> {
        let svid = self.svid(node, &wanted.csr, not_before_min, now)?;
        let signed = self.ca.sign_node_ca_csr(&wanted.ca_csr, node, self.node_ca_ttl, not_before_min, now);
        let node_ca = signed.map_err(|err| denied("caCsr", &err))?;
        let ca = node_ca.first().map(Vec::as_slice).unwrap_or_default();
        let ca_ends = cert_facts(ca).map_err(|err| denied("caCsr", &err))?.valid.not_after;
        let text = |chain: &[Vec<u8>]| chain.iter().map(|der| STANDARD.encode(der)).collect();
        let changed = NodeKeyChanged {
            node: node.clone(),
            jwt_key: wanted.jwt_key.clone(),
            // Without the cloud a node signs tokens for as long as it signs certificates.
            expires_at: unix_secs(ca_ends),
            svid_serial: svid.serial_hex.clone(),
            svid_expires_at: unix_secs(svid.ends),
            node_ca_expires_at: unix_secs(ca_ends),
        };
        // Keys of JWT-SVIDs come with the EdgeIdentity: thousands of them in each answer would be wasted.
        let bundle = self.ca.bundle().to_document();
        let reply = RenewalReply { svid: text(&svid.chain), node_ca: text(&node_ca), bundle };
        Ok(Issued { svid, reply, changed })
    }
}

impl Svid {
    /// What IdentityController learns of a node that got nothing but this: a Go edge.
    #[must_use]
    pub fn changed(&self, node: &NodeName) -> NodeKeyChanged {
        NodeKeyChanged {
            node: node.clone(),
            jwt_key: Value::Null,
            expires_at: unix_secs(self.ends),
            svid_serial: self.serial_hex.clone(),
            svid_expires_at: unix_secs(self.ends),
            node_ca_expires_at: 0,
        }
    }
}

fn denied(field: &str, err: &IdentityError) -> Denied {
    match err {
        IdentityError::Csr(_) => Denied::new(400, Refused::Request, format!("{field}: {err}")),
        _ => Denied::new(503, Refused::Unavailable, format!("the cloud cannot sign now: {err}")),
    }
}
