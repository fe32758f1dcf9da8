//! Tables and a model check of the downstream queue.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::model::{Body, Envelope, Resource};

const LIMITS: Limits = Limits { messages: 100, bytes: 1 << 20, window: 4 };

fn change(op: &str, name: &str, uid: &str, version: u64) -> (Arc<Outgoing>, Bytes) {
    let body = Body::Object(json!({"metadata": {"name": name, "uid": uid}}));
    let resource = Resource::parse(&format!("default/pod/{name}"));
    let mut envelope = Envelope::new("edgecontroller", "resource", op, resource, body, 0);
    envelope.header.msg_id = format!("{op} {name} {uid} {version}");
    envelope.header.resource_version = (op != "delete").then(|| version.to_string());
    let frame = Bytes::from(envelope.header.msg_id.clone());
    (Outgoing::new(envelope), frame)
}

/// A delete of an object that only leaves the node.
fn leave(name: &str, uid: &str) -> (Arc<Outgoing>, Bytes) {
    let (message, frame) = change("delete", name, uid, 0);
    (Outgoing::leaving(message.envelope()), frame)
}

#[test]
fn what_left_may_come_back() {
    let now = Instant::now();
    let mut queue = Queue::new(LIMITS);
    let push = |queue: &mut Queue, (message, frame)| queue.push(message, frame);
    assert_eq!(push(&mut queue, change("insert", "a", "1", 5)), Pushed::Queued);
    assert!(queue.next(now).is_some(), "in flight");
    assert_eq!(push(&mut queue, leave("a", "1")), Pushed::Queued);
    assert_eq!(push(&mut queue, leave("a", "1")), Pushed::Outdated, "once is enough");
    assert_eq!(push(&mut queue, change("insert", "a", "1", 5)), Pushed::Queued, "back, unchanged");
    assert!(queue.ack("insert a 1 5", now).is_some());
    assert_eq!(drain(&mut queue, now), ["delete a 1 0", "insert a 1 5"]);

    assert_eq!(push(&mut queue, leave("a", "1")), Pushed::Queued);
    assert_eq!(push(&mut queue, change("insert", "a", "1", 5)), Pushed::Queued);
    assert_eq!(push(&mut queue, leave("a", "1")), Pushed::Queued, "gone again");
    let written = drain(&mut queue, now);
    assert_eq!(written.last().map(String::as_str), Some("delete a 1 0"));

    assert_eq!(push(&mut queue, leave("a", "1")), Pushed::Queued);
    assert_eq!(push(&mut queue, change("delete", "a", "1", 0)), Pushed::Queued, "now for good");
    assert_eq!(push(&mut queue, change("update", "a", "1", 6)), Pushed::Outdated);
}

fn reply(text: &'static str) -> (Arc<Outgoing>, Bytes) {
    let resource = Resource::parse("default/configmap/c");
    let envelope =
        Envelope::new("edgecontroller", "resource", "response", resource, Body::Text(text.into()), 0);
    (Outgoing::new(envelope), Bytes::from_static(text.as_bytes()))
}

/// Pushes, then sends and acknowledges everything: the frames in the order they were written.
fn drain(queue: &mut Queue, now: Instant) -> Vec<String> {
    let mut written = Vec::new();
    while let Some(frame) = queue.next(now) {
        let id = String::from_utf8(frame.to_vec()).unwrap();
        let _known = queue.ack(&id, now);
        written.push(id);
    }
    written
}

