//! The modules of edgecore.

pub mod edged;
