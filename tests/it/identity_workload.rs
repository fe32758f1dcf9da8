//! Identities for pods: SPIFFE clients that are not ours, inside real pods, with and without a cloud.
//!
//! The Rust client is this test program itself, started again inside a pod ([`inside_a_pod`]).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kubeedge::identity::{TrustBundle, cert_pem_from_der, sha256_hex, validity, verify_x509_svid};
use serde_json::{Value, json};
use spiffe::{WorkloadApiClient, X509Source};

use super::harness::peer::python;
use super::harness::process::{PATIENCE, until};
use super::main_job::{World, container_pid, sleeper};

const TRUST_DOMAIN: &str = "kubeedge.local";
/// What the client inside is to do; see [`inside_a_pod`].
const TASK: &str = "KUBEEDGE_TEST_TASK";
/// Its folder for answers, the same path inside and outside.
const OUT: &str = "KUBEEDGE_TEST_OUT";

fn id(path: &str) -> String {
    format!("spiffe://{TRUST_DOMAIN}{path}")
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// A program of this machine inside a pod: what it needs is mounted at the same paths, read-only.
struct Guest<'a> {
    name: &'a str,
    account: &'a str,
    /// First the program.
    command: Vec<String>,
    task: &'a str,
    out: &'a Path,
    /// Beside the system's libraries.
    folders: Vec<PathBuf>,
}

impl Guest<'_> {
    fn pod(&self) -> String {
        let real = |path: &str| fs::canonicalize(path).ok().map(|real| (real, PathBuf::from(path)));
        let system = ["/usr", "/lib", "/lib64"].into_iter().filter_map(real);
        let own = self.folders.iter().map(|folder| (folder.clone(), folder.clone()));
        let shown: Vec<(PathBuf, PathBuf)> = system.chain(own).collect();
        let volume = |n: usize, from: &Path| json!({"name": format!("v{n}"), "hostPath": {"path": from}});
        let mount = |n: usize, at: &Path, read_only: bool| json!({"name": format!("v{n}"), "mountPath": at, "readOnly": read_only});
        let mut volumes: Vec<Value> =
            shown.iter().enumerate().map(|(n, (from, _))| volume(n, from)).collect();
        let mut mounts: Vec<Value> =
            shown.iter().enumerate().map(|(n, (_, at))| mount(n, at, true)).collect();
        volumes.push(volume(shown.len(), self.out));
        mounts.push(mount(shown.len(), self.out, false));
        let env = [(TASK, self.task), (OUT, self.out.to_str().unwrap()), ("HOME", "/tmp")];
        let env: Vec<Value> = env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "labels": {"app": self.name},
                "annotations": {"identity.kubeedge.io/workload-api": "true"},
            },
            "spec": {
                "serviceAccountName": self.account,
                "terminationGracePeriodSeconds": 1,
                "containers": [{
                    "name": "main",
                    "image": "registry.local/hello:1",
                    "imagePullPolicy": "IfNotPresent",
                    "command": self.command,
                    "env": env,
                    "volumeMounts": mounts,
                }],
                "volumes": volumes,
            },
        })
        .to_string()
    }

    /// What it has said so far.
    fn said(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.out.join("said")).unwrap_or_default();
        // A line under way is not whole.
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn wait_said(&self, what: &str, world: &World, enough: impl Fn(&[Value]) -> bool) -> Vec<Value> {
        until(what, PATIENCE, || {
            let said = self.said();
            if enough(&said) {
                return Ok(said);
            }
            let logs = Command::new("grep").args(["-rh", ""]).arg(world.edge.dir.join("pods-logs")).output();
            let logs = String::from_utf8_lossy(&logs.unwrap().stdout).into_owned();
            Err(format!("said {said:?}\n{logs}\n{}", world.edge.process.tail()))
        })
    }
}

/// This test program as a guest.
fn ourselves<'a>(name: &'a str, account: &'a str, task: &'a str, out: &'a Path) -> Guest<'a> {
    let program = std::env::current_exe().unwrap();
    let folder = program.parent().unwrap().to_owned();
    let arguments = ["identity_workload::inside_a_pod", "--exact", "--ignored", "--nocapture"];
    let command = [program.to_str().unwrap()].iter().chain(&arguments).map(|&word| word.to_owned()).collect();
    Guest { name, account, command, task, out, folders: vec![folder] }
}

fn out(world: &World, name: &str) -> PathBuf {
    let out = world.dir.path().join(format!("out-{name}"));
    fs::create_dir_all(&out).unwrap();
    out
}

