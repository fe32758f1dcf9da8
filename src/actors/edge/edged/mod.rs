//! Edged: runs this node's pods.

pub mod dns;
pub mod environment;
pub mod fields;
#[cfg(test)]
mod fixtures;
pub mod host;
pub mod names;
pub mod resources;
pub mod security;
pub mod sources;
pub mod spec;
