//! What every stream of the Workload API looks at: the trust bundle, the registrations, and whether
//! anything can be issued. Plain data, made anew at each change.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::identity::TrustBundle;
use crate::model::identity::{EdgeIdentitySpec, Registration};

/// The state of the node's identity, for callers.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Grows with every change of the bundle.
    pub trust: u64,
    pub bundle: Arc<TrustBundle>,
    pub policies: Option<Arc<EdgeIdentitySpec>>,
    /// Why nothing is issued at all.
    pub closed: Option<String>,
}

impl View {
    #[must_use]
    pub fn registrations(&self) -> &[Registration] {
        self.policies.as_deref().map_or(&[], |policies| &policies.registrations)
    }

    /// The roots, DER one after the other.
    #[must_use]
    pub fn roots(&self) -> Vec<u8> {
        self.bundle.roots.concat()
    }

    /// Something by the ID of the one trust domain we know.
    #[must_use]
    pub fn by_domain(&self, what: Vec<u8>) -> BTreeMap<String, Vec<u8>> {
        BTreeMap::from([(format!("spiffe://{}", self.bundle.trust_domain), what)])
    }
}

/// The bundle in force: what the cloud's document says, and roots and keys this node knows itself
/// (a renewal may have brought a root before the document did).
#[must_use]
pub fn merged(document: Option<TrustBundle>, own: TrustBundle) -> TrustBundle {
    let Some(mut bundle) = document.filter(|document| document.trust_domain == own.trust_domain) else {
        return own;
    };
    for root in own.roots {
        if !bundle.roots.contains(&root) {
            bundle.roots.push(root);
        }
    }
    for key in own.jwt_keys {
        let kid = key.get("kid").cloned();
        if !bundle.jwt_keys.iter().any(|known| known.get("kid").cloned() == kid) {
            bundle.jwt_keys.push(key);
        }
    }
    bundle
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn bundle(domain: &str, roots: &[&[u8]], kids: &[&str]) -> TrustBundle {
        TrustBundle {
            trust_domain: domain.into(),
            roots: roots.iter().map(|root| root.to_vec()).collect(),
            jwt_keys: kids.iter().map(|kid| json!({ "kid": kid })).collect(),
        }
    }

    #[test]
    fn the_document_leads_and_what_the_node_knows_is_added() {
        let own = || bundle("a", &[b"one", b"two"], &["n"]);
        let got = merged(Some(bundle("a", &[b"two", b"three"], &["n", "m"])), own());
        assert_eq!(got.roots, [b"two".to_vec(), b"three".to_vec(), b"one".to_vec()]);
        assert_eq!(got.jwt_keys.len(), 2);
        for other in [None, Some(bundle("b", &[b"x"], &["x"]))] {
            assert_eq!(merged(other, own()).roots, own().roots);
        }
    }
}
