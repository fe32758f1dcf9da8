//! What a node says about devices (protocol section 7.3). Total, no I/O.

use serde_json::Value;

use super::status::{Mark, Sample, Status, Twin};
use crate::model::device::{MsgTwin, StateUpdate, TwinUpdate, TwinValue, TwinVersion};
use crate::model::{Body, DeviceId, Envelope, Resource, operation};

/// Longest value, state or type, bytes. Edges of KubeEdge take 512.
const MAX_TEXT: usize = 16 << 10;
/// Longest message id that is answered, bytes. A UUID has 36.
const MAX_ID: usize = 128;

/// A message of source `twin`, understood.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// Twin or state of a device.
    Report { device: DeviceId, said: Status },
    /// Which devices are mine?
    Members,
}

/// Why a message is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Bad {
    #[error("{0}")]
    Content(String),
    /// Neither a report nor a question that KubeEdge's DeviceTwin has.
    #[error("no message of a device")]
    Unknown,
}

/// Reads it.
///
/// # Errors
/// [`Bad`] names the field.
pub fn read(envelope: &Envelope) -> Result<Said, Bad> {
    if envelope.header.msg_id.len() > MAX_ID {
        return Err(Bad::Unknown);
    }
    match (&envelope.route.resource, envelope.route.operation.as_str()) {
        (Resource::MembershipDetail, operation::GET) => Ok(Said::Members),
        (Resource::DeviceTwin { namespace, name }, operation::UPDATE) => {
            let said = twin(content(&envelope.body)?)?;
            Ok(Said::Report { device: DeviceId::new(namespace, name), said })
        }
        (Resource::DeviceState { namespace, name }, operation::UPDATE) => {
            let said = state(content(&envelope.body)?)?;
            Ok(Said::Report { device: DeviceId::new(namespace, name), said })
        }
        _ => Err(Bad::Unknown),
    }
}

/// An object, or a string that contains one: edges differ, and from message to message.
fn content(body: &Body) -> Result<Value, Bad> {
    match body {
        Body::Object(value) => Ok(value.clone()),
        Body::Text(text) => match serde_json::from_str(text) {
            Ok(value @ Value::Object(_)) => Ok(value),
            _ => Err(Bad::Content("the content is a text without a JSON object".to_owned())),
        },
        _ => Err(Bad::Content("the content is not an object".to_owned())),
    }
}

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Bad> {
    serde_json::from_value(value).map_err(|err| Bad::Content(err.to_string()))
}

fn twin(value: Value) -> Result<Status, Bad> {
    let update: TwinUpdate = parse(value)?;
    let Some(twin) = update.twin else { return Err(Bad::Content("twin is missing".to_owned())) };
    let mut said = Status::default();
    for (property, twin) in twin {
        check("the name of a property", &property)?;
        // A deleted property says nothing: its last report stays until the Device drops it.
        let Some(MsgTwin { expected, actual, metadata, expected_version, actual_version, .. }) = twin else {
            continue;
        };
        let kind = metadata.map(|it| it.kind).unwrap_or_default();
        check("metadata.type", &kind)?;
        let sample = |value: Option<TwinValue>, version: Option<TwinVersion>| {
            let TwinValue { value, metadata } = value.unwrap_or_default();
            let Some(value) = value else { return Ok(None) };
            check(&format!("a value of {property}"), &value)?;
            let at_ms = metadata.map_or(update.timestamp, |it| it.timestamp);
            let version = version.map_or(0, |it| it.edge);
            Ok(Some(Sample { value, at_ms, kind: kind.clone(), version }))
        };
        let (reported, observed_desired) =
            (sample(actual, actual_version)?, sample(expected, expected_version)?);
        if reported.is_some() || observed_desired.is_some() {
            said.twins.insert(property, Twin { reported, observed_desired });
        }
    }
    Ok(said)
}

fn state(mut value: Value) -> Result<Status, Bad> {
    // KubeEdge's cloud finds the key as Go does: in any case.
    if let Some(fields) = value.as_object_mut()
        && let Some(key) = fields.keys().find(|key| key.eq_ignore_ascii_case("device")).cloned()
        && let Some(device) = fields.remove(&key)
    {
        fields.insert("device".to_owned(), device);
    } else {
        return Err(Bad::Content("device is missing".to_owned()));
    }
    let StateUpdate { timestamp, device, .. } = parse(value)?;
    check("device.state", &device.state)?;
    check("device.lastOnlineTime", &device.last_online_time)?;
    let mark = |text: String| (!text.is_empty()).then_some(Mark { at_ms: timestamp, text });
    Ok(Status { state: mark(device.state), online: mark(device.last_online_time), ..Status::default() })
}

