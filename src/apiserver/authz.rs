//! Who may do what. Pure.
//!
//! Administrators (`system:masters`) may do everything; nodes what concerns themselves and what
//! their pods refer to; everybody who is known may discover and review himself. Beyond that, roles
//! and bindings decide ([`crate::kube::rbac`]).

use serde_json::Value;

use super::authn::{MASTERS, User};
use super::errors::ApiError;
use super::kinds::{
    self, CONFIGMAPS, EVENTS, Kind, LEASES, NODES, Nature, PODS, SECRETS, SERVICEACCOUNTS, Sub,
};
use super::object;
use super::registry::Registry;
use crate::kube::rbac::{Ask, ResourceAsk};
use crate::kube::references::{self, RefKind, Reference};
use crate::kube::selector::FieldSelector;

/// Namespace of the leases that nodes renew.
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'a str,
    pub kind: &'static Kind,
    pub sub: Option<Sub>,
    pub namespace: &'a str,
    /// Empty for collections and creations.
    pub name: &'a str,
    pub fields: &'a FieldSelector,
}

impl<'a> Attributes<'a> {
    /// As roles see it: who selects a collection by one name asks for that name.
    #[must_use]
    pub fn resource(&self) -> ResourceAsk<'a> {
        let by_field = matches!(self.verb, "list" | "watch" | "deletecollection") && self.name.is_empty();
        let selected = by_field.then(|| self.fields.exact("metadata.name")).flatten();
        ResourceAsk {
            verb: self.verb,
            group: self.kind.group,
            resource: self.kind.plural,
            subresource: self.sub.map(Sub::path).unwrap_or_default(),
            namespace: self.namespace,
            name: selected.unwrap_or(self.name),
        }
    }
}

/// May `user` do this? Creations are checked again with their content, see [`admit_content`].
///
/// # Errors
/// 403 in Kubernetes' words.
pub fn authorize(user: &User, asked: &Attributes<'_>, registry: &Registry) -> Result<(), ApiError> {
    if user.is_in(MASTERS)
        || asked.kind.nature == Nature::Review && asked.kind.plural.starts_with("selfsubject")
    {
        return Ok(());
    }
    let allowed = user.node().is_some_and(|node| node_may(node, asked, registry))
        || registry.access().allows(user.subjects(), &Ask::Resource(asked.resource()));
    if allowed { Ok(()) } else { Err(refusal(user, asked)) }
}

/// What a node creates must be its own.
///
/// # Errors
/// 403.
pub fn admit_content(user: &User, asked: &Attributes<'_>, content: &Value) -> Result<(), ApiError> {
    let Some(node) = user.node().filter(|_| !user.is_in(MASTERS)) else { return Ok(()) };
    let text = |pointer: &str| content.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let own = match (asked.kind.id, asked.sub) {
        (NODES | LEASES, None) if asked.verb == "create" => object::text(content, "name") == node,
        (PODS, None) if asked.verb == "create" => {
            // What a pod names its node may read, so a pod that a node makes names nothing.
            let named = references::of_pod(content);
            let names_nothing =
                !named.iter().any(|it| matches!(it.kind, RefKind::ConfigMap | RefKind::Secret));
            text("/spec/nodeName") == node
                && content.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_some()
                && names_nothing
                && ["/spec/serviceAccountName", "/spec/serviceAccount"]
                    .iter()
                    .all(|account| matches!(text(account), "" | "default"))
        }
        (SERVICEACCOUNTS, Some(Sub::Token)) => {
            text("/spec/boundObjectRef/kind") == "Pod" && !text("/spec/boundObjectRef/uid").is_empty()
        }
        _ => true,
    };
    if own { Ok(()) } else { Err(refusal(user, asked)) }
}

/// Labels that say what a node may be used for; only administrators set them.
fn is_reserved_label(name: &str) -> bool {
    name.starts_with("node-restriction.kubernetes.io/")
        || matches!(name, "node-role.kubernetes.io/control-plane" | "node-role.kubernetes.io/master")
}

