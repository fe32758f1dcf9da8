//! L4: the whole programs, wired.

pub mod edge;
mod program;
