//! The scheduler's calls of the API server, each with a deadline.

use std::time::Duration;

use ::kube::Client;
use ::kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use ::kube::runtime::{WatchStreamExt, watcher};
use futures_util::Stream;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::NAME;
use super::core::Outcome;
use super::view::PodKey;

/// For one call, answer included.
const DEADLINE: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub struct Calls {
    client: Client,
}

impl Calls {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// All objects of a core kind. Lists again and pauses by itself when it breaks.
    pub fn watch(
        &self,
        kind: &str,
    ) -> impl Stream<Item = Result<watcher::Event<DynamicObject>, watcher::Error>> + use<> {
        let api = Api::all_with(self.client.clone(), &resource(kind));
        watcher(api, watcher::Config::default()).default_backoff()
    }

    pub async fn bind(&self, key: &PodKey, uid: &str, node: &str) -> Outcome {
        let (namespace, name) = key;
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let api = self.of("Pod", namespace);
        let params = PostParams::default();
        let call = api.create_subresource::<_, Value>("binding", name, &params, &binding);
        match tokio::time::timeout(DEADLINE, call).await {
            Ok(Ok(_)) => {
                tracing::info!(namespace, pod = name, node, "pod bound");
                let message = format!("Successfully assigned {namespace}/{name} to {node}");
                self.tell(key, uid, "Normal", "Scheduled", &message).await;
                Outcome::Done
            }
            Ok(Err(::kube::Error::Api(status))) if matches!(status.code, 404 | 409) => {
                tracing::info!(namespace, pod = name, node, reason = status.reason, "pod needs no binding");
                Outcome::Moot
            }
            Ok(Err(error)) => {
                tracing::warn!(namespace, pod = name, node, %error, "binding failed");
                Outcome::Failed
            }
            Err(_) => {
                tracing::warn!(namespace, pod = name, node, "binding was not answered in time");
                Outcome::Failed
            }
        }
    }

    /// Condition and event of a pod that fits nowhere.
    pub async fn explain(&self, key: &PodKey, uid: &str, message: &str) {
        let (namespace, name) = key;
        tracing::info!(namespace, pod = name, message, "pod fits no node");
        let patch = json!({
            "metadata": {"uid": uid},
            "status": {"conditions": [{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
                "lastTransitionTime": now(), "lastProbeTime": null,
            }]},
        });
        let api = self.of("Pod", namespace);
        let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
        match tokio::time::timeout(DEADLINE, api.patch_status(name, &params, &patch)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(namespace, pod = name, %error, "pod condition not set"),
            Err(_) => tracing::warn!(namespace, pod = name, "pod condition not answered in time"),
        }
        self.tell(key, uid, "Warning", "FailedScheduling", message).await;
    }

    async fn tell(&self, key: &PodKey, uid: &str, kind: &str, reason: &str, message: &str) {
        let (namespace, name) = key;
        let at = now();
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {
                "name": format!("{name}.{:x}", Timestamp::now().as_nanosecond()), "namespace": namespace,
            },
            "involvedObject": {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": uid},
            "type": kind, "reason": reason, "message": message, "count": 1,
            "firstTimestamp": at, "lastTimestamp": at,
            "source": {"component": NAME}, "reportingComponent": NAME, "reportingInstance": "",
        });
        let Ok(event) = serde_json::from_value::<DynamicObject>(event) else { return };
        let api = self.of("Event", namespace);
        let params = PostParams::default();
        match tokio::time::timeout(DEADLINE, api.create(&params, &event)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(namespace, pod = name, %error, "event not written"),
            Err(_) => tracing::warn!(namespace, pod = name, "event not answered in time"),
        }
    }

    fn of(&self, kind: &str, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &resource(kind))
    }
}

/// Plural names of the three kinds used here follow from the singular.
fn resource(kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", kind))
}

/// To the second, as Kubernetes writes times.
fn now() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}
