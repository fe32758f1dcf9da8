//! Beside a real cluster, whatever its API server does: watches that end, versions that are too old, conflicts, a busy
//! server, a slow one, lost connections, a token that is renewed, no server at all. Each time what is changed in the
//! cluster reaches the edge, what the edge reports reaches the cluster, and no process starts again.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cluster_requests::check_all;
use super::harness::api_proxy::{ApiProxy, End, Fault};
use super::harness::cluster::{Cloud, Edge, Kubectl, actors};
use super::harness::containerd::Containerd;
use super::harness::process::{PATIENCE, until};
use super::kubernetes_manifests::{Beside, cluster, proxy, token};
use super::main_job::sleeper;

/// Of the faults by chance. Another one: `CLUSTER_SEED=7`.
const SEED: u64 = 20_261_128;

/// How long the API server is away: more than the cluster needs to take the node for silent, and more than the longest
/// pauses between two tries.
const AWAY: Duration = Duration::from_secs(75);

const VOLUMES: &str = "    volumeMounts: [{ name: words, mountPath: /words }]
  volumes:
  - { name: words, configMap: { name: words } }
";

struct World<'a> {
    kubectl: Kubectl,
    runtime: &'a Containerd,
    round: usize,
}

impl World<'_> {
    /// Changes a ConfigMap that is mounted, makes a pod.
    fn change(&mut self) -> String {
        self.round += 1;
        let (round, pod) = (self.round, format!("p{}", self.round));
        self.kubectl.apply(&format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: words }}\ndata: {{ word: 'word {round}' }}\n---\n{}",
            sleeper(&pod, "")
        ));
        pod
    }

    /// What [`World::change`] did is at the edge, and the cluster knows it; and the pod ends.
    fn arrived(&self, pod: &str) {
        self.kubectl.wait_running(pod);
        until("the volume has the last word", PATIENCE, || {
            let is = self.runtime.try_exec("base", "main", &["cat", "/words/word"])?;
            if is == format!("word {}", self.round) { Ok(()) } else { Err(is) }
        });
        self.kubectl.run(&["delete", "pod", pod, "--wait=false"]);
        self.kubectl.wait_gone(&format!("pod/{pod}"));
    }

    fn meet(&mut self, what: &str) {
        println!("{what}");
        let pod = self.change();
        self.arrived(&pod);
    }

    fn container(&self) -> String {
        let path =
            "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
        self.kubectl.run(&["get", "pod", "base", "-o", path])
    }
}

/// All numbers called `restarts` in the tree of actors.
fn restarts(tree: &Value) -> u64 {
    match tree {
        Value::Object(fields) => {
            let own = fields.get("restarts").and_then(Value::as_u64).unwrap_or(0);
            own + fields.values().map(restarts).sum::<u64>()
        }
        Value::Array(items) => items.iter().map(restarts).sum(),
        _ => 0,
    }
}

/// Both programs run, and nothing in them had to start again.
fn no_restart(beside: &mut Beside, edge: &mut Edge) {
    for (name, process, monitor) in [
        ("cloudcore", &mut beside.cloud.process, &beside.cloud.monitor),
        ("edgecore", &mut edge.process, &edge.monitor),
    ] {
        assert!(process.is_running(), "{name}\n{}", process.tail());
        assert_eq!(restarts(&actors(monitor)), 0, "actors of {name}");
    }
}

fn all_met(proxy: &ApiProxy) {
    until("all faults have happened", PATIENCE, || match proxy.planned() {
        0 => Ok(()),
        left => Err(format!("{left} are left")),
    });
}

/// Ends every watch, once all of them run: those that were cut before may wait with their next try.
fn end_all(proxy: &ApiProxy, how: End) {
    until("all watches run", PATIENCE, || match proxy.watching() {
        8.. => Ok(()),
        few => Err(format!("{few} run")),
    });
    proxy.end_watches(how);
}

