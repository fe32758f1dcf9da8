//! Churn through the API: pods, ConfigMaps and Secrets, devices, lists and watches that come and go.

use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::Client;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
    WatchParams,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::pods::{IMAGE, is_running};
use super::tally::Tally;

/// Pods that come and go, each with a name of its own.
pub const SLOTS: usize = 5;
/// A pod's pause between being gone and being made again.
const PAUSE: Duration = Duration::from_secs(6);
/// How long a pod or an object may take; a cut link takes part of it.
const PATIENCE: Duration = Duration::from_secs(120);
pub const LAMPS: usize = 8;
const MODEL: &str = "soak-lamp";
const LOOK: Duration = Duration::from_millis(250);

pub struct Churn {
    pub client: Client,
    pub tally: std::sync::Arc<Tally>,
    pub node: &'static str,
}

type Outcome = Result<(), String>;

fn words(err: impl std::fmt::Display) -> String {
    err.to_string()
}

fn object<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

impl Churn {
    fn api<K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>>(&self) -> Api<K>
    where
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    fn devices(&self, kind: &str, plural: &str) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("devices.kubeedge.io", "v1beta1", kind);
        let resource = ApiResource::from_gvk_with_plural(&kind, plural);
        Api::namespaced_with(self.client.clone(), "default", &resource)
    }

    /// What the churn needs: one ConfigMap and one Secret for each slot, the lamps.
    pub async fn prepare(&self) {
        for slot in 0..SLOTS {
            let name = format!("soak-{slot}");
            let config = json!({"metadata": {"name": name}, "data": {"turn": "0"}});
            self.api::<ConfigMap>().create(&PostParams::default(), &object(config)).await.unwrap();
            let secret = json!({"metadata": {"name": name}, "stringData": {"turn": "0"}});
            self.api::<Secret>().create(&PostParams::default(), &object(secret)).await.unwrap();
        }
        let spec = json!({"protocol": "mqtt", "properties": [{"name": "power", "type": "STRING", "accessMode": "ReadWrite"}]});
        self.make("DeviceModel", "devicemodels", MODEL, spec).await.unwrap();
        for lamp in 0..LAMPS {
            self.make("Device", "devices", &format!("lamp-{lamp}"), self.lamp()).await.unwrap();
        }
        self.api::<Pod>().create(&PostParams::default(), &self.pod("resident", 0)).await.unwrap();
    }

    fn lamp(&self) -> Value {
        json!({
            "deviceModelRef": {"name": MODEL},
            "nodeName": self.node,
            "protocol": {"protocolName": "mqtt"},
            "properties": [{"name": "power", "reportToCloud": true, "desired": {"value": "on"}}],
        })
    }

    async fn make(&self, kind: &str, plural: &str, name: &str, spec: Value) -> Outcome {
        let device = json!({"apiVersion": "devices.kubeedge.io/v1beta1", "kind": kind, "metadata": {"name": name}, "spec": spec});
        self.devices(kind, plural)
            .create(&PostParams::default(), &object(device))
            .await
            .map(drop)
            .map_err(words)
    }

    /// A pod that says a line a second, with the ConfigMap and the Secret of a slot and a token.
    fn pod(&self, name: &str, slot: usize) -> Pod {
        let script = "trap 'exit 0' TERM; while true; do date; sleep 1 & wait $!; done";
        let source = format!("soak-{slot}");
        object(json!({
            "metadata": {"name": name, "labels": {"app": "soak"}},
            "spec": {
                "nodeName": self.node,
                "terminationGracePeriodSeconds": 5,
                "containers": [{
                    "name": "main", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                    "command": ["/bin/sh", "-c", script],
                    "env": [{"name": "TURN", "valueFrom": {"configMapKeyRef": {"name": source, "key": "turn"}}}],
                    "volumeMounts": [
                        {"name": "config", "mountPath": "/config"},
                        {"name": "secret", "mountPath": "/secret"},
                        {"name": "room", "mountPath": "/room"},
                    ],
                }],
                "volumes": [
                    {"name": "config", "configMap": {"name": source}},
                    {"name": "secret", "secret": {"secretName": source}},
                    {"name": "room", "emptyDir": {}},
                ],
            },
        }))
    }

    /// Makes, changes and deletes one pod for ever, under the same name.
    pub async fn pods(self: Rc<Self>, slot: usize) {
        sleep(Duration::from_secs(slot as u64)).await;
        let name = format!("soak-{slot}");
        loop {
            let made = self.api::<Pod>().create(&PostParams::default(), &self.pod(&name, slot)).await;
            self.tally.note("pod created", made);
            self.tally.note("pod Running", self.until_pod(&name, |pod| pod.is_some_and(is_running)).await);
            for turn in 0..2 {
                sleep(Duration::from_secs(1)).await;
                let change = json!({"metadata": {"labels": {"turn": turn.to_string()}}});
                let changed =
                    self.api::<Pod>().patch(&name, &PatchParams::default(), &Patch::Merge(change)).await;
                self.tally.note("pod changed", changed);
            }
            let deleted = self.api::<Pod>().delete(&name, &DeleteParams::default()).await;
            self.tally.note("pod deleted", deleted);
            self.tally.note("pod gone", self.until_pod(&name, |pod| pod.is_none()).await);
            sleep(PAUSE).await;
        }
    }

    async fn until_pod(&self, name: &str, wanted: impl Fn(Option<&Pod>) -> bool) -> Outcome {
        let pods = self.api::<Pod>();
        let seen = async {
            loop {
                if wanted(pods.get_opt(name).await.map_err(words)?.as_ref()) {
                    return Ok(());
                }
                sleep(LOOK).await;
            }
        };
        timeout(PATIENCE, seen).await.map_err(|_| format!("{name}: not in {PATIENCE:?}"))?
    }

    /// Edits the ConfigMaps and Secrets of the pods in turn.
    pub async fn configs(self: Rc<Self>) {
        for turn in 1usize.. {
            sleep(Duration::from_secs(2)).await;
            let name = format!("soak-{}", turn % SLOTS);
            let (patch, params) = (json!({"data": {"turn": turn.to_string()}}), PatchParams::default());
            let edited = self.api::<ConfigMap>().patch(&name, &params, &Patch::Merge(patch)).await;
            self.tally.note("ConfigMap edited", edited);
            let patch = json!({"stringData": {"turn": turn.to_string()}});
            let edited = self.api::<Secret>().patch(&name, &params, &Patch::Merge(patch)).await;
            self.tally.note("Secret edited", edited);
        }
    }

    /// Devices that are there for a while, each with a new name, and desired values that change.
    pub async fn device_objects(self: Rc<Self>) {
        let devices = self.devices("Device", "devices");
        for turn in 1usize.. {
            let name = format!("visitor-{turn}");
            self.tally.note("device created", self.make("Device", "devices", &name, self.lamp()).await);
            for value in ["off", "on", "off"] {
                sleep(Duration::from_secs(5)).await;
                for name in [&name, &format!("lamp-{}", turn % LAMPS)] {
                    let patch = json!([{"op": "replace", "path": "/spec/properties/0/desired/value", "value": value}]);
                    let patch = Patch::Json::<()>(serde_json::from_value(patch).unwrap());
                    self.tally.note(
                        "desired value changed",
                        devices.patch(name, &PatchParams::default(), &patch).await,
                    );
                }
            }
            self.tally.note("device deleted", devices.delete(&name, &DeleteParams::default()).await);
        }
    }

    /// Clients of the API that list everything, watch for a while and go without a word.
    pub async fn api_clients(self: Rc<Self>, kubeconfig: kube::config::Kubeconfig) {
        loop {
            let config =
                kube::Config::from_custom_kubeconfig(kubeconfig.clone(), &Default::default()).await.unwrap();
            let client = Client::try_from(config).unwrap();
            let pods = Api::<Pod>::all(client);
            if let Some(list) = self.tally.note("pods listed", pods.list(&Default::default()).await) {
                let version = list.metadata.resource_version.unwrap_or_default();
                self.tally.note("pods watched for 10 s", watch(&pods, &version).await);
            }
            let statuses = self.devices("DeviceStatus", "devicestatuses");
            self.tally.note("device statuses listed", statuses.list(&Default::default()).await);
        }
    }
}

async fn watch(pods: &Api<Pod>, version: &str) -> Outcome {
    let events = pods.watch(&WatchParams::default().timeout(280), version).await.map_err(words)?;
    let mut events = events.boxed_local();
    let read = async {
        while let Some(event) = events.next().await {
            event.map_err(words)?;
        }
        Err("it ended".to_owned())
    };
    timeout(Duration::from_secs(10), read).await.unwrap_or(Ok(()))
}
