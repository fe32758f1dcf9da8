//! The real programs, wired on free ports under one temporary folder.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::Value;

use super::mosquitto::Mqtt;
use super::process::{PATIENCE, Process, free_port, http, program, until};

/// For cloudcores with edges that are played by hand: those say no keepalives, and their sessions would end for that.
pub const PATIENT: &str = "modules.cloudHub.keepaliveInterval=600";

/// cloudcore with its embedded API.
pub struct Cloud {
    pub dir: PathBuf,
    pub process: Process,
    pub hub_port: u16,
    pub join_port: u16,
    pub monitor: String,
    /// `host:port` of its console.
    pub console: String,
    /// The command that starts it, before its own words.
    under: Vec<String>,
}

impl Cloud {
    /// Starts cloudcore under `dir` and waits until it is ready. `settings` are further `--set`s.
    pub fn start(dir: &Path, settings: &[&str]) -> Self {
        Self::start_under(&[], dir, settings)
    }

    /// The same, started by another command, which must become it.
    pub fn start_under(under: &[&str], dir: &Path, settings: &[&str]) -> Self {
        let mut cloud = Self::launch(under, dir, settings);
        cloud.wait_ready();
        cloud
    }

    /// The same, and waits for nothing.
    pub fn launch(under: &[&str], dir: &Path, settings: &[&str]) -> Self {
        fs::create_dir_all(dir).unwrap();
        let (hub_port, join_port, api_port) = (free_port(), free_port(), free_port());
        let monitor = format!("127.0.0.1:{}", free_port());
        let console = format!("127.0.0.1:{}", free_port());
        let d = dir.display();
        let config = format!(
            "apiVersion: cloudcore.config.kubeedge.io/v1alpha1
kind: CloudCore
dataDir: {d}/cloud
commonConfig:
  monitorServer: {{ bindAddress: '{monitor}', enableFaultInjection: true }}
modules:
  console: {{ bindAddress: '{console}' }}
  apiServer: {{ address: 127.0.0.1, port: {api_port}, kubeconfig: {d}/admin.conf }}
  cloudHub:
    advertiseAddress: [127.0.0.1]
    dnsNames: [localhost]
    tlsCAFile: {d}/ca/rootCA.crt
    tlsCAKeyFile: {d}/ca/rootCA.key
    tlsCertFile: {d}/certs/server.crt
    tlsPrivateKeyFile: {d}/certs/server.key
    websocket: {{ address: 127.0.0.1, port: {hub_port} }}
    https: {{ address: 127.0.0.1, port: {join_port} }}
"
        );
        fs::write(dir.join("cloudcore.yaml"), config).unwrap();
        let under: Vec<String> = under.iter().map(|word| (*word).to_owned()).collect();
        let process = Self::spawn(&under, dir, settings, &[]);
        Self { dir: dir.to_owned(), process, hub_port, join_port, monitor, console, under }
    }

    fn spawn(under: &[String], dir: &Path, settings: &[&str], env: &[(&str, PathBuf)]) -> Process {
        let own = program(env!("CARGO_BIN_EXE_cloudcore")).into_os_string();
        let mut words = under.iter().map(OsString::from).chain([own.clone()]);
        let mut command = Command::new(words.next().unwrap_or(own));
        command.args(words).arg("--config").arg(dir.join("cloudcore.yaml")).envs(env.iter().cloned());
        for setting in settings {
            command.args(["--set", setting]);
        }
        Process::start("cloudcore", dir, &mut command)
    }

    /// Starts it again on the same folder and ports.
    pub fn restart(&mut self, settings: &[&str]) {
        self.restart_with(settings, &[]);
    }

    /// The same with more in its environment.
    pub fn restart_with(&mut self, settings: &[&str], env: &[(&str, PathBuf)]) {
        self.process = Self::spawn(&self.under, &self.dir, settings, env);
        self.wait_ready();
    }

    /// The same, waiting for nothing.
    pub fn respawn(&mut self, settings: &[&str]) {
        self.process = Self::spawn(&self.under, &self.dir, settings, &[]);
    }

    pub fn wait_ready(&mut self) {
        let monitor = self.monitor.clone();
        let process = &mut self.process;
        until("cloudcore is ready", PATIENCE, || {
            assert!(process.is_running(), "cloudcore ended\n{}", process.tail());
            ready(&monitor)
        });
    }

    /// A fresh join token from keadm.
    pub fn token(&self) -> String {
        let out = Command::new(program(env!("CARGO_BIN_EXE_keadm")))
            .args(["gettoken", "--config"])
            .arg(self.dir.join("cloudcore.yaml"))
            .output()
            .unwrap();
        assert!(out.status.success(), "{out:?}");
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    }

    pub fn kubectl(&self) -> Kubectl {
        Kubectl::at(&self.dir.join("admin.conf"), &self.dir.join("home"))
    }
}

