use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{device, device_id, model, model_of, plain, protocol_of};

fn sensor() -> Value {
    json!({
        "metadata": {"namespace": "default", "name": "sensor-1"},
        "spec": {
            "deviceModelRef": {"name": "sensor-model"},
            "nodeName": "edge-1",
            "protocol": {"protocolName": "modbus", "configData": {"ip": "10.0.0.9", "port": 502}},
            "stateReport": {"reportToCloud": true, "reportCycle": 5000},
            "methods": [{"name": "setTemperature", "description": "d", "propertyNames": ["temperature"]}],
            "properties": [
                {"name": "temperature", "desired": {"value": "20", "metadata": {"by": "me"}},
                 "visitors": {"configData": {"offset": 7}},
                 "collectCycle": 500, "reportCycle": 1000.0, "reportToCloud": true,
                 "pushMethod": {
                    "mqtt": {"address": "tcp://127.0.0.1:1883", "topic": "t", "qos": 1, "retained": true},
                    "http": {"hostName": "h", "port": 80, "requestPath": "/p", "timeout": 1000},
                    "otel": {"endpointURL": "http://otel"},
                    "dbMethod": {
                        "influxdb2": {"influxdb2ClientConfig": {"url": "u", "org": "o", "bucket": "b"},
                                      "influxdb2DataConfig": {"measurement": "m", "tag": {"a": "b"}, "fieldKey": "f"}},
                        "redis": {"redisClientConfig": {"addr": "r", "db": 1, "poolsize": 2, "minIdleConns": 3}},
                        "TDEngine": {"TDEngineClientConfig": {"addr": "t", "dbName": "d"}},
                        "mysql": {"mysqlClientConfig": {"addr": "m", "database": "db", "userName": "root"}}},
                    "anomalyDetection": {"window": 5}}},
                {"name": "humidity", "reportToCloud": false},
            ]
        }
    })
}

fn sensor_model() -> Value {
    json!({
        "metadata": {"namespace": "default", "name": "sensor-model"},
        "spec": {
            "protocol": "modbus",
            "protocolConfigData": {"port": 1502, "slaveID": 3},
            "properties": [
                {"name": "temperature", "type": "FLOAT", "accessMode": "ReadWrite", "minimum": "-40",
                 "maximum": "100", "unit": "C", "description": "air",
                 "visitors": {"protocolName": "modbus", "configData": {"register": "HoldingRegister", "offset": 1}}},
                {"name": "humidity", "type": "INT", "accessMode": "ReadOnly"},
            ]
        }
    })
}

fn config(value: Option<&super::ProtocolConfig>) -> Value {
    let config = value.and_then(|value| value.config_data.as_ref()).map(|data| plain(data).unwrap());
    config.map_or(Value::Null, Value::Object)
}

#[test]
fn the_device_wins_over_its_model_field_by_field() {
    let message = device(&sensor(), &sensor_model(), &BTreeMap::new()).unwrap();
    assert_eq!((message.namespace.as_str(), message.name.as_str()), ("default", "sensor-1"));
    let spec = message.spec.unwrap();
    assert_eq!(spec.device_model_reference, "sensor-model");
    assert_eq!(config(spec.protocol.as_ref()), json!({"ip": "10.0.0.9", "port": 502, "slaveID": 3}));
    let [temperature, humidity] = spec.properties.as_slice() else { panic!("two properties") };
    assert_eq!(config(temperature.visitors.as_ref()), json!({"register": "HoldingRegister", "offset": 7}));
    assert_eq!(temperature.visitors.as_ref().unwrap().protocol_name, "modbus");
    assert_eq!(temperature.desired.as_ref().unwrap().value, "20");
    assert_eq!(temperature.desired.as_ref().unwrap().metadata["by"], "me");
    assert_eq!((temperature.collect_cycle, temperature.report_cycle), (500, 1000));
    assert!(temperature.report_to_cloud && !humidity.report_to_cloud);
    assert_eq!((&humidity.visitors, &humidity.desired), (&None, &None));
    let status = message.status.unwrap();
    assert_eq!((status.report_to_cloud, status.report_cycle), (true, 5000));
    assert_eq!(spec.methods[0].property_names, ["temperature"]);
    let push = temperature.push_method.as_ref().unwrap();
    assert_eq!(push.mqtt.as_ref().unwrap().topic, "t");
    assert_eq!(push.http.as_ref().unwrap().requestpath, "/p");
    assert_eq!(push.otel.as_ref().unwrap().endpoint_url, "http://otel");
    let db = push.db_method.as_ref().unwrap();
    assert_eq!(db.influxdb2.as_ref().unwrap().data.as_ref().unwrap().tag["a"], "b");
    assert_eq!(db.redis.as_ref().unwrap().client.as_ref().unwrap().min_idle_conns, 3);
    assert_eq!(db.tdengine.as_ref().unwrap().client.as_ref().unwrap().dbname, "d");
    assert_eq!(db.mysql.as_ref().unwrap().client.as_ref().unwrap().user_name, "root");
    assert_eq!(plain(push.anomaly_detection.as_ref().unwrap()).unwrap()["window"], json!(5));
}

