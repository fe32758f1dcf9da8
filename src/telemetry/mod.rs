//! L1: what can be seen from outside (design D12): logs, metric families, readiness. The HTTP side
//! is `supervise::Monitor`, because it also shows the tree. One file of metric handles per module.

pub mod actors;
pub mod cloud_hub;
pub mod edge_controller;
pub mod apiserver;
pub mod edge_hub;
pub mod exporter;
pub mod cri;
pub mod apiserver;
pub mod cri;
pub mod exporter;
pub mod identity;
pub mod logging;
pub mod meta_manager;
pub mod readiness;
pub mod edge_hub;
pub mod meta_manager;

pub mod apiserver;
//! (see ARCHITECTURE.md)
pub mod cri;
pub mod identity;
pub mod apiserver;
pub mod cri;
pub mod edge_hub;
pub mod edged;
pub mod exporter;
pub mod identity;
pub mod logging;
pub mod meta_manager;
pub mod readiness;
