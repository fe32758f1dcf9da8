//! docs/DEVICES.md, typed in as it stands there: only ports and folders are
//! this test's own.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use kubeedge::config::{EdgeCoreConfig, parse};
use serde_json::Value;

use super::harness::cluster::Edge;
use super::harness::process::{PATIENCE, eventually, free_port, until};
use super::main_job::World;
use super::reader::{page, repository};

fn section() -> String {
    page("docs/DEVICES.md", None)
}

/// The fenced blocks of a language that come after a line.
fn blocks(text: &str, after: &str, language: &str) -> Vec<String> {
    let part = text.split_once(after).unwrap_or_else(|| panic!("no {after:?} on the page")).1;
    let parts = part.split("```").collect::<Vec<_>>();
    let fenced = parts.chunks(2).filter_map(|pair| pair.get(1));
    fenced.filter_map(|block| block.strip_prefix(&format!("{language}\n")).map(str::to_owned)).collect()
}

/// A shell of the user's: the repository is its folder, the programs are in its PATH.
struct Shell {
    dir: PathBuf,
    kubeconfig: PathBuf,
    path: String,
    /// What is different here than on a machine of one's own.
    here: Vec<(String, String)>,
}

impl Shell {
    fn new(world: &World, here: Vec<(String, String)>) -> Self {
        let dir = world.dir.path().join("user");
        fs::create_dir_all(dir.join("bin")).unwrap();
        let kubectl = std::env::var("KUBECTL").unwrap_or_else(|_| "kubectl".into());
        if kubectl.contains('/') {
            std::os::unix::fs::symlink(kubectl, dir.join("bin/kubectl")).unwrap();
        }
        let programs = Path::new(env!("CARGO_BIN_EXE_mapper-sim")).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{}:{path}", dir.join("bin").display(), programs.display());
        Self { dir, kubeconfig: world.cloud.dir.join("admin.conf"), path, here }
    }

    fn command(&self, script: &str) -> Command {
        let mut script = script.to_owned();
        for (there, here) in &self.here {
            script = script.replace(there, here);
        }
        // What a program prints into a file would stay in its buffer.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "bash", "-euo", "pipefail", "-c", &script]);
        command.current_dir(repository()).env("HOME", &self.dir).env("PATH", &self.path);
        command.env("KUBECONFIG", &self.kubeconfig);
        command.env("KUBEEDGE_CACHE", std::env::var_os("KUBEEDGE_CACHE").unwrap_or_else(super::demo::cache));
        command
    }

    fn run(&self, block: &str) -> String {
        let out = self.command(block).stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        assert!(out.status.success(), "{block}\n{said}\n{}", String::from_utf8_lossy(&out.stderr));
        said
    }

    /// A block for another terminal: its last line goes on until the terminal is closed.
    fn open(&self, block: &str, name: &str) -> Terminal {
        let block = block.strip_prefix("# another terminal\n").expect("it says so").trim_end();
        let (before, last) = block.rsplit_once('\n').unwrap_or(("", block));
        let log = self.dir.join(format!("{name}.log"));
        let out = File::create(&log).unwrap();
        let mut command = self.command(&format!("{before}\nexec {last}"));
        command.stdin(Stdio::piped()).stdout(out.try_clone().unwrap()).stderr(out);
        let mut child = command.spawn().unwrap();
        Terminal { stdin: child.stdin.take().unwrap(), child, log }
    }
}

struct Terminal {
    child: Child,
    stdin: ChildStdin,
    log: PathBuf,
}

impl Terminal {
    fn type_in(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").unwrap();
    }

