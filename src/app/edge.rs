//! edgecore.
use crate::config::{EdgeCoreConfig, Loaded};
pub fn run(_l: Loaded<EdgeCoreConfig>) -> u8 { 0 }
