//! From the Device and DeviceModel objects of the API to DMI messages, the device merged with its
//! model (protocol section 8): the model's visitors and `protocolConfigData` are defaults, field by
//! field, and what the device says wins.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::messages::{
    CustomizedValue, DbInflux, DbMethod, DbMySql, DbRedis, DbTdEngine, Device, DeviceMethod, DeviceModel,
    DeviceModelSpec, DeviceProperty, DeviceSpec, DeviceStatus, InfluxClient, InfluxData, ModelProperty,
    MySqlClient, ProtocolConfig, PushHttp, PushMethod, PushMqtt, PushOtel, RedisClient, TdEngineClient,
    TwinProperty,
};
use super::values::customized;
use crate::model::DeviceId;

/// A field that does not say what the schema asks for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {why}")]
pub struct ConvertError {
    /// Like `spec.properties[2].collectCycle`.
    pub path: String,
    pub why: String,
}

/// A place in an object: what is there, and how to name it.
#[derive(Clone)]
struct At<'v> {
    path: String,
    value: Option<&'v Value>,
}

impl<'v> At<'v> {
    fn root(value: &'v Value) -> Self {
        Self { path: String::new(), value: Some(value) }
    }

    fn get(&self, name: &str) -> Self {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        let value = self.value.and_then(|value| value.get(name)).filter(|value| !value.is_null());
        Self { path, value }
    }

    fn wrong<T>(&self, wanted: &str) -> Result<T, ConvertError> {
        let found = self.value.map(Value::to_string).unwrap_or_default();
        let shown: String = found.chars().take(60).collect();
        Err(ConvertError { path: self.path.clone(), why: format!("{wanted} is wanted, found {shown}") })
    }

    fn text(&self) -> Result<String, ConvertError> {
        match self.value {
            None => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => self.wrong("a text"),
        }
    }

    /// A text that must be there.
    fn name(&self) -> Result<String, ConvertError> {
        let text = self.text()?;
        if text.is_empty() {
            return Err(ConvertError { path: self.path.clone(), why: "is missing".to_owned() });
        }
        Ok(text)
    }

    fn int(&self) -> Result<i64, ConvertError> {
        match self.value {
            None => Ok(0),
            Some(value) => match value.as_i64().or_else(|| whole(value)) {
                Some(number) => Ok(number),
                None => self.wrong("a whole number"),
            },
        }
    }

    fn small(&self) -> Result<i32, ConvertError> {
        i32::try_from(self.int()?).or_else(|_| self.wrong("a number of 32 bits"))
    }

    /// Milliseconds.
    fn cycle(&self) -> Result<i64, ConvertError> {
        match self.int()? {
            cycle @ 0.. => Ok(cycle),
            _ => self.wrong("a number of milliseconds, not below 0,"),
        }
    }

    fn flag(&self) -> Result<bool, ConvertError> {
        match self.value {
            None => Ok(false),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => self.wrong("true or false"),
        }
    }

    fn object(&self) -> Result<Option<&'v Map<String, Value>>, ConvertError> {
        match self.value {
            None => Ok(None),
            Some(Value::Object(object)) => Ok(Some(object)),
            Some(_) => self.wrong("an object"),
        }
    }

    fn list(&self) -> Result<Vec<At<'v>>, ConvertError> {
        match self.value {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items
                .iter()
                .enumerate()
                .map(|(index, item)| At { path: format!("{}[{index}]", self.path), value: Some(item) })
                .collect()),
            Some(_) => self.wrong("a list"),
        }
    }

    fn texts(&self) -> Result<Vec<String>, ConvertError> {
        self.list()?.iter().map(At::text).collect()
    }

    fn labels(&self) -> Result<BTreeMap<String, String>, ConvertError> {
        let names = self.object()?.into_iter().flat_map(Map::keys);
        names.map(|name| Ok((name.clone(), self.get(name).text()?))).collect()
    }

    /// `Some` of what `read` makes of this object, if it is there.
    fn maybe<T>(
        &self,
        read: impl FnOnce(&Self) -> Result<T, ConvertError>,
    ) -> Result<Option<T>, ConvertError> {
        if self.object()?.is_some() { read(self).map(Some) } else { Ok(None) }
    }
}

/// 5.0 is 5 to a reader of YAML.
fn whole(value: &Value) -> Option<i64> {
    let number = value.as_f64()?;
    #[expect(clippy::cast_possible_truncation, reason = "whole and small")]
    (number.fract() == 0.0 && number.abs() < 9e15).then_some(number as i64)
}

