//! Desired values: where the cloud's and the local ones meet; membership; metrics of values.

use serde_json::json;

use super::*;

const TOLD: [&str; 2] = ["s/twin/update/document", "s/twin/update/delta"];

fn desired(out: &Out) -> Vec<BTreeMap<String, String>> {
    let told = out.effects.iter().filter_map(|effect| match effect {
        Effect::Desired(device, desired) if device.name == "s" => Some(desired.clone()),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_change_replaces_a_redelivery_does_not() {
    let mut edge = Edge::new(256);
    edge.connect();
    edge.apply(device("s", 1, &[("t", "20")]));
    let out = edge.commit();
    assert_eq!(topics(&out.published)[1..], TOLD);
    assert_eq!(desired(&out), [BTreeMap::from([("t".into(), "20".into())])]);
    assert!(out.messages.iter().any(|message| matches!(&message.body, Body::Object(content)
        if content["twin"]["t"]["expected"]["value"] == "20" && content["twin"]["t"]["expected_version"] == json!({"cloud": 1, "edge": 0}))));

    edge.update("s", json!({"t": {"expected": {"value": "25"}}}));
    let out = edge.commit();
    assert_eq!(topics(&out.published)[1..], TOLD);
    assert_eq!(desired(&out), [BTreeMap::from([("t".into(), "25".into())])]);

    for version in [1, 2] {
        edge.apply(device("s", version, &[("t", "20")]));
        let out = edge.commit();
        assert!(out.published.is_empty() && desired(&out).is_empty(), "the cloud still wants 20: no change");
        edge.restart();
        edge.commit();
    }
    assert_eq!(edge.value("s", "t", "expected").as_deref(), Some("25"));

    edge.apply(device("s", 3, &[("t", "21")]));
    edge.apply(device("s", 2, &[("t", "20")]));
    assert_eq!(
        desired(&edge.commit()),
        [BTreeMap::from([("t".into(), "21".into())])],
        "an older version is late"
    );
    edge.update("s", json!({"t": {"actual": {"value": "21"}}}));
    assert_eq!(
        topics(&edge.commit().published),
        ["s/twin/update/result", "s/twin/update/document"],
        "no delta"
    );

    // Taken back: the cloud's own goes, a local one stays.
    edge.apply(device("s", 4, &[]));
    assert_eq!(desired(&edge.commit()), [BTreeMap::new()]);
    edge.apply(device("s", 5, &[("t", "30")]));
    edge.update("s", json!({"t": {"expected": {"value": "31"}}}));
    edge.apply(device("s", 6, &[]));
    edge.commit();
    assert_eq!(edge.value("s", "t", "expected").as_deref(), Some("31"));
}

#[test]
fn what_the_model_forbids_moves_nothing_until_it_allows_it() {
    let mut edge = Edge::new(256);
    let limits = |most: &str| model(json!([{"name": "t", "type": "INT", "maximum": most}]));
    edge.apply(limits("100"));
    edge.apply(device("s", 1, &[("t", "20")]));
    edge.commit();
    edge.apply(device("s", 2, &[("t", "150")]));
    assert!(desired(&edge.commit()).is_empty());
    edge.apply(limits("200"));
    assert_eq!(desired(&edge.commit()), [BTreeMap::from([("t".into(), "150".into())])]);
}

#[test]
fn cloud_updated_follows_its_versions() {
    let mut edge = Edge::with(&["s"]);
    edge.connect();
    edge.update("s", json!({"t": {"expected": {"value": "1"}, "metadata": {"type": "int"}}}));
    edge.update("s", json!({"t": {"expected": {"value": "2"}}}));
    for message in edge.commit().messages {
        edge.answer(&message.header.msg_id, "response");
    }
    let say = |value: &str, cloud: i64, at_edge: i64| {
        json!({"event_id": "c", "timestamp": 1, "twin": {"t": {"expected": {"value": value},
            "expected_version": {"cloud": cloud, "edge": at_edge}}}})
    };
    let resource = "device/default/s/twin/cloud_updated";
    for (case, content, want, echoes) in [
        ("behind the edge", say("9", 1, 1), "2", true),
        ("no version", json!({"twin": {"t": {"expected": {"value": "9"}}}}), "2", true),
        ("not its type", say("x", 1, 2), "2", true),
        ("taken", say("3", 1, 2), "3", true),
        ("the same again", say("3", 1, 2), "3", false),
        ("behind the cloud", say("9", 0, 2), "3", true),
        (
            "deleted",
            json!({"twin": {"t": {"metadata": {"type": "deleted"}, "expected_version": {"cloud": 2, "edge": 2}}}}),
            "",
            true,
        ),
    ] {
        edge.cloud(resource, content);
        let out = edge.commit();
        assert_eq!(edge.value("s", "t", "expected").unwrap_or_default(), want, "{case}");
        assert_eq!(!out.messages.is_empty(), echoes, "{case}");
        assert!(!topics(&out.published).contains(&"s/twin/update/result".to_owned()), "{case}");
        for message in out.messages {
            edge.answer(&message.header.msg_id, "response");
        }
    }
    assert!(edge.core.devices[&id("s")].properties["t"].is_deleted());
    // The topic of that name is treated alike.
    edge.mqtt("$hw/events/device/default/s/twin/cloud_updated", &say("4", 3, 2).to_string());
    edge.commit();
    assert_eq!(edge.value("s", "t", "expected").as_deref(), Some("4"));
}

#[test]
fn versions_times_and_deletion() {
    let mut edge = Edge::with(&["s"]);
    edge.update("s", json!({"t": {"actual": {"value": "1"}, "metadata": {"type": "int"}}}));
    edge.commit();
    edge.now_ms -= 60_000;
    edge.update("s", json!({"t": {"actual": {"value": "1"}}}));
    let published = lines(&edge.commit().published);
    let document = &published[1].1["twin"]["t"];
    let time = |side: &str| document[side]["actual"]["metadata"]["timestamp"].as_i64().unwrap();
    assert_eq!(time("current"), time("last") + 1, "the clock was set back, the times were not");
    let property = |edge: &Edge| edge.core.devices[&id("s")].properties["t"].clone();
    assert_eq!(property(&edge).actual_version.edge, 2, "an equal value is a change too");
    edge.update("s", json!({"t": null}));
    let published = lines(&edge.commit().published);
    assert_eq!(published[0].1["twin"], json!({"t": null}));
    assert_eq!(published[1].1["twin"]["t"]["current"], json!(null));
    edge.mqtt("$hw/events/device/default/s/twin/get", "{}");
    assert_eq!(lines(&edge.commit().published)[0].1["twin"], json!({}));
    edge.update("s", json!({"t": {"actual": {"value": "warm"}, "optional": false}}));
    assert_eq!(
        lines(&edge.commit().published)[1].1["twin"]["t"]["last"],
        json!(null),
        "it may take a new type"
    );
    let again = property(&edge);
    assert_eq!((again.type_name(), again.actual_version.edge, again.required), ("string", 4, true));
    edge.update("s", json!({"t": {"optional": true}}));
    edge.commit();
    assert!(property(&edge).required, "optional only ends");
}

#[test]
fn members_come_and_go_by_membership_and_by_object() {
    let mut edge = Edge::new(256);
    edge.connect();
    edge.join(&["a", "b"]);
    let out = edge.commit();
    assert!(out.effects.contains(&Effect::Members(vec![id("a"), id("b")])));
    let updated = &lines(&out.published)[0];
    assert_eq!(updated.0, "$hw/events/node/edge-1/membership/updated");
    assert_eq!(updated.1["added_devices"][1], json!({"id": "default/b", "name": "b"}));
    assert_eq!(updated.1["removed_devices"], json!(null));
    edge.join(&["a", "b"]);
    assert!(edge.commit().published.is_empty(), "told twice");

    edge.update("a", json!({"t": {"actual": {"value": "1"}}}));
    edge.core.device_removed(&id("a"), edge.now());
    let out = edge.commit();
    assert!(
        out.messages.iter().all(|message| message.route.resource == Resource::MembershipDetail),
        "nothing about it"
    );
    assert_eq!((edge.row("a"), edge.core.open_counts().0), (None, 0));

    edge.apply(device("c", 1, &[]));
    edge.cloud(
        "membership",
        json!({"added_devices": null, "removed_devices": [{"id": "default/b"}, {"id": "nonsense"}]}),
    );
    assert!(edge.commit().effects.contains(&Effect::Members(vec![id("c")])));
    let foreign = json!({"added_devices": [{"id": "default/x", "name": "x"}]});
    let mut message = Envelope::new("user", "twin", "update", Resource::Membership, Body::Object(foreign), 1);
    edge.core.cloud_message(&message, edge.now(), 0.0);
    message.route.source = "edgemgr".into();
    message.route.resource = Resource::MembershipDetail;
    message.body =
        Body::Text(json!({"devices": [{"id": "default/d", "name": "d", "description": "hall"}]}).to_string());
    edge.core.cloud_message(&message, edge.now(), 0.0);
    assert!(edge.commit().effects.contains(&Effect::Members(vec![id("d")])), "it replaces the set");

    // Gone while this edge was down: its object is not listed any more.
    edge.apply(device("e", 1, &[]));
    edge.commit();
    edge.devices.retain(|device| device["metadata"]["name"] != "e" && device["metadata"]["name"] != "c");
    edge.restart();
    assert!(edge.commit().effects.contains(&Effect::Members(vec![id("d")])));
    assert_eq!(edge.disk.len(), 1);
}

#[test]
fn values_are_metrics_only_where_asked_for() {
    let mut edge = Edge::new(256);
    let asks = |version: u64, what: &str| {
        let mut object = device("s", version, &[]);
        object["metadata"]["annotations"] = json!({"devices.kubeedge.io/export-metrics": what});
        object
    };
    let samples = |out: &Out| -> Vec<(String, f64)> {
        let samples = out.effects.iter().filter_map(|effect| match effect {
            Effect::Sample(sample) => Some((sample.property.clone(), sample.value)),
            _ => None,
        });
        samples.collect()
    };
    edge.apply(asks(1, "t"));
    edge.update("s", json!({"t": {"actual": {"value": "21.5"}}, "h": {"actual": {"value": "40"}}}));
    assert_eq!(samples(&edge.commit()), [("t".to_owned(), 21.5)]);
    edge.restart();
    assert_eq!(samples(&edge.commit()), [("t".to_owned(), 21.5)], "after a restart as before");
    edge.apply(asks(2, "h"));
    let told = samples(&edge.commit());
    assert!(told[0].1.is_nan() && told[1] == ("h".to_owned(), 40.0));
    edge.core.device_removed(&id("s"), edge.now());
    assert!(samples(&edge.commit()).iter().all(|(_, value)| value.is_nan()));
}

#[test]
fn a_desired_value_too_long_for_a_report_is_not_taken() {
    let mut edge = Edge::new(256);
    edge.connect();
    let (name, value) = ("n".repeat(20_000), "v".repeat(20_000));
    edge.apply(device("s", 1, &[("t", value.as_str()), (name.as_str(), "1"), ("u", "1")]));
    edge.update("s", json!({"t": {"actual": {"value": "21"}}}));
    let out = edge.commit();
    let reports: Vec<String> = out.messages.iter().map(|message| format!("{:?}", message.body)).collect();
    assert!(reports.iter().any(|report| report.contains("21")), "{reports:?}");
    assert!(reports.iter().all(|report| report.len() < 10_000), "it would be refused");
    assert_eq!(edge.value("s", "t", "expected"), None);
    assert_eq!(edge.value("s", "u", "expected").as_deref(), Some("1"));
}
