//! Which messages an edge acknowledges (protocol section 4.1), and what they say about objects.

use serde_json::Value;

use crate::bus::cloud_hub::Outgoing;
use crate::model::{Resource, group, operation};

/// Is this message kept and sent again until the edge acknowledges it?
///
/// Follows protocol section 4.1 with two decisions of ours: it looks at the kind and not at a
/// substring of the resource (a ConfigMap named `team-membership` is tracked), and answers are
/// never tracked, because who asked asks again.
#[must_use]
pub fn is_tracked(message: &Outgoing) -> bool {
    let route = &message.route;
    if route.group != group::RESOURCE {
        return false;
    }
    if !matches!(route.operation.as_str(), operation::INSERT | operation::UPDATE | operation::DELETE) {
        return false;
    }
    let Resource::Object(key) = &route.resource else { return false };
    match key.kind.as_str() {
        "podlist"
        | "serviceaccounttoken"
        | "lease"
        | "nodepatch"
        | "podpatch"
        | "podstatus"
        | "certificatesigningrequest"
        | "volume" => false,
        "node" => route.operation == operation::UPDATE,
        _ => true,
    }
}

/// Does this end the session instead of being sent (protocol section 4.2)?
#[must_use]
pub fn is_node_delete(message: &Outgoing) -> bool {
    let node = message.route.resource.object().is_some_and(|key| key.kind == "node");
    node && message.route.operation == operation::DELETE
}

/// `metadata.uid` of the object inside.
#[must_use]
pub fn uid(message: &Outgoing) -> Option<&str> {
    meta(message)?.get("uid")?.as_str().filter(|uid| !uid.is_empty())
}

/// The resourceVersion in the header, as a number. Kubernetes calls it opaque; the KubeEdge wire
/// requires a decimal (protocol section 16.3, no. 6), so anything else is not compared.
#[must_use]
pub fn version(message: &Outgoing) -> Option<u64> {
    message.header.resource_version.as_deref()?.parse().ok()
}

/// Is the object gone for good with this message?
#[must_use]
pub fn is_delete(message: &Outgoing) -> bool {
    message.route.operation == operation::DELETE
}

/// Does the object carry a deletionTimestamp?
#[must_use]
pub fn is_terminating(message: &Outgoing) -> bool {
    meta(message).and_then(|meta| meta.get("deletionTimestamp")).is_some_and(|at| !at.is_null())
}

fn meta(message: &Outgoing) -> Option<&Value> {
    message.object()?.get("metadata")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Body, Envelope};

    fn message(source: &str, group: &str, op: &str, resource: &str) -> bool {
        let body = Body::Object(serde_json::json!({"metadata": {"uid": "u"}}));
        is_tracked(&Outgoing::new(Envelope::new(source, group, op, Resource::parse(resource), body, 0)))
    }

    #[test]
    fn tracked_kinds() {
        for (want, group, op, resource) in [
            (true, "resource", "insert", "default/pod/nginx"),
            (true, "resource", "update", "default/configmap/team-membership"),
            (true, "resource", "delete", "default/secret/s"),
            (true, "resource", "update", "null/node/edge-1"),
            (true, "resource", "update", "default/device/d"),
            (false, "resource", "delete", "null/node/edge-1"),
            (false, "resource", "response", "default/configmap/c"),
            (false, "resource", "response", "kube-node-lease/lease/edge-1"),
            (false, "resource", "update", "default/podpatch/nginx"),
            (false, "twin", "update", "membership"),
            (false, "user", "publish", "a/topic"),
            (false, "resource", "applicationResponse", "ignore/Application/ignore"),
        ] {
            assert_eq!(message("edgecontroller", group, op, resource), want, "{op} {resource}");
        }
    }
}
