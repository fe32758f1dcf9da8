//! The modules of edgecore.

pub mod console_feed;
pub mod device_twin;
pub mod dmi;
pub mod edge_hub;
pub mod edged;
pub mod event_bus;
pub mod identity;
pub mod meta_manager;
