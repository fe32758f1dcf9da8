//! Every acknowledged write, and what must be true of the world because of it. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

/// What was acknowledged so far. One writer for each name, so that answers that were lost leave no doubt: the
/// writer asks again until it knows.
#[derive(Debug, Default, Clone)]
pub struct Ledger {
    /// Acknowledged writes.
    pub writes: u64,
    /// By name.
    pub pods: BTreeMap<String, Pod>,
    /// Uid and name of every pod whose deletion was acknowledged.
    pub gone: BTreeMap<String, String>,
    /// By name: `map-1`, `secret-1`.
    pub configs: BTreeMap<String, Config>,
    /// By name.
    pub devices: BTreeMap<String, Device>,
    /// Containers of a pod that were seen running, by its uid.
    pub containers: BTreeMap<String, BTreeSet<String>>,
    /// Containers of a pod that the storm killed, by its uid.
    pub kills: BTreeMap<String, usize>,
    /// What was wrong on the way.
    pub wrongs: Vec<String>,
}

/// A living pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    pub uid: String,
    /// Its node, if the storm chose it.
    pub node: Option<String>,
    pub label: u64,
    /// Its ConfigMap and its Secret, each with the value that was acknowledged before the pod was made: its
    /// environment can be newer, never older.
    pub configs: Option<[(String, u64); 2]>,
}

/// A ConfigMap or Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub uid: String,
    /// Grows with each write, also when it is deleted and made again.
    pub value: u64,
}

/// A device and who reports for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    pub node: String,
    pub desired: u64,
    /// Last reading with a PUBACK.
    pub acknowledged: u64,
    /// Last reading that was sent.
    pub sent: u64,
}

impl Device {
    /// What the cloud may show: not older than what was acknowledged.
    fn reported(&self) -> RangeInclusive<u64> {
        self.acknowledged..=self.sent
    }
}

/// What was found when everything was quiet.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub pods: BTreeMap<String, SeenPod>,
    pub configs: BTreeMap<String, Config>,
    pub devices: BTreeMap<String, SeenDevice>,
    /// By node.
    pub runtimes: BTreeMap<String, Runtime>,
    /// Shells of containers that the kernel knows: by uid of the pod.
    pub processes: BTreeMap<String, Vec<Process>>,
    /// By uid of the pod.
    pub inside: BTreeMap<String, Inside>,
}

/// A pod as the API shows it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SeenPod {
    pub uid: String,
    pub node: String,
    pub label: u64,
    pub phase: String,
    pub ready: bool,
    pub terminating: bool,
    /// Without the scheme.
    pub container: String,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SeenDevice {
    pub desired: u64,
    pub observed: Option<u64>,
    pub reported: Option<u64>,
}

/// What the CRI lists.
#[derive(Debug, Default, Clone)]
pub struct Runtime {
    /// (uid of the pod, is it ready)
    pub sandboxes: Vec<(String, bool)>,
    /// (uid of the pod, id, does it run)
    pub containers: Vec<(String, String, bool)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub container: String,
}

/// What the process of a container sees: of its ConfigMap and of its Secret.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Inside {
    pub files: [Option<u64>; 2],
    pub environment: [Option<u64>; 2],
}

impl Ledger {
    /// A container of a pod was seen running.
    pub fn observe(&mut self, uid: &str, container: &str) {
        let seen = self.containers.entry(uid.to_owned()).or_default();
        if !seen.insert(container.to_owned()) {
            return;
        }
        let all: Vec<String> = seen.iter().map(|id| short(id).to_owned()).collect();
        let allowed = 1 + self.kills.get(uid).copied().unwrap_or_default();
        if all.len() > allowed {
            let (name, all) = (self.name_of(uid), all.join(", "));
            self.wrongs
                .push(format!("the container of pod {name} was made again: {all} seen, {allowed} explained"));
        }
    }

    fn name_of(&self, uid: &str) -> String {
        let living = self.pods.iter().find(|(_, pod)| pod.uid == uid).map(|(name, _)| name);
        match (living, self.gone.get(uid)) {
            (Some(name), _) => format!("{name} ({uid})"),
            (None, Some(name)) => format!("{name} ({uid}), which was deleted"),
            (None, None) => format!("{uid}, which nobody made"),
        }
    }

    /// Everything that is not as it must be.
    pub fn compare(&self, seen: &Seen) -> Vec<String> {
        let mut wrongs = Vec::new();
        self.compare_api(seen, &mut wrongs);
        self.compare_runtimes(seen, &mut wrongs);
        self.compare_insides(seen, &mut wrongs);
        wrongs
    }

