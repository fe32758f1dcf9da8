//! Every place where the programs listen, and what comes of knocking there without credentials. The
//! table is `kubeedge::app::doors`, which `docs/SECURITY.md` shows.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kubeedge::app::doors::{self, Address, Door};
use kubeedge::config::{CloudCoreConfig, EdgeCoreConfig, parse};
use kubeedge::identity::{self, Ca, CaSettings, KeyPair};
use rustls::{ClientConnection, StreamOwned};
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use super::harness::process::{PATIENCE, Process, free_port, http, until};
use super::harness::sockets::{Listening, listening};
use super::main_job::{World, sleeper};

/// A stranger's body, as it announces it.
const TEN_GIGABYTES: &str = "10737418240";
/// The door must have closed before so much of it went in. It answers at once; what comes in the two
/// seconds it leaves a client to notice is thrown away, however much that is.
const SWALLOWED: usize = 8 << 30;
/// What a program may grow by meanwhile, KiB.
const GROWTH_KIB: u64 = 32 << 10;

/// Both programs with every door open.
struct House {
    world: World,
    cloud: Vec<(Door, Address)>,
    edge: Vec<(Door, Address)>,
    ca_pem: String,
}

impl House {
    fn new() -> Self {
        let edge_sets = [
            format!("modules.eventBus.internal.tlsAddress=127.0.0.1:{}", free_port()),
            format!("modules.eventBus.internal.websocketAddress=127.0.0.1:{}", free_port()),
            "modules.eventBus.internal.anonymousOnLoopback=false".to_owned(),
            "commonConfig.monitorServer.enableFaultInjection=false".to_owned(),
        ];
        let cloud_sets = ["commonConfig.monitorServer.enableFaultInjection=false"];
        let sets: Vec<&str> = edge_sets.iter().map(String::as_str).collect();
        let world = World::with(&cloud_sets, &sets);
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let own = |sets: &[&str]| sets.iter().map(|&set| set.to_owned()).collect::<Vec<_>>();
        let yaml = read(&world.cloud.dir.join("cloudcore.yaml"));
        let cloud = parse::<CloudCoreConfig>(&yaml, "cloudcore.yaml", &own(&cloud_sets)).unwrap().config;
        let yaml = read(&world.edge.dir.join("edgecore.yaml"));
        let edge = parse::<EdgeCoreConfig>(&yaml, "edgecore.yaml", &own(&sets)).unwrap().config;
        let ca_pem = read(&world.cloud.dir.join("ca/rootCA.crt"));
        let (cloud, edge) = (doors::of_cloudcore(&cloud), doors::of_edgecore(&edge));
        Self { world, cloud, edge, ca_pem }
    }

    fn tcp(&self, door: &Door) -> SocketAddr {
        let all = self.cloud.iter().chain(&self.edge);
        match all.into_iter().find(|(one, _)| one == door) {
            Some((_, Address::Tcp(address))) => address.parse().unwrap(),
            other => panic!("{}: {other:?}", door.name),
        }
    }

    fn unix(&self, door: &Door) -> &Path {
        match self.edge.iter().find(|(one, _)| one == door) {
            Some((_, Address::Unix(path))) => path,
            other => panic!("{}: {other:?}", door.name),
        }
    }

    fn tls(&self, door: &Door, pair: Option<&KeyPair>) -> StreamOwned<ClientConnection, TcpStream> {
        tls(self.tcp(door), &self.ca_pem, pair)
    }
}

fn plain(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn tls(
    address: SocketAddr,
    ca_pem: &str,
    pair: Option<&KeyPair>,
) -> StreamOwned<ClientConnection, TcpStream> {
    let config = identity::client_tls(ca_pem, pair).unwrap();
    let session = ClientConnection::new(config, "127.0.0.1".try_into().unwrap()).unwrap();
    StreamOwned::new(session, plain(address))
}

/// The same for a server whose name is not checked.
fn tls_blind(address: SocketAddr, pair: Option<&KeyPair>) -> StreamOwned<ClientConnection, TcpStream> {
    let mut config = Arc::unwrap_or_clone(identity::client_tls_unverified().unwrap());
    if let Some(pair) = pair {
        use rustls::pki_types::pem::PemObject;
        let chain = rustls::pki_types::CertificateDer::pem_slice_iter(pair.cert_pem.as_bytes());
        let chain: Vec<_> = chain.map(Result::unwrap).collect();
        let key = rustls::pki_types::PrivateKeyDer::from_pem_slice(pair.key_pem.as_bytes()).unwrap();
        let provider = config.crypto_provider();
        let key = rustls::sign::CertifiedKey::from_der(chain, key, provider).unwrap();
        config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(key));
    }
    let session = ClientConnection::new(Arc::new(config), "127.0.0.1".try_into().unwrap()).unwrap();
    StreamOwned::new(session, plain(address))
}

