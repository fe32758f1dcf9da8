//! SyncController between an edge's listing and EdgeController.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::sync::mpsc;

use super::*;
use crate::bus::Turn;
use crate::bus::edge_controller::NotReady;
use crate::bus::sync::Extensions;
use crate::model::Resource;
use crate::supervise::{MAIN_THREAD, Policy, Running, Tree, TreeHandle, TreeSettings};

struct World {
    connected: Link<NodeConnected>,
    gone: Link<NodeGone>,
    held: Link<Held>,
    identity_nodes: Link<IdentityNodes>,
    sent: mpsc::Receiver<SendDifferences>,
    closed: mpsc::Receiver<CloseNode>,
    tree: TreeHandle,
    _running: Running,
}

fn version(name: &str, uid: &str, rv: &str) -> ObjectVersion {
    let resource = Resource::parse(&format!("default/pod/{name}"));
    ObjectVersion { resource, uid: uid.into(), resource_version: rv.into() }
}

/// A DeviceModel (`model`) or a Device.
fn device(kind: &str, uid: &str, rv: &str) -> ObjectVersion {
    let kind = if kind == "model" { "devicemodel" } else { "device" };
    let resource = Resource::parse(&format!("default/{kind}/{uid}"));
    ObjectVersion { resource, uid: uid.into(), resource_version: rv.into() }
}

fn node() -> NodeName {
    NodeName::parse("edge-1").unwrap()
}

impl World {
    /// EdgeController is not ready at the first question.
    fn start() -> Self {
        Self::start_with(true)
    }

    /// Without devices DeviceController stays as one whose kinds are not served.
    fn start_with(devices: bool) -> Self {
        let (send, sent) = mpsc::channel(100);
        let (close, closed) = mpsc::channel(100);
        let asked = Arc::new(AtomicUsize::new(0));
        let desired = Link::from_fn(move |_: ListDesired| match asked.fetch_add(1, Ordering::SeqCst) {
            0 => Err(NotReady),
            _ => Ok(vec![version("same", "1", "5"), version("changed", "2", "9"), version("new", "3", "1")]),
        });
        let (tell, tell_identity, tell_devices) = (send.clone(), send.clone(), send);
        let owners = vec![
            Owner {
                kinds: &["pod"],
                desired,
                send: Link::from_fn(move |it: SendDifferences| {
                    tell.try_send(it).unwrap();
                    Ok(())
                }),
                always: false,
                identity_only: false,
            },
            Owner {
                kinds: &["edgeidentity"],
                desired: Link::from_fn(|_: ListDesired| {
                    let resource = Resource::parse("kubeedge/edgeidentity/edge-1");
                    Ok(vec![ObjectVersion { resource, uid: "e".into(), resource_version: "7".into() }])
                }),
                send: Link::from_fn(move |it: SendDifferences| {
                    tell_identity.try_send(it).unwrap();
                    Ok(())
                }),
                always: true,
                identity_only: true,
            },
            Owner {
                kinds: &["devicemodel", "device"],
                desired: Link::from_fn(move |_: ListDesired| match devices {
                    true => Ok(vec![device("model", "m", "5"), device("device", "d", "6")]),
                    false => Err(NotReady),
                }),
                send: Link::from_fn(move |it: SendDifferences| {
                    tell_devices.try_send(it).unwrap();
                    Ok(())
                }),
                always: true,
                identity_only: false,
            },
        ];
        let close = Link::from_fn(move |it: CloseNode| close.try_send(it).unwrap());
        // One pod is served; as the embedded API answers for kinds it does not have.
        let service = tower::service_fn(|request: http::Request<::kube::client::Body>| async move {
            if request.uri().path() == "/api/v1/namespaces/default/pods/same" {
                let pod = json!({"metadata": {"uid": "1", "resourceVersion": "5"}});
                return http::Response::builder()
                    .body(::kube::client::Body::from(pod.to_string().into_bytes()));
            }
            let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound",
                "message": "the server could not find the requested resource", "code": 404});
            let body = ::kube::client::Body::from(status.to_string().into_bytes());
            http::Response::builder().status(404).body(body)
        });
        let client = ::kube::Client::new(service, "default");
        let mut tree = Tree::new("test", TreeSettings::default());
        let slot = tree.slot::<SyncController>("SyncController", 100);
        let (connected, gone, held, identity_nodes) = (slot.link(), slot.link(), slot.link(), slot.link());
        let quick = Policy { backoff_base: Duration::from_millis(1), ..Policy::default() };
        tree.add(slot, MAIN_THREAD, quick, move || SyncController::new(client, owners, close));
        let handle = tree.handle();
        let _running = tree.start().unwrap();
        Self { connected, gone, held, identity_nodes, sent, closed, tree: handle, _running }
    }

    fn connect(&self, session: u64, resync: bool) {
        self.connect_with(session, resync, false);
    }

    fn connect_with(&self, session: u64, resync: bool, identity: bool) {
        let extensions = Extensions { ack_window: resync, resync, identity, report: false };
        self.connected.tell(NodeConnected { node: node(), session, extensions }).unwrap();
    }

    fn list(&self, session: u64, part: u64, last: bool, objects: serde_json::Value) -> Envelope {
        let content = Body::Object(json!({"objects": objects, "part": part, "last": last}));
        let envelope = Envelope::new("metamanager", "meta", "resync", Resource::parse("null"), content, 1);
        self.held
            .tell(Held { node: node(), session, envelope: envelope.clone(), turn: Turn::default() })
            .unwrap();
        envelope
    }

    async fn any_sent(&mut self) -> SendDifferences {
        tokio::time::timeout(Duration::from_secs(20), self.sent.recv()).await.unwrap().unwrap()
    }

    /// The next differences of pods, or of devices.
    async fn sent_of(&mut self, devices: bool) -> SendDifferences {
        loop {
            let sent = self.any_sent().await;
            let all = sent.missing.iter().chain(&sent.changed);
            let mut all = all.chain(sent.surplus.iter().map(|it| &it.resource));
            if all.any(|it| it.to_string().contains("/device") == devices) {
                return sent;
            }
        }
    }

    async fn sent(&mut self) -> SendDifferences {
        self.sent_of(false).await
    }
}