#[test]
fn coalescing() {
    let now = Instant::now();
    for (case, pushes, want) in [
        ("latest wins", vec![("insert", "a", "1", 1), ("update", "a", "1", 2)], vec!["update a 1 2"]),
        ("older is dropped", vec![("update", "a", "1", 2), ("update", "a", "1", 1)], vec!["update a 1 2"]),
        ("delete replaces", vec![("insert", "a", "1", 1), ("delete", "a", "1", 0)], vec!["delete a 1 0"]),
        (
            "delete is not overtaken",
            vec![("delete", "a", "1", 0), ("update", "a", "1", 5)],
            vec!["delete a 1 0"],
        ),
        ("delete twice", vec![("delete", "a", "1", 0), ("delete", "a", "1", 0)], vec!["delete a 1 0"]),
        (
            "re-created",
            vec![
                ("update", "a", "1", 1),
                ("delete", "a", "1", 0),
                ("insert", "a", "2", 3),
                ("update", "a", "2", 4),
            ],
            vec!["delete a 1 0", "update a 2 4"],
        ),
        (
            "others keep their place",
            vec![("insert", "a", "1", 1), ("insert", "b", "2", 2), ("update", "a", "1", 3)],
            vec!["update a 1 3", "insert b 2 2"],
        ),
    ] {
        let mut queue = Queue::new(LIMITS);
        for (op, name, uid, version) in pushes {
            let (message, frame) = change(op, name, uid, version);
            assert_ne!(queue.push(message, frame), Pushed::Full, "{case}");
        }
        assert_eq!(drain(&mut queue, now), want, "{case}");
        assert_eq!(queue.len(), 0, "{case}");
    }
}

#[test]
fn re_creation_waits_for_the_delete() {
    let now = Instant::now();
    let mut queue = Queue::new(LIMITS);
    for (op, uid, version) in [("delete", "1", 0), ("insert", "2", 3)] {
        let (message, frame) = change(op, "a", uid, version);
        queue.push(message, frame);
    }
    assert_eq!(queue.next(now).as_deref(), Some(&b"delete a 1 0"[..]));
    assert_eq!(queue.next(now), None, "the insert stays behind the unacknowledged delete");
    assert!(queue.ack("delete a 1 0", now).is_some());
    assert_eq!(queue.next(now).as_deref(), Some(&b"insert a 2 3"[..]));
}

#[test]
fn no_head_of_line_blocking() {
    let now = Instant::now();
    let mut queue = Queue::new(LIMITS);
    for name in ["a", "b", "c", "d", "e"] {
        let (message, frame) = change("insert", name, name, 1);
        queue.push(message, frame);
    }
    let first: Vec<_> = std::iter::from_fn(|| queue.next(now)).collect();
    assert_eq!(first.len(), 4, "the window");
    assert!(queue.ack("insert b b 1", now).is_some());
    assert_eq!(queue.next(now).as_deref(), Some(&b"insert e e 1"[..]), "a is still unacknowledged");
    let (message, frame) = reply("answer");
    queue.push(message, frame);
    assert_eq!(queue.next(now).as_deref(), Some(&b"answer"[..]), "answers pass a full window");
}

/// A megabyte in eight messages at 25 kB/s: each takes five seconds, and none is sent twice.
#[test]
fn what_stands_behind_others_on_a_slow_line_is_not_sent_again() {
    let start = Instant::now();
    let at = |secs| start + Duration::from_secs(secs);
    let mut queue = Queue::new(LIMITS);
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    for name in &names[..3] {
        let (message, frame) = change("insert", name, "1", 1);
        queue.push(message, frame);
    }
    assert_eq!(std::iter::from_fn(|| queue.next(at(0))).count(), 3);
    // It has not left yet.
    queue.postpone(at(5));
    assert_eq!(queue.next(at(6)), None);
    assert!(queue.ack("insert a 1 1", at(7)).is_some());
    assert_eq!((queue.next(at(13)), queue.next_deadline()), (None, Some(at(21))));
    assert!(queue.ack("insert b 1 1", at(14)).is_some());
    assert_eq!(queue.next_deadline(), Some(at(42)), "twice as long as it took");
    // The third is lost, and others keep coming: it is sent again all the same.
    for (index, name) in names[3..].iter().enumerate() {
        let (message, frame) = change("insert", name, "1", 1);
        queue.push(message, frame);
        let secs = 20 + 12 * index as u64;
        assert!(queue.next(at(secs)).is_some());
        assert!(queue.ack(&format!("insert {name} 1 1"), at(secs + 11)).is_some());
    }
    assert_eq!(queue.next_deadline(), Some(at(80)));
    assert_eq!(queue.next(at(80)).as_deref(), Some(&b"insert c 1 1"[..]));
    // The line is never free again.
    let again = (81..400).find(|secs| {
        queue.postpone(at(*secs));
        queue.next(at(*secs)).is_some()
    });
    assert_eq!(again, Some(160));
}