/// What a node may not change about itself and its pods, as in Kubernetes' NodeRestriction: a pod's
/// labels decide whose traffic it gets, a node's taints and reserved labels whose pods. `old` is
/// `None` for a creation.
///
/// # Errors
/// 403.
pub fn admit_change(
    user: &User,
    asked: &Attributes<'_>,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), ApiError> {
    if user.node().is_none() || user.is_in(MASTERS) {
        return Ok(());
    }
    let same = |pointer: &str| old.and_then(|old| old.pointer(pointer)) == new.pointer(pointer);
    let allowed = match (asked.kind.id, old) {
        (PODS, Some(_)) => ["/metadata/labels", "/metadata/finalizers", "/metadata/ownerReferences"]
            .iter()
            .all(|at| same(at)),
        (NODES, _) => {
            let reserved = |object: Option<&Value>| -> Vec<(String, Value)> {
                let labels = object.and_then(|it| it.pointer("/metadata/labels")).and_then(Value::as_object);
                let own = labels.into_iter().flatten().filter(|(name, _)| is_reserved_label(name));
                own.map(|(name, value)| (name.clone(), value.clone())).collect()
            };
            // A node may be born with taints, which only keep pods away.
            reserved(old) == reserved(Some(new)) && (old.is_none() || same("/spec/taints"))
        }
        _ => true,
    };
    if allowed { Ok(()) } else { Err(refusal(user, asked)) }
}

fn node_may(node: &str, asked: &Attributes<'_>, registry: &Registry) -> bool {
    let write = matches!(asked.verb, "update" | "patch");
    match (asked.kind.id, asked.sub) {
        (NODES, None) => match asked.verb {
            "create" => true,
            "get" | "update" | "patch" => asked.name == node,
            "list" | "watch" => asked.name == node || asked.fields.exact("metadata.name") == Some(node),
            _ => false,
        },
        (NODES, Some(Sub::Status)) => asked.name == node && (write || asked.verb == "get"),
        (PODS, None) => match asked.verb {
            "create" => true,
            "get" | "delete" => runs(registry, node, asked.namespace, asked.name),
            "list" | "watch" => asked.fields.exact("spec.nodeName") == Some(node),
            _ => false,
        },
        (PODS, Some(Sub::Status)) => write && runs(registry, node, asked.namespace, asked.name),
        (PODS, Some(Sub::Eviction)) => runs(registry, node, asked.namespace, asked.name),
        (LEASES, None) if asked.namespace == LEASE_NAMESPACE => match asked.verb {
            "create" => true,
            "get" | "delete" => asked.name == node,
            _ => write && asked.name == node,
        },
        (EVENTS, None) => write || asked.verb == "create",
        (CONFIGMAPS | SECRETS, None) => {
            let name = match asked.verb {
                "get" => asked.name,
                "list" | "watch" => asked.fields.exact("metadata.name").unwrap_or(asked.name),
                _ => return false,
            };
            !name.is_empty() && refers(registry, node, asked.kind, asked.namespace, name)
        }
        (SERVICEACCOUNTS, None) if asked.verb == "get" => {
            refers(registry, node, asked.kind, asked.namespace, asked.name)
        }
        (SERVICEACCOUNTS, Some(Sub::Token)) => {
            refers(registry, node, asked.kind, asked.namespace, asked.name)
        }
        _ => false,
    }
}

fn runs(registry: &Registry, node: &str, namespace: &str, name: &str) -> bool {
    let pods = kinds::at(PODS);
    registry.get(pods, namespace, name).is_some_and(|pod| pod.field(pods, "spec.nodeName") == node)
}

/// Does a pod of this node name the object?
fn refers(registry: &Registry, node: &str, kind: &Kind, namespace: &str, name: &str) -> bool {
    let kind = match kind.id {
        CONFIGMAPS => RefKind::ConfigMap,
        SECRETS => RefKind::Secret,
        SERVICEACCOUNTS => RefKind::ServiceAccount,
        _ => return false,
    };
    let wanted = Reference::new(kind, namespace, name);
    let pods = kinds::at(PODS);
    registry
        .list(pods, Some(namespace), None)
        .filter(|pod| pod.field(pods, "spec.nodeName") == node)
        .filter_map(|pod| pod.value().ok())
        .any(|pod| references::of_pod(&pod).contains(&wanted))
}

fn refusal(user: &User, asked: &Attributes<'_>) -> ApiError {
    let resource = match asked.sub {
        None => asked.kind.plural.to_owned(),
        Some(sub) => format!("{}/{}", asked.kind.plural, sub.path()),
    };
    let place = if asked.namespace.is_empty() {
        "at the cluster scope".to_owned()
    } else {
        format!("in the namespace \"{}\"", asked.namespace)
    };
    let why = format!(
        "User \"{}\" cannot {} resource \"{resource}\" in API group \"{}\" {place}",
        user.name, asked.verb, asked.kind.group
    );
    let mut err = ApiError::forbidden(asked.kind, asked.name, &why);
    if asked.name.is_empty() {
        err.status.message = format!("{} is forbidden: {why}", asked.kind.qualified());
    }
    err
}

#[cfg(test)]
mod tests {
    use super::super::object::Stored;
    use super::*;
    use serde_json::json;

    fn node() -> User {
        User { name: "system:node:n1".into(), groups: vec!["system:nodes".into()], ..User::default() }
    }

