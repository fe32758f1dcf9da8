//! (see ARCHITECTURE.md)

pub mod api_server;
