//! Modbus TCP, configured as KubeEdge's Modbus mappers are.
//!
//! `protocol.configData`: `ip` (or `host`), `port` (502), `slaveID` (1), `timeout` (ms, 3000),
//! `communicateMode` (only `TCP`). A nested `communication` object is read too. Visitors: see
//! [`registers`].

pub mod registers;
#[cfg(test)]
mod registers_tests;

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use serde_json::{Map, Value as Json};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_modbus::client::{Context, Reader, Writer, tcp};
use tokio_modbus::{ExceptionCode, Slave};

use self::registers::{Table, Visitor};
use super::device::{DeviceInfo, PropertyInfo};
use super::driver::{Connection, Driver, DriverError};
use super::fields::{Fields, flattened};
use super::value::{Kind, Value};

const DEFAULT_PORT: i64 = 502;
const DEFAULT_TIMEOUT_MS: i64 = 3_000;

/// Where a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub host: String,
    pub port: u16,
    pub slave: u8,
    /// For connecting and for each request.
    pub timeout: Duration,
}

impl Target {
    /// Reads `protocol.configData`.
    ///
    /// # Errors
    /// Names the field.
    pub fn read(config: &Map<String, Json>) -> Result<Self, String> {
        let flat = flattened(config, "communication");
        let fields = Fields::new("configData", &flat);
        let mode = fields.text(&["communicateMode", "communicationMode", "mode"])?;
        if let Some(mode) = mode.filter(|mode| !mode.eq_ignore_ascii_case("tcp")) {
            return Err(format!("configData.communicateMode: {mode:?} is not served, only TCP"));
        }
        let Some(host) = fields.text(&["ip", "host", "address"])? else {
            return Err("configData.ip: is missing".to_owned());
        };
        let port = fields.int(&["port"], 1, 65_535)?.unwrap_or(DEFAULT_PORT);
        let slave = fields.int(&["slaveID", "deviceID", "unitID"], 0, 255)?.unwrap_or(1);
        let timeout = fields.int(&["timeout"], 1, 60_000)?.unwrap_or(DEFAULT_TIMEOUT_MS);
        Ok(Self {
            host,
            port: u16::try_from(port).unwrap_or(502),
            slave: u8::try_from(slave).unwrap_or(1),
            timeout: Duration::from_millis(timeout.unsigned_abs()),
        })
    }
}

/// The driver.
#[derive(Debug, Clone, Copy, Default)]
pub struct Modbus;

/// An open device.
pub struct ModbusDevice {
    context: Context,
    timeout: Duration,
    /// Parsed once; those in error say so at each read.
    visitors: BTreeMap<String, (Map<String, Json>, Kind, Result<Visitor, String>)>,
}

impl Driver for Modbus {
    type Connection = ModbusDevice;

    async fn connect(&self, device: &DeviceInfo) -> Result<ModbusDevice, DriverError> {
        let target = Target::read(&device.protocol_config).map_err(DriverError::Refused)?;
        let lost = |why: String| DriverError::Lost(format!("{}:{}: {why}", target.host, target.port));
        let connecting = async {
            let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            for address in lookup_host((target.host.as_str(), target.port)).await? {
                match TcpStream::connect(address).await {
                    Ok(stream) => return Ok(stream),
                    Err(err) => last = err,
                }
            }
            Err(last)
        };
        let stream = match timeout(target.timeout, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(err)) => return Err(lost(err.to_string())),
            Err(_) => return Err(lost(format!("no answer within {:?}", target.timeout))),
        };
        // Small requests, each waited for.
        if let Err(err) = stream.set_nodelay(true) {
            tracing::debug!(error = %err, "TCP_NODELAY was not set");
        }
        let context = tcp::attach_slave(stream, Slave(target.slave));
        Ok(ModbusDevice { context, timeout: target.timeout, visitors: BTreeMap::new() })
    }
}

