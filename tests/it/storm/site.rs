//! The fault lab: a cloud and several edges, each with a container runtime and a link of its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kubeedge::actors::edge::meta_manager::{SealedStore, SecretSettings};
use kubeedge::store::{RocksStore, Store, Table, Tuning, scan_all};
use serde_json::Value;

use super::ledger::{Process, Runtime};
use super::plan::{Program, Scale};
use crate::harness::cluster::{Cloud, Edge, actors};
use crate::harness::containerd::{Containerd, unmount_below};
use crate::harness::link::Link;
use crate::harness::process::{PATIENCE, http, until};
use crate::harness::rest::Rest;

/// Nodes are judged fast, so that a cut of seconds shows.
const CLOUD: &[&str] = &["modules.nodeMonitor.gracePeriodSecs=12"];
/// A dead link is found in seconds; the lease tells every two seconds that the node is there.
const EDGE: &[&str] = &[
    "modules.edgeHub.websocket.readDeadline=6",
    "modules.edged.tailoredKubeletConfig.nodeLeaseDurationSeconds=8",
    "modules.eventBus.mqttSessionQueueSize=20000",
];

pub struct Site {
    pub edges: Vec<Place>,
    pub cloud: Cloud,
    pub rest: Rest,
    dir: PathBuf,
    /// Where logs go if the storm fails.
    keep: PathBuf,
}

/// One edge and what is around it.
pub struct Place {
    pub name: String,
    pub edge: Edge,
    pub link: Link,
    pub runtime: Containerd,
    settings: Vec<String>,
}

impl Place {
    fn restart(&mut self) {
        let words: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        self.edge.restart(&words);
    }
}

impl Site {
    pub fn start(dir: &Path, keep: &Path, scale: &Scale) -> Self {
        let starting: Vec<_> = (0..scale.edges).map(|_| std::thread::spawn(Containerd::start)).collect();
        let cloud = Cloud::start(&dir.join("c"), CLOUD);
        let runtimes: Vec<Containerd> =
            starting.into_iter().map(|runtime| runtime.join().expect("containerd starts")).collect();
        let place = |(number, runtime): (usize, Containerd)| {
            let (name, link) = (format!("edge-{number}"), Link::to(cloud.hub_port));
            let server = format!("modules.edgeHub.websocket.server=127.0.0.1:{}", link.port);
            let settings: Vec<String> =
                EDGE.iter().map(|setting| (*setting).to_owned()).chain([server]).collect();
            let words: Vec<&str> = settings.iter().map(String::as_str).collect();
            let folder = dir.join(format!("e{number}"));
            let edge = Edge::start(&cloud, &folder, &name, runtime.socket(), &cloud.token(), &words);
            Place { name, edge, link, runtime, settings }
        };
        let edges: Vec<Place> = runtimes.into_iter().enumerate().map(place).collect();
        let rest = Rest::from(&cloud.dir.join("admin.conf"));
        let site = Self { edges, cloud, rest, dir: dir.to_owned(), keep: keep.to_owned() };
        for place in &site.edges {
            site.cloud.kubectl().wait_node(&place.name, "True");
        }
        site
    }

    pub fn kill(&mut self, program: Program) {
        match program {
            Program::Cloud => self.cloud.process.kill9(),
            Program::Edge(edge) => self.edges[edge].edge.process.kill9(),
            Program::Runtime(edge) => self.edges[edge].runtime.kill9(),
        }
    }

    pub fn start_again(&mut self, program: Program) {
        match program {
            Program::Cloud => self.cloud.respawn(CLOUD),
            Program::Edge(edge) => self.edges[edge].restart(),
            Program::Runtime(edge) => self.edges[edge].runtime.spawn(),
        }
    }

