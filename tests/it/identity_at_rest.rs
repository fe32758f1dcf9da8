//! What a stolen disk gives away, and to whom files are open: after real use, with pods that are not
//! root and still must read what is theirs.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::harness::process::{PATIENCE, until};
use super::main_job::{World, sleeper};

/// base64 of `correct horse battery staple`, as a Secret holds it.
const VALUE: &str = "Y29ycmVjdCBob3JzZSBiYXR0ZXJ5IHN0YXBsZQ==";

/// A pod that mounts the secret, its token and a hostPath that is not there yet, as this user.
fn reader(name: &str, made: &Path, security: &str) -> String {
    sleeper(
        name,
        &format!(
            "    env: [{{ name: PASSWORD, valueFrom: {{ secretKeyRef: {{ name: keys, key: password }} }} }}]
    volumeMounts:
    - {{ name: keys, mountPath: /keys }}
    - {{ name: scratch, mountPath: /scratch }}
    - {{ name: made, mountPath: /made }}
  securityContext: {security}
  volumes:
  - {{ name: keys, secret: {{ secretName: keys }} }}
  - {{ name: scratch, emptyDir: {{}} }}
  - {{ name: made, hostPath: {{ path: {}, type: DirectoryOrCreate }} }}
",
            made.display()
        ),
    )
}

const TOKEN: &str = "cat /var/run/secrets/kubernetes.io/serviceaccount/token";

/// Everything the pod was promised is readable for its user, and what it may write is writable.
fn works(world: &World, pod: &str) -> String {
    let sh = |script: &str| world.runtime.exec(pod, "main", &["/bin/sh", "-c", script]);
    assert_eq!(
        sh("cat /keys/password; echo $PASSWORD"),
        "correct horse battery staplecorrect horse battery staple\n"
    );
    assert_eq!(sh("echo mine > /scratch/file && cat /scratch/file && ls /made"), "mine\n", "{pod}");
    assert!(sh("cat /etc/hosts").contains("localhost"), "{pod}");
    let token = sh(TOKEN);
    assert_eq!(token.split('.').count(), 3, "{pod}: {token}");
    token.trim().to_owned()
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            // RocksDB removes files of its own while we look.
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            if meta.is_dir() {
                folders.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

/// Names of files below `dir` that hold `text`.
fn holding(dir: &Path, text: &str) -> Vec<PathBuf> {
    let holds = |path: &PathBuf| {
        fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
    };
    below(dir).into_iter().filter(holds).collect()
}

/// Files and folders below `dir` that are open to anybody but their owner.
fn open_to_others(dir: &Path) -> Vec<String> {
    let mut open = Vec::new();
    for path in below(dir) {
        let Ok(meta) = fs::symlink_metadata(&path) else { continue };
        let mode = meta.permissions().mode() & 0o7777;
        if !meta.is_symlink() && mode & 0o077 != 0 {
            open.push(format!("{mode:o} {}", path.display()));
        }
    }
    open
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|err| panic!("{}: {err}", path.display())).permissions().mode() & 0o7777
}

#[test]
fn a_stolen_disk_gives_no_secret_away_and_pods_still_read_theirs() {
    // As an older version wrote: plain.
    let mut world = World::with(&[], &["identity.encryptSecrets=false"]);
    let kubectl = world.kubectl();
    kubectl.run(&[
        "create",
        "secret",
        "generic",
        "keys",
        "--from-literal=password=correct horse battery staple",
    ]);
    let made = world.dir.path().join("made/deep");
    kubectl.apply(&reader("as-root", &made, "{}"));
    kubectl.apply(&reader("as-user", &made, "{ runAsUser: 1000, runAsGroup: 1000, runAsNonRoot: true }"));
    kubectl.apply(&reader("as-group", &made, "{ runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000 }"));
    let pods = ["as-root", "as-user", "as-group"];
    for pod in pods {
        kubectl.wait_running(pod);
    }
    let token = works(&world, "as-root");
    let (dir, data) = (world.edge.dir.clone(), world.edge.dir.join("edge"));
    assert_ne!(holding(&data.join("store"), VALUE), Vec::<PathBuf>::new(), "the search finds what is plain");
    assert!(!dir.join("certs/store.key").exists(), "no key is made where nothing is encrypted");

    // This version: what lies there is rewritten, and no old copy stays.
    world.edge.process.terminate(PATIENCE);
    world.edge.restart(&[]);
    world.edge.wait_ready();
    kubectl.wait_node("edge-1", "True");
    kubectl.apply(&reader("fresh", &made, "{ runAsUser: 1000, runAsGroup: 1000 }"));
    kubectl.wait_running("fresh");
    let tokens: Vec<String> =
        pods.iter().chain(&["fresh"]).map(|pod| works(&world, pod)).chain([token]).collect();
    for text in tokens.iter().map(String::as_str).chain([VALUE, "correct horse battery staple"]) {
        assert_eq!(holding(&data, text), Vec::<PathBuf>::new(), "while it runs: {text}");
    }

    // Files: the store, the logs and the keys are root's alone, on both sides.
    assert_eq!(open_to_others(&data), Vec::<String>::new());
    assert_eq!(open_to_others(&world.cloud.dir.join("cloud")), Vec::<String>::new());
    for key in ["certs/store.key", "certs/server.key", "edge/audit.head"] {
        assert_eq!(mode(&dir.join(key)), 0o600, "{key}");
    }
    assert_eq!(mode(&dir.join("kubelet")) & 0o007, 0, "volumes of pods are reached through mounts only");
    assert_eq!(mode(&made), 0o755, "a hostPath that was made is open, as the kubelet makes it");
    assert_eq!(mode(&dir.join("pods-logs")), 0o755, "collectors of logs need not be root");
    let socket = fs::metadata(&world.edge.dmi_socket).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o777, 0o660);

    // The disk is taken while nothing runs.
    world.edge.process.terminate(PATIENCE);
    for text in tokens.iter().map(String::as_str).chain([VALUE]) {
        assert_eq!(holding(&data, text), Vec::<PathBuf>::new(), "at rest: {text}");
    }
    let audit = Command::new(env!("CARGO_BIN_EXE_keadm"))
        .args(["audit", "verify", "--config"])
        .arg(dir.join("edgecore.yaml"))
        .output()
        .unwrap();
    assert!(audit.status.success(), "{audit:?}");
}

