//! Device, DeviceModel, DeviceStatus: what their definitions say, enforced as for custom resources.

use super::*;
use crate::apiserver::body::parse_yaml;

const DEVICES: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devices";
const MODELS: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devicemodels";
const STATUSES: &str = "/apis/devices.kubeedge.io/v1beta1/namespaces/default/devicestatuses";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

fn device(name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": name}, "spec": spec,
    })
}

fn model(properties: Value) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {"name": "m"}, "spec": {"protocol": "modbus", "properties": properties},
    })
}

fn lamp() -> Value {
    device(
        "lamp-1",
        json!({
            "deviceModelRef": {"name": "lamp"}, "nodeName": "edge-1",
            "protocol": {"protocolName": "mqtt", "configData": {"any": {"deep": [1, null]}, "port": 1502, "none": null}},
            "properties": [{"name": "power", "desired": {"value": "on"}}, {"name": "level"}],
        }),
    )
}

fn status_of(device: &Value) -> Value {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceStatus",
        "metadata": {"name": device["metadata"]["name"], "ownerReferences": [{
            "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
            "name": device["metadata"]["name"], "uid": device["metadata"]["uid"],
            "controller": true, "blockOwnerDeletion": true,
        }]},
        "spec": {},
    })
}

/// Documents of a YAML file.
fn documents(text: &str) -> Vec<Value> {
    text.split("\n---\n").map(|part| parse_yaml(part.as_bytes()).unwrap()).collect()
}

fn collection(object: &Value) -> &'static str {
    match object["kind"].as_str().unwrap() {
        "Device" => DEVICES,
        "DeviceModel" => MODELS,
        _ => STATUSES,
    }
}

/// Recorded from KubeEdge 1.23; what its server added is left out, as kubectl does.
#[tokio::test]
async fn kubeedge_objects_are_taken_unchanged() {
    let bench = Bench::new();
    let recorded = include_str!("../../../tests/golden/kubeedge-1.23-device-crs.yaml");
    let list = parse_yaml(recorded.as_bytes()).unwrap();
    for item in list["items"].as_array().unwrap() {
        let mut sent = item.clone();
        sent["metadata"] = json!({"name": item["metadata"]["name"]});
        let made = bench.made(&format!("{}?fieldValidation=Strict", collection(item)), &sent).await;
        for member in ["spec", "status"] {
            assert_eq!(made.get(member), item.get(member), "{}", item["kind"]);
        }
    }
}

#[tokio::test]
async fn the_examples_are_taken() {
    let bench = Bench::new();
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let mut names = Vec::new();
    for file in ["thermometer.yaml", "plc.yaml", "lamp.yaml"] {
        for object in documents(&std::fs::read_to_string(folder.join(file)).unwrap()) {
            let made = bench.made(&format!("{}?fieldValidation=Strict", collection(&object)), &object).await;
            assert_eq!(made["spec"], object["spec"], "{file}: nothing is lost");
            names.push(format!("{}/{}", object["kind"], object["metadata"]["name"]).replace('"', ""));
        }
    }
    let want = [
        "DeviceModel/thermometer",
        "Device/thermometer-1",
        "DeviceModel/plc",
        "Device/plc-1",
        "DeviceModel/lamp",
        "Device/lamp-1",
    ];
    assert_eq!(names, want);
}

