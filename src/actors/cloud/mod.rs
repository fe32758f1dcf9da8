//! L3: the modules of cloudcore.

pub mod api_server;
pub mod node_monitor;
pub mod scheduler;