fn check(field: &str, text: &str) -> Result<(), Bad> {
    if text.len() > MAX_TEXT {
        return Err(Bad::Content(format!("{field} has {} bytes, at most {MAX_TEXT} are taken", text.len())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::wire::frame;

    fn message(op: &str, resource: &str, body: Body) -> Envelope {
        Envelope::new("twin", "resource", op, Resource::parse(resource), body, 1)
    }

    const TWIN: &str = "device/default/sensor-1/twin/edge_updated";
    const STATE: &str = "device/default/sensor-1/state/update";

    /// Frames recorded between KubeEdge 1.23 programs.
    #[test]
    fn recorded_frames() {
        let twin = r#"{"header":{"msg_id":"74876a70","timestamp":1795376632294},"route":{"source":"twin","group":"resource","operation":"update","resource":"device/default/sensor-1/twin/edge_updated"},"content":{"event_id":"2d7c8dbc","timestamp":1795376632294,"twin":{"temperature":{"actual":{"value":"21","metadata":{"timestamp":1795376632281}},"optional":true,"metadata":{"type":"string"},"actual_version":{"cloud":0,"edge":1}}}}}"#;
        let envelope = frame::decode(twin.as_bytes(), 1 << 20).unwrap();
        let Said::Report { device, said } = read(&envelope).unwrap() else { panic!() };
        assert_eq!(device, DeviceId::new("default", "sensor-1"));
        let sample =
            Sample { value: "21".into(), at_ms: 1_795_376_632_281, kind: "string".into(), version: 1 };
        assert_eq!(said.twins["temperature"], Twin { reported: Some(sample), observed_desired: None });

        let state = r#"{"header":{"msg_id":"1c5b8fc3","timestamp":1795376608806},"route":{"source":"twin","group":"resource","operation":"update","resource":"device/default/sensor-1/state/update"},"content":"{\"event_id\":\"82761bdd\",\"timestamp\":1795376608806,\"device\":{\"name\":\"sensor-1\",\"state\":\"online\",\"lastOnlineTime\":\"2026-11-22T19:43:28Z\"}}"}"#;
        let envelope = frame::decode(state.as_bytes(), 1 << 20).unwrap();
        let Said::Report { said, .. } = read(&envelope).unwrap() else { panic!() };
        let mark = |text: &str| Some(Mark { at_ms: 1_795_376_608_806, text: text.into() });
        assert_eq!((said.state, said.online), (mark("online"), mark("2026-11-22T19:43:28Z")));
    }

    #[test]
    fn forms() {
        let state = json!({"timestamp": 5, "DEVICE": {"name": "s", "state": "offline"}});
        for body in [Body::Object(state.clone()), Body::Text(state.to_string())] {
            let Ok(Said::Report { said, .. }) = read(&message("update", STATE, body)) else { panic!() };
            assert_eq!((said.state.unwrap().text.as_str(), said.online), ("offline", None));
        }
        let both = json!({"timestamp": 9, "twin": {"gone": null, "t": {"expected": {"value": "2"}}}});
        let Ok(Said::Report { said, .. }) = read(&message("update", TWIN, Body::Object(both))) else {
            panic!()
        };
        assert_eq!(said.twins.len(), 1, "a deleted property says nothing");
        let observed = said.twins["t"].observed_desired.as_ref().unwrap();
        assert_eq!(
            (observed.value.as_str(), observed.at_ms),
            ("2", 9),
            "the report's time where it has none"
        );
        let detail = message("get", "membership/detail", Body::Text("{}".into()));
        assert_eq!(read(&detail), Ok(Said::Members));
    }

    #[test]
    fn bad_content() {
        let long = "x".repeat(MAX_TEXT + 1);
        for (resource, body, want) in [
            (TWIN, Body::Null, "not an object"),
            (TWIN, Body::Text("{".into()), "without a JSON object"),
            (TWIN, Body::Text("[]".into()), "without a JSON object"),
            (TWIN, Body::Object(json!({})), "twin is missing"),
            (TWIN, Body::Object(json!({"twin": 7})), "invalid type"),
            (TWIN, Body::Object(json!({"twin": {"t": {"actual": {"value": 25}}}})), "invalid type"),
            (TWIN, Body::Object(json!({"twin": {"t": {"actual": {"value": long}}}})), "a value of t has"),
            (STATE, Body::Object(json!({"state": "online"})), "device is missing"),
            (STATE, Body::Object(json!({"device": {"state": 1}})), "invalid type"),
        ] {
            match read(&message("update", resource, body)) {
                Err(Bad::Content(why)) => assert!(why.contains(want), "{why}"),
                other => panic!("{want}: {other:?}"),
            }
        }
        for (op, resource) in [("delete", TWIN), ("update", "membership/detail"), ("get", "default/device/d")]
        {
            assert_eq!(
                read(&message(op, resource, Body::Object(json!({})))),
                Err(Bad::Unknown),
                "{resource}"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}", state in any::<bool>()) {
            let resource = if state { STATE } else { TWIN };
            let got = read(&message("update", resource, Body::Text(text)));
            let answered = matches!(got, Ok(Said::Report { .. }) | Err(Bad::Content(_)));
            prop_assert!(answered);
        }
    }
}