/// Says something; what came back until the other side closed or said nothing more.
fn say(mut stream: impl Read + Write, words: &[u8]) -> Vec<u8> {
    let mut answer = Vec::new();
    if stream.write_all(words).and_then(|()| stream.flush()).is_ok() {
        // An alert or a reset is an end, too.
        stream.read_to_end(&mut answer).ok();
    }
    answer
}

fn status(answer: &[u8]) -> u16 {
    let text = String::from_utf8_lossy(answer);
    let code =
        text.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
    code.unwrap_or_else(|| panic!("no HTTP answer: {text:?}"))
}

fn request(method: &str, path: &str, header: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{header}\r\n").into_bytes()
}

/// A client certificate nobody here knows, for the best of names.
fn forged() -> KeyPair {
    let dir = tempfile::tempdir().unwrap();
    let settings = CaSettings::new(&dir.path().join("ca.crt"), &dir.path().join("ca.key"));
    let ca = Ca::open(settings, SystemTime::now()).unwrap();
    ca.issue_client("system:node:edge-1", &["system:nodes"], Duration::from_secs(3_600)).unwrap()
}

fn shown(doors: &[(Door, Address)]) -> Vec<Listening> {
    let address = |(_, address): &(Door, Address)| match address {
        Address::Tcp(address) => Listening::Tcp(address.parse().unwrap()),
        Address::Unix(path) => Listening::Unix(path.display().to_string()),
    };
    let mut all: Vec<Listening> = doors.iter().map(address).collect();
    all.sort();
    all
}

fn memory_kib(process: &Process) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn every_listening_socket_has_a_rule_and_every_door_keeps_to_it() {
    let house = House::new();
    let (cloud, edge) = (&house.world.cloud, &house.world.edge);
    for (process, known) in [(&cloud.process, &house.cloud), (&edge.process, &house.edge)] {
        // A door that is still being opened.
        until("the doors are those of the table", PATIENCE, || {
            let (is, want) = (listening(process.pid()), shown(known));
            let without: Vec<&Listening> = is.iter().filter(|socket| !want.contains(socket)).collect();
            assert!(without.is_empty(), "no rule in src/app/doors.rs for {without:?}");
            if is == want { Ok(()) } else { Err(format!("{is:?} instead of {want:?}")) }
        });
    }
    let covered: Vec<Door> = house.cloud.iter().chain(&house.edge).map(|(door, _)| *door).collect();
    for door in doors::DOORS {
        assert!(covered.contains(&door), "{} is not open in this test", door.name);
        knock(&house, &door);
    }
    let before = (memory_kib(&cloud.process), memory_kib(&edge.process));
    flood(&house);
    let after = (memory_kib(&cloud.process), memory_kib(&edge.process));
    assert!(after.0 < before.0 + GROWTH_KIB && after.1 < before.1 + GROWTH_KIB, "{before:?} {after:?}");
    dawdle(&house);
    // And it all goes on.
    house.world.kubectl().wait_node("edge-1", "True");
}

