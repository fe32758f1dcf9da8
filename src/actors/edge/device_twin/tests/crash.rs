//! `kill -9` between every two steps of an update: what was acknowledged is there, what was not is
//! sent again and takes effect once.

use serde_json::json;

use super::*;
use crate::store::Table;

const TOPIC: &str = "$hw/events/device/default/s/twin/update";
const STATE: &str = "$hw/events/device/default/s/state/update";

/// Runs the whole story and is killed at the step number `cut`; says whether it came that far.
struct Story {
    edge: Edge,
    cloud: Cloud,
    /// What EventBus holds until DeviceTwin took it, on disk: key and message.
    queue: Vec<(String, &'static str, String)>,
    acknowledged: Vec<String>,
    published: usize,
    step: usize,
    cut: usize,
}

impl Story {
    /// `true`: the power goes now.
    fn cut(&mut self) -> bool {
        self.step += 1;
        self.step == self.cut
    }

    fn waiting(&self) -> Vec<(String, &'static str, String)> {
        let is_there = |key: &str| self.edge.disk.contains_key(key.as_bytes());
        self.queue.iter().filter(|(key, ..)| is_there(key)).cloned().collect()
    }

    /// Everything that waits is delivered, written, published, answered, sent, confirmed. `None`:
    /// killed on the way.
    fn run(&mut self) -> Option<()> {
        self.edge.connect();
        for (key, topic, payload) in self.waiting() {
            let receipt = Batch::new().delete(Table::Outbox, key.clone());
            self.edge.core.message(topic, payload.as_bytes(), receipt, self.edge.now());
            if self.cut() {
                return None;
            }
            let write = self.edge.core.begin_write(self.edge.now(), false);
            if self.cut() {
                return None;
            }
            self.edge.store(&write.batch);
            if self.cut() {
                return None;
            }
            for effect in write.effects {
                self.published += usize::from(matches!(effect, Effect::Publish(_)));
                if self.cut() {
                    return None;
                }
            }
            self.acknowledged.push(key);
            if self.cut() {
                return None;
            }
            for message in write.messages {
                self.cloud.take(&message);
                if self.cut() {
                    return None;
                }
                if message.route.resource != Resource::MembershipDetail {
                    self.edge.answer(&message.header.msg_id, "response");
                }
                if self.cut() {
                    return None;
                }
            }
        }
        for _ in 0..4 {
            let write = self.edge.core.begin_write(self.edge.now(), true);
            if self.cut() {
                return None;
            }
            self.edge.store(&write.batch);
            if self.cut() {
                return None;
            }
            for message in write.messages {
                self.cloud.take(&message);
                if self.cut() {
                    return None;
                }
                self.edge.answer(&message.header.msg_id, "response");
            }
        }
        Some(())
    }
}

fn story(cut: usize) -> Story {
    let mut edge = Edge::with(&["s"]);
    edge.apply(device("s", 1, &[("goal", "7")]));
    edge.commit();
    let mut queue = Vec::new();
    for n in 1..=4 {
        let twin = json!({"count": {"actual": {"value": n.to_string()}}, "goal": {"actual": {"value": n.to_string()}}});
        queue.push((
            format!("queue/{n}"),
            TOPIC,
            json!({"event_id": n.to_string(), "twin": twin}).to_string(),
        ));
    }
    queue.insert(2, ("queue/state".into(), STATE, json!({"state": "online"}).to_string()));
    for (key, ..) in &queue {
        edge.disk.insert(key.clone().into_bytes(), b"message".to_vec());
    }
    Story { edge, cloud: Cloud::default(), queue, acknowledged: Vec::new(), published: 0, step: 0, cut }
}

#[test]
fn killed_between_every_two_steps() {
    let mut cut = 0;
    loop {
        cut += 1;
        let mut story = story(cut);
        let finished = story.run().is_some();
        let acknowledged = story.acknowledged.clone();
        story.edge.restart();
        // What was acknowledged left the queue with its effect.
        let waiting = story.waiting();
        assert!(waiting.iter().all(|(key, ..)| !acknowledged.contains(key)), "cut {cut}");
        story.cut = usize::MAX;
        story.run().unwrap();

        let device = story.edge.core.devices[&id("s")].clone();
        assert_eq!(device.properties["count"].actual_version.edge, 4, "cut {cut}: each update once");
        assert_eq!(device.state, "online", "cut {cut}");
        for (property, side, want) in
            [("count", "actual", "4"), ("goal", "actual", "4"), ("goal", "expected", "7")]
        {
            assert_eq!(story.edge.value("s", property, side).as_deref(), Some(want), "cut {cut}");
            assert_eq!(
                story.cloud.value("s", property, side).as_deref(),
                Some(want),
                "cut {cut}: in the cloud"
            );
        }
        assert_eq!(story.cloud.states["s"].1, "online", "cut {cut}");
        assert_eq!(story.edge.core.open_counts().0, 0, "cut {cut}: all confirmed");
        assert!(story.published <= 4 * 3 + 1, "cut {cut}: an answer was given twice");
        if finished {
            assert!(cut > 40, "the story has only {cut} steps");
            return;
        }
    }
}

#[test]
fn a_failed_write_takes_back_what_was_decided_on_it() {
    let mut edge = Edge::with(&["s"]);
    edge.connect();
    edge.commit();
    edge.update("s", json!({"t": {"actual": {"value": "1"}}}));
    edge.commit();
    edge.apply(device("s", 1, &[("t", "5")]));
    edge.update("s", json!({"t": {"actual": {"value": "2"}}}));
    let failed = edge.core.begin_write(edge.now(), false);
    edge.update("s", json!({"t": {"actual": {"value": "3"}}, "u": {"actual": {"value": "3"}}}));
    assert!(!failed.batch.is_empty());
    edge.reload();
    assert_eq!(edge.value("s", "t", "actual").as_deref(), Some("1"));
    assert_eq!(edge.value("s", "u", "actual"), None);
    let out = edge.commit();
    assert!(out.published.is_empty());
    let told: Vec<&Value> = out
        .messages
        .iter()
        .filter_map(|message| match &message.body {
            Body::Object(content) => Some(&content["twin"]["t"]["actual"]["value"]),
            _ => None,
        })
        .collect();
    assert_eq!(told, ["1"], "what is durable is reported again");
    edge.core.apply_all(edge.now());
    edge.commit();
    assert_eq!(edge.value("s", "t", "expected").as_deref(), Some("5"), "what the cloud wants is not lost");
}

/// The next change would not know which number to take.
#[test]
fn a_row_that_cannot_be_counted_on_from_is_damaged() {
    let mut edge = Edge::new(1);
    let row = |name: &str, device: &str| {
        (format!("{PREFIX}default/{name}").into_bytes(), device.as_bytes().to_vec())
    };
    let rows = [
        row("a", r#"{"properties":{"t":{"mark":18446744073709551615}}}"#),
        row("b", r#"{"state_mark":18446744073709551615,"properties":{}}"#),
        row("c", r#"{"properties":{"t":{"mark":7}}}"#),
    ];
    assert_eq!(edge.core.reload(&rows, edge.clock), 2);
    assert_eq!(edge.core.devices.keys().collect::<Vec<_>>(), [&id("c")]);
}
