//! Plays a storm, then waits for peace and compares.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::lanes::{
    Desk, Lanes, config, config_name, device, device_model, device_name, edge_name, pod, pod_name,
};
use super::ledger::{self, Inside, Ledger, Seen, SeenDevice, SeenPod};
use super::plan::{self, Config, FIRST_PODS, Plan, Scale, What};
use super::sensors::Sensors;
use super::site::{Site, label, shells, text, value};
use crate::harness::link::Weather;
use crate::harness::process::{PATIENCE, until};

/// What users are promised after a link is back.
const PROMISE: Duration = Duration::from_secs(10);
/// The same where two processors play three edges, or two times three, in debug builds beside other tests.
const PROMISE_HERE: Duration = Duration::from_secs(25);
/// After a storm everything is as it should be by then: pods start one after the other on a slow machine.
const PEACE: Duration = Duration::from_secs(120);

/// What a storm came to.
#[derive(Debug, Default)]
pub struct Outcome {
    pub writes: u64,
    pub messages: usize,
    pub kills: usize,
    pub link_faults: usize,
    /// The longest time a node took to be Ready after everything was mended.
    pub worst: Duration,
    pub took: Duration,
}

/// Plays the storm of `seed` under a folder of its own; logs of one that fails go to `keep`. Panics with what is wrong.
pub fn storm(seed: u64, keep: &Path) -> Outcome {
    let begun = Instant::now();
    let (scale, plan) = (Scale::of(seed), plan::plan(seed));
    let dir = tempfile::Builder::new().prefix("ke-storm-").tempdir().unwrap();
    let site = Site::start(dir.path(), keep, &scale);
    let desk = Desk {
        rest: site.rest.clone(),
        kubeconfig: site.cloud.dir.join("admin.conf"),
        home: dir.path().join("home"),
        ledger: Arc::new(Mutex::new(Ledger::default())),
        mark: uuid::Uuid::new_v4().to_string(),
    };
    let history = std::fs::File::create(dir.path().join("history.log")).unwrap();
    let mut storm = Storm { site, desk, begun, history, scale, outcome: Outcome::default() };
    storm.first(&plan);
    let watcher = Watcher::start(storm.desk.clone());
    let sensors: Vec<Sensors> = (storm.site.edges.iter().enumerate())
        .map(|(edge, place)| Sensors::start(edge, place, &storm.desk.ledger))
        .collect();
    storm.settle(&sensors);
    let mut lanes = Lanes::open(storm.desk.clone());
    for (number, round) in plan.rounds.iter().enumerate() {
        sensors.iter().for_each(|sensor| sensor.talk(true));
        storm.play(number, round, &mut lanes);
        // What was acknowledged in the middle of a fault is the last that was said.
        sensors.iter().for_each(|sensor| sensor.talk(false));
        storm.ready();
        until("every write is acknowledged", PEACE * 2, || {
            storm.no_wrongs();
            match lanes.pending() {
                0 => Ok(()),
                waiting => Err(format!("{waiting} wait")),
            }
        });
        storm.peace(&sensors);
    }
    storm.stores();
    // Every edgecore was killed once more to read its store.
    storm.ready();
    storm.peace(&sensors);
    drop(watcher);
    storm.no_wrongs();
    storm.outcome.writes = storm.desk.ledger(|ledger| ledger.writes);
    storm.outcome.messages = sensors.iter().map(Sensors::counted).sum();
    storm.outcome.took = begun.elapsed();
    storm.outcome
}

struct Storm {
    site: Site,
    desk: Desk,
    begun: Instant,
    history: std::fs::File,
    scale: Scale,
    outcome: Outcome,
}

impl Storm {
    fn note(&mut self, what: &str) {
        let at = jiff::Timestamp::now();
        writeln!(self.history, "{at} {:?} {what}", self.begun.elapsed()).ok();
    }

