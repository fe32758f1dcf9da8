//! Which messages a node may send (design D8; users.md C10, CL-1.18). No I/O.

use serde_json::Value;

use super::index::Index;
use super::plan::{Plan, Subject};
use crate::kube::references::{self, RefKind, Reference};
use crate::model::NodeName;

/// ConfigMaps that a kubelet asks for in every namespace where it runs a pod (its
/// `kube-api-access` volume), whether a pod names them or not.
const TRUST_BUNDLES: [&str; 2] = ["kube-root-ca.crt", "openshift-service-ca.crt"];

/// The decision about one message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    Forbidden(String),
    /// The index does not know the pod yet, or no longer: ask the API who runs it. A pod that does
    /// not exist belongs to nobody and harms nobody.
    IfPodIsOurs {
        namespace: String,
        name: String,
    },
    /// Allowed if the volume's claim is one of these nodes' (the answer is looked at).
    IfClaimIsOurs,
}

/// May `node` do what `plan` says?
#[must_use]
pub fn judge(node: &NodeName, plan: &Plan, index: &Index) -> Verdict {
    let body = plan.calls.first().and_then(|call| call.body.as_ref());
    match &plan.subject {
        Subject::Own { name } if name == node.as_str() => Verdict::Allowed,
        Subject::Own { name } => Verdict::Forbidden(format!("node {node} cannot speak for node {name:?}")),
        Subject::Pod { namespace, name } => pod(node, namespace, name, index),
        Subject::MirrorPod => mirror_pod(node, body),
        Subject::Referenced { kind, namespace, name } => {
            let ref_kind = match *kind {
                "ConfigMap" => RefKind::ConfigMap,
                "Secret" => RefKind::Secret,
                _ => RefKind::PersistentVolumeClaim,
            };
            let bundle = ref_kind == RefKind::ConfigMap
                && TRUST_BUNDLES.contains(&name.as_str())
                && index.runs_in(node, namespace);
            if bundle || index.follows(node, &Reference::new(ref_kind, namespace, name)) {
                return Verdict::Allowed;
            }
            Verdict::Forbidden(format!("no pod of node {node} references {kind} {namespace}/{name}"))
        }
        Subject::Volume => Verdict::IfClaimIsOurs,
        Subject::Token { namespace, account } => token(node, namespace, account, body, index),
        Subject::Event { namespace, name } => event(node, body, (namespace, name), plan, index),
        Subject::VolumeAttachment => {
            Verdict::Forbidden(format!("volume attachments are not given to node {node}"))
        }
    }
}

/// Is the object that [`Verdict::IfClaimIsOurs`] waited for bound to a claim of `node`'s pods?
#[must_use]
pub fn owns_volume(node: &NodeName, volume: &Value, index: &Index) -> bool {
    let field = |name: &str| volume.pointer(&format!("/spec/claimRef/{name}")).and_then(Value::as_str);
    let (Some(namespace), Some(name)) = (field("namespace"), field("name")) else { return false };
    index.follows(node, &Reference::new(RefKind::PersistentVolumeClaim, namespace, name))
}

fn pod(node: &NodeName, namespace: &str, name: &str, index: &Index) -> Verdict {
    match index.node_of_pod(namespace, name) {
        Some((Some(owner), _)) if owner == node => Verdict::Allowed,
        Some((Some(_), _)) => {
            Verdict::Forbidden(format!("pod {namespace}/{name} is not bound to node {node}"))
        }
        _ => Verdict::IfPodIsOurs { namespace: namespace.to_owned(), name: name.to_owned() },
    }
}

/// Kubernetes' NodeRestriction rules: a mirror pod, on this node, that names nothing.
fn mirror_pod(node: &NodeName, body: Option<&Value>) -> Verdict {
    let forbidden = |why: &str| Verdict::Forbidden(format!("node {node} cannot create this pod: {why}"));
    let Some(pod) = body else { return forbidden("it is empty") };
    if pod.pointer("/spec/nodeName").and_then(Value::as_str) != Some(node.as_str()) {
        return forbidden("spec.nodeName is not the node");
    }
    let mirror = pod.pointer("/metadata/annotations").and_then(|it| it.get("kubernetes.io/config.mirror"));
    if mirror.is_none() {
        return forbidden("it is not a mirror pod");
    }
    let mut named = references::of_pod(pod).into_iter();
    if named.any(|it| it.kind != RefKind::ServiceAccount || it.name != "default") {
        return forbidden("mirror pods reference no other objects");
    }
    Verdict::Allowed
}

/// Tokens are bound to a pod of this node that uses the account.
fn token(node: &NodeName, namespace: &str, account: &str, body: Option<&Value>, index: &Index) -> Verdict {
    let bound = body.and_then(|body| body.pointer("/spec/boundObjectRef"));
    let field = |name: &str| bound.and_then(|it| it.get(name)).and_then(Value::as_str).unwrap_or_default();
    let forbidden = |why: &str| {
        Verdict::Forbidden(format!(
            "node {node} gets no token of service account {namespace}/{account}: {why}"
        ))
    };
    if field("kind") != "Pod" {
        return forbidden("spec.boundObjectRef does not name a pod");
    }
    let Some((Some(owner), pod)) = index.node_of_pod(namespace, field("name")) else {
        return forbidden("the pod does not exist");
    };
    if owner != node || pod.uid != field("uid") {
        return forbidden("the pod is not bound to it");
    }
    let wanted = Reference::new(RefKind::ServiceAccount, namespace, account);
    if !references::of_pod(&pod.object()).contains(&wanted) {
        return forbidden("the pod uses another account");
    }
    Verdict::Allowed
}

fn event(
    node: &NodeName,
    body: Option<&Value>,
    (namespace, event): (&str, &str),
    plan: &Plan,
    index: &Index,
) -> Verdict {
    let text = |path: &str| body.and_then(|body| body.pointer(path)).and_then(Value::as_str);
    let is_patch = plan.calls.first().is_some_and(|call| call.method == "PATCH");
    let reporter = text("/source/host").or_else(|| text("/reportingInstance")).unwrap_or_default();
    if !reporter.is_empty() && reporter != node.as_str() {
        return Verdict::Forbidden(format!("node {node} cannot report as {reporter:?}"));
    }
    let (kind, name) = (text("/involvedObject/kind"), text("/involvedObject/name").unwrap_or_default());
    match kind {
        Some("Node") if name == node.as_str() => Verdict::Allowed,
        Some("Pod") => pod(node, text("/involvedObject/namespace").unwrap_or_default(), name, index),
        // A count patch of an event it created; events are named `{object}.{hash}`.
        None if is_patch => match event.rsplit_once('.') {
            Some((object, _)) if object == node.as_str() => Verdict::Allowed,
            Some((object, _)) => pod(node, namespace, object, index),
            None => Verdict::Forbidden(format!("event {namespace}/{event} is not one of node {node}")),
        },
        _ => Verdict::Forbidden(format!(
            "node {node} cannot report about {} {name}",
            kind.unwrap_or("nothing")
        )),
    }
}
