//! Bad requests: answered where they belong, nothing changed, nothing crashes.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::bus::device_twin::{MapperReport, ReportRejected};

const NOWHERE: &str = "$hw/events/device//twin/update/result";

#[test]
fn every_malformed_update_is_answered_and_changes_nothing() {
    let mut edge = Edge::new(256);
    edge.apply(model(json!([{"name": "t", "type": "INT", "minimum": "0", "maximum": "100"}])));
    edge.apply(device("s", 1, &[]));
    edge.update("s", json!({"t": {"actual": {"value": "1"}}, "k": {"actual": {"value": "1"}, "optional": false, "metadata": {"type": "int"}}}));
    edge.commit();
    let before = edge.row("s");
    let own = "s/twin/update/result";
    let long = "k".repeat(129);
    let deep = format!("{}1{}", "[".repeat(5000), "]".repeat(5000));
    let many: String = (0..1100).map(|n| format!(r#""p{n}":{{"actual":{{"value":"1"}}}},"#)).collect();
    for (payload, topic, reason) in [
        ("", NOWHERE, "Unmarshal update"),
        ("null", NOWHERE, "Unmarshal update"),
        ("7", NOWHERE, "Unmarshal update"),
        ("[]", own, "key:twin does not exist"),
        ("{", NOWHERE, "Unmarshal update"),
        (r#"{"event_id":"e""#, NOWHERE, "Unmarshal update"),
        ("\u{0}", NOWHERE, "Unmarshal update"),
        (r#"{"event_id":5,"twin":{}}"#, NOWHERE, "Unmarshal update"),
        (r#"{"twin":5}"#, NOWHERE, "Unmarshal update"),
        (r#"{"twin":[]}"#, NOWHERE, "Unmarshal update"),
        (r#"{"twin":{"t":5}}"#, NOWHERE, "Unmarshal update"),
        (r#"{"twin":{"t":{"actual":"1"}}}"#, NOWHERE, "Unmarshal update"),
        (r#"{"twin":{"t":{"actual":{"value":1}}}}"#, NOWHERE, "Unmarshal update"),
        (&deep, NOWHERE, "Unmarshal update"),
        (r#"{"event_id":"e"}"#, own, "key:twin does not exist"),
        (r#"{"event_id":"e","twin":null}"#, own, "key:twin does not exist"),
        (r#"{"twin":{"":{"actual":{"value":"1"}}}}"#, own, "The key of twin"),
        (r#"{"twin":{"a b":{"actual":{"value":"1"}}}}"#, own, "The key of twin"),
        (&format!(r#"{{"twin":{{"{long}":{{}}}}}}"#), own, "The key of twin"),
        (r#"{"twin":{"t":{"actual":{"value":"a b"}}}}"#, own, "The value of twin"),
        (r#"{"twin":{"t":{"expected":{"value":"{}"}}}}"#, own, "The value of twin"),
        (r#"{"twin":{"t":{"actual":{}}}}"#, own, "property t: actual has no value"),
        (r#"{"twin":{"t":{"expected":{"value":null}}}}"#, own, "property t: expected has no value"),
        (
            r#"{"twin":{"n":{"actual":{"value":"1"},"metadata":{"type":"double"}}}}"#,
            own,
            "the value type is not allowed",
        ),
        (r#"{"twin":{"n":{"metadata":{"type":"deleted"}}}}"#, own, "the value type is not allowed"),
        (
            r#"{"twin":{"n":{"actual":{"value":"x"},"metadata":{"type":"int"}}}}"#,
            own,
            "the value is not int or integer",
        ),
        (
            r#"{"twin":{"n":{"actual":{"value":"x"},"metadata":{"type":"float"}}}}"#,
            own,
            "the value is not float",
        ),
        (
            r#"{"twin":{"n":{"actual":{"value":"1"},"metadata":{"type":"boolean"}}}}"#,
            own,
            "the bool value must be true or false",
        ),
        (r#"{"twin":{"k":{"actual":{"value":"x"}}}}"#, own, "the value is not int or integer"),
        (r#"{"twin":{"n":null}}"#, own, "the request body is wrong"),
        (
            r#"{"twin":{"t":{"actual":{"value":"101"}}}}"#,
            own,
            "property t: the value \"101\" is above the maximum 100 of the device model m",
        ),
        (r#"{"twin":{"t":{"expected":{"value":"-1"}}}}"#, own, "is below the minimum 0"),
        (
            r#"{"twin":{"t":{"actual":{"value":"warm"},"metadata":{"type":"string"}}}}"#,
            own,
            "property t: the value \"warm\" does not have the type INT",
        ),
        // One bad property spoils all.
        (
            r#"{"twin":{"a":{"actual":{"value":"1"}},"t":{"actual":{"value":"101"}}}}"#,
            own,
            "above the maximum",
        ),
        (&format!(r#"{{"twin":{{{many}"z":{{}}}}}}"#), own, "a device has at most 1024 properties"),
        (&format!(r#"{{"twin":{{}},"pad":"{}"}}"#, "x".repeat(1 << 20)), own, "the payload of 1048"),
    ] {
        edge.mqtt("$hw/events/device/default/s/twin/update", payload);
        let answers = lines(&edge.commit().published);
        let shown: String = payload.chars().take(80).collect();
        let [(got, answer)] = answers.as_slice() else { panic!("{shown}: {answers:?}") };
        assert_eq!(got.replace("default/", ""), topic.replace("default/", ""), "{shown}");
        assert_eq!(answer["code"], 400, "{shown}");
        let got = answer["reason"].as_str().unwrap();
        assert!(got.contains(reason), "{shown}: {got}");
        assert!(got.len() < 400, "{shown}");
        assert_eq!(edge.row("s"), before, "{shown}");
    }
    // A property that must stay is not deleted, and deleting twice changes nothing the second time.
    edge.mqtt("$hw/events/device/default/s/twin/update", r#"{"twin":{"k":null}}"#);
    assert_eq!(topics(&edge.commit().published), [own]);
    assert_eq!(edge.row("s"), before);
}

#[test]
fn other_requests_are_refused_with_a_reason() {
    let mut edge = Edge::with(&["s"]);
    let huge = "x".repeat((1 << 20) + 1);
    for (request, payload, topic, code, reason) in [
        ("device/default/s/twin/get", "{", "s/twin/get/result", 400, "Unmarshal twin info failed"),
        ("device/default/s/twin/get", &huge, "s/twin/get/result", 400, "larger than the limit"),
        (
            "device/default/no/twin/get",
            "{}",
            "no/twin/get/result",
            404,
            "Device default/no not found while getting twin",
        ),
        ("device/default/s/state/update", "", "s/state/update/result", 400, "Unmarshal update"),
        (
            "device/default/s/state/update",
            "{}",
            "s/state/update/result",
            400,
            "the state \"\" is not one of online",
        ),
        (
            "device/default/s/state/update",
            r#"{"state":"broken"}"#,
            "s/state/update/result",
            400,
            "\"broken\"",
        ),
        ("device/default/no/state/update", r#"{"state":"ok"}"#, "no/state/update/result", 404, "not existed"),
        ("device/default/s/twin/cloud_updated", "x", NOWHERE, 400, "Unmarshal update"),
        ("device/default/s/twin/cloud_updated", "{}", "s/twin/update/result", 400, "key:twin does not exist"),
        (
            "device/default/no/twin/cloud_updated",
            r#"{"twin":{}}"#,
            "no/twin/update/result",
            404,
            "not existed",
        ),
        ("node/edge-1/membership/get", "7", "$hw/events/node/edge-1/membership/get/result", 400, "Unmarshal"),
    ] {
        edge.mqtt(&format!("$hw/events/{request}"), payload);
        let answers = lines(&edge.commit().published);
        let [(got, answer)] = answers.as_slice() else { panic!("{request}: {answers:?}") };
        assert_eq!((got.as_str(), &answer["code"]), (topic, &json!(code)), "{request}");
        assert!(answer["reason"].as_str().unwrap().contains(reason), "{request}: {answer}");
    }
    for topic in [
        "node/edge-2/membership/get",
        "device/default/s/state/get",
        "device/default/s/twin/update/delta",
        "x",
    ] {
        edge.mqtt(&format!("$hw/events/{topic}"), "{}");
        assert!(edge.commit().published.is_empty(), "{topic}");
    }
    let counted: u64 = edge.core.tally.refused.values().sum();
    assert_eq!(counted, 11);
}

#[test]
fn a_mapper_hears_why() {
    let mut edge = Edge::new(256);
    edge.apply(model(json!([{"name": "t", "type": "INT", "maximum": "100"}])));
    edge.apply(device("s", 1, &[("t", "20")]));
    edge.commit();
    let now = edge.now();
    let report = |value: &str, observed: &str| {
        let report = MapperReport { reported: Some(value.into()), observed_desired: Some(observed.into()) };
        BTreeMap::from([("t".to_owned(), report)])
    };
    let unknown = edge.core.mapper_twins(&id("no"), report("1", ""), now);
    assert_eq!(unknown, Err(ReportRejected::UnknownDevice(id("no"))));
    assert_eq!(edge.core.mapper_state(&id("no"), "ok", now), Err(ReportRejected::UnknownDevice(id("no"))));
    let Err(ReportRejected::Invalid(why)) = edge.core.mapper_twins(&id("s"), report("101", ""), now) else {
        panic!("taken")
    };
    assert!(why.contains("above the maximum 100"));
    assert!(matches!(edge.core.mapper_state(&id("s"), "??", now), Err(ReportRejected::Invalid(_))));
    // An echo of an old desired value sets nothing.
    edge.core.mapper_twins(&id("s"), report("19", "7"), now).unwrap();
    let published = edge.commit().published;
    assert_eq!(topics(&published), ["s/twin/update/result", "s/twin/update/document", "s/twin/update/delta"]);
    assert_eq!(edge.value("s", "t", "expected").as_deref(), Some("20"));
    assert_eq!(edge.core.devices[&id("s")].properties["t"].type_name(), "int");
    edge.core.mapper_state(&id("s"), "unhealthy", now).unwrap();
    assert_eq!(edge.commit().messages.len(), 0, "no session");
    assert_eq!(edge.core.open_counts().0, 2);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_on_any_topic_never_panic(
        topic in prop_oneof![
            Just("$hw/events/device/default/s/twin/update".to_owned()),
            Just("$hw/events/device/default/s/twin/cloud_updated".to_owned()),
            Just("$hw/events/device/default/s/state/update".to_owned()),
            Just("$hw/events/device/default/s/twin/get".to_owned()),
            Just("$hw/events/node/edge-1/membership/get".to_owned()),
            "\\$hw/events/(device|node)(/[a-z+#]{0,3}){0,7}",
            ".*",
        ],
        payload in prop_oneof![
            vec(any::<u8>(), 0..200),
            r#"\{"event_id":("e"|null|1),"twin":\{("t":(null|\{("(actual|expected)":\{"value":"[0-9a ]{0,3}"\})?(,"metadata":\{"type":"(int|deleted|string|x)"\})?\}))?\}\}"#
                .prop_map(String::into_bytes),
        ],
    ) {
        let mut edge = Edge::with(&["s"]);
        edge.connect();
        for _ in 0..2 {
            edge.core.message(&topic, &payload, Batch::new(), edge.now());
            edge.cloud("device/default/s/twin/cloud_updated", serde_json::from_slice(&payload).unwrap_or_default());
            edge.cloud("membership", serde_json::from_slice(&payload).unwrap_or_default());
            edge.cloud("membership/detail", serde_json::from_slice(&payload).unwrap_or_default());
            for publication in edge.commit().published {
                prop_assert!(serde_json::from_slice::<Value>(&publication.payload).is_ok());
            }
        }
        edge.restart();
    }
}
