use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::config::{CloudCoreConfig, EdgeCoreConfig, LogFormat};

fn cloud(text: &str) -> Result<Loaded<CloudCoreConfig>, ConfigError> {
    parse(text, "c.yaml", &[])
}

fn edge(text: &str, sets: &[&str]) -> Result<Loaded<EdgeCoreConfig>, ConfigError> {
    let sets: Vec<String> = sets.iter().map(|&set| set.into()).collect();
    parse(text, "e.yaml", &sets)
}

#[test]
fn the_shipped_files_are_the_defaults_and_hold_every_key() {
    let loaded = parse::<CloudCoreConfig>(CloudCoreConfig::DEFAULTS, "shipped", &[]).expect("loads");
    assert_eq!(loaded, Loaded { config: CloudCoreConfig::default(), warnings: vec![] });
    let loaded = parse::<EdgeCoreConfig>(EdgeCoreConfig::DEFAULTS, "shipped", &[]).expect("loads");
    assert_eq!(loaded, Loaded { config: EdgeCoreConfig::default(), warnings: vec![] });
    let tree = |text| yaml_serde::from_str::<Value>(text).expect("yaml");
    assert_eq!(
        tree(CloudCoreConfig::DEFAULTS),
        yaml_serde::to_value(CloudCoreConfig::default()).expect("tree")
    );
    assert_eq!(
        tree(EdgeCoreConfig::DEFAULTS),
        yaml_serde::to_value(EdgeCoreConfig::default()).expect("tree")
    );
}

#[test]
fn little_is_enough() {
    for text in [
        "",
        "# nothing\n",
        "kind: CloudCore\n",
        "modules:\n",
        "modules: {cloudHub: {nodeLimit: ~}}\n",
        "---\n",
    ] {
        assert_eq!(cloud(text).expect(text).config, CloudCoreConfig::default(), "{text}");
    }
    let some = cloud("commonConfig: {logging: {format: json}}\nmodules:\n  cloudHub:\n    nodeLimit: 7\n")
        .expect("loads");
    assert_eq!(some.config.modules.cloud_hub.node_limit, 7);
    assert_eq!(some.config.modules.cloud_hub.keepalive_interval, 30);
    assert_eq!(some.config.common_config.logging.format, LogFormat::Json);
}

