//! Metrics of the embedded Kubernetes API.

use metrics::{Counter, Gauge, Histogram};
use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

const REQUESTS: &str = "kubeedge_apiserver_requests_total";
const SECONDS: &str = "kubeedge_apiserver_request_seconds";
const WATCHERS: &str = "kubeedge_apiserver_watchers";
const LOST: &str = "kubeedge_apiserver_watchers_lost_total";
const OBJECTS: &str = "kubeedge_apiserver_objects";

/// Verbs as labels; everything else is `other`.
const VERBS: [&str; 9] =
    ["get", "list", "watch", "create", "update", "patch", "delete", "deletecollection", "other"];

/// Handles of the API server's metrics.
#[derive(Clone)]
pub struct ApiServerMetrics {
    /// Open watches.
    pub watchers: Gauge,
    /// Watches ended because their client did not keep up with the changes.
    pub watchers_lost: Counter,
    by_verb: Vec<(&'static str, VerbMetrics)>,
}

#[derive(Clone)]
struct VerbMetrics {
    /// Answers by class of their code: 2xx, 4xx, 5xx.
    answers: [Counter; 3],
    seconds: Histogram,
}

impl Default for ApiServerMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl ApiServerMetrics {
    /// Registers and describes everything.
    #[must_use]
    pub fn new() -> Self {
        describe_counter!(REQUESTS, "API requests by verb and class of the answer");
        describe_histogram!(SECONDS, metrics::Unit::Seconds, "Time to answer API requests, watches excluded");
        describe_gauge!(WATCHERS, "Open watches");
        describe_counter!(LOST, "Watches ended because their client was too slow");
        describe_gauge!(OBJECTS, "Objects kept by the embedded API, by resource");
        let of = |verb: &'static str| {
            let answers = |class: &'static str| counter!(REQUESTS, "verb" => verb, "code" => class);
            VerbMetrics {
                answers: [answers("2xx"), answers("4xx"), answers("5xx")],
                seconds: histogram!(SECONDS, "verb" => verb),
            }
        };
        Self {
            watchers: gauge!(WATCHERS),
            watchers_lost: counter!(LOST),
            by_verb: VERBS.iter().map(|verb| (*verb, of(verb))).collect(),
        }
    }

    /// Counts an answer.
    pub fn answered(&self, verb: &str, code: u16, seconds: f64) {
        let found = self.by_verb.iter().find(|(name, _)| *name == verb).or(self.by_verb.last());
        let Some((_, metrics)) = found else { return };
        let [good, refused, failed] = &metrics.answers;
        match code {
            0..=399 => good.increment(1),
            400..=499 => refused.increment(1),
            _ => failed.increment(1),
        }
        if verb != "watch" {
            metrics.seconds.record(seconds);
        }
    }

    /// `resource` is a plural of the kind table: a bounded set.
    pub fn set_objects(&self, resource: &'static str, count: usize) {
        gauge!(OBJECTS, "kind" => resource).set(u32::try_from(count).unwrap_or(u32::MAX));
    }
}
