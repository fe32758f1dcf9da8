//! The same question asked with Mosquitto's own clients.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::packet::{self, Frame};
use super::target::Broker;

const TOPIC: &str = "bench/cli";
/// Retained: what a subscriber prints first, thus when it is subscribed.
const MARK: &str = "bench/mark";
const LINE_BYTES: usize = 64;
const PATIENCE: Duration = Duration::from_secs(60);

/// Seconds from the start of one `mosquitto_pub -l` that is given `lines` lines until the last of
/// `subscribers` `mosquitto_sub -C` has ended.
///
/// # Errors
/// A client that failed or waits for messages that never come.
pub async fn run(broker: &Broker, qos: u8, subscribers: usize, lines: usize) -> Result<f64, String> {
    leave_mark(broker).await?;
    let mut children = Vec::new();
    for _ in 0..subscribers {
        children.push(Killed(subscribe(broker, qos, lines)?));
    }
    for child in &mut children {
        let out = child.0.stdout.take().ok_or("no stdout")?;
        drain_after_mark(out)?;
    }
    let begun = Instant::now();
    let mut publisher = Killed(client("mosquitto_pub", broker, qos).args(["-t", TOPIC, "-l"]).spawn_piped()?);
    let mut input = publisher.0.stdin.take().ok_or("no stdin")?;
    let writer = std::thread::spawn(move || {
        let line = [&[b'x'; LINE_BYTES][..], b"\n"].concat();
        input.write_all(&line.repeat(lines))
    });
    for child in &mut children {
        wait(&mut child.0, "mosquitto_sub")?;
    }
    let took = begun.elapsed().as_secs_f64();
    wait(&mut publisher.0, "mosquitto_pub")?;
    writer.join().map_err(|_| "writer panicked")?.map_err(|err| format!("mosquitto_pub's input: {err}"))?;
    Ok(took)
}

async fn leave_mark(broker: &Broker) -> Result<(), String> {
    let mut connection = Connection::open(&broker.address, "bench-mark", 1024).await?;
    packet::publish(&mut connection.output, MARK, 1, true, 1, b"mark");
    let mut acknowledged = false;
    while !acknowledged {
        connection.turn(false).await?;
        connection.each(|frame, _| acknowledged |= matches!(frame, Frame::Ack { .. }))?;
    }
    connection.close().await
}

/// The mark is one more message for it.
fn subscribe(broker: &Broker, qos: u8, lines: usize) -> Result<Child, String> {
    let count = (lines + 1).to_string();
    client("mosquitto_sub", broker, qos).args(["-t", TOPIC, "-t", MARK, "-C", &count]).spawn_piped()
}

/// Returns at the first line; the rest is read and thrown away beside.
fn drain_after_mark(out: ChildStdout) -> Result<(), String> {
    let (marked, is_marked) = sync_channel(1);
    std::thread::spawn(move || {
        let mut out = BufReader::with_capacity(64 * 1024, out);
        let mut line = String::new();
        let first = out.read_line(&mut line).map(|_| line);
        marked.send(first).ok();
        std::io::copy(&mut out, &mut std::io::sink()).ok();
    });
    match is_marked.recv_timeout(PATIENCE) {
        Ok(Ok(line)) if line == "mark\n" => Ok(()),
        other => Err(format!("mosquitto_sub printed {other:?} and not the retained mark")),
    }
}

fn client(program: &str, broker: &Broker, qos: u8) -> Command {
    let (host, port) = broker.address.rsplit_once(':').unwrap_or((&broker.address, "1883"));
    // Its output is a pipe; line by line, or the mark stays in the buffer.
    let mut command = Command::new("stdbuf");
    command.args(["-oL", program, "-h", host, "-p", port, "-q", &qos.to_string()]);
    command
}

trait SpawnPiped {
    fn spawn_piped(&mut self) -> Result<Child, String>;
}

impl SpawnPiped for Command {
    fn spawn_piped(&mut self) -> Result<Child, String> {
        self.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        self.spawn().map_err(|err| format!("{self:?}: {err} (deploy/tools.sh bench installs it)"))
    }
}

fn wait(child: &mut Child, name: &str) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        match child.try_wait().map_err(|err| err.to_string())? {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(format!("{name}: {status}")),
            None if begun.elapsed() > PATIENCE => {
                return Err(format!("{name} has not got everything after {PATIENCE:?}"));
            }
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
