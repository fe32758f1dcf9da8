//! `cloudcore.yaml`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::invalid::{Check, at_least_one, enabled, file, folder, ip, require, url};
use super::{
    CloudIdentityConfig, CommonConfig, ConfigFile, ConsoleConfig, Host, Invalid, Listener, foreign_keys,
};

/// The whole file. `apiVersion: cloudcore.config.kubeedge.io/v1alpha1`, `kind: CloudCore`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct CloudCoreConfig {
    /// Says what the file is; must be the default, or be left out.
    pub api_version: String,
    /// Says what the file is; must be the default, or be left out.
    pub kind: String,
    pub common_config: CommonConfig,
    #[serde(rename = "kubeAPIConfig")]
    pub kube_api_config: KubeApiConfig,
    /// Folder of everything cloudcore keeps: the audit log, and the embedded API below `apiserver`.
    pub data_dir: PathBuf,
    pub identity: CloudIdentityConfig,
    pub modules: CloudModules,
}

impl Default for CloudCoreConfig {
    fn default() -> Self {
        Self {
            api_version: "cloudcore.config.kubeedge.io/v1alpha1".into(),
            kind: "CloudCore".into(),
            common_config: CommonConfig::default(),
            kube_api_config: KubeApiConfig::default(),
            data_dir: "/var/lib/kubeedge/cloud".into(),
            identity: CloudIdentityConfig::default(),
            modules: CloudModules::default(),
        }
    }
}

impl CloudCoreConfig {
    /// Where the join-token key is: `cloudHub.tokenKeyFile`, or beside the CA's key.
    #[must_use]
    pub fn token_key_file(&self) -> PathBuf {
        self.beside_ca_key(&self.modules.cloud_hub.token_key_file, "join-token.key")
    }

    /// Where the service-account key is: `apiServer.serviceAccountKeyFile`, or beside the CA's key.
    #[must_use]
    pub fn service_account_key_file(&self) -> PathBuf {
        self.beside_ca_key(&self.modules.api_server.service_account_key_file, "service-account.key")
    }

    fn beside_ca_key(&self, configured: &Path, name: &str) -> PathBuf {
        if configured.as_os_str().is_empty() {
            self.modules.cloud_hub.tls_ca_key_file.with_file_name(name)
        } else {
            configured.to_owned()
        }
    }

    /// Does cloudcore serve its own Kubernetes API?
    #[must_use]
    pub fn serves_api(&self) -> bool {
        self.modules.api_server.enable && !self.kube_api_config.names_another()
    }

    /// Folder of the embedded API's store: `apiServer.dataDir`, or `{dataDir}/apiserver`.
    #[must_use]
    pub fn api_server_data_dir(&self) -> PathBuf {
        let configured = &self.modules.api_server.data_dir;
        if configured.as_os_str().is_empty() { self.data_dir.join("apiserver") } else { configured.clone() }
    }

    /// `host:port` of the monitor; 127.0.0.1:9091 unless configured.
    #[must_use]
    pub fn monitor_address(&self) -> &str {
        let configured = self.common_config.monitor_server.bind_address.as_str();
        if configured.is_empty() { "127.0.0.1:9091" } else { configured }
    }

    /// `host:port` of the console; 127.0.0.1:9443 unless configured.
    #[must_use]
    pub fn console_address(&self) -> &str {
        self.modules.console.address("127.0.0.1:9443")
    }

    /// Life of a node's SVID: `identity.nodeSvidTtlSecs`, or `edgeCertSigningDuration` days.
    #[must_use]
    pub fn node_certificate_ttl(&self) -> Duration {
        match self.identity.node_svid_ttl_secs {
            0 => self.go_certificate_ttl(),
            secs => Duration::from_secs(secs),
        }
    }

