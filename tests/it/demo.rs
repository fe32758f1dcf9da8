//! `make demo` as a newcomer runs it, in a folder, on ports and in a network of its own: the
//! script, every command that its text tells to try, and its end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::harness::cluster::Kubectl;
use super::harness::containerd::take_subnet;
use super::harness::process::{PATIENCE, free_port, http, until};

/// The demo in a folder, on ports and in a network of its own; stopped when the test lets go of it.
pub struct Demo {
    pub dir: PathBuf,
    home: PathBuf,
    /// As `KUBEEDGE_DEMO_PORTS` has them.
    pub ports: String,
    bridge: String,
    network: String,
    _folder: tempfile::TempDir,
    _subnet: File,
}

impl Demo {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (number, subnet) = take_subnet();
        let ports: Vec<String> = (0..8).map(|_| free_port().to_string()).collect();
        Self {
            dir: folder.path().join("demo"),
            home: folder.path().join("home"),
            ports: ports.join(" "),
            bridge: format!("ketest{number}"),
            network: format!("ketest{number} 10.89.{number}.0/24"),
            _folder: folder,
            _subnet: subnet,
        }
    }

    pub fn bash(&self, args: &[&str]) -> Output {
        let programs = Path::new(env!("CARGO_BIN_EXE_cloudcore")).parent().unwrap();
        fs::create_dir_all(&self.home).unwrap();
        Command::new("bash")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .env("HOME", &self.home)
            .env("KUBEEDGE_CACHE", std::env::var_os("KUBEEDGE_CACHE").unwrap_or_else(cache))
            .env("KUBEEDGE_DEMO_DIR", &self.dir)
            .env("KUBEEDGE_DEMO_PORTS", &self.ports)
            .env("KUBEEDGE_DEMO_NETWORK", &self.network)
            .env("KUBEEDGE_DEMO_PATIENCE", "6")
            .env("KUBEEDGE_BIN_DIR", programs)
            .args(args)
            .output()
            .unwrap()
    }

    /// Runs lines of the demo's text as somebody types them.
    pub fn type_in(&self, lines: &[String]) -> String {
        let script = format!("set -euo pipefail; shopt -s expand_aliases\n{}\n", lines.join("\n"));
        let out = self.bash(&["-c", &script]);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{script}\n{said}\n{}", String::from_utf8_lossy(&out.stderr));
        said
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.bash(&["deploy/demo/down.sh"]);
    }
}

/// Where deploy/tools.sh keeps kubectl, for a script with another HOME.
pub fn cache() -> std::ffi::OsString {
    let below = |name: &str, rest: &str| std::env::var_os(name).map(|dir| Path::new(&dir).join(rest));
    let base = below("XDG_CACHE_HOME", "").or_else(|| below("HOME", ".cache")).unwrap();
    base.join("kubeedge-rs").into_os_string()
}

/// The commands of a part of the text: indented lines, without the remark behind them, and with the patience of a test.
fn commands(text: &str, after: &str) -> Vec<String> {
    let part = text.split_once(after).unwrap_or_else(|| panic!("no {after:?} in\n{text}")).1;
    let lines = part.lines().skip(2).take_while(|line| !line.is_empty());
    let commands = lines.map(|line| line.trim().split("    ").next().unwrap());
    commands.map(|line| line.replace("--timeout=30s", "--timeout=180s").replace("-W 30", "-W 180")).collect()
}

