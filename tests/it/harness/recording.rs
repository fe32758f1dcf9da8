//! The traffic recorded between KubeEdge 1.23's own programs, and how ours is compared with it.

use kubeedge::model::Envelope;
use kubeedge::wire::frame;
use serde_json::{Map, Value};

const TRAFFIC: &str = include_str!("../../golden/kubeedge-1.23-websocket.txt");

/// One frame.
#[derive(Debug, Clone)]
pub struct Recorded {
    pub number: u32,
    /// From the edge to the cloud.
    pub up: bool,
    pub value: Value,
    pub message: Envelope,
}

impl Recorded {
    /// `operation resource`.
    pub fn what(&self) -> String {
        what(&self.message)
    }
}

pub fn what(message: &Envelope) -> String {
    format!("{} {}", message.route.operation, message.route.resource)
}

/// All frames, without the handshake.
pub fn recording() -> Vec<Recorded> {
    let mut frames: Vec<(u32, bool, String)> = Vec::new();
    let mut is_frame = false;
    for line in TRAFFIC.lines() {
        if let Some(head) = line.strip_prefix('#') {
            is_frame = head.contains(" text/");
            if is_frame {
                let number = head.split(' ').next().unwrap().parse().unwrap();
                frames.push((number, head.contains("edge->cloud"), String::new()));
            }
        } else if is_frame {
            frames.last_mut().unwrap().2.push_str(line);
        }
    }
    let read = |(number, up, text): (u32, bool, String)| Recorded {
        number,
        up,
        value: serde_json::from_str(&text).unwrap(),
        message: frame::decode(text.as_bytes(), frame::MAX_FRAME_BYTES).unwrap(),
    };
    frames.into_iter().map(read).collect()
}

/// The frame with this number.
pub fn frame_of(all: &[Recorded], number: u32) -> &Recorded {
    all.iter().find(|frame| frame.number == number).unwrap_or_else(|| panic!("no frame {number}"))
}

/// What was applied with kubectl to make this object, as its annotation says.
pub fn applied(object: &Value) -> Value {
    let text = &object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    serde_json::from_str(text.as_str().expect("the annotation of kubectl apply")).unwrap()
}

/// Fields that are others each time: only their form is compared.
const VOLATILE: [&str; 19] = [
    "uid",
    "resourceVersion",
    "resourceversion",
    "generation",
    "msg_id",
    "parent_msg_id",
    "timestamp",
    "event_id",
    "creationTimestamp",
    "deletionTimestamp",
    "lastHeartbeatTime",
    "lastTransitionTime",
    "renewTime",
    "startTime",
    "lastOnlineTime",
    "startedAt",
    "expirationTimestamp",
    "token",
    "message",
];
/// Books that servers keep differently, and that no edge reads.
const IGNORED: [&str; 2] = ["managedFields", "kubectl.kubernetes.io/last-applied-configuration"];

/// Where `ours` differs from `theirs`: `path: what`.
pub fn differences(theirs: &Value, ours: &Value) -> Vec<String> {
    let mut found = Vec::new();
    walk("", "", theirs, ours, &mut found);
    found
}

fn walk(path: &str, field: &str, theirs: &Value, ours: &Value, found: &mut Vec<String>) {
    match (theirs, ours) {
        _ if IGNORED.contains(&field) => {}
        (Value::Object(theirs), Value::Object(ours)) => objects(path, theirs, ours, found),
        (Value::Array(theirs), Value::Array(ours)) => {
            if theirs.len() != ours.len() {
                found.push(format!("{path}: {} elements became {}", theirs.len(), ours.len()));
            }
            for (at, (theirs, ours)) in theirs.iter().zip(ours).enumerate() {
                walk(&format!("{path}/{at}"), field, theirs, ours, found);
            }
        }
        _ if VOLATILE.contains(&field) && form(theirs) == form(ours) => {}
        _ if VOLATILE.contains(&field) => {
            found.push(format!("{path}: {theirs} has another form than {ours}"));
        }
        (Value::String(theirs), Value::String(ours)) if plain_name(theirs) == plain_name(ours) => {}
        _ if theirs != ours => found.push(format!("{path}: {theirs} became {ours}")),
        _ => {}
    }
}

