//! A KubeEdge message with its content understood (protocol section 2, design D3).

use serde_json::Value;

use super::{ErrStatus, Resource};

/// One message between cloud and edge.
#[derive(Debug, Clone, PartialEq)]
pub struct Envelope {
    pub header: Header,
    pub route: Route,
    pub body: Body,
}

/// `header` of the JSON frame.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Header {
    /// UUIDv4 of this message; an acknowledgement names it as its parent.
    pub msg_id: String,
    /// Message this one answers.
    pub parent_msg_id: Option<String>,
    /// Unix milliseconds.
    pub timestamp_ms: i64,
    /// Kubernetes resourceVersion of the content, decimal.
    pub resource_version: Option<String>,
    pub sync: bool,
    /// beehive's context type (`header.type`), empty on the wire today.
    pub context_type: Option<String>,
}

/// `route` of the JSON frame. Source, group and operation stay text: unknown ones must survive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    pub source: String,
    pub destination: Option<String>,
    pub group: String,
    pub operation: String,
    pub resource: Resource,
}

/// What a message carries, by kind of content.
#[derive(Debug, Clone, PartialEq)]
pub enum Body {
    /// `null`.
    Null,
    /// A JSON string: `"OK"`, `"ping"`, a patch, a device event, a PEM. Not unescaped further.
    Text(String),
    /// A Kubernetes object or another JSON object.
    Object(Value),
    /// `{"Object": .., "Err": ..}`, the answer to create, patch and lease calls (section 6.3).
    ObjectResp(Box<ObjectResp>),
    /// A bare `{"ErrStatus": ..}` where an object was asked for.
    Error(Box<ErrStatus>),
    /// Numbers, booleans, arrays: kept, counted, never acted on.
    Unknown(Value),
}

/// Both keys are always present on the wire; KubeEdge recognises the shape by them.
#[derive(Debug, Clone, PartialEq)]
pub struct ObjectResp {
    pub object: Option<Value>,
    pub err: Option<ErrStatus>,
}

/// Operations (section 2.3) this project sends or acts on.
pub mod operation {
    /// DeviceTwin's question for the whole membership (section 7.3).
    pub const GET: &str = "get";
    pub const INSERT: &str = "insert";
    pub const UPDATE: &str = "update";
    pub const DELETE: &str = "delete";
    pub const QUERY: &str = "query";
    pub const PATCH: &str = "patch";
    pub const RESPONSE: &str = "response";
    pub const ERROR: &str = "error";
    pub const UPLOAD: &str = "upload";
    pub const KEEPALIVE: &str = "keepalive";
    /// Extension: the edge lists what it holds, the cloud answers with the differences.
    pub const RESYNC: &str = "resync";
    /// Extension: the edge says how it does.
    pub const REPORT: &str = "report";
}

/// Sources (section 2.4).
pub mod source {
    pub const EDGE_CONTROLLER: &str = "edgecontroller";
    pub const DEVICE_CONTROLLER: &str = "devicecontroller";
    pub const CLOUD_HUB: &str = "cloudhub";
    /// EdgeHub's own name on the wire.
    pub const EDGE_HUB: &str = "websocket";
    /// EdgeHub when it speaks for the whole edge (`node/report`, ours).
    pub const REPORTER: &str = "edgehub";
    pub const EDGED: &str = "edged";
    pub const META_MANAGER: &str = "metamanager";
    pub const TWIN: &str = "twin";
    pub const EVENT_BUS: &str = "bus";
    /// May say which devices a node has, as DeviceController does (section 7.2).
    pub const EDGE_MANAGER: &str = "edgemgr";
}

/// Groups (section 2.4).
pub mod group {
    pub const RESOURCE: &str = "resource";
    pub const META: &str = "meta";
    pub const TWIN: &str = "twin";
    pub const USER: &str = "user";
}

impl Envelope {
    /// A new message with a fresh UUIDv4. `now_ms` is Unix milliseconds.
    #[must_use]
    pub fn new(
        source: &str,
        group: &str,
        operation: &str,
        resource: Resource,
        body: Body,
        now_ms: i64,
    ) -> Self {
        Self {
            header: Header {
                msg_id: uuid::Uuid::new_v4().to_string(),
                timestamp_ms: now_ms,
                ..Header::default()
            },
            route: Route {
                source: source.to_owned(),
                destination: None,
                group: group.to_owned(),
                operation: operation.to_owned(),
                resource,
            },
            body,
        }
    }

    /// The answer to `self` in the shape of section 2.6: same source, group and resource,
    /// operation `response`, parent set. Cloud replies override the route where 6.4 says so.
    #[must_use]
    pub fn response(&self, body: Body, now_ms: i64) -> Self {
        let route = &self.route;
        let mut answer =
            Self::new(&route.source, &route.group, operation::RESPONSE, route.resource.clone(), body, now_ms);
        answer.header.parent_msg_id = Some(self.header.msg_id.clone());
        answer
    }

    /// The acknowledgement an edge sends after persisting (section 4.3).
    #[must_use]
    pub fn ack(&self, now_ms: i64) -> Self {
        self.response(Body::Text("OK".to_owned()), now_ms)
    }

    #[must_use]
    pub fn with_resource_version(mut self, version: impl Into<String>) -> Self {
        self.header.resource_version = Some(version.into());
        self
    }

    #[must_use]
    pub fn is(&self, operation: &str) -> bool {
        self.route.operation == operation
    }
}

impl Body {
    /// `metadata.{field}` of an object body, if it is text.
    #[must_use]
    pub fn meta(&self, field: &str) -> Option<&str> {
        match self {
            Self::Object(value) => value.get("metadata")?.get(field)?.as_str(),
            _ => None,
        }
    }

    /// Memory it takes, bytes, roughly: a list of small numbers is far larger parsed than written.
    #[must_use]
    pub fn memory(&self) -> usize {
        /// A node of a map, with room for eleven fields, at least half of them there.
        const NODE: usize = 632;
        fn of(value: &Value) -> usize {
            let own = size_of::<Value>();
            match value {
                Value::String(text) => own + text.len(),
                Value::Array(items) => own + items.iter().map(of).sum::<usize>(),
                Value::Object(fields) => {
                    let inside = |(name, field): (&String, &Value)| name.len() + of(field) - own;
                    own + NODE * fields.len().div_ceil(6) + fields.iter().map(inside).sum::<usize>()
                }
                _ => own,
            }
        }
        match self {
            Self::Text(text) => text.len(),
            Self::Object(value) | Self::Unknown(value) => of(value),
            Self::ObjectResp(answer) => answer.object.as_ref().map_or(0, of),
            Self::Null | Self::Error(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_as_parsed() {
        let zeros = Body::Object(serde_json::json!({"a": vec![0; 1000]}));
        assert!(zeros.memory() >= 1000 * size_of::<Value>());
        assert_eq!(Body::Text("abc".to_owned()).memory(), 3);
        assert_eq!(Body::Null.memory(), 0);
    }
}