/// Who an object is.
///
/// # Errors
/// [`ConvertError`] when it has no namespace or name.
pub fn device_id(object: &Value) -> Result<DeviceId, ConvertError> {
    let metadata = At::root(object).get("metadata");
    Ok(DeviceId::new(metadata.get("namespace").name()?, metadata.get("name").name()?))
}

/// Name of the DeviceModel of a Device (in the same namespace).
///
/// # Errors
/// [`ConvertError`] when there is none: such a device reaches no mapper.
pub fn model_of(device: &Value) -> Result<String, ConvertError> {
    At::root(device).get("spec").get("deviceModelRef").get("name").name()
}

/// The protocol of a Device: its own word, else its model's.
#[must_use]
pub fn protocol_of(device: &Value, model: Option<&Value>) -> Option<String> {
    let own = device.pointer("/spec/protocol/protocolName").and_then(Value::as_str);
    let general = model.and_then(|model| model.pointer("/spec/protocol")).and_then(Value::as_str);
    own.filter(|name| !name.is_empty()).or(general).filter(|name| !name.is_empty()).map(str::to_owned)
}

/// A DeviceModel as mappers get it.
///
/// # Errors
/// [`ConvertError`] naming the field.
pub fn model(object: &Value) -> Result<DeviceModel, ConvertError> {
    let id = device_id(object)?;
    let properties = At::root(object).get("spec").get("properties").list()?;
    let properties = properties.iter().map(model_property).collect::<Result<_, _>>()?;
    let spec = DeviceModelSpec { properties, commands: Vec::new() };
    Ok(DeviceModel { name: id.name, namespace: id.namespace, spec: Some(spec) })
}

fn model_property(at: &At<'_>) -> Result<ModelProperty, ConvertError> {
    Ok(ModelProperty {
        name: at.get("name").name()?,
        description: at.get("description").text()?,
        r#type: at.get("type").text()?,
        access_mode: at.get("accessMode").text()?,
        minimum: at.get("minimum").text()?,
        maximum: at.get("maximum").text()?,
        unit: at.get("unit").text()?,
    })
}

/// A Device as mappers get it. `desired` are the values in force by property; they stand in place
/// of the Device's own.
///
/// # Errors
/// [`ConvertError`] naming the field of `object` (or of the model) that is wrong.
pub fn device(
    object: &Value,
    model: &Value,
    desired: &BTreeMap<String, String>,
) -> Result<Device, ConvertError> {
    let id = device_id(object)?;
    let spec = At::root(object).get("spec");
    let model_spec = At::root(model).get("spec");
    let general = Defaults::read(&model_spec)?;
    let protocol = spec.get("protocol");
    let mut properties = Vec::new();
    for at in spec.get("properties").list()? {
        properties.push(property(&at, &general, desired)?);
    }
    let mut methods = Vec::new();
    for at in spec.get("methods").list()? {
        methods.push(DeviceMethod {
            name: at.get("name").text()?,
            description: at.get("description").text()?,
            property_names: at.get("propertyNames").texts()?,
        });
    }
    let state = spec.get("stateReport");
    Ok(Device {
        name: id.name,
        namespace: id.namespace,
        spec: Some(DeviceSpec {
            device_model_reference: model_of(object)?,
            protocol: Some(ProtocolConfig {
                protocol_name: protocol_of(object, Some(model)).unwrap_or_default(),
                config_data: over(general.config, protocol.get("configData").object()?),
            }),
            properties,
            methods,
        }),
        status: Some(DeviceStatus {
            twins: Vec::new(),
            report_to_cloud: state.get("reportToCloud").flag()?,
            report_cycle: state.get("reportCycle").cycle()?,
        }),
    })
}

/// What the model says for all its devices.
struct Defaults<'v> {
    protocol: String,
    config: Option<&'v Map<String, Value>>,
    visitors: BTreeMap<String, At<'v>>,
}

impl<'v> Defaults<'v> {
    fn read(spec: &At<'v>) -> Result<Self, ConvertError> {
        let inside_model = |err: ConvertError| ConvertError { path: format!("model: {}", err.path), ..err };
        let read = || {
            let mut visitors = BTreeMap::new();
            for at in spec.get("properties").list()? {
                visitors.insert(at.get("name").text()?, at.get("visitors"));
            }
            let config = spec.get("protocolConfigData").object()?;
            Ok(Self { protocol: spec.get("protocol").text()?, config, visitors })
        };
        read().map_err(inside_model)
    }
}

