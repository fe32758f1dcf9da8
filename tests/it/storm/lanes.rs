//! Who writes to the API while the storm blows: one lane for each name, so that what an answer that was lost would
//! have said can be found out by asking again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::ledger::{self, Ledger};
use super::plan::{Config, PodPlan, Work};
use super::site::text;
use crate::harness::cluster::Kubectl;
use crate::harness::rest::Rest;

/// A write that is not acknowledged by then never will be: the longest cut and the way back are shorter.
const GIVE_UP: Duration = Duration::from_secs(180);
/// Writes that wait for their turn; a storm of a minute plans fewer for one object.
const LANE: usize = 1024;
const AGAIN: Duration = Duration::from_millis(150);

/// What all lanes share.
#[derive(Clone)]
pub struct Desk {
    pub rest: Rest,
    pub kubeconfig: PathBuf,
    pub home: PathBuf,
    pub ledger: Arc<Mutex<Ledger>>,
    /// A word in the command of every pod of this storm.
    pub mark: String,
}

/// The running lanes. They end when this is dropped.
pub struct Lanes {
    desk: Desk,
    lanes: BTreeMap<String, SyncSender<Work>>,
    pending: Arc<AtomicUsize>,
}

impl Lanes {
    pub fn open(desk: Desk) -> Self {
        Self { desk, lanes: BTreeMap::new(), pending: Arc::default() }
    }

    pub fn push(&mut self, work: Work) {
        let name = match work {
            Work::Recreate { pod, .. } | Work::Delete { pod, .. } | Work::Label { pod } => pod_name(pod),
            Work::Edit { config, .. } | Work::Replace { config } => config_name(config),
            Work::Desire { edge } => device_name(edge),
        };
        let (desk, pending) = (&self.desk, &self.pending);
        let lane = self.lanes.entry(name.clone()).or_insert_with(|| {
            let (send, receive) = sync_channel(LANE);
            let (desk, pending) = (desk.clone(), Arc::clone(pending));
            std::thread::spawn(move || desk.work(&name, &receive, &pending));
            send
        });
        self.pending.fetch_add(1, Ordering::SeqCst);
        lane.send(work).unwrap();
    }

    /// Writes that are not acknowledged yet.
    pub fn pending(&self) -> usize {
        self.pending.load(Ordering::SeqCst)
    }
}

pub fn pod_name(pod: usize) -> String {
    format!("pod-{pod}")
}

pub fn config_name(config: Config) -> String {
    match config {
        Config::Map(number) => format!("map-{number}"),
        Config::Secret(number) => format!("secret-{number}"),
    }
}

pub fn device_name(edge: usize) -> String {
    format!("lamp-{edge}")
}

pub fn edge_name(edge: usize) -> String {
    format!("edge-{edge}")
}

/// A ConfigMap or Secret that says `value`.
pub fn config(name: &str, value: u64) -> Value {
    let (kind, data) = if name.starts_with("map") {
        ("ConfigMap", value.to_string())
    } else {
        ("Secret", STANDARD.encode(value.to_string()))
    };
    json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": name}, "data": {"value": data}})
}

/// A pod that sleeps, with volumes and environment of its configs.
pub fn pod(name: &str, plan: PodPlan, mark: &str) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"turn": "0"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "main", "image": "registry.local/hello:1", "imagePullPolicy": "IfNotPresent",
            "command": ["/bin/sh", "-c", format!("trap 'exit 0' TERM; sleep 1000000 & wait # {mark}")],
        }]},
    });
    if let Some(edge) = plan.edge {
        pod["spec"]["nodeName"] = json!(edge_name(edge));
    }
    if let Some((map, secret)) = plan.configs {
        let (map, secret) = (config_name(Config::Map(map)), config_name(Config::Secret(secret)));
        let container = &mut pod["spec"]["containers"][0];
        container["env"] = json!([
            {"name": "MAP", "valueFrom": {"configMapKeyRef": {"name": map, "key": "value"}}},
            {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": secret, "key": "value"}}},
        ]);
        container["volumeMounts"] =
            json!([{"name": "map", "mountPath": "/map"}, {"name": "secret", "mountPath": "/secret"}]);
        pod["spec"]["volumes"] = json!([
            {"name": "map", "configMap": {"name": map}}, {"name": "secret", "secret": {"secretName": secret}},
        ]);
    }
    pod
}

