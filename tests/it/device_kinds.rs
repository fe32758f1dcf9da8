//! Device, DeviceModel and DeviceStatus in the real cloudcore, with the real kubectl.

use std::path::Path;

use crate::harness::api::kubectls;
use crate::harness::cluster::{Cloud, Kubectl};
use crate::harness::process::{PATIENCE, eventually};

const DEVICE: &str = "
apiVersion: devices.kubeedge.io/v1beta1
kind: Device
metadata: {name: valve-1}
spec:
  deviceModelRef: {name: valve}
  nodeName: edge-9
  protocol: {protocolName: modbus, configData: {ip: 10.0.0.9, port: 502, nested: {any: [1, x]}}}
  properties:
  - name: open
    desired: {value: 'true'}
  - name: flow
";

const STATUS: &str = "
apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceStatus
metadata: {name: loner}
spec: {}
status:
  state: online
  lastOnlineTime: '2026-01-01T00:00:00Z'
  twins:
  - propertyName: open
    reported: {value: 'true', metadata: {timestamp: '1795378291643', type: boolean}}
    observedDesired: {value: ''}
";

/// One cloudcore; every kubectl in turn, on a clean namespace.
fn each(test: impl Fn(&Kubectl)) {
    let dir = tempfile::tempdir().unwrap();
    let cloud = Cloud::start(dir.path(), &[]);
    for binary in kubectls() {
        println!("with {}", binary.display());
        let kubectl = cloud.kubectl().with(&binary);
        test(&kubectl);
        kubectl.run(&["delete", "devices,devicemodels,devicestatuses", "--all"]);
    }
}

fn columns(table: &str) -> Vec<&str> {
    table.lines().next().unwrap_or_default().split("  ").map(str::trim).filter(|it| !it.is_empty()).collect()
}

fn row(table: &str) -> Vec<&str> {
    table.lines().nth(1).unwrap_or_default().split("  ").map(str::trim).filter(|it| !it.is_empty()).collect()
}

/// The Device and the DeviceModel recorded from KubeEdge 1.23, as its kubectl printed them.
fn recorded() -> String {
    let all = include_str!("../golden/kubeedge-1.23-device-crs.yaml");
    let start = all.find("- apiVersion: devices.kubeedge.io/v1beta1\n  kind: DeviceStatus").unwrap();
    let end = all.rfind("\nkind: List").unwrap();
    format!("{}{}", &all[..start], &all[end + 1..])
}

