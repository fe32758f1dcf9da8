//! What integration tests share.

pub mod api;
pub mod browser;
pub mod clock;
pub mod cluster;
pub mod console;
pub mod containerd;
pub mod disk;
pub mod dmi;
pub mod exposition;
pub mod link;
pub mod machine;
pub mod modbus;
pub mod mosquitto;
pub mod mqtt;
pub mod peer;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod rest;
pub mod sockets;
