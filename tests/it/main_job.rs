//! From kubectl to a container at the edge: real cloudcore, edgecore, containerd and kubectl.

use std::path::Path;
use std::process::Command;

use super::harness::cluster::{Cloud, Edge, Kubectl};
use super::harness::containerd::Containerd;
use super::harness::process::{PATIENCE, until};

/// One cloud, one runtime, one edge node called `edge-1`, Ready.
pub struct World {
    pub edge: Edge,
    pub cloud: Cloud,
    pub runtime: Containerd,
    pub dir: tempfile::TempDir,
}

impl World {
    pub fn start() -> Self {
        Self::with(&[], &[])
    }

    pub fn with(cloud_settings: &[&str], edge_settings: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = Containerd::start();
        let cloud = Cloud::start(&dir.path().join("c"), cloud_settings);
        let edge = Edge::join(&cloud, &dir.path().join("e"), "edge-1", runtime.socket(), edge_settings);
        Self { edge, cloud, runtime, dir }
    }

    pub fn kubectl(&self) -> Kubectl {
        self.cloud.kubectl()
    }
}

/// A pod that prints and sleeps; `extra` are further lines of its spec.
pub fn sleeper(name: &str, extra: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{ name: {name}, labels: {{ app: {name} }} }}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: registry.local/hello:1
    imagePullPolicy: IfNotPresent
    command: [/bin/sh, -c, \"trap 'exit 0' TERM; echo started; while true; do sleep 1 & wait $!; done\"]
{extra}"
    )
}

const CONTAINER_ID: &str = "{.status.containerStatuses[0].containerID}";

fn container_id(kubectl: &Kubectl, pod: &str) -> String {
    kubectl.run(&["get", "pod", pod, "-o", &format!("jsonpath={CONTAINER_ID}")])
}

/// Id of the only container that runs for a pod, from the runtime.
fn running_id(runtime: &Containerd, pod: &str) -> String {
    let ids = runtime.running(pod, None);
    assert_eq!(ids.len(), 1, "{pod}: {ids:?}");
    ids.into_iter().next().unwrap()
}

