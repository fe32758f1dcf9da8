//! edgecore as an MQTT broker, without a cloud or a container runtime, and clients that are not ours.
#![allow(dead_code, reason = "the benchmark shares this harness")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use super::mosquitto::Mqtt;
use super::peer;
use super::process::{PATIENCE, Process, free_port, http, until};

/// edgecore with its broker; nothing else of it finds what it looks for.
pub struct Broker {
    pub dir: PathBuf,
    pub process: Process,
    pub port: u16,
    pub monitor: String,
}

impl Broker {
    /// Starts edgecore under `dir` and waits until its broker takes connections, if it has one.
    /// `event_bus` is the section `modules.eventBus` in YAML, indented by four.
    pub fn start(dir: &Path, event_bus: &str) -> Self {
        fs::create_dir_all(dir).unwrap();
        let (port, d) = (free_port(), dir.display());
        let monitor = format!("127.0.0.1:{}", free_port());
        let config = format!(
            "apiVersion: edgecore.config.kubeedge.io/v1alpha2
kind: EdgeCore
dataDir: {d}/edge
identity: {{ workloadApiSocket: {d}/spiffe/spiffe.sock }}
commonConfig:
  monitorServer: {{ bindAddress: '{monitor}', enableFaultInjection: true }}
modules:
  console: {{ bindAddress: '127.0.0.1:0' }}
  edgeHub:
    tlsCaFile: {d}/ca/rootCA.crt
    tlsCertFile: {d}/certs/server.crt
    tlsPrivateKeyFile: {d}/certs/server.key
    bootstrapFile: {d}/bootstrap-edgecore.conf
    httpServer: https://127.0.0.1:1
    websocket: {{ server: '127.0.0.1:1' }}
  eventBus:
    mqttServerInternal: tcp://127.0.0.1:{port}
{event_bus}
  deviceTwin: {{ dmiSockPath: {d}/dmi.sock }}
  edged:
    hostnameOverride: edge-1
    nodeIP: 127.0.0.1
    rootDirectory: {d}/kubelet
    tailoredKubeletConfig:
      containerRuntimeEndpoint: unix://{d}/none.sock
      podLogsDir: {d}/pods-logs
"
        );
        fs::write(dir.join("edgecore.yaml"), config).unwrap();
        let process = Self::spawn(dir);
        let mut broker = Self { dir: dir.to_owned(), process, port, monitor };
        broker.wait();
        broker
    }

    fn spawn(dir: &Path) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_edgecore"));
        command.arg("--config").arg(dir.join("edgecore.yaml"));
        Process::start("edgecore", dir, &mut command)
    }

    pub fn restart(&mut self) {
        self.process = Self::spawn(&self.dir.clone());
        self.wait();
    }

    fn wait(&mut self) {
        let (monitor, process) = (self.monitor.clone(), &mut self.process);
        until("edgecore runs", PATIENCE, || {
            assert!(process.is_running(), "edgecore ended\n{}", process.tail());
            http("GET", &monitor, "/healthz", &[]).map(|_| ())
        });
    }

    /// A figure of `/metrics`; 0 while it is not there.
    pub fn metric(&self, name: &str) -> f64 {
        let (_, text) = http("GET", &self.monitor, "/metrics", &[]).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_default()
    }

    pub fn publish(&self, args: &[&str]) -> Output {
        Mqtt(self.port).try_publish(args)
    }

    /// Starts `mosquitto_sub -v`; its log is what it got. Comes back when it is subscribed.
    pub fn subscribe(&self, name: &str, args: &[&str]) -> Process {
        Mqtt(self.port).run_sub(&self.dir, name, &[&["-v"], args].concat())
    }
}

/// Lines of a `mosquitto_sub` log that are messages.
pub fn messages(process: &Process) -> Vec<String> {
    let own = ["Client ", "Subscribed (", "Warning:", "Error:", "Connection "];
    let log = process.log();
    log.lines().filter(|line| !own.iter().any(|start| line.starts_with(start))).map(str::to_owned).collect()
}

/// Runs a Python script with paho-mqtt.
pub fn python(dir: &Path, script: &str, args: &[&str]) -> Output {
    let file = dir.join("script.py");
    fs::write(&file, script).unwrap();
    Command::new(peer::python()).arg(&file).args(args).output().unwrap()
}
