//! `edgecore.yaml`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::invalid::{
    Check, at_least_one, duration, enabled, file, folder, host_port, ip, not_empty, require, url,
};
use super::{
    CommonConfig, ConfigFile, ConsoleConfig, DeviceTwinConfig, EdgeIdentityConfig, EventBusConfig, Host,
    Invalid, foreign_keys,
};
use crate::model::NodeName;

/// The whole file. `apiVersion: edgecore.config.kubeedge.io/v1alpha2`, `kind: EdgeCore`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct EdgeCoreConfig {
    /// Says what the file is; must be the default, or be left out.
    pub api_version: String,
    /// Says what the file is; must be the default, or be left out.
    pub kind: String,
    pub common_config: CommonConfig,
    /// Folder of everything edgecore keeps: its store, the audit log.
    pub data_dir: PathBuf,
    pub identity: EdgeIdentityConfig,
    pub modules: EdgeModules,
}

impl Default for EdgeCoreConfig {
    fn default() -> Self {
        Self {
            api_version: "edgecore.config.kubeedge.io/v1alpha2".into(),
            kind: "EdgeCore".into(),
            common_config: CommonConfig::default(),
            data_dir: "/var/lib/kubeedge/edge".into(),
            identity: EdgeIdentityConfig::default(),
            modules: EdgeModules::default(),
        }
    }
}

impl EdgeCoreConfig {
    /// `host:port` of the monitor; 127.0.0.1:9092 unless configured.
    #[must_use]
    pub fn monitor_address(&self) -> &str {
        let configured = self.common_config.monitor_server.bind_address.as_str();
        if configured.is_empty() { "127.0.0.1:9092" } else { configured }
    }

    /// `host:port` of the console; 127.0.0.1:9444 unless configured.
    #[must_use]
    pub fn console_address(&self) -> &str {
        self.modules.console.address("127.0.0.1:9444")
    }
}

impl EdgeCoreConfig {
    /// Where the key of secrets at rest is: `identity.storeKeyFile`, or beside the node's key.
    #[must_use]
    pub fn store_key_file(&self) -> PathBuf {
        let configured = &self.identity.store_key_file;
        if configured.as_os_str().is_empty() {
            self.modules.edge_hub.tls_private_key_file.with_file_name("store.key")
        } else {
            configured.clone()
        }
    }
}

impl ConfigFile for EdgeCoreConfig {
    const API_VERSION: &'static str = "edgecore.config.kubeedge.io/v1alpha2";
    const KIND: &'static str = "EdgeCore";
    const PROGRAM: &'static str = "edgecore";
    const ABOUT: &'static str =
        "The edge side of kubeedge-rs: runs this node's pods, with or without the cloud";
    const DEFAULTS: &'static str = include_str!("../../config/edgecore.yaml");
    const FOREIGN_KEYS: &'static [&'static str] = foreign_keys::EDGE;
    const FREE_MAPS: &'static [&'static str] = &["modules.edged.nodeLabels"];

    fn validate(&self) -> Result<(), Invalid> {
        self.common_config.validate()?;
        folder("dataDir", &self.data_dir)?;
        self.identity.validate()?;
        self.modules.edge_hub.validate()?;
        self.modules.device_twin.validate()?;
        self.modules.meta_manager.validate()?;
        self.modules.event_bus.validate()?;
        self.modules.edged.validate()?;
        self.modules.console.validate()
    }

    fn minimal(host: &Host) -> String {
        let bracketed = match host.address {
            std::net::IpAddr::V4(v4) => v4.to_string(),
            std::net::IpAddr::V6(v6) => format!("[{v6}]"),
        };
        format!(
            "# What edgecore needs to be told; everything else has a default (--defaultconfig prints them all).\n\
             apiVersion: {}\nkind: {}\nmodules:\n  edgeHub:\n    \
             # Where cloudcore is. `keadm gettoken` there prints a token for the first start.\n    \
             httpServer: https://{bracketed}:10002\n    token: \"\"\n    websocket:\n      \
             server: \"{bracketed}:10000\"\n  edged:\n    hostnameOverride: \"{}\"\n",
            Self::API_VERSION,
            Self::KIND,
            host.name
        )
    }
}

/// One section per module.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct EdgeModules {
    pub device_twin: DeviceTwinConfig,
    pub edge_hub: EdgeHubConfig,
    pub meta_manager: MetaManagerConfig,
    pub event_bus: EventBusConfig,
    pub edged: EdgedConfig,
    pub console: ConsoleConfig,
}

/// Reports that come more seldom would be taken for stale.
const MAX_REPORT_INTERVAL_SECS: u64 = 300;

