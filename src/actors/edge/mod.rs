//! The modules of edgecore.

pub mod device_twin;
pub mod edge_hub;
pub mod edged;
pub mod meta_manager;