#[test]
fn devices_from_apply_to_delete() {
    each(|kubectl| {
        let made = kubectl.apply(&recorded());
        assert_eq!(
            made,
            "device.devices.kubeedge.io/sensor-1 created\ndevicemodel.devices.kubeedge.io/sensor-model created\n"
        );
        let table = kubectl.run(&["get", "device", "sensor-1"]);
        assert_eq!(columns(&table), ["NAME", "NODE", "MODEL", "PROTOCOL", "AGE"]);
        assert_eq!(row(&table)[..4], ["sensor-1", "edge-1", "sensor-model", "fake"]);
        let wide = kubectl.run(&["get", "dev", "sensor-1", "-o", "wide"]);
        assert_eq!(row(&wide)[4..6], ["temperature humidity", "20 40"]);
        let table = kubectl.run(&["get", "devicemodel"]);
        assert_eq!(columns(&table), ["NAME", "PROTOCOL", "PROPERTIES", "AGE"]);
        assert_eq!(row(&table)[..3], ["sensor-model", "fake", "temperature humidity"]);

        assert_eq!(kubectl.apply(DEVICE), "device.devices.kubeedge.io/valve-1 created\n");
        assert_eq!(kubectl.apply(DEVICE), "device.devices.kubeedge.io/valve-1 unchanged\n");
        let moved = DEVICE.replace("edge-9", "edge-8").replace("port: 502", "port: 503");
        assert_eq!(kubectl.apply(&moved), "device.devices.kubeedge.io/valve-1 configured\n");
        let device = kubectl.json(&["get", "device", "valve-1"]);
        assert_eq!(
            (&device["spec"]["nodeName"], &device["metadata"]["generation"]),
            (&"edge-8".into(), &2.into())
        );
        let config = &device["spec"]["protocol"]["configData"];
        assert_eq!((&config["port"], &config["nested"]["any"][1]), (&503.into(), &"x".into()));
        let on_node =
            kubectl.run(&["get", "devices", "--field-selector", "spec.nodeName=edge-8", "-o", "name"]);
        assert_eq!(on_node, "device.devices.kubeedge.io/valve-1\n");

        let all = kubectl.run(&["get", "device,devicemodel,devicestatus"]);
        assert!(all.contains("device.devices.kubeedge.io/valve-1") && all.contains("sensor-model"), "{all}");
        let described = kubectl.run(&["describe", "device", "valve-1"]);
        for word in ["Kind:         Device", "Node Name:  edge-8", "Protocol Name:  modbus"] {
            assert!(described.contains(word), "no {word:?} in\n{described}");
        }

        for (style, patch, want) in [
            ("merge", r#"{"spec":{"nodeName":"edge-7"}}"#, "patched\n"),
            ("merge", r#"{"spec":{"nodeName":"edge-7"}}"#, "patched (no change)\n"),
            (
                "json",
                r#"[{"op":"replace","path":"/spec/properties/0/desired/value","value":"false"}]"#,
                "patched\n",
            ),
        ] {
            let said = kubectl.run(&["patch", "device", "valve-1", "--type", style, "-p", patch]);
            assert_eq!(said, format!("device.devices.kubeedge.io/valve-1 {want}"));
        }
        assert_eq!(
            kubectl.edit("device/valve-1", "s/edge-7/edge-6/"),
            "device.devices.kubeedge.io/valve-1 edited\n"
        );
        let path = "jsonpath={.spec.nodeName} {.spec.properties[0].desired.value} {.metadata.generation}";
        assert_eq!(kubectl.run(&["get", "device", "valve-1", "-o", path]), "edge-6 false 5");
        let file = kubectl.file("valve.yaml", DEVICE);
        let replaced = kubectl.run(&["replace", "-f", &file]);
        assert_eq!(replaced, "device.devices.kubeedge.io/valve-1 replaced\n");
        assert_eq!(kubectl.run(&["get", "device", "valve-1", "-o", path]), "edge-9 true 6");
        kubectl.run(&["label", "device", "valve-1", "floor=2"]);
        assert_eq!(kubectl.run(&["get", "devices", "-l", "floor=2", "-o", "name"]).lines().count(), 1);

        assert!(
            kubectl
                .run(&["delete", "-f", &file])
                .starts_with("device.devices.kubeedge.io \"valve-1\" deleted")
        );
        let gone = kubectl.try_run(&["get", "device", "valve-1"]).unwrap_err();
        assert_eq!(gone, "Error from server (NotFound): devices.devices.kubeedge.io \"valve-1\" not found\n");
    });
}

#[test]
fn a_device_status_is_seen_and_patched() {
    each(|kubectl| {
        assert_eq!(kubectl.apply(STATUS), "devicestatus.devices.kubeedge.io/loner created\n");
        let patch = r#"{"status":{"state":"offline","extensions":{"battery":{"percent":80}}}}"#;
        kubectl.run(&["patch", "devicestatus", "loner", "--type", "merge", "-p", patch]);
        let table = kubectl.run(&["get", "devicestatus", "loner"]);
        assert_eq!(columns(&table), ["NAME", "STATE", "LAST ONLINE", "PROPERTIES", "VALUES", "AGE"]);
        let cells = row(&table);
        assert_eq!((cells[..2].to_vec(), &cells[3..5]), (vec!["loner", "offline"], &["open", "true"][..]));
        let yaml = kubectl.run(&["get", "devicestatus", "loner", "-o", "yaml"]);
        for line in ["  generation: 2\n", "      percent: 80\n", "      value: \"true\"\n", "spec: {}\n"] {
            assert!(yaml.contains(line), "no {line:?} in\n{yaml}");
        }
        let patch = [
            "patch",
            "devicestatus",
            "loner",
            "--subresource=status",
            "--type=merge",
            "-p",
            "{\"status\":{}}",
        ];
        let refused = kubectl.try_run(&patch).unwrap_err();
        assert!(refused.contains("NotFound") || refused.contains("could not find"), "{refused}");
    });
}

#[test]
fn mistakes_in_devices_are_named() {
    each(|kubectl| {
        for (from, to, want) in [
            ("  nodeName:", "  nodeNmae:", "strict decoding error: unknown field \"spec.nodeNmae\""),
            (
                "  - name: flow",
                "  - name: open",
                "The Device \"valve-1\" is invalid: spec.properties[1]: Duplicate value: map[string]interface {}{\"name\":\"open\"}",
            ),
            (
                "  - name: flow",
                "  - collectCycle: 5",
                "The Device \"valve-1\" is invalid: spec.properties[1].name: Required value",
            ),
            (
                "  - name: flow",
                "  - name: flow\n    reportToCloud: 'yes'",
                "must be of type boolean: \"string\"",
            ),
            ("nodeName: edge-9", "nodeName: Edge 9", "spec.nodeName in body should match"),
        ] {
            let refused = kubectl.try_apply(&DEVICE.replace(from, to)).expect_err(to);
            assert!(refused.contains(want), "{refused}");
        }
        let model = "
apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceModel
metadata: {name: valve}
spec:
  properties:
  - {name: open, type: BOOLEAN, accessMode: ReadWrite}
  - {name: flow, type: DOUBLE, accessMode: ReadOnly, minimum: '0', maximum: '12.5'}
";
        for (from, to, want) in [
            (
                "BOOLEAN",
                "BOOL",
                "spec.properties[0].type: Unsupported value: \"BOOL\": supported values: \"INT\", \"FLOAT\"",
            ),
            (
                "'0'",
                "'13'",
                "spec.properties[1].minimum: Invalid value: \"13\": must be less than or equal to maximum",
            ),
            ("'12.5'", "'much'", "spec.properties[1].maximum: Invalid value: \"much\": must be a number"),
            ("name: flow", "name: open", "spec.properties[1]: Duplicate value"),
        ] {
            let refused = kubectl.try_apply(&model.replace(from, to)).expect_err(to);
            assert!(
                refused.contains("The DeviceModel \"valve\" is invalid: ") && refused.contains(want),
                "{refused}"
            );
        }
        kubectl.apply(model);
        kubectl.apply(DEVICE);
        let twice = r#"{"spec":{"properties":[{"name":"a"},{"name":"a"}]}}"#;
        let refused =
            kubectl.try_run(&["patch", "device", "valve-1", "--type=merge", "-p", twice]).unwrap_err();
        assert!(refused.contains("spec.properties[1]: Duplicate value"), "{refused}");
        let refused = kubectl.try_run(&["patch", "device", "valve-1", "-p", "{\"spec\":{}}"]).unwrap_err();
        assert!(refused.contains("application/merge-patch+json"), "{refused}");
    });
}

#[test]
fn devices_are_watched() {
    each(|kubectl| {
        let watch = kubectl.spawn(&["get", "devices", "-w"], "watch-devices");
        kubectl.apply(DEVICE);
        eventually("the watch shows the device", || watch.log().contains("edge-9"));
        kubectl.run(&[
            "patch",
            "device",
            "valve-1",
            "--type=merge",
            "-p",
            r#"{"spec":{"nodeName":"edge-5"}}"#,
        ]);
        eventually("the watch shows it moved", || watch.log().contains("edge-5"));
        kubectl.apply(STATUS);
        let events = kubectl.spawn(&["get", "devicestatus", "-w", "--output-watch-events"], "watch-status");
        eventually("the watch shows the status", || events.log().contains("ADDED"));
        let patch = r#"{"status":{"twins":[{"propertyName":"open","reported":{"value":"false"}}]}}"#;
        kubectl.run(&["patch", "devicestatus", "loner", "--type=merge", "-p", patch]);
        eventually("the watch shows the value", || events.log().contains("false"));
        kubectl.run(&["delete", "devicestatus", "loner"]);
        eventually("the watch shows the end", || events.log().contains("DELETED"));
        let done = kubectl.run(&[
            "wait",
            "device/valve-1",
            "--for=jsonpath={.spec.nodeName}=edge-5",
            "--timeout=20s",
        ]);
        assert_eq!(done, "device.devices.kubeedge.io/valve-1 condition met\n");
    });
}

#[test]
fn what_the_server_tells_about_devices() {
    each(|kubectl| {
        let resources = kubectl.run(&["api-resources", "--api-group=devices.kubeedge.io", "--no-headers"]);
        let words: Vec<Vec<&str>> = resources.lines().map(|line| line.split_whitespace().collect()).collect();
        let version = "devices.kubeedge.io/v1beta1";
        assert_eq!(
            words,
            [
                ["devicemodels", "devmodel", version, "true", "DeviceModel"],
                ["devices", "dev", version, "true", "Device"],
                ["devicestatuses", "devstatus", version, "true", "DeviceStatus"],
            ]
        );
        assert_eq!(kubectl.run(&["auth", "can-i", "patch", "devicestatuses"]), "yes\n");
    });
}

/// The files a user copies from.
#[test]
fn the_examples_of_devices_apply() {
    each(|kubectl| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
        for name in ["thermometer", "plc", "lamp"] {
            let file = folder.join(format!("{name}.yaml"));
            let said = kubectl.run(&["apply", "-f", file.to_str().unwrap()]);
            let want = format!(
                "devicemodel.devices.kubeedge.io/{name} created\ndevice.devices.kubeedge.io/{name}-1 created\n"
            );
            assert_eq!(said, want);
        }
        kubectl.wait_for("device/lamp-1", "{.spec.properties[0].desired.value}", "on", PATIENCE);
        let off = r#"[{"op":"replace","path":"/spec/properties/0/desired/value","value":"off"}]"#;
        kubectl.run(&["patch", "device", "lamp-1", "--type", "json", "-p", off]);
        kubectl.wait_for("device/lamp-1", "{.spec.properties[0].desired.value}", "off", PATIENCE);
    });
}
