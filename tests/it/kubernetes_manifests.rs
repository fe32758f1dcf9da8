//! `deploy/kubernetes`: every document is what Kubernetes takes, and cloudcore, an edge, pods and
//! devices work with the rights written there and no others.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use k8s_openapi::api::{apps::v1 as apps, core::v1 as core, policy::v1 as policy, rbac::v1 as rbac};
use kubeedge::config::{CloudCoreConfig, load};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::boards::{items, repository, text};
use super::harness::api_proxy::ApiProxy;
use super::harness::cluster::{Cloud, Edge, Kubectl};
use super::harness::containerd::Containerd;
use super::harness::process::{PATIENCE, Process, http, until};
use super::harness::samples::WORDS_AND_KEY;
use super::main_job::sleeper;

pub(super) fn documents(file: &str) -> Vec<Value> {
    let yaml = fs::read_to_string(repository("deploy/kubernetes").join(file)).unwrap();
    yaml_serde::Deserializer::from_str(&yaml).map(|one| Value::deserialize(one).unwrap()).collect()
}

/// The files that `kubectl apply -k` reads, and the one that is left to the reader.
fn files() -> Vec<String> {
    let [kustomization] = &documents("kustomization.yaml")[..] else { panic!("one document") };
    let mut files: Vec<String> =
        items(&kustomization["resources"]).map(|name| text(name).to_owned()).collect();
    files.push("rbac-go-edges.yaml".to_owned());
    files
}

/// Reads it as its type and writes it again: what the type does not know is missing then.
fn strict<T: DeserializeOwned + Serialize>(document: &Value) -> Value {
    let typed: T =
        serde_json::from_value(document.clone()).unwrap_or_else(|err| panic!("{err} in {document}"));
    serde_json::to_value(typed).unwrap()
}

/// Panics at the first field of `given` that `taken` does not have in the same way.
fn within(given: &Value, taken: &Value, place: &str) {
    match (given, taken) {
        (Value::Object(given), Value::Object(taken)) => {
            for (name, value) in given {
                let place = format!("{place}.{name}");
                let kept = taken.get(name).unwrap_or_else(|| panic!("{place} is no field of its type"));
                within(value, kept, &place);
            }
        }
        (Value::Array(given), Value::Array(taken)) => {
            assert_eq!(given.len(), taken.len(), "{place}");
            for (index, (given, taken)) in given.iter().zip(taken).enumerate() {
                within(given, taken, &format!("{place}[{index}]"));
            }
        }
        _ => assert_eq!(given, taken, "{place}"),
    }
}

#[test]
fn every_document_is_what_kubernetes_takes() {
    for file in files() {
        for document in documents(&file) {
            let (version, kind) = (text(&document["apiVersion"]), text(&document["kind"]));
            let taken = match (version, kind) {
                ("v1", "Namespace") => strict::<core::Namespace>(&document),
                ("v1", "ServiceAccount") => strict::<core::ServiceAccount>(&document),
                ("v1", "ConfigMap") => strict::<core::ConfigMap>(&document),
                ("v1", "Service") => strict::<core::Service>(&document),
                ("apps/v1", "Deployment") => strict::<apps::Deployment>(&document),
                ("policy/v1", "PodDisruptionBudget") => strict::<policy::PodDisruptionBudget>(&document),
                ("rbac.authorization.k8s.io/v1", "ClusterRole") => strict::<rbac::ClusterRole>(&document),
                ("rbac.authorization.k8s.io/v1", "Role") => strict::<rbac::Role>(&document),
                ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
                    strict::<rbac::ClusterRoleBinding>(&document)
                }
                ("rbac.authorization.k8s.io/v1", "RoleBinding") => strict::<rbac::RoleBinding>(&document),
                other => panic!("{file}: {other:?}"),
            };
            within(&document, &taken, &format!("{file}: {kind}"));
        }
    }
}

