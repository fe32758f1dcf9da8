//! (see ARCHITECTURE.md)

pub mod edge_hub;
pub mod meta_manager;
