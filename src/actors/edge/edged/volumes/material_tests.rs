//! Pods in, files out.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::actors::edge::edged::fixtures::{host, pod};
use crate::model::ObjectKey;

fn sources() -> Sources {
    let mut sources = Sources::default();
    let mut add = |key, object: Value| sources.insert(key, Some(Arc::new(object)));
    add(ObjectKey::namespaced("default", CONFIGMAP, "cm"), json!({"data": {"a": "1", "b": "2"}}));
    add(ObjectKey::namespaced("default", CONFIGMAP, "evil"), json!({"data": {"../x": "1"}}));
    add(ObjectKey::namespaced("default", SECRET, "sec"), json!({"data": {"p": "aGk="}}));
    let plain = pod(json!({}));
    add(token_want(&plain, None, Some(3607)).key, json!({"status": {"token": "t0k3n"}}));
    sources
}

fn one(volume: Value) -> Result<VolumeMaterial, String> {
    with(json!({}), volume)
}

fn with(spec: Value, volume: Value) -> Result<VolumeMaterial, String> {
    let (mut spec, mut volume) = (spec, volume);
    volume["name"] = json!("v");
    spec["volumes"] = json!([volume]);
    let prepared = prepare(&pod(json!({"spec": spec})), &sources(), &host());
    prepared.map(|mut all| all.volumes.remove(0).material).map_err(|err| err.to_string())
}

fn files(volume: Value) -> Vec<(String, String, u32)> {
    list(one(volume).unwrap())
}

fn list(material: VolumeMaterial) -> Vec<(String, String, u32)> {
    let VolumeMaterial::Files { files, .. } = material else { panic!("no files: {material:?}") };
    let text = |file: &FileMaterial| String::from_utf8(file.data.clone()).unwrap();
    files.iter().map(|(path, file)| (path.clone(), text(file), file.mode)).collect()
}

fn file(path: &str, text: &str, mode: u32) -> (String, String, u32) {
    (path.to_owned(), text.to_owned(), mode)
}

#[test]
fn configmaps_and_secrets() {
    let all = files(json!({"configMap": {"name": "cm"}}));
    assert_eq!(all, [file("a", "1", 0o644), file("b", "2", 0o644)]);
    let items = json!({"configMap": {"name": "cm", "defaultMode": 256, "items": [
        {"key": "b", "path": "deep/er/b.conf", "mode": 448}, {"key": "a", "path": "a"},
    ]}});
    assert_eq!(files(items), [file("a", "1", 0o400), file("deep/er/b.conf", "2", 0o700)]);
    let secret = one(json!({"secret": {"secretName": "sec"}})).unwrap();
    assert!(matches!(&secret, VolumeMaterial::Files { memory: true, plugin: "kubernetes.io~secret", .. }));
    assert!(!format!("{secret:?}").contains("104"), "no content in logs: {secret:?}");
    assert_eq!(list(secret), [file("p", "hi", 0o644)]);
    assert_eq!(files(json!({"secret": {"secretName": "no", "optional": true}})), []);
    let optional_key =
        json!({"configMap": {"name": "cm", "optional": true, "items": [{"key": "z", "path": "z"}]}});
    assert_eq!(files(optional_key), []);
}

#[test]
fn projected_and_downward() {
    let material = json!({"projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "cm", "items": [{"key": "a", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
        {"secret": {"name": "sec"}},
    ]}});
    let want = [
        file("ca.crt", "1", 0o644),
        file("namespace", "default", 0o644),
        file("p", "hi", 0o644),
        file("token", "t0k3n", 0o644),
    ];
    assert_eq!(files(material.clone()), want);

    let group = list(with(json!({"securityContext": {"fsGroup": 7}}), material).unwrap());
    assert_eq!(group.iter().map(|file| file.2).collect::<Vec<_>>(), [0o644, 0o644, 0o644, 0o640]);
}

