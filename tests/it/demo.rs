//! `make demo` after its build: the scripts a newcomer runs first, from nothing to a pod, and back.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::harness::process::PATIENCE;

/// Runs a demo script on the programs under test.
fn script(name: &str, dir: &Path) -> Output {
    let repo = Path::new(env!("CARGO_MANIFEST_DIR"));
    let programs = Path::new(env!("CARGO_BIN_EXE_edgecore")).parent().unwrap();
    Command::new(repo.join("deploy/demo").join(name))
        .env("KUBEEDGE_DEMO_DIR", dir)
        .env("KUBEEDGE_BIN_DIR", programs)
        .output()
        .unwrap()
}

/// Stops the demo whatever happens to the test.
struct Demo<'a>(&'a Path);

impl Drop for Demo<'_> {
    fn drop(&mut self) {
        if self.0.join("pids").exists() {
            script("down.sh", self.0);
        }
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A line of shell as the demo prints it, with the kubeconfig it tells to export.
fn shell(dir: &Path, line: &str) -> Output {
    let kubectl = std::env::var("KUBECTL").expect("KUBECTL names a kubectl, see the Makefile");
    Command::new("bash")
        .args(["-c", &format!("kubectl() {{ {kubectl} \"$@\"; }}; {line}")])
        .env("KUBECONFIG", dir.join("etc/kubeedge/admin.conf"))
        .output()
        .unwrap()
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn the_demo_runs_a_pod_says_what_to_try_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let demo = Demo(dir);
    let up = script("up.sh", dir);
    let said = text(&up);
    assert!(up.status.success(), "{said}");

    // Every command it says to try next works as it stands.
    let hints = said.lines().map(str::trim);
    let commands = hints.filter(|line| ["kubectl ", "curl ", "tail "].iter().any(|c| line.starts_with(c)));
    let commands: Vec<&str> = commands.collect();
    assert!(commands.len() >= 5, "{said}");
    for command in commands {
        let done = shell(dir, command);
        assert!(done.status.success(), "{command}: {}", text(&done));
        assert!(!done.stdout.is_empty(), "{command} says nothing");
    }
    // So do those that break things: each first word block is a command up to the wide gap.
    for kill in said.lines().map(str::trim).filter(|line| line.starts_with("kill ")) {
        let command = kill.split("   ").next().unwrap();
        let done = shell(dir, command);
        assert!(done.status.success(), "{command}: {}", text(&done));
        until("everything is back", || {
            let nodes = shell(dir, "kubectl wait --for=condition=Ready node/edge-1 pod/hello --timeout=1s");
            nodes.status.success()
        });
    }

    let again = script("up.sh", dir);
    assert!(!again.status.success());
    assert!(text(&again).contains("make demo-down"), "{}", text(&again));
    let down = script("down.sh", dir);
    assert!(down.status.success(), "{}", text(&down));
    assert!(!dir.join("pids").exists());
    drop(demo);
}
