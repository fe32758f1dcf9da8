//! L3: one folder per KubeEdge module.

pub mod cloud;
pub mod edge;