#[tokio::test]
async fn refusals_name_the_field() {
    let bench = Bench::new();
    let twice = json!([{"name": "t"}, {"name": "u"}, {"name": "t"}]);
    for (url, body, code, message) in [
        (
            DEVICES,
            device("x", json!({"properties": [{"desired": {"value": "1"}}]})),
            422,
            "Device.devices.kubeedge.io \"x\" is invalid: spec.properties[0].name: Required value",
        ),
        (
            DEVICES,
            device("x", json!({"properties": twice})),
            422,
            "Device.devices.kubeedge.io \"x\" is invalid: spec.properties[2]: Duplicate value: map[string]interface {}{\"name\":\"t\"}",
        ),
        (
            DEVICES,
            device("x", json!({"properties": [{"name": "a", "desired": {}, "collectCycle": "1s"}]})),
            422,
            "Device.devices.kubeedge.io \"x\" is invalid: [spec.properties[0].collectCycle: Invalid value: \"string\": spec.properties[0].collectCycle in body must be of type integer: \"string\", spec.properties[0].desired.value: Required value]",
        ),
        (
            DEVICES,
            device("x", json!({"properties": [{"name": "a", "reportCycle": -1}]})),
            422,
            "Device.devices.kubeedge.io \"x\" is invalid: spec.properties[0].reportCycle: Invalid value: -1: spec.properties[0].reportCycle in body should be greater than or equal to 0",
        ),
        (
            DEVICES,
            device("x", json!({"properties": [{"name": "a", "pushMethod": {"mqtt": {"qos": 3}}}]})),
            422,
            "Device.devices.kubeedge.io \"x\" is invalid: spec.properties[0].pushMethod.mqtt.qos: Invalid value: 3: spec.properties[0].pushMethod.mqtt.qos in body should be less than or equal to 2",
        ),
        (
            DEVICES,
            device("x", json!({"nodeName": "Edge_1"})),
            422,
            "Device.devices.kubeedge.io \"x\" is invalid: spec.nodeName: Invalid value: \"Edge_1\": spec.nodeName in body should match '^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$'",
        ),
        (
            DEVICES,
            device("Bad_Name", json!({})),
            422,
            "Device.devices.kubeedge.io \"Bad_Name\" is invalid: metadata.name: Invalid value: \"Bad_Name\": a lowercase RFC 1123 subdomain",
        ),
        (
            DEVICES,
            device("x", json!({"protocl": {}, "properties": [{"name": "a", "desird": {}}]})),
            400,
            "Device in version \"v1beta1\" cannot be handled as a Device: strict decoding error: unknown field \"spec.properties[0].desird\", unknown field \"spec.protocl\"",
        ),
        (
            DEVICES,
            json!({"metadata": {"name": "x", "label": {}}, "sepc": {}}),
            400,
            "Device in version \"v1beta1\" cannot be handled as a Device: strict decoding error: unknown field \"metadata.label\", unknown field \"sepc\"",
        ),
        (
            DEVICES,
            json!({"metadata": {"name": "x", "labels": {"a": 1}}}),
            400,
            "Device in version \"v1beta1\" cannot be handled as a Device: json: cannot unmarshal field metadata.labels.a",
        ),
        (
            MODELS,
            model(json!([{"name": "t", "type": "INTEGER"}])),
            422,
            "DeviceModel.devices.kubeedge.io \"m\" is invalid: spec.properties[0].type: Unsupported value: \"INTEGER\": supported values: \"INT\", \"FLOAT\", \"DOUBLE\", \"STRING\", \"BOOLEAN\", \"BYTES\", \"STREAM\"",
        ),
        (
            MODELS,
            model(json!([{"name": "t", "accessMode": "WriteOnly"}])),
            422,
            "DeviceModel.devices.kubeedge.io \"m\" is invalid: spec.properties[0].accessMode: Unsupported value: \"WriteOnly\": supported values: \"ReadWrite\", \"ReadOnly\"",
        ),
        (
            MODELS,
            model(twice),
            422,
            "DeviceModel.devices.kubeedge.io \"m\" is invalid: spec.properties[2]: Duplicate value: map[string]interface {}{\"name\":\"t\"}",
        ),
        (
            MODELS,
            model(json!([{"name": "t", "type": "INT", "minimum": "9", "maximum": "1"}])),
            422,
            "DeviceModel.devices.kubeedge.io \"m\" is invalid: spec.properties[0].minimum: Invalid value: \"9\": must be less than or equal to maximum, which is 1",
        ),
        (
            MODELS,
            model(json!([{"name": "t", "type": "INT", "maximum": 100}])),
            422,
            "DeviceModel.devices.kubeedge.io \"m\" is invalid: spec.properties[0].maximum: Invalid value: \"integer\": spec.properties[0].maximum in body must be of type string: \"integer\"",
        ),
    ] {
        let (got, answer) = bench.post(&format!("{url}?fieldValidation=Strict"), &body).await;
        let said = answer["message"].as_str().unwrap_or_default();
        assert_eq!((got, said.starts_with(message)), (code, true), "{body}\n{said}\n{message}");
    }
    assert_eq!(names(&bench.get(DEVICES).await.1), Vec::<&str>::new());
}

