//! `kubeedge_pods`: the pods of the whole cluster, by namespace and phase.

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::{describe_gauge, gauge};
use parking_lot::Mutex;

const PODS: &str = "kubeedge_pods";
/// Namespaces with series of their own, in the life of the process: the registry forgets none.
pub const MAX_NAMESPACES: usize = 100;
/// Where the pods of all other namespaces are counted.
pub const OTHER: &str = "_other";
/// The phases there are; whatever else a pod says is `Unknown`.
pub const PHASES: [&str; 5] = ["Pending", "Running", "Succeeded", "Failed", "Unknown"];

type ByPhase = [u32; PHASES.len()];

/// The gauges. Clones are one; keep one over the restarts of its actor, for the bound is the
/// process's.
#[derive(Clone)]
pub struct PodMetrics {
    /// Every namespace that ever had series, and its pods now.
    shown: Arc<Mutex<BTreeMap<String, ByPhase>>>,
}

impl PodMetrics {
    /// Describes the gauges; there is none before there is a pod.
    #[must_use]
    pub fn new() -> Self {
        describe_gauge!(PODS, "Pods in the Kubernetes API, by namespace and phase");
        Self { shown: Arc::default() }
    }

    /// Shows all pods there are: namespace and `status.phase` of each.
    pub fn show<'a>(&self, pods: impl Iterator<Item = (&'a str, &'a str)>) {
        let mut shown = self.shown.lock();
        let before = shown.clone();
        shown.values_mut().for_each(|counts| *counts = ByPhase::default());
        for (namespace, phase) in pods {
            let counts = match shown.get_mut(namespace) {
                Some(counts) => counts,
                None => {
                    let own = shown.keys().filter(|name| *name != OTHER).count() < MAX_NAMESPACES;
                    shown.entry(if own { namespace } else { OTHER }.to_owned()).or_default()
                }
            };
            let index = PHASES.iter().position(|known| *known == phase_of(phase)).unwrap_or_default();
            if let Some(count) = counts.get_mut(index) {
                *count = count.saturating_add(1);
            }
        }
        for (namespace, counts) in shown.iter().filter(|(name, counts)| before.get(*name) != Some(*counts)) {
            for (phase, count) in PHASES.iter().zip(counts) {
                gauge!(PODS, "namespace" => namespace.clone(), "phase" => *phase).set(f64::from(*count));
            }
        }
    }
}

impl Default for PodMetrics {
    fn default() -> Self {
        Self::new()
    }
}

/// A pod that nobody has looked at yet has no phase: it is pending.
fn phase_of(phase: &str) -> &str {
    match phase {
        "" => "Pending",
        known if PHASES.contains(&known) => known,
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::exporter::Exporter;

    #[test]
    fn counts_follow_the_pods_down_to_nothing() {
        let ((), exporter) = Exporter::record(|| {
            let pods = PodMetrics::new();
            pods.show([("a", "Running"), ("a", "Running"), ("b", ""), ("b", "Odd\"phase\n")].into_iter());
            pods.show([("a", "Failed")].into_iter());
        });
        let text = exporter.render();
        for (namespace, phase, want) in
            [("a", "Running", 0), ("a", "Failed", 1), ("b", "Pending", 0), ("b", "Unknown", 0)]
        {
            let line = format!("{PODS}{{namespace=\"{namespace}\",phase=\"{phase}\"}} {want}");
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn a_thousand_odd_namespaces_share_what_is_over() {
        let odd: Vec<String> = (0..1_000).map(|i| format!("n\"{i}\\\n{{}}é")).collect();
        let ((), exporter) = Exporter::record(|| {
            let pods = PodMetrics::new();
            for round in odd.chunks(50) {
                pods.show(round.iter().map(|name| (name.as_str(), "Running")));
            }
            pods.clone().show(odd.iter().map(|name| (name.as_str(), name.as_str())));
        });
        let text = exporter.render();
        let series = text.lines().filter(|line| line.starts_with("kubeedge_pods{")).count();
        assert_eq!(series, (MAX_NAMESPACES + 1) * PHASES.len());
        let rest = format!("kubeedge_pods{{namespace=\"{OTHER}\",phase=\"Unknown\"}} 900");
        assert!(text.lines().any(|line| line == rest), "{rest}");
    }
}
