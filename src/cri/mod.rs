//! L2: the container runtime behind one trait: CRI over gRPC, and a scripted fake for unit tests.

pub mod cgroup;
pub mod client;
pub(crate) mod containerd;
mod evidence;
#[cfg(test)]
pub mod fake;
pub mod oci;
pub mod runtime;
