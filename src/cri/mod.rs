//! L2: the container runtime behind one trait: CRI over gRPC, and a scripted fake for unit tests.

#[cfg(test)]
pub mod fake;
pub mod runtime;
