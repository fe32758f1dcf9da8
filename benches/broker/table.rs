//! Medians and Markdown.

use super::load::{Busy, Outcome, Shape};
use super::machine::quantile;

/// One thing measured on every target, several times: `rows[target]` holds a value per round.
#[derive(Default, Clone)]
pub struct Figures {
    rows: Vec<Vec<f64>>,
}

impl Figures {
    pub fn add(&mut self, target: usize, value: f64) {
        self.rows.resize(self.rows.len().max(target + 1), Vec::new());
        self.rows[target].push(value);
    }

    /// Middle of the rounds that gave a value.
    pub fn median(&self, target: usize) -> Option<f64> {
        let values: Vec<f64> = self.rows.get(target)?.iter().copied().filter(|v| v.is_finite()).collect();
        if values.is_empty() { None } else { Some(quantile(&values, 0.5)) }
    }

    /// A cell per target, then the first beside the last.
    pub fn cells(&self, targets: usize, show: impl Fn(f64) -> String) -> Vec<String> {
        let mut cells: Vec<String> =
            (0..targets).map(|target| self.median(target).map_or("-".into(), &show)).collect();
        if targets > 1 {
            let ratio = self.median(0).zip(self.median(targets - 1)).map(|(first, last)| first / last);
            cells.push(ratio.filter(|r| r.is_finite()).map_or("-".into(), |ratio| format!("{ratio:.2}")));
        }
        cells
    }
}

pub fn head(what: &str, columns: &[&str], targets: &[String]) {
    let mut cells = vec![what.to_owned()];
    for column in columns {
        cells.extend(targets.iter().map(|target| format!("{column}: {target}")));
        if let [first, .., last] = targets {
            cells.push(format!("{first} / {last}"));
        }
    }
    println!("\n| {} |", cells.join(" | "));
    println!("|{}", "---|".repeat(cells.len()));
}

pub fn row(what: &str, columns: &[Vec<String>]) {
    println!("| {what} | {} |", columns.concat().join(" | "));
}

/// `1:100, QoS 1, 64 B`.
pub fn name(shape: Shape) -> String {
    let Shape { publishers, subscribers, qos, size } = shape;
    format!("{publishers}:{subscribers}, QoS {qos}, {size} B")
}

pub fn per_second(rate: f64) -> String {
    if rate < 10_000.0 { format!("{rate:.0}") } else { format!("{:.1}k", rate / 1e3) }
}

pub fn milliseconds(ms: f64) -> String {
    if ms < 1.0 { format!("{ms:.3} ms") } else { format!("{ms:.1} ms") }
}

/// Why a figure of a full load may be somebody else's: cores used beside a broker that had time left.
pub fn bottleneck(busy: Busy) -> Option<String> {
    let Busy { broker, publishers, subscribers, others } = busy;
    let broker = broker?;
    (broker < 0.9 && (publishers.max(subscribers) > 0.8 || others > 0.3)).then(|| {
        format!(
            "the broker had time left: it used {broker:.2} cores, publishers {publishers:.2}, \
             subscribers {subscribers:.2}, other processes {others:.2}"
        )
    })
}

/// What should not have happened in a run.
pub fn complaints(outcome: &Outcome, qos: u8) -> Vec<String> {
    let Outcome { expected, received, out_of_order, latency, .. } = outcome;
    let mut found = Vec::new();
    if received < expected {
        let share = (expected - received) as f64 / *expected as f64 * 100.0;
        let what = if qos == 0 { "dropped" } else { "LOST, which QoS 1 and 2 forbid:" };
        found.push(format!("{what} {} of {expected} deliveries ({share:.3} %)", expected - received));
    }
    if received > expected {
        found.push(format!("{} deliveries too many of {expected}", received - expected));
    }
    if *out_of_order > 0 {
        found.push(format!("{out_of_order} out of order or doubled"));
    }
    if latency.count() == 0 {
        found.push("nothing was delivered in the window".into());
    }
    found
}
