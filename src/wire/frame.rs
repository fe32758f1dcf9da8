//! The JSON frame of the websocket (protocol sections 1.2, 2.1, 2.2): one frame is one message.

mod content;
mod output;
#[cfg(test)]
mod tests;

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::model::{Envelope, Header, Resource, Route};
use content::{Content, body_of};
use output::{Capped, GoStrings};

/// Largest frame either side takes, bytes. A listener may be configured lower.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// Largest message that either program understands, bytes. Kubernetes objects end at 1.5 MiB. An edge skips what is
/// larger and fits in a frame, so that one big message does not end the session again and again.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Deepest nesting of objects and arrays. Kubernetes objects stay far below.
pub const MAX_DEPTH: usize = 100;

/// Most values in a frame: parsed, one takes up to 700 bytes (a map of one entry), whatever it is written in.
pub const MAX_VALUES: usize = 100_000;

/// Longest text of a frame's header and route, bytes. KubeEdge's ids are UUIDs; names of namespace, kind and object
/// together stay under a kilobyte.
pub const MAX_FIELD_BYTES: usize = 4 << 10;

/// Why bytes are not a message, or a message is not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("the frame is larger than {limit} bytes: {bytes}")]
    TooLarge { bytes: usize, limit: usize },
    #[error("the frame nests deeper than {MAX_DEPTH} levels")]
    TooDeep,
    #[error("the frame has more than {MAX_VALUES} values")]
    TooMany,
    /// Not JSON, or a field is missing, double, or of the wrong type.
    #[error("bad frame at {field}: {reason}")]
    Malformed {
        /// Path of the field, `.` for the frame itself.
        field: String,
        reason: String,
    },
    /// One of header or route is longer than [`MAX_FIELD_BYTES`]; the rest of the frame is sound.
    #[error("the field {field} is longer than {MAX_FIELD_BYTES} bytes: {bytes}")]
    LongField { field: &'static str, bytes: usize },
    /// The content cannot be written as JSON (a key that is no string, for one).
    #[error("the message of {resource} cannot be written: {reason}")]
    Unprintable { resource: String, reason: String },
}

