//! The Device Mapper Interface: gRPC between edgecore and its mappers (protocol section 8).
//!
//! Proto package `v1beta1`, written by hand: the messages with prost, the two services on tonic's
//! own building blocks. [`DeviceManager`] is served by edgecore, [`DeviceMapper`] by each mapper.

mod calls;
mod client;
mod convert;
#[cfg(test)]
mod convert_tests;
mod messages;
#[cfg(test)]
mod messages_tests;
mod server;
mod values;

pub use client::{DialError, Dialled, ManagerClient, MapperClient, dial};
pub use convert::{ConvertError, device, device_id, model, model_of, protocol_of};
pub use messages::*;
pub use server::{DeviceManager, DeviceMapper, ManagerServer, MapperServer};
pub use values::{ValueError, customized, pack, plain, unpack};

/// Largest message either side takes, bytes. A device with a thousand properties fits.
pub const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Largest answer to `MapperRegister`: all devices of a protocol in one message, bytes.
pub const MAX_LISTING_BYTES: usize = 64 << 20;

/// Permission bits of both sides' sockets: who may call is checked by user id, root's group may try.
pub const SOCKET_MODE: u32 = 0o660;
