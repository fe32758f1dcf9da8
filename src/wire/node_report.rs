//! Metrics of an edge on their way to the cloud (`node/report`, ours): names once, then only what
//! changed.
//!
//! The text inside [`NodeReport::metrics`] has two parts. The first is Prometheus' text format with
//! what is new: `# HELP` and `# TYPE` lines, and samples. Each sample line gets the next number, from
//! 0 on in a full report. A line `.` ends the part. The second has one line for each known sample that
//! changed, in the order of their numbers: the distance to the number before (left out when it is 1),
//! then `+n` (a whole number grew), `=value`, or `-` (it is gone).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{Read, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde::Deserialize;

use crate::model::{Body, NodeReport};

/// Longest packed text that is looked at, bytes of base64.
pub const MAX_PACKED_BYTES: usize = 512 << 10;
/// Longest text inside, bytes. A full report of an edge has about 100 KiB.
pub const MAX_TEXT_BYTES: usize = 2 << 20;
/// Most samples named since the last full report.
pub const MAX_NAMED: usize = 1 << 16;
/// A report is full again after so many: an hour at the usual interval. It mends what nobody noticed.
const FULL_EVERY: u32 = 240;
/// Numbers of samples that are gone are not used again; past this many the next report is full.
const MAX_GONE: usize = 4_096;
const END_OF_NEW: &str = ".";

/// Why a report is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReport {
    #[error("the report is longer than {limit} bytes")]
    TooLong { limit: usize },
    #[error("the report is not base64 of gzip of text: {0}")]
    Packing(String),
    #[error("line {line} of the report cannot be read")]
    Line { line: usize },
}

/// A value as it is printed, small when it is a whole number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Whole(u64),
    Text(Box<str>),
}

impl Value {
    #[must_use]
    pub fn parse(text: &str) -> Self {
        // "07" and "+7" are numbers too, but would be printed otherwise.
        match text.parse::<u64>() {
            Ok(whole) if !text.starts_with(['0', '+']) || text == "0" => Self::Whole(whole),
            _ => Self::Text(text.into()),
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(whole) => whole.fmt(f),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// What became of a sample that has a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<'t> {
    Add(u64),
    Set(&'t str),
    Gone,
}

impl Change<'_> {
    /// The value after this change; `None` when the sample is gone, or the change does not fit.
    #[must_use]
    pub fn after(&self, value: &Value) -> Option<Value> {
        match (self, value) {
            (Self::Add(more), Value::Whole(had)) => Some(Value::Whole(had.checked_add(*more)?)),
            (Self::Set(text), _) => Some(Value::parse(text)),
            (Self::Gone, _) | (Self::Add(_), Value::Text(_)) => None,
        }
    }
}

/// One line of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line<'t> {
    /// `# HELP {family} {text}`.
    Help { family: &'t str, text: &'t str },
    /// `# TYPE {family} {kind}`.
    Type { family: &'t str, kind: &'t str },
    /// A new sample, name with labels and value. It gets the next number.
    Sample { series: &'t str, value: &'t str },
    /// A sample that has a number.
    Change { number: usize, change: Change<'t> },
}

/// The text packed into a report.
///
/// # Errors
/// [`BadReport`] when it is not packed so, or too long.
pub fn unpack(packed: &str, most: usize) -> Result<String, BadReport> {
    if packed.len() > MAX_PACKED_BYTES {
        return Err(BadReport::TooLong { limit: MAX_PACKED_BYTES });
    }
    let fail = |why: &dyn std::fmt::Display| BadReport::Packing(why.to_string());
    let zipped = STANDARD.decode(packed).map_err(|err| fail(&err))?;
    let mut text = String::new();
    let limit = u64::try_from(most).unwrap_or(u64::MAX).saturating_add(1);
    GzDecoder::new(zipped.as_slice()).take(limit).read_to_string(&mut text).map_err(|err| fail(&err))?;
    if text.len() > most {
        return Err(BadReport::TooLong { limit: most });
    }
    Ok(text)
}

/// The report in the body of a `node/report`.
#[must_use]
pub fn report_of(body: &Body) -> Option<NodeReport> {
    match body {
        Body::Object(object) => NodeReport::deserialize(object).ok(),
        _ => None,
    }
}

/// `text` as it travels.
#[must_use]
pub fn pack(text: &str) -> String {
    let mut zip = GzEncoder::new(Vec::new(), Compression::default());
    // Writing into memory does not fail.
    zip.write_all(text.as_bytes()).ok();
    STANDARD.encode(zip.finish().unwrap_or_default())
}

/// The lines of an unpacked report.
///
/// # Errors
/// At the first line that cannot be read; nothing after it is understood either.
pub fn lines(text: &str) -> impl Iterator<Item = Result<Line<'_>, BadReport>> {
    let (mut is_new, mut before) = (true, None::<usize>);
    text.lines().enumerate().filter_map(move |(at, line)| {
        let bad = || Some(Err(BadReport::Line { line: at + 1 }));
        if is_new {
            if line == END_OF_NEW {
                is_new = false;
                return None;
            }
            return match new_line(line) {
                Some(line) => Some(Ok(line)),
                None => bad(),
            };
        }
        let Some((distance, change)) = changed_line(line) else { return bad() };
        let number = match before {
            None => Some(distance.saturating_sub(1)),
            Some(before) => before.checked_add(distance),
        };
        let Some(number) = number.filter(|_| distance > 0) else { return bad() };
        before = Some(number);
        Some(Ok(Line::Change { number, change }))
    })
}

fn new_line(line: &str) -> Option<Line<'_>> {
    if let Some(rest) = line.strip_prefix("# HELP ") {
        let (family, text) = rest.split_once(' ').unwrap_or((rest, ""));
        return Some(Line::Help { family, text });
    }
    if let Some(rest) = line.strip_prefix("# TYPE ") {
        let (family, kind) = rest.split_once(' ')?;
        return Some(Line::Type { family, kind });
    }
    let (series, value) = line.rsplit_once(' ')?;
    (!series.is_empty() && !value.is_empty() && !series.starts_with('#'))
        .then_some(Line::Sample { series, value })
}

