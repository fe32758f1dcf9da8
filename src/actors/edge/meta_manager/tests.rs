use parking_lot::Mutex;
use serde_json::json;

use super::*;
use crate::bus::device_twin::{
    DeviceChanged, DeviceRemoved, ListDevices, ModelChanged, ModelRemoved, ReportAnew,
};
use crate::bus::edge_hub::SendError;
use crate::model::{Body, Envelope, ObjectResp, Reason, Resource, Status};
use crate::store::{CommitterGuard, CommitterSettings, Faults, MemoryStore};

type Log = Arc<Mutex<Vec<String>>>;
type Cloudlike = Arc<Mutex<Box<dyn FnMut(&Envelope) -> Result<Body, SendError> + Send>>>;

/// A MetaManager on a memory store, with a scripted cloud and a log of what edged was told and
/// what the cloud was sent.
struct World {
    store: Arc<MemoryStore>,
    told: Log,
    sent: Log,
    cloud: Cloudlike,
    meta: Addr<MetaManager>,
    guard: CommitterGuard,
}

fn device_links(who: &'static str, told: &Log) -> DeviceLinks {
    let (t1, t2, t3, t4) = (told.clone(), told.clone(), told.clone(), told.clone());
    DeviceLinks {
        device_changed: Link::from_fn(move |DeviceChanged(device)| {
            let version = objects::text(&device, "/metadata/resourceVersion").to_owned();
            t1.lock().push(format!("{who}: device {version}"));
        }),
        device_removed: Link::from_fn(move |DeviceRemoved(id)| t2.lock().push(format!("{who}: no {id}"))),
        model_changed: Link::from_fn(move |ModelChanged(model)| {
            t3.lock().push(format!("{who}: model {}", objects::text(&model, "/metadata/name")));
        }),
        model_removed: Link::from_fn(move |model: ModelRemoved| {
            t4.lock().push(format!("{who}: no model {}", model.name))
        }),
    }
}

fn start(store: &Arc<MemoryStore>) -> World {
    let (told, sent): (Log, Log) = (Log::default(), Log::default());
    let offline = |_: &Envelope| -> Result<Body, SendError> { Err(SendError::NotConnected) };
    let cloud: Cloudlike = Arc::new(Mutex::new(Box::new(offline)));
    let tell = |told: &Log, line: String| told.lock().push(line);
    let (t1, t2, t3, t4, t5) = (told.clone(), told.clone(), told.clone(), told.clone(), told.clone());
    let (t6, t7) = (told.clone(), told.clone());
    let (asked, answers, queued) = (sent.clone(), cloud.clone(), sent.clone());
    let show = |message: &Envelope| {
        let body = match &message.body {
            Body::Object(value) => value.to_string(),
            Body::Text(text) => text.clone(),
            _ => String::new(),
        };
        format!("{} {} {body}", message.route.operation, message.route.resource)
    };
    let links = MetaLinks {
        request: Link::from_fn(move |request: Request| {
            asked.lock().push(show(&request.envelope));
            let body = (answers.lock())(&request.envelope)?;
            Ok(request.envelope.response(body, 1))
        }),
        send: Link::from_fn(move |upstream: SendUpstream| {
            queued.lock().push(show(&upstream.envelope));
            Ok(())
        }),
        pod_changed: Link::from_fn(move |PodChanged(pod)| {
            tell(&t1, format!("pod {}", objects::text(&pod, "/metadata/resourceVersion")));
        }),
        pod_removed: Link::from_fn(move |pod: PodRemoved| tell(&t2, format!("gone {}", pod.uid))),
        config_changed: Link::from_fn(move |config: ConfigChanged| {
            tell(&t3, format!("config {}", config.name))
        }),
        node_changed: Link::from_fn(move |_: NodeChanged| tell(&t4, "node".into())),
        cloud_reachable: Link::from_fn(move |CloudReachable(up)| tell(&t5, format!("cloud {up}"))),
        twin_link_changed: Link::from_fn(|_: CloudLinkChanged| ()),
        twin_report_anew: Link::from_fn(move |_: ReportAnew| tell(&t7, "report anew".into())),
        twin: device_links("twin", &told),
        dmi: device_links("dmi", &told),
        edge_identity_changed: Link::from_fn(move |EdgeIdentityChanged(document)| {
            let version = document.map(|it| objects::text(&it, "/metadata/resourceVersion").to_owned());
            tell(&t6, format!("identity {version:?}"));
        }),
    };
    let (committer, guard) =
        Committer::start(Arc::clone(store) as Arc<dyn Store>, CommitterSettings::default()).unwrap();
    let settings =
        MetaSettings { node: NodeName::parse("edge-1").unwrap(), config: MetaManagerConfig::default() };
    let meta = MetaManager::new(
        settings,
        Arc::clone(store) as Arc<dyn Store>,
        committer,
        links,
        MetaMetrics::default(),
    );
    World { store: Arc::clone(store), told, sent, cloud, meta: meta.start(), guard }
}

