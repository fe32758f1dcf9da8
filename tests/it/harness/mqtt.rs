//! The field's own MQTT clients: mosquitto_pub and mosquitto_sub, and Mosquitto itself.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::process::{PATIENCE, Process, free_port, until};

/// A broker on loopback, ours or Mosquitto's.
#[derive(Debug, Clone, Copy)]
pub struct Broker(pub u16);

impl Broker {
    fn client(self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(["-h", "127.0.0.1", "-p", &self.0.to_string()]);
        command
    }

    /// `mosquitto_pub` with further arguments.
    pub fn try_publish(self, args: &[&str]) -> Output {
        let out = self.client("mosquitto_pub").args(args).output();
        out.unwrap_or_else(|e| panic!("cannot run mosquitto_pub: {e} (deploy/tools.sh test installs it)"))
    }

    /// Publishes with QoS 1 and waits for the acknowledgement.
    pub fn publish(self, topic: &str, payload: &str) {
        let out = self.try_publish(&["-q", "1", "-t", topic, "-m", payload]);
        assert!(out.status.success(), "mosquitto_pub {topic}: {out:?}");
    }

    /// Publishes every line as a message with QoS 1 over one connection.
    pub fn publish_lines(self, topic: &str, lines: &[String]) {
        let mut command = self.client("mosquitto_pub");
        command.args(["-q", "1", "-l", "-t", topic]).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all((lines.join("\n") + "\n").as_bytes()).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success(), "mosquitto_pub -l {topic}: {status}");
    }

    /// A running `mosquitto_sub`, once its subscription is acknowledged.
    pub fn subscribe(self, dir: &Path, topics: &[&str]) -> Listener {
        let name = format!("mosquitto_sub-{}", uuid::Uuid::new_v4());
        fs::create_dir_all(dir).unwrap();
        // Its output is a file: it would keep lines to itself.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", &self.0.to_string()]);
        command.args(["-d", "-q", "1", "-F", "%t %p"]);
        topics.iter().for_each(|topic| {
            command.args(["-t", topic]);
        });
        let listener = Listener { process: Process::start(&name, dir, &mut command) };
        until("the subscription is acknowledged", PATIENCE, || {
            let log = listener.process.log();
            if log.contains("Subscribed (mid") { Ok(()) } else { Err(log) }
        });
        listener
    }
}

/// What a `mosquitto_sub` has received.
pub struct Listener {
    process: Process,
}

impl Listener {
    /// (topic, payload) of every message so far.
    pub fn messages(&self) -> Vec<(String, String)> {
        let log = self.process.log();
        let lines = log.lines().filter(|l| !l.starts_with("Client ") && !l.starts_with("Subscribed "));
        lines.filter_map(|line| line.split_once(' ')).map(|(t, p)| (t.to_owned(), p.to_owned())).collect()
    }

    /// Waits for a message whose topic ends so and whose payload has all these parts.
    pub fn wait_for(&self, topic_end: &str, parts: &[&str]) -> String {
        until(&format!("a message on ..{topic_end} with {parts:?}"), PATIENCE, || {
            let fits = |(topic, payload): &(String, String)| {
                topic.ends_with(topic_end) && parts.iter().all(|part| payload.contains(part))
            };
            let messages = self.messages();
            messages.iter().find(|message| fits(message)).map(|(_, payload)| payload.clone()).ok_or_else(
                || {
                    let last: Vec<_> = messages.iter().rev().take(5).collect();
                    format!("{} messages, the last {last:?}", messages.len())
                },
            )
        })
    }
}

/// Debian's Mosquitto on a free port.
pub struct Mosquitto {
    process: Process,
    dir: PathBuf,
    pub broker: Broker,
}

impl Mosquitto {
    /// Starts it with a persistent store in `dir`.
    pub fn start(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        let port = free_port();
        let d = dir.display();
        let config = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\n\
             persistence_location {d}/\nautosave_on_changes true\nautosave_interval 1\n"
        );
        fs::write(dir.join("mosquitto.conf"), config).unwrap();
        Self { process: Self::run(dir, port), dir: dir.to_owned(), broker: Broker(port) }
    }

    fn run(dir: &Path, port: u16) -> Process {
        let mut command = Command::new("/usr/sbin/mosquitto");
        command.arg("-c").arg(dir.join("mosquitto.conf"));
        let process = Process::start("mosquitto", dir, &mut command);
        until("mosquitto listens", PATIENCE, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|e| e.to_string())
        });
        process
    }

    pub fn stop(&mut self) {
        self.process.terminate(PATIENCE);
    }

    pub fn restart(&mut self) {
        self.process = Self::run(&self.dir, self.broker.0);
    }
}
