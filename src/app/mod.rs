//! L4: the whole programs, wired, and keadm's commands.

pub mod arenas;
mod authorities;
pub mod cloud;
mod cluster;
mod console;
pub mod doors;
pub mod edge;
mod edge_links;
pub mod fleet;
pub mod keadm;
mod link_log;
pub mod mapper;
pub mod plc;
mod program;
#[cfg(test)]
mod reference;