impl World {
    fn answer(&self, cloud: impl FnMut(&Envelope) -> Result<Body, SendError> + Send + 'static) {
        *self.cloud.lock() = Box::new(cloud);
    }

    async fn connect(&self, resync: bool) {
        self.meta.send(CloudLinkChanged { connected: true, session: 1, resync }).await.unwrap();
    }

    async fn deliver(&self, operation: &str, resource: &str, body: Value) -> Result<(), NotStored> {
        let resource = Resource::parse(resource);
        let message = Envelope::new("edgecontroller", "resource", operation, resource, Body::Object(body), 1);
        self.meta.send(ApplyDownstream(message)).await.unwrap()
    }

    fn stored(&self, key: &str) -> Option<Value> {
        let row = self.store.get(Table::Objects, key.as_bytes()).unwrap();
        row.map(|row| serde_json::from_slice(&row).unwrap())
    }

    async fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..2000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{what}: told {:?}, sent {:?}", self.told.lock(), self.sent.lock());
    }
}

fn pod(uid: &str, version: &str) -> Value {
    json!({"metadata": {"name": "web", "namespace": "default", "uid": uid, "resourceVersion": version},
        "spec": {"nodeName": "edge-1"}})
}

fn resp(object: Option<Value>, err: Option<Status>) -> Result<Body, SendError> {
    Ok(Body::ObjectResp(Box::new(ObjectResp { object, err: err.map(Into::into) })))
}

fn error(reason: Reason) -> Result<Body, SendError> {
    Ok(Body::Error(Box::new(Status::failure(reason, "no").into())))
}

#[actix::test]
async fn durable_before_told_and_acknowledged_and_back_after_a_restart() {
    let store = Arc::new(MemoryStore::new());
    let world = start(&store);
    world.deliver("insert", "default/pod/web", pod("u", "5")).await.unwrap();
    assert_eq!(world.stored("meta/default/pod/web").unwrap()["kind"], "Pod");
    assert_eq!(*world.told.lock(), ["pod 5"]);
    store.set_faults(Faults { fail_writes: 1, ..Faults::default() });
    let err = world.deliver("update", "default/pod/web", pod("u", "6")).await.unwrap_err();
    assert!(err.why.contains("injected"), "{err}");
    assert_eq!(*world.told.lock(), ["pod 5"], "nothing is told that is not durable");
    world.deliver("update", "default/pod/web", pod("u", "6")).await.unwrap();
    assert_eq!(*world.told.lock(), ["pod 5", "pod 6"], "sent again after the failure: new again");
    drop(world.guard);
    let again = start(&store);
    let pods = again.meta.send(ListPods).await.unwrap().unwrap();
    assert_eq!(objects::text(&pods[0], "/metadata/resourceVersion"), "6");
    again.deliver("delete", "default/pod/web", json!({"metadata": {"uid": "u"}})).await.unwrap();
    assert_eq!(again.stored("meta/default/pod/web"), None);
    assert_eq!(*again.told.lock(), ["gone u"]);
}

#[actix::test]
async fn an_unreadable_store_says_so_and_recovers() {
    let store = Arc::new(MemoryStore::new());
    store.set_faults(Faults { fail_reads: true, ..Faults::default() });
    let world = start(&store);
    assert!(matches!(world.meta.send(ListPods).await.unwrap(), Err(MetaError::Store(_))));
    assert!(world.deliver("insert", "default/pod/web", pod("u", "5")).await.is_err());
    store.set_faults(Faults::default());
    while world.deliver("insert", "default/pod/web", pod("u", "5")).await.is_err() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.meta.send(ListPods).await.unwrap().unwrap().len(), 1);
}

