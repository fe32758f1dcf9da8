//! L1: KubeEdge's config files as structs. `Default` is the documentation; the shipped YAML must
//! equal it. Keys are KubeEdge's where KubeEdge has one (protocol section 13), ours elsewhere.

mod cli;
mod cloud;
mod console;
mod device_twin;
mod difference;
mod duration;
mod edge;
mod event_bus;
mod foreign_keys;
mod identity;
mod invalid;
mod loader;
mod place;
mod spelling;

pub use cli::{CoreArgs, RunMode, host, run_mode};
pub use console::{ConsoleConfig, ConsoleTls};
pub use device_twin::DeviceTwinConfig;
pub use difference::differing_keys;
pub use duration::parse_go_duration;
pub use invalid::Invalid;
pub use loader::{ConfigError, ConfigFile, Host, Loaded, Place, load, load_with, parse};

pub use cloud::{
    ApiServerConfig, CloudCoreConfig, CloudHubConfig, CloudModules, EdgeControllerConfig, KubeApiConfig,
    NodeMonitorConfig, SchedulerConfig, SyncControllerConfig,
};
pub use edge::{
    EdgeCoreConfig, EdgeHubConfig, EdgeModules, EdgedConfig, KubeletConfig, MetaManagerConfig, TaintConfig,
    WebsocketConfig,
};
pub use event_bus::{AccessRule, EventBusConfig, EventBusTlsConfig, InternalBrokerConfig, is_filter};
pub use identity::{ClonedNodes, CloudIdentityConfig, EdgeIdentityConfig, KeysConfig, PodSeals};

use invalid::{Check, enabled, host_port, ip, log_filter};
use serde::{Deserialize, Serialize};

/// `enable`, `address` and `port` of one listener.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct Listener {
    /// Cannot be turned off.
    pub enable: bool,
    /// IP address it listens on.
    pub address: String,
    /// TCP port it listens on; 0: the system picks one.
    pub port: u16,
}

impl Default for Listener {
    fn default() -> Self {
        Self { enable: true, address: "0.0.0.0".into(), port: 0 }
    }
}

impl Listener {
    fn validate(&self, section: &str) -> Check {
        enabled(section, self.enable)?;
        ip(&format!("{section}.address"), &self.address)
    }
}

/// What both programs have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct CommonConfig {
    pub monitor_server: MonitorConfig,
    pub logging: LoggingConfig,
    /// An actor may fail so often within a minute; then the program ends with an error, for its
    /// service manager to start it again.
    pub max_restarts: u32,
}

impl Default for CommonConfig {
    fn default() -> Self {
        Self { monitor_server: MonitorConfig::default(), logging: LoggingConfig::default(), max_restarts: 10 }
    }
}

impl CommonConfig {
    fn validate(&self) -> Check {
        let address = &self.monitor_server.bind_address;
        if !address.is_empty() {
            host_port("commonConfig.monitorServer.bindAddress", address)?;
        }
        log_filter("commonConfig.logging.level", &self.logging.level)
    }
}

/// `/metrics`, `/healthz`, `/readyz`, `/actors`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct MonitorConfig {
    /// `host:port`; the program's default when empty (9091 cloud, 9092 edge, both on 127.0.0.1).
    pub bind_address: String,
    /// Opens `POST /actors/{name}/panic`, to see supervision at work. Off by default.
    pub enable_fault_injection: bool,
}

/// The log, on standard error: one line an event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct LoggingConfig {
    /// How a line of the log looks.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a filter such as `info,kubeedge::actors=debug`.
    pub level: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
