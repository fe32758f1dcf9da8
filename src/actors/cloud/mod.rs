//! (see ARCHITECTURE.md)

pub mod api_server;
pub mod node_monitor;
pub mod scheduler;
