//! The actor behind its real socket. The client is the `spiffe` crate, which is not ours.

mod documents;
mod svids;
mod tokens;
mod wire;
mod world;
