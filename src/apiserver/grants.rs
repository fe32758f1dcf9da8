//! Nobody writes a role or a binding that gives what he does not hold, unless he may `escalate` or
//! `bind` (kubernetes.io, "Privilege escalation prevention and bootstrapping"). Pure.

use serde_json::Value;

use super::authn::{MASTERS, User};
use super::authz::Attributes;
use super::errors::ApiError;
use super::kinds::{self, CLUSTERROLES, Kind, ROLES};
use super::object;
use crate::kube::rbac::{self, Access, Ask, ResourceAsk, Rule};

/// May `user` leave `new` where `old` was? Only roles and bindings are looked at.
///
/// # Errors
/// 403 naming what the user does not hold; 404 when the role of a binding is not there.
pub fn admit_grant(
    user: &User,
    asked: &Attributes<'_>,
    access: &Access,
    old: Option<&Value>,
    new: &Value,
) -> Result<(), ApiError> {
    let kind = asked.kind;
    if kind.group != rbac::GROUP || user.is_in(MASTERS) || old.is_some_and(|old| grants_the_same(old, new)) {
        return Ok(());
    }
    let namespace = object::text(new, "namespace");
    let text = |pointer: &str| new.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let may = |verb: &str, of: &Kind, name: &str| {
        let ask =
            ResourceAsk { verb, group: of.group, resource: of.plural, subresource: "", namespace, name };
        access.allows(user.subjects(), &Ask::Resource(ask))
    };
    if kind.id == ROLES || kind.id == CLUSTERROLES {
        if may("escalate", kind, asked.name) {
            return Ok(());
        }
        let mut rules = rbac::rules_of(new);
        if new.get("aggregationRule").is_some() {
            // It could come to hold anything.
            let all = || vec!["*".to_owned()];
            rules.push(Rule { verbs: all(), api_groups: all(), resources: all(), ..Rule::default() });
        }
        return holds(user, access, kind, object::text(new, "name"), namespace, &rules);
    }
    let of = if text("/roleRef/kind") == "Role" { kinds::at(ROLES) } else { kinds::at(CLUSTERROLES) };
    let role = text("/roleRef/name");
    if may("bind", of, role) {
        return Ok(());
    }
    let place = if of.namespaced { namespace } else { "" };
    let rules = access.role(place, role).ok_or_else(|| ApiError::not_found(of, role))?;
    holds(user, access, kind, object::text(new, "name"), namespace, rules)
}

/// Nothing but what ends an object differs.
fn grants_the_same(old: &Value, new: &Value) -> bool {
    let bare = |object: &Value| {
        let mut object = object.clone();
        for field in ["finalizers", "ownerReferences", "resourceVersion"] {
            object::metadata(&mut object).remove(field);
        }
        object
    };
    bare(old) == bare(new)
}

fn holds(
    user: &User,
    access: &Access,
    kind: &Kind,
    name: &str,
    namespace: &str,
    wanted: &[Rule],
) -> Result<(), ApiError> {
    let held: Vec<&Rule> = access.rules_for(user.subjects(), namespace).collect();
    let missing = rbac::missing(&held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let groups: Vec<String> = user.groups.iter().map(|group| format!("{group:?}")).collect();
    let missing: Vec<String> = missing.iter().map(ToString::to_string).collect();
    let why = format!(
        "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        user.name,
        groups.join(" "),
        missing.join("\n")
    );
    Err(ApiError::forbidden(kind, name, &why))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apiserver::kinds::{CLUSTERROLEBINDINGS, ROLEBINDINGS};
    use crate::kube::selector::FieldSelector;
    use serde_json::json;

    fn access() -> Access {
        let mut access = Access::default();
        for (name, rules) in [
            ("reader", json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}])),
            ("secrets", json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"]}])),
            (
                "binder",
                json!([{"verbs": ["bind"], "apiGroups": [rbac::GROUP], "resources": ["clusterroles"],
                    "resourceNames": ["secrets"]}]),
            ),
            (
                "escalator",
                json!([{"verbs": ["escalate"], "apiGroups": [rbac::GROUP], "resources": ["roles"]}]),
            ),
        ] {
            access.put("ClusterRole", &json!({"metadata": {"name": name}, "rules": rules}));
            let binding = json!({"metadata": {"name": name, "namespace": "a"},
                "roleRef": {"kind": "ClusterRole", "name": name},
                "subjects": [{"kind": "Group", "name": name}]});
            access.put("RoleBinding", &binding);
        }
        access
    }

    fn try_it(groups: &[&str], kind: usize, old: Option<&Value>, new: &Value) -> Result<(), u16> {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let user = User { name: "ann".into(), groups, ..User::default() };
        let none = FieldSelector::default();
        let asked = Attributes {
            verb: if old.is_some() { "update" } else { "create" },
            kind: kinds::at(kind),
            sub: None,
            namespace: "a",
            name: old.map(|old| object::text(old, "name")).unwrap_or_default(),
            fields: &none,
        };
        admit_grant(&user, &asked, &access(), old, new).map_err(|err| err.code())
    }

    #[test]
    fn nobody_grants_what_he_does_not_hold() {
        let role = |resource: &str| {
            json!({"metadata": {"name": "r", "namespace": "a"},
                "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": [resource]}]})
        };
        let binding = |name: &str| {
            json!({"metadata": {"name": "b", "namespace": "a"},
                "roleRef": {"kind": "ClusterRole", "name": name}, "subjects": []})
        };
        let cluster_wide = json!({"metadata": {"name": "b"},
            "roleRef": {"kind": "ClusterRole", "name": "reader"}, "subjects": []});
        for (groups, kind, new, want) in [
            (&["reader"][..], ROLES, role("pods"), Ok(())),
            (&["reader"], ROLES, role("secrets"), Err(403)),
            (&["reader", "secrets"], ROLES, role("secrets"), Ok(())),
            (&["escalator"], ROLES, role("secrets"), Ok(())),
            (&["escalator"], CLUSTERROLES, role("secrets"), Err(403)),
            (&[MASTERS], ROLES, role("secrets"), Ok(())),
            (&["reader"], ROLEBINDINGS, binding("reader"), Ok(())),
            (&["reader"], ROLEBINDINGS, binding("secrets"), Err(403)),
            (&["binder"], ROLEBINDINGS, binding("secrets"), Ok(())),
            (&["binder"], ROLEBINDINGS, binding("reader"), Err(403)),
            (&["reader"], ROLEBINDINGS, binding("nothing"), Err(404)),
            // What is held in one namespace cannot be given for all.
            (&["reader"], CLUSTERROLEBINDINGS, cluster_wide, Err(403)),
            (
                &["reader"],
                CLUSTERROLES,
                json!({"metadata": {"name": "c"}, "aggregationRule": {}, "rules": []}),
                Err(403),
            ),
        ] {
            assert_eq!(try_it(groups, kind, None, &new), want, "{groups:?} {new}");
        }
        let mut ending = role("secrets");
        ending["metadata"]["finalizers"] = json!(["a.b/c"]);
        assert_eq!(try_it(&["reader"], ROLES, Some(&ending), &role("secrets")), Ok(()));
        let mut labelled = role("secrets");
        labelled["metadata"]["labels"] = json!({"a": "b"});
        assert_eq!(try_it(&["reader"], ROLES, Some(&labelled), &role("secrets")), Err(403));
    }
}
