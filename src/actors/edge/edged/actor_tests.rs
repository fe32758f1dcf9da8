//! Edged as an actor on the in-memory runtime, with MetaManager played by functions.

mod gate_tests;
mod start_tests;
mod static_pod_tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::Instant;

use super::*;
use crate::bus::identity::AuditFact;
use crate::bus::meta::{self, MetaError};
use crate::config::PodSeals;
use crate::cri::fake::{Behaviour, FakeRuntime};
use crate::identity::NodeCredentials;
use crate::model::identity::EdgeIdentitySpec;
use crate::supervise::{MAIN_THREAD, Running, Tree, TreeSettings};

const IMAGE: &str = "registry.local/hello:1";
const LONG: Duration = Duration::from_secs(3600);

/// What MetaManager holds and was told.
#[derive(Default)]
struct Meta {
    pods: BTreeMap<String, Value>,
    objects: BTreeMap<String, Value>,
    statuses: Vec<Value>,
    confirmed: Vec<String>,
    events: Vec<(String, String)>,
    nodes: Vec<Value>,
    patches: Vec<Value>,
    leases: u32,
    unavailable: bool,
}

struct Bench {
    meta: Arc<Mutex<Meta>>,
    runtime: FakeRuntime,
    dir: Arc<tempfile::TempDir>,
    changed: Link<PodChanged>,
    removed: Link<PodRemoved>,
    config: Link<ConfigChanged>,
    cloud: Link<CloudReachable>,
    running: Running,
    trusted: Trusted,
}

/// What the gate goes by, and what it wrote down. By default nobody seals and there is no policy.
#[derive(Clone)]
struct Trusted {
    identity: EdgeIdentityConfig,
    static_pods: PathBuf,
    credentials: watch::Sender<Option<Arc<NodeCredentials>>>,
    policies: watch::Sender<Option<Arc<EdgeIdentitySpec>>>,
    facts: Arc<Mutex<Vec<AuditFact>>>,
}

impl Trusted {
    fn new(pod_seals: PodSeals) -> Self {
        Self {
            identity: EdgeIdentityConfig { pod_seals, ..EdgeIdentityConfig::default() },
            static_pods: PathBuf::new(),
            credentials: watch::Sender::new(None),
            policies: watch::Sender::new(None),
            facts: Arc::default(),
        }
    }

    fn trust(&self) -> Trust {
        let facts = Arc::clone(&self.facts);
        Trust {
            credentials: self.credentials.subscribe(),
            policies: self.policies.subscribe(),
            audit: Link::from_fn(move |fact| facts.lock().push(fact)),
        }
    }
}

fn links(meta: &Arc<Mutex<Meta>>) -> MetaLinks {
    let with = || Arc::clone(meta);
    let (a, b, c, d, e, f, g, h) = (with(), with(), with(), with(), with(), with(), with(), with());
    MetaLinks {
        list_pods: Link::from_fn(move |_| match a.lock() {
            meta if meta.unavailable => Err(MetaError::Store("not open".to_owned())),
            meta => Ok(meta.pods.values().cloned().map(Arc::new).collect()),
        }),
        get_object: Link::from_fn(move |meta::GetObject(key)| {
            Ok(b.lock().objects.get(&key.to_string()).cloned().map(Arc::new))
        }),
        get_token: Link::from_fn(move |_| Ok(Arc::new(json!({"status": {"token": "t0ken"}})))),
        report_pod_status: Link::from_fn(move |report: meta::ReportPodStatus| {
            let mut meta = c.lock();
            if let Some(pod) = meta.pods.get_mut(&report.uid) {
                pod["status"] = report.status.clone();
            }
            meta.statuses.push(report.status);
            Ok(())
        }),
        confirm_pod_deleted: Link::from_fn(move |message: meta::ConfirmPodDeleted| {
            d.lock().confirmed.push(message.uid);
            Ok(())
        }),
        register_node: Link::from_fn(move |meta::RegisterNode(node)| {
            let mut node = serde_json::to_value(node).expect("json");
            node["metadata"]["uid"] = json!("node-uid");
            e.lock().nodes.push(node.clone());
            Ok(Arc::new(node))
        }),
        patch_node_status: Link::from_fn(move |message: meta::PatchNodeStatus| {
            f.lock().patches.push(message.patch);
            Ok(Arc::new(json!({"metadata": {"uid": "node-uid"}})))
        }),
        renew_lease: Link::from_fn(move |_| {
            g.lock().leases += 1;
            Ok(())
        }),
        report_event: Link::from_fn(move |meta::ReportEvent(event)| {
            let text = |field: Option<String>| field.unwrap_or_default();
            h.lock().events.push((text(event.reason), text(event.message)));
            Ok(())
        }),
    }
}

