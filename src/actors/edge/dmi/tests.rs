//! The actor against real mappers' sides of the protocol, over unix sockets.

use std::collections::BTreeMap;
use std::path::Path;

use actix::dev::ToEnvelope;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::{Code, Status};

use super::*;
use crate::bus::Mail;
use crate::bus::device_twin::{DeviceObjects, ReportRejected};
use crate::store::{CommitterGuard, CommitterSettings, MemoryStore, Table};
use crate::wire::dmi::{
    self, DeviceMapper, DeviceMessage, DeviceStatus, ManagerClient, MapperInfo, MapperRegisterRequest,
    MapperServer, ModelMessage, ObjectName, ReportDeviceStatesRequest, ReportDeviceStatusRequest,
    SOCKET_MODE, Twin, TwinProperty,
};
use crate::wire::socket::GrpcSocket;

const SHORT: Duration = Duration::from_secs(10);

/// What a mapper was told, in order.
#[derive(Default)]
struct Told {
    calls: Mutex<Vec<String>>,
    /// Devices it refuses.
    refuses: Mutex<Vec<String>>,
}

impl Told {
    fn note(&self, line: String) {
        self.calls.lock().push(line);
    }

    async fn until(&self, want: &[&str]) {
        eventually(
            &format!("{want:?}"),
            || *self.calls.lock() == want,
            || format!("{:?}", self.calls.lock()),
        )
        .await;
    }
}

async fn eventually(what: &str, holds: impl Fn() -> bool, show: impl Fn() -> String) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}: {}", show());
}

fn shown(device: &dmi::Device) -> String {
    let desired = device.spec.as_ref().and_then(|spec| spec.properties.first()?.desired.clone());
    format!("{}={}", device.name, desired.map(|desired| desired.value).unwrap_or_default())
}

impl DeviceMapper for Told {
    async fn register_device(&self, request: DeviceMessage) -> Result<ObjectName, Status> {
        let device = request.device.unwrap();
        if self.refuses.lock().contains(&device.name) {
            return Err(Status::internal("not today"));
        }
        self.note(format!("register {}", shown(&device)));
        Ok(ObjectName::default())
    }
    async fn update_device(&self, request: DeviceMessage) -> Result<(), Status> {
        self.note(format!("update {}", shown(&request.device.unwrap())));
        Ok(())
    }
    async fn remove_device(&self, request: ObjectName) -> Result<(), Status> {
        self.note(format!("remove {}", request.name));
        Ok(())
    }
    async fn get_device(&self, _: ObjectName) -> Result<DeviceMessage, Status> {
        Err(Status::not_found("none"))
    }
    async fn create_model(&self, request: ModelMessage) -> Result<ObjectName, Status> {
        self.note(format!("create model {}", request.model.unwrap().name));
        Ok(ObjectName::default())
    }
    async fn update_model(&self, request: ModelMessage) -> Result<(), Status> {
        self.note(format!("update model {}", request.model.unwrap().name));
        Ok(())
    }
    async fn remove_model(&self, request: ObjectName) -> Result<(), Status> {
        self.note(format!("remove model {}", request.name));
        Ok(())
    }
}

/// Serves a mapper until aborted; its connections end with it.
async fn serve(told: Arc<Told>, path: &Path) -> JoinHandle<()> {
    let socket = GrpcSocket::bind(path, SOCKET_MODE, 8).await.unwrap();
    tokio::spawn(async move {
        let served = Server::builder().serve_with_incoming_shutdown(
            MapperServer::new(told),
            Box::pin(socket.connections()),
            std::future::pending(),
        );
        drop(served.await);
    })
}

struct World {
    folder: tempfile::TempDir,
    store: Arc<MemoryStore>,
    objects: Arc<Mutex<DeviceObjects>>,
    dmi: Addr<Dmi>,
    _guard: CommitterGuard,
}

fn device(name: &str, desired: &str) -> Arc<Value> {
    Arc::new(json!({"metadata": {"namespace": "default", "name": name}, "spec": {
        "deviceModelRef": {"name": "m"}, "protocol": {"protocolName": "fake"},
        "properties": [{"name": "power", "desired": {"value": desired}}]}}))
}

