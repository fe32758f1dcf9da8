//! DeviceController's calls of the API server, each with a deadline.

use ::kube::Client;
use serde_json::{Value, json};

use super::NAME;
use super::index::Notice;
use super::statuses::{Call, Outcome};
use super::stored::Kind;
use crate::actors::cloud::kube_worker::{CallError, Told, in_time, tell};
use crate::model::DeviceId;
use crate::model::device::API_VERSION;

/// Makes a call about the DeviceStatus of `device`.
pub async fn make(client: Client, device: DeviceId, call: Call) -> Outcome {
    let folder = format!("/apis/{API_VERSION}/namespaces/{}/devicestatuses", device.namespace);
    let own = format!("{folder}/{}", device.name);
    let (method, path, body) = match call {
        Call::Get => ("GET", own, None),
        Call::Create(object) => ("POST", folder, Some(object)),
        Call::Patch(patch) => ("PATCH", own, Some(patch)),
        Call::Delete(uid) => {
            let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": uid}});
            ("DELETE", own, Some(options))
        }
    };
    let content = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = http::Request::builder()
        .method(method)
        .uri(&path)
        .header("Accept", "application/json")
        .header("Content-Type", content)
        .body(body.map(|body| body.to_string().into_bytes()).unwrap_or_default());
    let request = match request {
        Ok(request) => request,
        Err(err) => return Outcome::Refused(format!("{path}: {err}")),
    };
    match in_time(client.request::<Value>(request)).await {
        Ok(object) => Outcome::Is(object),
        Err(err) => judge(&path, &err),
    }
}

fn judge(path: &str, err: &CallError) -> Outcome {
    match err.code() {
        Some(404) => Outcome::NotFound,
        Some(409) => Outcome::Conflict,
        Some(400 | 413 | 422) => {
            tracing::warn!(path, error = %err, "the api server does not take a device status");
            Outcome::Refused(err.to_string())
        }
        _ => {
            tracing::warn!(path, error = %err, "call to the api server failed");
            Outcome::Failed
        }
    }
}

/// Writes the event of a device that waits.
pub async fn explain(client: Client, notice: Notice) {
    let Notice { device, uid, reason, message } = notice;
    let DeviceId { namespace, name } = &device;
    tracing::info!(%device, reason = reason.text(), message, "device waits");
    let about = json!({
        "apiVersion": API_VERSION, "kind": Kind::Device.name(),
        "namespace": namespace, "name": name, "uid": uid,
    });
    let told = Told { about, component: NAME, kind: "Warning", reason: reason.text(), message: &message };
    tell(&client, told).await;
}