#[tokio::test]
async fn unknown_fields_warn_or_go_silently() {
    let bench = Bench::new();
    let body = device("x", json!({"nodeNmae": "n", "nodeName": "n"}));
    for (mode, warns) in [("Warn", true), ("Ignore", false)] {
        let url = format!("{DEVICES}?fieldValidation={mode}&dryRun=All");
        let request = bench.request(Method::POST, &url, body.to_string().as_bytes(), &[]);
        let response = bench.core.call(request).await;
        assert_eq!(response.status, 201);
        assert_eq!(response.headers.contains_key("warning"), warns, "{mode}");
        let ApiBody::Full(bytes) = response.body else { panic!("a stream") };
        let made: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(made["spec"], json!({"nodeName": "n"}), "{mode}");
    }
}

#[tokio::test]
async fn free_parts_are_kept_as_they_are() {
    let bench = Bench::new();
    let made = bench.made(&format!("{DEVICES}?fieldValidation=Strict"), &lamp()).await;
    assert_eq!(made["spec"], lamp()["spec"]);
    let mut changed = made.clone();
    changed["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let (code, refused) = bench.put(&format!("{DEVICES}/lamp-1"), &changed).await;
    let want = "Device.devices.kubeedge.io \"lamp-1\" is invalid: metadata.resourceVersion: Invalid value: 0x0: must be specified for an update";
    assert_eq!((code, refused["message"].as_str()), (422, Some(want)));
    let mut changed = made.clone();
    changed["spec"]["nodeName"] = Value::Null;
    changed["spec"]["protocol"]["configData"] = json!({"other": [true]});
    let (code, put) = bench.put(&format!("{DEVICES}/lamp-1"), &changed).await;
    assert_eq!((code, put["metadata"]["generation"].as_i64()), (200, Some(2)));
    assert_eq!(put["spec"]["protocol"]["configData"], json!({"other": [true]}));
    assert!(put["spec"].get("nodeName").is_none(), "null is absent");
}

#[tokio::test]
async fn patches_follow_the_schema_too() {
    let bench = Bench::new();
    bench.made(DEVICES, &lamp()).await;
    let url = format!("{DEVICES}/lamp-1?fieldValidation=Strict");
    let on =
        |value: Value| json!([{"op": "replace", "path": "/spec/properties/0/desired/value", "value": value}]);
    for (style, patch, code, want) in [
        ("json-patch", on(json!("off")), 200, ""),
        ("json-patch", on(json!(1)), 422, "must be of type string: \"integer\""),
        (
            "merge-patch",
            json!({"spec": {"properties": [{"name": "a"}, {"name": "a"}]}}),
            422,
            "Duplicate value",
        ),
        ("merge-patch", json!({"spec": {"nodename": "n"}}), 422, "unknown field \"spec.nodename\""),
        ("merge-patch", json!({"spec": {"nodeName": "edge-2"}}), 200, ""),
        (
            "strategic-merge-patch",
            json!({}),
            415,
            "application/json-patch+json, application/merge-patch+json",
        ),
    ] {
        let (got, answer) = bench.patch(&url, style, &patch).await;
        let said = answer["message"].as_str().unwrap_or_default();
        assert_eq!((got, said.contains(want)), (code, true), "{patch}: {said}");
    }
    let (_, now) = bench.get(&format!("{DEVICES}/lamp-1")).await;
    assert_eq!(
        (&now["spec"]["properties"][0]["desired"]["value"], &now["spec"]["nodeName"]),
        (&json!("off"), &json!("edge-2"))
    );
    assert_eq!(now["metadata"]["generation"], 3);
    // A change of labels is no change of what is wanted.
    let (_, labelled) = bench.merge(&url, &json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(labelled["metadata"]["generation"], 3);
}

/// What DeviceController does: get or create, then patch the object itself (protocol section 7.2).
#[tokio::test]
async fn a_device_status_is_patched_without_a_subresource() {
    let bench = Bench::new();
    let made = bench.made(DEVICES, &lamp()).await;
    let mut status = status_of(&made);
    status["status"] = json!({"state": "unknown"});
    let kept = bench.made(STATUSES, &status).await;
    assert_eq!((&kept["status"]["state"], &kept["spec"]), (&json!("unknown"), &json!({})));
    let url = format!("{STATUSES}/lamp-1");
    let twins = json!([{
        "propertyName": "power", "reported": {"value": "on", "metadata": {"timestamp": "1795378291643", "type": "string"}},
        "observedDesired": {"value": ""},
    }]);
    for (generation, patch) in [
        (2, json!({"status": {"twins": twins}})),
        (3, json!({"status": {"state": "online", "lastOnlineTime": "2027-01-15T07:59:00Z"}})),
        (4, json!({"status": {"extensions": {"battery": {"percent": 80}}}})),
    ] {
        let (code, patched) = bench.merge(&format!("{url}?fieldValidation=Strict"), &patch).await;
        assert_eq!((code, patched["metadata"]["generation"].as_i64()), (200, Some(generation)), "{patched}");
    }
    let (_, now) = bench.get(&url).await;
    assert_eq!((&now["status"]["twins"], &now["status"]["state"]), (&twins, &json!("online")));
    assert_eq!(now["status"]["extensions"]["battery"]["percent"], 80);
    assert_eq!(bench.merge(&format!("{url}/status"), &json!({})).await.0, 404);
    let (code, refused) = bench.merge(&url, &json!({"status": {"twins": [{"reported": {}}]}})).await;
    let want = "DeviceStatus.devices.kubeedge.io \"lamp-1\" is invalid: status.twins[0].reported.value: Required value";
    assert_eq!((code, refused["message"].as_str()), (422, Some(want)));
}

#[tokio::test]
async fn a_status_goes_with_its_device() {
    let bench = Bench::new();
    let made = bench.made(DEVICES, &lamp()).await;
    bench.made(STATUSES, &status_of(&made)).await;
    // One that belongs to something else stays.
    let other = bench.made(DEVICES, &device("other", json!({}))).await;
    let mut stranger = status_of(&other);
    stranger["metadata"]["ownerReferences"][0]["kind"] = "ConfigMap".into();
    bench.made(STATUSES, &stranger).await;
    let (_, list) = bench.get(STATUSES).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = bench.watch(&format!("{STATUSES}?watch=true&resourceVersion={version}")).await;
    for name in ["lamp-1", "other"] {
        assert_eq!(bench.delete(&format!("{DEVICES}/{name}"), &Value::Null).await.0, 200);
    }
    assert_eq!(names(&bench.get(STATUSES).await.1), ["other"]);
    assert_eq!(watch.word().await, "DELETED lamp-1");
    // With a finalizer on the device it goes when the device goes.
    let mut held = lamp();
    held["metadata"]["finalizers"] = json!(["example.com/wait"]);
    let held = bench.made(DEVICES, &held).await;
    bench.made(STATUSES, &status_of(&held)).await;
    bench.delete(&format!("{DEVICES}/lamp-1"), &Value::Null).await;
    assert_eq!(bench.get(&format!("{STATUSES}/lamp-1")).await.0, 200);
    bench.merge(&format!("{DEVICES}/lamp-1"), &json!({"metadata": {"finalizers": null}})).await;
    assert_eq!(bench.get(&format!("{STATUSES}/lamp-1")).await.0, 404);
}

#[tokio::test]
async fn tables_answer_at_a_glance() {
    let bench = Bench::new();
    bench.pass_secs(-300);
    let made = bench.made(DEVICES, &lamp()).await;
    bench.made(MODELS, &model(json!([{"name": "t", "type": "INT"}, {"name": "u"}]))).await;
    let mut status = status_of(&made);
    status["status"] = json!({
        "state": "online", "lastOnlineTime": "2027-01-15T07:59:15Z",
        "twins": [
            {"propertyName": "power", "reported": {"value": "on"}, "observedDesired": {"value": ""}},
            {"propertyName": "level"},
        ],
    });
    bench.made(STATUSES, &status).await;
    bench.pass_secs(300);
    for (url, columns, cells) in [
        (
            DEVICES,
            json!(["Name", "Node", "Model", "Protocol", "Properties", "Desired", "Age"]),
            json!(["lamp-1", "edge-1", "lamp", "mqtt", "power level", "on -", "5m"]),
        ),
        (
            MODELS,
            json!(["Name", "Protocol", "Properties", "Types", "Age"]),
            json!(["m", "modbus", "t u", "INT -", "5m"]),
        ),
        (
            STATUSES,
            json!(["Name", "State", "Last Online", "Properties", "Values", "Desired", "Age"]),
            json!(["lamp-1", "online", "45s", "power level", "on -", "- -", "5m"]),
        ),
    ] {
        let (_, table) = bench.send(bench.request(Method::GET, url, b"", &[("accept", TABLE)])).await;
        let names: Vec<&Value> =
            table["columnDefinitions"].as_array().unwrap().iter().map(|column| &column["name"]).collect();
        assert_eq!((json!(names), &table["rows"][0]["cells"]), (columns, &cells), "{url}");
        assert_eq!(table["columnDefinitions"][0]["format"], "name");
    }
    let (_, table) = bench.send(bench.request(Method::GET, DEVICES, b"", &[("accept", TABLE)])).await;
    assert_eq!(
        (&table["columnDefinitions"][4]["priority"], &table["columnDefinitions"][6]["type"]),
        (&json!(1), &json!("date"))
    );
}

#[tokio::test]
async fn devices_are_selected_by_node() {
    let bench = Bench::new();
    for (name, node) in [("a", "edge-1"), ("b", "edge-2"), ("c", "edge-1")] {
        bench.made(DEVICES, &device(name, json!({"nodeName": node}))).await;
    }
    let (_, list) = bench.get(&format!("{DEVICES}?fieldSelector=spec.nodeName%3Dedge-1")).await;
    assert_eq!(names(&list), ["a", "c"]);
    let (code, _) = bench.get(&format!("{STATUSES}?fieldSelector=status.state%3Donline")).await;
    assert_eq!(code, 400);
}

#[tokio::test]
async fn devices_survive_a_restart() {
    let mut bench = Bench::new();
    let made = bench.made(DEVICES, &lamp()).await;
    let status = bench.made(STATUSES, &status_of(&made)).await;
    bench.restart();
    assert_eq!(bench.get(&format!("{DEVICES}/lamp-1")).await, (200, made));
    assert_eq!(bench.get(&format!("{STATUSES}/lamp-1")).await, (200, status));
}

/// A list whose items must differ is checked in one go, however long: the check runs while all
/// writers wait.
#[tokio::test]
async fn a_long_list_is_checked_quickly() {
    let bench = Bench::new();
    let properties: Vec<Value> = (0..100_000).map(|index| json!({"name": format!("p{index}")})).collect();
    let mut body = device("long", json!({"properties": properties}));
    let (code, _) = bench.post(&format!("{DEVICES}?dryRun=All"), &body).await;
    assert_eq!(code, 201);
    body["spec"]["properties"][99_999]["name"] = "p0".into();
    let (code, refused) = bench.post(DEVICES, &body).await;
    let said = refused["message"].as_str().unwrap();
    assert_eq!((code, said.contains("spec.properties[99999]: Duplicate value")), (422, true), "{said}");
}