/// A running Edged. The clock follows tokio's, which is paused.
fn bench(
    meta: Arc<Mutex<Meta>>,
    runtime: FakeRuntime,
    dir: Arc<tempfile::TempDir>,
    trusted: Trusted,
) -> Bench {
    let mut config = EdgedConfig { root_directory: dir.path().join("kubelet"), ..EdgedConfig::default() };
    config.node_ip = "192.0.2.10".to_owned();
    config.tailored_kubelet_config.pod_logs_dir = dir.path().join("logs");
    config.tailored_kubelet_config.static_pod_path.clone_from(&trusted.static_pods);
    let (origin, start) = (Timestamp::from_second(1_800_000_000).expect("time"), Instant::now());
    let clock: Clock = Arc::new(move || backoff::after(origin, start.elapsed()));
    let settings = EdgedSettings {
        node: NodeName::parse("edge-1").expect("name"),
        config,
        identity: trusted.identity.clone(),
        kubernetes_service: None,
        workload_api: None,
        clock,
        update_every: Duration::from_secs(10),
        report_every: Duration::from_secs(300),
    };
    // Heartbeats off: a paused clock jumps.
    let settings_of_tree =
        TreeSettings { heartbeat_interval: LONG, heartbeat_timeout: LONG, ..TreeSettings::default() };
    let mut tree = Tree::new("bench", settings_of_tree);
    let slot = tree.slot::<Edged>(NAME, 64);
    let (changed, removed, config, cloud) = (slot.link(), slot.link(), slot.link(), slot.link());
    let (links, handle, shared) = (links(&meta), tree.handle(), Arc::new(runtime.clone()));
    let trust = trusted.trust();
    let build = move || Edged::new(settings, links, shared, handle, trust, EdgedMetrics::new());
    tree.add(slot, MAIN_THREAD, Policy::default(), build);
    let running = tree.start().expect("tree");
    Bench { meta, runtime, dir, changed, removed, config, cloud, running, trusted }
}

fn fresh() -> Bench {
    gated(Trusted::new(PodSeals::Off))
}

fn gated(trusted: Trusted) -> Bench {
    let runtime = FakeRuntime::new();
    runtime.add_image(IMAGE);
    bench(Arc::default(), runtime, Arc::new(tempfile::tempdir().expect("dir")), trusted)
}

fn pod(name: &str, with: Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {
            "nodeName": "edge-1",
            "containers": [{"name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent"}],
        },
    });
    json_patch::merge(&mut pod, &with);
    pod
}

/// Waits in paused time for at most `limit`; the clock moves by itself when nothing else does.
async fn until(what: &str, limit: Duration, condition: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    start.elapsed()
}

const SOON: Duration = Duration::from_secs(5);

impl Bench {
    fn apply(&self, pod: &Value) {
        let uid = pod["metadata"]["uid"].as_str().expect("uid").to_owned();
        self.meta.lock().pods.insert(uid, pod.clone());
        self.changed.tell(PodChanged(Arc::new(pod.clone()))).expect("told");
    }

    fn status(&self) -> Value {
        self.meta.lock().statuses.last().cloned().unwrap_or_default()
    }

    fn phase(&self) -> String {
        self.status()["phase"].as_str().unwrap_or_default().to_owned()
    }

