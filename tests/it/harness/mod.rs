//! What integration tests share.

pub mod api;
pub mod containerd;
