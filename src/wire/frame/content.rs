//! Content by kind: JSON value to [`Body`] and back (protocol sections 2.2 and 6.3).

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

use crate::model::{Body, ErrStatus, ObjectResp, Reason, Status};

const OBJECT: &str = "Object";
const ERR: &str = "Err";
const ERR_STATUS: &str = "ErrStatus";

/// Understands content. Total: what has no shape of its own is an object or unknown.
pub(super) fn body_of(content: Value) -> Body {
    match content {
        Value::Null => Body::Null,
        Value::String(text) => Body::Text(text),
        Value::Object(map) => body_of_object(map),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) => Body::Unknown(content),
    }
}

fn body_of_object(mut map: Map<String, Value>) -> Body {
    if map.len() == 2 && map.contains_key(OBJECT) && map.contains_key(ERR) {
        let object = map.remove(OBJECT).filter(|object| !object.is_null());
        let err = map.remove(ERR).filter(|err| !err.is_null()).map(err_status);
        return Body::ObjectResp(Box::new(ObjectResp { object, err }));
    }
    let value = Value::Object(map);
    if value.as_object().is_some_and(|map| map.len() == 1 && map.contains_key(ERR_STATUS))
        && let Ok(err) = serde_json::from_value(value.clone())
    {
        return Body::Error(Box::new(err));
    }
    Body::Object(value)
}

/// Go prints an error that is no API error as `{}`: that it failed is all that arrives.
fn err_status(err: Value) -> ErrStatus {
    serde_json::from_value(err.clone()).unwrap_or_else(|_| {
        let message = match err {
            Value::String(text) => text,
            other => format!("the peer failed and sent no status: {other}"),
        };
        Status::failure(Reason::InternalError, message).into()
    })
}

/// A body as `content`.
pub(super) struct Content<'a>(pub(super) &'a Body);

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Body::Null => serializer.serialize_unit(),
            Body::Text(text) => serializer.serialize_str(text),
            Body::Object(value) | Body::Unknown(value) => value.serialize(serializer),
            Body::Error(err) => err.serialize(serializer),
            Body::ObjectResp(resp) => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry(OBJECT, &resp.object)?;
                map.serialize_entry(ERR, &resp.err)?;
                map.end()
            }
        }
    }
}