#[test]
fn the_demo_does_what_its_text_says() {
    let demo = Demo::new();
    let up = demo.bash(&["deploy/demo/up.sh"]);
    let text = String::from_utf8_lossy(&up.stdout).into_owned();
    assert!(up.status.success(), "{text}\n{}", String::from_utf8_lossy(&up.stderr));

    let look = commands(&text, "It runs. Look around:");
    assert!(look.len() >= 8, "{look:?}");
    // Events come a moment after what they tell of: somebody who misses one looks again.
    until("all is to be seen", PATIENCE, || {
        let seen = demo.type_in(&look);
        let pod = ["edge-1", "Ready", "EdgeReady", "Started", "hello from pod hello on node edge-1"];
        let device = ["thermometer-1", "simulated", "propertyName: temperature", "state: online"];
        match pod.iter().chain(&device).find(|word| !seen.contains(**word)) {
            Some(word) => Err(format!("no {word:?} in\n{seen}")),
            None => Ok(()),
        }
    });
    let kubeconfig = look.first().unwrap();
    let devices = |after: &str| {
        let lines = commands(&text, after);
        assert!(lines.len() >= 2, "{lines:?}");
        demo.type_in(&[std::slice::from_ref(kubeconfig), &lines[..]].concat())
    };
    let thermostat = devices("Want 23 degrees, and see the thermostat take it:");
    assert!(thermostat.contains("condition met"), "{thermostat}");
    let consoles = devices(
        "Watch all of this in a browser: this prints the console's address and a token to sign in with (edge: that of the edge):",
    );
    let pages: Vec<&str> = consoles.lines().filter_map(|line| line.strip_prefix("URL    http://")).collect();
    assert_eq!((pages.len(), consoles.matches("\ntoken  ").count()), (2, 2), "{consoles}");
    for page in pages {
        let (address, path) = page.split_at(page.find('/').unwrap());
        assert_eq!(http("GET", address, path, &[]).unwrap().0, 200, "{page}");
    }
    let lamp = devices(
        "Be the lamp, a device that speaks MQTT itself (mosquitto_rr publishes, and waits for an answer):",
    );
    for word in ["\"delta\":{\"power\":\"on\"}", "\"delta\":{\"power\":\"dim\"}", "lamp-1   online"] {
        assert!(lamp.contains(word), "no {word:?} in\n{lamp}");
    }
    let again = demo.bash(&["deploy/demo/up.sh"]);
    assert!(String::from_utf8_lossy(&again.stderr).contains("make demo-down"), "{again:?}");

    let kubectl = Kubectl::at(&demo.dir.join("etc/kubeedge/admin.conf"), &demo.home);
    let container = || {
        let path =
            "jsonpath={.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
        kubectl.try_run(&["get", "pod", "hello", "-o", path])
    };
    let before = container().unwrap();
    let twin = |device: &str, path: &str| {
        kubectl.try_run(&["get", "devicestatus", device, "-o", &format!("jsonpath={path}")])
    };
    let breaks = commands(&text, "Break it, and watch it come back (kubectl get pods,nodes,devicestatuses):");
    let [edge, cloud, mapper, process] = breaks.as_slice() else { panic!("{breaks:?}") };
    for (program, line) in [("edgecore", edge), ("cloudcore", cloud), ("mapper-sim", mapper)] {
        let pid = || fs::read_to_string(demo.dir.join(format!("log/{program}.pid"))).unwrap();
        let old = pid();
        demo.type_in(std::slice::from_ref(line));
        until(&format!("{program} is started again"), PATIENCE, || {
            if pid() == old { Err(old.clone()) } else { Ok(()) }
        });
        until("the API answers", PATIENCE, container);
        kubectl.wait_node("edge-1", "True");
        kubectl.wait_running("hello");
        assert_eq!(container().unwrap(), before, "the container did not notice");
        let lamp = twin("lamp-1", "{.status.state} {.status.twins[0].reported.value}");
        assert_eq!(lamp.unwrap(), "online off", "no value is lost");
        // The mapper tells the temperature of now, with its time, once it has the device again.
        let told = "{.status.twins[?(@.propertyName==\"temperature\")].reported.metadata.timestamp}";
        let when = || twin("thermometer-1", told).map(|ms| ms.parse::<u64>().unwrap_or_default());
        let killed = when().unwrap();
        until(&format!("the thermometer goes on after {program}"), PATIENCE, || match when()? {
            now if now > killed => Ok(()),
            now => Err(format!("{now}")),
        });
    }
    // The third line kills by name; here only the process of this demo is ended.
    let pattern = process.split('\'').nth(1).unwrap_or_else(|| panic!("{process}"));
    let named = Command::new("pgrep").args(["-f", pattern]).output().unwrap();
    let socket = demo.dir.join("containerd.sock");
    let tasks =
        Command::new("ctr").arg("-a").arg(&socket).args(["-n", "k8s.io", "tasks", "ls"]).output().unwrap();
    let (named, tasks) = (String::from_utf8(named.stdout).unwrap(), String::from_utf8(tasks.stdout).unwrap());
    let ours: Vec<&str> = named
        .lines()
        .filter(|pid| tasks.lines().any(|task| task.split_whitespace().nth(1) == Some(pid)))
        .collect();
    assert_eq!(ours.len(), 1, "{process} finds {named:?}, the demo runs\n{tasks}");
    demo.type_in(&[format!("kill -9 {}", ours[0])]);
    kubectl.wait_for("pod/hello", "{.status.containerStatuses[0].restartCount}", "1", PATIENCE);
    kubectl.wait_running("hello");

    let pages: Vec<&str> = text
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("http://")?.strip_suffix("/actors"))
        .collect();
    assert_eq!(pages.len(), 2, "{text}");
    for address in pages {
        for path in ["/actors", "/metrics", "/readyz"] {
            assert_eq!(http("GET", address, path, &[]).unwrap().0, 200, "{address}{path}");
        }
    }

    let down = demo.bash(&["deploy/demo/down.sh"]);
    assert!(down.status.success() && !demo.dir.exists(), "{down:?}");
    assert!(!Path::new("/sys/class/net").join(&demo.bridge).exists());
    let left = Command::new("pgrep").args(["-f", &format!("{}/", demo.dir.display())]).output().unwrap();
    assert!(left.stdout.is_empty(), "still running: {}", String::from_utf8_lossy(&left.stdout));
}
