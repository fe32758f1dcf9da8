//! Registration and lease: what to send next, given what the cloud answered.

use serde_json::{Map, Value, json};

use super::objects::text;
use crate::bus::meta::MetaError;
use crate::model::{Body, Envelope, Reason, Status};

/// The object of an `ObjectResp`, or of a bare object reply.
///
/// # Errors
/// [`MetaError::Api`] with the cloud's error, [`MetaError::Protocol`] for any other shape.
pub fn object_of(reply: Envelope) -> Result<Value, MetaError> {
    match reply.body {
        Body::ObjectResp(answer) => match (answer.err, answer.object) {
            (Some(err), _) if err.status.inner != Status::default() => Err(api(err.status.inner)),
            (_, Some(object)) => Ok(object),
            (_, None) => Err(MetaError::Protocol("neither an object nor an error".to_owned())),
        },
        // Go prints an error that is no API error as `{}` (protocol 2.2).
        Body::Object(object) if object.as_object().is_some_and(Map::is_empty) => {
            Err(api(Status::failure(Reason::InternalError, "the cloud failed and did not say why")))
        }
        Body::Object(object) => Ok(object),
        Body::Error(err) => Err(api(err.status.inner)),
        Body::Text(text) => match serde_json::from_str::<Value>(&text) {
            Ok(object) if object.is_object() => Ok(object),
            _ => Err(MetaError::Protocol(text.chars().take(200).collect())),
        },
        Body::Null | Body::Unknown(_) => Err(MetaError::Protocol("no object in it".to_owned())),
    }
}

fn api(status: Status) -> MetaError {
    MetaError::Api(Box::new(status))
}

/// Is this the cloud's answer `reason`?
#[must_use]
pub fn is(err: &MetaError, reason: Reason) -> bool {
    matches!(err, MetaError::Api(status) if status.is(reason))
}

/// The update that brings labels and annotations of an existing node up to date, if any is needed.
/// The cloud merges only these (protocol 6.4).
#[must_use]
pub fn metadata_update(wanted: &Value, existing: &Value) -> Option<Value> {
    let mut metadata = Map::new();
    for field in ["labels", "annotations"] {
        let pointer = format!("/metadata/{field}");
        let Some(want) = wanted.pointer(&pointer).and_then(Value::as_object) else { continue };
        let have = existing.pointer(&pointer);
        let differs =
            |(key, value): &(&String, &Value)| have.and_then(|have| have.get(key.as_str())) != Some(*value);
        if want.iter().any(|pair| differs(&pair)) {
            metadata.insert(field.to_owned(), Value::Object(want.clone()));
        }
    }
    if metadata.is_empty() {
        return None;
    }
    metadata.insert("name".to_owned(), json!(text(existing, "/metadata/name")));
    Some(json!({"metadata": metadata}))
}

/// The strategic patch that sets a registered node's status.
#[must_use]
pub fn status_patch(wanted: &Value, existing: &Value) -> Value {
    let status = wanted.get("status").cloned().unwrap_or_else(|| json!({}));
    json!({"metadata": {"uid": text(existing, "/metadata/uid")}, "status": status})
}

/// Next call about the lease.
#[derive(Debug, Clone, PartialEq)]
pub enum LeaseCall {
    Query,
    Insert(Value),
    Update(Value),
}

/// The first call: with a known lease an update, else a query.
#[must_use]
pub fn first_lease_call(wanted: &Value, known: Option<&Value>) -> LeaseCall {
    match known {
        Some(known) => LeaseCall::Update(renewed(wanted, known)),
        None => LeaseCall::Query,
    }
}

/// What follows from the answer to `call`: another call, or the lease as the cloud has it now.
///
/// # Errors
/// The cloud's error, when another call would not help.
pub fn next_lease_call(
    wanted: &Value,
    call: &LeaseCall,
    answer: Result<Value, MetaError>,
) -> Result<Result<Value, LeaseCall>, MetaError> {
    match (call, answer) {
        (LeaseCall::Query, Ok(known)) => Ok(Err(LeaseCall::Update(renewed(wanted, &known)))),
        (LeaseCall::Insert(_) | LeaseCall::Update(_), Ok(lease)) => Ok(Ok(lease)),
        (LeaseCall::Query | LeaseCall::Update(_), Err(err)) if is(&err, Reason::NotFound) => {
            Ok(Err(LeaseCall::Insert(wanted.clone())))
        }
        (LeaseCall::Update(_), Err(err)) if is(&err, Reason::Conflict) => Ok(Err(LeaseCall::Query)),
        (LeaseCall::Insert(_), Err(err)) if is(&err, Reason::AlreadyExists) => Ok(Err(LeaseCall::Query)),
        (_, Err(err)) => Err(err),
    }
}

