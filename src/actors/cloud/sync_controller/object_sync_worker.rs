//! ObjectSync and ClusterObjectSync: what edges without the `resync` extension have, kept in the
//! API (protocol sections 4.4 to 4.6).

use std::time::Duration;

use ::kube::Client;
use serde_json::{Value, json};

use super::compare::is_compared;
use crate::bus::edge_controller::ObjectVersion;
use crate::bus::sync::Delivered;
use crate::model::{NodeName, ObjectKey};

const GROUP: &str = "/apis/reliablesyncs.kubeedge.io/v1alpha1";
const CALL_TIMEOUT: Duration = Duration::from_secs(15);
const PAGE: u32 = 500;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    #[error("the api server refused {path}")]
    Api { path: String, code: u16 },
    #[error("the api server cannot be reached for {path}")]
    Unreachable { path: String },
}

impl SyncError {
    fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { code: 404, .. })
    }
}

/// What `node` has according to the API; `None` when these kinds are not served.
///
/// # Errors
/// [`SyncError`].
pub async fn load(client: &Client, node: &NodeName) -> Result<Option<Vec<ObjectVersion>>, SyncError> {
    let mut held = Vec::new();
    for plural in ["objectsyncs", "clusterobjectsyncs"] {
        let mut token = String::new();
        loop {
            let path = format!("{GROUP}/{plural}?limit={PAGE}&continue={token}");
            let page = match call(client, "GET", &path, None).await {
                Ok(page) => page,
                Err(err) if err.is_not_found() => return Ok(None),
                Err(err) => return Err(err),
            };
            let items = page.get("items").and_then(Value::as_array).into_iter().flatten();
            held.extend(items.filter_map(|item| read(node, item)));
            match page.pointer("/metadata/continue").and_then(Value::as_str) {
                Some(next) if !next.is_empty() => next.clone_into(&mut token),
                _ => break,
            }
        }
    }
    Ok(Some(held))
}

/// Writes down that `it` arrived.
///
/// # Errors
/// [`SyncError`]; then the object is sent once more at the next connect.
pub async fn record(client: &Client, it: &Delivered) -> Result<(), SyncError> {
    let Some(key) = it.resource.object() else { return Ok(()) };
    let (plural, folder) = match &key.namespace {
        Some(namespace) => ("ObjectSync", format!("{GROUP}/namespaces/{namespace}/objectsyncs")),
        None => ("ClusterObjectSync", format!("{GROUP}/clusterobjectsyncs")),
    };
    let name = format!("{}.{}", it.node, it.version.uid);
    if it.deleted {
        return match call(client, "DELETE", &format!("{folder}/{name}"), None).await {
            Err(err) if !err.is_not_found() => Err(err),
            _ => Ok(()),
        };
    }
    if it.kind.is_empty() {
        return Ok(());
    }
    let status = json!({"status": {"objectResourceVersion": it.version.resource_version}});
    let status_path = format!("{folder}/{name}/status");
    match call(client, "PATCH", &status_path, Some(&status)).await {
        Err(err) if err.is_not_found() => {}
        other => return other.map(|_| ()),
    }
    let object = json!({
        "apiVersion": "reliablesyncs.kubeedge.io/v1alpha1", "kind": plural,
        "metadata": {"name": name},
        "spec": {"objectAPIVersion": it.api_version, "objectKind": it.kind, "objectName": key.name()},
    });
    match call(client, "POST", &folder, Some(&object)).await {
        Err(SyncError::Api { code: 409, .. }) | Ok(_) => {}
        Err(err) => return Err(err),
    }
    call(client, "PATCH", &status_path, Some(&status)).await.map(|_| ())
}

/// Name `{node}.{uid}`: the node may contain dots, the uid does not (protocol section 4.5).
fn read(node: &NodeName, item: &Value) -> Option<ObjectVersion> {
    let text = |path: &str| item.pointer(path).and_then(Value::as_str);
    let (owner, uid) = text("/metadata/name")?.rsplit_once('.')?;
    if owner != node.as_str() {
        return None;
    }
    let key = ObjectKey {
        namespace: text("/metadata/namespace").filter(|it| !it.is_empty()).map(str::to_owned),
        kind: text("/spec/objectKind")?.to_ascii_lowercase(),
        name: Some(text("/spec/objectName")?.to_owned()),
    };
    let resource_version = text("/status/objectResourceVersion").unwrap_or_default().to_owned();
    let found = ObjectVersion { resource: key.into(), uid: uid.to_owned(), resource_version };
    is_compared(&found.resource).then_some(found)
}

pub(super) async fn call(
    client: &Client,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, SyncError> {
    let unreachable = || SyncError::Unreachable { path: path.to_owned() };
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let bytes = body.map(Value::to_string).unwrap_or_default().into_bytes();
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("Content-Type", kind)
        .body(bytes)
        .map_err(|_| unreachable())?;
    match tokio::time::timeout(CALL_TIMEOUT, client.request::<Value>(request)).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(::kube::Error::Api(status))) => {
            Err(SyncError::Api { path: path.to_owned(), code: status.code })
        }
        Ok(Err(_)) | Err(_) => Err(unreachable()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let item = json!({"metadata": {"name": "edge.one.u-1", "namespace": "default"},
            "spec": {"objectAPIVersion": "v1", "objectKind": "Pod", "objectName": "np-1"},
            "status": {"objectResourceVersion": "12883"}});
        let node = NodeName::parse("edge.one").unwrap();
        let got = read(&node, &item).unwrap();
        assert_eq!(got.resource.to_string(), "default/pod/np-1");
        assert_eq!((got.uid.as_str(), got.resource_version.as_str()), ("u-1", "12883"));
        assert_eq!(read(&NodeName::parse("edge").unwrap(), &item), None, "another node");
        assert_eq!(read(&node, &json!({"metadata": {"name": 7}})), None);
    }
}
