//! The modules of cloudcore.

pub mod api_server;
pub mod cloud_hub;
pub mod console_feed;
pub mod device_controller;
mod downlink_worker;
pub mod edge_controller;
#[cfg(test)]
mod fake_api_worker;
pub mod identity_controller;
mod kube_worker;
pub mod manifests;
pub mod node_monitor;
pub mod scheduler;
pub mod sync_controller;
mod watch_worker;