impl ModbusDevice {
    fn visitor(&mut self, property: &PropertyInfo) -> Result<Visitor, DriverError> {
        let known = self.visitors.get(&property.name);
        let same = known.filter(|(config, kind, _)| *config == property.visitor && *kind == property.kind);
        let outcome = if let Some((_, _, outcome)) = same {
            outcome.clone()
        } else {
            let outcome = Visitor::read("visitors.configData", &property.visitor, property.kind);
            let entry = (property.visitor.clone(), property.kind, outcome.clone());
            self.visitors.insert(property.name.clone(), entry);
            outcome
        };
        outcome.map_err(DriverError::Refused)
    }
}

/// What a request came to: lost, refused by the device, or an answer.
async fn answer<T>(
    limit: Duration,
    request: impl Future<Output = Result<Result<T, ExceptionCode>, tokio_modbus::Error>>,
) -> Result<T, DriverError> {
    match timeout(limit, request).await {
        Ok(Ok(Ok(answer))) => Ok(answer),
        Ok(Ok(Err(exception))) => Err(DriverError::Refused(format!("the device says: {exception}"))),
        Ok(Err(err)) => Err(DriverError::Lost(err.to_string())),
        // An answer that comes late would be taken for that of the next request.
        Err(_) => Err(DriverError::Lost(format!("no answer within {limit:?}"))),
    }
}

impl Connection for ModbusDevice {
    async fn read(&mut self, property: &PropertyInfo) -> Result<Value, DriverError> {
        let visitor = self.visitor(property)?;
        let (offset, limit, deadline) = (visitor.offset, visitor.limit, self.timeout);
        let context = &mut self.context;
        let words: Vec<u16> = match visitor.table {
            Table::Coil => bits(&answer(deadline, context.read_coils(offset, limit)).await?),
            Table::DiscreteInput => {
                bits(&answer(deadline, context.read_discrete_inputs(offset, limit)).await?)
            }
            Table::Holding => answer(deadline, context.read_holding_registers(offset, limit)).await?,
            Table::Input => answer(deadline, context.read_input_registers(offset, limit)).await?,
        };
        visitor.decode(&words).map_err(DriverError::Refused)
    }

    async fn write(&mut self, property: &PropertyInfo, value: &Value) -> Result<(), DriverError> {
        let visitor = self.visitor(property)?;
        let (offset, deadline) = (visitor.offset, self.timeout);
        let words = visitor.encode(value).map_err(DriverError::Refused)?;
        let context = &mut self.context;
        match (visitor.table, words.as_slice()) {
            (Table::Coil, [word]) => answer(deadline, context.write_single_coil(offset, *word != 0)).await,
            (Table::Holding, [word]) => answer(deadline, context.write_single_register(offset, *word)).await,
            (Table::Holding, words) => {
                answer(deadline, context.write_multiple_registers(offset, words)).await
            }
            _ => Err(DriverError::Refused(format!("{:?} registers cannot be written", visitor.table))),
        }
    }
}

fn bits(coils: &[bool]) -> Vec<u16> {
    coils.iter().map(|coil| u16::from(*coil)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn targets_are_read_as_kubeedge_writes_them() {
        let target = |host: &str, port, slave, ms| Target {
            host: host.to_owned(),
            port,
            slave,
            timeout: Duration::from_millis(ms),
        };
        for (config, want) in [
            (json!({"ip": "10.0.0.9"}), Ok(target("10.0.0.9", 502, 1, 3000))),
            (
                json!({"communicateMode": "TCP", "ip": "h", "port": "1502", "slaveID": 7, "timeout": 500}),
                Ok(target("h", 1502, 7, 500)),
            ),
            (
                json!({"slaveID": 2, "communication": "{\"mode\":\"TCP\",\"ip\":\"h\",\"port\":\"5020\"}"}),
                Ok(target("h", 5020, 2, 3000)),
            ),
            (
                json!({"communicateMode": "RTU"}),
                Err("configData.communicateMode: \"RTU\" is not served, only TCP"),
            ),
            (json!({"port": 502}), Err("configData.ip: is missing")),
            (json!({"ip": "h", "port": 0}), Err("configData.port: 0 is not a whole number from 1 to 65535")),
            (
                json!({"ip": "h", "slaveID": 256}),
                Err("configData.slaveID: 256 is not a whole number from 0 to 255"),
            ),
        ] {
            assert_eq!(Target::read(config.as_object().unwrap()), want.map_err(str::to_owned), "{config}");
        }
    }
}