#[test]
fn the_pods_are_locked_up_and_their_parts_fit_together() {
    let deployment = &documents("deployment.yaml")[0];
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(deployment["spec"]["replicas"], 2);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    let container = &pod["containers"][0];
    for one in items(&pod["containers"]).chain(items(&pod["initContainers"])) {
        let context = &one["securityContext"];
        assert_eq!(context["readOnlyRootFilesystem"], true, "{one}");
        assert_eq!(context["allowPrivilegeEscalation"], false, "{one}");
        assert_eq!(context["capabilities"]["drop"][0], "ALL", "{one}");
        for mount in items(&one["volumeMounts"]) {
            let volume = items(&pod["volumes"]).any(|volume| volume["name"] == mount["name"]);
            assert!(volume, "no volume for {mount}");
        }
    }
    let ports: Vec<&str> = items(&container["ports"]).map(|port| text(&port["name"])).collect();
    for (probe, path) in [("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")] {
        assert_eq!(container[probe]["httpGet"]["path"], path);
        assert!(ports.contains(&text(&container[probe]["httpGet"]["port"])), "{probe}");
    }
    let budget = documents("poddisruptionbudget.yaml").remove(0);
    let selectors = documents("service.yaml").into_iter().map(|service| {
        for port in items(&service["spec"]["ports"]) {
            assert!(ports.contains(&text(&port["targetPort"])), "{port}");
        }
        service["spec"]["selector"].clone()
    });
    for selector in selectors.chain([budget["spec"]["selector"]["matchLabels"].clone()]) {
        for (name, value) in selector.as_object().unwrap() {
            assert_eq!(&labels[name], value, "{selector}");
        }
    }
}

/// The ConfigMap's files, with the test's folders instead of the pod's.
fn configuration(dir: &Path) -> PathBuf {
    let map = documents("configmap.yaml").remove(0);
    let d = dir.display().to_string();
    for (name, content) in map["data"].as_object().unwrap() {
        let here = text(content)
            .replace("/etc/kubeedge/config", &d)
            .replace("/run/kubeedge", &d)
            .replace("/var/lib/kubeedge", &d)
            .replace("/var/run/secrets/kubernetes.io/serviceaccount", &d);
        fs::write(dir.join(name), here).unwrap();
    }
    dir.join("cloudcore.yaml")
}

#[test]
fn the_configuration_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    let loaded = load::<CloudCoreConfig>(&configuration(dir.path())).unwrap();
    assert_eq!(loaded.warnings.len(), 0, "{:?}", loaded.warnings);
    let (config, deployment) = (loaded.config, documents("deployment.yaml").remove(0));
    let ports: Vec<u64> = items(&deployment["spec"]["template"]["spec"]["containers"][0]["ports"])
        .map(|port| port["containerPort"].as_u64().unwrap())
        .collect();
    let hub = &config.modules.cloud_hub;
    assert_eq!(ports[..2], [u64::from(hub.websocket.port), u64::from(hub.https.port)]);
    assert!(config.monitor_address().ends_with(&format!(":{}", ports[2])));
}

/// A cloudcore beside the cluster: harness's ports, the manifests' credentials.
pub(super) struct Beside {
    pub cloud: Cloud,
    pub kubeconfig: PathBuf,
    /// Its ServiceAccount's.
    pub token_file: PathBuf,
}

/// How a cloudcore stands beside the cluster.
#[derive(Default)]
struct Place<'a> {
    proxy: Option<&'a ApiProxy>,
    /// It finds what a pod of the cluster finds.
    in_pod: bool,
    own_root: bool,
}

/// A field of the cluster's admin kubeconfig.
fn admin_field(cluster: &Cloud, name: &str) -> String {
    let admin = fs::read_to_string(cluster.dir.join("admin.conf")).unwrap();
    let line = admin.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}: ")));
    line.unwrap_or_else(|| panic!("{name} in admin.conf")).trim_matches('"').to_owned()
}

/// A cluster with the namespace and the rights of the manifests.
pub(super) fn cluster(dir: &Path) -> Cloud {
    let cluster = Cloud::start(dir, &[]);
    for file in ["namespace.yaml", "rbac.yaml"] {
        cluster.kubectl().run(&["apply", "-f", repository("deploy/kubernetes").join(file).to_str().unwrap()]);
    }
    cluster
}

