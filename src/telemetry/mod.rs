//! L1: what can be seen from outside (design D12): logs, metric families, readiness. The HTTP side
//! is `supervise::Monitor`, because it also shows the tree. One file of metric handles per module.

pub mod actors;
pub mod apiserver;
pub mod cloud_hub;
pub mod console;
pub mod cri;
pub mod device_controller;
pub mod device_twin;
pub mod dmi;
pub mod doors;
pub mod edge_controller;
pub mod edge_hub;
pub mod edged;
pub mod event_bus;
pub mod exporter;
pub mod federation;
pub mod host;
pub mod identity;
pub mod identity_controller;
pub mod logging;
pub mod meta_manager;
pub mod node_monitor;
pub mod pods;
pub mod probes;
pub mod readiness;
pub mod scheduler;
pub mod store;
pub mod total;
pub mod workload;
