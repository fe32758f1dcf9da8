//! Every kind of the table through every verb, and both forms of discovery.

use super::*;
use crate::apiserver::kinds::{KINDS, Kind, Nature};

const AGGREGATED: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

fn stored() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(|kind| kind.nature == Nature::Stored)
}

fn root(kind: &Kind) -> String {
    match kind.group {
        "" => format!("/api/{}", kind.version),
        group => format!("/apis/{group}/{}", kind.version),
    }
}

fn collection(kind: &Kind) -> String {
    let space = if kind.namespaced { "/namespaces/default" } else { "" };
    format!("{}{space}/{}", root(kind), kind.plural)
}

fn sample(kind: &Kind, name: &str) -> Value {
    let mut object = json!({"apiVersion": kind.api_version(), "kind": kind.kind,
        "metadata": {"name": name, "labels": {"made": name}}});
    match kind.kind {
        "Pod" => object["spec"] = pod(name)["spec"].clone(),
        "Event" => object["involvedObject"] = json!({"kind": "Pod", "namespace": "default", "name": "p"}),
        "Device" => object["spec"] = json!({"nodeName": "n1", "properties": [{"name": "power"}]}),
        "DeviceModel" => object["spec"] = json!({"properties": [{"name": "power", "type": "BOOLEAN"}]}),
        "WorkloadIdentity" => {
            object["spec"] = json!({"path": "/ns/default/x", "selectors": {"serviceAccount": "default"}});
        }
        "ImagePolicy" => object["spec"] = json!({"allow": []}),
        "TopicPolicy" => object["spec"] = json!({"subjects": ["spiffe://kubeedge.local/ns/default/*"]}),
        "Role" | "ClusterRole" => {
            object["rules"] = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
        }
        "RoleBinding" | "ClusterRoleBinding" => {
            object["roleRef"] =
                json!({"apiGroup": crate::kube::rbac::GROUP, "kind": "ClusterRole", "name": "view"});
            object["subjects"] =
                json!([{"kind": "User", "apiGroup": crate::kube::rbac::GROUP, "name": "ann"}]);
        }
        "DeviceStatus" => object["status"] = json!({"twins": [{"propertyName": "power"}]}),
        _ => {}
    }
    object
}

fn labels(value: Value) -> Value {
    json!({"metadata": {"labels": value}})
}

