//! L4: the whole programs, wired, and keadm's commands.

pub mod cloud;
pub mod edge;
pub mod keadm;
pub mod mapper;
mod program;