/// The user's own kubectl.
pub struct Kubectl {
    binary: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
}

impl Kubectl {
    pub fn at(kubeconfig: &Path, home: &Path) -> Self {
        let binary = std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into()).into();
        Self { binary, kubeconfig: kubeconfig.to_owned(), home: home.to_owned() }
    }

    /// The same user with another kubectl and a home of its own.
    pub fn with(&self, binary: &Path) -> Self {
        let name = binary.file_name().unwrap_or_default();
        Self { binary: binary.to_owned(), home: self.home.join(name), kubeconfig: self.kubeconfig.clone() }
    }

    pub fn output(&self, args: &[&str]) -> Output {
        fs::create_dir_all(&self.home).unwrap();
        self.command(args).output().unwrap_or_else(|e| {
            panic!("cannot run {}: {e} (deploy/tools.sh test installs it)", self.binary.display())
        })
    }

    /// Starts it and leaves it running; its output is the log of the process.
    pub fn spawn(&self, args: &[&str], name: &str) -> Process {
        fs::create_dir_all(&self.home).unwrap();
        Process::start(name, &self.home, &mut self.command(args))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.env("HOME", &self.home).env("KUBECONFIG", &self.kubeconfig).args(args);
        command
    }

    /// Runs it and gives its stdout, or stderr as the error.
    pub fn try_run(&self, args: &[&str]) -> Result<String, String> {
        let mut left = 3;
        loop {
            let out = self.output(args);
            if out.status.success() {
                return Ok(String::from_utf8(out.stdout).unwrap());
            }
            let why = String::from_utf8_lossy(&out.stderr).into_owned();
            // On a busy machine; nothing was sent yet, so asking again does nothing twice.
            if left == 0 || !why.contains("TLS handshake timeout") {
                return Err(why);
            }
            left -= 1;
        }
    }

    pub fn run(&self, args: &[&str]) -> String {
        self.try_run(args).unwrap_or_else(|e| panic!("kubectl {}: {e}", args.join(" ")))
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        serde_json::from_str(&self.run(&all)).unwrap()
    }

    /// `kubectl apply -f -`.
    pub fn apply(&self, yaml: &str) -> String {
        self.try_apply(yaml).unwrap_or_else(|e| panic!("kubectl apply: {e}"))
    }

    /// The same, for what may be refused.
    pub fn try_apply(&self, yaml: &str) -> Result<String, String> {
        let file = self.home.join(format!("{}.yaml", uuid::Uuid::new_v4()));
        fs::create_dir_all(&self.home).unwrap();
        fs::write(&file, yaml).unwrap();
        // apply's own annotation would not fit beside a large object.
        let verb = if yaml.len() > 100_000 { "create" } else { "apply" };
        self.try_run(&[verb, "-f", file.to_str().unwrap()])
    }

    /// Writes a file into its home and returns the path.
    pub fn file(&self, name: &str, text: &str) -> String {
        let file = self.home.join(name);
        fs::create_dir_all(&self.home).unwrap();
        fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// `kubectl edit` with a sed script for an editor.
    pub fn edit(&self, object: &str, script: &str) -> String {
        let mut command = self.command(&["edit", object]);
        let out = command.env("KUBE_EDITOR", format!("sed -i {script}")).output().unwrap();
        assert!(out.status.success(), "kubectl edit {object}: {out:?}");
        String::from_utf8(out.stdout).unwrap()
    }

    /// Waits until a jsonpath of an object has this value.
    pub fn wait_for(&self, object: &str, jsonpath: &str, want: &str, patience: Duration) {
        let path = format!("jsonpath={jsonpath}");
        until(&format!("{object} {jsonpath} = {want}"), patience, || {
            let is = self.try_run(&["get", object, "-o", &path])?;
            if is == want { Ok(()) } else { Err(format!("it is {is:?}")) }
        });
    }

    pub fn wait_running(&self, pod: &str) {
        self.wait_for(&format!("pod/{pod}"), "{.status.phase}", "Running", PATIENCE);
        let ready = "{.status.conditions[?(@.type==\"Ready\")].status}";
        self.wait_for(&format!("pod/{pod}"), ready, "True", PATIENCE);
    }

    pub fn wait_node(&self, node: &str, ready: &str) {
        let path = "{.status.conditions[?(@.type==\"Ready\")].status}";
        self.wait_for(&format!("node/{node}"), path, ready, PATIENCE);
    }

    pub fn wait_gone(&self, object: &str) {
        until(&format!("{object} is gone"), PATIENCE, || match self.try_run(&["get", object]) {
            Err(e) if e.contains("NotFound") => Ok(()),
            Err(e) => Err(e),
            Ok(_) => Err("it is still there".into()),
        });
    }
}