#[tokio::test]
async fn all_kinds_do_all_verbs() {
    let bench = Bench::new();
    for kind in stored() {
        let (url, what) = (collection(kind), kind.kind);
        let one = format!("{url}/one");
        let made = bench.made(&url, &sample(kind, "one")).await;
        assert_eq!(
            (made["kind"].as_str(), made["apiVersion"].as_str()),
            (Some(what), Some(&*kind.api_version()))
        );
        for field in ["uid", "creationTimestamp", "resourceVersion"] {
            assert!(made["metadata"][field].is_string(), "{what}: no {field} in {made}");
        }
        assert_eq!(bench.post(&url, &sample(kind, "one")).await.0, 409, "{what}: created twice");
        assert_eq!(bench.post(&format!("{url}?dryRun=All"), &sample(kind, "two")).await.0, 201, "{what}");
        assert_eq!(bench.get(&format!("{url}/two")).await.0, 404, "{what}: kept by a dry run");
        assert_eq!(bench.get(&one).await, (200, made.clone()));

        let (_, list) =
            bench.get(&format!("{url}?labelSelector=made%3Done&fieldSelector=metadata.name%3Done")).await;
        assert_eq!((names(&list), list["kind"].as_str()), (vec!["one"], Some(&*format!("{what}List"))));
        let version = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();

        let mut changed = made.clone();
        changed["metadata"]["labels"]["put"] = "1".into();
        assert_eq!(bench.put(&one, &changed).await.0, 200, "{what}");
        changed["metadata"]["labels"]["put"] = "2".into();
        assert_eq!(bench.put(&one, &changed).await.0, 409, "{what}: an old version was put");
        let ops = json!([{"op": "add", "path": "/metadata/labels/json", "value": "1"}]);
        // Kinds without Go types of their own have no merge keys (as custom resources in Kubernetes).
        let strategic = if kind.group.ends_with("kubeedge.io") { 415 } else { 200 };
        for (style, patch, want) in [
            ("merge-patch", labels(json!({"merge": "1"})), 200),
            ("json-patch", ops, 200),
            ("strategic-merge-patch", labels(json!({"strategic": "1"})), strategic),
        ] {
            assert_eq!(bench.patch(&one, style, &patch).await.0, want, "{what}: {style}");
        }
        let mut generated = sample(kind, "x");
        generated["metadata"] = json!({"generateName": "gen-", "labels": {"made": "gen"}});
        let generated = bench.made(&url, &generated).await;
        let name = generated["metadata"]["name"].as_str().unwrap().to_owned();
        assert!(name.starts_with("gen-") && name.len() > 4, "{what}: {name}");

        let accept = [("accept", TABLE)];
        let (_, table) = bench.send(bench.request(Method::GET, &one, b"", &accept)).await;
        let columns = table["columnDefinitions"].as_array().unwrap().len();
        assert_eq!(table["rows"][0]["cells"].as_array().map(Vec::len), Some(columns), "{what}: {table}");
        assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "one", "{what}");

        let (_, page) = bench.get(&format!("{url}?limit=1")).await;
        let next = page["metadata"]["continue"].as_str().unwrap_or_else(|| panic!("{what}: {page}"));
        let (_, rest) = bench.get(&format!("{url}?continue={next}")).await;
        let both = [names(&page), names(&rest)].concat();
        assert!(both.contains(&"one") && both.contains(&name.as_str()), "{what}: {both:?}");

        if what != "Namespace" {
            // They end by themselves only when they are empty.
            bench.merge(&one, &json!({"metadata": {"finalizers": ["example.com/wait"]}})).await;
            bench.delete(&one, &json!({"gracePeriodSeconds": 0})).await;
            let (_, ending) = bench.get(&one).await;
            assert!(ending["metadata"]["deletionTimestamp"].is_string(), "{what}: {ending}");
            bench.merge(&one, &json!({"metadata": {"finalizers": null}})).await;
        } else {
            bench.delete(&one, &Value::Null).await;
        }
        assert_eq!(bench.get(&one).await.0, 404, "{what} was not deleted");
        // Namespaces are deleted one by one.
        let (want, left) = if what == "Namespace" { (405, 200) } else { (200, 404) };
        let (code, _) = bench.delete(&format!("{url}?labelSelector=made%3Dgen"), &Value::Null).await;
        let after = bench.get(&format!("{url}/{name}")).await.0;
        assert_eq!((code, after), (want, left), "{what}: deletecollection");

        let watch =
            format!("{url}?watch=true&resourceVersion={version}&timeoutSeconds=60&labelSelector=made%3Done");
        let mut watch = bench.watch(&watch).await;
        let mut seen: Vec<String> = Vec::new();
        while seen.last().is_none_or(|word| word != "DELETED") {
            let event = watch.next().await.unwrap_or_else(|| panic!("{what}: {seen:?}"));
            assert_eq!(event["object"]["kind"], what);
            seen.push(event["type"].as_str().unwrap().to_owned());
        }
        assert!(
            seen.len() > 3 && seen[..seen.len() - 1].iter().all(|word| word == "MODIFIED"),
            "{what}: {seen:?}"
        );
    }
}

#[tokio::test]
async fn all_kinds_are_discovered_in_both_forms() {
    let bench = Bench::new();
    let aggregated =
        |url: &'static str| bench.send(bench.request(Method::GET, url, b"", &[("accept", AGGREGATED)]));
    let (core, named) = (aggregated("/api").await.1, aggregated("/apis").await.1);
    let (_, groups) = bench.get("/apis").await;
    for kind in stored() {
        let what = kind.kind;
        let mut verbs =
            vec!["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
        verbs.retain(|verb| *verb != "deletecollection" || what != "Namespace");
        let verbs = json!(verbs);
        let (_, legacy) = bench.get(&root(kind)).await;
        let entry = legacy["resources"].as_array().unwrap().iter().find(|it| it["name"] == kind.plural);
        let entry = entry.unwrap_or_else(|| panic!("{what} is not in {legacy}"));
        assert_eq!((&entry["kind"], &entry["verbs"]), (&json!(what), &verbs));
        assert_eq!(entry["namespaced"], kind.namespaced, "{what}");

        let all = if kind.group.is_empty() { &core } else { &named };
        let mut groups_found = all["items"].as_array().unwrap().iter();
        let group = groups_found.find(|it| it["metadata"]["name"].as_str().unwrap_or_default() == kind.group);
        let resources =
            &group.unwrap_or_else(|| panic!("{what}: no group in {all}"))["versions"][0]["resources"];
        let entry = resources.as_array().unwrap().iter().find(|it| it["resource"] == kind.plural);
        let entry = entry.unwrap_or_else(|| panic!("{what} is not in {resources}"));
        assert_eq!((&entry["responseKind"]["kind"], &entry["verbs"]), (&json!(what), &verbs));
        let listed = groups["groups"].as_array().unwrap().iter().any(|it| it["name"] == kind.group);
        assert_eq!(listed, !kind.group.is_empty(), "{what}");
    }
}