fn property(
    at: &At<'_>,
    general: &Defaults<'_>,
    desired: &BTreeMap<String, String>,
) -> Result<DeviceProperty, ConvertError> {
    let name = at.get("name").name()?;
    let mut wanted = at.get("desired").maybe(twin_property)?;
    if let Some(value) = desired.get(&name) {
        wanted.get_or_insert_default().value.clone_from(value);
    }
    let own = at.get("visitors");
    let default = general.visitors.get(&name);
    let default_config = match default {
        Some(visitors) => visitors.get("configData").object()?,
        None => None,
    };
    let mut protocol_name = own.get("protocolName").text()?;
    if protocol_name.is_empty() {
        protocol_name = match default {
            Some(visitors) => visitors.get("protocolName").text()?,
            None => String::new(),
        };
    }
    if protocol_name.is_empty() {
        protocol_name.clone_from(&general.protocol);
    }
    let config_data = over(default_config, own.get("configData").object()?);
    let has_visitors = config_data.is_some() || own.object()?.is_some();
    Ok(DeviceProperty {
        name,
        desired: wanted,
        visitors: has_visitors.then_some(ProtocolConfig { protocol_name, config_data }),
        report_cycle: at.get("reportCycle").cycle()?,
        collect_cycle: at.get("collectCycle").cycle()?,
        report_to_cloud: at.get("reportToCloud").flag()?,
        push_method: at.get("pushMethod").maybe(push_method)?,
    })
}

fn twin_property(at: &At<'_>) -> Result<TwinProperty, ConvertError> {
    Ok(TwinProperty { value: at.get("value").text()?, metadata: at.get("metadata").labels()? })
}

/// `own` laid over `general`; `None` when there is neither.
fn over(general: Option<&Map<String, Value>>, own: Option<&Map<String, Value>>) -> Option<CustomizedValue> {
    let mut merged = general.cloned();
    if let Some(own) = own {
        merged.get_or_insert_default().extend(own.clone());
    }
    merged.as_ref().map(customized)
}

fn push_method(at: &At<'_>) -> Result<PushMethod, ConvertError> {
    Ok(PushMethod {
        http: at.get("http").maybe(|at| {
            Ok(PushHttp {
                hostname: at.get("hostName").text()?,
                port: at.get("port").int()?,
                requestpath: at.get("requestPath").text()?,
                timeout: at.get("timeout").int()?,
            })
        })?,
        mqtt: at.get("mqtt").maybe(|at| {
            Ok(PushMqtt {
                address: at.get("address").text()?,
                topic: at.get("topic").text()?,
                qos: at.get("qos").small()?,
                retained: at.get("retained").flag()?,
            })
        })?,
        db_method: at.get("dbMethod").maybe(db_method)?,
        otel: at.get("otel").maybe(|at| Ok(PushOtel { endpoint_url: at.get("endpointURL").text()? }))?,
        anomaly_detection: at.get("anomalyDetection").object()?.map(customized),
    })
}

fn db_method(at: &At<'_>) -> Result<DbMethod, ConvertError> {
    Ok(DbMethod {
        influxdb2: at.get("influxdb2").maybe(|at| {
            let client = at.get("influxdb2ClientConfig").maybe(|at| {
                Ok(InfluxClient {
                    url: at.get("url").text()?,
                    org: at.get("org").text()?,
                    bucket: at.get("bucket").text()?,
                })
            })?;
            let data = at.get("influxdb2DataConfig").maybe(|at| {
                Ok(InfluxData {
                    measurement: at.get("measurement").text()?,
                    tag: at.get("tag").labels()?,
                    field_key: at.get("fieldKey").text()?,
                })
            })?;
            Ok(DbInflux { client, data })
        })?,
        redis: at.get("redis").maybe(|at| {
            let client = at.get("redisClientConfig").maybe(|at| {
                Ok(RedisClient {
                    addr: at.get("addr").text()?,
                    db: at.get("db").small()?,
                    poolsize: at.get("poolsize").small()?,
                    min_idle_conns: at.get("minIdleConns").small()?,
                })
            })?;
            Ok(DbRedis { client })
        })?,
        tdengine: at.get("TDEngine").maybe(|at| {
            let client = at.get("TDEngineClientConfig").maybe(|at| {
                Ok(TdEngineClient { addr: at.get("addr").text()?, dbname: at.get("dbName").text()? })
            })?;
            Ok(DbTdEngine { client })
        })?,
        mysql: at.get("mysql").maybe(|at| {
            let client = at.get("mysqlClientConfig").maybe(|at| {
                Ok(MySqlClient {
                    addr: at.get("addr").text()?,
                    database: at.get("database").text()?,
                    user_name: at.get("userName").text()?,
                })
            })?;
            Ok(DbMySql { client })
        })?,
    })
}
