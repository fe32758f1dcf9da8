//! The container runtime client and the pod translation against a real containerd.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use k8s_cri::v1;
use k8s_openapi::api::core::v1::{Container, Pod};
use kubeedge::actors::edge::edged::environment::environment;
use kubeedge::actors::edge::edged::host::{HostContext, Resolver};
use kubeedge::actors::edge::edged::names::PodRef;
use kubeedge::actors::edge::edged::resources::{cgroup_parent, qos};
use kubeedge::actors::edge::edged::security::apply_image_user;
use kubeedge::actors::edge::edged::sources::Sources;
use kubeedge::actors::edge::edged::spec::{container_config, sandbox_config};
use kubeedge::actors::edge::edged::volumes::material::prepare;
use kubeedge::actors::edge::edged::volumes_worker as disk;
use kubeedge::cri::client::CriClient;
use kubeedge::cri::runtime::{CriErrorKind, Runtime, RuntimeEvent, RuntimeEventKind};
use kubeedge::model::ObjectKey;
use serde_json::{Value, json};

use super::harness::containerd::Containerd;
use super::harness::process::{PATIENCE, free_port};

const HELLO: &str = "registry.local/hello:1";

fn client(containerd: &Containerd) -> CriClient {
    CriClient::new(&containerd.endpoint(), Duration::from_secs(30)).expect("client")
}

fn host(dir: &Path) -> HostContext {
    HostContext {
        node_name: "edge-1".into(),
        host_ips: vec!["192.0.2.10".into()],
        root_dir: dir.join("kubelet"),
        pod_logs_dir: dir.join("pod-logs"),
        cluster_dns: Vec::new(),
        cluster_domain: "cluster.local".into(),
        resolver: Resolver { servers: vec!["192.0.2.53".into()], ..Resolver::default() },
        systemd_cgroups: false,
        cpu_milli: 2000,
        memory_bytes: 4 << 30,
        kubernetes_service: None,
        workload_api: None,
    }
}

fn pod(spec: Value) -> Pod {
    let uid = uuid::Uuid::new_v4().to_string();
    let metadata = json!({"name": "web", "namespace": "default", "uid": uid, "labels": {"app": "web"}});
    serde_json::from_value(json!({"metadata": metadata, "spec": spec})).expect("a pod")
}

fn object(sources: &mut Sources, kind: &str, name: &str, object: Value) {
    sources.insert(ObjectKey::namespaced("default", kind, name), Some(Arc::new(object)));
}

/// A pod on its way into the runtime, step by step as Edged goes.
struct Run<'a> {
    runtime: &'a CriClient,
    host: HostContext,
    pod: Pod,
    sources: Sources,
    sandbox: v1::PodSandboxConfig,
    sandbox_id: String,
    ip: String,
}

impl<'a> Run<'a> {
    async fn sandbox(runtime: &'a CriClient, host: HostContext, pod: Pod, sources: Sources) -> Self {
        let sandbox = sandbox_config(&pod, &host, 0).expect("sandbox config");
        disk::create_log_dir(PodRef::of(&pod), host.clone()).await.expect("log dir");
        let sandbox_id = runtime.run_sandbox(sandbox.clone()).await.expect("run sandbox");
        let status = runtime.sandbox_status(sandbox_id.clone()).await.expect("sandbox status");
        let ip = status.network.expect("network").ip;
        Self { runtime, host, pod, sources, sandbox, sandbox_id, ip }
    }

    /// Applies the volumes as the sources are now; true when files changed.
    async fn volumes(&self) -> bool {
        let volumes = prepare(&self.pod, &self.sources, &self.host).expect("volumes");
        disk::apply(PodRef::of(&self.pod), self.host.clone(), volumes).await.expect("apply volumes")
    }

    async fn config(&self, container: &Container, restart_count: u32) -> v1::ContainerConfig {
        let image = self.runtime.image_status(HELLO.into()).await.expect("image").expect("present");
        let env = environment(&self.pod, container, &self.sources, &self.host, Some(&self.ip)).expect("env");
        let mounts = disk::container_mounts(
            self.pod.clone(),
            container.clone(),
            restart_count,
            prepare(&self.pod, &self.sources, &self.host).expect("volumes"),
            env.clone(),
            Some(self.ip.clone()),
            self.host.clone(),
        )
        .await
        .expect("mounts");
        let mut config =
            container_config(&self.pod, container, restart_count, &image.id, env, mounts, &self.host)
                .expect("container config");
        apply_image_user(&mut config, &self.pod, container, &image).expect("user");
        config
    }