/// Pid of a container's first process, from the runtime.
pub fn container_pid(runtime: &Containerd, container_id: &str) -> u32 {
    let id = container_id.trim_start_matches("containerd://");
    let out = Command::new("ctr")
        .arg("-a")
        .arg(runtime.socket())
        .args(["-n", "k8s.io", "tasks", "ls"])
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let line = text.lines().find(|l| l.starts_with(id)).unwrap_or_else(|| panic!("no task {id} in\n{text}"));
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Waits until `kubectl describe` shows all of these words: events come a moment after what they tell of.
pub fn described(kubectl: &Kubectl, what: &[&str], words: &[&str]) {
    until(&format!("the events of {what:?} are there"), PATIENCE, || {
        let text = kubectl.try_run(&[&["describe"], what].concat())?;
        match words.iter().find(|word| !text.contains(**word)) {
            Some(word) => Err(format!("no {word} in\n{text}")),
            None => Ok(()),
        }
    });
}

#[test]
fn a_newcomers_first_minutes() {
    let world = World::start();
    let kubectl = world.kubectl();

    let nodes = kubectl.run(&["get", "nodes", "-o", "wide"]);
    assert!(
        nodes.contains("edge-1") && nodes.contains("Ready") && nodes.contains("containerd://"),
        "{nodes}"
    );

    let hello = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/hello-pod.yaml");
    kubectl.run(&["apply", "-f", hello.to_str().unwrap()]);
    kubectl.wait_running("hello");
    let pod = kubectl.json(&["get", "pod", "hello"]);
    assert_eq!(pod["spec"]["nodeName"], "edge-1", "the scheduler bound it");
    let ip = pod["status"]["podIP"].as_str().unwrap().to_owned();
    let page = until("the pod serves its page", PATIENCE, || {
        super::harness::process::http("GET", &format!("{ip}:8080"), "/", &[])
    });
    assert_eq!(page.1.trim(), "hello from pod hello on node edge-1");

    described(&kubectl, &["pod", "hello"], &["Scheduled", "Pulled", "Created", "Started"]);
    described(&kubectl, &["node", "edge-1"], &["EdgeReady", "hello"]);
    the_node_tells_the_truth(&kubectl.json(&["get", "node", "edge-1"]));

    let table = kubectl.run(&["get", "pods"]);
    assert!(table.contains("1/1") && table.contains("Running"), "{table}");
    kubectl.run(&["delete", "pod", "hello"]);
    kubectl.wait_gone("pod/hello");
}

/// What the node says about its machine, against what the machine says.
fn the_node_tells_the_truth(node: &serde_json::Value) {
    let status = &node["status"];
    let read = |path: &str| std::fs::read_to_string(path).unwrap();
    let info = &status["nodeInfo"];
    assert_eq!(info["kernelVersion"], read("/proc/sys/kernel/osrelease").trim());
    assert_eq!(info["bootID"], read("/proc/sys/kernel/random/boot_id").trim());
    assert!(info["containerRuntimeVersion"].as_str().unwrap().starts_with("containerd://"), "{info}");
    let total = read("/proc/meminfo").lines().next().unwrap().split_whitespace().nth(1).unwrap().to_owned();
    assert_eq!(status["capacity"]["memory"], format!("{total}Ki"));
    let cpus = std::thread::available_parallelism().unwrap();
    assert_eq!(status["capacity"]["cpu"], cpus.to_string());
    assert_eq!(status["addresses"][0], serde_json::json!({"type": "InternalIP", "address": "127.0.0.1"}));
    assert!(status["images"].to_string().contains("registry.local/hello:1"), "{}", status["images"]);
    let conditions = status["conditions"].as_array().unwrap().iter();
    let types: Vec<&str> = conditions.map(|condition| condition["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"]);
}

#[test]
fn killed_programs_and_containers_come_back() {
    let mut world = World::start();
    let kubectl = world.kubectl();
    kubectl.apply(&sleeper("steady", ""));
    kubectl.wait_running("steady");
    let first = container_id(&kubectl, "steady");

    // A container dies: a new one within seconds, counted.
    let pid = container_pid(&world.runtime, &first);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGKILL)
        .unwrap();
    kubectl.wait_for("pod/steady", "{.status.containerStatuses[0].restartCount}", "1", PATIENCE);
    kubectl.wait_running("steady");
    let second = container_id(&kubectl, "steady");
    assert_ne!(first, second);

    // edgecore dies: its containers do not notice, and it adopts them.
    world.edge.process.kill9();
    world.edge.restart(&[]);
    world.edge.wait_ready();
    kubectl.wait_node("edge-1", "True");
    kubectl.wait_running("steady");
    assert_eq!(container_id(&kubectl, "steady"), second, "adopted, not started twice");

    // cloudcore dies: the node comes back by itself and new work arrives.
    world.cloud.process.kill9();
    world.cloud.restart(&[]);
    kubectl.apply(&sleeper("after", ""));
    kubectl.wait_running("after");
    kubectl.wait_node("edge-1", "True");
    assert_eq!(container_id(&kubectl, "steady"), second);
    let restarts =
        kubectl.run(&["get", "pod", "steady", "-o", "jsonpath={.status.containerStatuses[0].restartCount}"]);
    assert_eq!(restarts, "1");
    for pod in ["steady", "after"] {
        kubectl.run(&["delete", "pod", pod, "--wait=false"]);
    }
    for pod in ["pod/steady", "pod/after"] {
        kubectl.wait_gone(pod);
    }
}

