//! Edged: runs this node's pods.

mod admission;
mod backoff;
mod events;
#[cfg(test)]
mod fixtures;
pub mod host;
mod machine;
pub mod names;
mod node;
mod observed;
mod plan;
mod state;
mod status;
