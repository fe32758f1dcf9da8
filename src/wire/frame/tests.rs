//! Recorded frames, worked examples, hostile bytes.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::{Body, ErrStatus, ObjectResp, Reason, Status};

/// Frames between real programs, pretty-printed, each after a `#number time direction ..` line.
const RECORDED: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/kubeedge-1.23-websocket.txt"));
/// The examples of the protocol description, one a line.
const EXAMPLES: &str =
    include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/worked-examples.jsonl"));

fn golden() -> Vec<String> {
    let mut frames = Vec::new();
    let mut is_frame = false;
    for line in RECORDED.lines() {
        if line.starts_with('#') {
            is_frame = line.contains(" text/");
            if is_frame {
                frames.push(String::new());
            }
        } else if is_frame && let Some(frame) = frames.last_mut() {
            frame.push_str(line);
            frame.push('\n');
        }
    }
    frames.extend(EXAMPLES.lines().map(str::to_owned));
    frames
}

fn value(frame: &[u8]) -> Value {
    serde_json::from_slice(frame).unwrap()
}

fn text(content: &str) -> String {
    format!(r#"{{"header":{{"msg_id":"m","timestamp":1}},"route":{{"operation":"x"}},"content":{content}}}"#)
}

fn body(content: &str) -> Body {
    decode(text(content).as_bytes(), MAX_FRAME_BYTES).unwrap().body
}

#[test]
fn every_recorded_frame_and_example_comes_back_as_it_was() {
    let frames = golden();
    assert_eq!(frames.len(), 150 + 20, "recorded frames and examples");
    for frame in frames {
        let envelope =
            decode(frame.as_bytes(), MAX_FRAME_BYTES).unwrap_or_else(|err| panic!("{err}: {frame}"));
        let again = encode(&envelope).unwrap();
        assert_eq!(again.last(), Some(&b'\n'));
        assert_eq!(value(&again), value(frame.as_bytes()));
        assert_eq!(decode(&again, again.len()), Ok(envelope));
    }
}

#[test]
fn recorded_frames_are_of_the_kinds_we_know() {
    let mut seen = std::collections::BTreeMap::new();
    for frame in golden() {
        let kind = match decode(frame.as_bytes(), MAX_FRAME_BYTES).unwrap().body {
            Body::Null => "null",
            Body::Text(_) => "text",
            Body::Object(_) => "object",
            Body::ObjectResp(_) => "object resp",
            Body::Error(_) => "error",
            Body::Unknown(_) => "unknown",
        };
        *seen.entry(kind).or_insert(0) += 1;
    }
    assert!(!seen.contains_key("unknown"), "{seen:?}");
    assert_eq!(seen.len(), 5, "all others occur: {seen:?}");
}

#[test]
fn content_by_kind() {
    let not_found = Status { details: None, ..Status::failure(Reason::NotFound, "gone") };
    let wire =
        r#"{"ErrStatus":{"metadata":{},"status":"Failure","message":"gone","reason":"NotFound","code":404}}"#;
    let resp = |object, err| Body::ObjectResp(Box::new(ObjectResp { object, err }));
    for (content, want) in [
        ("null", Body::Null),
        (r#""OK""#, Body::Text("OK".into())),
        (r#""{\"a\":1}""#, Body::Text(r#"{"a":1}"#.into())),
        (r#"{"a":1}"#, Body::Object(json!({"a": 1}))),
        (r#"{"Object":{},"Err":null}"#, resp(Some(json!({})), None)),
        (&format!(r#"{{"Object":null,"Err":{wire}}}"#), resp(None, Some(not_found.clone().into()))),
        (wire, Body::Error(Box::new(not_found.into()))),
        (r#"{"ErrStatus":7}"#, Body::Object(json!({"ErrStatus": 7}))),
        (r#"{"Object":{}}"#, Body::Object(json!({"Object": {}}))),
        (r#"{"Object":{},"Err":null,"More":1}"#, Body::Object(json!({"Object": {}, "Err": null, "More": 1}))),
        ("[1,true]", Body::Unknown(json!([1, true]))),
        ("7", Body::Unknown(json!(7))),
    ] {
        assert_eq!(body(content), want, "{content}");
        let again = encode(&decode(text(content).as_bytes(), MAX_FRAME_BYTES).unwrap()).unwrap();
        assert_eq!(value(&again)["content"], value(content.as_bytes()), "{content}");
    }
}

#[test]
fn a_go_error_without_a_status_stays_an_error() {
    let Body::ObjectResp(resp) = body(r#"{"Object":null,"Err":{}}"#) else { panic!("not an answer") };
    let ErrStatus { status } = resp.err.unwrap();
    assert!(status.inner.is(Reason::InternalError));
}

#[test]
fn large_integers_survive() {
    for number in [9_007_199_254_740_993_u64, u64::MAX] {
        assert_eq!(body(&format!(r#"{{"n":{number}}}"#)), Body::Object(json!({ "n": number })));
    }
}

#[test]
fn absent_and_empty_fields_are_left_out() {
    let frame = r#"{"header":{"msg_id":"m","parent_msg_id":"","timestamp":5,"resourceversion":null,"sync":false,"later":1},"route":{"source":"","destination":""}}"#;
    let envelope = decode(frame.as_bytes(), MAX_FRAME_BYTES).unwrap();
    assert_eq!(envelope.body, Body::Null);
    let out = String::from_utf8(encode(&envelope).unwrap()).unwrap();
    assert_eq!(out, "{\"header\":{\"msg_id\":\"m\",\"timestamp\":5},\"route\":{},\"content\":null}\n");
}

#[test]
fn strings_are_escaped_as_go_does() {
    let mut envelope = decode(text("null").as_bytes(), MAX_FRAME_BYTES).unwrap();
    envelope.body = Body::Text("a<b>&\u{2028}\u{2029}\"é\n".into());
    let out = String::from_utf8(encode(&envelope).unwrap()).unwrap();
    assert!(out.contains(r#""a\u003cb\u003e\u0026\u2028\u2029\"é\n""#), "{out}");
    assert_eq!(decode(out.as_bytes(), MAX_FRAME_BYTES), Ok(envelope));
}

#[test]
fn bad_frames_name_the_field() {
    let cases = [
        ("", ".", "EOF"),
        ("[]", ".", "expected an object"),
        (r#"{"header":["m"],"route":{}}"#, "header", "expected an object"),
        (r#"{"header":{"msg_id":"m"},"route":null}"#, "route", "expected an object"),
        (r#"{"route":{}}"#, ".", "missing field `header`"),
        (r#"{"header":{"msg_id":"m"}}"#, ".", "missing field `route`"),
        (r#"{"header":{},"route":{}}"#, "header", "missing field `msg_id`"),
        (r#"{"header":{"msg_id":7},"route":{}}"#, "header.msg_id", "invalid type: integer"),
        (
            r#"{"header":{"msg_id":"m","timestamp":"1"},"route":{}}"#,
            "header.timestamp",
            "invalid type: string",
        ),
        (r#"{"header":{"msg_id":"m"},"route":{"group":[]}}"#, "route.group", "invalid type: sequence"),
        (r#"{"header":{"msg_id":"m"},"header":{"msg_id":"m"},"route":{}}"#, ".", "duplicate field `header`"),
        (
            r#"{"header":{"msg_id":"m"},"route":{"source":"a","source":"b"}}"#,
            "route",
            "duplicate field `source`",
        ),
        (r#"{"header":{"msg_id":"m"},"route":{},"content":{]}"#, "content", "key must be a string"),
        (r#"{"header":{"msg_id":"m"},"route":{}}{}"#, ".", "trailing characters"),
    ];
    for (frame, field, reason) in cases {
        match decode(frame.as_bytes(), MAX_FRAME_BYTES) {
            Err(WireError::Malformed { field: got, reason: why }) => {
                assert!(got.starts_with(field) && why.contains(reason), "{frame}: at {got}: {why}");
            }
            other => panic!("{frame}: {other:?}"),
        }
    }
}

#[test]
fn values_are_bounded() {
    let maps = |count: usize| text(&format!("[{}]", vec!["{\"\":0}"; count].join(",")));
    assert!(decode(maps(40_000).as_bytes(), MAX_FRAME_BYTES).is_ok());
    assert_eq!(decode(maps(60_000).as_bytes(), MAX_FRAME_BYTES), Err(WireError::TooMany));
    let commas = text(&format!("\"{}\"", ",".repeat(MAX_VALUES)));
    assert!(decode(commas.as_bytes(), MAX_FRAME_BYTES).is_ok(), "text has one value");
}

#[test]
fn header_and_route_are_short() {
    for field in ["\"msg_id\":\"", "\"operation\":\""] {
        let frame = text("null");
        let (before, after) = frame.split_once(field).unwrap();
        let long = format!("{before}{field}{}{after}", "x".repeat(MAX_FIELD_BYTES));
        match decode(long.as_bytes(), MAX_FRAME_BYTES) {
            Err(WireError::LongField { field: at, bytes }) => {
                assert!(
                    field.contains(at.rsplit('.').next().unwrap()) && bytes >= MAX_FIELD_BYTES,
                    "{at}: {bytes}"
                );
            }
            other => panic!("{field}: {other:?}"),
        }
    }
    let mut envelope = decode(text("null").as_bytes(), MAX_FRAME_BYTES).unwrap();
    envelope.route.resource = Resource::Other("x".repeat(MAX_FIELD_BYTES));
    assert!(encode(&envelope).is_ok());
    envelope.route.resource = Resource::Other("x".repeat(MAX_FIELD_BYTES + 1));
    let long = WireError::LongField { field: "route.resource", bytes: MAX_FIELD_BYTES + 1 };
    assert_eq!(encode(&envelope), Err(long), "what the other side would not take is not sent");
}

#[test]
fn sizes_are_bounded_both_ways() {
    let frame = text(&format!("\"{}\"", "x".repeat(1000)));
    let bytes = frame.len();
    assert_eq!(decode(frame.as_bytes(), 1000), Err(WireError::TooLarge { bytes, limit: 1000 }));
    let envelope = decode(frame.as_bytes(), bytes).unwrap();
    let out = encode(&envelope).unwrap();
    assert_eq!(encode_within(&envelope, out.len()), Ok(out.clone()));
    let too_large = WireError::TooLarge { bytes: out.len(), limit: out.len() - 1 };
    assert_eq!(encode_within(&envelope, out.len() - 1), Err(too_large));
}

#[test]
fn nesting_is_bounded() {
    let nested = |n: usize| text(&format!("{}{}", "[".repeat(n), "]".repeat(n)));
    assert!(decode(nested(MAX_DEPTH - 1).as_bytes(), MAX_FRAME_BYTES).is_ok());
    assert_eq!(decode(nested(MAX_DEPTH).as_bytes(), MAX_FRAME_BYTES), Err(WireError::TooDeep));
    assert_eq!(decode(nested(1_000_000).as_bytes(), MAX_FRAME_BYTES), Err(WireError::TooDeep));
    let brackets = text(&format!("\"\\\"{}\"", "[".repeat(1000)));
    assert!(decode(brackets.as_bytes(), MAX_FRAME_BYTES).is_ok(), "brackets in a string do not nest");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((".{0,8}", inner), 0..4).prop_map(|pairs| pairs.into_iter().collect::<Value>()),
        ]
    })
}

fn any_envelope() -> impl Strategy<Value = Envelope> {
    let some = || proptest::option::of(".{1,12}");
    let header = (".*", some(), any::<i64>(), some(), any::<bool>(), some());
    let route = (".{0,12}", some(), ".{0,12}", ".{0,12}", "[a-z/]{0,24}|.*");
    (header, route, any_json()).prop_map(|(h, r, content)| Envelope {
        header: Header {
            msg_id: h.0,
            parent_msg_id: h.1,
            timestamp_ms: h.2,
            resource_version: h.3,
            sync: h.4,
            context_type: h.5,
        },
        route: Route {
            source: r.0,
            destination: r.1,
            group: r.2,
            operation: r.3,
            resource: Resource::parse(&r.4),
        },
        body: body_of(content),
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn round_trip(envelope in any_envelope()) {
        let out = encode(&envelope).unwrap();
        prop_assert_eq!(decode(&out, out.len()), Ok(envelope));
    }

    #[test]
    fn any_bytes_never_panic(raw in vec(any::<u8>(), 0..256)) {
        if let Ok(envelope) = decode(&raw, 256) {
            prop_assert!(encode(&envelope).is_ok());
        }
    }

    #[test]
    fn damaged_frames_never_panic(
        pick in any::<prop::sample::Index>(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let frames = golden();
        let mut raw = pick.get(&frames).clone().into_bytes();
        for (at, byte) in damage {
            let at = at.index(raw.len());
            raw[at] = byte;
        }
        for frame in [&raw[..], &raw[..cut.index(raw.len())]] {
            if let Ok(envelope) = decode(frame, MAX_FRAME_BYTES) {
                prop_assert!(encode(&envelope).is_ok());
            }
        }
    }
}