#[actix::test]
async fn missing_objects_are_queried_once_and_kept() {
    let world = start(&Arc::new(MemoryStore::new()));
    let get = |name: &str| world.meta.send(GetObject(ObjectKey::namespaced("default", "secret", name)));
    assert!(matches!(get("s").await.unwrap(), Err(MetaError::Offline)));
    world.connect(false).await;
    world.answer(|message| match message.route.resource.object().unwrap().name() {
        "s" => Ok(Body::Object(json!({"metadata": {"uid": "s1", "resourceVersion": "3"}, "data": {}}))),
        "hidden" => error(Reason::Forbidden),
        _ => error(Reason::NotFound),
    });
    let (first, second) = tokio::join!(get("s"), get("s"));
    assert_eq!(first.unwrap().unwrap().unwrap()["kind"], "Secret");
    assert!(second.unwrap().unwrap().is_some());
    assert!(get("s").await.unwrap().unwrap().is_some(), "now from the store");
    assert_eq!(
        world.sent.lock().iter().filter(|line| line.starts_with("query default/secret/s ")).count(),
        1
    );
    assert!(world.stored("meta/default/secret/s").is_some());
    assert!(get("none").await.unwrap().unwrap().is_none());
    assert_eq!(world.stored("meta/default/secret/none"), None, "an error is never stored as the object");
    assert!(matches!(get("hidden").await.unwrap(), Err(MetaError::Api(_))));
}

#[actix::test]
async fn tokens_are_kept_for_offline_times_even_expired() {
    let world = start(&Arc::new(MemoryStore::new()));
    let get = || {
        world.meta.send(GetToken {
            namespace: "default".into(),
            service_account: "sa".into(),
            request: json!({"spec": {"expirationSeconds": 3607, "boundObjectRef": {"uid": "u"}}}),
        })
    };
    assert!(matches!(get().await.unwrap(), Err(MetaError::Offline)));
    world.connect(false).await;
    world.answer(|_| error(Reason::NotFound));
    assert!(matches!(get().await.unwrap(), Err(MetaError::Api(_))), "an error is no token");
    world.answer(|_| {
        Ok(Body::Object(json!({"status": {"token": "t1", "expirationTimestamp": "2020-01-01T00:00:00Z"}})))
    });
    assert_eq!(get().await.unwrap().unwrap()["status"]["token"], "t1");
    world.answer(|_| Err(SendError::Disconnected));
    assert_eq!(get().await.unwrap().unwrap()["status"]["token"], "t1", "renewal fails: the old one");
    world.meta.send(CloudLinkChanged { connected: false, session: 1, resync: false }).await.unwrap();
    assert_eq!(get().await.unwrap().unwrap()["status"]["token"], "t1", "offline and expired");
    world.deliver("delete", "default/pod/web", json!({"metadata": {"uid": "u"}})).await.unwrap();
    assert!(matches!(get().await.unwrap(), Err(MetaError::Offline)), "it goes with its pod");
}

#[actix::test]
async fn reports_wait_on_disk_until_the_cloud_has_them() {
    let store = Arc::new(MemoryStore::new());
    let world = start(&store);
    world.deliver("insert", "default/pod/web", pod("u", "5")).await.unwrap();
    let report = ReportPodStatus {
        namespace: "default".into(),
        name: "web".into(),
        uid: "u".into(),
        status: json!({"phase": "Succeeded"}),
    };
    let confirm = ConfirmPodDeleted { namespace: "default".into(), name: "web".into(), uid: "u".into() };
    world.meta.send(report).await.unwrap().unwrap();
    world.meta.send(confirm).await.unwrap().unwrap();
    assert!(world.sent.lock().is_empty(), "offline");
    drop(world.guard);
    let world = start(&store);
    world.answer(|message| match message.route.operation.as_str() {
        "patch" => resp(Some(pod("u", "9")), None),
        _ => Ok(Body::Text("OK".into())),
    });
    world.connect(false).await;
    world.eventually("settled", |world| world.told.lock().iter().any(|line| line == "gone u")).await;
    assert_eq!(
        *world.sent.lock(),
        [
            r#"patch default/podpatch/web {"metadata":{"uid":"u"},"status":{"hostIPs":[{"$patch":"replace"}],"message":null,"phase":"Succeeded","podIP":null,"podIPs":[{"$patch":"replace"}],"reason":null}}"#,
            r#"delete default/pod/web {"gracePeriodSeconds":0,"preconditions":{"uid":"u"}}"#,
        ]
    );
    assert!(store.scan(Table::Objects, b"", None, 9).unwrap().is_empty(), "nothing is left");
}