fn model() -> Arc<Value> {
    Arc::new(json!({"metadata": {"namespace": "default", "name": "m"},
        "spec": {"properties": [{"name": "power", "type": "INT", "accessMode": "ReadWrite"}]}}))
}

fn no_twins() -> (Link<ReportTwins>, Link<ReportState>) {
    let unknown = |device| Err(ReportRejected::UnknownDevice(device));
    let twins = Link::from_fn(move |report: ReportTwins| match report.device.name.as_str() {
        "ghost" => unknown(report.device),
        "bad" => Err(ReportRejected::Invalid("power: 5 is above the maximum".to_owned())),
        "stuck" => Err(ReportRejected::NotStored("disk full".to_owned())),
        _ => Ok(()),
    });
    (twins, Link::from_fn(|_: ReportState| Ok(())))
}

fn start(folder: tempfile::TempDir, store: Arc<MemoryStore>, uids: Vec<u32>) -> World {
    let (report_twins, report_state) = no_twins();
    start_with(folder, store, uids, report_twins, report_state)
}

fn start_with(
    folder: tempfile::TempDir,
    store: Arc<MemoryStore>,
    allowed_uids: Vec<u32>,
    report_twins: Link<ReportTwins>,
    report_state: Link<ReportState>,
) -> World {
    let objects = Arc::new(Mutex::new(DeviceObjects {
        models: vec![model()],
        devices: vec![device("a", "1"), device("b", "2")],
    }));
    let listed = Arc::clone(&objects);
    let links = DmiLinks {
        list_devices: Link::from_fn(move |_: ListDevices| Ok(listed.lock().clone())),
        list_desired: Link::from_fn(|_: ListDesired| Ok(Vec::new())),
        report_twins,
        report_state,
        report_event: Link::from_fn(|_: ReportEvent| Ok(())),
    };
    let (committer, guard) =
        Committer::start(Arc::clone(&store) as Arc<dyn Store>, CommitterSettings::default()).unwrap();
    let settings = DmiSettings {
        node: NodeName::parse("edge-1").unwrap(),
        socket: folder.path().join("dmi.sock"),
        allowed_uids,
    };
    let same = Arc::clone(&store) as Arc<dyn Store>;
    let dmi = Dmi::new(settings, same, committer, links, DmiMetrics::new()).start();
    World { folder, store, objects, dmi, _guard: guard }
}

fn world() -> World {
    start(tempfile::tempdir().unwrap(), Arc::new(MemoryStore::default()), Vec::new())
}

impl World {
    fn mapper_path(&self) -> PathBuf {
        self.folder.path().join("fake.sock")
    }

