//! The roles and bindings that every cluster has, and how they are put right at each start.
//!
//! Names, labels and what they are for are those of kubernetes.io, "Using RBAC Authorization",
//! cut down to the kinds that are served here, and with this project's own kinds.

use serde_json::{Value, json};
use uuid::Uuid;

use super::errors::ApiError;
use super::kinds::{self, CLUSTERROLEBINDINGS, CLUSTERROLES, Kind};
use super::object;
use super::tx::Tx;
use crate::kube::rbac::{self, GROUP, MASTERS, Rule};
use crate::model::identity::IDENTITY_GROUP;

/// `"false"` on a built-in role or binding keeps this program's hands off it.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const DEVICES: &str = "devices.kubeedge.io";

/// What read-only users of a namespace see: no Secrets, and no roles, which say who has more.
const VIEWED: &[&str] = &[
    "configmaps",
    "events",
    "namespaces",
    "namespaces/status",
    "pods",
    "pods/log",
    "pods/status",
    "serviceaccounts",
];
const EDITED: &[&str] = &["configmaps", "events", "pods", "pods/eviction", "secrets", "serviceaccounts"];

fn rule(verbs: &[&str], group: &str, resources: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

fn urls(paths: &[&str]) -> Value {
    json!({"nonResourceURLs": paths, "verbs": ["get"]})
}

fn view() -> Vec<Value> {
    vec![
        rule(READ, "", VIEWED),
        rule(READ, "coordination.k8s.io", &["leases"]),
        rule(READ, DEVICES, &["*"]),
        rule(READ, IDENTITY_GROUP, &["*"]),
    ]
}

fn edit() -> Vec<Value> {
    let mut rules = view();
    rules.extend([
        rule(READ, "", &["secrets"]),
        rule(WRITE, "", EDITED),
        rule(&["create"], "", &["serviceaccounts/token"]),
        rule(&["impersonate"], "", &["serviceaccounts"]),
        rule(WRITE, "coordination.k8s.io", &["leases"]),
        rule(WRITE, DEVICES, &["*"]),
    ]);
    rules
}

/// Policies of identities decide whom a workload is taken for: not for whoever may only edit.
fn admin() -> Vec<Value> {
    let mut rules = edit();
    rules.extend([
        rule(READ, GROUP, &["roles", "rolebindings"]),
        rule(WRITE, GROUP, &["roles", "rolebindings"]),
        rule(WRITE, IDENTITY_GROUP, &["*"]),
    ]);
    rules
}

/// Name and rules of the built-in ClusterRoles.
fn cluster_roles() -> Vec<(&'static str, Vec<Value>)> {
    let health = ["/healthz", "/livez", "/readyz", "/version", "/version/"];
    let discovery = [&health[..], &["/api", "/api/*", "/apis", "/apis/*", "/openapi", "/openapi/*"]].concat();
    let everything = vec![rule(&["*"], "*", &["*"]), json!({"nonResourceURLs": ["*"], "verbs": ["*"]})];
    let own =
        rule(&["create"], "authorization.k8s.io", &["selfsubjectaccessreviews", "selfsubjectrulesreviews"]);
    let who = rule(&["create"], "authentication.k8s.io", &["selfsubjectreviews"]);
    vec![
        ("cluster-admin", everything),
        ("admin", admin()),
        ("edit", edit()),
        ("view", view()),
        ("system:basic-user", vec![own, who]),
        ("system:discovery", vec![urls(&discovery)]),
        ("system:public-info-viewer", vec![urls(&health)]),
        ("system:auth-delegator", vec![rule(&["create"], "authentication.k8s.io", &["tokenreviews"])]),
    ]
}

/// ClusterRole and the groups it is bound to, in a binding of the same name.
const BINDINGS: [(&str, &[&str]); 4] = [
    ("cluster-admin", &[MASTERS]),
    ("system:basic-user", &["system:authenticated"]),
    ("system:discovery", &["system:authenticated"]),
    ("system:public-info-viewer", &["system:authenticated", "system:unauthenticated"]),
];

/// Makes what is missing of the built-in roles and bindings: whole objects, rules, subjects,
/// labels. What was added to them stays, as Kubernetes leaves it. For each start.
///
/// # Errors
/// 500 if something does not serialize.
pub fn restore(tx: &mut Tx<'_>) -> Result<(), ApiError> {
    for (name, rules) in cluster_roles() {
        restore_one(tx, kinds::at(CLUSTERROLES), name, &json!({"rules": rules}))?;
    }
    for (role, groups) in BINDINGS {
        let subjects: Vec<Value> =
            groups.iter().map(|group| json!({"kind": "Group", "apiGroup": GROUP, "name": group})).collect();
        let of = json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": role});
        let wanted = json!({"roleRef": of, "subjects": subjects});
        restore_one(tx, kinds::at(CLUSTERROLEBINDINGS), role, &wanted)?;
    }
    Ok(())
}

fn restore_one(tx: &mut Tx<'_>, kind: &'static Kind, name: &str, wanted: &Value) -> Result<(), ApiError> {
    let found = match tx.get(kind, "", name) {
        Some(found) => Some(found.value()?),
        None => None,
    };
    // A role cannot be exchanged in a binding: one that names another is made anew.
    let fits = |found: &Value| found.get("roleRef") == wanted.get("roleRef");
    let mut object = match found {
        Some(found) if object::is_deleting(&found) || off_limits(&found) => return Ok(()),
        Some(found) if fits(&found) => found,
        _ => json!({
            "apiVersion": kind.api_version(), "kind": kind.kind,
            "metadata": {
                "name": name, "uid": Uuid::new_v4().to_string(),
                "creationTimestamp": object::time(tx.world.now),
            },
        }),
    };
    for (member, key, value) in
        [("labels", "kubernetes.io/bootstrapping", "rbac-defaults"), ("annotations", AUTOUPDATE, "true")]
    {
        let members = object::metadata(&mut object).entry(member).or_insert(Value::Null);
        object::map(members).insert(key.into(), value.into());
    }
    if let Some(role) = wanted.get("roleRef") {
        object::map(&mut object).insert("roleRef".into(), role.clone());
        add_missing(&mut object, "subjects", wanted, |have, wanted| have.contains(wanted));
    } else {
        add_missing(&mut object, "rules", wanted, |have, wanted| {
            let have = rbac::rules_of(&json!({"rules": have}));
            let wanted = rbac::rules_of(&json!({"rules": [wanted]}));
            rbac::missing(&have.iter().collect::<Vec<&Rule>>(), &wanted).is_empty()
        });
    }
    tx.put(kind, object)?;
    Ok(())
}

fn off_limits(object: &Value) -> bool {
    let annotations = object.pointer("/metadata/annotations");
    annotations.and_then(|all| all.get(AUTOUPDATE)).and_then(Value::as_str) == Some("false")
}

fn add_missing(object: &mut Value, member: &str, wanted: &Value, is_there: fn(&[Value], &Value) -> bool) {
    let list = object::map(object).entry(member).or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    let Some(list) = list.as_array_mut() else { return };
    for wanted in wanted.get(member).and_then(Value::as_array).into_iter().flatten() {
        if !is_there(list, wanted) {
            list.push(wanted.clone());
        }
    }
}
