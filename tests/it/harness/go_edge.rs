//! An edgecore of KubeEdge 1.23, played by hand: how it joins, what it stores, acknowledges and answers,
//! and what it would log as an error. The comments name the Go file each rule is from.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use futures_util::{SinkExt, StreamExt};
use kubeedge::identity::{KeyPair, cert_pem_from_der, client_tls, sha256_hex};
use kubeedge::model::{Body, Envelope, Resource, operation};
use kubeedge::wire::frame;
use rcgen::{CertificateParams, DnType, KeyPair as RcgenPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use super::cluster::Cloud;
use super::machine::call;
use super::process::PATIENCE;
use super::recording::what;
use super::{go, process};

/// Where updates may come from (`processUpdate` in `edge/pkg/metamanager/process.go`). Anything else is
/// logged and never acknowledged.
const SOURCES: [&str; 4] = ["edgecontroller", "dynamiccontroller", "devicecontroller", "policycontroller"];

/// The program with its database.
pub struct GoEdge {
    pub name: String,
    pair: KeyPair,
    socket: WebSocketStream<TlsStream<TcpStream>>,
    /// Table `meta`: by resource.
    pub meta: BTreeMap<String, Value>,
    /// DeviceTwin's devices.
    pub devices: BTreeSet<String>,
    /// Synchronous calls: is the answer acknowledged (`processRemote`) or not?
    calls: HashMap<String, bool>,
    answers: HashMap<String, Envelope>,
    /// DeviceTwin's confirm map.
    confirm: BTreeSet<String>,
    /// What came without a parent, in order, and how much of it was looked at.
    pub pushed: Vec<Envelope>,
    seen: usize,
    /// What was acknowledged, in order.
    pub acks: Vec<Envelope>,
    /// What it would have logged as an error.
    pub errors: Vec<String>,
}

/// The CSR of `GetEdgeCert` in `edge/pkg/edgehub/certificate/certmanager.go`.
pub fn go_csr(node: &str) -> (Vec<u8>, String) {
    let key = RcgenPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    for (kind, text) in [
        (DnType::CountryName, "CN"),
        (DnType::OrganizationName, "system:nodes"),
        (DnType::LocalityName, "Hangzhou"),
        (DnType::StateOrProvinceName, "Zhejiang"),
        (DnType::CommonName, &format!("system:node:{node}")),
    ] {
        params.distinguished_name.push(kind, text);
    }
    let csr = params.serialize_request(&key).unwrap();
    (csr.der().to_vec(), key.serialize_pem())
}

/// `applyCerts`: hash of the CA, then a certificate for the token.
fn apply_certs(cloud: &Cloud, name: &str) -> KeyPair {
    let token = cloud.token();
    let parts: Vec<&str> = token.split('.').collect();
    assert_eq!(parts.len(), 4, "VerifyCAAndGetRealToken in pkg/security/token wants four parts");
    let (code, ca) = call(cloud, "GET /ca.crt", None, &[], b"").unwrap();
    assert_eq!((code, sha256_hex(&ca).as_str()), (200, parts[0]), "the CA is the token's");
    let (csr, key_pem) = go_csr(name);
    let bearer = format!("Bearer {}", parts[1..].join("."));
    let headers = [("Authorization", bearer.as_str()), ("Nodename", name)];
    let (code, der) = call(cloud, "GET /edge.crt", None, &headers, &csr).unwrap();
    assert_eq!(code, 200, "{}", String::from_utf8_lossy(&der));
    KeyPair { cert_pem: cert_pem_from_der(&der), key_pem }
}

async fn connect(cloud: &Cloud, name: &str, pair: &KeyPair) -> WebSocketStream<TlsStream<TcpStream>> {
    let ca = std::fs::read_to_string(cloud.dir.join("ca/rootCA.crt")).unwrap();
    let tls = client_tls(&ca, Some(pair)).unwrap();
    let address =
        format!("wss://127.0.0.1:{}/e632aba927ea4ac2b575ec1603d56f10/{name}/events", cloud.hub_port);
    let mut request = address.into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("Node_id", name.parse().unwrap());
    headers.insert("Project_id", "e632aba927ea4ac2b575ec1603d56f10".parse().unwrap());
    // Once for each dial that failed before (protocol section 1.2).
    headers.append("Connectionuse", "msg".parse().unwrap());
    headers.append("Connectionuse", "msg".parse().unwrap());
    let socket = TcpStream::connect(("127.0.0.1", cloud.hub_port)).await.unwrap();
    let server = rustls_pki_types::ServerName::try_from("127.0.0.1").unwrap();
    let socket = tokio_rustls::TlsConnector::from(tls).connect(server, socket).await.unwrap();
    let (socket, response) = client_async(request, socket).await.unwrap();
    let extensions = response.headers().get("Kubeedge-Extensions");
    assert_eq!(extensions, None, "a Go edge offers none and is told of none");
    socket
}

impl GoEdge {
    /// Joins with a fresh token, connects, and says what it says first.
    pub async fn join(cloud: &Cloud, name: &str) -> Self {
        let pair = apply_certs(cloud, name);
        let socket = connect(cloud, name, &pair).await;
        let mut edge = Self {
            name: name.to_owned(),
            pair,
            socket,
            meta: BTreeMap::new(),
            devices: BTreeSet::new(),
            calls: HashMap::new(),
            answers: HashMap::new(),
            confirm: BTreeSet::new(),
            pushed: Vec::new(),
            seen: 0,
            acks: Vec::new(),
            errors: Vec::new(),
        };
        edge.keepalive().await;
        edge
    }

    /// The same program after its link broke: what it has stored stays.
    pub async fn reconnect(&mut self, cloud: &Cloud) {
        self.socket = connect(cloud, &self.name, &self.pair).await;
        self.calls.clear();
        self.keepalive().await;
    }

    /// `rotateCert`: a new certificate for the old one.
    pub fn rotate(&mut self, cloud: &Cloud) {
        let (csr, key_pem) = go_csr(&self.name);
        let headers = [("Nodename", self.name.as_str())];
        let (code, der) = call(cloud, "GET /edge.crt", Some(&self.pair), &headers, &csr).unwrap();
        assert_eq!(code, 200, "{}", String::from_utf8_lossy(&der));
        self.pair = KeyPair { cert_pem: cert_pem_from_der(&der), key_pem };
    }

    pub fn certificate(&self) -> &str {
        &self.pair.cert_pem
    }

    /// `keepalive` in `edge/pkg/edgehub/process.go`.
    pub async fn keepalive(&mut self) {
        let beat = message("websocket", "resource", "keepalive", "node", Body::Text("ping".to_owned()));
        self.say(&beat).await;
    }

    pub async fn say(&mut self, envelope: &Envelope) {
        let text = String::from_utf8(frame::encode(envelope).unwrap()).unwrap();
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// A synchronous call of edged's (`SendSync`): the answer, when it is there.
    pub async fn ask(&mut self, operation: &str, resource: &str, body: Body) -> Envelope {
        self.call(message("edged", "meta", operation, resource, body)).await
    }

    /// The same with the message as it is.
    pub async fn call(&mut self, request: Envelope) -> Envelope {
        let id = request.header.msg_id.clone();
        self.calls.insert(id.clone(), is_remote(&request));
        self.say(&request).await;
        self.wait(&format!("the answer to {}", what(&request)), |edge| edge.answers.remove(&id)).await
    }

    /// A message of DeviceTwin's, until it is confirmed.
    pub async fn tell_twin(&mut self, operation: &str, resource: &str, body: Body) {
        let report = message("twin", "resource", operation, resource, body);
        let id = report.header.msg_id.clone();
        self.confirm.insert(id.clone());
        self.say(&report).await;
        let name = format!("the confirmation of {}", what(&report));
        self.wait(&name, |edge| (!edge.confirm.contains(&id)).then_some(())).await;
    }

    /// The next push that is `operation resource`.
    pub async fn hear(&mut self, wanted: &str) -> Envelope {
        self.wait(&format!("a push {wanted}"), |edge| {
            let at = edge.pushed.iter().skip(edge.seen).position(|push| what(push) == wanted)?;
            edge.seen += at + 1;
            edge.pushed.get(edge.seen - 1).cloned()
        })
        .await
    }

    /// Reads until `probe` gives something.
    pub async fn wait<T>(&mut self, name: &str, mut probe: impl FnMut(&mut Self) -> Option<T>) -> T {
        let search = async {
            loop {
                if let Some(found) = probe(self) {
                    return Some(found);
                }
                if !self.step().await {
                    return None;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, search).await {
            Ok(Some(found)) => found,
            Ok(None) => panic!("{name}: the cloud closed the session"),
            Err(_) => panic!("{name}: not within {PATIENCE:?}; pushed so far: {:?}", self.history()),
        }
    }

    /// The link breaks.
    pub async fn hang_up(&mut self) {
        use tokio::io::AsyncWriteExt;
        // Gone either way.
        drop(self.socket.get_mut().get_mut().0.shutdown().await);
    }

    /// The cloud ends the session; what comes before is handled.
    pub async fn is_cut_off(&mut self) {
        let ended = async { while self.step().await {} };
        tokio::time::timeout(PATIENCE, ended).await.expect("the cloud ends the session");
    }

    pub fn history(&self) -> Vec<String> {
        self.pushed.iter().map(what).collect()
    }

    /// Reads and handles one frame; `false` at the end of the session.
    async fn step(&mut self) -> bool {
        let text = match self.socket.next().await {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Close(_)) | Err(_)) | None => return false,
            Some(Ok(_)) => return true,
        };
        let envelope = frame::decode(text.as_bytes(), frame::MAX_FRAME_BYTES).unwrap();
        let about = what(&envelope);
        self.errors.extend(go::frame(&text).into_iter().map(|why| format!("{about}: {why}")));
        // `ProcessHandler` in edge/pkg/edgehub/messagehandler/handler.go: by group, first match.
        match envelope.route.group.as_str() {
            "resource" | "func" if envelope.header.parent_msg_id.is_some() => self.answered(envelope).await,
            "resource" | "func" => self.meta_manager(envelope).await,
            "twin" => self.device_twin(envelope),
            group => self.errors.push(format!("{about}: no handler for group {group:?} was expected")),
        }
        true
    }

    /// `beehiveContext.SendResp`, and `processRemote` of MetaManager.
    async fn answered(&mut self, answer: Envelope) {
        let parent = answer.header.parent_msg_id.clone().unwrap_or_default();
        let Some(remote) = self.calls.remove(&parent) else {
            return self.errors.push(format!("{}: nobody waits for {parent}", what(&answer)));
        };
        if remote {
            let stored = match &answer.body {
                Body::ObjectResp(resp) if resp.err.is_none() => resp.object.clone(),
                Body::ObjectResp(_) | Body::Text(_) => None,
                body => content(body),
            };
            if let Some(value) = stored {
                self.meta.insert(answer.route.resource.to_string(), value);
            }
            self.acknowledge(&answer, None).await;
        } else if let (Body::ObjectResp(resp), Some(key)) = (&answer.body, answer.route.resource.object())
            && let (Some(object), None) = (&resp.object, &resp.err)
        {
            // `updateNodeDB` and `updatePodDB`: the whole object replaces what is stored.
            let kind = key.kind.trim_end_matches("patch");
            self.decoded(&answer, kind, object);
            self.meta.insert(key.with_kind(kind).to_string(), object.clone());
        }
        self.answers.insert(parent, answer);
    }

    /// `process` in `edge/pkg/metamanager/process.go`.
    async fn meta_manager(&mut self, push: Envelope) {
        let about = what(&push);
        let resource = push.route.resource.to_string();
        let from = push.route.source.clone();
        let Some(key) = push.route.resource.object().cloned() else {
            return self.errors.push(format!("{about}: MetaManager knows no such resource"));
        };
        let from_devices = from == "devicecontroller";
        match push.route.operation.as_str() {
            operation::INSERT | operation::UPDATE => {
                let Some(object) = content(&push.body) else {
                    return self.errors.push(format!("{about}: no object in it"));
                };
                self.decoded(&push, &key.kind, &object);
                for field in ["apiVersion", "kind"] {
                    if !object[field].is_string() {
                        self.errors.push(format!("{about}: {field} is missing, so MetaServer drops it"));
                    }
                }
                if push.is(operation::UPDATE) && !SOURCES.contains(&from.as_str()) {
                    return self.errors.push(format!("{about}: unsupported message source {from}"));
                }
                // `filterPodByNodeName` in edge/pkg/edged/edged.go.
                if key.kind == "pod" && object["spec"]["nodeName"] != self.name.as_str() {
                    self.errors.push(format!("{about}: a pod of {}", object["spec"]["nodeName"]));
                }
                // `overrideDeviceInstanceConfig` in edge/pkg/devicetwin/dmicache/dmicache.go.
                let model = object["spec"]["deviceModelRef"]["name"].as_str().unwrap_or_default();
                let model = format!("{}/devicemodel/{model}", key.namespace());
                if key.kind == "device" && !self.meta.contains_key(&model) {
                    self.errors.push(format!("{about}: device model {model} not found in cache"));
                }
                self.meta.insert(resource, object);
            }
            operation::DELETE if key.kind == "pod" => {
                // `processDeletePodDB`: the row goes if the uid occurs in it.
                let pod = content(&push.body).unwrap_or_default();
                self.decoded(&push, "pod", &pod);
                let uid = pod["metadata"]["uid"].as_str().unwrap_or_default();
                if uid.is_empty() {
                    self.errors.push(format!("{about}: without a uid any pod of the name is deleted"));
                }
                self.meta.retain(|at, row| *at != resource || row["metadata"]["uid"] != uid);
            }
            operation::DELETE => drop(self.meta.remove(&resource)),
            _ => return self.errors.push(format!("{about}: metamanager not supported operation")),
        }
        // What DeviceController inserts and deletes is acknowledged under the route it was sent on with.
        let under = (from_devices && !push.is(operation::UPDATE)).then_some(("meta", "twin"));
        self.acknowledge(&push, under).await;
        self.pushed.push(push);
    }

    /// `distributeMsg` in `edge/pkg/devicetwin/process.go`.
    fn device_twin(&mut self, told: Envelope) {
        let about = what(&told);
        if let Some(parent) = &told.header.parent_msg_id {
            if !self.confirm.remove(parent) {
                self.errors.push(format!("{about}: confirms {parent}, which waits for nothing"));
            }
            return;
        }
        if !matches!(told.route.source.as_str(), "devicecontroller" | "edgemgr") {
            return self.errors.push(format!("{about}: not found action"));
        }
        let content = content(&told.body).unwrap_or_default();
        if !content["event_id"].is_string() || !content["timestamp"].is_i64() {
            self.errors.push(format!("{about}: {content} is no BaseMessage"));
        }
        let members = |field: &str| content[field].as_array().cloned().unwrap_or_default();
        let is_whole = told.route.resource == Resource::MembershipDetail;
        let added = members(if is_whole { "devices" } else { "added_devices" });
        for device in &added {
            let id = device["id"].as_str().unwrap_or_default();
            // `addDevice` in dtmanager/membership.go, `DealDeviceTwin` in dtmanager/twin.go.
            if !self.devices.insert(id.to_owned()) && !device["twin"].is_object() {
                self.errors
                    .push(format!("{about}: Update twin of device {id} error, key:twin does not exist"));
            }
            if device["twin"].as_object().is_some_and(|twin| !twin.is_empty()) {
                self.errors.push(format!("{about}: the twins of {id} are the edge's, not the cloud's"));
            }
        }
        for device in members("removed_devices") {
            let id = device["id"].as_str().unwrap_or_default();
            if !self.devices.remove(id) {
                self.errors.push(format!("{about}: Remove device {id} failed, not existed"));
            }
        }
        if is_whole {
            let named = |id: &String| added.iter().any(|device| device["id"] == id.as_str());
            self.devices.retain(named);
        }
        self.pushed.push(told);
    }

    /// `NewRespByMessage(.., "OK")`.
    async fn acknowledge(&mut self, message: &Envelope, under: Option<(&str, &str)>) {
        let mut ack = message.ack(process::now_ms());
        if let Some((source, group)) = under {
            (ack.route.source, ack.route.group) = (source.to_owned(), group.to_owned());
        }
        self.say(&ack).await;
        self.acks.push(ack);
    }

    fn decoded(&mut self, message: &Envelope, kind: &str, object: &Value) {
        if let Err(why) = go::decode(kind, object) {
            self.errors.push(format!("{}: {why}", what(message)));
        }
    }
}

/// A message of the edge's, as `BuildMsg` makes it.
pub fn message(source: &str, group: &str, operation: &str, resource: &str, body: Body) -> Envelope {
    Envelope::new(source, group, operation, Resource::parse(resource), body, process::now_ms())
}

/// `requireRemoteQuery`, `processInsert` and leases in `processUpdate`.
fn is_remote(request: &Envelope) -> bool {
    let lease = request.route.resource.object().is_some_and(|key| key.kind == "lease");
    match request.route.operation.as_str() {
        operation::QUERY | operation::INSERT => true,
        operation::UPDATE => lease,
        _ => false,
    }
}

/// `GetContentData`.
fn content(body: &Body) -> Option<Value> {
    match body {
        Body::Object(value) => Some(value.clone()),
        Body::Text(text) => serde_json::from_str(text).ok().filter(Value::is_object),
        Body::Error(err) => Some(json!(err)),
        _ => None,
    }
}
