//! The scheduler's calls of the API server, each with a deadline.

use ::kube::Client;
use ::kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use futures_util::Stream;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::NAME;
use super::core::Outcome;
use super::view::PodKey;
use crate::actors::cloud::kube_worker::{Told, in_time, resource, tell};
use crate::actors::cloud::watch_worker::{Seen, follow};
use crate::kube::time::whole_second;

#[derive(Clone)]
pub struct Calls {
    client: Client,
}

impl Calls {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// All objects of a core kind. Lists again and pauses by itself when it breaks.
    pub fn watch(&self, kind: &str) -> impl Stream<Item = Seen> + use<> {
        let api = Api::all_with(self.client.clone(), &resource("", kind));
        follow(api)
    }

    pub async fn bind(&self, key: &PodKey, uid: &str, node: &str) -> Outcome {
        let (namespace, name) = key;
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": uid},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let (api, params) = (self.pods(namespace), PostParams::default());
        match in_time(api.create_subresource::<_, Value>("binding", name, &params, &binding)).await {
            Ok(_) => {
                tracing::info!(namespace, pod = name, node, "pod bound");
                let message = format!("Successfully assigned {namespace}/{name} to {node}");
                self.tell(key, uid, "Normal", "Scheduled", &message).await;
                Outcome::Done
            }
            Err(error) if matches!(error.code(), Some(404 | 409)) => {
                tracing::info!(namespace, pod = name, node, %error, "pod needs no binding");
                Outcome::Moot
            }
            Err(error) => {
                tracing::warn!(namespace, pod = name, node, %error, "binding failed");
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
                "lastTransitionTime": whole_second(Timestamp::now()).to_string(), "lastProbeTime": null,
            }]},
        });
        let (api, params, patch) = (self.pods(namespace), PatchParams::default(), Patch::Strategic(patch));
        if let Err(error) = in_time(api.patch_status(name, &params, &patch)).await {
            tracing::warn!(namespace, pod = name, %error, "pod condition not set");
        }
        self.tell(key, uid, "Warning", "FailedScheduling", message).await;
    }

    async fn tell(&self, (namespace, name): &PodKey, uid: &str, kind: &str, reason: &str, message: &str) {
        let about =
            json!({"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name, "uid": uid});
        tell(&self.client, Told { about, component: NAME, kind, reason, message }).await;
    }

    fn pods(&self, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), namespace, &resource("", "Pod"))
    }
}
