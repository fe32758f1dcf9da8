//! Hostile neighbours at every door of both programs (`kubeedge::app::doors`): what each act costs in memory
//! and CPU, which counter tells of it, and whether honest clients are served meanwhile (users.md C10, AT16).
//!
//! Memory is anonymous memory of a debug build, whose futures and buffers are larger than a release's.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use kubeedge::app::doors::{self, Address, Door};
use kubeedge::config::{CloudCoreConfig, EdgeCoreConfig, parse};
use kubeedge::identity::KeyPair;
use tokio_tungstenite::tungstenite::{self, Message, client::IntoClientRequest};

use super::harness::cluster::Kubectl;
use super::harness::hostile::{self, Crowd, Watch, dial, figure, rest, status, tls};
use super::harness::machine::{self, Session, join, token};
use super::harness::process::{PATIENCE, alone, free_port, until};
use super::main_job::{World, sleeper};
use super::neighbours_acts as acts;
use super::neighbours_stops as stops;

/// What a program may grow by during one act, KiB.
const RISE_KIB: u64 = 16 << 10;
/// Cores a program may spend on an act, and what it may spend beside: its own work, and honest visits.
const CORES: f64 = 1.2;
const OWN_WORK: Duration = Duration::from_secs(3);
/// An honest client waits so long for each answer.
const HONEST_PATIENCE: Duration = Duration::from_secs(20);
/// An honest visit that took less was not kept out by acts that are shorter themselves.
const QUICK: Duration = Duration::from_secs(5);
/// What the page says of an end, and so much more on a busy machine.
const SLACK: Duration = Duration::from_secs(20);
static ALL: [Door; doors::DOORS.len()] = doors::DOORS;
/// Connections of a crowd.
const CROWD: usize = 5_000;

/// Tells those who go on until then to stop, also when a test fails meanwhile.
pub struct Ends<'f>(pub &'f AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Both programs with every door open, an honest node with a runtime, and two that only have certificates.
pub struct House {
    pub world: World,
    doors: Vec<(Door, Address)>,
    pub hostile_node: KeyPair,
    honest_node: KeyPair,
    pub admin: KeyPair,
    edge: KeyPair,
}

impl House {
    pub fn new() -> Self {
        let edge_sets = [
            format!("modules.eventBus.internal.tlsAddress=127.0.0.1:{}", free_port()),
            format!("modules.eventBus.internal.websocketAddress=127.0.0.1:{}", free_port()),
        ];
        let sets: Vec<&str> = edge_sets.iter().map(String::as_str).collect();
        // Who takes nothing for so long is cut off, so that an act sees it.
        let world = World::with(&["modules.cloudHub.writeTimeout=5"], &sets);
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let yaml = read(&world.cloud.dir.join("cloudcore.yaml"));
        let cloud = parse::<CloudCoreConfig>(&yaml, "cloudcore.yaml", &[]).unwrap().config;
        let yaml = read(&world.edge.dir.join("edgecore.yaml"));
        let edge = parse::<EdgeCoreConfig>(&yaml, "edgecore.yaml", &edge_sets).unwrap().config;
        let doors = [doors::of_cloudcore(&cloud), doors::of_edgecore(&edge)].concat();
        let node = |name: &str| join(&world.cloud, name, token(&world.cloud, &[])).unwrap().svid;
        let certs = world.edge.dir.join("certs");
        let edge =
            KeyPair { cert_pem: read(&certs.join("server.crt")), key_pem: read(&certs.join("server.key")) };
        let (hostile_node, honest_node) = (node("hostile"), node("honest"));
        let admin = admin(&world.cloud.dir.join("admin.conf"));
        Self { world, doors, hostile_node, honest_node, admin, edge }
    }

    pub fn tcp(&self, door: &Door) -> SocketAddr {
        match self.doors.iter().find(|(one, _)| one == door) {
            Some((_, Address::Tcp(address))) => address.parse().unwrap(),
            other => panic!("{}: {other:?}", door.name),
        }
    }

    pub fn unix(&self, door: &Door) -> PathBuf {
        match self.doors.iter().find(|(one, _)| one == door) {
            Some((_, Address::Unix(path))) => path.clone(),
            other => panic!("{}: {other:?}", door.name),
        }
    }

