//! Calls against an API that answers as it is told.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use ::kube::client::Body;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::json;

use super::*;
use crate::actors::cloud::edge_controller::lanes::Class;
use crate::actors::cloud::edge_controller::plan::{MERGE, Shape, Subject};

const RACE: &str = "Operation cannot be fulfilled on pods \"a\": the object has been modified; please apply your \
                    changes to the latest version and try again";
const OTHER: &str = "Operation cannot be fulfilled on pods \"a\": Precondition failed: UID in precondition: 1, UID in \
                     object meta: 2";

/// Makes one call; the API says these messages with 409, then 200. Also how often it was asked.
async fn call(method: &'static str, body: Value, conflicts: &[&str]) -> (Result<Value, Box<Status>>, usize) {
    let answers: VecDeque<String> = conflicts.iter().map(|text| (*text).to_owned()).collect();
    let (asked, answers) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(answers)));
    let count = Arc::clone(&asked);
    let service = tower::service_fn(move |_: Request<Body>| {
        *count.lock().unwrap() += 1;
        let (status, body) = match answers.lock().unwrap().pop_front() {
            Some(message) => (
                409,
                json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                "reason": "Conflict", "message": message, "code": 409}),
            ),
            None => (200, json!({"metadata": {"name": "a", "managedFields": []}})),
        };
        let answer = Response::builder().status(status).body(Full::new(Bytes::from(body.to_string())));
        std::future::ready(Ok::<_, Infallible>(answer.unwrap()))
    });
    let path = "/api/v1/namespaces/default/pods/a/status".to_owned();
    let call = Call { method, path, content_type: MERGE, body: Some(body), as_node: false };
    let subject = Subject::Own { name: "edge-1".to_owned() };
    let shape = Shape::PodStatus;
    let plan = Plan { class: Class::Status, object: "pod/a".to_owned(), subject, calls: vec![call], shape };
    let node = NodeName::parse("edge-1").unwrap();
    let result = run(Client::new(service, "default"), node, Verdict::Allowed, plan).await;
    let asked = *asked.lock().unwrap();
    (result, asked)
}

#[tokio::test(start_paused = true)]
async fn a_patch_that_meets_other_writers_is_made_again() {
    let (made, asked) = call("PATCH", json!({"metadata": {"uid": "1"}}), &[RACE, RACE, RACE]).await;
    assert_eq!((made.unwrap(), asked), (json!({"metadata": {"name": "a"}}), 4));
}

#[tokio::test(start_paused = true)]
async fn an_edge_hears_of_a_conflict_only_what_is_its_own_matter() {
    for (case, method, body, conflicts, reason, tries) in [
        ("another pod", "PATCH", json!({"metadata": {"uid": "1"}}), vec![OTHER], Reason::Conflict, 1),
        ("an update of its own version", "PUT", json!({}), vec![RACE], Reason::Conflict, 1),
        (
            "its own version",
            "PATCH",
            json!({"metadata": {"resourceVersion": "1"}}),
            vec![RACE],
            Reason::Conflict,
            1,
        ),
        ("for ever", "PATCH", json!({}), vec![RACE; 99], Reason::ServiceUnavailable, TRIES as usize + 1),
    ] {
        let (made, asked) = call(method, body, &conflicts).await;
        let status = made.expect_err(case);
        assert!(status.is(reason), "{case}: {status:?}");
        assert_eq!(asked, tries, "{case}");
    }
}

#[tokio::test]
async fn a_lease_is_renewed_over_a_version_the_edge_has_not_heard_of() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let service = tower::service_fn(move |request: Request<Body>| {
        let seen = Arc::clone(&seen);
        async move {
            let method = request.method().to_string();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let named =
                serde_json::from_slice::<Value>(&body).unwrap_or_default()["metadata"]["resourceVersion"]
                    .clone();
            seen.lock().unwrap().push(format!("{method} {named}"));
            let (status, body) = match (method.as_str(), named == "9") {
                ("PUT", false) => (
                    409,
                    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
                    "reason": "Conflict", "message": RACE, "code": 409}),
                ),
                _ => (
                    200,
                    json!({"metadata": {"name": "edge-1", "resourceVersion": "9"},
                    "spec": {"renewTime": "2026-08-06T00:00:30.000000Z"}}),
                ),
            };
            let answer = Response::builder().status(status).body(Full::new(Bytes::from(body.to_string())));
            Ok::<_, Infallible>(answer.unwrap())
        }
    });
    let node = NodeName::parse("edge-1").unwrap();
    let renewal = |node: &str, second: u32| {
        let body = json!({"metadata": {"name": node, "resourceVersion": "4"},
            "spec": {"renewTime": format!("2026-08-06T00:00:{second:02}.000000Z")}});
        let path = lease(&NodeName::parse(node).unwrap());
        Call { method: "PUT", path, content_type: MERGE, body: Some(body), as_node: false }
    };
    let client = Client::new(service, "default");
    persist(&client, &node, &renewal("edge-1", 31)).await.unwrap();
    assert_eq!(std::mem::take(&mut *asked.lock().unwrap()), ["PUT \"4\"", "GET null", "PUT \"9\""]);
    for (case, call) in [("an old one", renewal("edge-1", 30)), ("another node's", renewal("edge-2", 31))] {
        let refused = persist(&client, &node, &call).await.expect_err(case);
        assert!(refused.is(Reason::Conflict), "{case}: {refused:?}");
    }
}
