//! The edge's modules.

pub mod edge_hub;
pub mod meta_manager;
//! The modules of edgecore.

pub mod edged;
pub mod meta_manager;
