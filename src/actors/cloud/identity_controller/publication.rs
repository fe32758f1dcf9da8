//! What nodes hold, and which version it has. No I/O.
//!
//! The document's spec is kept in a ConfigMap, and the resourceVersion that the API gave to that
//! write is the version of the document: it grows with every change and never falls, whatever is
//! deleted and however often cloudcore starts, and a start that changes nothing sends nothing.

use std::sync::Arc;

/// A document that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Canonical JSON of the spec.
    pub spec: Arc<str>,
    /// Decimal.
    pub version: String,
}

/// What must be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Nothing,
    /// Write this spec into the ConfigMap.
    Write(Arc<str>),
    /// It is written: tell the nodes.
    Publish(Published),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Publication {
    wanted: Option<Arc<str>>,
    stored: Option<Published>,
    current: Option<Published>,
    /// The newest version known of the ConfigMap, there or gone.
    newest: u64,
}

impl Publication {
    /// What nodes should hold now. `None` before anything was written or found to be as wanted.
    #[must_use]
    pub fn current(&self) -> Option<&Published> {
        self.current.as_ref()
    }

    /// The last spec that is in the API, whoever wrote it.
    #[must_use]
    pub fn stored(&self) -> Option<&Published> {
        self.stored.as_ref()
    }

    /// This is what nodes should hold.
    pub fn want(&mut self, spec: Arc<str>) {
        self.wanted = Some(spec);
    }

    /// The ConfigMap is so: told by a watch or by the answer to a write, in any order.
    pub fn seen(&mut self, found: Published) {
        let version = number(&found.version);
        if version >= self.newest {
            self.newest = version;
            self.stored = Some(found);
        }
    }

    /// The ConfigMap is gone since this version, empty when it is not known.
    pub fn gone(&mut self, version: &str) {
        let stored = self.stored.as_ref().map_or(0, |stored| number(&stored.version));
        if version.is_empty() || number(version) >= stored {
            self.newest = self.newest.max(number(version));
            self.stored = None;
        }
    }

    /// What must be done now. [`Step::Publish`] comes once for each change.
    pub fn step(&mut self) -> Step {
        let Some(wanted) = &self.wanted else { return Step::Nothing };
        match &self.stored {
            Some(stored) if stored.spec == *wanted => {
                // Somebody wrote the same again: the older version stays good.
                if self.current.as_ref().is_some_and(|current| current.spec == *wanted) {
                    return Step::Nothing;
                }
                self.current = Some(stored.clone());
                Step::Publish(stored.clone())
            }
            _ => Step::Write(Arc::clone(wanted)),
        }
    }
}

/// Kubernetes calls it opaque; the KubeEdge wire requires a decimal (protocol section 16.3, no. 6).
fn number(version: &str) -> u64 {
    version.parse().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn published(spec: &str, version: u64) -> Published {
        Published { spec: spec.into(), version: version.to_string() }
    }

    #[test]
    fn a_change_is_written_then_told_once() {
        let mut it = Publication::default();
        assert_eq!(it.step(), Step::Nothing, "nothing is wanted yet");
        it.want("a".into());
        assert_eq!(it.step(), Step::Write("a".into()));
        it.seen(published("a", 5));
        assert_eq!(it.step(), Step::Publish(published("a", 5)));
        it.seen(published("a", 5)); // the watch tells what the answer told
        assert_eq!(it.step(), Step::Nothing);
        it.seen(published("a", 7)); // an annotation
        assert_eq!((it.step(), it.current().cloned()), (Step::Nothing, Some(published("a", 5))));
        it.want("b".into());
        assert_eq!(it.step(), Step::Write("b".into()));
        assert_eq!(it.current(), Some(&published("a", 5)), "until it is written the old one holds");
    }

    #[test]
    fn a_start_that_changes_nothing_writes_nothing() {
        let mut it = Publication::default();
        it.seen(published("a", 5));
        it.want("a".into());
        assert_eq!(it.step(), Step::Publish(published("a", 5)));
    }

    #[test]
    fn what_others_do_to_it_is_undone() {
        let mut it = Publication::default();
        it.want("a".into());
        it.seen(published("a", 5));
        it.step();
        it.seen(published("forged", 6));
        assert_eq!(it.step(), Step::Write("a".into()));
        assert_eq!(it.current(), Some(&published("a", 5)));
        it.seen(published("a", 8));
        assert_eq!(it.step(), Step::Nothing);
        it.gone("9");
        assert_eq!(it.step(), Step::Write("a".into()));
        it.seen(published("a", 10));
        it.gone("9"); // the watch is late
        assert_eq!(it.step(), Step::Nothing);
    }

    #[derive(Debug, Clone)]
    enum Act {
        Want(u8),
        /// Cloudcore does what is due; `false`: its answer is lost.
        Run(bool),
        Watch,
        Forge(u8),
        Delete,
        /// Something else in the API changes.
        Other,
        Restart,
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            (0u8..4).prop_map(Act::Want),
            any::<bool>().prop_map(Act::Run),
            Just(Act::Watch),
            (0u8..4).prop_map(Act::Forge),
            Just(Act::Delete),
            Just(Act::Other),
            Just(Act::Restart),
        ];
        prop::collection::vec(act, 0..60)
    }

    proptest! {
        /// A node that takes what it is told only if the version grows ends with the newest spec:
        /// every change of what is published raises the version, over restarts, deletes and lost
        /// answers.
        #[test]
        fn a_change_never_lowers_the_version(acts in acts()) {
            let mut revision = 10u64;
            let mut api: Option<Published> = None;
            let mut it = Publication::default();
            let mut wanted = 0u8;
            let mut told: Option<Published> = None;
            let mut late: Vec<(Option<Published>, u64)> = Vec::new();
            let finish = [Act::Run(true), Act::Watch, Act::Run(true), Act::Watch, Act::Run(true)];
            for act in acts.into_iter().chain(finish) {
                match act {
                    Act::Want(spec) => wanted = spec,
                    Act::Other => revision += 3,
                    Act::Forge(spec) => {
                        revision += 1;
                        api = Some(published(&spec.to_string(), revision));
                        late.push((api.clone(), revision));
                    }
                    Act::Delete => {
                        revision += 1;
                        api = None;
                        late.push((None, revision));
                    }
                    Act::Watch => {
                        for (found, at) in late.drain(..) {
                            match found {
                                Some(found) => it.seen(found),
                                None => it.gone(&at.to_string()),
                            }
                        }
                    }
                    Act::Restart => {
                        it = Publication::default();
                        late.clear();
                        if let Some(found) = &api {
                            it.seen(found.clone());
                        }
                    }
                    Act::Run(heard) => {
                        it.want(wanted.to_string().into());
                        let mut step = it.step();
                        if let Step::Write(spec) = &step {
                            // As amend does: nothing is written where it stands already.
                            if api.as_ref().is_none_or(|stored| stored.spec != *spec) {
                                revision += 1;
                                api = Some(published(spec, revision));
                                late.push((api.clone(), revision));
                            }
                            if heard && let Some(stored) = &api {
                                it.seen(stored.clone());
                            }
                            step = it.step();
                        }
                        if let Step::Publish(now) = step {
                            if let Some(before) = &told {
                                let (old, new) = (number(&before.version), number(&now.version));
                                prop_assert!(new > old || (new == old && before.spec == now.spec),
                                    "{before:?} then {now:?}");
                            }
                            told = Some(now);
                        }
                    }
                }
            }
            prop_assert_eq!(told.map(|told| told.spec.to_string()), Some(wanted.to_string()));
        }
    }
}