    /// Whose certificate a hostile client shows at a door with TLS, where it gets that far.
    pub fn pair(&self, door: &Door) -> Option<&KeyPair> {
        match *door {
            doors::KUBERNETES_API => Some(&self.admin),
            doors::CLOUD_HUB => Some(&self.hostile_node),
            doors::MQTT_TLS => Some(&self.edge),
            _ => None,
        }
    }

    fn pid(&self, door: &Door) -> u32 {
        if door.program == "cloudcore" {
            self.world.cloud.process.pid()
        } else {
            self.world.edge.process.pid()
        }
    }

    fn monitor(&self, door: &Door) -> &str {
        if door.program == "cloudcore" { &self.world.cloud.monitor } else { &self.world.edge.monitor }
    }

    /// One honest visit; what went wrong.
    fn visit(&self, door: &Door) -> Result<(), String> {
        let fail = |err: std::io::Error| err.to_string();
        let connect = |address: SocketAddr| -> std::io::Result<std::net::TcpStream> {
            let stream = std::net::TcpStream::connect_timeout(&address, HONEST_PATIENCE)?;
            stream.set_read_timeout(Some(HONEST_PATIENCE))?;
            Ok(stream)
        };
        let want = |got: u16| if got == 200 { Ok(()) } else { Err(format!("status {got}")) };
        match *door {
            doors::KUBERNETES_API | doors::JOIN_SERVER => {
                let path = if *door == doors::JOIN_SERVER { "/ca.crt" } else { "/healthz" };
                let mut stream = tls(connect(self.tcp(door)).map_err(fail)?, None);
                stream.write_all(&get(path)).map_err(fail)?;
                want(status(&rest(&mut stream)))
            }
            doors::CLOUD_HUB => {
                // The dialling of the harness gives up with a panic: look first.
                connect(self.tcp(door)).map_err(fail)?;
                Session::open(&self.world.cloud, "honest", &self.honest_node)
                    .map(drop)
                    .map_err(|(code, why)| format!("{code} {why}"))
            }
            doors::CLOUD_MONITOR | doors::EDGE_MONITOR | doors::CLOUD_CONSOLE | doors::EDGE_CONSOLE => {
                let is_monitor = [doors::CLOUD_MONITOR, doors::EDGE_MONITOR].contains(door);
                let mut stream = connect(self.tcp(door)).map_err(fail)?;
                stream.write_all(&get(if is_monitor { "/healthz" } else { "/console/" })).map_err(fail)?;
                want(status(&rest(&mut stream)))
            }
            doors::MQTT => connack(connect(self.tcp(door)).map_err(fail)?),
            doors::MQTT_TLS => connack(tls(connect(self.tcp(door)).map_err(fail)?, Some(&self.edge))),
            doors::MQTT_WEBSOCKET => {
                let address = self.tcp(door);
                let mut socket = websocket(address, connect(address).map_err(fail)?)?;
                socket.send(Message::binary(acts::mqtt_connect())).map_err(|err| err.to_string())?;
                let answer = socket.read().map_err(|err| err.to_string())?.into_data();
                if answer.starts_with(&[0x20]) { Ok(()) } else { Err(format!("{answer:?}")) }
            }
            doors::DMI | doors::WORKLOAD_API => {
                let mut stream = UnixStream::connect(self.unix(door)).map_err(fail)?;
                stream.set_read_timeout(Some(HONEST_PATIENCE)).map_err(fail)?;
                stream.write_all(acts::HTTP2_HELLO).map_err(fail)?;
                let mut head = [0; 9];
                stream.read_exact(&mut head).map_err(fail)?;
                // A SETTINGS frame (RFC 9113 section 6.5).
                if head[3] == 4 { Ok(()) } else { Err(format!("{head:?}")) }
            }
            _ => panic!("how does an honest client visit {}?", door.name),
        }
    }

    /// For when nobody is hostile: sooner or later is enough.
    fn honest(&self, door: &Door, when: &str) {
        until(&format!("{} serves honest clients {when}", door.name), PATIENCE, || self.visit(door));
    }

    pub fn kubectl(&self) -> Kubectl {
        self.world.kubectl()
    }
}

pub fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").into_bytes()
}

fn connack(mut stream: impl Read + Write) -> Result<(), String> {
    stream.write_all(&acts::mqtt_connect()).map_err(|err| err.to_string())?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).map_err(|err| err.to_string())?;
    if (answer[0], answer[3]) == (0x20, 0) { Ok(()) } else { Err(format!("{answer:?}")) }
}

