//! The integration tests: real programs, real clients, real sockets.

mod api_socket;
mod harness;
mod kubectl;