fn texts(resources: &[Resource]) -> Vec<String> {
    resources.iter().map(Resource::to_string).collect()
}

#[actix::test]
async fn a_listing_is_answered_with_the_differences() {
    let mut world = World::start();
    world.connect(1, true);
    world.list(1, 0, false, json!([["default/pod/same", "1", "5"], ["default/pod/changed", "2", "8"]]));
    let last = world.list(1, 1, true, json!([["default/pod/gone", "4", "1"], ["x/lease/edge-1", "5", "1"]]));
    let sent = world.sent().await;
    assert_eq!(texts(&sent.missing), ["default/pod/new"]);
    assert_eq!(texts(&sent.changed), ["default/pod/changed"]);
    assert_eq!(sent.surplus, [version("gone", "4", "1")]);
    let answer = sent.answer.unwrap();
    assert_eq!(answer.header.parent_msg_id, Some(last.header.msg_id));
    assert_eq!((answer.route.operation.as_str(), answer.body), ("response", Body::Text("OK".into())));
}

#[actix::test]
async fn an_api_that_went_back_makes_the_edge_begin_anew() {
    let mut world = World::start();
    world.connect(1, true);
    // Newer than what the API has of the same object: not what a node can know.
    let last =
        world.list(1, 0, true, json!([["default/pod/same", "1", "9"], ["default/pod/changed", "2", "7"]]));
    let mut answers = Vec::new();
    while answers.len() < 2 {
        let sent = world.any_sent().await;
        answers.extend(sent.answer.map(|answer| (answer, sent.missing.len() + sent.changed.len())));
    }
    let [(first, 0), (second, 0)] = answers.as_slice() else { panic!("{answers:?}") };
    assert_eq!(first.header.parent_msg_id, Some(last.header.msg_id));
    assert_eq!((second.route.operation.as_str(), &second.header.parent_msg_id), ("resync", &None));

    // Its second listing knows no versions, and everything that differs travels.
    world.list(1, 0, true, json!([["default/pod/same", "1", "0"], ["default/pod/changed", "2", "0"]]));
    let sent = world.sent().await;
    assert_eq!(texts(&sent.changed), ["default/pod/same", "default/pod/changed"]);
    assert_eq!((texts(&sent.missing), sent.answer.is_some()), (vec!["default/pod/new".to_owned()], true));
}