pub fn websocket<S: Read + Write>(
    address: SocketAddr,
    stream: S,
) -> Result<tungstenite::WebSocket<S>, String> {
    let mut upgrade = format!("ws://{address}/").into_client_request().unwrap();
    upgrade.headers_mut().insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
    tungstenite::client(upgrade, stream).map(|(socket, _)| socket).map_err(|err| err.to_string())
}

/// The client certificate of a kubeconfig.
fn admin(kubeconfig: &Path) -> KeyPair {
    let text = fs::read_to_string(kubeconfig).unwrap();
    let field = |name: &str| {
        let after = text.split_once(name).unwrap().1.trim_start_matches(['"', ':', ' ']);
        let data = after.split(['"', '\n']).next().unwrap().trim();
        String::from_utf8(base64::engine::general_purpose::STANDARD.decode(data).unwrap()).unwrap()
    };
    KeyPair { cert_pem: field("client-certificate-data"), key_pem: field("client-key-data") }
}

/// User and system time of a program.
fn cpu(pid: u32) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name may hold blanks; it ends with the last parenthesis.
    let fields: Vec<&str> = text.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().unwrap()).sum();
    let a_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).unwrap().unwrap();
    Duration::from_secs_f64(ticks as f64 / a_second as f64)
}

/// Runs an act and says what it cost.
fn costs(house: &House, door: &Door, name: &str, counters: &[&str], act: impl FnOnce()) {
    let monitor = house.monitor(door).to_owned();
    let sum = || -> f64 { counters.iter().map(|start| figure(&monitor, start)).sum() };
    let (pid, before) = (house.pid(door), sum());
    let (begun, spent) = (Instant::now(), cpu(pid));
    let watch = Watch::of(pid);
    act();
    let rise = watch.rise();
    let (spent, took) = (cpu(pid).saturating_sub(spent), begun.elapsed());
    println!(
        "{:>9} {:20} {name:16} {rise:>6} KiB, {spent:.1?} of CPU in {took:.1?}",
        door.program, door.name
    );
    assert!(rise <= RISE_KIB, "{} of {}: {name} cost {rise} KiB", door.name, door.program);
    let most = took.mul_f64(CORES) + OWN_WORK;
    assert!(
        spent <= most,
        "{} of {}: {name} cost {spent:.1?} of CPU in {took:.1?}, not {most:.1?}",
        door.name,
        door.program
    );
    if counters.is_empty() {
        return;
    }
    until(&format!("{}: {name} is counted in {counters:?}", door.name), PATIENCE, || {
        let now = sum();
        if now > before { Ok(()) } else { Err(format!("{before} before, {now} now")) }
    });
}

/// The act, again and again, until an honest visit came through during it: one act went on from the visit's
/// beginning to its end, or whole acts did between them, which are shorter than a visit then.
fn beside(house: &House, door: &Door, name: &str, act: &(dyn Fn() + Send + Sync)) {
    // Odd while the act goes on.
    let turns = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ends = Ends(&stop);
        let acting = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                turns.fetch_add(1, Ordering::SeqCst);
                act();
                turns.fetch_add(1, Ordering::SeqCst);
            }
        });
        until(&format!("{} serves honest clients during: {name}", door.name), PATIENCE, || {
            if acting.is_finished() {
                // It failed, and says below why.
                return Ok(());
            }
            let (before, begun) = (turns.load(Ordering::SeqCst), Instant::now());
            house.visit(door)?;
            let (passed, took) = (turns.load(Ordering::SeqCst) - before, begun.elapsed());
            let is_the_same = before % 2 == 1 && passed == 0;
            let saw_whole_ones = passed >= 4 && took < QUICK;
            if is_the_same || saw_whole_ones {
                Ok(())
            } else {
                Err(format!("only when an act had ended: {passed} turns, {took:?}"))
            }
        });
        drop(ends);
        if let Err(panic) = acting.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A crowd, and another when it has gone, until an honest visit came through while part of it was there.
fn beside_a_crowd<C>(house: &House, door: &Door, gather: impl Fn() -> C, left: impl Fn(&C) -> usize) {
    let mut crowd = gather();
    until(&format!("{} serves honest clients beside a crowd", door.name), PATIENCE, || {
        if left(&crowd) == 0 {
            crowd = gather();
        }
        house.visit(door)?;
        if left(&crowd) > 0 { Ok(()) } else { Err("only when the crowd had gone".to_owned()) }
    });
}

