//! The messages of proto package `v1beta1`. Tags and types: protocol section 8.

use std::collections::BTreeMap;

use prost::Message;
use prost_types::Any;

/// A mapper says who it is.
#[derive(Clone, PartialEq, Message)]
pub struct MapperRegisterRequest {
    /// Asks for all devices of the protocol in the answer.
    #[prost(bool, tag = "1")]
    pub with_data: bool,
    #[prost(message, optional, tag = "2")]
    pub mapper: Option<MapperInfo>,
}

#[derive(Clone, PartialEq, Message)]
pub struct MapperRegisterResponse {
    #[prost(message, repeated, tag = "1")]
    pub model_list: Vec<DeviceModel>,
    #[prost(message, repeated, tag = "2")]
    pub device_list: Vec<Device>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct MapperInfo {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub version: String,
    #[prost(string, tag = "3")]
    pub api_version: String,
    /// Protocol name of the devices it serves.
    #[prost(string, tag = "4")]
    pub protocol: String,
    /// Path of the unix socket on which the mapper serves.
    #[prost(bytes = "vec", tag = "5")]
    pub address: Vec<u8>,
    #[prost(string, tag = "6")]
    pub state: String,
}

/// Values of one device.
#[derive(Clone, PartialEq, Message)]
pub struct ReportDeviceStatusRequest {
    #[prost(string, tag = "1")]
    pub device_name: String,
    #[prost(message, optional, tag = "2")]
    pub reported_device: Option<DeviceStatus>,
    #[prost(string, tag = "3")]
    pub device_namespace: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ReportDeviceStatesRequest {
    #[prost(string, tag = "1")]
    pub device_name: String,
    #[prost(string, tag = "2")]
    pub device_namespace: String,
    #[prost(string, tag = "3")]
    pub state: String,
}

/// Answer of calls that answer nothing.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Empty {}

/// Request of `RegisterDevice` and `UpdateDevice`, answer of `GetDevice`.
#[derive(Clone, PartialEq, Message)]
pub struct DeviceMessage {
    #[prost(message, optional, tag = "1")]
    pub device: Option<Device>,
}

/// Answer of `RegisterDevice`, request of `RemoveDevice` and `GetDevice`; with other field names
/// also what the calls about models carry.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ObjectName {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub namespace: String,
}

/// Request of `CreateDeviceModel` and `UpdateDeviceModel`.
#[derive(Clone, PartialEq, Message)]
pub struct ModelMessage {
    #[prost(message, optional, tag = "1")]
    pub model: Option<DeviceModel>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeviceStatus {
    #[prost(message, repeated, tag = "1")]
    pub twins: Vec<Twin>,
    #[prost(bool, tag = "2")]
    pub report_to_cloud: bool,
    /// Milliseconds between two reports of the state.
    #[prost(int64, tag = "3")]
    pub report_cycle: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct Twin {
    #[prost(string, tag = "1")]
    pub property_name: String,
    #[prost(message, optional, tag = "2")]
    pub observed_desired: Option<TwinProperty>,
    #[prost(message, optional, tag = "3")]
    pub reported: Option<TwinProperty>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct TwinProperty {
    #[prost(string, tag = "1")]
    pub value: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub metadata: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Device {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub spec: Option<DeviceSpec>,
    #[prost(message, optional, tag = "3")]
    pub status: Option<DeviceStatus>,
    #[prost(string, tag = "4")]
    pub namespace: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeviceSpec {
    #[prost(string, tag = "1")]
    pub device_model_reference: String,
    #[prost(message, optional, tag = "2")]
    pub protocol: Option<ProtocolConfig>,
    #[prost(message, repeated, tag = "3")]
    pub properties: Vec<DeviceProperty>,
    #[prost(message, repeated, tag = "4")]
    pub methods: Vec<DeviceMethod>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeviceMethod {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub description: String,
    #[prost(string, repeated, tag = "3")]
    pub property_names: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeviceProperty {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub desired: Option<TwinProperty>,
    #[prost(message, optional, tag = "3")]
    pub visitors: Option<ProtocolConfig>,
    /// Milliseconds.
    #[prost(int64, tag = "4")]
    pub report_cycle: i64,
    /// Milliseconds.
    #[prost(int64, tag = "5")]
    pub collect_cycle: i64,
    #[prost(bool, tag = "6")]
    pub report_to_cloud: bool,
    #[prost(message, optional, tag = "7")]
    pub push_method: Option<PushMethod>,
}

/// `ProtocolConfig` and `VisitorConfig`: the same fields.
#[derive(Clone, PartialEq, Message)]
pub struct ProtocolConfig {
    #[prost(string, tag = "1")]
    pub protocol_name: String,
    #[prost(message, optional, tag = "2")]
    pub config_data: Option<CustomizedValue>,
}

/// `CustomizedValue` and `AnomalyDetection`: free fields by name.
#[derive(Clone, PartialEq, Message)]
pub struct CustomizedValue {
    #[prost(btree_map = "string, message", tag = "1")]
    pub data: BTreeMap<String, Any>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PushMethod {
    #[prost(message, optional, tag = "1")]
    pub http: Option<PushHttp>,
    #[prost(message, optional, tag = "2")]
    pub mqtt: Option<PushMqtt>,
    #[prost(message, optional, tag = "3")]
    pub db_method: Option<DbMethod>,
    #[prost(message, optional, tag = "4")]
    pub otel: Option<PushOtel>,
    #[prost(message, optional, tag = "5")]
    pub anomaly_detection: Option<CustomizedValue>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct PushHttp {
    #[prost(string, tag = "1")]
    pub hostname: String,
    #[prost(int64, tag = "2")]
    pub port: i64,
    #[prost(string, tag = "3")]
    pub requestpath: String,
    #[prost(int64, tag = "4")]
    pub timeout: i64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct PushMqtt {
    #[prost(string, tag = "1")]
    pub address: String,
    #[prost(string, tag = "2")]
    pub topic: String,
    #[prost(int32, tag = "3")]
    pub qos: i32,
    #[prost(bool, tag = "4")]
    pub retained: bool,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct PushOtel {
    #[prost(string, tag = "1")]
    pub endpoint_url: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct DbMethod {
    #[prost(message, optional, tag = "1")]
    pub influxdb2: Option<DbInflux>,
    #[prost(message, optional, tag = "2")]
    pub redis: Option<DbRedis>,
    #[prost(message, optional, tag = "3")]
    pub tdengine: Option<DbTdEngine>,
    #[prost(message, optional, tag = "4")]
    pub mysql: Option<DbMySql>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct DbInflux {
    #[prost(message, optional, tag = "1")]
    pub client: Option<InfluxClient>,
    #[prost(message, optional, tag = "2")]
    pub data: Option<InfluxData>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct InfluxClient {
    #[prost(string, tag = "1")]
    pub url: String,
    #[prost(string, tag = "2")]
    pub org: String,
    #[prost(string, tag = "3")]
    pub bucket: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct InfluxData {
    #[prost(string, tag = "1")]
    pub measurement: String,
    #[prost(btree_map = "string, string", tag = "2")]
    pub tag: BTreeMap<String, String>,
    #[prost(string, tag = "3")]
    pub field_key: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct DbRedis {
    #[prost(message, optional, tag = "1")]
    pub client: Option<RedisClient>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct RedisClient {
    #[prost(string, tag = "1")]
    pub addr: String,
    #[prost(int32, tag = "2")]
    pub db: i32,
    #[prost(int32, tag = "3")]
    pub poolsize: i32,
    #[prost(int32, tag = "4")]
    pub min_idle_conns: i32,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct DbTdEngine {
    #[prost(message, optional, tag = "1")]
    pub client: Option<TdEngineClient>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct TdEngineClient {
    #[prost(string, tag = "1")]
    pub addr: String,
    #[prost(string, tag = "2")]
    pub dbname: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct DbMySql {
    #[prost(message, optional, tag = "1")]
    pub client: Option<MySqlClient>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct MySqlClient {
    #[prost(string, tag = "1")]
    pub addr: String,
    #[prost(string, tag = "2")]
    pub database: String,
    #[prost(string, tag = "3")]
    pub user_name: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeviceModel {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub spec: Option<DeviceModelSpec>,
    #[prost(string, tag = "3")]
    pub namespace: String,
}

#[derive(Clone, PartialEq, Message)]
pub struct DeviceModelSpec {
    #[prost(message, repeated, tag = "1")]
    pub properties: Vec<ModelProperty>,
    #[prost(message, repeated, tag = "2")]
    pub commands: Vec<DeviceCommand>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct ModelProperty {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub description: String,
    /// `INT`, `FLOAT`, `DOUBLE`, `STRING`, `BOOLEAN`, `BYTES` or `STREAM`.
    #[prost(string, tag = "3")]
    pub r#type: String,
    /// `ReadWrite` or `ReadOnly`.
    #[prost(string, tag = "4")]
    pub access_mode: String,
    #[prost(string, tag = "5")]
    pub minimum: String,
    #[prost(string, tag = "6")]
    pub maximum: String,
    #[prost(string, tag = "7")]
    pub unit: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub struct DeviceCommand {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub url: String,
    #[prost(string, tag = "3")]
    pub method: String,
    #[prost(string, repeated, tag = "4")]
    pub status_code: Vec<String>,
    #[prost(string, repeated, tag = "5")]
    pub parameters: Vec<String>,
    #[prost(bytes = "vec", tag = "6")]
    pub response: Vec<u8>,
}