    fn compare_api(&self, seen: &Seen, wrongs: &mut Vec<String>) {
        for (name, pod) in &self.pods {
            let Some(is) = seen.pods.get(name) else {
                wrongs.push(format!("pod {name} is lost in the API"));
                continue;
            };
            if is.uid != pod.uid {
                wrongs.push(format!("pod {name} is another one: {} instead of {}", is.uid, pod.uid));
            }
            if is.label != pod.label {
                wrongs.push(format!("pod {name} has label {} instead of {}", is.label, pod.label));
            }
            if pod.node.as_ref().is_some_and(|node| *node != is.node) {
                wrongs.push(format!("pod {name} is on {} instead of {:?}", is.node, pod.node));
            }
            if is.terminating || is.phase != "Running" || !is.ready {
                wrongs.push(format!("pod {name} does not run: {is:?}"));
            }
        }
        for (name, is) in &seen.pods {
            if !self.pods.contains_key(name) {
                wrongs.push(format!("pod {name} is in the API: {}", self.name_of(&is.uid)));
            }
        }
        for (name, config) in &self.configs {
            match seen.configs.get(name) {
                Some(is) if is == config => {}
                other => wrongs.push(format!("{name} is {other:?} in the API instead of {config:?}")),
            }
        }
        for (name, device) in &self.devices {
            let Some(is) = seen.devices.get(name) else {
                wrongs.push(format!("device {name} is lost in the API"));
                continue;
            };
            if is.desired != device.desired || is.observed != Some(device.desired) {
                wrongs.push(format!("device {name} desires {is:?} instead of {}", device.desired));
            }
            if !is.reported.is_some_and(|value| device.reported().contains(&value)) {
                wrongs.push(format!("device {name} reports {is:?} instead of {:?}", device.reported()));
            }
        }
    }

    fn compare_runtimes(&self, seen: &Seen, wrongs: &mut Vec<String>) {
        let nodes: BTreeMap<&str, &str> =
            seen.pods.values().map(|pod| (pod.uid.as_str(), pod.node.as_str())).collect();
        for (node, runtime) in &seen.runtimes {
            let sandboxes = runtime.sandboxes.iter().map(|(uid, _)| uid);
            let containers = runtime.containers.iter().map(|(uid, _, _)| uid);
            let strangers: BTreeSet<&String> = sandboxes
                .chain(containers)
                .filter(|uid| nodes.get(uid.as_str()) != Some(&node.as_str()) || self.gone.contains_key(*uid))
                .collect();
            for uid in strangers {
                wrongs.push(format!("the runtime of {node} has pod {}", self.name_of(uid)));
            }
        }
        for (name, pod) in &self.pods {
            let Some(is) = seen.pods.get(name) else { continue };
            let Some(runtime) = seen.runtimes.get(&is.node) else {
                wrongs.push(format!("pod {name} is on no node: {:?}", is.node));
                continue;
            };
            let sandboxes: Vec<bool> = runtime
                .sandboxes
                .iter()
                .filter(|(uid, _)| *uid == pod.uid)
                .map(|(_, ready)| *ready)
                .collect();
            if sandboxes != [true] {
                wrongs.push(format!("pod {name} has sandboxes {sandboxes:?} (ready) on {}", is.node));
            }
            let of_pod = || runtime.containers.iter().filter(|(uid, _, _)| *uid == pod.uid);
            let running: Vec<&str> =
                of_pod().filter(|(_, _, runs)| *runs).map(|(_, id, _)| id.as_str()).collect();
            if running != [is.container.as_str()] {
                let api = &is.container;
                wrongs.push(format!("pod {name} runs in {running:?} on {}, the API says {api:?}", is.node));
            }
            // The one before the present one may be kept for its log: one that was killed, or one whose start was
            // cut short by the death of edgecore or containerd, so that it never ran.
            let dead: Vec<&String> = of_pod().filter(|(_, _, runs)| !runs).map(|(_, id, _)| id).collect();
            let ran = |id: &&&String| self.containers.get(&pod.uid).is_some_and(|seen| seen.contains(**id));
            let kills = self.kills.get(&pod.uid).copied().unwrap_or_default();
            if dead.len() > 1 || dead.iter().filter(ran).count() > kills {
                wrongs.push(format!("pod {name} has {} dead containers after {kills} kills", dead.len()));
            }
            let processes = seen.processes.get(&pod.uid).map(Vec::as_slice).unwrap_or_default();
            match processes {
                [one] if one.container == is.container => {}
                other => wrongs.push(format!("pod {name}: the kernel runs {other:?}")),
            }
        }
        for uid in seen.processes.keys() {
            if self.gone.contains_key(uid) || !nodes.contains_key(uid.as_str()) {
                wrongs.push(format!("the kernel runs pod {}", self.name_of(uid)));
            }
        }
    }

