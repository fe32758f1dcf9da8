//! What integration tests share.

pub mod api;
pub mod cluster;
pub mod containerd;
pub mod mqtt;
pub mod process;
pub mod proxy;