/// What somebody gets who has nothing to show.
fn knock(house: &House, door: &Door) {
    let get = |path: &str| request("GET", path, "");
    match *door {
        doors::KUBERNETES_API => {
            for path in ["/api/v1/nodes", "/apis", "/api/v1/namespaces/kubeedge/secrets"] {
                let code = status(&say(house.tls(door, None), &get(path)));
                assert!([401, 403].contains(&code), "{path}: {code}");
            }
            let bearer = request("GET", "/api/v1/nodes", "Authorization: Bearer a.b.c\r\n");
            assert_eq!(status(&say(house.tls(door, None), &bearer)), 401);
            assert_eq!(status(&say(house.tls(door, None), &get("/healthz"))), 200);
            assert_eq!(say(house.tls(door, Some(&forged())), &get("/healthz")), b"", "a forged certificate");
        }
        doors::CLOUD_HUB => {
            let upgrade = request(
                "GET",
                "/e632aba927ea4ac2b575ec1603d56f10/edge-1/events",
                "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
            );
            for pair in [None, Some(&forged())] {
                assert_eq!(say(house.tls(door, pair), &upgrade), b"", "{pair:?}");
            }
        }
        doors::JOIN_SERVER => {
            assert_eq!(status(&say(house.tls(door, None), &get("/ca.crt"))), 200);
            assert_eq!(status(&say(house.tls(door, None), &get("/bundle.json"))), 200);
            assert_eq!(status(&say(house.tls(door, None), &get("/anything"))), 404);
            let certificate = request("GET", "/edge.crt", "NodeName: edge-1\r\nContent-Length: 0\r\n");
            assert_eq!(status(&say(house.tls(door, None), &certificate)), 401);
            let token = "NodeName: edge-1\r\nAuthorization: Bearer a.b.c\r\nContent-Length: 1\r\n";
            let certificate = [request("GET", "/edge.crt", token), b"x".to_vec()].concat();
            assert_eq!(status(&say(house.tls(door, None), &certificate)), 401);
            let join = [request("POST", "/identity/node", "Content-Length: 2\r\n"), b"{}".to_vec()].concat();
            let code = status(&say(house.tls(door, None), &join));
            assert!((400..405).contains(&code), "{code}");
            assert_eq!(say(house.tls(door, Some(&forged())), &certificate), b"", "a forged certificate");
        }
        doors::CLOUD_MONITOR | doors::EDGE_MONITOR => {
            let address = house.tcp(door).to_string();
            for (method, path, want) in [
                ("GET", "/metrics", 200),
                ("GET", "/actors", 200),
                ("POST", "/actors/Monitor/panic", 403),
                ("POST", "/metrics", 404),
                ("PUT", "/actors", 404),
                ("GET", "/debug/pprof", 404),
            ] {
                assert_eq!(http(method, &address, path, &[]).unwrap().0, want, "{method} {path}");
            }
        }
        doors::CLOUD_CONSOLE | doors::EDGE_CONSOLE => {
            let address = house.tcp(door).to_string();
            let json = ("Content-Type", "application/json");
            for (method, path, headers, want) in [
                ("GET", "/console/", [json, ("X", "x")], 200),
                ("GET", "/console/stream", [json, ("X", "x")], 401),
                ("GET", "/console/stream", [json, ("Authorization", "Bearer a.b.c")], 401),
                ("GET", "/console/stream", [json, ("Cookie", "kubeedge-console=a.b.c")], 401),
                ("POST", "/console/session", [json, ("X", "x")], 400),
                ("POST", "/console/session", [json, ("Origin", "https://evil.example")], 403),
                ("GET", "/metrics", [json, ("X", "x")], 404),
                ("PUT", "/console/", [json, ("X", "x")], 405),
            ] {
                assert_eq!(http(method, &address, path, &headers).unwrap().0, want, "{method} {path}");
            }
        }
        doors::MQTT => {
            for (user, want) in [("", 0x87), ("admin", 0x87)] {
                let answer = say(plain(house.tcp(door)), &mqtt_connect(user));
                assert_eq!(answer.get(..4).map(|head| (head[0], head[3])), Some((0x20, want)), "{answer:?}");
            }
        }
        doors::MQTT_TLS => {
            for pair in [None, Some(&forged())] {
                assert_eq!(say(tls_blind(house.tcp(door), pair), &mqtt_connect("")), b"", "{pair:?}");
            }
        }
        doors::MQTT_WEBSOCKET => {
            let address = house.tcp(door);
            let mut upgrade = format!("ws://{address}/").into_client_request().unwrap();
            assert!(tungstenite::client(upgrade.clone(), plain(address)).is_err(), "another subprotocol");
            upgrade.headers_mut().insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
            let (mut socket, _) = tungstenite::client(upgrade, plain(address)).unwrap();
            socket.send(Message::binary(mqtt_connect(""))).unwrap();
            let answer = socket.read().unwrap().into_data();
            assert_eq!((answer[0], answer[3]), (0x20, 0x87), "{answer:?}");
        }
        doors::DMI => {
            use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
            // Another user who gets past the file's mode: tests/it/dmi.rs, another_user_is_refused.
            let file = fs::metadata(house.unix(door)).unwrap();
            assert_eq!(
                (file.permissions().mode() & 0o777, file.uid()),
                (0o660, nix::unistd::getuid().as_raw())
            );
        }
        doors::WORKLOAD_API => {
            assert_eq!(workload_api(house.unix(door), true), Code::PermissionDenied, "no pod");
            assert_eq!(workload_api(house.unix(door), false), Code::InvalidArgument, "no metadata");
        }
        _ => panic!("what does somebody without credentials get at {}?", door.name),
    }
}

