//! Where a message from the cloud goes (protocol 2.5), and the order in which those to be stored
//! are stored.

use std::collections::{HashMap, VecDeque};

use super::renewal;
use crate::model::{Body, Envelope, Resource, group};

/// Messages and bytes that may wait to be stored.
const MAX_WAITING: usize = 1024;
const MAX_WAITING_BYTES: usize = 32 << 20;

/// What EdgeHub does with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Give it to whoever waits for a reply to its parent.
    Reply {
        /// It must be stored and acknowledged as well: the cloud tracks successful answers to
        /// object queries like any other object (protocol 4.1, 17.5), whether or not somebody
        /// still waits.
        store: bool,
    },
    /// Have MetaManager store it, then acknowledge.
    Store,
    /// Answer `ack` at once (protocol 1.4).
    Probe,
    /// Give it to DeviceTwin, which confirms nothing: the cloud does not track this group.
    Twin,
    /// For a module that this edge does not run.
    Nobody,
}

/// Kinds whose query replies the cloud wants acknowledged.
const TRACKED_REPLIES: [&str; 5] =
    ["configmap", "secret", "persistentvolume", "persistentvolumeclaim", "volumeattachment"];

/// Decides by operation, group and parent, in KubeEdge's order.
#[must_use]
pub fn route(envelope: &Envelope) -> Route {
    let route = &envelope.route;
    if matches!(route.operation.as_str(), "config" | "ping" | "pong") {
        return Route::Probe;
    }
    let has_parent = envelope.header.parent_msg_id.as_deref().is_some_and(|parent| !parent.is_empty());
    match (route.group.as_str(), has_parent) {
        (group::RESOURCE | "func", true) => Route::Reply { store: is_tracked_reply(envelope) },
        (group::RESOURCE | "func", false) => Route::Store,
        (group::TWIN, _) => Route::Twin,
        // `meta` is what this edge asks with: a cloud may answer the resync listing in kind.
        (group::USER | group::META | renewal::GROUP, true) => Route::Reply { store: false },
        _ => Route::Nobody,
    }
}

fn is_tracked_reply(envelope: &Envelope) -> bool {
    let Resource::Object(key) = &envelope.route.resource else { return false };
    TRACKED_REPLIES.contains(&key.kind.as_str()) && matches!(envelope.body, Body::Object(_))
}

/// Messages being stored: many at once, but one at a time for each object, in arrival order.
#[derive(Debug, Default)]
pub struct Applying {
    /// Present while a message about the object is being stored; holds the ones after it.
    objects: HashMap<String, VecDeque<Queued>>,
    waiting: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Queued {
    envelope: Envelope,
    bytes: usize,
}

/// Too much waits to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overloaded;

impl Applying {
    /// Takes a message of `bytes` size; gives it back if it may be stored now.
    ///
    /// # Errors
    /// [`Overloaded`] when too much waits; the message is dropped unacknowledged.
    pub fn push(&mut self, envelope: Envelope, bytes: usize) -> Result<Option<Envelope>, Overloaded> {
        let resource = envelope.route.resource.to_string();
        if let Some(queue) = self.objects.get_mut(&resource) {
            if self.waiting >= MAX_WAITING || self.bytes.saturating_add(bytes) > MAX_WAITING_BYTES {
                return Err(Overloaded);
            }
            self.waiting += 1;
            self.bytes += bytes;
            queue.push_back(Queued { envelope, bytes });
            return Ok(None);
        }
        if self.objects.len() >= MAX_WAITING {
            return Err(Overloaded);
        }
        self.objects.insert(resource, VecDeque::new());
        Ok(Some(envelope))
    }

    /// The message about `resource` is stored or refused; gives the next one about it.
    pub fn done(&mut self, resource: &str) -> Option<Envelope> {
        let queue = self.objects.get_mut(resource)?;
        if let Some(next) = queue.pop_front() {
            self.waiting -= 1;
            self.bytes -= next.bytes;
            return Some(next.envelope);
        }
        self.objects.remove(resource);
        None
    }

    /// Drops what waits: its session ended, so the cloud sends it again.
    pub fn forget_queued(&mut self) {
        for queue in self.objects.values_mut() {
            queue.clear();
        }
        self.waiting = 0;
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn envelope(group: &str, operation: &str, resource: &str, parent: Option<&str>, body: Body) -> Envelope {
        let mut envelope =
            Envelope::new("edgecontroller", group, operation, Resource::parse(resource), body, 1);
        envelope.header.parent_msg_id = parent.map(str::to_owned);
        envelope
    }

    #[test]
    fn routes() {
        let object = || Body::Object(json!({"metadata": {"name": "x"}}));
        let error = || Body::Error(Box::new(crate::model::Status::default().into()));
        let reply = |store| Route::Reply { store };
        for (case, group, operation, resource, parent, body, want) in [
            ("push", "resource", "insert", "default/pod/a", None, object(), Route::Store),
            ("func group", "func", "update", "default/pod/a", None, object(), Route::Store),
            ("empty parent", "resource", "update", "default/pod/a", Some(""), object(), Route::Store),
            ("lease", "resource", "response", "kube-node-lease/lease/e", Some("m"), object(), reply(false)),
            ("configmap", "resource", "response", "default/configmap/c", Some("m"), object(), reply(true)),
            ("no secret", "resource", "response", "default/secret/c", Some("m"), error(), reply(false)),
            ("user reply", "user", "response", "x", Some("m"), Body::Null, reply(false)),
            ("resync reply", "meta", "response", "null", Some("m"), object(), reply(false)),
            ("renewal", "identity", "response", "identity/renewal", Some("m"), object(), reply(false)),
            ("user push", "user", "publish", "x", None, Body::Null, Route::Nobody),
            ("twin", "twin", "update", "membership", None, object(), Route::Twin),
            ("confirmation", "twin", "response", "twin", Some("t1"), Body::Null, Route::Twin),
            ("task", "taskmanager", "upgrade", "x", None, object(), Route::Nobody),
            ("unknown", "", "", "", None, Body::Null, Route::Nobody),
            ("ping", "resource", "ping", "x", None, Body::Null, Route::Probe),
        ] {
            assert_eq!(route(&envelope(group, operation, resource, parent, body)), want, "{case}");
        }
    }

    #[test]
    fn one_object_at_a_time_many_objects_at_once() {
        let pod = |name: &str, n: i64| {
            let mut message =
                envelope("resource", "update", &format!("default/pod/{name}"), None, Body::Null);
            message.header.timestamp_ms = n;
            message
        };
        let mut applying = Applying::default();
        assert!(applying.push(pod("a", 1), 10).unwrap().is_some());
        assert!(applying.push(pod("a", 2), 10).unwrap().is_none());
        assert!(applying.push(pod("b", 3), 10).unwrap().is_some());
        assert!(applying.push(pod("a", 4), 10).unwrap().is_none());
        assert_eq!(applying.push(pod("a", 5), MAX_WAITING_BYTES).unwrap_err(), Overloaded);
        assert_eq!(applying.done("default/pod/a").unwrap().header.timestamp_ms, 2);
        assert_eq!(applying.done("default/pod/a").unwrap().header.timestamp_ms, 4);
        assert!(applying.done("default/pod/a").is_none());
        assert!(applying.push(pod("a", 6), 10).unwrap().is_some(), "free again");
        assert!(applying.push(pod("a", 7), 10).unwrap().is_none());
        applying.forget_queued();
        assert!(applying.done("default/pod/a").is_none());
        assert_eq!((applying.waiting, applying.bytes), (0, 0));
    }
}
