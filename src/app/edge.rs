//! edgecore.
