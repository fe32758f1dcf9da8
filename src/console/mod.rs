//! L2: the web page of both programs: what it is told, how objects become what it shows, who may see it.
//!
//! The page (`assets/`) is a program of its own that knows only [`protocol`]: one stream of server-sent
//! events. cloudcore fills it from watches of the Kubernetes API with the visitor's own credential
//! ([`watched`]), edgecore from what it remembers ([`diff`]). [`door`] says which requests are answered at
//! all, [`sign_in`] who comes in, [`page`] what everybody gets, [`feed`] what the server asks its program.

pub mod diff;
pub mod door;
pub mod feed;
pub mod page;
pub mod protocol;
pub mod sign_in;
pub mod stream;
pub mod token;
pub mod tree;
pub mod view;
pub mod watched;