fn changed_line(line: &str) -> Option<(usize, Change<'_>)> {
    let at = line.find(|c: char| !c.is_ascii_digit())?;
    let (distance, rest) = line.split_at(at);
    let distance = if distance.is_empty() { 1 } else { distance.parse().ok()? };
    let change = match (rest.get(..1)?, rest.get(1..)?) {
        ("+", more) => Change::Add(more.parse().ok()?),
        ("=", value) if !value.is_empty() && !value.contains(' ') => Change::Set(value),
        ("-", "") => Change::Gone,
        _ => return None,
    };
    Some((distance, change))
}

/// The edge's side: remembers what was said in this session.
#[derive(Debug, Default)]
pub struct Encoder {
    /// `None`: the next report is full.
    last: Option<u32>,
    /// `HELP` and `TYPE` lines said so far, by their beginning up to the family's name.
    families: HashMap<String, String>,
    samples: HashMap<String, Said>,
    /// The number of the next new sample.
    next: usize,
    gone: usize,
}

#[derive(Debug)]
struct Said {
    number: usize,
    value: Value,
    /// The report that last had it.
    seen: u32,
}

impl Encoder {
    /// The next report is full: a session began, or a report did not go.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// What changed in `rendered`, Prometheus' text format, since the report before. Lines that are
    /// none of that format are left out, and of a sample that is there twice the second.
    #[must_use]
    pub fn report(&mut self, rendered: &str, interval_secs: u32) -> NodeReport {
        if self.last.is_some_and(|last| last >= FULL_EVERY)
            || self.gone > MAX_GONE
            || self.next > MAX_NAMED / 2
        {
            self.forget();
        }
        let sequence = self.last.map_or(0, |last| last + 1);
        self.last = Some(sequence);
        let (mut text, mut changes) = (String::new(), Vec::new());
        for line in rendered.lines() {
            match new_line(line) {
                Some(Line::Sample { series, value }) => {
                    self.sample(line, series, value, &mut text, &mut changes)
                }
                Some(Line::Help { family, .. }) => self.family("HELP", family, line, &mut text),
                Some(Line::Type { family, .. }) => self.family("TYPE", family, line, &mut text),
                _ => {}
            }
        }
        let known = self.samples.len();
        self.samples.retain(|_, said| {
            let is_there = said.seen == sequence;
            if !is_there {
                changes.push((said.number, "-".to_owned()));
            }
            is_there
        });
        self.gone += known - self.samples.len();
        text.push_str(END_OF_NEW);
        text.push('\n');
        changes.sort_unstable();
        let mut before = None;
        for (number, change) in changes {
            let distance = before.map_or(number + 1, |before| number - before);
            before = Some(number);
            let told =
                if distance == 1 { writeln!(text, "{change}") } else { writeln!(text, "{distance}{change}") };
            // Writing to a String cannot fail.
            told.ok();
        }
        NodeReport { sequence, interval_secs, metrics: pack(&text), actors: None }
    }

    fn family(&mut self, word: &str, family: &str, line: &str, text: &mut String) {
        let key = format!("{word} {family}");
        if self.families.get(&key).is_some_and(|said| said == line) {
            return;
        }
        self.families.insert(key, line.to_owned());
        text.push_str(line);
        text.push('\n');
    }

    fn sample(
        &mut self,
        line: &str,
        series: &str,
        value: &str,
        text: &mut String,
        changes: &mut Vec<(usize, String)>,
    ) {
        let sequence = self.last.unwrap_or_default();
        let value = Value::parse(value);
        let Some(said) = self.samples.get_mut(series) else {
            let said = Said { number: self.next, value, seen: sequence };
            self.samples.insert(series.to_owned(), said);
            self.next += 1;
            text.push_str(line);
            text.push('\n');
            return;
        };
        if said.seen == sequence {
            return;
        }
        said.seen = sequence;
        if said.value == value {
            return;
        }
        let change = match (&said.value, &value) {
            (Value::Whole(had), Value::Whole(has)) if has > had => format!("+{}", has - had),
            _ => format!("={value}"),
        };
        said.value = value;
        changes.push((said.number, change));
    }
}

#[cfg(test)]
#[path = "node_report_tests.rs"]
mod tests;
