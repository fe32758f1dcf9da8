//! The metrics of one edge in one session, as far as they are taken.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};

use super::Refused;
use super::line::{self, Kind};
use super::render::Families;
use crate::model::{NodeName, NodeReport};
use crate::wire::node_report::{Change, Line, MAX_NAMED, MAX_TEXT_BYTES, Value, lines, unpack};

/// Names, helps and labels of one node together, bytes.
const MAX_NODE_BYTES: usize = 2 << 20;
/// What an edge's families begin with.
const PREFIXES: [&str; 2] = ["kubeedge_", "process_"];
/// Families of cloudcore: an edge must not speak for it.
const RESERVED: [&str; 9] = [
    "kubeedge_apiserver_",
    "kubeedge_cloudhub_",
    "kubeedge_devicecontroller_",
    "kubeedge_edgecontroller_",
    "kubeedge_federate_",
    "kubeedge_nodemonitor_",
    "kubeedge_pods",
    "kubeedge_scheduler_",
    "kubeedge_synccontroller_",
];
/// Names that would be taken for the samples of a histogram.
const SAMPLE_SUFFIXES: [&str; 3] = ["_bucket", "_sum", "_count"];

/// How often parts of one report were refused.
pub type Tally = HashMap<Refused, u64>;

/// The reasons in a tally, sorted.
pub fn labels(tally: &Tally) -> Vec<&'static str> {
    let mut labels: Vec<&str> = tally.keys().map(|why| why.label()).collect();
    labels.sort_unstable();
    labels
}

/// Families and samples.
#[derive(Debug, Default)]
pub struct Series {
    /// The sequence of the report that follows; `None`: only a full one is used.
    next: Option<u32>,
    families: BTreeMap<Box<str>, Family>,
    /// By the number that the edge gave; `None` where it is gone or was not taken.
    samples: Vec<Option<Sample>>,
    /// Of the samples' names and labels, so that none is there twice. The edge cannot guess the key.
    keys: HashSet<u64>,
    hasher: RandomState,
    bytes: usize,
    /// A help comes before the type of its family.
    help: Option<(Box<str>, Box<str>)>,
}

#[derive(Debug)]
struct Family {
    kind: Kind,
    help: Box<str>,
    /// Numbers of its samples, in the edge's order. Some may be gone.
    members: Vec<u32>,
}

#[derive(Debug)]
struct Sample {
    suffix: &'static str,
    labels: Box<str>,
    value: Value,
    key: u64,
}

impl Series {
    /// Forgets everything: something was not understood, so what follows would not fit.
    pub fn lose(&mut self) {
        *self = Self::default();
    }

    /// How many samples are shown.
    #[must_use]
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Takes a report. What is wrong in it is left out and told.
    ///
    /// # Errors
    /// Nothing of it can be used; call [`Series::lose`].
    pub fn apply(&mut self, report: &NodeReport, max_series: usize) -> Result<Tally, Refused> {
        if report.sequence > 0 && self.next != Some(report.sequence) {
            return Err(Refused::OutOfOrder);
        }
        let text = unpack(&report.metrics, MAX_TEXT_BYTES)?;
        if report.sequence == 0 {
            self.lose();
        }
        let mut tally = Tally::new();
        for line in lines(&text) {
            let taken = match line? {
                Line::Help { family, text } => self.help(family, text),
                Line::Type { family, kind } => self.family(family, kind, max_series),
                Line::Sample { series, value } => {
                    if self.samples.len() >= MAX_NAMED {
                        return Err(Refused::TooLong);
                    }
                    self.sample(series, value, max_series)
                }
                Line::Change { number, change } => self.change(number, &change)?,
            };
            if let Err(why) = taken {
                *tally.entry(why).or_default() += 1;
            }
        }
        self.next = report.sequence.checked_add(1);
        Ok(tally)
    }

    fn room(&mut self, more: usize) -> Result<(), Refused> {
        if self.bytes.saturating_add(more) > MAX_NODE_BYTES {
            return Err(Refused::TooManySeries);
        }
        self.bytes += more;
        Ok(())
    }

