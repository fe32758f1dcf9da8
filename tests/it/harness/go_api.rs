//! The API behind a hand-played cloudcore of KubeEdge 1.23: the objects of one node, and what
//! `cloud/pkg/edgecontroller/controller/upstream.go` and `cloud/pkg/devicecontroller/controller/upstream.go`
//! do with the messages of its edge. What they would log is an `Err`.

use std::collections::BTreeMap;

use kubeedge::kube::patch::strategic;
use kubeedge::model::{Body, Envelope, ErrStatus, ObjectKey, ObjectResp, Reason, Status};
use serde_json::{Value, json};

use super::go;
use super::go_cloud::message;

/// What is sent because of a message.
#[derive(Default)]
pub struct Done {
    pub no_ack: Vec<Envelope>,
    pub ack: Vec<Envelope>,
}

/// The objects.
pub struct GoApi {
    pub node_name: String,
    /// By `{namespace}/{kind}/{name}`.
    pub objects: BTreeMap<String, Value>,
    version: u64,
    /// What devices reported: resource and content, in order.
    pub reports: Vec<(String, Value)>,
}

impl GoApi {
    pub fn new(node: &str) -> Self {
        Self { node_name: node.to_owned(), objects: BTreeMap::new(), version: 5_700, reports: Vec::new() }
    }

    pub fn object(&self, resource: &str) -> &Value {
        self.objects.get(resource).unwrap_or(&Value::Null)
    }

    /// Stores an object with a version of its own, and a uid if it has none.
    pub fn store(&mut self, resource: &str, mut object: Value) -> Value {
        self.version += 1;
        let metadata = &mut object["metadata"];
        metadata["resourceVersion"] = json!(self.version.to_string());
        if !metadata["uid"].is_string() {
            metadata["uid"] = json!(uuid::Uuid::new_v4().to_string());
            metadata["creationTimestamp"] = json!("2026-11-22T19:40:24Z");
        }
        self.objects.insert(resource.to_owned(), object.clone());
        object
    }

    /// What EdgeController's or DeviceController's watch makes of an object as it is stored.
    pub fn push_of(&self, source: &str, operation: &str, resource: &str) -> Envelope {
        let object = self.object(resource).clone();
        let version = object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        message(source, "resource", operation, resource, Body::Object(object)).with_resource_version(version)
    }

    /// `dispatchMessage` of EdgeController.
    pub fn edge_controller(&mut self, said: &Envelope) -> Result<Done, String> {
        let route = &said.route;
        if (route.source.as_str(), route.group.as_str()) != ("edged", "meta") {
            return Err(format!("edged speaks as edged/meta, not {}/{}", route.source, route.group));
        }
        let key = route.resource.object().ok_or("no resource of EdgeController's")?.clone();
        let at = key.to_string();
        match (key.kind.as_str(), route.operation.as_str()) {
            ("event", "insert" | "update") => decoded("event", &inline(said)?).map(|()| Done::default()),
            ("lease", "query") => Ok(object_resp(said, self.get(&at, "lease", "coordination.k8s.io"), false)),
            ("lease", "insert" | "update") => self.lease(said, &at),
            ("node", "insert") => self.create_node(said, &at),
            ("node", "query") => Ok(plain(said, self.get(&at, "node", ""), false)),
            ("node", "update") => {
                let asked = inline(said)?;
                decoded("node", &asked)?;
                let mut node = self.get(&at, "node", "").map_err(|err| err.message)?;
                for field in ["labels", "annotations"] {
                    let new = asked["metadata"][field].as_object().cloned().unwrap_or_default();
                    new.into_iter().for_each(|(name, value)| node["metadata"][field][name] = value);
                }
                let node = self.store(&at, node);
                let ok = reply(said, Body::Text("OK".to_owned())).with_resource_version(version_of(&node));
                Ok(Done { no_ack: vec![ok], ack: vec![self.push_of("edgecontroller", "update", &at)] })
            }
            ("nodepatch", "patch") => self.patch(said, &key, "node", "Node"),
            ("podpatch", "patch") => self.patch(said, &key, "pod", "Pod"),
            ("pod", "delete") => self.delete_pod(said, &at),
            ("configmap" | "secret", "query") => Ok(plain(said, self.get(&at, &key.kind, ""), true)),
            ("serviceaccounttoken", "query") => self.token(said, &key),
            (kind, operation) => Err(format!("{operation} of {kind} is unsupported")),
        }
    }

    fn get(&self, at: &str, kind: &str, group: &str) -> Result<Value, Box<Status>> {
        let name = at.rsplit('/').next().unwrap_or_default();
        let in_group = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let why = format!("{in_group} \"{name}\" not found");
        self.objects.get(at).cloned().ok_or_else(|| Box::new(Status::failure(Reason::NotFound, why)))
    }

