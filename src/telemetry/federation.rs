//! What edges report about themselves, kept for Prometheus (`GET /federate/edges`) and the console.
//!
//! CloudHub's sessions give reports in, under the name in the node's certificate; the monitor takes the
//! text out. A node without a fresh report is left out, so Prometheus marks its series stale. What an
//! edge says is never trusted: names, labels and types are checked, everything is bounded, and what is
//! refused is counted.

mod line;
mod render;
mod series;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::Value;

pub use self::render::OWN;
use self::render::Types;
use self::series::Series;
use crate::model::{MAX_ACTORS_BYTES, Moment, NodeName, NodeReport};
use crate::wire::node_report::{BadReport, unpack};

/// Reports a second of one node, and how many may come at once.
const REPORTS_PER_SEC: f64 = 2.0;
const REPORTS_AT_ONCE: f64 = 10.0;
/// A report is fresh for so many intervals.
const FRESH_INTERVALS: u32 = 3;
/// Longest interval an edge may claim, seconds.
const MAX_INTERVAL_SECS: u32 = 300;
/// Of a node that has not reported yet.
const USUAL_INTERVAL: Duration = Duration::from_secs(15);
/// Nodes that are remembered while nobody said which nodes there are.
const MAX_NODES: usize = 20_000;

/// Why a report was not used, or a part of it: the `reason` label of
/// `kubeedge_federate_refused_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    #[error("the session is over")]
    NoSession,
    #[error("more reports than {REPORTS_PER_SEC} a second")]
    Rate,
    #[error("the report is too long")]
    TooLong,
    #[error("the report cannot be read")]
    BadReport,
    #[error("the report does not follow the last one")]
    OutOfOrder,
    #[error("the actors cannot be read, or are too long")]
    BadActors,
    #[error("more series than cloudHub.maxSeriesPerNode")]
    TooManySeries,
    #[error("a name, label, help, type or value that Prometheus does not know")]
    BadSeries,
    #[error("a name that is not an edge's")]
    Reserved,
    #[error("a series that is there twice")]
    Duplicate,
    #[error("a type that is not that of the other nodes")]
    TypeConflict,
}

impl Refused {
    /// Every reason.
    pub const ALL: [Self; 11] = [
        Self::NoSession,
        Self::Rate,
        Self::TooLong,
        Self::BadReport,
        Self::OutOfOrder,
        Self::BadActors,
        Self::TooManySeries,
        Self::BadSeries,
        Self::Reserved,
        Self::Duplicate,
        Self::TypeConflict,
    ];

    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::NoSession => "no_session",
            Self::Rate => "rate",
            Self::TooLong => "too_long",
            Self::BadReport => "bad_report",
            Self::OutOfOrder => "out_of_order",
            Self::BadActors => "bad_actors",
            Self::TooManySeries => "too_many_series",
            Self::BadSeries => "bad_series",
            Self::Reserved => "reserved",
            Self::Duplicate => "duplicate",
            Self::TypeConflict => "type_conflict",
        }
    }
}

impl From<BadReport> for Refused {
    fn from(err: BadReport) -> Self {
        match err {
            BadReport::TooLong { .. } => Self::TooLong,
            BadReport::Packing(_) | BadReport::Line { .. } => Self::BadReport,
        }
    }
}

/// How often something was refused, by reason.
#[derive(Debug, Default)]
struct Counts([AtomicU64; Refused::ALL.len()]);

impl Counts {
    fn add(&self, why: Refused, times: u64) {
        let counts = Refused::ALL.iter().zip(&self.0);
        for (_, count) in counts.filter(|(reason, _)| **reason == why) {
            count.fetch_add(times, Ordering::Relaxed);
        }
    }

    fn all(&self) -> impl Iterator<Item = (Refused, u64)> {
        Refused::ALL.iter().zip(&self.0).map(|(why, count)| (*why, count.load(Ordering::Relaxed)))
    }
}

/// What all edges reported. Cheap to clone; all clones are the same.
#[derive(Debug, Clone)]
pub struct Federation {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    nodes: Mutex<Nodes>,
    types: Mutex<Types>,
    refused: Counts,
    max_series: usize,
}

