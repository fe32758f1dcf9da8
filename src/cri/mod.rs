//! L2: the container runtime behind one trait: CRI over gRPC, and a scripted fake for unit tests.

pub mod cgroup;
pub mod client;
mod containerd;
#[cfg(test)]
pub mod fake;
pub mod runtime;
