//! L2: what a mapper is made of: the part that is the same for every protocol. A mapper brings a
//! [`Driver`]; [`run`] registers it with edgecore over DMI, takes devices, collects and reports
//! their properties on their cycles, writes desired values back, and tells their states.
//!
//! A mapper is a program of its own: nothing here is an actor, each device is one task.

pub mod device;
mod device_task;
mod driver;
mod edge;
pub mod fields;
mod fleet;
pub mod modbus;
mod pause;
pub mod plant;
mod progress;
mod runtime;
pub mod schedule;
pub mod sim;
#[cfg(test)]
mod tests;
pub mod value;

pub use device::{DeviceInfo, PropertyInfo};
pub use driver::{Connection, Driver, DriverError};
pub use runtime::{MapperSettings, RunError, run};