#[test]
fn refusals_name_file_line_and_key() {
    for (text, want) in [
        (
            "kind: EdgeCore\n",
            "c.yaml, line 1: kind: want \"CloudCore\" for cloudcore, the file has \"EdgeCore\"",
        ),
        ("\napiVersion: v1\n", "c.yaml, line 2: apiVersion: want \"cloudcore.config.kubeedge.io/v1alpha1\""),
        ("apiVersion: 1\n", "c.yaml, line 1: apiVersion: want"),
        (
            "modules:\n  cloudHub:\n    nodeLimit: many\n",
            "c.yaml, line 3: modules.cloudHub.nodeLimit: invalid type: string \"many\", expected a whole number from 0 to 4294967295",
        ),
        (
            "modules: {cloudHub: {https: {port: 70000}}}\n",
            "c.yaml, line 1: modules.cloudHub.https.port: invalid value: integer `70000`, expected a whole number from 0 to 65535",
        ),
        (
            "modules:\n  cloudHub:\n    enable: yes please\n",
            "c.yaml, line 3: modules.cloudHub.enable: invalid type: string \"yes please\", expected true or false",
        ),
        ("modules:\n  cloudHub: on\n", "c.yaml, line 2: modules.cloudHub: it is a section"),
        ("modules: []\n", "c.yaml, line 1: modules: it is a section"),
        (
            "commonConfig: {logging: {format: xml}}\n",
            "c.yaml, line 1: commonConfig.logging.format: unknown variant `xml`",
        ),
        (
            "modules:\n  cloudHub:\n\n    nodeLimits: 1\n",
            "c.yaml, line 4: modules.cloudHub.nodeLimits: unknown key, did you mean nodeLimit?",
        ),
        (
            "modules:\n  cloudhub: {}\n",
            "c.yaml, line 2: modules.cloudhub: unknown key, did you mean cloudHub?",
        ),
        ("modules:\n  dynamiccontroller: {}\n", "did you mean dynamicController?"),
        ("whatever: 1\n", "c.yaml, line 1: whatever: unknown key"),
        ("1: 2\n", "c.yaml: the file: a key here is not a text"),
        ("- a\n", "c.yaml, line 1: the file must hold keys and values"),
        ("a: [\n", "c.yaml, line 2: "),
        ("a: 1\na: 2\n", "duplicate"),
        ("kind: CloudCore\n---\nkind: CloudCore\n", "more than one document"),
        (
            "modules:\n  cloudHub:\n    advertiseAddress: [10.0.0.1, cloud]\n",
            "c.yaml, line 3: modules.cloudHub.advertiseAddress[1]: \"cloud\" is not an IP address",
        ),
        (
            "modules: {cloudHub: {keepaliveInterval: 0}}\n",
            "modules.cloudHub.keepaliveInterval: it must be at least 1, found 0",
        ),
        (
            "modules: {cloudHub: {keepaliveInterval: -1}}\n",
            "modules.cloudHub.keepaliveInterval: invalid value: integer `-1`",
        ),
        ("modules: {cloudHub: {tlsCAFile: \"\"}}\n", "modules.cloudHub.tlsCAFile: it must name a file"),
        (
            "modules:\n  syncController:\n    enable: false\n",
            "c.yaml, line 3: modules.syncController.enable: it cannot be turned off",
        ),
        (
            "modules: {cloudHub: {https: {enable: false}}}\n",
            "modules.cloudHub.https.enable: it cannot be turned off",
        ),
        (
            "modules: {apiServer: {enable: false}}\n",
            "modules.apiServer.enable: without it kubeAPIConfig must name an API server",
        ),
        (
            "modules: {cloudHub: {edgeCertSigningDuration: 99999}}\n",
            "edgeCertSigningDuration: it must be 1 to 36400 days",
        ),
        (
            "modules: {cloudHub: {websocket: {address: everywhere}}}\n",
            "modules.cloudHub.websocket.address: \"everywhere\" is not an IP address",
        ),
        ("dataDir: here\n", "c.yaml, line 1: dataDir: it must be an absolute path"),
        ("identity: {trustDomain: Big.Example}\n", "identity.trustDomain: \"Big.Example\" is not"),
        ("kubeAPIConfig: {master: nowhere}\n", "kubeAPIConfig.master: \"nowhere\" is not a URL"),
        (
            "commonConfig: {logging: {level: verbose}}\n",
            "commonConfig.logging.level: \"verbose\" is not error, warn, info, debug, trace or target=level",
        ),
        (
            "commonConfig: {monitorServer: {bindAddress: \"9091\"}}\n",
            "commonConfig.monitorServer.bindAddress: \"9091\" is not host:port",
        ),
    ] {
        let err = cloud(text).expect_err(text).to_string();
        assert!(err.contains(want), "{text:?}\n  want {want}\n  got  {err}");
        assert!(!err.contains('\n'), "one line: {err}");
    }
    for (text, want) in [
        (
            "modules: {edged: {tailoredKubeletConfig: {nodeStatusUpdateFrequency: 10}}}\n",
            "nodeStatusUpdateFrequency: invalid type: integer `10`, expected a string",
        ),
        (
            "modules:\n  edged:\n    tailoredKubeletConfig:\n      nodeStatusUpdateFrequency: 10 s\n",
            "e.yaml, line 4: modules.edged.tailoredKubeletConfig.nodeStatusUpdateFrequency: \"10 s\" is not a duration",
        ),
        (
            "modules: {edged: {tailoredKubeletConfig: {runtimeRequestTimeout: 0s}}}\n",
            "it must be longer than 0s",
        ),
        (
            "modules: {edged: {tailoredKubeletConfig: {registerWithTaints: [{key: a, effect: Never}]}}}\n",
            "registerWithTaints[0].effect: \"Never\" is not NoSchedule",
        ),
        (
            "modules: {edged: {tailoredKubeletConfig: {registerWithTaints: [{kay: a}]}}}\n",
            "unknown field `kay`",
        ),
        (
            "modules: {edged: {tailoredKubeletConfig: {containerRuntimeEndpoint: /run/x.sock}}}\n",
            "is not a socket such as unix:///",
        ),
        (
            "modules: {edged: {hostnameOverride: Edge_1}}\n",
            "modules.edged.hostnameOverride: \"Edge_1\" is not a valid node name",
        ),
        (
            "modules: {edgeHub: {httpServer: \"http://a:1\"}}\n",
            "modules.edgeHub.httpServer: \"http://a:1\" is not a URL such as https://host:port",
        ),
        (
            "modules: {edgeHub: {websocket: {server: cloud}}}\n",
            "modules.edgeHub.websocket.server: \"cloud\" is not host:port",
        ),
    ] {
        let err = edge(text, &[]).expect_err(text).to_string();
        assert!(err.contains(want), "{text:?}\n  want {want}\n  got  {err}");
    }
}

#[test]
fn files_missing_empty_or_huge_are_named() {
    let dir = tempfile::tempdir().expect("temp dir");
    let missing: PathBuf = dir.path().join("missing.yaml");
    let err = load::<CloudCoreConfig>(&missing).expect_err("missing").to_string();
    assert!(err.contains("missing.yaml does not exist: keadm writes it"), "{err}");
    let cut = dir.path().join("cut.yaml");
    for left in ["", "\n \n", "\0\0\0"] {
        std::fs::write(&cut, left).expect("write");
        let err = load::<CloudCoreConfig>(&cut).expect_err("empty").to_string();
        assert!(err.contains("cut.yaml is empty: put it back"), "{err}");
    }
    let huge = dir.path().join("huge.yaml");
    std::fs::write(&huge, vec![b'#'; 2 * 1024 * 1024]).expect("write");
    assert!(load::<CloudCoreConfig>(&huge).expect_err("huge").to_string().contains("1 MiB"));
}

