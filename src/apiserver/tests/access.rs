//! Who is let in, and discovery.

use super::*;
use crate::identity::PeerIdentity;

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

fn review(resource: &str) -> Value {
    json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {"verb": "get", "resource": resource, "namespace": "default"}}})
}

#[tokio::test]
async fn strangers_see_health_and_version_only() {
    let bench = Bench::new();
    for (url, want) in [
        ("/healthz", 200),
        ("/livez", 200),
        ("/readyz?verbose=true", 200),
        ("/version", 200),
        ("/api", 401),
        ("/apis/x", 401),
        ("/openapi/v3", 401),
        (PODS, 401),
        ("/nonsense", 401),
    ] {
        let mut request = bench.request(Method::GET, url, b"", &[]);
        request.user = None;
        assert_eq!(bench.send(request).await.0, want, "{url}");
    }
}

#[tokio::test]
async fn tokens_live_and_die_with_their_account_and_pod() {
    let bench = Bench::new();
    bench.made(PODS, &pod("p")).await;
    let request = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
        "spec": {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "p"}}});
    let (code, answer) = bench.post(&format!("{ACCOUNTS}/default/token"), &request).await;
    assert_eq!(code, 201, "{answer}");
    assert_eq!(answer["status"]["expirationTimestamp"], "2027-01-15T09:00:00Z");
    let bearer = format!("Bearer {}", answer["status"]["token"].as_str().unwrap());
    let user = bench.core.authenticate(None, Some(&bearer)).unwrap().unwrap();
    assert_eq!(user.name, "system:serviceaccount:default:default");

    let token_review = json!({"spec": {"token": answer["status"]["token"]}});
    let (_, reviewed) = bench.post("/apis/authentication.k8s.io/v1/tokenreviews", &token_review).await;
    assert_eq!(
        (reviewed["status"]["authenticated"].as_bool(), reviewed["spec"].get("token")),
        (Some(true), None)
    );

    // No rights beyond asking about himself.
    let as_account = |method: Method, url: &str, body: &[u8]| {
        let mut request = bench.request(method, url, body, &[]);
        request.user = Some(user.clone());
        request
    };
    let (code, refused) = bench.send(as_account(Method::GET, PODS, b"")).await;
    assert_eq!(code, 403);
    assert!(refused["message"].as_str().unwrap().contains("cannot list resource \"pods\""), "{refused}");
    let body = review("pods").to_string();
    let url = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
    let (code, answer) = bench.send(as_account(Method::POST, url, body.as_bytes())).await;
    assert_eq!((code, answer["status"]["allowed"].as_bool()), (201, Some(false)));

    bench.pass_secs(3601);
    assert_eq!(bench.core.authenticate(None, Some(&bearer)).unwrap_err().code(), 401);
    bench.pass_secs(-3601);
    assert!(bench.core.authenticate(None, Some(&bearer)).is_ok());
    bench.delete(&format!("{PODS}/p"), &Value::Null).await;
    bench.made(PODS, &pod("p")).await;
    assert_eq!(
        bench.core.authenticate(None, Some(&bearer)).unwrap_err().code(),
        401,
        "another pod of that name"
    );

    let free = bench.made(&format!("{ACCOUNTS}/default/token"), &json!({"spec": {}})).await;
    let bearer = format!("Bearer {}", free["status"]["token"].as_str().unwrap());
    assert!(bench.core.authenticate(None, Some(&bearer)).is_ok());
    bench.delete(&format!("{ACCOUNTS}/default"), &Value::Null).await;
    bench.core.sweep().await.unwrap();
    assert_eq!(
        bench.core.authenticate(None, Some(&bearer)).unwrap_err().code(),
        401,
        "another account of that name"
    );
}