    fn wait_for(&self, parts: &[&str]) {
        until(&format!("{parts:?} in {}", self.log.display()), PATIENCE, || {
            let text = fs::read_to_string(&self.log).unwrap();
            let found = text.lines().any(|line| parts.iter().all(|part| line.contains(part)));
            if found { Ok(()) } else { Err(text) }
        });
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn pairs<const N: usize>(pairs: [(&str, String); N]) -> Vec<(String, String)> {
    pairs.into_iter().map(|(there, here)| (there.to_owned(), here)).collect()
}

#[test]
fn every_command_of_the_page_works() {
    let mut world = World::start();
    let kubectl = world.kubectl();
    let text = section();
    let (plc_port, plc_yaml) = (free_port(), world.dir.path().join("plc.yaml"));
    let plc = fs::read_to_string(repository().join("config/examples/plc.yaml")).unwrap();
    fs::write(&plc_yaml, plc.replace("port: 1502", &format!("port: {plc_port}"))).unwrap();
    let socket = format!("--dmi-socket {}", world.edge.dmi_socket.display());
    let shell = Shell::new(
        &world,
        pairs([
            ("exec mapper-sim", format!("exec mapper-sim {socket}")),
            ("exec mapper-modbus", format!("exec mapper-modbus {socket}")),
            ("config/examples/plc.yaml", plc_yaml.display().to_string()),
            ("modbus_server.py 1502", format!("modbus_server.py {plc_port}")),
            ("-p 1884", format!("-p {}", world.edge.broker.0)),
            ("127.0.0.1:9092", world.edge.monitor.clone()),
            // A busy machine is slower than a reader's.
            ("--timeout=30s", "--timeout=180s".to_owned()),
            ("--timeout=60s", "--timeout=180s".to_owned()),
        ]),
    );
    let commands = blocks(&text, "", "sh");
    let [sim, thermometer, modbus, server, plc, lamp, listen, publish, passwords, export] =
        commands.as_slice()
    else {
        panic!("the page has other blocks now: {commands:#?}");
    };

    let _sim = shell.open(sim, "mapper-sim");
    let seen = shell.run(thermometer);
    for word in ["simulated", "devicestatus.devices.kubeedge.io/thermometer-1", "condition met"] {
        assert!(seen.contains(word), "no {word:?} in\n{seen}");
    }
    let seen = shell.run(export);
    assert!(seen.contains("thermometer-1") && seen.contains("property="), "{seen}");

    let _modbus = shell.open(modbus, "mapper-modbus");
    let mut server = shell.open(server, "plc");
    server.wait_for(&[&plc_port.to_string()]);
    assert!(text.contains("type `set input 0 215` into it"));
    server.type_in("set input 0 215");
    let seen = shell.run(plc);
    assert!(seen.contains("condition met") && seen.contains("1500"), "{seen}");
    let warm = "{.status.twins[?(@.propertyName==\"temperature\")].reported.value}";
    kubectl.wait_for("devicestatus/plc-1", warm, "21.5", PATIENCE);
    server.type_in("get holding 0 1");
    server.wait_for(&["[1500]"]);

    shell.run(lamp);
    let listener = shell.open(listen, "mosquitto_sub");
    // Somebody who changes terminals is slower than all of this.
    kubectl.wait_for("devicestatus/lamp-1", "{.status.twins[0].observedDesired.value}", "on", PATIENCE);
    eventually("mosquitto_sub is subscribed", || {
        world.edge.broker.publish("$hw/events/device/default/lamp-1/hello", "hello");
        fs::read_to_string(&listener.log).unwrap().contains("hello")
    });
    shell.run(publish);
    listener.wait_for(&["twin/update/result", "\"off\""]);
    listener.wait_for(&["twin/update/document", "\"current\""]);
    listener.wait_for(&["twin/update/delta", "\"delta\":{\"power\":\"on\"}"]);
    listener.wait_for(&["state/update/result", "\"online\""]);
    listener.wait_for(&["twin/update/delta", "\"delta\":{\"power\":\"dim\"}"]);
    kubectl.wait_for("devicestatus/lamp-1", "{.status.state}", "online", PATIENCE);
    kubectl.wait_for("devicestatus/lamp-1", "{.status.twins[0].reported.value}", "off", PATIENCE);

    let file = world.dir.path().join("mqtt-passwords").display().to_string();
    let here = pairs([("/etc/kubeedge/mqtt-passwords", file.clone())]);
    Shell { here, ..shell }.run(passwords);
    let yaml = blocks(&text, "## Who may use the broker inside", "yaml").remove(0);
    let yaml = yaml.replace("/etc/kubeedge/mqtt-passwords", &file);
    the_doors_are_as_described(
        &mut world.edge,
        &yaml.replace("0.0.0.0:8883", &format!("127.0.0.1:{}", free_port())),
    );
}

fn the_doors_are_as_described(edge: &mut Edge, yaml: &str) {
    let said: Value = yaml_serde::from_str(yaml).unwrap();
    let file = edge.dir.join("edgecore.yaml");
    let mut config: Value = yaml_serde::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    config["modules"]["eventBus"]["internal"] = said["modules"]["eventBus"]["internal"].clone();
    // JSON is YAML.
    fs::write(&file, config.to_string()).unwrap();
    edge.process.terminate(PATIENCE);
    edge.restart(&[]);
    edge.wait_ready();
    let publish = |user: &[&str], topic: &str| {
        let common = ["-V", "mqttv5", "-q", "1", "-m", "{}", "-t", topic];
        let out = edge.broker.try_publish(&[&common[..], user].concat());
        // It says so and ends well when a publish is not authorised.
        out.status.success() && !String::from_utf8_lossy(&out.stderr).to_lowercase().contains("not auth")
    };
    let (alice, lamp) = (["-u", "alice", "-P", "secret"], ["-u", "device/default/lamp-1", "-P", "secret"]);
    eventually("the passwords are read", || publish(&alice, "home/alice/a"));
    assert!(!publish(&alice, "home/bob/a"), "not hers");
    assert!(!publish(&["-u", "alice", "-P", "wrong"], "home/alice/a"), "a wrong password");
    assert!(!publish(&[], "home/alice/a"), "without a name");
    assert!(publish(&lamp, "$hw/events/device/default/lamp-1/twin/get"), "its own topic");
    assert!(!publish(&lamp, "$hw/events/device/default/lamp-2/twin/get"), "another device's topic");
}

#[test]
fn every_config_of_the_page_is_one() {
    let configs = blocks(&section(), "", "yaml");
    assert_eq!(configs.len(), 2);
    for yaml in configs {
        let header = "apiVersion: edgecore.config.kubeedge.io/v1alpha2\nkind: EdgeCore\n";
        let loaded = parse::<EdgeCoreConfig>(&format!("{header}{yaml}"), "docs/DEVICES.md", &[]).unwrap();
        assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    }
}
