//! Devices: what clients and the cloud say about them, what mappers say, what Modbus devices answer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use prost::Message as _;
use serde_json::{Map, Value};

use super::{cut, json, parts, text};
use crate::actors::edge::device_twin::topic::Topic;
use crate::actors::edge::device_twin::twins::{Limits, Now, PREFIX, Twins};
use crate::actors::edge::dmi::report;
use crate::actors::edge::dmi::roster::Mapper;
use crate::mapper::device::DeviceInfo;
use crate::mapper::modbus::registers::Visitor;
use crate::mapper::value::{Kind, Range};
use crate::store::{Batch, Op, Row};
use crate::wire::dmi::{self, MapperRegisterRequest, ReportDeviceStatesRequest, ReportDeviceStatusRequest};
use crate::wire::frame;

fn twins() -> Twins {
    let mut count = 0_u64;
    let limits = Limits { payload_bytes: 1 << 16, window: 4, exported_values: 3 };
    Twins::new("edge-1", limits, move || {
        count += 1;
        format!("id-{count}")
    })
}

struct Edge {
    core: Twins,
    disk: BTreeMap<Vec<u8>, Vec<u8>>,
    now: Now,
}

impl Edge {
    fn new() -> Self {
        let now = Now { wall_ms: 1_800_000_000_000, clock: Instant::now() };
        Self { core: twins(), disk: BTreeMap::new(), now }
    }

    fn commit(&mut self) {
        let write = self.core.begin_write(self.now, true);
        for op in write.batch.ops() {
            match op.clone() {
                Op::Put { key, value, .. } => self.disk.insert(key, value),
                Op::Delete { key, .. } => self.disk.remove(&key),
            };
        }
        for message in &write.messages {
            let said = frame::encode(message).expect("a message for the cloud");
            assert_eq!(frame::decode(&said, said.len()).as_ref(), Ok(message));
        }
    }