#[tokio::test]
async fn token_requests_are_checked() {
    let bench = Bench::new();
    bench.made(PODS, &pod("p")).await;
    bench.made(ACCOUNTS, &json!({"metadata": {"name": "builder"}})).await;
    let bound = |name: &str, uid: &str| json!({"spec": {"boundObjectRef": {"kind": "Pod", "name": name, "uid": uid}}});
    for (account, body, code, message) in [
        (
            "builder",
            json!({"spec": {"expirationSeconds": 60}}),
            422,
            "may not specify a duration less than 10 minutes",
        ),
        ("builder", bound("p", ""), 400, "different serviceaccount name"),
        ("builder", bound("gone", ""), 404, "pods \"gone\" not found"),
        ("default", bound("p", "other"), 409, "does not match the UID in record"),
        ("builder", json!({"kind": "Pod"}), 400, "cannot be handled as a TokenRequest"),
        ("nobody", json!({"spec": {}}), 404, "serviceaccounts \"nobody\" not found"),
    ] {
        let (got, value) = bench.post(&format!("{ACCOUNTS}/{account}/token"), &body).await;
        assert_eq!(got, code, "{body} {value}");
        assert!(value["message"].as_str().unwrap().contains(message), "{value}");
    }
    let other =
        bench.made(&format!("{ACCOUNTS}/builder/token"), &json!({"spec": {"audiences": ["vault"]}})).await;
    let bearer = format!("Bearer {}", other["status"]["token"].as_str().unwrap());
    assert_eq!(bench.core.authenticate(None, Some(&bearer)).unwrap_err().code(), 401, "not meant for us");
}

#[tokio::test]
async fn credentials_that_are_not_good() {
    let bench = Bench::new();
    for header in ["Bearer x.y.z", "Basic YTpi", "Bearer", ""] {
        assert_eq!(bench.core.authenticate(None, Some(header)).unwrap_err().code(), 401, "{header}");
    }
    let peer = |name: &str, groups: &[&str]| PeerIdentity {
        common_name: name.into(),
        organizations: groups.iter().map(|group| (*group).to_owned()).collect(),
        spiffe_id: None,
    };
    let node =
        bench.core.authenticate(Some(&peer("system:node:n1", &["system:nodes"])), None).unwrap().unwrap();
    assert_eq!(node.node(), Some("n1"));
    for bad in [
        peer("", &["system:masters"]),
        peer("eve", &["system:nodes"]),
        peer("system:node:n1", &["system:nodes", "system:masters"]),
    ] {
        assert_eq!(bench.core.authenticate(Some(&bad), None).unwrap_err().code(), 401, "{bad:?}");
    }
}

#[tokio::test]
async fn administrators_may_act_as_others() {
    let bench = Bench::new();
    let headers = [("impersonate-user", "system:node:n1"), ("impersonate-group", "system:nodes")];
    let (code, value) = bench.send(bench.request(Method::GET, PODS, b"", &headers)).await;
    assert_eq!(code, 403, "{value}");
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}}).to_string();
    let request = bench.request(Method::POST, "/api/v1/nodes", node.as_bytes(), &headers);
    assert_eq!(bench.send(request).await.0, 403);
    let node = node.replace("n2", "n1");
    let request = bench.request(Method::POST, "/api/v1/nodes", node.as_bytes(), &headers);
    assert_eq!(bench.send(request).await.0, 201);
    let mut request = bench.request(Method::GET, PODS, b"", &headers);
    request.user = Some(User { name: "eve".into(), ..User::default() });
    assert_eq!(bench.send(request).await.0, 403);
}