    async fn client(&self) -> ManagerClient {
        let path = self.folder.path().join("dmi.sock");
        for _ in 0..400 {
            if let Ok(dialled) = dmi::dial(&path, SHORT).await {
                return ManagerClient::new(dialled.channel, SHORT);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("nobody serves {}", path.display());
    }

    async fn register(&self, with_data: bool) -> Result<MapperRegisterResponse, Status> {
        let address = self.mapper_path().to_str().unwrap().as_bytes().to_vec();
        let info = MapperInfo { name: "m".into(), protocol: "fake".into(), address, ..MapperInfo::default() };
        self.client().await.register(MapperRegisterRequest { with_data, mapper: Some(info) }).await
    }

    async fn tell<M>(&self, message: M)
    where
        M: Message<Result = ()> + Send + 'static,
        Dmi: Handler<M>,
        Context<Dmi>: ToEnvelope<Dmi, M>,
    {
        self.dmi.send(message).await.unwrap();
    }
}

/// Ends the actor as the end of the process would.
struct Halt;

impl Message for Halt {
    type Result = ();
}

impl Handler<Halt> for Dmi {
    type Result = ();

    fn handle(&mut self, _: Halt, ctx: &mut Context<Self>) {
        ctx.stop();
    }
}

fn report(name: &str, value: String) -> ReportDeviceStatusRequest {
    let twin = Twin {
        property_name: "power".into(),
        observed_desired: None,
        reported: Some(TwinProperty { value, ..TwinProperty::default() }),
    };
    ReportDeviceStatusRequest {
        device_name: name.into(),
        device_namespace: "default".into(),
        reported_device: Some(DeviceStatus { twins: vec![twin], ..DeviceStatus::default() }),
    }
}

#[actix::test]
async fn a_mapper_gets_its_devices_then_only_what_changes() {
    let world = world();
    let told = Arc::new(Told::default());
    let _mapper = serve(Arc::clone(&told), &world.mapper_path()).await;
    let answer = world.register(true).await.unwrap();
    assert_eq!(answer.model_list.len(), 1, "each model once");
    let mut names: Vec<String> = answer.device_list.iter().map(shown).collect();
    names.sort();
    assert_eq!(names, ["a=1", "b=2"]);

    world.tell(DeviceChanged(device("c", "3"))).await;
    told.until(&["register c=3"]).await;
    // What reports do not change is not told: the same Device again, and the same desired values.
    let client = world.client().await;
    for value in 0..50 {
        client.report_status(report("a", value.to_string())).await.unwrap();
        world.tell(DeviceChanged(device("a", "1"))).await;
        let desired = BTreeMap::from([("power".to_owned(), "1".to_owned())]);
        world.tell(DesiredChanged { device: DeviceId::new("default", "a"), desired }).await;
    }
    let desired = BTreeMap::from([("power".to_owned(), "9".to_owned())]);
    world.tell(DesiredChanged { device: DeviceId::new("default", "a"), desired }).await;
    told.until(&["register c=3", "update a=9"]).await;
    world.tell(DeviceRemoved(DeviceId::new("default", "c"))).await;
    told.until(&["register c=3", "update a=9", "remove c"]).await;
    world.tell(DeviceRemoved(DeviceId::new("default", "a"))).await;
    world.tell(DeviceRemoved(DeviceId::new("default", "b"))).await;
    world.tell(ModelRemoved { namespace: "default".into(), name: "m".into() }).await;
    told.until(&["register c=3", "update a=9", "remove c", "remove a", "remove b", "remove model m"]).await;
}

#[actix::test]
async fn a_mapper_that_died_and_came_back_gets_its_devices_again() {
    let world = world();
    let told = Arc::new(Told::default());
    let mapper = serve(Arc::clone(&told), &world.mapper_path()).await;
    let answer = world.register(false).await.unwrap();
    assert_eq!(answer, MapperRegisterResponse::default());
    told.until(&["create model m", "register a=1", "register b=2"]).await;

    mapper.abort();
    drop(mapper.await);
    told.calls.lock().clear();
    // It does not register again; while it is away something changes.
    world.tell(DeviceChanged(device("b", "5"))).await;
    let _mapper = serve(Arc::clone(&told), &world.mapper_path()).await;
    told.until(&["create model m", "register a=1", "register b=5"]).await;
}

#[actix::test]
async fn edgecore_finds_its_mapper_again_after_a_restart() {
    let first = world();
    let told = Arc::new(Told::default());
    let path = first.mapper_path();
    let mapper = serve(Arc::clone(&told), &path).await;
    first.register(true).await.unwrap();
    let World { folder, store, dmi, .. } = first;
    mapper.abort();
    drop(mapper.await);
    dmi.send(Halt).await.unwrap();
    assert!(
        store.get(Table::Objects, b"dmi/mapper/fake").unwrap().is_some(),
        "stored before it was answered"
    );

    let second = start(folder, store, Vec::new());
    second.objects.lock().devices = vec![device("z", "7")];
    let _mapper = serve(Arc::clone(&told), &path).await;
    told.until(&["create model m", "register z=7"]).await;
}

#[actix::test]
async fn a_refused_device_holds_no_other_up_and_is_told_again() {
    let world = world();
    let told = Arc::new(Told::default());
    told.refuses.lock().push("a".to_owned());
    let _mapper = serve(Arc::clone(&told), &world.mapper_path()).await;
    world.register(false).await.unwrap();
    told.until(&["create model m", "register b=2"]).await;
    told.refuses.lock().clear();
    told.until(&["create model m", "register b=2", "register a=1"]).await;
}

#[actix::test]
async fn the_last_mapper_of_a_protocol_wins() {
    let world = world();
    let (old, new) = (Arc::new(Told::default()), Arc::new(Told::default()));
    let _old = serve(Arc::clone(&old), &world.mapper_path()).await;
    world.register(true).await.unwrap();
    let path = world.folder.path().join("new.sock");
    let _new = serve(Arc::clone(&new), &path).await;
    let info = MapperInfo {
        name: "new".into(),
        protocol: "fake".into(),
        address: path.to_str().unwrap().as_bytes().to_vec(),
        ..MapperInfo::default()
    };
    let request = MapperRegisterRequest { with_data: false, mapper: Some(info) };
    world.client().await.register(request).await.unwrap();
    new.until(&["create model m", "register a=1", "register b=2"]).await;
    world.tell(DeviceChanged(device("c", "3"))).await;
    new.until(&["create model m", "register a=1", "register b=2", "register c=3"]).await;
    assert!(old.calls.lock().is_empty());
}

#[actix::test]
async fn errors_say_what_is_wrong() {
    let world = world();
    let client = world.client().await;
    let mut long = report("a", "1".into());
    long.device_name = "n".repeat(dmi::MAX_MESSAGE_BYTES + 1);
    let nameless = MapperRegisterRequest { with_data: true, mapper: Some(MapperInfo::default()) };
    for (outcome, code, text) in [
        (client.report_status(report("ghost", "1".into())).await, Code::NotFound, "default/ghost"),
        (client.report_status(report("bad", "5".into())).await, Code::InvalidArgument, "above the maximum"),
        (client.report_status(report("stuck", "5".into())).await, Code::Unavailable, "disk full"),
        (
            client.report_status(ReportDeviceStatusRequest::default()).await,
            Code::InvalidArgument,
            "deviceName: is missing",
        ),
        (
            client.report_states(ReportDeviceStatesRequest::default()).await,
            Code::InvalidArgument,
            "deviceName: is missing",
        ),
        (client.report_status(long).await, Code::OutOfRange, "too large"),
        (client.register(nameless).await.map(drop), Code::InvalidArgument, "mapper.protocol: is missing"),
        (
            client.register(MapperRegisterRequest::default()).await.map(drop),
            Code::InvalidArgument,
            "mapper: is missing",
        ),
    ] {
        let status = outcome.unwrap_err();
        assert!(status.code() == code && status.message().contains(text), "{status:?}");
    }
    client.report_status(report("a", "1".into())).await.unwrap();
}

#[actix::test]
async fn a_stranger_is_refused() {
    let stranger = nix::unistd::geteuid().as_raw().wrapping_add(4711);
    let world = start(tempfile::tempdir().unwrap(), Arc::new(MemoryStore::default()), vec![stranger]);
    let client = world.client().await;
    let status = client.report_status(report("a", "1".into())).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("dmiAllowedUids"), "{status:?}");
    assert_eq!(world.register(true).await.unwrap_err().code(), Code::PermissionDenied);
    let mode = std::fs::metadata(world.folder.path().join("dmi.sock")).unwrap().permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o660);
}

