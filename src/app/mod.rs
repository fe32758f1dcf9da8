//! L4: the whole programs, wired, and keadm's commands.

pub mod edge;

mod program;
