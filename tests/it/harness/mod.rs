//! What integration tests share.

pub mod api;
