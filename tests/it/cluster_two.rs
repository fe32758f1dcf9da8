//! Several cloudcores on one cluster: nodes move between them, and nothing is lost, doubled or fought over.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use kubeedge::model::{Body, Envelope, Resource};
use parking_lot::Mutex;
use serde_json::json;

use super::device_controller::{DEVICE, Edge as HandEdge};
use super::harness::api_proxy::{ApiProxy, Request};
use super::harness::cluster::{Cloud, Edge, Kubectl, PATIENT, actors};
use super::harness::containerd::Containerd;
use super::harness::process::{PATIENCE, http, until};
use super::kubernetes_manifests::{Beside, cluster, proxy};
use super::main_job::sleeper;

/// A load balancer: every connection goes to the port it has now.
struct Balancer {
    port: u16,
    target: Arc<AtomicU16>,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Balancer {
    fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (target, open) = (Arc::new(AtomicU16::new(target)), Arc::new(Mutex::new(Vec::new())));
        let (to, kept) = (Arc::clone(&target), Arc::clone(&open));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to.load(Ordering::SeqCst))) else {
                    continue;
                };
                kept.lock().extend([client.try_clone().unwrap(), server.try_clone().unwrap()]);
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        std::io::copy(&mut from, &mut to).ok();
                        to.shutdown(Shutdown::Both).ok();
                    });
                }
            }
        });
        Self { port, target, open }
    }

    fn switch(&self, target: u16) {
        self.target.store(target, Ordering::SeqCst);
        for socket in self.open.lock().drain(..) {
            socket.shutdown(Shutdown::Both).ok();
        }
    }
}

/// Several, with the same root and the same key of join tokens. What they ask the cluster goes through the proxy.
fn several(cluster: &Cloud, proxy: Option<&ApiProxy>, dir: &Path, names: &[&str]) -> Vec<Beside> {
    let mut all: Vec<Beside> = Vec::new();
    for name in names {
        let own = dir.join(name);
        fs::create_dir_all(own.join("ca")).unwrap();
        if let Some(first) = all.first() {
            let key = "ca/join-token.key";
            fs::copy(first.cloud.dir.join(key), own.join(key)).unwrap();
        }
        all.push(match proxy {
            Some(proxy) => Beside::behind(cluster, proxy, &own, &[PATIENT]),
            None => Beside::start(cluster, &own, &[PATIENT]),
        });
    }
    all
}

const WORDS: &str =
    "apiVersion: v1\nkind: ConfigMap\nmetadata: { name: words }\ndata: { word: 'WORD' }\n---\n";
const VOLUMES: &str = "    volumeMounts: [{ name: words, mountPath: /words }]
  volumes:
  - { name: words, configMap: { name: words } }
";

/// Panics when a pod of the watch went back: `name phase` a line.
fn never_back(watch: &str) {
    let rank = |phase: &str| match phase {
        "Pending" => 0,
        "Running" => 1,
        "Succeeded" | "Failed" => 2,
        other => panic!("phase {other:?}"),
    };
    let mut last = BTreeMap::new();
    for line in watch.lines() {
        let mut words = line.split_whitespace();
        let (Some(pod), Some(phase)) = (words.next(), words.next()) else { continue };
        if line.starts_with("No resources") {
            continue; // there was none yet
        }
        let before = last.insert(pod, rank(phase)).unwrap_or(0);
        assert!(before <= rank(phase), "{pod} went back to {phase}\n{watch}");
    }
    assert!(!last.is_empty(), "the watch saw nothing");
}

/// What cloudcore runs where it is the cluster itself. A real one has its own.
const OF_A_CLUSTER: [&str; 3] = ["ApiServer", "Scheduler", "NodeMonitor"];

/// Those of [`OF_A_CLUSTER`] that run in this program.
fn duties(monitor: &str) -> Vec<&'static str> {
    let tree = actors(monitor);
    let rows = tree["actors"].as_array().unwrap_or_else(|| panic!("no actors in {tree}"));
    let runs = |name: &str| rows.iter().any(|row| row["name"] == name);
    assert!(runs("EdgeController"), "{tree}");
    OF_A_CLUSTER.into_iter().filter(|name| runs(name)).collect()
}

