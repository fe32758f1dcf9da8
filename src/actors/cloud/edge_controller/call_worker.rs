//! Makes the API calls of a plan, each with a timeout.

use std::time::Duration;

use ::kube::Client;
use serde_json::Value;

use super::authority::Verdict;
use super::plan::{Call, Plan};
use crate::model::{NodeName, Reason, Status, StatusDetails};

/// For one call; an edge waits a minute (protocol section 4.7).
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// Makes the calls in order. Returns the last object, or the first failure.
///
/// # Errors
/// The API server's status, `Forbidden` when the verdict turns out so, `ServiceUnavailable` or
/// `Timeout` when the API server cannot be reached.
pub async fn run(client: Client, node: NodeName, verdict: Verdict, plan: Plan) -> Result<Value, Box<Status>> {
    match &verdict {
        Verdict::Forbidden(why) => return Err(failure(Reason::Forbidden, why.clone())),
        Verdict::IfPodIsOurs { namespace, name } => {
            check_pod(&client, &node, namespace, name).await?;
        }
        Verdict::Allowed | Verdict::IfClaimIsOurs => {}
    }
    let mut last = Value::Null;
    for call in &plan.calls {
        last = make(&client, &node, call).await?;
    }
    if let Some(meta) = last.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
    Ok(last)
}

async fn check_pod(client: &Client, node: &NodeName, namespace: &str, name: &str) -> Result<(), Box<Status>> {
    let legal = |text: &str| text.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'.');
    if !legal(namespace) || !legal(name) {
        return Err(failure(Reason::BadRequest, format!("{namespace}/{name} is not a pod's name")));
    }
    let path = format!("/api/v1/namespaces/{namespace}/pods/{name}");
    let get = Call { method: "GET", path, content_type: "application/json", body: None, as_node: false };
    match make(client, node, &get).await {
        Ok(pod) if pod.pointer("/spec/nodeName").and_then(Value::as_str) == Some(node.as_str()) => Ok(()),
        Ok(_) => {
            let why = format!("pod {namespace}/{name} is not bound to node {node}");
            Err(failure(Reason::Forbidden, why))
        }
        Err(status) if status.is(Reason::NotFound) => Ok(()),
        Err(status) => Err(status),
    }
}

async fn make(client: &Client, node: &NodeName, call: &Call) -> Result<Value, Box<Status>> {
    let body = match &call.body {
        Some(body) => serde_json::to_vec(body)
            .map_err(|err| failure(Reason::InternalError, format!("{}: {err}", call.path)))?,
        None => Vec::new(),
    };
    let mut request = http::Request::builder()
        .method(call.method)
        .uri(&call.path)
        .header("Accept", "application/json")
        .header("Content-Type", call.content_type);
    if call.as_node {
        request = request
            .header("Impersonate-User", format!("system:node:{node}"))
            .header("Impersonate-Group", "system:nodes");
    }
    let request =
        request.body(body).map_err(|err| failure(Reason::BadRequest, format!("{}: {err}", call.path)))?;
    match tokio::time::timeout(CALL_TIMEOUT, client.request::<Value>(request)).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(::kube::Error::Api(status))) => Err(convert(*status)),
        Ok(Err(err)) => {
            tracing::warn!(path = call.path, error = %err, "call to the api server failed");
            Err(failure(Reason::ServiceUnavailable, "the api server cannot be reached"))
        }
        Err(_) => Err(failure(Reason::Timeout, "the api server did not answer in time")),
    }
}

fn failure(reason: Reason, why: impl Into<String>) -> Box<Status> {
    Box::new(Status::failure(reason, why))
}

fn convert(status: ::kube::core::Status) -> Box<Status> {
    Box::new(Status {
        status: "Failure".to_owned(),
        message: status.message,
        reason: status.reason,
        details: status.details.map(|details| StatusDetails {
            name: details.name,
            group: details.group,
            kind: details.kind,
            uid: details.uid,
            causes: details.causes.iter().filter_map(|cause| serde_json::to_value(cause).ok()).collect(),
            retry_after_seconds: details.retry_after_seconds,
        }),
        code: status.code,
    })
}
