//! A real program under test: its log, its signals, its end.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// How long anything may take on a busy two-core machine before a test gives up. It bounds failures only.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// A program of this project: the one that was built with the test, or of that name in `KUBEEDGE_BIN_DIR`, so that a
/// measurement can take programs of another profile.
pub fn program(built: &str) -> PathBuf {
    let built = PathBuf::from(built);
    match (std::env::var_os("KUBEEDGE_BIN_DIR"), built.file_name()) {
        (Some(dir), Some(name)) => Path::new(&dir).join(name),
        _ => built,
    }
}

/// A child process that is killed when the test lets go of it.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with stdout and stderr appended to `{dir}/{name}.log`.
    pub fn start(name: &str, dir: &Path, command: &mut Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone().unwrap())
            .stderr(out)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {name}: {e}"));
        Self { name: name.to_owned(), child, log }
    }

    #[allow(dead_code, reason = "benchmarks share this harness")]
    /// Lines of its log of level WARN or ERROR that hold none of these words.
    pub fn complaints(&self, listed: &[&str]) -> Vec<String> {
        let bad = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
        let log = self.log();
        let lines = log.lines().filter(bad).filter(|line| !listed.iter().any(|word| line.contains(word)));
        lines.map(str::to_owned).collect()
    }

    /// The process id, for readings from `/proc`.
    #[allow(dead_code, reason = "the benchmark shares this harness and reads memory by it")]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// SIGKILL: no drain, no flush.
    pub fn kill9(&mut self) {
        self.child.kill().ok();
        self.child.wait().unwrap();
    }

    /// SIGTERM, then waits for the exit.
    pub fn terminate(&mut self, patience: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait(patience)
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
    }

    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "{} did not end in {patience:?}\n{}", self.name, self.tail());
            pause();
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The end of its log, for failure messages.
    pub fn tail(&self) -> String {
        let text = self.log();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(40);
        format!("--- end of {}'s log ---\n{}", self.name, lines[from..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        if std::thread::panicking() {
            eprintln!("{}", self.tail());
        }
    }
}

/// A port nobody listens on. Below the range from which the kernel gives connections their ports (32768 and up): a
/// program that is killed and started again finds it free, whatever connected elsewhere meanwhile. No port is given twice.
pub fn free_port() -> u16 {
    const FIRST: u16 = 11_000;
    const COUNT: u32 = 20_000;
    static NEXT: OnceLock<AtomicU32> = OnceLock::new();
    let next = NEXT.get_or_init(|| AtomicU32::new(std::process::id().wrapping_mul(617)));
    for _ in 0..COUNT {
        let port = FIRST + (next.fetch_add(1, Ordering::Relaxed) % COUNT) as u16;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free from {FIRST} on");
}

/// Held by the heaviest tests, which measure time or memory: no two of them run at once. Take it first, so that it goes
/// last.
#[allow(dead_code, reason = "benchmarks share this harness")]
pub fn alone() -> parking_lot::MutexGuard<'static, ()> {
    static HEAVY: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    HEAVY.lock()
}

/// Unix milliseconds.
#[allow(dead_code, reason = "benchmarks share this harness")]
pub fn now_ms() -> i64 {
    kubeedge::model::unix_ms(std::time::SystemTime::now())
}

/// Polls until `probe` gives something. `what` and the last refusal stand in the failure.
pub fn until<T>(what: &str, patience: Duration, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        match probe() {
            Ok(found) => return found,
            Err(why) => assert!(Instant::now() < deadline, "{what}: not within {patience:?}: {why}"),
        }
        pause();
    }
}

/// Polls until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    until(what, PATIENCE, || if condition() { Ok(()) } else { Err("it is not so".to_owned()) });
}

/// The one place where a test waits for wall-clock time: between two looks.
fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}

/// Plain HTTP/1.1 request over loopback; (status, body).
pub fn http(
    method: &str,
    address: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<(u16, String), String> {
    use std::io::{Read, Write};
    let text = |e: std::io::Error| e.to_string();
    let mut socket = std::net::TcpStream::connect(address).map_err(text)?;
    socket.set_read_timeout(Some(Duration::from_secs(60))).map_err(text)?;
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 0\r\n");
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    socket.write_all(request.as_bytes()).map_err(text)?;
    let mut answer = Vec::new();
    socket.read_to_end(&mut answer).map_err(text)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no header end")?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or("no status")?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Ok((status, if chunked { unchunk(body) } else { body.to_owned() }))
}

/// The body of a chunked answer.
pub fn unchunk(body: &str) -> String {
    let mut rest = body;
    let mut whole = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let Ok(size) = usize::from_str_radix(size.trim(), 16) else { break };
        if size == 0 || after.len() < size {
            break;
        }
        whole.push_str(&after[..size]);
        rest = after[size..].trim_start_matches("\r\n");
    }
    whole
}