#[actix::test]
async fn a_pod_that_the_cloud_does_not_know_goes_and_one_that_changed_stays() {
    let world = start(&Arc::new(MemoryStore::new()));
    world.deliver("insert", "default/pod/web", pod("u", "5")).await.unwrap();
    world.connect(false).await;
    world.answer(|_| resp(Some(pod("u", "3")), None));
    let report = || ReportPodStatus {
        namespace: "default".into(),
        name: "web".into(),
        uid: "u".into(),
        status: json!({"phase": "Running"}),
    };
    world.meta.send(report()).await.unwrap().unwrap();
    world.eventually("settled", |world| world.stored("podstatus/default/web/u").is_none()).await;
    let version =
        |world: &World| world.stored("meta/default/pod/web").unwrap()["metadata"]["resourceVersion"].clone();
    assert_eq!(version(&world), "5", "an older reply does not replace it");
    world.answer(|_| resp(Some(pod("u", "8")), None));
    world.meta.send(report()).await.unwrap().unwrap();
    world.eventually("kept", |world| version(world) == "8").await;
    world.answer(|_| resp(None, Some(Status::failure(Reason::NotFound, "no"))));
    world.meta.send(report()).await.unwrap().unwrap();
    world.eventually("removed", |world| world.stored("meta/default/pod/web").is_none()).await;
    world.eventually("told", |world| world.told.lock().len() == 3).await;
    assert_eq!(*world.told.lock(), ["pod 5", "cloud true", "gone u"], "a status alone is no news for edged");
}

#[actix::test]
async fn events_leave_the_disk_when_the_cloud_has_read_them() {
    let store = Arc::new(MemoryStore::new());
    let world = start(&store);
    for name in ["e1", "e2"] {
        let event = serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default"},
            "involvedObject": {}, "count": if name == "e1" { 1 } else { 4 }}));
        world.meta.send(ReportEvent(Box::new(event.unwrap()))).await.unwrap().unwrap();
    }
    let waiting = |world: &World| world.store.scan(Table::Outbox, b"event/", None, 9).unwrap().len();
    assert_eq!(waiting(&world), 2);
    world.connect(false).await;
    world.eventually("tried", |world| world.sent.lock().len() == 3).await;
    assert_eq!(waiting(&world), 2, "no proof that they arrived");
    world.answer(|_| resp(None, Some(Status::failure(Reason::NotFound, "no lease"))));
    world.meta.send(CloudLinkChanged { connected: true, session: 2, resync: false }).await.unwrap();
    world.eventually("drained", |world| waiting(world) == 0).await;
    let sent = world.sent.lock();
    assert!(sent[0].starts_with("insert default/event/e1 "), "{sent:?}");
    assert!(sent[1].starts_with("update default/event/e2 "), "{sent:?}");
}

#[actix::test]
async fn no_event_is_taken_for_sent_before_it_is_written() {
    let store = Arc::new(MemoryStore::new());
    let world = start(&store);
    world.answer(|_| resp(None, Some(Status::failure(Reason::NotFound, "no lease"))));
    world.connect(false).await;
    store.set_faults(Faults { write_delay: Duration::from_millis(20), ..Faults::default() });
    let event = |name: &str| {
        let event = json!({"metadata": {"name": name, "namespace": "default"}, "involvedObject": {}});
        ReportEvent(Box::new(serde_json::from_value(event).unwrap()))
    };
    // The second and third come while the first is being written.
    let sent =
        futures_util::future::join_all(["e1", "e2", "e3"].map(|name| world.meta.send(event(name)))).await;
    assert!(sent.into_iter().all(|it| it.unwrap().is_ok()));
    let events =
        |world: &World| world.sent.lock().iter().filter(|it| it.starts_with("insert default/event/")).count();
    world.eventually("all of them went", |world| events(world) == 3).await;
}

