//! Every port and socket the two programs listen on, who may come in there, and what others get.
//!
//! The table is the rule: `docs/SECURITY.md` shows it, and a test that lists the listening sockets of
//! both programs fails on one that is not here (`tests/it/identity_doors.rs`).

use std::fmt::Write as _;
use std::path::PathBuf;

use crate::actors::edge::dmi;
use crate::config::{CloudCoreConfig, EdgeCoreConfig};

/// What a door asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// TLS, and a node's SVID that the issuing CA signed itself.
    NodeSvid,
    /// TLS; what joins and renews shows its evidence in the call.
    JoinEvidence,
    /// TLS; a client certificate or a token of the Kubernetes API, and what its groups allow.
    KubernetesUser,
    /// TLS, and an SVID of this node or a certificate of the CA configured.
    EdgeSvid,
    /// A password, or no name at all from loopback.
    PasswordOrLoopback,
    /// The user id that the kernel names for the other end.
    PeerUser,
    /// The container, pod and service account that the kernel and the runtime name for the other end.
    PeerPod,
    /// Reading only; loopback unless configured otherwise.
    LoopbackRead,
    /// Reading only, with a token; loopback unless configured otherwise, and TLS where others reach it.
    TokenRead,
}

impl Rule {
    fn words(self) -> &'static str {
        match self {
            Self::NodeSvid => "mTLS: node SVID",
            Self::JoinEvidence => "TLS: evidence in the call",
            Self::KubernetesUser => "TLS: user of the API",
            Self::EdgeSvid => "mTLS: SVID of this node",
            Self::PasswordOrLoopback => "password, or loopback",
            Self::PeerUser => "peer credentials: user",
            Self::PeerPod => "peer credentials: pod",
            Self::LoopbackRead => "loopback, read-only",
            Self::TokenRead => "token, read-only; TLS beyond loopback",
        }
    }
}

/// One place where a program listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Door {
    pub program: &'static str,
    pub name: &'static str,
    /// Where the configuration says its address.
    pub key: &'static str,
    pub usual: &'static str,
    pub rule: Rule,
    pub who: &'static str,
    /// What everybody else gets.
    pub others: &'static str,
    /// What a stranger may use of it at most.
    pub bounds: &'static str,
}

const CLOUDCORE: &str = "cloudcore";
const EDGECORE: &str = "edgecore";