/// What was written how often: `PATCH nodes/status`.
fn writes(log: &[Request]) -> BTreeMap<String, usize> {
    let mut all: BTreeMap<String, usize> = BTreeMap::new();
    for request in log.iter().filter(|request| request.method != "GET") {
        let parts: Vec<&str> = request.path.split('/').skip(1).collect();
        let rest = match parts[..] {
            ["api", _, "namespaces", _, _, ..] => &parts[4..],
            ["api", _, ..] => &parts[2..],
            ["apis", _, _, "namespaces", _, _, ..] => &parts[5..],
            ["apis", _, _, ..] => &parts[3..],
            _ => panic!("not a resource: {request:?}"),
        };
        let resource = rest.first().copied().unwrap_or_default();
        let part = rest.get(2).map(|part| format!("/{part}")).unwrap_or_default();
        *all.entry(format!("{} {resource}{part}", request.method)).or_default() += 1;
    }
    all
}

const IDLE: Duration = Duration::from_secs(30);
/// All that is written while nothing happens: a node is there (its lease, every ten seconds), is well, and tells.
const ALLOWED: [&str; 5] = ["PUT leases", "PATCH nodes/status", "POST events", "PUT events", "PATCH events"];
/// Of each, in that time. Two that write against each other do it at once, again and again.
const MOST: usize = 10;

/// Waits for half a minute in which the cloudcores write nothing but [`ALLOWED`]: what happened before may still be
/// written down at first, but whoever fights never stops.
fn keep_still(proxy: &ApiProxy) {
    until("nothing is written but what is allowed", PATIENCE * 2, || {
        let (from, since) = (proxy.log().len(), Instant::now());
        until("half a minute went by", PATIENCE, || {
            if since.elapsed() < IDLE { Err("not yet".to_owned()) } else { Ok(()) }
        });
        let seen = writes(&proxy.log()[from..]);
        println!("idle for {:?}: {seen:?}", since.elapsed());
        let fine = seen.iter().all(|(what, times)| ALLOWED.contains(&what.as_str()) && *times <= MOST);
        // The node lives, and what it says comes by here.
        if fine && seen.contains_key("PUT leases") { Ok(()) } else { Err(format!("{seen:?}")) }
    });
}

#[test]
fn a_node_moves_between_two_cloudcores_while_everything_changes() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Containerd::start();
    let cluster = cluster(&dir.path().join("cluster"));
    let kubectl = cluster.kubectl();
    let proxy = proxy(&cluster);
    let mut clouds = several(&cluster, Some(&proxy), dir.path(), &["one", "two"]);
    let ports: Vec<(u16, u16)> = clouds.iter().map(|it| (it.cloud.hub_port, it.cloud.join_port)).collect();
    let (hub, join) = (Balancer::to(ports[0].0), Balancer::to(ports[0].1));
    (clouds[0].cloud.hub_port, clouds[0].cloud.join_port) = (hub.port, join.port);
    let edge = Edge::join(&clouds[0].cloud, &dir.path().join("e"), "edge-1", runtime.socket(), &[]);
    let watch =
        ["get", "pods", "-w", "--no-headers", "-o", "custom-columns=N:.metadata.name,P:.status.phase"];
    let watch = kubectl.spawn(&watch, "phases");
    kubectl.apply(&format!("{}{}", WORDS.replace("WORD", "0"), sleeper("base", VOLUMES)));
    kubectl.wait_running("base");
    let container = || {
        let path =
            "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
        kubectl.run(&["get", "pod", "base", "-o", path])
    };
    let before = container();

    for round in 1..=4_usize {
        let side = round % 2;
        let apply = |part: &str| {
            let pod = sleeper(&format!("{part}{round}"), "");
            kubectl.apply(&format!("{}{pod}", WORDS.replace("WORD", &format!("{part}{round}"))));
        };
        // Changes on both sides of the move.
        apply("a");
        if round > 1 {
            kubectl.run(&["delete", "pod", &format!("b{}", round - 1), "--wait=false"]);
        }
        if round == 3 {
            clouds[0].cloud.process.kill9();
        }
        hub.switch(ports[side].0);
        join.switch(ports[side].1);
        apply("b");
        if round == 3 {
            clouds[0].kill_is_over();
        }
        for pod in [format!("a{round}"), format!("b{round}")] {
            kubectl.wait_running(&pod);
        }
        let there = &clouds[side];
        until("the node is where the balancer sends it", PATIENCE, || {
            if there.connected() { Ok(()) } else { Err("not yet".to_owned()) }
        });
        until("the volume has the last word", PATIENCE, || {
            let is = runtime.try_exec("base", "main", &["cat", "/words/word"])?;
            if is == format!("b{round}") { Ok(()) } else { Err(is) }
        });
        if round > 1 {
            kubectl.wait_gone(&format!("pod/b{}", round - 1));
        }
        kubectl.run(&["delete", "pod", &format!("a{round}"), "--wait=false"]);
        kubectl.wait_gone(&format!("pod/a{round}"));
    }
    assert_eq!(container(), before, "the first pod ran all the time");
    assert_eq!(runtime.running("base", None).len(), 1);
    kubectl.wait_node("edge-1", "True");
    never_back(&watch.log());
    settled(&kubectl);
    keep_still(&proxy);
    // The pods name no node: the cluster bound them, nobody else.
    assert_eq!(writes(&proxy.log()).get("POST pods/binding"), None);
    assert_eq!(duties(&cluster.monitor), OF_A_CLUSTER, "these are their names");
    for beside in &clouds {
        assert_eq!(duties(&beside.cloud.monitor), [""; 0], "a cluster does this itself");
        assert_eq!(beside.refusals(), Vec::<String>::new());
        let (status, text) = http("GET", &beside.cloud.monitor, "/readyz", &[]).unwrap();
        assert_eq!(status, 200, "{text}");
    }
    drop(edge);
}

