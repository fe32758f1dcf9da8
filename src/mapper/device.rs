//! A device as a driver sees it: DMI's messages, checked. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json};

use super::schedule::Cycles;
use super::value::{Kind, Range, Value};
use crate::model::DeviceId;
use crate::wire::dmi::{self, Device, DeviceModel, ProtocolConfig};

/// A device and how to reach it.
#[derive(Debug, Clone, PartialEq)]
pub struct DeviceInfo {
    pub id: DeviceId,
    /// `spec.protocol.configData`, its model's defaults included.
    pub protocol_config: Map<String, Json>,
    pub properties: Vec<PropertyInfo>,
    /// Milliseconds between reports of the state, besides those of changes; `None`: only changes.
    pub state_cycle_ms: Option<u64>,
}

/// A property and how to reach it.
#[derive(Debug, Clone, PartialEq)]
pub struct PropertyInfo {
    pub name: String,
    pub kind: Kind,
    pub writable: bool,
    pub range: Range,
    /// Desired value as text.
    pub desired: Option<String>,
    /// `visitors.configData`.
    pub visitor: Map<String, Json>,
    pub cycles: Cycles,
    /// It names a push method.
    pub pushes: bool,
}

impl PropertyInfo {
    /// A value from the device, as the model asks for it.
    ///
    /// # Errors
    /// In words: the wrong type, or out of range.
    pub fn accept(&self, value: Value) -> Result<Value, String> {
        let value = self.kind.convert(value).map_err(|err| err.to_string())?;
        self.range.check(&value).map_err(|err| err.to_string())?;
        Ok(value)
    }

    /// A desired value, as the device may be told it.
    ///
    /// # Errors
    /// In words: read-only, the wrong type, or out of range.
    pub fn accept_desired(&self, text: &str) -> Result<Value, String> {
        if !self.writable {
            return Err("the property is ReadOnly in its model".to_owned());
        }
        let value = self.kind.parse_value(text).map_err(|err| err.to_string())?;
        self.range.check(&value).map_err(|err| err.to_string())?;
        Ok(value)
    }
}

impl DeviceInfo {
    /// Reads DMI's messages. Properties this mapper cannot serve are left out and named in the
    /// second part.
    #[must_use]
    pub fn read(device: &Device, model: &DeviceModel) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let spec = device.spec.clone().unwrap_or_default();
        let models: BTreeMap<&str, _> = model
            .spec
            .iter()
            .flat_map(|spec| &spec.properties)
            .map(|property| (property.name.as_str(), property))
            .collect();
        let mut properties: Vec<PropertyInfo> = Vec::new();
        for property in &spec.properties {
            let name = property.name.clone();
            let mut refuse = |why: String| problems.push(format!("property {name}: {why}"));
            if properties.iter().any(|other| other.name == name) {
                refuse("is there twice".to_owned());
                continue;
            }
            let Some(general) = models.get(name.as_str()) else {
                refuse(format!("is not in model {}", model.name));
                continue;
            };
            let Some(kind) = Kind::parse(&general.r#type) else {
                refuse(format!("type {:?} is not mapped", general.r#type));
                continue;
            };
            let range = match Range::parse(&general.minimum, &general.maximum) {
                Ok(range) => range,
                Err(why) => {
                    refuse(why);
                    continue;
                }
            };
            let visitor = match config(property.visitors.as_ref()) {
                Ok(visitor) => visitor,
                Err(why) => {
                    refuse(format!("visitors.configData.{why}"));
                    continue;
                }
            };
            let desired = property.desired.as_ref().map(|desired| desired.value.clone());
            properties.push(PropertyInfo {
                name,
                kind,
                writable: general.access_mode.eq_ignore_ascii_case("ReadWrite"),
                range,
                desired: desired.filter(|value| !value.is_empty()),
                visitor,
                cycles: Cycles::new(property.collect_cycle, property.report_cycle, property.report_to_cloud),
                pushes: property.push_method.is_some(),
            });
        }
        let protocol_config = config(spec.protocol.as_ref()).unwrap_or_else(|why| {
            problems.push(format!("protocol.configData.{why}"));
            Map::new()
        });
        let status = device.status.clone().unwrap_or_default();
        let state = Cycles::new(status.report_cycle, 0, status.report_to_cloud);
        let info = Self {
            id: DeviceId::new(device.namespace.clone(), device.name.clone()),
            protocol_config,
            properties,
            state_cycle_ms: state.report_ms,
        };
        (info, problems)
    }
}

fn config(config: Option<&ProtocolConfig>) -> Result<Map<String, Json>, String> {
    match config.and_then(|config| config.config_data.as_ref()) {
        Some(data) => dmi::plain(data).map_err(|err| err.to_string()),
        None => Ok(Map::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn messages() -> (Device, DeviceModel) {
        let device = json!({"metadata": {"namespace": "default", "name": "d"}, "spec": {
        "deviceModelRef": {"name": "m"},
        "protocol": {"protocolName": "x", "configData": {"ip": "h", "port": 502}},
        "stateReport": {"reportToCloud": true, "reportCycle": 3000},
        "properties": [
            {"name": "t", "desired": {"value": "20"}, "collectCycle": 100, "reportToCloud": true,
             "visitors": {"configData": {"offset": 4}}},
            {"name": "t"},
            {"name": "video"},
            {"name": "stranger"},
            {"name": "odd"},
            {"name": "still", "desired": {"value": "1"}},
        ]}});
        let model = json!({"metadata": {"namespace": "default", "name": "m"}, "spec": {"properties": [
            {"name": "t", "type": "INT", "accessMode": "ReadWrite", "minimum": "0", "maximum": "30"},
            {"name": "video", "type": "STREAM"},
            {"name": "odd", "type": "INT", "minimum": "low"},
            {"name": "still", "type": "INT", "accessMode": "ReadOnly"},
        ]}});
        (dmi::device(&device, &model, &BTreeMap::new()).unwrap(), dmi::model(&model).unwrap())
    }

    #[test]
    fn reads_what_it_can_serve_and_names_what_it_cannot() {
        let (device, model) = messages();
        let (info, problems) = DeviceInfo::read(&device, &model);
        assert_eq!(info.protocol_config["port"], json!(502));
        assert_eq!(info.state_cycle_ms, Some(3000));
        let names: Vec<&str> = info.properties.iter().map(|property| property.name.as_str()).collect();
        assert_eq!(names, ["t", "still"]);
        assert_eq!(
            problems,
            [
                "property t: is there twice",
                "property video: type \"STREAM\" is not mapped",
                "property stranger: is not in model m",
                "property odd: minimum: \"low\" is not a number",
            ]
        );
        let t = &info.properties[0];
        assert_eq!(
            (t.cycles.collect_ms, t.cycles.report_ms, t.desired.as_deref()),
            (100, Some(100), Some("20"))
        );
        assert_eq!(t.visitor["offset"], json!(4));
        assert_eq!(t.accept(Value::Float(29.6)), Ok(Value::Int(30)));
        assert_eq!(t.accept(Value::Int(31)), Err("31 is above the maximum 30".to_owned()));
        assert_eq!(t.accept_desired("7"), Ok(Value::Int(7)));
        assert!(t.accept_desired("-1").is_err() && t.accept_desired("warm").is_err());
        assert!(info.properties[1].accept_desired("1").unwrap_err().contains("ReadOnly"));
    }
}
