//! The modules of edgecore.

pub mod dmi;
pub mod edge_hub;
pub mod edged;
pub mod meta_manager;
