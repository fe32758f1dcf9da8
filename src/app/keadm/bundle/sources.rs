//! What goes into a bundle, as texts: read with bounds, none of it fails the whole.

use std::fmt::Write as _;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::process::Command;

use super::super::finding::Finding;
use super::super::health::ask;
use super::super::preflight::look_at_runtime;
use crate::cri::client::CriClient;
use crate::cri::runtime::Runtime;
use crate::identity::audit::verify_log;

/// Most of one file that is taken, bytes: the end of logs, the beginning of anything else.
pub(super) const MAX_BYTES: usize = 2 << 20;
/// Lines of the journal.
const JOURNAL_LINES: &str = "20000";
/// Longest wait for a program of the system.
const TOOL_TIMEOUT: Duration = Duration::from_secs(20);
const RUNTIME_TIMEOUT: Duration = Duration::from_secs(3);
/// Entries of the data folder that are listed.
const MAX_ENTRIES: usize = 2_000;

/// One part of a bundle.
pub(super) struct Part {
    pub name: String,
    /// The text, or why there is none.
    pub content: Result<String, String>,
    /// Something of it was left out.
    pub cut: bool,
}

impl Part {
    pub fn new(name: impl Into<String>, content: Result<String, String>) -> Self {
        Self { name: name.into(), content, cut: false }
    }
}

/// Pages of the monitor.
pub(super) async fn monitor(address: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    for (page, name) in [
        ("readyz", "monitor/readyz.json"),
        ("actors", "monitor/actors.json"),
        ("metrics", "monitor/metrics.txt"),
    ] {
        let answer = ask(&format!("http://{address}/{page}"), MAX_BYTES).await;
        // Not ready is an answer too.
        let content = answer.map(|(_, body)| String::from_utf8_lossy(&body).into_owned());
        parts.push(Part::new(name, content));
    }
    parts
}

/// The end of a log.
pub(super) fn log(file: &Path, number: usize) -> Part {
    let base = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let base: String = base.chars().filter(|c| c.is_ascii_graphic()).take(60).collect();
    let name = format!("logs/{number}-{base}");
    match tail(file) {
        Ok((text, cut)) => Part { name, content: Ok(text), cut },
        Err(err) => Part::new(name, Err(format!("{}: {err}", file.display()))),
    }
}

fn tail(path: &Path) -> std::io::Result<(String, bool)> {
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    let from = size.saturating_sub(MAX_BYTES as u64);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(MAX_BYTES as u64).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    // The first line is cut somewhere: what is left of it may be half a secret.
    let whole = if from > 0 { text.split_once('\n').map_or("", |(_, rest)| rest).to_owned() } else { text };
    Ok((whole, from > 0))
}

/// The journal of a unit, if this machine keeps one.
pub(super) async fn journal(program: &str) -> Part {
    let name = format!("logs/journal-{program}.txt");
    let args = ["-u", program, "-n", JOURNAL_LINES, "--no-pager", "-o", "short-iso", "-q"];
    let content = match run("journalctl", &args).await {
        Ok(text) if text.trim().is_empty() => Err(format!("the journal has nothing of {program}")),
        other => other,
    };
    Part::new(name, content)
}

async fn run(program: &str, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    command.args(args).stdin(std::process::Stdio::null()).kill_on_drop(true);
    match tokio::time::timeout(TOOL_TIMEOUT, command.output()).await {
        Err(_) => Err(format!("{program} did not end within {} s", TOOL_TIMEOUT.as_secs())),
        Ok(Err(err)) => Err(format!("{program}: {err}")),
        Ok(Ok(output)) if !output.status.success() => Err(format!("{program} failed: {}", output.status)),
        Ok(Ok(output)) => {
            let from = output.stdout.len().saturating_sub(MAX_BYTES);
            let end = output.stdout.get(from..).unwrap_or_default();
            Ok(String::from_utf8_lossy(end).into_owned())
        }
    }
}

/// Versions, kernel, memory, load.
pub(super) fn machine() -> Part {
    let mut text =
        format!("keadm {}\n{} {}\n", env!("CARGO_PKG_VERSION"), std::env::consts::OS, std::env::consts::ARCH);
    for file in [
        "/proc/version",
        "/etc/os-release",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/meminfo",
        "/proc/pressure/memory",
        "/proc/pressure/io",
        "/sys/fs/cgroup/cgroup.controllers",
        "/proc/filesystems",
    ] {
        if let Ok(content) = std::fs::read_to_string(file) {
            write!(text, "\n== {file}\n{content}").ok();
        }
    }
    Part::new("machine.txt", Ok(text))
}

/// The container runtime, as it says itself.
pub(super) async fn runtime(endpoint: &str) -> Part {
    let client = match CriClient::new(endpoint, RUNTIME_TIMEOUT) {
        Ok(client) => client,
        Err(err) => return Part::new("runtime.txt", Err(err.to_string())),
    };
    let mut text: String = look_at_runtime(&client, endpoint, "the configuration")
        .await
        .iter()
        .map(|finding| format!("{finding}\n"))
        .collect();
    if let Ok(sandboxes) = client.list_sandboxes().await {
        writeln!(text, "\n{} sandboxes", sandboxes.len()).ok();
    }
    if let Ok(containers) = client.list_containers().await {
        writeln!(text, "{} containers", containers.len()).ok();
    }
    if let Ok(images) = client.list_images().await {
        writeln!(text, "{} images", images.len()).ok();
        for image in images.iter().take(200) {
            writeln!(text, "  {} {} bytes", image.repo_tags.join(" "), image.size).ok();
        }
    }
    Part::new("runtime.txt", Ok(text))
}

/// Names and sizes below the data folder; no content.
pub(super) fn store(folder: &Path) -> Part {
    let mut entries: Vec<(PathBuf, u64)> = Vec::new();
    let mut folders = vec![folder.to_owned()];
    let mut cut = false;
    while let Some(at) = folders.pop() {
        for entry in std::fs::read_dir(&at).into_iter().flatten().flatten() {
            if entries.len() >= MAX_ENTRIES {
                cut = true;
                break;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => {
                    entries.push((entry.path(), entry.metadata().map_or(0, |meta| meta.len())));
                }
                _ => {}
            }
        }
    }
    entries.sort();
    let total: u64 = entries.iter().map(|(_, size)| size).sum();
    let mut text = format!("{total} bytes in {} files below {}\n", entries.len(), folder.display());
    for (path, size) in &entries {
        writeln!(text, "{size:>12} {}", path.strip_prefix(folder).unwrap_or(path).display()).ok();
    }
    Part { cut, ..Part::new("store.txt", Ok(text)) }
}

/// Does the audit log hold? Its records stay here: they name people and addresses.
pub(super) fn audit(folder: &Path) -> Part {
    let log = folder.join("audit.log");
    let content = match verify_log(&log) {
        Ok(summary) => {
            format!("{}: {} records in {} files: OK\n", log.display(), summary.records, summary.files)
        }
        Err(err) => format!("{err}\n"),
    };
    Part::new("audit.txt", Ok(content))
}

pub(super) fn doctor(findings: &[Finding]) -> Part {
    Part::new("doctor.txt", Ok(findings.iter().map(|finding| format!("{finding}\n")).collect()))
}