/// A DeviceTwin that answers when it is let.
struct SlowTwin {
    gate: Arc<Semaphore>,
    in_hand: Arc<Mutex<(usize, usize)>>,
}

impl Actor for SlowTwin {
    type Context = Context<Self>;
}

impl Handler<Mail<ReportTwins>> for SlowTwin {
    type Result = ResponseFuture<Result<(), ReportRejected>>;

    fn handle(&mut self, _: Mail<ReportTwins>, _: &mut Context<Self>) -> Self::Result {
        let (gate, in_hand) = (Arc::clone(&self.gate), Arc::clone(&self.in_hand));
        {
            let mut now = in_hand.lock();
            now.0 += 1;
            now.1 = now.1.max(now.0);
        }
        Box::pin(async move {
            drop(gate.acquire().await);
            in_hand.lock().0 -= 1;
            Ok(())
        })
    }
}

#[actix::test]
async fn reports_wait_for_a_slow_store_and_are_bounded() {
    let (gate, in_hand) = (Arc::new(Semaphore::new(0)), Arc::new(Mutex::new((0, 0))));
    let twin = SlowTwin { gate: Arc::clone(&gate), in_hand: Arc::clone(&in_hand) }.start();
    let link = Link::to("DeviceTwin", &twin, Arc::new(ActorStats::bounded(4096)));
    let (_, report_state) = no_twins();
    let folder = tempfile::tempdir().unwrap();
    let world = start_with(folder, Arc::new(MemoryStore::default()), Vec::new(), link, report_state);
    let client = world.client().await;
    let reports: Vec<_> = (0..100)
        .map(|value: u32| {
            let client = client.clone();
            actix::spawn(async move { client.report_status(report("a", value.to_string())).await })
        })
        .collect();
    let shown = || format!("{:?}", in_hand.lock());
    eventually("as many in hand as one connection may have", || in_hand.lock().0 == 32, shown).await;
    gate.add_permits(1_000);
    for outcome in reports {
        outcome.await.unwrap().unwrap();
    }
    assert_eq!(in_hand.lock().1, 32, "never more");
}

