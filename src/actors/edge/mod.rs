//! The edge's modules.

pub mod edge_hub;
pub mod meta_manager;
//! (see ARCHITECTURE.md)
pub mod edged;