/// The link to the cloud.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct EdgeHubConfig {
    /// Cannot be turned off.
    pub enable: bool,
    /// Seconds between keepalives; a link is given up after two without any traffic from the cloud.
    pub heartbeat: u64,
    /// Seconds between reports of metrics and actors to the cloud; 0: none.
    pub report_interval_secs: u64,
    /// Messages a second of events, and of device data to a cloud without our extensions: ours takes
    /// what it can, and confirmations bound what is under way. Leases, statuses and queries are never
    /// limited.
    #[serde(rename = "messageQPS")]
    pub message_qps: u32,
    /// Burst that `messageQPS` allows.
    pub message_burst: u32,
    /// Part of the websocket's path, as KubeEdge has it; letters, digits, `-` and `_`.
    #[serde(rename = "projectID")]
    pub project_id: String,
    /// File of the roots the cloud is verified by, PEM; written by the join.
    pub tls_ca_file: PathBuf,
    /// File of this node's certificate, PEM; written by the join.
    pub tls_cert_file: PathBuf,
    /// File of this node's key, PEM, 0600; written by the join, never sent.
    pub tls_private_key_file: PathBuf,
    /// Join token; read only while there is no certificate. `/etc/kubeedge/bootstrap-edgecore.conf`
    /// (see `bootstrapFile`) goes first.
    pub token: String,
    /// File that holds the join token; removed once there is a certificate.
    pub bootstrap_file: PathBuf,
    /// URL of CloudHub's HTTPS listener, where nodes join: `https://host:10002`.
    pub http_server: String,
    /// Renews the certificate at half of its life.
    pub rotate_certificates: bool,
    pub websocket: WebsocketConfig,
}

impl EdgeHubConfig {
    fn validate(&self) -> Check {
        let key = |name: &str| format!("modules.edgeHub.{name}");
        enabled("modules.edgeHub", self.enable)?;
        enabled(&key("websocket"), self.websocket.enable)?;
        at_least_one(&key("heartbeat"), self.heartbeat)?;
        at_least_one(&key("messageQPS"), self.message_qps.into())?;
        at_least_one(&key("messageBurst"), self.message_burst.into())?;
        let often = self.report_interval_secs <= MAX_REPORT_INTERVAL_SECS;
        let why = format!("it must be at most {MAX_REPORT_INTERVAL_SECS}");
        require(often, &key("reportIntervalSecs"), why)?;
        let id = &self.project_id;
        let fine =
            !id.is_empty() && id.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_'));
        require(fine, &key("projectID"), format!("{id:?} is not letters, digits, '-' and '_'"))?;
        file(&key("tlsCaFile"), &self.tls_ca_file)?;
        file(&key("tlsCertFile"), &self.tls_cert_file)?;
        file(&key("tlsPrivateKeyFile"), &self.tls_private_key_file)?;
        url(&key("httpServer"), &self.http_server, &["https"])?;
        at_least_one(&key("websocket.handshakeTimeout"), self.websocket.handshake_timeout)?;
        at_least_one(&key("websocket.writeDeadline"), self.websocket.write_deadline)?;
        host_port(&key("websocket.server"), &self.websocket.server)
    }
}

/// `edgeHub.websocket`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct WebsocketConfig {
    /// Cannot be turned off.
    pub enable: bool,
    /// Seconds for dialling, TLS and the upgrade together.
    pub handshake_timeout: u64,
    /// Seconds one frame may take to be written.
    pub write_deadline: u64,
    /// Seconds without anything read after which the link is given up, by the cloud too; two heartbeats if those are longer.
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
            report_interval_secs: 15,
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

/// What the edge remembers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct MetaManagerConfig {
    /// Cannot be turned off.
    pub enable: bool,
    /// Seconds a query to the cloud may take.
    pub remote_query_timeout: u64,
    /// Events kept while offline; the oldest go first when there are more, or more than 64 MiB of them.
    pub outbox_max_messages: u32,
}

impl Default for MetaManagerConfig {
    fn default() -> Self {
        Self { enable: true, remote_query_timeout: 60, outbox_max_messages: 10_000 }
    }
}

impl MetaManagerConfig {
    fn validate(&self) -> Check {
        enabled("modules.metaManager", self.enable)?;
        at_least_one("modules.metaManager.remoteQueryTimeout", self.remote_query_timeout)?;
        at_least_one("modules.metaManager.outboxMaxMessages", self.outbox_max_messages.into())
    }
}

/// The node and its pods.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct EdgedConfig {
    /// Cannot be turned off.
    pub enable: bool,
    /// Tells the cloud of events of pods. Unlike Go KubeEdge on by default: without events
    /// `kubectl describe` says nothing.
    pub report_event: bool,
    /// Node name. Empty: this host's name.
    pub hostname_override: String,
    /// IP address of the node. Empty: the address of the default route.
    #[serde(rename = "nodeIP")]
    pub node_ip: String,
    /// Labels the node registers with.
    pub node_labels: BTreeMap<String, String>,
    /// Registers the node ready for pods; `false`: cordoned.
    pub register_schedulable: bool,
    /// Folder of volumes and pods, as the kubelet's.
    pub root_directory: PathBuf,
    pub tailored_kubelet_config: KubeletConfig,
}