    /// What there is before the storm: by kubectl, as a user would.
    fn first(&mut self, plan: &Plan) {
        let mut items = vec![device_model()];
        items.extend((0..self.scale.edges).map(|edge| device(edge, 0)));
        let maps = (0..self.scale.config_maps).map(Config::Map);
        let configs: Vec<Config> = maps.chain((0..self.scale.secrets).map(Config::Secret)).collect();
        items.extend(configs.iter().map(|one| config(&config_name(*one), 1)));
        items.extend(
            plan.first
                .iter()
                .enumerate()
                .map(|(number, plan)| pod(&pod_name(number), *plan, &self.desk.mark)),
        );
        let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
        let kubectl = self.site.cloud.kubectl();
        kubectl.apply(&list.to_string());
        let uids = |kind: &str| -> BTreeMap<String, String> {
            let list = kubectl.json(&["get", kind]);
            let items = list["items"].as_array().unwrap().iter();
            items.map(|item| (text(item, "/metadata/name"), text(item, "/metadata/uid"))).collect()
        };
        let (pods, configs) = (uids("pods"), [uids("configmaps"), uids("secrets")]);
        for (name, uid) in configs.into_iter().flatten() {
            let is_ours = name.starts_with("map-") || name.starts_with("secret-");
            if is_ours {
                let config = ledger::Config { uid, value: 1 };
                self.desk.ledger(|ledger| drop(ledger.configs.insert(name, config)));
            }
        }
        for (number, plan) in plan.first.iter().enumerate() {
            let name = pod_name(number);
            let uid = pods[&name].clone();
            let mut born = self.desk.newborn(*plan);
            born.configs.iter_mut().flatten().for_each(|(_, value)| *value = 1);
            self.desk.ledger(|ledger| drop(ledger.pods.insert(name, ledger::Pod { uid, ..born })));
        }
        assert_eq!(plan.first.len(), FIRST_PODS);
        for edge in 0..self.scale.edges {
            let device = ledger::Device { node: edge_name(edge), ..ledger::Device::default() };
            self.desk.ledger(|ledger| drop(ledger.devices.insert(device_name(edge), device)));
        }
    }

    /// Waits until all of that is there: what is said for a device before the edge knows it is nobody's.
    fn settle(&mut self, sensors: &[Sensors]) {
        until("every device reports", PEACE, || {
            let devices = self.devices()?;
            let silent = devices.iter().filter(|(_, device)| device.reported.is_none());
            let silent: Vec<&String> = silent.map(|(name, _)| name).collect();
            if silent.is_empty() { Ok(()) } else { Err(format!("silent: {silent:?}")) }
        });
        sensors.iter().for_each(|sensor| sensor.talk(false));
        self.peace(sensors);
        self.note("settled");
    }

    fn play(&mut self, number: usize, round: &plan::Round, lanes: &mut Lanes) {
        let begun = Instant::now();
        self.note(&format!("round {number}"));
        for step in round {
            std::thread::sleep((begun + step.at).saturating_duration_since(Instant::now()));
            self.note(&format!("{:?}", step.what));
            match step.what {
                What::Work(work) => lanes.push(work),
                What::Kill(program) => {
                    self.outcome.kills += 1;
                    self.site.kill(program);
                }
                What::Start(program) => self.site.start_again(program),
                What::KillContainer { pod } => self.kill_container(pod),
                What::Link { edge, weather } => {
                    self.outcome.link_faults += usize::from(weather != Weather::default());
                    self.site.edges[edge].link.set(weather);
                }
                What::Shoot { edge, shot } => {
                    self.outcome.link_faults += 1;
                    self.site.edges[edge].link.shoot(shot);
                }
                What::Release { edge } => self.site.edges[edge].link.release(),
            }
        }
        std::thread::sleep((begun + self.scale.round).saturating_duration_since(Instant::now()));
    }

