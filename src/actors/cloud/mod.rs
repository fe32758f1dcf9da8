//! The modules of cloudcore.

pub mod api_server;
pub mod cloud_hub;
pub mod edge_controller;
pub mod sync_controller;