impl EdgedConfig {
    fn validate(&self) -> Check {
        let key = |name: &str| format!("modules.edged.{name}");
        enabled("modules.edged", self.enable)?;
        if !self.hostname_override.is_empty() {
            let name = NodeName::parse(&self.hostname_override);
            let why = name.as_ref().err().map(ToString::to_string);
            require(name.is_ok(), &key("hostnameOverride"), why.unwrap_or_default())?;
        }
        if !self.node_ip.is_empty() {
            ip(&key("nodeIP"), &self.node_ip)?;
        }
        for label in self.node_labels.keys() {
            not_empty(&key("nodeLabels"), label)?;
        }
        folder(&key("rootDirectory"), &self.root_directory)?;
        self.tailored_kubelet_config.validate(&key("tailoredKubeletConfig"))
    }
}

impl Default for EdgedConfig {
    fn default() -> Self {
        Self {
            enable: true,
            report_event: true,
            hostname_override: String::new(),
            node_ip: String::new(),
            node_labels: BTreeMap::new(),
            register_schedulable: true,
            root_directory: "/var/lib/kubelet".into(),
            tailored_kubelet_config: KubeletConfig::default(),
        }
    }
}

/// The kubelet keys we act on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct KubeletConfig {
    /// Socket of the container runtime (CRI), `unix:///path`.
    pub container_runtime_endpoint: String,
    /// Folder of the logs of containers.
    pub pod_logs_dir: PathBuf,
    /// Folder of static pods (`identity.staticPods` says which may run). Empty: none.
    pub static_pod_path: PathBuf,
    /// Pods the node takes at most.
    pub max_pods: u32,
    /// Domain of the cluster, for the search list of pods.
    pub cluster_domain: String,
    /// IP addresses of name servers for pods with `dnsPolicy: ClusterFirst`. Empty: those of the host.
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<String>,
    /// Go duration between two looks at the node; what changed is reported at once.
    pub node_status_update_frequency: String,
    /// Go duration after which an unchanged node status is reported again.
    pub node_status_report_frequency: String,
    /// Seconds a lease of the node lasts; renewed at a quarter of it.
    pub node_lease_duration_seconds: u32,
    /// File of the host that pods get their name servers from.
    pub resolv_conf: PathBuf,
    /// Taints the node registers with.
    pub register_with_taints: Vec<TaintConfig>,
    /// Go duration that a CRI call other than an image pull may take.
    pub runtime_request_timeout: String,
    /// One image pull at a time.
    pub serialize_image_pulls: bool,
    /// Events per second, at most.
    #[serde(rename = "eventRecordQPS")]
    pub event_record_qps: u32,
    /// Burst that `eventRecordQPS` allows.
    pub event_burst: u32,
}

impl KubeletConfig {
    fn validate(&self, section: &str) -> Check {
        let key = |name: &str| format!("{section}.{name}");
        let endpoint = &self.container_runtime_endpoint;
        let socket = endpoint.strip_prefix("unix://").is_some_and(|path| path.starts_with('/'));
        let why = format!("{endpoint:?} is not a socket such as unix:///run/containerd/containerd.sock");
        require(socket, &key("containerRuntimeEndpoint"), why)?;
        folder(&key("podLogsDir"), &self.pod_logs_dir)?;
        if !self.static_pod_path.as_os_str().is_empty() {
            folder(&key("staticPodPath"), &self.static_pod_path)?;
        }
        at_least_one(&key("maxPods"), self.max_pods.into())?;
        for (i, server) in self.cluster_dns.iter().enumerate() {
            ip(&key(&format!("clusterDNS[{i}]")), server)?;
        }
        duration(&key("nodeStatusUpdateFrequency"), &self.node_status_update_frequency)?;
        duration(&key("nodeStatusReportFrequency"), &self.node_status_report_frequency)?;
        duration(&key("runtimeRequestTimeout"), &self.runtime_request_timeout)?;
        at_least_one(&key("nodeLeaseDurationSeconds"), self.node_lease_duration_seconds.into())?;
        for (i, taint) in self.register_with_taints.iter().enumerate() {
            not_empty(&key(&format!("registerWithTaints[{i}].key")), &taint.key)?;
            let effect = &taint.effect;
            let fine = ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(&effect.as_str());
            let why = format!("{effect:?} is not NoSchedule, PreferNoSchedule or NoExecute");
            require(fine, &key(&format!("registerWithTaints[{i}].effect")), why)?;
        }
        Ok(())
    }
}

/// A taint the node registers with. An unknown key in it is refused by the reader itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct TaintConfig {
    /// Key of the taint.
    pub key: String,
    /// Its value; may be empty.
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    pub effect: String,
}

impl Default for KubeletConfig {
    fn default() -> Self {
        Self {
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".into(),
            pod_logs_dir: "/var/log/pods".into(),
            static_pod_path: PathBuf::new(),
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
