//! Which sandboxes belong to pods that are no more. Pure, and slow to believe it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use k8s_cri::v1::PodSandbox;

use super::backoff::since;
use super::host::HostContext;
use super::names::{PodRef, is_ours};

/// A pod must have been missing this long.
const MISSING: Duration = Duration::from_secs(10);
/// With an empty store (perhaps lost), the cloud must have had this long to send its pods.
const CLOUD_HAD: Duration = Duration::from_secs(60);

/// Remembers what was seen without an owner.
#[derive(Debug, Default)]
pub struct Orphans {
    missing: HashMap<String, Timestamp>,
}

/// What the judgement is based on.
#[derive(Debug, Clone, Copy)]
pub struct Evidence {
    /// Did the store hold any pod?
    pub store_has_pods: bool,
    /// Since when the cloud is connected.
    pub cloud_since: Option<Timestamp>,
}

impl Orphans {
    /// The pods whose sandboxes can go: ours, unknown to the store for long enough, and the store
    /// is believable. `known` says whether a uid has a worker.
    pub fn judge(
        &mut self,
        sandboxes: &[PodSandbox],
        host: &HostContext,
        known: impl Fn(&str) -> bool,
        evidence: Evidence,
        now: Timestamp,
    ) -> Vec<PodRef> {
        let mut orphans: BTreeMap<String, PodRef> = BTreeMap::new();
        for sandbox in sandboxes.iter().filter(|sandbox| is_ours(&sandbox.labels, host)) {
            if let Some(pod) = PodRef::from_labels(&sandbox.labels).filter(|pod| !known(&pod.uid)) {
                orphans.insert(pod.uid.clone(), pod);
            }
        }
        self.missing.retain(|uid, _| orphans.contains_key(uid));
        for uid in orphans.keys() {
            self.missing.entry(uid.clone()).or_insert(now);
        }
        let connected = evidence.cloud_since.is_some_and(|at| since(now, at) >= CLOUD_HAD);
        if !(evidence.store_has_pods || connected) {
            return Vec::new();
        }
        let long = |uid: &String| self.missing.get(uid).is_some_and(|at| since(now, *at) >= MISSING);
        orphans
            .into_iter()
            .filter(|(uid, pod)| long(uid) && pod.check().is_ok())
            .map(|(_, pod)| pod)
            .collect()
    }

    /// Is anything waiting for its judgement?
    #[must_use]
    pub fn pending(&self) -> bool {
        !self.missing.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::super::backoff::after;
    use super::super::fixtures::{host, pod};
    use super::super::names::sandbox_labels;
    use super::*;
    use serde_json::json;

    #[test]
    fn judged_late_and_only_ours() {
        let host = host();
        let ours = PodSandbox { labels: sandbox_labels(&pod(json!({})), &host), ..Default::default() };
        let foreign = PodSandbox {
            labels: [("io.kubernetes.pod.uid".to_owned(), "x".to_owned())].into(),
            ..Default::default()
        };
        let sandboxes = [ours, foreign];
        let start = Timestamp::from_second(1_800_000_000).expect("time");
        let at = |secs| after(start, Duration::from_secs(secs));
        let believed = Evidence { store_has_pods: true, cloud_since: None };
        let mut orphans = Orphans::default();
        let mut judge = |known: bool, evidence, secs| -> Vec<String> {
            let found = orphans.judge(&sandboxes, &host, |_| known, evidence, at(secs));
            found.into_iter().map(|pod| pod.uid).collect()
        };
        assert!(judge(false, believed, 0).is_empty(), "first sight");
        assert_eq!(judge(false, believed, 10), ["u-1"]);
        assert!(judge(true, believed, 11).is_empty(), "has a worker");
        assert!(judge(false, believed, 12).is_empty(), "missing anew");
        let empty = Evidence { store_has_pods: false, cloud_since: None };
        assert!(judge(false, empty, 1000).is_empty(), "an empty store proves nothing");
        let cloud = Evidence { store_has_pods: false, cloud_since: Some(at(1000)) };
        assert!(judge(false, cloud, 1059).is_empty());
        assert_eq!(judge(false, cloud, 1060), ["u-1"]);
    }
}