    fn waiting(&self) -> String {
        self.status()["containerStatuses"][0]["state"]["waiting"]["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }

    fn event(&self, reason: &str) -> Option<String> {
        let meta = self.meta.lock();
        meta.events.iter().find(|(seen, _)| seen == reason).map(|(_, message)| message.clone())
    }

    /// The process goes and comes back: same store, runtime and disk.
    async fn restart(self) -> Bench {
        self.running.handle().shut_down();
        self.running.wait_for_end().await;
        bench(self.meta, self.runtime, self.dir, self.trusted)
    }
}

#[actix::test]
async fn a_pod_runs_and_says_so() {
    tokio::time::pause();
    let bench = fresh();
    bench.apply(&pod("web", json!({})));
    until("Running", SOON, || bench.phase() == "Running").await;
    let status = bench.status();
    let container = &status["containerStatuses"][0];
    assert_eq!((&container["ready"], &container["restartCount"]), (&json!(true), &json!(0)));
    assert!(container["containerID"].as_str().is_some_and(|id| id.starts_with("containerd://")));
    let conditions = status["conditions"].as_array().expect("conditions");
    assert!(conditions.iter().all(|c| c["status"] == "True"), "{conditions:?}");
    assert_eq!(status["hostIP"], "192.0.2.10");
    assert!(status["podIP"].as_str().is_some_and(|ip| ip.starts_with("10.")));
    for reason in ["Pulled", "Created", "Started"] {
        assert!(bench.event(reason).is_some(), "{reason}");
    }
    assert_eq!(bench.runtime.count("RunPodSandbox"), 1);
    assert_eq!(bench.runtime.count("ListContainers"), 1, "a start needs no list but the first one");
    // At rest nothing is reported and the runtime is left alone but for the resync.
    let reported = bench.meta.lock().statuses.len();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(bench.meta.lock().statuses.len(), reported);
    assert_eq!(bench.runtime.running().len(), 1);
}

#[actix::test]
async fn deletion_is_graceful_complete_and_confirmed_last() {
    tokio::time::pause();
    let bench = fresh();
    bench.runtime.script("main", [Behaviour { on_term: None, ..Behaviour::default() }]);
    let web = pod(
        "web",
        json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}], "terminationGracePeriodSeconds": 7}}),
    );
    bench.apply(&web);
    until("Running", SOON, || bench.phase() == "Running").await;
    let folder = bench.dir.path().join("kubelet/pods/uid-web");
    assert!(folder.is_dir());
    let mut gone = web.clone();
    gone["metadata"]["deletionGracePeriodSeconds"] = json!(7);
    gone["metadata"]["deletionTimestamp"] = json!("2027-01-15T08:05:00Z");
    bench.apply(&gone);
    let took = until("confirmed", Duration::from_secs(20), || !bench.meta.lock().confirmed.is_empty()).await;
    assert!(
        took >= Duration::from_secs(7),
        "SIGTERM is ignored: killed when the grace is over, not after {took:?}"
    );
    assert_eq!(bench.status()["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137);
    assert_eq!(bench.phase(), "Failed");
    assert!(bench.runtime.sandboxes().is_empty() && bench.runtime.containers().is_empty());
    assert!(!folder.exists() && !bench.dir.path().join("logs/default_web_uid-web").exists());
    assert_eq!(bench.event("Killing").as_deref(), Some("Stopping container main"));
    let removed = PodRemoved { namespace: "default".into(), name: "web".into(), uid: "uid-web".into() };
    bench.removed.tell(removed).expect("told");
    let workers = || bench.running.handle().snapshot();
    until("the worker is gone", SOON, || !format!("{:?}", workers()).contains("pod/default/web")).await;
}

#[actix::test]
async fn a_removed_pod_ends_silently() {
    tokio::time::pause();
    let bench = fresh();
    bench.apply(&pod("web", json!({})));
    until("Running", SOON, || bench.phase() == "Running").await;
    let reported = bench.meta.lock().statuses.len();
    bench.meta.lock().pods.clear();
    let removed = PodRemoved { namespace: "default".into(), name: "web".into(), uid: String::new() };
    bench.removed.tell(removed).expect("told");
    until("gone", SOON, || bench.runtime.sandboxes().is_empty()).await;
    assert_eq!(bench.meta.lock().statuses.len(), reported);
    assert!(bench.meta.lock().confirmed.is_empty());
}

#[actix::test]
async fn a_restarted_edge_adopts_what_runs() {
    tokio::time::pause();
    let mut bench = fresh();
    bench.apply(&pod("web", json!({})));
    until("Running", SOON, || bench.phase() == "Running").await;
    let before = bench.runtime.running()[0].status.id.clone();
    let reported = bench.meta.lock().statuses.len();
    bench = bench.restart().await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    let running = bench.runtime.running();
    assert_eq!((running.len(), &running[0].status.id), (1, &before), "same container, not started twice");
    assert_eq!(bench.runtime.count("RunPodSandbox"), 1);
    assert_eq!(bench.status()["containerStatuses"][0]["restartCount"], 0);
    assert!(bench.meta.lock().statuses.len() <= reported + 1);
}

#[actix::test]
async fn pods_come_back_after_a_reboot_with_no_cloud() {
    tokio::time::pause();
    let mut bench = fresh();
    bench.apply(&pod("web", json!({})));
    until("Running", SOON, || bench.phase() == "Running").await;
    bench.runtime.reboot();
    bench.meta.lock().unavailable = true;
    bench.runtime.set_down(true);
    bench = bench.restart().await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(bench.runtime.running().is_empty());
    bench.runtime.set_down(false);
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert!(
        bench.runtime.sandboxes().iter().all(|s| s.status.id == "sandbox-0001"),
        "nothing before the store answers"
    );
    bench.meta.lock().unavailable = false;
    until("runs again", Duration::from_secs(10), || bench.runtime.running().len() == 1).await;
    until("says so", SOON, || bench.status()["containerStatuses"][0]["restartCount"] == 1).await;
}

#[actix::test]
async fn a_crash_loop_backs_off() {
    tokio::time::pause();
    let bench = fresh();
    let crash = Behaviour { exits: Some((Duration::from_millis(100), 3)), ..Behaviour::default() };
    bench.runtime.script("main", [crash]);
    bench.apply(&pod("web", json!({})));
    let starts = || bench.runtime.count("StartContainer");
    until("first restart at once", Duration::from_secs(3), || starts() == 2).await;
    until("CrashLoopBackOff", SOON, || bench.waiting() == "CrashLoopBackOff").await;
    let message = bench.status()["containerStatuses"][0]["state"]["waiting"]["message"].clone();
    assert_eq!(message, "back-off 10s restarting failed container=main pod=web_default(uid-web)");
    assert_eq!(bench.status()["containerStatuses"][0]["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(bench.phase(), "Running");
    let third = until("third start", Duration::from_secs(30), || starts() == 3).await;
    assert!(third >= Duration::from_secs(8), "{third:?}");
    let fourth = until("fourth start", Duration::from_secs(60), || starts() == 4).await;
    assert!(fourth >= Duration::from_secs(19), "{fourth:?}");
    assert!(
        bench
            .event("BackOff")
            .is_some_and(|text| text.starts_with("Back-off restarting failed container main"))
    );
    assert!(bench.runtime.containers().len() <= 2, "dead containers are collected");
}

#[actix::test]
async fn a_killed_container_is_back_at_once() {
    tokio::time::pause();
    let bench = fresh();
    bench.apply(&pod("web", json!({})));
    until("Running", SOON, || bench.phase() == "Running").await;
    let id = bench.runtime.running()[0].status.id.clone();
    bench.runtime.exit(&id, 137, false);
    let took =
        until("back", SOON, || bench.runtime.running().first().is_some_and(|c| c.status.id != id)).await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    until("counted", SOON, || bench.status()["containerStatuses"][0]["restartCount"] == 1).await;
}

#[actix::test]
async fn configuration_arrives_late_and_changes_in_place() {
    tokio::time::pause();
    let bench = fresh();
    let spec = json!({"spec": {
        "volumes": [{"name": "cm", "configMap": {"name": "cm1"}}],
        "containers": [{
            "name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
            "volumeMounts": [{"name": "cm", "mountPath": "/cm"}],
        }],
    }});
    bench.apply(&pod("web", spec));
    until("FailedMount", SOON, || bench.event("FailedMount").is_some()).await;
    assert_eq!((bench.phase().as_str(), bench.waiting().as_str()), ("Pending", "ContainerCreating"));
    let put = |text: &str| {
        let object = json!({"metadata": {"name": "cm1", "namespace": "default"}, "data": {"greeting": text}});
        bench.meta.lock().objects.insert("default/configmap/cm1".to_owned(), object);
        let changed =
            ConfigChanged { kind: "configmap".into(), namespace: "default".into(), name: "cm1".into() };
        bench.config.tell(changed).expect("told");
    };
    put("hello");
    until("Running", SOON, || bench.phase() == "Running").await;
    let file = bench.dir.path().join("kubelet/pods/uid-web/volumes/kubernetes.io~configmap/cm/greeting");
    let content = || std::fs::read_to_string(&file).unwrap_or_default();
    assert_eq!(content(), "hello");
    put("changed");
    let took = until("updated", SOON, || content() == "changed").await;
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(bench.runtime.count("StartContainer"), 1, "without a restart");
}

#[actix::test]
async fn only_the_changed_container_is_replaced() {
    tokio::time::pause();
    let bench = fresh();
    let two = |image: &str| {
        json!({"spec": {"containers": [
            {"name": "main", "image": image, "imagePullPolicy": "IfNotPresent"},
            {"name": "side", "image": IMAGE, "imagePullPolicy": "IfNotPresent"},
        ]}})
    };
    bench.apply(&pod("web", two(IMAGE)));
    until("both run", SOON, || bench.runtime.running().len() == 2).await;
    let id = |name: &str| {
        let running = bench.runtime.running();
        let found = running.iter().find(|c| c.status.metadata.as_ref().is_some_and(|m| m.name == name));
        found.map(|c| c.status.id.clone()).unwrap_or_default()
    };
    let (main, side) = (id("main"), id("side"));
    bench.runtime.add_image("registry.local/hello:2");
    bench.apply(&pod("web", two("registry.local/hello:2")));
    until("replaced", SOON, || !id("main").is_empty() && id("main") != main).await;
    assert_eq!(id("side"), side);
    assert_eq!(bench.runtime.count("RunPodSandbox"), 1);
}

#[actix::test]
async fn a_finished_pod_stays_for_its_logs() {
    tokio::time::pause();
    let bench = fresh();
    let done = Behaviour { exits: Some((Duration::from_millis(50), 0)), ..Behaviour::default() };
    bench.runtime.script("main", [done]);
    bench.apply(&pod("job", json!({"spec": {"restartPolicy": "Never"}})));
    until("Succeeded", SOON, || bench.phase() == "Succeeded").await;
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(bench.runtime.count("StartContainer"), 1);
    assert_eq!(bench.runtime.containers().len(), 1);
    assert_eq!(bench.status()["containerStatuses"][0]["state"]["terminated"]["reason"], "Completed");
    let bench = bench.restart().await;
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert_eq!(bench.runtime.count("StartContainer"), 1, "not started again after a restart");
    assert_eq!(bench.phase(), "Succeeded");
}

#[actix::test]
async fn a_worker_or_edged_that_panics_looks_again() {
    tokio::time::pause();
    let bench = fresh();
    bench.apply(&pod("web", json!({})));
    until("Running", SOON, || bench.phase() == "Running").await;
    for name in ["pod/default/web", NAME, "node/edge-1"] {
        bench.running.handle().inject_panic(name).expect("known");
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(bench.runtime.running().len(), 1, "{name}");
        assert_eq!(bench.runtime.count("RunPodSandbox"), 1, "{name}");
    }
    let id = bench.runtime.running()[0].status.id.clone();
    bench.runtime.exit(&id, 1, false);
    until("still cared for", SOON, || bench.runtime.running().first().is_some_and(|c| c.status.id != id))
        .await;
}

#[actix::test]
async fn what_belongs_to_nobody_goes_late_and_what_is_not_ours_stays() {
    tokio::time::pause();
    let mut bench = fresh();
    bench.apply(&pod("web", json!({})));
    bench.apply(&pod("stays", json!({})));
    until("both run", SOON, || bench.runtime.running().len() == 2).await;
    let foreign = k8s_cri::v1::PodSandboxConfig {
        metadata: Some(k8s_cri::v1::PodSandboxMetadata { name: "other".into(), ..Default::default() }),
        ..Default::default()
    };
    bench.runtime.run_sandbox(foreign).await.expect("sandbox");
    bench.meta.lock().pods.remove("uid-web");
    bench = bench.restart().await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(bench.runtime.running().len(), 2, "not in haste");
    until("orphan gone", Duration::from_secs(60), || bench.runtime.running().len() == 1).await;
    until("sandboxes", SOON, || bench.runtime.sandboxes().len() == 2).await;
    bench.meta.lock().pods.clear();
    bench = bench.restart().await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(bench.runtime.running().len(), 1, "an empty store proves nothing");
}

#[actix::test]
async fn the_node_is_registered_leased_and_honest() {
    tokio::time::pause();
    let bench = fresh();
    until("registered", SOON, || !bench.meta.lock().nodes.is_empty()).await;
    until("leased", SOON, || bench.meta.lock().leases > 0).await;
    let ready = |patch: &Value| {
        let conditions = patch["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let ready = conditions.iter().find(|c| c["type"] == "Ready").cloned().unwrap_or_default();
        (
            ready["status"].as_str().unwrap_or_default().to_owned(),
            ready["message"].as_str().unwrap_or_default().to_owned(),
        )
    };
    let last = || bench.meta.lock().patches.last().map(ready).unwrap_or_default();
    assert_eq!(ready(&bench.meta.lock().nodes[0]).0, "True");
    bench.runtime.set_down(true);
    until("not ready", Duration::from_secs(30), || {
        last() == ("False".into(), "container runtime is down".into())
    })
    .await;
    bench.runtime.set_down(false);
    until("ready again", Duration::from_secs(30), || last().0 == "True").await;
    let nodes = bench.meta.lock().nodes.len();
    let leases = bench.meta.lock().leases;
    bench.cloud.tell(CloudReachable(true)).expect("told");
    let took = until("registered anew", SOON, || bench.meta.lock().nodes.len() > nodes).await;
    assert!(took < Duration::from_secs(1) && bench.meta.lock().leases > leases);
    let leases = bench.meta.lock().leases;
    tokio::time::sleep(Duration::from_secs(100)).await;
    assert_eq!(bench.meta.lock().leases - leases, 10, "each ten seconds");
}