#[test]
fn pods_restart_from_disk_with_no_cloud_tokens_included() {
    let mut world = World::start();
    let kubectl = world.kubectl();
    kubectl.run(&["create", "configmap", "greeting", "--from-literal=text=hello"]);
    kubectl.run(&["create", "secret", "generic", "keys", "--from-literal=password=s3cret"]);
    let extra = "    env: [{ name: PASSWORD, valueFrom: { secretKeyRef: { name: keys, key: password } } }]
    volumeMounts: [{ name: conf, mountPath: /conf }]
  volumes: [{ name: conf, configMap: { name: greeting } }]
";
    let pods = ["offline-1", "offline-2", "offline-3"];
    for pod in pods {
        kubectl.apply(&sleeper(pod, extra));
    }
    for pod in pods {
        kubectl.wait_running(pod);
    }
    kubectl.apply(&sleeper("deleted", ""));
    kubectl.wait_running("deleted");
    kubectl.run(&["delete", "pod", "deleted"]);
    let uids = || pods.map(|pod| kubectl.run(&["get", "pod", pod, "-o", "jsonpath={.metadata.uid}"]));
    let before = uids();
    let pod = kubectl.json(&["get", "pod", pods[0]]);
    let mounts = pod["spec"]["containers"][0]["volumeMounts"].to_string();
    assert!(
        mounts.contains("/var/run/secrets/kubernetes.io/serviceaccount"),
        "token volume mounted: {mounts}"
    );
    let token = "cat /var/run/secrets/kubernetes.io/serviceaccount/token";
    let read =
        |runtime: &Containerd, pod: &str, script: &str| runtime.exec(pod, "main", &["/bin/sh", "-c", script]);
    let claims = |token: &str| {
        use base64::Engine;
        let claims = token.split('.').nth(1).unwrap_or_else(|| panic!("no token: {token:?}"));
        let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap();
        serde_json::from_slice::<serde_json::Value>(&json).unwrap()["kubernetes.io"]["pod"].clone()
    };

    world.cloud.process.kill9();
    world.edge.process.kill9();
    world.runtime.remove_all_pods();
    world.edge.restart(&[]);
    for (pod, uid) in pods.iter().zip(&before) {
        until(&format!("{pod} runs again without a cloud"), PATIENCE, || {
            let running = world.runtime.running_containers(pod);
            if running == 1 { Ok(()) } else { Err(format!("{running} containers run")) }
        });
        assert_eq!(read(&world.runtime, pod, "echo $(cat /conf/text) $PASSWORD").trim(), "hello s3cret");
        assert!(
            read(&world.runtime, pod, "cat /var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
                .contains("BEGIN CERTIFICATE")
        );
        let bound = claims(&read(&world.runtime, pod, token));
        assert_eq!(bound, serde_json::json!({"name": pod, "uid": uid}), "its own token");
    }
    assert_eq!(world.runtime.running_containers("deleted"), 0);

    let runs = pods.map(|pod| running_id(&world.runtime, pod));
    world.cloud.restart(&[]);
    kubectl.wait_node("edge-1", "True");
    for (pod, id) in pods.iter().zip(&runs) {
        kubectl.wait_running(pod);
        kubectl.wait_for(&format!("pod/{pod}"), CONTAINER_ID, &format!("containerd://{id}"), PATIENCE);
        assert_eq!(world.runtime.running_containers(pod), 1, "{pod} runs once");
    }
    assert_eq!(uids(), before, "the same pods");
    assert_eq!(pods.map(|pod| running_id(&world.runtime, pod)), runs, "not started again");
    for pod in pods {
        kubectl.run(&["delete", "pod", pod, "--wait=false"]);
    }
}

#[test]
fn configuration_follows_its_pods() {
    let world = World::start();
    let kubectl = world.kubectl();
    kubectl.run(&["create", "configmap", "app", "--from-literal=key=one"]);
    kubectl.run(&["create", "secret", "generic", "keys", "--from-literal=password=s3cret"]);
    kubectl.apply(&sleeper(
        "configured",
        "    env:
    - { name: KEY, valueFrom: { configMapKeyRef: { name: app, key: key } } }
    - { name: PASSWORD, valueFrom: { secretKeyRef: { name: keys, key: password } } }
    - { name: WHERE, valueFrom: { fieldRef: { fieldPath: spec.nodeName } } }
    volumeMounts: [{ name: app, mountPath: /app }, { name: keys, mountPath: /keys }, { name: scratch, mountPath: /scratch }]
  volumes:
  - { name: app, configMap: { name: app } }
  - { name: keys, secret: { secretName: keys } }
  - { name: scratch, emptyDir: {} }
",
    ));
    kubectl.wait_running("configured");
    let read = |script: &str| world.runtime.exec("configured", "main", &["/bin/sh", "-c", script]);
    assert_eq!(
        read("echo $KEY $PASSWORD $WHERE; cat /app/key /keys/password").trim(),
        "one s3cret edge-1\nones3cret"
    );

    // Edited: the file changes in place.
    kubectl.run(&["patch", "configmap", "app", "-p", "{\"data\":{\"key\":\"two\"}}"]);
    let file_is = |want: &'static str| {
        until(&format!("/app/key is {want}"), PATIENCE, || {
            let cat = ["/bin/sh", "-c", "cat /app/key"];
            let is = world.runtime.try_exec("configured", "main", &cat)?;
            if is == want { Ok(()) } else { Err(is) }
        });
    };
    file_is("two");
    // Deleted, created again and edited: still followed (KE#4106).
    kubectl.run(&["delete", "configmap", "app"]);
    kubectl.run(&["create", "configmap", "app", "--from-literal=key=three"]);
    kubectl.run(&["patch", "configmap", "app", "-p", "{\"data\":{\"key\":\"four\"}}"]);
    file_is("four");
    kubectl.run(&["delete", "pod", "configured"]);
}

