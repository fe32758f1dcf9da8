//! `identity` of both files: ours, KubeEdge has none (design section 4).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::invalid::{Check, folder, require};

/// `identity` of cloudcore.yaml. Lives are in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct CloudIdentityConfig {
    /// SPIFFE trust domain: what all SPIFFE IDs begin with.
    pub trust_domain: String,
    /// Life of a node's SVID. 0 means `cloudHub.edgeCertSigningDuration` days. Edges of KubeEdge's have no
    /// SVID but a certificate, which lives so many days anyway.
    pub node_svid_ttl_secs: u64,
    /// Life of the intermediate CA a node gets for its workloads: so long it issues without the cloud.
    pub node_ca_ttl_secs: u64,
    /// Life of cloudcore's issuing CA. Renewed at half of it while the root's key is there.
    pub issuing_ca_ttl_secs: u64,
    /// Life of a join token, which works once.
    pub join_token_ttl_secs: u64,
    /// So long after its SVID ran out a node comes back with proof of its old key.
    pub reentry_grace_secs: u64,
    /// Accept Go KubeEdge's reusable tokens (`keadm gettoken --reusable`), for Go edges.
    pub reusable_tokens: bool,
    /// PEM roots of factory certificates (X.509 proof of possession): their common name is the node's.
    /// Empty: none.
    pub factory_ca_file: PathBuf,
    /// What happens when two machines hold one node's certificate.
    pub cloned_nodes: ClonedNodes,
    /// Where the root's and the issuing CA's keys are.
    pub keys: KeysConfig,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum ClonedNodes {
    /// Both are cut off until `keadm node allow`.
    Revoke,
    /// A log line and a record; the newer connection replaces the older one.
    Warn,
}

/// `identity.keys`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct KeysConfig {
    /// A PKCS#11 module (`.so`). Empty: keys in files.
    pub pkcs11_module: PathBuf,
    /// Label of the token.
    pub pkcs11_token: String,
    /// File with the user PIN, 0600.
    pub pkcs11_pin_file: PathBuf,
}

impl Default for CloudIdentityConfig {
    fn default() -> Self {
        Self {
            trust_domain: "kubeedge.local".into(),
            node_svid_ttl_secs: 3_600,
            node_ca_ttl_secs: 7 * 86_400,
            issuing_ca_ttl_secs: 30 * 86_400,
            join_token_ttl_secs: 600,
            reentry_grace_secs: 7 * 86_400,
            reusable_tokens: false,
            factory_ca_file: PathBuf::new(),
            cloned_nodes: ClonedNodes::Revoke,
            keys: KeysConfig::default(),
        }
    }
}

impl CloudIdentityConfig {
    pub(super) fn validate(&self) -> Check {
        trust_domain(&self.trust_domain)?;
        let ttl = self.node_svid_ttl_secs;
        require(
            ttl == 0 || ttl >= 10,
            "identity.nodeSvidTtlSecs",
            format!("it must be 0 or at least 10, found {ttl}"),
        )?;
        at_least("identity.nodeCaTtlSecs", self.node_ca_ttl_secs, 10)?;
        at_least("identity.issuingCaTtlSecs", self.issuing_ca_ttl_secs, 20)?;
        at_least("identity.joinTokenTtlSecs", self.join_token_ttl_secs, 1)?;
        let keys = &self.keys;
        let on_token = !keys.pkcs11_module.as_os_str().is_empty();
        require(
            !on_token || !keys.pkcs11_token.is_empty(),
            "identity.keys.pkcs11Token",
            "it must name the token when pkcs11Module is set",
        )?;
        require(
            !on_token || !keys.pkcs11_pin_file.as_os_str().is_empty(),
            "identity.keys.pkcs11PinFile",
            "it must name a file when pkcs11Module is set",
        )
    }
}

/// `identity` of edgecore.yaml. Lives are in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct EdgeIdentityConfig {
    /// Serve the SPIFFE Workload API.
    pub workload_api: bool,
    /// Its unix socket. Its folder is mounted into pods that ask for it: nothing else may be in it.
    pub workload_api_socket: PathBuf,
    /// Life of a workload's X.509-SVID, renewed at half of it; never beyond that of the node's CA.
    pub workload_svid_ttl_secs: u64,
    /// Life of a JWT-SVID.
    pub jwt_svid_ttl_secs: u64,
    /// Must a pod be sealed by the cloud?
    pub pod_seals: PodSeals,
    /// Static pods that may run, `namespace/name`.
    pub static_pods: Vec<String>,
    /// A certificate of the factory and its key: joins without a token where the cloud trusts the
    /// factory. Empty: none.
    pub factory_cert_file: PathBuf,
    /// Key of `factoryCertFile`, PEM, 0600; both or none.
    pub factory_key_file: PathBuf,
    /// Secrets and tokens in the store are encrypted.
    pub encrypt_secrets: bool,
    /// Key that seals the store's key, 0600. Empty: `store.key` beside `edgeHub.tlsPrivateKeyFile`.
    pub store_key_file: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum PodSeals {
    /// Required, unless the node joined a KubeEdge cloud, which seals nothing.
    Auto,
    Required,
    Off,
}

impl Default for EdgeIdentityConfig {
    fn default() -> Self {
        Self {
            workload_api: true,
            workload_api_socket: "/run/kubeedge/spiffe.sock".into(),
            workload_svid_ttl_secs: 3_600,
            jwt_svid_ttl_secs: 300,
            pod_seals: PodSeals::Auto,
            static_pods: Vec::new(),
            factory_cert_file: PathBuf::new(),
            factory_key_file: PathBuf::new(),
            encrypt_secrets: true,
            store_key_file: PathBuf::new(),
        }
    }
}

impl EdgeIdentityConfig {
    pub(super) fn validate(&self) -> Check {
        folder("identity.workloadApiSocket", &self.workload_api_socket)?;
        at_least("identity.workloadSvidTtlSecs", self.workload_svid_ttl_secs, 10)?;
        at_least("identity.jwtSvidTtlSecs", self.jwt_svid_ttl_secs, 10)?;
        for (i, pod) in self.static_pods.iter().enumerate() {
            let fine = pod
                .split_once('/')
                .is_some_and(|(ns, name)| !ns.is_empty() && !name.is_empty() && !name.contains('/'));
            let why = format!("{pod:?} is not namespace/name");
            require(fine, &format!("identity.staticPods[{i}]"), why)?;
        }
        let (cert, key) = (self.factory_cert_file.as_os_str(), self.factory_key_file.as_os_str());
        require(
            cert.is_empty() == key.is_empty(),
            "identity.factoryKeyFile",
            "factoryCertFile and factoryKeyFile go together",
        )
    }
}

fn at_least(key: &str, number: u64, least: u64) -> Check {
    require(number >= least, key, format!("it must be at least {least}, found {number}"))
}

fn trust_domain(domain: &str) -> Check {
    let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_');
    require(
        (1..=255).contains(&domain.len()) && domain.bytes().all(legal),
        "identity.trustDomain",
        format!("{domain:?} is not 1 to 255 lower-case letters, digits, '.', '-' and '_'"),
    )
}
