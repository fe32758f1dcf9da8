//! The monitor's calls of the API server, each with a deadline.

use ::kube::Client;
use ::kube::api::{Api, DynamicObject, ListParams, Patch, PatchParams};
use futures_util::Stream;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::judge::{Change, Node, pod_patch};
use crate::actors::cloud::kube_worker::{CallError, Told, in_time, resource, tell};
use crate::actors::cloud::watch_worker::{Seen, follow};

/// Where node agents keep their leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// Pods read in one page.
const PAGE: u32 = 200;

#[derive(Clone)]
pub struct Calls {
    client: Client,
}

impl Calls {
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    pub fn watch_nodes(&self) -> impl Stream<Item = Seen> + use<> {
        let api = Api::all_with(self.client.clone(), &resource("", "Node"));
        follow(api)
    }

    pub fn watch_leases(&self) -> impl Stream<Item = Seen> + use<> {
        let lease = resource("coordination.k8s.io", "Lease");
        let api = Api::namespaced_with(self.client.clone(), LEASE_NAMESPACE, &lease);
        follow(api)
    }

    /// Makes the changes in their order; stops at the first that fails. Whether all were made.
    pub async fn apply(&self, node: &Node, changes: &[Change]) -> bool {
        for change in changes {
            let (what, result) = match change {
                Change::PodsUnknown => ("pods not ready", self.pods(&node.name, false).await),
                Change::PodsKnown => ("pods ready again", self.pods(&node.name, true).await),
                Change::Conditions(patch) => ("conditions unknown", self.silence(node, patch).await),
                Change::Taints(taints) => ("taints", self.taint(node, taints).await),
            };
            if let Err(error) = result {
                tracing::warn!(node = node.name, change = what, %error, "node not changed");
                return false;
            }
            tracing::info!(node = node.name, change = what, "node changed");
        }
        true
    }

    /// Only if the node has not reported since it was judged: what it says of itself counts more. The taint that
    /// follows anyway makes the monitor take back what it has done to the pods.
    async fn silence(&self, node: &Node, patch: &Value) -> Result<(), CallError> {
        let fresh = in_time(self.nodes().get(&node.name)).await?;
        let version = fresh.metadata.resource_version.clone();
        if node.reported(&Node::read(&serde_json::to_value(fresh).unwrap_or_default())) {
            tracing::debug!(node = node.name, "node reported meanwhile");
            return Ok(());
        }
        let conditions = patch.get("status");
        let patch = json!({"metadata": {"resourceVersion": version}, "status": conditions});
        let (params, patch) = (PatchParams::default(), Patch::Strategic(&patch));
        in_time(self.nodes().patch_status(&node.name, &params, &patch)).await?;
        self.tell(node).await;
        Ok(())
    }

    /// Only if the taints are still the ones that were judged; otherwise the watch brings the new
    /// ones and they are judged again.
    async fn taint(&self, node: &Node, taints: &[Value]) -> Result<(), CallError> {
        let fresh = in_time(self.nodes().get(&node.name)).await?;
        let same = fresh.data.pointer("/spec/taints").and_then(Value::as_array).cloned().unwrap_or_default();
        if same != node.taints {
            tracing::debug!(node = node.name, "taints changed meanwhile");
            return Ok(());
        }
        let patch = json!({
            "metadata": {"resourceVersion": fresh.metadata.resource_version},
            "spec": {"taints": taints},
        });
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        in_time(self.nodes().patch(&node.name, &params, &patch)).await?;
        Ok(())
    }

    async fn pods(&self, node: &str, known: bool) -> Result<(), CallError> {
        let all: Api<DynamicObject> = Api::all_with(self.client.clone(), &resource("", "Pod"));
        let mut page = ListParams::default().fields(&format!("spec.nodeName={node}")).limit(PAGE);
        loop {
            let list = in_time(all.list(&page)).await?;
            for pod in &list.items {
                let Some(patch) = pod_patch(&pod.data, known, Timestamp::now()) else { continue };
                let (Some(namespace), Some(name)) = (&pod.metadata.namespace, &pod.metadata.name) else {
                    continue;
                };
                let api: Api<DynamicObject> =
                    Api::namespaced_with(self.client.clone(), namespace, &resource("", "Pod"));
                let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
                match in_time(api.patch_status(name, &params, &patch)).await {
                    Ok(_) => {}
                    // Gone meanwhile.
                    Err(error) if error.code() == Some(404) => {}
                    Err(error) => return Err(error),
                }
            }
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => return Ok(()),
            }
        }
    }

    /// The event that `kubectl describe node` shows.
    async fn tell(&self, node: &Node) {
        let told = Told {
            about: json!({"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid}),
            component: "node-controller",
            kind: "Normal",
            reason: "NodeNotReady",
            message: &format!("Node {} status is now: NodeNotReady", node.name),
        };
        tell(&self.client, told).await;
    }

    fn nodes(&self) -> Api<DynamicObject> {
        Api::all_with(self.client.clone(), &resource("", "Node"))
    }
}