#[test]
fn without_its_key_file_only_the_secrets_are_lost_and_the_cloud_sends_them_again() {
    let mut world = World::start();
    let kubectl = world.kubectl();
    kubectl.run(&[
        "create",
        "secret",
        "generic",
        "keys",
        "--from-literal=password=correct horse battery staple",
    ]);
    kubectl.run(&["create", "configmap", "conf", "--from-literal=text=kept"]);
    let made = world.dir.path().join("made");
    kubectl.apply(&reader("before", &made, "{}"));
    kubectl.wait_running("before");
    works(&world, "before");
    let before =
        kubectl.json(&["get", "pod", "before"])["status"]["containerStatuses"][0]["containerID"].clone();

    let key = world.edge.dir.join("certs/store.key");
    let right = fs::read(&key).unwrap();
    world.edge.process.terminate(PATIENCE);
    fs::remove_file(&key).unwrap();
    world.edge.restart(&[]);
    world.edge.wait_ready();
    kubectl.wait_node("edge-1", "True");
    let log = world.edge.process.log();
    assert!(log.contains("another key") && log.contains("certs/store.key"), "{}", world.edge.process.tail());
    assert_ne!(fs::read(&key).unwrap(), right, "a new key was made");

    // Pods are kept, the secret comes again, and a new pod gets it.
    kubectl.apply(&reader("after", &made, "{}"));
    kubectl.wait_running("after");
    works(&world, "after");
    works(&world, "before");
    let after =
        kubectl.json(&["get", "pod", "before"])["status"]["containerStatuses"][0]["containerID"].clone();
    assert_eq!(before, after, "the running pod was left alone");

    // A file that is no key stops the start by name: replacing it would lose the right one for good.
    world.edge.process.terminate(PATIENCE);
    fs::write(&key, "not a key").unwrap();
    world.edge.restart(&[]);
    world.edge.process.wait(PATIENCE);
    let why = "certs/store.key: a key for secrets at rest has 32 bytes";
    until("the file is named", PATIENCE, || match world.edge.process.log() {
        log if log.contains(why) => Ok(()),
        log => Err(log),
    });
}
