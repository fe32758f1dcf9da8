//! Creating, reading, changing: the rules every kind follows.

use super::*;

#[tokio::test]
async fn a_new_object_gets_what_the_server_sets() {
    let bench = Bench::new();
    let made = bench.made(MAPS, &configmap("a")).await;
    assert_eq!(made["metadata"]["namespace"], "default");
    assert_eq!(made["metadata"]["creationTimestamp"], "2027-01-15T08:00:00Z");
    assert_eq!(made["metadata"]["uid"].as_str().unwrap().len(), 36);
    let (code, got) = bench.get(&format!("{MAPS}/a")).await;
    assert_eq!((code, got), (200, made));
}

#[tokio::test]
async fn refusals_have_kubernetes_words() {
    let bench = Bench::new();
    bench.made(MAPS, &configmap("a")).await;
    let mut with_version = configmap("b");
    with_version["metadata"]["resourceVersion"] = "3".into();
    let mut elsewhere = configmap("b");
    elsewhere["metadata"]["namespace"] = "other".into();
    for (url, body, code, reason, message) in [
        (MAPS, configmap("a"), 409, "AlreadyExists", "configmaps \"a\" already exists"),
        (MAPS, with_version, 400, "BadRequest", "resourceVersion should not be set on objects to be created"),
        (MAPS, elsewhere, 400, "BadRequest", "the namespace of the provided object does not match"),
        (MAPS, pod("x"), 400, "BadRequest", "Pod in version \"v1\" cannot be handled as a ConfigMap"),
        (MAPS, json!({"metadata": {}}), 422, "Invalid", "name or generateName is required"),
        (MAPS, configmap("Bad_Name"), 422, "Invalid", "metadata.name: Invalid value: \"Bad_Name\""),
        (
            "/api/v1/namespaces/nowhere/configmaps",
            configmap("a"),
            404,
            "NotFound",
            "namespaces \"nowhere\" not found",
        ),
        ("/api/v1/configmaps", configmap("a"), 405, "MethodNotAllowed", "does not allow this method"),
        ("/api/v1/things", json!({}), 404, "NotFound", "could not find the requested resource"),
    ] {
        let (got, value) = bench.post(url, &body).await;
        assert_eq!((got, value["reason"].as_str().unwrap()), (code, reason), "{url} {body}");
        assert!(value["message"].as_str().unwrap().contains(message), "{value}");
        assert_eq!(value["kind"], "Status");
    }
    let (code, value) = bench.get(&format!("{MAPS}/zz")).await;
    assert_eq!((code, value["details"]["kind"].as_str()), (404, Some("configmaps")));
}

