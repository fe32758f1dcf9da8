//! `edgecore.yaml`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{CommonConfig, IdentityConfig};

/// The whole file. `apiVersion: edgecore.config.kubeedge.io/v1alpha2`, `kind: EdgeCore`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EdgeCoreConfig {
    pub api_version: String,
    pub kind: String,
    pub common_config: CommonConfig,
    /// Folder of everything edgecore keeps.
    pub data_dir: PathBuf,
    pub identity: IdentityConfig,
    pub modules: EdgeModules,
}

impl Default for EdgeCoreConfig {
    fn default() -> Self {
        Self {
            api_version: "edgecore.config.kubeedge.io/v1alpha2".into(),
            kind: "EdgeCore".into(),
            common_config: CommonConfig::default(),
            data_dir: "/var/lib/kubeedge/edge".into(),
            identity: IdentityConfig::default(),
            modules: EdgeModules::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EdgeModules {
    pub edge_hub: EdgeHubConfig,
    pub meta_manager: MetaManagerConfig,
    pub edged: EdgedConfig,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EdgeHubConfig {
    pub enable: bool,
    /// Seconds between keepalives; a link is given up after two without any traffic from the cloud.
    pub heartbeat: u64,
    /// Messages a second and burst of each traffic class.
    #[serde(rename = "messageQPS")]
    pub message_qps: u32,
    pub message_burst: u32,
    #[serde(rename = "projectID")]
    pub project_id: String,
    pub tls_ca_file: PathBuf,
    pub tls_cert_file: PathBuf,
    pub tls_private_key_file: PathBuf,
    /// Join token; read only while there is no certificate. `/etc/kubeedge/bootstrap-edgecore.conf`
    /// (see `bootstrapFile`) goes first.
    pub token: String,
    /// File that holds the join token; removed once there is a certificate.
    pub bootstrap_file: PathBuf,
    /// `https://host:10002`.
    pub http_server: String,
    pub rotate_certificates: bool,
    pub websocket: WebsocketConfig,
}

/// `edgeHub.websocket`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WebsocketConfig {
    pub enable: bool,
    /// Seconds for dialling, TLS and the upgrade together.
    pub handshake_timeout: u64,
    /// Seconds one frame may take to be written.
    pub write_deadline: u64,
    /// Seconds without anything read after which the link is given up. 0: two heartbeats.
    pub read_deadline: u64,
    /// `host:port` of CloudHub.
    pub server: String,
}

impl Default for WebsocketConfig {
    fn default() -> Self {
        Self {
            enable: true,
            handshake_timeout: 30,
            write_deadline: 15,
            read_deadline: 15,
            server: "127.0.0.1:10000".into(),
        }
    }
}

impl Default for EdgeHubConfig {
    fn default() -> Self {
        Self {
            enable: true,
            heartbeat: 15,
            message_qps: 30,
            message_burst: 60,
            project_id: "e632aba927ea4ac2b575ec1603d56f10".into(),
            tls_ca_file: "/etc/kubeedge/ca/rootCA.crt".into(),
            tls_cert_file: "/etc/kubeedge/certs/server.crt".into(),
            tls_private_key_file: "/etc/kubeedge/certs/server.key".into(),
            token: String::new(),
            bootstrap_file: "/etc/kubeedge/bootstrap-edgecore.conf".into(),
            http_server: "https://127.0.0.1:10002".into(),
            rotate_certificates: true,
            websocket: WebsocketConfig::default(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MetaManagerConfig {
    pub enable: bool,
    /// Seconds a query to the cloud may take.
    pub remote_query_timeout: u64,
    /// Events kept while offline; the oldest go first when full.
    pub outbox_max_messages: u32,
}

impl Default for MetaManagerConfig {
    fn default() -> Self {
        Self { enable: true, remote_query_timeout: 60, outbox_max_messages: 10_000 }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EdgedConfig {
    pub enable: bool,
    /// Unlike Go KubeEdge on by default: without events `kubectl describe` says nothing.
    pub report_event: bool,
    pub register_node_namespace: String,
    /// Node name. Empty: this host's name.
    pub hostname_override: String,
    /// Empty: the address of the default route.
    #[serde(rename = "nodeIP")]
    pub node_ip: String,
    pub node_labels: BTreeMap<String, String>,
    pub register_schedulable: bool,
    /// Sandbox image; empty leaves the choice to the runtime's own configuration.
    pub pod_sandbox_image: String,
    /// Volumes and pod folders live under it, as the kubelet's do.
    pub root_directory: PathBuf,
    pub tailored_kubelet_config: KubeletConfig,
}

impl Default for EdgedConfig {
    fn default() -> Self {
        Self {
            enable: true,
            report_event: true,
            register_node_namespace: "default".into(),
            hostname_override: String::new(),
            node_ip: String::new(),
            node_labels: BTreeMap::new(),
            register_schedulable: true,
            pod_sandbox_image: String::new(),
            root_directory: "/var/lib/kubelet".into(),
            tailored_kubelet_config: KubeletConfig::default(),
        }
    }
}

/// The kubelet keys we act on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct KubeletConfig {
    pub container_runtime_endpoint: String,
    pub pod_logs_dir: PathBuf,
    pub max_pods: u32,
    pub cluster_domain: String,
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<String>,
    /// Go durations, e.g. `10s`.
    pub node_status_update_frequency: String,
    pub node_status_report_frequency: String,
    pub node_lease_duration_seconds: u32,
    pub resolv_conf: PathBuf,
    pub register_with_taints: Vec<TaintConfig>,
    /// Deadline of CRI calls other than image pulls.
    pub runtime_request_timeout: String,
    pub serialize_image_pulls: bool,
    /// Most per second and burst of events.
    #[serde(rename = "eventRecordQPS")]
    pub event_record_qps: u32,
    pub event_burst: u32,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TaintConfig {
    pub key: String,
    pub value: String,
    pub effect: String,
}

impl Default for KubeletConfig {
    fn default() -> Self {
        Self {
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".into(),
            pod_logs_dir: "/var/log/pods".into(),
            max_pods: 110,
            cluster_domain: "cluster.local".into(),
            cluster_dns: Vec::new(),
            node_status_update_frequency: "10s".into(),
            node_status_report_frequency: "5m".into(),
            node_lease_duration_seconds: 40,
            resolv_conf: "/etc/resolv.conf".into(),
            register_with_taints: Vec::new(),
            runtime_request_timeout: "2m".into(),
            serialize_image_pulls: true,
            event_record_qps: 50,
            event_burst: 100,
        }
    }
}
