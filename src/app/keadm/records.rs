//! ConfigMaps in namespace `kubeedge` that hold a JSON text per node.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node};
use kube::api::{Api, ListParams, ObjectMeta, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Refusal;
use super::revocation::{NAMESPACE, api_failed, created};
use crate::model::NodeName;

/// Others may write at the same moment: so often it is tried again.
const TRIES: usize = 10;
/// Nodes read at once.
const PAGE: u32 = 500;

/// One of these ConfigMaps.
pub(super) struct Records {
    client: kube::Client,
    name: &'static str,
}

impl Records {
    pub fn new(client: kube::Client, name: &'static str) -> Self {
        Self { client, name }
    }

    fn api(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// All of them; `None` when there is no such ConfigMap.
    pub async fn all(&self) -> Result<Option<BTreeMap<String, String>>, Refusal> {
        let map = self.api().get_opt(self.name).await.map_err(|err| self.failed(&err))?;
        Ok(map.map(|map| map.data.unwrap_or_default()))
    }

    /// The record of `key`, or what is wrong with it.
    pub fn read<T: DeserializeOwned>(&self, key: &str, text: &str) -> Result<T, Refusal> {
        let wrong = |err| Refusal::new(format!("configmap kubeedge/{}: {key}: {err}", self.name));
        serde_json::from_str(text).map_err(wrong)
    }

    /// Changes the record of one node; `change` gets what is there and gives what is to be, or `None`
    /// to leave it. Nobody else's change is lost: the API takes it only from who has seen the newest.
    pub async fn change<T: DeserializeOwned + Serialize>(
        &self,
        node: &NodeName,
        change: impl Fn(Option<T>) -> Result<Option<T>, Refusal>,
    ) -> Result<(), Refusal> {
        for _ in 0..TRIES {
            let there = self.api().get_opt(self.name).await.map_err(|err| self.failed(&err))?;
            let present = there.as_ref().and_then(|map| map.data.as_ref()?.get(node.as_str()));
            let present = present.map(|text| self.read(node.as_str(), text)).transpose()?;
            let Some(after) = change(present)? else { return Ok(()) };
            let text = serde_json::to_string(&after).map_err(|err| Refusal::new(err.to_string()))?;
            let written = match there {
                Some(mut map) => {
                    map.data.get_or_insert_default().insert(node.as_str().to_owned(), text);
                    self.api().replace(self.name, &PostParams::default(), &map).await
                }
                None => {
                    self.ensure_namespace().await?;
                    let metadata = ObjectMeta { name: Some(self.name.to_owned()), ..ObjectMeta::default() };
                    let data = Some(BTreeMap::from([(node.as_str().to_owned(), text)]));
                    let map = ConfigMap { metadata, data, ..ConfigMap::default() };
                    self.api().create(&PostParams::default(), &map).await
                }
            };
            match written {
                Ok(_) => return Ok(()),
                // Changed, made or removed by another.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(err) => return Err(self.failed(&err)),
            }
        }
        Err(Refusal::new(format!("configmap kubeedge/{} changes all the time: try again", self.name)))
    }

    async fn ensure_namespace(&self) -> Result<(), Refusal> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let metadata = ObjectMeta { name: Some(NAMESPACE.to_owned()), ..ObjectMeta::default() };
        let namespace = Namespace { metadata, ..Namespace::default() };
        created(namespaces.create(&PostParams::default(), &namespace).await, "namespace kubeedge")
    }

    fn failed(&self, err: &kube::Error) -> Refusal {
        api_failed(&format!("configmap kubeedge/{}", self.name), err)
    }
}

/// Names of the nodes that the API has.
pub(super) async fn node_names(client: kube::Client) -> Result<Vec<String>, Refusal> {
    let nodes: Api<Node> = Api::all(client);
    let mut names = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = nodes.list(&params).await.map_err(|err| api_failed("nodes", &err))?;
        names.extend(page.items.into_iter().filter_map(|node| node.metadata.name));
        match page.metadata.continue_ {
            Some(next) if !next.is_empty() => params = params.continue_token(&next),
            _ => return Ok(names),
        }
    }
}

/// Unix seconds as people read them.
pub(super) fn shown(secs: u64) -> String {
    let time = i64::try_from(secs).ok().and_then(|secs| jiff::Timestamp::from_second(secs).ok());
    time.map_or_else(|| secs.to_string(), |time| time.to_string())
}
