//! The integration tests: real programs, real clients, real sockets.

mod cri;
mod harness;
mod kubectl;