    /// Waits until every program is up, mends the links and measures: how long each node takes to be Ready.
    pub fn mend(&mut self) -> Vec<(String, Duration)> {
        self.cloud.wait_ready();
        for place in &mut self.edges {
            place.runtime.wait_ready();
            let (monitor, process) = (place.edge.monitor.clone(), &mut place.edge.process);
            until("edgecore answers", PATIENCE, || {
                assert!(process.is_running(), "{} ended\n{}", place.name, process.tail());
                http("GET", &monitor, "/healthz", &[]).map(|_| ())
            });
        }
        let (back, wall) = (Instant::now(), jiff::Timestamp::now());
        self.edges.iter().for_each(|place| place.link.mend());
        let mut took: BTreeMap<&str, Duration> = BTreeMap::new();
        until("every node is Ready again", PATIENCE, || {
            let mut waiting = Vec::new();
            for place in &self.edges {
                if took.contains_key(place.name.as_str()) {
                    continue;
                }
                match self.is_ready(&place.name, wall) {
                    Ok(()) => drop(took.insert(&place.name, back.elapsed())),
                    Err(why) => waiting.push(format!("{}: {why}", place.name)),
                }
            }
            if waiting.is_empty() { Ok(()) } else { Err(waiting.join(", ")) }
        });
        took.into_iter().map(|(name, took)| (name.to_owned(), took)).collect()
    }

    /// Its condition says so, and it was heard of since then.
    fn is_ready(&self, node: &str, since: jiff::Timestamp) -> Result<(), String> {
        let object = self.rest.get(&format!("/api/v1/nodes/{node}"))?;
        let conditions = object["status"]["conditions"].as_array().ok_or("no conditions")?;
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready").ok_or("no Ready")?;
        if ready["status"] != "True" {
            return Err(ready.to_string());
        }
        let lease = format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}");
        let lease = self.rest.get(&lease)?;
        let renewed = lease["spec"]["renewTime"].as_str().ok_or("no renewTime")?;
        let renewed: jiff::Timestamp = renewed.parse().map_err(|err: jiff::Error| err.to_string())?;
        if renewed > since { Ok(()) } else { Err(format!("last heard of at {renewed}")) }
    }

    /// What every runtime lists, by node.
    pub fn runtimes(&self) -> Result<BTreeMap<String, Runtime>, String> {
        let running = k8s_cri::v1::ContainerState::ContainerRunning as i32;
        let ready = k8s_cri::v1::PodSandboxState::SandboxReady as i32;
        let uid = |labels: &std::collections::HashMap<String, String>| {
            labels.get("io.kubernetes.pod.uid").cloned().unwrap_or_default()
        };
        let one = |place: &Place| {
            let (sandboxes, containers) = place.runtime.everything()?;
            let runtime = Runtime {
                sandboxes: sandboxes.iter().map(|row| (uid(&row.labels), row.state == ready)).collect(),
                containers: containers
                    .iter()
                    .map(|row| (uid(&row.labels), row.id.clone(), row.state == running))
                    .collect(),
            };
            Ok((place.name.clone(), runtime))
        };
        self.edges.iter().map(one).collect()
    }

    /// Errors and panics in the logs, actors that do not run.
    pub fn complaints(&self) -> Vec<String> {
        let mut found = Vec::new();
        let programs = self.edges.iter().map(|place| (&place.name, &place.edge.process, &place.edge.monitor));
        let cloud = "cloudcore".to_owned();
        for (name, process, monitor) in programs.chain([(&cloud, &self.cloud.process, &self.cloud.monitor)]) {
            let log = process.log();
            let bad = |line: &&str| line.contains("panicked") || line.contains("ERROR");
            found.extend(log.lines().filter(bad).map(|line| format!("{name} logged: {line}")));
            let tree = actors(monitor);
            for actor in tree["actors"].as_array().into_iter().flatten() {
                if actor["state"] != "running" || actor["panics"] != 0 {
                    found.push(format!("{name}: actor {actor}"));
                }
            }
            let metrics = http("GET", monitor, "/metrics", &[]).map(|(_, text)| text).unwrap_or_default();
            let panics = metrics.lines().filter(|line| line.starts_with("kubeedge_actor_panics_total"));
            found.extend(panics.filter(|line| !line.ends_with(" 0")).map(|line| format!("{name}: {line}")));
        }
        found
    }

    /// Ends an edge's edgecore and reads its store: pods (uid, label) and values of configs, by name.
    pub fn stored(&mut self, edge: usize) -> (BTreeMap<String, (String, u64)>, BTreeMap<String, u64>) {
        let place = &mut self.edges[edge];
        place.edge.process.kill9();
        let plain = RocksStore::open(&place.edge.dir.join("edge/store"), Tuning::edge()).unwrap();
        let secrets = SecretSettings { key_file: place.edge.dir.join("certs/store.key"), encrypt: true };
        let (store, found) = SealedStore::open(Arc::new(plain), &secrets).unwrap();
        assert_eq!((found.rewritten, found.unreadable), (0, 0), "{found:?}");
        let (mut pods, mut configs) = (BTreeMap::new(), BTreeMap::new());
        scan_all(&store as &dyn Store, Table::Objects, "meta/default/", |rows| {
            for (key, row) in rows {
                let key = String::from_utf8(key).unwrap();
                let object: Value = serde_json::from_slice(&row).unwrap();
                let mut words = key.rsplit('/');
                let (name, kind) = (words.next().unwrap().to_owned(), words.next().unwrap());
                match kind {
                    "pod" => drop(pods.insert(name, (text(&object, "/metadata/uid"), label(&object)))),
                    "configmap" | "secret" => {
                        if let Some(value) = value(&object) {
                            configs.insert(name, value);
                        }
                    }
                    _ => {}
                }
            }
        })
        .unwrap();
        drop(store);
        place.restart();
        (pods, configs)
    }
}