/// Files recorded from Go KubeEdge 1.23 load; every key without effect is named once.
#[test]
fn kubeedge_files_load_with_warnings() {
    let loaded = cloud(include_str!("../../../tests/golden/cloudcore-minimal.yaml")).expect("loads");
    let keys: Vec<_> = loaded.warnings.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(keys, ["modules.cloudHub.unixsocket", "modules.iptablesManager"]);
    assert!(loaded.warnings[0].ends_with("(c.yaml, line 13)"), "{:?}", loaded.warnings);
    assert_eq!(loaded.config.modules.cloud_hub.node_limit, 2000);

    let loaded = edge(include_str!("../../../tests/golden/edgecore-minimal.yaml"), &[]).expect("loads");
    assert_eq!(loaded.warnings.len(), 4, "{:?}", loaded.warnings);
    assert_eq!(loaded.config.modules.edged.hostname_override, "edge-1");

    let loaded = edge(include_str!("../../../tests/golden/edgecore-effective.yaml"), &[]).expect("loads");
    assert_eq!(loaded.config.modules.edged.tailored_kubelet_config.node_status_report_frequency, "5m0s");
    assert!(!loaded.config.modules.edged.report_event);
    for section in ["modules.serviceBus ", "modules.edged.tailoredKubeletConfig.logging ", "database "] {
        assert_eq!(loaded.warnings.iter().filter(|line| line.starts_with(section)).count(), 1, "{section}");
    }
}

#[test]
fn every_foreign_key_is_unknown_to_the_structs() {
    fn check<T: ConfigFile>() {
        for key in T::FOREIGN_KEYS {
            let loaded = parse::<T>("", "x", &[format!("{key}=1")]).expect(key);
            assert_eq!(
                loaded.warnings,
                [format!("{key} is a key of KubeEdge that has no effect here (--set)")]
            );
        }
    }
    check::<CloudCoreConfig>();
    check::<EdgeCoreConfig>();
}

#[test]
fn set_options_follow_the_types() {
    let loaded = edge(
        "modules: {edgeHub: {heartbeat: 5}}\n",
        &[
            "modules.edgeHub.heartbeat=9",
            "modules.edgeHub.token=123",
            "modules.edgeHub.rotateCertificates=false",
            "modules.edged.nodeLabels.node-role.kubernetes.io/edge=",
            "modules.edged.nodeLabels.zone=a=b",
            "modules.edged.tailoredKubeletConfig.clusterDNS=10.0.0.1, 10.0.0.2",
            "modules.edged.tailoredKubeletConfig.registerWithTaints=[{key: a, effect: NoSchedule}]",
        ],
    );
    let modules = loaded.expect("loads").config.modules;
    assert_eq!((modules.edge_hub.heartbeat, modules.edge_hub.token.as_str()), (9, "123"));
    assert!(!modules.edge_hub.rotate_certificates);
    let labels: Vec<_> = modules.edged.node_labels.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(labels, [("node-role.kubernetes.io/edge", ""), ("zone", "a=b")]);
    assert_eq!(modules.edged.tailored_kubelet_config.cluster_dns, ["10.0.0.1", "10.0.0.2"]);
    assert_eq!(modules.edged.tailored_kubelet_config.register_with_taints[0].key, "a");

    for (set, want) in [
        ("modules.edgeHub", "--set: \"modules.edgeHub\" is not key.path=value"),
        ("modules.edgeHub=1", "--set: modules.edgeHub: it is a section: name a key below it"),
        ("modules.edgeHub.token.x=1", "modules.edgeHub.token has no keys below it"),
        (
            "modules.edgeHub.hartbeat=1",
            "--set: modules.edgeHub.hartbeat: unknown key, did you mean heartbeat?",
        ),
        ("modules.edgeHub.heartbeat=soon", "--set: modules.edgeHub.heartbeat: invalid type: string \"soon\""),
        ("modules.edgeHub.heartbeat=0", "--set: modules.edgeHub.heartbeat: it must be at least 1"),
        (
            "modules.edgeHub.reportIntervalSecs=301",
            "--set: modules.edgeHub.reportIntervalSecs: it must be at most 300",
        ),
        ("=1", "unknown key"),
    ] {
        let err = edge("", &[set]).expect_err(set).to_string();
        assert!(err.contains(want), "{set}: {err}");
    }
}

proptest! {
    #[test]
    fn any_text_never_panics(text in "(modules|kind|edged|x)?[:\\[\\]{} \n&*!a-z0-9'\"-]{0,60}", set in ".{0,30}=?.{0,10}") {
        prop_assert!(cloud(&text).is_ok_and(|loaded| loaded.config.kind == "CloudCore") || cloud(&text).is_err());
        prop_assert!(edge(&text, &[&set]).is_err() || set.contains('='));
    }
}

#[test]
fn a_device_without_end_is_not_read_to_its_end() {
    let err = load::<EdgeCoreConfig>(Path::new("/dev/zero")).unwrap_err().to_string();
    assert!(err.contains("/dev/zero") && err.contains("larger than 1 MiB"), "{err}");
}