    /// `createOrUpdateLease`, with what the API server adds.
    fn lease(&mut self, said: &Envelope, at: &str) -> Result<Done, String> {
        let lease = inline(said)?;
        decoded("lease", &lease)?;
        let known = self.objects.get(at).cloned();
        let is_insert = said.route.operation == "insert";
        let failed = match &known {
            Some(_) if is_insert => Some(Reason::AlreadyExists),
            Some(known) if lease["metadata"]["resourceVersion"] != known["metadata"]["resourceVersion"] => {
                Some(Reason::Conflict)
            }
            None if !is_insert => Some(Reason::NotFound),
            _ => None,
        };
        let result = match failed {
            Some(reason) => Err(Box::new(Status::failure(reason, format!("lease {at}")))),
            None => Ok(self.store(at, lease)),
        };
        Ok(object_resp(said, result, false))
    }

    /// `registerNode`, `createNode`.
    fn create_node(&mut self, said: &Envelope, at: &str) -> Result<Done, String> {
        let mut node = inline(said)?;
        decoded("node", &node)?;
        if self.objects.contains_key(at) {
            let status = Status::failure(
                Reason::AlreadyExists,
                format!("nodes \"{}\" already exists", self.node_name),
            );
            let empty = json!({"metadata": {"creationTimestamp": null}, "spec": {}, "status": {}});
            let err = Some(ErrStatus::from(status));
            let resp = ObjectResp { object: Some(empty), err };
            return Ok(Done { no_ack: vec![reply(said, Body::ObjectResp(Box::new(resp)))], ack: Vec::new() });
        }
        node["metadata"]["annotations"]["cloudcore"] = json!("127.0.0.1");
        // Typed clients leave these out of answers; what is pushed has them.
        let node = self.store(at, node);
        let mut done = object_resp(said, Ok(node), false);
        self.name_kind(at, "Node");
        done.ack.push(self.push_of("edgecontroller", "update", at));
        Ok(done)
    }

    fn name_kind(&mut self, at: &str, kind: &str) {
        if let Some(object) = self.objects.get_mut(at) {
            object["kind"] = json!(kind);
            object["apiVersion"] = json!("v1");
        }
    }

    /// `patchNode` and `patchPod`: the content is a text with a strategic merge patch.
    fn patch(&mut self, said: &Envelope, key: &ObjectKey, kind: &str, name: &str) -> Result<Done, String> {
        let Body::Text(text) = &said.body else { return Err("the patch is no text".to_owned()) };
        let patch: Value = serde_json::from_str(text).map_err(|err| err.to_string())?;
        let fields = patch.as_object().ok_or("the patch is no object")?;
        if let Some(other) = fields.keys().find(|field| !matches!(field.as_str(), "metadata" | "status")) {
            return Err(format!("{other} in a patch of status"));
        }
        let at = key.with_kind(kind).to_string();
        let known = match self.get(&at, kind, "") {
            Ok(known) => known,
            // Go answers with the empty object of its typed client beside the error.
            Err(status) => return Ok(object_resp(said, Err(status), true)),
        };
        let uid = patch["metadata"]["uid"].as_str();
        if uid.is_some_and(|uid| known["metadata"]["uid"] != uid) {
            let status = Status::failure(Reason::Conflict, "the UID in the precondition is another");
            return Ok(object_resp(said, Err(Box::new(status)), true));
        }
        let patched = strategic(name, &known, &patch).map_err(|err| err.to_string())?;
        decoded(kind, &patched)?;
        let patched = self.store(&at, patched);
        Ok(object_resp(said, Ok(patched), true))
    }

    /// `deletePod`: what is deleted without grace is gone, and the watch says so.
    fn delete_pod(&mut self, said: &Envelope, at: &str) -> Result<Done, String> {
        let options = inline(said)?;
        if !options["gracePeriodSeconds"].is_i64() || !options["preconditions"]["uid"].is_string() {
            return Err(format!("{options} are no DeleteOptions of a kubelet"));
        }
        let mut done = Done { no_ack: vec![reply(said, Body::Text("OK".to_owned()))], ack: Vec::new() };
        if self.object(at)["metadata"]["uid"] == options["preconditions"]["uid"] {
            done.ack.push(self.push_of("edgecontroller", "delete", at));
            self.objects.remove(at);
        }
        Ok(done)
    }

    fn token(&mut self, said: &Envelope, key: &ObjectKey) -> Result<Done, String> {
        let mut request = inline(said)?;
        decoded("serviceaccounttoken", &request)?;
        let pod = format!(
            "{}/pod/{}",
            key.namespace(),
            request["spec"]["boundObjectRef"]["name"].as_str().unwrap_or_default()
        );
        for (field, want) in [("name", key.name()), ("namespace", key.namespace())] {
            if request["metadata"].get(field).is_some_and(|is| is != want) {
                return Err(format!("the API server refuses metadata.{field} of another account: {request}"));
            }
        }
        if request["spec"]["boundObjectRef"]["uid"] != self.object(&pod)["metadata"]["uid"] {
            return Err(format!("a token for a pod that is not there: {request}"));
        }
        let end = jiff::Timestamp::from_second(super::process::now_ms() / 1000 + 3607).unwrap();
        request["kind"] = json!("TokenRequest");
        request["apiVersion"] = json!("authentication.k8s.io/v1");
        request["metadata"] =
            json!({"name": key.name(), "namespace": key.namespace(), "creationTimestamp": null});
        request["spec"]["audiences"] = json!(["https://kubernetes.default.svc.cluster.local"]);
        request["status"] = json!({"token": "head.claims.signature", "expirationTimestamp": end.to_string()});
        Ok(Done { no_ack: vec![reply(said, Body::Object(request))], ack: Vec::new() })
    }

