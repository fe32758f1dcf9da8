//! The messages between MQTT clients and a KubeEdge 1.23 edgecore as they were recorded, replayed:
//! the same requests at the same times are answered with the same bytes. Only ids that both sides
//! make up are replaced.

use serde_json::{Value, json};

use super::*;

/// Request topic, payload, time of the answer, then the answers in order.
type Step = (&'static str, &'static str, i64, &'static [(&'static str, &'static str)]);

const DEVICE: &str = "$hw/events/device/default/sensor-1/";

const RECORDED: &[Step] = &[
    (
        "twin/update",
        r#"{"event_id":"e1","timestamp":1795376607000,"twin":{"temperature":{"actual":{"value":"21","metadata":{"timestamp":1795376607000}},"metadata":{"type":"Updated"}}}}"#,
        1_795_376_607_721,
        &[(
            "twin/update/result",
            r#"{"event_id":"e1","timestamp":1795376607721,"code":400,"reason":"the value type is not allowed"}"#,
        )],
    ),
    (
        "twin/get",
        r#"{"event_id":"e2","timestamp":1700000000000}"#,
        1_795_376_608_253,
        &[("twin/get/result", r#"{"event_id":"e2","timestamp":1795376608253,"twin":{}}"#)],
    ),
    (
        "state/update",
        r#"{"event_id":"e3","timestamp":1700000000000,"state":"online"}"#,
        1_795_376_608_806,
        &[(
            "state/update/result",
            r#"{"event_id":"{uuid}","timestamp":1795376608806,"device":{"name":"sensor-1","state":"online","lastOnlineTime":"2026-11-22T19:43:28Z"}}"#,
        )],
    ),
    (
        "$hw/events/node/edge-1/membership/get",
        r#"{"event_id":"e4","timestamp":1700000000000}"#,
        1_795_376_608_913,
        &[(
            "$hw/events/node/edge-1/membership/get/result",
            r#"{"event_id":"e4","timestamp":1795376608913,"devices":[{"id":"default/sensor-1","name":"sensor-1","state":"online","last_online":"2026-11-22T19:43:28Z"}]}"#,
        )],
    ),
    (
        "twin/update",
        r#"{"event_id":"e1","timestamp":1795376632000,"twin":{"temperature":{"actual":{"value":"21","metadata":{"timestamp":1795376632000}},"metadata":{"type":"string"}}}}"#,
        1_795_376_632_281,
        &[
            (
                "twin/update/result",
                r#"{"event_id":"e1","timestamp":1795376632281,"twin":{"temperature":{"actual":{"value":"21","metadata":{"timestamp":1795376632281}},"optional":true,"metadata":{"type":"string"}}}}"#,
            ),
            (
                "twin/update/document",
                r#"{"event_id":"e1","timestamp":1795376632281,"twin":{"temperature":{"last":null,"current":{"actual":{"value":"21","metadata":{"timestamp":1795376632281}},"optional":true,"metadata":{"type":"string"}}}}}"#,
            ),
        ],
    ),
    (
        "twin/get",
        r#"{"event_id":"e2","timestamp":1700000000000}"#,
        1_795_376_633_014,
        &[(
            "twin/get/result",
            r#"{"event_id":"e2","timestamp":1795376633014,"twin":{"temperature":{"actual":{"value":"21","metadata":{"timestamp":1795376632281}},"optional":true,"metadata":{"type":"string"}}}}"#,
        )],
    ),
    (
        "twin/update",
        r#"{"event_id":"e5","timestamp":1795376633000,"twin":{"nosuch":{"actual":{"value":"21"},"metadata":{"type":"string"}}}}"#,
        1_795_376_633_557,
        &[
            (
                "twin/update/result",
                r#"{"event_id":"e5","timestamp":1795376633557,"twin":{"nosuch":{"actual":{"value":"21","metadata":{"timestamp":1795376633557}},"optional":true,"metadata":{"type":"string"}}}}"#,
            ),
            (
                "twin/update/document",
                r#"{"event_id":"e5","timestamp":1795376633557,"twin":{"nosuch":{"last":null,"current":{"actual":{"value":"21","metadata":{"timestamp":1795376633557}},"optional":true,"metadata":{"type":"string"}}}}}"#,
            ),
        ],
    ),
    (
        "twin/update",
        r#"{"bad json"#,
        1_795_376_633_589,
        &[(
            "$hw/events/device//twin/update/result",
            r#"{"event_id":"","timestamp":1795376633589,"code":400,"reason":"Unmarshal update request body failed, please check the request"}"#,
        )],
    ),
    (
        "$hw/events/device/default/nope/twin/update",
        r#"{"event_id":"e6","timestamp":1,"twin":{"t":{"actual":{"value":"21"},"metadata":{"type":"string"}}}}"#,
        1_795_376_633_607,
        &[(
            "$hw/events/device/default/nope/twin/update/result",
            r#"{"event_id":"e6","timestamp":1795376633607,"code":404,"reason":"update rejected due to the device is not existed"}"#,
        )],
    ),
];

fn whole(topic: &str) -> String {
    if topic.starts_with('$') { topic.to_owned() } else { format!("{DEVICE}{topic}") }
}

#[test]
fn answers_are_kubeedges_byte_for_byte() {
    let mut edge = Edge::with(&["sensor-1"]);
    for (topic, payload, at_ms, answers) in RECORDED {
        edge.now_ms = *at_ms;
        edge.mqtt(&whole(topic), payload);
        let published = edge.commit().published;
        let got: Vec<(String, String)> = published
            .iter()
            .map(|publication| {
                let payload = String::from_utf8(publication.payload.to_vec()).unwrap();
                let own_id = payload.split('"').find(|part| part.starts_with("uuid-"));
                let payload = own_id.map_or(payload.clone(), |own| payload.replace(own, "{uuid}"));
                (publication.topic.clone(), payload)
            })
            .collect();
        let want: Vec<(String, String)> =
            answers.iter().map(|(topic, payload)| (whole(topic), (*payload).to_owned())).collect();
        assert_eq!(got, want, "{topic} {payload}");
        assert!(published.iter().all(|publication| !publication.retain));
    }
}

#[test]
fn reports_have_the_recorded_shape() {
    let mut edge = Edge::with(&["sensor-1"]);
    edge.connect();
    let membership = edge.commit().messages.remove(0);
    let route = (
        membership.route.source.as_str(),
        membership.route.group.as_str(),
        membership.route.operation.as_str(),
    );
    assert_eq!(
        (route, membership.route.resource.to_string()),
        (("twin", "resource", "get"), "membership/detail".into())
    );
    let Body::Text(content) = membership.body else { panic!("a string of JSON") };
    let content: Value = serde_json::from_str(&content).unwrap();
    assert_eq!(
        (&content["event_type"], &content["group_id"], &content["operation"]),
        (&json!("group_membership_event"), &json!("edge-1"), &json!("detail"))
    );

    edge.now_ms = 1_754_450_006_999;
    edge.update("sensor-1", json!({"temperature": {"actual": {"value": "25"}, "metadata": {"type": "int"}}}));
    edge.mqtt(&format!("{DEVICE}state/update"), r#"{"state":"ONLINE"}"#);
    let mut messages = edge.commit().messages;
    messages.sort_by_key(|message| message.route.resource.to_string());
    let [state, twin] = messages.as_slice() else { panic!("{messages:?}") };
    let route = |message: &Envelope| {
        let route = &message.route;
        format!("{} {} {} {}", route.source, route.group, route.operation, route.resource)
    };
    assert_eq!(route(twin), "twin resource update device/default/sensor-1/twin/edge_updated");
    assert_eq!(route(state), "twin resource update device/default/sensor-1/state/update");
    let Body::Object(content) = &twin.body else { panic!("an object") };
    assert_eq!(
        content["twin"],
        json!({"temperature": {"actual": {"value": "25", "metadata": {"timestamp": 1_754_450_006_999_i64}},
        "optional": true, "metadata": {"type": "int"}, "actual_version": {"cloud": 0, "edge": 1}}})
    );
    let Body::Text(content) = &state.body else { panic!("a string of JSON") };
    let content: Value = serde_json::from_str(content).unwrap();
    assert_eq!(
        content["device"],
        json!({"name": "sensor-1", "state": "online", "lastOnlineTime": "2025-08-06T03:13:26Z"})
    );
}
