//! L3: one folder per KubeEdge module; what both programs have stands beside them.

pub mod audit;
pub mod cloud;
pub mod console;
pub mod edge;
