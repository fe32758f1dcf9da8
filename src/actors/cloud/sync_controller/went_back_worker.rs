//! Did the API go back in time? After a restore from older data it says less than its nodes know.

use ::kube::Client;
use serde_json::Value;

use super::compare::Suspect;
use super::object_sync_worker::{SyncError, call};
use crate::bus::edge_controller::ObjectVersion;
use crate::model::ObjectKey;
use crate::model::device::API_VERSION;

/// The first of `suspects` that the API itself shows to be from a time it forgot, read now: a watch may lag
/// behind, the API never does.
///
/// # Errors
/// [`SyncError`] when the API cannot be asked. One that refuses is no evidence.
pub async fn evidence(client: &Client, suspects: &[Suspect]) -> Result<Option<ObjectVersion>, SyncError> {
    for suspect in suspects {
        let (Suspect::Newer(object) | Suspect::Lost(object)) = suspect;
        let Some(path) = object.resource.object().and_then(path) else { continue };
        match call(client, "GET", &path, None).await {
            Ok(live) if shows(&live, suspect) => return Ok(Some(object.clone())),
            Ok(_) | Err(SyncError::Api { .. }) => {}
            Err(err) => return Err(err),
        }
    }
    Ok(None)
}

/// Does the object as the API has it show that the API went back?
fn shows(live: &Value, suspect: &Suspect) -> bool {
    let text = |pointer: &str| live.pointer(pointer).and_then(Value::as_str);
    let is_same = |object: &ObjectVersion| text("/metadata/uid") == Some(object.uid.as_str());
    let number = |text: &str| text.parse::<u64>().ok();
    match suspect {
        Suspect::Newer(copy) => {
            let versions =
                text("/metadata/resourceVersion").and_then(number).zip(number(&copy.resource_version));
            is_same(copy) && versions.is_some_and(|(live, held)| live < held)
        }
        Suspect::Lost(pod) => {
            let ran = text("/status/startTime").is_some();
            is_same(pod) && ran && text("/metadata/deletionTimestamp").is_none()
        }
    }
}

fn path(key: &ObjectKey) -> Option<String> {
    let (namespace, name) = (key.namespace(), key.name.as_deref()?);
    match key.kind.as_str() {
        "node" => Some(format!("/api/v1/nodes/{name}")),
        kind @ ("pod" | "configmap" | "secret") => {
            Some(format!("/api/v1/namespaces/{namespace}/{kind}s/{name}"))
        }
        kind @ ("device" | "devicemodel") => {
            Some(format!("/apis/{API_VERSION}/namespaces/{namespace}/{kind}s/{name}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::Resource;

    #[test]
    fn only_what_cannot_be_otherwise_is_evidence() {
        let object = |uid: &str, version: &str| ObjectVersion {
            resource: Resource::parse("default/pod/p"),
            uid: uid.to_owned(),
            resource_version: version.to_owned(),
        };
        let newer = |uid, version| Suspect::Newer(object(uid, version));
        let lost = |uid| Suspect::Lost(object(uid, "1"));
        let live = json!({"metadata": {"uid": "u", "resourceVersion": "100"}});
        let mut ran = live.clone();
        ran["status"]["startTime"] = json!("2026-01-01T00:00:00Z");
        let mut ends = ran.clone();
        ends["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        for (case, live, suspect, want) in [
            ("newer than the API", &live, newer("u", "101"), true),
            ("as in the API", &live, newer("u", "100"), false),
            ("older: an ordinary change", &live, newer("u", "99"), false),
            ("another one of that name", &live, newer("v", "101"), false),
            ("a copy that does not say", &live, newer("u", ""), false),
            ("nothing", &json!({}), newer("u", "101"), false),
            ("it ran here, and was removed here", &ran, lost("u"), true),
            ("new: it never ran", &live, lost("u"), false),
            ("another pod", &ran, lost("v"), false),
            ("it is being deleted", &ends, lost("u"), false),
        ] {
            assert_eq!(shows(live, &suspect), want, "{case}");
        }
    }

    #[test]
    fn paths() {
        for (resource, want) in [
            ("default/pod/p", Some("/api/v1/namespaces/default/pods/p")),
            ("null/node/edge-1", Some("/api/v1/nodes/edge-1")),
            ("default/device/d", Some("/apis/devices.kubeedge.io/v1beta1/namespaces/default/devices/d")),
            ("kubeedge/edgeidentity/edge-1", None),
        ] {
            let path = Resource::parse(resource).object().and_then(path);
            assert_eq!(path.as_deref(), want, "{resource}");
        }
    }
}
