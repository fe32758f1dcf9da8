//! `modules.eventBus` of `edgecore.yaml`: the broker inside, and the client of one outside.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::invalid::{Check, at_least_one, file, host_port, require, url};

/// MQTT. Keys of KubeEdge, and `internal` with ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct EventBusConfig {
    /// Serves MQTT; without it devices speak DMI only.
    pub enable: bool,
    /// QoS of what EventBus publishes itself (twin results, deltas); towards the broker outside 1 at
    /// most. KubeEdge has 0.
    #[serde(rename = "mqttQOS")]
    pub mqtt_qos: u8,
    /// Whether all of that is retained.
    pub mqtt_retain: bool,
    /// Messages kept for a client that is away. KubeEdge has 100.
    pub mqtt_session_queue_size: u32,
    /// URL of the broker outside: `tcp://`, or `tls://`, `ssl://`, `mqtts://` with `eventBusTLS`.
    pub mqtt_server_external: String,
    /// URL the broker inside listens on, `tcp://host:port`.
    pub mqtt_server_internal: String,
    /// Client identifier at the broker outside, which keeps its session. Empty: `hub-client-sub-{node}`.
    #[serde(rename = "mqttSubClientID")]
    pub mqtt_sub_client_id: String,
    /// No effect: one connection does both.
    #[serde(rename = "mqttPubClientID")]
    pub mqtt_pub_client_id: String,
    /// User name at the broker outside. Empty: none.
    pub mqtt_username: String,
    /// Password at the broker outside.
    pub mqtt_password: String,
    /// 0: the broker inside (KubeEdge has 2), 1: both, 2: one outside.
    pub mqtt_mode: u8,
    #[serde(rename = "eventBusTLS")]
    pub event_bus_tls: EventBusTlsConfig,
    pub internal: InternalBrokerConfig,
}

impl Default for EventBusConfig {
    fn default() -> Self {
        Self {
            enable: true,
            mqtt_qos: 1,
            mqtt_retain: false,
            mqtt_session_queue_size: 1000,
            mqtt_server_external: "tcp://127.0.0.1:1883".into(),
            mqtt_server_internal: "tcp://127.0.0.1:1884".into(),
            mqtt_sub_client_id: String::new(),
            mqtt_pub_client_id: String::new(),
            mqtt_username: String::new(),
            mqtt_password: String::new(),
            mqtt_mode: 0,
            event_bus_tls: EventBusTlsConfig::default(),
            internal: InternalBrokerConfig::default(),
        }
    }
}

impl EventBusConfig {
    /// Does a broker run inside?
    #[must_use]
    pub fn has_internal(&self) -> bool {
        self.enable && self.mqtt_mode < 2
    }

    /// Is there a broker outside?
    #[must_use]
    pub fn has_external(&self) -> bool {
        self.enable && self.mqtt_mode > 0
    }

    pub(super) fn validate(&self) -> Check {
        let key = |name: &str| format!("modules.eventBus.{name}");
        require(
            self.mqtt_qos <= 2,
            &key("mqttQOS"),
            format!("it must be 0, 1 or 2, found {}", self.mqtt_qos),
        )?;
        let mode = self.mqtt_mode;
        let why = format!("it must be 0 (inside), 1 (both) or 2 (outside), found {mode}");
        require(mode <= 2, &key("mqttMode"), why)?;
        at_least_one(&key("mqttSessionQueueSize"), self.mqtt_session_queue_size.into())?;
        url(&key("mqttServerExternal"), &self.mqtt_server_external, &["tcp", "tls", "ssl", "mqtts"])?;
        url(&key("mqttServerInternal"), &self.mqtt_server_internal, &["tcp"])?;
        if self.has_external() {
            let tls = !self.mqtt_server_external.starts_with("tcp://");
            let why = "it must be true for a server that is not tcp://";
            require(!tls || self.event_bus_tls.enable, &key("eventBusTLS.enable"), why)?;
        }
        self.event_bus_tls.validate(&key("eventBusTLS"))?;
        self.internal.validate(&key("internal"))
    }
}

/// TLS towards the broker outside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct EventBusTlsConfig {
    /// Speaks TLS with the broker outside.
    pub enable: bool,
    /// File of the CA the broker outside is verified by, PEM.
    #[serde(rename = "tlsMqttCAFile")]
    pub tls_mqtt_ca_file: PathBuf,
    /// File of the certificate shown to the broker outside, PEM. Empty: none.
    pub tls_mqtt_cert_file: PathBuf,
    /// File of its key, PEM; set both or none.
    pub tls_mqtt_private_key_file: PathBuf,
}

impl Default for EventBusTlsConfig {
    fn default() -> Self {
        Self {
            enable: false,
            tls_mqtt_ca_file: "/etc/kubeedge/ca/rootCA.crt".into(),
            tls_mqtt_cert_file: "/etc/kubeedge/certs/server.crt".into(),
            tls_mqtt_private_key_file: "/etc/kubeedge/certs/server.key".into(),
        }
    }
}