fn distinct(said: &[Value], key: &str) -> usize {
    said.iter().filter_map(|line| line[key].as_str()).collect::<BTreeSet<_>>().len()
}

/// Not a test of its own: the client in the pods of the tests below.
#[test]
#[ignore = "runs inside of a pod, started by the other tests"]
fn inside_a_pod() {
    use std::io::Write;
    let out = PathBuf::from(std::env::var(OUT).expect("started by another test"));
    let mut file = fs::File::options().create(true).append(true).open(out.join("said")).unwrap();
    let mut say = |line: Value| writeln!(file, "{line}").unwrap();
    let task = std::env::var(TASK).unwrap();
    block_on(async {
        match task.as_str() {
            // Holds a source for ever and tells every certificate it was given.
            "source" => {
                let source = X509Source::new().await.expect("a source");
                let mut updates = source.updated();
                loop {
                    let svid = source.svid().expect("the source is always usable");
                    let chain: Vec<String> =
                        svid.cert_chain().iter().map(|cert| cert_pem_from_der(cert.as_bytes())).collect();
                    say(json!({"id": svid.spiffe_id().to_string(), "chain": chain.concat(),
                        "leaf": sha256_hex(svid.leaf().as_bytes())}));
                    if updates.changed().await.is_err() {
                        return;
                    }
                }
            }
            // Tells what it gets, every second, and whether it gets what is another's.
            wanted => loop {
                let line = match WorkloadApiClient::connect_env().await {
                    Err(err) => json!({"error": err.to_string()}),
                    Ok(client) => {
                        let ids = client.fetch_all_x509_svids().await.map(|svids| {
                            svids.iter().map(|svid| svid.spiffe_id().to_string()).collect::<Vec<_>>()
                        });
                        let wanted = spiffe::SpiffeId::new(wanted).unwrap();
                        let other = client.fetch_jwt_svid(["api"], Some(&wanted)).await;
                        json!({"ids": ids.as_ref().ok(), "error": ids.as_ref().err().map(ToString::to_string),
                            "other": other.map(|svid| svid.token().to_owned()).map_err(|err| err.to_string()).err()})
                    }
                };
                say(line);
                tokio::time::sleep(Duration::from_secs(1)).await;
            },
        }
    });
}

/// The promise, with the `spiffe` crate's source: short-lived identities that nobody notices,
/// with the cloud, without it, and over a restart of edgecore.
#[test]
fn a_pods_identity_is_kept_fresh_with_and_without_the_cloud() {
    let mut world = World::with(&[], &["identity.workloadSvidTtlSecs=10"]);
    let kubectl = world.kubectl();
    kubectl.run(&["create", "serviceaccount", "till"]);
    let out = out(&world, "client");
    let client = ourselves("client", "till", "source", &out);
    kubectl.apply(&client.pod());
    let said = client.wait_said("three certificates", &world, |said| distinct(said, "leaf") >= 3);
    assert!(said.iter().all(|line| line["id"] == id("/ns/default/sa/till")), "{said:?}");
    openssl_agrees(&world, said.last().unwrap());
    let container = world.runtime.running("client", Some("main"));

    // Sockets and folders as they must be for pods of any user.
    let socket = world.edge.dir.join("spiffe/spiffe.sock");
    let mode = |path: &Path| fs::symlink_metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&socket), mode(socket.parent().unwrap())), (0o666, 0o755));

    world.cloud.process.kill9();
    let token = |world: &World| {
        let path = "/var/run/secrets/kubernetes.io/serviceaccount/token";
        world.runtime.exec("client", "main", &["/bin/cat", path])
    };
    let before = token(&world);
    world.edge.process.terminate(PATIENCE);
    world.edge.restart(&["identity.workloadSvidTtlSecs=10"]);
    let known = distinct(&client.said(), "leaf");
    let said = client
        .wait_said("certificates without the cloud", &world, |said| distinct(said, "leaf") >= known + 3);
    assert!(said.iter().all(|line| line["id"] == id("/ns/default/sa/till")), "{said:?}");
    assert_eq!(world.runtime.running("client", Some("main")), container, "the same container all the time");
    assert_eq!(token(&world), before, "the token it has for the API is still there");
    assert_eq!(before.split('.').count(), 3);

    // A pod that starts again without the cloud has everything too.
    let (_, text) = super::harness::process::http("GET", &world.edge.monitor, "/metrics", &[]).unwrap();
    for word in ["kubeedge_identity_streams 1", "kubeedge_identity_issued_total{kind=\"x509_svid\"}"] {
        assert!(text.contains(word), "no {word} in\n{text}");
    }
    let records = fs::read_to_string(world.edge.dir.join("edge/audit.log")).unwrap();
    assert!(records.lines().any(|line| line.contains("\"issue\"") && line.contains("sa/till")), "{records}");
}

