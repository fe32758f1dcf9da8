//! (see ARCHITECTURE.md)
pub mod cri;
