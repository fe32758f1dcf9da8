//! Requests of a KubeEdge edge's MetaServer (protocol section 10.4). No module here serves them, and
//! who asked waits ten seconds for silence; so they are refused at once, in the shape that MetaServer
//! reads (`pkg/metaserver/application.go` of KubeEdge 1.23), and it answers from its own store. No I/O.

use serde_json::{Map, Value, json};

use crate::model::{Body, Envelope, ErrStatus, Reason, Resource, Status, group};

/// `route.source` of such requests, and of the answers.
pub const META_SERVER: &str = "metaserver";
const DYNAMIC_CONTROLLER: &str = "dynamiccontroller";
const ANSWER: &str = "applicationResponse";
/// Resource of a request, and of its answer.
const ONE: &str = "null";
const ONE_ANSWERED: &str = "ignore/Application/ignore";
/// Resource of the list of live watches, both ways: a map from ids to applications.
const WATCHES: &str = "watchapp/sync";

/// The refusal of an application or of a list of watches; `None` for anything else.
#[must_use]
pub fn refused(request: &Envelope, now_ms: i64) -> Option<Envelope> {
    let Body::Object(Value::Object(content)) = &request.body else { return None };
    let (resource, content) = match request.route.resource.to_string().as_str() {
        ONE => (ONE_ANSWERED, application(content)?),
        WATCHES => {
            let one = |(id, app): (&String, &Value)| Some((id.clone(), application(app.as_object()?)?));
            (WATCHES, content.iter().filter_map(one).collect())
        }
        _ => return None,
    };
    let mut answer = Envelope::new(
        DYNAMIC_CONTROLLER,
        group::RESOURCE,
        ANSWER,
        Resource::parse(resource),
        Body::Object(content),
        now_ms,
    );
    answer.header.parent_msg_id = Some(request.header.msg_id.clone());
    Some(answer)
}

/// The same application, rejected. What was asked for is not sent back.
fn application(asked: &Map<String, Value>) -> Option<Value> {
    let text = |field: &str| asked.get(field).and_then(Value::as_str);
    let (id, key, verb) = (text("ID")?, text("Key")?, text("Verb")?);
    let why = format!("this cloud has no dynamicController: {verb} of {key} is not served");
    let error = ErrStatus::from(Status::failure(Reason::MethodNotAllowed, why.as_str()));
    Some(json!({
        "ID": id, "Key": key, "Verb": verb,
        "Nodename": text("Nodename").unwrap_or_default(),
        "Option": null, "ReqBody": null,
        "Subresource": text("Subresource").unwrap_or_default(),
        "RespBody": null, "Status": "Rejected", "Reason": why, "Error": error,
        "Timestamp": "0001-01-01T00:00:00Z",
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(resource: &str, content: Value) -> Option<Envelope> {
        let resource = Resource::parse(resource);
        let mut request =
            Envelope::new(META_SERVER, DYNAMIC_CONTROLLER, "null", resource, Body::Object(content), 1);
        request.header.msg_id = "m1".to_owned();
        refused(&request, 2)
    }

    fn app(id: &str) -> Value {
        json!({"ID": id, "Key": "/core/v1/pods/default/null", "Verb": "list", "Nodename": "edge-1",
            "Option": "e30=", "ReqBody": null, "Subresource": "", "RespBody": null,
            "Status": "InApplying", "Reason": "", "Error": {"ErrStatus": {"metadata": {}}},
            "Timestamp": "0001-01-01T00:00:00Z"})
    }

    /// The route and fields of protocol section 17.8.
    #[test]
    fn an_application_is_rejected_with_a_status() {
        let answer = asked("null", app("ab12")).unwrap();
        let route = &answer.route;
        assert_eq!(
            (route.source.as_str(), route.group.as_str(), route.operation.as_str()),
            ("dynamiccontroller", "resource", "applicationResponse")
        );
        assert_eq!(route.resource.to_string(), "ignore/Application/ignore");
        assert_eq!(answer.header.parent_msg_id.as_deref(), Some("m1"));
        let Body::Object(content) = answer.body else { panic!("no object") };
        assert_eq!((&content["ID"], &content["Status"]), (&json!("ab12"), &json!("Rejected")));
        assert_eq!(content["Error"]["ErrStatus"]["code"], 405);
        assert_eq!(content["RespBody"], Value::Null);
        let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(fields(&content), fields(&app("")), "the fields of Go's struct");
    }

    #[test]
    fn a_list_of_watches_is_rejected_one_by_one() {
        let answer = asked("watchapp/sync", json!({"a": app("a"), "b": app("b"), "c": 1})).unwrap();
        assert_eq!(answer.route.resource.to_string(), "watchapp/sync");
        let Body::Object(content) = answer.body else { panic!("no object") };
        assert_eq!(content.as_object().unwrap().len(), 2);
        assert_eq!(content["b"]["Status"], "Rejected");
    }

    #[test]
    fn nothing_else_is_answered() {
        assert_eq!(asked("null", json!({"ID": "x"})), None);
        assert_eq!(asked("default/pod/p", app("a")), None);
        let other = asked("watchapp/sync", json!({})).unwrap();
        assert_eq!(other.body, Body::Object(json!({})), "no watches: an empty map");
    }
}