impl EventBusTlsConfig {
    fn validate(&self, section: &str) -> Check {
        if !self.enable {
            return Ok(());
        }
        file(&format!("{section}.tlsMqttCAFile"), &self.tls_mqtt_ca_file)?;
        let both = self.tls_mqtt_cert_file.as_os_str().is_empty()
            == self.tls_mqtt_private_key_file.as_os_str().is_empty();
        let why = "certificate and key belong together: set both or none";
        require(both, &format!("{section}.tlsMqttCertFile"), why)
    }
}

/// The broker inside: who may come in, and how much of anything there may be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, rename_all = "camelCase")]
pub struct InternalBrokerConfig {
    /// `host:port` of a TLS listener; empty: none.
    pub tls_address: String,
    /// `host:port` of a websocket listener; empty: none.
    pub websocket_address: String,
    /// The websocket listener speaks TLS.
    pub websocket_tls: bool,
    /// File of the CA that clients of the TLS listeners are verified by. All three files empty: the node's own
    /// identity is shown, and only identities of this node come in.
    pub tls_ca_file: PathBuf,
    /// File of the certificate that the TLS listeners show; see `tlsCaFile`.
    pub tls_cert_file: PathBuf,
    /// File of its key; see `tlsCaFile`.
    pub tls_private_key_file: PathBuf,
    /// TLS clients must show a certificate of `tlsCaFile`; otherwise a password will do.
    pub require_client_certificate: bool,
    /// File of users and passwords, made with `mosquitto_passwd`. Empty: nobody has a password.
    pub password_file: PathBuf,
    /// Clients on loopback need no name. Others always do.
    pub anonymous_on_loopback: bool,
    /// What named clients may do; see the shipped file.
    pub access_rules: Vec<AccessRule>,
    /// Clients connected at once, at most.
    pub max_connections: u32,
    /// Bytes of the largest packet, header included.
    pub max_packet_bytes: u32,
    /// QoS 1 and 2 messages of one client that are under way in each direction.
    pub max_inflight: u16,
    /// Bytes of memory for messages that wait for one client.
    pub max_client_bytes: u64,
    /// Bytes of memory for all messages together.
    pub max_memory_bytes: u64,
    /// Retained messages, at most.
    pub max_retained_messages: u32,
    /// Seconds a session is kept at most after its client went away.
    pub max_session_expiry_secs: u32,
    /// Uploads kept while the cloud is away; the oldest go first when there are more, or more than 64 MiB of them.
    pub upload_outbox_max_messages: u32,
}

impl Default for InternalBrokerConfig {
    fn default() -> Self {
        Self {
            tls_address: String::new(),
            websocket_address: String::new(),
            websocket_tls: false,
            tls_ca_file: PathBuf::new(),
            tls_cert_file: PathBuf::new(),
            tls_private_key_file: PathBuf::new(),
            require_client_certificate: true,
            password_file: PathBuf::new(),
            anonymous_on_loopback: true,
            access_rules: Vec::new(),
            max_connections: 4096,
            max_packet_bytes: 2 << 20,
            max_inflight: 100,
            max_client_bytes: 8 << 20,
            max_memory_bytes: 256 << 20,
            max_retained_messages: 100_000,
            max_session_expiry_secs: 7 * 86_400,
            upload_outbox_max_messages: 10_000,
        }
    }
}

impl InternalBrokerConfig {
    /// Does a listener speak TLS?
    #[must_use]
    pub fn speaks_tls(&self) -> bool {
        !self.tls_address.is_empty() || self.websocket_tls
    }

    /// Are the files of TLS named? Otherwise the node's identity serves.
    #[must_use]
    pub fn has_tls_files(&self) -> bool {
        !self.tls_cert_file.as_os_str().is_empty()
    }

    fn validate(&self, section: &str) -> Check {
        let key = |name: &str| format!("{section}.{name}");
        for (name, address) in
            [("tlsAddress", &self.tls_address), ("websocketAddress", &self.websocket_address)]
        {
            if !address.is_empty() {
                host_port(&key(name), address)?;
            }
        }
        let why = "it has no effect without websocketAddress";
        require(!self.websocket_tls || !self.websocket_address.is_empty(), &key("websocketTls"), why)?;
        let files = [&self.tls_ca_file, &self.tls_cert_file, &self.tls_private_key_file];
        if files.iter().any(|path| !path.as_os_str().is_empty()) {
            file(&key("tlsCaFile"), &self.tls_ca_file)?;
            file(&key("tlsCertFile"), &self.tls_cert_file)?;
            file(&key("tlsPrivateKeyFile"), &self.tls_private_key_file)?;
        }
        at_least_one(&key("maxConnections"), self.max_connections.into())?;
        let bytes = self.max_packet_bytes;
        let why = format!("it must be 1024 to 268435460, found {bytes}");
        require((1024..=268_435_460).contains(&bytes), &key("maxPacketBytes"), why)?;
        at_least_one(&key("maxInflight"), self.max_inflight.into())?;
        let why = format!("it must be at least maxPacketBytes, found {}", self.max_client_bytes);
        require(self.max_client_bytes >= bytes.into(), &key("maxClientBytes"), why)?;
        let why = format!("it must be at least maxClientBytes, found {}", self.max_memory_bytes);
        require(self.max_memory_bytes >= self.max_client_bytes, &key("maxMemoryBytes"), why)?;
        at_least_one(&key("maxRetainedMessages"), self.max_retained_messages.into())?;
        at_least_one(&key("uploadOutboxMaxMessages"), self.upload_outbox_max_messages.into())?;
        for (i, rule) in self.access_rules.iter().enumerate() {
            rule.validate(&key(&format!("accessRules[{i}]")))?;
        }
        Ok(())
    }
}

