//! The section of BENCHMARKS.md and the picture.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::machine::quantile;
use super::picture::{Panel, Series, draw};
use super::samples::Sample;
use super::slope::Line;
use super::tally::Row;

/// Minutes that do not count, of an hour and a half: the newest 2,000 Events are there after 20 minutes, and what is
/// written and forgotten at a rate takes as long again to settle.
const WARM_UP: f64 = 30.0;

pub struct Aims {
    /// MB an hour.
    pub slope: f64,
}

impl Default for Aims {
    fn default() -> Self {
        Self { slope: 1.0 }
    }
}

type Column = fn(&Sample) -> f64;

const MEMORY: [(&str, Column); 4] = [
    ("anonymous", |sample| sample.anonymous),
    ("private", |sample| sample.private),
    ("PSS", |sample| sample.pss),
    ("RSS", |sample| sample.rss),
];

const COUNTS: [(&str, Column); 4] = [
    ("open descriptors", |sample| sample.descriptors),
    ("threads", |sample| sample.threads),
    ("store on disk, MB", |sample| sample.store),
    ("series of /metrics", |sample| sample.series),
];

pub struct Report<'a> {
    names: &'a [&'a str],
    rows: &'a [Vec<Sample>],
    /// Minutes.
    warm_up: f64,
}

impl<'a> Report<'a> {
    pub fn new(names: &'a [&'a str], rows: &'a [Vec<Sample>], minutes: f64) -> Self {
        Self { names, rows, warm_up: WARM_UP.min(minutes / 3.0) }
    }

    /// After the warm-up: hours and values.
    fn points(&self, program: usize, column: Column) -> Vec<(f64, f64)> {
        let from = self.warm_up * 60.0;
        let late = self.rows[program].iter().filter(|sample| sample.secs >= from);
        late.map(|sample| (sample.secs / 3600.0, column(sample))).collect()
    }

    fn line(&self, program: usize, column: Column) -> Option<Line> {
        Line::through(&self.points(program, column))
    }

    /// Medians of the first and the last tenth after the warm-up.
    fn ends(&self, program: usize, column: Column) -> (f64, f64) {
        let points: Vec<f64> = self.points(program, column).iter().map(|point| point.1).collect();
        if points.is_empty() {
            return (f64::NAN, f64::NAN);
        }
        let tenth = (points.len() / 10).max(1);
        (quantile(&points[..tenth], 0.5), quantile(&points[points.len() - tenth..], 0.5))
    }

    pub fn table(&self) -> String {
        let mut out = format!("| after {:.0} minutes |", self.warm_up);
        for name in self.names {
            write!(out, " {name} |").unwrap();
        }
        write!(out, "\n|---|{}\n", "---|".repeat(self.names.len())).unwrap();
        for (what, column) in MEMORY {
            write!(out, "| {what}: slope by least squares; first to last tenth |").unwrap();
            for program in 0..self.names.len() {
                let (first, last) = self.ends(program, column);
                let slope = self.line(program, column).map_or("-".to_owned(), |line| {
                    format!("{:+.2} ± {:.2} MB an hour", line.rate, line.doubt)
                });
                write!(out, " {slope}; {first:.1} to {last:.1} MB |").unwrap();
            }
            out.push('\n');
        }
        for (what, column) in COUNTS {
            write!(out, "| {what}: first to last tenth, most |").unwrap();
            for (program, rows) in self.rows.iter().enumerate() {
                let (first, last) = self.ends(program, column);
                let most = rows.iter().map(column).filter(|value| value.is_finite()).fold(0.0, f64::max);
                write!(out, " {first:.1} to {last:.1}, {most:.1} |").unwrap();
            }
            out.push('\n');
        }
        out.push_str("| CPU, all of it |");
        for rows in self.rows {
            let cpu = match rows.as_slice() {
                [first, .., last] => (last.cpu - first.cpu) / (last.secs - first.secs) * 100.0,
                _ => f64::NAN,
            };
            write!(out, " {cpu:.1} % of a core |").unwrap();
        }
        out.push('\n');
        out
    }

    pub fn picture(&self) -> String {
        let panel = |(program, name): (usize, &&str)| {
            let one = |label: &str, class: &'static str, column: Column| {
                let line = self.line(program, column);
                let points: Vec<(f64, f64)> =
                    self.rows[program].iter().map(|sample| (sample.secs / 60.0, column(sample))).collect();
                let end = points.last().map_or(0.0, |point| point.0);
                let at = |minutes: f64, line: &Line| (minutes, line.at(minutes / 60.0));
                let fit = line.as_ref().map(|line| [at(self.warm_up, line), at(end, line)]);
                let name = match &line {
                    Some(line) => format!("{label} {:+.2} MB/h", line.rate),
                    None => label.to_owned(),
                };
                Series { name, class, points, fit }
            };
            Panel {
                title: format!("{name}: memory in MB, the warm-up shaded"),
                series: vec![
                    one("RSS", "a", |sample| sample.rss),
                    one("anonymous", "b", |sample| sample.anonymous),
                ],
            }
        };
        let panels: Vec<Panel> = self.names.iter().enumerate().map(panel).collect();
        draw(&panels, self.warm_up)
    }

    /// What is worse than it should be.
    pub fn beyond(&self, aims: &Aims) -> Option<String> {
        let (what, column) = MEMORY[0];
        let late = self.names.iter().enumerate().filter_map(|(program, name)| {
            let line = self.line(program, column)?;
            (line.rate >= aims.slope).then(|| {
                format!(
                    "{what} memory of {name} grows by {:.2} MB an hour; the aim is {}",
                    line.rate, aims.slope
                )
            })
        });
        let late: Vec<String> = late.collect();
        if late.is_empty() { None } else { Some(late.join("; ")) }
    }
}

pub fn churn(rows: &BTreeMap<&'static str, Row>) -> String {
    let mut out = String::from("| what was done | times | failed |\n|---|---|---|\n");
    for (what, Row { done, failed, why }) in rows {
        let failed = if *failed == 0 { "0".to_owned() } else { format!("{failed}, the last {}", why.trim()) };
        writeln!(out, "| {what} | {done} | {} |", failed.replace('|', "/").replace('\n', " ")).unwrap();
    }
    out
}
