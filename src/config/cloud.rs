//! `cloudcore.yaml`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{CommonConfig, IdentityConfig, Listener};

/// The whole file. `apiVersion: cloudcore.config.kubeedge.io/v1alpha1`, `kind: CloudCore`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CloudCoreConfig {
    pub api_version: String,
    pub kind: String,
    pub common_config: CommonConfig,
    #[serde(rename = "kubeAPIConfig")]
    pub kube_api_config: KubeApiConfig,
    /// Folder of everything cloudcore keeps.
    pub data_dir: PathBuf,
    pub identity: IdentityConfig,
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
            identity: IdentityConfig::default(),
            modules: CloudModules::default(),
        }
    }
}

/// Where the Kubernetes API is. Both empty: cloudcore serves its own.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KubeApiConfig {
    /// URL of the API server; overrides the one in `kubeConfig`.
    pub master: String,
    pub kube_config: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CloudModules {
    pub api_server: ApiServerConfig,
    pub cloud_hub: CloudHubConfig,
    pub edge_controller: EdgeControllerConfig,
    pub sync_controller: SyncControllerConfig,
    pub node_monitor: NodeMonitorConfig,
    pub scheduler: SchedulerConfig,
}

/// The embedded Kubernetes API. Off by itself when `kubeAPIConfig` names a real one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ApiServerConfig {
    pub enable: bool,
    pub address: String,
    pub port: u16,
    /// Default: `{dataDir}/apiserver`.
    pub data_dir: PathBuf,
    /// The admin kubeconfig, written 0600 at each start.
    pub kubeconfig: PathBuf,
}

impl Default for ApiServerConfig {
    fn default() -> Self {
        Self {
            enable: true,
            address: "0.0.0.0".into(),
            port: 6443,
            data_dir: PathBuf::new(),
            kubeconfig: "/etc/kubeedge/admin.conf".into(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CloudHubConfig {
    pub enable: bool,
    /// Seconds without a keepalive after which a session ends.
    pub keepalive_interval: u64,
    /// Most nodes connected at once.
    pub node_limit: u32,
    /// Seconds one frame may take to be written.
    pub write_timeout: u64,
    #[serde(rename = "tlsCAFile")]
    pub tls_ca_file: PathBuf,
    #[serde(rename = "tlsCAKeyFile")]
    pub tls_ca_key_file: PathBuf,
    pub tls_cert_file: PathBuf,
    pub tls_private_key_file: PathBuf,
    /// IP addresses edges dial; they go into the server certificate. Empty: this host's.
    pub advertise_address: Vec<String>,
    /// DNS names that go into the server certificate.
    pub dns_names: Vec<String>,
    /// Days.
    pub edge_cert_signing_duration: u64,
    /// Hours a join token lives.
    pub token_refresh_duration: u64,
    pub websocket: Listener,
    pub https: Listener,
}

impl Default for CloudHubConfig {
    fn default() -> Self {
        Self {
            enable: true,
            keepalive_interval: 30,
            node_limit: 500,
            write_timeout: 30,
            tls_ca_file: "/etc/kubeedge/ca/rootCA.crt".into(),
            tls_ca_key_file: "/etc/kubeedge/ca/rootCA.key".into(),
            tls_cert_file: "/etc/kubeedge/certs/server.crt".into(),
            tls_private_key_file: "/etc/kubeedge/certs/server.key".into(),
            advertise_address: Vec::new(),
            dns_names: Vec::new(),
            edge_cert_signing_duration: 365,
            token_refresh_duration: 12,
            websocket: Listener { port: 10000, ..Listener::default() },
            https: Listener { port: 10002, ..Listener::default() },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EdgeControllerConfig {
    pub enable: bool,
}

impl Default for EdgeControllerConfig {
    fn default() -> Self {
        Self { enable: true }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SyncControllerConfig {
    pub enable: bool,
}

impl Default for SyncControllerConfig {
    fn default() -> Self {
        Self { enable: true }
    }
}

/// Turns nodes NotReady when their lease is not renewed (embedded API only; a cluster has its own).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeMonitorConfig {
    pub enable: bool,
    /// Seconds after the last lease renewal.
    pub grace_period_secs: u64,
}

impl Default for NodeMonitorConfig {
    fn default() -> Self {
        Self { enable: true, grace_period_secs: 40 }
    }
}

/// Binds pods that name no node (embedded API only; a cluster has its own).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SchedulerConfig {
    pub enable: bool,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self { enable: true }
    }
}