#[actix::test]
async fn a_file_that_is_no_socket_is_left_alone_and_a_dead_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dmi.sock");
    std::fs::write(&path, "precious").unwrap();
    assert_eq!(
        GrpcSocket::bind(&path, SOCKET_MODE, 1).await.unwrap_err().kind(),
        std::io::ErrorKind::AlreadyExists
    );
    std::fs::remove_file(&path).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let alive = GrpcSocket::bind(&path, SOCKET_MODE, 1).await.unwrap();
    assert_eq!(
        GrpcSocket::bind(&path, SOCKET_MODE, 1).await.unwrap_err().kind(),
        std::io::ErrorKind::AddrInUse
    );
    drop(alive);
    assert!(!path.exists());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_says_nothing_gives_its_place_away() {
    use futures_util::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dmi.sock");
    let mut connections = Box::pin(GrpcSocket::bind(&path, SOCKET_MODE, 1).await.unwrap().connections());
    let _silent = tokio::net::UnixStream::connect(&path).await.unwrap();
    let mut mapper = tokio::net::UnixStream::connect(&path).await.unwrap();
    mapper.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut first = connections.next().await.unwrap().unwrap();
    let err = first.read(&mut [0; 64]).await.unwrap_err();
    assert_eq!(err.kind(), std::io::ErrorKind::TimedOut);
    drop(first);
    let mut second = connections.next().await.unwrap().unwrap();
    let mut heard = 0;
    while heard < 33 {
        heard += second.read(&mut [0; 64]).await.unwrap();
    }
    let quiet = tokio::time::timeout(Duration::from_secs(3600), second.read(&mut [0; 64])).await;
    assert!(quiet.is_err(), "an idle mapper stays");
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_says_nothing_gives_way_soon() {
    use futures_util::StreamExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dmi.sock");
    let mut connections = Box::pin(GrpcSocket::bind(&path, SOCKET_MODE, 2).await.unwrap().connections());
    let serving = tokio::spawn(async move {
        while let Some(Ok(mut connection)) = connections.next().await {
            tokio::spawn(async move {
                while matches!(connection.read(&mut [0; 64]).await, Ok(1..)) {
                    connection.write_all(b"x").await.ok();
                }
            });
        }
    });
    let mut crowd = Vec::new();
    for _ in 0..20 {
        crowd.push(tokio::net::UnixStream::connect(&path).await.unwrap());
    }
    let mut mapper = tokio::net::UnixStream::connect(&path).await.unwrap();
    mapper.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    // Two places for twenty: ten seconds each would be a hundred.
    let heard = tokio::time::timeout(Duration::from_secs(30), mapper.read(&mut [0; 1])).await;
    assert_eq!(heard.expect("in time").unwrap(), 1);
    serving.abort();
}
