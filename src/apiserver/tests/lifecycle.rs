//! How objects end: pods, finalizers, namespaces, events; and what a restart leaves.

use super::*;
use crate::apiserver::namespaces::DEFAULT_NAMESPACES;
use crate::apiserver::verbs::MAX_EVENTS;
use crate::store::{Batch, StoreError, Table};

async fn bind(bench: &Bench, pod: &str, node: &str) -> (u16, Value) {
    let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod}, "target": {"kind": "Node", "name": node}});
    bench.post(&format!("{PODS}/{pod}/binding"), &binding).await
}

#[tokio::test]
async fn pods_are_bound_once() {
    let bench = Bench::new();
    bench.made(PODS, &pod("p")).await;
    assert_eq!(bind(&bench, "p", "").await.0, 422);
    let (code, value) = bind(&bench, "p", "n1").await;
    assert_eq!((code, value["status"].as_str()), (201, Some("Success")));
    let (_, bound) = bench.get(&format!("{PODS}/p")).await;
    assert_eq!(bound["spec"]["nodeName"], "n1");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    let (code, value) = bind(&bench, "p", "n2").await;
    assert_eq!(code, 409);
    assert!(value["message"].as_str().unwrap().contains("already assigned to node \"n1\""), "{value}");
    assert_eq!(bind(&bench, "none", "n1").await.0, 404);
    let (_, list) = bench.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await;
    assert_eq!(names(&list), ["p"]);
}

#[tokio::test]
async fn a_running_pod_ends_when_its_node_says_so() {
    let bench = Bench::new();
    bench.made(PODS, &pod("p")).await;
    bind(&bench, "p", "n1").await;
    let url = format!("{PODS}/p");
    let (code, ending) = bench.delete(&url, &json!({"propagationPolicy": "Background"})).await;
    assert_eq!((code, ending["metadata"]["deletionGracePeriodSeconds"].as_i64()), (200, Some(30)));
    assert_eq!(ending["metadata"]["deletionTimestamp"], "2027-01-15T08:00:30Z");
    // Twice is once; shorter is shorter.
    assert_eq!(bench.delete(&url, &Value::Null).await.1, ending);
    let (_, sooner) = bench.delete(&url, &json!({"gracePeriodSeconds": 5})).await;
    assert_eq!(sooner["metadata"]["deletionGracePeriodSeconds"], 5);
    let uid = sooner["metadata"]["uid"].as_str().unwrap();
    let other = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": "another"}});
    assert_eq!(bench.delete(&url, &other).await.0, 409);
    let last = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
    assert_eq!(bench.delete(&url, &last).await.0, 200);
    assert_eq!(bench.get(&url).await.0, 404);
    assert_eq!(bench.delete(&url, &last).await.0, 404);
}

#[tokio::test]
async fn pods_that_nothing_runs_go_at_once() {
    let bench = Bench::new();
    bench.made(PODS, &pod("unbound")).await;
    bench.delete(&format!("{PODS}/unbound"), &Value::Null).await;
    assert_eq!(bench.get(&format!("{PODS}/unbound")).await.0, 404);
    bench.made(PODS, &pod("done")).await;
    bind(&bench, "done", "n1").await;
    bench.merge(&format!("{PODS}/done/status"), &json!({"status": {"phase": "Succeeded"}})).await;
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "done"}});
    assert_eq!(bench.post(&format!("{PODS}/done/eviction"), &eviction).await.0, 201);
    assert_eq!(bench.get(&format!("{PODS}/done")).await.0, 404);
}

#[tokio::test]
async fn finalizers_hold_an_object() {
    let bench = Bench::new();
    let mut body = configmap("a");
    body["metadata"]["finalizers"] = json!(["example.com/wait"]);
    bench.made(MAPS, &body).await;
    let url = format!("{MAPS}/a");
    let (code, ending) = bench.delete(&url, &Value::Null).await;
    assert_eq!((code, ending["kind"].as_str()), (200, Some("ConfigMap")));
    assert!(ending["metadata"]["deletionTimestamp"].is_string());
    let more = json!({"metadata": {"finalizers": ["example.com/wait", "example.com/more"]}});
    assert_eq!(bench.merge(&url, &more).await.0, 422);
    assert_eq!(bench.merge(&url, &json!({"metadata": {"finalizers": null}})).await.0, 200);
    assert_eq!(bench.get(&url).await.0, 404);
}

