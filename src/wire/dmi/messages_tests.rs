//! The bytes on the wire, written out by hand from the tags of protocol section 8.

use prost::Message;
use serde_json::json;

use super::*;

/// A field of length-delimited type.
fn field(tag: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("short");
    assert!(length < 128 && tag < 16);
    [&[tag << 3 | 2, length], bytes].concat()
}

fn varint(tag: u8, value: u8) -> Vec<u8> {
    vec![tag << 3, value]
}

#[test]
fn a_registration_has_the_bytes_of_the_protocol() {
    let info = MapperInfo {
        name: "m".into(),
        version: "v1".into(),
        api_version: "v1beta1".into(),
        protocol: "modbus".into(),
        address: b"/m.sock".to_vec(),
        state: "OK".into(),
    };
    let want = [
        varint(1, 1),
        field(
            2,
            &[
                field(1, b"m"),
                field(2, b"v1"),
                field(3, b"v1beta1"),
                field(4, b"modbus"),
                field(5, b"/m.sock"),
                field(6, b"OK"),
            ]
            .concat(),
        ),
    ]
    .concat();
    let request = MapperRegisterRequest { with_data: true, mapper: Some(info) };
    assert_eq!(request.encode_to_vec(), want);
    assert_eq!(MapperRegisterRequest::decode(want.as_slice()).unwrap(), request);
}

#[test]
fn reports_have_the_bytes_of_the_protocol() {
    let value = TwinProperty { value: "25".into(), metadata: [("timestamp".into(), "1".into())].into() };
    let property = [field(1, b"25"), field(2, &[field(1, b"timestamp"), field(2, b"1")].concat())].concat();
    let twin = [field(1, b"temperature"), field(2, &field(1, b"26")), field(3, &property)].concat();
    let status = [field(1, &twin), varint(2, 1), varint(3, 100)].concat();
    let want = [field(1, b"sensor-1"), field(2, &status), field(3, b"default")].concat();
    let request = ReportDeviceStatusRequest {
        device_name: "sensor-1".into(),
        device_namespace: "default".into(),
        reported_device: Some(DeviceStatus {
            twins: vec![Twin {
                property_name: "temperature".into(),
                observed_desired: Some(TwinProperty { value: "26".into(), ..Default::default() }),
                reported: Some(value),
            }],
            report_to_cloud: true,
            report_cycle: 100,
        }),
    };
    assert_eq!(request.encode_to_vec(), want);
    let states = ReportDeviceStatesRequest {
        device_name: "sensor-1".into(),
        device_namespace: "default".into(),
        state: "online".into(),
    };
    let want = [field(1, b"sensor-1"), field(2, b"default"), field(3, b"online")].concat();
    assert_eq!(states.encode_to_vec(), want);
}

#[test]
fn a_device_has_the_bytes_of_the_protocol() {
    let text = b"type.googleapis.com/google.protobuf.FloatValue";
    // 502.0 as a 32-bit float: tag 1, wire type 5, little endian.
    let float = [0x0d, 0x00, 0x00, 0xfb, 0x43];
    let any = [field(1, text), field(2, &float)].concat();
    let entry = [field(1, b"port"), field(2, &any)].concat();
    let protocol = [field(1, b"modbus"), field(2, &field(1, &entry))].concat();
    let config = ProtocolConfig {
        protocol_name: "modbus".into(),
        config_data: json!({"port": 502}).as_object().map(customized),
    };
    assert_eq!(config.encode_to_vec(), protocol);

    let push = PushMethod {
        mqtt: Some(PushMqtt { address: "a".into(), topic: "t".into(), qos: 1, retained: true }),
        otel: Some(PushOtel { endpoint_url: "o".into() }),
        ..Default::default()
    };
    let push_bytes = [
        field(2, &[field(1, b"a"), field(2, b"t"), varint(3, 1), varint(4, 1)].concat()),
        field(4, &field(1, b"o")),
    ]
    .concat();
    assert_eq!(push.encode_to_vec(), push_bytes);

    let property = DeviceProperty {
        name: "p".into(),
        desired: Some(TwinProperty { value: "1".into(), ..Default::default() }),
        visitors: Some(ProtocolConfig { protocol_name: "x".into(), config_data: None }),
        report_cycle: 9,
        collect_cycle: 8,
        report_to_cloud: true,
        push_method: Some(push),
    };
    let property_bytes = [
        field(1, b"p"),
        field(2, &field(1, b"1")),
        field(3, &field(1, b"x")),
        varint(4, 9),
        varint(5, 8),
        varint(6, 1),
        field(7, &push_bytes),
    ]
    .concat();
    let method =
        DeviceMethod { name: "set".into(), description: "d".into(), property_names: vec!["p".into()] };
    let method_bytes = [field(1, b"set"), field(2, b"d"), field(3, b"p")].concat();
    let device = Device {
        name: "d".into(),
        namespace: "n".into(),
        spec: Some(DeviceSpec {
            device_model_reference: "m".into(),
            protocol: None,
            properties: vec![property],
            methods: vec![method],
        }),
        status: Some(DeviceStatus { report_cycle: 7, ..Default::default() }),
    };
    let spec = [field(1, b"m"), field(3, &property_bytes), field(4, &method_bytes)].concat();
    let want = [field(1, b"d"), field(2, &spec), field(3, &varint(3, 7)), field(4, b"n")].concat();
    assert_eq!(DeviceMessage { device: Some(device) }.encode_to_vec(), field(1, &want));
}

#[test]
fn a_model_has_the_bytes_of_the_protocol() {
    let property = ModelProperty {
        name: "p".into(),
        description: "d".into(),
        r#type: "INT".into(),
        access_mode: "ReadOnly".into(),
        minimum: "0".into(),
        maximum: "9".into(),
        unit: "C".into(),
    };
    let bytes = [
        field(1, b"p"),
        field(2, b"d"),
        field(3, b"INT"),
        field(4, b"ReadOnly"),
        field(5, b"0"),
        field(6, b"9"),
        field(7, b"C"),
    ]
    .concat();
    let model = DeviceModel {
        name: "m".into(),
        namespace: "n".into(),
        spec: Some(DeviceModelSpec { properties: vec![property], commands: vec![] }),
    };
    let want = [field(1, b"m"), field(2, &field(1, &bytes)), field(3, b"n")].concat();
    assert_eq!(ModelMessage { model: Some(model) }.encode_to_vec(), field(1, &want));
    let name = ObjectName { name: "m".into(), namespace: "n".into() };
    assert_eq!(name.encode_to_vec(), [field(1, b"m"), field(2, b"n")].concat());
}
