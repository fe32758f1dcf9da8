//! What a node has against what it should have. No I/O.

use std::collections::{HashMap, HashSet};

use crate::bus::edge_controller::ObjectVersion;
use crate::model::Resource;
use crate::model::identity::EDGE_IDENTITY_KIND;

/// Kinds whose objects the comparison owns. Others at the edge (leases, tokens) have other senders.
const KINDS: [&str; 7] = ["pod", "configmap", "secret", "node", "devicemodel", "device", EDGE_IDENTITY_KIND];
/// Edges fetch these themselves for every namespace where they run a pod; nobody references them.
const TRUST_BUNDLES: [&str; 2] = ["kube-root-ca.crt", "openshift-service-ca.crt"];

/// Copies that are looked at for signs that the API went back in time.
const EVIDENCE: usize = 8;

/// What must travel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    pub missing: Vec<Resource>,
    pub changed: Vec<Resource>,
    pub surplus: Vec<ObjectVersion>,
}

/// Compares by uid and version. A copy that is newer than needed is good: the status of a pod
/// changes at the edge without being sent there again.
#[must_use]
pub fn compare(desired: &[ObjectVersion], held: &[ObjectVersion]) -> Differences {
    let mut found = Differences::default();
    let has: HashMap<&Resource, &ObjectVersion> = held.iter().map(|it| (&it.resource, it)).collect();
    for want in desired {
        match has.get(&want.resource) {
            None => found.missing.push(want.resource.clone()),
            Some(copy) if copy.uid != want.uid => {
                if is_deletable(&want.resource) {
                    found.surplus.push((*copy).clone());
                }
                found.missing.push(want.resource.clone());
            }
            Some(copy) if is_older(copy, want) => found.changed.push(want.resource.clone()),
            Some(_) => {}
        }
    }
    let wanted: HashSet<&Resource> = desired.iter().map(|it| &it.resource).collect();
    let surplus = held.iter().filter(|it| !wanted.contains(&it.resource) && is_deletable(&it.resource));
    found.surplus.extend(surplus.cloned());
    found
}

/// What may show that the API went back in time; the API must be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Suspect {
    /// A copy that is newer than what edges are told about. Most are, as a status changes without being
    /// told; one that is newer than the API itself is from a time that the API forgot.
    Newer(ObjectVersion),
    /// A pod that the node does not have. If it ran there, the node removed it since.
    Lost(ObjectVersion),
}

/// What to look at: the newest copies, and some of the pods that are missing.
#[must_use]
pub fn suspects(desired: &[ObjectVersion], held: &[ObjectVersion]) -> Vec<Suspect> {
    let has: HashMap<&Resource, &ObjectVersion> = held.iter().map(|it| (&it.resource, it)).collect();
    let number = |it: &ObjectVersion| it.resource_version.parse::<u64>().unwrap_or_default();
    let mut newer: Vec<&ObjectVersion> = Vec::new();
    let mut lost: Vec<&ObjectVersion> = Vec::new();
    for want in desired {
        match has.get(&want.resource) {
            Some(copy) if copy.uid == want.uid => {
                newer.extend(Some(*copy).filter(|copy| number(want) < number(copy)));
            }
            // A node that has nothing at all lost its store.
            _ if held.is_empty() => {}
            _ => {
                lost.extend(Some(want).filter(|it| it.resource.object().is_some_and(|key| key.kind == "pod")))
            }
        }
    }
    newer.sort_by_key(|copy| std::cmp::Reverse(number(copy)));
    let newer = newer.into_iter().take(EVIDENCE).cloned().map(Suspect::Newer);
    newer.chain(lost.into_iter().take(EVIDENCE).cloned().map(Suspect::Lost)).collect()
}

/// May the comparison speak about this object at all?
#[must_use]
pub fn is_compared(resource: &Resource) -> bool {
    resource.object().is_some_and(|key| key.name.is_some() && KINDS.contains(&key.kind.as_str()))
}

/// A Node that the cloud does not have (yet) is registered again, not deleted.
fn is_deletable(resource: &Resource) -> bool {
    let Some(key) = resource.object() else { return false };
    let fetched = key.kind == "configmap" && TRUST_BUNDLES.contains(&key.name());
    is_compared(resource) && key.kind != "node" && !fetched
}