#[tokio::test]
async fn namespaces_come_furnished_and_go_with_their_content() {
    let bench = Bench::new();
    let spaces = "/api/v1/namespaces";
    let made = bench.made(spaces, &json!({"metadata": {"name": "team"}})).await;
    assert_eq!(
        (made["status"]["phase"].as_str(), made["spec"]["finalizers"][0].as_str()),
        (Some("Active"), Some("kubernetes"))
    );
    assert_eq!(bench.get(&format!("{spaces}/team/serviceaccounts/default")).await.0, 200);
    let (_, ca) = bench.get(&format!("{spaces}/team/configmaps/kube-root-ca.crt")).await;
    assert_eq!(ca["data"]["ca.crt"], "the ca");
    for index in 0..450 {
        bench.made(&format!("{spaces}/team/configmaps"), &configmap(&format!("m{index}"))).await;
    }
    let mut bound = pod("p");
    bound["spec"]["nodeName"] = "n1".into();
    bench.made(&format!("{spaces}/team/pods"), &bound).await;
    let (code, ending) = bench.delete(&format!("{spaces}/team"), &Value::Null).await;
    assert_eq!((code, ending["status"]["phase"].as_str()), (200, Some("Terminating")));
    let (_, left) = bench.get(&format!("{spaces}/team/configmaps")).await;
    assert_eq!(names(&left), Vec::<&str>::new());
    let (code, refused) = bench.post(&format!("{spaces}/team/configmaps"), &configmap("late")).await;
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        "configmaps \"late\" is forbidden: unable to create new content in namespace team because it is being terminated"
    );
    // The last pod takes the namespace with it.
    assert_eq!(bench.get(&format!("{spaces}/team")).await.0, 200);
    bench.delete(&format!("{spaces}/team/pods/p"), &json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(bench.get(&format!("{spaces}/team")).await.0, 404);
    assert_eq!(bench.delete(&format!("{spaces}/kube-system"), &Value::Null).await.0, 403);
}

#[tokio::test]
async fn an_interrupted_namespace_deletion_goes_on() {
    let mut bench = Bench::new();
    bench.made("/api/v1/namespaces", &json!({"metadata": {"name": "team"}})).await;
    bench.made("/api/v1/namespaces/team/configmaps", &configmap("a")).await;
    // The mark is stored, then the disk fails once: as if the program had died in between.
    let core = Arc::clone(&bench.core);
    core.write(false, |tx| {
        let kind = crate::apiserver::kinds::at(crate::apiserver::kinds::NAMESPACES);
        let found = tx.require(kind, "", "team")?;
        crate::apiserver::delete::delete(tx, kind, &found, &Default::default()).map(|_| ())
    })
    .await
    .unwrap();
    bench.restart();
    assert_eq!(bench.get("/api/v1/namespaces/team").await.1["status"]["phase"], "Terminating");
    bench.core.sweep().await.unwrap();
    assert_eq!(bench.get("/api/v1/namespaces/team").await.0, 404);
}

#[tokio::test]
async fn default_objects_come_back() {
    let bench = Bench::new();
    for name in DEFAULT_NAMESPACES {
        assert_eq!(bench.get(&format!("/api/v1/namespaces/{name}")).await.0, 200, "{name}");
    }
    let account = "/api/v1/namespaces/default/serviceaccounts/default";
    assert_eq!(bench.delete(account, &Value::Null).await.0, 200);
    let (code, value) = bench.post(PODS, &pod("p")).await;
    assert_eq!(code, 403);
    assert!(
        value["message"].as_str().unwrap().contains("error looking up service account default/default"),
        "{value}"
    );
    bench.core.sweep().await.unwrap();
    assert_eq!(bench.get(account).await.0, 200);
    assert_eq!(bench.made(PODS, &pod("p")).await["spec"]["serviceAccountName"], "default");
}