/// A new token of cloudcore's ServiceAccount.
pub(super) fn token(cluster: &Cloud) -> String {
    let args = ["create", "token", "cloudcore", "-n", "kubeedge", "--duration=1h"];
    cluster.kubectl().run(&args).trim().to_owned()
}

/// What stands between a cloudcore and the API server of `cluster`.
pub(super) fn proxy(cluster: &Cloud) -> ApiProxy {
    let server = admin_field(cluster, "server");
    let port = server.rsplit(':').next().and_then(|port| port.parse().ok()).unwrap();
    ApiProxy::to(port, &fs::read_to_string(cluster.dir.join("ca/rootCA.crt")).unwrap())
}

impl Beside {
    pub fn start(cluster: &Cloud, dir: &Path, settings: &[&str]) -> Self {
        Self::launch(cluster, &Place::default(), dir, settings).ready()
    }

    /// The same; its API server is the proxy.
    pub fn behind(cluster: &Cloud, proxy: &ApiProxy, dir: &Path, settings: &[&str]) -> Self {
        Self::launch(cluster, &Place { proxy: Some(proxy), ..Place::default() }, dir, settings).ready()
    }

    /// The same, with what a pod of the cluster finds: two variables and three files.
    pub fn in_pod(cluster: &Cloud, proxy: &ApiProxy, dir: &Path, settings: &[&str]) -> Self {
        let place = Place { proxy: Some(proxy), in_pod: true, own_root: false };
        Self::launch(cluster, &place, dir, settings).ready()
    }

    /// One that makes a root CA of its own. Waits for nothing.
    pub fn stranger(cluster: &Cloud, dir: &Path) -> Self {
        Self::launch(cluster, &Place { own_root: true, ..Place::default() }, dir, &[])
    }

    fn ready(mut self) -> Self {
        self.cloud.wait_ready();
        self
    }

    fn launch(cluster: &Cloud, place: &Place<'_>, dir: &Path, settings: &[&str]) -> Self {
        let Place { proxy, in_pod, own_root } = *place;
        // One root for all that use an API: the Secret of the manifests. (The cluster is a cloudcore here.)
        fs::create_dir_all(dir.join("ca")).unwrap();
        for file in ["rootCA.crt", "rootCA.key"].into_iter().filter(|_| !own_root) {
            fs::copy(cluster.dir.join("ca").join(file), dir.join("ca").join(file)).unwrap();
        }
        let files = tempfile::tempdir_in(dir).unwrap().keep();
        configuration(&files);
        let (server, ca) = match proxy {
            Some(proxy) => (format!("https://127.0.0.1:{}", proxy.port), proxy.ca_pem.clone()),
            None => {
                let ca = fs::read_to_string(cluster.dir.join("ca/rootCA.crt")).unwrap();
                (admin_field(cluster, "server"), ca)
            }
        };
        fs::write(files.join("ca.crt"), ca).unwrap();
        let path = files.join("kubeconfig");
        let kubeconfig = fs::read_to_string(&path).unwrap();
        fs::write(&path, kubeconfig.replace("https://kubernetes.default.svc", &server)).unwrap();
        let token_file = files.join("token");
        fs::write(&token_file, token(cluster)).unwrap();
        fs::write(files.join("namespace"), "kubeedge").unwrap();
        let setting = match in_pod {
            true => "kubeAPIConfig.inCluster=true".to_owned(),
            false => format!("kubeAPIConfig.kubeConfig={}", path.display()),
        };
        let settings: Vec<&str> = settings.iter().copied().chain([setting.as_str()]).collect();
        let port = proxy.map_or(0, |proxy| proxy.port);
        let pod = format!(
            "mount -t tmpfs none /run && mkdir -p /run/secrets/kubernetes.io/serviceaccount \
             && mount --bind {} /run/secrets/kubernetes.io/serviceaccount \
             && exec env KUBERNETES_SERVICE_HOST=127.0.0.1 KUBERNETES_SERVICE_PORT={port} \"$0\" \"$@\"",
            files.display()
        );
        let under: &[&str] = if in_pod { &["unshare", "--mount", "sh", "-c", &pod] } else { &[] };
        let cloud = Cloud::launch(under, dir, &settings);
        // The tests' kubectl asks as the administrator of the cluster.
        fs::copy(cluster.dir.join("admin.conf"), dir.join("admin.conf")).unwrap();
        Self { cloud, kubeconfig: path, token_file }
    }