    fn container(&self, index: usize) -> Container {
        self.pod.spec.as_ref().expect("spec").containers[index].clone()
    }

    async fn create(&self, config: v1::ContainerConfig) -> String {
        let sandbox = self.sandbox.clone();
        self.runtime.create_container(self.sandbox_id.clone(), config, sandbox).await.expect("create")
    }

    async fn remove(self) {
        let at = PodRef::of(&self.pod);
        self.runtime.stop_sandbox(self.sandbox_id.clone()).await.expect("stop sandbox");
        self.runtime.remove_sandbox(self.sandbox_id).await.expect("remove sandbox");
        let parent = cgroup_parent(&at.uid, qos(&self.pod).expect("qos"), &self.host);
        let group = Path::new("/sys/fs/cgroup/memory").join(parent.trim_start_matches('/'));
        if Path::new("/sys/fs/cgroup/memory").exists() {
            assert!(group.exists(), "the runtime leaves {} behind", group.display());
        }
        // A runtime that was killed while it made a sandbox leaves processes behind that it knows nothing of.
        let mut left = std::process::Command::new("sleep").arg("1000").spawn().expect("sleep");
        let unified = Path::new("/sys/fs/cgroup").join(parent.trim_start_matches('/'));
        let here = if group.exists() { &group } else { &unified };
        std::fs::write(here.join("cgroup.procs"), left.id().to_string()).expect("move it there");
        disk::remove_cgroup(parent).await.expect("remove cgroup");
        assert!(!group.exists() && !unified.exists());
        assert!(!left.wait().expect("it ended").success(), "killed");
        disk::teardown(at.clone(), self.host.clone()).await.expect("teardown");
        assert!(!at.dir(&self.host).exists());
    }
}

async fn exec(runtime: &CriClient, id: &str, script: &str) -> String {
    let command = vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()];
    let answer = runtime.exec_sync(id.to_owned(), command, 60).await.expect("exec");
    assert_eq!(answer.exit_code, 0, "{script}: {}", String::from_utf8_lossy(&answer.stderr));
    String::from_utf8(answer.stdout).expect("utf-8")
}