/// OpenSSL walks the same chain for both purposes. Nobody looks at a clock: an identity of seconds may be over by now.
fn openssl_agrees(world: &World, said: &Value) {
    let chain = said["chain"].as_str().unwrap();
    let file = world.dir.path().join("chain.pem");
    fs::write(&file, chain).unwrap();
    let root = world.dir.path().join("c/ca/rootCA.crt");
    for purpose in ["sslclient", "sslserver"] {
        let checked = Command::new("openssl")
            .args(["verify", "-no_check_time", "-purpose", purpose, "-CAfile"])
            .arg(&root)
            .arg("-untrusted")
            .arg(&file)
            .arg(&file)
            .output()
            .expect("openssl");
        assert!(checked.status.success(), "{purpose}: {checked:?}");
    }
    let pem = fs::read_to_string(&root).unwrap();
    let bundle = TrustBundle::from_pem(TRUST_DOMAIN, &pem).unwrap();
    let ders: Vec<Vec<u8>> = chain
        .split_inclusive("-----END CERTIFICATE-----\n")
        .map(|pem| kubeedge::identity::cert_der_from_pem(pem).unwrap())
        .collect();
    let then = validity(&ders[0]).unwrap().not_before + Duration::from_secs(1);
    verify_x509_svid(&ders, &bundle, then).unwrap();
}

fn registration(name: &str, selectors: &Value) -> String {
    json!({
        "apiVersion": "identity.kubeedge.io/v1alpha1",
        "kind": "WorkloadIdentity",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"path": format!("/ns/default/{name}"), "selectors": selectors},
    })
    .to_string()
}

/// Registrations in the API reach the pod live; what is not the pod's it does not get; a process that
/// leaves its cgroup is nobody.
#[test]
fn a_pod_gets_what_is_registered_for_it_and_nothing_of_others() {
    let world = World::start();
    let kubectl = world.kubectl();
    kubectl.run(&["create", "serviceaccount", "cook"]);
    let out = out(&world, "impostor");
    let (other, own) = (id("/ns/default/sa/till"), id("/ns/default/sa/cook"));
    let client = ourselves("impostor", "cook", &other, &out);
    kubectl.apply(&client.pod());
    let last = |said: &[Value]| said.last().map(|line| line["ids"].clone()).unwrap_or_default();
    let said = client.wait_said("its own identity", &world, |said| last(said) == json!([own]));
    let refused = said.last().unwrap()["other"].as_str().unwrap_or_default().to_owned();
    assert!(refused.contains("no identity issued") || refused.to_lowercase().contains("denied"), "{refused}");

    let hash = sha256_hex(&fs::read(std::env::current_exe().unwrap()).unwrap());
    let exe = std::env::current_exe().unwrap();
    for (name, selectors) in [
        ("by-hash", json!({"sha256": hash})),
        ("by-path", json!({"path": exe, "uid": 0})),
        (
            "by-label",
            json!({"podLabels": {"app": "impostor"}, "container": "main", "serviceAccount": "cook"}),
        ),
        ("not-hash", json!({"sha256": "0".repeat(64)})),
        ("not-user", json!({"uid": 4711})),
        ("not-account", json!({"serviceAccount": "till"})),
    ] {
        kubectl.apply(&registration(name, &selectors));
    }
    let mut want: Vec<String> =
        ["by-hash", "by-label", "by-path"].iter().map(|name| id(&format!("/ns/default/{name}"))).collect();
    want.insert(0, own);
    let sorted = |said: &[Value]| {
        let mut ids: Vec<String> = serde_json::from_value(last(said)).unwrap_or_default();
        ids.get_mut(1..).unwrap_or_default().sort();
        ids
    };
    client.wait_said("what is registered", &world, |said| sorted(said) == want);
    kubectl.run(&["delete", "workloadidentity", "by-hash", "by-label", "by-path"]);
    client.wait_said("what is not registered any more", &world, |said| sorted(said).len() == 1);

    let container = world.runtime.running("impostor", Some("main")).pop().unwrap();
    leave_cgroups(container_pid(&world.runtime, &container));
    client.wait_said("a process outside of its pod's cgroup is nobody", &world, |said| {
        said.last().is_some_and(|line| line["ids"].is_null() && line["error"].is_string())
    });
}

