//! What a fleet of simulated edges saw of its cloud: counts and latencies.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::Serialize;

/// Buckets grow by this: a quantile is right within 5 %.
const GROWTH: f64 = 1.05;
/// Upper bound of the first bucket, seconds.
const FIRST: f64 = 1e-5;
/// The last bucket holds everything from about ten minutes on.
const BUCKETS: usize = 368;

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Timed {
    /// A certificate from the join server.
    Join,
    /// TCP, TLS and upgrade.
    Connect,
    /// From an open session to a node whose status the cloud has.
    Registered,
    /// A lease renewal until its answer.
    Lease,
    /// A node's or pod's status until its answer.
    Status,
    /// From the cloud's timestamp in a message to its acknowledgement here.
    Delivered,
    /// From losing a session to the next one.
    Away,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Counted {
    /// The join server asked to come later.
    Throttled,
    JoinFailed,
    DialFailed,
    SessionLost,
    /// Acknowledged messages.
    Acked,
    /// A call the cloud did not answer in time.
    Unanswered,
    /// A call the cloud refused.
    Refused,
    /// A frame that is no message.
    BadFrame,
    /// Messages for modules a simulated edge does not have.
    Ignored,
    /// Pods said to be running.
    PodsRunning,
    /// Pods said to be gone.
    PodsGone,
    Reports,
    SentBytes,
    ReceivedBytes,
}

/// Samples in buckets.
#[derive(Debug, Clone)]
struct Samples {
    buckets: Vec<u32>,
    count: u64,
    longest: f64,
}

impl Default for Samples {
    fn default() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, longest: 0.0 }
    }
}

impl Samples {
    fn add(&mut self, secs: f64) {
        let at = ((secs.max(FIRST) / FIRST).ln() / GROWTH.ln()).ceil();
        let at = (at as usize).min(BUCKETS - 1);
        if let Some(bucket) = self.buckets.get_mut(at) {
            *bucket = bucket.saturating_add(1);
        }
        self.count += 1;
        self.longest = self.longest.max(secs);
    }

    /// Value below which a share `q` lies (nearest rank).
    fn quantile(&self, q: f64) -> f64 {
        let rank = ((q * self.count as f64).ceil() as u64).max(1);
        let mut seen = 0_u64;
        for (at, bucket) in self.buckets.iter().enumerate() {
            seen += u64::from(*bucket);
            if seen >= rank {
                return (FIRST * GROWTH.powi(i32::try_from(at).unwrap_or(i32::MAX))).min(self.longest);
            }
        }
        self.longest
    }
}

/// Latencies of one kind, seconds.
#[derive(Debug, Clone, Serialize)]
pub struct Shown {
    pub count: u64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// Everything, as it is printed.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Seconds since the start.
    pub at: f64,
    pub nodes: usize,
    pub connected: usize,
    pub registered: usize,
    pub counts: BTreeMap<Counted, u64>,
    pub seconds: BTreeMap<Timed, Shown>,
    /// The last thing that went wrong.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub trouble: String,
    /// This is the last line.
    pub end: bool,
}

#[derive(Debug, Default)]
struct Inner {
    connected: usize,
    registered: usize,
    counts: BTreeMap<Counted, u64>,
    seconds: BTreeMap<Timed, Samples>,
    trouble: String,
}

/// Shared by all edges.
#[derive(Debug)]
pub struct Figures {
    begun: Instant,
    nodes: usize,
    inner: Mutex<Inner>,
}

impl Figures {
    #[must_use]
    pub fn new(nodes: usize) -> Self {
        Self { begun: Instant::now(), nodes, inner: Mutex::default() }
    }

    pub fn count(&self, what: Counted, more: u64) {
        *self.inner.lock().counts.entry(what).or_default() += more;
    }

    pub fn time(&self, what: Timed, took: Duration) {
        self.inner.lock().seconds.entry(what).or_default().add(took.as_secs_f64());
    }

    /// A session opened, or ended.
    pub fn connected(&self, is_open: bool) {
        let connected = &mut self.inner.lock().connected;
        *connected = if is_open { *connected + 1 } else { connected.saturating_sub(1) };
    }

    /// The cloud has a node's status in this session, or the session ended.
    pub fn registered(&self, is: bool) {
        let registered = &mut self.inner.lock().registered;
        *registered = if is { *registered + 1 } else { registered.saturating_sub(1) };
    }

    pub fn trouble(&self, what: Counted, why: String) {
        self.count(what, 1);
        self.inner.lock().trouble = why;
    }

    #[must_use]
    pub fn summary(&self, end: bool) -> Summary {
        let inner = self.inner.lock();
        let shown = |samples: &Samples| Shown {
            count: samples.count,
            p50: samples.quantile(0.5),
            p99: samples.quantile(0.99),
            max: samples.longest,
        };
        Summary {
            at: self.begun.elapsed().as_secs_f64(),
            nodes: self.nodes,
            connected: inner.connected,
            registered: inner.registered,
            counts: inner.counts.clone(),
            seconds: inner.seconds.iter().map(|(what, samples)| (*what, shown(samples))).collect(),
            trouble: inner.trouble.clone(),
            end,
        }
    }
}

impl Summary {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut lines = vec![format!(
            "{:.0} s: {} of {} nodes connected, {} registered",
            self.at, self.connected, self.nodes, self.registered
        )];
        for (what, Shown { count, p50, p99, max }) in &self.seconds {
            let (p50, p99, max) = (p50 * 1e3, p99 * 1e3, max * 1e3);
            lines.push(format!("  {what:?}: p50 {p50:.1} ms, p99 {p99:.1} ms, max {max:.1} ms, n {count}"));
        }
        let counts: Vec<String> =
            self.counts.iter().map(|(what, count)| format!("{what:?} {count}")).collect();
        lines.push(format!("  {}", counts.join(", ")));
        if !self.trouble.is_empty() {
            lines.push(format!("  last trouble: {}", self.trouble));
        }
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_right_within_a_bucket() {
        let mut samples = Samples::default();
        for ms in 1..=1_000 {
            samples.add(f64::from(ms) / 1e3);
        }
        for (q, want) in [(0.01, 0.010), (0.5, 0.5), (0.99, 0.99), (1.0, 1.0)] {
            let got = samples.quantile(q);
            assert!((got / want - 1.0).abs() < 0.06, "{q}: {got}");
        }
        samples.add(1e9);
        samples.add(0.0);
        assert_eq!((samples.count, samples.longest), (1_002, 1e9));
        assert_eq!(Samples::default().quantile(0.5), 0.0);
    }

    #[test]
    fn a_summary_says_what_was_seen() {
        let figures = Figures::new(3);
        figures.connected(true);
        figures.registered(true);
        figures.time(Timed::Lease, Duration::from_millis(4));
        figures.trouble(Counted::DialFailed, "no route".to_owned());
        let summary = figures.summary(true);
        let json = serde_json::to_value(&summary).unwrap();
        assert_eq!(json["connected"], 1);
        assert_eq!(json["counts"]["dialFailed"], 1);
        assert_eq!(json["seconds"]["lease"]["count"], 1);
        let text = summary.text();
        assert!(text.contains("1 of 3 nodes connected, 1 registered") && text.contains("no route"), "{text}");
        figures.connected(false);
        figures.connected(false);
        assert_eq!(figures.summary(false).connected, 0);
    }
}