fn of_program(program: &str) -> impl Iterator<Item = &'static Door> {
    ALL.iter().filter(move |door| door.program == program)
}

fn at_both(work: impl Fn(&'static Door) + Sync) {
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = ["cloudcore", "edgecore"]
            .map(|program| scope.spawn(move || of_program(program).for_each(work)))
            .into();
        for thread in threads {
            if let Err(panic) = thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    });
}

fn all_is_well(house: &House, pod: &str) {
    let kubectl = house.kubectl();
    kubectl.wait_node("edge-1", "True");
    kubectl.apply(&sleeper(pod, ""));
    kubectl.wait_running(pod);
    kubectl.run(&["delete", "pod", pod]);
}

#[test]
fn no_act_at_any_door_costs_memory_or_an_honest_clients_visit() {
    let _alone = alone();
    hostile::many_files();
    let house = House::new();
    for door in &ALL {
        house.honest(door, "at first");
    }
    // What has to be loaded once is loaded.
    all_is_well(&house, "first");
    at_both(|door| {
        for (name, counters, act) in acts::at(&house, door) {
            costs(&house, door, name, &counters, || beside(&house, door, name, act.as_ref()));
        }
    });
    all_is_well(&house, "second");
}

#[test]
fn five_thousand_connections_at_any_door_keep_nobody_out() {
    let _alone = alone();
    hostile::many_files();
    let house = House::new();
    for door in &ALL {
        house.honest(door, "at first");
    }
    all_is_well(&house, "first");
    at_both(|door| {
        costs(&house, door, "crowd", &stops::crowd_counters(door), || {
            if [doors::DMI, doors::WORKLOAD_API].contains(door) {
                let gather = || {
                    let crowd = stops::unix_crowd(&house.unix(door), CROWD);
                    assert!(!crowd.is_empty());
                    crowd
                };
                return beside_a_crowd(&house, door, gather, |crowd| stops::still_open(crowd));
            }
            let (to, word) = (house.tcp(door), stops::first_word(door));
            let gather = || {
                let crowd = Crowd::at(to, CROWD, word);
                // The system's own queue is full at least; the door let in what it lets in.
                assert!(crowd.open > 1_000, "{}: only {} connections", door.name, crowd.open);
                crowd
            };
            beside_a_crowd(&house, door, gather, |_| stops::crowd_left(to));
        });
    });
    all_is_well(&house, "second");
}

/// Whoever begins and does not go on is ended by the door itself, in the time that docs/SECURITY.md says.
#[test]
fn whoever_stops_half_way_is_ended() {
    hostile::many_files();
    let house = House::new();
    let before = |door: &Door| -> f64 {
        stops::stop_counters(door).iter().map(|start| figure(house.monitor(door), start)).sum()
    };
    let counted: Vec<f64> = ALL.iter().map(before).collect();
    let watches = ["cloudcore", "edgecore"]
        .map(|program| (program, Watch::of(house.pid(of_program(program).next().unwrap()))));
    std::thread::scope(|scope| {
        for door in &ALL {
            for (how, within, stop) in stops::stops(&house, door) {
                scope.spawn(move || {
                    let took = stop();
                    assert!(
                        took <= within + SLACK,
                        "{} of {}: {how} is ended after {took:.1?}, not {within:?}",
                        door.name,
                        door.program
                    );
                });
            }
        }
    });
    for (program, watch) in watches {
        let rise = watch.rise();
        println!("{program:>9} all that stop half way {rise:>6} KiB");
        assert!(rise <= RISE_KIB, "{program}: {rise} KiB");
    }
    for (door, counted) in ALL.iter().zip(counted) {
        // A client may see its end a moment before it is counted.
        let what = format!("{} of {}: {:?} moved", door.name, door.program, stops::stop_counters(door));
        until(&what, PATIENCE, || match before(door) {
            now if now > counted => Ok(()),
            now => Err(format!("{counted} before, {now} now")),
        });
        house.honest(door, "afterwards");
    }
    let name = machine::node("edge-1");
    house.kubectl().wait_node(name.as_str(), "True");
    drop(dial(house.tcp(&doors::CLOUD_HUB)));
}
