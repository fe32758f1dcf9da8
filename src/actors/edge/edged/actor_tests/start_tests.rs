//! What keeps a pod from starting, and what is asked of the runtime before it does.

use super::*;

#[actix::test]
async fn an_image_that_runs_as_root_does_not_start_where_root_is_forbidden() {
    tokio::time::pause();
    let bench = fresh();
    bench.apply(&pod("web", json!({"spec": {"securityContext": {"runAsNonRoot": true}}})));
    until("refused", SOON, || bench.waiting() == "CreateContainerConfigError").await;
    let message = bench.status()["containerStatuses"][0]["state"]["waiting"]["message"].clone();
    assert!(message.as_str().is_some_and(|text| text.contains("image will run as root")), "{message}");
    assert!(bench.runtime.containers().is_empty());
}

#[actix::test]
async fn a_missing_image_is_reported_and_retried() {
    tokio::time::pause();
    let bench = fresh();
    let image = "registry.local/none:1";
    bench.runtime.set_pull(image, Err("not found"));
    let spec = json!({"spec": {"containers": [{"name": "main", "image": image}]}});
    bench.apply(&pod("web", spec));
    until("ErrImagePull", SOON, || bench.waiting() == "ErrImagePull").await;
    until("ImagePullBackOff", SOON, || bench.waiting() == "ImagePullBackOff").await;
    assert_eq!(bench.phase(), "Pending");
    assert!(bench.event("Failed").is_some_and(|text| text.contains("Failed to pull image")));
    bench.runtime.set_pull(image, Ok(()));
    until("Running", Duration::from_secs(60), || bench.phase() == "Running").await;
    let never = json!({"spec": {"containers": [{"name": "main", "image": "registry.local/other:1", "imagePullPolicy": "Never"}]}});
    bench.apply(&pod("other", never));
    until("ErrImageNeverPull", SOON, || bench.waiting() == "ErrImageNeverPull").await;
}

#[actix::test]
async fn a_failed_sandbox_is_tried_again_and_leaves_nothing() {
    tokio::time::pause();
    let bench = fresh();
    bench.runtime.fail_run_sandbox_leaving("cni plugin not initialized");
    bench.apply(&pod("web", json!({})));
    until("Running", Duration::from_secs(20), || bench.phase() == "Running").await;
    let text = bench.event("FailedCreatePodSandBox").expect("event");
    assert!(text.contains("cni plugin not initialized"), "{text}");
    until("leftover removed", SOON, || bench.runtime.sandboxes().len() == 1).await;
}

#[actix::test]
async fn host_ports_are_given_once() {
    tokio::time::pause();
    let bench = fresh();
    let port = json!({"spec": {"containers": [{
        "name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
        "ports": [{"containerPort": 80, "hostPort": 8080}],
    }]}});
    let first = pod("first", port.clone());
    bench.apply(&first);
    until("Running", SOON, || bench.phase() == "Running").await;
    bench.apply(&pod("second", port.clone()));
    until("refused", SOON, || bench.phase() == "Failed").await;
    assert_eq!(bench.status()["reason"], "NodePorts");
    let mut ending = first.clone();
    ending["metadata"]["deletionTimestamp"] = json!("2027-01-15T08:05:00Z");
    ending["metadata"]["deletionGracePeriodSeconds"] = json!(30);
    bench.apply(&ending);
    bench.apply(&pod("third", port));
    until("the next one runs", Duration::from_secs(40), || {
        bench.runtime.running().len() == 1 && bench.phase() == "Running"
    })
    .await;
}

#[actix::test]
async fn pull_policies() {
    tokio::time::pause();
    for (image, policy, is_present, pulls) in [
        ("registry.local/app:1", Some("Always"), true, 1),
        ("registry.local/app:1", Some("IfNotPresent"), true, 0),
        ("registry.local/app:1", Some("IfNotPresent"), false, 1),
        ("registry.local/app:1", Some("Never"), true, 0),
        ("registry.local/app:1", None, true, 0),
        ("registry.local/app:latest", None, true, 1),
        ("registry.local/app", None, true, 1),
    ] {
        let bench = fresh();
        bench.runtime.set_pull(image, Ok(()));
        if is_present {
            bench.runtime.add_image(image);
        }
        let mut container = json!({"name": "main", "image": image});
        if let Some(policy) = policy {
            container["imagePullPolicy"] = policy.into();
        }
        bench.apply(&pod("web", json!({"spec": {"containers": [container]}})));
        until("Running", SOON, || bench.phase() == "Running").await;
        let case = format!("{image} {policy:?}, present: {is_present}");
        assert_eq!(bench.runtime.count("PullImage"), pulls, "{case}");
        bench.running.handle().shut_down();
        bench.running.wait_for_end().await;
    }
}