/// The device of an edge and what is wanted of it.
pub fn device(edge: usize, desired: u64) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": device_name(edge)},
        "spec": {
            "deviceModelRef": {"name": "lamp"}, "nodeName": edge_name(edge),
            "protocol": {"protocolName": "mqtt"},
            "properties": [{"name": "power", "reportToCloud": true, "desired": {"value": desired.to_string()}}],
        },
    })
}

pub fn device_model() -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel", "metadata": {"name": "lamp"},
        "spec": {"protocol": "mqtt", "properties": [
            {"name": "power", "type": "STRING", "accessMode": "ReadWrite"},
        ]},
    })
}

fn path(name: &str) -> (&'static str, String) {
    let kind = match name.split('-').next() {
        Some("pod") => "/api/v1/namespaces/default/pods",
        Some("map") => "/api/v1/namespaces/default/configmaps",
        Some("secret") => "/api/v1/namespaces/default/secrets",
        _ => "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devices",
    };
    (kind, format!("{kind}/{name}"))
}

impl Desk {
    pub fn ledger<T>(&self, act: impl FnOnce(&mut Ledger) -> T) -> T {
        act(&mut self.ledger.lock().unwrap())
    }

    fn wrong(&self, what: String) {
        self.ledger(|ledger| ledger.wrongs.push(what));
    }

