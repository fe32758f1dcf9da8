//! L1: what can be seen from outside (design D12): logs, metric families, readiness. The HTTP side
//! is `supervise::Monitor`, because it also shows the tree. One file of metric handles per module.

pub mod actors;
pub mod apiserver;
pub mod cri;
pub mod exporter;
pub mod identity;
pub mod logging;
pub mod node_monitor;
pub mod readiness;
pub mod scheduler;