#[test]
fn mistakes_are_explained() {
    let world = World::start();
    let kubectl = world.kubectl();
    let reason = "{.status.containerStatuses[0].state.waiting.reason}";

    kubectl.apply(&sleeper("no-image", "").replace("registry.local/hello:1", "registry.local/absent:9"));
    until("a missing image is named", PATIENCE, || {
        let pod = kubectl.json(&["get", "pod", "no-image"]);
        let state = pod["status"]["containerStatuses"][0]["state"]["waiting"].to_string();
        let named = state.contains("ErrImagePull") || state.contains("ImagePullBackOff");
        if named { Ok(()) } else { Err(state) }
    });

    kubectl.apply(&sleeper("no-command", "").replace("/bin/sh", "/no/such"));
    until("a missing command is named", PATIENCE, || {
        let pod = kubectl.json(&["get", "pod", "no-command"]);
        let status = pod["status"]["containerStatuses"][0].to_string();
        if status.contains("/no/such") { Ok(()) } else { Err(status) }
    });

    kubectl.apply(&sleeper("no-config", "    envFrom: [{ configMapRef: { name: absent } }]\n"));
    kubectl.wait_for("pod/no-config", reason, "CreateContainerConfigError", PATIENCE);
    kubectl.run(&["create", "configmap", "absent", "--from-literal=a=b"]);
    kubectl.wait_running("no-config");

    kubectl.apply(&sleeper("crashes", "").replace("echo started;", "exit 3;"));
    kubectl.wait_for("pod/crashes", reason, "CrashLoopBackOff", PATIENCE);
    let code = "{.status.containerStatuses[0].lastState.terminated.exitCode}";
    kubectl.wait_for("pod/crashes", code, "3", PATIENCE);

    kubectl.apply(&sleeper("too-big", "    resources: { requests: { cpu: '1000' } }\n"));
    until("the scheduler says why", PATIENCE, || {
        let text = kubectl.run(&["describe", "pod", "too-big"]);
        if text.contains("Insufficient cpu") { Ok(()) } else { Err(text) }
    });

    for pod in ["no-image", "no-command", "no-config", "crashes", "too-big"] {
        kubectl.run(&["delete", "pod", pod, "--wait=false"]);
    }
    for pod in ["no-image", "no-command", "no-config", "crashes", "too-big"] {
        kubectl.wait_gone(&format!("pod/{pod}"));
    }
}

#[test]
fn a_silent_node_turns_not_ready_and_returns() {
    let mut world = World::with(&["modules.nodeMonitor.gracePeriodSecs=12"], &[]);
    let kubectl = world.kubectl();
    world.edge.process.kill9();
    kubectl.wait_node("edge-1", "Unknown");
    world.edge.restart(&[]);
    kubectl.wait_node("edge-1", "True");
    until("the unreachable taint goes", PATIENCE, || {
        let taints = kubectl.run(&["get", "node", "edge-1", "-o", "jsonpath={.spec.taints}"]);
        if taints.contains("unreachable") { Err(taints) } else { Ok(()) }
    });
}

#[test]
fn containerd_may_come_later() {
    let dir = tempfile::tempdir().unwrap();
    let mut runtime = Containerd::start();
    let cloud = Cloud::start(&dir.path().join("c"), &[]);
    runtime.stop();
    let edge = Edge::start(&cloud, &dir.path().join("e"), "edge-1", runtime.socket(), &cloud.token(), &[]);
    let kubectl = cloud.kubectl();
    kubectl.wait_node("edge-1", "False");
    let message = kubectl.run(&["describe", "node", "edge-1"]);
    assert!(message.contains("KubeletNotReady"), "{message}");
    runtime.start_again();
    kubectl.wait_node("edge-1", "True");
    drop(edge);
}

#[test]
fn sigterm_drains_and_exits_cleanly() {
    let mut world = World::start();
    let status = world.edge.process.terminate(PATIENCE);
    assert!(status.success(), "{status}\n{}", world.edge.process.tail());
    let status = world.cloud.process.terminate(PATIENCE);
    assert!(status.success(), "{status}\n{}", world.cloud.process.tail());
}