/// What the clients it names may do: all rules that name a client together, and nothing else.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct AccessRule {
    /// A user name, `*` for every user.
    pub user: String,
    /// A common name or SPIFFE ID, `*` for every certificate.
    pub certificate: String,
    /// Clients on loopback without a name.
    pub anonymous: bool,
    /// Topic filters it may publish to; `%u` stands for the client's name, `%c` for its client identifier.
    pub publish: Vec<String>,
    /// Topic filters it may subscribe to and receive, written like `publish`.
    pub subscribe: Vec<String>,
    /// Taken away from both: neither published on nor received, and not subscribed by themselves.
    pub deny: Vec<String>,
}

impl AccessRule {
    fn validate(&self, key: &str) -> Check {
        let named = usize::from(!self.user.is_empty())
            + usize::from(!self.certificate.is_empty())
            + usize::from(self.anonymous);
        require(named == 1, key, "it must name exactly one of user, certificate and anonymous")?;
        for (list, patterns) in
            [("publish", &self.publish), ("subscribe", &self.subscribe), ("deny", &self.deny)]
        {
            for (i, pattern) in patterns.iter().enumerate() {
                let why = format!("{pattern:?} is not a topic filter");
                require(is_filter(pattern), &format!("{key}.{list}[{i}]"), why)?;
            }
        }
        Ok(())
    }
}

/// Is it a topic filter? Wildcards stand alone in their level, `#` only at the end (mqtt-v5.0 section
/// 4.7.1).
#[must_use]
pub fn is_filter(text: &str) -> bool {
    let mut levels = text.split('/').peekable();
    let mut fine = !text.is_empty() && text.len() <= 65_535 && !text.contains('\0');
    while let Some(level) = levels.next() {
        fine &= match level {
            "#" => levels.peek().is_none(),
            "+" => true,
            other => !other.contains(['+', '#']),
        };
    }
    fine
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        for (text, want) in [
            ("#", true),
            ("a/+/b/#", true),
            ("/", true),
            ("", false),
            ("a#", false),
            ("#/a", false),
            ("a+/b", false),
        ] {
            assert_eq!(is_filter(text), want, "{text}");
        }
    }

    #[test]
    fn bad_values_are_named() {
        type Change = fn(&mut EventBusConfig);
        let changes: [(&str, Change); 16] = [
            ("mqttQOS", |c| c.mqtt_qos = 3),
            ("mqttMode", |c| c.mqtt_mode = 3),
            ("mqttSessionQueueSize", |c| c.mqtt_session_queue_size = 0),
            ("mqttServerExternal", |c| c.mqtt_server_external = "127.0.0.1:1883".into()),
            ("mqttServerInternal", |c| c.mqtt_server_internal = "ssl://127.0.0.1:1884".into()),
            ("eventBusTLS.enable", |c| {
                c.mqtt_mode = 2;
                c.mqtt_server_external = "ssl://mosquitto:8883".into();
            }),
            ("eventBusTLS.tlsMqttCertFile", |c| {
                c.event_bus_tls.enable = true;
                c.event_bus_tls.tls_mqtt_cert_file = PathBuf::new();
            }),
            ("internal.tlsAddress", |c| c.internal.tls_address = "8883".into()),
            ("internal.websocketTls", |c| c.internal.websocket_tls = true),
            ("internal.tlsCaFile", |c| c.internal.tls_cert_file = "/x.crt".into()),
            ("internal.tlsPrivateKeyFile", |c| {
                c.internal.tls_ca_file = "/ca.crt".into();
                c.internal.tls_cert_file = "/x.crt".into();
            }),
            ("internal.maxPacketBytes", |c| c.internal.max_packet_bytes = 10),
            ("internal.maxClientBytes", |c| c.internal.max_client_bytes = 10),
            ("internal.maxMemoryBytes", |c| c.internal.max_memory_bytes = 1),
            ("internal.accessRules[0]", |c| c.internal.access_rules.push(AccessRule::default())),
            ("internal.accessRules[0].publish[1]", |c| {
                c.internal.access_rules.push(AccessRule {
                    user: "u".into(),
                    publish: vec!["a".into(), "a#".into()],
                    ..AccessRule::default()
                });
            }),
        ];
        assert_eq!(EventBusConfig::default().validate(), Ok(()));
        for (key, change) in changes {
            let mut config = EventBusConfig::default();
            change(&mut config);
            let err = config.validate().unwrap_err();
            assert_eq!(err.key, format!("modules.eventBus.{key}"), "{err:?}");
        }
    }
}