    fn compare_insides(&self, seen: &Seen, wrongs: &mut Vec<String>) {
        for (name, pod) in &self.pods {
            let Some(configs) = &pod.configs else { continue };
            let inside = seen.inside.get(&pod.uid).cloned().unwrap_or_default();
            for ((config, at_birth), (file, variable)) in
                configs.iter().zip(inside.files.iter().zip(inside.environment))
            {
                let Some(now) = self.configs.get(config).map(|config| config.value) else { continue };
                if *file != Some(now) {
                    wrongs.push(format!(
                        "pod {name} reads {file:?} in the volume of {config} instead of {now}"
                    ));
                }
                if !variable.is_some_and(|value| (*at_birth..=now).contains(&value)) {
                    let range = *at_birth..=now;
                    wrongs.push(format!(
                        "pod {name} started with {variable:?} of {config} instead of {range:?}"
                    ));
                }
            }
        }
    }

    /// What is wrong with the rows of a node's store. `pods`: name to uid and label; `configs`: name to value.
    pub fn compare_store(
        &self,
        node: &str,
        seen: &Seen,
        pods: &BTreeMap<String, (String, u64)>,
        configs: &BTreeMap<String, u64>,
    ) -> Vec<String> {
        let mut wrongs = Vec::new();
        let mut needed = BTreeSet::new();
        for (name, pod) in &self.pods {
            if seen.pods.get(name).is_none_or(|is| is.node != node) {
                continue;
            }
            if pods.get(name) != Some(&(pod.uid.clone(), pod.label)) {
                wrongs.push(format!("the store of {node} has {:?} instead of {pod:?}", pods.get(name)));
            }
            needed.extend(pod.configs.iter().flatten().map(|(config, _)| config));
        }
        for (name, (uid, _)) in pods {
            if seen.pods.get(name).is_none_or(|is| is.node != node || is.uid != *uid) {
                wrongs.push(format!("the store of {node} has pod {}", self.name_of(uid)));
            }
        }
        for (name, config) in &self.configs {
            match configs.get(name) {
                None if !needed.contains(name) => {}
                Some(value) if *value == config.value => {}
                other => {
                    let want = config.value;
                    wrongs.push(format!("the store of {node} has {other:?} of {name} instead of {want}"));
                }
            }
        }
        wrongs
    }
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small world in which everything is right.
    fn world() -> (Ledger, Seen) {
        let mut ledger = Ledger::default();
        let configs = Some([("map-0".to_owned(), 3), ("secret-0".to_owned(), 1)]);
        let pod = Pod { uid: "u1".into(), node: Some("edge-0".into()), label: 4, configs };
        ledger.pods.insert("a".into(), pod);
        ledger.gone.insert("u0".into(), "a".into());
        ledger.configs.insert("map-0".into(), Config { uid: "m".into(), value: 5 });
        ledger.configs.insert("secret-0".into(), Config { uid: "s".into(), value: 1 });
        let device = Device { node: "edge-0".into(), desired: 2, acknowledged: 7, sent: 8 };
        ledger.devices.insert("lamp-0".into(), device);
        let mut seen = Seen { configs: ledger.configs.clone(), ..Seen::default() };
        let (uid, container) = ("u1".to_owned(), "c1".to_owned());
        let pod = SeenPod {
            uid: uid.clone(),
            node: "edge-0".into(),
            label: 4,
            phase: "Running".into(),
            ready: true,
            terminating: false,
            container: container.clone(),
        };
        seen.pods.insert("a".into(), pod);
        let device = SeenDevice { desired: 2, observed: Some(2), reported: Some(8) };
        seen.devices.insert("lamp-0".into(), device);
        let runtime = Runtime {
            sandboxes: vec![(uid.clone(), true)],
            containers: vec![(uid.clone(), container.clone(), true)],
        };
        seen.runtimes.insert("edge-0".into(), runtime);
        seen.runtimes.insert("edge-1".into(), Runtime::default());
        seen.processes.insert(uid.clone(), vec![Process { pid: 9, container }]);
        let inside = Inside { files: [Some(5), Some(1)], environment: [Some(3), Some(1)] };
        seen.inside.insert(uid, inside);
        (ledger, seen)
    }