impl Site {
    fn keep_logs(&self) {
        std::fs::create_dir_all(&self.keep).ok();
        let mut logs = vec![(self.dir.join("c/cloudcore.log"), "cloudcore.log".to_owned())];
        for (number, place) in self.edges.iter().enumerate() {
            let folder = self.dir.join(format!("e{number}"));
            logs.push((folder.join("edgecore.log"), format!("{}-edgecore.log", place.name)));
            logs.push((folder.join("keeper.log"), format!("{}-keeper.log", place.name)));
            logs.push((place.runtime.log(), format!("{}-containerd.log", place.name)));
        }
        logs.push((self.dir.join("history.log"), "history.log".to_owned()));
        for (from, to) in logs {
            std::fs::copy(from, self.keep.join(to)).ok();
        }
        for kind in ["nodes", "namespaces/default/pods", "namespaces/default/configmaps"] {
            if let Ok(list) = self.rest.get(&format!("/api/v1/{kind}")) {
                let name = format!("{}.json", kind.replace('/', "-"));
                std::fs::write(self.keep.join(name), format!("{list:#}")).ok();
            }
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_logs();
        }
        // What edgecore mounted for pods that still run would keep the folder.
        self.cloud.process.kill9();
        self.edges.iter_mut().for_each(|place| place.edge.process.kill9());
        unmount_below(&self.dir);
    }
}

/// Text at a JSON pointer, or nothing.
pub fn text(object: &Value, pointer: &str) -> String {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The label that the storm changes.
pub fn label(object: &Value) -> u64 {
    text(object, "/metadata/labels/turn").parse().unwrap_or_default()
}

/// The value of a ConfigMap or Secret of the storm: a number, or base64 of one (which begins with a letter).
pub fn value(object: &Value) -> Option<u64> {
    use base64::Engine;
    let text = object.pointer("/data/value")?.as_str()?;
    text.parse().ok().or_else(|| {
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).ok()?;
        String::from_utf8(bytes).ok()?.parse().ok()
    })
}

/// The first process of every container of a pod that runs on this machine, by uid of the pod, from the kernel.
/// Only shells of one storm: pauses, children and other tests do not count.
pub fn shells(mark: &str) -> BTreeMap<String, Vec<Process>> {
    let mut found: BTreeMap<String, Vec<Process>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let read = |name: &str| std::fs::read(entry.path().join(name)).unwrap_or_default();
        let command = String::from_utf8_lossy(&read("cmdline")).into_owned();
        if !command.starts_with("/bin/sh\0") || !command.contains(mark) {
            continue;
        }
        let cgroup = String::from_utf8_lossy(&read("cgroup")).into_owned();
        let Some((uid, container)) = of_pod(&cgroup) else { continue };
        let processes = found.entry(uid).or_default();
        if processes.iter().all(|known| known.container != container) {
            processes.push(Process { pid, container });
        }
    }
    found
}

/// Pod and container of a `/proc/../cgroup`, by KubeEdge's and Kubernetes' naming: `/kubepods/../pod{uid}/{id}`.
fn of_pod(cgroup: &str) -> Option<(String, String)> {
    let path =
        cgroup.lines().find_map(|line| line.split_once("/pod").filter(|(a, _)| a.contains("/kubepods")))?.1;
    let (uid, container) = path.split_once('/')?;
    let container = container.split('/').next()?;
    Some((uid.to_owned(), container.to_owned()))
}
