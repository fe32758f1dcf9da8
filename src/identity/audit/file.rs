//! The file of an audit log: appended in groups, synced, rotated by size. Everything here blocks.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::{AuditChain, AuditError, Head, HeadFile, MAX_LINE, Record};
use crate::identity::{KEY_MODE, write_atomic};

/// When a file is put away, and how many are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuditLimits {
    /// A file of this size is not appended to: a new one begins.
    pub max_bytes: u64,
    /// Files kept beside the one in use: `{file}.1` is the newest of them.
    pub keep: usize,
}

impl Default for AuditLimits {
    fn default() -> Self {
        Self { max_bytes: 8 * 1024 * 1024, keep: 4 }
    }
}

/// What [`AuditFile::open`] found. Everything but a good log is recorded in the log itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    New,
    Good,
    /// A power cut left a torn last line of so many bytes; it was removed.
    Repaired {
        bytes: usize,
    },
    /// The log does not hold to its head: records are missing or were changed, or the head is.
    Broken(String),
}

/// The log that is being written.
#[derive(Debug)]
pub struct AuditFile {
    path: PathBuf,
    limits: AuditLimits,
    file: File,
    len: u64,
    chain: AuditChain,
    /// Number of the oldest record kept.
    first: u64,
}

/// The head file of a log: `audit.head` of `audit.log`.
#[must_use]
pub fn head_path(log: &Path) -> PathBuf {
    log.with_extension("head")
}

/// `{log}.{number}`.
pub(super) fn rotated(log: &Path, number: usize) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

fn fail(op: &'static str, path: &Path) -> impl Fn(std::io::Error) -> AuditError {
    let path = path.to_owned();
    move |err| AuditError::File { op, path: path.clone(), why: err.to_string() }
}

impl AuditFile {
    /// Opens or creates a log (0600) and its folder. A torn last line is removed; what is worse is
    /// left as it is and recorded, so that it stays visible.
    ///
    /// # Errors
    /// [`AuditError::File`].
    pub fn open(path: &Path, limits: AuditLimits, now: SystemTime) -> Result<(Self, Opened), AuditError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(fail("create the folder of", path))?;
        }
        let head = read_head(path)?;
        let mut file = open_append(path)?;
        let (len, torn) = cut_torn_line(&mut file, path)?;
        let last = match last_record(path)? {
            Last::None => (1..=limits.keep.max(1)).try_fold(Last::None, |found, number| match found {
                Last::None => last_record(&rotated(path, number)),
                found => Ok(found),
            })?,
            found => found,
        };
        let first = head.as_ref().ok().and_then(Option::as_ref).map_or(1, |head| head.first);
        let (chain, opened) = judge(head.map(|head| head.map(|head| head.head())), last, torn);
        let mut log = Self { path: path.to_owned(), limits, file, len, chain, first };
        let words = match &opened {
            Opened::New | Opened::Good => None,
            Opened::Repaired { bytes } => {
                Some(("repaired", format!("{bytes} bytes of a record that a power cut tore were removed")))
            }
            Opened::Broken(why) => Some(("broken", why.clone())),
        };
        if opened == Opened::New {
            log.write_head()?;
        }
        if let Some((what, why)) = words {
            let fact =
                json!({"action": "log", "subject": what, "allowed": what == "repaired", "reason": why});
            log.append(&[(now, fact.as_object().cloned().unwrap_or_default())])?;
        }
        Ok((log, opened))
    }

    #[must_use]
    pub fn head(&self) -> &Head {
        self.chain.head()
    }

    /// Appends a group of facts with one sync, then writes the head. Rotates before when the file is
    /// full. After an error nothing of the group counts; it may be given again.
    ///
    /// # Errors
    /// [`AuditError::File`].
    pub fn append(&mut self, facts: &[(SystemTime, Map<String, Value>)]) -> Result<(), AuditError> {
        if facts.is_empty() {
            return Ok(());
        }
        if self.len >= self.limits.max_bytes {
            self.rotate()?;
        }
        let mut chain = self.chain.clone();
        let text: String = facts.iter().map(|(at, fact)| chain.append(fact, *at)).collect();
        let written = self.file.write_all(text.as_bytes()).and_then(|()| self.file.sync_data());
        if let Err(err) = written {
            // Half a group must not stay: the next one would stand behind a torn line.
            if let Err(err) = self.file.set_len(self.len) {
                tracing::error!(path = %self.path.display(), %err, "a torn audit record stays until the next start");
            }
            return Err(fail("write", &self.path)(err));
        }
        self.len = self.len.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX));
        self.chain = chain;
        // The records are there. Until the next group a cut of this one would not show.
        if let Err(err) = self.write_head() {
            tracing::error!(%err, "the head of the audit log lags behind");
        }
        Ok(())
    }

    fn write_head(&self) -> Result<(), AuditError> {
        let Head { seq, hash } = self.chain.head().clone();
        let path = head_path(&self.path);
        let text = serde_json::to_string(&HeadFile { seq, hash, first: self.first })
            .map_err(|err| fail("write", &path)(err.into()))?;
        write_atomic(&path, text.as_bytes(), KEY_MODE).map_err(|err| AuditError::File {
            op: "write",
            path,
            why: err.to_string(),
        })
    }

    /// The oldest file goes, the others move up by one. A crash in between leaves a gap in their
    /// numbers, which readers do not mind.
    fn rotate(&mut self) -> Result<(), AuditError> {
        // The head says what is dropped before it is dropped.
        let oldest_left = match self.limits.keep {
            0 => Some(self.chain.head().seq.saturating_add(1)),
            keep if rotated(&self.path, keep).exists() => {
                let next = if keep == 1 { self.path.clone() } else { rotated(&self.path, keep - 1) };
                first_seq(&next)?
            }
            _ => None,
        };
        if let Some(first) = oldest_left {
            self.first = first;
            self.write_head()?;
        }
        if self.limits.keep == 0 {
            fs::remove_file(&self.path).map_err(fail("remove", &self.path))?;
        }
        for number in (1..=self.limits.keep).rev() {
            let from = match number {
                1 => self.path.clone(),
                _ => rotated(&self.path, number - 1),
            };
            if from.exists() {
                fs::rename(&from, rotated(&self.path, number)).map_err(fail("rotate", &from))?;
            }
        }
        self.file = open_append(&self.path)?;
        self.len = 0;
        Ok(())
    }
}

