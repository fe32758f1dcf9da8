//! Every HTTP door of both programs: who gets a place, how fast a request must come, and who is not
//! listened to any more. What a request means is its door's own business.
//!
//! - A connection is a stranger until its door says whose it is ([`Line::admit`]). Strangers are few, and
//!   when more come the oldest goes (`lobby.rs`): whoever is in earnest needs a second.
//! - Whoever does not read is not read from, and is cut when that lasts (`stream.rs`). actix alone would
//!   keep every answer of a client that asks on and on.
//! - While a request is in hand little is read of what follows it (`flow.rs`).

mod flow;
mod lobby;
mod server;
mod slices;
mod strangers;
mod stream;
#[cfg(test)]
mod tests;

pub use lobby::{GuestLimit, Lobby};
pub use server::{Limits, serve};
pub use slices::Slices;
pub use stream::{Line, Uptake, Wire};