#[actix::test]
async fn registration_works_against_both_clouds() {
    let world = start(&Arc::new(MemoryStore::new()));
    let node = || {
        let node =
            json!({"metadata": {"name": "edge-1", "labels": {"a": "1"}}, "status": {"phase": "Running"}});
        RegisterNode(Box::new(serde_json::from_value(node).unwrap()))
    };
    assert!(matches!(world.meta.send(node()).await.unwrap(), Err(MetaError::Offline)));
    world.connect(false).await;
    let stored =
        |version: &str| json!({"metadata": {"name": "edge-1", "uid": "n", "resourceVersion": version}});
    world.answer(move |_| resp(Some(stored("1")), None));
    assert_eq!(world.meta.send(node()).await.unwrap().unwrap()["metadata"]["uid"], "n");
    assert_eq!(world.stored("meta/null/node/edge-1").unwrap()["kind"], "Node");

    // It exists, and a query is not answered: the copy that was pushed has to do.
    world.sent.lock().clear();
    world.answer(move |message| match message.route.operation.as_str() {
        "insert" => resp(None, Some(Status::failure(Reason::AlreadyExists, "yes"))),
        "patch" => resp(Some(stored("7")), None),
        _ => Err(SendError::NoReply(TICK)),
    });
    let registered = world.meta.send(node()).await.unwrap().unwrap();
    assert_eq!(registered["metadata"]["resourceVersion"], "7");
    let sent = world.sent.lock();
    let operations: Vec<&str> = sent.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(operations, ["insert", "query", "update", "patch"]);
    assert_eq!(
        sent[3],
        r#"patch null/nodepatch/edge-1 {"metadata":{"uid":"n"},"status":{"phase":"Running"}}"#
    );
}

#[actix::test]
async fn the_lease_follows_the_cloud() {
    let world = start(&Arc::new(MemoryStore::new()));
    world.connect(false).await;
    let mut held: Option<u64> = None;
    world.answer(move |message| {
        let lease =
            |version: u64| json!({"metadata": {"name": "edge-1", "resourceVersion": version.to_string()}});
        let sent = match &message.body {
            Body::Object(lease) => objects::text(lease, "/metadata/resourceVersion").to_owned(),
            _ => String::new(),
        };
        match (message.route.operation.as_str(), held) {
            ("query" | "update", None) => resp(None, Some(Status::failure(Reason::NotFound, "no"))),
            ("query", Some(version)) => resp(Some(lease(version)), None),
            ("update", Some(version)) if sent != version.to_string() => {
                held = Some(version + 10);
                resp(None, Some(Status::failure(Reason::Conflict, "changed")))
            }
            (_, version) => {
                let next = version.unwrap_or(0) + 1;
                held = if next == 2 { Some(77) } else { Some(next) };
                resp(Some(lease(next)), None)
            }
        }
    });
    let renew = || RenewLease(Box::default());
    for want in ["query insert", "update", "update query update", "update"] {
        world.sent.lock().clear();
        world.meta.send(renew()).await.unwrap().unwrap();
        let sent = world.sent.lock();
        let operations: Vec<&str> = sent.iter().filter_map(|line| line.split(' ').next()).collect();
        assert_eq!(operations.join(" "), want);
    }
    // No answer: it may have arrived all the same, and the next one shall.
    world.answer(|_| Err(SendError::NoReply(Duration::ZERO)));
    for _ in 0..2 {
        world.sent.lock().clear();
        assert!(matches!(world.meta.send(renew()).await.unwrap(), Err(MetaError::Offline)));
        assert!(world.sent.lock()[0].starts_with("update "), "{:?}", world.sent.lock());
    }
}