    /// Life of the certificate of an edge of KubeEdge's, which asks `GET /edge.crt`: days, as there.
    #[must_use]
    pub fn go_certificate_ttl(&self) -> Duration {
        Duration::from_secs(self.modules.cloud_hub.edge_cert_signing_duration.saturating_mul(86_400))
    }
}

impl ConfigFile for CloudCoreConfig {
    const API_VERSION: &'static str = "cloudcore.config.kubeedge.io/v1alpha1";
    const KIND: &'static str = "CloudCore";
    const PROGRAM: &'static str = "cloudcore";
    const ABOUT: &'static str =
        "The cloud side of kubeedge-rs: a Kubernetes API, and the hub that edges connect to";
    const DEFAULTS: &'static str = include_str!("../../config/cloudcore.yaml");
    const FOREIGN_KEYS: &'static [&'static str] = foreign_keys::CLOUD;
    const FREE_MAPS: &'static [&'static str] = &[];

    fn validate(&self) -> Result<(), Invalid> {
        self.common_config.validate()?;
        self.kube_api_config.validate()?;
        folder("dataDir", &self.data_dir)?;
        self.identity.validate()?;
        self.modules.api_server.validate()?;
        let needs_own_api = self.kube_api_config == KubeApiConfig::default();
        let why = "without it kubeAPIConfig must name an API server";
        require(self.modules.api_server.enable || !needs_own_api, "modules.apiServer.enable", why)?;
        self.modules.cloud_hub.validate()?;
        enabled("modules.edgeController", self.modules.edge_controller.enable)?;
        enabled("modules.syncController", self.modules.sync_controller.enable)?;
        self.modules.node_monitor.validate()?;
        self.modules.console.validate()
    }

    fn minimal(host: &Host) -> String {
        format!(
            "# What cloudcore needs to be told; everything else has a default (--defaultconfig prints them all).\n\
             apiVersion: {}\nkind: {}\nmodules:\n  cloudHub:\n    \
             # Addresses edges dial; they go into the server certificate.\n    advertiseAddress: [\"{}\"]\n",
            Self::API_VERSION,
            Self::KIND,
            host.address
        )
    }
}

/// Where the Kubernetes API is. Nothing said: cloudcore serves its own.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct KubeApiConfig {
    /// URL of the API server; overrides the one in `kubeConfig`.
    pub master: String,
    /// Kubeconfig file of the API server: who cloudcore is there.
    pub kube_config: PathBuf,
    /// cloudcore runs in a pod of that cluster: address, CA and token are those of the pod
    /// (`KUBERNETES_SERVICE_HOST`, `/var/run/secrets/kubernetes.io/serviceaccount`). The token is read again as it is
    /// renewed.
    pub in_cluster: bool,
}

impl KubeApiConfig {
    /// Does it name an API server, so that cloudcore serves none?
    #[must_use]
    pub fn names_another(&self) -> bool {
        *self != Self::default()
    }

    fn validate(&self) -> Check {
        let alone = self.master.is_empty() && self.kube_config.as_os_str().is_empty();
        let why = "kubeConfig and master name another API server than the pod's; leave them empty";
        require(alone || !self.in_cluster, "kubeAPIConfig.inCluster", why)?;
        if self.master.is_empty() {
            Ok(())
        } else {
            url("kubeAPIConfig.master", &self.master, &["https", "http"])
        }
    }
}

/// One section per module.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct CloudModules {
    pub api_server: ApiServerConfig,
    pub cloud_hub: CloudHubConfig,
    pub edge_controller: EdgeControllerConfig,
    pub device_controller: DeviceControllerConfig,
    pub sync_controller: SyncControllerConfig,
    pub node_monitor: NodeMonitorConfig,
    pub scheduler: SchedulerConfig,
    pub console: ConsoleConfig,
}