async fn event(events: &mut BoxStream<'static, RuntimeEvent>, id: &str, kind: RuntimeEventKind) {
    let wanted = RuntimeEvent { id: id.to_owned(), kind };
    let waiting = async {
        while let Some(event) = events.next().await {
            if event == wanted {
                return;
            }
        }
        panic!("the events ended before {wanted:?}");
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {wanted:?}"));
}

async fn until<F: Future<Output = Option<T>>, T>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let waiting = async {
        loop {
            looks.tick().await;
            if let Some(found) = probe().await {
                return found;
            }
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"))
}

fn get(port: u16) -> Option<String> {
    let mut socket = TcpStream::connect(("127.0.0.1", port)).ok()?;
    socket.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    socket.write_all(b"GET /text HTTP/1.0\r\n\r\n").ok()?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).ok()?;
    Some(answer)
}

/// Environment, volumes, limits, ports, logs, users, exec, update in place, exit: one pod's life.
#[tokio::test]
async fn a_pod_lives_and_ends() {
    let containerd = Containerd::start();
    let runtime = client(&containerd);
    let version = runtime.version().await.expect("version");
    assert_eq!(version.runtime_name, "containerd");
    runtime.cgroup_driver().await.expect("a driver, or none where the runtime cannot say");

    let port = free_port();
    let script = "trap 'echo bye > /dev/termination-log; exit 7' TERM; echo \"$GREETING from $POD at $IP\"; \
                  httpd -p 8080 -h /conf; while true; do sleep 1 & wait $!; done";
    let pod = pod(json!({
        "terminationGracePeriodSeconds": 5,
        "securityContext": {"fsGroup": 4242},
        "containers": [{
            "name": "main", "image": HELLO, "command": ["sh", "-c"], "args": [script],
            "ports": [{"containerPort": 8080, "hostPort": port}],
            "env": [
                {"name": "GREETING", "valueFrom": {"configMapKeyRef": {"name": "cm", "key": "text"}}},
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            ],
            "resources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["NET_RAW"]}},
            "volumeMounts": [
                {"name": "conf", "mountPath": "/conf"},
                {"name": "keys", "mountPath": "/keys"},
                {"name": "scratch", "mountPath": "/scratch"},
                {"name": "scratch", "mountPath": "/part", "subPath": "a/b"},
            ],
        }],
        "volumes": [
            {"name": "conf", "configMap": {"name": "cm"}},
            {"name": "keys", "secret": {"secretName": "sec", "defaultMode": 256}},
            {"name": "scratch", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        ],
    }));
    let mut sources = Sources::default();
    object(&mut sources, "configmap", "cm", json!({"data": {"text": "hello"}}));
    object(&mut sources, "secret", "sec", json!({"data": {"password": "czNjcjN0"}}));

    let mut events = runtime.events().await.expect("events");
    let mut run = Run::sandbox(&runtime, host(containerd.dir()), pod, sources).await;
    event(&mut events, &run.sandbox_id, RuntimeEventKind::Started).await;
    assert!(run.volumes().await);
    assert!(!run.volumes().await, "nothing changed");
    let main = run.container(0);
    let config = run.config(&main, 0).await;
    let id = run.create(config.clone()).await;
    let again = runtime.create_container(run.sandbox_id.clone(), config, run.sandbox.clone()).await;
    assert_eq!(again.expect_err("the name is taken").kind, CriErrorKind::AlreadyExists);
    runtime.start_container(id.clone()).await.expect("start");
    event(&mut events, &id, RuntimeEventKind::Started).await;

    let at = PodRef::of(&run.pod);
    let log = at.log_file(&run.host, "main", 0);
    let line = until("the log has a line", || async {
        fs::read_to_string(&log).ok().filter(|text| !text.is_empty())
    });
    let line = line.await;
    assert!(line.contains(&format!("stdout F hello from web at {}\n", run.ip)), "{line}");
    let page = until("the host port answers", || async { get(port) }).await;
    assert!(page.ends_with("hello"), "{page}");

    assert_eq!(exec(&runtime, &id, "cat /keys/password").await, "s3cr3t");
    assert_eq!(exec(&runtime, &id, "touch /part/x; ls /scratch/a/b").await, "x\n");
    assert_eq!(exec(&runtime, &id, "hostname; grep -c NoNewPrivs:.1 /proc/1/status").await, "web\n1\n");
    let hosts = exec(&runtime, &id, "cat /etc/hosts /etc/resolv.conf").await;
    assert!(
        hosts.contains(&format!("{}\tweb\n", run.ip)) && hosts.contains("nameserver 192.0.2.53"),
        "{hosts}"
    );
    let ids = exec(&runtime, &id, "id").await;
    assert!(ids.contains("4242"), "fsGroup is a group of the process: {ids}");
    let readonly = vec!["touch".into(), "/conf/x".into()];
    assert_ne!(runtime.exec_sync(id.clone(), readonly, 60).await.expect("exec").exit_code, 0);
    let slow = vec!["sleep".into(), "30".into()];
    let timeout = runtime.exec_sync(id.clone(), slow, 1).await.expect_err("timeout");
    assert_eq!(timeout.kind, CriErrorKind::Timeout, "{timeout}");

    object(&mut run.sources, "configmap", "cm", json!({"data": {"text": "changed"}}));
    assert!(run.volumes().await);
    assert_eq!(exec(&runtime, &id, "cat /conf/text").await, "changed");

    let limits = |memory| v1::LinuxContainerResources { memory_limit_in_bytes: memory, ..Default::default() };
    runtime.update_resources(id.clone(), limits(96 << 20)).await.expect("update");
    let stats = runtime.container_stats(id.clone()).await.expect("stats");
    assert!(stats.memory.and_then(|memory| memory.working_set_bytes).is_some_and(|bytes| bytes.value > 0));
    assert_eq!(runtime.list_container_stats().await.expect("stats").len(), 1);
    fs::rename(&log, log.with_extension("old")).expect("rotate");
    runtime.reopen_log(id.clone()).await.expect("reopen");
    assert!(log.exists());

    runtime.stop_container(id.clone(), 5).await.expect("stop");
    event(&mut events, &id, RuntimeEventKind::Exited).await;
    let status = runtime.container_status(id.clone()).await.expect("status");
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    let words =
        disk::termination_message(at, run.host.clone(), "main".into(), 0, false).await.expect("last words");
    assert_eq!(words, "bye\n");
    runtime.remove_container(id.clone()).await.expect("remove");
    event(&mut events, &id, RuntimeEventKind::Deleted).await;
    run.remove().await;
}

/// Every exit is told once the CRI itself shows it; failures have kinds and the runtime's words.
#[tokio::test]
async fn exits_and_failures() {
    let containerd = Containerd::start();
    let runtime = client(&containerd);
    let pod = pod(json!({"containers": [
        {"name": "short", "image": HELLO, "command": ["sh", "-c", "exit 3"]},
        {"name": "missing", "image": HELLO, "command": ["/no/such"]},
        {"name": "greedy", "image": HELLO, "command": ["sh", "-c", "x=a; while true; do x=$x$x; done"],
         "resources": {"limits": {"memory": "16Mi"}}},
    ]}));
    let run = Run::sandbox(&runtime, host(containerd.dir()), pod, Sources::default()).await;
    run.volumes().await;
    let mut events = runtime.events().await.expect("events");

    let short = run.create(run.config(&run.container(0), 0).await).await;
    runtime.start_container(short.clone()).await.expect("start");
    event(&mut events, &short, RuntimeEventKind::Exited).await;
    let status = runtime.container_status(short).await.expect("status");
    assert_eq!(status.state, v1::ContainerState::ContainerExited as i32, "shown when told");
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));

    let missing = run.create(run.config(&run.container(1), 0).await).await;
    let error = runtime.start_container(missing).await.expect_err("no such binary");
    assert_eq!((error.call, error.kind), ("StartContainer", CriErrorKind::Other));
    assert!(error.message.contains("/no/such"), "{error}");

    let greedy = run.create(run.config(&run.container(2), 0).await).await;
    runtime.start_container(greedy.clone()).await.expect("start");
    event(&mut events, &greedy, RuntimeEventKind::Exited).await;
    let status = runtime.container_status(greedy).await.expect("status");
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));

    let none = "registry.local/none:1".to_owned();
    assert_eq!(runtime.image_status(none.clone()).await.expect("status"), None);
    let mut config = run.config(&run.container(0), 1).await;
    config.image = Some(v1::ImageSpec { image: none.clone(), ..Default::default() });
    let sandbox = run.sandbox.clone();
    let error = runtime.create_container(run.sandbox_id.clone(), config, sandbox.clone()).await;
    assert_eq!(error.expect_err("no image").kind, CriErrorKind::NotFound);
    let error = runtime.pull_image(none, None, sandbox).await.expect_err("no registry");
    assert_eq!((error.call, error.kind), ("PullImage", CriErrorKind::Other), "{error}");
    let gone = runtime.container_status("nothing".into()).await.expect_err("no container");
    assert_eq!(gone.kind, CriErrorKind::NotFound);
    assert!(!runtime.image_fs_info().await.expect("image fs").is_empty());
    assert!(runtime.list_images().await.expect("images").iter().any(|image| image.repo_tags == [HELLO]));
    run.remove().await;
}