#[tokio::test]
async fn generated_names() {
    let bench = Bench::new();
    let body = json!({"metadata": {"generateName": "job-"}});
    let first = bench.made(MAPS, &body).await;
    let second = bench.made(MAPS, &body).await;
    let name = first["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("job-") && name.len() == 9, "{name}");
    assert_ne!(first["metadata"]["name"], second["metadata"]["name"]);
}

#[tokio::test]
async fn optimistic_locking() {
    let bench = Bench::new();
    let url = format!("{MAPS}/a");
    let mut mine = bench.made(MAPS, &configmap("a")).await;
    let mut other = mine.clone();
    other["data"]["a"] = "2".into();
    let (code, stored) = bench.put(&url, &other).await;
    assert_eq!(code, 200);
    assert_ne!(stored["metadata"]["resourceVersion"], mine["metadata"]["resourceVersion"]);
    mine["data"]["a"] = "3".into();
    let (code, refused) = bench.put(&url, &mine).await;
    assert_eq!(code, 409);
    assert_eq!(
        refused["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    // Without a version the last writer wins.
    mine["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(bench.put(&url, &mine).await.0, 200);
    // The uid holds in any case.
    mine["metadata"]["uid"] = "someone-else".into();
    assert_eq!(bench.put(&url, &mine).await.0, 409);
}

#[tokio::test]
async fn a_write_that_changes_nothing_is_none() {
    let bench = Bench::new();
    let made = bench.made(MAPS, &configmap("a")).await;
    let writes = bench.store.writes();
    let (_, same) = bench.put(&format!("{MAPS}/a"), &configmap("a")).await;
    let (_, patched) = bench.merge(&format!("{MAPS}/a"), &json!({"data": {"a": "1"}})).await;
    assert_eq!((&same, &patched), (&made, &made));
    assert_eq!(bench.store.writes(), writes);
}

#[tokio::test]
async fn dry_run_keeps_nothing() {
    let bench = Bench::new();
    let (code, _) = bench.post(&format!("{MAPS}?dryRun=All"), &configmap("a")).await;
    assert_eq!((code, bench.get(&format!("{MAPS}/a")).await.0), (201, 404));
    bench.made(MAPS, &configmap("a")).await;
    let (_, shown) = bench.merge(&format!("{MAPS}/a?dryRun=All"), &json!({"data": {"a": "9"}})).await;
    assert_eq!(shown["data"]["a"], "9");
    assert_eq!(bench.delete(&format!("{MAPS}/a"), &json!({"dryRun": ["All"]})).await.0, 200);
    assert_eq!(bench.get(&format!("{MAPS}/a")).await.1["data"]["a"], "1");
}

#[tokio::test]
async fn patches_of_three_kinds() {
    let bench = Bench::new();
    bench.made(PODS, &pod("p")).await;
    let url = format!("{PODS}/p");
    let (code, value) = bench
        .patch(
            &url,
            "strategic-merge-patch",
            &json!({"spec": {"containers": [{"name": "c", "image": "b:2"}]}}),
        )
        .await;
    assert_eq!((code, value["spec"]["containers"][0]["image"].as_str()), (200, Some("b:2")));
    assert_eq!(value["metadata"]["generation"], 2);
    let (code, value) = bench.merge(&url, &json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!((code, value["metadata"]["labels"]["x"].as_str()), (200, Some("y")));
    assert_eq!(value["metadata"]["generation"], 2);
    let ops = json!([{"op": "add", "path": "/metadata/labels/z", "value": "w"}]);
    let (code, value) = bench.patch(&url, "json-patch", &ops).await;
    assert_eq!((code, value["metadata"]["labels"]["z"].as_str()), (200, Some("w")));
    for (style, body, code) in [
        ("json-patch", json!([{"op": "test", "path": "/metadata/name", "value": "q"}]), 422),
        ("json-patch", json!({}), 400),
        ("merge-patch", json!([]), 400),
        ("merge-patch", json!({"metadata": {"resourceVersion": "1"}}), 409),
        ("merge-patch", json!({"metadata": {"name": "q"}}), 422),
        ("cool-patch", json!({}), 415),
    ] {
        assert_eq!(bench.patch(&url, style, &body).await.0, code, "{style} {body}");
    }
    let apply = [("content-type", "application/apply-patch+yaml")];
    let (code, value) = bench.send(bench.request(Method::PATCH, &url, b"a: 1", &apply)).await;
    assert_eq!(code, 415);
    assert!(value["message"].as_str().unwrap().contains("server-side apply"), "{value}");
}

#[tokio::test]
async fn unknown_fields() {
    let bench = Bench::new();
    let mut body = pod("p");
    body["spec"]["containers"][0]["imagee"] = "x".into();
    let (code, value) = bench.post(&format!("{PODS}?fieldValidation=Strict"), &body).await;
    assert_eq!(code, 400);
    let message = value["message"].as_str().unwrap();
    assert!(
        message.contains("strict decoding error: unknown field \"spec.containers[0].imagee\""),
        "{message}"
    );
    let request = bench.request(Method::POST, PODS, body.to_string().as_bytes(), &[]);
    let response = bench.core.call(request).await;
    assert_eq!(response.status, 201);
    let warning = response.headers.get("warning").unwrap().to_str().unwrap();
    assert_eq!(warning, "299 - \"unknown field \\\"spec.containers[0].imagee\\\"\"");
    let (_, stored) = bench.get(&format!("{PODS}/p")).await;
    assert!(stored["spec"]["containers"][0].get("imagee").is_none());
}

#[tokio::test]
async fn wrong_fields_are_named() {
    let bench = Bench::new();
    let mut body = pod("p");
    body["spec"]["containers"] = json!([]);
    let (code, value) = bench.post(PODS, &body).await;
    assert_eq!(code, 422);
    assert_eq!(value["details"]["causes"][0]["field"], "spec.containers");
    body["spec"]["containers"] = "many".into();
    let (code, value) = bench.post(PODS, &body).await;
    assert_eq!(code, 400);
    assert!(value["message"].as_str().unwrap().contains("spec.containers"), "{value}");
}

#[tokio::test]
async fn status_is_apart() {
    let bench = Bench::new();
    let mut body = pod("p");
    body["status"] = json!({"phase": "Running"});
    assert_eq!(bench.made(PODS, &body).await["status"]["phase"], "Pending");
    let url = format!("{PODS}/p");
    let both = json!({"status": {"phase": "Running"}, "metadata": {"labels": {"a": "b"}}});
    let (_, main) = bench.merge(&url, &both).await;
    assert_eq!(
        (main["status"]["phase"].as_str(), main["metadata"]["labels"]["a"].as_str()),
        (Some("Pending"), Some("b"))
    );
    let both = json!({"status": {"phase": "Running"}, "spec": {"nodeName": "n9"}});
    let (code, status) = bench.merge(&format!("{url}/status"), &both).await;
    assert_eq!((code, status["status"]["phase"].as_str()), (200, Some("Running")));
    assert!(status["spec"].get("nodeName").is_none());
    assert_eq!(status["metadata"]["generation"], 1);
}

#[tokio::test]
async fn selectors_limits_and_pages() {
    let bench = Bench::new();
    for index in 0..25 {
        let mut map = configmap(&format!("m{index:02}"));
        map["metadata"]["labels"] = json!({"parity": if index % 2 == 0 { "even" } else { "odd" }});
        bench.made(MAPS, &map).await;
    }
    let (_, odd) = bench.get(&format!("{MAPS}?labelSelector=parity%3Dodd")).await;
    assert_eq!(names(&odd).len(), 12);
    let (_, one) = bench.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dm03")).await;
    assert_eq!(names(&one), ["m03"]);
    let (code, value) = bench.get(&format!("{MAPS}?fieldSelector=spec.x%3D1")).await;
    assert_eq!(code, 400, "{value}");

    let (_, first) = bench.get(&format!("{MAPS}?limit=10")).await;
    assert_eq!(first["metadata"]["remainingItemCount"], 16);
    let token = first["metadata"]["continue"].as_str().unwrap();
    // What happens between two pages is not seen by the second.
    bench.delete(&format!("{MAPS}/m15"), &Value::Null).await;
    bench.made(MAPS, &configmap("m16-late")).await;
    let (_, second) = bench.get(&format!("{MAPS}?limit=100&continue={token}")).await;
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let mut all = names(&first);
    all.extend(names(&second));
    let mut want: Vec<String> = (0..25).map(|index| format!("m{index:02}")).collect();
    want.insert(0, "kube-root-ca.crt".into());
    assert_eq!(all, want);
    assert_eq!(bench.get(&format!("{MAPS}?continue=nonsense")).await.0, 400);

    let exact = first["metadata"]["resourceVersion"].as_str().unwrap();
    let (_, then) = bench.get(&format!("{MAPS}?resourceVersion={exact}&resourceVersionMatch=Exact")).await;
    assert_eq!(names(&then), want);
    let future = u64::MAX >> 1;
    assert_eq!(bench.get(&format!("{MAPS}?resourceVersion={future}")).await.0, 504);
}

#[tokio::test]
async fn tables_yaml_and_partial_objects() {
    let bench = Bench::new();
    bench.made(PODS, &pod("p")).await;
    let table = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")];
    let (_, value) = bench.send(bench.request(Method::GET, PODS, b"", &table)).await;
    assert_eq!((value["kind"].as_str(), value["rows"][0]["cells"][0].as_str()), (Some("Table"), Some("p")));
    assert_eq!(value["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let columns = value["columnDefinitions"].as_array().unwrap().len();
    assert_eq!(value["rows"][0]["cells"].as_array().unwrap().len(), columns);
    let partial = [("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")];
    let (_, value) = bench.send(bench.request(Method::GET, PODS, b"", &partial)).await;
    assert_eq!(value["kind"], "PartialObjectMetadataList");
    assert!(value["items"][0].get("spec").is_none());
    let yaml = [("accept", "application/yaml")];
    let response = bench.core.call(bench.request(Method::GET, &format!("{PODS}/p"), b"", &yaml)).await;
    let ApiBody::Full(bytes) = response.body else { panic!("a stream") };
    let value: Value = yaml_serde::from_slice(&bytes).unwrap();
    assert_eq!(value["metadata"]["name"], "p");
    let body = b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: y\n";
    let sent = [("content-type", "application/yaml")];
    assert_eq!(bench.send(bench.request(Method::POST, MAPS, body, &sent)).await.0, 201);
}

#[tokio::test]
async fn put_creates_leases_but_not_pods() {
    let bench = Bench::new();
    let url = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1";
    let lease =
        json!({"metadata": {"name": "n1"}, "spec": {"holderIdentity": "n1", "leaseDurationSeconds": 40}});
    assert_eq!(bench.put(url, &lease).await.0, 201);
    assert_eq!(bench.put(url, &lease).await.0, 200);
    assert_eq!(bench.put(&format!("{PODS}/p"), &pod("p")).await.0, 404);
}

#[tokio::test]
async fn custom_kinds_are_schemaless() {
    let bench = Bench::new();
    let url = "/apis/reliablesyncs.kubeedge.io/v1alpha1/namespaces/default/objectsyncs";
    let body = json!({"metadata": {"name": "n.1"}, "spec": {"objectName": "x", "any": {"thing": 1}}, "status": {"a": 1}});
    let made = bench.made(url, &body).await;
    assert_eq!((made["kind"].as_str(), made.get("status")), (Some("ObjectSync"), None));
    let (code, value) =
        bench.merge(&format!("{url}/n.1/status"), &json!({"status": {"objectResourceVersion": "7"}})).await;
    assert_eq!((code, value["status"]["objectResourceVersion"].as_str()), (200, Some("7")));
    assert_eq!(bench.patch(&format!("{url}/n.1"), "strategic-merge-patch", &json!({})).await.0, 415);
}

#[tokio::test]
async fn bodies_have_a_limit() {
    let bench = Bench::new();
    let big = vec![b' '; crate::apiserver::body::MAX_BODY_BYTES + 1];
    assert_eq!(bench.send(bench.request(Method::POST, MAPS, &big, &[])).await.0, 413);
    assert_eq!(
        bench
            .send(bench.request(
                Method::PATCH,
                &format!("{MAPS}/a"),
                &big,
                &[("content-type", "application/merge-patch+json")]
            ))
            .await
            .0,
        413
    );
}