    fn work(&self, name: &str, queue: &Receiver<Work>, pending: &AtomicUsize) {
        for work in queue {
            match work {
                Work::Recreate { force, plan, .. } => {
                    self.delete(name, force);
                    self.create_pod(name, plan);
                }
                Work::Delete { force, .. } => self.delete(name, force),
                Work::Label { .. } => self.label(name),
                Work::Edit { by_kubectl, .. } => self.edit(name, by_kubectl),
                Work::Replace { .. } => self.replace(name),
                Work::Desire { .. } => self.desire(name),
            }
            pending.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Asks until somebody answers for certain. `settle` sees each answer, and whether an earlier one was lost;
    /// it returns what to do with it, or nothing to ask again.
    fn insist<T>(
        &self,
        what: &str,
        method: &str,
        path: &str,
        body: Option<&Value>,
        mut settle: impl FnMut(u16, Value, bool) -> Option<Result<T, String>>,
    ) -> Option<T> {
        let deadline = Instant::now() + GIVE_UP;
        let mut unsure = false;
        let mut last = String::new();
        while Instant::now() < deadline {
            match self.rest.call(method, path, body) {
                // An answer of trouble does not say what was done.
                Ok((status @ (429 | 500..), answer)) => {
                    unsure = true;
                    last = format!("{status} {answer}");
                }
                Ok((status, answer)) => {
                    last = format!("{status} {answer}");
                    match settle(status, answer, unsure) {
                        Some(Ok(done)) => {
                            self.ledger(|ledger| ledger.writes += 1);
                            return Some(done);
                        }
                        Some(Err(wrong)) => {
                            self.wrong(format!("{what}: {wrong}: {last}"));
                            return None;
                        }
                        None => {}
                    }
                }
                Err(err) => {
                    unsure = true;
                    last = err;
                }
            }
            std::thread::sleep(AGAIN);
        }
        self.wrong(format!("{what} was not acknowledged within {GIVE_UP:?}: {last}"));
        None
    }

    fn create_pod(&self, name: &str, plan: PodPlan) {
        let born = self.newborn(plan);
        let Some(uid) = self.create(name, &pod(name, plan, &self.mark)) else { return };
        self.ledger(|ledger| drop(ledger.pods.insert(name.to_owned(), ledger::Pod { uid, ..born })));
    }

    /// What is known of a pod before it is made.
    pub fn newborn(&self, plan: PodPlan) -> ledger::Pod {
        let configs = plan.configs.map(|(map, secret)| {
            [Config::Map(map), Config::Secret(secret)].map(|config| {
                let name = config_name(config);
                let value = self.ledger(|ledger| ledger.configs.get(&name).map_or(0, |config| config.value));
                (name, value)
            })
        });
        ledger::Pod { uid: String::new(), node: plan.edge.map(edge_name), label: 0, configs }
    }

    /// Makes an object; its uid.
    fn create(&self, name: &str, object: &Value) -> Option<String> {
        let (kind, own) = path(name);
        self.insist(&format!("create {name}"), "POST", kind, Some(object), |status, answer, unsure| {
            match (status, unsure) {
                (200..300, _) => Some(Ok(text(&answer, "/metadata/uid"))),
                // Somebody made it: we, when an answer was lost; or the one before is still on its way out.
                (409, _) => {
                    let is = self.rest.get(&own).ok()?;
                    let uid = text(&is, "/metadata/uid");
                    let goes = self.ledger(|ledger| ledger.gone.contains_key(&uid));
                    match (goes, unsure) {
                        (true, _) => None,
                        (false, true) => Some(Ok(uid)),
                        (false, false) => Some(Err(format!("one that nobody made is there, {uid}"))),
                    }
                }
                _ => Some(Err("it was refused".into())),
            }
        })
    }

    fn delete(&self, name: &str, force: bool) {
        let Some(uid) = self.ledger(|ledger| match name.starts_with("pod") {
            true => ledger.pods.get(name).map(|pod| pod.uid.clone()),
            false => ledger.configs.get(name).map(|config| config.uid.clone()),
        }) else {
            return;
        };
        let mut options = json!({"preconditions": {"uid": uid}});
        if force {
            options["gracePeriodSeconds"] = json!(0);
        }
        let what = format!("delete {name} {uid}");
        let done =
            self.insist(&what, "DELETE", &path(name).1, Some(&options), |status, _, unsure| match status {
                200..300 => Some(Ok(())),
                404 if unsure => Some(Ok(())),
                404 => Some(Err("it was acknowledged and is lost".into())),
                _ => Some(Err("it was refused".into())),
            });
        if done.is_some() {
            self.ledger(|ledger| {
                ledger.pods.remove(name);
                ledger.gone.insert(uid, name.to_owned());
            });
        }
    }

    fn label(&self, name: &str) {
        let Some(turn) = self.ledger(|ledger| ledger.pods.get(name).map(|pod| pod.label + 1)) else { return };
        let patch = json!({"metadata": {"labels": {"turn": turn.to_string()}}});
        self.patch(name, &patch);
        self.ledger(|ledger| {
            if let Some(pod) = ledger.pods.get_mut(name) {
                pod.label = turn;
            }
        });
    }

    /// Setting a value twice is setting it.
    fn patch(&self, name: &str, patch: &Value) {
        let what = format!("patch {name}");
        self.insist(&what, "PATCH", &path(name).1, Some(patch), |status, _, _| match status {
            200..300 => Some(Ok(())),
            409 => None,
            404 => Some(Err("it was acknowledged and is lost".into())),
            _ => Some(Err("it was refused".into())),
        });
    }

    fn edit(&self, name: &str, by_kubectl: bool) {
        let Some(value) = self.next_value(name) else { return };
        let patch = json!({"data": config(name, value)["data"]});
        let mut done = false;
        if by_kubectl {
            let kubectl = Kubectl::at(&self.kubeconfig, &self.home);
            let object = name.replace("map-", "configmap/map-").replace("secret-", "secret/secret-");
            done = kubectl.try_run(&["patch", &object, "-p", &patch.to_string()]).is_ok();
        }
        if !done {
            self.patch(name, &patch);
        }
        self.set_value(name, value, None);
    }

    fn replace(&self, name: &str) {
        let Some(value) = self.next_value(name) else { return };
        self.delete(name, false);
        if let Some(uid) = self.create(name, &config(name, value)) {
            self.set_value(name, value, Some(uid));
        }
    }

    fn next_value(&self, name: &str) -> Option<u64> {
        self.ledger(|ledger| ledger.configs.get(name).map(|config| config.value + 1))
    }

    fn set_value(&self, name: &str, value: u64, uid: Option<String>) {
        self.ledger(|ledger| {
            if let Some(config) = ledger.configs.get_mut(name) {
                config.value = value;
                config.uid = uid.unwrap_or_else(|| config.uid.clone());
            }
        });
    }

    fn desire(&self, name: &str) {
        let Some(desired) = self.ledger(|ledger| ledger.devices.get(name).map(|device| device.desired + 1))
        else {
            return;
        };
        let patch = json!([{
            "op": "replace", "path": "/spec/properties/0/desired/value", "value": desired.to_string(),
        }]);
        self.patch(name, &patch);
        self.ledger(|ledger| {
            if let Some(device) = ledger.devices.get_mut(name) {
                device.desired = desired;
            }
        });
    }
}
