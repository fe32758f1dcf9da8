//! Types of known kinds: unknown fields and wrong types, named by path.

use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::authorization::v1::SelfSubjectAccessReview;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    Binding, ConfigMap, Event, Namespace, Node, Pod, PodTemplate, Secret, ServiceAccount,
};
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_ignored::Path;
use serde_json::Value;

/// What the schema of a kind says about an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Paths such as `spec.containers[0].imagee`, in document order.
    pub unknown_fields: Vec<String>,
    /// First wrong type: path and what was expected.
    pub wrong_type: Option<(String, String)>,
}

/// Checks `object` against the built-in type of `api_version`/`kind`; `None` if there is none.
#[must_use]
pub fn check(api_version: &str, kind: &str, object: &Value) -> Option<Report> {
    let check_as = match (api_version, kind) {
        ("v1", "Pod") => report::<Pod>,
        ("v1", "Node") => report::<Node>,
        ("v1", "Namespace") => report::<Namespace>,
        ("v1", "ConfigMap") => report::<ConfigMap>,
        ("v1", "Secret") => report::<Secret>,
        ("v1", "ServiceAccount") => report::<ServiceAccount>,
        ("v1", "Event") => report::<Event>,
        ("v1", "Binding") => report::<Binding>,
        ("v1", "PodTemplate") => report::<PodTemplate>,
        ("coordination.k8s.io/v1", "Lease") => report::<Lease>,
        ("policy/v1", "Eviction") => report::<Eviction>,
        ("rbac.authorization.k8s.io/v1", "Role") => report::<Role>,
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => report::<ClusterRole>,
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => report::<RoleBinding>,
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => report::<ClusterRoleBinding>,
        ("authentication.k8s.io/v1", "TokenRequest") => report::<TokenRequest>,
        ("authorization.k8s.io/v1", "SelfSubjectAccessReview") => report::<SelfSubjectAccessReview>,
        _ => return None,
    };
    Some(check_as(object))
}

/// Checks the `metadata` of an object of any kind.
#[must_use]
pub fn check_metadata(metadata: &Value) -> Report {
    let report = report::<ObjectMeta>(metadata);
    let below = |path: String| format!("metadata.{path}");
    Report {
        unknown_fields: report.unknown_fields.into_iter().map(below).collect(),
        wrong_type: report.wrong_type.map(|(path, why)| (below(path), why)),
    }
}

fn report<T: DeserializeOwned>(object: &Value) -> Report {
    let mut unknown_fields = Vec::new();
    let typed: Result<T, _> = serde_ignored::deserialize(object, |path| unknown_fields.push(text_of(&path)));
    if typed.is_ok() {
        return Report { unknown_fields, wrong_type: None };
    }
    // Once more, this time to learn where it went wrong.
    let wrong_type = serde_path_to_error::deserialize::<_, T>(object)
        .err()
        .map(|error| (error.path().to_string(), error.inner().to_string()));
    Report { unknown_fields, wrong_type }
}

/// `spec.containers[0].image`.
fn text_of(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", text_of(parent)),
        Path::Map { parent, key } => match text_of(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            text_of(parent)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: Value) -> Report {
        check(
            "v1",
            "Pod",
            &json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}),
        )
        .unwrap()
    }

    #[test]
    fn unknown_fields_are_named() {
        let report = pod(json!({
            "containers": [{"name": "c", "imagee": "x", "ports": [{"containerPort": 1, "x": {"y": 1}}]}, {"env": [{"nam": "A"}]}],
            "sepc": {},
        }));
        let want = [
            "spec.containers[0].imagee",
            "spec.containers[0].ports[0].x",
            "spec.containers[1].env[0].nam",
            "spec.sepc",
        ];
        assert_eq!(report.unknown_fields, want);
        assert_eq!(report.wrong_type, None);
        assert_eq!(check("v1", "ConfigMap", &json!({"dat": {}})).unwrap().unknown_fields, ["dat"]);
    }

    #[test]
    fn wrong_types_are_named() {
        for (spec, path, why) in [
            (
                json!({"containers": [{"ports": [{"containerPort": "80"}]}]}),
                "spec.containers[0].ports[0].containerPort",
                "i32",
            ),
            (json!({"containers": {}}), "spec.containers", "sequence"),
            (json!({"containers": [{"image": 1}]}), "spec.containers[0].image", "string"),
            (json!({"hostNetwork": "true"}), "spec.hostNetwork", "boolean"),
            (json!({"terminationGracePeriodSeconds": 1.5}), "spec.terminationGracePeriodSeconds", "i64"),
            (
                json!({"containers": [{"env": [{"name": "A", "value": true}]}]}),
                "spec.containers[0].env[0].value",
                "string",
            ),
        ] {
            let (got, expected) = pod(spec).wrong_type.unwrap();
            assert_eq!(got, path);
            assert!(expected.contains(why), "{path}: {expected}");
        }
        let secret = check("v1", "Secret", &json!({"data": {"a": "not base64!"}})).unwrap();
        assert_eq!(secret.wrong_type.map(|(path, _)| path), Some("data.a".to_owned()));
    }

    #[test]
    fn good_objects_are_fine() {
        let spec = json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": 1, "memory": "1Gi"}},
            "livenessProbe": {"httpGet": {"port": "http"}}}], "nodeSelector": {"a": "b"}});
        assert_eq!(pod(spec), Report::default());
        let meta = json!({"creationTimestamp": null, "name": "x"});
        for (api_version, kind) in
            [("v1", "Node"), ("coordination.k8s.io/v1", "Lease"), ("policy/v1", "Eviction")]
        {
            assert_eq!(
                check(api_version, kind, &json!({"metadata": meta})),
                Some(Report::default()),
                "{kind}"
            );
        }
        assert_eq!(check("v1", "Odd", &json!({})), None);
    }
}