    fn kill_container(&mut self, number: usize) {
        let uid = self.desk.ledger(|ledger| ledger.pods.get(&pod_name(number)).map(|pod| pod.uid.clone()));
        let Some(uid) = uid else { return };
        let Some(process) = shells(&self.desk.mark).remove(&uid).and_then(|mut all| all.pop()) else {
            return;
        };
        // Counted before it is done: who looks in between must know.
        self.desk.ledger(|ledger| {
            ledger.observe(&uid, &process.container);
            *ledger.kills.entry(uid.clone()).or_default() += 1;
        });
        kill(Pid::from_raw(process.pid), Signal::SIGKILL).ok();
        self.outcome.kills += 1;
        self.note(&format!("killed {process:?} of {uid}"));
    }

    /// Mends everything and measures.
    fn ready(&mut self) {
        for (node, took) in self.site.mend() {
            self.note(&format!("{node} is Ready after {took:?}"));
            assert!(took <= PROMISE_HERE, "{node} was Ready only {took:?} after its link was back");
            self.outcome.worst = self.outcome.worst.max(took);
        }
    }

    fn no_wrongs(&self) {
        let wrongs = self.desk.ledger(|ledger| ledger.wrongs.clone());
        assert!(wrongs.is_empty(), "{}", wrongs.join("\n"));
    }

    /// Waits until the world is as the ledger says, and looks for complaints.
    fn peace(&mut self, sensors: &[Sensors]) {
        until("the world is as it was told to be", PEACE, || {
            self.no_wrongs();
            let seen = self.look()?;
            let mut wrongs = self.desk.ledger(|ledger| ledger.compare(&seen));
            for (edge, sensor) in sensors.iter().enumerate() {
                let missing = sensor.missing();
                if !missing.is_empty() {
                    wrongs
                        .push(format!("acknowledged and not delivered at {}: {missing:?}", edge_name(edge)));
                }
            }
            if wrongs.is_empty() { Ok(()) } else { Err(list(&wrongs)) }
        });
        let complaints = self.site.complaints();
        assert!(complaints.is_empty(), "{}", complaints.join("\n"));
        self.note("peace");
    }

    fn stores(&mut self) {
        let seen = until("the cluster is looked at", PATIENCE, || self.look());
        for edge in 0..self.scale.edges {
            let (pods, configs) = self.site.stored(edge);
            let wrongs =
                self.desk.ledger(|ledger| ledger.compare_store(&edge_name(edge), &seen, &pods, &configs));
            assert!(wrongs.is_empty(), "{}", wrongs.join("\n"));
        }
    }

    fn devices(&self) -> Result<BTreeMap<String, SeenDevice>, String> {
        let items = |kind: &str| -> Result<Vec<Value>, String> {
            let list = self.desk.rest.get(&format!("/apis/devices.kubeedge.io/v1beta1/{kind}"))?;
            Ok(list["items"].as_array().cloned().unwrap_or_default())
        };
        let number = |object: &Value, pointer: &str| text(object, pointer).parse::<u64>().ok();
        let mut devices = BTreeMap::new();
        for device in items("devices")? {
            let desired = number(&device, "/spec/properties/0/desired/value").unwrap_or_default();
            let seen = SeenDevice { desired, ..SeenDevice::default() };
            devices.insert(text(&device, "/metadata/name"), seen);
        }
        for status in items("devicestatuses")? {
            if let Some(device) = devices.get_mut(&text(&status, "/metadata/name")) {
                device.observed = number(&status, "/status/twins/0/observedDesired/value");
                device.reported = number(&status, "/status/twins/0/reported/value");
            }
        }
        Ok(devices)
    }

