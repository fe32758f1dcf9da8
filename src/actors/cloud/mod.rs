//! The modules of cloudcore.

pub mod api_server;
pub mod cloud_hub;
pub mod edge_controller;
pub mod fake_api_worker.rs;
pub mod node_monitor;
pub mod scheduler;
pub mod sync_controller;
