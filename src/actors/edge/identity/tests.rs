//! The actor behind its real socket, with the `spiffe` crate as a client that is not ours.