/// An MQTT 5 CONNECT.
fn mqtt_connect(user: &str) -> Vec<u8> {
    let mut rest = vec![0, 4, b'M', b'Q', b'T', b'T', 5, 2, 0, 30, 0, 0, 1, b'x'];
    if !user.is_empty() {
        rest[7] |= 0x80;
        rest.extend([0, u8::try_from(user.len()).unwrap()]);
        rest.extend(user.as_bytes());
    }
    [vec![0x10, u8::try_from(rest.len()).unwrap()], rest].concat()
}

/// The code that FetchX509SVID ends with for this process, which is no pod.
fn workload_api(socket: &Path, with_metadata: bool) -> Code {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let endpoint =
            tonic::transport::Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
        let mut client = tonic::client::Grpc::new(endpoint.connect().await.unwrap());
        client.ready().await.unwrap();
        let mut request = Request::new(());
        if with_metadata {
            let key = "workload.spiffe.io";
            request.metadata_mut().insert(key, MetadataValue::from_static("true"));
        }
        let path = http::uri::PathAndQuery::from_static("/SpiffeWorkloadAPI/FetchX509SVID");
        let codec = tonic_prost::ProstCodec::<(), ()>::default();
        match client.server_streaming(request, path, codec).await {
            Err(refused) => refused.code(),
            Ok(answer) => answer.into_inner().message().await.expect_err("an identity").code(),
        }
    })
}

/// Bodies without an end (AT16): the door is shut long before they are told.
fn flood(house: &House) {
    let length = format!("Content-Length: {TEN_GIGABYTES}\r\n");
    let post = |path: &str| request("POST", path, &length);
    let api = request("POST", "/api/v1/namespaces/default/configmaps", &length);
    pour("Kubernetes API", house.tls(&doors::KUBERNETES_API, None), &api);
    let certificate = format!("{length}NodeName: edge-1\r\nAuthorization: Bearer a.b.c\r\n");
    pour("/edge.crt", house.tls(&doors::JOIN_SERVER, None), &request("GET", "/edge.crt", &certificate));
    pour("/identity/node", house.tls(&doors::JOIN_SERVER, None), &post("/identity/node"));
    pour("/nothing", house.tls(&doors::JOIN_SERVER, None), &post("/nothing"));
    pour("the cloud's monitor", plain(house.tcp(&doors::CLOUD_MONITOR)), &post("/metrics"));
    pour("the edge's monitor", plain(house.tcp(&doors::EDGE_MONITOR)), &post("/actors/Edged/panic"));
    pour("the cloud's console", plain(house.tcp(&doors::CLOUD_CONSOLE)), &post("/console/session"));
    pour("the edge's console", plain(house.tcp(&doors::EDGE_CONSOLE)), &post("/console/stream"));
    // A CONNECT of 256 MiB, and one whose client identifier never ends.
    pour("MQTT", plain(house.tcp(&doors::MQTT)), &[0x10, 0xff, 0xff, 0xff, 0x7f]);
    let endless = [&[0x10, 0xff, 0xff, 0x7f][..], &mqtt_connect("")[2..]].concat();
    pour("MQTT, less", plain(house.tcp(&doors::MQTT)), &endless);
    pour("MQTT over TLS", plain(house.tcp(&doors::MQTT_TLS)), &[0x16, 3, 1, 0xff, 0xff]);
    pour("CloudHub", plain(house.tcp(&doors::CLOUD_HUB)), &[0x16, 3, 1, 0xff, 0xff]);
    pour("websocket", plain(house.tcp(&doors::MQTT_WEBSOCKET)), b"GET / HTTP/1.1\r\nX: ");
}

