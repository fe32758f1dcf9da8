//! Roles and bindings through the API: what they give, what nobody may give himself, what is
//! there from the start.

use super::*;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn ann() -> User {
    User { name: "ann".into(), groups: vec!["system:authenticated".into()], ..User::default() }
}

impl Bench {
    async fn as_ann(&self, method: Method, url: &str, body: &Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = [("content-type", "application/json")];
        let style = [("content-type", "application/merge-patch+json")];
        let headers = if method == Method::PATCH { style } else { headers };
        let mut request = self.request(method, url, body.as_bytes(), &headers);
        request.user = Some(ann());
        self.send(request).await
    }

    /// Gives ann a ClusterRole in a namespace, or everywhere.
    async fn give(&self, role: &str, namespace: &str) {
        let (url, kind) = match namespace {
            "" => (format!("{RBAC}/clusterrolebindings"), "ClusterRoleBinding"),
            namespace => (format!("{RBAC}/namespaces/{namespace}/rolebindings"), "RoleBinding"),
        };
        let role = role.to_owned();
        let binding = json!({"kind": kind, "metadata": {"generateName": "ann-"},
            "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": [{"kind": "User", "name": "ann"}]});
        let made = self.made(&url, &binding).await;
        assert_eq!(made["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io", "defaults are filled in");
    }
}

#[tokio::test]
async fn the_built_in_roles_give_what_their_names_say() {
    let bench = Bench::new();
    bench.made("/api/v1/namespaces", &json!({"metadata": {"name": "team"}})).await;
    for (role, namespace) in [("view", "default"), ("edit", "team")] {
        bench.give(role, namespace).await;
    }
    let team = |plural: &str| format!("/api/v1/namespaces/team/{plural}");
    let mine = |plural: &str| format!("/api/v1/namespaces/default/{plural}");
    let devices = "/apis/devices.kubeedge.io/v1beta1/namespaces";
    let policies = "/apis/identity.kubeedge.io/v1alpha1/namespaces";
    let roles = format!("{RBAC}/namespaces/team/roles");
    for (method, url, body, want) in [
        (Method::GET, mine("pods"), Value::Null, 200),
        (Method::GET, mine("events"), Value::Null, 200),
        (Method::GET, mine("secrets"), Value::Null, 403),
        (Method::GET, mine("configmaps/kube-root-ca.crt"), Value::Null, 200),
        (Method::POST, mine("configmaps"), configmap("a"), 403),
        (Method::GET, "/api/v1/pods".to_owned(), Value::Null, 403),
        (Method::GET, "/api/v1/nodes".to_owned(), Value::Null, 403),
        (Method::GET, format!("{devices}/default/devices"), Value::Null, 200),
        (Method::GET, format!("{devices}/kube-system/devices"), Value::Null, 403),
        (Method::GET, format!("{policies}/default/imagepolicies"), Value::Null, 200),
        (Method::POST, format!("{policies}/team/imagepolicies"), json!({}), 403),
        (Method::POST, team("configmaps"), configmap("a"), 201),
        (Method::GET, team("secrets"), Value::Null, 200),
        (Method::DELETE, team("configmaps/a"), Value::Null, 200),
        (Method::GET, roles.clone(), Value::Null, 403),
        (Method::POST, team("serviceaccounts/default/token"), json!({"spec": {}}), 201),
        (Method::POST, mine("serviceaccounts/default/token"), json!({"spec": {}}), 403),
    ] {
        let (code, answer) = bench.as_ann(method.clone(), &url, &body).await;
        assert_eq!(code, want, "{method} {url}: {answer}");
    }
    bench.give("admin", "team").await;
    assert_eq!(bench.as_ann(Method::GET, &roles, &Value::Null).await.0, 200);
    bench.give("cluster-admin", "").await;
    for url in ["/api/v1/nodes", "/api/v1/secrets", "/apis/rbac.authorization.k8s.io/v1/clusterroles"] {
        assert_eq!(bench.as_ann(Method::GET, url, &Value::Null).await.0, 200, "{url}");
    }
}

#[tokio::test]
async fn rights_come_and_go_with_their_objects() {
    let bench = Bench::new();
    let role = json!({"metadata": {"name": "maps"}, "rules": [
        {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["mine"], "verbs": ["*"]}]});
    let roles = format!("{RBAC}/namespaces/default/roles");
    bench.made(&roles, &role).await;
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let binding = json!({"metadata": {"name": "maps"}, "roleRef": {"kind": "Role", "name": "maps"},
        "subjects": [{"kind": "Group", "name": "system:authenticated"}]});
    bench.made(&bindings, &binding).await;
    bench.made(MAPS, &configmap("mine")).await;
    let one = format!("{MAPS}/mine");
    let selected = format!("{MAPS}?fieldSelector=metadata.name%3Dmine");
    for (url, want) in [(one.as_str(), 200), (&selected, 200), (MAPS, 403), (&format!("{MAPS}/x"), 403)] {
        assert_eq!(bench.as_ann(Method::GET, url, &Value::Null).await.0, want, "{url}");
    }
    let rules = json!({"rules": [{"apiGroups": [""], "resources": ["configmaps"], "verbs": ["list"]}]});
    assert_eq!(bench.merge(&format!("{roles}/maps"), &rules).await.0, 200);
    for (url, want) in [(one.as_str(), 403), (MAPS, 200)] {
        assert_eq!(bench.as_ann(Method::GET, url, &Value::Null).await.0, want, "{url}");
    }
    bench.delete(&format!("{bindings}/maps"), &Value::Null).await;
    assert_eq!(bench.as_ann(Method::GET, MAPS, &Value::Null).await.0, 403);
}

#[tokio::test]
async fn nobody_gives_himself_more_than_he_has() {
    let bench = Bench::new();
    bench.give("admin", "default").await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let role = |name: &str, group: &str, resource: &str| {
        json!({"metadata": {"name": name}, "rules": [
            {"apiGroups": [group], "resources": [resource], "verbs": ["get"]}]})
    };
    let bind = |name: &str, role: &str| {
        json!({"metadata": {"name": name}, "roleRef": {"kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "User", "name": "ann"}]})
    };
    for (url, body, want) in [
        (&roles, role("fine", "", "pods"), 201),
        (&roles, role("greedy", "", "nodes"), 403),
        (&roles, role("greedier", "*", "*"), 403),
        (&bindings, bind("same", "view"), 201),
        (&bindings, bind("all", "cluster-admin"), 403),
        (&bindings, bind("none", "not-there"), 404),
        (&format!("{RBAC}/clusterroles"), role("c", "", "pods"), 403),
    ] {
        let (code, answer) = bench.as_ann(Method::POST, url, &body).await;
        assert_eq!(code, want, "{url} {body}: {answer}");
    }
    let (_, refused) = bench.as_ann(Method::POST, &roles, &role("greedy", "", "nodes")).await;
    let message = refused["message"].as_str().unwrap();
    assert!(
        message.ends_with(
            "is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\"]}"
        ),
        "{message}"
    );
    assert_eq!(bench.get(&format!("{roles}/greedy")).await.0, 404, "a refused write leaves nothing");
    let wider = role("fine", "", "nodes");
    let (code, _) = bench.as_ann(Method::PATCH, &format!("{roles}/fine"), &wider).await;
    assert_eq!(code, 403);
    let (code, _) = bench.as_ann(Method::PUT, &format!("{roles}/new"), &role("new", "", "nodes")).await;
    assert_eq!(code, 403, "a PUT creates, and is looked at like a creation");
}

#[tokio::test]
async fn mistakes_are_named() {
    let bench = Bench::new();
    let roles = format!("{RBAC}/namespaces/default/roles");
    let cluster = format!("{RBAC}/clusterroles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let role = |rule: Value| json!({"metadata": {"name": "r"}, "rules": [rule]});
    let bind = |role: Value, subject: Value| json!({"metadata": {"name": "b"}, "roleRef": role, "subjects": [subject]});
    let view = || json!({"kind": "ClusterRole", "name": "view"});
    for (url, body, want) in [
        (&roles, role(json!({"apiGroups": [""], "resources": ["pods"]})), "rules[0].verbs: Required value"),
        (&roles, role(json!({"verbs": ["get"], "resources": ["pods"]})), "rules[0].apiGroups: Required"),
        (&roles, role(json!({"verbs": ["get"], "apiGroups": [""]})), "rules[0].resources: Required"),
        (&roles, role(json!({"verbs": ["get"], "nonResourceURLs": ["/x"]})), "namespaced rules cannot apply"),
        (
            &cluster,
            role(json!({"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]})),
            "cannot apply to both regular resources and non-resource URLs",
        ),
        (
            &bindings,
            bind(json!({"kind": "Thing", "name": "x"}), json!({"kind": "User", "name": "a"})),
            "roleRef.kind: Unsupported",
        ),
        (
            &bindings,
            bind(view(), json!({"kind": "ServiceAccount", "name": "a"})),
            "subjects[0].namespace: Required",
        ),
        (
            &bindings,
            bind(view(), json!({"kind": "Robot", "name": "a"})),
            "subjects[0].kind: Unsupported value",
        ),
        (&bindings, bind(view(), json!({"kind": "User"})), "subjects[0].name: "),
        (
            &format!("{RBAC}/clusterrolebindings"),
            bind(json!({"kind": "Role", "name": "x"}), json!({"kind": "User", "name": "a"})),
            "roleRef.kind: Unsupported",
        ),
    ] {
        let (code, answer) = bench.post(url, &body).await;
        assert!(code == 422 || code == 400, "{code} {answer}");
        assert!(answer["message"].as_str().unwrap().contains(want), "want {want}: {answer}");
    }
    bench.made(&bindings, &bind(view(), json!({"kind": "User", "name": "a"}))).await;
    let other = json!({"roleRef": {"kind": "ClusterRole", "name": "edit"}});
    let (code, answer) = bench.merge(&format!("{bindings}/b"), &other).await;
    assert_eq!(code, 422);
    assert!(answer["message"].as_str().unwrap().contains("cannot change roleRef"), "{answer}");
}

#[tokio::test]
async fn what_every_cluster_has_comes_back_at_each_start() {
    let mut bench = Bench::new();
    let url = |name: &str| format!("{RBAC}/clusterroles/{name}");
    let binding = format!("{RBAC}/clusterrolebindings/system:discovery");
    let (_, view) = bench.get(&url("view")).await;
    assert_eq!(view["metadata"]["labels"]["kubernetes.io/bootstrapping"], "rbac-defaults");
    bench.delete(&url("edit"), &Value::Null).await;
    bench.delete(&binding, &Value::Null).await;
    let mine = json!({"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]});
    bench.merge(&url("view"), &json!({"rules": [mine]})).await;
    let hands_off = json!({"metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}},
        "rules": []});
    bench.merge(&url("admin"), &hands_off).await;
    bench.restart();
    assert_eq!((bench.get(&url("edit")).await.0, bench.get(&binding).await.0), (200, 200));
    let (_, now) = bench.get(&url("view")).await;
    let rules = now["rules"].as_array().unwrap();
    assert!(rules.contains(&mine), "what was added stays: {rules:?}");
    for rule in view["rules"].as_array().unwrap() {
        assert!(rules.contains(rule), "{rule} is back in {rules:?}");
    }
    assert_eq!(bench.get(&url("admin")).await.1["rules"], json!([]), "asked to be left alone");
    let (_, before) = bench.get(&format!("{RBAC}/clusterroles")).await;
    bench.restart();
    let (_, after) = bench.get(&format!("{RBAC}/clusterroles")).await;
    assert_eq!(before["items"], after["items"], "a start that finds everything writes nothing");
}

#[tokio::test]
async fn reviews_say_what_roles_say() {
    let bench = Bench::new();
    bench.give("view", "default").await;
    let authorization = "/apis/authorization.k8s.io/v1";
    for (spec, want) in [
        (json!({"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}), true),
        (json!({"resourceAttributes": {"verb": "list", "resource": "pods"}}), false),
        (
            json!({"resourceAttributes": {"verb": "get", "resource": "pods", "subresource": "log",
            "namespace": "default"}}),
            true,
        ),
        (json!({"resourceAttributes": {"verb": "*", "resource": "*", "group": "*"}}), false),
        (json!({"nonResourceAttributes": {"verb": "get", "path": "/apis/x"}}), true),
        (json!({"nonResourceAttributes": {"verb": "get", "path": "/metrics"}}), false),
    ] {
        let body = json!({"spec": spec});
        let url = format!("{authorization}/selfsubjectaccessreviews");
        let (code, answer) = bench.as_ann(Method::POST, &url, &body).await;
        assert_eq!((code, answer["status"]["allowed"].as_bool()), (201, Some(want)), "{answer}");
    }
    let url = format!("{authorization}/selfsubjectrulesreviews");
    let (_, answer) = bench.as_ann(Method::POST, &url, &json!({"spec": {"namespace": "default"}})).await;
    let rules = answer["status"]["resourceRules"].as_array().unwrap();
    let has = |resource: &str| {
        rules.iter().any(|rule| rule["resources"].as_array().unwrap().contains(&json!(resource)))
    };
    assert!(has("pods") && has("selfsubjectaccessreviews") && !has("secrets"), "{answer}");
    assert_eq!(answer["status"]["incomplete"], false);
    let urls = &answer["status"]["nonResourceRules"];
    assert!(urls.to_string().contains("/openapi/*"), "{urls}");
}
