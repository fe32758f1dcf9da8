<<<<<<< HEAD
//! L4: the whole programs, wired, and keadm's commands.

pub mod cloud;
pub mod edge;
mod program;
=======
//! (see ARCHITECTURE.md)
pub mod keadm;
>>>>>>> h-identity