impl Beside {
    /// Starts it again after a `kill -9`, as a cluster does with a pod.
    fn kill_is_over(&mut self) {
        let setting = format!("kubeAPIConfig.kubeConfig={}", self.kubeconfig.display());
        self.cloud.restart(&[setting.as_str(), PATIENT]);
    }
}

/// Nobody writes what several write: their versions stand still.
fn settled(kubectl: &Kubectl) {
    let versions = || {
        let path = "jsonpath={range .items[*]}{.metadata.name} {.metadata.resourceVersion}{'\\n'}{end}";
        kubectl.run(&["get", "configmaps", "-n", "kubeedge", "-o", path])
    };
    let mut last = String::new();
    let mut same = 0;
    until("the ConfigMaps of kubeedge stand still", PATIENCE, || {
        let now = versions();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        if same >= 12 { Ok(()) } else { Err(last.clone()) }
    });
}

#[test]
fn two_hundred_pods_reach_nodes_that_change_their_cloudcore_at_random() {
    const NODES: usize = 4;
    const PODS: usize = 50;
    const VISITS: usize = 8;
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(&dir.path().join("cluster"));
    let kubectl = cluster.kubectl();
    let clouds = several(&cluster, None, dir.path(), &["one", "two", "three"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pods: String = (0..NODES * PODS)
        .map(|pod| {
            format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{ name: p{pod} }}\nspec:\n  nodeName: go-{}\n  containers: \
                 [{{ name: main, image: 'registry.local/hello:1' }}]\n---\n",
                pod % NODES
            )
        })
        .collect();
    let maker = std::thread::spawn({
        let kubectl = cluster.kubectl();
        move || kubectl.apply(&pods)
    });
    let mut random = fastrand::Rng::with_seed(4925);
    let mut edges: Vec<(String, Pods)> =
        (0..NODES).map(|node| (format!("go-{node}"), Pods::default())).collect();
    runtime.block_on(async {
        // A few messages with some cloudcore, then another one; with the last one until nothing is missing.
        for visit in 1..=VISITS {
            for (name, pods) in &mut edges {
                let at = random.usize(..clouds.len());
                let stay = async {
                    let mut edge = HandEdge::connect(&clouds[at].cloud, name, "").await;
                    register(&mut edge, name).await;
                    pods.report_again(&mut edge).await;
                    let enough = PODS * visit / (VISITS + 2);
                    while if visit < VISITS { pods.held.len() < enough } else { pods.confirmed.len() < PODS }
                    {
                        let heard = edge.next().await.expect("the session lives");
                        pods.hear(&mut edge, &heard).await;
                    }
                };
                let stayed = tokio::time::timeout(PATIENCE, stay).await.is_ok();
                assert!(stayed, "{name} with cloudcore {at} in visit {visit}: {} pods", pods.held.len());
            }
        }
    });
    maker.join().unwrap();
    until("none is Pending", PATIENCE, || {
        let phases = kubectl.run(&["get", "pods", "-o", "jsonpath={.items[*].status.phase}"]);
        let waiting = phases.split(' ').filter(|phase| *phase != "Running").count();
        if waiting == 0 { Ok(()) } else { Err(format!("{waiting} of {}", NODES * PODS)) }
    });
    // Several cloudcores write what a node has, but one record for a pod. Not all have one: a session that ends takes
    // with it what was not written down yet, and the next one sends that pod once more.
    let records = kubectl.run(&["get", "objectsyncs", "-o", "jsonpath={.items[*].spec.objectName}"]);
    let names: Vec<&str> = records.split(' ').filter(|name| name.starts_with('p')).collect();
    assert!(!names.is_empty(), "{records}");
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "one each");
}