    /// What the cluster did not allow.
    pub fn refusals(&self) -> Vec<String> {
        let log = self.cloud.process.log();
        let refused = |line: &&str| {
            let line = line.to_lowercase();
            // A number alone may be a part of a time.
            line.contains("forbidden") || line.contains("code: 403")
        };
        log.lines().filter(refused).map(str::to_owned).collect()
    }

    pub fn connected(&self) -> bool {
        let Ok((_, metrics)) = http("GET", &self.cloud.monitor, "/metrics", &[]) else { return false };
        metrics.lines().any(|line| line == "kubeedge_cloudhub_connected_nodes 1")
    }
}

const VOLUMES: &str = "
  volumes:
  - { name: words, configMap: { name: words } }
  - { name: key, secret: { secretName: key } }
";

#[test]
fn two_cloudcores_work_with_the_rights_of_the_manifests_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = Containerd::start();
    let cluster = cluster(&dir.path().join("cluster"));
    let kubectl = cluster.kubectl();
    let mut first = Beside::start(&cluster, &dir.path().join("one"), &[]);
    let edge = Edge::join(&first.cloud, &dir.path().join("e"), "edge-1", runtime.socket(), &[]);
    let mut mapper = Command::new(env!("CARGO_BIN_EXE_mapper-sim"));
    mapper.arg("--dmi-socket").arg(&edge.dmi_socket);
    let _mapper = Process::start("mapper-sim", dir.path(), &mut mapper);

    kubectl.apply(&format!("{WORDS_AND_KEY}{}{VOLUMES}", sleeper("one", "")));
    kubectl.run(&["apply", "-f", repository("config/examples/thermometer.yaml").to_str().unwrap()]);
    kubectl.wait_running("one");
    until("the thermometer's value is in the API", PATIENCE, || {
        let path = "jsonpath={.status.twins[?(@.propertyName==\"temperature\")].reported.value}";
        match kubectl.try_run(&["get", "devicestatus", "thermometer-1", "-o", path])? {
            value if value.is_empty() => Err("none yet".to_owned()),
            _ => Ok(()),
        }
    });
    kubectl.run(&["delete", "pod", "one", "--timeout=30s"]);
    kubectl.wait_gone("pod/one");
    assert_eq!(first.refusals(), Vec::<String>::new());

    // The rights end somewhere.
    let itself = Kubectl::at(&first.kubeconfig, &dir.path().join("home"));
    for (verb, object, want) in [
        ("list", "secrets", "yes"),
        ("delete", "nodes", "no"),
        ("update", "secrets", "no"),
        ("create", "clusterrolebindings", "no"),
    ] {
        let asked = itself.output(&["auth", "can-i", verb, object, "-A"]);
        let said = String::from_utf8_lossy(&asked.stdout);
        assert_eq!(said.split_whitespace().next(), Some(want), "{verb} {object}: {asked:?}");
    }

    // The other replica has the same root and its own issuing CA, and stands behind the same address.
    let other = dir.path().join("two");
    fs::create_dir_all(other.join("ca")).unwrap();
    let tokens = "ca/join-token.key";
    fs::copy(first.cloud.dir.join(tokens), other.join(tokens)).unwrap();
    let port = |name: &str, port: u16| format!("modules.cloudHub.{name}.port={port}");
    let ports = [port("websocket", first.cloud.hub_port), port("https", first.cloud.join_port)];
    first.cloud.process.terminate(PATIENCE);
    let second = Beside::start(&cluster, &other, &[&ports[0], &ports[1]]);
    until("the edge is connected to the other one", PATIENCE, || {
        if second.connected() { Ok(()) } else { Err("not yet".to_owned()) }
    });
    kubectl.apply(&sleeper("two", VOLUMES.trim_start_matches('\n')));
    kubectl.wait_running("two");
    assert_eq!(second.refusals(), Vec::<String>::new());
}
