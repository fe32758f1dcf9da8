//! L1: frames to and from the words of `model`. Nothing above this layer sees wire text.

pub mod authority;
pub mod counted;
pub mod dmi;
pub mod extensions;
pub mod frame;
pub mod grpc;
pub mod node_report;
pub mod socket;
pub mod workload;