#[test]
fn every_fault_of_an_api_server_is_survived_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Containerd::start();
    let cluster: Cloud = cluster(&dir.path().join("cluster"));
    let proxy = proxy(&cluster);
    let mut beside = Beside::in_pod(&cluster, &proxy, &dir.path().join("one"), &[]);
    let mut world = World { kubectl: cluster.kubectl(), runtime: &runtime, round: 0 };
    let mut edge = Edge::join(&beside.cloud, &dir.path().join("e"), "edge-1", runtime.socket(), &[]);
    let pod = world.change();
    world.kubectl.apply(&sleeper("base", VOLUMES));
    world.kubectl.wait_running("base");
    world.arrived(&pod);
    let before = world.container();

    for end in [End::Quiet, End::Cut, End::Gone] {
        end_all(&proxy, end);
        world.meet(&format!("watches end: {end:?}"));
    }
    // 504: its data is older than what the watch has seen, as after a restored backup.
    for code in [410, 504] {
        proxy.plan(10, Fault::Answer(code, ""), |request| request.is_watch());
        end_all(&proxy, End::Cut);
        world.meet(&format!("watches that begin again are answered {code}"));
        all_met(&proxy);
    }
    for (times, fault) in [
        (10, Fault::Answer(429, "1")),
        (8, Fault::Answer(500, "")),
        (8, Fault::Answer(503, "1")),
        (6, Fault::Lost),
        (6, Fault::AnswerLost),
        (6, Fault::Slow(Duration::from_secs(2))),
    ] {
        proxy.plan(times, fault.clone(), |_| true);
        world.meet(&format!("{times} times {fault:?}"));
        all_met(&proxy);
    }
    proxy.plan(4, Fault::Answer(409, ""), |request| {
        request.method == "PATCH" && request.path.contains("/pods/") && request.path.ends_with("/status")
    });
    world.meet("others write the pods' statuses at the same time");
    all_met(&proxy);

    let old = fs::read_to_string(&beside.token_file).unwrap();
    // As a node agent does it: the new file takes the place of the old one.
    let next = beside.token_file.with_extension("next");
    fs::write(&next, token(&cluster)).unwrap();
    fs::rename(&next, &beside.token_file).unwrap();
    proxy.refuse_token(&old);
    proxy.end_watches(End::Cut);
    world.meet("the token was renewed, and the old one is good no more");
    assert!(proxy.count(|request| request.status == 401) > 0, "the old one was still in use");

    proxy.leave();
    let since = Instant::now();
    let pod = world.change();
    // kubectl asks the cluster itself, which hears nothing of the node.
    world.kubectl.wait_node("edge-1", "Unknown");
    until("it keeps asking, for more than a minute", PATIENCE, || match proxy.knocks() {
        25.. if since.elapsed() >= AWAY => Ok(()),
        knocks => Err(format!("{knocks} times in {:?}", since.elapsed())),
    });
    println!("the API server was away for {:?}: {} tries", since.elapsed(), proxy.knocks());
    proxy.come_back();
    world.arrived(&pod);
    world.kubectl.wait_node("edge-1", "True");
    world.kubectl.wait_running("base");
    assert_eq!(world.container(), before, "the first pod ran on while the API server was away");
    no_restart(&mut beside, &mut edge);

    let seed = std::env::var("CLUSTER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(SEED);
    println!("faults by chance: CLUSTER_SEED={seed}");
    proxy.chaos(seed, 4);
    let pods: Vec<String> = (0..4).map(|_| world.change()).collect();
    for end in [End::Cut, End::Gone] {
        proxy.end_watches(end);
        world.kubectl.run(&["annotate", "pod", "base", "--overwrite", &format!("met={end:?}")]);
    }
    pods.iter().for_each(|pod| world.arrived(pod));
    proxy.chaos(0, 0);
    world.meet("nothing is wrong any more");

    assert_eq!(world.container(), before, "the first pod ran all the time");
    no_restart(&mut beside, &mut edge);
    assert_eq!(beside.refusals(), Vec::<String>::new());
    check_all(&proxy.log());
}
