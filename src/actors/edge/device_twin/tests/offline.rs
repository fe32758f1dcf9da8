//! The cloud away and back.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;

const DEVICES: usize = 100;
const UPDATES: usize = 10_000;
const WINDOW: usize = 16;

#[test]
fn ten_thousand_updates_offline_then_the_last_of_each_property_in_order_within_the_window() {
    let mut edge = Edge::new(WINDOW);
    let names: Vec<String> = (0..DEVICES).map(|n| format!("s{n:03}")).collect();
    edge.join(&names.iter().map(String::as_str).collect::<Vec<_>>());
    for n in 0..UPDATES {
        // The first changes come in descending order of names, so that order means something.
        let name = &names[DEVICES - 1 - n % DEVICES];
        let property = format!("p{}", n / DEVICES % 5);
        edge.update(name, json!({property: {"actual": {"value": n.to_string()}}}));
        if n % 500 == 0 {
            edge.commit();
        }
    }
    edge.commit();
    assert_eq!(edge.core.open_counts().0, DEVICES, "coalesced: one report a device");
    edge.restart();
    assert_eq!(edge.core.open_counts().0, DEVICES, "it survives kill -9");

    let mut cloud = Cloud::default();
    edge.connect();
    let mut order = Vec::new();
    let mut under_way = Vec::new();
    for round in 0.. {
        let mut messages = edge.commit().messages;
        messages.retain(|message| message.route.resource != Resource::MembershipDetail);
        under_way.append(&mut messages);
        assert!(under_way.len() <= WINDOW);
        if under_way.is_empty() {
            break;
        }
        if round == 0 {
            // A device that changes while its report is under way goes behind those that wait.
            edge.update(&names[DEVICES - 1], json!({"p0": {"actual": {"value": "new"}}}));
        }
        let message = under_way.remove(0);
        cloud.take(&message);
        if let Resource::DeviceTwin { name, .. } = &message.route.resource {
            order.push(name.clone());
        }
        edge.answer(&message.header.msg_id, "response");
    }
    let mut want: Vec<String> = names.iter().rev().cloned().collect();
    want.push(names[DEVICES - 1].clone());
    assert_eq!(order, want);
    for (n, name) in names.iter().enumerate() {
        for p in 0..5 {
            let property = format!("p{p}");
            let last =
                (0..UPDATES).rev().find(|u| DEVICES - 1 - u % DEVICES == n && u / DEVICES % 5 == p).unwrap();
            let want = if n == DEVICES - 1 && p == 0 { "new".to_owned() } else { last.to_string() };
            assert_eq!(cloud.value(name, &property, "actual"), Some(want), "{name} {property}");
        }
    }
    edge.commit();
    assert!(
        edge.disk.values().all(|row| !String::from_utf8_lossy(row).contains("\"mark\"")),
        "nothing is open on disk"
    );
}

#[test]
fn what_is_not_confirmed_goes_again_and_what_is_refused_does_not_go_forever() {
    let mut edge = Edge::with(&["a", "b"]);
    edge.connect();
    edge.update("a", json!({"t": {"actual": {"value": "1"}}}));
    edge.mqtt("$hw/events/device/default/b/state/update", r#"{"state":"offline"}"#);
    let first = edge.commit().messages;
    assert_eq!(first.len(), 3, "two reports and the question for members");
    assert!(edge.commit().messages.is_empty(), "nothing is sent twice while it is under way");
    edge.wait(Duration::from_secs(10));
    edge.wait(Duration::from_secs(2));
    let again = edge.commit().messages;
    let resources: BTreeSet<String> =
        again.iter().map(|message| message.route.resource.to_string()).collect();
    assert_eq!(resources.len(), 2);
    for _ in 0..3 {
        for message in edge.commit().messages.iter().chain(&again) {
            edge.answer(&message.header.msg_id, "error");
        }
        edge.wait(Duration::from_secs(61));
    }
    for _ in 0..3 {
        for message in edge.commit().messages {
            edge.answer(&message.header.msg_id, "error");
        }
        edge.wait(Duration::from_secs(61));
    }
    assert_eq!((edge.core.open_counts().0, edge.core.tally.given_up), (0, 2));
    edge.update("a", json!({"t": {"actual": {"value": "2"}}}));
    assert_eq!(edge.commit().messages.len(), 1, "its next change is reported");
}

#[test]
fn a_new_session_sends_at_once_what_was_under_way() {
    let mut edge = Edge::with(&["a"]);
    edge.connect();
    edge.update("a", json!({"t": {"actual": {"value": "1"}}}));
    let lost = edge.commit().messages;
    edge.update("a", json!({"t": {"actual": {"value": "2"}}}));
    assert!(edge.commit().messages.is_empty());
    edge.core.link_changed(false, edge.now());
    assert!(edge.commit().messages.is_empty());
    edge.connect();
    let again = edge.commit().messages;
    let values: Vec<&Value> = again
        .iter()
        .filter_map(|message| match &message.body {
            Body::Object(content) => Some(&content["twin"]["t"]["actual"]["value"]),
            _ => None,
        })
        .collect();
    assert_eq!(values, ["2"]);
    // The answer to what was lost settles nothing.
    edge.answer(&lost[1].header.msg_id, "response");
    assert_eq!(edge.core.open_counts().0, 1);
    let report = again.iter().find(|message| matches!(message.body, Body::Object(_))).unwrap();
    edge.core.not_sent(&report.header.msg_id, false, edge.clock, 0.0);
    edge.wait(Duration::from_secs(1));
    let report = edge.commit().messages.remove(0);
    edge.core.not_sent(&report.header.msg_id, true, edge.clock, 0.0);
    assert_eq!(
        (edge.core.open_counts().0, edge.core.tally.given_up),
        (0, 1),
        "too large once, too large always"
    );
}
