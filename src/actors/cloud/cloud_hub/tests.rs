//! CloudHub in a running tree, over real TLS on loopback.

mod harness;
mod identity;
mod join;
mod reports;
mod websocket;