/// The daemon comes, goes and comes back; one client sees it through and the container goes on.
#[tokio::test]
async fn the_runtime_may_come_late_and_go() {
    let mut containerd = Containerd::start();
    containerd.stop();
    let runtime = client(&containerd);
    let error = runtime.version().await.expect_err("absent");
    assert_eq!(error.kind, CriErrorKind::Unavailable, "{error}");
    let error = runtime.events().await.err().expect("absent");
    assert_eq!(error.kind, CriErrorKind::Unavailable, "{error}");
    containerd.start_again();
    runtime.version().await.expect("there now");

    let pod = pod(json!({"hostNetwork": true, "containers": [
        {"name": "main", "image": HELLO, "command": ["sh", "-c", "while true; do sleep 1; done"]},
    ]}));
    let run = Run::sandbox(&runtime, host(containerd.dir()), pod, Sources::default()).await;
    assert_eq!(run.ip, "", "the host's network has no address of its own");
    run.volumes().await;
    let id = run.create(run.config(&run.container(0), 0).await).await;
    runtime.start_container(id.clone()).await.expect("start");
    assert_eq!(containerd.running_containers("web"), 1);
    let mut events = runtime.events().await.expect("events");

    containerd.kill9();
    let end = tokio::time::timeout(PATIENCE, events.next()).await.expect("the stream ends with the daemon");
    assert_eq!(end, None);
    let error = runtime.list_containers().await.expect_err("gone");
    assert_eq!(error.kind, CriErrorKind::Unavailable, "{error}");

    containerd.start_again();
    let status = runtime.container_status(id.clone()).await.expect("status");
    assert_eq!(status.state, v1::ContainerState::ContainerRunning as i32, "it ran on");
    assert_eq!(containerd.exec("web", "main", &["echo", "still here"]), "still here\n");
    let mut events = runtime.events().await.expect("events again");
    runtime.stop_container(id.clone(), 0).await.expect("stop");
    event(&mut events, &id, RuntimeEventKind::Exited).await;
    run.remove().await;
    containerd.remove_all_pods();
    assert!(runtime.list_sandboxes().await.expect("list").is_empty());
}