/// Moves a process to the top of every hierarchy where it is a pod's.
fn leave_cgroups(pid: u32) {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let mount = Path::new("/sys/fs/cgroup");
    for line in text.lines().filter(|line| line.contains("kubepods")) {
        let controllers = line.split(':').nth(1).unwrap().trim_start_matches("name=");
        // Version 2 beside version 1 has a folder of its own.
        let version_2 = if mount.join("unified").exists() { "unified" } else { "" };
        let top =
            mount.join(if controllers.is_empty() { version_2 } else { controllers }).join("cgroup.procs");
        fs::write(&top, pid.to_string()).unwrap_or_else(|err| panic!("{}: {err}\n{text}", top.display()));
    }
}

/// A process of the host, and one that does not speak as it must.
#[test]
fn who_is_no_pod_gets_nothing() {
    let world = World::start();
    world.kubectl().apply(&sleeper("bystander", ""));
    world.kubectl().wait_running("bystander");
    let endpoint = format!("unix:{}", world.edge.dir.join("spiffe/spiffe.sock").display());
    block_on(async {
        until_known(&endpoint).await;
        let client = WorkloadApiClient::connect_to(&endpoint).await.unwrap();
        let x509 = client.fetch_x509_context().await.map(drop).unwrap_err();
        let jwt = client.fetch_jwt_svid(["api"], None).await.map(drop).unwrap_err();
        let bundles = client.fetch_x509_bundles().await.map(drop).unwrap_err();
        for refused in [x509, jwt, bundles] {
            let text = format!("{refused:?}");
            assert!(text.contains("NoIdentityIssued") || text.contains("PermissionDenied"), "{text}");
        }
    });
    let record = world.edge.dir.join("edge/audit.log");
    until("the refusal is on record", PATIENCE, || {
        let text = fs::read_to_string(&record).map_err(|err| err.to_string())?;
        let own = format!("process {}", std::process::id());
        if text.lines().any(|line| line.contains("\"refuse\"") && line.contains(&own)) {
            Ok(())
        } else {
            Err(text)
        }
    });
    // A pod that does not ask has no socket and no variable.
    let env = world.runtime.exec("bystander", "main", &["/bin/env"]);
    assert!(!env.contains("SPIFFE_ENDPOINT_SOCKET"), "{env}");
}

/// Until the node's own identity is there, everybody is told to come later.
async fn until_known(endpoint: &str) {
    for _ in 0..600 {
        if let Ok(client) = WorkloadApiClient::connect_to(endpoint).await {
            let Err(err) = client.fetch_x509_context().await else { return };
            let text = format!("{err:?}");
            if text.contains("NoIdentityIssued") || text.contains("PermissionDenied") {
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the Workload API is not served");
}

/// py-spiffe in a pod: another language's gRPC, X.509 and JWT code.
#[test]
fn python_in_a_pod_uses_its_identity() {
    let world = World::start();
    let kubectl = world.kubectl();
    kubectl.run(&["create", "serviceaccount", "snake"]);
    let out = out(&world, "python");
    let python = python();
    let base = Command::new(&python).args(["-c", "import sys; print(sys.base_prefix)"]).output().unwrap();
    let base = PathBuf::from(String::from_utf8(base.stdout).unwrap().trim());
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/harness");
    let venv = python.parent().and_then(Path::parent).unwrap().to_owned();
    let mut folders = vec![scripts.clone(), venv];
    if !base.starts_with("/usr") {
        folders.push(base);
    }
    let command = vec![python.display().to_string(), scripts.join("spiffe_client.py").display().to_string()];
    let client = Guest { name: "python", account: "snake", command, task: "-", out: &out, folders };
    kubectl.apply(&client.pod());
    let said = client.wait_said("its identity", &world, |said| !said.is_empty());
    let own = id("/ns/default/sa/snake");
    assert_eq!(said[0]["x509"], own, "{said:?}");
    assert_eq!(said[0]["jwt"], own);
    assert_eq!(said[0]["validated"], own, "by edgecore");
    assert_eq!(said[0]["checked"], own, "by py-spiffe, with the JWK set that is served");
    assert_eq!(said[0]["roots"], 1);
    assert!(said[0]["other"].as_str().is_some_and(|why| !why.is_empty()), "{said:?}");
}
