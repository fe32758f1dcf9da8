//! L4: the whole programs, wired, and keadm's commands.

pub mod cloud;
pub mod doors;
pub mod edge;
pub mod keadm;
pub mod mapper;
mod program;