#[actix::test]
async fn an_older_sessions_listing_is_ignored() {
    let mut world = World::start();
    world.connect(2, true);
    world.list(1, 0, true, json!([["default/pod/gone", "4", "1"]]));
    world.list(2, 0, true, json!([]));
    let sent = world.sent().await;
    assert_eq!((sent.missing.len(), sent.surplus.len()), (3, 0));
}

#[actix::test]
async fn an_edge_without_the_extension_gets_everything_as_update() {
    let mut world = World::start();
    world.connect(1, false);
    let sent = world.sent().await;
    assert_eq!(texts(&sent.changed), ["default/pod/same", "default/pod/changed", "default/pod/new"]);
    assert_eq!((sent.missing.len(), sent.surplus.len(), sent.answer), (0, 0, None));
}

#[actix::test]
async fn after_a_panic_every_session_compares_again() {
    let mut world = World::start();
    world.tree.inject_panic("SyncController").unwrap();
    let closed = tokio::time::timeout(Duration::from_secs(20), world.closed.recv()).await.unwrap().unwrap();
    assert_eq!((closed.node, closed.reason), (None, EndReason::Restarted));
    world.connect(3, true);
    world.list(3, 0, true, json!([]));
    assert_eq!(world.sent().await.missing.len(), 3);
}

#[actix::test]
async fn devices_are_compared_by_their_own_owner() {
    let mut world = World::start();
    world.connect(1, true);
    world.list(1, 0, true, json!([["default/device/d", "old", "9"], ["default/device/x", "x", "1"]]));
    let sent = world.sent_of(true).await;
    assert_eq!(texts(&sent.missing), ["default/devicemodel/m", "default/device/d"]);
    assert_eq!(sent.surplus.iter().map(|it| it.uid.as_str()).collect::<Vec<_>>(), ["old", "x"]);
    assert_eq!(sent.answer, None, "one answer is enough");
}

#[actix::test]
async fn an_edge_that_does_not_list_gets_all_devices() {
    let mut world = World::start();
    world.connect(1, false);
    let sent = world.sent_of(true).await;
    assert_eq!(texts(&sent.changed), ["default/devicemodel/m", "default/device/d"]);
    assert_eq!(sent.missing.len(), 0);
}

#[actix::test]
async fn pods_do_not_wait_for_devices() {
    let mut world = World::start_with(false);
    world.connect(1, true);
    world.list(1, 0, true, json!([]));
    let sent = world.any_sent().await;
    assert_eq!((sent.missing.len(), sent.answer.is_some()), (3, true));
}

/// KubeEdge's edges and ours of before never hear of the kind.
#[actix::test]
async fn identities_go_to_nodes_with_the_extension_only() {
    let identity =
        |sent: &SendDifferences| texts(&sent.missing).iter().any(|it| it == "kubeedge/edgeidentity/edge-1");
    let ask = Duration::from_secs(20);
    for resync in [true, false] {
        let mut world = World::start();
        world.connect_with(1, resync, false);
        world.list(1, 0, true, json!([["kubeedge/edgeidentity/edge-1", "e", "1"]]));
        for _ in 0..2 {
            let sent = world.any_sent().await;
            assert!(!identity(&sent) && sent.surplus.is_empty(), "{sent:?}");
        }
        assert_eq!(world.identity_nodes.ask(IdentityNodes, ask).await.unwrap(), []);
    }
    let mut world = World::start();
    world.connect_with(1, true, true);
    world.list(1, 0, true, json!([]));
    while !identity(&world.any_sent().await) {}
    assert_eq!(world.identity_nodes.ask(IdentityNodes, ask).await.unwrap(), [node()]);
    world.gone.ask(NodeGone { node: node(), session: 1 }, ask).await.unwrap();
    assert_eq!(world.identity_nodes.ask(IdentityNodes, ask).await.unwrap(), []);
}

/// CloudHub's two messages may come in either order.
#[actix::test]
async fn a_listing_before_the_connect_loses_no_identity() {
    let mut world = World::start();
    world.list(1, 0, true, json!([]));
    assert_eq!(world.sent().await.missing.len(), 3);
    world.connect_with(1, true, true);
    loop {
        let sent = world.any_sent().await;
        if texts(&sent.missing) == ["kubeedge/edgeidentity/edge-1"] {
            return;
        }
    }
}
