//! Makes the API calls of a plan, each with a timeout.

use std::time::Duration;

use ::kube::Client;
use jiff::Timestamp;
use serde_json::Value;

use super::authority::Verdict;
use super::plan::{Call, Plan};
use crate::model::{NodeName, Reason, Status, StatusDetails};
use crate::supervise::{doubled, spread};

/// For one call; an edge waits a minute (protocol section 4.7).
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// So often a patch that met other writers is made again. It names no version, so the API server itself has put it on
/// fresh objects some times by then.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LAST_PAUSE: Duration = Duration::from_millis(500);

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
        last = persist(&client, &node, call).await?;
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

/// Makes a call. A conflict that says nothing about the object's identity passes: an edge would take it for "this pod is
/// another one now" and forget what it wanted to say. A later renewal of a node's lease passes whatever version it
/// names: on a slow link the answers to the last ones, with the version to name, may wait for a minute behind everything
/// else.
async fn persist(client: &Client, node: &NodeName, call: &Call) -> Result<Value, Box<Status>> {
    let mut tries = 0;
    loop {
        let made = match make(client, node, call).await {
            Err(status) if is_late_renewal(node, call, &status) => renew(client, node, call, status).await,
            other => other,
        };
        match made {
            Err(status) if is_race(call, &status) => {
                if tries >= TRIES {
                    let why = format!("others write all the time: {}", status.message);
                    return Err(failure(Reason::ServiceUnavailable, why));
                }
                tokio::time::sleep(spread(doubled(FIRST_PAUSE, tries, LAST_PAUSE), fastrand::f64())).await;
                tries += 1;
            }
            other => return other,
        }
    }
}

fn is_race(call: &Call, status: &Status) -> bool {
    let names_version =
        || call.body.as_ref().is_some_and(|body| body.pointer("/metadata/resourceVersion").is_some());
    // kube-apiserver's words for another uid.
    let another_object = || status.message.contains("UID in precondition");
    call.method == "PATCH" && status.is(Reason::Conflict) && !another_object() && !names_version()
}

/// A node's own lease, and the version that it knows is not the last one.
fn is_late_renewal(node: &NodeName, call: &Call, status: &Status) -> bool {
    call.method == "PUT" && call.path == lease(node) && status.is(Reason::Conflict)
}

fn lease(node: &NodeName) -> String {
    format!("/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}")
}

/// Puts the lease over the version that is there, unless that is the later renewal: then the conflict stays.
async fn renew(
    client: &Client,
    node: &NodeName,
    call: &Call,
    conflict: Box<Status>,
) -> Result<Value, Box<Status>> {
    const VERSION: &str = "/metadata/resourceVersion";
    let get = Call { method: "GET", body: None, ..call.clone() };
    let mut there = make(client, node, &get).await?;
    let mut put = call.clone();
    let Some(body) = put.body.as_mut().filter(|body| renewed(body) > renewed(&there)) else {
        return Err(conflict);
    };
    if let (Some(named), Some(version)) = (body.pointer_mut(VERSION), there.pointer_mut(VERSION)) {
        *named = version.take();
    }
    make(client, node, &put).await
}

fn renewed(lease: &Value) -> Option<Timestamp> {
    lease.pointer("/spec/renewTime")?.as_str()?.parse().ok()
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

#[cfg(test)]
mod tests;
