//! Pods for simulated edges, made and removed through the Kubernetes API.

use std::path::Path;

use futures_util::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::json;

use crate::app::program::Fatal;
use crate::model::NodeName;

/// Its value is the fleet.
const LABEL: &str = "edge-fleet";
/// Calls to the API at once.
const AT_ONCE: usize = 16;

/// So many for each node.
pub struct Pods {
    api: Api<Pod>,
    each: u32,
    /// Of these pods' nodes: no other fleet's.
    prefix: String,
}

impl Pods {
    /// # Errors
    /// A kubeconfig that cannot be used.
    pub async fn new(kubeconfig: &Path, each: u32, prefix: &str) -> Result<Self, Fatal> {
        let fail = |err: &dyn std::fmt::Display| format!("--kubeconfig {}: {err}", kubeconfig.display());
        let file = Kubeconfig::read_from(kubeconfig).map_err(|err| fail(&err))?;
        let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
            .await
            .map_err(|err| fail(&err))?;
        let client = Client::try_from(config).map_err(|err| fail(&err))?;
        Ok(Self { api: Api::default_namespaced(client), each, prefix: prefix.to_owned() })
    }

    /// # Errors
    /// The API's, but for pods that are there already.
    pub async fn create(&self, nodes: &[NodeName]) -> Result<(), Fatal> {
        let pods = nodes.iter().flat_map(|node| (0..self.each).map(move |number| self.pod(node, number)));
        let calls = stream::iter(pods).map(|pod| async move {
            match self.api.create(&PostParams::default(), &pod?).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
                Err(err) => Err(Fatal::from(err)),
            }
        });
        calls.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    /// Removes them all.
    ///
    /// # Errors
    /// The API's.
    pub async fn remove(&self) -> Result<(), Fatal> {
        self.api.delete_collection(&DeleteParams::default(), &self.ours()).await?;
        Ok(())
    }

    /// # Errors
    /// The API's.
    pub async fn are_gone(&self) -> Result<bool, Fatal> {
        Ok(self.api.list_metadata(&self.ours().limit(1)).await?.items.is_empty())
    }

    fn ours(&self) -> ListParams {
        ListParams::default().labels(&format!("{LABEL}={}", self.prefix))
    }

    fn pod(&self, node: &NodeName, number: u32) -> Result<Pod, Fatal> {
        Ok(serde_json::from_value(json!({
            "metadata": {"name": format!("{node}-pod-{number}"), "labels": {LABEL: self.prefix}},
            "spec": {
                "nodeName": node.as_str(), "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "main", "image": "example.com/hollow:1"}],
            },
        }))?)
    }
}
