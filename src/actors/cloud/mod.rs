//! L3: the modules of cloudcore.

#[cfg(test)]
mod fake_api_worker;
pub mod node_monitor;
pub mod scheduler;