#[test]
fn values_in_force_stand_in_place_of_the_device_s_own() {
    let desired = BTreeMap::from([
        ("temperature".to_owned(), "22".to_owned()),
        ("humidity".to_owned(), "40".to_owned()),
        ("unknown".to_owned(), "1".to_owned()),
    ]);
    let spec = device(&sensor(), &sensor_model(), &desired).unwrap().spec.unwrap();
    let values: Vec<&str> =
        spec.properties.iter().map(|property| property.desired.as_ref().unwrap().value.as_str()).collect();
    assert_eq!(values, ["22", "40"]);
    assert_eq!(spec.properties[0].desired.as_ref().unwrap().metadata["by"], "me", "metadata stays");
}

#[test]
fn models_keep_types_and_ranges() {
    let message = model(&sensor_model()).unwrap();
    assert_eq!((message.namespace.as_str(), message.name.as_str()), ("default", "sensor-model"));
    let properties = message.spec.unwrap().properties;
    let temperature = &properties[0];
    assert_eq!(
        [&temperature.r#type, &temperature.access_mode, &temperature.minimum, &temperature.maximum],
        ["FLOAT", "ReadWrite", "-40", "100"]
    );
}

#[test]
fn the_protocol_is_the_device_s_own_word_else_its_model_s() {
    let mut bare = sensor();
    bare["spec"]["protocol"] = json!({"protocolName": ""});
    assert_eq!(protocol_of(&sensor(), None).as_deref(), Some("modbus"));
    assert_eq!(protocol_of(&bare, Some(&sensor_model())).as_deref(), Some("modbus"));
    assert_eq!(protocol_of(&bare, None), None);
}

#[test]
fn errors_name_the_field() {
    for (path, value, want) in [
        ("/metadata/name", json!(""), "metadata.name: is missing"),
        ("/spec/deviceModelRef", json!(null), "spec.deviceModelRef.name: is missing"),
        ("/spec/properties", json!({}), "spec.properties: a list is wanted, found {}"),
        ("/spec/properties/0/name", json!(7), "spec.properties[0].name: a text is wanted, found 7"),
        (
            "/spec/properties/0/collectCycle",
            json!("fast"),
            "spec.properties[0].collectCycle: a whole number is wanted, found \"fast\"",
        ),
        (
            "/spec/properties/0/reportCycle",
            json!(-1),
            "spec.properties[0].reportCycle: a number of milliseconds, not below 0, is wanted, found -1",
        ),
        (
            "/spec/properties/1/reportToCloud",
            json!("yes"),
            "spec.properties[1].reportToCloud: true or false is wanted, found \"yes\"",
        ),
        ("/spec/protocol/configData", json!([]), "spec.protocol.configData: an object is wanted, found []"),
        (
            "/spec/properties/0/pushMethod/mqtt/qos",
            json!(5_000_000_000_i64),
            "spec.properties[0].pushMethod.mqtt.qos: a number of 32 bits is wanted, found 5000000000",
        ),
    ] {
        let mut object = sensor();
        *object.pointer_mut(path).unwrap_or_else(|| panic!("{path} is there")) = value;
        let err = device(&object, &sensor_model(), &BTreeMap::new()).unwrap_err();
        assert_eq!(err.to_string(), want);
    }
    let mut wrong = sensor_model();
    wrong["spec"]["protocolConfigData"] = json!("x");
    let err = device(&sensor(), &wrong, &BTreeMap::new()).unwrap_err();
    assert!(err.to_string().starts_with("model: spec.protocolConfigData: "), "{err}");
    assert!(model(&json!({"metadata": {"name": "m"}})).is_err());
    assert!(device_id(&json!(null)).is_err() && model_of(&json!(5)).is_err());
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,4}", inner, 0..4).prop_map(|map| json!(map)),
        ]
    })
}

proptest! {
    #[test]
    fn no_object_makes_it_panic(place in 0_usize..9, value in any_json()) {
        let path = ["/metadata", "/spec", "/spec/protocol", "/spec/protocol/configData", "/spec/properties",
            "/spec/properties/0", "/spec/properties/0/visitors", "/spec/properties/0/pushMethod", "/spec/methods"][place];
        let mut object = sensor();
        *object.pointer_mut(path).unwrap() = value;
        drop(device(&object, &sensor_model(), &BTreeMap::new()));
        drop(device(&sensor(), &object, &BTreeMap::new()));
        drop(model(&object));
    }
}
