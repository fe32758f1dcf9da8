//! What a protocol brings.

use std::future::Future;

use super::device::{DeviceInfo, PropertyInfo};
use super::value::Value;

/// A protocol: how devices are reached.
pub trait Driver: Send + Sync + 'static {
    type Connection: Connection;

    /// Opens a device. Its configuration is in [`DeviceInfo::protocol_config`].
    ///
    /// Called again, after a growing pause, when it fails or the connection is lost.
    fn connect(
        &self,
        device: &DeviceInfo,
    ) -> impl Future<Output = Result<Self::Connection, DriverError>> + Send;
}

/// An open device. One call at a time, each under the framework's deadline; a call that misses it
/// ends the connection.
pub trait Connection: Send + 'static {
    /// The value as the device has it, in the protocol's own type; the framework converts it to the
    /// model's type and checks its range. The visitor is in [`PropertyInfo::visitor`].
    fn read(&mut self, property: &PropertyInfo) -> impl Future<Output = Result<Value, DriverError>> + Send;

    /// Sets a value, already of the model's type and in its range.
    fn write(
        &mut self,
        property: &PropertyInfo,
        value: &Value,
    ) -> impl Future<Output = Result<(), DriverError>> + Send;
}

/// What went wrong with a device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DriverError {
    /// The device does not answer: the connection is closed and opened anew.
    #[error("{0}")]
    Lost(String),
    /// The device answers and says no, or the configuration is wrong: only this property (or, from
    /// `connect`, this device) is concerned.
    #[error("{0}")]
    Refused(String),
}