#[test]
fn a_token_belongs_to_the_one_user_of_the_pod() {
    let volume = json!({"projected": {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}}]}});
    for (containers, want) in [
        (json!([{"name": "a", "securityContext": {"runAsUser": 5}}]), (Some(5), 0o600)),
        (json!([{"name": "a", "securityContext": {"runAsUser": 5}}, {"name": "b"}]), (None, 0o644)),
    ] {
        let VolumeMaterial::Files { files, .. } =
            with(json!({"containers": containers}), volume.clone()).unwrap()
        else {
            panic!("files expected")
        };
        assert_eq!((files["token"].owner, files["token"].mode), want);
    }
}

#[test]
fn other_kinds() {
    let memory = json!({"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}});
    assert_eq!(one(memory), Ok(VolumeMaterial::EmptyDir { memory: true, size_limit_bytes: Some(1 << 20) }));
    assert_eq!(
        one(json!({"emptyDir": {}})),
        Ok(VolumeMaterial::EmptyDir { memory: false, size_limit_bytes: None })
    );
    let host_path = VolumeMaterial::HostPath { path: "/dev".into(), check: HostPathCheck::Directory };
    assert_eq!(one(json!({"hostPath": {"path": "/dev", "type": "Directory"}})), Ok(host_path));
}

#[test]
fn volumes_that_cannot_be() {
    let mount = |why: &str| format!("MountVolume.SetUp failed for volume \"v\" : {why}");
    for (volume, why) in [
        (json!({"configMap": {"name": "x"}}), "configmap \"x\" not found"),
        (json!({"secret": {"secretName": "x"}}), "secret \"x\" not found"),
        (
            json!({"configMap": {"name": "cm", "items": [{"key": "z", "path": "z"}]}}),
            "references non-existent config key: z",
        ),
        (json!({"configMap": {"name": "evil"}}), "path \"../x\" must not begin with \"..\""),
        (
            json!({"configMap": {"name": "cm", "items": [{"key": "a", "path": "x/../../y"}]}}),
            "path \"x/../../y\" must be a relative path without \"..\"",
        ),
        (
            json!({"configMap": {"name": "cm", "items": [{"key": "a", "path": "/etc/passwd"}]}}),
            "path \"/etc/passwd\" must be a plain relative path",
        ),
        (
            json!({"configMap": {"name": "cm", "items": [{"key": "a", "path": "..data"}]}}),
            "path \"..data\" must not begin with \"..\"",
        ),
        (json!({"hostPath": {"path": "/a/../b"}}), "path \"/a/../b\" must be absolute and without \"..\""),
        (json!({"hostPath": {"path": "/a", "type": "Odd"}}), "hostPath type \"Odd\" is not known"),
        (json!({"persistentVolumeClaim": {"claimName": "x"}}), "this kind of volume is not supported"),
        (
            json!({"projected": {"sources": [{"serviceAccountToken": {"path": "t", "audience": "x"}}]}}),
            "no token for service account \"default\" yet",
        ),
        (
            json!({"downwardAPI": {"items": [{"path": "a", "fieldRef": {"fieldPath": "spec.x"}}]}}),
            "unsupported fieldPath: spec.x",
        ),
    ] {
        assert_eq!(one(volume), Err(mount(why)));
    }
    let outside = json!({"spec": {"volumes": [{"name": "../v", "emptyDir": {}}]}});
    assert!(matches!(prepare(&pod(outside), &sources(), &host()), Err(VolumeError::Name(_))));
}

proptest! {
    #[test]
    fn accepted_paths_stay_below_the_root(path in "(\\.{0,3}|[a-z]{0,2}|/){0,8}") {
        if check_path(&path).is_ok() {
            let joined = Path::new("/root").join(&path);
            prop_assert!(joined.starts_with("/root") && joined != Path::new("/root"));
            prop_assert!(joined.components().all(|part| part != Component::ParentDir));
        }
    }
}