fn is_older(copy: &ObjectVersion, want: &ObjectVersion) -> bool {
    let number = |it: &ObjectVersion| it.resource_version.parse::<u64>().ok();
    match (number(copy), number(want)) {
        (Some(copy), Some(want)) => copy < want,
        _ => copy.resource_version != want.resource_version,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_newest_copies_and_missing_pods_are_suspect() {
        let desired: Vec<_> = (0..20).map(|n| version(&format!("default/pod/p{n}"), "u", "50")).collect();
        let mut held: Vec<_> =
            (0..20).map(|n| version(&format!("default/pod/p{n}"), "u", &(40 + n).to_string())).collect();
        held.push(version("default/pod/other", "u", "99"));
        held[19].uid = "v".into();
        let newer = |suspect: &Suspect| match suspect {
            Suspect::Newer(copy) => copy.resource_version.clone(),
            Suspect::Lost(pod) => pod.resource.to_string(),
        };
        let found: Vec<_> = suspects(&desired, &held).iter().map(newer).collect();
        assert_eq!(found, ["58", "57", "56", "55", "54", "53", "52", "51", "default/pod/p19"]);
        assert_eq!(suspects(&desired, &[]), [], "a store that was lost");
        let config = [version("default/configmap/c", "u", "5")];
        assert_eq!(suspects(&config, &held), [], "it need not have run");
    }

    fn version(resource: &str, uid: &str, rv: &str) -> ObjectVersion {
        let resource = Resource::parse(resource);
        ObjectVersion { resource, uid: uid.into(), resource_version: rv.into() }
    }

    #[test]
    fn table() {
        let pod = "ns/pod/p";
        for (case, desired, held, missing, changed, surplus) in [
            ("nothing", vec![], vec![], 0, 0, 0),
            ("new", vec![version(pod, "1", "5")], vec![], 1, 0, 0),
            ("same", vec![version(pod, "1", "5")], vec![version(pod, "1", "5")], 0, 0, 0),
            ("older copy", vec![version(pod, "1", "10")], vec![version(pod, "1", "9")], 0, 1, 0),
            ("newer copy", vec![version(pod, "1", "9")], vec![version(pod, "1", "10")], 0, 0, 0),
            ("no version", vec![version(pod, "1", "9")], vec![version(pod, "1", "")], 0, 1, 0),
            ("re-created", vec![version(pod, "2", "9")], vec![version(pod, "1", "5")], 1, 0, 1),
            ("gone", vec![], vec![version(pod, "1", "5")], 0, 0, 1),
            ("lease", vec![], vec![version("kube-node-lease/lease/n", "1", "5")], 0, 0, 0),
            ("the node itself", vec![], vec![version("null/node/n", "1", "5")], 0, 0, 0),
            ("a fetched bundle", vec![], vec![version("ns/configmap/kube-root-ca.crt", "1", "5")], 0, 0, 0),
            ("topic", vec![], vec![version("some/Topic", "1", "5")], 0, 0, 0),
        ] {
            let got = compare(&desired, &held);
            let counts = (got.missing.len(), got.changed.len(), got.surplus.len());
            assert_eq!(counts, (missing, changed, surplus), "{case}");
        }
    }

    fn objects() -> impl Strategy<Value = Vec<ObjectVersion>> {
        let one = (0u8..6, 0u8..2, 0u64..20);
        prop::collection::vec(one, 0..8).prop_map(|all| {
            let by_name: HashMap<u8, (u8, u64)> =
                all.into_iter().map(|(n, uid, rv)| (n, (uid, rv))).collect();
            let one = |(n, (uid, rv)): (u8, (u8, u64))| {
                version(&format!("ns/pod/p{n}"), &uid.to_string(), &rv.to_string())
            };
            by_name.into_iter().map(one).collect()
        })
    }

    proptest! {
        /// Applying the differences to what is held gives what is desired, and nothing is sent twice.
        #[test]
        fn leads_to_desired(desired in objects(), held in objects()) {
            let found = compare(&desired, &held);
            let mut has: HashMap<Resource, ObjectVersion> =
                held.iter().map(|it| (it.resource.clone(), it.clone())).collect();
            for gone in &found.surplus {
                prop_assert_eq!(has.remove(&gone.resource), Some(gone.clone()));
            }
            let want: HashMap<Resource, ObjectVersion> =
                desired.iter().map(|it| (it.resource.clone(), it.clone())).collect();
            for new in found.missing.iter().chain(&found.changed) {
                let before = has.insert(new.clone(), want[new].clone());
                prop_assert!(before.as_ref() != Some(&want[new]), "sent although it was there");
            }
            prop_assert_eq!(has.len(), want.len());
            for (resource, want) in &want {
                prop_assert_eq!(&has[resource].uid, &want.uid);
                prop_assert!(!is_older(&has[resource], want));
            }
        }
    }
}
