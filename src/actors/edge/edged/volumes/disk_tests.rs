//! Real folders, real mounts (needs root), nothing outside a temporary folder.

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;

use super::super::FileMaterial;
use super::*;
use crate::actors::edge::edged::fixtures;

struct Place {
    host: HostContext,
    at: PodRef,
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut host = fixtures::host();
        host.root_dir = dir.path().join("kubelet");
        host.pod_logs_dir = dir.path().join("logs");
        let at = PodRef { namespace: "default".into(), name: "web".into(), uid: "u-1".into() };
        Self { host, at, dir }
    }

    fn apply(&self, material: VolumeMaterial, fs_group: Option<u32>) -> Result<bool, String> {
        let volumes = PodVolumes { volumes: vec![Volume { name: "v".into(), material }], fs_group };
        apply(&self.at, &self.host, &volumes).map_err(|err| err.to_string())
    }

    fn volume(&self, plugin: &str) -> PathBuf {
        self.at.volume_dir(&self.host, plugin, "v")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        teardown(&self.at, &self.host).unwrap();
    }
}

fn secret(text: &str) -> VolumeMaterial {
    let file = FileMaterial { data: text.into(), mode: 0o644, owner: None };
    let files = BTreeMap::from([("p".to_owned(), file)]);
    VolumeMaterial::Files { plugin: "kubernetes.io~secret", files, memory: true }
}

#[test]
fn secrets_live_in_memory_and_update_in_place() {
    let place = Place::new();
    assert_eq!(place.apply(secret("one"), Some(77)), Ok(true));
    let dir = place.volume("kubernetes.io~secret");
    assert!(is_mount_point(&dir).unwrap());
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, 0o2755);
    assert_eq!(place.apply(secret("one"), Some(77)), Ok(false));
    assert_eq!(place.apply(secret("two"), Some(77)), Ok(true));
    assert_eq!(fs::read_to_string(dir.join("p")).unwrap(), "two");
    assert_eq!(fs::metadata(dir.join("p")).unwrap().gid(), 77);
    assert_eq!(fs::metadata(place.at.dir(&place.host)).unwrap().mode() & 0o777, 0o750);
    teardown(&place.at, &place.host).unwrap();
    assert!(!place.at.dir(&place.host).exists());
    teardown(&place.at, &place.host).unwrap();
}

#[test]
fn scratch_space_keeps_its_content_and_its_limit() {
    let place = Place::new();
    let disk = VolumeMaterial::EmptyDir { memory: false, size_limit_bytes: None };
    place.apply(disk.clone(), Some(88)).unwrap();
    let dir = place.volume("kubernetes.io~empty-dir");
    let meta = fs::metadata(&dir).unwrap();
    assert_eq!((meta.mode() & 0o7777, meta.gid()), (0o2777, 88));
    fs::write(dir.join("kept"), "x").unwrap();
    place.apply(disk, Some(88)).unwrap();
    assert!(dir.join("kept").exists());
}

#[test]
fn scratch_space_in_memory_has_a_limit() {
    let place = Place::new();
    let memory = VolumeMaterial::EmptyDir { memory: true, size_limit_bytes: Some(64 << 10) };
    place.apply(memory.clone(), None).unwrap();
    let dir = place.volume("kubernetes.io~empty-dir");
    assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o7777, 0o777);
    fs::write(dir.join("fits"), vec![0; 32 << 10]).unwrap();
    let err = fs::write(dir.join("not"), vec![0; 64 << 10]).unwrap_err();
    assert_eq!(err.kind(), io::ErrorKind::StorageFull);
    place.apply(memory, None).unwrap();
    assert!(dir.join("fits").exists(), "an update does not mount again");
}

#[test]
fn teardown_follows_no_link_and_spares_what_is_mounted_elsewhere() {
    let place = Place::new();
    let outside = place.dir.path().join("precious");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("data"), "x").unwrap();
    place.apply(VolumeMaterial::EmptyDir { memory: false, size_limit_bytes: None }, None).unwrap();
    let dir = place.volume("kubernetes.io~empty-dir");
    symlink(&outside, dir.join("link")).unwrap();
    let bind = dir.join("bind mount");
    fs::create_dir(&bind).unwrap();
    mount(Some(&outside), &bind, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    assert!(bind.join("data").exists());
    teardown(&place.at, &place.host).unwrap();
    assert!(outside.join("data").exists());
    assert!(!place.at.dir(&place.host).exists());
}

#[test]
fn a_pod_whose_uid_is_a_path_touches_nothing() {
    let place = Place::new();
    let evil = PodRef { uid: "../../precious".into(), ..place.at.clone() };
    let precious = place.host.root_dir.join("precious");
    create_dirs(&precious, 0o755).unwrap();
    assert!(teardown(&evil, &place.host).is_err());
    assert!(apply(&evil, &place.host, &PodVolumes::default()).is_err());
    assert!(remove_logs(&evil, &place.host).is_err());
    assert!(precious.exists());
}

#[test]
fn host_paths_are_checked_and_made() {
    let place = Place::new();
    let root = place.dir.path();
    fs::write(root.join("file"), "").unwrap();
    let check = |name: &str, check: HostPathCheck| {
        let material = VolumeMaterial::HostPath { path: root.join(name), check };
        place.apply(material, None).map_err(|err| err.rsplit(' ').next().unwrap().to_owned())
    };
    let wrong = |what: &str| Err(what.to_owned());
    for (name, kind, want) in [
        ("none", HostPathCheck::Unchecked, Ok(false)),
        ("none", HostPathCheck::Directory, wrong("directory")),
        ("none", HostPathCheck::File, wrong("file")),
        ("file", HostPathCheck::File, Ok(false)),
        ("file", HostPathCheck::DirectoryOrCreate, wrong("directory")),
        ("new/deep", HostPathCheck::DirectoryOrCreate, Ok(false)),
        ("new/deep", HostPathCheck::Directory, Ok(false)),
        ("new/file", HostPathCheck::FileOrCreate, Ok(false)),
        ("new/file", HostPathCheck::File, Ok(false)),
        ("file", HostPathCheck::Socket, wrong("socket")),
        ("file", HostPathCheck::CharDevice, wrong("device")),
        ("file", HostPathCheck::BlockDevice, wrong("device")),
    ] {
        assert_eq!(check(name, kind), want, "{name} {kind:?}");
    }
    let null = VolumeMaterial::HostPath { path: "/dev/null".into(), check: HostPathCheck::CharDevice };
    assert_eq!(place.apply(null, None), Ok(false));
}

#[test]
fn mount_tables() {
    let table = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:5 / /a\\040b/c\\134d rw shared:1 - tmpfs tmpfs rw\nshort\n";
    let points: Vec<PathBuf> = mount_points(table).collect();
    assert_eq!(points, [PathBuf::from("/"), PathBuf::from("/a b/c\\d")]);
    assert_eq!(unescape(b"\\9zz\\"), b"\\9zz\\");
}
