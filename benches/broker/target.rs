//! What is measured: a broker started for the occasion, or one that runs already.

use std::net::TcpStream;
use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::process::{Process, free_port};

const PATIENCE: Duration = Duration::from_secs(30);
/// What a start leaves behind is over by then.
const SETTLE: Duration = Duration::from_millis(500);

/// A column of the tables.
#[derive(Debug, Clone)]
pub struct Target {
    pub name: String,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    Mosquitto,
    Ours,
    /// Runs elsewhere; memory and CPU only with its process id.
    Running {
        address: String,
        pid: Option<u32>,
    },
}

impl FromStr for Target {
    type Err = String;

    /// `mosquitto`, `ours`, or `NAME=` one of these or `HOST:PORT[@PID]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, what) = text.split_once('=').unwrap_or((text, text));
        let kind = match what {
            "mosquitto" => Kind::Mosquitto,
            "ours" => Kind::Ours,
            other => {
                let (address, pid) = other.split_once('@').unwrap_or((other, ""));
                if !address.contains(':') {
                    return Err(format!("{other:?} is neither mosquitto, ours, nor HOST:PORT[@PID]"));
                }
                let wrong = |err| format!("{pid:?} is no process id: {err}");
                let pid = if pid.is_empty() { None } else { Some(pid.parse().map_err(wrong)?) };
                Kind::Running { address: address.into(), pid }
            }
        };
        Ok(Self { name: name.into(), kind })
    }
}

/// A broker that takes connections. Ends on drop if it was started here.
pub struct Broker {
    pub address: String,
    pub pid: Option<u32>,
    _process: Option<Process>,
    _dir: TempDir,
}

impl Target {
    /// Starts it, fresh, and waits until it listens.
    ///
    /// # Errors
    /// It ended, or does not listen in time; with the end of its log.
    pub fn start(&self) -> Result<Broker, String> {
        let dir = tempfile::tempdir().map_err(|err| err.to_string())?;
        let port = free_port();
        let mut command = match &self.kind {
            Kind::Running { address, pid } => {
                return Ok(Broker { address: address.clone(), pid: *pid, _process: None, _dir: dir });
            }
            Kind::Mosquitto => mosquitto(&dir, port),
            Kind::Ours => ours(&dir, port)?,
        };
        let mut process = Process::start(&self.name, dir.path(), &mut command);
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if !process.is_running() {
                return Err(format!("{} ended\n{}", self.name, process.tail()));
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("{} serves no MQTT on port {port}\n{}", self.name, process.tail()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(SETTLE);
        let pid = Some(process.pid());
        Ok(Broker { address: format!("127.0.0.1:{port}"), pid, _process: Some(process), _dir: dir })
    }
}

/// Debian's, with no limit at which it would drop, and nothing kept on disk (`persistence` is off
/// unless configured).
fn mosquitto(dir: &TempDir, port: u16) -> Command {
    let file = dir.path().join("mosquitto.conf");
    let config = format!(
        "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence false\nlog_type error\n\
         max_inflight_messages 1000\nmax_queued_messages 0\nset_tcp_nodelay true\n"
    );
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new("/usr/sbin/mosquitto");
    command.arg("-c").arg(file);
    command
}

/// edgecore with its internal broker, no cloud and no container runtime; the same freedom for queues.
fn ours(dir: &TempDir, port: u16) -> Result<Command, String> {
    let binary = option_env!("CARGO_BIN_EXE_edgecore").ok_or("built without edgecore: use cargo bench")?;
    let (d, nowhere, monitor) = (dir.path().display(), free_port(), free_port());
    let config = format!(
        "apiVersion: edgecore.config.kubeedge.io/v1alpha2
kind: EdgeCore
dataDir: {d}/edge
commonConfig:
  monitorServer: {{ bindAddress: '127.0.0.1:{monitor}' }}
modules:
  console: {{ enable: false }}
  edgeHub:
    token: none
    tlsCaFile: {d}/ca/rootCA.crt
    tlsCertFile: {d}/certs/server.crt
    tlsPrivateKeyFile: {d}/certs/server.key
    bootstrapFile: {d}/bootstrap-edgecore.conf
    httpServer: https://127.0.0.1:{nowhere}
    websocket: {{ server: '127.0.0.1:{nowhere}' }}
  eventBus:
    mqttMode: 0
    mqttServerInternal: tcp://127.0.0.1:{port}
    mqttSessionQueueSize: 1000000
    internal: {{ maxClientBytes: 268435456, maxMemoryBytes: 1073741824 }}
  edged:
    hostnameOverride: bench
    nodeIP: 127.0.0.1
    rootDirectory: {d}/kubelet
    tailoredKubeletConfig:
      containerRuntimeEndpoint: unix://{d}/nobody.sock
      podLogsDir: {d}/pods-logs
"
    );
    let file = dir.path().join("edgecore.yaml");
    std::fs::write(&file, config).unwrap();
    let mut command = Command::new(binary);
    command.arg("--config").arg(file);
    Ok(command)
}
