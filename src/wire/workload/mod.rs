//! The SPIFFE Workload API: gRPC between the edge and the workloads it gives identities
//! (protocol section 18). Written by hand: the messages with prost, the service on tonic's own
//! building blocks.

mod claims;
mod messages;
#[cfg(test)]
mod messages_tests;
mod server;

pub use claims::claims_struct;
pub use messages::*;
pub use server::{Answers, SECURITY_HEADER, WorkloadApi, WorkloadServer};

/// Largest request taken, bytes: a JWT-SVID to validate, a list of audiences.
pub const MAX_REQUEST_BYTES: usize = 64 << 10;
/// Permission bits of the socket: anybody may ask, the answer depends on who they are.
pub const SOCKET_MODE: u32 = 0o666;
