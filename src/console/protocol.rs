//! What the page is told on `GET /console/stream`: server-sent events without a name, each one
//! [`Change`] as JSON. A stream that ends is opened again by the browser and begins anew.

use serde::Serialize;
use serde_json::Value;

/// One event of the stream. JSON: `{"type": "put", ..}`, keys in camelCase, times in milliseconds since
/// the epoch (0: unknown).
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Change {
    /// First on every stream.
    Hello {
        /// `cloudcore` or `edgecore`.
        program: &'static str,
        version: &'static str,
        /// The edge's own name; absent in the cloud.
        #[serde(skip_serializing_if = "Option::is_none")]
        node: Option<String>,
        /// Whom the credential names.
        user: String,
        now_ms: u64,
    },
    /// An object is there or has changed.
    Put { item: Box<Item> },
    /// An object is gone.
    Gone { kind: Kind, key: String },
    /// Every object of this kind that exists was put before this; the page forgets the others.
    Synced { kind: Kind },
    /// Objects of this kind cannot be shown now (not allowed, API away). Ends with the next `synced`.
    Trouble { kind: Kind, why: String },
    /// The live supervision tree of a program, complete: the JSON of `/actors`
    /// ([`crate::supervise::TreeSnapshot`]). `source`: `cloudcore`, or the name of a node.
    Actors { source: String, at_ms: u64, tree: Value },
    /// Sent by an edge: does it reach its cloud?
    Link { connected: bool, since_ms: u64 },
    /// At least every 5 seconds: a stream without it for 15 seconds is dead.
    Ping { now_ms: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Node,
    Pod,
    Device,
    Event,
}

/// What the page shows of an object. JSON: `{"kind": "pod", "key": "default/web", ..}`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Item {
    Node(NodeView),
    Pod(PodView),
    Device(DeviceView),
    Event(EventView),
}

impl Item {
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Node(_) => Kind::Node,
            Self::Pod(_) => Kind::Pod,
            Self::Device(_) => Kind::Device,
            Self::Event(_) => Kind::Event,
        }
    }

    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Node(view) => &view.key,
            Self::Pod(view) => &view.key,
            Self::Device(view) => &view.key,
            Self::Event(view) => &view.key,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// The node's name.
    pub key: String,
    /// Status of condition Ready: `True`, `False`, `Unknown`.
    pub ready: String,
    /// Reason and message of that condition where it is not `True`.
    pub why: String,
    /// When it became so.
    pub since_ms: u64,
    pub heartbeat_ms: u64,
    pub created_ms: u64,
    pub unschedulable: bool,
    /// Names of the node's roles, from `node-role.kubernetes.io/..` labels.
    pub roles: Vec<String>,
    pub address: String,
    pub version: String,
    pub os_image: String,
    pub kernel: String,
    pub architecture: String,
    pub runtime: String,
    /// Capacity as Kubernetes writes it: `2`, `16Gi`, `110`.
    pub cpu: String,
    pub memory: String,
    pub max_pods: String,
    /// Conditions other than Ready that are not as they should be: `DiskPressure: ...`.
    pub pressures: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodView {
    /// `namespace/name`.
    pub key: String,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub node: String,
    /// What kubectl shows under STATUS: `Running`, `CrashLoopBackOff`, `Terminating`.
    pub status: String,
    /// Why, where something is not well.
    pub message: String,
    pub ready: u32,
    pub total: u32,
    pub restarts: u32,
    pub ip: String,
    pub created_ms: u64,
    pub containers: Vec<ContainerView>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerView {
    pub name: String,
    pub image: String,
    /// `running`, `waiting` or `terminated`.
    pub state: String,
    /// Reason and message of a state that is not `running`.
    pub why: String,
    pub ready: bool,
    pub restarts: u32,
    pub started_ms: u64,
    /// How it ended last: `Error, exit code 7`.
    pub last_end: String,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceView {
    /// `namespace/name`.
    pub key: String,
    pub namespace: String,
    pub name: String,
    pub node: String,
    pub model: String,
    /// `spec.protocol.protocolName`.
    pub protocol: String,
    /// `online`, `offline`, ...; empty: never told.
    pub state: String,
    pub last_online_ms: u64,
    /// In the order of the Device's properties.
    pub twins: Vec<TwinView>,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TwinView {
    pub property: String,
    /// Values are text, as on the wire; empty: none.
    pub desired: String,
    pub reported: String,
    /// The desired value in force at the edge.
    pub observed_desired: String,
    /// When the reported value was taken.
    pub at_ms: u64,
    /// Of the model: `int`, `float`, `string`, ...
    pub data_type: String,
    pub unit: String,
    /// Of the model: may a desired value be set?
    pub writable: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EventView {
    /// `namespace/name`.
    pub key: String,
    /// `Normal` or `Warning`.
    pub level: String,
    pub reason: String,
    pub message: String,
    /// Whom it is about: `Pod`, `default`, `web`.
    pub object_kind: String,
    pub object_namespace: String,
    pub object_name: String,
    pub source: String,
    pub count: u32,
    pub first_ms: u64,
    pub last_ms: u64,
}