    /// `updateDeviceStatus` of DeviceController.
    pub fn device_twin(&mut self, said: &Envelope) -> Result<Done, String> {
        let at = said.route.resource.to_string();
        if said.route.group != "resource" {
            return Err(format!("DeviceTwin speaks to group resource, not {}", said.route.group));
        }
        if (at.as_str(), said.route.operation.as_str()) == ("membership/detail", "get") {
            return Ok(Done::default()); // read and forgotten
        }
        // A state is a text with JSON in it, a twin an object; Go reads both as either.
        let content = inline(said)?;
        if !content["event_id"].is_string() || !content["timestamp"].is_i64() {
            return Err(format!("{content} is no BaseMessage"));
        }
        let id = at.strip_prefix("device/").ok_or("not intended for device controller")?;
        if let Some(_id) = id.strip_suffix("/state/update") {
            let device = &content["device"];
            if !device["state"].is_string()
                || device["lastOnlineTime"].as_str().is_some_and(|at| !go::is_time(at))
            {
                return Err(format!("{content} is no DeviceStateUpdate"));
            }
        } else if let Some(_id) = id.strip_suffix("/twin/edge_updated") {
            content["twin"].as_object().ok_or("twin is missing")?.values().try_for_each(twin)?;
        } else {
            return Err("not intended for device controller".to_owned());
        }
        self.reports.push((at, content));
        let mut ok = message("devicecontroller", "twin", "response", "twin", Body::Text("OK".to_owned()));
        ok.header.parent_msg_id = Some(said.header.msg_id.clone());
        Ok(Done { no_ack: vec![ok], ack: Vec::new() })
    }
}

/// `MsgTwin` of `edge/pkg/devicetwin/dttype/types.go`: values are texts, times and versions int64.
fn twin(twin: &Value) -> Result<(), String> {
    for side in ["expected", "actual"] {
        let Some(value) = twin.get(side) else { continue };
        if !value["value"].is_string() {
            return Err(format!("{side} without a value crashes Go's worker: {twin}"));
        }
        if value.pointer("/metadata/timestamp").is_some_and(|at| !at.is_i64()) {
            return Err(format!("the timestamp of {side} is no int64: {twin}"));
        }
        let version = twin.get(format!("{side}_version"));
        if version.is_some_and(|it| !it["cloud"].is_i64() || !it["edge"].is_i64()) {
            return Err(format!("the version of {side} is none: {twin}"));
        }
    }
    if twin.get("optional").is_some_and(|it| !it.is_boolean()) || !twin.is_object() && !twin.is_null() {
        return Err(format!("{twin} is no MsgTwin"));
    }
    Ok(())
}

/// `GetContentData`, and JSON.
fn inline(said: &Envelope) -> Result<Value, String> {
    let value = match &said.body {
        Body::Object(value) => Some(value.clone()),
        Body::Text(text) => serde_json::from_str(text).ok(),
        _ => None,
    };
    value.filter(Value::is_object).ok_or_else(|| format!("no object in {:?}", said.body))
}

fn decoded(kind: &str, object: &Value) -> Result<(), String> {
    go::decode(kind, object)
}

fn version_of(object: &Value) -> String {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned()
}

fn reply(said: &Envelope, body: Body) -> Envelope {
    let resource = said.route.resource.to_string();
    let mut answer = message("edgecontroller", "resource", "response", &resource, body);
    answer.header.parent_msg_id = Some(said.header.msg_id.clone());
    answer
}

/// `{"Object": .., "Err": ..}`.
fn object_resp(said: &Envelope, result: Result<Value, Box<Status>>, versioned: bool) -> Done {
    let version = result.as_ref().ok().filter(|_| versioned).map(version_of);
    let resp = match result {
        Ok(object) => ObjectResp { object: Some(object), err: None },
        Err(status) => ObjectResp { object: None, err: Some((*status).into()) },
    };
    let mut answer = reply(said, Body::ObjectResp(Box::new(resp)));
    answer.header.resource_version = version;
    Done { no_ack: vec![answer], ack: Vec::new() }
}

/// The object, in ACK mode for `tracked` kinds, or the error, which nobody acknowledges.
fn plain(said: &Envelope, result: Result<Value, Box<Status>>, tracked: bool) -> Done {
    match result {
        Ok(object) => {
            let version = version_of(&object);
            let answer = reply(said, Body::Object(object)).with_resource_version(version);
            if tracked {
                Done { no_ack: Vec::new(), ack: vec![answer] }
            } else {
                Done { no_ack: vec![answer], ack: Vec::new() }
            }
        }
        Err(status) => {
            let err = Body::Error(Box::new(ErrStatus::from(*status)));
            Done { no_ack: vec![reply(said, err)], ack: Vec::new() }
        }
    }
}
