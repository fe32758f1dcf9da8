//! Reading an audit log from its first record to its last.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use super::file::{read_head, rotated};
use super::{AuditError, Head, HeadFile, MAX_LINE, Record};

/// Rotated files looked for; more than anybody keeps.
const MAX_FILES: usize = 1_000;

/// What a log that holds contains.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    pub records: u64,
    /// Numbers and times of the first and the last record.
    pub first: Option<(u64, String)>,
    pub last: Option<(u64, String)>,
    pub files: usize,
}

/// Verifies one file, and that it reaches the record in `head`, if given.
///
/// # Errors
/// [`AuditError::Broken`] at the first line that is wrong; [`AuditError::File`].
pub fn verify_file(path: &Path, head: Option<&Head>) -> Result<Summary, AuditError> {
    verify_files(&[path.to_owned()], head)
}

/// Verifies a log with the files put away before it, oldest first, and its head file.
///
/// # Errors
/// [`AuditError::Broken`] at the first line that is wrong; [`AuditError::File`].
pub fn verify_log(log: &Path) -> Result<Summary, AuditError> {
    let broken = |why: String| AuditError::Broken { path: super::head_path(log), line: 1, why };
    let head = read_head(log)?.map_err(broken)?;
    let mut files: Vec<PathBuf> =
        (1..=MAX_FILES).rev().map(|number| rotated(log, number)).filter(|path| path.exists()).collect();
    if log.exists() || files.is_empty() {
        files.push(log.to_owned());
    }
    let summary = verify_files(&files, head.as_ref().map(HeadFile::head).as_ref())?;
    if let (Some(head), Some((found, _))) = (&head, &summary.first)
        && head.first < *found
    {
        let path = files.first().cloned().unwrap_or_default();
        let why = format!("records {} to {} are missing at the beginning", head.first, found - 1);
        return Err(AuditError::Broken { path, line: 1, why });
    }
    if head.is_none() && summary.records > 0 {
        return Err(broken("the head file is missing: whether the end was cut cannot be told".to_owned()));
    }
    Ok(summary)
}

fn verify_files(paths: &[PathBuf], head: Option<&Head>) -> Result<Summary, AuditError> {
    let mut summary = Summary { files: paths.len(), ..Summary::default() };
    let mut before: Option<Head> = None;
    let mut is_head_seen = head.is_none_or(|head| head.seq == 0);
    let mut end = (paths.last().cloned().unwrap_or_default(), 1);
    for path in paths {
        let io =
            |err: std::io::Error| AuditError::File { op: "read", path: path.clone(), why: err.to_string() };
        let mut reader = BufReader::new(File::open(path).map_err(io)?);
        let mut number = 0;
        loop {
            let mut line = Vec::new();
            let most = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
            if reader.by_ref().take(most).read_until(b'\n', &mut line).map_err(io)? == 0 {
                break;
            }
            number += 1;
            let broken = |why: String| AuditError::Broken { path: path.clone(), line: number, why };
            if line.pop() != Some(b'\n') {
                return Err(broken("the line is torn or too long".to_owned()));
            }
            let record = Record::parse(&line).map_err(|why| broken(why.to_owned()))?;
            // The oldest file kept begins somewhere; only record 1 must begin the chain.
            let want = before.clone().unwrap_or_else(|| match record.seq {
                1 => Head::default(),
                seq => Head { seq: seq.saturating_sub(1), hash: record.prev.clone() },
            });
            if record.seq != want.seq.saturating_add(1) {
                let why = format!("record {} follows record {}", record.seq, want.seq);
                return Err(broken(why));
            }
            if record.prev != want.hash {
                return Err(broken(format!("record {} does not follow from the one before it", record.seq)));
            }
            if let Some(head) = head.filter(|head| head.seq == record.seq) {
                if head.hash != record.hash {
                    let why = format!("record {} is not the one the head file knows", record.seq);
                    return Err(broken(why));
                }
                is_head_seen = true;
            }
            summary.records += 1;
            summary.last = Some((record.seq, record.at.clone()));
            before = Some(record.head());
            summary.first.get_or_insert((record.seq, record.at));
        }
        end = (path.clone(), number + 1);
    }
    match head {
        Some(head) if !is_head_seen => {
            let last = summary.last.as_ref().map_or(0, |(seq, _)| *seq);
            let why = format!("the log ends with record {last}, but record {} was written", head.seq);
            Err(AuditError::Broken { path: end.0, line: end.1, why })
        }
        _ => Ok(summary),
    }
}
