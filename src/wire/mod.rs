//! L1: frames to and from the words of `model`. Nothing above this layer sees wire text.

pub mod dmi;
pub mod frame;
