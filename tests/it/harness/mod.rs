//! What integration tests share.

pub mod api;
pub mod api_proxy;
pub mod browser;
pub mod cluster;
pub mod console;
pub mod containerd;
pub mod dmi;
pub mod exposition;
pub mod go;
pub mod go_api;
pub mod go_cloud;
pub mod go_edge;
pub mod go_pki;
pub mod hostile;
pub mod machine;
pub mod modbus;
pub mod mosquitto;
pub mod mqtt;
pub mod peer;
pub mod process;
pub mod prometheus;
pub mod proxy;
pub mod recording;
pub mod sockets;
