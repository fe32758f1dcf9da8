//! Edged: runs this node's pods.

mod action_worker;
mod admission;
mod backoff;
mod dns;
pub mod environment;
mod events;
mod fields;
#[cfg(test)]
mod fixtures;
pub mod host;
mod machine;
pub mod names;
mod node;
mod node_worker;
mod observed;
mod plan;
mod pod_worker;
mod pull_auth;
pub mod resources;
mod security;
pub mod sources;
pub mod spec;
mod state;
mod status;
