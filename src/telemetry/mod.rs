//! (see ARCHITECTURE.md)
pub mod edged;