#[derive(Debug, Default)]
struct Nodes {
    /// Each with its own lock: a scrape never holds up the sessions of other nodes.
    rows: BTreeMap<NodeName, Arc<Mutex<Row>>>,
    /// The edge nodes of the API; `None` until somebody said.
    known: Option<BTreeSet<NodeName>>,
}

/// One node.
#[derive(Debug)]
struct Row {
    session: Option<u64>,
    /// The newest session there was.
    newest: u64,
    series: Series,
    /// When the last report came.
    reported: Option<Moment>,
    interval: Duration,
    /// Actors, and when they came. They outlive the session: people want to see what it was.
    actors: Option<(i64, Arc<Value>)>,
    allowance: f64,
    allowance_at: Instant,
    /// That something was refused was logged in this session.
    warned: bool,
}

impl Row {
    fn new(now: Instant) -> Self {
        Self {
            session: None,
            newest: 0,
            series: Series::default(),
            reported: None,
            interval: USUAL_INTERVAL,
            actors: None,
            allowance: REPORTS_AT_ONCE,
            allowance_at: now,
            warned: false,
        }
    }

    /// Is the newest of its reports fresh, and its session open? Then its series are shown.
    fn is_fresh(&self, now: Instant) -> bool {
        self.session.is_some() && self.reported.is_some_and(|reported| self.is_recent(reported.at, now))
    }

    /// A node that just connected, or never reports because it is KubeEdge's, is not down.
    fn is_up(&self, now: Instant) -> bool {
        self.session.is_some() && self.reported.is_none_or(|reported| self.is_recent(reported.at, now))
    }

    fn is_recent(&self, at: Instant, now: Instant) -> bool {
        now.saturating_duration_since(at) < self.interval * FRESH_INTERVALS
    }

    fn take_allowance(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.allowance_at).as_secs_f64();
        self.allowance = (self.allowance + passed * REPORTS_PER_SEC).min(REPORTS_AT_ONCE);
        self.allowance_at = self.allowance_at.max(now);
        if self.allowance < 1.0 {
            return false;
        }
        self.allowance -= 1.0;
        true
    }
}

impl Federation {
    /// `max_series`: most series of one node.
    #[must_use]
    pub fn new(max_series: usize) -> Self {
        let shared = Shared {
            nodes: Mutex::default(),
            types: Mutex::default(),
            refused: Counts::default(),
            max_series,
        };
        Self { shared: Arc::new(shared) }
    }

    /// `node` has a session, the one before is over. `session` grows with every session.
    pub fn session_opened(&self, node: &NodeName, session: u64, now: Moment) {
        let row = {
            let mut nodes = self.shared.nodes.lock();
            if nodes.rows.len() >= MAX_NODES && !nodes.rows.contains_key(node) {
                nodes.rows.retain(|_, row| row.lock().session.is_some());
            }
            let fresh = || Arc::new(Mutex::new(Row::new(now.at)));
            Arc::clone(nodes.rows.entry(node.clone()).or_insert_with(fresh))
        };
        let mut row = row.lock();
        if session <= row.newest {
            return;
        }
        row.newest = session;
        row.session = Some(session);
        row.series = Series::default();
        row.reported = None;
        row.interval = USUAL_INTERVAL;
        row.warned = false;
    }

    /// The session is over: the node's series are. An older session than the newest changes nothing.
    pub fn session_ended(&self, node: &NodeName, session: u64) {
        let mut nodes = self.shared.nodes.lock();
        let Some(row) = nodes.rows.get(node).cloned() else { return };
        let mut row = row.lock();
        if row.session == Some(session) {
            row.session = None;
            row.series = Series::default();
            if nodes.known.as_ref().is_some_and(|known| !known.contains(node)) {
                nodes.rows.remove(node);
            }
        }
    }

    /// The edge nodes of the API. Others are forgotten when their session ends.
    pub fn known_nodes(&self, known: BTreeSet<NodeName>) {
        let mut nodes = self.shared.nodes.lock();
        nodes.rows.retain(|node, row| known.contains(node) || row.lock().session.is_some());
        nodes.known = Some(known);
    }

