//! Authorities and leaves for tests: like those of a cloud, and wrong in one respect.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SanType};

use super::TrustBundle;
use super::issuing::{self, Authority};
use super::peer::Validity;
use super::signer::{KeyStore, KeysInFiles};
use crate::model::NodeName;

pub const DOMAIN: &str = "kubeedge.local";
const MONTH: Duration = Duration::from_secs(30 * 86_400);

pub struct World {
    now: SystemTime,
    pub root: Authority,
    pub issuing: Authority,
    nodes: BTreeMap<&'static str, Authority>,
    /// One chain, made once.
    pub fixed_chain: Vec<Vec<u8>>,
}

pub fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub fn node(name: &str) -> NodeName {
    NodeName::parse(name).expect("name")
}

impl World {
    pub fn new() -> Self {
        Self::at(now())
    }

    pub fn at(now: SystemTime) -> Self {
        let key = || KeysInFiles.create().expect("key").0;
        let root_key = key();
        let root = issuing::root(&root_key, "", now).expect("root");
        let root = Authority::new(root, root_key).expect("root");
        let issuing_key = key();
        let der = issuing::issuing(&root, &issuing_key, DOMAIN, MONTH, now).expect("issuing");
        let issuing = Authority::new(der, issuing_key).expect("issuing");
        let mut nodes = BTreeMap::new();
        for name in ["edge-1", "edge-2"] {
            let key = key();
            let window = issuing.window(MONTH, None, now).expect("window");
            let params = issuing::node_ca(&node(name), DOMAIN, window).expect("params");
            let der = issuing.sign(&params, &key).expect("node CA");
            nodes.insert(name, Authority::new(der, key).expect("node CA"));
        }
        let mut world = Self { now, root, issuing, nodes, fixed_chain: Vec::new() };
        world.fixed_chain = world.workload("edge-1", "/ns/default/sa/web");
        world
    }

    pub fn bundle(&self) -> TrustBundle {
        let roots = vec![self.root.der.clone()];
        TrustBundle { trust_domain: DOMAIN.into(), roots, jwt_keys: Vec::new() }
    }

    pub fn node_authority(&self, name: &str) -> &Authority {
        &self.nodes[name]
    }

    pub fn leaf_params(&self, path: &str, ttl: Duration) -> CertificateParams {
        let window = Validity { not_before: self.now - Duration::from_secs(60), not_after: self.now + ttl };
        let mut params = issuing::base("test", &[], window).expect("params");
        let id = format!("spiffe://{DOMAIN}{path}");
        params.subject_alt_names = vec![SanType::URI(id.as_str().try_into().expect("ascii"))];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params
    }

    /// A leaf alone.
    pub fn leaf_of(
        &self,
        authority: &Authority,
        path: &str,
        ttl: Duration,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Vec<u8> {
        let mut params = self.leaf_params(path, ttl);
        change(&mut params);
        authority.sign(&params, &KeysInFiles.create().expect("key").0).expect("leaf")
    }

    /// Directly below the issuing CA.
    pub fn leaf(&self, path: &str, ttl: Duration) -> Vec<Vec<u8>> {
        vec![self.leaf_of(&self.issuing, path, ttl, |_| {}), self.issuing.der.clone()]
    }

    /// Below the CA of a node.
    pub fn workload(&self, node: &str, path: &str) -> Vec<Vec<u8>> {
        self.changed(node, path, |_| {})
    }

    pub fn changed(
        &self,
        node: &str,
        path: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Vec<Vec<u8>> {
        let authority = self.node_authority(node);
        let leaf = self.leaf_of(authority, path, Duration::from_secs(3600), change);
        vec![leaf, authority.der.clone(), self.issuing.der.clone()]
    }
}