#[actix::test]
async fn a_new_session_gets_the_listing_until_it_is_answered() {
    let world = start(&Arc::new(MemoryStore::new()));
    world.deliver("insert", "default/pod/web", pod("u", "5")).await.unwrap();
    world.answer(|_| Ok(Body::Object(json!({}))));
    world.connect(true).await;
    let listing = r#"resync null {"last":true,"objects":[["default/pod/web","u",""]],"part":0}"#;
    world.eventually("listed", |world| world.sent.lock().iter().any(|line| line == listing)).await;
    assert_eq!(*world.told.lock(), ["pod 5", "cloud true"]);
}

/// A cloud restored from older data: what it has counts, be it older or removed here.
#[actix::test]
async fn a_cloud_that_went_back_is_believed() {
    let world = start(&Arc::new(MemoryStore::new()));
    world.answer(|_| Ok(Body::Text("OK".into())));
    world.connect(true).await;
    let kept = |uid: &str, version: &str| json!({"metadata": {"name": "kept", "namespace": "default", "uid": uid, "resourceVersion": version}});
    world.deliver("insert", "default/configmap/kept", kept("c", "100")).await.unwrap();
    world.deliver("insert", "default/pod/web", pod("u", "100")).await.unwrap();
    world.deliver("delete", "default/pod/web", pod("u", "101")).await.unwrap();
    world.deliver("update", "default/configmap/kept", kept("c", "50")).await.unwrap();
    world.deliver("update", "default/pod/web", pod("u", "50")).await.unwrap();
    let version =
        |world: &World, key: &str| world.stored(key).map(|it| it["metadata"]["resourceVersion"].clone());
    assert_eq!(version(&world, "meta/default/configmap/kept"), Some(json!("100")), "older: a late duplicate");
    assert_eq!(version(&world, "meta/default/pod/web"), None, "removed: a late duplicate");

    let before = world.sent.lock().len();
    let anew = Resource::Other("null".to_owned());
    let anew = Envelope::new("edgecontroller", "resource", "resync", anew, Body::Text("anew".into()), 1);
    world.meta.send(ApplyDownstream(anew)).await.unwrap().unwrap();
    world.eventually("it lists again", |world| world.sent.lock().len() > before).await;
    world
        .eventually("devices are told", |world| world.told.lock().iter().any(|line| line == "report anew"))
        .await;
    world.deliver("update", "default/configmap/kept", kept("c", "50")).await.unwrap();
    world.deliver("update", "default/pod/web", pod("u", "50")).await.unwrap();
    assert_eq!(version(&world, "meta/default/configmap/kept"), Some(json!("50")));
    assert_eq!(version(&world, "meta/default/pod/web"), Some(json!("50")));
}

#[actix::test]
async fn devices_and_models_reach_both_who_act_on_them() {
    let store = Arc::new(MemoryStore::new());
    let world = start(&store);
    let object = |uid: &str, version: &str| json!({"metadata": {"name": "s-1", "namespace": "default", "uid": uid, "resourceVersion": version}});
    world.deliver("insert", "default/devicemodel/s-1", object("m", "4")).await.unwrap();
    world.deliver("insert", "default/device/s-1", object("u", "5")).await.unwrap();
    world.deliver("update", "default/device/s-1", object("u", "4")).await.unwrap();
    let listed = world.meta.send(ListDevices).await.unwrap().unwrap();
    assert_eq!(listed.devices[0]["kind"], "Device");
    assert_eq!(listed.models[0]["apiVersion"], "devices.kubeedge.io/v1beta1");
    world.deliver("insert", "default/device/s-1", object("u2", "7")).await.unwrap();
    world.deliver("delete", "default/device/s-1", object("u", "6")).await.unwrap();
    world.deliver("delete", "default/device/s-1", object("u2", "8")).await.unwrap();
    world.deliver("delete", "default/devicemodel/s-1", object("m", "9")).await.unwrap();
    let told = |who: &str| -> Vec<String> {
        let prefix = format!("{who}: ");
        world.told.lock().iter().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect()
    };
    let want = ["model s-1", "device 5", "no default/s-1", "device 7", "no default/s-1", "no model s-1"];
    assert_eq!(told("twin"), want);
    assert_eq!(told("dmi"), want);
    assert_eq!(world.meta.send(ListDevices).await.unwrap().unwrap().devices.len(), 0);
}
