//! The actor with real sockets: a raw client of ours on one side, scripted modules on the other.

mod clients;
mod doors;
mod outside;
mod svids;
mod world;