#[test]
fn resends_back_off_and_carry_the_newest() {
    let start = Instant::now();
    let at = |secs| start + Duration::from_secs(secs);
    let mut queue = Queue::new(Limits { window: 1, ..LIMITS });
    let (message, frame) = change("insert", "a", "1", 1);
    queue.push(message, frame);
    let expect = [(0, true), (4, false), (5, true), (14, false), (15, true), (34, false), (35, true)];
    for (secs, sent) in expect {
        assert_eq!(queue.next(at(secs)).is_some(), sent, "at {secs} s");
    }
    let (message, frame) = change("update", "a", "1", 2);
    queue.push(message, frame);
    assert_eq!(queue.next(at(36)), None, "one in flight");
    assert_eq!(queue.next(at(75)).as_deref(), Some(&b"update a 1 2"[..]));
    assert!(queue.ack("insert a 1 1", at(76)).is_none(), "the old one is not waited for any more");
    assert!(queue.ack("update a 1 2", at(76)).is_some());
    assert_eq!((queue.next(at(1_000)), queue.len()), (None, 0));
}

#[test]
fn bounds() {
    let mut queue = Queue::new(Limits { messages: 2, bytes: 30, window: 1 });
    for (name, want) in [("a", Pushed::Queued), ("b", Pushed::Queued), ("c", Pushed::Full)] {
        let (message, frame) = change("insert", name, name, 1);
        assert_eq!(queue.push(message, frame), want);
    }
    let (message, frame) = change("update", "b", "b", 2);
    assert_eq!(queue.push(message, frame), Pushed::Queued, "replaces, so there is room");
    let mut queue = Queue::new(Limits { messages: 9, bytes: 20, window: 1 });
    let (message, frame) = change("insert", "a", "a", 1);
    assert_eq!(queue.push(message, frame), Pushed::Queued);
    let (message, frame) = change("insert", "b", "b", 1);
    assert_eq!(queue.push(message, frame), Pushed::Full, "24 bytes");
}

#[test]
fn all_queues_share_a_bound_that_spares_small_ones() {
    let push = |queue: &mut Queue, name: &str, bytes: usize| {
        let (message, _) = change("insert", name, name, 1);
        queue.push(message, Bytes::from(vec![b'x'; bytes]))
    };
    let limits = Limits { messages: 100, bytes: 64 << 20, window: 4 };
    let total = Arc::new(Total::new(8 << 20));
    let queue = || Queue::new(limits).sharing(&total);
    let (mut stuck, mut other, mut small) = (queue(), queue(), queue());
    assert_eq!(push(&mut stuck, "a", 6 << 20), Pushed::Queued);
    assert_eq!(push(&mut other, "a", 3 << 20), Pushed::Full);
    assert_eq!(push(&mut other, "b", 2 << 20), Pushed::Queued);
    assert_eq!(push(&mut small, "a", 1 << 19), Pushed::Queued, "small ones always fit");
    assert_eq!(push(&mut stuck, "b", 1), Pushed::Full);
    drop(stuck);
    assert_eq!(push(&mut other, "c", 4 << 20), Pushed::Queued, "what ended gives back");
    let now = Instant::now();
    while other.next(now).is_some() {}
    for name in ["b", "c"] {
        assert!(other.ack(&format!("insert {name} {name} 1"), now).is_some());
    }
    drop(small);
    assert_eq!(total.bytes.load(Ordering::Relaxed), 0);
}