pub const KUBERNETES_API: Door = Door {
    program: CLOUDCORE,
    name: "Kubernetes API",
    key: "modules.apiServer",
    usual: "0.0.0.0:6443",
    rule: Rule::KubernetesUser,
    who: "client certificates of the root, service account tokens; roles and bindings decide what each may do",
    others: "401; without any credentials `/version`, `/healthz`, `/livez` and `/readyz` only",
    bounds: "3 MiB a body and 16 MiB of bodies of one user, 512 strangers, 256 connections of one user, deadlines on handshake, head, body and reader; HTTP/1.1",
};
pub const CLOUD_HUB: Door = Door {
    program: CLOUDCORE,
    name: "CloudHub",
    key: "modules.cloudHub.websocket",
    usual: "0.0.0.0:10000",
    rule: Rule::NodeSvid,
    who: "nodes that are not revoked, each under its own name",
    others: "the TLS handshake fails; 403 for a certificate that is no node's, or another node's than the header says",
    bounds: "no byte of a message is read before; 512 strangers; 4 MiB a message, 2,000 messages or 8 MiB a second and 256 unfinished ones of one node",
};
pub const JOIN_SERVER: Door = Door {
    program: CLOUDCORE,
    name: "Join server",
    key: "modules.cloudHub.https",
    usual: "0.0.0.0:10002",
    rule: Rule::JoinEvidence,
    who: "`/identity/node` and `/edge.crt`: a join token, a factory certificate, the node's last SVID; \
          `/ca.crt`, `/bundle.json`, `/node/{name}`: everybody",
    others: "401, 403, 404",
    bounds: "64 KiB a body, 20 requests a second from one address (100 at first), 512 strangers, deadlines on handshake, head, body and reader",
};
pub const CLOUD_MONITOR: Door = Door {
    program: CLOUDCORE,
    name: "Monitor",
    key: "commonConfig.monitorServer.bindAddress",
    usual: "127.0.0.1:9091",
    rule: Rule::LoopbackRead,
    who: "whoever reaches the address reads; faults are injected only from loopback and with `enableFaultInjection`",
    others: "403 for faults, 404 for everything that is not shown",
    bounds: "32 connections, 5 s for a request and for its reader; bodies are not read",
};
pub const CLOUD_CONSOLE: Door = Door {
    program: CLOUDCORE,
    name: "Console",
    key: "modules.console.bindAddress",
    usual: "127.0.0.1:9443",
    rule: Rule::TokenRead,
    who: "service account tokens of the Kubernetes API, each seeing what RBAC lets it list and watch; \
          the page itself: everybody",
    others: "401 and 10 tries, then one in 6 s; 421 for another host's name, 403 for another page's request",
    bounds: "128 strangers, 64 streams, 4 of one token, 8 KiB a body, 5 s for a request, a slow reader is cut",
};
pub const MQTT: Door = Door {
    program: EDGECORE,
    name: "MQTT",
    key: "modules.eventBus.mqttServerInternal",
    usual: "127.0.0.1:1884",
    rule: Rule::PasswordOrLoopback,
    who: "loopback while `anonymousOnLoopback` is true; otherwise a name of `passwordFile`",
    others: "CONNACK 0x87 (not authorized) or 0x86 (bad user name or password)",
    bounds: "10 s for a CONNECT, 512 strangers at once with 4 MiB, `maxPacketBytes`",
};
pub const MQTT_TLS: Door = Door {
    program: EDGECORE,
    name: "MQTT over TLS",
    key: "modules.eventBus.internal.tlsAddress",
    usual: "closed",
    rule: Rule::EdgeSvid,
    who: "SVIDs that this node's own CA signed, the node's own, certificates of `tlsCaFile`; \
          with `requireClientCertificate: false` a password too",
    others: "the TLS handshake fails; a certificate that nothing names may use no topic",
    bounds: "as MQTT",
};
pub const MQTT_WEBSOCKET: Door = Door {
    program: EDGECORE,
    name: "MQTT over websocket",
    key: "modules.eventBus.internal.websocketAddress",
    usual: "closed",
    rule: Rule::PasswordOrLoopback,
    who: "as MQTT; with `websocketTls: true` as MQTT over TLS",
    others: "as MQTT; 400 for another subprotocol",
    bounds: "as MQTT",
};
pub const DMI: Door = Door {
    program: EDGECORE,
    name: "DMI",
    key: "modules.deviceTwin.dmiSockPath",
    usual: "/etc/kubeedge/dmi.sock",
    rule: Rule::PeerUser,
    who: "root, edgecore's own user, `dmiAllowedUids`; the file is 0660",
    others: "PermissionDenied",
    bounds: "128 connections, 10 s for the first bytes (a quarter of one in a crowd), a bound on each message",
};
pub const WORKLOAD_API: Door = Door {
    program: EDGECORE,
    name: "SPIFFE Workload API",
    key: "identity.workloadApiSocket",
    usual: "/run/kubeedge/spiffe.sock",
    rule: Rule::PeerPod,
    who: "processes of pods that the runtime knows: each gets its own identities",
    others: "PermissionDenied; InvalidArgument without the metadata `workload.spiffe.io: true`",
    bounds: "16 connections of one pod, 2,048 in all, 10 s for the first bytes (a quarter of one in a crowd), a bound on streams and each message",
};
pub const EDGE_MONITOR: Door = Door { program: EDGECORE, usual: "127.0.0.1:9092", ..CLOUD_MONITOR };
pub const EDGE_CONSOLE: Door = Door {
    program: EDGECORE,
    usual: "127.0.0.1:9444",
    who: "the token in `{dataDir}/console.token` (0600); the page itself: everybody",
    bounds: "128 strangers, 64 streams, 8 KiB a body, 5 s for a request, a slow reader is cut",
    ..CLOUD_CONSOLE
};

/// All of them.
pub const DOORS: [Door; 12] = [
    KUBERNETES_API,
    CLOUD_HUB,
    JOIN_SERVER,
    CLOUD_MONITOR,
    CLOUD_CONSOLE,
    MQTT,
    MQTT_TLS,
    MQTT_WEBSOCKET,
    DMI,
    WORKLOAD_API,
    EDGE_MONITOR,
    EDGE_CONSOLE,
];

/// Doors of KubeEdge that are not built: program, name, where KubeEdge has it, and the rule it has to
/// keep to here. Whoever builds one adds it above: the test that lists listening sockets fails until
/// then.
pub const ABSENT: [(&str, &str, &str, &str); 5] = [
    (
        EDGECORE,
        "ServiceBus",
        "HTTP on 127.0.0.1:9060; KubeEdge asks nobody who it is",
        "mTLS: SVID of this node; on loopback the user by peer credentials of a socket",
    ),
    (
        EDGECORE,
        "MetaServer",
        "HTTP on 127.0.0.1:10550",
        "TLS: service account token, or SVID of this node; loopback read-only without either",
    ),
    (
        CLOUDCORE,
        "CloudStream",
        "tunnel on 10004, stream on 10003",
        "mTLS: node SVID; stream: user of the API",
    ),
    (CLOUDCORE, "CloudHub over QUIC", "UDP 10001", "mTLS: node SVID"),
    (CLOUDCORE, "CloudHub on a unix socket", "`modules.cloudHub.unixsocket`", "peer credentials: user"),
];

