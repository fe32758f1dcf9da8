//! (see ARCHITECTURE.md)
pub mod cri;
pub mod identity;
