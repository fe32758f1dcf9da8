//! The audit log: one JSON line a record, each bound to the one before it by SHA-256, so that a
//! record that was changed, removed or cut off shows. What a record says is the caller's.
//!
//! A line is `{"seq":1,"at":"..",<fact>,"prev":"<hash>","hash":"<hash>"}`, where `hash` is over the
//! bytes of the line before `,"hash":` and `prev` is the hash of the record before. The newest
//! record's number and hash stand in the head file too, which is written after the log: a log that
//! ends before its head was cut.

mod file;
mod verify;

use std::path::PathBuf;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::file::{AuditFile, AuditLimits, Opened, head_path};
pub use self::verify::{Summary, verify_file, verify_log};
use super::{sha256_hex, unix_secs};

/// `prev` of the very first record.
const GENESIS: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// Records are some hundred bytes; a reader gives up on longer lines.
pub(crate) const MAX_LINE: usize = 64 * 1024;
/// Longest text in a record, bytes as written. What callers without an identity sent stands in some
/// of them, and a line that is too long would end every verification at it.
const MAX_TEXT: usize = 2 * 1024;
/// Room for what is ours in a line.
const OURS: usize = 512;
/// `,"hash":"` + 64 digits + `"}`.
const TAIL: usize = 9 + 64 + 2;

/// What is wrong with an audit log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    #[error("cannot {op} {}: {why}", path.display())]
    File { op: &'static str, path: PathBuf, why: String },
    /// `line` counts from 1; one past the last line when something is missing at the end.
    #[error("{}, line {line}: {why}", path.display())]
    Broken { path: PathBuf, line: usize, why: String },
}

/// Number and hash of the newest record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub seq: u64,
    pub hash: String,
}

/// The head file. `first` is the oldest record kept: files put away are dropped in the end, and
/// whoever drops more than that is found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadFile {
    seq: u64,
    hash: String,
    first: u64,
}

impl HeadFile {
    fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash.clone() }
    }
}

impl Default for Head {
    /// Before the first record.
    fn default() -> Self {
        Self { seq: 0, hash: GENESIS.to_owned() }
    }
}

/// Makes lines. Pure: where they go is [`AuditFile`]'s business.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditChain {
    head: Head,
}

impl AuditChain {
    /// Continues after `head`.
    #[must_use]
    pub fn after(head: Head) -> Self {
        Self { head }
    }

    #[must_use]
    pub fn head(&self) -> &Head {
        &self.head
    }

    /// The line of the next record, with its newline. Members of `fact` named like ours are left out,
    /// long texts are cut, and of a record that is too long only the first members stay.
    pub fn append(&mut self, fact: &Map<String, Value>, at: SystemTime) -> String {
        let seq = self.head.seq.saturating_add(1);
        let mut body = format!("{{\"seq\":{seq},\"at\":\"{}\"", rfc3339(at));
        let ours = ["seq", "at", "prev", "hash"];
        for (name, value) in fact.iter().filter(|(name, _)| !ours.contains(&name.as_str())) {
            let member = format!(",{}:{}", Value::from(cut(name)), short(value));
            if body.len() + member.len() + OURS <= MAX_LINE {
                body.push_str(&member);
            }
        }
        body.push_str(&format!(",\"prev\":\"{}\"", self.head.hash));
        let hash = sha256_hex(body.as_bytes());
        let line = format!("{body},\"hash\":\"{hash}\"}}\n");
        self.head = Head { seq, hash };
        line
    }
}

/// The value with its long texts cut.
fn short(value: &Value) -> Value {
    match value {
        Value::String(text) => cut(text).into(),
        Value::Array(all) => all.iter().map(short).collect(),
        Value::Object(members) => members.iter().map(|(name, value)| (cut(name), short(value))).collect(),
        other => other.clone(),
    }
}

/// The head of a text that is written in more than [`MAX_TEXT`] bytes, with a mark.
fn cut(text: &str) -> String {
    // Escapes have six bytes for one.
    if text.len() <= MAX_TEXT / 6 || Value::from(text).to_string().len() <= MAX_TEXT {
        return text.to_owned();
    }
    let mut left = MAX_TEXT;
    let is_within = |c: &char| {
        left = left.saturating_sub(if c.is_control() { 6 } else { c.len_utf8().max(2) });
        left > 0
    };
    let mut head: String = text.chars().take_while(is_within).collect();
    head.push('\u{2026}');
    head
}

fn rfc3339(at: SystemTime) -> String {
    let secs = i64::try_from(unix_secs(at)).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(secs).map(|time| time.to_string()).unwrap_or_default()
}

/// A line that holds in itself; whether it follows the one before is not known yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record {
    seq: u64,
    at: String,
    prev: String,
    hash: String,
}

impl Record {
    /// `line` without its newline.
    pub(crate) fn parse(line: &[u8]) -> Result<Self, &'static str> {
        #[derive(Deserialize)]
        struct Form {
            seq: u64,
            at: String,
            prev: String,
            hash: String,
        }
        let form: Form = serde_json::from_slice(line).map_err(|_| "it is not a record")?;
        let body =
            line.len().checked_sub(TAIL).and_then(|end| line.get(..end)).ok_or("it is not a record")?;
        let whole = [body, format!(",\"hash\":\"{}\"}}", form.hash).as_bytes()].concat();
        if whole != line || sha256_hex(body) != form.hash {
            return Err("the record was changed: its hash is another");
        }
        Ok(Self { seq: form.seq, at: form.at, prev: form.prev, hash: form.hash })
    }

    pub(crate) fn head(&self) -> Head {
        Head { seq: self.seq, hash: self.hash.clone() }
    }
}

#[cfg(test)]
mod tests;
