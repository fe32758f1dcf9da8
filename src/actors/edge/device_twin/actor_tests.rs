//! The actor on a memory store, with EventBus, Dmi, MetaManager and EdgeHub as functions.

use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::json;

use super::*;
use crate::bus::device_twin::{
    DeviceChanged, DeviceMessage, DeviceObjects, FromCloud, ListDesired, MapperReport, NotTaken, ReportAnew,
    ReportRejected, ReportState, ReportTwins,
};
use crate::bus::event_bus::NotPublished;
use crate::bus::meta::MetaError;
use crate::model::{Body, Resource};
use crate::store::{Batch, CommitterGuard, CommitterSettings, Faults, MemoryStore};

type Log = Arc<Mutex<Vec<String>>>;

struct World {
    store: Arc<MemoryStore>,
    /// Topics, in order.
    published: Log,
    told: Log,
    sent: Arc<Mutex<Vec<Envelope>>>,
    broker_away: Arc<AtomicBool>,
    hub_away: Arc<AtomicBool>,
    objects: Arc<Mutex<Result<DeviceObjects, MetaError>>>,
    twin: Addr<DeviceTwin>,
    _guard: CommitterGuard,
}

fn object(desired: &str, version: &str) -> Arc<Value> {
    Arc::new(
        json!({"metadata": {"namespace": "default", "name": "s", "uid": "u", "resourceVersion": version},
        "spec": {"properties": [{"name": "t", "desired": {"value": desired}}]}}),
    )
}

fn start(store: &Arc<MemoryStore>) -> World {
    let (published, told, sent) = (Log::default(), Log::default(), Arc::<Mutex<Vec<Envelope>>>::default());
    let (broker_away, hub_away) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let devices = DeviceObjects { models: Vec::new(), devices: vec![object("20", "1")] };
    let objects = Arc::new(Mutex::new(Ok(devices)));
    let (p, t1, t2, s, b, h, o) = (
        published.clone(),
        told.clone(),
        told.clone(),
        sent.clone(),
        broker_away.clone(),
        hub_away.clone(),
        objects.clone(),
    );
    let links = TwinLinks {
        list_devices: Link::from_fn(move |_| o.lock().clone()),
        send: Link::from_fn(move |message: SendUpstream| {
            assert_eq!(message.class, Class::Device);
            if h.load(Ordering::Relaxed) {
                return Err(SendError::QueueFull);
            }
            s.lock().push(message.envelope);
            Ok(())
        }),
        publish: Link::from_fn(move |Publish(group)| {
            if b.load(Ordering::Relaxed) {
                return Err(NotPublished("away".into()));
            }
            p.lock().extend(group.into_iter().map(|publication| publication.topic));
            Ok(())
        }),
        members_changed: Link::from_fn(move |MembersChanged(members)| {
            t1.lock().push(format!("members {}", members.len()))
        }),
        desired_changed: Link::from_fn(move |news: DesiredChanged| {
            t2.lock().push(format!("desired {} {:?}", news.device, news.desired));
        }),
    };
    let (committer, guard) =
        Committer::start(Arc::clone(store) as Arc<dyn Store>, CommitterSettings::default()).unwrap();
    let settings =
        TwinSettings { node: NodeName::parse("edge-1").unwrap(), config: DeviceTwinConfig::default() };
    let store_of_twin = Arc::clone(store) as Arc<dyn Store>;
    let twin = DeviceTwin::new(settings, store_of_twin, committer, links, DeviceTwinMetrics::default());
    World {
        store: Arc::clone(store),
        published,
        told,
        sent,
        broker_away,
        hub_away,
        objects,
        twin: Supervisor::start(move |_| twin),
        _guard: guard,
    }
}

impl World {
    async fn ready() -> Self {
        let world = start(&Arc::new(MemoryStore::new()));
        world
            .eventually("device is known", |world| world.told.lock().iter().any(|line| line == "members 1"))
            .await;
        world.published.lock().clear();
        world
    }

    fn send(&self, value: &str, receipt: Batch) -> impl Future<Output = Result<(), NotTaken>> + use<> {
        let payload = json!({"event_id": value, "twin": {"t": {"actual": {"value": value}}}}).to_string();
        let topic = "$hw/events/device/default/s/twin/update".to_owned();
        let answer = self.twin.send(DeviceMessage { topic, payload: Bytes::from(payload), receipt });
        async { answer.await.unwrap() }
    }