/// edgecore on a given container runtime.
pub struct Edge {
    pub dir: PathBuf,
    pub process: Process,
    pub monitor: String,
    /// `host:port` of its console.
    pub console: String,
    /// The broker inside.
    pub broker: Mqtt,
    pub dmi_socket: PathBuf,
}

impl Edge {
    /// Joins `cloud` with a fresh token and waits until the node is Ready in the API.
    pub fn join(cloud: &Cloud, dir: &Path, name: &str, runtime_socket: &Path, settings: &[&str]) -> Self {
        let edge = Self::start(cloud, dir, name, runtime_socket, &cloud.token(), settings);
        cloud.kubectl().wait_node(name, "True");
        edge
    }

    /// Starts edgecore with this token and waits for nothing.
    pub fn start(
        cloud: &Cloud,
        dir: &Path,
        name: &str,
        runtime_socket: &Path,
        token: &str,
        settings: &[&str],
    ) -> Self {
        Self::start_at((cloud.hub_port, cloud.join_port), dir, name, runtime_socket, token, settings)
    }

    /// The same with a cloud of somebody else's making: its ports on loopback, websocket and HTTPS.
    pub fn start_at(
        (hub, join): (u16, u16),
        dir: &Path,
        name: &str,
        runtime_socket: &Path,
        token: &str,
        settings: &[&str],
    ) -> Self {
        fs::create_dir_all(dir).unwrap();
        let monitor = format!("127.0.0.1:{}", free_port());
        let console = format!("127.0.0.1:{}", free_port());
        let (d, socket) = (dir.display(), runtime_socket.display());
        let mqtt = free_port();
        let config = format!(
            "apiVersion: edgecore.config.kubeedge.io/v1alpha2
kind: EdgeCore
dataDir: {d}/edge
identity: {{ workloadApiSocket: {d}/spiffe/spiffe.sock }}
commonConfig:
  monitorServer: {{ bindAddress: '{monitor}', enableFaultInjection: true }}
modules:
  console: {{ bindAddress: '{console}' }}
  edgeHub:
    heartbeat: 3
    tlsCaFile: {d}/ca/rootCA.crt
    tlsCertFile: {d}/certs/server.crt
    tlsPrivateKeyFile: {d}/certs/server.key
    bootstrapFile: {d}/bootstrap-edgecore.conf
    httpServer: https://127.0.0.1:{join}
    websocket: {{ server: '127.0.0.1:{hub}' }}
  eventBus: {{ mqttServerInternal: 'tcp://127.0.0.1:{mqtt}' }}
  deviceTwin: {{ dmiSockPath: {d}/dmi.sock }}
  edged:
    hostnameOverride: {name}
    nodeIP: 127.0.0.1
    rootDirectory: {d}/kubelet
    tailoredKubeletConfig:
      containerRuntimeEndpoint: unix://{socket}
      podLogsDir: {d}/pods-logs
"
        );
        fs::write(dir.join("edgecore.yaml"), config).unwrap();
        if !token.is_empty() {
            fs::write(dir.join("bootstrap-edgecore.conf"), token).unwrap();
        }
        let process = Self::spawn(dir, settings, &[]);
        let dmi_socket = dir.join("dmi.sock");
        Self { dir: dir.to_owned(), process, monitor, console, broker: Mqtt(mqtt), dmi_socket }
    }

    fn spawn(dir: &Path, settings: &[&str], env: &[(&str, PathBuf)]) -> Process {
        let mut command = Command::new(program(env!("CARGO_BIN_EXE_edgecore")));
        command.arg("--config").arg(dir.join("edgecore.yaml")).envs(env.iter().cloned());
        for setting in settings {
            command.args(["--set", setting]);
        }
        Process::start("edgecore", dir, &mut command)
    }

    /// Starts it again on the same folder.
    pub fn restart(&mut self, settings: &[&str]) {
        self.restart_with(settings, &[]);
    }

    /// The same with more in its environment.
    pub fn restart_with(&mut self, settings: &[&str], env: &[(&str, PathBuf)]) {
        self.process = Self::spawn(&self.dir.clone(), settings, env);
    }

    pub fn wait_ready(&mut self) {
        let monitor = self.monitor.clone();
        let process = &mut self.process;
        until("edgecore is ready", PATIENCE, || {
            assert!(process.is_running(), "edgecore ended\n{}", process.tail());
            ready(&monitor)
        });
    }
}

fn ready(monitor: &str) -> Result<(), String> {
    match http("GET", monitor, "/readyz", &[])? {
        (200, _) => Ok(()),
        (status, body) => Err(format!("{status} {body}")),
    }
}

/// The supervision tree as `/actors` shows it.
pub fn actors(monitor: &str) -> Value {
    let (status, body) = http("GET", monitor, "/actors", &[]).unwrap();
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}