    fn help(&mut self, name: &str, text: &str) -> Result<(), Refused> {
        let text = line::help(text).ok_or(Refused::BadSeries)?;
        if self.families.contains_key(name) {
            self.room(text.len())?;
            if let Some(family) = self.families.get_mut(name) {
                self.bytes -= family.help.len();
                family.help = text.into();
            }
        } else if line::is_name(name, true) {
            self.help = Some((name.into(), text.into()));
        }
        Ok(())
    }

    fn family(&mut self, name: &str, kind: &str, max_series: usize) -> Result<(), Refused> {
        let kind = Kind::parse(kind).filter(|_| line::is_name(name, true)).ok_or(Refused::BadSeries)?;
        if let Some(family) = self.families.get(name) {
            return if family.kind == kind { Ok(()) } else { Err(Refused::TypeConflict) };
        }
        if SAMPLE_SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) {
            return Err(Refused::BadSeries);
        }
        let is_edges = PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if !is_edges || RESERVED.iter().any(|prefix| name.starts_with(prefix)) {
            return Err(Refused::Reserved);
        }
        if self.families.len() >= max_series {
            return Err(Refused::TooManySeries);
        }
        let help = self.help.take().filter(|(of, _)| **of == *name).map(|(_, help)| help).unwrap_or_default();
        self.room(name.len() + help.len())?;
        self.families.insert(name.into(), Family { kind, help, members: Vec::new() });
        Ok(())
    }

    /// A new sample, which gets a number whether or not it is taken.
    fn sample(&mut self, series: &str, value: &str, max_series: usize) -> Result<(), Refused> {
        let number = self.samples.len();
        self.samples.push(None);
        let parsed = line::parse(series).filter(|_| line::is_value(value)).ok_or(Refused::BadSeries)?;
        let place = [""].iter().chain(&SAMPLE_SUFFIXES).find_map(|suffix| {
            let base = parsed.name.strip_suffix(suffix)?;
            let kind = self.families.get(base)?.kind;
            let suffix = *kind.suffixes().iter().find(|known| *known == suffix)?;
            kind.fits(suffix, &parsed).then_some((base, suffix))
        });
        let (base, suffix) = place.ok_or(Refused::BadSeries)?;
        let key = self.hasher.hash_one((parsed.name, &parsed.labels));
        if self.keys.contains(&key) {
            return Err(Refused::Duplicate);
        }
        if self.keys.len() >= max_series {
            return Err(Refused::TooManySeries);
        }
        self.room(parsed.labels.len())?;
        let labels = parsed.labels.into();
        let sample = Sample { suffix, labels, value: Value::parse(value), key };
        if let (Some(family), Some(slot)) = (self.families.get_mut(base), self.samples.get_mut(number)) {
            family.members.push(u32::try_from(number).unwrap_or(u32::MAX));
            *slot = Some(sample);
            self.keys.insert(key);
        }
        Ok(())
    }

    /// The outer error: this is no change of what the edge said before.
    fn change(&mut self, number: usize, change: &Change<'_>) -> Result<Result<(), Refused>, Refused> {
        let slot = self.samples.get_mut(number).ok_or(Refused::BadReport)?;
        let Some(sample) = slot else { return Ok(Ok(())) };
        let refused = match change {
            Change::Gone => Ok(()),
            Change::Set(text) if !line::is_value(text) => Err(Refused::BadSeries),
            Change::Set(_) | Change::Add(_) => {
                sample.value = change.after(&sample.value).ok_or(Refused::BadReport)?;
                return Ok(Ok(()));
            }
        };
        self.bytes = self.bytes.saturating_sub(sample.labels.len());
        self.keys.remove(&sample.key);
        *slot = None;
        Ok(refused)
    }

    /// Adds every sample under its family, as `node`'s.
    pub fn write(&self, node: &NodeName, families: &mut Families) {
        for (name, family) in &self.families {
            let samples = family.members.iter().filter_map(|number| {
                let number = usize::try_from(*number).ok()?;
                self.samples.get(number)?.as_ref()
            });
            let mut samples = samples.peekable();
            if samples.peek().is_none() {
                continue;
            }
            let out = families.of(name, family.kind, &family.help);
            for Sample { suffix, labels, value, .. } in samples {
                let comma = if labels.is_empty() { "" } else { "," };
                // Writing to a String cannot fail.
                writeln!(out, "{name}{suffix}{{node=\"{node}\"{comma}{labels}}} {value}").ok();
            }
        }
    }
}