fn open_append(path: &Path) -> Result<File, AuditError> {
    let open = OpenOptions::new().create(true).read(true).append(true).mode(KEY_MODE).open(path);
    open.map_err(fail("open", path))
}

/// How the log goes on. With a good end it is continued after its last record. When records that
/// the head knows are missing, it is continued after the head: the gap then shows for ever.
fn judge(head: Result<Option<Head>, String>, last: Last, torn: usize) -> (AuditChain, Opened) {
    let found = match last {
        Last::None => None,
        Last::Record(record) => Some(record.head()),
        Last::Changed(why) => {
            let head = head.ok().flatten().unwrap_or_default();
            return (AuditChain::after(head), Opened::Broken(format!("the last record is wrong: {why}")));
        }
    };
    let end = found.clone().unwrap_or_default();
    match head {
        Err(why) => (AuditChain::after(end), Opened::Broken(why)),
        Ok(None) if found.is_none() => (AuditChain::default(), Opened::New),
        // A new log writes its head before its first record.
        Ok(None) => (AuditChain::after(end), Opened::Broken("the head file is missing".to_owned())),
        Ok(Some(head)) if head.seq > end.seq => {
            let why = format!("records {} to {} are missing at the end", end.seq + 1, head.seq);
            (AuditChain::after(head), Opened::Broken(why))
        }
        Ok(Some(head)) if head.seq == end.seq && head.hash != end.hash => {
            let why = format!("record {} is not the one the head file knows", head.seq);
            (AuditChain::after(head), Opened::Broken(why))
        }
        _ if torn > 0 => (AuditChain::after(end), Opened::Repaired { bytes: torn }),
        _ => (AuditChain::after(end), Opened::Good),
    }
}

/// `Ok(Err)` when it is there and says nothing sensible.
pub(super) fn read_head(log: &Path) -> Result<Result<Option<HeadFile>, String>, AuditError> {
    let path = head_path(log);
    match fs::read(&path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => Ok(Ok(None)),
        Err(err) => Err(fail("read", &path)(err)),
        Ok(text) => Ok(serde_json::from_slice(&text)
            .map(Some)
            .map_err(|_| format!("the head file {} is not one", path.display()))),
    }
}

/// Removes what stands after the last newline. Returns the length that is left, and the bytes removed.
fn cut_torn_line(file: &mut File, path: &Path) -> Result<(u64, usize), AuditError> {
    let len = file.metadata().map_err(fail("read", path))?.len();
    let window = len.min(u64::try_from(MAX_LINE).unwrap_or(u64::MAX));
    file.seek(SeekFrom::Start(len - window)).map_err(fail("read", path))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end).map_err(fail("read", path))?;
    let torn = match end.iter().rposition(|byte| *byte == b'\n') {
        Some(newline) => end.len() - newline - 1,
        None => end.len(),
    };
    let left = len.saturating_sub(u64::try_from(torn).unwrap_or(u64::MAX));
    if torn > 0 {
        file.set_len(left).and_then(|()| file.sync_all()).map_err(fail("repair", path))?;
    }
    Ok((left, torn))
}

/// Number of a file's first record; `None` for what is none.
fn first_seq(path: &Path) -> Result<Option<u64>, AuditError> {
    let mut line = Vec::new();
    let file = match File::open(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(fail("read", path))?,
    };
    let most = u64::try_from(MAX_LINE).unwrap_or(u64::MAX);
    BufReader::new(file).take(most).read_until(b'\n', &mut line).map_err(fail("read", path))?;
    Ok(Record::parse(line.trim_ascii_end()).ok().map(|record| record.seq))
}

enum Last {
    None,
    Record(Record),
    Changed(&'static str),
}

fn last_record(path: &Path) -> Result<Last, AuditError> {
    let file = match File::open(path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(Last::None),
        opened => opened.map_err(fail("read", path))?,
    };
    let mut reader = BufReader::new(file);
    let len = reader.get_ref().metadata().map_err(fail("read", path))?.len();
    let window = len.min(u64::try_from(2 * MAX_LINE).unwrap_or(u64::MAX));
    reader.seek(SeekFrom::Start(len - window)).map_err(fail("read", path))?;
    let mut last = None;
    for line in reader.split(b'\n') {
        last = Some(line.map_err(fail("read", path))?);
    }
    Ok(match last.filter(|line| !line.is_empty()).map(|line| Record::parse(&line)) {
        None => Last::None,
        Some(Ok(record)) => Last::Record(record),
        Some(Err(why)) => Last::Changed(why),
    })
}
