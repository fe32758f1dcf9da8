//! The integration tests: real programs, real clients, real sockets.

mod harness;
mod kubectl;
