//! (see ARCHITECTURE.md)
pub mod keadm;
