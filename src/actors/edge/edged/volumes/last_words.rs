//! The end of a container's log as its last words (`terminationMessagePolicy:
//! FallbackToLogsOnError`).

use std::io::{Read, Seek, SeekFrom};

use super::VolumeError;
use super::disk::{io_error, open_if_there};
use crate::actors::edge::edged::host::HostContext;
use crate::actors::edge::edged::names::{PodRef, path_part};

/// As much of the log as is read: the runtime cuts lines at 16 KiB.
const READ_BYTES: u64 = 48 << 10;
/// Kubernetes' limits of a message taken from a log.
const MAX_BYTES: usize = 2048;
const MAX_LINES: usize = 80;

/// What a run of a container logged last; empty when nothing. Blocking.
///
/// # Errors
/// [`VolumeError`] for names that are paths or a file that cannot be read.
pub fn log_tail(
    at: &PodRef,
    host: &HostContext,
    container: &str,
    restart_count: u32,
) -> Result<String, VolumeError> {
    at.check()?;
    path_part("spec.containers.name", container)?;
    let path = at.log_file(host, container, restart_count);
    let Some(mut file) = open_if_there(&path)? else { return Ok(String::new()) };
    let mut read = || {
        let from = file.metadata()?.len().saturating_sub(READ_BYTES);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        (&mut file).take(READ_BYTES).read_to_end(&mut bytes)?;
        Ok((from, bytes))
    };
    let (from, bytes) = read().map_err(|err| io_error("read", &path, &err))?;
    let text = String::from_utf8_lossy(&bytes);
    // Unless it is the whole file, the first line is the rest of one.
    let text = if from == 0 { &*text } else { text.split_once('\n').map_or("", |(_, rest)| rest) };
    Ok(last_lines(text))
}

/// The words of the last CRI log lines, `{time} {stream} {F|P} {text}`.
fn last_lines(log: &str) -> String {
    let mut said = String::new();
    for line in log.lines() {
        let mut parts = line.splitn(4, ' ').skip(2);
        let (Some(tag), text) = (parts.next(), parts.next().unwrap_or_default()) else { continue };
        said.push_str(text);
        if tag != "P" {
            said.push('\n');
        }
    }
    let lines = said.trim_end_matches('\n').split('\n').count();
    let skipped: usize = said.split_inclusive('\n').take(lines.saturating_sub(MAX_LINES)).map(str::len).sum();
    let mut start = skipped.max(said.len().saturating_sub(MAX_BYTES));
    while !said.is_char_boundary(start) {
        start += 1;
    }
    said.split_off(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(lines: &[&str]) -> String {
        lines.iter().map(|line| format!("2026-08-06T10:00:00.000000000Z {line}\n")).collect()
    }

    #[test]
    fn ends_of_logs() {
        for (case, text, want) in [
            ("nothing", String::new(), String::new()),
            ("no log line", "rubbish\n\n".to_owned(), String::new()),
            ("two lines", log(&["stdout F one", "stderr F two words"]), "one\ntwo words\n".to_owned()),
            ("a cut line", log(&["stdout P on", "stdout F e"]), "one\n".to_owned()),
            ("an empty line", log(&["stdout F a", "stdout F ", "stdout F b"]), "a\n\nb\n".to_owned()),
        ] {
            assert_eq!(last_lines(&text), want, "{case}");
        }
        let many: Vec<String> = (0..200).map(|n| format!("stdout F {n}")).collect();
        let many = last_lines(&log(&many.iter().map(String::as_str).collect::<Vec<_>>()));
        assert_eq!((many.lines().count(), many.lines().next()), (80, Some("120")));
        let long = last_lines(&log(&[&format!("stdout F {}", "ä".repeat(3_000))]));
        assert!(
            long.len() <= MAX_BYTES && long.len() > MAX_BYTES - 3 && long.ends_with("ä\n"),
            "{}",
            long.len()
        );
    }
}
