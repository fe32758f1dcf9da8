//! The integration tests: real programs, real clients, real sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr)]

mod bad_input;
mod cri;
mod harness;
mod kubectl;
mod main_job;
mod panics;
