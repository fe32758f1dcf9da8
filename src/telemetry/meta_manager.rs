//! Metrics of MetaManager; those of its store are in [`super::store`].

use metrics::{Gauge, describe_gauge, gauge};

/// What MetaManager counts.
#[derive(Clone)]
pub struct MetaManagerMetrics {
    pub pods: Gauge,
    pub configmaps: Gauge,
    pub secrets: Gauge,
    pub nodes: Gauge,
    /// Stored objects of every other kind.
    pub others: Gauge,
}

impl MetaManagerMetrics {
    /// Registers and describes the handles.
    #[must_use]
    pub fn new() -> Self {
        describe_gauge!("kubeedge_metamanager_objects", "Objects kept on this edge, by kind");
        Self {
            pods: gauge!("kubeedge_metamanager_objects", "kind" => "pod"),
            configmaps: gauge!("kubeedge_metamanager_objects", "kind" => "configmap"),
            secrets: gauge!("kubeedge_metamanager_objects", "kind" => "secret"),
            nodes: gauge!("kubeedge_metamanager_objects", "kind" => "node"),
            others: gauge!("kubeedge_metamanager_objects", "kind" => "other"),
        }
    }
}

impl Default for MetaManagerMetrics {
    fn default() -> Self {
        Self::new()
    }
}