    fn row(&self) -> Value {
        let row = self.store.get(Table::Objects, b"twin/default/s").unwrap();
        row.map_or(Value::Null, |row| serde_json::from_slice(&row).unwrap())
    }

    /// Reports of the twin sent so far.
    fn reports(&self) -> Vec<Envelope> {
        let sent = self.sent.lock();
        let is_report = |message: &&Envelope| matches!(message.route.resource, Resource::DeviceTwin { .. });
        sent.iter().filter(is_report).cloned().collect()
    }

    async fn confirm(&self, report: &Envelope) {
        let mut answer = report.response(Body::Text("OK".into()), 1);
        answer.route.group = "twin".into();
        answer.route.resource = Resource::Twin;
        self.twin.send(FromCloud(answer)).await.unwrap();
    }

    async fn connect(&self, session: u64, connected: bool) {
        self.twin.send(CloudLinkChanged { connected, session, resync: true }).await.unwrap();
    }

    async fn eventually(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        for _ in 0..2000 {
            if holds(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{what}: told {:?}, published {:?}", self.told.lock(), self.published.lock());
    }
}

#[actix::test]
async fn durable_then_published_then_answered_then_reported() {
    let world = World::ready().await;
    world.connect(1, true).await;
    world.eventually("the desired value is reported", |world| world.reports().len() == 1).await;
    world.confirm(&world.reports()[0]).await;
    let queued = Batch::new().put(Table::Outbox, "bus/1", "message");
    world.store.write(&[queued]).unwrap();
    world.store.set_faults(Faults { fail_writes: 1, ..Faults::default() });
    let receipt = || Batch::new().delete(Table::Outbox, "bus/1");
    let NotTaken(why) = world.send("21", receipt()).await.unwrap_err();
    assert!(why.contains("injected"), "{why}");
    assert!(world.published.lock().is_empty(), "nothing is told that is not durable");
    assert_eq!(world.row()["properties"]["t"]["actual"], Value::Null);
    assert!(world.store.get(Table::Outbox, b"bus/1").unwrap().is_some());

    world.send("21", receipt()).await.unwrap();
    assert_eq!(world.row()["properties"]["t"]["actual"]["value"], "21");
    assert_eq!(world.store.get(Table::Outbox, b"bus/1").unwrap(), None);
    world.eventually("answers", |world| world.published.lock().len() == 3).await;
    let device = "$hw/events/device/default/s/twin/update";
    assert_eq!(
        *world.published.lock(),
        ["result", "document", "delta"].map(|what| format!("{device}/{what}"))
    );
    // The failed write took back the confirmation that waited for it: the desired value is told
    // again, and the new one follows.
    world.eventually("a report", |world| world.reports().len() == 2).await;
    world.confirm(&world.reports()[1]).await;
    world.eventually("the new value is reported", |world| world.reports().len() == 3).await;
    let report = world.reports().pop().unwrap();
    let Body::Object(content) = &report.body else { panic!("{report:?}") };
    assert_eq!(content["twin"]["t"]["actual"]["value"], "21");
    world.confirm(&report).await;
    world
        .eventually("the confirmation is on disk", |world| world.row()["properties"]["t"]["mark"].is_null())
        .await;
}

#[actix::test]
async fn what_the_cloud_lost_is_reported_anew() {
    let world = World::ready().await;
    world.connect(1, true).await;
    world.eventually("the desired value is reported", |world| world.reports().len() == 1).await;
    world.send("21", Batch::new()).await.unwrap();
    world.confirm(&world.reports()[0]).await;
    world.eventually("the value is reported", |world| world.reports().len() == 2).await;
    world.confirm(&world.reports()[1]).await;
    world.eventually("all is confirmed", |world| world.row()["properties"]["t"]["mark"].is_null()).await;
    world.twin.send(ReportAnew).await.unwrap();
    world.eventually("it is reported again", |world| world.reports().len() == 3).await;
    let report = world.reports().pop().unwrap();
    let Body::Object(content) = &report.body else { panic!("{report:?}") };
    assert_eq!(content["twin"]["t"]["actual"]["value"], "21");
    world.confirm(&report).await;
    world.eventually("once", |world| world.row()["properties"]["t"]["mark"].is_null()).await;
}

#[actix::test]
async fn what_comes_during_a_write_is_written_together() {
    let world = World::ready().await;
    let before = world.store.writes();
    world.store.set_faults(Faults { write_delay: Duration::from_millis(30), ..Faults::default() });
    let receipt = |n: usize| Batch::new().put(Table::Outbox, format!("done/{n:04}"), "");
    let all = (0..500).map(|n| world.send(&n.to_string(), receipt(n)));
    let all = futures_util::future::join_all(all).await;
    assert!(all.iter().all(Result::is_ok));
    assert!(world.store.writes() - before <= 4, "{} writes for 500 updates", world.store.writes() - before);
    assert_eq!(world.row()["properties"]["t"]["actual"]["value"], "499");
    assert_eq!(world.row()["properties"]["t"]["actual_version"]["edge"], 500);
    assert_eq!(world.store.scan(Table::Outbox, b"done/", None, 1000).unwrap().len(), 500);
}

/// AT12: 1,000 twins, a disk that is full again and again; then there is space.
#[actix::test]
async fn a_full_disk_is_an_answer_and_forgiven() {
    let world = World::ready().await;
    let added: Vec<Value> = (0..1000).map(|n| json!({"id": format!("default/d{n}"), "name": "d"})).collect();
    let body = Body::Object(json!({"added_devices": added}));
    let joins = Envelope::new("devicecontroller", "twin", "update", Resource::Membership, body, 1);
    world.twin.send(FromCloud(joins)).await.unwrap();
    world.eventually("members", |world| world.told.lock().iter().any(|line| line == "members 1001")).await;
    let update = |round: usize, n: usize| {
        let payload = json!({"twin": {"t": {"actual": {"value": round.to_string()}}}}).to_string();
        let topic = format!("$hw/events/device/default/d{n}/twin/update");
        let receipt = Batch::new();
        world.twin.send(DeviceMessage { topic, payload: Bytes::from(payload), receipt })
    };
    let mut refused = 0;
    for round in 0..10 {
        let fails = u32::from(round % 3 == 1);
        world.store.set_faults(Faults { fail_writes: fails, ..Faults::default() });
        let mut open: Vec<usize> = (0..1000).collect();
        while !open.is_empty() {
            let answers = futures_util::future::join_all(open.iter().map(|n| update(round, *n))).await;
            let failed = |(n, answer): (&usize, Result<Result<(), NotTaken>, MailboxError>)| {
                answer.unwrap().is_err().then_some(*n)
            };
            open = open.iter().zip(answers).filter_map(failed).collect();
            refused += open.len();
        }
    }
    assert!(refused > 0, "no write failed");
    for n in 0..1000 {
        let row = world.store.get(Table::Objects, format!("twin/default/d{n}").as_bytes()).unwrap().unwrap();
        let row: Value = serde_json::from_slice(&row).unwrap();
        assert_eq!(row["properties"]["t"]["actual"]["value"], "9", "d{n}");
        assert_eq!(row["properties"]["t"]["actual_version"]["edge"], 10, "d{n}: each update once");
    }
}

#[actix::test]
async fn a_restart_has_what_was_acknowledged_and_reports_it() {
    let store = Arc::new(MemoryStore::new());
    {
        let world = start(&store);
        world.eventually("device is known", |world| !world.told.lock().is_empty()).await;
        world.send("21", Batch::new()).await.unwrap();
        let state = ReportState { device: DeviceId::new("default", "s"), state: "Online".into() };
        world.twin.send(state).await.unwrap().unwrap();
    }
    let world = start(&store);
    world.eventually("device is known", |world| world.told.lock().len() == 2).await;
    assert_eq!(*world.told.lock(), ["members 1".to_owned(), "desired default/s {\"t\": \"20\"}".to_owned()]);
    let desired = world.twin.send(ListDesired).await.unwrap().unwrap();
    assert_eq!(desired[0].desired["t"], "20");
    assert!(world.sent.lock().is_empty(), "no session");
    world.hub_away.store(true, Ordering::Relaxed);
    world.connect(1, true).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    world.hub_away.store(false, Ordering::Relaxed);
    world.eventually("tried again", |world| world.sent.lock().len() >= 2).await;
    let resources: Vec<String> = world.sent.lock().iter().map(|it| it.route.resource.to_string()).collect();
    assert!(resources.contains(&"device/default/s/twin/edge_updated".to_owned()), "{resources:?}");
    assert!(resources.contains(&"device/default/s/state/update".to_owned()), "{resources:?}");
}

/// Ends the actor's context, as a panic would.
#[derive(Message)]
#[rtype(result = "()")]
struct Fall;

impl Handler<Fall> for DeviceTwin {
    type Result = ();

    fn handle(&mut self, _: Fall, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

#[actix::test]
async fn a_supervised_restart_reads_what_the_write_under_way_left() {
    let world = World::ready().await;
    world.connect(1, true).await;
    world.store.set_faults(Faults { write_delay: Duration::from_millis(50), ..Faults::default() });
    let under_way = actix::spawn(world.send("21", Batch::new()));
    tokio::time::sleep(Duration::from_millis(10)).await;
    world.twin.send(Fall).await.unwrap();
    let NotTaken(why) = under_way.await.unwrap().unwrap_err();
    assert!(why.contains("restarted"), "{why}");
    while world.send("22", Batch::new()).await.is_err() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(world.row()["properties"]["t"]["actual_version"]["edge"], 2, "both are in the row");
    let has_22 = |report: &Envelope| match &report.body {
        Body::Object(content) => content["twin"]["t"]["actual"]["value"] == "22",
        _ => false,
    };
    for _ in 0..200 {
        let reports = world.reports();
        if reports.iter().any(has_22) {
            return;
        }
        world.confirm(reports.last().unwrap()).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never reported");
}

#[actix::test]
async fn answers_wait_while_no_broker_takes_them() {
    let world = World::ready().await;
    world.broker_away.store(true, Ordering::Relaxed);
    world.send("1", Batch::new()).await.unwrap();
    world.send("2", Batch::new()).await.unwrap();
    assert!(world.published.lock().is_empty());
    world.broker_away.store(false, Ordering::Relaxed);
    world.eventually("all of them", |world| world.published.lock().len() == 6).await;
    let results = world.published.lock().iter().filter(|topic| topic.ends_with("result")).count();
    assert_eq!(results, 2);
}

#[actix::test]
async fn a_mapper_is_answered_and_its_echo_sets_nothing() {
    let world = World::ready().await;
    world.twin.send(DeviceChanged(object("30", "2"))).await.unwrap();
    let device = DeviceId::new("default", "s");
    let report = MapperReport { reported: Some("19".into()), observed_desired: Some("20".into()) };
    let twins = BTreeMap::from([("t".to_owned(), report)]);
    world.twin.send(ReportTwins { device: device.clone(), twins: twins.clone() }).await.unwrap().unwrap();
    let row = world.row();
    assert_eq!(row["properties"]["t"]["expected"]["value"], "30");
    assert_eq!(row["properties"]["t"]["actual"]["value"], "19");
    let unknown = ReportTwins { device: DeviceId::new("default", "x"), twins };
    let answer = world.twin.send(unknown).await.unwrap();
    assert!(matches!(answer, Err(ReportRejected::UnknownDevice(_))));
    let last = "desired default/s {\"t\": \"30\"}".to_owned();
    world.eventually("Dmi hears", |world| world.told.lock().contains(&last)).await;
}

#[actix::test]
async fn nothing_is_taken_before_the_objects_are_known() {
    let store = Arc::new(MemoryStore::new());
    store.set_faults(Faults { fail_reads: true, ..Faults::default() });
    let world = start(&store);
    while !world.send("1", Batch::new()).await.unwrap_err().0.contains("injected") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    *world.objects.lock() = Err(MetaError::Store("broken".into()));
    store.set_faults(Faults::default());
    world.twin.send(DeviceChanged(object("25", "3"))).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let NotTaken(why) = world.send("1", Batch::new()).await.unwrap_err();
    assert!(why.contains("not known yet"), "{why}");
    let devices = DeviceObjects { models: Vec::new(), devices: vec![object("20", "1")] };
    *world.objects.lock() = Ok(devices);
    let newer = "desired default/s {\"t\": \"25\"}".to_owned();
    world.eventually("news that came before", |world| world.told.lock().contains(&newer)).await;
    world.send("1", Batch::new()).await.unwrap();
}