    fn registry() -> Registry {
        let pod = |name: &str, node: &str| {
            let value = json!({
                "metadata": {"name": name, "namespace": "default", "resourceVersion": "1"},
                "spec": {
                    "nodeName": node, "serviceAccountName": "builder",
                    "imagePullSecrets": [{"name": "pull"}],
                    "volumes": [
                        {"name": "a", "configMap": {"name": "cm"}},
                        {"name": "b", "projected": {"sources": [{"secret": {"name": "proj"}}]}},
                        {"name": "c", "secret": {"secretName": "vol"}},
                    ],
                    "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "env"}}]}],
                },
            });
            let kind = kinds::at(PODS);
            (kind, Stored::new(kind, 1, 0, &value).unwrap())
        };
        Registry::new(1, [pod("mine", "n1"), pod("other", "n2")])
    }

    #[test]
    fn nodes_reach_only_what_is_theirs() {
        let registry = registry();
        let mine = FieldSelector::parse("spec.nodeName=n1").unwrap();
        let theirs = FieldSelector::parse("spec.nodeName=n2").unwrap();
        let none = FieldSelector::default();
        for (verb, kind, sub, namespace, name, fields, want) in [
            ("get", NODES, None, "", "n1", &none, true),
            ("get", NODES, None, "", "n2", &none, false),
            ("list", NODES, None, "", "", &none, false),
            ("delete", NODES, None, "", "n1", &none, false),
            ("patch", NODES, Some(Sub::Status), "", "n1", &none, true),
            ("patch", NODES, Some(Sub::Status), "", "n2", &none, false),
            ("list", PODS, None, "", "", &mine, true),
            ("list", PODS, None, "", "", &theirs, false),
            ("list", PODS, None, "", "", &none, false),
            ("get", PODS, None, "default", "mine", &none, true),
            ("get", PODS, None, "default", "other", &none, false),
            ("update", PODS, None, "default", "mine", &none, false),
            ("patch", PODS, Some(Sub::Status), "default", "mine", &none, true),
            ("create", PODS, Some(Sub::Binding), "default", "mine", &none, false),
            ("get", CONFIGMAPS, None, "default", "cm", &none, true),
            ("get", CONFIGMAPS, None, "default", "secret-plan", &none, false),
            ("get", CONFIGMAPS, None, "kube-system", "cm", &none, false),
            ("list", CONFIGMAPS, None, "default", "", &none, false),
            ("get", SECRETS, None, "default", "pull", &none, true),
            ("get", SECRETS, None, "default", "proj", &none, true),
            ("get", SECRETS, None, "default", "vol", &none, true),
            ("get", SECRETS, None, "default", "env", &none, true),
            ("get", SECRETS, None, "default", "cm", &none, false),
            ("update", SECRETS, None, "default", "vol", &none, false),
            ("create", SERVICEACCOUNTS, Some(Sub::Token), "default", "builder", &none, true),
            ("create", SERVICEACCOUNTS, Some(Sub::Token), "default", "default", &none, false),
            ("update", LEASES, None, LEASE_NAMESPACE, "n1", &none, true),
            ("update", LEASES, None, LEASE_NAMESPACE, "n2", &none, false),
            ("create", EVENTS, None, "default", "", &none, true),
            ("list", EVENTS, None, "default", "", &none, false),
        ] {
            let asked = Attributes { verb, kind: kinds::at(kind), sub, namespace, name, fields };
            let got = authorize(&node(), &asked, &registry).is_ok();
            assert_eq!(got, want, "{verb} {} {namespace}/{name}", kinds::at(kind).plural);
        }
    }

    #[test]
    fn content_of_creations_is_checked() {
        let none = FieldSelector::default();
        let asked = Attributes {
            verb: "create",
            kind: kinds::at(NODES),
            sub: None,
            namespace: "",
            name: "",
            fields: &none,
        };
        assert!(admit_content(&node(), &asked, &json!({"metadata": {"name": "n1"}})).is_ok());
        assert_eq!(
            admit_content(&node(), &asked, &json!({"metadata": {"name": "n2"}})).unwrap_err().code(),
            403
        );
    }

    #[test]
    fn strangers_get_kubernetes_words() {
        let user = User { name: "eve".into(), ..User::default() };
        let none = FieldSelector::default();
        let asked = Attributes {
            verb: "list",
            kind: kinds::at(PODS),
            sub: None,
            namespace: "default",
            name: "",
            fields: &none,
        };
        let err = authorize(&user, &asked, &registry()).unwrap_err();
        assert_eq!(
            err.to_string(),
            "pods is forbidden: User \"eve\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        );
    }
}