    /// The world as it is.
    fn look(&self) -> Result<Seen, String> {
        let list = |kind: &str| -> Result<Vec<Value>, String> {
            let list = self.desk.rest.get(&format!("/api/v1/namespaces/default/{kind}"))?;
            Ok(list["items"].as_array().cloned().unwrap_or_default())
        };
        let name = |item: &Value| text(item, "/metadata/name");
        let pods = list("pods")?.iter().map(|pod| (name(pod), seen_pod(pod))).collect();
        let mut configs = BTreeMap::new();
        for item in list("configmaps")?.iter().chain(&list("secrets")?) {
            if let Some(value) = value(item) {
                configs.insert(name(item), ledger::Config { uid: text(item, "/metadata/uid"), value });
            }
        }
        let processes = shells(&self.desk.mark);
        let living = self.desk.ledger(|ledger| {
            ledger
                .pods
                .values()
                .filter(|pod| pod.configs.is_some())
                .map(|pod| pod.uid.clone())
                .collect::<Vec<_>>()
        });
        let inside = living
            .into_iter()
            .filter_map(|uid| {
                let pid = processes.get(&uid)?.first()?.pid;
                Some((uid, inside(pid)))
            })
            .collect();
        Ok(Seen {
            pods,
            configs,
            devices: self.devices()?,
            runtimes: self.site.runtimes()?,
            processes,
            inside,
        })
    }
}

fn list(wrongs: &[String]) -> String {
    wrongs.iter().fold(String::new(), |mut all, wrong| {
        write!(all, "\n  {wrong}").ok();
        all
    })
}

fn seen_pod(pod: &Value) -> SeenPod {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().find(|condition| condition["type"] == "Ready");
    let container = text(pod, "/status/containerStatuses/0/containerID");
    SeenPod {
        uid: text(pod, "/metadata/uid"),
        node: text(pod, "/spec/nodeName"),
        label: label(pod),
        phase: text(pod, "/status/phase"),
        ready: ready.is_some_and(|condition| condition["status"] == "True"),
        terminating: pod.pointer("/metadata/deletionTimestamp").is_some(),
        container: container.trim_start_matches("containerd://").to_owned(),
    }
}

/// What a process of a container sees, through the kernel: no runtime is asked.
fn inside(pid: i32) -> Inside {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let read = |name: &str| std::fs::read(process.join(name)).unwrap_or_default();
    let number = |bytes: &[u8]| std::str::from_utf8(bytes).ok().and_then(|text| text.trim().parse().ok());
    let environment = read("environ");
    let variable = |name: &str| {
        environment.split(|byte| *byte == 0).find_map(|pair| number(pair.strip_prefix(name.as_bytes())?))
    };
    Inside {
        files: [number(&read("root/map/value")), number(&read("root/secret/value"))],
        environment: [variable("MAP="), variable("SECRET=")],
    }
}

/// Looks all the while which container each pod runs in, and whether one runs twice.
struct Watcher {
    ends: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Watcher {
    fn start(desk: Desk) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::SeqCst) {
                let seen = shells(&desk.mark);
                // A look takes its time, and one may end and the next begin meanwhile: both must still be there.
                let twice = seen.values().any(|processes| processes.len() > 1);
                let again = if twice { shells(&desk.mark) } else { BTreeMap::new() };
                desk.ledger(|ledger| {
                    for (uid, processes) in seen {
                        processes.iter().for_each(|process| ledger.observe(&uid, &process.container));
                        let still = again.get(&uid).map(Vec::as_slice).unwrap_or_default();
                        if processes.iter().filter(|process| still.contains(*process)).count() > 1 {
                            ledger.wrongs.push(format!("pod {uid} runs twice at once: {processes:?}"));
                        }
                    }
                });
                std::thread::sleep(Duration::from_millis(500));
            }
        });
        Self { ends, thread: Some(thread) }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("the watcher lived");
            }
        }
    }
}

/// One line.
impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { writes, messages, kills, link_faults, worst, took } = self;
        let within = if *worst <= PROMISE { "" } else { " (over 10 s)" };
        write!(
            f,
            "{writes} writes and {messages} messages acknowledged, {kills} kills, {link_faults} link faults, \
             Ready again after at most {:.1} s{within}, {:.0} s in all",
            worst.as_secs_f64(),
            took.as_secs_f64()
        )
    }
}
