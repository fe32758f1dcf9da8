//! L2: the web page of both programs: what it is told, how objects become what it shows, who may see it.
//!
//! The page (`assets/`) is a program of its own that knows only [`protocol`]: one stream of server-sent
//! events. cloudcore fills it from watches of the Kubernetes API with the visitor's own credential,
//! edgecore from what it remembers.

pub mod protocol;