async fn register(edge: &mut HandEdge, name: &str) {
    let node =
        json!({"metadata": {"name": name, "labels": {"node-role.kubernetes.io/edge": ""}}, "spec": {}});
    let resource = Resource::parse(&format!("null/node/{name}"));
    edge.say(&Envelope::new("edged", "meta", "insert", resource, Body::Object(node), 1)).await;
}

/// The pods of an edge of KubeEdge.
#[derive(Default)]
struct Pods {
    /// Their uids by name.
    held: BTreeMap<String, String>,
    /// The cluster knows that they run.
    confirmed: BTreeSet<String>,
}

impl Pods {
    async fn hear(&mut self, edge: &mut HandEdge, message: &Envelope) {
        let Some(key) = message.route.resource.object() else { return };
        let pod = key.name().to_owned();
        match (key.kind.as_str(), message.route.operation.as_str(), &message.body) {
            ("pod", "insert" | "update", body) => {
                let uid = body.meta("uid").unwrap_or_default().to_owned();
                run(edge, &pod, &uid).await;
                self.held.insert(pod, uid);
            }
            ("podpatch", "response", Body::ObjectResp(answer)) if answer.object.is_some() => {
                self.confirmed.insert(pod);
            }
            _ => {}
        }
    }

    /// What was said over the last session and not answered.
    async fn report_again(&self, edge: &mut HandEdge) {
        for (pod, uid) in self.held.iter().filter(|(pod, _)| !self.confirmed.contains(*pod)) {
            run(edge, pod, uid).await;
        }
    }
}

async fn run(edge: &mut HandEdge, pod: &str, uid: &str) {
    let running = json!({"metadata": {"uid": uid}, "status": {"phase": "Running"}}).to_string();
    let resource = Resource::parse(&format!("default/podpatch/{pod}"));
    edge.say(&Envelope::new("edged", "meta", "patch", resource, Body::Text(running), 1)).await;
}

#[test]
fn what_a_device_reports_moves_on_whichever_cloudcore_hears_it() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(&dir.path().join("cluster"));
    let kubectl = cluster.kubectl();
    let clouds = several(&cluster, None, dir.path(), &["one", "two"]);
    kubectl.apply(DEVICE);
    let value = "custom-columns=V:.status.twins[0].reported.value";
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut edge = HandEdge::connect(&clouds[0].cloud, "edge-1", "").await;
        register(&mut edge, "edge-1").await;
        edge.hear("update membership").await;
    });
    until("there is a status", PATIENCE, || kubectl.try_run(&["get", "devicestatus", "sensor-1"]).map(drop));
    let watch = kubectl.spawn(&["get", "devicestatuses", "-w", "--no-headers", "-o", value], "values");
    runtime.block_on(async {
        for report in 1..=12_i64 {
            let mut edge = HandEdge::connect(&clouds[report as usize % 2].cloud, "edge-1", "").await;
            edge.hear("update membership").await;
            for step in 0..3 {
                edge.report(&(report * 10 + step).to_string(), 1_700_000_000_000 + report * 10 + step).await;
            }
        }
    });
    let path = "jsonpath={.status.twins[0].reported.value}";
    assert_eq!(kubectl.run(&["get", "devicestatus", "sensor-1", "-o", path]), "122", "confirmed is written");
    until("the watch saw the last one", PATIENCE, || {
        if watch.log().contains("122") { Ok(()) } else { Err(watch.log()) }
    });
    let seen: Vec<u32> = watch.log().lines().filter_map(|line| line.trim().parse().ok()).collect();
    assert!(seen.is_sorted(), "{seen:?}");
}

#[test]
fn a_cloudcore_with_another_root_is_not_ready_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let cluster = cluster(&dir.path().join("cluster"));
    let kubectl = cluster.kubectl();
    let clouds = several(&cluster, None, dir.path(), &["one"]);
    settled(&kubectl);
    let bundle = || {
        let path = "jsonpath={.metadata.resourceVersion} {.data.roots\\.pem}";
        kubectl.run(&["get", "configmap", "trust-bundle", "-n", "kubeedge", "-o", path])
    };
    let before = bundle();
    let stranger = Beside::stranger(&cluster, &dir.path().join("stranger"));
    until("it says that it is not ready", PATIENCE, || {
        match http("GET", &stranger.cloud.monitor, "/readyz", &[])? {
            (503, text) if text.contains("trust_bundle") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    let log = stranger.cloud.process.log();
    assert!(log.contains("another root CA") && log.contains("delete the ConfigMap trust-bundle"), "{log}");
    settled(&kubectl);
    assert_eq!(bundle(), before);
    let (status, _) = http("GET", &clouds[0].cloud.monitor, "/readyz", &[]).unwrap();
    assert_eq!(status, 200);
}
