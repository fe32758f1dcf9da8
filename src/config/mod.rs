//! L1: KubeEdge's config files as structs. `Default` is the documentation; the shipped YAML must
//! equal it. Keys are KubeEdge's where KubeEdge has one (protocol section 13), ours elsewhere.

mod cloud;
mod edge;

pub use cloud::{
    ApiServerConfig, CloudCoreConfig, CloudHubConfig, CloudModules, EdgeControllerConfig, KubeApiConfig,
    NodeMonitorConfig, SchedulerConfig, SyncControllerConfig,
};
pub use edge::{
    EdgeCoreConfig, EdgeHubConfig, EdgeModules, EdgedConfig, KubeletConfig, MetaManagerConfig, TaintConfig,
    WebsocketConfig,
};

use serde::{Deserialize, Serialize};

/// `enable`, `address` and `port` of one listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Listener {
    pub enable: bool,
    pub address: String,
    pub port: u16,
}

impl Default for Listener {
    fn default() -> Self {
        Self { enable: true, address: "0.0.0.0".into(), port: 0 }
    }
}

/// `commonConfig` of both programs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CommonConfig {
    pub monitor_server: MonitorConfig,
    pub logging: LoggingConfig,
}

/// `/metrics`, `/healthz`, `/readyz`, `/actors`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MonitorConfig {
    /// `host:port`; the program's default when empty (9091 cloud, 9092 edge, both on 127.0.0.1).
    pub bind_address: String,
    /// Opens `POST /actors/{name}/panic`, to see supervision at work. Off by default.
    pub enable_fault_injection: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LoggingConfig {
    /// `text` or `json`.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,kubeedge::actors=debug`.
    pub level: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    Text,
    Json,
}

impl Default for LoggingConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}

/// Our own section, both programs (design section 4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct IdentityConfig {
    /// SPIFFE trust domain.
    pub trust_domain: String,
    /// Life of a node certificate, seconds. 0 means `cloudHub.edgeCertSigningDuration` days.
    pub node_svid_ttl_secs: u64,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self { trust_domain: "kubeedge.local".into(), node_svid_ttl_secs: 0 }
    }
}