    /// A report of `node` came in `session`. Parts of it may be refused though it is used.
    ///
    /// # Errors
    /// [`Refused`]: nothing of the report is used, and the node's series are gone until a full one.
    /// It is counted already.
    pub fn report(
        &self,
        node: &NodeName,
        session: u64,
        report: NodeReport,
        now: Moment,
    ) -> Result<(), Refused> {
        let taken = self.take(node, session, &report, now);
        if let Err(why) = taken {
            self.shared.refused.add(why, 1);
        }
        taken
    }

    fn take(&self, node: &NodeName, session: u64, report: &NodeReport, now: Moment) -> Result<(), Refused> {
        let row = self.shared.nodes.lock().rows.get(node).cloned().ok_or(Refused::NoSession)?;
        let mut row = row.lock();
        if row.session != Some(session) {
            return Err(Refused::NoSession);
        }
        if !row.take_allowance(now.at) {
            // What was said in it is lost, so what follows does not fit.
            row.series.lose();
            return Err(Refused::Rate);
        }
        let applied = row.series.apply(report, self.shared.max_series);
        if applied.as_ref().map_or(true, |refused| !refused.is_empty())
            && !std::mem::replace(&mut row.warned, true)
        {
            // Once a session: an edge must not be able to fill the log.
            let why = applied.as_ref().map_or_else(|why| vec![why.label()], series::labels);
            tracing::warn!(%node, reasons = why.join(","), "series of the edge are left out");
        }
        let refused = applied.inspect_err(|_| row.series.lose())?;
        for (why, times) in refused {
            self.shared.refused.add(why, times);
        }
        row.reported = Some(now);
        row.interval = Duration::from_secs(report.interval_secs.clamp(1, MAX_INTERVAL_SECS).into());
        if let Some(packed) = &report.actors {
            match actors(packed) {
                Some(actors) => row.actors = Some((now.unix_ms, Arc::new(actors))),
                None => self.shared.refused.add(Refused::BadActors, 1),
            }
        }
        Ok(())
    }

    /// Something came of `node` in `session` that is no report.
    ///
    /// # Errors
    /// Always [`Refused::BadReport`]; it is counted already.
    pub fn unreadable(&self, node: &NodeName, session: u64) -> Result<(), Refused> {
        let row = self.shared.nodes.lock().rows.get(node).cloned();
        if let Some(row) = row {
            let mut row = row.lock();
            if row.session == Some(session) {
                row.series.lose();
            }
        }
        self.shared.refused.add(Refused::BadReport, 1);
        Err(Refused::BadReport)
    }

    /// The actors of `node` as it last told, and when that was (Unix milliseconds).
    #[must_use]
    pub fn actors(&self, node: &NodeName) -> Option<(i64, Arc<Value>)> {
        let row = self.shared.nodes.lock().rows.get(node).cloned()?;
        row.lock().actors.clone()
    }

    /// All nodes that are known, whether each has a session, and when it last reported (Unix
    /// milliseconds). Sorted.
    #[must_use]
    pub fn nodes(&self) -> Vec<(NodeName, bool, Option<i64>)> {
        let nodes = self.shared.nodes.lock();
        let mut all: BTreeMap<NodeName, (bool, Option<i64>)> =
            nodes.known.iter().flatten().map(|node| (node.clone(), (false, None))).collect();
        for (node, row) in &nodes.rows {
            let row = row.lock();
            all.insert(node.clone(), (row.session.is_some(), row.reported.map(|it| it.unix_ms)));
        }
        all.into_iter().map(|(node, (connected, at))| (node, connected, at)).collect()
    }

    /// Prometheus' text format: what edges reported, each series with the label `node`, and what
    /// Federation itself counts.
    #[must_use]
    pub fn render(&self, now: Instant) -> String {
        render::render(&self.shared, now)
    }
}

fn actors(packed: &str) -> Option<Value> {
    let text = unpack(packed, MAX_ACTORS_BYTES).ok()?;
    serde_json::from_str(&text).ok().filter(Value::is_object)
}