    fn rows(&self) -> Vec<Row> {
        self.disk.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

/// Parts after zero bytes: `m` topic, newline, payload of a client; `c` a message of the cloud; `d` a Device, `D` one that is
/// gone, `M` a DeviceModel; `l` the link comes or goes; `t` time passes. At the end the disk is read anew.
pub fn story(bytes: &[u8]) {
    let mut edge = Edge::new();
    for part in parts(bytes, 40) {
        let Some((first, rest)) = part.split_first() else { continue };
        edge.now.wall_ms += 1;
        let now = edge.now;
        match first {
            b'm' => {
                let (topic, payload) = cut(rest, b"\n");
                if let Some(topic) = text(topic) {
                    Topic::parse(topic);
                    edge.core.message(topic, payload, Batch::new(), now);
                }
            }
            b'c' => {
                if let Ok(message) = frame::decode(rest, 1 << 20) {
                    edge.core.cloud_message(&message, now, 0.5);
                }
            }
            b'd' | b'D' | b'M' => {
                let Some(object) = json(rest) else { continue };
                match first {
                    b'd' => edge.core.device_changed(&object, now),
                    b'M' => edge.core.model_changed(&object, now),
                    _ => {
                        if let Some(id) = crate::actors::edge::device_twin::spec::identity(&object) {
                            edge.core.device_removed(&id, now);
                        }
                    }
                }
            }
            b'l' => edge.core.link_changed(rest.is_empty(), now),
            b't' => {
                edge.now.clock += Duration::from_secs(30);
                edge.now.wall_ms += 30_000;
                edge.core.tick(edge.now.clock, || 0.5);
            }
            _ => continue,
        }
        edge.commit();
    }
    let mut again = twins();
    assert_eq!(again.reload(&edge.rows(), edge.now.clock), 0, "every row is read back");
    assert_eq!(again.all_desired(), edge.core.all_desired());
    assert_eq!(again.states(), edge.core.states());
}

/// A row of a device on a disk that lies, then a message about it.
pub fn rows(bytes: &[u8]) {
    let (row, message) = cut(bytes, b"\0");
    let mut edge = Edge::new();
    let key = format!("{PREFIX}default/sensor-1").into_bytes();
    edge.core.reload(&[(key, row.to_vec())], edge.now.clock);
    edge.core.link_changed(true, edge.now);
    edge.core.apply_all(edge.now);
    edge.commit();
    edge.core.message("$hw/events/device/default/sensor-1/twin/update", message, Batch::new(), edge.now);
    edge.core.message("$hw/events/device/default/sensor-1/twin/get", b"{}", Batch::new(), edge.now);
    edge.core.tick(edge.now.clock + Duration::from_secs(100), || 0.5);
    edge.commit();
    let mut again = twins();
    let unreadable = again.reload(&edge.rows(), edge.now.clock);
    assert_eq!(unreadable, 0, "what is written is read back");
}

/// Calls of mappers.
pub fn mapper(bytes: &[u8]) {
    if let Ok(request) = MapperRegisterRequest::decode(bytes)
        && let Some(info) = request.mapper
        && let Ok(mapper) = Mapper::from_info(info)
    {
        let batch = mapper.stored();
        for op in batch.ops() {
            let Op::Put { key, value, .. } = op.clone() else { panic!("{op:?}") };
            assert_eq!(Mapper::from_row(&(key, value)).as_ref(), Some(&mapper));
        }
    }
    if let Ok(request) = ReportDeviceStatusRequest::decode(bytes) {
        drop(report::twins(request));
    }
    if let Ok(request) = ReportDeviceStatesRequest::decode(bytes) {
        drop(report::state(request));
    }
    drop(Mapper::from_row(&(Vec::new(), bytes.to_vec())));
    if let Ok(model) = dmi::DeviceModel::decode(bytes)
        && let Ok(device) = dmi::Device::decode(bytes)
    {
        drop(DeviceInfo::read(&device, &model));
    }
}

/// A Device, a zero byte, its DeviceModel, a zero byte, a desired value: from the API to a mapper.
pub fn convert(bytes: &[u8]) {
    let all: Vec<&[u8]> = parts(bytes, 3).collect();
    let (Some(device), Some(model)) =
        (all.first().and_then(|part| json(part)), all.get(1).and_then(|part| json(part)))
    else {
        return;
    };
    let value = all.get(2).and_then(|part| text(part)).unwrap_or_default();
    drop((dmi::device_id(&device), dmi::model_of(&device)));
    drop(dmi::protocol_of(&device, Some(&model)));
    let desired = BTreeMap::from([("temperature".to_owned(), value.to_owned())]);
    let (Ok(converted), Ok(model)) = (dmi::device(&device, &model, &desired), dmi::model(&model)) else {
        return;
    };
    let sent = converted.encode_to_vec();
    assert_eq!(dmi::Device::decode(sent.as_slice()).as_ref(), Ok(&converted));
    let (info, _) = DeviceInfo::read(&converted, &model);
    for property in &info.properties {
        drop(property.accept_desired(value));
        if let Ok(converted) = property.kind.parse_value(value) {
            drop(property.accept(converted));
        }
    }
}

/// A visitor's configuration, a zero byte, what the device answers.
pub fn modbus(bytes: &[u8]) {
    let (config, answer) = cut(bytes, b"\0");
    let Some(Value::Object(config)) = json(config) else { return };
    let config: Map<String, Value> = config;
    drop(crate::mapper::modbus::Target::read(&config));
    let words: Vec<u16> =
        answer.chunks(2).map(|two| two.iter().fold(0, |word, byte| word << 8 | u16::from(*byte))).collect();
    for kind in [Kind::Int, Kind::Float, Kind::Double, Kind::Boolean, Kind::Text, Kind::Bytes] {
        let Ok(visitor) = Visitor::read("visitor", &config, kind) else { continue };
        let mut asked = words.clone();
        asked.resize(usize::from(visitor.limit), 0);
        let value = visitor.decode(&asked).expect("as many registers as were asked for");
        let shown = value.to_string();
        if let Ok(written) = visitor.encode(&value) {
            assert_eq!(written.len(), usize::from(visitor.limit), "{shown}");
            drop(visitor.decode(&written));
        }
        if let Ok(converted) = kind.convert(value) {
            let (low, high) = (config.get("min"), config.get("max"));
            let word = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
            if let Ok(range) = Range::parse(&word(low), &word(high)) {
                drop(range.check(&converted));
            }
        }
    }
}
