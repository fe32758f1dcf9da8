//! (see ARCHITECTURE.md)

pub mod apiserver;