/// The cloud's lease with our holder and time; it keeps its resourceVersion, which an update must
/// carry (protocol 12).
fn renewed(wanted: &Value, known: &Value) -> Value {
    let mut lease = known.clone();
    if let (Some(lease), Some(spec)) = (lease.as_object_mut(), wanted.get("spec")) {
        lease.insert("spec".to_owned(), spec.clone());
        let owners = wanted.pointer("/metadata/ownerReferences");
        let metadata = lease.get_mut("metadata").and_then(Value::as_object_mut);
        if let (Some(metadata), Some(owners)) = (metadata, owners) {
            metadata.insert("ownerReferences".to_owned(), owners.clone());
        }
    }
    lease
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ErrStatus, ObjectResp, Resource};

    fn failure(reason: Reason) -> MetaError {
        api(Status::failure(reason, "no"))
    }

    fn reply(body: Body) -> Result<Value, MetaError> {
        object_of(Envelope::new("edgecontroller", "resource", "response", Resource::Twin, body, 1))
    }

    #[test]
    fn replies() {
        let resp = |object, err: Option<Status>| {
            Body::ObjectResp(Box::new(ObjectResp { object, err: err.map(ErrStatus::from) }))
        };
        let bare = || Some(json!({"metadata": {}}));
        assert!(reply(resp(bare(), None)).is_ok());
        assert!(reply(resp(bare(), Some(Status::default()))).is_ok(), "Go's zero error is success");
        let err = reply(resp(bare(), Some(Status::failure(Reason::AlreadyExists, "x")))).unwrap_err();
        assert!(is(&err, Reason::AlreadyExists), "an empty object beside an error is no object");
        assert!(matches!(reply(resp(None, None)), Err(MetaError::Protocol(_))));
        let nameless = reply(Body::Object(json!({}))).unwrap_err();
        assert!(is(&nameless, Reason::InternalError), "Go's error without a status is no object");
        let err = ErrStatus::from(Status::failure(Reason::NotFound, "x"));
        assert!(is(&reply(Body::Error(Box::new(err))).unwrap_err(), Reason::NotFound));
        assert!(reply(Body::Text(r#"{"a":1}"#.into())).is_ok());
        for bad in [Body::Null, Body::Text("OK".into()), Body::Unknown(json!([1]))] {
            assert!(matches!(reply(bad), Err(MetaError::Protocol(_))));
        }
    }

    #[test]
    fn only_missing_labels_make_an_update() {
        let wanted = json!({"metadata": {"labels": {"a": "1", "b": "2"}, "annotations": {"x": "y"}}});
        let mut existing = json!({"metadata": {"name": "e", "labels": {"a": "1", "b": "2", "user": "kept"},
            "annotations": {"x": "y"}}});
        assert_eq!(metadata_update(&wanted, &existing), None);
        existing["metadata"]["labels"]["b"] = json!("old");
        assert_eq!(
            metadata_update(&wanted, &existing),
            Some(json!({"metadata": {"name": "e", "labels": {"a": "1", "b": "2"}}}))
        );
        assert_eq!(metadata_update(&json!({}), &existing), None);
    }

    #[test]
    fn lease_in_every_situation() {
        let wanted = json!({"metadata": {"name": "e"}, "spec": {"renewTime": "now"}});
        let known = json!({"metadata": {"name": "e", "resourceVersion": "7"}, "spec": {"renewTime": "then"}});
        let update = LeaseCall::Update(json!({"metadata": {"name": "e", "resourceVersion": "7"},
            "spec": {"renewTime": "now"}}));
        let insert = LeaseCall::Insert(wanted.clone());
        assert_eq!(first_lease_call(&wanted, None), LeaseCall::Query);
        assert_eq!(first_lease_call(&wanted, Some(&known)), update);
        let next = |call: &LeaseCall, answer| next_lease_call(&wanted, call, answer);
        let query = LeaseCall::Query;
        for (case, call, answer, want) in [
            ("found", &query, Ok(known.clone()), Err(update.clone())),
            ("not found", &query, Err(failure(Reason::NotFound)), Err(insert.clone())),
            ("inserted", &insert, Ok(known.clone()), Ok(known.clone())),
            ("somebody else inserted", &insert, Err(failure(Reason::AlreadyExists)), Err(query.clone())),
            ("updated", &update, Ok(known.clone()), Ok(known.clone())),
            ("changed meanwhile", &update, Err(failure(Reason::Conflict)), Err(query.clone())),
            ("deleted meanwhile", &update, Err(failure(Reason::NotFound)), Err(insert.clone())),
        ] {
            assert_eq!(next(call, answer).unwrap(), want, "{case}");
        }
        assert!(is(&next(&insert, Err(failure(Reason::Forbidden))).unwrap_err(), Reason::Forbidden));
        assert!(next(&query, Err(MetaError::Offline)).is_err());
    }
}
