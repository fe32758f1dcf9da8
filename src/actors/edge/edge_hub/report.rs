//! What a report to the cloud says: what changed in the metrics, and the actors when something
//! happened to them. Pure.

use serde_json::Value;

use crate::model::{Body, Envelope, MAX_ACTORS_BYTES, NodeReport, Resource, group, operation, source};
use crate::wire::node_report::{Encoder, pack};

/// Depths and counts of actors change all the time: they travel with every fourth report.
const ACTORS_EVERY: u32 = 4;
/// What changes without anything having happened.
const MOVING: [&str; 4] = ["uptime_seconds", "mailbox_depth", "messages_total", "busy_seconds"];

/// What the program knows about itself at one time.
#[derive(Debug, Clone, PartialEq)]
pub struct Rendered {
    /// Prometheus' text format.
    pub metrics: String,
    /// As `/actors` shows them.
    pub actors: Value,
}

/// Makes the reports of one session.
#[derive(Debug, Default)]
pub struct Reporter {
    encoder: Encoder,
    /// The actors last told, without what moves.
    told: Option<Value>,
    since_told: u32,
}

impl Reporter {
    /// The next report. It counts as told: if it does not go, begin with a new `Reporter`.
    pub fn report(&mut self, rendered: &Rendered, interval_secs: u32) -> NodeReport {
        let mut report = self.encoder.report(&rendered.metrics, interval_secs);
        let still = still(&rendered.actors);
        self.since_told += 1;
        if report.sequence == 0 || self.since_told >= ACTORS_EVERY || self.told.as_ref() != Some(&still) {
            report.actors = Some(pack(&fitting(rendered.actors.clone())));
            (self.told, self.since_told) = (Some(still), 0);
        }
        report
    }
}

/// As a message. `None` when it cannot be printed.
#[must_use]
pub fn message(report: &NodeReport, now_ms: i64) -> Option<Envelope> {
    let body = Body::Object(serde_json::to_value(report).ok()?);
    Some(Envelope::new(source::REPORTER, group::META, operation::REPORT, Resource::NodeReport, body, now_ms))
}

/// The same actors without what moves.
fn still(actors: &Value) -> Value {
    match actors {
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(key, _)| !MOVING.contains(&key.as_str()));
            Value::Object(kept.map(|(key, value)| (key.clone(), still(value))).collect())
        }
        Value::Array(items) => items.iter().map(still).collect(),
        other => other.clone(),
    }
}

/// As JSON that is not longer than the cloud takes: of many workers the oldest are shown, and how
/// many there are is told beside them.
fn fitting(mut actors: Value) -> String {
    let mut most = 128;
    loop {
        let text = actors.to_string();
        if text.len() <= MAX_ACTORS_BYTES || most == 0 {
            return text;
        }
        most /= 2;
        for actor in actors.get_mut("actors").and_then(Value::as_array_mut).into_iter().flatten() {
            if let Some(children) = actor.get_mut("children").and_then(Value::as_array_mut) {
                children.truncate(most);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::wire::node_report::unpack;

    fn rendered(depth: u64, restarts: u64, children: usize) -> Rendered {
        let child = json!({"name": "pod default/a-pod-with-a-long-name", "state": "running", "messages_total": depth});
        let hub = json!({"name": "EdgeHub", "restarts": restarts, "mailbox_depth": depth,
            "children": vec![child; children], "children_total": children});
        let actors = json!({"name": "edgecore", "uptime_seconds": depth, "actors": [hub]});
        Rendered { metrics: format!("# TYPE a gauge\na {depth}\n"), actors }
    }

    fn told(report: &NodeReport) -> Option<Value> {
        let text = unpack(report.actors.as_deref()?, MAX_ACTORS_BYTES).unwrap();
        Some(serde_json::from_str(&text).unwrap())
    }

    #[test]
    fn actors_travel_when_something_happened_and_now_and_then() {
        let mut reporter = Reporter::default();
        for (turn, restarts, travels) in [
            (0, 0, true),
            (1, 0, false),
            (2, 0, false),
            (3, 0, false),
            (4, 0, true),
            (5, 0, false),
            (6, 1, true),
            (7, 1, false),
        ] {
            let report = reporter.report(&rendered(turn, restarts, 1), 15);
            assert_eq!((report.sequence, report.interval_secs), (turn as u32, 15));
            let want = travels.then(|| rendered(turn, restarts, 1).actors);
            assert_eq!(told(&report), want, "turn {turn}");
        }
    }

    #[test]
    fn many_workers_are_cut_to_what_the_cloud_takes() {
        let report = Reporter::default().report(&rendered(1, 0, 2_000), 15);
        let actors = told(&report).expect("within the bound");
        assert_eq!(actors["actors"][0]["children_total"], 2_000);
        let shown = actors["actors"][0]["children"].as_array().unwrap().len();
        assert!((1..=128).contains(&shown), "{shown}");
    }

    #[test]
    fn a_message_says_who_and_what() {
        let report = Reporter::default().report(&rendered(1, 0, 0), 15);
        let message = message(&report, 7).unwrap();
        assert_eq!(message.route.resource.to_string(), "node/report");
        assert_eq!((message.route.source.as_str(), message.route.group.as_str()), ("edgehub", "meta"));
        assert!(message.is("report") && message.header.timestamp_ms == 7);
        let Body::Object(body) = message.body else { panic!("no object") };
        assert_eq!(serde_json::from_value::<NodeReport>(body).unwrap(), report);
    }
}