#[tokio::test]
async fn discovery_in_both_forms() {
    let bench = Bench::new();
    let (_, group) = bench.get("/apis/coordination.k8s.io").await;
    assert_eq!(group["preferredVersion"]["groupVersion"], "coordination.k8s.io/v1");
    let (_, list) = bench.get("/api/v1").await;
    let found: Vec<&str> =
        list["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    for name in ["pods", "pods/status", "pods/binding", "nodes/status", "serviceaccounts/token", "events"] {
        assert!(found.contains(&name), "{name} not in {found:?}");
    }
    let accept =
        [("accept", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json")];
    let response = bench.core.call(bench.request(Method::GET, "/apis", b"", &accept)).await;
    assert_eq!(
        response.headers.get("content-type").unwrap(),
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    );
    let (_, index) = bench.get("/openapi/v3").await;
    for (path, entry) in index["paths"].as_object().unwrap() {
        let url = entry["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with(&format!("/openapi/v3/{path}")), "{url}");
        assert_eq!(bench.get(url).await.0, 200, "{url}");
    }
    assert_eq!(bench.get("/openapi/v2").await.0, 404);
}

#[tokio::test]
async fn the_client_of_this_program_is_a_kube_client() {
    use ::kube::api::{Api, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
    use futures_util::TryStreamExt;
    use k8s_openapi::api::core::v1::ConfigMap;

    let bench = Bench::new();
    let api: Api<ConfigMap> = Api::namespaced(bench.core.client(), "default");
    let map: ConfigMap = serde_json::from_value(configmap("a")).unwrap();
    let made = api.create(&PostParams::default(), &map).await.unwrap();
    let version = made.metadata.resource_version.unwrap();
    let patch = Patch::Merge(json!({"data": {"a": "2"}}));
    api.patch("a", &PatchParams::default(), &patch).await.unwrap();
    assert_eq!(api.list(&ListParams::default()).await.unwrap().items.len(), 2);
    let mut events = std::pin::pin!(api.watch(&WatchParams::default(), &version).await.unwrap());
    match events.try_next().await.unwrap() {
        Some(WatchEvent::Modified(map)) => assert_eq!(map.data.unwrap()["a"], "2"),
        other => panic!("{other:?}"),
    }
    let missing = api.get("zz").await.unwrap_err();
    assert!(missing.to_string().contains("configmaps \"zz\" not found"), "{missing}");
}

#[tokio::test]
async fn a_node_gets_no_secret_by_a_pod_of_its_own_making() {
    let bench = Bench::new();
    let secrets = "/api/v1/namespaces/default/secrets";
    bench.made(secrets, &json!({"metadata": {"name": "top"}, "stringData": {"a": "b"}})).await;
    let node = User { name: "system:node:n1".into(), groups: vec!["system:nodes".into()], ..User::default() };
    let as_node = |method: Method, url: &str, kind: &str, body: &Value| {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let mut request = bench.request(method, url, text.as_bytes(), &[("content-type", kind)]);
        request.user = Some(node.clone());
        request
    };
    let mirror = |name: &str, extra: Value| {
        let mut pod = pod(name);
        pod["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        pod["spec"]["nodeName"] = json!("n1");
        for (field, value) in extra.as_object().unwrap() {
            pod["spec"][field] = value.clone();
        }
        pod
    };
    for (case, spec) in [
        ("volume", json!({"volumes": [{"name": "v", "secret": {"secretName": "top"}}]})),
        (
            "projected",
            json!({"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "top"}}]}}]}),
        ),
        (
            "environment",
            json!({"containers": [{"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": "top"}}]}]}),
        ),
        ("pull secret", json!({"imagePullSecrets": [{"name": "top"}]})),
        ("configmap", json!({"volumes": [{"name": "v", "configMap": {"name": "top"}}]})),
        ("account", json!({"serviceAccountName": "builder"})),
    ] {
        let request = as_node(Method::POST, PODS, "application/json", &mirror("evil", spec));
        assert_eq!(bench.send(request).await.0, 403, "{case}");
    }
    let request = as_node(Method::GET, &format!("{secrets}/top"), "application/json", &Value::Null);
    assert_eq!(bench.send(request).await.0, 403);

    let request = as_node(Method::POST, PODS, "application/json", &mirror("own", json!({})));
    assert_eq!(bench.send(request).await.0, 201);
    bench.made("/api/v1/nodes", &json!({"metadata": {"name": "n1"}})).await;
    let (merge, own) = ("application/merge-patch+json", format!("{PODS}/own/status"));
    for (url, patch, want) in [
        (own.as_str(), json!({"status": {"phase": "Running"}}), 200),
        (own.as_str(), json!({"metadata": {"labels": {"app": "victim"}}}), 403),
        (own.as_str(), json!({"metadata": {"finalizers": ["a.b/c"]}}), 403),
        ("/api/v1/nodes/n1", json!({"metadata": {"labels": {"site": "a"}}}), 200),
        (
            "/api/v1/nodes/n1/status",
            json!({"metadata": {"labels": {"node-restriction.kubernetes.io/pci": "1"}}}),
            403,
        ),
        (
            "/api/v1/nodes/n1",
            json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}}),
            403,
        ),
        ("/api/v1/nodes/n1", json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}), 403),
    ] {
        let (got, answer) = bench.send(as_node(Method::PATCH, url, merge, &patch)).await;
        assert_eq!(got, want, "{url} {patch}: {answer}");
    }
    let (_, seen) = bench.get(&format!("{PODS}/own")).await;
    assert_eq!(seen["metadata"].get("labels"), None, "a refused write leaves nothing");
}