/// The embedded Kubernetes API. Off by itself when `kubeAPIConfig` names a real one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct ApiServerConfig {
    /// Serves the embedded API where `kubeAPIConfig` names no other.
    pub enable: bool,
    /// IP address it listens on.
    pub address: String,
    /// TCP port it listens on; 0: the system picks one.
    pub port: u16,
    /// Folder of its store. Empty: `{dataDir}/apiserver`.
    pub data_dir: PathBuf,
    /// File of the admin kubeconfig, written 0600 at each start.
    pub kubeconfig: PathBuf,
    /// File of the key that signs service-account tokens; created 0600 if missing. Empty:
    /// `service-account.key` beside the CA's key.
    pub service_account_key_file: PathBuf,
    /// Folder of YAML and JSON files whose objects the API is to have, looked at every few seconds.
    /// Empty: none.
    pub manifests_dir: PathBuf,
}

impl ApiServerConfig {
    fn validate(&self) -> Check {
        ip("modules.apiServer.address", &self.address)?;
        if !self.data_dir.as_os_str().is_empty() {
            folder("modules.apiServer.dataDir", &self.data_dir)?;
        }
        if !self.manifests_dir.as_os_str().is_empty() {
            folder("modules.apiServer.manifestsDir", &self.manifests_dir)?;
        }
        file("modules.apiServer.kubeconfig", &self.kubeconfig)
    }
}

impl Default for ApiServerConfig {
    fn default() -> Self {
        Self {
            enable: true,
            address: "0.0.0.0".into(),
            port: 6443,
            data_dir: PathBuf::new(),
            kubeconfig: "/etc/kubeedge/admin.conf".into(),
            service_account_key_file: PathBuf::new(),
            manifests_dir: PathBuf::new(),
        }
    }
}

/// The edges' side: listeners, certificates, sessions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct CloudHubConfig {
    /// Cannot be turned off: nothing reaches the edges without it.
    pub enable: bool,
    /// Seconds without a keepalive after which a session ends; sooner where an edge of kubeedge-rs is set to speak more
    /// often (its `readDeadline`, or two heartbeats).
    pub keepalive_interval: u64,
    /// Nodes connected at once, at most.
    pub node_limit: u32,
    /// Series of one node that `/federate/edges` shows at most; what is over is counted and left out.
    pub max_series_per_node: u32,
    /// Seconds one frame may take to be written.
    pub write_timeout: u64,
    /// File of the root certificate, PEM. It and its key are created together, and only where no node is
    /// enrolled.
    #[serde(rename = "tlsCAFile")]
    pub tls_ca_file: PathBuf,
    /// File of the root's key, PEM, 0600.
    #[serde(rename = "tlsCAKeyFile")]
    pub tls_ca_key_file: PathBuf,
    /// File of cloudcore's server certificate; written by cloudcore.
    pub tls_cert_file: PathBuf,
    /// File of the server certificate's key, 0600; written by cloudcore.
    pub tls_private_key_file: PathBuf,
    /// File of the key that signs join tokens: 32 random bytes, created 0600 if missing. Removing it ends
    /// all tokens. Empty: `join-token.key` beside the CA's key.
    pub token_key_file: PathBuf,
    /// IP addresses edges dial; they go into the server certificate. Empty: this host's.
    pub advertise_address: Vec<String>,
    /// DNS names that go into the server certificate.
    pub dns_names: Vec<String>,
    /// Days the certificate of an edge of KubeEdge's lives, at most as long as the issuing CA; that of
    /// other nodes where `identity.nodeSvidTtlSecs` is 0.
    pub edge_cert_signing_duration: u64,
    /// Hours a reusable join token lives; others live `identity.joinTokenTtlSecs`.
    pub token_refresh_duration: u64,
    pub websocket: Listener,
    pub https: Listener,
}

