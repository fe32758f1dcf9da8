//! The edge's modules.

pub mod edge_hub;
pub mod meta_manager;
pub mod edged;
