//! The field's own MQTT clients: mosquitto_pub and mosquitto_sub, and Mosquitto itself.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::process::{PATIENCE, Process, until};

/// A broker on loopback, ours or Mosquitto's.
#[derive(Debug, Clone, Copy)]
pub struct Mqtt(pub u16);

impl Mqtt {
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
        let mut args = vec!["-q", "1", "-F", "%t %p"];
        topics.iter().for_each(|topic| args.extend(["-t", topic]));
        Listener { process: self.run_sub(dir, &name, &args) }
    }

    /// `mosquitto_sub` with further arguments, once its subscription is acknowledged. `-d` tells.
    pub fn run_sub(self, dir: &Path, name: &str, args: &[&str]) -> Process {
        // Its output is a file: it would keep lines to itself.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "mosquitto_sub", "-h", "127.0.0.1", "-p", &self.0.to_string(), "-d"]).args(args);
        let process = Process::start(name, dir, &mut command);
        until("the subscription is acknowledged", PATIENCE, || {
            let log = process.log();
            if log.contains("Subscribed (mid") { Ok(()) } else { Err(log) }
        });
        process
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

/// Debian's Mosquitto. It keeps sessions and messages in its folder.
pub struct Mosquitto {
    pub process: Process,
    pub broker: Mqtt,
}

impl Mosquitto {
    /// Starts it in `dir` and waits until it listens.
    pub fn start(dir: &Path, port: u16) -> Self {
        Self::with(dir, port, "allow_anonymous true")
    }

    /// The same with its own lines about who may come in.
    pub fn with(dir: &Path, port: u16, doors: &str) -> Self {
        fs::create_dir_all(dir).unwrap();
        let d = dir.display();
        let user = if nix::unistd::Uid::effective().is_root() { "user root\n" } else { "" };
        let config = format!(
            "listener {port} 127.0.0.1\n{doors}\npersistence true\npersistence_location {d}/\n\
             autosave_interval 1\n{user}"
        );
        fs::write(dir.join("mosquitto.conf"), config).unwrap();
        // Debian keeps it where only root's PATH looks.
        let binary =
            ["/usr/sbin/mosquitto", "/usr/local/sbin/mosquitto"].into_iter().find(|b| Path::new(b).exists());
        let mut command = Command::new(binary.unwrap_or("mosquitto"));
        let process = Process::start("mosquitto", dir, command.arg("-c").arg(dir.join("mosquitto.conf")));
        until("mosquitto listens", PATIENCE, || {
            std::net::TcpStream::connect(("127.0.0.1", port)).map(|_| ()).map_err(|err| err.to_string())
        });
        Self { process, broker: Mqtt(port) }
    }
}
