//! The page that Prometheus reads: every family once, with the samples of all nodes below it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use super::line::Kind;
use super::{Refused, Shared};
use crate::model::NodeName;

/// What Federation itself measures: name, type, help, labels. Not in the program's own `/metrics`.
pub const OWN: [(&str, &str, &str, &[&str]); 4] = [
    (
        "kubeedge_federate_edge_up",
        "gauge",
        "1 while the node has a session and, if it reports, a report that is not older than three intervals",
        &["node"],
    ),
    (
        "kubeedge_federate_report_age_seconds",
        "gauge",
        "Since the newest report of a connected node",
        &["node"],
    ),
    ("kubeedge_federate_series", "gauge", "Series of all edges on this page", &[]),
    (
        "kubeedge_federate_refused_total",
        "counter",
        "Reports of edges, and families and series in them, that were refused, by reason",
        &["reason"],
    ),
];

/// The type of each family on the last page.
pub type Types = BTreeMap<Box<str>, Kind>;

/// Samples of all nodes by family.
#[derive(Debug, Default)]
pub struct Families(BTreeMap<Box<str>, BTreeMap<Kind, Samples>>);

#[derive(Debug, Default)]
struct Samples {
    nodes: usize,
    help: Box<str>,
    text: String,
}

impl Families {
    /// Where the samples of one more node go.
    pub fn of(&mut self, name: &str, kind: Kind, help: &str) -> &mut String {
        if !self.0.contains_key(name) {
            self.0.insert(name.into(), BTreeMap::new());
        }
        let samples = self.0.entry(name.into()).or_default().entry(kind).or_default();
        samples.nodes += 1;
        if samples.help.is_empty() {
            samples.help = help.into();
        }
        &mut samples.text
    }

    /// A family has one type. Where nodes differ, that of most of them is shown, among equals the
    /// one of the last page (`shown`). The number of samples left out comes back.
    fn write(self, shown: &mut Types, page: &mut String) -> u64 {
        let (mut left_out, mut types) = (0, Types::new());
        for (name, kinds) in self.0 {
            let before = shown.get(&name).copied();
            let weight = |(kind, it): &(&Kind, &Samples)| (it.nodes, before == Some(**kind), Reverse(**kind));
            let winner = kinds.iter().max_by_key(weight).map(|(kind, _)| *kind);
            for (kind, samples) in kinds {
                if Some(kind) == winner {
                    head(page, &name, kind.word(), &samples.help);
                    page.push_str(&samples.text);
                } else {
                    left_out += samples.text.lines().count() as u64;
                }
            }
            types.extend(winner.map(|kind| (name, kind)));
        }
        *shown = types;
        left_out
    }
}

fn head(page: &mut String, name: &str, kind: &str, help: &str) {
    let help = if help.is_empty() { "As the edge reports it." } else { help };
    // Writing to a String cannot fail.
    writeln!(page, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
}

/// One node's rows among Federation's own.
struct State {
    node: NodeName,
    up: bool,
    age_secs: Option<f64>,
}

pub(super) fn render(shared: &Shared, now: Instant) -> String {
    let (rows, known) = {
        let nodes = shared.nodes.lock();
        let rows: Vec<_> = nodes.rows.iter().map(|(node, row)| (node.clone(), Arc::clone(row))).collect();
        let silent = nodes.known.iter().flatten().filter(|node| !nodes.rows.contains_key(*node));
        (rows, silent.cloned().collect::<Vec<_>>())
    };
    let (mut families, mut states, mut series) = (Families::default(), Vec::new(), 0);
    for (node, row) in rows {
        // One node at a time, so that reports of the others go on.
        let row = row.lock();
        let connected = row.session.and(row.reported);
        let age = connected.map(|reported| now.saturating_duration_since(reported.at).as_secs_f64());
        if row.is_fresh(now) {
            row.series.write(&node, &mut families);
            series += row.series.count();
        }
        states.push(State { node, up: row.is_up(now), age_secs: age });
    }
    states.extend(known.into_iter().map(|node| State { node, up: false, age_secs: None }));
    states.sort_by(|one, other| one.node.cmp(&other.node));

    let mut page = String::new();
    let left_out = families.write(&mut shared.types.lock(), &mut page);
    if left_out > 0 {
        shared.refused.add(Refused::TypeConflict, left_out);
    }
    for (name, kind, help, _) in OWN {
        head(&mut page, name, kind, help);
        let mut row = |label: &str, text: &str, value: f64| {
            let labels = if label.is_empty() { String::new() } else { format!("{{{label}=\"{text}\"}}") };
            writeln!(page, "{name}{labels} {value}").ok();
        };
        match name {
            "kubeedge_federate_edge_up" => {
                states.iter().for_each(|it| row("node", it.node.as_str(), if it.up { 1.0 } else { 0.0 }));
            }
            "kubeedge_federate_report_age_seconds" => {
                let ages = states.iter().filter_map(|it| Some((it, it.age_secs?)));
                ages.for_each(|(it, age)| row("node", it.node.as_str(), age));
            }
            "kubeedge_federate_series" => row("", "", series as f64),
            _ => shared.refused.all().for_each(|(why, count)| row("reason", why.label(), count as f64)),
        }
    }
    page
}