fn objects(path: &str, theirs: &Map<String, Value>, ours: &Map<String, Value>, found: &mut Vec<String>) {
    for (field, value) in theirs {
        let path = format!("{path}/{field}");
        match ours.get(field) {
            Some(ours) => walk(&path, field, value, ours, found),
            None if IGNORED.contains(&field.as_str()) => {}
            None => found.push(format!("{path}: missing")),
        }
    }
    for field in ours.keys().filter(|field| !theirs.contains_key(*field)) {
        if !IGNORED.contains(&field.as_str()) {
            found.push(format!("{path}/{field}: new"));
        }
    }
}

/// A name that the API made, without what it drew by lot.
fn plain_name(name: &str) -> &str {
    const DRAWN: &str = "kube-api-access-";
    name.get(..DRAWN.len()).filter(|start| *start == DRAWN).unwrap_or(name)
}

/// Where frames may differ.
pub struct Listed {
    /// `operation resource`, or `*`.
    pub what: &'static str,
    /// How the difference begins.
    pub path: &'static str,
    pub why: &'static str,
    /// It depends on what is faster.
    pub by_chance: bool,
}

pub const fn listed(what: &'static str, path: &'static str, why: &'static str) -> Listed {
    Listed { what, path, why, by_chance: false }
}

/// Differences that are not listed, and which entries of the list were of use.
#[derive(Default)]
pub struct Verdict {
    pub found: Vec<String>,
    used: std::collections::BTreeSet<usize>,
}

impl Verdict {
    pub fn judge(&mut self, number: u32, about: &str, differences: Vec<String>, list: &[Listed]) {
        for difference in differences {
            let fits = |it: &Listed| (it.what == "*" || it.what == about) && difference.starts_with(it.path);
            match list.iter().position(fits) {
                Some(at) => drop(self.used.insert(at)),
                None => self.found.push(format!("frame {number}, {about}: {difference}")),
            }
        }
    }

    /// Nothing differs but what is listed, and all of that does.
    pub fn assert_clean(&self, list: &[Listed]) {
        assert!(self.found.is_empty(), "not as recorded:\n{}", self.found.join("\n"));
        for (at, it) in list.iter().enumerate().filter(|(_, it)| !it.by_chance) {
            assert!(
                self.used.contains(&at),
                "{} at {} does not differ any more: {}",
                it.what,
                it.path,
                it.why
            );
        }
    }
}

/// What kind of text or number it is.
fn form(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
        Value::String(text) if text.is_empty() => "empty",
        Value::String(text) if uuid::Uuid::parse_str(text).is_ok() => "uuid",
        Value::String(text) if text.bytes().all(|c| c.is_ascii_digit()) => "decimal",
        Value::String(text) if super::go::is_micro_time(text) => "time with microseconds",
        Value::String(text) if super::go::is_time(text) => "time",
        Value::String(_) => "text",
    }
}

#[test]
fn forms_and_differences() {
    let at = |text: &str| serde_json::from_str::<Value>(text).unwrap();
    let theirs = at(
        r#"{"a": 1, "uid": "459e86d6-5727-44be-9152-7f29eb03d37c", "renewTime": "2026-11-22T19:40:17.934080Z"}"#,
    );
    let same = at(
        r#"{"a": 1, "uid": "359e86d6-5727-44be-9152-7f29eb03d37c", "renewTime": "2027-11-22T19:40:17.934080Z"}"#,
    );
    assert_eq!(differences(&theirs, &same), [""; 0]);
    let other = at(r#"{"a": 2, "uid": "7", "renewTime": "2027-11-22T19:40:17Z", "b": null}"#);
    let found = differences(&theirs, &other);
    assert_eq!(found.len(), 4, "{found:?}");
}