#[tokio::test]
async fn events_are_forgotten_after_an_hour() {
    let bench = Bench::new();
    let url = "/api/v1/namespaces/default/events";
    let event = |name: &str| {
        json!({
            "metadata": {"name": name}, "reason": "Started", "message": "m", "type": "Normal",
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p", "uid": "u"},
        })
    };
    bench.made(url, &event("old")).await;
    bench.made(url, &event("again")).await;
    bench.pass_secs(3000);
    bench.merge(&format!("{url}/again"), &json!({"count": 2})).await;
    bench.pass_secs(1000);
    bench.core.sweep().await.unwrap();
    let (_, list) =
        bench.get(&format!("{url}?fieldSelector=involvedObject.uid%3Du,involvedObject.name%3Dp")).await;
    assert_eq!(names(&list), ["again"]);
}

#[tokio::test]
async fn events_beyond_the_bound_go_oldest_first() {
    let bench = Bench::new();
    let url = "/api/v1/namespaces/default/events";
    let event = |n: usize| {
        json!({
            "metadata": {"name": format!("e{n:05}")}, "reason": "Started", "message": "m", "type": "Normal",
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p", "uid": "u"},
        })
    };
    for n in 0..MAX_EVENTS + 3 {
        bench.made(url, &event(n)).await;
    }
    // The very first was counted again: it is not the oldest any more.
    bench.merge(&format!("{url}/e00000"), &json!({"count": 2})).await;
    bench.core.sweep().await.unwrap();
    let (_, list) = bench.get(url).await;
    let left = names(&list);
    assert_eq!(left.len(), MAX_EVENTS);
    assert_eq!((left[0], left[1]), ("e00000", "e00004"));
}

#[tokio::test]
async fn collections_are_deleted_by_selector() {
    let bench = Bench::new();
    for name in ["a", "b"] {
        let mut map = configmap(name);
        map["metadata"]["labels"] = json!({"name": name});
        bench.made(MAPS, &map).await;
    }
    let (code, _) = bench.delete(&format!("{MAPS}?labelSelector=name%3Da"), &Value::Null).await;
    assert_eq!(code, 200);
    assert_eq!(names(&bench.get(MAPS).await.1), ["b", "kube-root-ca.crt"]);
    assert_eq!(bench.delete("/api/v1/configmaps", &Value::Null).await.0, 405);
}

#[tokio::test]
async fn a_closed_core_has_let_go_of_its_store() {
    let bench = Bench::new();
    let map = configmap("a");
    let (made, ()) = tokio::join!(bench.made(MAPS, &map), async {
        tokio::task::yield_now().await;
        bench.core.close();
    });
    assert_eq!(bench.get(&format!("{MAPS}/a")).await.1, made, "what was staged is stored");
    assert_eq!(bench.post(MAPS, &configmap("b")).await.0, 503);
    assert_eq!(std::sync::Arc::strong_count(&bench.store), 1);
    bench.core.close();
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_kill() {
    let mut bench = Bench::new();
    let made = bench.made(MAPS, &configmap("a")).await;
    bench.made(MAPS, &configmap("b")).await;
    bench.delete(&format!("{MAPS}/b"), &Value::Null).await;
    let (_, before) = bench.get(MAPS).await;
    bench.restart();
    let (_, after) = bench.get(MAPS).await;
    assert_eq!(after, before, "and the version does not go back");
    assert_eq!(bench.get(&format!("{MAPS}/a")).await.1, made);
    let version = before["metadata"]["resourceVersion"].as_str().unwrap();
    let next = bench.made(MAPS, &configmap("c")).await;
    let newer: u64 = next["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    assert!(newer > version.parse().unwrap());
}

/// The next write would not know which version to give.
#[test]
fn a_version_that_cannot_be_counted_on_from_is_damage() {
    let object = r#"{"metadata":{"name":"n","resourceVersion":"18446744073709551615"}}"#;
    for (table, key, value) in [
        (Table::Local, "api/version", "18446744073709551615"),
        (Table::Local, "api/version", "many"),
        (Table::Objects, "api/o/nodes//n", object),
    ] {
        let (store, dir) = (Arc::new(MemoryStore::new()), tempfile::tempdir().unwrap());
        store.write(&[Batch::new().put(table, key, value)]).unwrap();
        let keys = Arc::new(ServiceAccountKeys::load_or_create(&dir.path().join("sa.key")).unwrap());
        let clock = Arc::new(Timestamp::now);
        let started = ApiCore::start(ApiSettings { store, keys, ca_pem: String::new(), clock });
        assert!(matches!(started, Err(StoreError::Damaged { .. })), "{key} {value}");
    }
}