impl CloudHubConfig {
    fn validate(&self) -> Check {
        let key = |name: &str| format!("modules.cloudHub.{name}");
        enabled("modules.cloudHub", self.enable)?;
        at_least_one(&key("keepaliveInterval"), self.keepalive_interval)?;
        at_least_one(&key("nodeLimit"), self.node_limit.into())?;
        at_least_one(&key("writeTimeout"), self.write_timeout)?;
        file(&key("tlsCAFile"), &self.tls_ca_file)?;
        file(&key("tlsCAKeyFile"), &self.tls_ca_key_file)?;
        file(&key("tlsCertFile"), &self.tls_cert_file)?;
        file(&key("tlsPrivateKeyFile"), &self.tls_private_key_file)?;
        for (i, address) in self.advertise_address.iter().enumerate() {
            ip(&key(&format!("advertiseAddress[{i}]")), address)?;
        }
        for (i, name) in self.dns_names.iter().enumerate() {
            let fine = !name.contains(['/', ' ', ':', '@']);
            require(fine, &key(&format!("dnsNames[{i}]")), format!("{name:?} is not a DNS name"))?;
        }
        let days = self.edge_cert_signing_duration;
        let why = format!("it must be 1 to 36400 days, found {days}");
        require((1..=36_400).contains(&days), &key("edgeCertSigningDuration"), why)?;
        let hours = self.token_refresh_duration;
        let why = format!("it must be 1 to 87600 hours, found {hours}");
        require((1..=87_600).contains(&hours), &key("tokenRefreshDuration"), why)?;
        self.websocket.validate(&key("websocket"))?;
        self.https.validate(&key("https"))
    }
}

impl Default for CloudHubConfig {
    fn default() -> Self {
        Self {
            enable: true,
            keepalive_interval: 30,
            node_limit: 500,
            max_series_per_node: 4_000,
            write_timeout: 30,
            tls_ca_file: "/etc/kubeedge/ca/rootCA.crt".into(),
            tls_ca_key_file: "/etc/kubeedge/ca/rootCA.key".into(),
            tls_cert_file: "/etc/kubeedge/certs/server.crt".into(),
            tls_private_key_file: "/etc/kubeedge/certs/server.key".into(),
            token_key_file: PathBuf::new(),
            advertise_address: Vec::new(),
            dns_names: Vec::new(),
            edge_cert_signing_duration: 365,
            token_refresh_duration: 12,
            websocket: Listener { port: 10000, ..Listener::default() },
            https: Listener { port: 10002, ..Listener::default() },
        }
    }
}

/// Pods, ConfigMaps and Secrets for nodes, and their status back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct EdgeControllerConfig {
    /// Cannot be turned off: pods reach no node without it.
    pub enable: bool,
}

impl Default for EdgeControllerConfig {
    fn default() -> Self {
        Self { enable: true }
    }
}

/// Devices of `devices.kubeedge.io`. Without it nodes get none, and what they report is not taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct DeviceControllerConfig {
    /// Gives nodes their devices and takes what they report.
    pub enable: bool,
}

impl Default for DeviceControllerConfig {
    fn default() -> Self {
        Self { enable: true }
    }
}

/// Compares what a node holds with what it should hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct SyncControllerConfig {
    /// Cannot be turned off: nodes that were away would not catch up.
    pub enable: bool,
}

impl Default for SyncControllerConfig {
    fn default() -> Self {
        Self { enable: true }
    }
}

/// Turns nodes NotReady when their lease is not renewed (embedded API only; a cluster has its own).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct NodeMonitorConfig {
    /// Judges nodes by their leases.
    pub enable: bool,
    /// Seconds after the last lease renewal until a node is Unknown.
    pub grace_period_secs: u64,
}

impl NodeMonitorConfig {
    fn validate(&self) -> Check {
        at_least_one("modules.nodeMonitor.gracePeriodSecs", self.grace_period_secs)
    }
}

impl Default for NodeMonitorConfig {
    fn default() -> Self {
        Self { enable: true, grace_period_secs: 40 }
    }
}

/// Binds pods that name no node (embedded API only; a cluster has its own).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct SchedulerConfig {
    /// Binds pods to nodes.
    pub enable: bool,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self { enable: true }
    }
}
