//! L3: the modules of cloudcore.

pub mod node_monitor;
pub mod scheduler;
