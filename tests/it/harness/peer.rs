//! A program of somebody else's making, in Python, that is spoken to line by line.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};

use super::process::PATIENCE;

/// A script of this folder; killed when the test lets go of it.
pub struct Peer {
    name: String,
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

/// The python that has the packages of `deploy/test-requirements.txt`.
pub fn python() -> PathBuf {
    installed("python")
}

/// The folder of the npm packages of `tests/package.json`.
pub fn node_modules() -> PathBuf {
    installed("npm").join("node_modules")
}

fn installed(what: &str) -> PathBuf {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/tools.sh");
    let printed = Command::new(tools).arg(what).output().unwrap();
    let path = PathBuf::from(String::from_utf8(printed.stdout).unwrap().trim());
    assert!(path.exists(), "{} is missing: run deploy/tools.sh test", path.display());
    path
}

impl Peer {
    pub fn start(script: &str, args: &[&str]) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/harness").join(script);
        let mut child = Command::new(python())
            .arg(path)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|err| panic!("cannot start {script}: {err}"));
        let (stdin, stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (send, lines) = sync_channel(1_000);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        Self { name: script.to_owned(), child, stdin, lines }
    }

    /// The next line it prints.
    pub fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|err| panic!("{} said nothing: {err}", self.name))
    }

    /// Sends a line and takes the answer.
    pub fn ask(&mut self, line: &str) -> String {
        writeln!(self.stdin, "{line}").unwrap_or_else(|err| panic!("{}: {err}", self.name));
        self.line()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
