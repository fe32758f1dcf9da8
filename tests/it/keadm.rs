//! keadm as a user runs it: init, join, tokens, reset, and what it says when something is missing.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::harness::cluster::Kubectl;
use super::harness::containerd::Containerd;
use super::harness::process::PATIENCE;
use super::harness::process::{Process, free_port, http, until};

/// Runs keadm below `root`; its standard output, or its standard error.
fn keadm(root: &Path, args: &[&str]) -> Result<String, String> {
    let out = Command::new(env!("CARGO_BIN_EXE_keadm")).args(args).arg("--root").arg(root).output().unwrap();
    let (said, complaint) = (String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap());
    if out.status.success() { Ok(said) } else { Err(complaint) }
}

struct Ports {
    api: u16,
    hub: u16,
    join: u16,
    cloud_monitor: u16,
    edge_monitor: u16,
}

fn wait_ready(what: &str, port: u16, process: &mut Process) {
    until(&format!("{what} is ready"), PATIENCE, || {
        assert!(process.is_running(), "{}", process.tail());
        match http("GET", &format!("127.0.0.1:{port}"), "/readyz", &[])? {
            (200, _) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
}

/// `keadm init` with free ports, then cloudcore.
fn cloud(root: &Path, ports: &Ports) -> (Process, String) {
    let settings = [
        format!("modules.apiServer.port={}", ports.api),
        "modules.apiServer.address=127.0.0.1".to_owned(),
        format!("modules.cloudHub.websocket.port={}", ports.hub),
        "modules.cloudHub.websocket.address=127.0.0.1".to_owned(),
        format!("modules.cloudHub.https.port={}", ports.join),
        "modules.cloudHub.https.address=127.0.0.1".to_owned(),
        format!("commonConfig.monitorServer.bindAddress=127.0.0.1:{}", ports.cloud_monitor),
        "modules.console.bindAddress=127.0.0.1:0".to_owned(),
    ];
    let mut args = vec!["init", "--advertise-address", "127.0.0.1"];
    args.extend(settings.iter().flat_map(|setting| ["--set", setting.as_str()]));
    let said = keadm(root, &args).unwrap();
    let config = root.join("etc/kubeedge/config/cloudcore.yaml");
    let mut cloud = Process::start(
        "cloudcore",
        root,
        Command::new(env!("CARGO_BIN_EXE_cloudcore")).arg("--config").arg(config),
    );
    wait_ready("cloudcore", ports.cloud_monitor, &mut cloud);
    (cloud, said)
}

#[test]
fn from_init_to_reset() {
    let dir = tempfile::tempdir().unwrap();
    let (cloud_root, edge_root) = (dir.path().join("c"), dir.path().join("e"));
    fs::create_dir_all(&cloud_root).unwrap();
    fs::create_dir_all(&edge_root).unwrap();
    let ports = Ports {
        api: free_port(),
        hub: free_port(),
        join: free_port(),
        cloud_monitor: free_port(),
        edge_monitor: free_port(),
    };
    let mut runtime = Containerd::start();
    let (mut cloud, said) = cloud(&cloud_root, &ports);
    let kubectl = Kubectl::at(&cloud_root.join("etc/kubeedge/admin.conf"), &dir.path().join("home"));

    // What stands between a user and a joined node is said in one line each.
    let token = keadm(&cloud_root, &["gettoken"]).unwrap().trim().to_owned();
    let endpoint = runtime.endpoint();
    let at = format!("127.0.0.1:{}", ports.hub);
    let certport = ports.join.to_string();
    let closed = format!("127.0.0.1:{}", free_port());
    let other_ca = format!("{}{}", "0".repeat(64), &token[64..]);
    let base = ["join", "-e", &at, "-s", &certport, "-t", &token, "-i", "edge-1", "-p", &endpoint];
    let with = |position: usize, value: &str| {
        let mut args: Vec<String> = base.iter().map(|&word| word.to_owned()).collect();
        args[position] = value.to_owned();
        args
    };
    let forged = {
        let (body, signature) = token.rsplit_once('.').unwrap();
        let flipped = if signature.starts_with('A') { 'B' } else { 'A' };
        format!("{body}.{flipped}{}", &signature[1..])
    };
    let api = format!("127.0.0.1:{}", ports.api);
    let absent = format!("unix://{}/none.sock", dir.path().display());
    for (args, words) in [
        (with(10, &absent), ["container runtime", "none.sock"]),
        (with(2, &closed), ["--cloudcore-ipport", "cannot be reached"]),
        (with(6, &other_ca), ["--token", "another CA"]),
        (with(6, "nonsense"), ["--token", "malformed"]),
        (with(6, &forged), ["--token", "signature"]),
        (with(2, &api), ["--cloudcore-ipport", "is a Kubernetes API"]),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let complaint = keadm(&edge_root, &args).unwrap_err();
        assert!(words.iter().all(|word| complaint.contains(word)), "want {words:?}, got {complaint}");
        assert_eq!(complaint.trim_end().lines().count(), 1, "{complaint}");
    }
    assert!(!edge_root.join("etc/kubeedge").exists(), "nothing was written");
    let cni = runtime.hide_cni();
    let complaint = keadm(&edge_root, &base).unwrap_err();
    assert!(complaint.contains("NetworkReady is false") && complaint.contains("CNI"), "{complaint}");
    runtime.show_cni(cni);

    // The command that init printed, with the runtime of this test, joins.
    let printed =
        said.lines().find(|line| line.trim_start().starts_with("keadm join")).expect("a join command");
    let mut words: Vec<&str> = printed.split_whitespace().skip(1).collect();
    let monitor = format!("commonConfig.monitorServer.bindAddress=127.0.0.1:{}", ports.edge_monitor);
    words.extend([
        "-i",
        "edge-1",
        "-p",
        &endpoint,
        "--set",
        &monitor,
        "--set",
        "modules.console.bindAddress=127.0.0.1:0",
        "--set",
        "modules.edged.nodeIP=127.0.0.1",
    ]);
    let joined = keadm(&edge_root, &words).unwrap();
    for word in ["CNI: ready", "cgroup driver:", "clock:", "edgecore --config"] {
        assert!(joined.contains(word), "no {word:?} in\n{joined}");
    }
    let config = edge_root.join("etc/kubeedge/config/edgecore.yaml");
    let mut edge = Process::start(
        "edgecore",
        &edge_root,
        Command::new(env!("CARGO_BIN_EXE_edgecore")).arg("--config").arg(config),
    );
    kubectl.wait_node("edge-1", "True");
    let bootstrap = edge_root.join("etc/kubeedge/bootstrap-edgecore.conf");
    until("the used token is removed", PATIENCE, || {
        if bootstrap.exists() { Err("there".into()) } else { Ok(()) }
    });
    let complaint = keadm(&edge_root, &base).unwrap_err();
    assert!(complaint.contains("has joined"), "{complaint}");

    // A second machine cannot take the name.
    let complaint = keadm(&dir.path().join("other"), &base).unwrap_err();
    assert!(complaint.contains("the cloud already has a node edge-1"), "{complaint}");

    // Tokens are listed and end when they are told to.
    let list = keadm(&cloud_root, &["token", "list"]).unwrap();
    assert_eq!((list.matches(" good").count(), list.matches("used by edge-1").count()), (1, 1), "{list}");
    keadm(&cloud_root, &["token", "revoke", &token]).unwrap();
    let list = keadm(&cloud_root, &["token", "list"]).unwrap();
    assert_eq!((list.matches(" good").count(), list.matches(" revoked").count()), (0, 1), "{list}");
    let third = dir.path().join("third");
    until("a revoked token is refused", PATIENCE, || {
        drop(fs::remove_dir_all(&third));
        match keadm(&third, &with(8, "edge-3").iter().map(String::as_str).collect::<Vec<_>>()) {
            Err(complaint) if complaint.contains("--token") && complaint.contains("revoked") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });

    // Reset: not under a running program; then what join wrote is gone.
    let complaint = keadm(&edge_root, &["reset", "edge"]).unwrap_err();
    assert!(complaint.contains("seems to run"), "{complaint}");
    assert!(edge.terminate(PATIENCE).success(), "{}", edge.tail());
    keadm(&edge_root, &["reset", "edge", "--force"]).unwrap();
    let left: Vec<_> = fs::read_dir(edge_root.join("etc/kubeedge/config")).unwrap().collect();
    assert!(left.is_empty() && !edge_root.join("var/lib/kubeedge/edge").exists(), "{left:?}");
    assert!(cloud.terminate(PATIENCE).success(), "{}", cloud.tail());
    let kept = keadm(&cloud_root, &["reset", "cloud"]).unwrap();
    assert!(kept.contains("kept") && kept.contains("rootCA.crt"), "{kept}");
    let version = Command::new(env!("CARGO_BIN_EXE_keadm")).arg("version").output().unwrap();
    assert!(String::from_utf8_lossy(&version.stdout).contains(env!("CARGO_PKG_VERSION")));
}
