
pub mod api_server;
//! The modules of cloudcore.

pub mod cloud_hub;
pub mod edge_controller;
pub mod sync_controller;