/// Where a door is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// `host:port`.
    Tcp(String),
    Unix(PathBuf),
}

/// The doors a cloudcore with this configuration opens.
#[must_use]
pub fn of_cloudcore(config: &CloudCoreConfig) -> Vec<(Door, Address)> {
    let at = |address: &str, port: u16| Address::Tcp(format!("{address}:{port}"));
    let hub = &config.modules.cloud_hub;
    let api = &config.modules.api_server;
    let mut doors = vec![
        (CLOUD_HUB, at(&hub.websocket.address, hub.websocket.port)),
        (JOIN_SERVER, at(&hub.https.address, hub.https.port)),
        (CLOUD_MONITOR, Address::Tcp(config.monitor_address().to_owned())),
    ];
    if config.modules.console.enable {
        doors.push((CLOUD_CONSOLE, Address::Tcp(config.console_address().to_owned())));
    }
    if config.serves_api() {
        doors.push((KUBERNETES_API, at(&api.address, api.port)));
    }
    doors
}

/// The doors an edgecore with this configuration opens.
#[must_use]
pub fn of_edgecore(config: &EdgeCoreConfig) -> Vec<(Door, Address)> {
    let bus = &config.modules.event_bus;
    let mut doors = vec![(EDGE_MONITOR, Address::Tcp(config.monitor_address().to_owned()))];
    if config.modules.console.enable {
        doors.push((EDGE_CONSOLE, Address::Tcp(config.console_address().to_owned())));
    }
    doors.push((DMI, Address::Unix(dmi::socket_path(&config.modules.device_twin.dmi_sock_path))));
    if bus.has_internal() {
        let plain = bus.mqtt_server_internal.trim_start_matches("tcp://").trim_end_matches('/');
        doors.push((MQTT, Address::Tcp(plain.to_owned())));
        for (door, address) in
            [(MQTT_TLS, &bus.internal.tls_address), (MQTT_WEBSOCKET, &bus.internal.websocket_address)]
        {
            if !address.is_empty() {
                doors.push((door, Address::Tcp(address.clone())));
            }
        }
    }
    if config.identity.workload_api {
        doors.push((WORKLOAD_API, Address::Unix(config.identity.workload_api_socket.clone())));
    }
    doors
}

/// The table as `docs/SECURITY.md` has it.
#[must_use]
pub fn table() -> String {
    let mut text = String::from(
        "| program | door | address (key) | rule | who comes in | others get | bounds |\n|---|---|---|---|---|---|---|\n",
    );
    for door in DOORS {
        let Door { program, name, key, usual, rule, who, others, bounds } = door;
        let rule = rule.words();
        // Writing to a String does not fail.
        writeln!(text, "| {program} | {name} | {usual} (`{key}`) | {rule} | {who} | {others} | {bounds} |")
            .ok();
    }
    for (program, name, what, rule) in ABSENT {
        writeln!(text, "| {program} | {name} | not built: {what} | when built: {rule} | nobody | - | - |")
            .ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_the_table() {
        let page = include_str!("../../docs/SECURITY.md");
        let table = table();
        assert!(page.contains(&table), "docs/SECURITY.md must hold this table:\n{table}");
    }

    #[test]
    fn every_door_says_all_of_it_once() {
        for (i, door) in DOORS.iter().enumerate() {
            for text in [door.key, door.usual, door.who, door.others, door.bounds] {
                assert!(!text.is_empty() && !text.contains('|'), "{}: {text:?}", door.name);
            }
            let twin = DOORS
                .iter()
                .skip(i + 1)
                .any(|other| (other.program, other.name) == (door.program, door.name));
            assert!(!twin, "{} stands twice", door.name);
        }
    }

    #[test]
    fn keys_and_usual_addresses_are_those_of_the_configuration() {
        let (cloud, edge) = (CloudCoreConfig::default(), EdgeCoreConfig::default());
        let open: Vec<(Door, Address)> = of_cloudcore(&cloud).into_iter().chain(of_edgecore(&edge)).collect();
        for (door, address) in &open {
            let shown = match address {
                Address::Tcp(address) => address.clone(),
                Address::Unix(path) => path.display().to_string(),
            };
            assert_eq!(shown, door.usual, "{}", door.name);
        }
        for door in DOORS {
            assert_eq!(open.iter().any(|(one, _)| *one == door), door.usual != "closed", "{}", door.name);
        }
        let yaml = [include_str!("../../config/cloudcore.yaml"), include_str!("../../config/edgecore.yaml")];
        for door in DOORS {
            let last = door.key.rsplit('.').next().unwrap_or_default();
            let file = yaml[usize::from(door.program == EDGECORE)];
            assert!(file.contains(&format!("{last}:")), "{} has no key {}", door.program, door.key);
        }
    }
}
