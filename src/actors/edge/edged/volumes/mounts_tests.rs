//! Plans are pure; subpaths, hosts files and last words use real folders and mounts (needs root).

use std::os::unix::fs::symlink;

use serde_json::{Value, json};

use super::super::{HostPathCheck, Volume, disk};
use super::*;
use crate::actors::edge::edged::fixtures::{self, first, host, pod};

fn volumes(root: PathBuf) -> PodVolumes {
    let files =
        VolumeMaterial::Files { plugin: "kubernetes.io~secret", files: Default::default(), memory: true };
    let host_path = VolumeMaterial::HostPath { path: root, check: HostPathCheck::Unchecked };
    let volume = |name: &str, material| Volume { name: name.to_owned(), material };
    PodVolumes { volumes: vec![volume("s", files), volume("h", host_path)], fs_group: None }
}

fn with(mount: Value) -> Pod {
    pod(json!({"spec": {"hostAliases": [{"ip": "192.0.2.1", "hostnames": ["plc"]}], "containers": [
        {"name": "c", "volumeMounts": [mount]},
    ]}}))
}

fn planned(mount: Value) -> Result<MountPlan, String> {
    let pod = with(mount);
    let env = [("POD".to_owned(), "web-0".to_owned())];
    let plans = plan(&pod, first(&pod), &volumes("/data".into()), &env, &host());
    plans.map(|mut plans| plans.remove(0)).map_err(|err| err.to_string())
}

#[test]
fn plans() {
    let secret = planned(json!({"name": "s", "mountPath": "/sec"})).unwrap();
    assert_eq!(secret.root.to_str(), Some("/var/lib/kubelet/pods/u-1/volumes/kubernetes.io~secret/s"));
    assert!(secret.readonly, "what we write is never writable from inside");
    let plain =
        planned(json!({"name": "h", "mountPath": "data", "mountPropagation": "HostToContainer"})).unwrap();
    assert_eq!((plain.root.to_str(), plain.container_path.as_str()), (Some("/data"), "/data"));
    assert!(!plain.readonly);
    assert_eq!(plain.propagation, v1::MountPropagation::PropagationHostToContainer);
    let sub = |key: &str, path: &str| {
        planned(json!({"name": "h", "mountPath": "/m", key: path})).map(|plan| plan.sub_path)
    };
    assert_eq!(sub("subPathExpr", "logs/$(POD)"), Ok(Some("logs/web-0".into())));
    assert_eq!(sub("subPath", "a//b/"), Ok(Some("a//b".into())));
    assert_eq!(sub("subPath", "..a"), Ok(Some("..a".into())));
    for bad in ["..", "../x", "a/../b", "/etc", "a/..", "a/\0"] {
        assert!(sub("subPath", bad).is_err(), "{bad:?}");
    }
    assert!(sub("subPathExpr", "$(NONE)").unwrap_err().ends_with("missing value for \"NONE\""));
    let unknown = planned(json!({"name": "x", "mountPath": "/m"})).unwrap_err();
    assert_eq!(unknown, "container \"c\": volumeMount \"x\" names no volume of the pod");
}

struct Place {
    host: HostContext,
    dir: tempfile::TempDir,
    pod: Pod,
}

impl Place {
    fn new(mount: Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut host = fixtures::host();
        host.root_dir = dir.path().join("kubelet");
        fs::create_dir(dir.path().join("volume")).unwrap();
        Self { host, dir, pod: with(mount) }
    }

    fn volume(&self) -> PathBuf {
        self.dir.path().join("volume")
    }

    fn mounts(&self) -> Result<Vec<v1::Mount>, VolumeError> {
        let volumes = volumes(self.volume());
        let at = PodRef::of(&self.pod);
        create_dirs(&at.dir(&self.host), 0o750).unwrap();
        container_mounts(&self.pod, first(&self.pod), 1, &volumes, &[], Some("10.1.0.7"), &self.host)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        disk::teardown(&PodRef::of(&self.pod), &self.host).unwrap();
    }
}

fn sub(path: &str) -> Value {
    json!({"name": "h", "mountPath": "/m", "subPath": path})
}

#[test]
fn subpaths_are_made_and_bound_again_at_each_start() {
    let place = Place::new(sub("new/dir"));
    for _ in 0..2 {
        let mounts = place.mounts().unwrap();
        fs::write(place.volume().join("new/dir/file"), "x").unwrap();
        assert!(PathBuf::from(&mounts[0].host_path).join("file").exists(), "{mounts:?}");
    }
    let at = PodRef::of(&place.pod);
    assert_eq!(disk::mounts_below(&fs::canonicalize(at.dir(&place.host)).unwrap()).unwrap().len(), 1);
}

#[test]
fn a_file_as_subpath_through_a_link_inside() {
    let place = Place::new(sub("conf"));
    fs::create_dir(place.volume().join("..data")).unwrap();
    fs::write(place.volume().join("..data/conf"), "text").unwrap();
    symlink("..data/conf", place.volume().join("conf")).unwrap();
    let mounts = place.mounts().unwrap();
    assert_eq!(fs::read_to_string(&mounts[0].host_path).unwrap(), "text");
}

#[test]
fn links_out_of_the_volume_are_refused() {
    for (link, target) in [("out", "/etc"), ("out", "../kubelet"), ("out", "/nowhere")] {
        let place = Place::new(sub("out/deeper"));
        symlink(target, place.volume().join(link)).unwrap();
        assert!(matches!(place.mounts(), Err(VolumeError::SubPath { .. })), "{target}");
    }
}

#[test]
fn hosts_file_and_last_words() {
    let place = Place::new(json!({"name": "h", "mountPath": "/m"}));
    let mounts = place.mounts().unwrap();
    let paths: Vec<&str> = mounts.iter().map(|mount| mount.container_path.as_str()).collect();
    assert_eq!(paths, ["/m", "/etc/hosts", "/dev/termination-log"]);
    let hosts = fs::read_to_string(&mounts[1].host_path).unwrap();
    assert!(hosts.contains("10.1.0.7\tweb\n") && hosts.contains("192.0.2.1\tplc\n"), "{hosts}");
    let at = PodRef::of(&place.pod);
    fs::write(&mounts[2].host_path, "x".repeat(5000)).unwrap();
    assert_eq!(termination_message(&at, &place.host, "c", 1).unwrap().len(), 4096);
    assert_eq!(termination_message(&at, &place.host, "c", 2).unwrap(), "");
    assert!(termination_message(&at, &place.host, "../../x", 1).is_err());
    place.mounts().unwrap();
    assert_eq!(termination_message(&at, &place.host, "c", 1).unwrap(), "", "a new run says its own words");
}

#[test]
fn a_pod_may_bring_its_own_hosts_file() {
    let place = Place::new(json!({"name": "h", "mountPath": "/etc/hosts"}));
    assert_eq!(place.mounts().unwrap().len(), 2);
}