/// The whole frame: a JSON object and nothing else.
#[derive(Deserialize)]
#[serde(transparent)]
struct Whole(#[serde(deserialize_with = "object")] FrameIn);

#[derive(Deserialize)]
struct FrameIn {
    #[serde(deserialize_with = "object")]
    header: HeaderIn,
    #[serde(deserialize_with = "object")]
    route: RouteIn,
    #[serde(default)]
    content: Value,
}

#[derive(Deserialize)]
struct HeaderIn {
    msg_id: String,
    #[serde(default)]
    parent_msg_id: Option<String>,
    #[serde(default)]
    timestamp: i64,
    #[serde(default)]
    resourceversion: Option<String>,
    #[serde(default)]
    sync: Option<bool>,
    #[serde(default, rename = "type")]
    context_type: Option<String>,
}

/// Go leaves out empty text, so every field may be absent.
#[derive(Deserialize)]
struct RouteIn {
    #[serde(default)]
    source: Option<String>,
    #[serde(default)]
    destination: Option<String>,
    #[serde(default)]
    group: Option<String>,
    #[serde(default)]
    operation: Option<String>,
    #[serde(default)]
    resource: Option<String>,
}

/// Reads one frame of at most `limit` bytes. Unknown keys are ignored, as Go ignores them; kinds,
/// sources and operations that we do not know survive in the result.
///
/// # Errors
/// [`WireError::TooLarge`], [`WireError::TooDeep`] and [`WireError::TooMany`] before anything is parsed,
/// [`WireError::Malformed`] with the field, [`WireError::LongField`].
pub fn decode(frame: &[u8], limit: usize) -> Result<Envelope, WireError> {
    if frame.len() > limit {
        return Err(WireError::TooLarge { bytes: frame.len(), limit });
    }
    let (depth, values) = shape(frame);
    if depth > MAX_DEPTH {
        return Err(WireError::TooDeep);
    }
    if values > MAX_VALUES {
        return Err(WireError::TooMany);
    }
    let malformed =
        |field: String, err: &serde_json::Error| WireError::Malformed { field, reason: err.to_string() };
    let mut json = serde_json::Deserializer::from_slice(frame);
    let Whole(FrameIn { header, route, content }) = serde_path_to_error::deserialize(&mut json)
        .map_err(|err| malformed(err.path().to_string(), err.inner()))?;
    json.end().map_err(|err| malformed(".".to_owned(), &err))?;
    let resource = route.resource.unwrap_or_default();
    let header = Header {
        msg_id: header.msg_id,
        parent_msg_id: filled(header.parent_msg_id),
        timestamp_ms: header.timestamp,
        resource_version: filled(header.resourceversion),
        sync: header.sync.unwrap_or_default(),
        context_type: filled(header.context_type),
    };
    let route = Route {
        source: route.source.unwrap_or_default(),
        destination: filled(route.destination),
        group: route.group.unwrap_or_default(),
        operation: route.operation.unwrap_or_default(),
        resource: Resource::parse(&resource),
    };
    bounded(&header, &route, &resource)?;
    Ok(Envelope { header, route, body: body_of(content) })
}

/// What is kept of a message while it waits is reckoned by its content: nothing else of it may be long.
fn bounded(header: &Header, route: &Route, resource: &str) -> Result<(), WireError> {
    let fields = [
        ("header.msg_id", Some(header.msg_id.as_str())),
        ("header.parent_msg_id", header.parent_msg_id.as_deref()),
        ("header.resourceversion", header.resource_version.as_deref()),
        ("header.type", header.context_type.as_deref()),
        ("route.source", Some(route.source.as_str())),
        ("route.destination", route.destination.as_deref()),
        ("route.group", Some(route.group.as_str())),
        ("route.operation", Some(route.operation.as_str())),
        ("route.resource", Some(resource)),
    ];
    let lengths = fields.into_iter().map(|(field, text)| (field, text.map_or(0, str::len)));
    let mut long = lengths.filter(|(_, bytes)| *bytes > MAX_FIELD_BYTES);
    long.next().map_or(Ok(()), |(field, bytes)| Err(WireError::LongField { field, bytes }))
}

/// Derived structs also take arrays: here only an object will do.
fn object<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct Object<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for Object<T> {
        type Value = T;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_map(Object(PhantomData))
}

/// Empty text means the same as an absent field.
fn filled(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// Levels of nesting, and values, without parsing: brackets and commas outside of strings.
fn shape(json: &[u8]) -> (usize, usize) {
    let (mut now, mut deepest, mut in_string, mut escaped) = (0_usize, 0_usize, false, false);
    let mut values = 1;
    for byte in json {
        match (in_string, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => in_string = !in_string,
            (false, b'{' | b'[') => {
                now += 1;
                deepest = deepest.max(now);
                values += 1;
            }
            (false, b',') => values += 1,
            (false, b'}' | b']') => now = now.saturating_sub(1),
            _ => {}
        }
    }
    (deepest, values)
}

#[derive(Serialize)]
struct FrameOut<'a> {
    header: HeaderOut<'a>,
    route: RouteOut<'a>,
    content: Content<'a>,
}

#[derive(Serialize)]
struct HeaderOut<'a> {
    msg_id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    parent_msg_id: &'a str,
    timestamp: i64,
    #[serde(skip_serializing_if = "str::is_empty")]
    resourceversion: &'a str,
    #[serde(skip_serializing_if = "is_false")]
    sync: bool,
    #[serde(skip_serializing_if = "str::is_empty", rename = "type")]
    context_type: &'a str,
}

#[derive(Serialize)]
struct RouteOut<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    source: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    destination: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    operation: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    resource: &'a str,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// Writes one frame of at most [`MAX_FRAME_BYTES`], ending with a newline as Go's does.
///
/// # Errors
/// As [`encode_within`].
pub fn encode(envelope: &Envelope) -> Result<Vec<u8>, WireError> {
    encode_within(envelope, MAX_FRAME_BYTES)
}

/// Writes one frame of at most `limit` bytes, the newline included.
///
/// # Errors
/// [`WireError::TooLarge`] with the size it would have had (never more than `limit` is kept in
/// memory), [`WireError::LongField`], [`WireError::Unprintable`].
pub fn encode_within(envelope: &Envelope, limit: usize) -> Result<Vec<u8>, WireError> {
    let Header { msg_id, parent_msg_id, timestamp_ms, resource_version, sync, context_type } =
        &envelope.header;
    let route = &envelope.route;
    let resource = route.resource.to_string();
    bounded(&envelope.header, route, &resource)?;
    let frame = FrameOut {
        header: HeaderOut {
            msg_id,
            parent_msg_id: parent_msg_id.as_deref().unwrap_or_default(),
            timestamp: *timestamp_ms,
            resourceversion: resource_version.as_deref().unwrap_or_default(),
            sync: *sync,
            context_type: context_type.as_deref().unwrap_or_default(),
        },
        route: RouteOut {
            source: &route.source,
            destination: route.destination.as_deref().unwrap_or_default(),
            group: &route.group,
            operation: &route.operation,
            resource: &resource,
        },
        content: Content(&envelope.body),
    };
    let mut out = Capped::new(limit);
    let written = frame.serialize(&mut serde_json::Serializer::with_formatter(&mut out, GoStrings));
    if let Err(err) = written {
        return Err(WireError::Unprintable { resource, reason: err.to_string() });
    }
    out.push(b"\n");
    out.finish().map_err(|bytes| WireError::TooLarge { bytes, limit })
}
