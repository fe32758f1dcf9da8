//! What a node holds: its own SVID, the intermediate CA for its workloads, the key of its
//! JWT-SVIDs, and the trust bundle.

use std::fmt;

use super::KeyPair;
use crate::model::NodeName;

/// Everything a node can show and sign with. Replaced as a whole at each renewal.
#[derive(Clone)]
pub struct NodeCredentials {
    pub node: NodeName,
    /// From the SVID's SPIFFE ID; empty when the cloud is KubeEdge's and gave none.
    pub trust_domain: String,
    /// Chain, leaf first, and key.
    pub svid: KeyPair,
    /// The delegated intermediate CA: chain (it first, then what signed it) and key. `None` when the
    /// cloud is KubeEdge's.
    pub node_ca: Option<KeyPair>,
    /// Signs JWT-SVIDs; PEM. `None` when the cloud is KubeEdge's.
    pub jwt_key_pem: Option<String>,
    /// Roots, the one in use first; PEM.
    pub roots_pem: String,
}

impl fmt::Debug for NodeCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeCredentials").field("node", &self.node).finish_non_exhaustive()
    }
}