#[derive(Debug, Clone)]
enum Step {
    Update(u8),
    Delete(u8),
    Send,
    Ack(u8),
    Pass(u8),
    Reply,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u8..4).prop_map(Step::Update),
        2 => (0u8..4).prop_map(Step::Delete),
        6 => Just(Step::Send),
        4 => any::<u8>().prop_map(Step::Ack),
        1 => (0u8..30).prop_map(Step::Pass),
        1 => Just(Step::Reply),
    ]
}

/// What an edge does: objects by name, deletes only of the uid it has, never an older version.
#[derive(Default)]
struct Edge {
    objects: HashMap<String, (String, u64)>,
    deleted: HashSet<String>,
}

impl Edge {
    fn receive(&mut self, id: &str) {
        let parts: Vec<&str> = id.split(' ').collect();
        let [op, name, uid, version] = parts.as_slice() else { return };
        if *op == "delete" {
            self.deleted.insert((*uid).to_owned());
            if self.objects.get(*name).is_some_and(|(has, _)| has == uid) {
                self.objects.remove(*name);
            }
            return;
        }
        assert!(!self.deleted.contains(*uid), "update after delete: {id}");
        let version: u64 = version.parse().unwrap();
        if let Some((has, had)) = self.objects.get(*name) {
            assert!(has != uid || *had <= version, "older version: {id} after {had}");
        }
        self.objects.insert((*name).to_owned(), ((*uid).to_owned(), version));
    }
}

proptest! {
    /// Whatever the interleaving, the edge ends with the last state of each object.
    #[test]
    fn converges(steps in prop::collection::vec(step(), 1..120), window in 1usize..5) {
        let mut now = Instant::now();
        let mut queue = Queue::new(Limits { messages: 1_000, bytes: 1 << 20, window });
        let (mut edge, mut want) = (Edge::default(), HashMap::<String, (String, u64)>::new());
        let (mut version, mut sent, mut replies) = (0u64, Vec::<String>::new(), 0);
        for step in steps {
            version += 1;
            match step {
                Step::Update(n) => {
                    let name = format!("o{n}");
                    let uid = want.get(&name).map_or_else(|| format!("u{version}"), |(uid, _)| uid.clone());
                    want.insert(name.clone(), (uid.clone(), version));
                    let (message, frame) = change("update", &name, &uid, version);
                    prop_assert_eq!(queue.push(message, frame), Pushed::Queued);
                }
                Step::Delete(n) => {
                    let name = format!("o{n}");
                    let Some((uid, _)) = want.remove(&name) else { continue };
                    let (message, frame) = change("delete", &name, &uid, 0);
                    prop_assert_eq!(queue.push(message, frame), Pushed::Queued);
                }
                Step::Send => {
                    if let Some(frame) = queue.next(now) {
                        let id = String::from_utf8(frame.to_vec()).unwrap();
                        if id == "reply" { replies -= 1; continue; }
                        edge.receive(&id);
                        sent.push(id);
                    }
                }
                Step::Ack(n) => {
                    if !sent.is_empty() {
                        let id = sent.remove(usize::from(n) % sent.len());
                        let _ = queue.ack(&id, now);
                    }
                }
                Step::Pass(secs) => now += Duration::from_secs(u64::from(secs)),
                Step::Reply => {
                    let (message, frame) = reply("reply");
                    queue.push(message, frame);
                    replies += 1;
                }
            }
            prop_assert!(queue.unacked() <= window);
        }
        for _ in 0..400 {
            now += Duration::from_secs(100);
            let Some(frame) = queue.next(now) else { break };
            let id = String::from_utf8(frame.to_vec()).unwrap();
            if id == "reply" { replies -= 1; continue; }
            edge.receive(&id);
            let _ = queue.ack(&id, now);
        }
        prop_assert_eq!(replies, 0);
        prop_assert_eq!(&edge.objects, &want);
        prop_assert_eq!(queue.len(), 0);
    }
}
