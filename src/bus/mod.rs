//! L2: how actors meet. [`Link`] is the only way to reach another actor; one file of typed
//! messages per module. An actor never holds another actor's `Addr` or imports its folder.

pub mod cloud_hub;
pub mod device_controller;
pub mod device_twin;
pub mod edge_controller;
pub mod edge_hub;
pub mod edged;
pub mod event_bus;
pub mod identity;
mod link;
#[cfg(test)]
mod link_tests;
pub mod meta;
pub mod sync;
mod turn;

pub use link::{ActorStats, Link, LinkError, Mail, Receipt};
pub use turn::{Turn, Turns};
