//! Kubernetes events of pods: the same one again is counted, not repeated, and a node has a limit.
//! Pure.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::action::Note;
use super::backoff::since;
use super::status::whole_second;

/// The same event within this time raises the count of the first one.
const WINDOW: Duration = Duration::from_secs(600);
/// Most events remembered for counting; the oldest go first.
const REMEMBERED: usize = 1024;

/// Counts and limits the events of one node.
#[derive(Debug)]
pub struct EventLog {
    node: String,
    per_second: f64,
    burst: f64,
    tokens: f64,
    refilled: Option<Timestamp>,
    seen: HashMap<Key, Seen>,
    last_nanos: i128,
    /// Events not reported because of the limit.
    pub dropped: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    uid: String,
    reason: &'static str,
    message: String,
    container: Option<String>,
}

#[derive(Debug, Clone)]
struct Seen {
    name: String,
    count: i32,
    first: Timestamp,
    last: Timestamp,
}

impl EventLog {
    /// `per_second` 0 means no limit.
    #[must_use]
    pub fn new(node: &str, per_second: u32, burst: u32) -> Self {
        let burst = f64::from(burst.max(1));
        Self {
            node: node.to_owned(),
            per_second: f64::from(per_second),
            burst,
            tokens: burst,
            refilled: None,
            seen: HashMap::new(),
            last_nanos: 0,
            dropped: 0,
        }
    }

    /// The event to report for a note, or `None` when the limit is reached.
    pub fn event(&mut self, pod: &Pod, note: &Note, now: Timestamp) -> Option<Event> {
        if !self.take_token(now) {
            self.dropped = self.dropped.saturating_add(1);
            return None;
        }
        let meta = &pod.metadata;
        let pod_name = meta.name.clone().unwrap_or_default();
        let key = Key {
            uid: meta.uid.clone().unwrap_or_default(),
            reason: note.reason,
            message: note.message.clone(),
            container: note.container.clone(),
        };
        let seen = self.count(key, &pod_name, now);
        let field = |name: &String| {
            let init = super::state::specs(pod).any(|(spec, init)| init && spec.name == *name);
            let list = if init { "initContainers" } else { "containers" };
            format!("spec.{list}{{{name}}}")
        };
        Some(Event {
            metadata: ObjectMeta {
                name: Some(seen.name),
                namespace: meta.namespace.clone(),
                ..ObjectMeta::default()
            },
            involved_object: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: meta.name.clone(),
                namespace: meta.namespace.clone(),
                uid: meta.uid.clone(),
                resource_version: meta.resource_version.clone(),
                field_path: note.container.as_ref().map(field),
            },
            reason: Some(note.reason.to_owned()),
            message: Some(note.message.clone()),
            type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
            count: Some(seen.count),
            first_timestamp: Some(whole_second(seen.first)),
            last_timestamp: Some(whole_second(seen.last)),
            source: Some(EventSource {
                component: Some("kubelet".to_owned()),
                host: Some(self.node.clone()),
            }),
            reporting_component: Some("kubelet".to_owned()),
            reporting_instance: Some(self.node.clone()),
            ..Event::default()
        })
    }

    fn count(&mut self, key: Key, pod_name: &str, now: Timestamp) -> Seen {
        if let Some(seen) = self.seen.get_mut(&key)
            && since(now, seen.last) < WINDOW
        {
            seen.count = seen.count.saturating_add(1);
            seen.last = now;
            return seen.clone();
        }
        if self.seen.len() >= REMEMBERED {
            self.seen.retain(|_, seen| since(now, seen.last) < WINDOW);
        }
        if self.seen.len() >= REMEMBERED {
            let oldest = self.seen.iter().min_by_key(|(_, seen)| seen.last).map(|(key, _)| key.clone());
            if let Some(oldest) = oldest {
                self.seen.remove(&oldest);
            }
        }
        // Names are the pod's with the time in hexadecimal nanoseconds, as the kubelet makes them;
        // two events in the same instant get different ones.
        self.last_nanos = now.as_nanosecond().max(self.last_nanos.saturating_add(1));
        let name = format!("{pod_name}.{:x}", self.last_nanos);
        let seen = Seen { name, count: 1, first: now, last: now };
        self.seen.insert(key, seen.clone());
        seen
    }

    fn take_token(&mut self, now: Timestamp) -> bool {
        if self.per_second <= 0.0 {
            return true;
        }
        let passed = self.refilled.map_or(0.0, |at| since(now, at).as_secs_f64());
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        self.refilled = Some(now);
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod() -> Pod {
        let meta = serde_json::json!({"name": "web", "namespace": "default", "uid": "u1"});
        let spec = serde_json::json!({"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]});
        serde_json::from_value(serde_json::json!({"metadata": meta, "spec": spec})).expect("pod")
    }

    fn note(message: &str, container: Option<&str>) -> Note {
        Note {
            warning: true,
            reason: "BackOff",
            message: message.to_owned(),
            container: container.map(str::to_owned),
        }
    }

    #[test]
    fn repeats_are_counted_within_the_window() {
        let mut log = EventLog::new("edge-1", 50, 100);
        let start = Timestamp::from_second(1_800_000_000).expect("time");
        let at = |secs: u64| super::super::backoff::after(start, Duration::from_secs(secs));
        let first = log.event(&pod(), &note("a", Some("c")), at(0)).expect("event");
        let again = log.event(&pod(), &note("a", Some("c")), at(10)).expect("event");
        let other = log.event(&pod(), &note("a", Some("i")), at(10)).expect("event");
        let later = log.event(&pod(), &note("a", Some("c")), at(700)).expect("event");
        assert_eq!(first.metadata.name, again.metadata.name);
        assert_eq!((again.count, again.first_timestamp), (Some(2), first.first_timestamp));
        assert_eq!(again.involved_object.field_path.as_deref(), Some("spec.containers{c}"));
        assert_eq!(other.involved_object.field_path.as_deref(), Some("spec.initContainers{i}"));
        assert_ne!(first.metadata.name, other.metadata.name);
        assert_eq!(later.count, Some(1), "a new event after the window");
        assert_ne!(first.metadata.name, later.metadata.name);
    }

    #[test]
    fn the_limit_holds_and_refills() {
        let mut log = EventLog::new("edge-1", 2, 3);
        let start = Timestamp::from_second(1_800_000_000).expect("time");
        let mut passed = 0;
        for i in 0..10 {
            passed += usize::from(log.event(&pod(), &note(&i.to_string(), None), start).is_some());
        }
        assert_eq!((passed, log.dropped), (3, 7));
        let later = super::super::backoff::after(start, Duration::from_secs(1));
        let more = (0..10).filter(|i| log.event(&pod(), &note(&format!("b{i}"), None), later).is_some());
        assert_eq!(more.count(), 2);
    }

    #[test]
    fn memory_is_bounded() {
        let mut log = EventLog::new("edge-1", 0, 0);
        let start = Timestamp::from_second(1_800_000_000).expect("time");
        for i in 0..(REMEMBERED * 2) {
            log.event(&pod(), &note(&i.to_string(), None), start);
        }
        assert!(log.seen.len() <= REMEMBERED);
    }
}
