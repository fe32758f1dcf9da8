//! Edged: runs this node's pods.

#[cfg(test)]
mod fixtures;
pub mod host;
pub mod names;