    /// What is done to a world that is right, and what the checker must say of it.
    type Case = (&'static str, fn(&mut Ledger, &mut Seen));

    #[test]
    fn each_wrong_is_found() {
        let (ledger, seen) = world();
        assert_eq!(ledger.compare(&seen), Vec::<String>::new(), "nothing is wrong");
        let cases: &[Case] = &[
            ("lost in the API", |_, seen| seen.pods.clear()),
            ("is another one", |_, seen| seen.pods.get_mut("a").unwrap().uid = "u2".into()),
            ("has label", |_, seen| seen.pods.get_mut("a").unwrap().label = 3),
            ("does not run", |_, seen| seen.pods.get_mut("a").unwrap().ready = false),
            ("which was deleted", |ledger, _| {
                ledger.pods.clear();
                ledger.gone.insert("u1".into(), "a".into());
            }),
            ("which nobody made", |ledger, _| ledger.pods.clear()),
            ("in the API instead of", |_, seen| seen.configs.get_mut("map-0").unwrap().value = 4),
            ("in the API instead of", |_, seen| drop(seen.configs.remove("map-0"))),
            ("desires", |_, seen| seen.devices.get_mut("lamp-0").unwrap().observed = Some(1)),
            ("reports", |_, seen| seen.devices.get_mut("lamp-0").unwrap().reported = Some(6)),
            ("has sandboxes [true, true]", |_, seen| {
                seen.runtimes.get_mut("edge-0").unwrap().sandboxes.push(("u1".into(), true));
            }),
            ("the runtime of edge-1 has pod a (u1)", |_, seen| {
                seen.runtimes.get_mut("edge-1").unwrap().sandboxes.push(("u1".into(), true));
            }),
            ("the runtime of edge-0 has pod a (u0), which was deleted", |_, seen| {
                seen.runtimes.get_mut("edge-0").unwrap().containers.push(("u0".into(), "c0".into(), false));
            }),
            ("runs in", |_, seen| {
                seen.runtimes.get_mut("edge-0").unwrap().containers.push(("u1".into(), "c2".into(), true));
            }),
            ("1 dead containers after 0 kills", |ledger, seen| {
                ledger.observe("u1", "c2");
                seen.runtimes.get_mut("edge-0").unwrap().containers.push(("u1".into(), "c2".into(), false));
            }),
            ("the kernel runs", |_, seen| {
                let two = Process { pid: 10, container: "c2".into() };
                seen.processes.get_mut("u1").unwrap().push(two);
            }),
            ("the kernel runs pod a (u0), which was deleted", |_, seen| {
                seen.processes.insert("u0".into(), Vec::new());
            }),
            ("in the volume of map-0", |_, seen| seen.inside.get_mut("u1").unwrap().files[0] = Some(4)),
            ("in the volume of secret-0", |_, seen| seen.inside.get_mut("u1").unwrap().files[1] = None),
            ("started with", |_, seen| seen.inside.get_mut("u1").unwrap().environment[0] = Some(2)),
        ];
        for (says, spoil) in cases {
            let (mut ledger, mut seen) = world();
            spoil(&mut ledger, &mut seen);
            let wrongs = ledger.compare(&seen);
            assert!(wrongs.iter().any(|wrong| wrong.contains(says)), "{says}: {wrongs:?}");
        }
    }

    #[test]
    fn wrong_stores_are_found() {
        let (ledger, seen) = world();
        let pods = BTreeMap::from([("a".to_owned(), ("u1".to_owned(), 4))]);
        let configs = BTreeMap::from([("map-0".to_owned(), 5), ("secret-0".to_owned(), 1)]);
        let check = |pods: &BTreeMap<_, _>, configs: &BTreeMap<_, _>| {
            ledger.compare_store("edge-0", &seen, pods, configs).len()
        };
        assert_eq!(check(&pods, &configs), 0);
        assert_eq!(check(&BTreeMap::new(), &configs), 1, "a lost pod");
        assert_eq!(check(&pods, &BTreeMap::from([("map-0".to_owned(), 5)])), 1, "a lost Secret");
        let stale = BTreeMap::from([("map-0".to_owned(), 4), ("secret-0".to_owned(), 1)]);
        assert_eq!(check(&pods, &stale), 1, "a stale ConfigMap");
        let mut old = pods.clone();
        old.insert("b".to_owned(), ("u0".to_owned(), 1));
        assert_eq!(check(&old, &configs), 1, "a pod that is gone");
        assert_eq!(ledger.compare_store("edge-1", &seen, &pods, &configs).len(), 1, "a pod of another node");
    }

    #[test]
    fn a_container_is_made_again_only_after_its_death() {
        let (mut ledger, _) = world();
        ledger.observe("u1", "c1");
        ledger.observe("u1", "c1");
        ledger.kills.insert("u1".into(), 1);
        ledger.observe("u1", "c2");
        assert!(ledger.wrongs.is_empty());
        ledger.observe("u1", "c3");
        assert_eq!(ledger.wrongs.len(), 1);
    }
}
