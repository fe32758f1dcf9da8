//! One series of an edge, checked: what Prometheus knows, and no label that is ours to set.

use std::fmt::Write as _;

/// Longest name of a family or a label, bytes.
pub const MAX_NAME: usize = 128;
/// Longest value of a label as it is printed, bytes.
const MAX_LABEL_VALUE: usize = 256;
const MAX_LABELS: usize = 12;
/// Longest value of a sample as it is printed, bytes.
const MAX_VALUE: usize = 32;
/// Longest help, bytes.
pub const MAX_HELP: usize = 512;

/// Labels that scraping sets. An edge that has one of its own gets it renamed, as Prometheus does.
const OURS: [&str; 4] = ["node", "job", "instance", "cluster"];

/// A family's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    Summary,
    Untyped,
}

impl Kind {
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "counter" => Self::Counter,
            "gauge" => Self::Gauge,
            "histogram" => Self::Histogram,
            "summary" => Self::Summary,
            "untyped" => Self::Untyped,
            _ => return None,
        })
    }

    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
            Self::Untyped => "untyped",
        }
    }

    /// What a family's name is followed by in its samples.
    #[must_use]
    pub fn suffixes(self) -> &'static [&'static str] {
        match self {
            Self::Counter | Self::Gauge | Self::Untyped => &[""],
            Self::Histogram => &["_bucket", "_sum", "_count"],
            Self::Summary => &["", "_sum", "_count"],
        }
    }

    /// Do the labels fit a sample of this kind that ends in `suffix`?
    #[must_use]
    pub fn fits(self, suffix: &str, sample: &Parsed<'_>) -> bool {
        let (bound, has_bound) = match self {
            Self::Counter | Self::Gauge | Self::Untyped => return true,
            Self::Histogram => (sample.le, suffix == "_bucket"),
            Self::Summary => (sample.quantile, suffix.is_empty()),
        };
        bound.is_some() == has_bound && bound.is_none_or(is_value)
    }
}

/// Name and labels of a sample. The labels are printed as they will be, sorted by name.
#[derive(Debug, PartialEq, Eq)]
pub struct Parsed<'t> {
    pub name: &'t str,
    /// `a="x",b="y"`, or empty.
    pub labels: String,
    /// The value of `le`, of `quantile`.
    pub le: Option<&'t str>,
    pub quantile: Option<&'t str>,
}

/// Reads `name{labels}`. `None`: not what Prometheus reads, or longer than anybody needs.
#[must_use]
pub fn parse(series: &str) -> Option<Parsed<'_>> {
    let (name, labels) = match series.split_once('{') {
        None => (series, ""),
        Some((name, rest)) => (name, rest.strip_suffix('}')?),
    };
    if !is_name(name, true) {
        return None;
    }
    let mut pairs: Vec<(String, &str)> = Vec::new();
    let mut rest = labels;
    while !rest.is_empty() {
        let (label, after) = rest.split_once("=\"")?;
        let end = end_of_value(after)?;
        let (value, after) = after.split_at(end);
        rest = after.strip_prefix('"')?;
        if !rest.is_empty() {
            rest = rest.strip_prefix(',')?;
        }
        if !is_name(label, false) || label.starts_with("__") || pairs.len() >= MAX_LABELS {
            return None;
        }
        let label = if OURS.contains(&label) { format!("exported_{label}") } else { label.to_owned() };
        pairs.push((label, value));
    }
    pairs.sort_unstable();
    if pairs.windows(2).any(|two| matches!(two, [(one, _), (other, _)] if one == other)) {
        return None;
    }
    let value_of = |wanted: &str| pairs.iter().find(|(label, _)| label == wanted).map(|(_, value)| *value);
    let (le, quantile) = (value_of("le"), value_of("quantile"));
    let mut labels = String::new();
    for (label, value) in pairs {
        let comma = if labels.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        write!(labels, "{comma}{label}=\"{value}\"").ok();
    }
    Some(Parsed { name, labels, le, quantile })
}

/// Where the quote is that ends a label's value; its escapes are Prometheus' three.
fn end_of_value(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().take_while(|(at, _)| *at <= MAX_LABEL_VALUE) {
        match (escaped, c) {
            (true, '\\' | '"' | 'n') => escaped = false,
            (true, _) => return None,
            (false, '\\') => escaped = true,
            (false, '"') => return Some(at),
            (false, c) if c.is_control() => return None,
            (false, _) => {}
        }
    }
    None
}

/// Letters, digits and `_`, no digit first; names of metrics may have `:`, which is for rules.
#[must_use]
pub fn is_name(text: &str, of_metric: bool) -> bool {
    let legal = |(at, c): (usize, u8)| {
        c.is_ascii_alphabetic() || c == b'_' || (c.is_ascii_digit() && at > 0) || (c == b':' && of_metric)
    };
    !text.is_empty() && text.len() <= MAX_NAME && text.bytes().enumerate().all(legal)
}

/// A number as Prometheus prints and reads it. Go reads no sign before NaN and nothing that is too large:
/// one such line would cost Prometheus the whole page.
#[must_use]
pub fn is_value(text: &str) -> bool {
    let legal = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.');
    if text.len() > MAX_VALUE || !text.bytes().all(legal) {
        return false;
    }
    match text.parse::<f64>() {
        Ok(value) if value.is_nan() => !text.starts_with(['+', '-']),
        Ok(value) => value.is_finite() || !text.contains(|c: char| c.is_ascii_digit()),
        Err(_) => false,
    }
}

/// `None`: cannot stand in a `# HELP` line.
#[must_use]
pub fn help(text: &str) -> Option<String> {
    let mut escaped = false;
    for c in text.chars() {
        match (escaped, c) {
            (true, '\\' | 'n') => escaped = false,
            (true, _) => return None,
            (false, c) => escaped = c == '\\',
        }
        if c.is_control() {
            return None;
        }
    }
    (text.len() <= MAX_HELP && !escaped).then(|| text.to_owned())
}
