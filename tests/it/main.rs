//! The integration tests: real programs, real clients, real sockets.

#[cfg(test)]
mod cri;
#[cfg(test)]
mod harness;
mod kubectl;
