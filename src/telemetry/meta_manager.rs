//! Metrics of MetaManager and its store.

use metrics::{Gauge, Histogram, Unit, describe_gauge, describe_histogram, gauge, histogram};

/// What MetaManager counts.
#[derive(Clone)]
pub struct MetaManagerMetrics {
    pub pods: Gauge,
    pub configmaps: Gauge,
    pub secrets: Gauge,
    pub nodes: Gauge,
    /// Stored objects of every other kind.
    pub others: Gauge,
    /// Seconds one group of writes takes until it is on disk; the committer records it.
    pub store_seconds: Histogram,
    /// Bytes of the store on disk.
    pub store_bytes: Gauge,
}

impl MetaManagerMetrics {
    /// Registers and describes the handles.
    #[must_use]
    pub fn new() -> Self {
        describe_gauge!("kubeedge_metamanager_objects", "Objects kept on this edge, by kind");
        describe_histogram!(
            "kubeedge_metamanager_store_seconds",
            Unit::Seconds,
            "Time from the start of a group of writes until it is on disk"
        );
        describe_gauge!("kubeedge_metamanager_store_bytes", Unit::Bytes, "Size of the edge's store on disk");
        Self {
            pods: gauge!("kubeedge_metamanager_objects", "kind" => "pod"),
            configmaps: gauge!("kubeedge_metamanager_objects", "kind" => "configmap"),
            secrets: gauge!("kubeedge_metamanager_objects", "kind" => "secret"),
            nodes: gauge!("kubeedge_metamanager_objects", "kind" => "node"),
            others: gauge!("kubeedge_metamanager_objects", "kind" => "other"),
            store_seconds: histogram!("kubeedge_metamanager_store_seconds"),
            store_bytes: gauge!("kubeedge_metamanager_store_bytes"),
        }
    }
}

impl Default for MetaManagerMetrics {
    fn default() -> Self {
        Self::new()
    }
}