fn pour(what: &str, mut stream: impl Write, head: &[u8]) {
    let block = vec![b'x'; 1 << 20];
    let mut poured = 0;
    let mut ended = stream.write_all(head).and_then(|()| stream.flush()).is_err();
    while !ended {
        assert!(poured < SWALLOWED, "{what} takes everything");
        ended = stream.write_all(&block).and_then(|()| stream.flush()).is_err();
        poured += block.len();
    }
}

/// Clients that begin and do not go on are ended by every TCP door.
fn dawdle(house: &House) {
    let all = house.cloud.iter().chain(&house.edge);
    let waiting: Vec<_> = all
        .filter_map(|(door, address)| match address {
            Address::Tcp(address) => Some((*door, address.parse::<SocketAddr>().unwrap())),
            Address::Unix(_) => None,
        })
        .map(|(door, address)| {
            std::thread::spawn(move || {
                let mut stream = plain(address);
                let first: &[u8] = match door.rule {
                    doors::Rule::LoopbackRead | doors::Rule::TokenRead => b"GET /con",
                    doors::Rule::PasswordOrLoopback if door == doors::MQTT => &[0x10, 20, 0],
                    doors::Rule::PasswordOrLoopback => b"GET / HT",
                    _ => &[0x16, 3, 1],
                };
                stream.write_all(first).unwrap();
                let mut rest = Vec::new();
                match stream.read_to_end(&mut rest) {
                    Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => Err(door.name),
                    _ => Ok(()),
                }
            })
        })
        .collect();
    for thread in waiting {
        assert_eq!(thread.join().unwrap(), Ok(()), "waits for ever");
    }
}

/// Logs of both programs in every detail, and their audit logs, while a node joins, renews, and runs a
/// pod with a Secret and a token.
#[test]
fn no_secret_is_in_any_log_line() {
    let debug = "commonConfig.logging.level=debug";
    let world = World::with(&[debug, "identity.nodeSvidTtlSecs=20"], &[debug]);
    let kubectl = world.kubectl();
    let word = "correct-horse-battery";
    kubectl.run(&["create", "secret", "generic", "s", &format!("--from-literal=k={word}")]);
    kubectl.apply(&sleeper(
        "user",
        "    env: [{ name: K, valueFrom: { secretKeyRef: { name: s, key: k } } }]\n",
    ));
    kubectl.wait_running("user");
    let renewed = || world.edge.dir.join("certs/server.crt").metadata().unwrap().modified().unwrap();
    let before = renewed();
    until("the node has renewed its SVID", PATIENCE, || {
        if renewed() > before { Ok(()) } else { Err("not yet".to_owned()) }
    });
    let encoded = {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(word)
    };
    let read = |path: std::path::PathBuf| {
        fs::read_to_string(&path).unwrap_or_else(|err| panic!("{}: {err}", path.display()))
    };
    let logs = [
        ("cloudcore", world.cloud.process.log()),
        ("edgecore", world.edge.process.log()),
        ("the cloud's audit log", read(world.cloud.dir.join("cloud/audit.log"))),
        ("the edge's audit log", read(world.edge.dir.join("edge/audit.log"))),
    ];
    // How a JWT begins: join tokens, tokens of service accounts.
    for secret in [word, &encoded, "PRIVATE KEY", "eyJ"] {
        for (name, text) in &logs {
            let line = text.lines().find(|line| line.contains(secret));
            assert!(line.is_none(), "{name} tells {secret:?}: {line:?}");
        }
    }
    assert!(logs.iter().all(|(_, text)| !text.is_empty()), "there were logs to look at");
}
